"""The format of stored entries, and the seal (an HMAC) that proves who wrote them.

    header    magic, format version, codec, number of parts
    lengths   of each part, 8 bytes each
    body      the parts one after the other, or all of them as one zlib stream
    seal      HMAC-SHA256 over the key of the entry (with its length), header, lengths and body

The key of the entry is covered by the seal, so that an entry moved to another key is refused. Before the seal has been
verified, nothing is unpickled and no memory is allocated beyond the real length of the entry.
"""

from __future__ import annotations

import hashlib
import hmac
import io
import itertools
import os
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from hypernodes.extension import new_buffer
from hypernodes_cache.regular_files import open_regular
from hypernodes_cache.value_encoding import RAW, ByteBuffer, EncodedValue, UnreadableError

_HEADER = struct.Struct("<2sBBI")
_MAGIC = b"HN"
_VERSION = 1
_SEAL_SIZE = 32
_COMPRESSED = 0x80  # set in the codec
_ONE_PART = struct.Struct("<2sBBIQ")  # header and lengths of an entry of one part, which most are

CHUNK_SIZE = 1 << 20  # bytes: stays in the processor's cache between being read and being hashed
SMALLEST_SIZE = _ONE_PART.size + _SEAL_SIZE


class Sealer:
    """Seals and opens entries with one secret key.

    Args:
        secret: The secret key, 32 bytes, known to everybody who may write entries.
        compress_level: Level of zlib from 1 to 9; 0 to store values as they are.
    """

    def __init__(self, secret: bytes, compress_level: int = 0) -> None:
        self._compress_level = compress_level
        # HMAC by its definition (RFC 2104) with the key hashed only once, which halves the time of `hmac.digest`.
        padded = secret.ljust(hashlib.sha256().block_size, b"\0")
        self._inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in padded))
        self._outer = hashlib.sha256(bytes(byte ^ 0x5C for byte in padded))

    def _start(self, key: str) -> Any:
        name = key.encode()
        inner = self._inner.copy()
        inner.update(len(name).to_bytes(8, "little") + name)
        return inner

    def _finish(self, inner: Any) -> bytes:
        outer = self._outer.copy()
        outer.update(inner.digest())
        return outer.digest()  # type: ignore[no-any-return, unused-ignore]

    # --- in memory ------------------------------------------------------------------------------------------------

    def seal(self, key: str, encoded: EncodedValue) -> bytes:
        """Return an entry as bytes."""
        codec, parts = encoded
        if len(parts) == 1 and not self._compress_level:
            content = _ONE_PART.pack(_MAGIC, _VERSION, codec, 1, len(parts[0])) + parts[0]
        else:
            content = b"".join((self._head(encoded), *self._body(parts)))
        inner = self._start(key)
        inner.update(content)
        return content + self._finish(inner)

    def open(self, key: str, entry: bytes) -> EncodedValue:
        """Return the value of an entry, after verifying its seal.

        Raises:
            UnreadableError: The entry was not written under this key with this secret key.
        """
        codec, lengths, body_start = _read_head(entry, len(entry))
        content = entry[:-_SEAL_SIZE]
        inner = self._start(key)
        inner.update(content)
        if not hmac.compare_digest(self._finish(inner), entry[-_SEAL_SIZE:]):
            raise _broken_seal()
        body = content[body_start:]
        if codec & _COMPRESSED:
            return EncodedValue(codec & ~_COMPRESSED, _decompress(body, lengths))
        if len(lengths) == 1:
            return EncodedValue(codec, (body,))
        parts: list[ByteBuffer] = []
        start = 0
        for length in lengths:
            # Buffers are copied, since the objects that use them must be writable.
            parts.append(bytearray(body[start : start + length]))
            start += length
        return EncodedValue(codec, parts)

    # --- in files -------------------------------------------------------------------------------------------------

    def write(self, path: str, key: str, encoded: EncodedValue) -> int:
        """Write an entry to a new file, without copying its parts in memory; return the size of the file in bytes.

        Raises:
            OSError: The file cannot be written; none is left behind.
        """
        with _new_file(path) as file:
            try:
                inner = self._start(key)
                for chunk in itertools.chain((self._head(encoded),), self._body(encoded.parts)):
                    inner.update(chunk)
                    _write_all(file, chunk)
                _write_all(file, self._finish(inner))
                return file.tell()
            except BaseException:
                _remove_quietly(path)
                raise

    def read(self, path: str, key: str) -> EncodedValue:
        """Return the value of an entry in a file; its parts are read into memory once, and are writable.

        Raises:
            FileNotFoundError: There is no such file.
            OSError: The file cannot be read.
            UnreadableError: The entry was not written under this key with this secret key.
        """
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            head = _read_exactly(file, min(_HEADER.size, size))
            if len(head) == _HEADER.size:
                head += _read_exactly(file, min(8 * _HEADER.unpack(head)[3], size - _HEADER.size))
            codec, lengths, body_start = _read_head(head, size)
            inner = self._start(key)
            inner.update(head)
            stored = [size - body_start - _SEAL_SIZE] if codec & _COMPRESSED else lengths
            # A value of type bytes has to come back as bytes, which cannot be filled piece by piece.
            read_part = _read_bytes if codec == RAW else _read_buffer
            parts = [read_part(file, length, inner.update) for length in stored]
            if not hmac.compare_digest(self._finish(inner), _read_exactly(file, _SEAL_SIZE)):
                raise _broken_seal()
        if codec & _COMPRESSED:
            return EncodedValue(codec & ~_COMPRESSED, _decompress(parts[0], lengths))
        return EncodedValue(codec, parts)

    def _head(self, encoded: EncodedValue) -> bytes:
        codec, parts = encoded
        codec |= _COMPRESSED if self._compress_level else 0
        return _HEADER.pack(_MAGIC, _VERSION, codec, len(parts)) + struct.pack(f"<{len(parts)}Q", *map(len, parts))

    def _body(self, parts: Sequence[ByteBuffer]) -> Iterator[ByteBuffer]:
        """Yield the body in chunks, of which only one is in memory at a time."""
        if not self._compress_level:
            yield from _chunks(parts)
            return
        stream = zlib.compressobj(self._compress_level)
        for chunk in _chunks(parts):
            if data := stream.compress(chunk):
                yield data
        yield stream.flush()


def codec_of(head: bytes) -> tuple[int, bool] | None:
    """Return the codec named by the first bytes of an entry, and whether it is compressed; None for other bytes."""
    if len(head) < _HEADER.size:
        return None
    magic, version, codec, _ = _HEADER.unpack_from(head)
    return (codec & ~_COMPRESSED, bool(codec & _COMPRESSED)) if (magic, version) == (_MAGIC, _VERSION) else None


def _read_head(head: bytes, size: int) -> tuple[int, Sequence[int], int]:
    """Return the codec, the lengths of the parts and the offset of the body.

    Args:
        head: The first bytes of the entry: header and lengths, or fewer if the entry is shorter.
        size: Size of the whole entry in bytes.
    """
    if size < SMALLEST_SIZE or head[:2] != _MAGIC:
        raise UnreadableError("it was not written by DiskCache, or is cut off")
    _, version, codec, count = _HEADER.unpack_from(head)
    if version != _VERSION:
        raise UnreadableError(f"its format {version} is not known to this version of hypernodes-cache")
    body_start = _HEADER.size + 8 * count
    stored = size - body_start - _SEAL_SIZE
    if not count or stored < 0:
        raise UnreadableError("it is cut off or was changed")
    lengths = struct.unpack_from(f"<{count}Q", head, _HEADER.size)
    if not codec & _COMPRESSED and sum(lengths) != stored:
        raise UnreadableError("it is cut off or was changed")
    return codec, lengths, body_start


def _broken_seal() -> UnreadableError:
    return UnreadableError(
        "it was changed, moved, or written with another secret key (HYPERNODES_CACHE_KEY shares one between users)"
    )


def _chunks(parts: Sequence[ByteBuffer]) -> Iterator[memoryview]:
    for part in parts:
        view = memoryview(part)
        for start in range(0, len(view), CHUNK_SIZE):
            yield view[start : start + CHUNK_SIZE]


def _decompress(body: ByteBuffer, lengths: Sequence[int]) -> list[ByteBuffer]:
    """Return the parts of a compressed body whose seal has been verified."""
    stream = zlib.decompressobj()
    chunks = _chunks((body,))
    rest: ByteBuffer = b""
    parts: list[ByteBuffer] = []
    for length in lengths:
        part = new_buffer(length)
        filled = 0
        while filled < length:
            data = stream.decompress(rest or next(chunks, b""), min(length - filled, CHUNK_SIZE))
            if not data and not stream.unconsumed_tail and stream.eof:
                raise UnreadableError("its compressed data ends too early")
            part[filled : filled + len(data)] = data
            filled += len(data)
            rest = stream.unconsumed_tail
        parts.append(part)
    return parts


def _read_buffer(file: io.RawIOBase, length: int, update: Callable[[ByteBuffer], None]) -> ByteBuffer:
    part = new_buffer(length)
    for chunk in _chunks((part,)):
        _fill(file, chunk)
        update(chunk)
    return part


def _read_bytes(file: io.RawIOBase, length: int, update: Callable[[ByteBuffer], None]) -> ByteBuffer:
    part = file.read(length) or b""
    if len(part) != length:  # the system limits the size of one read
        part += _read_exactly(file, length - len(part))
    update(part)
    return part


def _new_file(path: str) -> io.FileIO:
    try:
        return open(path, "xb", buffering=0)
    except FileNotFoundError:  # the first file in its folder
        os.makedirs(os.path.dirname(path), exist_ok=True)
        return open(path, "xb", buffering=0)


def _write_all(file: io.RawIOBase, data: ByteBuffer) -> None:
    view = memoryview(data)
    while view:
        written = file.write(view)
        view = view[written or 0 :]


def _fill(file: io.RawIOBase, target: memoryview) -> None:
    while target:
        count = file.readinto(target)
        if not count:
            raise UnreadableError("it is cut off")
        target = target[count:]


def _read_exactly(file: io.RawIOBase, size: int) -> bytes:
    data = bytearray(size)
    _fill(file, memoryview(data))
    return bytes(data)


def _remove_quietly(path: str) -> None:
    try:
        os.remove(path)
    except OSError:
        return
