"""A node that ends its process at some items, and how often it was called."""

from __future__ import annotations

import os
import signal
from collections import Counter
from pathlib import Path

from hypernodes import node


@node(output_name="y")
def fatal(x: int, kills: dict[int, int], folder: str) -> int:
    """Double a number; some numbers end the process some times. Each call leaves a line."""
    with open(os.path.join(folder, "calls"), "a") as file:
        file.write(f"{x}\n")
    for number in range(kills.get(x, 0)):
        mark = os.path.join(folder, f"{x}-{number}")
        if not os.path.exists(mark):
            open(mark, "w").close()
            os.kill(os.getpid(), signal.SIGKILL)
    return 2 * x


def calls_in(folder: Path) -> Counter[int]:
    return Counter(map(int, (folder / "calls").read_text().split()))
