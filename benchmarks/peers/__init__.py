"""Other tools, each measured by a process of its own in an environment of its own (`--peers`)."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.measure import PeerFailedError, Reading
from scripts.dev import clean_environ, environment

WORKER = Path(__file__).with_name("worker.py")
LIMIT_S = 10.0  # for setting one workload up, and for one round of it


class Peer(NamedTuple):
    """A tool.

    Attributes:
        adapter: Module beside this one with its workloads.
        install: What pip installs.
    """

    adapter: str
    install: tuple[str, ...]


PEERS = {
    "hypernodes 0.4.8": Peer("with_hypernodes_0_4_8", ("hypernodes==0.4.8",)),
    "pipefunc": Peer("with_pipefunc", ("pipefunc",)),
    "Hamilton": Peer("with_hamilton", ("apache-hamilton",)),
    "joblib": Peer("with_joblib", ("joblib", "numpy")),
    "dask": Peer("with_dask", ("dask[bag]",)),
    "Ray Data": Peer("with_ray", ("ray[data]",)),
}

_pythons: dict[str, Path] = {}


def install_all() -> None:
    """Make the environments of all peers; from then on workloads are measured with them too."""
    for name, peer in PEERS.items():
        _pythons[name] = environment(f"bench-{peer.adapter.removeprefix('with_')}", list(peer.install))


@contextmanager
def measured_by_peers(workload: str, **arguments: Any) -> Iterator[dict[str, Callable[[], Reading]]]:
    """Set a workload up in every peer that can do it; yield what measures it there once."""
    workers: list[_Worker] = []
    try:
        candidates: dict[str, Callable[[], Reading]] = {}
        for name, python in _pythons.items():
            worker = _Worker(python, PEERS[name].adapter)
            workers.append(worker)
            if worker.can(workload, arguments):
                candidates[name] = worker.measure
        yield candidates
    finally:
        for worker in workers:
            worker.close()


class _Worker:
    """The process of one peer for one workload."""

    def __init__(self, python: Path, adapter: str) -> None:
        command = [str(python), str(WORKER), adapter]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=clean_environ(),
            start_new_session=True,  # so that it can be ended together with processes that the tool starts
        )
        self._answers: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._failure: str | None = None
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def can(self, workload: str, arguments: dict[str, Any]) -> bool:
        """Prepare a workload; return False when the tool has none like it."""
        answer = self._ask({"setup": workload, "arguments": arguments})
        self._failure = answer.get("failed")
        return self._failure is not None or bool(answer["ready"])

    def measure(self) -> Reading:
        """Return the seconds that one call takes.

        Raises:
            PeerFailedError: The tool cannot do it after all.
        """
        if self._failure is None:
            answer = self._ask({"measure": 0.05})
            self._failure = answer.get("failed")
        if self._failure is not None:
            raise PeerFailedError(self._failure)
        return Reading(float(answer["seconds"]))

    def close(self) -> None:
        """Let the process end by itself, or else end it and what it started."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=5)
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._listener.join()
        self._process.stdout.close()

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            line = self._answers.get(timeout=LIMIT_S)
        except queue.Empty:
            return {"failed": f"took longer than {LIMIT_S:.0f} s"}
        except BrokenPipeError:
            line = ""
        answer: dict[str, Any] = json.loads(line) if line else {"failed": "its process ended"}
        return answer

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._answers.put(line)
        self._answers.put("")
