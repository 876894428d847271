"""The clocks of time limits, delays and stored results, and the delay before a retry."""

from __future__ import annotations

from time import monotonic, time
from typing import Any

from hypernodes.checks import as_number, shown
from hypernodes.errors import ConfigurationError
from hypernodes.nodes import Node


def now() -> float:
    """Return the time on the monotonic clock, in seconds."""
    return monotonic()


def seconds_since_epoch() -> float:
    """Return the time of day, which results are stored with that count for some time only."""
    return time()


def retry_delay_s(node: Node[..., Any], attempt: int, error: BaseException) -> float:
    """Return the delay after a failed attempt, in seconds: what the error asks for, else exponential backoff.

    That has a jitter of 25%, since without it callers that fail together would retry together.

    Raises:
        ConfigurationError: The node's `retry_after` returned what is no delay.
        Exception: It raised.
    """
    asked: Any = None if node.retry_after is None else node.retry_after(error)
    if asked is None:
        import random

        return float(node.retry_delay * 2 ** (attempt - 1) * random.uniform(0.75, 1.25))
    seconds = as_number(asked)
    if seconds is None or seconds < 0:
        raise ConfigurationError(
            f"retry_after of node {node.name!r} must return seconds, 0 or more, or None; it returned {shown(asked)}"
        )
    return seconds
