"""Puts the parts of the control plane together, and opens and closes them; everything here runs on one event loop."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from pathlib import Path

from hypernodes_modal.loopback.apps import App, Apps
from hypernodes_modal.loopback.blobs import Blobs
from hypernodes_modal.loopback.call_service import CallService
from hypernodes_modal.loopback.container_service import ContainerService
from hypernodes_modal.loopback.containers import Container, EndReason
from hypernodes_modal.loopback.dicts import Dicts
from hypernodes_modal.loopback.dispatch import Dispatcher
from hypernodes_modal.loopback.environments import Environments
from hypernodes_modal.loopback.faults import Faults
from hypernodes_modal.loopback.function_service import Functions
from hypernodes_modal.loopback.ids import Ids
from hypernodes_modal.loopback.images import Images
from hypernodes_modal.loopback.listener import Listener
from hypernodes_modal.loopback.logs import Logs
from hypernodes_modal.loopback.mounts import Mounts
from hypernodes_modal.loopback.notices import Notices
from hypernodes_modal.loopback.pools import Pools
from hypernodes_modal.loopback.queues import Queues
from hypernodes_modal.loopback.rpc import handlers_of
from hypernodes_modal.loopback.runner import Runner
from hypernodes_modal.loopback.secret_store import Secrets
from hypernodes_modal.loopback.volumes import Volumes
from hypernodes_modal.loopback.watchdog import Watchdog

_CLOSE_GRACE_S = 2.0
_WATCH_INTERVAL_S = 5.0


class ControlPlane:
    """All services, wired to each other.

    Args:
        directory: Where to keep files.
        host: Address to listen on.
        credentials: Token id and token secret that clients must show.
        max_containers: How many containers a function may have that sets no limit itself.
        own_root: Whether containers get a file system of their own.
        watchdog: Who cleans up if this process is killed.
    """

    def __init__(
        self,
        *,
        directory: Path,
        host: str,
        credentials: tuple[str, str],
        max_containers: int,
        own_root: bool,
        watchdog: Watchdog,
    ) -> None:
        folders = {name: directory / name for name in ("blobs", "files", "images", "volumes", "c")}
        for folder in folders.values():
            folder.mkdir()
        self._host = host
        ids = Ids()
        self.faults = Faults(self.refuse_connections)
        self.notices = Notices()
        self.apps = Apps(ids)
        self.blobs = Blobs(folders["blobs"])
        mounts = Mounts(ids, self.blobs, folders["files"])
        images = Images(ids, mounts, Environments(folders["images"]), self.notices)
        self.logs = Logs()
        self.queues = Queues(ids)
        secrets = Secrets(ids)
        volumes = Volumes(ids, self.blobs, folders["volumes"])
        self.runner = Runner(
            ids=ids,
            directory=folders["c"],
            own_root=own_root,
            images=images,
            mounts=mounts,
            secrets=secrets,
            volumes=volumes,
            logs=self.logs,
            watchdog=watchdog,
            faults=self.faults,
        )
        self.pools = Pools(self.runner.start, max_containers)
        self.functions = Functions(ids, self.apps, self.pools, self.notices, own_root)
        self.calls = CallService(ids, self.functions, self.pools)
        containers = ContainerService(self.pools, self.calls, self.faults)
        services = [self.apps, self.blobs, mounts, images, self.logs, self.queues, Dicts(ids), secrets, volumes]
        handlers = handlers_of([*services, self.functions, self.calls, containers])
        self.dispatcher = Dispatcher(handlers, credentials, self.faults)
        self._listener = Listener(self.dispatcher.for_clients())
        self.runner.functions = self.functions
        self.runner.dispatcher = self.dispatcher
        self.runner.on_ended = self._container_ended
        self.apps.on_publish.append(self._app_published)
        self.apps.on_stop += [self.pools.app_stopped, self.logs.app_stopped]
        self.logs.is_done = self._is_log_done

    @property
    def port(self) -> int:
        """The port that clients connect to."""
        return self._listener.port

    async def open(self) -> None:
        """Listen."""
        await self.blobs.start(self._host)
        await self._listener.listen_on_port(self._host)
        self._watch = asyncio.get_running_loop().create_task(self._watch_apps())

    async def close(self) -> None:
        """Stop everything, and listen no more."""
        self._watch.cancel()
        self.faults.close()
        await self.stop_apps()
        await self._listener.close()
        await self.blobs.stop()

    async def stop_apps(self) -> None:
        """Stop every app, and return when their containers have ended; those that take too long are killed."""
        for app in self.apps.all():
            await self.apps.stop(app)
        try:
            await asyncio.wait_for(self.runner.wait_closed(), _CLOSE_GRACE_S)
        except TimeoutError:
            for container in self.runner.containers:
                container.kill(EndReason.APP_STOPPED)
            await self.runner.wait_closed()

    async def refuse_connections(self, seconds: float, refused: Future[None] | None = None) -> None:
        """End the connections of clients, and refuse new ones.

        Args:
            seconds: How long.
            refused: Gets a result when they are refused.
        """
        port = self.port
        await self._listener.close()
        if refused is not None:
            refused.set_result(None)
        await asyncio.sleep(seconds)
        await self._listener.listen_on_port(self._host, port)

    def forget(self) -> None:
        """Drop the records of what has ended."""
        self.dispatcher.records.clear()
        self.runner.forget_ended()
        self.calls.forget_finished()
        self.logs.forget()

    async def _watch_apps(self) -> None:
        while True:
            await asyncio.sleep(_WATCH_INTERVAL_S)
            await self.apps.stop_forsaken()

    def _container_ended(self, container: Container) -> None:
        self.pools.of(container.function).container_ended(container)

    def _app_published(self, app: App) -> None:
        for function in self.functions.of_app(app.id):
            self.pools.of(function).scale()

    def _is_log_done(self, app_id: str) -> bool:
        is_running = any(pool.containers for pool in self.pools.all() if pool.function.app_id == app_id)
        return self.apps.get(app_id).is_stopped and not is_running
