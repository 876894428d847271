"""The worker's end of the channel: what it has to say is packed in order and sent by a thread of its own."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Mapping, Sequence
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Any

from hypernodes.engine.step import NotTransferred
from hypernodes.engine.workers.serialized_errors import SerializedError, describe
from hypernodes.remote.job import Kept
from hypernodes.remote.messages import ATTEMPT_BYTES, Message, Question, note, question
from hypernodes.remote.packing import pack, pack_ours, pack_plain, unpack

Exchange = Callable[[bytes], bytes | None]  # sends a message to the caller; returns its reply to a question

_LONGEST_WAIT_S = 0.02
_MAX_WAITING = 200
_SOON = object()  # something waits for company


class Outbox:
    """Sends messages to the caller.

    Args:
        exchange: The transport; None when it cannot talk while the job runs. Then messages wait for the outcome, and
            questions are answered with nothing.
        packing: Packs what is sent.
        patience_s: How long nothing is sent unless a question has to be asked, in seconds, so that a job that is over
            by then says everything with its outcome. What is left at the end of a longer one comes with it as well.

    Attributes:
        count: Number of messages so far.
        unsent: What was not sent while the job ran.
    """

    def __init__(self, exchange: Exchange | None, packing: Packing, patience_s: float = 0.0) -> None:
        self._exchange = exchange
        self.packing = packing
        self._waiting: list[Message] = []
        self._sent_at = 0.0
        self._lock = threading.Lock()
        self._packed: SimpleQueue[bytes | threading.Event | object | None] = SimpleQueue()
        self._exchanging = threading.Lock()
        self._failure: BaseException | None = None
        self._patience_s = patience_s
        self._is_urgent = threading.Event()
        self._rest_comes_with_outcome = False
        self._attempt = secrets.token_bytes(ATTEMPT_BYTES)
        self.count = 0
        self.unsent: list[bytes] = []
        self._thread: threading.Thread | None = None
        if exchange is not None:
            self._thread = threading.Thread(target=self._serve, name="hypernodes-outbox", daemon=True)
            self._thread.start()

    @property
    def can_ask(self) -> bool:
        """Whether the caller can be asked while the job runs."""
        return self._exchange is not None and self._failure is None

    def add(self, message: Message) -> None:
        """Send a message: at once if it is a while since the last one, else soon, together with others."""
        with self._lock:
            if not self._waiting and self._thread is not None:
                self._packed.put(_SOON)
            self._waiting.append(message)
            if len(self._waiting) >= _MAX_WAITING or monotonic() - self._sent_at > _LONGEST_WAIT_S:
                self._pack_waiting()

    def ask(self, what: Question) -> Any:
        """Return the caller's answer; it has seen everything that was sent before.

        Raises:
            ConnectionError: It could not be asked.
        """
        assert self._exchange is not None
        self.flush()
        with self._exchanging:
            reply = self._exchange(question(pack_ours(what)))
        if reply is None:
            raise ConnectionError("the caller does not answer")
        return unpack(reply, is_of_job=True)[0]

    def flush(self) -> None:
        """Wait until everything has been sent."""
        with self._lock:
            self._pack_waiting()
        if self._thread is not None and self._failure is None:
            sent = threading.Event()
            self._packed.put(sent)
            self._is_urgent.set()
            sent.wait()

    def close(self) -> list[bytes]:
        """Stop sending; return what was not sent, for the outcome."""
        self._rest_comes_with_outcome = self._patience_s > 0
        self.flush()
        if self._thread is not None:
            self._packed.put(None)
            self._is_urgent.set()
            self._thread.join()
        return self.unsent

    def _pack_waiting(self) -> None:
        if self._waiting:
            messages, self._waiting = self._waiting, []
            self._sent_at = monotonic()
            packed = note(self._attempt, self.count, pack_ours(messages))
            self.count += 1
            if self._exchange is None:
                self.unsent.append(packed)
            else:
                self._packed.put(packed)

    def _serve(self) -> None:
        self._is_urgent.wait(self._patience_s)
        while True:
            try:
                packed = self._packed.get(timeout=_LONGEST_WAIT_S if self._waiting else None)
            except Empty:
                with self._lock:  # nothing new for a while: what waits for company goes alone
                    self._pack_waiting()
                continue
            if packed is None:
                return
            if isinstance(packed, threading.Event):
                packed.set()
            elif isinstance(packed, bytes):
                if self._failure is not None or self._rest_comes_with_outcome:
                    self.unsent.append(packed)
                else:
                    self._send(packed)

    def _send(self, packed: bytes) -> None:
        assert self._exchange is not None
        try:
            with self._exchanging:
                self._exchange(packed)
        except Exception as error:  # liveness is lost, nothing else: the rest comes with the outcome
            self._failure = error
            self.unsent.append(packed)


class Packing:
    """Packs what a worker says: what came from the caller goes back as a reference to the caller's own.

    Args:
        code: Functions and classes that came from the caller, in the order of the caller's list.
    """

    def __init__(self, code: Sequence[Any] = ()) -> None:
        self._code = list(code)
        self._numbers = {id(obj): number for number, obj in enumerate(code)}

    def pack(self, value: Any, head: bytes = b"") -> bytes:
        """Return a value as bytes, after a head.

        Raises:
            Exception: It cannot be sent.
        """
        plain = pack_plain(value)
        return head + plain if plain is not None else pack(value, self._reference, head=head).data

    def pack_or_describe(self, value: Any) -> bytes:
        """Return a value as bytes, or what stands for it when it cannot be sent."""
        try:
            return self.pack(value)
        except Exception as error:
            if isinstance(value, Mapping):
                return self.pack(
                    {name: unpack(self.pack_or_describe(entry), self._known)[0] for name, entry in value.items()}
                )
            return self.pack(NotTransferred(type(value).__qualname__, f"{type(error).__name__}: {error}"))

    def describe(self, error: BaseException) -> SerializedError:
        """Return an exception in a form that can be sent."""
        return describe(error, (self.pack,), lambda packed: unpack(packed, self._known)[0])

    def _reference(self, obj: Any) -> Any:
        if type(obj) is Kept:
            return "kept", obj.cache, obj.key
        number = self._numbers.get(id(obj))
        return None if number is None else ("code", number)

    def _known(self, reference: tuple[Any, ...]) -> Any:
        kind, *where = reference
        return self._code[where[0]] if kind == "code" else Kept(*where)
