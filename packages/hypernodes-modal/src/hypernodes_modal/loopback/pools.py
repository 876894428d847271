"""The containers of a function and the inputs that wait for them: who gets what, when there are more, when fewer."""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from grpclib import GRPCError, Status
from modal_proto import api_pb2

from hypernodes_modal.loopback.containers import Container, ContainerState, EndReason
from hypernodes_modal.loopback.inputs import Input, InputState, Result
from hypernodes_modal.loopback.made_up_results import describe_loss, describe_start_failure, failure, retry_delay_s
from hypernodes_modal.loopback.notifications import ChangeNotifier

if TYPE_CHECKING:
    from hypernodes_modal.loopback.apps import App
    from hypernodes_modal.loopback.functions import Function

_MAX_START_FAILURES = 2
_MAX_LOSSES = 1  # an input is given to another container once; what kills two containers would kill the third
_CANCEL_GRACE_S = 10.0
_STOP_GRACE_S = 3.0
# The container died for reasons that have nothing to do with the inputs it still had: where an input was the reason, it
# has its output already.
_NOT_THE_INPUTS_FAULT = {EndReason.PREEMPTED, EndReason.REPLACED, EndReason.CANCELLED, EndReason.TIMEOUT}


class Pool:
    """The containers of one function (or one variant of it).

    Args:
        function: The function.
        start: Starts a container, and comes back at once. `container_ended` is called when it has ended.
        default_max_containers: The limit for functions that set none.
    """

    def __init__(self, function: Function, start: Callable[[Function], Container], default_max_containers: int) -> None:
        self.function = function
        self.containers: list[Container] = []
        self.pending: deque[Input] = deque()
        self._start = start
        self._default_max_containers = default_max_containers
        self._work = ChangeNotifier()
        self._start_failures = 0
        self._has_given_up = False  # of containers that cannot start, until there is another input
        self._is_open = True
        self._timers: dict[Input, asyncio.TimerHandle] = {}

    def check_open(self) -> None:
        """Refuse calls after the app has stopped.

        Raises:
            GRPCError: It has.
        """
        if not self._is_open:
            raise GRPCError(Status.FAILED_PRECONDITION, f"The app of function {self.function.name!r} has stopped.")

    def put(self, given: Input) -> None:
        """Take an input that waits for a container."""
        if not self._is_open:
            given.finish(failure("The app has stopped.", Result.GENERIC_STATUS_TERMINATED))
            return
        self._has_given_up = False
        self.pending.append(given)
        self.scale()
        self._work.notify()

    def scale(self) -> None:
        """Start as many containers as the waiting inputs and the settings of the function ask for."""
        if not self._is_open or self._has_given_up:
            return
        alive = [container for container in self.containers if container.is_alive]
        free = sum(container.free_slots for container in alive)
        needed = math.ceil(max(0, len(self.pending) - free) / self.function.inputs_at_once)
        if self.function.buffer_containers and (self.pending or any(container.inputs for container in alive)):
            idle = sum(not container.inputs for container in alive)
            needed = max(needed, self.function.buffer_containers - idle + min(idle, len(self.pending)))
        needed = max(needed, self.function.min_containers - len(alive))
        limit = self.function.max_containers or max(self._default_max_containers, self.function.min_containers)
        for _ in range(min(needed, limit - len(alive))):
            self.containers.append(self._start(self.function))

    async def take(self, container: Container, at_most: int, linger_s: float) -> list[Input] | None:
        """Give a container its next inputs.

        Args:
            container: Who asks.
            at_most: How many it wants at most.
            linger_s: How long to wait for more once there is one, in seconds.

        Returns:
            The inputs, which are running from now on; None when the container is to end.
        """
        if container.state is ContainerState.STARTING:
            container.state = ContainerState.READY
            container.ready_at = time.time()
            self._start_failures = 0
        if not container.inputs:
            container.idle_since = time.monotonic()
        while container.is_alive:
            if self.pending:
                if linger_s and len(self.pending) < at_most:
                    await self._linger(at_most, linger_s)
                return [self._assign(container) for _ in range(min(at_most, len(self.pending)))]
            idle_for_s = time.monotonic() - container.idle_since
            remaining_s = self.function.scaledown_window_s - idle_for_s
            if container.inputs or self._must_stay(container):
                remaining_s = self.function.scaledown_window_s
            if remaining_s <= 0:
                container.retire(EndReason.IDLE)
                break
            await self._work.wait(remaining_s)
        return None

    def settle(
        self, given: Input, result: Result, data_format: api_pb2.DataFormat.ValueType = api_pb2.DATA_FORMAT_PICKLE
    ) -> None:
        """An input has a result: hand it out, or try again if it was spawned and may be retried."""
        self._release(given)
        policy = self.function.definition.retry_policy
        failed = result.status in (Result.GENERIC_STATUS_FAILURE, Result.GENERIC_STATUS_TIMEOUT)
        if failed and given.call.is_async and given.retry_count < policy.retries and self._is_open:
            delay_s = retry_delay_s(policy, given.retry_count)
            given.delay()
            self._timers[given] = asyncio.get_running_loop().call_later(delay_s, self._try_again, given)
            return
        given.finish(result, data_format)

    def cancel(self, inputs: Iterable[Input], terminate_containers: bool) -> None:
        """End inputs that have no output yet.

        Args:
            inputs: Which.
            terminate_containers: Whether to kill the containers that have them, too.
        """
        for given in list(inputs):
            container = given.container
            if given.is_final:
                continue
            if given.state is not InputState.RUNNING or container is None:
                if given in self.pending:
                    self.pending.remove(given)
                self._finish_cancelled(given)
            elif terminate_containers:
                self._finish_cancelled(given)
                container.kill(EndReason.CANCELLED)
            elif not given.is_cancelling:
                given.is_cancelling = True
                container.cancel(given.id)
                self._set_timer(given, _CANCEL_GRACE_S, self._force_cancel)

    def container_ended(self, container: Container) -> None:
        """Deal with the inputs of a container that is no more, and start others if needed."""
        self.containers.remove(container)
        for given in list(container.inputs.values()):
            self._lose(given, container)
        if container.start_failure is not None:
            self._fail_pending(container.start_failure)
        elif container.ready_at is None and container.end_reason in (EndReason.CRASHED, EndReason.START_TIMEOUT):
            self._start_failures += 1
            if self._start_failures >= _MAX_START_FAILURES:
                self._fail_pending(failure(describe_start_failure(container)))
        self.scale()
        self._work.notify()

    def replace_containers(self) -> None:
        """End the containers once they have done what they do; others take over."""
        for container in self.containers:
            container.retire(EndReason.REPLACED)
        self._has_given_up = False
        self._work.notify()

    def close(self, reason: EndReason) -> None:
        """End all inputs and containers.

        Args:
            reason: Why.
        """
        self._is_open = False
        waiting = [*self.pending, *self._timers]
        self.pending.clear()
        for given in waiting:
            if not given.is_final and given.container is None:
                self._finish_cancelled(given, "The app has stopped.")
        self.stop_containers(reason)

    def stop_containers(self, reason: EndReason) -> None:
        """End the containers: the idle ones in peace, the busy ones after a warning and a few seconds."""
        for container in list(self.containers):
            busy = bool(container.inputs)
            for given in list(container.inputs.values()):
                if not self._is_open:
                    self._finish_cancelled(given, "The app has stopped.")
            if container.state is ContainerState.STARTING:
                container.kill(reason)
            elif busy:
                container.interrupt(reason)
            else:
                container.retire(reason)
            asyncio.get_running_loop().call_later(_STOP_GRACE_S, container.kill, reason)
        self._work.notify()

    # --- details ---------------------------------------------------------------------------------------------------

    async def _linger(self, at_most: int, linger_s: float) -> None:
        deadline = time.monotonic() + linger_s
        while len(self.pending) < at_most and (remaining := deadline - time.monotonic()) > 0:
            await self._work.wait(remaining)

    def _must_stay(self, container: Container) -> bool:
        idle = [each for each in self.containers if each.is_alive]
        return len(idle) <= self.function.min_containers

    def _assign(self, container: Container) -> Input:
        given = self.pending.popleft()
        given.start(container)
        container.inputs[given.id] = given
        container.inputs_taken += 1
        self._set_timer(given, self.function.timeout_s, self._time_out)
        if self.function.is_single_use:
            container.end_reason = EndReason.SINGLE_USE
        return given

    def _release(self, given: Input) -> None:
        container = given.container
        self._clear_timer(given)
        given.is_cancelling = False
        if container is not None:
            container.inputs.pop(given.id, None)
            container.idle_since = time.monotonic()

    def _set_timer(self, given: Input, delay_s: float, action: Callable[[Input], None]) -> None:
        self._clear_timer(given)
        self._timers[given] = asyncio.get_running_loop().call_later(delay_s, action, given)

    def _clear_timer(self, given: Input) -> None:
        timer = self._timers.pop(given, None)
        if timer is not None:
            timer.cancel()

    def _try_again(self, given: Input) -> None:
        self._clear_timer(given)
        if given.state is InputState.DELAYED:
            given.put_back()
            self.put(given)

    def _time_out(self, given: Input) -> None:
        container = given.container
        if container is None or given.state is not InputState.RUNNING:
            return
        timeout_s = self.function.timeout_s
        self.settle(
            given,
            failure(
                f"Task's current input {given.id} hit its timeout of {timeout_s:g}s", Result.GENERIC_STATUS_TIMEOUT
            ),
        )
        container.kill(EndReason.TIMEOUT)

    def _force_cancel(self, given: Input) -> None:
        container = given.container
        if container is not None:
            self._finish_cancelled(given)
            container.kill(EndReason.CANCELLED)

    def _finish_cancelled(self, given: Input, why: str = "Input was cancelled.") -> None:
        self._release(given)
        given.finish(failure(why, Result.GENERIC_STATUS_TERMINATED))

    def _lose(self, given: Input, container: Container) -> None:
        if given.is_cancelling:
            self._finish_cancelled(given)
            return
        self._release(given)
        if container.end_reason not in _NOT_THE_INPUTS_FAULT:
            given.losses += 1
        if given.losses <= _MAX_LOSSES and self._is_open:
            given.put_back()
            self.pending.appendleft(given)
        else:
            self.settle(given, failure(describe_loss(container)))

    def _fail_pending(self, result: Result) -> None:
        self._start_failures = 0
        self._has_given_up = True
        waiting, self.pending = self.pending, deque()
        for given in waiting:
            given.finish(result)


class Pools:
    """The pools of all functions.

    Args:
        start: Starts a container of a function.
        default_max_containers: The limit per function for those that set none.
    """

    def __init__(self, start: Callable[[Function], Container], default_max_containers: int) -> None:
        self._start = start
        self._default_max_containers = default_max_containers
        self._pools: dict[str, Pool] = {}

    def of(self, function: Function) -> Pool:
        """The pool of a function."""
        pool = self._pools.get(function.id)
        if pool is None:
            pool = self._pools[function.id] = Pool(function, self._start, self._default_max_containers)
        return pool

    def all(self) -> list[Pool]:
        """Every pool there ever was."""
        return list(self._pools.values())

    def retire(self, function: Function) -> None:
        """End the containers of a function whose definition changed, once they have done what they do."""
        self.of(function).replace_containers()

    async def app_stopped(self, app: App) -> None:
        """End everything that runs in an app."""
        for pool in self.all():
            if pool.function.app_id == app.id:
                pool.close(EndReason.APP_STOPPED)
