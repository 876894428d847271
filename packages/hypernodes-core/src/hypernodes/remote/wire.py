"""Jobs and outcomes as bytes: a seal, a header that can be read before anything is unpickled, and a pickle.

The seal is one line: the format, a checksum of everything behind it, and how many bytes that is. Bytes that were
changed on their way do not fit it. The header is one line of JSON with the versions of everything that has to agree on
both sides, and with the job that it belongs to.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple
from zlib import crc32

from hypernodes._version import __version__
from hypernodes.errors import RemoteVersionError, SerializationError

FORMAT = 4  # 1 was a header without a seal, 2 a job without the caller's settings, 3 a job in one piece
_NAME = b"HYPERNODES "
_SEAL = b"HYPERNODES %d %08x %016x\n"
_USUAL_HEADER_BYTES = 1 << 16
_SEAL_BYTES = len(_SEAL % (FORMAT, 0, 0))


class JobKey(NamedTuple):
    """What binds an outcome to its job.

    Attributes:
        job_id: Drawn for the job.
        digest: Checksum and size of its bytes, as in its seal.
    """

    job_id: str
    digest: str


class Opened(NamedTuple):
    """A job or an outcome before it is unpickled.

    Attributes:
        header: What is known of it.
        payload: The pickle.
        digest: Its checksum and size, as text.
    """

    header: dict[str, Any]
    payload: memoryview
    digest: str


def versions() -> dict[str, Any]:
    """Return the versions that have to be the same on both sides."""
    import cloudpickle

    return {
        "job format": FORMAT,
        "Python": "{}.{}".format(*sys.version_info[:2]),
        "hypernodes-core": __version__,
        "cloudpickle": cloudpickle.__version__,
    }


def begin(buffer: io.BytesIO, facts: Mapping[str, Any]) -> None:
    """Write a header, and room for a seal, into an empty buffer."""
    buffer.write(_SEAL % (FORMAT, 0, 0))
    buffer.write(json.dumps({**facts, "versions": versions()}).encode() + b"\n")


def seal(buffer: io.BytesIO) -> None:
    """Seal what was written into a buffer since `begin`."""
    with buffer.getbuffer() as content:
        body = content[_SEAL_BYTES:]
        content[:_SEAL_BYTES] = _SEAL % (FORMAT, crc32(body), len(body))
        body.release()


def sealed(facts: Mapping[str, Any], payload: bytes = b"") -> bytes:
    """Return a header and a payload, sealed."""
    buffer = io.BytesIO()
    begin(buffer, facts)
    buffer.write(payload)
    seal(buffer)
    return buffer.getvalue()


def digest_of(message: bytes | memoryview) -> str:
    """Return the checksum and the size that are in a seal of ours."""
    return bytes(message[len(_NAME) + 2 : _SEAL_BYTES - 1]).decode(errors="replace")


def open_sealed(message: Any, here: str, there: str) -> Opened:
    """Return header and payload of a job or an outcome.

    Args:
        message: The bytes.
        here: What this side is called in messages.
        there: What the other side is called.

    Raises:
        SerializationError: They are not a job or an outcome, or were changed on the way.
        RemoteVersionError: The other side has other versions.
    """
    if not isinstance(message, (bytes, bytearray, memoryview)):
        raise SerializationError(
            f"a job and an outcome are bytes; got {type(message).__name__}: `submit` of a backend returns what "
            "`execute` returned on the other side",
            path="message",
        )
    view = memoryview(message)
    seal_of_it, body = bytes(view[:_SEAL_BYTES]), view[_SEAL_BYTES:]
    if seal_of_it.startswith(b"{"):  # format 1
        _check_first_format(bytes(view), here, there)
    try:
        name, number, _, _ = seal_of_it.split(b" ")
        if not seal_of_it.endswith(b"\n") or name + b" " != _NAME:
            raise ValueError
        if seal_of_it != _SEAL % (int(number), crc32(body), len(body)):
            raise _damaged(view)
    except ValueError:
        raise SerializationError(
            f"{len(view)} bytes that are neither a job nor an outcome of HyperNodes: were they changed on the way?",
            path="message",
        ) from None
    line = bytes(body[:_USUAL_HEADER_BYTES])
    if b"\n" not in line:  # it holds a long traceback
        line = bytes(body)
    line = line[: line.index(b"\n") + 1]
    header = json.loads(line)
    check_versions(header["versions"], here, there)
    if int(number) != FORMAT:
        raise _damaged(view)
    return Opened(header, body[len(line) :], digest_of(view))


def _damaged(message: memoryview) -> SerializationError:
    return SerializationError(
        f"{len(message)} bytes of a job or an outcome that were damaged on the way: the checksum "
        f"{digest_of(message)!r} is not theirs. Nothing of them was used; run it again.",
        path="message",
    )


def _check_first_format(message: bytes, here: str, there: str) -> None:
    try:
        header = json.loads(message[: max(message.find(b"\n", 0, 65536), 0)])
        theirs = header["versions"]
        if not isinstance(theirs, dict):
            return
    except (ValueError, LookupError, TypeError):
        return
    check_versions(theirs, here, there)


def check_versions(theirs: Mapping[str, Any], here: str, there: str) -> None:
    """Compare the versions on both sides.

    Args:
        theirs: The versions on the other side.
        here: What this side is called in the message.
        there: What the other side is called.

    Raises:
        RemoteVersionError: They differ; the message names both of each.
    """
    ours = versions()
    differing = {name: (ours[name], theirs.get(name)) for name in ours if ours[name] != theirs.get(name)}
    if differing:
        listing = "; ".join(f"{name} {own} {here} and {other} {there}" for name, (own, other) in differing.items())
        raise RemoteVersionError(
            f"the two sides cannot understand each other: {listing}. Install the same versions on both.",
            differing=differing,
        )
