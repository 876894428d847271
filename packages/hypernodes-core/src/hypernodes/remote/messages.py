"""What is said over the channel beside a job: events, new results and questions there, answers back.

Values in messages are packed one by one, so that one that cannot be loaded spoils nothing else. Messages are numbered
from zero, so that the caller takes each of them once and in order, whatever the transport does to them.
"""

from __future__ import annotations

import struct
from typing import NamedTuple, TypeAlias

from hypernodes.engine.workers.serialized_errors import SerializedError
from hypernodes.remote.job import Where


class Event(NamedTuple):
    """A callback is to hear something.

    Attributes:
        callback: Number of the callback.
        hook: Which of its methods.
        arguments: Its arguments without the context, each packed; an exception as `SerializedError`.
        where: The context.
    """

    callback: int
    hook: str
    arguments: tuple[bytes | SerializedError, ...]
    where: Where


class Entries(NamedTuple):
    """New results that the caller's cache is to keep.

    Attributes:
        cache: Number of the cache.
        values: The results by key, each packed.
        labels: Names of the nodes that made them, by key.
    """

    cache: int
    values: dict[str, bytes]
    labels: dict[str, str]


class Warned(NamedTuple):
    """The user is to be warned."""

    subject: str
    reason: str
    text: str


class Question(NamedTuple):
    """What does the caller's cache hold? Answered by a dict of the values it does.

    Attributes:
        cache: Number of the cache.
        keys: The keys.
    """

    cache: int
    keys: list[str]


Message: TypeAlias = Event | Entries | Warned

_NOTE, _QUESTION = b"!", b"?"  # first byte of what is sent: whether an answer is waited for
_HEAD = struct.Struct(">c8sQ")
ATTEMPT_BYTES = 8


def note(attempt: bytes, number: int, content: bytes) -> bytes:
    """Return a message that nobody waits for an answer to.

    Args:
        attempt: Stands for the worker, since a place may give the job to another one when the first is lost.
        number: How many messages that worker sent before.
        content: What it says.
    """
    return _HEAD.pack(_NOTE, attempt, number) + content


def question(content: bytes) -> bytes:
    """Return a message whose answer is waited for; it has no number, since it may be answered any number of times."""
    return _HEAD.pack(_QUESTION, bytes(ATTEMPT_BYTES), 0) + content


def wants_reply(message: bytes) -> bool:
    """Whether the worker waits for an answer to a message."""
    return message[:1] == _QUESTION


def open_message(message: bytes) -> tuple[bytes, int, memoryview]:
    """Return attempt, number and content of a message."""
    _, attempt, number = _HEAD.unpack_from(message)
    return attempt, number, memoryview(message)[_HEAD.size :]
