"""Item starter for rows that threads execute."""

from __future__ import annotations

import contextvars
from collections import deque
from concurrent.futures import CancelledError, Future, wait
from functools import partial
from typing import Any, NamedTuple

from hypernodes.engine.cancellation import unfinished_call
from hypernodes.engine.drivers.concurrent.activity import Host, cancelled
from hypernodes.engine.drivers.concurrent.maps import MapActivity
from hypernodes.engine.drivers.concurrent.queued_rows import QueuedRows, RunnerTask
from hypernodes.engine.drivers.straight import Trace, run_silent
from hypernodes.engine.workers.coroutines import CHECK_INTERVAL_S
from hypernodes.engine.workers.workers import Outcome, Workers


class _Awaited(NamedTuple):
    """A coroutine that a function returned, to be awaited in the event loop of the run.

    Attributes:
        coroutine: The coroutine.
        context: The context variables of the call.
        future: Its outcome.
    """

    coroutine: Any
    context: contextvars.Context
    future: Future[Any]


class ThreadRows(QueuedRows):
    """Executes rows in threads.

    Args:
        owner: The map.
        workers: Provides the threads.
    """

    def __init__(self, owner: MapActivity, workers: Workers) -> None:
        super().__init__(owner, workers)
        self._to_await: deque[_Awaited] = deque()

    def start_runner(self, host: Host, task: RunnerTask) -> Outcome:
        return self.workers.submit_to_thread(self._serve, host, task)

    def _serve(self, host: Host, task: RunnerTask) -> None:
        """Execute rows until there are none; in a thread."""
        owner, queue, results = self.owner, self.queue, self.results
        plan, rest, request = owner.plan, self.rest, owner.request
        base, backend_name = request.base, request.run.backend_name
        trace = Trace()
        wait_for = partial(self._wait_for, host, task)
        while not self.is_over:
            try:
                index, values = queue.popleft()
            except IndexError:
                break
            outputs: list[Any] = []
            error: BaseException | None = None
            try:
                self.context.copy().run(
                    run_silent,
                    plan,
                    (values,),
                    rest,
                    outputs,
                    base,
                    backend_name,
                    "raise",
                    None,
                    (index,),
                    trace,
                    None,
                    wait_for,
                )
            except BaseException as raised:
                error = raised
            results.append((index, outputs, error, trace.failed_at))
            if error is not None and not owner.collects:
                queue.clear()  # the map is over
                break
            del values, outputs, error
            self.report(task, host)

    def _wait_for(self, host: Host, task: RunnerTask, coroutine: Any) -> Any:
        """Let the event loop of the run await a coroutine; return its value. In a thread."""
        awaited = _Awaited(coroutine, contextvars.copy_context(), Future())
        self._to_await.append(awaited)
        host.post(task, None)
        while not wait([awaited.future], CHECK_INTERVAL_S).done:
            if self.owner.is_stopped or self.workers.is_cancelled:
                if awaited.future.cancel():
                    coroutine.close()  # it has not been started
                raise unfinished_call()
        return awaited.future.result()

    def take_results(self, host: Host) -> None:
        self._start_awaiting()
        super().take_results(host)

    def _start_awaiting(self) -> None:
        """Start awaiting what threads wait for."""
        while self._to_await:
            coroutine, context, future = self._to_await.popleft()
            if not future.set_running_or_notify_cancel():
                continue
            context.run(self.workers.coroutines.submit, coroutine, partial(_settle, future))


def _settle(future: Future[Any], outcome: Outcome) -> None:
    error = CancelledError("the call was cancelled") if cancelled(outcome) else outcome.exception()
    if error is None:
        future.set_result(outcome.result())
    else:
        future.set_exception(error)
