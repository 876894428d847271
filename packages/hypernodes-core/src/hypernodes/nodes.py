"""A node: a function with named inputs (its parameters) and named outputs."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import CodeType, FunctionType, MappingProxyType
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, ParamSpec, TypeVar, overload

from hypernodes.checks import check_bool, check_name
from hypernodes.conditions import Condition, Conditional, conditions_of
from hypernodes.errors import ConfigurationError, InvalidNodeError
from hypernodes.global_names import find_global, import_global
from hypernodes.node_options import (
    check_cache_for,
    check_each,
    check_no_method,
    check_output_names,
    check_parameters,
    check_policy,
    check_version,
    refuse_uncallable,
)

if TYPE_CHECKING:
    from hypernodes.batching import Batching
    from hypernodes.engine.settings import ExecutionMode
    from hypernodes.limiting import Limiting
    from hypernodes.pipeline_node import PipelineNode
    from hypernodes.plan import MapMode, OnError

P = ParamSpec("P")
R = TypeVar("R")

OutputName = str | tuple[str, ...]
When = str | Mapping[str, Any] | None

# Bits of `code.co_flags`: the inspect module's CO_VARARGS, CO_VARKEYWORDS, CO_GENERATOR, CO_COROUTINE or
# CO_ITERABLE_COROUTINE, and CO_ASYNC_GENERATOR.
_VARARGS, _VARKEYWORDS, _GENERATOR, _COROUTINE, _ASYNC_GENERATOR = 0x04, 0x08, 0x20, 0x180, 0x200


class Node(Conditional, Generic[P, R]):
    """A function that can be used in a pipeline; usually created with the `node` decorator.

    Calling a node calls the function that it wraps, with positional or keyword arguments.

    Args:
        func: Any callable with a signature and no `*args` or `**kwargs`; may be an `async def` function. A coroutine or
            asyncio future that any other function returns is awaited as well. What a generator function yields is
            collected into a list; an async generator is refused.
        output_name: Name of the result, or one name for each element of the returned tuple.
        cache: False when the result must never come from a cache (a clock, a random draw, a side effect).
        name: Id of the node in events and messages; by default the name of the function.
        retries: Number of further attempts after a call raised.
        retry_delay: Seconds before the second attempt; doubled for each further one, with a jitter of 25%.
        retry_on: Exceptions after which a call is made again.
        timeout: Limit for one call, in seconds (see `node`).
        version: Added to the signature of the code: results of another version are not found in a cache.
        cache_ignore: Parameters that do not affect the result, excluded from its signature.
        skip_failures: Parameters whose failed items are left out (see `node`).
        when: Condition on which it runs (see `node`).
        unless: Condition on which it does not run.
        optional: Parameters that may be `SKIPPED` (see `node`).
        cache_for: How long a cached result counts, in seconds (see `node`).
        batch_over: Parameters that take a list with one element per item (see `node`, also for the next four).
        batch_size: The largest number of items of a call.
        batch_weight: Returns the weight of an item.
        batch_limit: The largest weight of the items of a call.
        batch_wait: How long an item waits for others, in seconds.
        retry_after: Returns the delay that an error asks for (see `node`, also for the next two).
        max_concurrency: The largest number of calls at a time in this process.
        limit: What else limits its calls.
        each: Whether a mapped pipeline may take what it yields one by one (see `node`).
        idempotent: Whether a call may be made twice (see `node`).

    Attributes:
        func: The wrapped callable.
        name: Id of the node in events and messages.
        inputs: Parameter names, in the order of the signature.
        outputs: Names of its results.
        defaults: Values of the parameters that may be omitted.
        keyword_only: The inputs that can only be passed by keyword.
        is_async: Whether the function is a coroutine function, which is called in an event loop.
        wraps_async: Whether it is an ordinary function around a coroutine function (a decorator), which may return
            a coroutine.
        is_generator: Whether it is a generator function, or one around such a function: its result is the list of what
            the generator yields.
        cache: Whether its results may be stored in a cache.
        version: Added to the signature of the code; None when there is none.
        cache_ignore: Parameters that are excluded from the signature of a result.
        skip_failures: Parameters whose failed items are left out.
        conditions: What has to hold so that it runs, by `when` and `unless`.
        optional: Parameters that may be `SKIPPED`.
        cache_for: How long a cached result counts, in seconds; None for as long as it is there.
        batching: How the items of a batched node are gathered into calls; None if each is called on its own.
        limiting: What limits its calls; None if nothing does.
        each: Whether a mapped pipeline may take what a generator function yields one by one.
        idempotent: Whether a call may be made twice; None for whether its result is cached.
        needs: Names of what has to be known before it runs: its inputs, and what its conditions are on.
        code_signature: Digest of the code, if the process that sent the node computed it; None for nodes made here.

    Raises:
        InvalidNodeError: The callable cannot be wired by name.
    """

    def __init__(
        self,
        func: Callable[P, R],
        output_name: OutputName | None = None,
        *,
        cache: bool = True,
        name: str | None = None,
        retries: int = 0,
        retry_delay: float = 0.5,
        retry_on: type[Exception] | tuple[type[Exception], ...] = Exception,
        timeout: float | None = None,
        version: str | None = None,
        cache_ignore: str | Iterable[str] = (),
        skip_failures: str | Iterable[str] = (),
        when: When = None,
        unless: When = None,
        optional: str | Iterable[str] = (),
        cache_for: float | None = None,
        batch_over: str | Iterable[str] | None = None,
        batch_size: int | None = None,
        batch_weight: Callable[..., float] | None = None,
        batch_limit: float | None = None,
        batch_wait: float | None = None,
        retry_after: Callable[[BaseException], float | None] | None = None,
        max_concurrency: int | None = None,
        limit: str | Iterable[str] | Mapping[str, Callable[..., float] | None] | None = None,
        each: bool = False,
        idempotent: bool | None = None,
    ) -> None:
        if isinstance(func, Node):
            raise InvalidNodeError(
                f"{func.name!r} is already a node; decorate the function itself: node({func.name}.func)", culprit=func
            )
        if not callable(func):
            refuse_uncallable(func)
        functools.update_wrapper(self, func)
        function_name = _function_name(func)
        if output_name is None:
            if not function_name.isidentifier():
                raise InvalidNodeError("a lambda has no name: give it one with output_name=...", culprit=func)
            output_name = function_name
        self.func: Callable[P, R] = func
        self.outputs = check_output_names(output_name, function_name)
        own_name = check_name(f"name of node {function_name!r}", name)
        self.name: str = own_name or (function_name if function_name.isidentifier() else self.outputs[0])
        self.cache = check_bool(f"cache of node {self.name!r}", cache)
        check_policy(self.name, retries, retry_delay, retry_on, timeout, retry_after)
        self.cache_for = check_cache_for(cache_for, self.cache, self.name)
        self.retries = retries
        self.retry_delay = retry_delay
        self.retry_on = retry_on
        self.retry_after = retry_after
        self.timeout = timeout
        self.version = check_version(version, self.name)
        self.code_signature: bytes | None = None
        parameters = _read_parameters(func, self.name)
        self.inputs = parameters.names
        check_no_method(func, self.inputs, self.name)
        self.defaults: Mapping[str, Any] = MappingProxyType(parameters.defaults)
        self.keyword_only = parameters.keyword_only
        self.is_async = _has_flag(func, _COROUTINE)
        self.wraps_async = not self.is_async and _wraps(func, _COROUTINE)
        self.is_generator = _has_flag(func, _GENERATOR) or _wraps(func, _GENERATOR)
        if _has_flag(func, _ASYNC_GENERATOR):
            raise InvalidNodeError(
                f"node {self.name!r} is an async generator, which has no single result: return a list, e.g. "
                "`return [x async for x in ...]`",
                culprit=func,
            )
        self.cache_ignore = check_parameters("cache_ignore", cache_ignore, self.inputs, self.name)
        self.skip_failures = check_parameters("skip_failures", skip_failures, self.inputs, self.name)
        self.optional = check_parameters("optional", optional, self.inputs, self.name)
        self.batching: Batching | None = None
        is_single = batch_over is None and batch_size is None and batch_weight is None
        if not (is_single and batch_limit is None and batch_wait is None):
            from hypernodes.batching import check_batching

            batch_options = {
                "batch_over": batch_over,
                "batch_size": batch_size,
                "batch_weight": batch_weight,
                "batch_limit": batch_limit,
                "batch_wait": batch_wait,
            }
            self.batching = check_batching(
                batch_options, self.name, self.inputs, self.defaults, self.skip_failures, self.is_generator
            )
        self.each = check_each(each, self.name, self.is_generator, self.outputs, func)
        self.idempotent = None if idempotent is None else check_bool(f"idempotent of node {self.name!r}", idempotent)
        self.limiting: Limiting | None = None
        if max_concurrency is not None or limit is not None:
            from hypernodes.limiting import check_limiting

            self.limiting = check_limiting(max_concurrency, limit, self.name, self.inputs)
        if self.each and (retries or timeout is not None or self.limiting is not None):
            raise ConfigurationError(
                f"node {self.name!r} has each=True, so others have taken elements when it fails or takes too long: it "
                "cannot have retries, a timeout or limits as well"
            )
        self.set_conditions(conditions_of(when, unless, f"node {self.name!r}"))

    @property
    def output_name(self) -> OutputName:
        """The name of the result, or the tuple of names when there are several."""
        return self.outputs[0] if len(self.outputs) == 1 else self.outputs

    def as_node(
        self,
        input_mapping: Mapping[str, str] | None = None,
        output_mapping: Mapping[str, str] | None = None,
        *,
        map_over: str | Sequence[str] | None = None,
        map_mode: MapMode = "zip",
        name: str | None = None,
        on_error: OnError = "raise",
        outputs: str | Sequence[str] | None = None,
        prefix: str = "",
        map_execution: ExecutionMode | None = None,
        max_workers: int | None = None,
        when: When = None,
        unless: When = None,
    ) -> PipelineNode:
        """Make a node of this one that has other names, or is called once per item.

        It is that of a pipeline with this node alone; for the arguments, see `Pipeline.as_node`.

        Example:
            >>> from hypernodes import Pipeline, node
            >>> @node(output_name="length")
            ... def measure(text):
            ...     return len(text)
            >>> measure_all = measure.as_node({"texts": "text"}, {"length": "lengths"}, map_over="texts")
            >>> Pipeline(nodes=[measure_all]).run(inputs={"texts": ["to", "be or"]})
            {'lengths': [2, 5]}
        """
        from hypernodes.pipeline import Pipeline

        return Pipeline([self], name=self.name).as_node(
            input_mapping,
            output_mapping,
            map_over=map_over,
            map_mode=map_mode,
            name=name,
            on_error=on_error,
            outputs=outputs,
            prefix=prefix,
            map_execution=map_execution,
            max_workers=max_workers,
            when=when,
            unless=unless,
        )

    @property
    def is_importable(self) -> bool:
        """Whether another process finds this very node by importing its module."""
        return find_global(self.__module__, getattr(self, "__qualname__", "")) is self

    def __reduce__(self) -> tuple[Any, ...]:
        if self.is_importable:
            return import_global, (self.__module__, self.__qualname__)  # type: ignore[attr-defined]
        return self.reduce_by_value(carries_signature=True)

    def reduce_by_value(self, carries_signature: bool = False) -> tuple[Any, ...]:
        """Reduce the node, for pickle, to the function that it wraps rather than to its import path.

        Args:
            carries_signature: Whether to include the signature of its code, for a process in which the function has no
                source.
        """
        options = {
            "cache": self.cache,
            "name": self.name,
            "retries": self.retries,
            "retry_delay": self.retry_delay,
            "retry_on": self.retry_on,
            "retry_after": self.retry_after,
            "timeout": self.timeout,
            "version": self.version,
            "cache_ignore": tuple(sorted(self.cache_ignore)),
            "skip_failures": tuple(sorted(self.skip_failures)),
            "optional": tuple(sorted(self.optional)),
            "cache_for": self.cache_for,
            **(self.batching.options() if self.batching is not None else {}),
            **(self.limiting.options() if self.limiting is not None else {}),
            **({"each": True} if self.each else {}),
            **({} if self.idempotent is None else {"idempotent": self.idempotent}),
        }
        code_signature = self.code_signature
        if carries_signature and code_signature is None:
            code_signature = _sign_code(self)
        return _make_node, (self.func, self.output_name, options, self.conditions, code_signature)

    @property
    def location(self) -> str:
        """The location of the function, as `file.py:line`; empty when unknown."""
        func: Any = self.func
        while hasattr(func, "__wrapped__"):
            func = func.__wrapped__
        code = getattr(func, "__code__", None)
        return f"{os.path.basename(code.co_filename)}:{code.co_firstlineno}" if code else ""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.func(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<node {self.name}({', '.join(self.inputs)}) -> {', '.join(self.outputs)}>"


@overload
def node(output_name: Callable[P, R]) -> Node[P, R]: ...


@overload
def node(
    output_name: OutputName | None = None,
    *,
    cache: bool = True,
    name: str | None = None,
    retries: int = 0,
    retry_delay: float = 0.5,
    retry_on: type[Exception] | tuple[type[Exception], ...] = Exception,
    timeout: float | None = None,
    version: str | None = None,
    cache_ignore: str | Iterable[str] = (),
    skip_failures: str | Iterable[str] = (),
    when: When = None,
    unless: When = None,
    optional: str | Iterable[str] = (),
    cache_for: float | None = None,
    batch_over: str | Iterable[str] | None = None,
    batch_size: int | None = None,
    batch_weight: Callable[..., float] | None = None,
    batch_limit: float | None = None,
    batch_wait: float | None = None,
    retry_after: Callable[[BaseException], float | None] | None = None,
    max_concurrency: int | None = None,
    limit: str | Iterable[str] | Mapping[str, Callable[..., float] | None] | None = None,
    each: bool = False,
    idempotent: bool | None = None,
) -> Callable[[Callable[P, R]], Node[P, R]]: ...


def node(output_name: Any = None, **options: Any) -> Any:
    """Make a function a node of a pipeline.

    Args:
        output_name: Name of the result, or a tuple of names when the function returns that many values. By default
            the name of the function.
        cache: False for a function whose result must never come from a cache (a clock, a random draw, a side effect).
        name: Id in events and messages; by default the name of the function.
        retries: Number of further attempts after a call raised; each is an event (`on_node_retry`).
        retry_delay: Seconds before the second attempt; doubled for each further one, and varied by 25% so that callers
            do not retry at the same time (exponential backoff with jitter).
        retry_on: Exceptions after which a call is made again.
        timeout: Limit for one call, in seconds; beyond it the call raises `NodeTimeoutError`. An `async def` function
            and a call in a worker process are stopped, if need be with the process. A call in a thread cannot be
            stopped: the run goes on without it, and the thread ends when the function returns; a coroutine that blocks
            its event loop is noticed when it ends. (A call that keeps all threads from running can hold up a run in
            this process, and ends the process of a `SubprocessBackend`.) The time starts when the call begins, not
            while it waits for a worker.
        version: Added to the signature of the code. Change it after a change that is not visible in the code, e.g. of a
            service that it calls: cached results are then computed again.
        cache_ignore: Parameters that do not affect the result (`("verbose",)`), excluded from its signature.
        skip_failures: Parameters that take lists in which some items may have failed (`on_error="collect"`) or may have
            been skipped (`when`): the function gets them without those items. With several, an item that is missing in
            one of them is left out of all, so that they still go together.
        when: Condition on which the node runs: the name of an input or output that has to be true, or a dict with the
            value that each of some names has to have (`when={"kind": "pdf"}`; a tuple, list or set for several
            possible values). Otherwise the node is skipped, and so is every node that needs one of its outputs; what
            only they need does not run either. Nodes whose conditions exclude each other may have the same outputs.
        unless: The same for what must not be so.
        optional: Parameters that may come from a node that was skipped: the function gets `SKIPPED` for them then.
        cache_for: How long a result in a cache counts, in seconds from the end of the call, e.g. for answers of a
            service. An older one counts as absent, and is replaced. What depends on the result is identified by its
            value, so that it is computed again only if a new answer differs.
        batch_over: Parameters for which the function takes a list with one element per item, so that several items of
            maps are computed by one call: a *batch*. The other parameters get their values as they are. The function
            returns one result per element, in the same order: a list, tuple, array or table; with several outputs a
            tuple of such. Signatures, cache, events and failures stay those of single items; a run that is no map
            calls the function with lists of one element. Items whose other arguments differ are in different batches.
            A batch that raises is divided in halves and tried again, so that only the items that are to blame fail.
            After a `MemoryError`, or one of a GPU, batches are half as large for the rest of the run, with a warning.
            `retries` and `timeout` are those of a call.
        batch_size: The largest number of items of a call; by default 64, or any number if there is a `batch_limit`. It
            is no part of signatures: results of one size are found with any other.
        batch_weight: Function that returns the weight of an item from its elements in the lists, in the order of the
            parameters, e.g. `len` for a number of characters or tokens.
        batch_limit: The largest weight of all items of a call together. An item that is heavier is called on its own.
        batch_wait: How long an item waits for others that are still being computed, in seconds (0.1 by default). When
            no more can come, nothing waits.
        retry_after: Function of the error that returns the delay before the next attempt, in seconds, e.g. what a
            service asks for (`lambda error: float(error.response.headers["Retry-After"])`); None for `retry_delay`.
        max_concurrency: The largest number of calls of this node at a time, of all runs in this process. Calls that
            wait for that occupy no worker.
        limit: The name of a `Limit` of the engine or backend, which several nodes may share, e.g. of calls in a minute;
            or several names. A dict has for each name a function that weighs a call, or None for 1; it gets arguments
            of the node by the names of its parameters (`limit={"tokens": lambda prompt: len(prompt) / 4}`).
        each: True for a generator function whose elements need not be complete before they are used: a mapped pipeline
            that maps over its output starts with the first ones while it still yields, and no more are made than that
            can take. The list is there when it ends, for all others. (In a worker process the elements are collected
            first.)
        idempotent: Whether a call may be made twice at the same time without harm. Where a map is divided among several
            workers, the items of its last jobs are then given to idle ones too if these jobs take long, and the first
            result counts. By default for nodes whose results are cached.

    Returns:
        The decorated function, as a `Node` that can be called like the function.

    Raises:
        InvalidNodeError: The function takes `*args` or `**kwargs`, an output name is not a valid name,
            `cache_ignore`, `skip_failures`, `optional` or `batch_over` names no parameter of the function, or the
            conditions can never hold.
        ConfigurationError: A number is out of range, or an option has no use.

    Example:
        >>> from hypernodes import Pipeline, node
        >>> @node(output_name=("total", "count"))
        ... def summarize(values, start=0):
        ...     return start + sum(values), len(values)
        >>> summarize([1, 2], start=10)
        (13, 2)
        >>> Pipeline(nodes=[summarize]).run(inputs={"values": [1, 2, 3]})
        {'total': 6, 'count': 3}
    """
    if callable(output_name):  # used without parentheses
        return Node(output_name)

    def decorate(func: Callable[P, R]) -> Node[P, R]:
        return Node(func, output_name, **options)

    return decorate


def _make_node(
    func: Callable[..., Any],
    output_name: OutputName,
    options: dict[str, Any],
    conditions: tuple[Condition, ...] = (),
    code_signature: bytes | None = None,
) -> Node[..., Any]:
    made = Node(func, output_name, **options)
    made.set_conditions(conditions)
    made.code_signature = code_signature
    return made


def _sign_code(node: Node[..., Any]) -> bytes | None:
    """Return the signature of a node's code that is pickled with it."""
    return _signer(node) if _signer is not None else None


_signer: Callable[[Node[..., Any]], bytes | None] | None = None


def sign_travelling_nodes_with(signer: Callable[[Node[..., Any]], bytes | None]) -> None:
    """Set the function that signs the code of a node when it is pickled; called when the signing layer is imported."""
    global _signer
    _signer = signer


def _function_name(func: Callable[..., Any]) -> str:
    while isinstance(func, functools.partial):
        func = func.func
    return str(getattr(func, "__name__", type(func).__name__))


class _Parameters(NamedTuple):
    names: tuple[str, ...]
    defaults: dict[str, Any]
    keyword_only: frozenset[str]


def _read_parameters(func: Callable[..., Any], node_name: str) -> _Parameters:
    if type(func) is FunctionType and not hasattr(func, "__wrapped__") and not hasattr(func, "__signature__"):
        code = func.__code__  # the common case, without importing inspect
        if not code.co_flags & (_VARARGS | _VARKEYWORDS):
            return _from_code(func, code)
    import inspect

    try:
        parameters = inspect.signature(func).parameters
    except (TypeError, ValueError) as error:
        raise InvalidNodeError(
            f"the parameters of {node_name!r} cannot be read ({error}); wrap it in a function that names its inputs",
            culprit=func,
        ) from error
    for parameter in parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise InvalidNodeError(
                f"node {node_name!r} takes {parameter}, but inputs are wired by parameter name; "
                "name each input, or take one list or dict",
                culprit=func,
            )
    return _Parameters(
        tuple(parameters),
        {name: p.default for name, p in parameters.items() if p.default is not p.empty},
        frozenset(name for name, p in parameters.items() if p.kind is p.KEYWORD_ONLY),
    )


def _from_code(func: FunctionType, code: CodeType) -> _Parameters:
    positional = code.co_varnames[: code.co_argcount]
    keyword_only = code.co_varnames[code.co_argcount : code.co_argcount + code.co_kwonlyargcount]
    values = func.__defaults__ or ()
    defaults = dict(zip(positional[len(positional) - len(values) :], values, strict=True))
    return _Parameters(positional + keyword_only, defaults | (func.__kwdefaults__ or {}), frozenset(keyword_only))


def _has_flag(func: Any, flag: int) -> bool:
    while isinstance(func, functools.partial):
        func = func.func
    if flag == _COROUTINE and hasattr(func, "_is_coroutine_marker"):  # by `inspect.markcoroutinefunction`
        return True
    code = getattr(func, "__code__", None)
    if code is None and callable(func):
        code = getattr(type(func).__call__, "__code__", None)
    return code is not None and bool(code.co_flags & flag)


def _wraps(func: Any, flag: int) -> bool:
    """Whether a function is one around another that has a flag."""
    for _ in range(100):  # a chain may be a circle
        while isinstance(func, functools.partial):
            func = func.func
        func = getattr(func, "__wrapped__", None)
        if func is None:
            return False
        if _has_flag(func, flag):
            return True
    return False
