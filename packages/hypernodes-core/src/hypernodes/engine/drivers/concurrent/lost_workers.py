"""Recovers the work of worker processes that died."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from concurrent.futures import BrokenExecutor, CancelledError

from hypernodes.engine.drivers.concurrent.activity import Host, Task
from hypernodes.engine.workers.process_pool import NoWorkersError
from hypernodes.engine.workers.worker_process import LostWorkerError
from hypernodes.engine.workers.worker_processes import WorkerProcesses
from hypernodes.errors import WorkerDiedError
from hypernodes.plan import CallStep


class LostWorkers:
    """Submits what a worker was executing when it died once more, one call or item at a time.

    That finds the item that killed it, and lets a call succeed that needs all the memory for itself.

    Args:
        host: The loop.
        processes: The worker processes.
    """

    def __init__(self, host: Host, processes: WorkerProcesses) -> None:
        self._host = host
        self._processes = processes
        self._suspects: deque[Task] = deque()
        self._executing: Task | None = None  # the last suspect that was submitted

    @property
    def are_recovering(self) -> bool:
        """Whether work of lost workers waits or is executed, beside which nothing else may run."""
        return bool(self._suspects) or (self._executing is not None and self._executing.future is not None)

    @property
    def suspects(self) -> list[Task]:
        """The tasks that wait to be submitted again."""
        return list(self._suspects)

    def handle(self, task: Task, error: BrokenExecutor) -> None:
        """Handle a task whose worker died.

        Args:
            task: The task.
            error: How its worker ended, or the error of the caller's own executor.

        Raises:
            BaseException: No worker can be started.
        """
        if self._drop_if_stopped(task):
            return
        if isinstance(error, NoWorkersError):
            raise error.reason
        if isinstance(error, LostWorkerError) and error.late_call is not None:
            self._suspects += task.settle_time_limit(self._host, *error.late_call)
            return
        parts = task.parts()
        if len(parts) == 1:
            task.deaths += 1
        for part in parts:
            part.deaths = task.deaths
            if part.deaths < 2 and self._processes.can_restart:
                self._suspects.append(part)
            else:
                steps, item_index = part.described()
                died = worker_died(steps, item_index, error, self._processes.can_restart)
                died.__cause__ = error
                part.fail(self._host, died)

    def start_next(self) -> None:
        """Submit the next task again, if there is one."""
        if not self._suspects:
            return
        task = self._executing = self._suspects.popleft()
        if not self._drop_if_stopped(task):
            task.submit_again(self._host)

    def _drop_if_stopped(self, task: Task) -> bool:
        """Fail a task if its activity was stopped, since its results are not wanted any more; return whether it was."""
        if not task.is_stopped:
            return False
        task.fail(self._host, CancelledError("the run ended before the call could be made again"))
        return True


def worker_died(
    steps: Sequence[CallStep], item_index: int | None, error: BrokenExecutor, is_replaced: bool
) -> WorkerDiedError:
    """Return the error of a call, or of the calls of an item, that killed its worker.

    Args:
        steps: The calls.
        item_index: Index of the item; None outside maps.
        error: How the worker ended.
        is_replaced: Whether dead workers are replaced, so that it was the second one.
    """
    names = tuple(step.node.name for step in steps)
    nodes = f"node{'s' if len(names) > 1 else ''} {', '.join(map(repr, names))}"
    item = "" if item_index is None else f" for map item {item_index}"
    if is_replaced:
        message = (
            f"the worker process died twice while it computed {nodes}{item}: a crash in native code, a kill, or out of "
            f"memory; the second one {error}"
        )
    else:
        message = (
            f"{nodes}{item} cannot be computed, because a worker process of the executor passed as executor= died "
            f"({type(error).__name__}: {error}); without executor=, workers that die are replaced"
        )
    return WorkerDiedError(message, node_names=names, item_index=item_index)
