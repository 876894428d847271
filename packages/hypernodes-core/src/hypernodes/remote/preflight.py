"""What a remote run would send, found out before it is sent."""

from __future__ import annotations

from typing import NamedTuple


class Preflight(NamedTuple):
    """What would travel to a remote place.

    Attributes:
        needs_call: Whether anything has to run there; False when the cache holds everything.
        size_bytes: Size of the job.
        nodes: Names of the nodes that may run there.
        cached: Names of the nodes whose results the cache holds.
        values: Size of each input and intermediate result that travels, in bytes.
        modules: The user's own modules that travel.
        problems: What would keep the job from being sent or understood; empty when all is well.
    """

    needs_call: bool
    size_bytes: int
    nodes: tuple[str, ...]
    cached: tuple[str, ...]
    values: dict[str, int]
    modules: tuple[str, ...]
    problems: tuple[str, ...]

    def __str__(self) -> str:
        if not self.needs_call:
            return "nothing has to run: the cache holds all results"
        lines = [
            f"{_size(self.size_bytes)} would be sent",
            f"  runs there: {', '.join(self.nodes)}",
            f"  from the cache: {', '.join(self.cached) or 'nothing'}",
        ]
        for name, size in sorted(self.values.items(), key=lambda entry: -entry[1]):
            lines.append(f"  {name}: {_size(size)}")
        if self.modules:
            lines.append(f"  modules of yours: {', '.join(self.modules)}")
        return "\n".join([*lines, *(f"  PROBLEM: {problem}" for problem in self.problems)])


def _size(size_bytes: int) -> str:
    size = float(size_bytes)
    for unit in ("bytes", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"
