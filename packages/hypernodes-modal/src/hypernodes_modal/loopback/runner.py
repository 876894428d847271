"""Starts containers, watches over them, and tidies up after them."""

from __future__ import annotations

import asyncio
import codecs
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from grpclib import GRPCError
from modal_proto import api_pb2

from hypernodes_modal.loopback import launch
from hypernodes_modal.loopback.containers import Container, ContainerState, EndReason
from hypernodes_modal.loopback.listener import Listener

if TYPE_CHECKING:
    from hypernodes_modal.loopback.dispatch import Dispatcher
    from hypernodes_modal.loopback.environments import Environment
    from hypernodes_modal.loopback.faults import Faults
    from hypernodes_modal.loopback.function_service import Functions
    from hypernodes_modal.loopback.functions import Function
    from hypernodes_modal.loopback.ids import Ids
    from hypernodes_modal.loopback.images import Images
    from hypernodes_modal.loopback.logs import Logs
    from hypernodes_modal.loopback.mounts import Mounts
    from hypernodes_modal.loopback.secret_store import Secrets
    from hypernodes_modal.loopback.volumes import Volumes
    from hypernodes_modal.loopback.watchdog import Watchdog

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_LAST_LINES = 50
_OUTPUT_GRACE_S = 1.0  # for what is left in the pipes after the process has ended


class Runner:
    """Runs containers.

    Args:
        directory: Where to put their files.
        own_root: Whether each gets a file system of its own.
    """

    def __init__(
        self,
        *,
        ids: Ids,
        directory: Path,
        own_root: bool,
        images: Images,
        mounts: Mounts,
        secrets: Secrets,
        volumes: Volumes,
        logs: Logs,
        watchdog: Watchdog,
        faults: Faults,
    ) -> None:
        self._ids = ids
        self._directory = directory
        self._own_root = own_root
        self._images = images
        self._mounts = mounts
        self._secrets = secrets
        self._volumes = volumes
        self._logs = logs
        self._watchdog = watchdog
        self._faults = faults
        self._tasks: set[asyncio.Task[None]] = set()
        self.containers: list[Container] = []
        # Set by the control plane, since these need the runner themselves.
        self.functions: Functions
        self.dispatcher: Dispatcher
        self.on_ended: Callable[[Container], None]

    def start(self, function: Function) -> Container:
        """Start a container, and come back at once."""
        container_id = self._ids.new("ta")
        container = Container(container_id, function, self._directory / container_id[-6:])
        self.containers.append(container)
        task = asyncio.get_running_loop().create_task(self._run(container))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return container

    def forget_ended(self) -> None:
        """Drop the records of containers that have ended."""
        self.containers = [each for each in self.containers if each.state is not ContainerState.ENDED]

    async def wait_closed(self) -> None:
        """Return when no container is left."""
        while self._tasks:
            await asyncio.wait(set(self._tasks))

    async def _run(self, container: Container) -> None:
        listener = Listener(self.dispatcher.for_container(container))
        timer: asyncio.TimerHandle | None = None
        try:
            await asyncio.sleep(self._faults.start_delay_s(container))
            await self._prepare(container)
            await listener.listen_on_socket(str(container.socket))
            if container.is_alive:
                await self._spawn(container)
                timer = asyncio.get_running_loop().call_later(
                    container.function.startup_timeout_s, self._check_started, container
                )
                await self._watch(container)
        except Exception as error:
            # The container cannot even be started, as when the disk is full: its callers are told.
            reason = error.message if isinstance(error, GRPCError) else repr(error)
            container.last_lines.append(f"loopback: {reason}")
        finally:
            if timer is not None:
                timer.cancel()
            await self._end(container, listener)

    async def _prepare(self, container: Container) -> None:
        function = container.function
        recipe = self._images.recipe(function.definition.image_id)
        environment = await asyncio.to_thread(self._images.environment, function.definition.image_id)
        await asyncio.to_thread(self._lay_out, container)
        await self._volumes.attach(container)
        arguments = api_pb2.ContainerArguments(
            task_id=container.id,
            function_id=function.id,
            app_id=function.app_id,
            function_def=function.definition,
            serialized_params=function.serialized_params,
            environment_name="main",
            app_layout=self.functions.layout(function.app_id),
        )
        for dependency in function.definition.object_dependencies:
            if dependency.object_id not in {known.object_id for known in arguments.app_layout.objects}:
                arguments.app_layout.objects.add(object_id=dependency.object_id)
        (container.directory / "arguments").write_bytes(arguments.SerializeToString())
        workdir = container.root / recipe.workdir.lstrip("/")
        workdir.mkdir(parents=True, exist_ok=True)
        plan = {
            "own_root": self._own_root,
            "root": str(container.root),
            "visible": [str(path) for path in (environment.directory, *environment.visible, container.directory)],
            "workdir": recipe.workdir if self._own_root else str(workdir),
            "arguments": [str(environment.python), "-m", "modal._container_entrypoint"],
            "environment": self._variables(container, environment, recipe.environment),
        }
        (container.directory / "plan.json").write_text(json.dumps(plan), encoding="utf-8")

    def _lay_out(self, container: Container) -> None:
        definition = container.function.definition
        for name in ("root", "tmp"):
            (container.root / name).mkdir(parents=True)
        self._mounts.lay_out(list(self._images.recipe(definition.image_id).files), container.root)
        for mount_id in definition.mount_ids:
            self._mounts.lay_out(self._mounts.get(mount_id).files, container.root)

    def _variables(self, container: Container, environment: Environment, from_image: dict[str, str]) -> dict[str, str]:
        definition = container.function.definition
        code = ["/root", "/pkg"] if self._own_root else [str(container.root / "root"), str(container.root / "pkg")]
        home = "/root" if self._own_root else str(container.root / "root")
        variables = {
            "PATH": f"{environment.directory / 'bin'}:{_PATH}",
            "LANG": "C.UTF-8",
            "PYTHONUNBUFFERED": "1",
            **from_image,
        }
        for secret_id in definition.secret_ids:
            variables.update(self._secrets.variables(secret_id))
        variables["PYTHONPATH"] = ":".join([*filter(None, [variables.get("PYTHONPATH")]), *code])
        variables.setdefault("HOME", home)
        return variables | {
            "MODAL_IS_REMOTE": "1",
            "MODAL_SERVER_URL": f"unix://{container.socket}",
            "MODAL_TASK_ID": container.id,
            "MODAL_IMAGE_ID": definition.image_id,
            "MODAL_ENVIRONMENT": "main",
            "MODAL_CLOUD_PROVIDER": "CLOUD_PROVIDER_LOOPBACK",
            "MODAL_REGION": "loopback",
            "MODAL_CONTAINER_ARGUMENTS_PATH": str(container.directory / "arguments"),
            "MODAL_CONFIG_PATH": str(container.directory / "no-such-file"),
            # Where absolute paths of the image are, since in the cloud that is "/".
            "MODAL_LOOPBACK_ROOT": "/" if self._own_root else str(container.root),
        }

    async def _spawn(self, container: Container) -> None:
        container.process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-I",
            "-S",
            launch.__file__,
            str(container.directory / "plan.json"),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
            env={"LANG": "C.UTF-8", "PATH": _PATH},
            cwd="/",
        )
        self._watchdog.started(container.process.pid)
        self._faults.at("start", container)

    async def _watch(self, container: Container) -> None:
        process = container.process
        assert process is not None
        assert process.stdout is not None
        assert process.stderr is not None
        readers = [
            asyncio.create_task(self._read(container, process.stdout, api_pb2.FILE_DESCRIPTOR_STDOUT)),
            asyncio.create_task(self._read(container, process.stderr, api_pb2.FILE_DESCRIPTOR_STDERR)),
        ]
        if not container.is_alive:  # it was to end while it started
            container.kill_group()
        code = await process.wait()
        container.kill_group()  # whatever it started and left behind
        self._watchdog.ended(process.pid)
        await asyncio.wait(readers, timeout=_OUTPUT_GRACE_S)
        for reader in readers:
            reader.cancel()
        container.exit_code = 128 - code if code < 0 else code

    async def _read(
        self, container: Container, pipe: asyncio.StreamReader, stream: api_pb2.FileDescriptor.ValueType
    ) -> None:
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        while data := await pipe.read(1 << 16):
            text = decoder.decode(data)
            for line in text.splitlines(keepends=True):
                self._logs.add(container, stream, line)
                container.last_lines = [*container.last_lines[1 - _LAST_LINES :], line.rstrip("\n")]

    async def _end(self, container: Container, listener: Listener) -> None:
        expected = container.end_reason is not None
        if not expected or (container.end_reason is EndReason.SINGLE_USE and container.inputs):
            container.end_reason = EndReason.CRASHED
        container.state = ContainerState.ENDED
        await listener.close()
        self._volumes.detach(container)
        await asyncio.to_thread(shutil.rmtree, container.directory, ignore_errors=True)
        self.on_ended(container)
        self._logs.wake(container.function.app_id)

    def _check_started(self, container: Container) -> None:
        if container.state is ContainerState.STARTING:
            container.kill(EndReason.START_TIMEOUT)


async def can_have_own_root() -> bool:
    """Whether containers can get a file system of their own on this machine."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-I",
        "-S",
        launch.__file__,
        "--probe",
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    return await process.wait() == 0 and os.name == "posix"
