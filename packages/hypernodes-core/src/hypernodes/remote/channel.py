"""The caller's end of the channel beside a job: events are replayed, new results stored, questions answered."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from time import perf_counter
from typing import Any

from hypernodes.backend.base import Backend
from hypernodes.cache.base import Cache
from hypernodes.cache.record import is_record_key
from hypernodes.callbacks import CallbackContext, Listeners, PipelineCallback
from hypernodes.engine.identity.plan_code import Origin
from hypernodes.engine.state import RunState
from hypernodes.engine.step import NotTransferred
from hypernodes.engine.store.run_store import is_manifest_key, manifest_key
from hypernodes.engine.workers.caller_settings import take_report
from hypernodes.engine.workers.serialized_errors import SerializedError, restore
from hypernodes.errors import SerializationError
from hypernodes.remote.job import ContextPath
from hypernodes.remote.messages import (
    CacheQuestion,
    Entries,
    Event,
    Message,
    Reported,
    open_message,
    reply_to,
    wants_reply,
)
from hypernodes.remote.observed_events import END_OF, Begun, ObservedEvents
from hypernodes.remote.packing import pack, unpack


class Channel:
    """Takes the messages that the worker sends while a job runs.

    A backend whose transport can carry messages during a job gives every one of the worker to `handle`, and what that
    returns back to the worker. Messages that come twice or in another order do no harm, nor does a backend that gives
    the job to another worker when one is lost: callbacks observe no event again, and one end of all that began. A
    transport that carries nothing leaves the channel alone: everything then comes with the outcome.

    Args:
        job_id: The job; messages of others are not taken.
        state: State of the run.
        caches: The caches, by number.
        callbacks: The callbacks, by number.
        recall: Returns what a reference of the worker's stands for.
        output_names: Returns the names of a node's outputs, by the path of its pipeline and its name.
        callable_backends: Other backends that nested pipelines in the job ask for.

    Attributes:
        callable_backends: Other backends that nested pipelines in the job ask for, by their number in it.
        is_cancelled: Whether nobody waits for the job any more.
        end_problem: What the backend raised when it was to end the job; None when it did not.
    """

    def __init__(
        self,
        job_id: str,
        state: RunState,
        caches: Mapping[int, Cache],
        callbacks: Mapping[int, PipelineCallback],
        recall: Callable[[Any], Any],
        output_names: Callable[[tuple[str, ...], str], Sequence[str]],
        callable_backends: Sequence[Backend] = (),
    ) -> None:
        self.callable_backends = callable_backends
        self._job_id = job_id
        self._state = state
        self._caches = caches
        self._recall = recall
        self._output_names = output_names
        root = state.root
        self._contexts: dict[ContextPath, CallbackContext] = {
            ContextPath(root.hierarchy_path, root.node_path, root.item_path): root
        }
        self._listeners = {
            number: Listeners([callback], root.switched_off, root.lock) for number, callback in callbacks.items()
        }
        self._attempts: list[bytes] = []  # the workers that sent something, the current one last
        self._observed = ObservedEvents(self._observes, self._argument)
        self._next = 0  # number of the first message that has not been taken
        self._early: dict[int, memoryview] = {}
        self._is_over = False
        self._lock = threading.RLock()
        self._ending = threading.Lock()
        self._end: Callable[[], object] | None = None
        self.is_cancelled = False
        self.end_problem: BaseException | None = None

    @property
    def has_listeners(self) -> bool:
        """Whether the worker has anything to send: there is a cache or a callback."""
        return bool(self._caches or self._listeners)

    @property
    def has_caches(self) -> bool:
        """Whether results of the job may be stored while it runs."""
        return bool(self._caches)

    def handle(self, message: bytes) -> bytes | None:
        """Take a message of the worker's.

        Args:
            message: What the worker gave to the transport.

        Returns:
            The reply, when the worker waits for one (`wants_reply`).
        """
        try:
            attempt, number, content = open_message(message, self._job_id)
        except SerializationError as error:
            self._drop(str(error))
            return None
        with self._lock:
            if wants_reply(message):
                return reply_to(message, self._answer(self._read(content)))
            if attempt not in self._attempts:
                self._begin(attempt)
            is_current = attempt == self._attempts[-1]  # a lost worker's last words may come late
            if is_current and number >= self._next and not self._is_over:
                self._early[number] = content
                while self._next in self._early:
                    self._take_next()
            return None

    def _begin(self, attempt: bytes) -> None:
        self._attempts.append(attempt)
        self._next = 0
        self._early.clear()
        if len(self._attempts) > 1:
            self._observed.begin_again()

    def when_cancelled(self, end: Callable[[], object]) -> None:
        """Set how the job is ended before its time.

        A backend that can do so calls this when the job runs; otherwise a run that is cancelled waits for the job.

        Args:
            end: Makes `submit` return or raise soon; called at most once, from another thread.
        """
        with self._ending:
            self._end = end
            is_late = self.is_cancelled
        if is_late:
            self._call(end)

    def cancel(self) -> None:
        """End the job, if the backend can: nobody waits for it any more."""
        with self._ending:
            is_first = not self.is_cancelled
            self.is_cancelled = True
            end = self._end
        if is_first and end is not None:
            self._call(end)

    def _call(self, end: Callable[[], object]) -> None:
        try:
            end()
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # the run is cancelled all the same, and other runs with it are not held up
            self.end_problem = error

    def finish(self, messages: Sequence[bytes] = (), count: int | None = None) -> None:
        """Take what has come and nothing more.

        Args:
            messages: Those that came with the outcome.
            count: How many there are in all; None when there is no outcome that says so.
        """
        with self._lock:
            for message in messages:
                self.handle(message)
            lost = 0 if count is None else count - self._next - len(self._early)
            for number in sorted(self._early):  # what caused these events is lost: no callbacks for them
                self._take(self._read(self._early.pop(number)), is_observed=False)
            self._is_over = True
            if lost > 0:
                self._state.warn(
                    self._state.backend_name,
                    "lost messages",
                    f"{lost} of {count} messages of backend {self._state.backend_name!r} were lost on the way: "
                    "callbacks did not observe all that happened, and some results are not in the cache.",
                )

    def close_open(self, error: BaseException | None = None) -> None:
        """Let callbacks observe the end of all whose beginning they observed, innermost first: the job is over.

        Args:
            error: Why; what the nodes that were running end with. None when they ended and it was not observed.
        """
        with self._lock:
            for begun in self._observed.take_open():
                self._report_end(begun, error)

    def _report_end(self, begun: Begun, error: BaseException | None = None, key: str = "") -> None:
        """Let a callback observe the end of something whose end did not arrive.

        Args:
            begun: Its beginning.
            error: What it ends with.
            key: Key of its result in a cache, where known.
        """
        (number, hook, _, position), names, started_at = begun
        listeners, context = self._listeners[number], self._context(position)
        subject = [self._argument(name) for name in names]
        duration_s = perf_counter() - started_at
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

    def _take_next(self) -> None:
        content = self._early.pop(self._next)
        self._next += 1
        self._take(self._read(content))

    def _read(self, content: memoryview) -> Any:
        try:
            return unpack(content, self._recall)[0]
        except Exception as error:
            self._drop(f"{type(error).__name__}: {error}")
            return []

    def _drop(self, reason: str) -> None:
        self._state.warn(
            self._state.backend_name,
            "message",
            f"dropped a message from backend {self._state.backend_name!r} that could not be decoded: {reason}",
        )

    def _answer(self, question: Any) -> bytes:
        found: Mapping[str, Any] = {}
        if isinstance(question, CacheQuestion) and question.cache in self._caches:
            found = self._state.store.get_many(self._caches[question.cache], question.keys)
        try:
            return pack(dict(found)).data
        except Exception:  # some of it cannot be sent there: then it is computed there
            return pack({key: value for key, value in found.items() if _can_be_packed(value)}).data

    def _take(self, messages: Sequence[Message], is_observed: bool = True) -> None:
        for message in messages:
            if isinstance(message, Entries):
                self._store(message)
            elif isinstance(message, Event):
                if is_observed:
                    self._replay(message)
            elif isinstance(message, Reported):
                take_report(message.function, message.arguments)
            else:
                self._state.warn(*message)

    def _replay(self, event: Event) -> None:
        due = self._observed.note(event)
        for begun in due.ends:
            is_own = event.hook == "on_node_cached" and begun.names == event.arguments[:1]
            self._report_end(begun, key=self._argument(event.arguments[1]) if is_own else "")
        if due.is_event_due:
            listeners = self._listeners[event.callback]
            arguments = (self._argument(value) for value in event.arguments)
            listeners.notify(getattr(listeners, event.hook), *arguments, self._context(event.position))

    def _observes(self, callback: int, hook: str) -> bool:
        return bool(getattr(self._listeners[callback], hook))

    def _store(self, entries: Entries) -> None:
        cache = self._caches[entries.cache]
        for key, packed in entries.values.items():
            origin = entries.origins.get(key)
            if not self._may_put(key, origin):
                if not (is_record_key(key) or is_manifest_key(key)):  # which only save time
                    self._warn_of_foreign_key(entries.labels.get(key, ""))
                continue
            value = self._load(packed)
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
        """Whether a key is one that the job can have: that of a result of its nodes, or of a record of one."""
        if is_record_key(key):
            return self._state.records.has_key(key)
        if not isinstance(origin, Origin) or not self._state.codes.is_ours(origin):
            return False
        own = origin.signature().hex()
        return key == (own if origin.is_of_call else manifest_key(own))

    def _argument(self, value: bytes | SerializedError) -> Any:
        if isinstance(value, SerializedError):
            return restore(value, lambda packed: unpack(packed, self._recall)[0])
        return self._load(value)

    def _load(self, packed: bytes) -> Any:
        try:
            return unpack(packed, self._recall)[0]
        except Exception as error:
            return NotTransferred("value", f"it cannot be loaded here: {type(error).__name__}: {error}")

    def _context(self, path: ContextPath) -> CallbackContext:
        context = self._contexts.get(path)
        if context is None:
            context = self._contexts[path] = CallbackContext(*path, around=self._state.root)
        return context


def _can_be_packed(value: Any) -> bool:
    try:
        pack(value)
    except Exception:
        return False
    return True
