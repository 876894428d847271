"""Reports calls with a time limit to a process that can end this one, should a call let nothing in here stop it.

A call into a C library that holds the interpreter, or a process that was stopped, cannot be told from within.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import count
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hypernodes.nodes import Node

Report = Callable[[int, str, float], object]
"""Takes the number of a call, the name of its node and its limit in seconds; an infinite limit ends the call."""

_report: Report | None = None
_process_id = 0  # a node may fork, and the fork has nothing to report
_numbers = count()


def report_limits_to(report: Report) -> None:
    """Report every call with a time limit that this process makes from now on."""
    global _report, _process_id
    _report, _process_id = report, os.getpid()


class LimitReport:
    """The report of one call.

    Args:
        node: The node that is called.
    """

    __slots__ = ("_node", "_number")

    def __init__(self, node: Node[..., Any]) -> None:
        self._node = node
        self._number = -1

    def begin(self) -> None:
        """Report that the call begins."""
        if _report is not None and _process_id == os.getpid() and self._node.timeout is not None:
            self._number = next(_numbers)
            _report(self._number, self._node.name, self._node.timeout)

    def end(self) -> None:
        """Report that the call has ended, or was given up in time."""
        if self._number >= 0 and _report is not None and _process_id == os.getpid():
            _report(self._number, self._node.name, float("inf"))
