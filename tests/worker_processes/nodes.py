"""Nodes in a module that worker processes can import."""

from __future__ import annotations

import asyncio
import itertools
import os
import pickle
import signal
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypernodes import node

FOREVER_S = 3600  # ended by a time limit, or else by that of the test


@node(output_name="doubled")
def double(x: int) -> int:
    return 2 * x


@node(output_name="process_id")
def tell_process(x: int) -> int:
    return os.getpid()


@node(output_name="awaited")
async def wait_a_moment(x: int) -> tuple[int, int]:
    await asyncio.sleep(0)
    return x, os.getpid()


@node(output_name="y")
def sleep_long(x: int) -> int:
    time.sleep(60)
    return x


@node(output_name="y", timeout=0.3)
def sleep_too_long(x: int) -> int:
    if x == 2:
        time.sleep(FOREVER_S)
    return x


@node(output_name="y", timeout=0.3)
def compute_too_long(x: int) -> int:
    while x == 2:
        pass
    return x


@node(output_name="y", timeout=0.3)
async def await_too_long(x: int) -> int:
    if x == 2:
        await asyncio.sleep(FOREVER_S)
    return x


@node(output_name="y", timeout=0.3)
def stay_in_native_code(x: int) -> int:
    """Does not notice its time limit, as a call into a C library that never comes back to Python."""
    if x == 2:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
        time.sleep(FOREVER_S)
    return x


@node(output_name="y", timeout=0.3)
def hold_the_interpreter(x: int) -> int:
    """Neither a signal handler nor another thread gets a turn in its process."""
    if x == 2:
        sum(itertools.repeat(0))
    return x


@node(output_name="y", timeout=0.3)
def stop_its_process(x: int) -> int:
    if x == 2:
        os.kill(os.getpid(), signal.SIGSTOP)
    return x


@node(output_name="y", timeout=0.3)
def stay_in_native_code_after(doubled: int) -> int:
    return 0 * stay_in_native_code.func(2 if doubled == 4 else 0) + doubled


@node(output_name="y")
def die_if_told(x: int, victims: dict[int, str], folder: str) -> int:
    """Kills its process for some `x`: "once" by a signal, "exit once", or "always"; notes each call in a file."""
    note_line(Path(folder) / f"call-{x}", os.getpid())
    calls = len(read_lines(Path(folder) / f"call-{x}"))
    how = victims.get(x, "")
    if how == "always" or (how == "once" and calls == 1):
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "exit once" and calls == 1:
        os._exit(3)
    return 10 * x


class CountsUnpickling:
    """Notes in a file, with the id of the process, each time that it arrives somewhere."""

    def __init__(self, path: str, size: int = 0) -> None:
        self.path = path
        self.payload = os.urandom(size)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        note_line(Path(self.path), os.getpid())


class Block:
    """Memory that pickle hands over as it is, as the arrays of NumPy do."""

    def __init__(self, memory: Any) -> None:
        self.memory = memoryview(memory)

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return Block, (pickle.PickleBuffer(self.memory),)


class FailsOnArrival:
    """Can be sent, but not received."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _refuse, ("cannot be received",)


def _refuse(message: str) -> None:
    raise ValueError(message)


class AwkwardError(Exception):
    """Its constructor does not take what `Exception.__reduce__` passes to it."""

    def __init__(self, code: int, *, reason: str) -> None:
        super().__init__(f"{reason} ({code})")


@dataclass(frozen=True)
class FrozenError(Exception):
    """Refuses that attributes are set, also a note or a traceback."""

    code: int


class TextOfALockError(Exception):
    """Has no text without what it holds, which cannot be sent."""

    def __init__(self) -> None:
        self.lock = threading.Lock()

    def __str__(self) -> str:
        return f"locked: {self.lock.locked()}"


class HoldsALockError(Exception):
    """Cannot be pickled."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.lock = threading.Lock()


def note_line(path: Path, entry: object) -> None:
    """Append a line to a file; lines of several processes do not mix."""
    with path.open("ab", buffering=0) as file:
        file.write(f"{entry}\n".encode())


def read_lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []
