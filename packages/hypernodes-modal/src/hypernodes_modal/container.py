"""The function that runs in containers: one for all pipelines, imported by name."""

from __future__ import annotations

import logging
import re
from functools import partial

import modal

from hypernodes.extension import execute
from hypernodes_modal.call import BEGUN_BEFORE, CallContext
from hypernodes_modal.callable_backends import CallableBackend
from hypernodes_modal.queue_transport import MessageBacklog, QueueExchange
from hypernodes_modal.shared_data import fetch

# Jobs that end within this time send no messages, since one request takes longer than many jobs.
_PATIENCE_S = 0.1
# The threads that manage idle worker processes end with the interpreter, at once; Modal expects to wait for them.
_UNFOUNDED = re.compile(r"background thread\(s\) \[ExecutorManagerThread(, ExecutorManagerThread)*\]")
_modal_logger = logging.getLogger("modal-client")


def _is_founded(record: logging.LogRecord) -> bool:
    return _UNFOUNDED.search(record.getMessage()) is None


def run_job(job: bytes, queue: modal.Queue | None, context: CallContext) -> tuple[bytes, MessageBacklog | None]:
    """Run a job.

    Args:
        job: The job that `RemoteBackend` made.
        queue: Carries messages to the caller and back while the job runs; None when there are none to send.
        context: What the job needs besides its bytes.

    Returns:
        The outcome, and the messages that come with it when there is a queue.
    """
    _modal_logger.addFilter(_is_founded)  # the same one again changes nothing
    for volume in context.volumes:
        volume.reload()
    backends = [CallableBackend(spec) for spec in context.callable_backends]
    try:
        if queue is None:
            return execute(job, backends=backends, is_dedicated=True), None
        # An earlier container of this call may have had results stored that the job does not know of.
        exchange = QueueExchange(queue, may_be_repeated=context.has_caches or context.begins_once)
        if context.begins_once and not exchange.begin():
            return BEGUN_BEFORE, exchange.backlog()
        outcome = execute(
            job,
            exchange,
            backends=backends,
            is_repeated=exchange.is_repeated,
            patience_s=_PATIENCE_S,
            is_dedicated=True,
            fetch=partial(fetch, context.shared),
        )
        return outcome, exchange.backlog()
    finally:
        for volume in context.volumes:
            volume.commit()
