"""What runs in the container: one plain function, imported by name, for all pipelines."""

from __future__ import annotations

from hypernodes.remote.worker import execute
from hypernodes_modal.call import Extras
from hypernodes_modal.others import CalledBackend
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
    places = [CalledBackend(handle) for handle in extras.others]
    try:
        if queues is None:
            return execute(job, None, places)
        exchange = QueueExchange(queues)
        # A container before this one may have had results kept of which the job does not know.
        outcome = execute(job, exchange, places, is_repeated=not exchange.is_first_attempt)
        exchange.close()
        return outcome
    finally:
        for volume in extras.volumes:
            volume.commit()
