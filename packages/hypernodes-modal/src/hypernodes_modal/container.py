"""What runs in the container: one plain function, imported by name, for all pipelines."""

from __future__ import annotations

from hypernodes.remote.worker import execute
from hypernodes_modal.calls import CalledBackend, Extras
from hypernodes_modal.queues import QueueExchange, Queues


def run_job(job: bytes, queues: Queues | None, extras: Extras) -> bytes:
    """Run a job.

    Args:
        job: What `RemoteBackend` made.
        queues: To talk with the caller while it runs; None when there is nothing to say.
        extras: What it needs besides.

    Returns:
        The outcome.
    """
    for volume in extras.volumes:
        volume.reload()
    exchange = None if queues is None else QueueExchange(queues)
    try:
        return execute(job, exchange, [CalledBackend(handle) for handle in extras.others])
    finally:
        if exchange is not None:
            exchange.close()
        for volume in extras.volumes:
            volume.commit()
