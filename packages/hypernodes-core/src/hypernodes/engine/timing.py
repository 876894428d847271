"""The clocks of time limits, delays and stored results, and the delay before a retry."""

from __future__ import annotations

from time import monotonic, time
from typing import Any

from hypernodes.nodes import Node


def now() -> float:
    """Return the time on the monotonic clock, in seconds."""
    return monotonic()


def seconds_since_epoch() -> float:
    """Return the time of day, which results are stored with that count for some time only."""
    return time()


def retry_delay_s(node: Node[..., Any], attempt: int) -> float:
    """Return the delay after a failed attempt, in seconds: exponential backoff with a jitter of 25%.

    Without jitter, callers that fail together would retry together.
    """
    import random

    return float(node.retry_delay * 2 ** (attempt - 1) * random.uniform(0.75, 1.25))
