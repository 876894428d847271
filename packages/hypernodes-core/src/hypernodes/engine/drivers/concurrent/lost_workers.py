"""What happens to work whose worker process died."""

from __future__ import annotations

from collections import deque
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING

from hypernodes.engine.drivers.concurrent.tasks import BatchItem, BatchTask, CallTask, Task
from hypernodes.engine.workers.time_limits import timeout_error
from hypernodes.errors import WorkerDiedError
from hypernodes.plan import CallStep

if TYPE_CHECKING:
    from hypernodes.engine.drivers.concurrent.batches import Batches
    from hypernodes.engine.drivers.concurrent.scheduler import Scheduler
    from hypernodes.engine.workers.process_pool import WorkerProcesses


class LostWorkers:
    """Work that was under way when a worker died; it is done again, one piece at a time, to find out what is to blame.

    Args:
        scheduler: What decides when.
        batches: Sends work to worker processes.
        processes: The worker processes.
    """

    def __init__(self, scheduler: Scheduler, batches: Batches, processes: WorkerProcesses) -> None:
        self._scheduler = scheduler
        self._batches = batches
        self._processes = processes
        self._suspects: deque[Task] = deque()
        self._broken_generation = -1

    def __bool__(self) -> bool:
        return bool(self._suspects)

    def take(self, task: Task, error: BaseException, was_alone: bool) -> None:
        """Take over a task whose worker died.

        Args:
            task: The task.
            error: What the pool says.
            was_alone: Whether nothing else is under way.
        """
        can_restart = self._processes.can_restart
        self._processes.restart(task.generation)
        if self._give_up(task):
            return
        late = self._processes.late_call(task.order)
        is_first_news = task.generation != self._broken_generation
        self._broken_generation = task.generation
        if late is not None:
            self._settle_late(task, *late)
            return
        if (was_alone and is_first_news) or not can_restart:
            task.deaths += 1
        parts: list[Task] = [task]
        if isinstance(task, BatchTask) and len(task.items) > 1:
            parts = [BatchTask(task.owner, [item]) for item in task.items]
        for part in parts:
            part.deaths = task.deaths
            if part.deaths < 2 and can_restart:
                self._suspects.append(part)
            else:
                self._blame(part, error)

    def start_next(self) -> None:
        """Do the next one again."""
        task = self._suspects.popleft()
        if self._give_up(task):
            return
        if isinstance(task, BatchTask):
            self._batches.submit(task)
        elif isinstance(task, CallTask):
            self._scheduler.submit(task)

    def _give_up(self, task: Task) -> bool:
        """Let go of what is not wanted any more, because something else failed; return whether that is so."""
        error = CancelledError("the run ended before the call could be made again")
        if isinstance(task, BatchTask) and task.owner.is_stopped:
            self._batches.fail(task, error)
        elif isinstance(task, CallTask) and task.activity.is_stopped:
            self._scheduler.fail_call(task, error)
        else:
            return False
        return True

    def _settle_late(self, task: Task, position: int, step: int) -> None:
        """A call that exceeded its time limit ended its worker; what was with it is innocent."""
        if isinstance(task, CallTask):
            self._scheduler.fail_call(task, timeout_error(task.step.node))
        elif isinstance(task, BatchTask):
            for index, item in enumerate(task.items):
                if index != position:
                    self._suspects.append(BatchTask(task.owner, [item]))
                elif item.steps[0].index == step:
                    self._batches.fail_item(item, timeout_error(item.steps[0].node))
                else:  # the results of the calls before it died with the worker
                    self._batches.unpack_item(item)

    def _blame(self, task: Task, error: BaseException) -> None:
        if isinstance(task, BatchTask):
            item: BatchItem = task.items[0]
            died = worker_died(item.steps, item.activity.frame.item_index)
            died.__cause__ = error
            self._batches.fail_item(item, died)
        elif isinstance(task, CallTask):
            died = worker_died([task.step], task.activity.frame.item_index)
            died.__cause__ = error
            self._scheduler.fail_call(task, died)


def worker_died(steps: list[CallStep], item_index: int | None) -> WorkerDiedError:
    """Return the error of a call, or of the calls of an item, that killed its worker twice."""
    names = tuple(step.node.name for step in steps)
    what = f"node{'s' if len(names) > 1 else ''} {', '.join(map(repr, names))}"
    which = "" if item_index is None else f" for map item {item_index}"
    return WorkerDiedError(
        f"the worker process died twice while it computed {what}{which}: a crash in native code, a kill, or out of "
        "memory. (If no worker ever starts: a script must begin its work under `if __name__ == '__main__':`.)",
        node_names=names,
        item_index=item_index,
    )
