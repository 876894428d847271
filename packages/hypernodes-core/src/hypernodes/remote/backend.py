"""Base of remote backends: everything about them but the transport."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from importlib.util import find_spec
from time import perf_counter
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

from hypernodes.backend.base import Backend
from hypernodes.callbacks import CallbackContext
from hypernodes.checks import shown
from hypernodes.engine.cancellation import RunRegistry, current_registry
from hypernodes.engine.engine import PipelineExecutionEngine, map_plan
from hypernodes.engine.execution import Execution, call_in_thread
from hypernodes.engine.frames.columns import MapInputs, check_given_columns
from hypernodes.engine.frames.events import end_map, start_map
from hypernodes.engine.frames.prior_results import PriorResults, prior_results_of_run, with_prior_signatures
from hypernodes.engine.limits import Limit, check_limits_of, with_limits_around
from hypernodes.engine.settings import ExecutionMode
from hypernodes.engine.skipped_outputs import refuse_skipped
from hypernodes.engine.state import RunState
from hypernodes.errors import ConfigurationError, is_positive
from hypernodes.plan import MapMode, OnError, Plan
from hypernodes.remote.chunks import LARGEST_CHUNK, ItemChunks, growing_chunks
from hypernodes.remote.job import EngineSettings
from hypernodes.remote.job_shares import JobShares
from hypernodes.request import (
    MapRequest,
    OutputNames,
    RunRequest,
    check_request,
    request_of,
)

if TYPE_CHECKING:
    from hypernodes.pipeline import Pipeline
    from hypernodes.remote.channel import Channel
    from hypernodes.remote.distributed_map import DistributedMap
    from hypernodes.remote.needed_packages import Package
    from hypernodes.remote.preflight import Preflight
    from hypernodes.remote.remote_call import RemoteCall

_T = TypeVar("_T")


class RemoteBackend(Backend):
    """Base of backends that run a pipeline in another process, on this machine or elsewhere.

    A subclass implements `submit`. Before it is called, results are looked up in the caller's cache: what it holds is
    not computed again, and is not sent unless a remote step needs it; when it holds everything, nothing is submitted.
    Results that are computed remotely are stored in the caller's cache, and callbacks are called in the caller's
    process: as things happen where the transport carries messages, else at the end.

    Functions, classes and modules of the user's own are sent with the pipeline; installed distributions must be
    installed on the remote side too, with the same version of Python.

    Args:
        node_execution: How the nodes of one run are executed on the remote side; None for "sequential".
        map_execution: How the items of a map are executed on the remote side; None for "sequential".
        max_workers: The largest number of calls at a time on the remote side; None for a number that suits.
        limits: The limits that nodes may name (see `Limit`); they hold for what runs in one process there.
        max_in_flight: The largest number of items of a map that have begun there and are not done.
        chunk_size: How many items of a map a job gets; "auto" for as many as take about four seconds, fewer at first
            and at the end; None for all of them, or for "auto" where several jobs are executed at a time.

    Attributes:
        backend_name: Name of the backend, in messages.
        limits: The limits that nodes may name.
        sends_caches: Whether caches are sent with the pipeline and used on the remote side, not by the caller.
        jobs_at_once: How many jobs the backend may be given at a time, for the items of a map; a property may return
            another number whenever it is asked. `submit` is then called from several threads.
        chunk_size: How many items of a map a job gets.

    Raises:
        ConfigurationError: A setting has a value it cannot have.
    """

    backend_name = "remote"
    sends_caches = False
    limits: tuple[Limit, ...] = ()
    max_in_flight: int | None = None
    jobs_at_once: int = 1
    chunk_size: int | Literal["auto"] | None = None
    _set_by_init: ClassVar[tuple[str, ...]] = ("node_execution", "map_execution", "max_workers")

    def __init__(
        self,
        node_execution: ExecutionMode | None = None,
        map_execution: ExecutionMode | None = None,
        *,
        max_workers: int | None = None,
        limits: Iterable[Limit] | None = None,
        max_in_flight: int | None = None,
        chunk_size: int | Literal["auto"] | None = None,
    ) -> None:
        if not (chunk_size is None or chunk_size == "auto" or is_positive(chunk_size)):
            raise ConfigurationError(
                f'chunk_size must be a whole number of at least 1, or "auto"; got {shown(chunk_size)}'
            )
        checked = PipelineExecutionEngine(
            node_execution, map_execution, max_workers=max_workers, limits=limits, max_in_flight=max_in_flight
        )
        if find_spec("cloudpickle") is None:
            raise ConfigurationError(
                f"{type(self).__name__} sends pipelines with cloudpickle, which is not installed: "
                "pip install 'hypernodes-core[remote]'"
            )
        self.node_execution = checked.node_execution
        self.map_execution = checked.map_execution
        self.max_workers = max_workers
        self.limits = checked.limits
        self.max_in_flight = max_in_flight
        self.chunk_size = chunk_size
        self._shares = JobShares()

    @abstractmethod
    def submit(self, job: bytes, channel: Channel) -> bytes:
        """Have a job executed on the remote side.

        Args:
            job: To be passed to `hypernodes.remote.worker.execute` there.
            channel: Takes the messages that the worker sends meanwhile, if the transport can carry them
                (`Channel.handle`).

        Returns:
            What `execute` returned for this job. The outcome of another one, or one that was changed on its way, is
            refused with a `RemoteError`.

        Raises:
            Exception: The job could not be executed, or it is not known whether it was. Anything but a `RemoteError`
                gets a note that it came from the transport and not from a node.
        """

    def share(self, key: str, data: bytes) -> str | None:
        """Make data available to all jobs of a map that is divided among several, instead of sending it with each.

        Args:
            key: Stands for the data; the same for the same data.
            data: What the jobs have in common, or one large input of theirs.

        Returns:
            What the `fetch` that is given to `execute` gets for it; None if it is to be sent with each job.
        """
        return None

    @property
    def shares_data(self) -> bool:
        """Whether the backend implements `share`."""
        return type(self).share is not RemoteBackend.share

    def runs_here(self, other: Backend) -> bool:
        """Whether a nested pipeline that asks for another backend can run where this one runs."""
        return other is self

    def can_call(self, other: Backend) -> bool:
        """Whether a nested pipeline with another backend can be called from there (`Channel.callable_backends`).

        If not, that backend is sent with the pipeline, and runs it there.
        """
        return False

    # --- once -----------------------------------------------------------------------------------------------------

    def run(self, request: RunRequest) -> dict[str, Any]:
        check_request(request, RunRequest)
        inputs, ctx = request.inputs, request.ctx
        plan = request.plan()
        values = _fill(plan, inputs, is_nested=ctx is not None)
        if self._is_driven_here(plan):
            return self._driven(plan, request).run(values, inputs)
        call = self._remote_call(plan, request.context)
        part, needs_call = call.pruning.run(values, prior_results_of_run(plan, ctx, inputs))
        if not needs_call:
            return self._found_whole(call, values, part.known, inputs, ctx is not None)
        listeners = call.state.listeners(plan)[0]
        pipeline_id = request.pipeline.id
        if ctx is None:
            listeners.notify(listeners.on_pipeline_start, pipeline_id, dict(inputs), call.state.root)
        started_at = perf_counter()
        outputs: dict[str, Any] = {}
        try:
            with self._shares.of_run():
                computed = call.submit(part, call.pruning.known_of_run(), is_repeated_when_lost=self._divides_maps)
            for name, slot in plan.outputs.items():
                is_here = part.known.holds(plan, slot)
                outputs[name] = values[slot] if is_here else computed[name]
            if ctx is None:
                refuse_skipped(plan, outputs)
        finally:
            if ctx is None:
                duration = perf_counter() - started_at
                listeners.notify(listeners.on_pipeline_end, pipeline_id, outputs, duration, call.state.root)
        return outputs

    def _found_whole(
        self, call: RemoteCall, values: list[Any], known: PriorResults, inputs: Mapping[str, Any], is_nested: bool
    ) -> dict[str, Any]:
        engine = PipelineExecutionEngine(limits=with_limits_around(self.limits))
        engine.backend_name = self.backend_name
        state: RunState = call.state
        return Execution(engine, call.plan, state.root, is_nested, state=state).run(values, inputs, known)

    def turn_of(self, channel: Channel) -> AbstractContextManager[None]:
        """Return what a job enters while it is executed: it waits for others if the backend takes no more at a time."""
        return self._shares.of_job(channel, lambda: self.jobs_at_once) if self._divides_maps else nullcontext()

    # --- maps inside runs -----------------------------------------------------------------------------------------

    def _is_driven_here(self, plan: Plan, executions: int | None = 1) -> bool:
        """Whether this process executes a plan, so that the maps in it are divided like one that was asked for itself.

        Args:
            plan: The plan.
            executions: How many times it is executed; None when that is not known. Where each of the jobs at once can
                have one, a job executes the maps in it.
        """
        if executions is None or executions >= self.jobs_at_once or (self.sends_caches and plan.is_cached):
            return False
        from hypernodes.remote.divided_steps import divided_maps

        return bool(divided_maps(plan, self))

    def _driven(self, plan: Plan, request: RunRequest | MapRequest) -> Execution:
        """Return the execution of a plan whose steps are jobs."""
        from hypernodes.remote.divided_steps import divide_steps

        engine = PipelineExecutionEngine("threaded", "threaded", max_workers=self.jobs_at_once)
        engine.backend_name = self.backend_name
        return engine.execution(divide_steps(plan, self), request)

    # --- once per item --------------------------------------------------------------------------------------------

    def map(self, request: MapRequest) -> dict[str, list[Any]]:
        plan, given = map_plan(request)
        if self._is_driven_here(plan, given.total()):
            return self._driven(plan, request).map(given, request.on_error)
        given = with_prior_signatures(given, request.ctx)
        call = self._remote_call(plan, request.context)
        root = call.state.root
        start_map(plan, call.state, root, given.total())
        started_at = perf_counter()
        try:
            rows = self._map_rows(call, given, request.on_error)
        finally:
            end_map(plan, call.state, root, perf_counter() - started_at)
        return {name: [row[i] for row in rows] for i, name in enumerate(plan.outputs)}

    def _map_rows(self, call: RemoteCall, given: MapInputs, on_error: OnError) -> list[tuple[Any, ...]]:
        found: dict[int, tuple[Any, ...]] = {}
        if self._divides_maps:
            with self._shares.of_map() as share:
                for rows in self._distributed(call, given, on_error, share).results():
                    found.update(rows)
        else:
            found |= self._rows_of_one_job(call, given, on_error)
        return [found[index] for index in sorted(found)]

    def _rows_of_one_job(self, call: RemoteCall, given: MapInputs, on_error: OnError) -> dict[int, tuple[Any, ...]]:
        found: dict[int, tuple[Any, ...]] = {}
        items = call.pruning.map(given, on_error, lambda frame: found.update([call.found_item(frame)]))
        if items:
            found |= call.submit(*items.all()).by_index()
        return found

    @property
    def _divides_maps(self) -> bool:
        return self.chunk_size is not None or self.jobs_at_once > 1

    def _distributed(
        self,
        call: RemoteCall,
        given: MapInputs,
        on_error: OnError,
        share: Callable[[int], int],
        *,
        is_stream: bool = False,
    ) -> DistributedMap:
        from hypernodes.remote.distributed_map import DistributedMap  # needs cloudpickle
        from hypernodes.remote.job_sizes import JobSizes

        grain = max((batching.most_items for batching in call.plan.batchings), default=1)
        fixed = self.chunk_size if isinstance(self.chunk_size, int) else None
        sizes = JobSizes(fixed, grain, LARGEST_CHUNK) if is_stream else JobSizes(fixed, grain)
        items = ItemChunks(call.plan, given)
        return DistributedMap(call, lambda: share(self.jobs_at_once), sizes, items, on_error, given.total())

    def map_iter(self, request: MapRequest) -> Iterator[tuple[int, dict[str, Any]]]:
        """Run a pipeline once per item and yield index and outputs of each; see `Backend.map_iter`.

        Where one job is executed at a time, items are read and sent in chunks, one job each: few at first, so that the
        first results are there soon, then more as long as a chunk takes less than about two seconds. The next chunk is
        read and sent when all results of the last one have been taken. Where several are, items are read as far as the
        jobs under way and the next ones need them, and results are yielded as they come, in item order unless the
        request says otherwise.
        """
        plan, given = map_plan(request, is_stream=True)
        if self._is_driven_here(plan, given.total()):
            return self._driven(plan, request).stream(given, request.on_error, request.in_order)
        return self._stream(plan, given, request)

    def _stream(self, plan: Plan, given: MapInputs, request: MapRequest) -> Iterator[tuple[int, dict[str, Any]]]:
        call = self._remote_call(plan, request.context)
        start_map(plan, call.state, call.state.root, given.total())
        started_at = perf_counter()
        try:
            rows = self._rows_as_they_come if self._divides_maps else self._rows_by_chunks
            for index, row in rows(call, given, request):
                yield index, dict(zip(plan.outputs, row, strict=True))
        finally:
            end_map(plan, call.state, call.state.root, perf_counter() - started_at)

    def _rows_by_chunks(
        self, call: RemoteCall, given: MapInputs, request: MapRequest
    ) -> Iterator[tuple[int, tuple[Any, ...]]]:
        for chunk in growing_chunks(call.plan, given):
            rows = self._rows_of_one_job(call, chunk, request.on_error)
            yield from ((index, rows[index]) for index in chunk.indexes or ())

    def _rows_as_they_come(
        self, call: RemoteCall, given: MapInputs, request: MapRequest
    ) -> Iterator[tuple[int, tuple[Any, ...]]]:
        with self._shares.of_map() as share:
            distributed = self._distributed(call, given, request.on_error, share, is_stream=True)
            yield from self._in_requested_order(distributed, request)

    def _in_requested_order(
        self, distributed: DistributedMap, request: MapRequest
    ) -> Iterator[tuple[int, tuple[Any, ...]]]:
        early: dict[int, tuple[Any, ...]] = {}
        taken = 0  # by the caller

        def allowance(wanted: int) -> int:
            most = wanted if self.max_in_flight is None else self.max_in_flight
            return most - (distributed.read_items - taken)

        with closing(distributed.results(allowance)) as results:
            for rows in results:
                if not request.in_order:
                    for row in rows:
                        taken += 1
                        yield row
                    continue
                early.update(rows)
                while taken in early:
                    row = early.pop(taken)
                    taken += 1
                    yield taken - 1, row

    # --- from async code ------------------------------------------------------------------------------------------

    async def arun(self, request: RunRequest) -> dict[str, Any]:
        """Run a pipeline once without blocking the event loop; cancelling the awaiting task ends the job."""
        return await _call_in_thread(self.run, request)

    async def amap(self, request: MapRequest) -> dict[str, list[Any]]:
        """Run a pipeline once per item likewise."""
        return await _call_in_thread(self.map, request)

    # --- what would be sent ----------------------------------------------------------------------------------------

    def preflight(
        self,
        pipeline: Pipeline,
        inputs: Mapping[str, Any] | None = None,
        *,
        output_name: OutputNames = None,
        map_over: str | Sequence[str] | None = None,
        map_mode: MapMode = "zip",
    ) -> Preflight:
        """Return what `run`, or `map`, would send, without sending it.

        Args:
            pipeline: The pipeline.
            inputs: The inputs that `run` or `map` would get.
            output_name: Outputs to compute; all that the pipeline shows when None.
            map_over: Name, or names, of the inputs that vary from item to item; None for `run`.
            map_mode: "zip" or "product"; see `Pipeline.map`.

        Raises:
            DependencyError: The inputs or outputs do not fit.
        """
        request = request_of(pipeline, inputs, output_name, map_over, map_mode)
        if isinstance(request, MapRequest):
            return self._preflight_map(request)
        plan = request.plan()
        values = _fill(plan, request.inputs)
        call = self._remote_call(plan, request.context)
        part, needs_call = call.pruning.run(values)
        found = call.preflight(part, needs_call)
        if needs_call and self._is_driven_here(plan):
            from hypernodes.remote.divided_steps import divided_maps

            found = found._replace(divided=divided_maps(plan, self), jobs_at_once=self.jobs_at_once)
        return found

    def _preflight_map(self, request: MapRequest) -> Preflight:
        plan, given = map_plan(request)
        call = self._remote_call(plan, request.context)
        total = given.total()
        assert total is not None  # the columns have been read
        items = call.pruning.map(given, "raise", lambda frame: None)
        found = call.preflight_map(items, total)
        if found.needs_call and self._divides_maps:
            found = found._replace(divided=(request.pipeline.id,), jobs_at_once=self.jobs_at_once)
        return found

    def find_python_version(self) -> str | None:
        """Return the minor version of Python on the remote side ("3.12"); None when only a job can tell."""
        return None

    def find_missing(self, packages: Sequence[Package]) -> Sequence[Package]:
        """Return those of some packages that the remote side is known not to have; none when only a job can tell."""
        return ()

    def advise_python(self, version: str) -> str:
        """Return what to do so that the remote side has a version of Python, for a message."""
        return f"Let the backend use Python {version} too."

    def advise_packages(self, requirements: Sequence[str]) -> str:
        """Return what to do so that the remote side has some packages, for a message.

        Args:
            requirements: What pip needs to install them.
        """
        names = " ".join(requirements)
        return f"Install it there as well, in the environment of the backend: pip install {names}"

    def _remote_call(self, plan: Plan, root: CallbackContext) -> RemoteCall:
        from hypernodes.remote.remote_call import RemoteCall  # needs cloudpickle

        limits = with_limits_around(self.limits)
        if plan.is_limited:
            check_limits_of(plan, limits, self.backend_name)
        settings = EngineSettings(
            self.node_execution,
            self.map_execution,
            self.max_workers,
            self.backend_name,
            limits,
            self.max_in_flight,
        )
        return RemoteCall(self, plan, root, settings)


async def _call_in_thread(function: Callable[..., _T], *arguments: Any) -> _T:
    runs = RunRegistry()

    def call() -> _T:
        current_registry.set(runs)
        return function(*arguments)

    return await call_in_thread(runs.cancel, call)


def _fill(plan: Plan, inputs: Mapping[str, Any], *, is_nested: bool = False) -> list[Any]:
    values = list(plan.template)
    for name, slot in plan.inputs.items():
        values[slot] = inputs[name]
    check_given_columns(plan, values, is_nested=is_nested)
    return values
