"""Recovers the work of worker processes that died."""

from __future__ import annotations

from collections import deque
from concurrent.futures import CancelledError

from hypernodes.engine.drivers.concurrent.activity import Host, Task
from hypernodes.engine.workers.process_pool import WorkerProcesses
from hypernodes.errors import WorkerDiedError
from hypernodes.plan import CallStep


class LostWorkers:
    """Resubmits the work in flight when a worker died, one call or item at a time, to find the one that killed it.

    Args:
        host: The loop.
        processes: The worker processes.
    """

    def __init__(self, host: Host, processes: WorkerProcesses) -> None:
        self._host = host
        self._processes = processes
        self._suspects: deque[Task] = deque()
        self._broken_generation = -1

    def __bool__(self) -> bool:
        return bool(self._suspects)

    def handle(self, task: Task, error: BaseException, was_alone: bool) -> None:
        """Handle a task whose worker died.

        Args:
            task: The task.
            error: The error of the process pool.
            was_alone: Whether nothing else is in flight.
        """
        can_restart = self._processes.can_restart
        self._processes.restart(task.generation)
        if self._drop_if_stopped(task):
            return
        late = self._processes.late_call(task.order)
        is_first_report = task.generation != self._broken_generation
        self._broken_generation = task.generation
        if late is not None:
            self._suspects += task.settle_time_limit(self._host, *late)
            return
        if (was_alone and is_first_report) or not can_restart:
            task.deaths += 1
        for part in task.parts():
            part.deaths = task.deaths
            if part.deaths < 2 and can_restart:
                self._suspects.append(part)
            else:
                steps, item_index = part.described()
                died = worker_died(steps, item_index)
                died.__cause__ = error
                part.fail(self._host, died)

    def start_next(self) -> None:
        """Submit the next task again."""
        task = self._suspects.popleft()
        if not self._drop_if_stopped(task):
            task.submit_again(self._host)

    def _drop_if_stopped(self, task: Task) -> bool:
        """Fail a task if its activity was stopped, since its results are not wanted any more; return whether it was."""
        if not task.activity.is_stopped:
            return False
        task.fail(self._host, CancelledError("the run ended before the call could be made again"))
        return True


def worker_died(steps: list[CallStep], item_index: int | None) -> WorkerDiedError:
    """Return the error of a call, or of the calls of an item, that killed its worker twice."""
    names = tuple(step.node.name for step in steps)
    nodes = f"node{'s' if len(names) > 1 else ''} {', '.join(map(repr, names))}"
    item = "" if item_index is None else f" for map item {item_index}"
    return WorkerDiedError(
        f"the worker process died twice while it computed {nodes}{item}: a crash in native code, a kill, or out of "
        "memory. (If no worker ever starts: a script must begin its work under `if __name__ == '__main__':`.)",
        node_names=names,
        item_index=item_index,
    )
