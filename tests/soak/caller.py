"""One caller of a soak: runs generated pipelines until its time is over, while its workers are killed."""

from __future__ import annotations

import faulthandler
import json
import os
import random
import signal
import sys
import threading
import time
import traceback
import warnings
from collections import Counter
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import hypothesis
from hypothesis import HealthCheck, Phase, given, settings

from hypernodes import Backend, Cache, CacheWarning, LocalBackend, MapInputError, MapLengthError, WorkerDiedError
from hypernodes.backend import SubprocessBackend
from hypernodes.errors import WorkerLostError
from hypernodes_cache import DiskCache
from tests.semantics.build import Built
from tests.semantics.generate import Scenario, scenarios
from tests.semantics.modes import NAMES
from tests.semantics.reference import Reference
from tests.semantics.specification import PlannedError, without_caches
from tests.semantics.test_generated_pipelines import MAX_CALLS, Observed, check_result
from tests.worker_processes.observe import processes

SCENARIOS_PER_ROUND = 40
CACHES = 3
OPEN_BACKENDS = 4


class Caller:
    """Runs scenarios and counts what happened.

    Args:
        name: Name of the caller, for its files.
        folder: Folder of the soak.
        seed: What everything random depends on.
    """

    def __init__(self, name: str, folder: Path, seed: int) -> None:
        self._chance = random.Random(seed)
        self._folder = folder
        self._own_folder = folder / name
        self._own_folder.mkdir()
        self._caches = [DiskCache(folder / f"cache-{number}") for number in range(CACHES)]
        self._backends: list[tuple[Backend, ExitStack]] = []
        self.happened: Counter[str] = Counter()

    def run_round(self) -> None:
        """Run some scenarios, each in a place and modes of its own."""

        @hypothesis.seed(self._chance.randrange(2**31))
        @settings(
            max_examples=SCENARIOS_PER_ROUND,
            phases=[Phase.generate],
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(scenario=scenarios())
        def run(scenario: Scenario) -> None:
            self._run(scenario)

        run()

    def close(self) -> None:
        for _, stack in self._backends:
            stack.close()
        for cache in self._caches:
            cache.close()

    def _run(self, scenario: Scenario) -> None:
        backend = self._backend()
        built = _OnDisk(scenario, str(self._own_folder), backend, self._caches)
        for execution in scenario.executions:
            expected = Reference(without_caches(scenario.pipeline)).execute(execution)
            hypothesis.assume(expected.calls.total() <= MAX_CALLS)
            observed = Observed(built, execution)
            self.happened["executions"] += 1
            if isinstance(observed.error, (WorkerDiedError, WorkerLostError)):
                self.happened["executions that lost their workers for good"] += 1
            elif expected.failures:
                # With caches, other nodes may be the first to fail.
                is_planned = isinstance(observed.error, (PlannedError, MapInputError, MapLengthError))
                assert is_planned, f"{observed.error!r} instead of {expected.failures}"
            else:
                check_result(observed, expected)

    def _backend(self) -> Backend:
        """Return a backend that has been used before, or a new one; old ones are closed in turn."""
        if len(self._backends) >= OPEN_BACKENDS and self._chance.random() < 0.85:
            return self._chance.choice(self._backends)[0]
        if len(self._backends) >= OPEN_BACKENDS:
            _, stack = self._backends.pop(0)
            stack.close()
        modes = {"node_execution": self._chance.choice(NAMES), "map_execution": self._chance.choice(NAMES)}
        kind: Any = SubprocessBackend if self._chance.random() < 0.4 else LocalBackend
        stack = ExitStack()
        backend: Backend = kind(**modes, max_workers=2)
        if self._chance.random() < 0.7:
            stack.enter_context(backend)  # its workers are kept
        self._backends.append((backend, stack))
        self.happened["backends"] += 1
        return backend

    # --- sabotage and figures -------------------------------------------------------------------------------------

    def kill_workers(self, is_over: threading.Event) -> None:
        """Kill a worker every few seconds; in a thread."""
        chance = random.Random(self._chance.randrange(2**31))
        while not is_over.wait(chance.uniform(1.0, 6.0)):
            own = os.getpid()
            workers = [p for p in processes() if p.parent == own and "resource_tracker" not in p.command]
            if workers:
                with suppress(ProcessLookupError):
                    os.kill(chance.choice(workers).pid, signal.SIGKILL)
                self.happened["workers killed"] += 1

    def figures(self) -> dict[str, Any]:
        """Return what must not grow, and what happened so far."""
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
        return {
            "memory_mib": int(status["VmRSS"].split()[0]) // 1024,
            "files": len(os.listdir("/proc/self/fd")),
            "threads": threading.active_count(),
            "processes": sum(process.parent == os.getpid() for process in processes()),
            "happened": self.happened,
        }


class _OnDisk(Built):
    """A pipeline of a scenario whose caches are on the disk, few for many labels."""

    def __init__(self, scenario: Scenario, folder: str, backend: Backend, caches: list[DiskCache]) -> None:
        self._on_disk = caches
        super().__init__(scenario.pipeline, folder, backend)

    def cache_called(self, label: str) -> Cache:
        return self._on_disk[sum(label.encode()) % len(self._on_disk)]


def main() -> int:
    name, folder, seed, duration_s = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
    signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever started the soak may have it ignored
    faulthandler.register(signal.SIGUSR1)  # writes the stacks of all threads, if the caller does not end
    warnings.simplefilter("ignore", CacheWarning)  # of what a killed process left
    ends_at = time.monotonic() + duration_s
    caller = Caller(name, folder, seed)
    is_over = threading.Event()
    saboteur = threading.Thread(target=caller.kill_workers, args=(is_over,), daemon=True)
    saboteur.start()
    try:
        while time.monotonic() < ends_at:
            caller.run_round()
            print(json.dumps(caller.figures()), flush=True)
    except Exception:
        print("WRONG:", traceback.format_exc()[-4000:].replace("\n", " | "), file=sys.stderr)
        raise
    finally:
        is_over.set()
        caller.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
