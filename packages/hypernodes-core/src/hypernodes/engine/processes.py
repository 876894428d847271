"""Worker processes: what travels to them, and what to do when one dies."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import BrokenExecutor, Future
from typing import TYPE_CHECKING, Any

from hypernodes.engine import worker
from hypernodes.engine.packing import dumps, loads
from hypernodes.engine.step import Call
from hypernodes.engine.worker import ItemOutcome, WorkItem
from hypernodes.plan import CallStep, NestedStep, Plan

if TYPE_CHECKING:
    from concurrent.futures import Executor

_SHARED_MIN_BYTES = 64 * 1024  # smaller values travel with each item


class ProcessPool:
    """A pool of worker processes: loky's when it is installed, else the standard library's with spawned processes.

    Args:
        workers: Number of processes.

    Attributes:
        is_loky: Whether functions of every kind can be sent.
        generation: How many times the pool had to be made.
    """

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._executor: Any = None
        self.generation = 0
        try:
            import loky

            self.is_loky = bool(loky)
        except ImportError:
            self.is_loky = False

    def submit(self, *arguments: Any) -> Future[Any]:
        """Start a call in some process."""
        if self._executor is None:
            self._executor = self._make()
            self.generation += 1
        return self._executor.submit(*arguments)  # type: ignore[no-any-return]

    def restart(self, generation: int) -> None:
        """Replace a pool that broke, unless that has been done."""
        if generation == self.generation:
            self.kill()

    def close(self) -> None:
        """End the processes once they are idle."""
        if self._executor is not None:
            self._executor.shutdown(wait=True)
            self._executor = None

    def kill(self) -> None:
        """End the processes at once."""
        executor, self._executor = self._executor, None
        if executor is None:
            return
        if self.is_loky:
            executor.shutdown(wait=True, kill_workers=True)
            return
        processes = list((getattr(executor, "_processes", None) or {}).values())
        for process in processes:
            process.kill()
        executor.shutdown(wait=True, cancel_futures=True)

    def _make(self) -> Any:
        if self.is_loky:
            import loky

            return loky.ProcessPoolExecutor(self._workers, initializer=worker.start_process)
        import multiprocessing
        from concurrent.futures import ProcessPoolExecutor

        context = multiprocessing.get_context("spawn")
        return ProcessPoolExecutor(self._workers, mp_context=context, initializer=worker.start_process)


class ProcessPlace:
    """Worker processes as the place where calls are made, for one run.

    Args:
        pool: The processes; None when the caller gave an executor.
        executor: The caller's own executor, instead of a pool of ours.
    """

    keeps_time = True

    def __init__(self, pool: ProcessPool | None, executor: Executor | None = None) -> None:
        self._pool = pool
        self._executor = executor
        self._folder: str | None = None
        self._files = 0
        self._programs: dict[int, tuple[str, Sequence[Any]]] = {}
        self._is_by_value = pool.is_loky if pool else _has_cloudpickle()

    def prefetch(self, workers: int) -> int:
        """Return how many tasks to hand over at a time: one more for each process of ours, so that none waits."""
        return 2 * workers if self._pool is not None else workers

    @property
    def generation(self) -> int:
        """Number of the pool that new tasks go to."""
        return self._pool.generation if self._pool else 0

    @property
    def can_restart(self) -> bool:
        """Whether dead workers can be replaced."""
        return self._pool is not None

    def restart(self, generation: int) -> None:
        """Replace the pool in which a worker died."""
        if self._pool is not None:
            self._pool.restart(generation)

    def check(self, plan: Plan) -> None:
        """Refuse a plan whose functions cannot be sent.

        Raises:
            SerializationError: Names the node.
        """
        for step in plan.steps:
            if isinstance(step, CallStep):
                where = f" ({step.node.location})" if step.node.location else ""
                dumps(step.node, f"node {step.node.name!r}{where}", self._is_by_value)
            elif not step.node.pipeline.has_own_backend:
                self.check(step.inner)

    def submit(self, call: Call) -> Future[Any]:
        """Start one call; its future holds a list with one outcome."""
        values = dict(zip(call.step.positional, call.arguments, strict=True))
        values |= {slot: call.by_keyword[name] for name, slot in call.step.by_keyword}
        return self.submit_items([call.step], {}, None, [WorkItem(values, (0,))])

    def submit_items(
        self,
        steps: Sequence[CallStep | NestedStep],
        shared: Mapping[int, str],
        wanted: frozenset[int] | None,
        items: Sequence[WorkItem],
    ) -> Future[Any]:
        """Start the calls of some work items.

        Args:
            steps: The program.
            shared: Files of shared values, by slot.
            wanted: Slots whose values are wanted back; None for all.
            items: The work items.
        """
        packed = dumps(items, "an input", self._is_by_value)
        arguments = (self._program(steps), dict(shared), wanted, packed)
        if self._executor is not None:
            return self._executor.submit(worker.work, *arguments)
        assert self._pool is not None
        try:
            return self._pool.submit(worker.work, *arguments)
        except BrokenExecutor:  # it broke while it was idle
            self._pool.restart(self._pool.generation)
            return self._pool.submit(worker.work, *arguments)

    def share(self, values: Mapping[int, Any]) -> tuple[dict[int, str], dict[int, Any]]:
        """Put large values where every worker reads them once; return their files, and the small ones as they are."""
        files: dict[int, str] = {}
        small: dict[int, Any] = {}
        for slot, value in values.items():
            packed = dumps(value, "a shared input", self._is_by_value)
            if len(packed) >= _SHARED_MIN_BYTES:
                files[slot] = self._write(packed)
            else:
                small[slot] = value
        return files, small

    def end_run(self) -> None:
        """Remove what was written for the run."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def kill(self) -> None:
        """End the processes at once."""
        if self._pool is not None:
            self._pool.kill()
        self.end_run()

    def _program(self, steps: Sequence[Any]) -> str:
        known = self._programs.get(id(steps[0]) if len(steps) == 1 else id(steps))
        if known is None:
            packed = dumps(tuple(s if isinstance(s, CallStep) else None for s in steps), "a plan", self._is_by_value)
            known = (self._write(packed), steps)  # the steps are kept so that their id stays theirs
            self._programs[id(steps[0]) if len(steps) == 1 else id(steps)] = known
        return known[0]

    def _write(self, packed: bytes) -> str:
        if self._folder is None:
            self._folder = tempfile.mkdtemp(prefix="hypernodes-")
        path = os.path.join(self._folder, f"{self._files}.pickle")
        self._files += 1
        with open(path, "wb") as file:
            file.write(packed)
        return path


def unpack(packed: bytes) -> list[ItemOutcome]:
    """Return the outcomes that a worker sent."""
    outcomes: list[ItemOutcome] = loads(packed)
    for outcome in outcomes:
        if outcome.error is not None and outcome.traceback_text:
            outcome.error.__cause__ = worker.RemoteTraceback(outcome.traceback_text)
    return outcomes


def _has_cloudpickle() -> bool:
    from importlib.util import find_spec

    return find_spec("cloudpickle") is not None
