"""What one run needs to know; made for it, passed along, and gone with it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hypernodes.callbacks import CallbackContext, Listeners
from hypernodes.engine.coroutines import CoroutineRunner
from hypernodes.errors import CacheWarning
from hypernodes.plan import Plan


class RunState:
    """Everything that lives exactly as long as one run or map.

    Attributes:
        root: Context of the outermost pipeline.
        place: Name of the backend, for messages.
        is_nested: Whether the run is part of another one, which then announces it.
        coroutines: Runs `async def` nodes.
        code: Memo of the signatures of plans (see `lookup`).
    """

    def __init__(self, root: CallbackContext, place: str, is_nested: bool) -> None:
        self.root = root
        self.place = place
        self.is_nested = is_nested
        self.coroutines = CoroutineRunner()
        self.code: dict[Plan, Any] = {}
        self._listeners: dict[Plan, tuple[Listeners, ...]] = {}
        self._by_callbacks: dict[tuple[int, ...], Listeners] = {}
        self._failed_callbacks: set[int] = set()
        self._warned: set[tuple[str, str]] = set()

    def listeners(self, plan: Plan) -> tuple[Listeners, ...]:
        """Return who hears the events of each scope of `plan`."""
        listeners = self._listeners.get(plan)
        if listeners is None:
            listeners = tuple(self.listeners_for(scope.callbacks) for scope in plan.scopes)
            self._listeners[plan] = listeners
        return listeners

    def listeners_for(self, callbacks: tuple[Any, ...]) -> Listeners:
        """Return the listeners for a list of callbacks, made once per run."""
        key = tuple(map(id, callbacks))
        if key not in self._by_callbacks:
            self._by_callbacks[key] = Listeners(callbacks, self._failed_callbacks)
        return self._by_callbacks[key]

    def warn(self, subject: str, reason: str, message: str) -> None:
        """Warn once per run about `subject`."""
        if (subject, reason) not in self._warned:
            self._warned.add((subject, reason))
            warnings.warn(message, CacheWarning, stacklevel=2)


@contextmanager
def new_run(root: CallbackContext, place: str, is_nested: bool) -> Iterator[RunState]:
    """Make the state of a run and release what it holds when the run ends."""
    state = RunState(root, place, is_nested)
    try:
        yield state
    finally:
        state.coroutines.close()
