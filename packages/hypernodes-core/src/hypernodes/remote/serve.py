"""The process that `SubprocessBackend` starts: executes the jobs that come through its standard input.

What nodes print goes to the caller as well; the process ends when the caller does.
"""

from __future__ import annotations

import os
import secrets
import signal
import sys
import threading
from queue import SimpleQueue

from hypernodes.remote.messages import wants_reply
from hypernodes.remote.pipes import JOB, MESSAGE, OUTCOME, PING, PONG, PRINTED, PipeConnection
from hypernodes.remote.worker import execute


def main() -> None:
    """Serve until standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt is for the caller, who ends this process
    frames = PipeConnection(os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb"))
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    output = _Output(frames)
    jobs: SimpleQueue[bytes] = SimpleQueue()
    replies: SimpleQueue[bytes] = SimpleQueue()
    threading.Thread(target=_receive, args=(frames, jobs, replies), daemon=True).start()

    def exchange(message: bytes) -> bytes | None:
        frames.send(MESSAGE, message)
        return replies.get() if wants_reply(message) else None

    while True:
        outcome = execute(jobs.get(), exchange)
        output.flush()
        frames.send(OUTCOME, outcome)


def _receive(frames: PipeConnection, jobs: SimpleQueue[bytes], replies: SimpleQueue[bytes]) -> None:
    while (received := frames.receive()) is not None:
        kind, content = received
        if kind == PING:
            frames.send(PONG, b"")
        else:
            (jobs if kind == JOB else replies).put(content)
    os._exit(0)  # the caller is gone, so nobody waits for what may still be running


class _Output:
    """Standard output as messages."""

    def __init__(self, frames: PipeConnection) -> None:
        self._frames = frames
        self._mark = secrets.token_bytes(16)
        self._is_flushed = threading.Event()
        self._read_end, write_end = os.pipe()
        os.dup2(write_end, 1)
        os.close(write_end)
        threading.Thread(target=self._pump, daemon=True).start()

    def flush(self) -> None:
        """Wait until everything that was printed has been sent."""
        self._is_flushed.clear()
        sys.stdout.flush()
        os.write(1, self._mark)
        self._is_flushed.wait()

    def _pump(self) -> None:
        waiting = b""
        while data := os.read(self._read_end, 65536):
            *printed, waiting = (waiting + data).split(self._mark)
            for part in printed:
                self._send(part)
                self._is_flushed.set()
            complete = len(waiting) - _overlap(waiting, self._mark)
            self._send(waiting[:complete])
            waiting = waiting[complete:]

    def _send(self, printed: bytes) -> None:
        if printed:
            self._frames.send(PRINTED, printed)


def _overlap(text: bytes, mark: bytes) -> int:
    """Return how many bytes at the end of `text` may be the beginning of `mark`."""
    return next((size for size in range(min(len(text), len(mark)), 0, -1) if mark.startswith(text[-size:])), 0)


if __name__ == "__main__":
    main()
