"""What runs in a worker process: calls of nodes, one after the other, as told by the scheduler."""

from __future__ import annotations

import os
import pickle
from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from hypernodes.engine.step import Returned, make, prepare
from hypernodes.engine.workers.payloads import NotTransferred, Payload, pack, unpack
from hypernodes.engine.workers.pickling import PROTOCOL
from hypernodes.engine.workers.serialized_errors import SerializedError, describe
from hypernodes.engine.workers.time_limits import TimeLimit, use_folder
from hypernodes.errors import NodeTimeoutError, SerializationError
from hypernodes.plan import CallStep

if TYPE_CHECKING:
    import asyncio

_KEPT_FILES = 64
_kept: OrderedDict[str, Any] = OrderedDict()  # what was read from shared files, the least recently used first
_results = 0


class WorkItem(NamedTuple):
    """One execution of a part of a plan.

    Attributes:
        values: What is known, by slot, as payloads.
        steps: Positions, in the program, of the calls to make, in order.
    """

    values: dict[int, Any]
    steps: tuple[int, ...]


class WorkOrder(NamedTuple):
    """What a worker is to do.

    Attributes:
        folder: Folder of the run, for large results.
        number: Number of the order, unique in the run.
        program: File with the steps of the plan.
        shared: Values that all items take, by slot, as payloads.
        needed: Slots whose values must come back.
        returns_everything: Whether the other results are to come back, if they can.
        is_by_value: See `packing.dumps`.
        items: What to compute.
    """

    folder: str
    number: int
    program: str
    shared: dict[int, Any]
    needed: frozenset[int]
    returns_everything: bool
    is_by_value: bool
    items: list[WorkItem]


class Done(NamedTuple):
    """One call that was made.

    Attributes:
        step: Its position in the program.
        outputs: One payload for each output; None for those that are not wanted back.
        duration_s: How long it took.
    """

    step: int
    outputs: tuple[Any, ...]
    duration_s: float


class ItemOutcome(NamedTuple):
    """What came of a work item.

    Attributes:
        done: The calls that returned, in order.
        failed_step: Position of the call that raised, which was the last; -1 when none did.
        raised: What it raised.
    """

    done: list[Done]
    failed_step: int = -1
    raised: SerializedError | None = None


def work(packed: bytes) -> bytes:
    """Make the calls of some work items.

    Args:
        packed: An order.

    Returns:
        A list with the outcome of each item, packed.
    """
    order: WorkOrder = pickle.loads(packed)
    _forget_what_is_over()
    use_folder(order.folder)
    steps: tuple[CallStep, ...] = _keep(order.program)
    shared = dict(order.shared)
    loop = _Loop()
    try:
        outcomes = [_run(order, position, steps, shared, loop) for position in range(len(order.items))]
    finally:
        loop.close()
    return pickle.dumps(outcomes, PROTOCOL)


class _Loop:
    """One event loop for the `async def` nodes of an order, made when the first one is met."""

    def __init__(self) -> None:
        self._runner: asyncio.Runner | None = None

    def wait_for(self, coroutine: Any) -> Any:
        import asyncio  # not before it is needed: it is the slowest import of the standard library

        if self._runner is None:
            self._runner = asyncio.Runner()
        try:
            return self._runner.run(coroutine)
        except NodeTimeoutError:  # it broke in upon the loop, where the task still is
            self.close()
            raise

    def close(self) -> None:
        runner, self._runner = self._runner, None
        if runner is not None:
            runner.close()


def _run(
    order: WorkOrder, position: int, steps: Sequence[CallStep], shared: dict[int, Any], loop: _Loop
) -> ItemOutcome:
    item = order.items[position]
    values = {**shared, **item.values}
    done: list[Done] = []
    for index in item.steps:
        step = steps[index]
        try:
            for slot in step.arguments:
                if type(values[slot]) is Payload:
                    values[slot] = _open(values[slot], step, slot)
                    if slot in shared and slot not in item.values:
                        shared[slot] = values[slot]
            with TimeLimit(step.node, order.folder, f"{order.number}-{position}-{index}"):
                returned = make(prepare(step, values), loop.wait_for)  # type: ignore[arg-type]
            values.update((s, v) for s, v in zip(step.outputs, returned.outputs, strict=True) if s is not None)
            outputs = _pack_results(order, step, returned)
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            return ItemOutcome(done, index, describe(error))
        done.append(Done(index, outputs, returned.duration_s))
    return ItemOutcome(done)


def _open(payload: Payload, step: CallStep, slot: int) -> Any:
    try:
        return _keep(payload.path) if payload.is_shared and payload.path else unpack(payload)
    except Exception as error:
        name = step.node.inputs[step.arguments.index(slot)]
        raise SerializationError(
            f"input {name!r} of node {step.node.name!r} cannot be received by the worker process "
            f"({type(error).__name__}: {error})",
            path=name,
        ) from error


def _pack_results(order: WorkOrder, step: CallStep, returned: Returned) -> tuple[Any, ...]:
    packed: list[Any] = []
    for name, slot, value in zip(step.node.outputs, step.outputs, returned.outputs, strict=True):
        is_needed = slot in order.needed
        if not is_needed and not order.returns_everything:
            packed.append(None)
            continue
        try:
            packed.append(pack(value, f"the result of node {step.node.name!r}", order.is_by_value, _new_path(order)))
        except SerializationError as error:
            if is_needed:
                raise SerializationError(
                    f"the result of node {step.node.name!r} cannot be sent back from the worker process: "
                    f"{error.__cause__}",
                    path=f"result of {step.node.name}",
                ) from error.__cause__
            reason = f"{name!r} cannot be sent ({error.__cause__})"
            packed.append(pack(NotTransferred(type(value).__name__, reason), "", False, ""))
    return tuple(packed)


def _new_path(order: WorkOrder) -> str:
    global _results
    _results += 1
    return os.path.join(order.folder, f"result-{os.getpid()}-{_results}")


# --- files that several orders name -------------------------------------------------------------------------------


def _keep(path: str) -> Any:
    if path not in _kept:
        _kept[path] = unpack(Payload(None, path))
        if len(_kept) > _KEPT_FILES:
            _kept.popitem(last=False)
    _kept.move_to_end(path)
    return _kept[path]


def _forget_what_is_over() -> None:
    """Let go of values whose file is gone: nobody will ask for them any more."""
    for path in [path for path in _kept if not os.path.exists(path)]:
        _kept.pop(path, None)
