"""A cluster on this machine, for a backend that is given none."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
from typing import Any

from distributed import Scheduler, SpecCluster
from distributed.deploy.subprocess import SubprocessWorker

_QUIET = {"DASK_LOGGING__DISTRIBUTED": "error"}


def start_local_cluster(workers: int | None = None) -> Any:
    """Start a scheduler in this process and worker processes, one thread each.

    The workers are programs of their own, so that a script needs no `__main__` guard. They end when this process does.

    Args:
        workers: How many; None for one for each core.
    """
    options = {"nthreads": 1, "dashboard": False, "death_timeout": 60}
    spec = {
        number: {"cls": _QuietWorker, "options": {"worker_kwargs": {**options, "name": f"local-{number}"}}}
        for number in range(workers or os.cpu_count() or 1)
    }
    scheduler = {"cls": Scheduler, "options": {"host": "127.0.0.1", "port": 0, "dashboard_address": "127.0.0.1:0"}}
    return SpecCluster(workers=spec, scheduler=scheduler, name="hypernodes", silence_logs=logging.CRITICAL)


class _QuietWorker(SubprocessWorker):
    """A worker process that shows what nodes print, and not every step of its own."""

    async def _start(self) -> None:
        spec = json.dumps({"cls": self.worker_class, "opts": self.worker_kwargs})
        command = [sys.executable, "-m", "dask", "spec", self.scheduler, "--spec", spec]
        self.process = await asyncio.create_subprocess_exec(*command, env={**_QUIET, **os.environ})
