"""The events of a run, and the callbacks that observe them."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from hypernodes.checks import shown
from hypernodes.errors import ConfigurationError
from hypernodes.nearest import nearest

Hooks: TypeAlias = tuple[Callable[..., None], ...]

HOOKS = (
    "on_pipeline_start",
    "on_pipeline_end",
    "on_node_start",
    "on_node_end",
    "on_node_cached",
    "on_node_retry",
    "on_node_limited",
    "on_error",
    "on_nested_pipeline_start",
    "on_nested_pipeline_end",
    "on_map_start",
    "on_map_item_start",
    "on_map_item_end",
    "on_map_item_cached",
    "on_map_end",
)

_RUN_HOOKS = frozenset({"on_pipeline_start", "on_pipeline_end"})
_MAP_HOOKS = frozenset({"on_map_start", "on_map_end"})


class CallbackContext:
    """The position of an event in the hierarchy of a run, and storage for callbacks.

    One context object represents one pipeline (or one map item of it) in one run; all contexts of a run share the data
    of `set` and `get`.

    Attributes:
        hierarchy_path: Ids of the pipelines from the outermost to the current one.
        node_path: The same by the name of each pipeline within the enclosing one (`as_node(name=...)`).
        item_path: Index of the current item in every enclosing map, outermost first; empty outside maps.
        lock: Held while hooks are called, so that callbacks observe one event at a time.
        switched_off: Ids of the callback objects that raised in this run.

    Example:
        >>> ctx = CallbackContext(("outer", "inner"))
        >>> ctx.current_pipeline_id, ctx.parent_pipeline_id, ctx.depth
        ('inner', 'outer', 1)
    """

    __slots__ = ("_data", "hierarchy_path", "item_path", "lock", "node_path", "switched_off")

    def __init__(
        self,
        hierarchy_path: Sequence[str] = (),
        node_path: Sequence[str] | None = None,
        item_path: Sequence[int] = (),
        around: CallbackContext | None = None,
    ) -> None:
        try:
            self.hierarchy_path = tuple(hierarchy_path)
            self.node_path = self.hierarchy_path if node_path is None else tuple(node_path)
            self.item_path = tuple(item_path)
        except TypeError as error:
            raise ConfigurationError("hierarchy_path, node_path and item_path must be sequences") from error
        try:
            self._data: dict[str, Any] = {} if around is None else around._data  # noqa: SLF001
            self.switched_off: set[int] = set() if around is None else around.switched_off
            self.lock: threading.RLock = threading.RLock() if around is None else around.lock
        except AttributeError as error:
            raise ConfigurationError(f"around must be a CallbackContext or None; got {shown(around)}") from error

    @property
    def depth(self) -> int:
        """Nesting depth of the current pipeline; 0 for the outermost one."""
        return max(len(self.hierarchy_path) - 1, 0)

    @property
    def current_pipeline_id(self) -> str | None:
        """Id of the pipeline the event belongs to."""
        return self.hierarchy_path[-1] if self.hierarchy_path else None

    @property
    def parent_pipeline_id(self) -> str | None:
        """Id of the enclosing pipeline; None for the outermost."""
        return self.hierarchy_path[-2] if len(self.hierarchy_path) > 1 else None

    def set(self, key: str, value: Any) -> None:
        """Store `value` under `key` for all callbacks of this run."""
        self._data[key] = value

    def get(self, key: str, default: Any = None) -> Any:
        """Return the value stored under `key`, or `default`."""
        return self._data.get(key, default)

    def child(self, pipeline_id: str, node_name: str) -> CallbackContext:
        """Return the context of a pipeline nested in this one."""
        return CallbackContext((*self.hierarchy_path, pipeline_id), (*self.node_path, node_name), self.item_path, self)

    def item(self, item_index: int) -> CallbackContext:
        """Return the context of one map item of this pipeline."""
        return CallbackContext(self.hierarchy_path, self.node_path, (*self.item_path, item_index), self)

    def __repr__(self) -> str:
        items = f", item_path={self.item_path}" if self.item_path else ""
        return f"CallbackContext({' > '.join(self.hierarchy_path)}{items})"


class PipelineCallback:
    """Base class of callbacks: override the hooks of the events to observe; other events cost nothing.

    Hooks are called in the process that called `run` or `map`, wherever the nodes themselves run. Durations are
    seconds. A hook that raises does not break the run: the exception is logged once (logger `hypernodes`) and the
    callback is switched off for the rest of that run.

    Example:
        >>> from hypernodes import Pipeline, PipelineCallback, node
        >>> class Printer(PipelineCallback):
        ...     def on_node_end(self, node_id, outputs, duration, ctx):
        ...         print(node_id, outputs)
        >>> @node(output_name="doubled")
        ... def double(x):
        ...     return 2 * x
        >>> Pipeline(nodes=[double], callbacks=[Printer()]).run(inputs={"x": 4})
        double {'doubled': 8}
        {'doubled': 8}
    """

    def on_pipeline_start(self, pipeline_id: str, inputs: Mapping[str, Any], ctx: CallbackContext) -> None:
        """The outermost pipeline starts; `inputs` are the values given to `run`."""

    def on_pipeline_end(
        self, pipeline_id: str, outputs: Mapping[str, Any], duration: float, ctx: CallbackContext
    ) -> None:
        """The outermost pipeline ended; after an error, `outputs` holds the outputs computed so far."""

    def on_node_start(self, node_id: str, inputs: Mapping[str, Any], ctx: CallbackContext) -> None:
        """A node is about to be called with `inputs`."""

    def on_node_end(self, node_id: str, outputs: Mapping[str, Any], duration: float, ctx: CallbackContext) -> None:
        """A node returned.

        An output that cannot be sent from its worker process, and that no other process needs, is replaced by an object
        whose `repr` says so.
        """

    def on_node_cached(self, node_id: str, signature: str, ctx: CallbackContext) -> None:
        """A node was not called, because the cache holds its result under `signature`."""

    def on_node_retry(
        self, node_id: str, attempt: int, error: BaseException, delay: float, ctx: CallbackContext
    ) -> None:
        """Attempt number `attempt` (from 1) of a node raised `error`; it is called again after `delay` seconds."""

    def on_node_limited(self, node_id: str, limit_names: Sequence[str], ctx: CallbackContext) -> None:
        """A call of a node waits until its limits allow it; `limit_names` are those that are used up."""

    def on_error(self, node_id: str, error: BaseException, ctx: CallbackContext) -> None:
        """A node raised `error`; called instead of `on_node_end`."""

    def on_nested_pipeline_start(self, parent_id: str, child_pipeline_id: str, ctx: CallbackContext) -> None:
        """The first node of a nested pipeline is about to start; `ctx` is that of the parent."""

    def on_nested_pipeline_end(
        self, parent_id: str, child_pipeline_id: str, duration: float, ctx: CallbackContext
    ) -> None:
        """The last node of a nested pipeline is done; `ctx` is that of the parent."""

    def on_map_start(self, total_items: int, ctx: CallbackContext) -> None:
        """A map over `total_items` items starts; -1 when their number is not known, as for a generator."""

    def on_map_item_start(self, item_index: int, ctx: CallbackContext) -> None:
        """Some result of this item has to be computed, and is about to be."""

    def on_map_item_end(self, item_index: int, duration: float, ctx: CallbackContext) -> None:
        """All requested outputs of this item are computed, or the item failed."""

    def on_map_item_cached(self, item_index: int, signature: str, ctx: CallbackContext) -> None:
        """All requested outputs of this item came from the cache; called instead of start and end."""

    def on_map_end(self, total_duration: float, ctx: CallbackContext) -> None:
        """The map is over."""


class Listeners:
    """The hooks to call for the events of one pipeline, so that unobserved events cost nothing.

    Each hook of `HOOKS` is an attribute: a tuple of the bound methods that override it, built at its first use.

    Args:
        callbacks: The callbacks, in the order in which they are called.
        failed: Ids of the callbacks that are switched off in this run; shared by all listeners of a run.
        lock: Held while hooks are called; None for a run in which only one thread calls them.

    Attributes:
        lock: The same.
    """

    on_pipeline_start: Hooks
    on_pipeline_end: Hooks
    on_node_start: Hooks
    on_node_end: Hooks
    on_node_cached: Hooks
    on_node_retry: Hooks
    on_node_limited: Hooks
    on_error: Hooks
    on_nested_pipeline_start: Hooks
    on_nested_pipeline_end: Hooks
    on_map_start: Hooks
    on_map_item_start: Hooks
    on_map_item_end: Hooks
    on_map_item_cached: Hooks
    on_map_end: Hooks

    def __init__(self, callbacks: Sequence[PipelineCallback], failed: set[int], lock: threading.RLock | None) -> None:
        self._callbacks = callbacks
        self.failed = failed
        self.lock = lock

    def __getattr__(self, name: str) -> Hooks:
        base_hook = getattr(PipelineCallback, name)
        hooks: Hooks = ()
        for callback in self._callbacks:
            if getattr(type(callback), name) is not base_hook or name in callback.__dict__:
                hooks += (getattr(callback, name),)
        setattr(self, name, hooks)
        return hooks

    def notify(self, hooks: Hooks, *arguments: Any) -> None:
        """Call `hooks` with `arguments`; one that raises is logged and switched off for this run."""
        failed, lock = self.failed, self.lock
        for hook in hooks:
            if failed and not self.is_enabled(hook):
                continue
            try:
                if lock is None:
                    hook(*arguments)
                else:
                    with lock:
                        hook(*arguments)
            except Exception:
                self.switch_off(hook)

    def is_enabled(self, hook: Callable[..., None]) -> bool:
        """Whether a hook is not switched off."""
        return id(_owner(hook)) not in self.failed

    def switch_off(self, hook: Callable[..., None]) -> None:
        """Switch off all hooks of the same callback; log the exception that is being handled."""
        owner = _owner(hook)
        self.failed.add(id(owner))
        _log_failure(owner, getattr(hook, "__name__", "hook"))


def overridden_hooks(callback: PipelineCallback) -> tuple[str, ...]:
    """Return the names of the hooks that a callback overrides, in its class or on the object."""
    own, kind = getattr(callback, "__dict__", {}), type(callback)
    return tuple([n for n in HOOKS if n in own or getattr(kind, n) is not getattr(PipelineCallback, n)])


@functools.lru_cache(maxsize=1024)
def misspelt_hooks(kind: Any) -> tuple[tuple[str, str], ...]:
    """Return the methods of a callback that no event calls and whose names are nearly those of hooks, with these."""
    own = {name for base in kind.__mro__ if base is not PipelineCallback for name in base.__dict__}
    unknown = sorted(name for name in own if name.startswith("on") and name not in HOOKS)
    found = ((name, nearest(name, HOOKS, 0.85)) for name in unknown)
    return tuple([(name, near[0]) for name, near in found if near is not None and near[0] not in own])


def observes_steps(callback: PipelineCallback, has_maps: bool) -> bool:
    """Return whether a callback observes events between the start and the end of a run or of its map.

    Args:
        callback: The callback.
        has_maps: Whether the run contains mapped pipelines, whose start and end are such events.
    """
    hooks = _RUN_HOOKS if has_maps else _RUN_HOOKS | _MAP_HOOKS
    return not hooks.issuperset(overridden_hooks(callback))


def _owner(hook: Callable[..., None]) -> object:
    return getattr(hook, "__self__", hook)


def _log_failure(callback: object, hook_name: str) -> None:
    import logging  # imported on failure only: it would slow down `import hypernodes`

    logging.getLogger("hypernodes").exception(
        "callback %s raised in %s; it is switched off for the rest of this run", type(callback).__name__, hook_name
    )
