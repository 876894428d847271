"""Memory for large values."""

from __future__ import annotations

import pickle

import pytest

from hypernodes.buffers import new_buffer


@pytest.mark.parametrize("size_bytes", [0, 1, 4 * 1024 * 1024, 4 * 1024 * 1024 + 1])
def test_a_buffer_can_be_filled(size_bytes: int) -> None:
    buffer = new_buffer(size_bytes)
    assert (len(buffer), buffer.format, buffer.readonly) == (size_bytes, "B", False)
    buffer[:] = b"x" * size_bytes
    assert bytes(buffer) == b"x" * size_bytes


def test_what_is_made_of_a_large_buffer_outlives_it() -> None:
    content = bytearray(range(256)) * 20_000
    buffer = new_buffer(len(content))
    buffer[:] = content
    made = pickle.loads(pickle.dumps(pickle.PickleBuffer(content), 5, buffer_callback=lambda _: None), buffers=[buffer])
    del buffer
    made[0] = 7
    assert bytes(made) == b"\x07" + content[1:]
