"""What runs in the container: one plain function, imported by name, for all pipelines."""

from __future__ import annotations

from typing import Any

from hypernodes.remote.worker import execute
from hypernodes_modal.queues import QueueExchange, Queues


def run_job(job: bytes, queues: Queues | None) -> bytes:
    """Run a job.

    Args:
        job: What `RemoteBackend` made.
        queues: To talk with the caller while it runs; None when there is nothing to say.

    Returns:
        The outcome.
    """
    exchange: Any = None if queues is None else QueueExchange(queues)
    outcome = execute(job, exchange)
    if exchange is not None:
        exchange.close()
    return outcome
