"""Worker processes: the pool, and the orders that one run sends to it."""

from __future__ import annotations

import multiprocessing
import os
import pickle
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import BrokenExecutor, Future
from itertools import count
from typing import TYPE_CHECKING, Any

from hypernodes.engine.workers.payloads import Payloads
from hypernodes.engine.workers.pickling import PROTOCOL, dumps
from hypernodes.engine.workers.process_main import WorkItem, WorkOrder, work
from hypernodes.engine.workers.row_orders import RowOrder, work_rows
from hypernodes.engine.workers.time_limits import late_call, start_process
from hypernodes.errors import ConfigurationError
from hypernodes.plan import CallStep, NestedStep, Plan

if TYPE_CHECKING:
    from concurrent.futures import Executor


class ProcessPool:
    """A pool of worker processes: loky's when it is installed, else the standard library's with spawned processes.

    Args:
        workers: Number of processes.

    Attributes:
        is_loky: Whether the pool is loky's, so that functions of every kind can be sent.
        generation: How many times the pool has been created.
        runs: Number of runs that use it now.

    Raises:
        ConfigurationError: This process is daemonic, so that it may not start processes.
    """

    def __init__(self, workers: int) -> None:
        if multiprocessing.current_process().daemon:
            raise ConfigurationError(
                '"parallel" needs worker processes, but this is a daemonic process (as in a multiprocessing.Pool or a '
                'Celery worker), which may not start any; use "threaded" or "sequential" here'
            )
        self._workers = workers
        self._executor: Any = None
        self.generation = 0
        self.runs = 0
        try:
            import loky

            self.is_loky = bool(loky)
        except ImportError:
            self.is_loky = False

    def submit(self, *arguments: Any) -> Future[Any]:
        """Submit a call to a process."""
        if self._executor is None:
            self._executor = self._make()
            self.generation += 1
        return self._executor.submit(*arguments)  # type: ignore[no-any-return]

    def restart(self, generation: int) -> None:
        """Replace a broken pool, unless it has been replaced already."""
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

            return loky.ProcessPoolExecutor(self._workers, initializer=start_process, initargs=(os.getpid(),))
        from concurrent.futures import ProcessPoolExecutor

        context = multiprocessing.get_context("spawn")
        return ProcessPoolExecutor(
            self._workers, mp_context=context, initializer=start_process, initargs=(os.getpid(),)
        )


class WorkerProcesses:
    """The worker processes of one run.

    Args:
        pool: The processes; None when the caller gave an executor.
        executor: The caller's own executor, instead of a pool of ours.

    Attributes:
        payloads: The values sent to the processes.
    """

    def __init__(self, pool: ProcessPool | None, executor: Executor | None = None) -> None:
        self._pool = pool
        self._executor = executor
        self._programs: dict[int, tuple[str, Sequence[Any]]] = {}
        self._numbers = count()
        self._is_by_value = pool.is_loky if pool else _has_cloudpickle()
        self.payloads = Payloads(self._is_by_value)
        self._is_open = True
        if pool is not None:
            pool.runs += 1

    def prefetch(self, workers: int) -> int:
        """Return how many tasks to submit at a time: one extra for each process of our pool, so that none is idle."""
        return 2 * workers if self._pool is not None else workers

    @property
    def generation(self) -> int:
        """Generation of the pool that receives new tasks."""
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
            SerializationError: A node cannot be sent; the message names it.
        """
        for step in plan.steps:
            if isinstance(step, CallStep):
                where = f" ({step.node.location})" if step.node.location else ""
                dumps(step.node, f"node {step.node.name!r}{where}", self._is_by_value)
            elif not step.node.pipeline.has_own_backend:
                self.check(step.inner)

    def submit(
        self,
        steps: Sequence[CallStep | NestedStep],
        shared: Mapping[int, Any],
        needed: frozenset[int],
        returns_everything: bool,
        items: Sequence[WorkItem],
    ) -> tuple[int, Future[Any]]:
        """Start the calls of some work items.

        Args:
            steps: The program.
            shared: Payloads of values that all items share, by slot.
            needed: Slots whose values must be sent back.
            returns_everything: Whether the other results are sent back as well, if possible.
            items: The work items.

        Returns:
            The number of the order, and the future of its outcomes.
        """
        number = next(self._numbers)
        program = self._program(steps)
        order = WorkOrder(
            self.payloads.folder, number, program, dict(shared), needed, returns_everything, self._is_by_value, [*items]
        )
        return number, self._submit(work, order)

    def submit_rows(self, plan: Plan, rest: tuple[Any, ...], rows: list[tuple[Any, ...]]) -> tuple[int, Future[Any]]:
        """Start executing a plan of calls for some rows.

        Args:
            plan: The plan.
            rest: Payloads of the values after those of a row.
            rows: For each execution, payloads of the values of the first slots.

        Returns:
            The number of the order, and the future of its outcomes.
        """
        number = next(self._numbers)
        program, outputs = self._program(plan.steps), tuple(plan.outputs.values())
        order = RowOrder(self.payloads.folder, number, program, outputs, rest, self._is_by_value, rows)
        return number, self._submit(work_rows, order)

    def _submit(self, function: Callable[[bytes], bytes], order: WorkOrder | RowOrder) -> Future[Any]:
        packed = pickle.dumps(order, PROTOCOL)
        if self._executor is not None:
            return self._executor.submit(function, packed)
        assert self._pool is not None
        try:
            return self._pool.submit(function, packed)
        except BrokenExecutor:  # it broke while it was idle
            self._pool.restart(self._pool.generation)
            return self._pool.submit(function, packed)

    def late_call(self, number: int) -> tuple[int, int] | None:
        """Return which call of an order ended its worker by exceeding its time limit (see `time_limits.late_call`)."""
        return late_call(self.payloads.folder, number)

    def stop_calls(self) -> None:
        """Kill the calls in flight, unless that would kill those of another run as well."""
        if self._pool is not None and self._pool.runs == 1:
            self._pool.kill()

    def end_run(self) -> None:
        """Release the pool and remove the files of the run."""
        if self._pool is not None and self._is_open:
            self._pool.runs -= 1
        self._is_open = False
        self.payloads.close()
        self._programs.clear()

    def kill(self) -> None:
        """End the processes at once."""
        if self._pool is not None:
            self._pool.kill()
        self.end_run()

    def _program(self, steps: Sequence[Any]) -> str:
        key = id(steps[0]) if len(steps) == 1 else id(steps)
        known = self._programs.get(key)
        if known is None:
            path = self.payloads.new_path()
            self.payloads.write(path, tuple(s if isinstance(s, CallStep) else None for s in steps), "a plan")
            known = self._programs[key] = (path, steps)  # referencing the steps keeps their id from being reused
        return known[0]


def _has_cloudpickle() -> bool:
    from importlib.util import find_spec

    return find_spec("cloudpickle") is not None
