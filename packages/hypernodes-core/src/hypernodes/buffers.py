"""Memory for large values that are read from files."""

from __future__ import annotations

_LARGE_BYTES = 4 * 1024 * 1024


def new_buffer(size_bytes: int) -> memoryview:
    """Return memory to be filled, of which whatever is made of it can be written to.

    A large one gets huge pages where the system has them: most of the time of filling fresh memory goes into the
    faults by which the system hands out its pages (numpy asks for the same for its own arrays). It is released, to the
    system, with the last view of it.

    Args:
        size_bytes: How large it is.

    Raises:
        MemoryError: There is not so much.
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
