"""Allocates memory for large values that are read from files."""

from __future__ import annotations

_LARGE_BYTES = 4 * 1024 * 1024


def new_buffer(size_bytes: int) -> memoryview:
    """Return writable memory to be filled.

    A large buffer uses huge pages where the system has them: most of the time of filling fresh memory is spent on page
    faults (numpy does the same for its own arrays). The memory is returned to the system with the last view of it.

    Args:
        size_bytes: Size of the buffer.

    Raises:
        MemoryError: There is not enough memory.
    """
    if size_bytes >= _LARGE_BYTES:
        import mmap  # not before it is needed

        if hasattr(mmap, "MADV_HUGEPAGE"):
            try:
                memory = mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
                memory.madvise(mmap.MADV_HUGEPAGE)
            except OSError:  # a system without them, or too many mappings
                return memoryview(bytearray(size_bytes))
            return memoryview(memory)
    return memoryview(bytearray(size_bytes))
