"""What runs at the remote place: a job is unpacked, its versions are checked, and the same engine runs it."""

from __future__ import annotations

import traceback
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from hypernodes.backend.base import Backend
from hypernodes.backend.local import LocalBackend
from hypernodes.callbacks import CallbackContext
from hypernodes.engine.engine import PipelineExecutionEngine
from hypernodes.engine.execution import Execution
from hypernodes.engine.frames.columns import MapInputs
from hypernodes.engine.state import RunState
from hypernodes.errors import RemoteVersionError, SerializationError
from hypernodes.remote.job import (
    Answers,
    EngineSettings,
    Job,
    MapPart,
    MapResult,
    RunPart,
    check_versions,
    header_of,
    read_header,
)
from hypernodes.remote.messages import Warned
from hypernodes.remote.modules import forget_restored
from hypernodes.remote.outbox import Exchange, Outbox, Packing
from hypernodes.remote.packing import compact, unpack
from hypernodes.remote.proxies import CacheProxy, CallbackProxy

_LOOK_AHEAD = 4096  # items whose results are asked for in one round trip


def execute(
    job: bytes,
    exchange: Exchange | None = None,
    backends: Sequence[Backend] = (),
    is_repeated: bool = False,
    patience_s: float = 0.0,
) -> bytes:
    """Run a job.

    Args:
        job: What `RemoteBackend` gave to `submit`.
        exchange: Hands a message to the caller's `Channel.handle` and returns what that returned; called from one
            thread at a time. None when nothing can be said while the job runs.
        backends: What stands here for the backends in `Channel.callable_backends`.
        is_repeated: Whether the same job was begun before and may have had results kept since it was made, so that
            the caller's caches are asked again.
        patience_s: For how long only questions are exchanged, in seconds, where a message takes longer than a short
            job. What is said in a job that is over by then, and at the end of any other one, comes with the outcome.

    Returns:
        The outcome, for `submit` to return. Whatever goes wrong in the job is told in there; nothing is raised but
        KeyboardInterrupt.
    """
    try:
        header, payload = read_header(job)
        check_versions(header["versions"], "here, at the remote place,", "at the caller")
    except (RemoteVersionError, SerializationError) as error:
        return header_of(kind="refused", reason=str(error))
    try:
        return _Worker(payload, exchange, backends, is_repeated, patience_s).run()
    except Exception as error:
        text = "".join(traceback.format_exception(error))
        return header_of(kind="broken", reason=f"{type(error).__name__}: {error}", traceback=text)


class _Worker:
    def __init__(
        self,
        payload: memoryview,
        exchange: Exchange | None,
        backends: Sequence[Backend],
        is_repeated: bool,
        patience_s: float,
    ) -> None:
        self._callable_backends = backends
        self._caches: dict[int, CacheProxy] = {}
        self._callbacks: dict[int, CallbackProxy] = {}
        self._here = LocalBackend()
        self.job: Job
        code: list[tuple[Any, bytes | None]]
        forget_restored()
        self.job, code = unpack(payload, self._resolve, is_of_job=True)
        self._packing = Packing([obj for obj, _ in code])
        self._outbox = Outbox(exchange, self._packing, patience_s)
        for number, cache in self._caches.items():
            answers = self.job.answers.get(number, Answers({}, frozenset()))
            cache.connect(answers._replace(misses=frozenset()) if is_repeated else answers, self._outbox)
        for number, callback in self._callbacks.items():
            callback.connect(self.job.heard.get(number, ()), self._outbox)
        where = self.job.where
        self._root = CallbackContext(where.hierarchy_path, where.node_path, where.item_path)
        self._state = RunState(self._root, self.job.engine.backend_name, is_nested=True)
        self._state.codes.known.update(self.job.code)
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

    def run(self) -> bytes:
        engine = _engine_for(self.job.engine)
        self._here.engine = engine
        execution = Execution(engine, self.job.plan, self._root, True, state=self._state)
        kind = "returned"
        result: Any = None
        try:
            result = self._execute(execution)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            kind = "raised"
            result = self._packing.describe(error)
        unsent = self._outbox.close()
        return self._pack_result(result, unsent, kind)

    def _execute(self, execution: Execution) -> Any:
        part = self.job.part
        if isinstance(part, RunPart):
            return execution.run(part.values, {}, part.known)
        found = execution.map_part(_map_inputs(part), part.on_error)
        columns = map(compact, map(list, zip(*found.values(), strict=True)))
        return MapResult(list(found), dict(zip(self.job.plan.outputs, columns, strict=False)))

    def _pack_result(self, result: Any, unsent: list[bytes], kind: str) -> bytes:
        try:
            return self._packing.pack((result, unsent, self._outbox.count), header_of(kind=kind))
        except Exception as error:
            columns = result.columns if isinstance(result, MapResult) else result
            names = _unsendable_names(columns, self._packing) if isinstance(columns, Mapping) else ""
            problem = SerializationError(
                f"the result{names} cannot be sent back from {self.job.engine.backend_name}: "
                f"{type(error).__name__}: {error}",
                path="result",
            )
            told = (self._packing.describe(problem), unsent, self._outbox.count)
            return self._packing.pack(told, header_of(kind="raised"))

    def _warn(self, subject: str, reason: str, text: str) -> None:
        self._outbox.add(Warned(subject, reason, text))


@lru_cache(maxsize=4)
def _engine_for(settings: EngineSettings) -> PipelineExecutionEngine:
    """Return an engine whose worker processes stay for the jobs to come."""
    engine = PipelineExecutionEngine(settings.node_execution, settings.map_execution, max_workers=settings.max_workers)
    engine.backend_name = settings.backend_name
    return engine.__enter__()


def _map_inputs(part: MapPart) -> MapInputs:
    return MapInputs(
        dict(zip(part.names, part.columns, strict=True)),
        "zip",
        part.shared,
        part.signatures,
        part.elements,
        part.indexes,
    )


def _unsendable_names(result: Mapping[Any, Any], packing: Packing) -> str:
    names: list[str] = []
    for name, value in result.items():
        try:
            packing.pack(value)
        except Exception:
            names.append(repr(name))
    return f" {', '.join(names)}" if names else ""
