"""A pipeline: nodes wired by name, which can be run, mapped, nested and configured."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from hypernodes import resources, special_values
from hypernodes.backend.base import Backend, check_backend
from hypernodes.backend.local import LocalBackend
from hypernodes.cache.base import Cache
from hypernodes.callbacks import PipelineCallback, misspelt_hooks
from hypernodes.caller import remember_awaiting_line, warn_caller
from hypernodes.checks import as_names, check_bool, check_initialised, check_name, shown
from hypernodes.conditions import names_of_skipped
from hypernodes.engine.settings import ExecutionMode
from hypernodes.errors import (
    ConfigurationError,
    DependencyError,
    HyperNodesWarning,
    InvalidNodeError,
    UnknownInputError,
    UnknownOutputError,
)
from hypernodes.graph import Graph, GraphNode
from hypernodes.nearest import suggest
from hypernodes.nodes import Node, When
from hypernodes.pipeline_node import PipelineNode
from hypernodes.plan import MapMode, OnError, Plan, Settings, compile_plan
from hypernodes.request import MapRequest, OutputNames, RunRequest, request_of
from hypernodes.results import checked_awaitable, checked_items, checked_map, checked_run

if TYPE_CHECKING:
    from hypernodes.explain import Explanation
    from hypernodes.rows import Rows

_MAX_PLANS = 64
_READ_ONLY = ("_defaults", "_preset")
_DEFAULT_BACKEND = LocalBackend()


class Pipeline:
    """Nodes wired by name into a directed acyclic graph.

    Each parameter of a node is provided by the node that has an output of that name; names that no node produces are
    the pipeline's root inputs. A pipeline is immutable: the `with_...` methods return new ones.

    Args:
        nodes: Nodes, and pipelines to nest.
        backend: The backend that runs it; None for that of the enclosing pipeline, or this process.
        cache: The cache that stores results; None for that of the enclosing pipeline, False for none.
        callbacks: The callbacks that observe its events; None for those of the enclosing pipeline, empty for none.
        name: Shown in events and messages.
        outputs: The outputs that it shows: those that `run` computes when asked for none in particular, and that a
            pipeline shows in which this one is nested. The others stay inside; they are computed where a node or
            `output_name` asks for them. None for all.
        parent: A pipeline to inherit from, as if this one were nested in it. A pipeline in which this one is actually
            nested takes precedence.

    Raises:
        InvalidNodeError: An entry of `nodes` is neither a node nor a pipeline.
        DuplicateOutputError: Two nodes produce the same name.
        CycleError: Nodes depend on each other in a cycle.
        UnknownOutputError: `outputs` names what no node produces.
        ConfigurationError: A setting has an invalid value.

    Example:
        >>> from hypernodes import Pipeline, node
        >>> @node(output_name="clean")
        ... def strip(text):
        ...     return text.strip()
        >>> @node(output_name="words")
        ... def split(clean, separator=" "):
        ...     return clean.split(separator)
        >>> pipeline = Pipeline(nodes=[split, strip], name="tokenize")
        >>> pipeline.run(inputs={"text": " to be "})
        {'clean': 'to be', 'words': ['to', 'be']}
        >>> pipeline.map(inputs={"text": [" a b", "c "]}, map_over="text", output_name="words")
        {'words': [['a', 'b'], ['c']]}
    """

    # Where and how it runs makes no difference to what it computes; so a node that runs one is known by what is in it.
    __cache_ignore__ = ("_backend", "_effective_backend", "_inherited", "_parent", "_plans", "_settings")

    def __init__(
        self,
        nodes: Iterable[Node[..., Any] | PipelineNode | Pipeline],
        *,
        backend: Backend | None = None,
        cache: Cache | Literal[False] | None = None,
        callbacks: Sequence[PipelineCallback] | None = None,
        name: str | None = None,
        outputs: str | Sequence[str] | None = None,
        parent: Pipeline | None = None,
    ) -> None:
        checked = _check_nodes(nodes)
        check_name("name", name)
        self._id = name or _derived_id(checked)
        self._graph = Graph(checked, self._id)
        self._configure(backend, Settings(*_check_settings(cache, callbacks)), name, parent)
        self._defaults: Mapping[str, Any] = MappingProxyType(_find_defaults(self._graph))
        self._preset: Mapping[str, Any] = MappingProxyType({})
        self._outputs = self._check_shown(outputs)

    def _configure(
        self, backend: Backend | None, settings: Settings, name: str | None, parent: Pipeline | None
    ) -> None:
        if backend is not None and type(backend) is not LocalBackend:
            check_backend(backend)
        check_name("name", name)
        if parent is not None and not isinstance(parent, Pipeline):
            raise ConfigurationError(f"parent must be a Pipeline; got {shown(parent)}")
        self._backend = backend
        self._settings = settings
        self._name = name
        self._parent = parent
        self._inherited: Settings = parent._settings.or_else(parent._inherited) if parent else Settings()  # noqa: SLF001
        self._effective_backend: Backend = backend or (parent._effective_backend if parent else _DEFAULT_BACKEND)  # noqa: SLF001
        self._plans = _new_plans(self._graph)

    # --- running --------------------------------------------------------------------------------------------------

    def run(self, inputs: Mapping[str, Any] | None = None, output_name: OutputNames = None) -> dict[str, Any]:
        """Run the pipeline once.

        Args:
            inputs: Value for every root input that has no default. A value for the output of a node replaces that node:
                neither it nor the nodes that only it needs are run.
            output_name: Compute only this output, or these, and what they need; all that the pipeline shows when None.
                An output of a nested pipeline has the path "name of the node/name of the output".

        Returns:
            Each output name mapped to its value; never the inputs.

        Raises:
            MissingInputError: A root input that is needed has neither a value nor a default.
            UnknownInputError: A value was given for a name that the pipeline does not know.
            UnknownOutputError: A requested output does not exist.
            Exception: The error of a node, with a note that says where it was raised.
        """
        if inputs is None:
            inputs = {}
        elif type(inputs) is not dict and not isinstance(inputs, Mapping):  # a check against an abstract class is slow
            _refuse_inputs(inputs)
        backend = self._effective_backend
        if type(backend) is LocalBackend:
            return backend.engine.run_pipeline(self, inputs, output_name)  # as its `run` does
        request = RunRequest(self, inputs, output_name)
        return checked_run(backend, request, backend.run(request))

    def map(
        self,
        inputs: Mapping[str, Any],
        map_over: str | Sequence[str],
        *,
        map_mode: MapMode = "zip",
        output_name: OutputNames = None,
        on_error: OnError = "raise",
    ) -> dict[str, list[Any]]:
        """Run the pipeline once per item.

        Args:
            inputs: Value for every root input. Those named in `map_over` hold one value per item (any iterable).
            map_over: Name, or names, of the inputs that vary from item to item.
            map_mode: "zip" pairs the n-th values (equal lengths); "product" takes every combination, the last name
                varying fastest.
            output_name: Compute only these outputs and what they need; all that are shown when None.
            on_error: "raise" ends the map with the first failing item. "collect" computes every item; a `Failure`
                replaces the outputs of a failed item, and `failures` lists them. What is no `Exception` (SystemExit,
                KeyboardInterrupt, asyncio.CancelledError, groups with one of them) ends the map also then.

        Returns:
            Each output name mapped to a list with one result per item, in item order; empty lists for no items.

        Raises:
            MissingInputError: A root input has neither a value nor a default.
            MapInputError: A mapped-over input is not iterable, or a single string.
            MapLengthError: `map_mode` is "zip" and the lengths differ.
            Exception: The error of a node, with a note that says where and for which item it was raised.
        """
        request = self.map_request(inputs, map_over, map_mode, output_name, on_error)
        backend = self._effective_backend
        found = backend.map(request)
        return found if type(backend) is LocalBackend else checked_map(backend, request, found)

    def map_rows(
        self,
        inputs: Mapping[str, Any],
        map_over: str | Sequence[str],
        *,
        map_mode: MapMode = "zip",
        output_name: OutputNames = None,
        on_error: OnError = "raise",
    ) -> Rows:
        """Run the pipeline once per item, and return the outputs of each item together with its inputs.

        For the arguments and errors, see `map`.

        Returns:
            A list with one dict per item, in item order: the values of the inputs in `map_over`, and the outputs, by
            name. It makes tables too: `to_pandas`, `to_polars`.

        Example:
            >>> from hypernodes import Pipeline, node
            >>> @node(output_name="score")
            ... def rate(size, depth):
            ...     return size * depth
            >>> grid = {"size": [1, 2], "depth": [10, 20]}
            >>> Pipeline(nodes=[rate]).map_rows(inputs=grid, map_over=["size", "depth"], map_mode="product")[1:3]
            [{'size': 1, 'depth': 20, 'score': 20}, {'size': 2, 'depth': 10, 'score': 20}]
        """
        from hypernodes.rows import Rows

        request = self.map_request(inputs, map_over, map_mode, output_name, on_error)
        items = request.items()
        columns = {name: [item[name] for item in items] for name in request.columns}
        values = {**inputs, **columns}
        outputs = self.map(values, tuple(columns), output_name=output_name, on_error=on_error)
        return Rows({**columns, **outputs})

    def map_iter(
        self,
        inputs: Mapping[str, Any],
        map_over: str | Sequence[str],
        *,
        map_mode: MapMode = "zip",
        output_name: OutputNames = None,
        on_error: OnError = "raise",
        in_order: bool = True,
    ) -> Iterator[dict[str, Any]]:
        """Run the pipeline once per item and yield each result as soon as it is available.

        Mapped-over inputs are read as needed, so they may be infinite generators; only a bounded number of items is
        held at a time. New items are started while the caller waits for a result; started ones also go on in between.

        Closing the iterator ends the map at once, as do leaving a loop over it, Ctrl-C in the body of the loop, and the
        end of the program. What is under way is not waited for and its results are lost, also to the cache: calls in
        threads go on until they return, coroutines are cancelled (and have a second to clean up), worker processes are
        ended.

        Args:
            inputs: Value for every root input; see `map`.
            map_over: Name, or names, of the inputs that vary from item to item.
            map_mode: "zip" or "product"; the latter reads its inputs completely first.
            output_name: Compute only these outputs and what they need; all that are shown when None.
            on_error: "raise" or "collect"; see `map`. A failing item raises as soon as it is known to fail; results of
                items before it that are still under way are not yielded then.
            in_order: Whether results are yielded in item order, rather than in the order of completion.

        Returns:
            An iterator over the outputs of each item, by name.

        Raises:
            DependencyError: The inputs or outputs do not fit; nothing has run.

        Example:
            >>> import itertools
            >>> from hypernodes import Pipeline, node
            >>> @node(output_name="square")
            ... def multiply(x):
            ...     return x * x
            >>> squares = Pipeline(nodes=[multiply]).map_iter(inputs={"x": itertools.count()}, map_over="x")
            >>> next(squares), next(squares), next(squares)
            ({'square': 0}, {'square': 1}, {'square': 4})
        """
        request = self.map_request(inputs, map_over, map_mode, output_name, on_error)
        request.in_order = check_bool("in_order", in_order)
        backend = self._effective_backend
        found = backend.map_iter(request)
        if type(backend) is not LocalBackend:
            found = checked_items(backend, request, found)
        from hypernodes.open_iterators import close_at_exit

        outputs_of_items = (outputs for _, outputs in found)
        close_at_exit(outputs_of_items)
        return outputs_of_items

    async def arun(self, inputs: Mapping[str, Any] | None = None, output_name: OutputNames = None) -> dict[str, Any]:
        """Run the pipeline once, from `async` code.

        `async def` nodes run in the caller's event loop. Cancelling the awaiting task ends the run. Arguments, result
        and errors are those of `run`.
        """
        if inputs is not None and not isinstance(inputs, Mapping):
            _refuse_inputs(inputs)
        remember_awaiting_line()
        request = RunRequest(self, inputs or {}, output_name)
        backend = self._effective_backend
        return checked_run(backend, request, await checked_awaitable(backend, "arun", backend.arun(request)))

    async def amap(
        self,
        inputs: Mapping[str, Any],
        map_over: str | Sequence[str],
        *,
        map_mode: MapMode = "zip",
        output_name: OutputNames = None,
        on_error: OnError = "raise",
    ) -> dict[str, list[Any]]:
        """Run the pipeline once per item, from `async` code; see `arun` and `map`."""
        remember_awaiting_line()
        request = self.map_request(inputs, map_over, map_mode, output_name, on_error)
        backend = self._effective_backend
        return checked_map(backend, request, await checked_awaitable(backend, "amap", backend.amap(request)))

    # --- explaining -----------------------------------------------------------------------------------------------

    def explain(
        self,
        inputs: Mapping[str, Any] | None = None,
        output_name: OutputNames = None,
        *,
        map_over: str | Sequence[str] | None = None,
        map_mode: MapMode = "zip",
    ) -> Explanation:
        """Explain what `run`, or `map`, would find in the cache, what it would compute, and why, without computing it.

        Nothing is written, and no callback is called. Results are not loaded to check whether they are cached, so a
        damaged one counts as a hit here, and is computed when it is needed. It is not known yet whether a step runs if
        it depends on a node that would run first and whose result is identified by its value, not by its inputs.

        Args:
            inputs: Value for every root input, as for `run` or `map`.
            output_name: Explain only these outputs and what they need; all that are shown when None.
            map_over: Name, or names, of the inputs that vary from item to item; None to explain `run`.
            map_mode: "zip" or "product"; see `map`.

        Returns:
            An object that displays as a table; `explanation["name of a node"]` returns a row of it.

        Raises:
            MissingInputError: A root input has neither a value nor a default.
            MapInputError: A mapped-over input cannot be mapped over, or can be read only once.
            DependencyError: The inputs or outputs do not fit otherwise.

        Example:
            >>> from hypernodes import MemoryCache, Pipeline, node
            >>> @node(output_name="y")
            ... def add(x, k):
            ...     return x + k
            >>> pipeline = Pipeline(nodes=[add], cache=MemoryCache(), name="adding")
            >>> pipeline.run(inputs={"x": 1, "k": 5})
            {'y': 6}
            >>> pipeline.explain(inputs={"x": 1, "k": 10})
            pipeline 'adding': 1 would run
              add  would run  input `k` changed 5 → 10
        """
        from hypernodes.explain import explain_map, explain_run

        request = request_of(self, inputs, output_name, map_over, map_mode)
        if isinstance(request, MapRequest):
            return explain_map(self, request)
        return explain_run(self, request)

    # --- requests and nodes ---------------------------------------------------------------------------------------

    def map_request(
        self,
        inputs: Mapping[str, Any],
        map_over: str | Sequence[str],
        map_mode: MapMode = "zip",
        output_name: OutputNames = None,
        on_error: OnError = "raise",
    ) -> MapRequest:
        """Return the request that `map` sends to the backend, for authors of backends. For the arguments, see `map`."""
        _check_inputs(inputs)
        names = as_names(map_over, "map_over")
        if not names:
            raise ConfigurationError("map_over names no input; use run() for a single run")
        self._check_given(inputs)
        values = {**self._preset, **inputs} if self._preset else inputs
        for name in names:
            if name not in values:
                raise UnknownInputError(
                    f"map_over names {shown(name)}, for which inputs has no values{suggest(name, values)}",
                    unknown=(name,),
                    available=tuple(values),
                )
        columns = {name: values[name] for name in names}
        shared = {name: value for name, value in inputs.items() if name not in columns}
        return MapRequest(
            self,
            columns,
            shared,
            map_mode=map_mode,
            output_name=output_name,
            on_error=on_error,
        )

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
        """Make a node of this pipeline, for use in another one.

        Args:
            input_mapping: From the enclosing pipeline's name of an input to this pipeline's own name for it. Inputs
                that are not listed keep their names.
            output_mapping: From this pipeline's own name of an output to the enclosing pipeline's name for it.
                Outputs that are not listed keep their names, after `prefix`. Those that are listed are always shown.
            map_over: Inputs, by the enclosing pipeline's names, that hold one value per item: the pipeline runs once
                per item, and every output becomes a list.
            map_mode: "zip" pairs the n-th values; "product" takes every combination.
            name: Id of the node; by default the name of this pipeline, after `prefix`.
            on_error: "raise" or "collect", for the items; see `map`.
            outputs: The outputs that the enclosing pipeline sees, by this pipeline's own names; by default those that
                this pipeline shows. The others stay inside: they are computed only where one of these needs them, do
                not collide with other names, and are reached by path (`output_name="name of the node/name of the
                output"`).
            prefix: Put before the names of the outputs, e.g. "query_".
            map_execution: How the items are executed, wherever the enclosing pipeline runs: "sequential", "async",
                "threaded" or "parallel"; None for as that pipeline does. It is short for a `LocalBackend` of its own.
            max_workers: The largest number of calls at a time then.
            when: Condition on which it runs, by the enclosing pipeline's names; see `node`.
            unless: Condition on which it does not run.

        Raises:
            ConfigurationError: An argument has a value that it cannot have, or does not go with the others.
            MappingError: A mapping, `map_over` or `outputs` names an input or output that does not exist, or two get
                one name.

        Example:
            >>> from hypernodes import Pipeline, node
            >>> @node(output_name="length")
            ... def measure(text):
            ...     return len(text)
            >>> measure_all = Pipeline(nodes=[measure]).as_node(
            ...     input_mapping={"texts": "text"}, output_mapping={"length": "lengths"}, map_over="texts"
            ... )
            >>> Pipeline(nodes=[measure_all]).run(inputs={"texts": ["to", "be or"]})
            {'lengths': [2, 5]}
        """
        pipeline = self
        if map_execution is not None or max_workers is not None:
            if not map_over:
                raise ConfigurationError("map_execution and max_workers of as_node need map_over: they are for items")
            if self._backend is not None:
                raise ConfigurationError(
                    f"map_execution and max_workers cannot be set: pipeline {self._id!r} has a backend of its own, "
                    f"{self._backend!r}, which has such settings"
                )
            pipeline = self.with_backend(LocalBackend(map_execution=map_execution, max_workers=max_workers))
        return PipelineNode(
            pipeline,
            input_mapping,
            output_mapping,
            map_over,
            map_mode,
            name,
            on_error,
            outputs,
            prefix,
            when,
            unless,
        )

    # --- configuration --------------------------------------------------------------------------------------------

    def with_backend(self, backend: Backend | None, *, nodes: Mapping[str, Backend] | None = None) -> Pipeline:
        """Return the same pipeline, running on another backend.

        Args:
            backend: The backend; None to inherit.
            nodes: Other backends for some nodes, by name: `{"encode": ModalBackend(gpu="A10G")}`. A node of a nested
                pipeline has the path "name of the node/name of the node in it"; the name of a nested pipeline stands
                for all nodes in it; patterns are allowed ("*/encode"). The run is driven from here, and neighbouring
                nodes on one backend are one job. See `PlacedBackend`.

        Raises:
            ConfigurationError: Something is no backend, or a name is that of no node.

        Example:
            >>> from hypernodes import LocalBackend, Pipeline, node
            >>> @node(output_name="pages")
            ... def load(count):
            ...     return ["page"] * count
            >>> @node(output_name="length")
            ... def measure(pages):
            ...     return sum(map(len, pages))
            >>> threaded = LocalBackend(node_execution="threaded")
            >>> placed = Pipeline(nodes=[load, measure]).with_backend(LocalBackend(), nodes={"measure": threaded})
            >>> placed.run({"count": 3})
            {'pages': ['page', 'page', 'page'], 'length': 12}
        """
        if nodes is None:
            return self._copy(backend, self._settings, self._name)
        from hypernodes.backend.placed import PlacedBackend

        placed = PlacedBackend(self._effective_backend if backend is None else backend, nodes)
        placed.check(self)
        return self._copy(placed, self._settings, self._name)

    def with_cache(self, cache: Cache | Literal[False] | None) -> Pipeline:
        """Return the same pipeline with its results stored in `cache`; False for no cache, None to inherit."""
        return self._copy(
            self._backend, Settings(_check_settings(cache, None)[0], self._settings.callbacks), self._name
        )

    def with_callbacks(self, callbacks: Sequence[PipelineCallback] | None) -> Pipeline:
        """Return the same pipeline with other callbacks; empty for none, None to inherit."""
        return self._copy(
            self._backend, Settings(self._settings.cache, _check_settings(None, callbacks)[1]), self._name
        )

    def with_name(self, name: str) -> Pipeline:
        """Return the same pipeline with another name."""
        return self._copy(self._backend, self._settings, name)

    def with_outputs(self, outputs: str | Sequence[str] | None) -> Pipeline:
        """Return the same pipeline that shows these outputs; None for all. See `outputs` of `Pipeline`.

        Raises:
            UnknownOutputError: No node produces one of them.
        """
        return self._copy(self._backend, self._settings, self._name, _outputs=self._check_shown(outputs))

    def with_inputs(self, values: Any = None, /, **inputs: Any) -> Pipeline:
        """Return the same pipeline with values preset for some of its inputs.

        They count as if they were passed to each `run` and `map`, which may pass others; also in signatures of results.
        Where the pipeline is nested, the enclosing one may leave these inputs out; a value or an output that it has
        under the name of the input takes precedence.

        Args:
            values: A dict of values by name; or an object with settings: an instance of a dataclass, of a pydantic or
                attrs class, or a named tuple. Each of its fields must be the name of an input.
            inputs: Values by name; they take precedence over `values`, and both over values preset before.

        Raises:
            UnknownInputError: A name is not that of a root input.
            ConfigurationError: `values` is something else, or an iterator, which only the first run could read.

        Example:
            >>> from hypernodes import Pipeline, node
            >>> @node(output_name="scaled")
            ... def scale(x, factor):
            ...     return x * factor
            >>> doubling = Pipeline(nodes=[scale]).with_inputs(factor=2)
            >>> doubling.missing_inputs, dict(doubling.defaults)
            (('x',), {'factor': 2})
            >>> doubling.run({"x": 4}), doubling.run({"x": 4, "factor": 3})
            ({'scaled': 8}, {'scaled': 12})
        """
        from hypernodes.preset_inputs import check_preset, values_of

        preset = {**values_of(values), **inputs}
        check_preset(preset, self._graph, self._id)
        return self._copy(
            self._backend,
            self._settings,
            self._name,
            _preset=MappingProxyType({**self._preset, **preset}),
            _defaults=MappingProxyType({**self._defaults, **preset}),
        )

    def with_settings(self, settings: Settings) -> Pipeline:
        """Return the same pipeline with these settings of its own; backends use it to pass on inherited settings."""
        if not isinstance(settings, Settings):
            raise ConfigurationError(f"settings must be the settings of a pipeline; got {shown(settings)}")
        return self._copy(self._backend, settings, self._name)

    def _copy(self, backend: Backend | None, settings: Settings, name: str | None, **attributes: Any) -> Pipeline:
        copy = object.__new__(type(self))
        copy.__dict__.update(self.__dict__, **attributes)
        copy._configure(backend, settings, name, self._parent)
        copy._id = name or self._id
        return copy

    # --- properties -----------------------------------------------------------------------------------------------

    @property
    def id(self) -> str:
        """Its name; for an unnamed pipeline an id that depends on its nodes only, the same in every process."""
        return self._id

    @property
    def name(self) -> str | None:
        """Its name; None when unnamed."""
        return self._name

    @property
    def nodes(self) -> tuple[Node[..., Any] | PipelineNode, ...]:
        """Its nodes, in topological order."""
        return self._graph.nodes  # type: ignore[return-value]

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the root inputs."""
        return tuple(self._graph.root_inputs)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs that it shows; `graph.outputs` are all."""
        return self._outputs

    @property
    def defaults(self) -> Mapping[str, Any]:
        """The root inputs that may be left out, with the values that they have then: preset ones or defaults."""
        return self._defaults

    @property
    def missing_inputs(self) -> tuple[str, ...]:
        """Names of the root inputs that have neither a preset value nor a default."""
        return tuple([name for name in self._graph.root_inputs if name not in self._defaults])

    @property
    def preset(self) -> Mapping[str, Any]:
        """The root inputs that have a value by `with_inputs`, with these values."""
        return self._preset

    @property
    def graph(self) -> Graph:
        """The wiring."""
        return self._graph

    @property
    def parent(self) -> Pipeline | None:
        """The pipeline passed as `parent=`; None when there is none."""
        return self._parent

    @property
    def backend(self) -> Backend | None:
        """Its own backend; None when not set."""
        return self._backend

    @property
    def cache(self) -> Cache | Literal[False] | None:
        """Its own cache; None when not set, False for none."""
        return self._settings.cache

    @property
    def callbacks(self) -> tuple[PipelineCallback, ...] | None:
        """Its own callbacks; None when not set."""
        return self._settings.callbacks

    @property
    def effective_backend(self) -> Backend:
        """The backend that `run` and `map` use: its own, that of its parent, or this process."""
        return self._effective_backend

    @property
    def effective_cache(self) -> Cache | None:
        """The cache that stores results of `run` and `map`; its own or inherited."""
        cache = self._settings.or_else(self._inherited).cache
        return None if cache is False else cache

    @property
    def effective_callbacks(self) -> list[PipelineCallback]:
        """The callbacks that observe the events of `run` and `map`, its own or inherited; a new list."""
        return [*(self._settings.or_else(self._inherited).callbacks or ())]

    @property
    def own_settings(self) -> Settings:
        """Its own settings."""
        return self._settings

    @property
    def inherited_settings(self) -> Settings:
        """The settings that it inherits from `parent=`."""
        return self._inherited

    @property
    def has_own_backend(self) -> bool:
        """Whether a backend was set for it."""
        return self._backend is not None

    def plan_for(self, given: Iterable[str], output_name: OutputNames = None) -> Plan:
        """Return the pipeline compiled for given inputs and requested outputs; plans are memoized.

        Raises:
            DependencyError: The names do not fit the pipeline.
        """
        if special_values.are_in_use:
            return self._plan_for_values(given, output_name)
        try:
            return self._plans[output_name, *given]
        except (KeyError, TypeError):
            names = _as_given(given)
            _check_names(names)
        return self._compiled(names, output_name)

    def _plan_for_values(self, given: Iterable[str], output_name: OutputNames) -> Plan:
        """Return the plan where values may be resources, or `SKIPPED`."""
        held = resources.names_of_resources(given)
        skipped = names_of_skipped(given)
        try:
            plan = None if held or skipped else self._plans.get((output_name, *given))
        except TypeError:
            plan = None
        if plan is None:
            names = _as_given(given)
            _check_names(names)
            plan = self._compiled(names, output_name, held, skipped)
        for each in plan.resources:
            each.identify()
        return plan

    def _compiled(
        self,
        names: tuple[str, ...],
        output_name: OutputNames,
        held: tuple[str, ...] = (),
        skipped: tuple[str, ...] = (),
    ) -> Plan:
        self._check_given(names)
        try:
            requested = None if output_name is None else as_names(output_name, "output_name")
        except ConfigurationError as error:
            raise DependencyError(str(error)) from None
        self._check_requested(requested)
        key: tuple[Any, ...] = (requested[0] if requested is not None and len(requested) == 1 else requested, *names)
        if held or skipped:
            key = (*key, frozenset(held), frozenset(skipped))
        plan = self._plans.get(key)
        if plan is None:
            plan = compile_plan(self, names, requested, resources=held, skippable=skipped)
            if len(self._plans) >= _MAX_PLANS:
                self._plans.pop(next(iter(self._plans)), None)
            self._plans[key] = plan
        return plan

    def _check_given(self, given: Iterable[str]) -> None:
        graph = self._graph
        unknown = tuple(n for n in given if n not in graph.root_inputs and n not in graph.producers)
        if unknown:
            from hypernodes.plan.meant_names import hint

            available = (*graph.root_inputs, *graph.outputs)
            hints = ", ".join([f"{shown(name)}{hint(graph, name, with_inputs=True)}" for name in unknown])
            raise UnknownInputError(
                f"pipeline {self._id!r} has no input {hints}. It takes: {', '.join(graph.root_inputs) or 'nothing'}; "
                f"outputs that a value may replace: {', '.join(graph.outputs)}",
                unknown=unknown,
                available=available,
            )

    def _check_shown(self, outputs: str | Sequence[str] | None) -> tuple[str, ...]:
        """Return the outputs that the pipeline shows."""
        if outputs is None:
            return self._graph.outputs
        names = as_names(outputs, "outputs")
        if not names:
            raise ConfigurationError(f"outputs of pipeline {self._id!r} is empty: it has to show at least one")
        self._check_requested(names, "outputs: ")
        if paths := [name for name in names if name not in self._graph.producers]:
            raise ConfigurationError(
                f"outputs of pipeline {self._id!r} names {paths[0]!r}; a path is for output_name. To show it, let the "
                "nested pipeline show it: as_node(outputs=[...])"
            )
        return names

    def _check_requested(self, requested: tuple[str, ...] | None, parameter: str = "") -> None:
        graph = self._graph
        unknown = tuple(name for name in requested or () if name not in graph.producers)
        if unknown:
            from hypernodes.plan.output_paths import SEPARATOR, check_path

            for path in unknown:
                if SEPARATOR in path:
                    check_path(graph, path)
            unknown = tuple(name for name in unknown if SEPARATOR not in name)
        if unknown:
            from hypernodes.plan.meant_names import hint

            where = f"not found in pipeline {self._id!r}"
            found = [f"output {shown(name)} {where}{hint(graph, name, with_inputs=False)}" for name in unknown]
            raise UnknownOutputError(
                f"{parameter}{', '.join(found)}. It has: {', '.join(graph.outputs)}",
                unknown=unknown,
                available=graph.outputs,
            )

    def __getstate__(self) -> dict[str, Any]:
        backend = None if self._effective_backend is _DEFAULT_BACKEND else self._effective_backend
        own = {name: dict(self.__dict__[name]) for name in _READ_ONLY}
        return {**self.__dict__, **own, "_plans": {}, "_effective_backend": backend}

    def __copy__(self) -> Pipeline:
        return self  # it never changes

    def __deepcopy__(self, memo: dict[int, Any]) -> Pipeline:
        return self

    def __setstate__(self, state: dict[str, Any]) -> None:
        backend = state["_effective_backend"] or _DEFAULT_BACKEND
        own = {name: MappingProxyType(state[name]) for name in _READ_ONLY}
        self.__dict__.update({**state, **own}, _effective_backend=backend)

    def __repr__(self) -> str:
        name = f" {self._name!r}" if self._name else ""
        return (
            f"<Pipeline{name}: {len(self._graph.nodes)} nodes, ({_shorten(self.inputs)}) -> ({_shorten(self.outputs)})>"
        )


def _new_plans(graph: Graph) -> dict[tuple[Any, ...], Plan]:
    """Return the memo for the plans of a pipeline; in a notebook it looks for functions that were defined anew."""
    if not hasattr(sys, "ps1") and "IPython" not in sys.modules:
        return {}
    from hypernodes.newer_code import WatchedPlans, is_interactive

    return WatchedPlans(graph) if is_interactive() else {}


def _check_nodes(nodes: Any) -> list[GraphNode]:
    if isinstance(nodes, (Node, PipelineNode, Pipeline)) or not isinstance(nodes, Iterable):
        raise InvalidNodeError(f"nodes must be a list of nodes and pipelines; got {shown(nodes)}", culprit=nodes)
    checked: list[GraphNode] = []
    for entry in nodes:
        if isinstance(entry, Pipeline):
            checked.append(PipelineNode(entry))
        elif isinstance(entry, (Node, PipelineNode)):
            checked.append(entry)
        elif callable(entry):
            name = getattr(entry, "__name__", type(entry).__name__)
            raise InvalidNodeError(
                f"{name!r} in nodes= is a bare function; decorate it with @node(output_name=...), "
                f"or wrap it here: node(output_name=...)({name})",
                culprit=entry,
            )
        else:
            raise InvalidNodeError(f"{shown(entry)} in nodes= is neither a node nor a pipeline", culprit=entry)
    if not checked:
        raise InvalidNodeError("nodes is empty: a pipeline needs at least one node", culprit=nodes)
    return checked


def _check_settings(cache: Any, callbacks: Any) -> tuple[Any, tuple[PipelineCallback, ...] | None]:
    if cache is not None and cache is not False and not isinstance(cache, Cache):
        raise ConfigurationError(
            f"cache must be a Cache such as DiskCache(path=...), False or None; got {shown(cache)}"
        )
    if isinstance(cache, Cache):
        check_initialised(cache, Cache)
    if callbacks is None:
        return cache, None
    if isinstance(callbacks, PipelineCallback) or not isinstance(callbacks, Iterable):
        raise ConfigurationError(f"callbacks must be a list of callbacks; got {shown(callbacks)}")
    callbacks = tuple(callbacks)
    for callback in callbacks:
        if not isinstance(callback, PipelineCallback):
            hint = " (a class: make an object of it)" if isinstance(callback, type) else ""
            raise ConfigurationError(f"{shown(callback)} in callbacks is not a PipelineCallback{hint}")
        kind: Any = type(callback)
        for name, hook in misspelt_hooks(kind):
            text = f"{kind.__name__}.{name} is never called (did you mean {hook!r}?)"
            warn_caller(text, HyperNodesWarning)
    return cache, callbacks


def _refuse_inputs(inputs: object) -> NoReturn:
    raise DependencyError(f"inputs must be a dict of values by name; got {shown(inputs)}")


def _check_inputs(inputs: Any) -> None:
    if not isinstance(inputs, Mapping):
        _refuse_inputs(inputs)
    _check_names(inputs)


def _as_given(given: Any) -> tuple[Any, ...]:
    if not isinstance(given, Iterable) or isinstance(given, (str, type)):
        raise DependencyError(f"given must be the names of inputs; got {shown(given)}")
    return tuple(given)


def _check_names(given: Iterable[object]) -> None:
    for name in given:
        if not isinstance(name, str):
            raise DependencyError(f"inputs must be a dict of values by name; names must be str, got {shown(name)}")


def _find_defaults(graph: Graph) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for node in graph.nodes:
        for name, value in node.defaults.items():
            if name in graph.root_inputs and name not in graph.required_inputs:
                found.setdefault(name, value)
    return found


def _derived_id(nodes: Iterable[GraphNode]) -> str:
    """Return an id that depends on the nodes only, not on their order."""
    from zlib import crc32

    wiring = ";".join(sorted([f"{n.name}({','.join(n.inputs)})->{','.join(n.outputs)}" for n in nodes]))
    return f"pipeline_{crc32(wiring.encode()):08x}"


def _shorten(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 6 else f"{', '.join(names[:3])}, … {len(names) - 4} more, {names[-1]}"
