"""Makes calls in the calling thread, with retries, time limits and `async def` functions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, wait
from threading import Event
from time import sleep
from typing import Any, Generic, TypeVar

from hypernodes.engine.awaitables import Unawaited
from hypernodes.engine.batches import BatchSizes, is_out_of_memory
from hypernodes.engine.cancellation import RunRegistry
from hypernodes.engine.limit_reports import LimitReport
from hypernodes.engine.limits import Limit, Need, Permit, Request, needs_of
from hypernodes.engine.step import (
    Call,
    FinishedWithin,
    Returned,
    call,
    make,
    make_within,
    prepare,
    prepare_batch,
    timeout_error,
)
from hypernodes.engine.timing import now, retry_delay_s
from hypernodes.engine.workers.coroutines import CHECK_INTERVAL_S, Coroutines
from hypernodes.engine.workers.threads import DaemonThreads, run_in_copied_context
from hypernodes.errors import BatchResultError, NodeTimeoutError
from hypernodes.plan import CallStep, Plan

_T = TypeVar("_T")

Limited = Callable[[tuple[str, ...]], object]
"""Called before a call waits because of limits, with their names."""

Retry = Callable[[int, BaseException, float], object]
"""Called before a call is made again: with the number of the failed attempt, its error, and the delay in seconds."""


class CallingThread:
    """Makes calls for runs that execute one step after the other, and knows whether such a run was cancelled.

    Args:
        loop: The running event loop of an `async` caller; None when there is none.
        can_be_cancelled: Whether another thread may call `cancel`.

    Attributes:
        can_be_cancelled: The same.
        is_cancelled: Whether the run was cancelled.
        failed_at: Where the last error was raised: the names of the pipelines that contain the node, outermost first,
            followed by the node's name.
        batch_sizes: The sizes of batches in the run.
        limits: The limits of the engine, by name.
    """

    batch_sizes: BatchSizes
    limits: Mapping[str, Limit]

    def __init__(self, loop: Any = None, can_be_cancelled: bool = False) -> None:
        self.can_be_cancelled = can_be_cancelled
        self._loop = loop
        self._coroutines: Coroutines | None = None
        self._registry: RunRegistry | None = None
        self.is_cancelled = False
        self.failed_at: tuple[str, ...] = ()
        self._threads: DaemonThreads | None = None

    @property
    def coroutines(self) -> Coroutines:
        """What awaits `async def` functions, made when it is first needed."""
        if self._coroutines is None:
            self._coroutines = Coroutines(self._loop, is_here=True)
            if self.is_cancelled:
                self._coroutines.cancel()
        return self._coroutines

    @property
    def registry(self) -> RunRegistry:
        """The runs that were started by the calls, to be cancelled together with this one."""
        if self._registry is None:
            self._registry = RunRegistry()
            if self.is_cancelled:
                self._registry.cancel()
        return self._registry

    def is_needed_for(self, plan: Plan) -> bool:
        """Whether the silent loop needs this object for a plan: the run can be cancelled, or has special calls."""
        return self.can_be_cancelled or not plan.needs_only_calls

    def cancel(self) -> None:
        """Cancel the run from another thread; its own thread raises `CancelledError` as soon as possible."""
        self.is_cancelled = True
        if self._coroutines is not None:
            self._coroutines.cancel()
        if self._registry is not None:
            self._registry.cancel()

    def check(self) -> None:
        """Raise an error if the run was cancelled.

        Raises:
            CancelledError: The run was cancelled.
        """
        if self.is_cancelled:
            raise CancelledError("the run was cancelled")

    def checked(self, steps: Iterable[_T]) -> Iterable[_T]:
        """Return the same steps, which can be iterated over again and again until the run is cancelled.

        Raises:
            CancelledError: On iteration, when the run was cancelled.
        """
        return _CheckedSteps(self, steps)

    def wait_for(self, coroutine: Any) -> Any:
        """Return the value of a coroutine."""
        return self.coroutines.wait_for(coroutine)

    def call(
        self, step: CallStep, values: Any, retry: Retry | None = None, limited: Limited | None = None
    ) -> tuple[Any, ...]:
        """Call a function, with the retries of its node; return one value for each output.

        Args:
            step: The step to call.
            values: Value of every slot.
            retry: Called before each further attempt.
            limited: Called before a call has to wait because of limits.

        Raises:
            NodeTimeoutError: The last attempt took too long.
            Exception: The error of the last attempt.
        """
        if step.node.batching is not None:
            (outputs,) = self.call_batch([step], [values], retry, limited).outputs
            return outputs  # type: ignore[no-any-return]
        if step.node.limiting is not None:
            return self._with_retries(step, self._attempt_of(prepare(step, values), limited), retry).outputs
        return self._with_retries(step, lambda: self._attempt(step, values), retry)

    def call_batch(
        self,
        steps: Sequence[CallStep],
        items: Sequence[Sequence[Any]],
        retry: Retry | None = None,
        limited: Limited | None = None,
    ) -> Returned:
        """Call the function of a batched node for several items, with its retries.

        A batch of several items that does not fit into memory is not tried again as it is.

        Args:
            steps: The step of each item, all of one `CallStep.batch_kind`.
            items: For each item, the value of every slot.
            retry: Called before each further attempt.
            limited: Called before a call has to wait because of limits.

        Returns:
            The outputs of each item, and the duration of the last attempt.

        Raises:
            NodeTimeoutError: The last attempt took too long.
            Exception: The error of the last attempt.
        """
        attempt = self._attempt_of(prepare_batch(steps[0], items, steps), limited)
        return self._with_retries(steps[0], attempt, retry, can_shrink=len(items) > 1)

    def _attempt_of(self, made: Call, limited: Limited | None) -> Callable[[], Returned]:
        """Return what makes a call once; as soon as the limits of its node allow."""
        if made.step.node.limiting is None:
            return lambda: self._attempt_call(made)
        needs = needs_of(made.step, self.limits, made.by_name())

        def attempt() -> Returned:
            permit = self._permit(needs, limited)
            try:
                return self._attempt_call(made._replace(permit=permit))
            except NodeTimeoutError:
                raise  # the call may go on in its thread, which releases the permit when it ends
            except BaseException:
                permit.release()
                raise

        return attempt

    def _permit(self, needs: Sequence[Need], limited: Limited | None) -> Permit:
        """Wait for a permit.

        Raises:
            CancelledError: The run was cancelled.
        """
        granted = Event()
        request = Request(needs, granted.set)
        try:
            permit = request.submit()
            if permit is None and limited is not None:
                limited(request.limit_names)
            while (permit := request.permit) is None:
                self.check()
                left_s = request.look_again()
                if request.permit is None:
                    granted.wait(CHECK_INTERVAL_S if left_s is None else min(left_s, CHECK_INTERVAL_S))
        except BaseException:
            request.withdraw()
            raise
        return permit

    def _with_retries(
        self, step: CallStep, attempt_call: Callable[[], _T], retry: Retry | None, can_shrink: bool = False
    ) -> _T:
        node = step.node
        attempt = 1
        while True:
            try:
                return attempt_call()
            except Exception as error:
                if attempt > node.retries or not isinstance(error, node.retry_on) or self.is_cancelled:
                    raise
                if isinstance(error, BatchResultError) or (can_shrink and is_out_of_memory(error)):
                    raise
                try:
                    delay_s = retry_delay_s(node, attempt, error)
                except Exception as raised:
                    raise raised from error
                if retry is not None:
                    retry(attempt, error, delay_s)
            self._sleep(delay_s)
            attempt += 1

    def _attempt(self, step: CallStep, values: Any) -> tuple[Any, ...]:
        node = step.node
        if not node.is_async and node.timeout is None:
            return call(step, values, self.wait_for)
        return self._attempt_call(prepare(step, values)).outputs

    def _attempt_call(self, made: Call) -> Returned:
        node = made.step.node
        if node.is_async:
            returned: Returned | Unawaited = self.wait_for(make_within(made, node.timeout))
        elif node.timeout is None:
            returned = make(made, self.wait_for)
        else:
            returned = self._within_limit(made)
            if isinstance(returned, Unawaited):
                returned = self.wait_for(FinishedWithin(made, returned, node.timeout))
        assert isinstance(returned, Returned)
        return returned

    def _within_limit(self, made: Call) -> Returned | Unawaited:
        """Call an ordinary function in another thread, which is abandoned when the call takes too long."""
        node = made.step.node
        assert node.timeout is not None
        if self._threads is None:
            self._threads = DaemonThreads("hypernodes")
        begun_at: list[float] = []
        report = LimitReport(node)

        def function() -> Returned | Unawaited:
            report.begin()
            begun_at.append(now())
            return make(made, None)

        future = run_in_copied_context(self._threads, self.registry, function)
        try:
            while not future.done():
                left = begun_at[0] + node.timeout - now() if begun_at else CHECK_INTERVAL_S
                if self.is_cancelled or (begun_at and left <= 0):
                    if future.cancel() and made.permit is not None:
                        made.permit.release()
                    self._threads.abandon(future)
                    self.check()
                    raise timeout_error(node)
                wait([future], min(max(left, 0), CHECK_INTERVAL_S))
            return future.result()
        finally:
            report.end()

    def _sleep(self, delay_s: float) -> None:
        end = now() + delay_s
        while (left := end - now()) > 0:
            self.check()
            sleep(min(left, CHECK_INTERVAL_S))
        self.check()

    def close(self) -> None:
        """Release threads and event loop."""
        if self._coroutines is not None:
            self._coroutines.close()
        if self._threads is not None:
            self._threads.shutdown()


class _CheckedSteps(Generic[_T]):
    """Steps that are only given while the run is not cancelled."""

    def __init__(self, thread: CallingThread, steps: Iterable[_T]) -> None:
        self._thread = thread
        self._steps = steps

    def __iter__(self) -> Iterator[_T]:
        for step in self._steps:
            self._thread.check()
            yield step
