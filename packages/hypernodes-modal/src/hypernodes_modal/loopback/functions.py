"""Functions as the client defines them, and their variants from `with_options` and class parameters."""

from __future__ import annotations

from dataclasses import dataclass

from modal_proto import api_pb2

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


def as_data(definition: api_pb2.Function) -> api_pb2.FunctionData:
    """A definition in the other form that the protocol has for it."""
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


def with_options(base: api_pb2.Function, options: api_pb2.FunctionOptions) -> api_pb2.Function:
    """The definition of a variant of a function.

    Args:
        base: The definition of the function.
        options: What is different.
    """
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
