"""The face of the control plane: starts and stops it, tells it to misbehave, and shows what happened on it."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import secrets
import threading
from collections import Counter
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from hypernodes.extension import OwnedFolder
from hypernodes_modal.loopback.client_environment import ClientEnvironment, variables_for
from hypernodes_modal.loopback.control_plane import ControlPlane
from hypernodes_modal.loopback.faults import Fault
from hypernodes_modal.loopback.observations import (
    CallRecord,
    ContainerRecord,
    RpcRecord,
    call_record,
    container_record,
)
from hypernodes_modal.loopback.runner import can_have_own_root
from hypernodes_modal.loopback.watchdog import Watchdog

_Value = TypeVar("_Value")


class ModalLoopback:
    """A Modal control plane on this machine.

    While it is entered, the `modal` client in this process uses it, and so do programs started from it. Functions run
    in processes of their own, through the entry point that Modal's own containers have, in an environment that holds
    only what their image installs. It is for trying things out and for tests: containers are not isolated from this
    machine, there are no GPUs (a request for one is accepted, and noted), and only what clients see of Modal is copied.

    One at a time: the client's environment belongs to the whole process.

    Args:
        host: Address to listen on; only this machine can reach it.
        max_containers: How many containers a function may have that sets no limit itself; the number of CPUs, and at
            least two, when None.
        set_environment: Whether to point the client in this process at it.

    Raises:
        ValueError: `host` is not a loopback address.

    Example:
        >>> import modal
        >>> def square(x):
        ...     return x * x
        >>> with ModalLoopback() as plane:  # doctest: +SKIP
        ...     app = modal.App()
        ...     remote_square = app.function(serialized=True)(square)
        ...     with app.run():
        ...         remote_square.remote(3)
        9
    """

    def __init__(
        self, host: str = "127.0.0.1", *, max_containers: int | None = None, set_environment: bool = True
    ) -> None:
        self._host = _checked(host)
        self._max_containers = max_containers or max(2, os.cpu_count() or 1)
        self._set_environment = set_environment
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
        self._folder = OwnedFolder("modal-")
        self._directory = Path(os.path.realpath(self._folder.path))
        self._watchdog = Watchdog(self._directory)
        opened: Future[tuple[asyncio.AbstractEventLoop, ControlPlane]] = Future()
        self._thread = threading.Thread(target=self._run, args=(opened,), name="modal-loopback", daemon=True)
        self._thread.start()
        try:
            self._loop, self._parts = opened.result()
        except BaseException:
            self._tidy_up()
            raise
        self._client_environment = ClientEnvironment(self.environment)
        if self._set_environment:
            self._client_environment.enter()

    def stop(self) -> None:
        """Stop the apps, end the containers, remove all files, and restore the client's environment."""
        if self._thread is None:
            return
        if self._set_environment:
            self._client_environment.leave()
        try:
            self._call(self._parts.close())
        finally:
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
        return f"http://{host}:{self._parts.port}"

    @property
    def directory(self) -> Path:
        """Where its files are, until it is stopped."""
        return self._directory

    # --- misbehaviour ----------------------------------------------------------------------------------------------

    def inject_faults(self, *faults: Fault, seed: int = 0) -> None:
        """Misbehave from now on, and only in these ways; without any, behave again.

        Args:
            faults: What is to go wrong, see `hypernodes_modal.loopback.faults`.
            seed: What is left to chance follows from it.
        """
        self._look(lambda: self._parts.faults.set(faults, seed))

    def refuse_connections(self, seconds: float) -> None:
        """End the connections of all clients, and refuse new ones for a while. Returns when they are refused.

        Args:
            seconds: How long.
        """
        refused: Future[None] = Future()
        asyncio.run_coroutine_threadsafe(self._parts.refuse_connections(seconds, refused), self._loop)
        refused.result()

    # --- what happened ---------------------------------------------------------------------------------------------

    @property
    def rpcs(self) -> list[RpcRecord]:
        """The latest 100,000 remote procedure calls that were received with the token, in order."""
        return self._look(lambda: list(self._parts.dispatcher.records))

    @property
    def rpc_counts(self) -> Counter[str]:
        """How often each remote procedure was called by clients; what a client repeated counts again."""
        return Counter(record.name for record in self.rpcs if record.caller == "client")

    @property
    def calls(self) -> list[CallRecord]:
        """Every remote function call, in order."""
        return self._look(lambda: [call_record(call) for call in self._parts.calls.calls.values()])

    def calls_of(self, function_name: str) -> list[CallRecord]:
        """The remote calls of one function, in order."""
        return [call for call in self.calls if call.function_name == function_name]

    @property
    def containers(self) -> list[ContainerRecord]:
        """Every container there ever was, in order."""
        return self._look(lambda: [container_record(container) for container in self._parts.runner.containers])

    @property
    def output(self) -> str:
        """What all containers printed."""
        return self._look(
            lambda: "".join(entry.text for app in self._parts.apps.all() for entry in self._parts.logs.of_app(app.id))
        )

    @property
    def notices(self) -> list[str]:
        """What was asked for and is not done here: parts of images, GPUs."""
        return self._look(lambda: list(self._parts.notices.all))

    @property
    def queue_ids(self) -> list[str]:
        """Identifiers of the queues there are."""
        return self._look(self._parts.queues.ids)

    def forget(self) -> None:
        """Start records afresh: what ended before is not shown any more."""
        self._look(self._parts.forget)

    def stop_apps(self) -> None:
        """Stop every app, deployed ones too, and return when their containers have ended."""
        self._call(self._parts.stop_apps())

    # --- details ---------------------------------------------------------------------------------------------------

    def _run(self, opened: Future[tuple[asyncio.AbstractEventLoop, ControlPlane]]) -> None:
        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
        try:
            opened.set_result((loop, loop.run_until_complete(self._open())))
            loop.run_forever()
        except BaseException as error:
            if opened.done():
                raise
            opened.set_exception(error)
        finally:
            remaining = asyncio.all_tasks(loop)
            for task in remaining:
                task.cancel()
            loop.run_until_complete(asyncio.gather(*remaining, return_exceptions=True))
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.run_until_complete(loop.shutdown_default_executor())
            asyncio.set_event_loop(None)
            loop.close()

    async def _open(self) -> ControlPlane:
        parts = ControlPlane(
            directory=self._directory,
            host=self._host,
            credentials=self._credentials,
            max_containers=self._max_containers,
            own_root=await can_have_own_root(),
            watchdog=self._watchdog,
        )
        await parts.open()
        return parts

    def _tidy_up(self) -> None:
        if self._thread is not None:
            self._thread.join()
        self._thread = None
        self._watchdog.close()
        self._folder.close()

    def _call(self, coroutine: Coroutine[Any, Any, _Value]) -> _Value:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def _look(self, read: Callable[[], _Value]) -> _Value:
        """Read the state where it is changed, so that nothing changes meanwhile."""

        async def look() -> _Value:
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
