"""What a remote run or map would send, found out before it is sent."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from hypernodes.remote.needed_packages import Package
    from hypernodes.remote.transport import Transport

OWN_PYTHON = "{}.{}".format(*sys.version_info[:2])


class Preflight(NamedTuple):
    """What would be sent to a remote backend.

    Attributes:
        needs_call: Whether anything has to run remotely; False when the cache holds everything.
        size_bytes: Size of the job.
        nodes: Names of the nodes that may run remotely.
        cached: Names of the nodes whose results the cache holds; of a map, for all items.
        values: Size of each input and intermediate result that is sent, in bytes; of a map, for all items that are.
        modules: The user's own modules that are sent.
        problems: What would keep the job from being sent or understood; empty when all is well.
        items: Number of items of a map; None for a run.
        cached_items: How many of these the cache holds as a whole.
        python: Minor version of Python on the remote side ("3.12"); None when it is only compared as the job starts.
        divided: What is divided among several jobs: the names of mapped pipelines in a run, or the map itself. The size
            is then that of a single job for everything.
        jobs_at_once: How many jobs the backend takes at a time now.
    """

    needs_call: bool
    size_bytes: int
    nodes: tuple[str, ...]
    cached: tuple[str, ...]
    values: dict[str, int]
    modules: tuple[str, ...]
    problems: tuple[str, ...]
    items: int | None = None
    cached_items: int = 0
    python: str | None = None
    divided: tuple[str, ...] = ()
    jobs_at_once: int = 1

    def __str__(self) -> str:
        if not self.needs_call:
            return "nothing has to run: the cache holds all results"
        lines = [
            f"{_size(self.size_bytes)} would be sent",
            f"  runs there: {', '.join(self.nodes)}",
            f"  from the cache: {self._found()}",
        ]
        if self.divided:
            lines.append(f"  divided among jobs: {', '.join(self.divided)}; now up to {self.jobs_at_once} at a time")
        for name, size in sorted(self.values.items(), key=lambda entry: -entry[1]):
            lines.append(f"  {name}: {_size(size)}")
        if self.modules:
            lines.append(f"  modules of yours: {', '.join(self.modules)}")
        lines.append(f"  Python there: {self.python or f'compared with {OWN_PYTHON} here when the job starts'}")
        return "\n".join([*lines, *(f"  PROBLEM: {problem}" for problem in self.problems)])

    def _found(self) -> str:
        if self.items is not None:
            return f"{self.cached_items:,} of {self.items:,} items"
        return ", ".join(self.cached) or "nothing"


def python_problem(python: str | None, backend: Transport, backend_name: str) -> list[str]:
    """Return what is wrong with the version of Python on the remote side, if it is known."""
    if python is None or python == OWN_PYTHON:
        return []
    return [
        f"Python {OWN_PYTHON} here and {python} at {backend_name}: the minor version must be the same on both sides. "
        f"{backend.advise_python(OWN_PYTHON)}"
    ]


def package_problems(needed: Mapping[Package, Sequence[str]], backend: Transport, backend_name: str) -> list[str]:
    """Return which packages are missing on the remote side, as far as it is known, what needs them and what to do."""
    return [
        f"{', '.join(needed[package])} needs {package.module!r}, which is not installed at {backend_name}. "
        f"{backend.advise_packages([package.requirement])}"
        for package in (backend.find_missing(list(needed)) if needed else ())
    ]


def _size(size_bytes: int) -> str:
    size = float(size_bytes)
    for unit in ("bytes", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"
