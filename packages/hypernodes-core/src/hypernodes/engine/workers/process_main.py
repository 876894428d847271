"""The main module of worker processes: makes the calls of orders from the scheduler, one after the other."""

from __future__ import annotations

import os
import pickle
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from hypernodes.decimals import DecimalSettings, using
from hypernodes.engine.awaitables import ToAwait
from hypernodes.engine.step import Call, NotTransferred, Returned, make, prepare, prepare_batch
from hypernodes.engine.workers.culprits import find_culprit
from hypernodes.engine.workers.names_in_main import names_of_program, use_names
from hypernodes.engine.workers.payloads import DEFAULT, Payload, is_sent_as_is, new_dumper, pack, unpack
from hypernodes.engine.workers.pickling import PROTOCOL, Dumper, dumps
from hypernodes.engine.workers.process_start import use_folder
from hypernodes.engine.workers.serialized_errors import SerializedError, describe
from hypernodes.engine.workers.time_limits import TimeLimit
from hypernodes.errors import NodeTimeoutError, SerializationError
from hypernodes.locks import reset_after_fork
from hypernodes.plan import CallStep

if TYPE_CHECKING:
    import asyncio

_MAX_LOADED_FILES = 64
_loaded: OrderedDict[str, Any] = OrderedDict()  # values of shared files, the least recently used first
_table = reset_after_fork(threading.Lock())
_result_numbers = count(1)


# What is sent for every item is plain tuples: named ones take several times as long to pickle.

# What work items have in common that execute the same part of a plan: the positions, in the program, of the calls to
# make, in order, and the slots of the values that each item has of its own.
ItemKind: TypeAlias = tuple[tuple[int, ...], tuple[int, ...]]

# One execution of a part of a plan: the number of its kind in the order, followed by the values that are its own, as
# payloads.
WorkItem: TypeAlias = tuple[Any, ...]

# A call that returned: one payload for each output (None for those not sent back), and its duration in seconds.
Done: TypeAlias = tuple[tuple[Any, ...], float]

# The outcome of a work item: the calls that returned, in order, and the error of the next one, if that one raised.
ItemOutcome: TypeAlias = tuple[list[Done], "SerializedError | None"]


class WorkOrder(NamedTuple):
    """Work items that a worker process is to compute.

    Attributes:
        folder: Folder of the run, for large results.
        number: Number of the order, unique in the run.
        program: File with the steps of the plan.
        shared: Values that all items share, by slot, as payloads.
        needed: Slots whose values must be sent back.
        returns_everything: Whether the other results are sent back as well, if possible.
        is_by_value: See `pickling.Dumper`.
        decimals: The settings of the caller for decimals.
        kinds: The kinds of work items.
        items: The work items.
    """

    folder: str
    number: int
    program: str
    shared: dict[int, Any]
    needed: frozenset[int]
    returns_everything: bool
    is_by_value: bool
    decimals: DecimalSettings | None
    kinds: list[ItemKind]
    items: list[WorkItem]


def work(packed: bytes) -> bytes:
    """Make the calls of some work items.

    Args:
        packed: An order.

    Returns:
        A list with the outcome of each item, packed.
    """
    order: WorkOrder = pickle.loads(packed)
    evict_removed_files()
    use_folder(order.folder)
    steps = load_program(order.program)
    shared = dict(order.shared)
    loop, dumper = Loop(), new_dumper(order.is_by_value)
    try:
        with using(order.decimals):
            if len(steps) == 1 and steps[0].node.batching is not None:
                outcomes = _run_batch(order, steps[0], shared, loop, dumper)
            else:
                outcomes = [_run(order, position, steps, shared, loop, dumper) for position in range(len(order.items))]
    finally:
        loop.close()
    return pickle.dumps(outcomes, PROTOCOL)


def cannot_be_sent_back(node_name: str, value: Any, is_by_value: bool) -> SerializationError:
    culprit = find_culprit(value, lambda part: dumps(part, "", is_by_value))
    path = "".join(f" → {part}" for part in culprit.path) if culprit else ""
    reason = f": {culprit.error.__cause__}. {culprit.advice_for_results}" if culprit else ""
    return SerializationError(
        f"the result of node {node_name!r}{path} cannot be sent back from the worker process{reason}",
        path=f"result of {node_name}{path}",
    )


class Loop:
    """One event loop for the `async def` nodes of an order, created for the first one."""

    def __init__(self) -> None:
        self._runner: asyncio.Runner | None = None

    def wait_for(self, coroutine: ToAwait) -> Any:
        import asyncio  # not before it is needed: it is the slowest import of the standard library

        if self._runner is None:
            self._runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)  # the thread's own stays what it is
        try:
            return self._runner.run(_awaited(coroutine))
        except NodeTimeoutError:  # it interrupted the loop, which still has the task
            self.close()
            raise

    def close(self) -> None:
        runner, self._runner = self._runner, None
        if runner is not None:
            runner.close()


async def _awaited(coroutine: ToAwait) -> Any:
    return await coroutine


def _run(
    order: WorkOrder, position: int, steps: Sequence[CallStep], shared: dict[int, Any], loop: Loop, dumper: Dumper
) -> ItemOutcome:
    item = order.items[position]
    positions, slots = order.kinds[item[0]]
    values = shared.copy()
    values.update(zip(slots, item[1:], strict=True))
    done: list[Done] = []
    for index in positions:
        step = steps[index]
        try:
            for slot in step.arguments:
                if type(values[slot]) is Payload:
                    values[slot] = open_payload(values[slot], step, slot)
                    if slot in shared:  # no item has a value of its own there
                        shared[slot] = values[slot]
            returned = _made(prepare(step, values), loop, position)  # type: ignore[arg-type]
            values |= {s: v for s, v in zip(step.outputs, returned.outputs, strict=True) if s is not None}
            outputs = _pack_results(order, step, returned, dumper)
        except BaseException as error:
            return done, describe(error)
        done.append((outputs, returned.duration_s))
    return done, None


def _run_batch(
    order: WorkOrder, step: CallStep, shared: dict[int, Any], loop: Loop, dumper: Dumper
) -> list[ItemOutcome]:
    """Call the function of a batched node for all items of an order; after an error there is only that.

    The caller finds the items that are to blame.
    """
    items: list[dict[int, Any]] = []
    try:
        for item in order.items:
            _, slots = order.kinds[item[0]]
            values = shared.copy()
            values.update(zip(slots, item[1:], strict=True))
            for slot in step.arguments:
                if type(values[slot]) is Payload:
                    values[slot] = open_payload(values[slot], step, slot)
                    if slot in shared:
                        shared[slot] = values[slot]
            items.append(values)
        returned = _made(prepare_batch(step, items), loop, 0)  # type: ignore[arg-type]
        share_s = returned.duration_s / len(items)
        packed = [_pack_results(order, step, Returned(outputs, share_s), dumper) for outputs in returned.outputs]
    except BaseException as error:
        return [([], describe(error))]
    return [([(outputs, share_s)], None) for outputs in packed]


def _made(call: Call, loop: Loop, position: int) -> Returned:
    """Make a call within its time limit."""
    if call.step.node.timeout is None:
        returned = make(call, loop.wait_for)
    else:
        with TimeLimit(call.step.node, position, call.step.index):
            returned = make(call, loop.wait_for)
    assert isinstance(returned, Returned)
    return returned


def open_payload(payload: Payload, step: CallStep, slot: int) -> Any:
    try:
        if payload == DEFAULT:
            return step.default_of(slot)
        return load_shared(payload.path) if payload.is_shared and payload.path else unpack(payload)
    except Exception as error:
        name = step.node.inputs[step.arguments.index(slot)]
        raise SerializationError(
            f"input {name!r} of node {step.node.name!r} cannot be received by the worker process "
            f"({type(error).__name__}: {error})",
            path=name,
        ) from error


def _pack_results(order: WorkOrder, step: CallStep, returned: Returned, dumper: Dumper) -> tuple[Any, ...]:
    if order.returns_everything and all(map(is_sent_as_is, returned.outputs)):
        return returned.outputs
    packed: list[Any] = []
    path = partial(new_path, order.folder)
    for name, slot, value in zip(step.node.outputs, step.outputs, returned.outputs, strict=True):
        is_needed = slot in order.needed
        if not is_needed and not order.returns_everything:
            packed.append(None)
            continue
        try:
            packed.append(pack(value, f"the result of node {step.node.name!r}", dumper, path))
        except SerializationError as error:
            if is_needed:
                raise cannot_be_sent_back(step.node.name, value, order.is_by_value) from error.__cause__
            reason = f"{name!r} cannot be sent ({error.__cause__})"
            packed.append(pack(NotTransferred(type(value).__name__, reason), "", dumper, path))
    return tuple(packed)


def new_path(folder: str) -> str:
    return os.path.join(folder, f"result-{os.getpid()}-{next(_result_numbers)}")


# --- files that several orders refer to ---------------------------------------------------------------------------


def load_program(path: str) -> tuple[CallStep, ...]:
    """Return the steps that an order refers to; plain pickle finds what they brought of the caller's `__main__`."""
    steps, names = load_shared(path, _unpack_program)
    use_names(names)
    return steps  # type: ignore[no-any-return]


def _unpack_program(file: Payload) -> Any:
    with names_of_program() as names:
        return unpack(file), names


def load_shared(path: str, unpack_file: Callable[[Payload], Any] = unpack) -> Any:
    with _table:  # a caller's own executor may have threads rather than processes
        value = _loaded.get(path, _loaded)
        if value is not _loaded:
            _loaded.move_to_end(path)
            return value
    value = unpack_file(Payload(None, path))
    with _table:
        _loaded[path] = value
        if len(_loaded) > _MAX_LOADED_FILES:
            _loaded.popitem(last=False)
    return value


def evict_removed_files() -> bool:
    """Release values whose file was removed: no further order refers to them; return whether there were any."""
    with _table:
        known = list(_loaded)
    removed = [path for path in known if not os.path.exists(path)]
    with _table:
        for path in removed:
            _loaded.pop(path, None)
    return bool(removed)
