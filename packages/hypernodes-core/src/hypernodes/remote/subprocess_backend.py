"""A fresh Python process next door as a backend: remote semantics without a remote place."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from typing import IO, TYPE_CHECKING, Any, Self, TypeVar

from hypernodes.engine.engine import OutputNames
from hypernodes.engine.settings import ExecutionMode
from hypernodes.errors import ConfigurationError, WorkerLostError
from hypernodes.plan import MapMode, OnError
from hypernodes.remote.backend import RemoteBackend
from hypernodes.remote.messages import wants_reply
from hypernodes.remote.pipes import JOB, MESSAGE, OUTCOME, PING, PONG, PRINTED, REPLY, PipeConnection
from hypernodes.remote.preflight import OWN_PYTHON

if TYPE_CHECKING:
    from hypernodes.pipeline import Pipeline

_T = TypeVar("_T")
if TYPE_CHECKING:
    from hypernodes.remote.channel import Channel

_TAIL_LINES = 30
_PIPE_BYTES = 1 << 20  # fewer switches between the processes for large values
_END_TIMEOUT_S = 5


class SubprocessBackend(RemoteBackend):
    """RunRegistry pipelines in another Python process on this machine, which may have another environment.

    The other Python must have `hypernodes-core` and cloudpickle, in the same versions as here. Each run gets a fresh
    process; to keep it for several, use the backend as a context manager. What nodes print appears here.

    Args:
        python: The interpreter; None for the one that runs here.
        env: Environment variables, in addition to those of this process.
        cwd: Folder in which the process starts; None for the current one.
        node_execution: How the nodes of one run are executed there.
        map_execution: How the items of a map are executed there.
        max_workers: The largest number of calls at a time there.

    Raises:
        ConfigurationError: A setting has a value it cannot have.

    Example:
        >>> import os
        >>> from hypernodes import Pipeline, node
        >>> from hypernodes.backend import SubprocessBackend
        >>> @node(output_name="is_elsewhere")
        ... def compare(caller):
        ...     return os.getpid() != caller
        >>> Pipeline(nodes=[compare], backend=SubprocessBackend()).run(inputs={"caller": os.getpid()})
        {'is_elsewhere': True}
    """

    backend_name = "subprocess"

    def __init__(
        self,
        python: str | os.PathLike[str] | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str | os.PathLike[str] | None = None,
        node_execution: ExecutionMode = "sequential",
        map_execution: ExecutionMode = "sequential",
        max_workers: int | None = None,
    ) -> None:
        super().__init__(node_execution, map_execution, max_workers)
        self.python = sys.executable if python is None else os.fspath(python)
        if shutil.which(self.python) is None:
            raise ConfigurationError(f"python must be an interpreter; there is none at {self.python!r}")
        if cwd is not None and not os.path.isdir(cwd):
            raise ConfigurationError(f"cwd must be a folder; there is none at {os.fspath(cwd)!r}")
        self.env = dict(env or {})
        for name, value in self.env.items():
            if not isinstance(value, str):
                raise ConfigurationError(f"env must map names to strings; the value of {name!r} is no string")
        self.cwd = None if cwd is None else os.path.abspath(cwd)
        self._idle: list[_Process] = []
        self._times_entered = 0
        self._pid = os.getpid()
        self._lock = threading.Lock()

    def submit(self, job: bytes, channel: Channel) -> bytes:
        process = self._take_idle(job) or _Process(self.python, {**os.environ, **self.env}, self.cwd, job)
        try:
            channel.when_cancelled(process.interrupt)
            outcome = process.outcome(channel)
        except BaseException:  # also an interrupt: what runs there is of no use to anybody
            process.kill()
            raise
        with self._lock:
            is_stored = self._times_entered > 0
            if is_stored:
                self._idle.append(process)
        if not is_stored:
            process.end()
        return outcome

    def find_python_version(self) -> str | None:
        """Return the minor version of the interpreter ("3.12"); None when it does not run."""
        if self.python == sys.executable:
            return OWN_PYTHON
        probe = [self.python, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
        environ = {**os.environ, **self.env}
        try:
            told = subprocess.run(probe, env=environ, cwd=self.cwd, capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            return None
        return told.stdout.strip()

    def map_iter(
        self,
        pipeline: Pipeline,
        columns: Mapping[str, Any],
        map_mode: MapMode,
        inputs: Mapping[str, Any],
        output_name: OutputNames = None,
        on_error: OnError = "raise",
        is_ordered: bool = True,
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        found = super().map_iter(pipeline, columns, map_mode, inputs, output_name, on_error, is_ordered)
        return self._in_one_process(found)

    def _in_one_process(self, found: Iterator[_T]) -> Iterator[_T]:
        with self:
            yield from found

    def _take_idle(self, job: bytes) -> _Process | None:
        """Give a job to a process that was kept; None when there is none that takes it."""
        self._leave_processes_of_parent()
        while True:
            with self._lock:
                process = self._idle.pop() if self._idle else None
            if process is None:
                return None
            if process.give(job):
                return process
            process.kill()  # it ended meanwhile

    def _leave_processes_of_parent(self) -> None:
        """Forget processes that belong to the process that this one was forked from."""
        if self._pid != os.getpid():
            self._pid = os.getpid()
            self._lock = threading.Lock()  # a thread that exists no more may have held the old one
            _of_parents.extend(self._idle)
            self._idle = []

    def close(self) -> None:
        """End the processes that were kept for further runs."""
        self._leave_processes_of_parent()
        with self._lock:
            idle, self._idle = self._idle, []
        for process in idle:
            process.end()

    def __enter__(self) -> Self:
        with self._lock:
            self._times_entered += 1
        return self

    def __exit__(self, *exc_info: object) -> None:
        with self._lock:
            self._times_entered -= 1
            is_last = self._times_entered == 0
        if is_last:
            self.close()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_idle": [], "_times_entered": 0, "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())

    def __repr__(self) -> str:
        return f"SubprocessBackend(python={self.python!r})"


_of_parents: list[_Process] = []
"""Processes of the process that this one was forked from, kept because closing their pipes might wait for ever."""


class _Process:
    """A Python process that executes jobs."""

    def __init__(self, python: str, environ: Mapping[str, str], cwd: str | None, job: bytes) -> None:
        self._python = python
        self._process = subprocess.Popen(
            [python, "-P", "-m", "hypernodes.remote.serve"],  # -P: the current folder must not hide installed modules
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pipesize=_PIPE_BYTES,
            env=environ,
            cwd=cwd,
            start_new_session=os.name == "posix",  # an interrupt from the keyboard is for this process
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._frames = PipeConnection(self._process.stdout, self._process.stdin)
        self._tail: deque[str] = deque(maxlen=_TAIL_LINES)
        self._reader = threading.Thread(
            target=self._read_errors, args=(self._process.stderr,), name="hypernodes-worker-stderr", daemon=True
        )
        self._reader.start()
        self.give(job)

    def give(self, job: bytes) -> bool:
        """Give it a job; return whether it took it.

        It is asked first whether it is there: what is written to a process that is just dying is lost, and nobody could
        tell whether the job had begun.
        """
        if self._process.poll() is not None:
            return False
        try:
            self._frames.send(PING, b"")
            while (received := self._frames.receive()) is not None:
                kind, content = received
                if kind == PONG:
                    self._frames.send(JOB, job)
                    return True
                sys.stdout.write(content.decode(errors="replace"))  # printed since the last job
        except BrokenPipeError:
            pass
        return False

    def outcome(self, channel: Channel) -> bytes:
        """Return what came of the job.

        Raises:
            WorkerLostError: The process ended before.
        """
        try:
            while (received := self._frames.receive()) is not None:
                kind, content = received
                if kind == OUTCOME:
                    return content
                if kind == PRINTED:
                    sys.stdout.write(content.decode(errors="replace"))
                elif kind == MESSAGE:
                    reply = channel.handle(content)
                    if wants_reply(content):
                        self._frames.send(REPLY, reply or b"")
        except BrokenPipeError:
            pass  # the process ended while it was talked to
        raise self._lost()

    def _lost(self) -> WorkerLostError:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_TIMEOUT_S)
        self._reader.join(_END_TIMEOUT_S)
        code = self._process.returncode
        tail = "".join(self._tail)
        if "No module named" in tail and "hypernodes" in tail:
            reason = (
                f"{self._python} has no hypernodes-core with cloudpickle; pip install 'hypernodes-core[remote]' there"
            )
        elif code is not None and code < 0:
            reason = f"it was ended by signal {-code} ({signal.Signals(-code).name})"
        else:
            reason = f"it ended with exit code {code}"
        return WorkerLostError(
            f"the process of SubprocessBackend was lost: {reason}. What it had computed and sent before is kept in the "
            "cache, if there is one." + (f" The last it printed:\n{tail}" if tail else ""),
            backend_name=SubprocessBackend.backend_name,
            exit_code=code,
            log_tail=tail,
        )

    def end(self) -> None:
        """Let it end."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(_END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill()
        else:
            self._release()

    def interrupt(self) -> None:
        """End it at once, with all that it started; `call`, in another thread, raises."""
        with contextlib.suppress(OSError):
            if self._process.returncode is not None:
                return  # its id may belong to another process by now
            if os.name == "posix":
                os.killpg(self._process.pid, signal.SIGKILL)
            else:
                self._process.kill()

    def kill(self) -> None:
        """End it at once, and release what belongs to it here."""
        self.interrupt()
        self._process.wait()
        self._release()

    def _release(self) -> None:
        self._reader.join()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()

    def _read_errors(self, errors: IO[bytes]) -> None:
        with errors:
            for line in errors:
                text = line.decode(errors="replace")
                self._tail.append(text)
                sys.stderr.write(text)
