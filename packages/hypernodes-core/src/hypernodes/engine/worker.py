"""What runs in a worker process: calls of nodes, one after the other, as told by the scheduler."""

from __future__ import annotations

import os
import pickle
import signal
import threading
import traceback
from collections import OrderedDict
from collections.abc import Sequence
from types import FrameType
from typing import Any, NamedTuple

from hypernodes.engine.packing import PROTOCOL, dumps, loads
from hypernodes.engine.step import make, prepare
from hypernodes.errors import NodeTimeoutError, RemoteNodeError, SerializationError
from hypernodes.plan import CallStep

_KEPT_FILES = 64
_GRACE_S = 1.0  # after a time limit, for a call that does not react to being interrupted
_kept: OrderedDict[str, Any] = OrderedDict()


class WorkItem(NamedTuple):
    """One execution of a part of a plan.

    Attributes:
        values: What is known, by slot.
        steps: Positions, in the program, of the calls to make, in order.
    """

    values: dict[int, Any]
    steps: tuple[int, ...]


class Done(NamedTuple):
    """One call that was made.

    Attributes:
        step: Its position in the program.
        outputs: One value for each output; None for those that are not wanted back.
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
        error: What it raised.
        traceback_text: Where it was raised.
    """

    done: list[Done]
    failed_step: int
    error: BaseException | None
    traceback_text: str


class RemoteTraceback(Exception):  # noqa: N818 - it is shown, not caught
    """Where an exception was raised in another process; the cause of that exception here."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f'\n"""\n{self.text}"""'


def start_process() -> None:
    """Prepare a worker process: an interrupt from the keyboard is for the process that started it."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def work(program_path: str, shared_paths: dict[int, str], wanted: frozenset[int] | None, packed: bytes) -> bytes:
    """Make the calls of some work items.

    Args:
        program_path: File with the steps of the plan.
        shared_paths: Files with values that many items take, by slot.
        wanted: Slots whose values are wanted back; None for all.
        packed: The work items.

    Returns:
        Their outcomes, packed.
    """
    steps: tuple[CallStep, ...] = _load(program_path)
    shared = {slot: _load(path) for slot, path in shared_paths.items()}
    outcomes = [_run(steps, {**shared, **item.values}, item.steps, wanted) for item in loads(packed)]
    try:
        return _dumps(outcomes)
    except SerializationError:
        return _dumps([_sendable(outcome, steps) for outcome in outcomes])


def _run(
    steps: Sequence[CallStep], values: dict[int, Any], order: Sequence[int], wanted: frozenset[int] | None
) -> ItemOutcome:
    done: list[Done] = []
    for index in order:
        step = steps[index]
        try:
            with _TimeLimit(step):
                returned = make(prepare(step, values), _wait_for)  # type: ignore[arg-type]
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            return ItemOutcome(done, index, portable(error), "".join(traceback.format_exception(error)))
        values.update((s, v) for s, v in zip(step.outputs, returned.outputs, strict=True) if s is not None)
        outputs = returned.outputs
        if wanted is not None:
            outputs = tuple(v if s in wanted else None for s, v in zip(step.outputs, outputs, strict=True))
        done.append(Done(index, outputs, returned.duration_s))
    return ItemOutcome(done, -1, None, "")


class _TimeLimit:
    """Interrupts a call that takes too long; one that cannot be interrupted ends the process."""

    def __init__(self, step: CallStep) -> None:
        self._step = step
        self._is_over = threading.Event()

    def __enter__(self) -> None:
        limit = self._step.node.timeout
        if limit is None:
            return
        if hasattr(signal, "setitimer") and threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGALRM, self._interrupt)
            signal.setitimer(signal.ITIMER_REAL, limit)
        threading.Thread(target=self._watch, args=(limit + _GRACE_S,), daemon=True).start()

    def __exit__(self, *exc_info: object) -> None:
        self._is_over.set()
        if hasattr(self, "_previous"):
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, self._previous)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        node = self._step.node
        raise NodeTimeoutError(
            f"node {node.name!r} took longer than its timeout of {node.timeout} s",
            node_name=node.name,
            timeout_s=node.timeout,
        )

    def _watch(self, limit_s: float) -> None:
        if not self._is_over.wait(limit_s):
            os._exit(1)


def _wait_for(coroutine: Any) -> Any:
    import asyncio

    return asyncio.run(coroutine)


def _load(path: str) -> Any:
    if path not in _kept:
        with open(path, "rb") as file:
            _kept[path] = pickle.load(file)
        if len(_kept) > _KEPT_FILES:
            _kept.popitem(last=False)
    _kept.move_to_end(path)
    return _kept[path]


def _dumps(outcomes: list[ItemOutcome]) -> bytes:
    try:
        import cloudpickle  # noqa: F401 - there when the pool is loky's
    except ImportError:
        return dumps(outcomes, "a result", is_by_value=False)
    return dumps(outcomes, "a result", is_by_value=True)


def _sendable(outcome: ItemOutcome, steps: Sequence[CallStep]) -> ItemOutcome:
    """The same outcome, cut off at the first result that cannot be sent."""
    for position, done in enumerate(outcome.done):
        try:
            _dumps([ItemOutcome([done], -1, None, "")])
        except SerializationError as error:
            name = steps[done.step].node.name
            problem = SerializationError(
                f"the result of node {name!r} cannot be sent back from the worker process: {error.__cause__}",
                path=f"result of {name}",
            )
            return ItemOutcome(outcome.done[:position], done.step, problem, "")
    return outcome


def portable(error: BaseException) -> BaseException:
    """The exception itself if it survives the journey, else one that tells of it."""
    try:
        copy = pickle.loads(pickle.dumps(error, PROTOCOL))
        if type(copy) is type(error) and str(copy) == str(error):
            return error
    except Exception:
        pass
    try:
        import cloudpickle

        copy = pickle.loads(cloudpickle.dumps(error, PROTOCOL))
        if type(copy) is type(error) and str(copy) == str(error):
            return error
    except Exception:
        pass
    name = f"{type(error).__module__}.{type(error).__qualname__}".removeprefix("builtins.")
    return RemoteNodeError(
        f"{name}: {error}",
        original_type=name,
        original_message=str(error),
        traceback_text="".join(traceback.format_exception(error)),
    )
