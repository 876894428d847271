"""Makes jobs: what a run or map needs on the remote side, as bytes."""

from __future__ import annotations

import hashlib
import io
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property, partial
from types import FunctionType, ModuleType
from typing import Any, NamedTuple

from hypernodes import signature
from hypernodes.callbacks import overridden_hooks
from hypernodes.decimals import settings_here
from hypernodes.engine.frames.dry_run import plans_in
from hypernodes.engine.state import RunState
from hypernodes.engine.workers.caller_settings import settings_of_caller
from hypernodes.engine.workers.culprits import Parts, find_culprit
from hypernodes.errors import RemoteError, SerializationError
from hypernodes.plan import Plan
from hypernodes.remote import wire
from hypernodes.remote.job import (
    ContextPath,
    EngineSettings,
    JobSetup,
    KnownResults,
    MapPart,
    RunPart,
    Task,
)
from hypernodes.remote.modules import state_of
from hypernodes.remote.names_used import names_used
from hypernodes.remote.packing import (
    Packer,
    PackerMark,
    common_packages,
    compact,
    is_own,
    modules_imported_by,
    pack,
    unpack,
)
from hypernodes.remote.references import References

_MAX_LEFT_OUT = 100
_SHARED_BYTES = 16 * 1024  # of what jobs have in common, from which on it is not sent with each
_LARGE_BYTES = 1024 * 1024  # of an input, from which on it is shared by itself, so that others may change
_SMALL = frozenset((bool, int, float, complex, type(None)))


class PackedJob(NamedTuple):
    """A job as bytes.

    Attributes:
        data: The bytes.
        key: What its outcome has to refer to.
        code: Functions and classes that were sent by value; the outcome refers to them by their position.
        modules: The user's modules that were sent by value.
        own_bytes: Size of what it does not have in common with other jobs.
        shared: Where it finds the rest.
    """

    data: bytes
    key: wire.JobKey
    code: list[Any]
    modules: list[ModuleType]
    own_bytes: int
    shared: tuple[str, ...]


class _Common(NamedTuple):
    """What all jobs begin with.

    Attributes:
        pieces: Where each piece is to be had; None for those that each job holds.
        data: The pieces that each job holds.
        packer: What packed them, for the rest of the jobs.
        mark: What that knew then.
    """

    pieces: list[str | None]
    data: bytes
    packer: Packer
    mark: PackerMark


class JobPacker:
    """Packs the jobs of one run or map.

    Args:
        plan: What is to run.
        engine: How.
        state: State of the run.
        references: What stays here.
        share: Makes data available to all jobs, see `RemoteBackend.share`; None where nothing does.
    """

    def __init__(
        self,
        plan: Plan,
        engine: EngineSettings,
        state: RunState,
        references: References,
        share: Callable[[str, bytes], str | None] | None,
    ) -> None:
        self._plan = plan
        self._share = share
        self._engine = engine
        self._state = state
        self._references = references
        self._left_out: dict[str, set[str]] = {}  # names in modules of the user's that are not sent
        self._common: _Common | None = None

    def pack(
        self,
        job_id: str,
        part: RunPart | MapPart,
        known_results: dict[int, KnownResults],
        is_one_of_many: bool = False,
    ) -> PackedJob:
        """Return a job.

        Args:
            job_id: Drawn for it.
            part: What it is to do.
            known_results: What the caches are known to hold, by their number.
            is_one_of_many: Whether further jobs will have the same shared inputs.

        Raises:
            SerializationError: Something cannot be sent; the message names it.
        """
        header = {
            "kind": "job",
            "job_id": job_id,
            "backend_name": self._engine.backend_name,
            "packages": sorted(common_packages()),
        }
        for _ in range(_MAX_LEFT_OUT):
            try:
                return self._pack(header, part, known_results, is_one_of_many)
            except RemoteError:  # of the backend, while it shared data
                raise
            except Exception as error:
                self._common = None
                self._leave_out(part, error)
        raise SerializationError("too much of the user's modules cannot be sent", path="job")  # pragma: no cover

    def _pack(
        self,
        header: dict[str, Any],
        part: RunPart | MapPart,
        known_results: dict[int, KnownResults],
        is_one_of_many: bool,
    ) -> PackedJob:
        if isinstance(part, MapPart):
            part = part._replace(columns=[compact(column) for column in part.columns])
        task = Task(part, known_results, sends_rows=is_one_of_many)
        buffer = io.BytesIO()
        pieces: list[str | None] = []
        if is_one_of_many and isinstance(part, MapPart):
            common = self._common_of_jobs(part)
            packer, pieces = common.packer, common.pieces
            wire.begin(buffer, {**header, "pieces": pieces})
            buffer.write(common.data)
        else:
            packer = Packer(self._references.of, self._left_out)
            wire.begin(buffer, header)
        before = buffer.tell()
        with packer.into(buffer):
            if not pieces:
                packer.add((self._setup(), part.shared if isinstance(part, MapPart) else {}), self._describe_code)
            packer.add(task, self._describe_code)
        wire.seal(buffer)
        data = buffer.getvalue()
        self._state.codes.sent.update(packer.node_codes)
        key = wire.JobKey(header["job_id"], wire.digest_of(data))
        return PackedJob(data, key, packer.code, packer.modules, len(data) - before, tuple(filter(None, pieces)))

    def _common_of_jobs(self, part: MapPart) -> _Common:
        """Return what all jobs begin with; its packer is ready for the rest of one of them.

        Large inputs come first, each in a piece of its own, so that it stays the same when something else changes. All
        pieces are packed by one packer: what one of them holds is the same object in the others, and in the items.
        """
        if self._common is not None:
            self._common.packer.go_back_to(self._common.mark)
            return self._common
        packer = Packer(self._references.of, self._left_out)
        pieces: list[str | None] = []
        data = b""
        for value in part.shared.values():
            if self._share is None or type(value) in _SMALL:
                continue
            mark, buffer = packer.mark(), io.BytesIO()
            with packer.into(buffer):
                packer.add(value, self._describe_code)
            locator = self._locate(buffer.getvalue(), _LARGE_BYTES)
            if locator is None:
                packer.go_back_to(mark)
            else:
                pieces.append(locator)
        buffer = io.BytesIO()
        with packer.into(buffer):
            packer.add((self._setup(), part.shared), self._describe_code)
        pieces.append(self._locate(buffer.getvalue(), _SHARED_BYTES))
        if pieces[-1] is None:
            data = buffer.getvalue()
        self._common = _Common(pieces, data, packer, packer.mark())
        return self._common

    def _locate(self, data: bytes, least: int) -> str | None:
        if self._share is None or len(data) < least:
            return None
        try:
            return self._share(hashlib.sha256(data).hexdigest(), data)
        except RemoteError:
            raise
        except Exception as error:
            name = self._engine.backend_name
            text = f"backend {name!r} could not share data with its jobs: {type(error).__name__}: {error}"
            raise RemoteError(text, backend_name=name) from error

    def _setup(self) -> JobSetup:
        for plan in plans_in(self._plan):
            self._state.codes.of(plan)
            for scope in plan.scopes:
                for callback in scope.callbacks:
                    self._references.number_of_callback(callback)
        root = self._state.root
        return JobSetup(
            self._plan,
            self._state.codes.known,
            self._engine,
            ContextPath(root.hierarchy_path, root.node_path, root.item_path),
            {number: overridden_hooks(callback) for number, callback in self._references.callbacks.items()},
            settings_here(),
            settings_of_caller(True),
            self._filters(),
        )

    def _filters(self) -> tuple[Any, ...]:
        """Return the filters of warnings if they name classes that travel with the job."""
        filters = tuple(warnings.filters)
        if not any(is_own(entry[2].__module__) for entry in filters):
            return ()
        try:
            pack(filters, self._references.of)
        except Exception:  # of a class that cannot be sent there is nothing to filter there
            return ()
        return filters

    def _describe_code(self, code: list[Any]) -> list[tuple[Any, bytes | None]]:
        """Return the signatures of code that is sent by value, since its source is not."""
        return [(obj, self._digest(obj)) for obj in code]

    def _digest(self, obj: Any) -> bytes | None:
        try:
            return signature.digest(obj, self._state.codes.memo)
        except Exception:  # it cannot be identified here, so nor can what depends on it
            return None

    # --- what cannot be sent --------------------------------------------------------------------------------------

    def _leave_out(self, part: RunPart | MapPart, error: Exception) -> None:
        """Do without a name of a module that cannot be sent and is not used; refuse anything else that cannot."""
        for name, piece in self._pieces(part):
            culprit = find_culprit(
                piece,
                lambda value: pack(value, self._references.of, self._left_out),
                partial(_parts_of_modules, self._left_out),
            )
            if culprit is None:
                continue
            if culprit.in_module is not None and culprit.in_module not in self._names_used:
                module, attribute = culprit.in_module
                self._left_out.setdefault(module, set()).add(attribute)
                return
            path = " → ".join((name, *culprit.path))
            raise SerializationError(
                f"{path} cannot be sent to {self._engine.backend_name}: {type(culprit.error).__name__}: "
                f"{culprit.error}. {culprit.advice}",
                path=path,
            ) from error
        raise SerializationError(
            f"the job cannot be sent to {self._engine.backend_name}: {type(error).__name__}: {error}", path="job"
        ) from error

    @cached_property
    def _names_used(self) -> set[tuple[str, str]]:
        return names_used([self._plan])

    def _pieces(self, part: RunPart | MapPart) -> Iterator[tuple[str, Any]]:
        """Yield what is sent, piece by piece, each with what to call it in a message."""
        yield "pipeline", self._plan
        if isinstance(part, RunPart):
            names = {slot: f"input {name!r}" for name, slot in self._plan.inputs.items()}
            for step in self._plan.steps:
                names |= {slot: f"result of {step.node.name!r}" for slot in step.outputs if slot is not None}
            yield from ((names.get(slot, "a default"), value) for slot, value in enumerate(part.values))
            return
        yield from ((f"input {name!r}", value) for name, value in part.shared.items())
        for name, column in zip(part.names, part.columns, strict=True):
            yield from ((f"item {index} of {name!r}", value) for index, value in zip(part.indexes, column, strict=True))

    def find_unloadable(self, part: RunPart | MapPart) -> str | None:
        """Return which value can be pickled and not unpickled here, and why; None when all can."""
        for name, value in self._pieces(part):
            try:
                packed = pack(value, self._references.of)
            except Exception:
                continue
            try:
                unpack(packed.data, lambda reference: reference)
            except Exception as error:
                return f"{name} can be pickled and not unpickled: {type(error).__name__}: {error}"
        return None


def _parts_of_modules(left_out: Mapping[str, set[str]], value: Any) -> Parts:
    """Yield what is in a module of the user's, and the modules that a function imports."""
    if isinstance(value, FunctionType):
        for module in modules_imported_by(value):
            yield f"import of {module.__name__!r}", module
    elif isinstance(value, ModuleType):
        for name, entry in state_of(value, left_out.get(value.__name__, set())).items():
            yield f"module attribute {name!r}", entry
