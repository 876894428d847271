"""What the caller does with what workers send while they work: events are replayed, results stored, questions answered.

One receiver serves all jobs of a run or map, which may be executed at the same time.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from time import perf_counter
from typing import Any, TypeAlias

from hypernodes.cache.base import Cache
from hypernodes.cache.record import is_record_key
from hypernodes.callbacks import CallbackContext, Listeners, PipelineCallback
from hypernodes.engine.identity.plan_code import Origin
from hypernodes.engine.state import RunState
from hypernodes.engine.step import NotTransferred
from hypernodes.engine.store.run_store import is_manifest_key, manifest_key
from hypernodes.engine.workers.caller_settings import take_report
from hypernodes.engine.workers.serialized_errors import SerializedError, restore
from hypernodes.remote.job import ContextPath
from hypernodes.remote.messages import CacheQuestion, Entries, Event, Message, Reported, Rows
from hypernodes.remote.observed_events import END_OF, Attempt, Begun, ObservedEvents
from hypernodes.remote.packing import pack, unpack

Recall: TypeAlias = Callable[[Any], Any]  # from what stands for something of the caller's in a message to that thing


class Receiver:
    """Takes what the workers of one run or map send.

    Args:
        state: State of the run.
        caches: The caches, by number.
        callbacks: The callbacks, by number.
        output_names: Returns the names of a node's outputs, by the path of its pipeline and its name.

    Attributes:
        lock: Held while something is taken.
    """

    def __init__(
        self,
        state: RunState,
        caches: Mapping[int, Cache],
        callbacks: Mapping[int, PipelineCallback],
        output_names: Callable[[tuple[str, ...], str], Sequence[str]],
    ) -> None:
        self._state = state
        self._caches = caches
        self._callbacks = callbacks
        self._output_names = output_names
        root = state.root
        self._contexts: dict[ContextPath, CallbackContext] = {
            ContextPath(root.hierarchy_path, root.node_path, root.item_path): root
        }
        self._listeners: dict[int, Listeners] = {}
        self._observed = ObservedEvents(self._observes, self._own_argument)
        self.lock = threading.RLock()

    @property
    def has_caches(self) -> bool:
        """Whether results may be stored."""
        return bool(self._caches)

    @property
    def has_listeners(self) -> bool:
        """Whether workers have anything to send: there is a cache or a callback."""
        return bool(self._caches or self._callbacks)

    def take(self, messages: Sequence[Message], recall: Recall, attempt: Attempt, is_observed: bool = True) -> None:
        """Take what a worker said.

        Args:
            messages: What it said.
            recall: Returns what a reference of the worker's stands for.
            attempt: What it has said before.
            is_observed: Whether callbacks observe it.
        """
        for message in messages:
            if isinstance(message, Entries):
                self._store(message, recall)
            elif isinstance(message, Event):
                if is_observed:
                    self._replay(message, recall, attempt)
            elif isinstance(message, Reported):
                take_report(message.function, message.arguments)
            elif not isinstance(message, Rows):  # which the channel takes
                self._state.warn(*message)

    def answer(self, question: Any) -> bytes:
        """Return the answer to a worker's question."""
        found: Mapping[str, Any] = {}
        if isinstance(question, CacheQuestion) and question.cache in self._caches:
            found = self._state.store.get_many(self._caches[question.cache], question.keys)
        try:
            return pack(dict(found)).data
        except Exception:  # some of it cannot be sent there: then it is computed there
            return pack({key: value for key, value in found.items() if _can_be_packed(value)}).data

    def read(self, content: memoryview, recall: Recall) -> Any:
        """Return what is in a message; nothing, with a warning, when it cannot be loaded."""
        try:
            return unpack(content, recall)
        except Exception as error:
            self.drop(f"{type(error).__name__}: {error}")
            return []

    def drop(self, reason: str) -> None:
        """Warn of a message that is not taken."""
        self._state.warn(
            self._state.backend_name,
            "message",
            f"dropped a message from backend {self._state.backend_name!r} that could not be decoded: {reason}",
        )

    def warn_of_lost(self, lost: int, count: int) -> None:
        """Warn of messages that did not arrive.

        Args:
            lost: How many did not.
            count: How many were sent.
        """
        self._state.warn(
            self._state.backend_name,
            "lost messages",
            f"{lost} of {count} messages of backend {self._state.backend_name!r} were lost on the way: "
            "callbacks did not observe all that happened, and some results are not in the cache.",
        )

    def close_open(
        self, error: BaseException | None = None, is_meant: Callable[[ContextPath], bool] = lambda position: True
    ) -> None:
        """Let callbacks observe the end of all whose beginning they observed, innermost first.

        Args:
            error: Why; what the nodes that were running end with. None when they ended and it was not observed.
            is_meant: Whether that is over whose events have a position.
        """
        with self.lock:
            for begun in self._observed.take_open(is_meant):
                self._report_end(begun, error)

    # --- events ---------------------------------------------------------------------------------------------------

    def _replay(self, event: Event, recall: Recall, attempt: Attempt) -> None:
        due = self._observed.note(event, attempt)
        for begun in due.ends:
            is_own = event.hook == "on_node_cached" and begun.names == event.arguments[:1]
            self._report_end(begun, key=_argument(event.arguments[1], recall) if is_own else "")
        if due.is_event_due:
            listeners = self._listeners_of(event.callback)
            arguments = (_argument(value, recall) for value in event.arguments)
            listeners.notify(getattr(listeners, event.hook), *arguments, self._context(event.position))

    def _report_end(self, begun: Begun, error: BaseException | None = None, key: str = "") -> None:
        """Let a callback observe the end of something whose end did not arrive.

        Args:
            begun: Its beginning.
            error: What it ends with.
            key: Key of its result in a cache, where known.
        """
        number, hook, _, position = begun.event
        listeners, context = self._listeners_of(number), self._context(position)
        subject = [self._own_argument(name) for name in begun.names]
        duration_s = perf_counter() - begun.at
        if hook == "on_node_start":
            if error is not None:
                listeners.notify(listeners.on_error, *subject, error, context)
            else:
                outputs = self._outputs_of(position, subject[0], key)
                listeners.notify(listeners.on_node_end, *subject, outputs, duration_s, context)
        elif hook == "on_pipeline_start":
            listeners.notify(listeners.on_pipeline_end, *subject, {}, duration_s, context)
        else:
            listeners.notify(getattr(listeners, END_OF[hook]), *subject, duration_s, context)

    def _outputs_of(self, position: ContextPath, node_name: str, key: str) -> dict[str, Any]:
        """Return the outputs of a node whose end did not arrive, with what stands for those that are not known here."""
        outputs: dict[str, Any] = dict.fromkeys(
            self._output_names(position.node_path, node_name),
            NotTransferred("result", "the worker that computed it was lost, or its message"),
        )
        if key and len(outputs) == 1:
            for cache in self._caches.values():
                found = self._state.store.get_many(cache, [key])
                outputs = {name: found.get(key, unknown) for name, unknown in outputs.items()}
        return outputs

    def _observes(self, callback: int, hook: str) -> bool:
        return bool(getattr(self._listeners_of(callback), hook))

    def _listeners_of(self, callback: int) -> Listeners:
        listeners = self._listeners.get(callback)
        if listeners is None:
            root = self._state.root
            listeners = Listeners([self._callbacks[callback]], root.switched_off, root.lock)
            self._listeners[callback] = listeners
        return listeners

    def _context(self, path: ContextPath) -> CallbackContext:
        context = self._contexts.get(path)
        if context is None:
            context = self._contexts[path] = CallbackContext(*path, around=self._state.root)
        return context

    def _own_argument(self, value: bytes | SerializedError) -> Any:
        """Return the value of an argument that says what an event is about: a name or a number."""
        return _argument(value, None)

    # --- results --------------------------------------------------------------------------------------------------

    def _store(self, entries: Entries, recall: Recall) -> None:
        cache = self._caches[entries.cache]
        for key, packed in entries.values.items():
            origin = entries.origins.get(key)
            if not self._may_put(key, origin):
                if not (is_record_key(key) or is_manifest_key(key)):  # which only save time
                    self._warn_of_foreign_key(entries.labels.get(key, ""))
                continue
            value = _load(packed, recall)
            if is_record_key(key):
                value = self._state.records.completed(cache, key, value)
            elif cache.notes_origins:
                cache.note_origins({key: origin})
            self._state.store.put(cache, {key: value}, entries.labels.get(key, ""))
        self._state.store.flush()

    def _warn_of_foreign_key(self, node_name: str) -> None:
        name = self._state.backend_name
        self._state.warn(
            name,
            "foreign key",
            f"a result of node {node_name!r} from backend {name!r} is not cached: its key is not one that the nodes "
            "that were sent there can have.",
        )

    def _may_put(self, key: str, origin: Origin | None) -> bool:
        """Whether a key is one that the jobs can have: that of a result of their nodes, or of a record of one."""
        if is_record_key(key):
            return self._state.records.has_key(key)
        if not isinstance(origin, Origin) or not self._state.codes.is_ours(origin):
            return False
        own = origin.signature().hex()
        return key == (own if origin.is_of_call else manifest_key(own))


def _argument(value: bytes | SerializedError, recall: Recall | None) -> Any:
    if isinstance(value, SerializedError):
        return restore(value, lambda packed: unpack(packed, recall))
    return _load(value, recall)


def _load(packed: bytes, recall: Recall | None) -> Any:
    try:
        return unpack(packed, recall)
    except Exception as error:
        return NotTransferred("value", f"it cannot be loaded here: {type(error).__name__}: {error}")


def _can_be_packed(value: Any) -> bool:
    try:
        pack(value)
    except Exception:
        return False
    return True
