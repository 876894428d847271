"""The caller's end of the channel beside a job: events are replayed, new results kept, questions answered."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hypernodes.cache.base import Cache
from hypernodes.cache.record import is_record_key
from hypernodes.callbacks import CallbackContext, Listeners, PipelineCallback
from hypernodes.engine.parcels import LeftBehind
from hypernodes.engine.raised import Raised, restore
from hypernodes.engine.run_state import RunState
from hypernodes.remote.job import Where
from hypernodes.remote.messages import Entries, Event, Message, Question, wants_reply
from hypernodes.remote.packing import pack, unpack


class Channel:
    """Takes what the worker says while a job runs.

    A backend whose transport can talk during a job carries every message of the worker to `handle`, in order, and what
    that returns back. One that cannot leaves it alone: everything then comes with the outcome.

    Args:
        state: State of the run.
        caches: The caches, by number.
        callbacks: The callbacks, by number.
        recall: Returns what a reference of the worker's stands for.
    """

    def __init__(
        self,
        state: RunState,
        caches: Mapping[int, Cache],
        callbacks: Mapping[int, PipelineCallback],
        recall: Callable[[Any], Any],
    ) -> None:
        self._state = state
        self._caches = caches
        self._recall = recall
        root = state.root
        self._contexts: dict[Where, CallbackContext] = {
            Where(root.hierarchy_path, root.node_path, root.item_path): root
        }
        self._listeners = {
            number: Listeners([callback], root.switched_off, root.lock) for number, callback in callbacks.items()
        }
        self._lock = threading.RLock()

    def handle(self, message: bytes) -> bytes | None:
        """Take a message of the worker's.

        Args:
            message: What the worker gave to the transport.

        Returns:
            The reply, when the worker waits for one (`wants_reply`).
        """
        with self._lock:
            try:
                content, _ = unpack(memoryview(message)[1:], self._recall)
            except Exception as error:
                self._state.warn(
                    self._state.place,
                    "message",
                    f"something that {self._state.place} sent while it ran cannot be read here and is lost: "
                    f"{type(error).__name__}: {error}",
                )
                content = []
            if wants_reply(message):
                return self._answer(content)
            self._take(content)
            return None

    def take_all(self, messages: Sequence[bytes]) -> None:
        """Take the messages that came with the outcome."""
        for message in messages:
            self.handle(message)

    def _answer(self, question: Any) -> bytes:
        found: Mapping[str, Any] = {}
        if isinstance(question, Question) and question.cache in self._caches:
            found = self._state.store.get_many(self._caches[question.cache], question.keys)
        try:
            return pack(dict(found)).data
        except Exception:  # some of it cannot be sent there: then it is computed there
            return pack({key: value for key, value in found.items() if _can_be_packed(value)}).data

    def _take(self, messages: Sequence[Message]) -> None:
        for message in messages:
            if isinstance(message, Entries):
                self._keep(message)
            elif isinstance(message, Event):
                listeners = self._listeners[message.callback]
                hooks = getattr(listeners, message.hook)
                arguments = (self._argument(value) for value in message.arguments)
                listeners.tell(hooks, *arguments, self._context(message.where))
            else:
                self._state.warn(*message)

    def _keep(self, entries: Entries) -> None:
        cache = self._caches[entries.cache]
        for key, packed in entries.values.items():
            value = self._load(packed)
            if is_record_key(key):
                value = self._state.history.completed(key, value)
            self._state.store.keep(cache, {key: value}, entries.labels.get(key, ""))
        self._state.store.flush()

    def _argument(self, value: bytes | Raised) -> Any:
        if isinstance(value, Raised):
            return restore(value, lambda packed: unpack(packed, self._recall)[0])
        return self._load(value)

    def _load(self, packed: bytes) -> Any:
        try:
            return unpack(packed, self._recall)[0]
        except Exception as error:
            return LeftBehind("value", f"it cannot be loaded here: {type(error).__name__}: {error}")

    def _context(self, where: Where) -> CallbackContext:
        context = self._contexts.get(where)
        if context is None:
            context = self._contexts[where] = CallbackContext(*where, around=self._state.root)
        return context


def _can_be_packed(value: Any) -> bool:
    try:
        pack(value)
    except Exception:
        return False
    return True
