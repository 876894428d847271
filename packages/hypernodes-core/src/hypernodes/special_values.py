"""Whether values are in use that plans depend on: resources, and `SKIPPED`.

Until then a plan depends on the names of its inputs only, and their values need not be looked at.
"""

from __future__ import annotations

are_in_use = False


def note_use() -> None:
    """Take note that there may be such values in this process from now on."""
    global are_in_use
    are_in_use = True
