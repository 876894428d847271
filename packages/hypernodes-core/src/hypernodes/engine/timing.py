"""The clock of time limits and delays, and how long to wait before a call is made again."""

from __future__ import annotations

import random
from time import monotonic
from typing import Any

from hypernodes.nodes import Node


def now() -> float:
    """Return the time on the monotonic clock, in seconds."""
    return monotonic()


def retry_delay_s(node: Node[..., Any], attempt: int) -> float:
    """Return how long to wait after a failed attempt: twice as long each time, give or take a quarter.

    Callers that fail together would otherwise come back together.
    """
    return float(node.retry_delay * 2 ** (attempt - 1) * random.uniform(0.75, 1.25))
