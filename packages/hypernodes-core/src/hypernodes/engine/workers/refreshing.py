"""What a worker process does between two runs: releases what the last one left, and looks whether its code is old."""

from __future__ import annotations

import gc
import sys

from hypernodes.engine.workers.imported_files import are_unchanged
from hypernodes.engine.workers.process_main import evict_removed_files
from hypernodes.engine.workers.process_start import return_to_folder


def refresh(argument: bytes) -> bytes:
    """Release the values of the last run; return nothing if the process can be used on, else why it cannot."""
    return_to_folder()
    if evict_removed_files():
        gc.collect()
    for module in list(sys.modules.values()):
        shown = getattr(module, "__dict__", {}).get("__warningregistry__")
        if shown:
            shown.clear()  # the next run may show the same warnings
    return b"" if are_unchanged() else b"a module has changed since it was imported"
