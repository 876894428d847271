"""Runs workloads with one other tool, in that tool's own environment: a process that answers lines of JSON.

`{"setup": NAME, "arguments": {...}}` prepares what the adapter's function of that name returns, and answers whether
there is one; `{"measure": SECONDS}` calls it as often as fits in that time, once at least, and answers with the seconds
per call.
"""

from __future__ import annotations

import gc
import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any


def main(adapter_name: str) -> None:
    answers, sys.stdout = sys.stdout, sys.stderr  # what the tool prints must not come between the answers
    sys.path.insert(0, str(Path(__file__).parent.parent))  # for functions.py, and for nothing of HyperNodes
    sys.setrecursionlimit(1000)
    adapter = importlib.import_module(adapter_name)
    run: Callable[[], Any] = lambda: None  # noqa: E731
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if "setup" in request:
                prepare = getattr(adapter, request["setup"], None)
                answer: dict[str, Any] = {"ready": prepare is not None}
                if prepare is not None:
                    run = prepare(**request["arguments"])
            else:
                answer = {"seconds": seconds_per_call(run, request["measure"])}
        except Exception as error:
            answer = {"failed": f"{type(error).__name__}: {str(error)[:80]}"}
        print(json.dumps(answer), file=answers, flush=True)


def seconds_per_call(run: Callable[[], Any], budget_s: float, passes: int = 20) -> float:
    """Call `run` for about `budget_s`, in passes; return the average of the best pass."""
    gc.collect()
    best = float("inf")
    began_at = perf_counter()
    for _ in range(passes):
        count, started_at = 0, perf_counter()
        while count == 0 or perf_counter() - started_at < budget_s / passes:
            run()
            count += 1
        best = min(best, (perf_counter() - started_at) / count)
        if perf_counter() - began_at > budget_s:
            break
    return best


if __name__ == "__main__":
    main(sys.argv[1])
