"""One job of a remote backend: it is submitted, and its outcome taken apart."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError
from functools import cached_property
from typing import Any

from hypernodes.engine.cancellation import current_registry
from hypernodes.engine.workers.serialized_errors import RemoteTraceback, restore
from hypernodes.errors import (
    NodeTimeoutError,
    RemoteError,
    RemoteVersionError,
    SerializationError,
    WorkerLostError,
    add_note,
)
from hypernodes.plan import Plan
from hypernodes.remote import wire
from hypernodes.remote.channel import Channel
from hypernodes.remote.job import MapPart, MapResult, RunPart
from hypernodes.remote.job_packing import JobPacker
from hypernodes.remote.messages import Rows
from hypernodes.remote.needed_packages import package_of, requirements_for, users_of
from hypernodes.remote.packing import unpack
from hypernodes.remote.preflight import OWN_PYTHON
from hypernodes.remote.pruning import Known
from hypernodes.remote.receiver import Receiver
from hypernodes.remote.references import References
from hypernodes.remote.transport import Transport


class Sender:
    """What the jobs of one run or map have in common.

    Args:
        backend: The backend.
        backend_name: Its name, in messages.
        plan: What is to run.
        packer: Makes the jobs.
        references: What stays here.
        receiver: Takes what workers send.
    """

    def __init__(
        self,
        backend: Transport,
        backend_name: str,
        plan: Plan,
        packer: JobPacker,
        references: References,
        receiver: Receiver,
    ) -> None:
        self.backend = backend
        self.backend_name = backend_name
        self.plan = plan
        self.packer = packer
        self.references = references
        self.receiver = receiver
        self.node_names = tuple(step.node.name for step in plan.steps)

    def check_python(self, backend: Transport) -> None:
        """Refuse another version of Python before anything is built or started.

        Raises:
            RemoteVersionError: The remote side is known to have one.
        """
        python = backend.find_python_version()
        if python is not None and python != OWN_PYTHON:
            raise self.python_error(python, backend, "Nothing was sent. ")

    def python_error(self, python: str, backend: Transport, remark: str = "") -> RemoteVersionError:
        """Return the error for another version of Python."""
        return RemoteVersionError(
            f"the two sides cannot understand each other: Python {OWN_PYTHON} at the caller and {python} at "
            f"{self.backend_name}. {remark}{backend.advise_python(OWN_PYTHON)} Or run the caller with Python {python}.",
            differing={"Python": (OWN_PYTHON, python)},
            backend_name=self.backend_name,
        )


class SentJob:
    """One job; packed when it is made.

    Args:
        sender: What it has in common with others.
        part: What it is to do.
        known: What is known of the caches.
        deliver: Takes results of items as they come, in any thread; None to get all with the outcome. Jobs that deliver
            share what they have in common.
        is_repeated: Whether some of its work was given to another worker before.

    Attributes:
        part: The same.
        channel: Takes what its worker sends.
        own_bytes: Size of what it does not have in common with others.
        arrived: Indexes of the items whose results were delivered.
        work_s: How long its work took, once it is done; None when that is not known.

    Raises:
        SerializationError: Something cannot be sent; nothing was.
        RemoteVersionError: The remote side is known to have another version of Python; nothing was sent.
    """

    def __init__(
        self,
        sender: Sender,
        part: RunPart | MapPart,
        known: Known,
        deliver: Callable[[MapResult], None] | None = None,
        is_repeated: bool = False,
    ) -> None:
        self._sender = sender
        self._stored = known.stored
        self._deliver = deliver
        self._problem: RemoteError | None = None  # of results that cannot be loaded here
        self.part = part
        self.arrived: set[int] = set()
        self.work_s: float | None = None
        job_id = secrets.token_hex(16)
        packed = sender.packer.pack(job_id, part, known.results, is_one_of_many=deliver is not None)
        self._data = [packed.data]
        self.own_bytes = packed.own_bytes
        self._key = packed.key
        self._code = packed.code
        backends = sender.references.callable_backends
        for nested in backends:
            if isinstance(nested, type(sender.backend)):
                sender.check_python(nested)
        take_rows = None if deliver is None else self._take_rows
        names = sender.node_names
        self.channel = Channel(
            job_id, sender.receiver, self._recall, take_rows, backends, is_repeated, names, packed.shared
        )

    def submit(self) -> Any:
        """Have the job executed; return its outputs by name, or a `MapResult` of what was not delivered.

        Raises:
            RemoteError: The remote side failed, or what came back does not belong to the job.
            CancelledError: The run was cancelled.
            Exception: What a node raised there, or what the transport raised, with a note that says so.
        """
        channel, around = self.channel, current_registry.get()
        if around is not None:
            around.add(channel)
        try:
            with self._sender.backend.turn_of(channel):
                result = self._open(self._transport())
            if self._problem is not None:
                raise self._problem
            result = self._checked(result)
            if channel.is_cancelled:
                raise CancelledError("the run was cancelled")
            return result
        except Exception as error:
            if channel.is_cancelled:
                raise self._cancelled() from error
            raise
        finally:
            if around is not None:
                around.remove(channel)
            channel.finish()

    def _cancelled(self) -> CancelledError:
        cancelled, problem = CancelledError("the run was cancelled"), self.channel.end_problem
        if problem is not None:
            name = self._sender.backend_name
            add_note(cancelled, f"backend {name!r} could not end the job: {type(problem).__name__}: {problem}")
        return cancelled

    def _transport(self) -> Any:
        backend = self._sender.backend
        try:
            return backend.submit(self._data.pop(), self.channel)  # no reference to it is held here meanwhile
        except BaseException as error:
            if not isinstance(error, (RemoteError, NodeTimeoutError, KeyboardInterrupt)):
                origin = f"backend {self._sender.backend_name!r} ({type(backend).__name__}.submit)"
                add_note(error, f"raised by the transport of {origin}, not by a node")
            raise

    def _open(self, outcome: Any) -> Any:
        backend_name = self._sender.backend_name
        try:
            header, payload, _ = wire.open_sealed(outcome, "at the caller", f"at {backend_name}")
        except RemoteVersionError as error:
            if "Python" not in error.differing:
                raise
            raise self._sender.python_error(str(error.differing["Python"][1]), self._sender.backend) from None
        except SerializationError as error:
            raise RemoteError(
                f"the outcome that backend {backend_name!r} returned was refused: {error}", backend_name=backend_name
            ) from error
        kind = header.get("kind")
        self.work_s = header.get("work_s")
        if kind == "refused":
            raise RemoteError(f"{backend_name} refused the job: {header['reason']}", backend_name=backend_name)
        if (key := wire.JobKey(header.get("job_id", ""), header.get("job_digest", ""))) != self._key:
            raise RemoteError(
                f"backend {backend_name!r} returned the outcome of another job ({key.job_id or 'none'}, not "
                f"{self._key.job_id}): nothing of it was used",
                backend_name=backend_name,
            )
        if kind == "broken":
            raise self._broken(header)
        try:
            result, messages, count = unpack(payload, self._recall)
        except Exception as error:
            raise self._unloadable(error) from error
        self.channel.finish(messages, count)
        if kind == "raised":
            raised = restore(result, lambda packed: unpack(packed, self._recall))
            if isinstance(raised, ModuleNotFoundError) and raised.name and package_of(raised.name):
                add_note(raised, self._explain_missing(raised.name))
            raise raised
        return result

    def _broken(self, header: Mapping[str, Any]) -> RemoteError:
        """Return the error for a job that the worker could not begin or not end."""
        backend_name = self._sender.backend_name
        cause: BaseException | None = None
        if missing := header.get("missing_module"):
            reason = self._explain_missing(missing)  # a traceback would not say more
        else:
            reason, cause = header["reason"], RemoteTraceback(header["traceback"])
            if header.get("is_unloadable"):
                reason = self._sender.packer.find_unloadable(self.part) or reason
        error = RemoteError(f"{backend_name} could not run the job: {reason}", backend_name=backend_name)
        error.__cause__ = cause
        return error

    def _explain_missing(self, module: str) -> str:
        """Return which node or input needs a module that is missing there, and what to do."""
        sender = self._sender
        users = users_of(module.partition(".")[0], sender.plan, values_of(self.part, sender.plan))
        used_by = f", which is used by {users}" if users else ""
        advice = sender.backend.advise_packages(requirements_for([module]))
        return f"there is no module {module!r} on the remote side{used_by}. {advice}"

    def _unloadable(self, error: Exception) -> RemoteError:
        name = self._sender.backend_name
        return RemoteError(
            f"the result of {name} cannot be loaded here: {type(error).__name__}: {error}. {_advise_loading(error)}",
            backend_name=name,
        )

    def _take_rows(self, rows: Rows) -> None:
        """Take results of items before the outcome."""
        try:
            result = MapResult(rows.indexes, unpack(rows.columns, self._recall))
        except Exception as error:
            self._problem = self._problem or self._unloadable(error)
            self._problem.__cause__ = error
            return
        if problem := _problem_of_rows(result, self._indexes, self._sender.plan):
            self._problem = self._problem or self._wrong(problem)
        elif self._deliver is not None:
            new = self._new_of(result)
            self.arrived.update(new.indexes)
            self._deliver(new)

    @cached_property
    def _indexes(self) -> frozenset[int]:
        """Indexes of the items that the job has; none of a run."""
        return frozenset(self.part.indexes if isinstance(self.part, MapPart) else ())

    def _new_of(self, result: MapResult) -> MapResult:
        """Return results without those that arrived before: a backend may give a job to another worker."""
        if self.arrived.isdisjoint(result.indexes):
            return result
        new = [position for position, index in enumerate(result.indexes) if index not in self.arrived]
        columns = {name: [column[position] for position in new] for name, column in result.columns.items()}
        return MapResult([result.indexes[position] for position in new], columns)

    def _checked(self, result: Any) -> Any:
        """Return what came back if indexes, names and lengths are those of what was asked for."""
        part, plan, problem = self.part, self._sender.plan, ""
        if isinstance(part, RunPart):
            if not isinstance(result, Mapping) or set(result) != set(plan.outputs):
                problem = f"outputs {_names_of(result)} instead of {_names_of(plan.outputs)}"
        elif not isinstance(result, MapResult):
            problem = f"a {type(result).__name__} instead of items"
        elif not (problem := _problem_of_rows(result, self._indexes, plan)):
            result = self._new_of(result)
            came = len(result.indexes) + len(self.arrived)
            if came < len(part.indexes):
                if self.channel.has_lost_messages:
                    raise self._lost_rows(len(part.indexes) - came)
                problem = f"{came} items instead of {len(part.indexes)}"
        if problem:
            raise self._wrong(problem)
        return result

    def _lost_rows(self, count: int) -> WorkerLostError:
        name = self._sender.backend_name
        text = f"{count} results of a job of backend {name!r} were lost on the way"
        return WorkerLostError(text, backend_name=name, exit_code=None, log_tail="")

    def _wrong(self, problem: str) -> RemoteError:
        name = self._sender.backend_name
        return RemoteError(f"backend {name!r} returned {problem}", backend_name=name)

    def _recall(self, reference: tuple[Any, ...]) -> Any:
        kind, *arguments = reference
        if kind == "stored":
            cache, key = arguments
            return self._stored[cache, key]
        if kind == "code":
            return self._code[arguments[0]]
        raise SerializationError(f"unknown reference {reference!r}", path="outcome")


def values_of(part: RunPart | MapPart, plan: Plan) -> dict[str, Any]:
    """Return the inputs that are sent, by name."""
    if isinstance(part, RunPart):
        return {name: part.values[slot] for name, slot in plan.inputs.items()}
    return part.shared | dict(zip(part.names, part.columns, strict=True))


def _advise_loading(error: Exception) -> str:
    if isinstance(error, (ImportError, AttributeError)):
        return "What is installed there and here may differ."
    return "Something in it can be pickled and not unpickled; let the node return what it can be made from."


def _problem_of_rows(result: MapResult, expected: frozenset[int], plan: Plan) -> str:
    """Return what is wrong with results of items; nothing if all is well, also when some of the items are missing.

    Args:
        result: The results.
        expected: Indexes of the items whose results are expected.
        plan: The plan of one item.
    """
    indexes = result.indexes
    if len(set(indexes)) != len(indexes) or not expected.issuperset(indexes):
        return f"{len(indexes)} items instead of {len(expected)}, or those of other indexes"
    if indexes and set(result.columns) != set(plan.outputs):
        return f"outputs {_names_of(result.columns)} instead of {_names_of(plan.outputs)}"
    for name, column in result.columns.items():
        if len(column) != len(indexes):
            return f"a column {name!r} that does not have one value for each of {len(indexes)} items"
    return ""


def _names_of(outputs: Any) -> str:
    return ", ".join(map(repr, outputs)) if isinstance(outputs, Mapping) else f"in a {type(outputs).__name__}"
