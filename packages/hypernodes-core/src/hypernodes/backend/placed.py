"""The backend that runs the nodes of a pipeline on several others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Self

from hypernodes.backend.base import Backend, check_backend
from hypernodes.backend.local import LocalBackend
from hypernodes.checks import as_mapping, shown
from hypernodes.engine.engine import PipelineExecutionEngine, map_plan, values_of_run
from hypernodes.errors import ConfigurationError
from hypernodes.nearest import suggest
from hypernodes.nodes import Node
from hypernodes.request import MapRequest, RunRequest, check_request, request_of

if TYPE_CHECKING:
    from hypernodes.backend.placed_preflight import PlacedPreflight
    from hypernodes.engine.execution import Execution
    from hypernodes.engine.limits import Limit
    from hypernodes.graph import Graph
    from hypernodes.plan import MapMode, NestedStep, Plan, Step
    from hypernodes.plan.placing import Place

_SEPARATOR = "/"
_MAX_PLANS = 32


class PlacedBackend(Backend):
    """Runs the nodes of a pipeline on several backends; made by `Pipeline.with_backend(default, nodes=...)`.

    The run is driven by this process. Neighbouring nodes on one backend are sent to it together, as one job if it is
    remote, and only the values that cross from one backend to another pass through here. Nodes whose backend is
    `default` run here if that is a `LocalBackend`, whose settings also say how the run is driven.

    Args:
        default: Runs the nodes that are not named.
        nodes: The backends of nodes by their names. The node of a nested pipeline has the path "name of the node/name
            of the node in it"; the name of a nested pipeline stands for all nodes in it. Patterns are allowed
            (`*`, `?`, `[...]`; `*` also stands for slashes). The deepest match counts; at one depth a name before a
            pattern, and a later pattern before an earlier one.

    Attributes:
        default: The same.
        nodes: The same.

    Raises:
        ConfigurationError: Something is no backend.
    """

    _set_by_init = ("default", "nodes")

    def __init__(self, default: Backend, nodes: Mapping[str, Backend]) -> None:
        check_backend(default)
        names = as_mapping("nodes", nodes, "of backends by names of nodes")
        for name, backend in names.items():
            if not isinstance(name, str) or not name:
                raise ConfigurationError(f"nodes must be a dict of backends by names of nodes; got {shown(name)}")
            try:
                check_backend(backend)
            except ConfigurationError as error:
                raise ConfigurationError(f"nodes[{name!r}]: {error}") from None
        for backend in (default, *names.values()):
            if isinstance(backend, PlacedBackend):
                raise ConfigurationError(
                    "a backend that places nodes cannot be one of the places: name them all in one"
                )
        self.default = default
        self.nodes: dict[str, Backend] = names
        self._plans: dict[int, tuple[Plan, Plan]] = {}

    def check(self, pipeline: Any) -> None:
        """Check that the names are those of nodes of a pipeline.

        Raises:
            ConfigurationError: A name is not, or it is that of a node inside a pipeline with a backend of its own.
        """
        paths: dict[str, Any] = {}
        _collect_paths(pipeline.graph, "", paths)
        for name in self.nodes:
            is_pattern = _is_pattern(name) and name not in paths
            found = [path for path in paths if fnmatchcase(path, name)] if is_pattern else [name]
            if not found or found[0] not in paths:
                raise ConfigurationError(_unknown(name, paths, pipeline))
            for path in found:
                self._check_around(path, paths)

    def _check_around(self, path: str, paths: Mapping[str, Any]) -> None:
        for outer in _prefixes(path)[1:]:
            node = paths[outer]
            if node.pipeline.has_own_backend and self._rule(outer) is None:
                raise ConfigurationError(
                    f"nodes names {path!r}, but nested pipeline {outer!r} has a backend of its own, "
                    f"{node.pipeline.backend!r}, which runs all of it: name {outer!r} too, or remove its backend"
                )

    # --- running --------------------------------------------------------------------------------------------------

    def run(self, request: RunRequest) -> dict[str, Any]:
        check_request(request, RunRequest)
        execution, values = self._execution_of_run(request)
        return execution.run(values, request.inputs)

    async def arun(self, request: RunRequest) -> dict[str, Any]:
        check_request(request, RunRequest)
        execution, values = self._execution_of_run(request, is_async=True)
        return await execution.in_thread(execution.run, values, request.inputs)

    def map(self, request: MapRequest) -> dict[str, list[Any]]:
        plan, given = map_plan(request)
        return self._execution(plan, request).map(given, request.on_error)

    async def amap(self, request: MapRequest) -> dict[str, list[Any]]:
        plan, given = map_plan(request)
        execution = self._execution(plan, request, is_async=True)
        return await execution.in_thread(execution.map, given, request.on_error)

    def map_iter(self, request: MapRequest) -> Iterator[tuple[int, dict[str, Any]]]:
        plan, given = map_plan(request, is_stream=True)
        return self._execution(plan, request).stream(given, request.on_error, request.in_order)

    def _execution_of_run(self, request: RunRequest, *, is_async: bool = False) -> tuple[Execution, list[Any]]:
        plan = request.plan()
        values = values_of_run(plan, request)
        return self._execution(plan, request, is_async=is_async), values

    def _execution(self, plan: Plan, request: RunRequest | MapRequest, *, is_async: bool = False) -> Execution:
        return self._engine.execution(self.place(plan, request.pipeline), request, is_async=is_async)

    @property
    def _engine(self) -> PipelineExecutionEngine:
        if isinstance(self.default, LocalBackend):
            return self.default.engine
        return PipelineExecutionEngine()

    @property
    def limits(self) -> tuple[Limit, ...]:
        """The limits that nodes may name at some place."""
        return tuple([limit for backend in self._backends for limit in getattr(backend, "limits", ())])

    # --- what would be sent ----------------------------------------------------------------------------------------

    def preflight(
        self,
        pipeline: Any,
        inputs: Mapping[str, Any] | None = None,
        *,
        output_name: Any = None,
        map_over: str | Sequence[str] | None = None,
        map_mode: MapMode = "zip",
    ) -> PlacedPreflight:
        """Return which node would run where, and what would keep nodes from running there, without sending anything.

        Args:
            pipeline: The pipeline.
            inputs: The inputs that `run` or `map` would get.
            output_name: Outputs to compute; all that the pipeline shows when None.
            map_over: Name, or names, of the inputs that vary from item to item; None for `run`.
            map_mode: "zip" or "product"; see `Pipeline.map`.

        Raises:
            DependencyError: The inputs or outputs do not fit.
        """
        from hypernodes.backend.placed_preflight import PlacedPreflight, PlacesFound

        request = request_of(pipeline, inputs, output_name, map_over, map_mode)
        found = PlacesFound(self.default)
        found.add(self.place(request.plan(), pipeline), request.inputs)
        return PlacedPreflight(tuple(found.places()))

    # --- placing --------------------------------------------------------------------------------------------------

    def place(self, plan: Plan, pipeline: Any) -> Plan:
        """Return the plan of a pipeline with its steps placed.

        Raises:
            ConfigurationError: A name is not that of a node; see `check`.
        """
        known = self._plans.get(id(plan))
        if known is None or known[0] is not plan:
            while len(self._plans) >= _MAX_PLANS:
                self._plans.pop(next(iter(self._plans)), None)
            self.check(pipeline)
            known = self._plans[id(plan)] = (plan, self._placed(plan, ""))
        return known[1]

    def _placed(self, plan: Plan, above: str) -> Plan:
        from hypernodes.plan.placing import place_steps

        return place_steps(plan, lambda step: self._place_of(step, plan, above))

    def _place_of(self, step: Step, plan: Plan, above: str) -> Place:
        from hypernodes.plan.placing import Place

        path = _path_of(step, plan, above)
        backend = self._backend_of(path)
        is_here = backend is self.default and isinstance(backend, LocalBackend)
        if isinstance(step.node, Node):
            return Place(None if is_here else backend)
        nested: NestedStep = step
        if nested.is_delegated and self._rule(path) is not None:
            return Place(backend, is_apart=True)
        if nested.is_delegated:  # on its own backend, from here; what runs in the calling process goes where that is
            return Place(None if is_here or not isinstance(nested.backend, LocalBackend) else backend)
        places = self._places_inside(nested.inner, path)
        if len(places) == 1:
            (only,) = places.values()
            if only is self.default and isinstance(only, LocalBackend):
                return Place()
            # What depends on failed items is identified by the signatures of the others, which are known of a map.
            return Place(only, is_apart=nested.node.on_error == "collect" and nested.inner.is_cached)
        return Place(inner=self._placed(nested.inner, path))

    def _places_inside(self, plan: Plan, above: str) -> dict[int, Backend]:
        """Return the backends of the nodes in a nested pipeline, by their ids."""
        found: dict[int, Backend] = {}
        for step in plan.steps:
            path = _path_of(step, plan, above)
            if isinstance(step.node, Node) or step.is_delegated:
                backend = self._backend_of(path)
                found[id(backend)] = backend
            else:
                found |= self._places_inside(step.inner, path)
        if not found:
            backend = self._backend_of(above)
            found[id(backend)] = backend
        return found

    def _backend_of(self, path: str) -> Backend:
        for prefix in _prefixes(path):
            found = self._rule(prefix)
            if found is not None:
                return found
        return self.default

    def _rule(self, path: str) -> Backend | None:
        """Return the backend of what is named by exactly this path, or a pattern that it matches."""
        if path in self.nodes:
            return self.nodes[path]
        for name, backend in reversed(self.nodes.items()):
            if _is_pattern(name) and fnmatchcase(path, name):
                return backend
        return None

    # --- resources ------------------------------------------------------------------------------------------------

    @property
    def _backends(self) -> list[Backend]:
        return list({id(backend): backend for backend in (self.default, *self.nodes.values())}.values())

    def close(self) -> None:
        """Close all backends."""
        for backend in self._backends:
            backend.close()

    def __enter__(self) -> Self:
        entered: list[Backend] = []
        try:
            for backend in self._backends:
                backend.__enter__()
                entered.append(backend)
        except BaseException:
            for backend in reversed(entered):
                backend.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        from contextlib import ExitStack

        with ExitStack() as stack:
            for backend in self._backends:
                stack.push(backend.__exit__)  # all of them, also if one raises

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_plans": {}}

    def __repr__(self) -> str:
        nodes = ", ".join(f"{name!r}: {backend!r}" for name, backend in self.nodes.items())
        return f"PlacedBackend({self.default!r}, nodes={{{nodes}}})"


def _collect_paths(graph: Graph, above: str, found: dict[str, Any]) -> None:
    """Add all nodes of a pipeline, also those of nested ones, by their paths."""
    nodes: tuple[Any, ...] = graph.nodes
    for node in nodes:
        path = above + node.name
        found[path] = node
        if not isinstance(node, Node):
            _collect_paths(node.pipeline.graph, path + _SEPARATOR, found)


def _path_of(step: Step, plan: Plan, above: str) -> str:
    names = [step.node.name]
    scope = plan.scopes[step.scope]
    while scope.parent >= 0:
        names.append(scope.node_name)
        scope = plan.scopes[scope.parent]
    return _SEPARATOR.join([*([above] if above else ()), *reversed(names)])


def _prefixes(path: str) -> list[str]:
    """Return a path and those of the nested pipelines around it, from the inside."""
    parts = path.split(_SEPARATOR)
    return [_SEPARATOR.join(parts[:count]) for count in range(len(parts), 0, -1)]


def _is_pattern(name: str) -> bool:
    return not {"*", "?", "["}.isdisjoint(name)


def _unknown(name: str, paths: Mapping[str, Any], pipeline: Any) -> str:
    text = f"nodes names {name!r}, which {'matches' if _is_pattern(name) else 'is'} no node of pipeline {pipeline.id!r}"
    makers = [path for path, node in paths.items() if name in node.outputs and isinstance(node, Node)]
    if makers:
        return f"{text}, but an output of node {makers[0]!r}: name the node"
    deeper = [path for path in paths if path.endswith(_SEPARATOR + name)]
    hint = f" (did you mean {deeper[0]!r}?)" if deeper else suggest(name, paths)
    return f"{text}{hint}; its nodes are: {', '.join(paths)}"
