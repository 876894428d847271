"""What `import hypernodes` adds to the start of Python."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from time import perf_counter

from benchmarks.measure import Case, Reading, Suite

SUITE = Suite("Start-up")


def _seconds(code: str) -> float:
    started_at = perf_counter()
    subprocess.run([sys.executable, "-I", "-c", code], check=True)
    return perf_counter() - started_at


@SUITE.workload("what `import hypernodes` adds", budget=1 / 2.5, ideal="start of bare Python")
def _import() -> Iterator[Case]:
    def added() -> Reading:
        return Reading(_seconds("import hypernodes") - _seconds("pass"))

    yield Case(added, ideal=lambda: Reading(_seconds("pass")))
