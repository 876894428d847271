"""Stops calls that exceed their time limit, where the calls are made."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import TYPE_CHECKING, Any

from hypernodes.engine.step import timeout_error
from hypernodes.engine.workers.process_link import announce_end_of_limit, announce_time_limit

if TYPE_CHECKING:
    from hypernodes.nodes import Node


class TimeLimit:
    """Interrupts a call that takes too long; in a worker process, the caller ends the process if that has no effect.

    Args:
        node: The node that is called.
        item: Position of the item in the order.
        step: Position of the call in the plan.
    """

    def __init__(self, node: Node[..., Any], item: int, step: int) -> None:
        self._node = node
        self._item = item
        self._step = step
        self._has_alarm = False
        self._is_announced = False

    def __enter__(self) -> None:
        limit = self._node.timeout
        if limit is None or threading.current_thread() is not threading.main_thread():
            return
        self._is_announced = announce_time_limit(limit, self._item, self._step)
        if hasattr(signal, "setitimer"):
            self._has_alarm = True
            self._previous = signal.signal(signal.SIGALRM, self._interrupt)
            signal.setitimer(signal.ITIMER_REAL, limit)

    def __exit__(self, *exc_info: object) -> None:
        if self._has_alarm:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, self._previous)
        if self._is_announced:
            announce_end_of_limit()

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        raise timeout_error(self._node)
