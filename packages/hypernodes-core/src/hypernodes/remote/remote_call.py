"""What one run or map sends to a remote backend, and takes back."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError
from functools import cached_property
from typing import Any

from hypernodes.callbacks import CallbackContext
from hypernodes.engine.frames.demand import DemandFrame
from hypernodes.engine.frames.prior_results import PriorResults
from hypernodes.engine.frames.storing import StoringFrame
from hypernodes.engine.identity.slot_signatures import sign_item
from hypernodes.engine.state import RunState
from hypernodes.errors import SerializationError, WorkerLostError
from hypernodes.plan import CallStep, Plan
from hypernodes.remote.job import ABSENT, EngineSettings, MapPart, MapResult, RunPart
from hypernodes.remote.job_packing import JobPacker
from hypernodes.remote.needed_packages import Package, needed_packages, package_of
from hypernodes.remote.node_outputs import outputs_by_path
from hypernodes.remote.packing import compact, pack
from hypernodes.remote.preflight import Preflight, package_problems, python_problem
from hypernodes.remote.pruning import Known, OpenItems, Pruning
from hypernodes.remote.receiver import Receiver
from hypernodes.remote.references import References
from hypernodes.remote.sent_job import Sender, SentJob, values_of
from hypernodes.remote.transport import Transport


class RemoteCall:
    """What one run or map sends to a remote backend, and takes back.

    Args:
        backend: The backend.
        plan: What is to run.
        root: Context of the pipeline.
        engine: How it is to run there.

    Attributes:
        plan: What is to run.
        state: State of the run, as far as it happens here.
        pruning: What the caches hold.
        receiver: Takes what workers send.
    """

    def __init__(self, backend: Transport, plan: Plan, root: CallbackContext, engine: EngineSettings) -> None:
        self._backend = backend
        self._engine = engine
        self.plan = plan
        self._references = references = References(backend)
        self.pruning = Pruning(
            plan, root, engine.backend_name, references.number_of_cache, are_caches_here=not backend.sends_caches
        )
        self.state = RunState(root, engine.backend_name, is_nested=True)
        self.state.codes = self.pruning.state.codes
        self.state.share_warnings(self.pruning.state)
        self.state.records.begin(plan, ())
        self.receiver = Receiver(self.state, references.caches, references.callbacks, self._output_names)
        self._packer = JobPacker(plan, engine, self.state, references, backend.share if backend.shares_data else None)
        self._sender = Sender(backend, engine.backend_name, plan, self._packer, references, self.receiver)

    def submit(self, part: RunPart | MapPart, known: Known, *, is_repeated_when_lost: bool = False) -> Any:
        """Have a part of the plan executed remotely, in one job; return the outputs by name, or a `MapResult`.

        Args:
            part: The part.
            known: What is known of the caches.
            is_repeated_when_lost: Whether another worker gets the job if the first one is lost.

        Raises:
            SerializationError: Something cannot be sent; nothing was.
            RemoteVersionError: The remote side is known to have another version of Python; nothing was sent.
            RemoteError: The remote side failed, or what came back does not belong to the job.
            CancelledError: The run was cancelled.
            Exception: What a node raised there, or what the transport raised, with a note that says so.
        """
        self.check_python()
        try:
            result = self._submit(part, known, is_repeated_when_lost)
        except BaseException as error:
            is_interrupt = not isinstance(error, Exception)
            self.receiver.close_open(CancelledError("the run was cancelled") if is_interrupt else error)
            raise
        self.receiver.close_open()
        return result

    def _submit(self, part: RunPart | MapPart, known: Known, is_repeated_when_lost: bool) -> Any:
        try:
            return SentJob(self._sender, part, known).submit()
        except WorkerLostError:
            if not is_repeated_when_lost:
                raise
        return SentJob(self._sender, part, _without_misses(known), is_repeated=True).submit()

    def job_of_many(
        self, part: MapPart, known: Known, deliver: Callable[[MapResult], None], is_repeated: bool
    ) -> SentJob:
        """Return a job for some items of the map, to be submitted; see `SentJob`.

        Raises:
            SerializationError: Something cannot be sent.
        """
        if is_repeated:
            known = _without_misses(known)
        return SentJob(self._sender, part, known, deliver, is_repeated)

    def check_python(self) -> None:
        """Refuse another version of Python on the remote side.

        Raises:
            RemoteVersionError: It is known to have one.
        """
        self._sender.check_python(self._backend)

    def found_item(self, frame: StoringFrame) -> tuple[int, tuple[Any, ...]]:
        """Return index and outputs of an item that was found whole, and let callbacks observe it."""
        plan, index = self.plan, frame.item_index
        assert index is not None
        listeners = self.state.listeners(plan)[0]
        if plan.open_scopes is not None:
            self._report_steps(frame)
        elif listeners.on_map_item_cached:
            own = sign_item(plan, frame.signatures)
            listeners.notify(listeners.on_map_item_cached, index, own, self.state.root.item(index))
        return index, tuple([frame.values[slot] for slot in plan.outputs.values()])

    def _report_steps(self, frame: StoringFrame) -> None:
        """Let callbacks observe the steps of an item that was found whole: of a part of a plan, which reports it."""
        plan = self.plan
        if not plan.callbacks:
            return
        elements = frame.elements if isinstance(frame, DemandFrame) else {}
        every = frozenset(range(len(plan.steps)))
        known = PriorResults([own or None for own in frame.signatures], elements, every)
        observed = DemandFrame(plan, self.state, frame.values, self.state.root, frame.item_index, known=known)
        observed.start()
        observed.close()

    def _output_names(self, path: tuple[str, ...], node_name: str) -> tuple[str, ...]:
        """Return the names of the outputs of a node, by the path of its pipeline; none when a node ran it itself."""
        return self._outputs_by_path.get((*path, node_name), ())

    @cached_property
    def _outputs_by_path(self) -> dict[tuple[str, ...], tuple[str, ...]]:
        return outputs_by_path(self.plan, self.state.root)

    # --- what would be sent ----------------------------------------------------------------------------------------

    def preflight(self, part: RunPart, needs_call: bool) -> Preflight:
        """Return what would be sent for a run."""
        known = self.pruning.known_of_run()
        steps = self.plan.steps
        found, skipped = part.known.found, part.known.skipped
        names = {slot: name for name, slot in self.plan.inputs.items()}
        for step in steps:
            outputs = step.node.outputs if isinstance(step, CallStep) else tuple(step.inner.outputs)
            names |= {slot: name for slot, name in zip(step.outputs, outputs, strict=True) if slot is not None}
        values = {name: part.values[slot] for slot, name in names.items() if part.known.holds(self.plan, slot)}
        preflight = self._preflight(part, known, values, needs_call)
        return preflight._replace(
            nodes=tuple(step.node.name for step in steps if needs_call and step.index not in found | skipped),
            cached=tuple(step.node.name for step in steps if step.index in found),
        )

    def preflight_map(self, items: OpenItems, total: int) -> Preflight:
        """Return what would be sent for a map of some number of items."""
        part, known = items.all()
        values = part.shared | dict(zip(part.names, map(compact, part.columns), strict=True))
        needs_call = len(part.indexes) > 0
        preflight = self._preflight(part, known, values, needs_call)
        nodes = tuple(step.node.name for step in self.plan.steps)
        return preflight._replace(
            nodes=nodes if needs_call else (),
            cached=() if needs_call else nodes,
            items=total,
            cached_items=total - len(part.indexes),
        )

    def _preflight(
        self, part: RunPart | MapPart, known: Known, values: Mapping[str, Any], needs_call: bool
    ) -> Preflight:
        python = self._backend.find_python_version()
        if not needs_call:
            return Preflight(False, 0, (), (), {}, (), (), python=python)
        backend_name = self._engine.backend_name
        problems = python_problem(python, self._backend, backend_name)
        needed = needed_packages(self.plan, values_of(part, self.plan))
        modes = {"node_execution": self._engine.node_execution, "map_execution": self._engine.map_execution}
        if parallel := [f'{name}="parallel"' for name, mode in modes.items() if mode == "parallel"]:
            needed[package_of("loky") or Package("loky", "loky", "loky")] = parallel  # functions are sent by value
        problems += package_problems(needed, self._backend, backend_name)
        size, modules = 0, []
        try:
            packed = self._packer.pack(secrets.token_hex(16), part, known.results)
            size, modules = len(packed.data), sorted(module.__name__ for module in packed.modules)
        except SerializationError as error:
            problems.append(str(error))
        sizes: dict[str, int] = {}
        for name, value in values.items():
            if value is not ABSENT:
                try:
                    sizes[name] = len(pack(value, self._references.of).data)
                except Exception as error:
                    problems.append(f"{name!r} cannot be sent: {type(error).__name__}: {error}")
        return Preflight(True, size, (), (), sizes, tuple(modules), tuple(problems), python=python)


def _without_misses(known: Known) -> Known:
    """Return what is known of the caches but for the misses: some of these may have been stored since."""
    return known._replace(results={number: own._replace(misses=frozenset()) for number, own in known.results.items()})
