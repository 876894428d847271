"""What is sent beside a job while it runs: events, new results and questions there, replies back.

Values in messages are packed one by one, so that one that cannot be loaded costs nothing else. Messages are numbered
from zero, so that the caller takes each of them once and in order, whatever the transport does to them. Each says which
job it belongs to and has a checksum: one of another job, or one that was damaged, is not taken.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias
from zlib import crc32

from hypernodes.engine.identity.plan_code import Origin
from hypernodes.engine.workers.serialized_errors import SerializedError
from hypernodes.errors import SerializationError
from hypernodes.remote.job import ContextPath


class Event(NamedTuple):
    """A callback is to be called.

    Attributes:
        callback: Number of the callback.
        hook: Which of its methods.
        arguments: Its arguments without the context, each packed; an exception as `SerializedError`.
        position: The context.
    """

    callback: int
    hook: str
    arguments: tuple[bytes | SerializedError, ...]
    position: ContextPath


class Entries(NamedTuple):
    """New results that the caller's cache is to store.

    Attributes:
        cache: Number of the cache.
        values: The results by key, each packed.
        labels: Names of the nodes that made them, by key.
        origins: What the keys are made of.
    """

    cache: int
    values: dict[str, bytes]
    labels: dict[str, str]
    origins: dict[str, Origin]


class Rows(NamedTuple):
    """Results of items that are done, of a job that sends them as they come.

    Attributes:
        indexes: Index of each item in the whole map.
        columns: For each output, by name, one value per item; packed.
    """

    indexes: list[int]
    columns: bytes


class Warned(NamedTuple):
    """The user is to be warned."""

    subject: str
    reason: str
    text: str
    category: type[Warning]


class Reported(NamedTuple):
    """Something that a node logged or warned of.

    Attributes:
        function: What takes it, see `caller_settings`.
        arguments: Its arguments.
    """

    function: Callable[..., object]
    arguments: tuple[Any, ...]


class CacheQuestion(NamedTuple):
    """What does the caller's cache hold? Answered by a dict of the values it does.

    Attributes:
        cache: Number of the cache.
        keys: The keys.
    """

    cache: int
    keys: list[str]


Message: TypeAlias = Event | Entries | Rows | Warned | Reported

_NOTIFICATION, _QUESTION, _REPLY = b"!", b"?", b"="  # first byte: whether a reply is waited for
_HEAD = struct.Struct(">c16s8sQ")
_CHECKSUM = struct.Struct(">I")
ATTEMPT_BYTES = 8


class OpenedMessage(NamedTuple):
    """A message before its content is unpickled.

    Attributes:
        attempt: Stands for the worker.
        number: How many messages that worker sent before; of a question, how many questions.
        content: What it says.
    """

    attempt: bytes
    number: int
    content: memoryview


def _pack(kind: bytes, job_id: str, attempt: bytes, number: int, content: bytes) -> bytes:
    head = _HEAD.pack(kind, bytes.fromhex(job_id), attempt, number)
    return b"".join((head, _CHECKSUM.pack(crc32(content, crc32(head))), content))


def notification(job_id: str, attempt: bytes, number: int, content: bytes) -> bytes:
    """Return a message that needs no reply.

    Args:
        job_id: The job.
        attempt: Stands for the worker, since a backend may give the job to another one when the first is lost.
        number: How many messages that worker sent before.
        content: What it says.
    """
    return _pack(_NOTIFICATION, job_id, attempt, number, content)


def question(job_id: str, attempt: bytes, number: int, content: bytes) -> bytes:
    """Return a message whose reply is waited for; it may be answered any number of times."""
    return _pack(_QUESTION, job_id, attempt, number, content)


def reply_to(message: bytes, content: bytes) -> bytes:
    """Return the reply to a question."""
    _, job_id, attempt, number = _HEAD.unpack_from(message)
    return _pack(_REPLY, job_id.hex(), attempt, number, content)


def wants_reply(message: bytes) -> bool:
    """Whether the worker waits for the reply to a message."""
    return message[:1] == _QUESTION


def open_message(message: bytes, job_id: str) -> OpenedMessage:
    """Return attempt, number and content of a message.

    Args:
        message: The message.
        job_id: The job that it must belong to.

    Raises:
        SerializationError: It belongs to another job, or was damaged on the way.
    """
    kind, attempt, number, content = _open(message, job_id)
    if kind == _REPLY:
        raise SerializationError("a reply where a message is expected", path="message")
    return OpenedMessage(attempt, number, content)


def open_reply(reply: bytes, job_id: str, attempt: bytes, number: int) -> memoryview:
    """Return the content of a reply.

    Args:
        reply: The reply.
        job_id: The job of the question.
        attempt: Stands for the worker that asked.
        number: Number of the question.

    Raises:
        SerializationError: It is the reply to something else, or was damaged on the way.
    """
    kind, to_attempt, to_number, content = _open(reply, job_id)
    if (kind, to_attempt, to_number) != (_REPLY, attempt, number):
        raise SerializationError("the reply to another question", path="message")
    return content


def _open(message: object, job_id: str) -> tuple[bytes, bytes, int, memoryview]:
    if not isinstance(message, (bytes, bytearray, memoryview)):
        raise SerializationError(f"messages are bytes; got {type(message).__name__}", path="message")
    start = _HEAD.size + _CHECKSUM.size
    if len(message) < start:
        raise SerializationError(f"a message of {len(message)} bytes: it is not whole", path="message")
    content = memoryview(message)[start:]
    (checksum,) = _CHECKSUM.unpack_from(message, _HEAD.size)
    if checksum != crc32(content, crc32(message[: _HEAD.size])):
        raise SerializationError("it was damaged on the way", path="message")
    kind, of_job, attempt, number = _HEAD.unpack_from(message)
    if of_job.hex() != job_id:
        raise SerializationError("it belongs to another job", path="message")
    return kind, attempt, number, content
