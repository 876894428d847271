"""One job of a remote backend: it is made and packed, submitted, and its outcome taken apart."""

from __future__ import annotations

import secrets
import warnings
from collections.abc import Iterator, Mapping
from concurrent.futures import CancelledError
from functools import cached_property, partial
from types import FunctionType, ModuleType
from typing import Any

from hypernodes import signature
from hypernodes.backend.base import Backend
from hypernodes.cache.base import Cache
from hypernodes.callbacks import CallbackContext, PipelineCallback, overridden_hooks
from hypernodes.decimals import settings_here
from hypernodes.engine.cancellation import current_registry
from hypernodes.engine.frames.dry_run import plans_in
from hypernodes.engine.state import RunState
from hypernodes.engine.workers.caller_settings import settings_of_caller
from hypernodes.engine.workers.culprits import Parts, find_culprit
from hypernodes.engine.workers.serialized_errors import RemoteTraceback, restore
from hypernodes.errors import NodeTimeoutError, RemoteError, RemoteVersionError, SerializationError, add_note
from hypernodes.plan import CallStep, Plan
from hypernodes.remote import wire
from hypernodes.remote.channel import Channel
from hypernodes.remote.job import ABSENT, ContextPath, EngineSettings, Job, MapPart, MapResult, RunPart
from hypernodes.remote.modules import state_of
from hypernodes.remote.names_used import names_used
from hypernodes.remote.needed_packages import Package, needed_packages, package_of, requirements_for, users_of
from hypernodes.remote.node_outputs import outputs_by_path
from hypernodes.remote.packing import common_packages, compact, is_own, modules_imported_by, pack, unpack
from hypernodes.remote.preflight import OWN_PYTHON, Preflight, package_problems, python_problem
from hypernodes.remote.pruning import Pruning
from hypernodes.remote.transport import Transport

_MAX_LEFT_OUT = 100


class RemoteCall:
    """What one run or map sends to a remote backend, and takes back.

    Args:
        backend: The backend.
        plan: What is to run.
        root: Context of the pipeline.
        engine: How it is to run there.

    Attributes:
        plan: What is to run.
        state: State of the run, as far as it happens here.
        pruning: What the caches hold.
    """

    def __init__(self, backend: Transport, plan: Plan, root: CallbackContext, engine: EngineSettings) -> None:
        self._backend = backend
        self._engine = engine
        self._caches: dict[int, Cache] = {}
        self._callbacks: dict[int, PipelineCallback] = {}
        self._numbers: dict[int, int] = {}
        self._callable_backends: list[Backend] = []
        self._code: list[Any] = []  # functions and classes that were sent by value
        self._modules: list[ModuleType] = []
        self._key = wire.JobKey("", "")
        self.plan = plan
        self.pruning = Pruning(
            plan, root, engine.backend_name, self._number_of_cache, are_caches_here=not backend.sends_caches
        )
        self.state = RunState(root, engine.backend_name, is_nested=True)
        self.state.codes = self.pruning.state.codes
        self.state.share_warnings(self.pruning.state)
        self.state.records.begin(plan, ())

    def submit(self, part: RunPart | MapPart) -> Any:
        """Have a part of the plan executed remotely; return the outputs by name, or a `MapResult`.

        Raises:
            SerializationError: Something cannot be sent; nothing was.
            RemoteVersionError: The remote side is known to have another version of Python; nothing was sent.
            RemoteError: The remote side failed, or what came back does not belong to the job.
            CancelledError: The run was cancelled.
            Exception: What a node raised there, or what the transport raised, with a note that says so.
        """
        self._check_python(self._backend)
        job_id = secrets.token_hex(16)
        packed = [self._pack(part, job_id)]  # no reference to it is held here while it is sent
        for nested in self._callable_backends:
            if isinstance(nested, type(self._backend)):
                self._check_python(nested)
        channel = Channel(
            job_id,
            self.state,
            self._caches,
            self._callbacks,
            self._recall,
            self._output_names,
            self._callable_backends,
        )
        around = current_registry.get()
        if around is not None:
            around.add(channel)
        try:
            outcome = self._transport(packed, channel)
            result = self._open(outcome, channel, part)
            _check_result(result, part, self.plan, self._engine.backend_name)
            if channel.is_cancelled:
                raise CancelledError("the run was cancelled")
            channel.close_open()
            return result
        except BaseException as error:
            channel.finish()
            if channel.is_cancelled or not isinstance(error, Exception):
                cancelled = CancelledError("the run was cancelled")
                if channel.end_problem is not None:
                    problem = f"{type(channel.end_problem).__name__}: {channel.end_problem}"
                    add_note(cancelled, f"backend {self._engine.backend_name!r} could not end the job: {problem}")
                channel.close_open(cancelled)
                if isinstance(error, Exception):
                    raise cancelled from error
            else:
                channel.close_open(error)
            raise
        finally:
            if around is not None:
                around.remove(channel)
            channel.finish()

    def _check_python(self, backend: Transport) -> None:
        """Refuse another version of Python before anything is built or started."""
        python = backend.find_python_version()
        if python is not None and python != OWN_PYTHON:
            raise self._python_error(python, backend, "Nothing was sent. ")

    def _python_error(self, python: str, backend: Transport, remark: str = "") -> RemoteVersionError:
        backend_name = self._engine.backend_name
        return RemoteVersionError(
            f"the two sides cannot understand each other: Python {OWN_PYTHON} at the caller and {python} at "
            f"{backend_name}. {remark}{backend.advise_python(OWN_PYTHON)} Or run the caller with Python {python}.",
            differing={"Python": (OWN_PYTHON, python)},
            backend_name=backend_name,
        )

    def _transport(self, packed: list[bytes], channel: Channel) -> Any:
        try:
            return self._backend.submit(packed.pop(), channel)
        except BaseException as error:
            if not isinstance(error, (RemoteError, NodeTimeoutError, KeyboardInterrupt)):
                name = self._engine.backend_name
                kind = type(self._backend).__name__
                add_note(error, f"raised by the transport of backend {name!r} ({kind}.submit), not by a node")
            raise

    # --- to the worker ------------------------------------------------------------------------------------------

    def _pack(self, part: RunPart | MapPart, job_id: str) -> bytes:
        job = self._job(part)
        header = {
            "kind": "job",
            "job_id": job_id,
            "backend_name": self._engine.backend_name,
            "packages": sorted(common_packages()),
        }
        left_out: dict[str, set[str]] = {}
        for _ in range(_MAX_LEFT_OUT):
            try:
                if left_out:
                    pack(job.plan, self._reference, left_out)  # before the inputs, which may be large
                packed = pack(_compacted(job), self._reference, left_out, self._describe_code, header)
            except Exception as error:
                self._leave_out(job, left_out, error)
            else:
                self._code, self._modules = packed.code, packed.modules
                self.state.codes.sent.update(packed.node_codes)
                self._key = wire.JobKey(job_id, wire.digest_of(packed.data))
                return packed.data
        raise SerializationError("too much of the user's modules cannot be sent", path="job")  # pragma: no cover

    def _leave_out(self, job: Job, left_out: dict[str, set[str]], error: Exception) -> None:
        """Do without a name of a module that cannot be sent and is not used; refuse anything else that cannot."""
        for name, piece in self._pieces(job.part):
            culprit = find_culprit(
                piece, lambda value: pack(value, self._reference, left_out), partial(_parts_of_modules, left_out)
            )
            if culprit is None:
                continue
            if culprit.in_module is not None and culprit.in_module not in self._names_used:
                module, attribute = culprit.in_module
                left_out.setdefault(module, set()).add(attribute)
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

    def _pieces(self, part: RunPart | MapPart) -> Iterator[tuple[str, Any]]:
        """Yield what is sent, piece by piece, each with what to call it in a message."""
        yield "pipeline", self.plan
        if isinstance(part, RunPart):
            names = {slot: f"input {name!r}" for name, slot in self.plan.inputs.items()}
            for step in self.plan.steps:
                names |= {slot: f"result of {step.node.name!r}" for slot in step.outputs if slot is not None}
            yield from ((names.get(slot, "a default"), value) for slot, value in enumerate(part.values))
            return
        yield from ((f"input {name!r}", value) for name, value in part.shared.items())
        for name, column in zip(part.names, part.columns, strict=True):
            yield from ((f"item {index} of {name!r}", value) for index, value in zip(part.indexes, column, strict=True))

    def _values_of(self, part: RunPart | MapPart) -> dict[str, Any]:
        """Return the inputs that are sent, by name."""
        if isinstance(part, RunPart):
            return {name: part.values[slot] for name, slot in self.plan.inputs.items()}
        return part.shared | dict(zip(part.names, part.columns, strict=True))

    @cached_property
    def _names_used(self) -> set[tuple[str, str]]:
        return names_used([self.plan])

    def _job(self, part: RunPart | MapPart) -> Job:
        root = self.state.root
        for plan in plans_in(self.plan):
            self.state.codes.of(plan)
            for scope in plan.scopes:
                for callback in scope.callbacks:
                    self._number(callback, self._callbacks)
        known_results = self.pruning.known_results()
        hooks = {number: overridden_hooks(callback) for number, callback in self._callbacks.items()}
        position = ContextPath(root.hierarchy_path, root.node_path, root.item_path)
        return Job(
            self.plan,
            part,
            self.state.codes.known,
            self._engine,
            position,
            known_results,
            hooks,
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
            pack(filters, self._reference)
        except Exception:  # of a class that cannot be sent there is nothing to filter there
            return ()
        return filters

    def _reference(self, obj: Any) -> Any:
        """Return what is sent in place of things that stay with the caller."""
        if isinstance(obj, Cache) and not self._backend.sends_caches:
            return "cache", self._number_of_cache(obj)
        if isinstance(obj, PipelineCallback):
            return "callback", self._number(obj, self._callbacks)
        if isinstance(obj, Backend):
            if self._backend.runs_here(obj):
                return "here", 0
            if self._backend.can_call(obj):
                if not any(known is obj for known in self._callable_backends):
                    self._callable_backends.append(obj)
                return "backend", next(n for n, known in enumerate(self._callable_backends) if known is obj)
        return None

    def _number_of_cache(self, cache: Cache) -> int:
        return self._number(cache, self._caches)

    def _number(self, obj: Any, table: dict[int, Any]) -> int:
        number = self._numbers.setdefault(id(obj), len(self._numbers))
        table[number] = obj
        return number

    def _describe_code(self, code: list[Any]) -> list[tuple[Any, bytes | None]]:
        """Return the signatures of code that is sent by value, since its source is not."""
        return [(obj, self._digest(obj)) for obj in code]

    def _digest(self, obj: Any) -> bytes | None:
        try:
            return signature.digest(obj, self.pruning.state.codes.memo)
        except Exception:  # it cannot be identified here, so nor can what depends on it
            return None

    # --- from the worker ----------------------------------------------------------------------------------------

    def _open(self, outcome: Any, channel: Channel, part: RunPart | MapPart) -> Any:
        backend_name = self._engine.backend_name
        try:
            header, payload, _ = wire.open_sealed(outcome, "at the caller", f"at {backend_name}")
        except RemoteVersionError as error:
            if "Python" not in error.differing:
                raise
            raise self._python_error(str(error.differing["Python"][1]), self._backend) from None
        except SerializationError as error:
            raise RemoteError(
                f"the outcome that backend {backend_name!r} returned was refused: {error}", backend_name=backend_name
            ) from error
        kind = header.get("kind")
        if kind == "refused":
            raise RemoteError(f"{backend_name} refused the job: {header['reason']}", backend_name=backend_name)
        if (key := wire.JobKey(header.get("job_id", ""), header.get("job_digest", ""))) != self._key:
            raise RemoteError(
                f"backend {backend_name!r} returned the outcome of another job ({key.job_id or 'none'}, not "
                f"{self._key.job_id}): nothing of it was used",
                backend_name=backend_name,
            )
        if kind == "broken":
            if missing := header.get("missing_module"):
                reason, cause = self._explain_missing(missing, part), None  # a traceback would not say more
            else:
                reason, cause = header["reason"], RemoteTraceback(header["traceback"])
                if header.get("is_unloadable"):
                    reason = self._explain_unloadable(reason, part)
            text = f"{backend_name} could not run the job: {reason}"
            raise RemoteError(text, backend_name=backend_name) from cause
        try:
            (result, messages, count), _ = unpack(payload, self._recall)
        except Exception as error:
            raise RemoteError(
                f"the result of {backend_name} cannot be loaded here: {type(error).__name__}: {error}. "
                f"{_advise_loading(error)}",
                backend_name=backend_name,
            ) from error
        channel.finish(messages, count)
        if kind == "raised":
            raised = restore(result, lambda packed: unpack(packed, self._recall)[0])
            if isinstance(raised, ModuleNotFoundError) and raised.name and package_of(raised.name):
                add_note(raised, self._explain_missing(raised.name, part))
            raise raised
        return result

    def _output_names(self, path: tuple[str, ...], node_name: str) -> tuple[str, ...]:
        """Return the names of the outputs of a node, by the path of its pipeline; none when a node ran it itself."""
        return self._outputs_by_path.get((*path, node_name), ())

    @cached_property
    def _outputs_by_path(self) -> dict[tuple[str, ...], tuple[str, ...]]:
        return outputs_by_path(self.plan, self.state.root)

    def _explain_missing(self, module: str, part: RunPart | MapPart) -> str:
        """Return which node or input needs a module that is missing there, and what to do."""
        users = users_of(module.partition(".")[0], self.plan, self._values_of(part))
        used_by = f", which is used by {users}" if users else ""
        advice = self._backend.advise_packages(requirements_for([module]))
        return f"there is no module {module!r} on the remote side{used_by}. {advice}"

    def _explain_unloadable(self, reason: str, part: RunPart | MapPart) -> str:
        """Return why a job cannot be loaded there; name the value that cannot be loaded here either."""
        for name, value in self._pieces(part):
            try:
                packed = pack(value, self._reference)
            except Exception:
                continue
            try:
                unpack(packed.data, lambda reference: reference)
            except Exception as error:
                return f"{name} can be pickled and not unpickled: {type(error).__name__}: {error}"
        return reason

    def _recall(self, reference: tuple[Any, ...]) -> Any:
        kind, *arguments = reference
        if kind == "stored":
            return self.pruning.stored(*arguments)
        if kind == "code":
            return self._code[arguments[0]]
        raise SerializationError(f"unknown reference {reference!r}", path="outcome")

    # --- what would be sent ----------------------------------------------------------------------------------------

    def preflight(self, part: RunPart, needs_call: bool) -> Preflight:
        """Return what would be sent for a run."""
        steps = self.plan.steps
        found, skipped = part.known.found, part.known.skipped
        names = {slot: name for name, slot in self.plan.inputs.items()}
        for step in steps:
            outputs = step.node.outputs if isinstance(step, CallStep) else tuple(step.inner.outputs)
            names |= {slot: name for slot, name in zip(step.outputs, outputs, strict=True) if slot is not None}
        values = {name: part.values[slot] for slot, name in names.items() if part.known.holds(self.plan, slot)}
        preflight = self._preflight(part, values, needs_call)
        return preflight._replace(
            nodes=tuple(step.node.name for step in steps if needs_call and step.index not in found | skipped),
            cached=tuple(step.node.name for step in steps if step.index in found),
        )

    def preflight_map(self, part: MapPart, total: int) -> Preflight:
        """Return what would be sent for a map of some number of items."""
        values = part.shared | dict(zip(part.names, map(compact, part.columns), strict=True))
        needs_call = len(part.indexes) > 0
        preflight = self._preflight(part, values, needs_call)
        nodes = tuple(step.node.name for step in self.plan.steps)
        return preflight._replace(
            nodes=nodes if needs_call else (),
            cached=() if needs_call else nodes,
            items=total,
            cached_items=total - len(part.indexes),
        )

    def _preflight(self, part: RunPart | MapPart, values: Mapping[str, Any], needs_call: bool) -> Preflight:
        python = self._backend.find_python_version()
        if not needs_call:
            return Preflight(False, 0, (), (), {}, (), (), python=python)
        backend_name = self._engine.backend_name
        problems = python_problem(python, self._backend, backend_name)
        needed = needed_packages(self.plan, self._values_of(part))
        modes = {"node_execution": self._engine.node_execution, "map_execution": self._engine.map_execution}
        if parallel := [f'{name}="parallel"' for name, mode in modes.items() if mode == "parallel"]:
            needed[package_of("loky") or Package("loky", "loky", "loky")] = parallel  # functions are sent by value
        problems += package_problems(needed, self._backend, backend_name)
        size = 0
        try:
            size = len(self._pack(part, secrets.token_hex(16)))
        except SerializationError as error:
            problems.append(str(error))
        sizes: dict[str, int] = {}
        for name, value in values.items():
            if value is not ABSENT:
                try:
                    sizes[name] = len(pack(value, self._reference).data)
                except Exception as error:
                    problems.append(f"{name!r} cannot be sent: {type(error).__name__}: {error}")
        modules = sorted(module.__name__ for module in self._modules)
        return Preflight(True, size, (), (), sizes, tuple(modules), tuple(problems), python=python)


def _advise_loading(error: Exception) -> str:
    if isinstance(error, (ImportError, AttributeError)):
        return "What is installed there and here may differ."
    return "Something in it can be pickled and not unpickled; let the node return what it can be made from."


def _check_result(result: Any, part: RunPart | MapPart, plan: Plan, backend_name: str) -> None:
    """Compare indexes, names and lengths of what came back with what was asked for."""
    problem = ""
    if isinstance(part, RunPart):
        if not isinstance(result, Mapping) or set(result) != set(plan.outputs):
            problem = f"outputs {_names_of(result)} instead of {_names_of(plan.outputs)}"
    elif not isinstance(result, MapResult):
        problem = f"a {type(result).__name__} instead of items"
    elif sorted(result.indexes) != sorted(part.indexes):
        problem = f"{len(result.indexes)} items instead of {len(part.indexes)}, or those of other indexes"
    elif part.indexes and set(result.columns) != set(plan.outputs):
        problem = f"outputs {_names_of(result.columns)} instead of {_names_of(plan.outputs)}"
    else:
        for name, column in result.columns.items():
            if len(column) != len(result.indexes):
                problem = f"a column {name!r} that does not have one value for each of {len(result.indexes)} items"
    if problem:
        raise RemoteError(f"backend {backend_name!r} returned {problem}", backend_name=backend_name)


def _names_of(outputs: Any) -> str:
    return ", ".join(map(repr, outputs)) if isinstance(outputs, Mapping) else f"in a {type(outputs).__name__}"


def _compacted(job: Job) -> Job:
    if isinstance(job.part, RunPart):
        return job
    return job._replace(part=job.part._replace(columns=[compact(column) for column in job.part.columns]))


def _parts_of_modules(left_out: Mapping[str, set[str]], value: Any) -> Parts:
    """Yield what is in a module of the user's, and the modules that a function imports."""
    if isinstance(value, FunctionType):
        for module in modules_imported_by(value):
            yield f"import of {module.__name__!r}", module
    elif isinstance(value, ModuleType):
        for name, entry in state_of(value, left_out.get(value.__name__, set())).items():
            yield f"module attribute {name!r}", entry
