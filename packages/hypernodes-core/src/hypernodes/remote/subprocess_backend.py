"""Another Python process on this machine as a backend: what a remote backend does, without another machine."""

from __future__ import annotations

import codecs
import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from math import inf
from time import monotonic
from typing import IO, TYPE_CHECKING, Any, Literal, NamedTuple, Self, TypeVar

from hypernodes.checks import as_mapping, check_seconds, shown
from hypernodes.engine.limits import Limit
from hypernodes.engine.settings import KEEP_WORKERS_S, ExecutionMode
from hypernodes.engine.workers import stopped_processes
from hypernodes.engine.workers.callers_main import locate_callers_main
from hypernodes.engine.workers.idle_workers import IdleWorkers, surroundings
from hypernodes.engine.workers.threads import start_thread
from hypernodes.errors import ConfigurationError, NodeTimeoutError, WorkerLostError, is_positive
from hypernodes.locks import reset_after_fork
from hypernodes.remote.backend import RemoteBackend
from hypernodes.remote.messages import wants_reply
from hypernodes.remote.pipes import (
    END,
    JOB,
    LIMIT,
    LIMIT_FORMAT,
    MESSAGE,
    OUTCOME,
    PING,
    PONG,
    PRINTED,
    REPLY,
    PipeConnection,
    Received,
)
from hypernodes.remote.preflight import OWN_PYTHON
from hypernodes.request import MapRequest
from hypernodes.standard_streams import show_output
from hypernodes.temporary import OwnedFolder

if TYPE_CHECKING:
    from hypernodes.remote.channel import Channel
    from hypernodes.remote.needed_packages import Package

_T = TypeVar("_T")

_TAIL_LINES = 30
_PIPE_BYTES = 1 << 20  # fewer switches between the processes for large values
_END_TIMEOUT_S = 5
_GRACE_S = 1.0  # after the time limit of a call, for a process that stops it itself
_SERVE = "__import__('hypernodes.remote.serve', fromlist=['main']).main()"  # which leaves no names in `__main__`


class SubprocessBackend(RemoteBackend):
    """Run pipelines in another Python process on this machine, which may have another environment.

    The other Python must have `hypernodes-core` and cloudpickle, in the same versions as here. The process stays for a
    while after a run, so that the next one starts at once: what the code of a run has left in its own modules is gone,
    what it has left in installed ones, in the environment or in memory is there. It ends after `keep_workers_s`, with
    `close` and at the end of the program; no more than four stay. A run that needs one with other settings, in another
    folder or with other environment variables than it was started with gets another process, also if the file of a
    module that it has imported has changed. To keep it longer, use the backend as a context manager; `keep_workers_s=0`
    gives each run a fresh process.

    Args:
        python: The interpreter; None for the one that runs here.
        env: Environment variables, in addition to those of this process.
        cwd: Folder in which the process starts; None for the current one.
        show_logs: Whether what nodes print is shown here.
        node_execution: How the nodes of one run are executed there; None for "sequential".
        map_execution: How the items of a map are executed there; None for "sequential".
        max_workers: The largest number of calls at a time there.
        keep_workers_s: How long the process stays after a run, in seconds; 0 for not at all.
        limits: The limits that nodes may name (see `Limit`).
        max_in_flight: The largest number of items of a map that have begun there and are not done.
        jobs_at_once: The number of processes among which the items of a map are divided.
        chunk_size: How many items a process gets at a time; "auto" for as many as take about four seconds, fewer at
            first and at the end; None for all of them, or for "auto" where there are several processes.

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
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | os.PathLike[str] | None = None,
        show_logs: bool = True,
        node_execution: ExecutionMode | None = None,
        map_execution: ExecutionMode | None = None,
        max_workers: int | None = None,
        keep_workers_s: float = KEEP_WORKERS_S,
        limits: Iterable[Limit] | None = None,
        max_in_flight: int | None = None,
        jobs_at_once: int = 1,
        chunk_size: int | Literal["auto"] | None = None,
    ) -> None:
        super().__init__(
            node_execution,
            map_execution,
            max_workers=max_workers,
            limits=limits,
            max_in_flight=max_in_flight,
            chunk_size=chunk_size,
        )
        if not is_positive(jobs_at_once):
            raise ConfigurationError(f"jobs_at_once must be a whole number of at least 1; got {shown(jobs_at_once)}")
        self.jobs_at_once = jobs_at_once
        self.keep_workers_s = check_seconds("keep_workers_s", keep_workers_s)
        if python is not None and not isinstance(python, (str, os.PathLike)):
            raise ConfigurationError(f"python must be the path of an interpreter; got {shown(python)}")
        self.python = sys.executable if python is None else os.fspath(python)
        if shutil.which(self.python) is None:
            raise ConfigurationError(f"python must be an interpreter; there is none at {shown(self.python)}")
        if cwd is not None and not isinstance(cwd, (str, os.PathLike)):
            raise ConfigurationError(f"cwd must be the path of a folder; got {shown(cwd)}")
        if cwd is not None and not os.path.isdir(cwd):
            raise ConfigurationError(f"cwd must be a folder; there is none at {shown(os.fspath(cwd))}")
        self.env = as_mapping("env", env, "of strings by name")
        for name, value in self.env.items():
            if not isinstance(name, str) or not isinstance(value, str):
                raise ConfigurationError(f"env must map names to strings; the value of {shown(name)} is no string")
        self.cwd = None if cwd is None else os.path.abspath(cwd)
        self.show_logs = show_logs
        self._python_version: str | None = None
        self._idle: list[_Process] = []
        self._times_entered = 0
        self._shared: OwnedFolder | None = None
        self._pid = os.getpid()
        self._lock = reset_after_fork(threading.Lock())

    def submit(self, job: bytes, channel: Channel) -> bytes:
        process = self._take_idle() or self._new_process()
        try:
            while not process.give(job):  # one that was waiting for a job may have ended meanwhile
                process.kill()
                process = self._take_idle() or self._new_process()
            del job  # which may be large, and is over there now
            channel.when_cancelled(partial(process.interrupt_job, process.job))
            outcome = process.outcome(channel)
            with self._lock:
                is_stored = self._times_entered > 0
                if is_stored:
                    self._idle.append(process)
            if not is_stored:
                _idle_processes.give(process.kind, process, self.keep_workers_s)
        except BaseException:  # also an interrupt: what runs there is of no use to anybody
            process.kill()
            raise
        return outcome  # type: ignore[return-value]

    def share(self, key: str, data: bytes) -> str | None:
        """Write data that several processes need into a file, for as long as the map lasts."""
        with self._lock:
            if self._shared is None:
                self._shared = OwnedFolder("hypernodes-shared-")
            path = os.path.join(self._shared.path, key)
        if not os.path.exists(path):
            unfinished = f"{path}.{threading.get_ident()}"
            with open(unfinished, "wb") as file:
                file.write(data)
            os.replace(unfinished, path)
        return path

    def _kind_of_process(self) -> tuple[Hashable, ...]:
        """Return what a process has that is started now."""
        return (self.python, tuple(self.env.items()), self.cwd, self.show_logs, *surroundings())

    def _new_process(self) -> _Process:
        environ = {**os.environ, **locate_callers_main(), **self.env}
        return _Process(self.python, environ, self.cwd, self.show_logs, self._kind_of_process())

    def find_python_version(self) -> str | None:
        """Return the minor version of the interpreter ("3.12"); None when it does not run."""
        if self.python == sys.executable:
            return OWN_PYTHON
        if self._python_version is None:
            self._python_version = self._probe_python()
        return self._python_version

    def _probe_python(self) -> str | None:
        return self._probe("import sys; print('%d.%d' % sys.version_info[:2])")

    def find_missing(self, packages: Sequence[Package]) -> Sequence[Package]:
        """Return those of some packages that the interpreter does not find."""
        if self.python == sys.executable and not self.env:
            return ()
        names = [package.module for package in packages]
        found = self._probe(
            "import sys, importlib.util as u; print(*[n for n in sys.argv[1:] if u.find_spec(n)])", *names
        )
        return () if found is None else [package for package in packages if package.module not in found.split()]

    def advise_python(self, version: str) -> str:
        """Return what to do so that the process has a version of Python."""
        return f"Pass python= the interpreter of an environment with Python {version}."

    def advise_packages(self, requirements: Sequence[str]) -> str:
        """Return what to do so that the process has some packages."""
        return f"Install it there as well: {self.python} -m pip install {' '.join(requirements)}"

    def _probe(self, source: str, *arguments: str) -> str | None:
        """Return what a program prints that the interpreter runs; None when it does not run."""
        probe = [self.python, "-c", source, *arguments]
        environ = {**os.environ, **self.env}
        try:
            probed = subprocess.run(probe, env=environ, cwd=self.cwd, capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            return None
        return probed.stdout.strip()

    def map(self, request: MapRequest) -> dict[str, list[Any]]:
        with self._same_processes():
            return super().map(request)

    def map_iter(self, request: MapRequest) -> Iterator[tuple[int, dict[str, Any]]]:
        return self._in_same_processes(super().map_iter(request))

    def _in_same_processes(self, found: Iterator[_T]) -> Iterator[_T]:
        with self._same_processes():
            yield from found

    @contextlib.contextmanager
    def _same_processes(self) -> Iterator[None]:
        """Keep the processes of a map for its further jobs, however many there are."""
        with self._lock:
            self._times_entered += 1
        try:
            yield
        finally:
            for process in self._leave():
                _idle_processes.give(process.kind, process, self.keep_workers_s)

    def _take_idle(self) -> _Process | None:
        """Return a process that waits for a job; None when there is none."""
        self._leave_processes_of_parent()
        with self._lock:
            if self._idle:
                return self._idle.pop()
        return _idle_processes.take(self._kind_of_process())

    def _leave_processes_of_parent(self) -> None:
        """Forget processes that belong to the process that this one was forked from."""
        if self._pid != os.getpid():
            self._pid = os.getpid()
            _of_parents.extend(self._idle)
            self._idle = []
            self._shared = None

    def close(self) -> None:
        """End the processes that stay for further runs, also where the run was one of another `SubprocessBackend`."""
        self._end_idle()
        _idle_processes.close()

    def _end_idle(self) -> None:
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
        for process in self._leave():
            process.end()

    def _leave(self) -> list[_Process]:
        """Undo `__enter__`; return the processes that are not kept any more."""
        self._leave_processes_of_parent()
        with self._lock:
            self._times_entered -= 1
            if self._times_entered:
                return []
            idle, self._idle = self._idle, []
            shared, self._shared = self._shared, None
        if shared is not None:
            shared.close()
        return idle

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_idle": [], "_times_entered": 0, "_lock": None, "_shared": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=reset_after_fork(threading.Lock()))

    def __repr__(self) -> str:
        return f"SubprocessBackend(python={self.python!r})"


_idle_processes: IdleWorkers[_Process] = IdleWorkers(lambda process: process.end(), most=4)
_of_parents: list[_Process] = []
"""Processes of the process that this one was forked from; not closed, because that might wait for ever."""


class _Limit(NamedTuple):
    """A time limit of a call in a process.

    Attributes:
        due: When the process has to be ended, on the monotonic clock.
        limit_s: The limit, in seconds.
        node_name: The node that is called.
    """

    due: float
    limit_s: float
    node_name: str


class _Process:
    """A Python process that executes jobs; started when it is given the first one."""

    def __init__(
        self, python: str, environ: Mapping[str, str], cwd: str | None, show_logs: bool, kind: Hashable
    ) -> None:
        self.kind = kind  # processes of one kind can take each other's place
        self.job = 0  # number of the job that it was given last
        self._job_under_way = 0
        self._ending_job = threading.Lock()
        self._show_logs = show_logs
        self._python = python
        self._environ = environ
        self._cwd = cwd
        self._process: subprocess.Popen[bytes] | None = None
        self._stops = stopped_processes.StopWatch("the process of SubprocessBackend")
        self._connection: PipeConnection | None = None
        self._tail: deque[str] = deque(maxlen=_TAIL_LINES)
        self._reader: _ErrorReader | None = None
        self._peer = -1

    def _start(self) -> None:
        # Should an interrupt come before the process is known here, its standard input is closed, which ends it.
        self._process = process = subprocess.Popen(
            [self._python, "-P", "-c", _SERVE],  # -P: the current folder must not hide installed modules
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            pipesize=_PIPE_BYTES,
            env=self._environ,
            cwd=self._cwd,
            start_new_session=os.name == "posix",  # an interrupt from the keyboard is for this process
        )
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        self._peer = _open_pid(process.pid)
        self._connection = PipeConnection(
            process.stdout.fileno(), process.stdin.fileno(), lambda: process.poll() is not None, self._peer
        )
        self._reader = _ErrorReader(process.stderr, self._tail, self._show_logs)

    def give(self, job: bytes) -> bool:
        """Give it a job; return whether it took it.

        One that was used before is asked first whether it is there: what is written to a process that is just dying is
        lost, and nobody could tell whether the job had begun.
        """
        is_new = self._process is None
        if self._process is None:
            self._start()
        elif self._process.poll() is not None:
            return False
        assert self._connection is not None
        try:
            self._connection.send(PING, b"")
            while (received := self._connection.receive()) is not None:
                if received.kind == PONG:
                    self.job += 1
                    self._job_under_way = self.job
                    self._connection.send(JOB, job)
                    return True
                self._show_printed(received.content)  # since the last job
        except BrokenPipeError:
            pass
        if is_new:
            raise self._lost()
        return False

    def outcome(self, channel: Channel) -> bytearray:
        """Return what came of the job.

        Raises:
            WorkerLostError: The process ended before.
            NodeTimeoutError: A call exceeded its time limit, and the process could not stop it.
        """
        assert self._connection is not None
        assert self._reader is not None
        limits: dict[int, _Limit] = {}
        while (received := self._receive(limits)) is not None:
            if received.kind == OUTCOME:
                with self._ending_job:
                    self._job_under_way = 0
                self._reader.catch_up()
                return received.content
            if received.kind == PRINTED:
                self._show_printed(received.content)
            elif received.kind == LIMIT:
                number, limit_s = LIMIT_FORMAT.unpack_from(received.content)
                if limit_s == inf:
                    limits.pop(number, None)
                else:
                    name = received.content[LIMIT_FORMAT.size :].decode()
                    limits[number] = _Limit(monotonic() + limit_s + _GRACE_S, limit_s, name)
            elif received.kind == MESSAGE:
                message = bytes(received.content)
                reply = channel.handle(message)
                if wants_reply(message):
                    try:
                        self._connection.send(REPLY, reply or b"")
                    except BrokenPipeError:  # it ended while it was answered
                        break
        raise self._lost()

    def _receive(self, limits: dict[int, _Limit]) -> Received | None:
        """Return the next message; see `outcome`."""
        assert self._connection is not None
        assert self._process is not None
        first = min(limits.values(), default=None)
        while True:
            look_at = monotonic() + stopped_processes.LOOK_S
            is_due = first is not None and first.due <= look_at
            try:
                return self._connection.receive(first.due if first is not None and is_due else look_at)
            except TimeoutError:
                if not is_due:
                    self._stops.look(self._process.pid)
                    continue
            assert first is not None
            raise NodeTimeoutError(
                f"node {first.node_name!r} took longer than its timeout of {first.limit_s:g} s and could not be "
                "stopped, so the process of SubprocessBackend was ended with everything that it was computing",
                node_name=first.node_name,
                timeout_s=first.limit_s,
            ) from None

    def _show_printed(self, content: bytearray) -> None:
        if self._show_logs:
            show_output(content.decode(errors="replace"), "stdout")

    def _lost(self) -> WorkerLostError:
        assert self._process is not None
        assert self._reader is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_TIMEOUT_S)
        self._reader.stop()
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
            f"the process of SubprocessBackend was lost: {reason}. What it computed and sent before is stored in the "
            "cache, if there is one." + (f" The last it printed:\n{tail}" if tail else ""),
            backend_name=SubprocessBackend.backend_name,
            exit_code=code,
            log_tail=tail,
        )

    def end(self) -> None:
        """Let it end, with whatever it does at its end."""
        if self._process is None:
            return
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            if self._connection is not None:
                self._connection.send(END, b"")  # a process that was forked from this one may hold the pipe open
            self._process.stdin.close()
        try:
            self._process.wait(_END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill()
        else:
            self._release()

    def interrupt_job(self, number: int) -> None:
        """End it at once because a job is to end, unless that has ended already: then it may have another."""
        with self._ending_job:
            if self._job_under_way == number:
                self.interrupt()

    def interrupt(self) -> None:
        """End it at once, with all that it started; `outcome`, in another thread, raises."""
        if self._process is None:
            return
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
        if self._process is not None:
            self._process.wait()
            self._release()

    def _release(self) -> None:
        assert self._process is not None
        if self._reader is not None:
            self._reader.stop()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        if self._peer >= 0:
            os.close(self._peer)
            self._peer = -1


class _ErrorReader:
    """Shows here what a process writes to its standard error, and remembers the end of it.

    Args:
        errors: The pipe; something that the process started may hold its other end for longer than the process lives.
        tail: Where the last lines are remembered.
        show_logs: Whether they are shown.
    """

    def __init__(self, errors: IO[bytes], tail: deque[str], show_logs: bool) -> None:
        self._errors = errors
        self._show_logs = show_logs
        self._tail = tail
        self._wake_read, self._wake_write = os.pipe()
        self._has_caught_up = threading.Event()
        self._is_stopped = False
        self._is_over = False
        self._thread = threading.Thread(target=self._read, name="hypernodes-worker-stderr", daemon=True)
        start_thread(self._thread)

    def catch_up(self) -> None:
        """Wait until everything that has been written so far was shown."""
        if hasattr(select, "poll"):
            self._has_caught_up.clear()
            if not self._is_over:
                os.write(self._wake_write, b".")
                self._has_caught_up.wait()

    def stop(self) -> None:
        """Read what is there, and nothing more."""
        if not self._is_stopped:
            self._is_stopped = True
            os.close(self._wake_write)
            self._thread.join(None if hasattr(select, "poll") else _END_TIMEOUT_S)
            os.close(self._wake_read)

    def _read(self) -> None:
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        line = ""
        with self._errors:
            while data := self._read_some():
                *lines, line = (line + decoder.decode(data)).split("\n")
                for whole in lines:
                    self._show(whole + "\n")
        if line:
            self._show(line)
        self._is_over = True
        self._has_caught_up.set()

    def _read_some(self) -> bytes:
        descriptor = self._errors.fileno()
        if hasattr(select, "poll"):
            poll = select.poll()
            poll.register(descriptor, select.POLLIN)
            poll.register(self._wake_read, select.POLLIN)
            while descriptor not in dict(poll.poll()):
                if not os.read(self._wake_read, 1):  # the other end was closed
                    return b""
                self._has_caught_up.set()
        return os.read(descriptor, 65536)

    def _show(self, text: str) -> None:
        self._tail.append(text)
        if self._show_logs:
            show_output(text, "stderr")


def _open_pid(pid: int) -> int:
    """Return a file descriptor that becomes readable when a process ends; -1 where there are none."""
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):
        return -1
