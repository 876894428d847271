"""Environments and apps: what `app.run()`, `app.deploy()` and `App.lookup()` ask for."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from google.protobuf.empty_pb2 import Empty
from modal_proto import api_pb2

from hypernodes_modal.loopback.rpc import Caller, not_found, rpc

if TYPE_CHECKING:
    from hypernodes_modal.loopback.ids import Ids

IMAGE_BUILDER_VERSION = "2025.06"
_HEARTBEAT_TIMEOUT_S = 60.0  # the client says every 15 s that it is there
_URL = "http://loopback.invalid"  # nothing is shown there; the client only prints it


@dataclass(eq=False)
class App:
    """An app.

    Attributes:
        id: Its identifier.
        description: What the client calls it.
        state: Whether it is ephemeral, detached, deployed or stopped.
        name: The name it is deployed under; empty if it is not.
        function_ids: Its functions, by name.
        class_ids: Its classes, by name.
    """

    id: str
    description: str
    state: api_pb2.AppState.ValueType
    name: str = ""
    function_ids: dict[str, str] = field(default_factory=dict)
    class_ids: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    created_at: float = field(default_factory=time.time)
    last_heartbeat_at: float = field(default_factory=time.monotonic)

    @property
    def is_stopped(self) -> bool:
        """Whether nothing can run in it any more."""
        return self.state == api_pb2.APP_STATE_STOPPED


class Apps:
    """Creates, publishes and stops apps.

    Attributes:
        on_publish: Called when the functions of an app are ready to be called.
        on_stop: Called when an app stops; ends what runs in it.
    """

    def __init__(self, ids: Ids) -> None:
        self._ids = ids
        self._apps: dict[str, App] = {}
        self.on_publish: list[Callable[[App], None]] = []
        self.on_stop: list[Callable[[App], Awaitable[None]]] = []

    def get(self, app_id: str) -> App:
        """Return an app by its identifier.

        Raises:
            GRPCError: There is none.
        """
        try:
            return self._apps[app_id]
        except KeyError:
            raise not_found("App", app_id) from None

    def deployed(self, name: str) -> App:
        """Return the app deployed under a name.

        Raises:
            GRPCError: There is none.
        """
        found = self._find_deployed(name)
        if found is None:
            deployed = sorted(app.name for app in self._apps.values() if app.name and not app.is_stopped)
            raise not_found("App", name, f"Deployed apps: {', '.join(deployed) or 'none'}.")
        return found

    def all(self) -> list[App]:
        """Every app there ever was, in order of creation."""
        return list(self._apps.values())

    async def stop(self, app: App) -> None:
        """End everything that runs in an app."""
        if not app.is_stopped:
            app.state = api_pb2.APP_STATE_STOPPED
            for listener in self.on_stop:
                await listener(app)

    async def stop_forsaken(self) -> None:
        """Stop ephemeral apps whose client has not called for long: it was killed, or lost its connection."""
        too_long_ago = time.monotonic() - _HEARTBEAT_TIMEOUT_S
        for app in self.all():
            if app.state == api_pb2.APP_STATE_EPHEMERAL and app.last_heartbeat_at < too_long_ago:
                await self.stop(app)

    @rpc
    async def client_hello(self, request: Empty, caller: Caller) -> api_pb2.ClientHelloResponse:
        return api_pb2.ClientHelloResponse()

    @rpc
    async def environment_get_or_create(
        self, request: api_pb2.EnvironmentGetOrCreateRequest, caller: Caller
    ) -> api_pb2.EnvironmentGetOrCreateResponse:
        return api_pb2.EnvironmentGetOrCreateResponse(
            environment_id="en-loopback",
            metadata=api_pb2.EnvironmentMetadata(
                name=request.deployment_name or "main",
                settings=api_pb2.EnvironmentSettings(image_builder_version=IMAGE_BUILDER_VERSION),
            ),
        )

    @rpc
    async def app_create(self, request: api_pb2.AppCreateRequest, caller: Caller) -> api_pb2.AppCreateResponse:
        app = self._create(request.description, request.app_state)
        app.tags.update(request.tags)
        return api_pb2.AppCreateResponse(app_id=app.id, app_page_url=f"{_URL}/{app.id}", app_logs_url=_URL)

    @rpc
    async def app_get_or_create(
        self, request: api_pb2.AppGetOrCreateRequest, caller: Caller
    ) -> api_pb2.AppGetOrCreateResponse:
        app = self._find_deployed(request.app_name)
        if app is None:
            if request.object_creation_type != api_pb2.OBJECT_CREATION_TYPE_CREATE_IF_MISSING:
                raise not_found("App", request.app_name, "Deploy it, or look it up with create_if_missing=True.")
            app = self._create(request.app_name, api_pb2.APP_STATE_DEPLOYED)
            app.name = request.app_name
        return api_pb2.AppGetOrCreateResponse(app_id=app.id)

    @rpc
    async def app_get_by_deployment_name(
        self, request: api_pb2.AppGetByDeploymentNameRequest, caller: Caller
    ) -> api_pb2.AppGetByDeploymentNameResponse:
        app = self._find_deployed(request.name)
        return api_pb2.AppGetByDeploymentNameResponse(app_id=app.id if app else "")

    @rpc
    async def app_get_layout(
        self, request: api_pb2.AppGetLayoutRequest, caller: Caller
    ) -> api_pb2.AppGetLayoutResponse:
        app = self.get(request.app_id)
        layout = api_pb2.AppLayout(function_ids=app.function_ids, class_ids=app.class_ids)
        return api_pb2.AppGetLayoutResponse(app_layout=layout)

    @rpc
    async def app_publish(self, request: api_pb2.AppPublishRequest, caller: Caller) -> api_pb2.AppPublishResponse:
        app = self.get(request.app_id)
        app.state = request.app_state
        app.function_ids = dict(request.function_ids)
        app.class_ids = dict(request.class_ids)
        if request.app_state == api_pb2.APP_STATE_DEPLOYED:
            app.name = request.name
        for listener in self.on_publish:
            listener(app)
        return api_pb2.AppPublishResponse(url=f"{_URL}/{app.id}", deployed_at=time.time())

    @rpc
    async def app_heartbeat(self, request: api_pb2.AppHeartbeatRequest, caller: Caller) -> Empty:
        self.get(request.app_id).last_heartbeat_at = time.monotonic()
        return Empty()

    @rpc
    async def app_client_disconnect(self, request: api_pb2.AppClientDisconnectRequest, caller: Caller) -> Empty:
        app = self.get(request.app_id)
        # A client also says good-bye to what outlives it; only without publishing is a deployment given up.
        if app.state not in (api_pb2.APP_STATE_DEPLOYED, api_pb2.APP_STATE_DETACHED):
            await self.stop(app)
        return Empty()

    @rpc
    async def app_stop(self, request: api_pb2.AppStopRequest, caller: Caller) -> Empty:
        await self.stop(self.get(request.app_id))
        return Empty()

    @rpc
    async def app_set_tags(self, request: api_pb2.AppSetTagsRequest, caller: Caller) -> Empty:
        app = self.get(request.app_id)
        app.tags = dict(request.tags)
        return Empty()

    @rpc
    async def app_get_tags(self, request: api_pb2.AppGetTagsRequest, caller: Caller) -> api_pb2.AppGetTagsResponse:
        return api_pb2.AppGetTagsResponse(tags=self.get(request.app_id).tags)

    @rpc
    async def app_list(self, request: api_pb2.AppListRequest, caller: Caller) -> api_pb2.AppListResponse:
        return api_pb2.AppListResponse(
            apps=[
                api_pb2.AppListResponse.AppListItem(
                    app_id=app.id,
                    description=app.description,
                    name=app.name,
                    state=app.state,
                    created_at=app.created_at,
                )
                for app in self._apps.values()
            ]
        )

    def _create(self, description: str, state: api_pb2.AppState.ValueType) -> App:
        app = App(self._ids.new("ap"), description, state)
        self._apps[app.id] = app
        return app

    def _find_deployed(self, name: str) -> App | None:
        candidates = [app for app in self._apps.values() if app.name == name and not app.is_stopped]
        return candidates[-1] if candidates else None
