"""What happens to work whose worker process died."""

from __future__ import annotations

from collections import deque
from concurrent.futures import CancelledError

from hypernodes.engine.drivers.concurrent.activity import Host, Task
from hypernodes.engine.workers.process_pool import WorkerProcesses
from hypernodes.errors import WorkerDiedError
from hypernodes.plan import CallStep


class LostWorkers:
    """Work that was under way when a worker died; it is done again, one piece at a time, to find out what is to blame.

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
            self._suspects += task.settle_late(self._host, *late)
            return
        if (was_alone and is_first_news) or not can_restart:
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
        """Do the next one again."""
        task = self._suspects.popleft()
        if not self._give_up(task):
            task.submit_again(self._host)

    def _give_up(self, task: Task) -> bool:
        """Let go of what is not wanted any more, because something else failed; return whether that is so."""
        if not task.activity.is_stopped:
            return False
        task.fail(self._host, CancelledError("the run ended before the call could be made again"))
        return True


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
