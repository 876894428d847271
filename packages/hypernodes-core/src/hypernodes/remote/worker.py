"""What runs on the remote side: a job is checked and unpacked, and the same engine runs it."""

from __future__ import annotations

import signal
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from time import perf_counter
from typing import Any, TypeAlias

from hypernodes.backend.base import Backend
from hypernodes.backend.local import LocalBackend
from hypernodes.callbacks import CallbackContext
from hypernodes.decimals import using
from hypernodes.engine.engine import PipelineExecutionEngine
from hypernodes.engine.execution import Execution
from hypernodes.engine.frames.columns import MapInputs
from hypernodes.engine.state import RunState
from hypernodes.engine.workers.caller_settings import settings_taken_over
from hypernodes.engine.workers.code_owner import code_owner
from hypernodes.engine.workers.culprits import find_culprit
from hypernodes.engine.workers.threads import start_thread
from hypernodes.errors import RemoteVersionError, SerializationError
from hypernodes.locks import reset_after_fork
from hypernodes.remote import wire
from hypernodes.remote.finished_rows import FinishedRows
from hypernodes.remote.job import EngineSettings, JobSetup, KnownResults, MapPart, MapResult, RunPart, Task
from hypernodes.remote.messages import Warned
from hypernodes.remote.modules import JobModules, modules_of_job
from hypernodes.remote.outbox import Exchange, Outbox, Packing
from hypernodes.remote.packing import Unpacker
from hypernodes.remote.proxies import CacheProxy, CallbackProxy

Fetch: TypeAlias = Callable[[str], bytes]

_LOOK_AHEAD = 4096  # items whose results are asked for in one round trip
_MAX_IDLE_ENGINES = 4
_ASK_S = 0.25  # between two questions whether anybody still waits for a job
_MOST_NAMED = 5  # values that cannot be sent, in a message


def execute(
    job: bytes | bytearray,
    exchange: Exchange | None = None,
    backends: Sequence[Backend] = (),
    is_repeated: bool = False,
    patience_s: float = 0.0,
    is_dedicated: bool = False,
    fetch: Fetch | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> bytes:
    """Run a job.

    Several threads of a process may run a job each at a time; every job has its own modules and classes.

    Args:
        job: What `RemoteBackend` gave to `submit`.
        exchange: Hands a message to the caller's `Channel.handle` and returns what that returned; called from one
            thread at a time. None when nothing can be sent while the job runs. Whatever it raises ends the messages,
            not the job: the rest comes with the outcome.
        backends: What stands here for the backends in `Channel.callable_backends`.
        is_repeated: Whether the same job was begun before and may have had results stored since it was made, so that
            the caller's caches are asked again.
        patience_s: For how long only questions are exchanged, in seconds, where a message takes longer than a short
            job. The messages of a job that is over by then, and those at the end of any other one, come with the
            outcome.
        is_dedicated: Whether this process is there for jobs only, one at a time. Then it takes over the caller's levels
            of loggers and filters of warnings, and what nodes log and warn of while messages can be sent reaches the
            caller's handlers and filters, rather than standard error here.
        fetch: Returns data that several jobs have in common, for what `RemoteBackend.share` returned; needed where that
            returns anything.
        should_stop: Whether nobody waits for the job any more; asked from a thread of its own a few times a second.
            When it returns True, no further call is begun, and what can be cancelled is.

    Returns:
        The outcome, for `submit` to return. Whatever goes wrong in the job is reported in there; nothing is raised but
        KeyboardInterrupt.
    """
    try:
        header, payload, digest = wire.open_sealed(job, "here, on the remote side,", "at the caller")
    except (RemoteVersionError, SerializationError) as error:
        return wire.sealed({"kind": "refused", "reason": str(error)})
    key = {"job_id": header["job_id"], "job_digest": digest}
    try:
        with modules_of_job(header["job_id"], header["packages"], is_dedicated) as modules:
            pieces = [None if at is None else _fetch(fetch, at) for at in header.get("pieces", ())]
            worker = _Worker(payload, pieces, key, modules, exchange, backends, is_repeated, patience_s, is_dedicated)
            return worker.run(should_stop)
    except BaseException as error:
        if _is_interrupt(error):
            raise
        text = "".join(traceback.format_exception(error))
        facts = {"reason": f"{type(error).__name__}: {error}", "traceback": text}
        if isinstance(error, ModuleNotFoundError):
            facts["missing_module"] = error.name or ""
        elif isinstance(error, _UnloadableError):
            facts |= {"reason": str(error), "is_unloadable": "yes"}
        return wire.sealed({"kind": "broken", **key, **facts})


def _is_interrupt(error: BaseException) -> bool:
    """Whether this process was interrupted; where it ignores interrupts, the code of the job raised it."""
    return isinstance(error, KeyboardInterrupt) and signal.getsignal(signal.SIGINT) is not signal.SIG_IGN


def _fetch(fetch: Fetch | None, locator: str) -> bytes:
    if fetch is None:
        raise RuntimeError("the job shares data with others, but the backend gave `execute` no `fetch` to get it with")
    return fetch(locator)


class _UnloadableError(Exception):
    """A job cannot be unpickled."""


class _Worker:
    def __init__(
        self,
        payload: memoryview,
        pieces: list[bytes | None],
        key: Mapping[str, str],
        modules: JobModules,
        exchange: Exchange | None,
        backends: Sequence[Backend],
        is_repeated: bool,
        patience_s: float,
        is_dedicated: bool,
    ) -> None:
        self._facts: dict[str, Any] = dict(key)  # about the outcome
        self._callable_backends = backends
        self._caches: dict[int, CacheProxy] = {}
        self._callbacks: dict[int, CallbackProxy] = {}
        self._here = LocalBackend()
        self._is_dedicated = is_dedicated
        self.setup: JobSetup
        self.task: Task
        try:
            unpacker = Unpacker(payload, self._resolve, modules, is_in_pieces=bool(pieces))
            code: list[tuple[Any, bytes | None]] = []
            value: Any = None
            for piece in pieces or [None]:  # the last one says what to do; before it come large inputs
                value, described = unpacker.next(piece)
                code += described
            self.setup, _ = value
            self.task, code_of_task = unpacker.next()
            code += code_of_task
        except ModuleNotFoundError:
            raise
        except BaseException as error:
            if _is_interrupt(error):
                raise
            raise _UnloadableError(
                f"something in it cannot be loaded there: {type(error).__name__}: {error}"
            ) from error
        self._packing = Packing([obj for obj, _ in code], modules)
        self._outbox = Outbox(exchange, self._packing, modules, patience_s)
        for number, cache in self._caches.items():
            known = self.task.known_results.get(number, KnownResults({}, frozenset()))
            cache.connect(known._replace(misses=frozenset()) if is_repeated else known, self._outbox)
        for number, callback in self._callbacks.items():
            callback.connect(self.setup.hooks.get(number, ()), self._outbox)
        self._root = CallbackContext(*self.setup.position)
        self._state = RunState(self._root, self.setup.engine.backend_name, is_nested=True)
        self._state.codes.known.update(self.setup.code)
        self._state.look_ahead = _LOOK_AHEAD
        self._state.show_warning = self._warn
        for obj, digest in code:
            if digest is not None:
                self._state.codes.memo.remember(obj, digest)

    def _resolve(self, reference: tuple[str, int]) -> Any:
        kind, number = reference
        if kind == "cache":
            return self._caches.setdefault(number, CacheProxy(number))
        if kind == "callback":
            return self._callbacks.setdefault(number, CallbackProxy(number))
        if kind == "here":
            return self._here
        if kind == "backend":
            return self._callable_backends[number]
        raise SerializationError(f"unknown reference {reference!r}", path="job")

    def run(self, should_stop: Callable[[], bool] | None = None) -> bytes:
        kind = "returned"
        result: Any = None
        started_at = perf_counter()
        with _engine_for(self.setup.engine) as engine:
            self._here.engine = engine
            execution = Execution(engine, self.setup.plan, self._root, True, state=self._state)
            try:
                with using(self.setup.decimals), self._settings_of_caller(), _stopping(execution, should_stop):
                    result = self._execute(execution)
            except BaseException as error:
                if _is_interrupt(error):
                    raise
                kind = "raised"
                result = self._packing.describe(error)
        self._facts["work_s"] = perf_counter() - started_at
        unsent = self._outbox.close()
        return self._pack_result(result, unsent, kind)

    def _settings_of_caller(self) -> AbstractContextManager[None]:
        if not self._is_dedicated:
            return nullcontext()
        owner = code_owner.get()
        return settings_taken_over(
            self.setup.settings, self.setup.filters, self._outbox.report, lambda: code_owner.get() is owner
        )

    def _execute(self, execution: Execution) -> Any:
        part = self.task.part
        if isinstance(part, RunPart):
            return execution.run(part.values, {}, part.known)
        rows = FinishedRows(tuple(self.setup.plan.outputs), self._outbox if self.task.sends_rows else None)
        try:
            execution.map_part(_map_inputs(part), part.on_error, rows)
        except BaseException:
            rows.send()
            raise
        return rows.rest()

    def _pack_result(self, result: Any, unsent: list[bytes], kind: str) -> bytes:
        try:
            return self._packing.pack((result, unsent, self._outbox.count), {"kind": kind, **self._facts})
        except BaseException as error:
            if _is_interrupt(error):
                raise
            names, advice = _unsendable(_values_in(result), self._packing)
            reason = str(error) if isinstance(error, SerializationError) else f"{type(error).__name__}: {error}"
            problem = SerializationError(
                f"the result{names} cannot be sent back from {self.setup.engine.backend_name}: {reason}{advice}",
                path=f"result{names}",
            )
            content = (self._packing.describe(problem), unsent, self._outbox.count)
            return self._packing.pack(content, {"kind": "raised", **self._facts})

    def _warn(self, subject: str, reason: str, text: str, category: type[Warning]) -> None:
        self._outbox.add(Warned(subject, reason, text, category))


@contextmanager
def _stopping(execution: Execution, should_stop: Callable[[], bool] | None) -> Iterator[None]:
    """Cancel an execution as soon as nobody waits for it."""
    if should_stop is None:
        yield
        return
    is_over = threading.Event()

    def watch() -> None:
        while not is_over.wait(_ASK_S):
            if should_stop():
                execution.cancel()
                return

    thread = threading.Thread(target=watch, name="hypernodes-stop", daemon=True)
    start_thread(thread)
    try:
        yield
    finally:
        is_over.set()
        thread.join()


# --- engines that stay for the jobs to come -----------------------------------------------------------------------

_idle_engines: list[tuple[EngineSettings, PipelineExecutionEngine]] = []
_engines_lock = reset_after_fork(threading.Lock())


@contextmanager
def _engine_for(settings: EngineSettings) -> Iterator[PipelineExecutionEngine]:
    """Lend an engine, which serves one job at a time: its worker processes hold the modules of that job."""
    engine: PipelineExecutionEngine | None = None
    with _engines_lock:
        for position, (made_for, idle) in enumerate(_idle_engines):
            if made_for == settings:
                engine = idle
                del _idle_engines[position]
                break
    if engine is None:
        engine = PipelineExecutionEngine(
            settings.node_execution,
            settings.map_execution,
            max_workers=settings.max_workers,
            limits=settings.limits,
            max_in_flight=settings.max_in_flight,
        )
        engine.backend_name = settings.backend_name
        engine.__enter__()
    try:
        yield engine
    finally:
        with _engines_lock:
            _idle_engines.append((settings, engine))
            surplus = [_idle_engines.pop(0)] if len(_idle_engines) > _MAX_IDLE_ENGINES else []
        for _, oldest in surplus:
            oldest.__exit__(None, None, None)


def close_engines() -> None:
    """End the worker processes that stayed for further jobs."""
    with _engines_lock:
        idle = _idle_engines[:]
        _idle_engines.clear()
    for _, engine in idle:
        engine.__exit__(None, None, None)


def _map_inputs(part: MapPart) -> MapInputs:
    return MapInputs(
        dict(zip(part.names, part.columns, strict=True)),
        "zip",
        part.shared,
        part.signatures,
        part.elements,
        part.indexes,
    )


def _values_in(result: Any) -> Iterator[tuple[str, Any]]:
    """Yield the values in a result, each with what to call it in a message."""
    if isinstance(result, MapResult):
        for name, column in result.columns.items():
            yield from (
                (f"{name!r} of item {index}", value) for index, value in zip(result.indexes, column, strict=True)
            )
    elif isinstance(result, Mapping):
        yield from ((repr(name), value) for name, value in result.items())


def _unsendable(values: Iterable[tuple[str, Any]], packing: Packing) -> tuple[str, str]:
    """Return the paths to what in a result cannot be sent, and what to do about it, for a message."""
    found = [(name, culprit) for name, value in values if (culprit := find_culprit(value, packing.pack)) is not None]
    paths = [" → ".join((name, *culprit.path)) for name, culprit in found[:_MOST_NAMED]]
    more = f" and {len(found) - _MOST_NAMED} others" if len(found) > _MOST_NAMED else ""
    advice = "".join(dict.fromkeys(f". {culprit.advice_for_results}" for _, culprit in found))
    return (f" {', '.join(paths)}{more}" if paths else ""), advice
