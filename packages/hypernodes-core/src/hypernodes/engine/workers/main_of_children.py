"""The main module of the processes that nodes start by `multiprocessing` in a worker process; see `callers_main`."""

from __future__ import annotations

from hypernodes.engine.workers.callers_main import find_in_callers_main as __getattr__
from hypernodes.engine.workers.callers_main import find_modules_beside_main

__all__ = ["__getattr__"]

find_modules_beside_main()
