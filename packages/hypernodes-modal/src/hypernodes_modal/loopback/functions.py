"""Functions and classes as the client defines them, and their variants from `with_options` and class parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from grpclib import GRPCError, Status
from modal_proto import api_pb2

from hypernodes_modal.loopback.rpc import Caller, not_found, rpc

if TYPE_CHECKING:
    from hypernodes_modal.loopback.apps import Apps
    from hypernodes_modal.loopback.ids import Ids
    from hypernodes_modal.loopback.notices import Notices
    from hypernodes_modal.loopback.pools import Pools

_DEFAULT_TIMEOUT_S = 300
_DEFAULT_SCALEDOWN_S = 60
_MIN_STARTUP_TIMEOUT_S = 20  # the cloud would be faster: that this machine is busy is not the fault of the function
# Options of a variant that are called the same in the definition of a function.
_SAME_NAME = (
    "resources",
    "retry_policy",
    "timeout_secs",
    "target_concurrent_inputs",
    "max_concurrent_inputs",
    "batch_max_size",
    "batch_linger_ms",
    "scheduler_placement",
    "cloud_provider_str",
)


@dataclass(eq=False)
class Function:
    """A function, as far as it is defined, or a variant of one.

    Attributes:
        id: Its identifier.
        app_id: The app it belongs to.
        definition: As the client sent it; empty until the app is loaded.
        metadata: What a client must know to call it.
        serialized_params: Arguments of the class, for methods.
        base_id: Identifier of the function this is a variant of; its own if it is none.
    """

    id: str
    app_id: str
    definition: api_pb2.Function
    metadata: api_pb2.FunctionHandleMetadata
    base_id: str
    serialized_params: bytes = b""

    @property
    def name(self) -> str:
        """The name in the app ("encode", or "Encoder.*" for all methods of a class)."""
        return self.metadata.function_name

    @property
    def timeout_s(self) -> float:
        """How long one input may take, in seconds."""
        return self.definition.timeout_secs or _DEFAULT_TIMEOUT_S

    @property
    def startup_timeout_s(self) -> float:
        """How long a container may take until it asks for an input, in seconds."""
        return max(self.definition.startup_timeout_secs or self.timeout_s, _MIN_STARTUP_TIMEOUT_S)

    @property
    def scaledown_window_s(self) -> float:
        """How long a container stays without work, in seconds."""
        settings = self.definition.autoscaler_settings
        return settings.scaledown_window or self.definition.task_idle_timeout_secs or _DEFAULT_SCALEDOWN_S

    @property
    def min_containers(self) -> int:
        """How many containers stay although there is nothing to do."""
        return self.definition.autoscaler_settings.min_containers or self.definition.warm_pool_size

    @property
    def max_containers(self) -> int | None:
        """How many containers there may be, if that is limited."""
        return self.definition.autoscaler_settings.max_containers or self.definition.concurrency_limit or None

    @property
    def buffer_containers(self) -> int:
        """How many idle containers are kept ready while others work."""
        return self.definition.autoscaler_settings.buffer_containers

    @property
    def is_single_use(self) -> bool:
        """Whether a container takes one input only."""
        return self.definition.single_use_containers or self.definition.max_inputs == 1

    @property
    def inputs_at_once(self) -> int:
        """How many inputs a container works on at a time."""
        definition = self.definition
        return max(
            definition.target_concurrent_inputs or definition.max_concurrent_inputs, definition.batch_max_size, 1
        )


@dataclass(eq=False)
class ClassObject:
    """A class with remote methods: a name for the function that serves them all.

    Attributes:
        id: Its identifier.
        app_id: The app it belongs to.
    """

    id: str
    app_id: str


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
        self._classes: dict[str, ClassObject] = {}
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
        for each in self._classes.values():
            if each.app_id == app_id:
                layout.objects.add(object_id=each.id, class_handle_metadata=api_pb2.ClassHandleMetadata())
                for function in self.of_app(app_id):
                    if function.definition.is_class:
                        layout.class_ids.setdefault(function.name.removesuffix(".*"), each.id) if hasattr(
                            layout.class_ids, "setdefault"
                        ) else None
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
        self._note_missing_hardware(definition)
        is_redeployed = bool(function.definition.function_name)
        function.definition = definition
        function.metadata.class_parameter_info.CopyFrom(definition.class_parameter_info)
        if is_redeployed:
            self._pools.retire(function)
        return api_pb2.FunctionCreateResponse(
            function_id=function.id,
            function=definition,
            handle_metadata=function.metadata,
            function_data=_as_data(definition),
        )

    @rpc
    async def class_create(self, request: api_pb2.ClassCreateRequest, caller: Caller) -> api_pb2.ClassCreateResponse:
        class_id = request.existing_class_id or self._ids.new("cs")
        self._classes[class_id] = ClassObject(class_id, request.app_id)
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
            function_id=function_id, handle_metadata=function.metadata, function=_as_data(function.definition)
        )

    @rpc
    async def function_get_by_id(
        self, request: api_pb2.FunctionGetByIdRequest, caller: Caller
    ) -> api_pb2.FunctionGetByIdResponse:
        function = self.get(request.function_id)
        return api_pb2.FunctionGetByIdResponse(
            function=_as_data(function.definition), handle_metadata=function.metadata
        )

    @rpc
    async def function_bind_params(
        self, request: api_pb2.FunctionBindParamsRequest, caller: Caller
    ) -> api_pb2.FunctionBindParamsResponse:
        base = self.get(request.function_id)
        options = request.function_options
        key = (base.id, request.serialized_params, options.SerializeToString(deterministic=True))
        variant = self._variants.get(key)
        if variant is None:
            definition = _with_options(base.definition, options)
            self._check(definition)
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

    def _note_missing_hardware(self, definition: api_pb2.Function) -> None:
        gpu = definition.resources.gpu_config
        wanted = gpu.gpu_type or (f"{gpu.count} GPU(s)" if gpu.count else "")
        if wanted:
            self._notices.add(f"function {definition.function_name!r} asks for a GPU ({wanted}) and gets none")

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


def _as_data(definition: api_pb2.Function) -> api_pb2.FunctionData:
    data = api_pb2.FunctionData(
        module_name=definition.module_name,
        function_name=definition.function_name,
        function_type=definition.function_type,
        timeout_secs=definition.timeout_secs,
        startup_timeout_secs=definition.startup_timeout_secs,
        autoscaler_settings=definition.autoscaler_settings,
        warm_pool_size=definition.warm_pool_size,
        concurrency_limit=definition.concurrency_limit,
        task_idle_timeout_secs=definition.task_idle_timeout_secs,
        is_class=definition.is_class,
        class_parameter_info=definition.class_parameter_info,
        is_method=definition.is_method,
        method_definitions=definition.method_definitions,
        method_definitions_set=definition.method_definitions_set,
        function_schema=definition.function_schema,
        supported_input_formats=definition.supported_input_formats,
        supported_output_formats=definition.supported_output_formats,
        implementation_name=definition.implementation_name,
    )
    data.ranked_functions.add(rank=0, function=definition)
    return data


def _with_options(base: api_pb2.Function, options: api_pb2.FunctionOptions) -> api_pb2.Function:
    definition = api_pb2.Function()
    definition.CopyFrom(base)
    for name in _SAME_NAME:
        if options.HasField(name):  # type: ignore[arg-type]  # the names are checked by a test, not by their type
            value = getattr(options, name)
            if hasattr(value, "CopyFrom"):
                getattr(definition, name).CopyFrom(value)
            else:
                setattr(definition, name, value)
    settings = definition.autoscaler_settings
    for target, source in {
        "max_containers": "concurrency_limit",
        "min_containers": "warm_pool_size",
        "scaledown_window": "task_idle_timeout_secs",
        "buffer_containers": "buffer_containers",
    }.items():
        if options.HasField(source):  # type: ignore[arg-type]
            setattr(settings, target, getattr(options, source))
    if options.replace_secret_ids:
        del definition.secret_ids[:]
    definition.secret_ids.extend(options.secret_ids)
    if options.replace_volume_mounts:
        del definition.volume_mounts[:]
    definition.volume_mounts.extend(options.volume_mounts)
    return definition
