"""The state of one run, passed to everything that takes part in it."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, TypeAlias

from hypernodes import signature
from hypernodes.callbacks import CallbackContext, Listeners, observes_steps
from hypernodes.caller import awaiting_line, warn_caller_of_run
from hypernodes.engine.batches import BatchSizes
from hypernodes.engine.identity.plan_code import PlanCodes
from hypernodes.engine.identity.records import RunRecords
from hypernodes.engine.limits import Limit
from hypernodes.engine.store.run_store import RunStore
from hypernodes.errors import CacheWarning
from hypernodes.plan import CallStep, NestedStep, Plan

# Takes the subject of a warning, the kind of problem, the message and the class of the warning.
ShowWarning: TypeAlias = Callable[[str, str, str, type[Warning]], None]

_RECENT = 16_384
QUICK_S = 0.001


class RunState:
    """The state that lives exactly as long as one run or map.

    Attributes:
        root: Context of the outermost pipeline.
        backend_name: Name of the backend, for messages.
        is_nested: Whether the run is part of another one, which then reports its start and end.
        is_single_threaded: Whether all of its events are reported in one thread.
        codes: Signatures of the code of its plans.
        show_warning: Takes warnings; None to show them to the user.
        store: Reads results from caches and writes them.
        records: Writes the records that `explain` reads.
        batch_sizes: The sizes of batches in this run.
        limits: The limits of the engine, by name.
        max_in_flight: The largest number of items of a map that are open at a time; None for one that suits.
        is_dry_run: Whether results are only looked up: nothing is executed and no callback is called.
        look_ahead: The smallest number of items that are looked up together.
        quick_steps: Steps whose last call took less than a millisecond.
        computed: Number of results with a signature that have been computed so far.
    """

    def __init__(
        self, root: CallbackContext, backend_name: str, is_nested: bool, is_single_threaded: bool = False
    ) -> None:
        self.root = root
        self.backend_name = backend_name
        self.is_nested = is_nested
        self.is_single_threaded = is_single_threaded
        self.show_warning: ShowWarning | None = None
        self._started_in = threading.get_ident()
        self._awaited_at = awaiting_line()
        self.is_dry_run = False
        self.limits: Mapping[str, Limit] = {}
        self.max_in_flight: int | None = None
        self._observed: dict[Plan, bool] = {}
        self.look_ahead = 1
        self.computed = 0
        self.quick_steps: set[CallStep] = set()
        self._listeners: dict[Plan, tuple[Listeners, ...]] = {}
        self._by_callbacks: dict[tuple[int, ...], Listeners] = {}
        self._warned: set[tuple[str, str]] = set()
        self._recent: OrderedDict[bytes, None] = OrderedDict()

    @cached_property
    def codes(self) -> PlanCodes:
        return PlanCodes(signature.new_memo(), self.warn)

    @cached_property
    def store(self) -> RunStore:
        return RunStore(self.warn)

    @cached_property
    def records(self) -> RunRecords:
        return RunRecords(self.codes, self.store)

    @cached_property
    def batch_sizes(self) -> BatchSizes:
        return BatchSizes(self.warn, self.max_in_flight)

    def observes(self, plan: Plan) -> bool:
        """Return whether any callback observes events during the execution of `plan`."""
        if not plan.callbacks or self.is_dry_run:
            return False
        is_observed = self._observed.get(plan)
        if is_observed is None:
            has_maps = any(isinstance(step, NestedStep) for step in plan.steps)
            is_observed = any(observes_steps(callback, has_maps) for callback in plan.callbacks)
            self._observed[plan] = is_observed
        return is_observed

    def flush_store(self) -> None:
        """Write the results that wait to be written to caches."""
        if "store" in self.__dict__:
            self.store.flush()

    def listeners(self, plan: Plan) -> tuple[Listeners, ...]:
        """Return the hooks to call for the events of each scope of `plan`."""
        listeners = self._listeners.get(plan)
        if listeners is None:
            listeners = tuple([self.listeners_for(scope.settings.callbacks or ()) for scope in plan.scopes])
            self._listeners[plan] = listeners
        return listeners

    def listeners_for(self, callbacks: tuple[Any, ...]) -> Listeners:
        """Return the listeners for a list of callbacks, created once per run."""
        callbacks = () if self.is_dry_run else callbacks
        key = tuple(map(id, callbacks))
        listeners = self._by_callbacks.get(key)
        if listeners is None:
            lock = None if self.is_single_threaded else self.root.lock
            listeners = self._by_callbacks[key] = Listeners(callbacks, self.root.switched_off, lock)
        return listeners

    def record_computed(self, key: bytes) -> None:
        """Record that the result with this signature was computed just now."""
        self.computed += 1
        self._recent[key] = None
        if len(self._recent) > _RECENT:
            self._recent.popitem(last=False)

    def share_warnings(self, other: RunState) -> None:
        """Warn of nothing that `other` has warned of, and the other way round: both are the same run to the user."""
        self._warned = other._warned

    def was_computed(self, key: bytes, since: int) -> bool:
        """Whether the result with this signature may have been computed in this run, after `since` others.

        Only the most recent results are remembered; when more than that have been computed since, this returns True,
        and the caller has to look in the cache again.
        """
        return key in self._recent or self.computed - since > _RECENT

    def note_duration(self, step: CallStep, duration_s: float) -> None:
        """Record how long a call of a step took."""
        if duration_s < QUICK_S:
            self.quick_steps.add(step)
        else:
            self.quick_steps.discard(step)

    def warn(self, subject: str, reason: str, message: str, category: type[Warning] = CacheWarning) -> None:
        """Warn once per run about `subject`."""
        if (subject, reason) not in self._warned:
            self._warned.add((subject, reason))
            if self.show_warning is not None:
                self.show_warning(subject, reason, message, category)
            else:
                warn_caller_of_run(message, category, self._started_in, self._awaited_at)
