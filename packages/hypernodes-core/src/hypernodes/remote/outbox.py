"""The worker's end of the channel: messages are packed in order and sent by a thread of its own."""

from __future__ import annotations

import os
import secrets
import threading
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Any

from hypernodes.engine.step import NotTransferred
from hypernodes.engine.workers.code_owner import code_owner
from hypernodes.engine.workers.serialized_errors import SerializedError, describe
from hypernodes.engine.workers.threads import start_thread
from hypernodes.remote import wire
from hypernodes.remote.job import StoredResult
from hypernodes.remote.messages import (
    ATTEMPT_BYTES,
    CacheQuestion,
    Message,
    Reported,
    notification,
    open_reply,
    question,
)
from hypernodes.remote.modules import JobModules
from hypernodes.remote.packing import pack, pack_ours, pack_plain, unpack

Exchange = Callable[[bytes], bytes | None]  # sends a message to the caller; returns its reply to a question

_LONGEST_WAIT_S = 0.02
_MAX_WAITING = 200
_SOON = object()  # there is a message that waits for others


class Outbox:
    """Sends messages to the caller.

    A process that a node forks has no sending thread, and the caller expects nothing from it: there, messages are
    dropped, nothing can be asked, and nothing is waited for.

    Args:
        exchange: The transport; None when it carries nothing while the job runs. Then messages wait for the outcome,
            and questions are answered with nothing.
        packing: Packs what is sent.
        job: The job that is executed.
        patience_s: How long nothing is sent unless a question has to be asked, in seconds, so that a job that is over
            by then sends everything with its outcome. What is left at the end of a longer one comes with it as well.

    Attributes:
        count: Number of messages so far.
        unsent: What was not sent while the job ran.
    """

    def __init__(self, exchange: Exchange | None, packing: Packing, job: JobModules, patience_s: float = 0.0) -> None:
        self._exchange = exchange
        self.packing = packing
        self._job = job
        self._waiting: list[Message] = []
        self._sent_at = 0.0
        self._lock = threading.RLock()  # what is collected while messages are packed may log
        self._packed: SimpleQueue[bytes | threading.Event | object | None] = SimpleQueue()
        self._exchanging = threading.Lock()
        self._failure: BaseException | None = None
        self._patience_s = patience_s
        self._is_urgent = threading.Event()
        self._rest_comes_with_outcome = False
        self._attempt = secrets.token_bytes(ATTEMPT_BYTES)
        self._questions = count()
        self.count = 0
        self.unsent: list[bytes] = []
        self._pid = os.getpid()
        self._thread: threading.Thread | None = None
        if exchange is not None:
            self._thread = threading.Thread(target=self._serve, name="hypernodes-outbox", daemon=True)
            start_thread(self._thread)

    @property
    def can_ask(self) -> bool:
        """Whether the caller can be asked while the job runs."""
        return self._exchange is not None and self._failure is None and not self._is_in_fork

    @property
    def _is_in_fork(self) -> bool:
        return os.getpid() != self._pid

    def add(self, message: Message) -> None:
        """Send a message: at once if it is a while since the last one, else soon, together with others."""
        if self._is_in_fork:
            return
        with self._lock:
            if not self._waiting and self._thread is not None:
                self._packed.put(_SOON)
            self._waiting.append(message)
            if len(self._waiting) >= _MAX_WAITING or monotonic() - self._sent_at > _LONGEST_WAIT_S:
                self._pack_waiting()

    def report(self, function: Callable[..., object], *arguments: Any) -> bool:
        """Have the caller call a function; return whether it will, while the job runs."""
        if not self.can_ask:
            return False
        self.add(Reported(function, arguments))
        return True

    def ask(self, what: CacheQuestion) -> Any:
        """Return the caller's reply; it has received everything that was sent before.

        Raises:
            ConnectionError: It could not be asked.
            SerializationError: The reply was damaged, or is that to another question.
        """
        if self._is_in_fork:
            raise ConnectionError("the caller does not reply to a process that a node forked")
        self.flush()
        with self._exchanging:
            number = next(self._questions)
            reply = self._carry(question(self._job.key, self._attempt, number, pack_ours(what)))
        if reply is None:
            raise ConnectionError("the caller does not reply")
        return unpack(open_reply(reply, self._job.key, self._attempt, number), job=self._job)

    def flush(self) -> None:
        """Wait until everything has been sent."""
        if self._is_in_fork:
            return
        with self._lock:
            self._pack_waiting()
        if self._thread is not None and self._failure is None:
            sent = threading.Event()
            self._packed.put(sent)
            self._is_urgent.set()
            sent.wait()

    def close(self) -> list[bytes]:
        """Stop sending; return what was not sent, for the outcome."""
        if self._is_in_fork:
            return []
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
            number, self.count = self.count, self.count + 1
            packed = notification(self._job.key, self._attempt, number, pack_ours(messages))
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
                with self._lock:  # nothing new for a while: what waits for others is sent alone
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
        try:
            with self._exchanging:
                self._carry(packed)
        except BaseException as error:  # the run is not observed live any more: the rest comes with the outcome
            self._failure = error
            self.unsent.append(packed)

    def _carry(self, packed: bytes) -> bytes | None:
        """Give a message to the transport.

        Raises:
            ConnectionError: The transport raised something that is not meant to end the job.
        """
        assert self._exchange is not None
        token = code_owner.set(None)  # what a transport in this process calls is no code of the job's
        try:
            return self._exchange(packed)
        except (Exception, KeyboardInterrupt):
            raise
        except BaseException as error:  # an `asyncio.CancelledError` says that the request was given up, not the job
            raise ConnectionError(f"the transport gave up: {type(error).__name__}: {error}") from error
        finally:
            code_owner.reset(token)


class Packing:
    """Packs what a worker sends: what came from the caller goes back as a reference to the caller's own.

    Args:
        code: Functions and classes that came from the caller, in the order of the caller's list.
        job: The job that is executed.
    """

    def __init__(self, code: Sequence[Any], job: JobModules) -> None:
        self._code = list(code)
        self._job = job
        self._numbers = {id(obj): number for number, obj in enumerate(code)}

    def pack(self, value: Any, header: Mapping[str, Any] | None = None) -> bytes:
        """Return a value as bytes, behind a header if there is one.

        Raises:
            Exception: It cannot be sent.
        """
        plain = pack_plain(value)
        if plain is None:
            return pack(value, self._reference, header=header).data
        return plain if header is None else wire.sealed(header, plain)

    def pack_or_describe(self, value: Any) -> bytes:
        """Return a value as bytes, or what stands for it when it cannot be sent."""
        try:
            return self.pack(value)
        except Exception as error:
            if isinstance(value, Mapping):
                return self.pack({name: self._unpack(self.pack_or_describe(entry)) for name, entry in value.items()})
            return self.pack(NotTransferred(type(value).__qualname__, f"{type(error).__name__}: {error}"))

    def describe(self, error: BaseException) -> SerializedError:
        """Return an exception in a form that can be sent."""
        return describe(error, (self.pack,), self._unpack)

    def _unpack(self, packed: bytes) -> Any:
        return unpack(packed, self._known, self._job, is_from_caller=False)

    def _reference(self, obj: Any) -> Any:
        if type(obj) is StoredResult:
            return "stored", obj.cache, obj.key
        number = self._numbers.get(id(obj))
        return None if number is None else ("code", number)

    def _known(self, reference: tuple[Any, ...]) -> Any:
        kind, *arguments = reference
        return self._code[arguments[0]] if kind == "code" else StoredResult(*arguments)
