"""Defining functions and classes, looking them up, and making variants of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from grpclib import GRPCError, Status
from modal_proto import api_pb2

from hypernodes_modal.loopback.functions import Function, as_data, with_options
from hypernodes_modal.loopback.rpc import Caller, not_found, rpc

if TYPE_CHECKING:
    from hypernodes_modal.loopback.apps import Apps
    from hypernodes_modal.loopback.ids import Ids
    from hypernodes_modal.loopback.notices import Notices
    from hypernodes_modal.loopback.pools import Pools


_GPUS = (
    *("T4", "L4", "A10", "A10G", "L40S", "A100", "A100-40GB", "A100-80GB", "RTX-PRO-6000"),
    *("H100", "H100!", "H200", "H200!", "B200", "B200+", "B300", "ANY"),
)


class Functions:
    """Defines functions and hands them out.

    Args:
        own_root: Whether containers have a file system of their own.
    """

    def __init__(self, ids: Ids, apps: Apps, pools: Pools, notices: Notices, own_root: bool) -> None:
        self._ids = ids
        self._notices = notices
        self._own_root = own_root
        self._apps = apps
        self._pools = pools
        self._functions: dict[str, Function] = {}
        self._variants: dict[tuple[str, bytes, bytes], Function] = {}

    def get(self, function_id: str) -> Function:
        """Return a function by its identifier.

        Raises:
            GRPCError: There is none.
        """
        try:
            return self._functions[function_id]
        except KeyError:
            raise not_found("Function", function_id, "Was its app stopped?") from None

    def of_app(self, app_id: str) -> list[Function]:
        """Every function of an app, variants included."""
        return [function for function in self._functions.values() if function.app_id == app_id]

    def layout(self, app_id: str) -> api_pb2.AppLayout:
        """What a container must know of its app: each function and class with its metadata."""
        layout = api_pb2.AppLayout()
        for function in self.of_app(app_id):
            layout.objects.add(object_id=function.id, function_handle_metadata=function.metadata)
            if function.base_id == function.id:
                layout.function_ids[function.name] = function.id
        for name, class_id in self._apps.get(app_id).class_ids.items():
            layout.class_ids[name] = class_id
            layout.objects.add(object_id=class_id, class_handle_metadata=api_pb2.ClassHandleMetadata())
        return layout

    @rpc
    async def function_precreate(
        self, request: api_pb2.FunctionPrecreateRequest, caller: Caller
    ) -> api_pb2.FunctionPrecreateResponse:
        self._apps.get(request.app_id)
        function_id = request.existing_function_id or self._ids.new("fu")
        metadata = api_pb2.FunctionHandleMetadata(
            function_name=request.function_name,
            function_type=request.function_type,
            function_schema=request.function_schema,
            supported_input_formats=request.supported_input_formats,
            supported_output_formats=request.supported_output_formats,
            app_id=request.app_id,
            definition_id=self._ids.new("de"),
        )
        for name, method in request.method_definitions.items():
            metadata.method_handle_metadata[name].CopyFrom(
                api_pb2.FunctionHandleMetadata(
                    function_name=method.function_name,
                    function_type=method.function_type,
                    function_schema=method.function_schema,
                    supported_input_formats=method.supported_input_formats,
                    supported_output_formats=method.supported_output_formats,
                    is_method=True,
                    use_method_name=name,
                    app_id=request.app_id,
                )
            )
        known = self._functions.get(function_id)
        if known is None:
            self._functions[function_id] = Function(
                function_id, request.app_id, api_pb2.Function(), metadata, base_id=function_id
            )
        else:  # deployed again
            known.metadata = metadata
        return api_pb2.FunctionPrecreateResponse(function_id=function_id, handle_metadata=metadata)

    @rpc
    async def function_create(
        self, request: api_pb2.FunctionCreateRequest, caller: Caller
    ) -> api_pb2.FunctionCreateResponse:
        definition = request.function
        _check_gpus(request)
        if request.HasField("function_data"):
            # A list of GPUs. There is none here, so the first choice is as good as any.
            definition = request.function_data.ranked_functions[0].function
        self._check(definition)
        function_id = request.existing_function_id
        if function_id not in self._functions:  # made without being announced, as for building an image
            answer = await self.function_precreate(
                api_pb2.FunctionPrecreateRequest(
                    app_id=request.app_id,
                    function_name=definition.function_name,
                    function_type=definition.function_type,
                    supported_input_formats=definition.supported_input_formats,
                    supported_output_formats=definition.supported_output_formats,
                ),
                caller,
            )
            function_id = answer.function_id
        function = self._functions[function_id]
        self._note_what_is_ignored(definition)
        is_redeployed = bool(function.definition.function_name)
        function.definition = definition
        function.metadata.class_parameter_info.CopyFrom(definition.class_parameter_info)
        if is_redeployed:
            self._pools.retire(function)
        return api_pb2.FunctionCreateResponse(
            function_id=function.id,
            function=definition,
            handle_metadata=function.metadata,
            function_data=as_data(definition),
        )

    @rpc
    async def class_create(self, request: api_pb2.ClassCreateRequest, caller: Caller) -> api_pb2.ClassCreateResponse:
        class_id = request.existing_class_id or self._ids.new("cs")
        return api_pb2.ClassCreateResponse(class_id=class_id, handle_metadata=api_pb2.ClassHandleMetadata())

    @rpc
    async def class_get(self, request: api_pb2.ClassGetRequest, caller: Caller) -> api_pb2.ClassGetResponse:
        app = self._apps.deployed(request.app_name)
        class_id = app.class_ids.get(request.object_tag)
        if class_id is None:
            raise not_found("Class", f"{request.app_name}/{request.object_tag}", "Is the class in the deployed app?")
        return api_pb2.ClassGetResponse(class_id=class_id, handle_metadata=api_pb2.ClassHandleMetadata())

    @rpc
    async def function_get(self, request: api_pb2.FunctionGetRequest, caller: Caller) -> api_pb2.FunctionGetResponse:
        app = self._apps.deployed(request.app_name)
        function_id = app.function_ids.get(request.object_tag)
        if function_id is None:
            raise not_found(
                "Function",
                f"{request.app_name}/{request.object_tag}",
                f"The deployed app has: {', '.join(sorted(app.function_ids)) or 'no functions'}.",
            )
        function = self.get(function_id)
        return api_pb2.FunctionGetResponse(
            function_id=function_id, handle_metadata=function.metadata, function=as_data(function.definition)
        )

    @rpc
    async def function_get_by_id(
        self, request: api_pb2.FunctionGetByIdRequest, caller: Caller
    ) -> api_pb2.FunctionGetByIdResponse:
        function = self.get(request.function_id)
        return api_pb2.FunctionGetByIdResponse(function=as_data(function.definition), handle_metadata=function.metadata)

    @rpc
    async def function_bind_params(
        self, request: api_pb2.FunctionBindParamsRequest, caller: Caller
    ) -> api_pb2.FunctionBindParamsResponse:
        base = self.get(request.function_id)
        options = request.function_options
        key = (base.id, request.serialized_params, options.SerializeToString(deterministic=True))
        variant = self._variants.get(key)
        if variant is None:
            definition = with_options(base.definition, options)
            self._check(definition)
            _check_gpu(definition)
            metadata = api_pb2.FunctionHandleMetadata()
            metadata.CopyFrom(base.metadata)
            metadata.base_function_id = base.base_id
            variant = Function(
                self._ids.new("fu"),
                base.app_id,
                definition,
                metadata,
                base_id=base.base_id,
                serialized_params=request.serialized_params or base.serialized_params,
            )
            self._functions[variant.id] = self._variants[key] = variant
        return api_pb2.FunctionBindParamsResponse(bound_function_id=variant.id, handle_metadata=variant.metadata)

    @rpc
    async def function_get_current_stats(
        self, request: api_pb2.FunctionGetCurrentStatsRequest, caller: Caller
    ) -> api_pb2.FunctionStats:
        pool = self._pools.of(self.get(request.function_id))
        return api_pb2.FunctionStats(
            backlog=len(pool.pending),
            num_total_tasks=len(pool.containers),
            num_running_inputs=sum(len(container.inputs) for container in pool.containers),
        )

    @rpc
    async def function_update_scheduling_params(
        self, request: api_pb2.FunctionUpdateSchedulingParamsRequest, caller: Caller
    ) -> api_pb2.FunctionUpdateSchedulingParamsResponse:
        function = self.get(request.function_id)
        function.definition.autoscaler_settings.MergeFrom(request.settings)
        self._pools.of(function).scale()
        return api_pb2.FunctionUpdateSchedulingParamsResponse(current_settings=function.definition.autoscaler_settings)

    def _note_what_is_ignored(self, definition: api_pb2.Function) -> None:
        gpu = definition.resources.gpu_config
        wanted = gpu.gpu_type or (f"{gpu.count} GPU(s)" if gpu.count else "")
        if wanted:
            self._notices.add(f"function {definition.function_name!r} asks for a GPU ({wanted}) and gets none")
        if definition.checkpointing_enabled:
            self._notices.add(f"function {definition.function_name!r} asks for memory snapshots: none are made")
        if definition.HasField("schedule"):
            self._notices.add(f"function {definition.function_name!r} has a schedule: it only runs when it is called")

    def _check(self, definition: api_pb2.Function) -> None:
        """Refuse what would otherwise look as if it worked."""
        unsupported = {
            "web endpoints": definition.webhook_config.type != api_pb2.WEBHOOK_TYPE_UNSPECIFIED or definition.is_server,
            "network file systems": bool(definition.shared_volume_mounts),
            "cloud bucket mounts": bool(definition.cloud_bucket_mounts),
            "clusters": definition._experimental_group_size > 1,
            "interactive functions": definition.pty_info.enabled,
        }
        if definition.volume_mounts and not self._own_root:
            raise GRPCError(
                Status.UNIMPLEMENTED,
                f"Function {definition.function_name!r} mounts a volume. For that, containers need a file system of "
                "their own (a mount namespace), which this machine does not give them.",
            )
        for what, is_wanted in unsupported.items():
            if is_wanted:
                raise GRPCError(
                    Status.UNIMPLEMENTED,
                    f"Function {definition.function_name!r} uses {what}, which the loopback control plane lacks.",
                )


def _check_gpus(request: api_pb2.FunctionCreateRequest) -> None:
    """Refuse GPUs that do not exist: the client takes any name."""
    choices = [each.function for each in request.function_data.ranked_functions] or [request.function]
    for definition in choices:
        _check_gpu(definition)


def _check_gpu(definition: api_pb2.Function) -> None:
    kind = definition.resources.gpu_config.gpu_type
    if kind and kind not in _GPUS:
        raise GRPCError(
            Status.INVALID_ARGUMENT,
            f"Function {definition.function_name!r} asks for a GPU of an unknown type, {kind!r}. "
            f"There are: {', '.join(_GPUS)}.",
        )
