"""The control plane as a whole: starts and stops it, and shows what happened on it."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import secrets
import shutil
import tempfile
import threading
from collections import Counter
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from hypernodes_modal.loopback.apps import Apps
from hypernodes_modal.loopback.blobs import Blobs
from hypernodes_modal.loopback.call_service import CallService
from hypernodes_modal.loopback.client_environment import ClientEnvironment, variables_for
from hypernodes_modal.loopback.container_service import ContainerService
from hypernodes_modal.loopback.containers import Container, EndReason
from hypernodes_modal.loopback.dispatch import Dispatcher
from hypernodes_modal.loopback.dicts import Dicts
from hypernodes_modal.loopback.environments import Environments
from hypernodes_modal.loopback.functions import Functions
from hypernodes_modal.loopback.guarded import Guard
from hypernodes_modal.loopback.ids import Ids
from hypernodes_modal.loopback.images import Images
from hypernodes_modal.loopback.inputs import Result
from hypernodes_modal.loopback.listener import Listener
from hypernodes_modal.loopback.logs import Logs
from hypernodes_modal.loopback.misbehaviour import Fault, Faults
from hypernodes_modal.loopback.mounts import Mounts
from hypernodes_modal.loopback.notices import Notices
from hypernodes_modal.loopback.pools import Pools
from hypernodes_modal.loopback.queues import Queues
from hypernodes_modal.loopback.records import CallRecord, ContainerRecord, InputRecord, RpcRecord
from hypernodes_modal.loopback.rpc import handlers_of
from hypernodes_modal.loopback.runner import Runner, can_have_own_root
from hypernodes_modal.loopback.secret_store import Secrets
from hypernodes_modal.loopback.volumes import Volumes

if TYPE_CHECKING:
    from collections.abc import Coroutine

_Value = TypeVar("_Value")
_CLOSE_GRACE_S = 2.0


class ModalLoopback:
    """A Modal control plane on this machine.

    While it is entered, the `modal` client in this process uses it, and so do programs started from it. Functions run in
    processes of their own, through the entry point that Modal's own containers have, in an environment that holds only
    what their image installs. It is for trying things out and for tests: containers are not isolated from this machine,
    there are no GPUs (a request for one is accepted and ignored), and nothing but the client's view of Modal is copied.

    Args:
        host: Address to listen on; only this machine can reach it.
        max_containers: How many containers a function may have that sets no limit itself.
        set_environment: Whether to point the client in this process at it.

    Raises:
        ValueError: `host` is not a loopback address.

    Example:
        >>> import modal
        >>> with ModalLoopback() as plane:  # doctest: +SKIP
        ...     app = modal.App("demo")
        ...     with app.run():
        ...         square.remote(3)
    """

    def __init__(self, host: str = "127.0.0.1", *, max_containers: int | None = None, set_environment: bool = True) -> None:
        self._host = _checked(host)
        self._max_containers = max_containers or max(2, os.cpu_count() or 1)
        self._set_environment = set_environment
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._credentials = ("ak-loopback", f"as-{secrets.token_hex(16)}")

    # --- life ------------------------------------------------------------------------------------------------------

    def __enter__(self) -> ModalLoopback:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Listen, and point the client at it.

        Raises:
            RuntimeError: It has been started.
        """
        if self._thread is not None:
            raise RuntimeError("this control plane has been started")
        # Short, since the path of a socket may have about 100 characters.
        self._directory = Path(os.path.realpath(tempfile.mkdtemp(prefix="modal-")))
        self._guard = Guard(self._directory)
        started: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, args=(started,), name="modal-loopback", daemon=True)
        self._thread.start()
        try:
            started.result()
        except BaseException:
            self._tidy_up()
            raise
        self._client_environment = ClientEnvironment(self.environment)
        if self._set_environment:
            self._client_environment.enter()

    def stop(self) -> None:
        """Stop the apps, end the containers, remove all files, and restore the client's environment."""
        if self._thread is None or self._loop is None:
            return
        if self._set_environment:
            self._client_environment.leave()
        self._call(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._tidy_up()

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables with which a program uses this control plane."""
        return variables_for(self.url, self._credentials, str(self._directory / "no-such-file"))

    @property
    def url(self) -> str:
        """Where it listens."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self._port}"

    @property
    def directory(self) -> Path:
        """Where its files are, until it is stopped."""
        return self._directory

    # --- misbehaviour ----------------------------------------------------------------------------------------------

    def misbehave(self, *faults: Fault, seed: int = 0) -> None:
        """Misbehave from now on, and only in these ways; without any, behave again.

        Args:
            faults: What is to go wrong, see `hypernodes_modal.loopback.misbehaviour`.
            seed: What is left to chance follows from it.
        """
        self._look(lambda: self._faults.set(faults, seed))

    def refuse_connections(self, seconds: float) -> None:
        """End the connections of all clients, and refuse new ones for a while. Returns when they are refused.

        Args:
            seconds: How long.
        """
        assert self._loop is not None
        refused: Future[None] = Future()
        asyncio.run_coroutine_threadsafe(self._refuse_connections(seconds, refused), self._loop)
        refused.result()

    # --- what happened ---------------------------------------------------------------------------------------------

    @property
    def rpcs(self) -> list[RpcRecord]:
        """Every remote procedure call received, in order."""
        return list(self._dispatcher.records)

    @property
    def rpc_counts(self) -> Counter[str]:
        """How often each remote procedure was called by clients (not by containers)."""
        return Counter(record.name for record in self.rpcs if record.caller == "client")

    @property
    def calls(self) -> list[CallRecord]:
        """Every remote function call, in order."""
        return self._look(lambda: [_call_record(call) for call in self._calls.calls.values()])

    def calls_of(self, function_name: str) -> list[CallRecord]:
        """The remote calls of one function, in order."""
        return [call for call in self.calls if call.function_name == function_name]

    @property
    def containers(self) -> list[ContainerRecord]:
        """Every container there ever was, in order."""
        return self._look(lambda: [_container_record(container) for container in self._runner.containers])

    @property
    def output(self) -> str:
        """What all containers printed."""
        return self._look(
            lambda: "".join(entry.text for app in self._apps.all() for entry in self._logs.of_app(app.id))
        )

    @property
    def notices(self) -> list[str]:
        """What was asked for and is not done here: parts of images, GPUs."""
        return self._look(lambda: list(self._notices.all))

    @property
    def queue_ids(self) -> list[str]:
        """Identifiers of the queues there are."""
        return self._look(self._queues.names)

    def forget(self) -> None:
        """Start records afresh: what ended before is not shown any more."""

        def forget() -> None:
            self._dispatcher.records.clear()
            self._runner.containers[:] = [each for each in self._runner.containers if each.exit_code is None]
            self._calls.forget_finished()
            self._logs.forget()

        self._look(forget)

    def stop_apps(self) -> None:
        """Stop every app, deployed ones too, and return when their containers have ended."""
        self._call(self._stop_apps())

    # --- details ---------------------------------------------------------------------------------------------------

    def _run(self, started: Future[None]) -> None:
        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
        self._loop = loop
        try:
            loop.run_until_complete(self._open())
        except BaseException as error:
            started.set_exception(error)
            loop.close()
            return
        started.set_result(None)
        loop.run_forever()
        remaining = asyncio.all_tasks(loop)
        for task in remaining:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*remaining, return_exceptions=True))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()

    async def _open(self) -> None:
        folders = {name: self._directory / name for name in ("blobs", "files", "images", "volumes", "c")}
        for folder in folders.values():
            folder.mkdir()
        ids = Ids()
        self._notices = notices = Notices()
        self._faults = faults = Faults(self._refuse_connections)
        self._apps = apps = Apps(ids)
        self._blobs = blobs = Blobs(folders["blobs"])
        mounts = Mounts(ids, blobs, folders["files"])
        self._images = images = Images(ids, mounts, Environments(folders["images"]), notices)
        self._logs = logs = Logs()
        self._queues = queues = Queues(ids)
        keys = Secrets(ids)
        volumes = Volumes(ids, blobs, mounts, folders["volumes"])
        self._runner = runner = Runner(
            ids=ids,
            directory=folders["c"],
            own_root=await can_have_own_root(),
            images=images,
            mounts=mounts,
            secrets=keys,
            volumes=volumes,
            logs=logs,
            guard=self._guard,
            faults=faults,
        )
        self._pools = pools = Pools(runner.start, self._max_containers)
        functions = Functions(ids, apps, pools, notices)
        self._calls = calls = CallService(ids, functions, pools)
        services = [apps, blobs, mounts, images, logs, queues, Dicts(ids), keys, volumes, functions, calls]
        handlers = handlers_of([*services, ContainerService(pools, calls, faults)])
        self._dispatcher = Dispatcher(handlers, self._credentials, faults)
        runner.functions = functions
        runner.dispatcher = self._dispatcher
        runner.on_ended = lambda container: pools.of(container.function).container_ended(container)
        apps.on_publish.append(lambda app: [pools.of(each).scale() for each in functions.of_app(app.id)] and None)
        apps.on_stop.append(pools.app_stopped)
        logs.is_done = self._is_log_done
        await blobs.start(self._host)
        self._listener = Listener(self._dispatcher.for_clients())
        await self._listener.listen_on_port(self._host)
        self._port = self._listener.port

    async def _refuse_connections(self, seconds: float, refused: Future[None] | None = None) -> None:
        await self._listener.close()
        if refused is not None:
            refused.set_result(None)
        await asyncio.sleep(seconds)
        await self._listener.listen_on_port(self._host, self._port)

    async def _stop_apps(self) -> None:
        for app in self._apps.all():
            await self._apps.stop(app)
        try:
            await asyncio.wait_for(self._runner.wait_closed(), _CLOSE_GRACE_S)
        except TimeoutError:
            for container in self._runner.containers:
                container.kill(EndReason.APP_STOPPED)
            await self._runner.wait_closed()

    async def _close(self) -> None:
        await self._stop_apps()
        self._faults.close()
        await self._listener.close()
        await self._blobs.stop()

    def _tidy_up(self) -> None:
        if self._thread is not None:
            self._thread.join()
        self._thread = None
        self._guard.close()
        shutil.rmtree(self._directory, ignore_errors=True)

    def _is_log_done(self, app_id: str) -> bool:
        is_running = any(pool.containers for pool in self._pools.all() if pool.function.app_id == app_id)
        return self._apps.get(app_id).is_stopped and not is_running

    def _call(self, coroutine: Coroutine[Any, Any, _Value]) -> _Value:
        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def _look(self, read: Any) -> Any:
        """Read the state where it is changed, so that nothing changes meanwhile."""

        async def look() -> Any:
            return read()

        return self._call(look())


def _checked(host: str) -> str:
    if host == "localhost":
        return "127.0.0.1"
    try:
        is_loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        is_loopback = False
    if not is_loopback:
        raise ValueError(
            f"host {host!r} is not a loopback address: whoever can reach a control plane can run programs on this "
            "machine, so it listens on 127.0.0.1 or ::1 only"
        )
    return host


def _call_record(call: Any) -> CallRecord:
    return CallRecord(
        id=call.id,
        function_name=call.function.name,
        app_id=call.function.app_id,
        is_spawned=call.is_async,
        is_map=call.is_map,
        inputs=tuple(
            InputRecord(
                idx=given.idx,
                state=given.state.value,
                container_ids=tuple(given.container_ids),
                retry_count=given.retry_count,
                status=None if given.output is None else _status(given.output.result),
            )
            for _, given in sorted(call.inputs.items())
        ),
    )


def _status(result: Result) -> str:
    return Result.GenericStatus.Name(result.status).removeprefix("GENERIC_STATUS_")


def _container_record(container: Container) -> ContainerRecord:
    return ContainerRecord(
        id=container.id,
        function_name=container.function.name,
        pid=container.process.pid if container.process else None,
        state=container.state.value,
        exit_code=container.exit_code,
        end_reason=container.end_reason.value if container.end_reason else None,
        inputs_taken=container.inputs_taken,
        cold_start_s=container.ready_at - container.started_at if container.ready_at else None,
    )
