"""What runs in the container: one plain function, imported by name, for all pipelines."""

from __future__ import annotations

import modal

from hypernodes.extension import execute
from hypernodes_modal.call import CallContext
from hypernodes_modal.callable_backends import CallableBackend
from hypernodes_modal.queue_transport import MessageBacklog, QueueExchange

_PATIENCE_S = 0.1  # before the caller hears of anything; a request is no faster than many jobs


def run_job(job: bytes, queue: modal.Queue | None, context: CallContext) -> tuple[bytes, MessageBacklog | None]:
    """Run a job.

    Args:
        job: What `RemoteBackend` made.
        queue: To talk with the caller while it runs; None when there is nothing to say.
        context: What it needs besides.

    Returns:
        The outcome, and what comes with it when there is a queue.
    """
    for volume in context.volumes:
        volume.reload()
    places = [CallableBackend(handle) for handle in context.others]
    try:
        if queue is None:
            return execute(job, None, places), None
        # A container before this one may have had results kept of which the job does not know.
        exchange = QueueExchange(queue, may_be_repeated=context.is_cached)
        outcome = execute(job, exchange, places, exchange.is_repeated, _PATIENCE_S)
        return outcome, exchange.rest()
    finally:
        for volume in context.volumes:
            volume.commit()
