"""The part of worker processes that executes rows: a plan of calls, once for each row of values."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from functools import partial
from time import perf_counter
from typing import Any, NamedTuple

from hypernodes.decimals import DecimalSettings, using
from hypernodes.engine.step import call
from hypernodes.engine.workers.payloads import Payload, is_sent_as_is, new_dumper, pack
from hypernodes.engine.workers.pickling import PROTOCOL, Dumper
from hypernodes.engine.workers.process_main import (
    Loop,
    cannot_be_sent_back,
    evict_removed_files,
    load_program,
    new_path,
    open_payload,
)
from hypernodes.engine.workers.process_start import use_folder
from hypernodes.engine.workers.serialized_errors import SerializedError, describe
from hypernodes.errors import SerializationError
from hypernodes.plan import CallStep


class RowOrder(NamedTuple):
    """Rows of values for which a worker process is to execute a plan.

    Attributes:
        folder: Folder of the run, for large results.
        number: Number of the order, unique in the run.
        program: File with the steps of the plan, all of them calls.
        outputs: Slots whose values must be sent back.
        rest: Values of the slots after those of a row, as payloads.
        is_by_value: See `pickling.Dumper`.
        decimals: The settings of the caller for decimals.
        rows: The values of the first slots for each execution, as payloads.
    """

    folder: str
    number: int
    program: str
    outputs: tuple[int, ...]
    rest: tuple[Any, ...]
    is_by_value: bool
    decimals: DecimalSettings | None
    rows: list[tuple[Any, ...]]


class RowFailure(NamedTuple):
    """Why a row has no outputs.

    Attributes:
        row: Position of the row in the order.
        step: Position, in the program, of the call that failed.
        raised: The error.
    """

    row: int
    step: int
    raised: SerializedError


class RowOutcomes(NamedTuple):
    """The outcomes of the rows of an order.

    Attributes:
        outputs: Payloads of the requested slots, row after row; None for those of rows that failed.
        failures: The rows that failed, in order.
        duration_s: How long the rows took together.
    """

    outputs: list[Any]
    failures: list[RowFailure]
    duration_s: float


def work_rows(packed: bytes) -> bytes:
    """Execute a plan for some rows.

    Args:
        packed: A `RowOrder`.

    Returns:
        The `RowOutcomes`, packed.
    """
    order: RowOrder = pickle.loads(packed)
    evict_removed_files()
    use_folder(order.folder)
    steps = load_program(order.program)
    with using(order.decimals):
        outcomes = _execute(order, steps)
    return pickle.dumps(outcomes, PROTOCOL)


def _execute(order: RowOrder, steps: tuple[CallStep, ...]) -> RowOutcomes:
    producers = {slot: step for step in steps for slot in step.outputs}
    wanted = [(producers[slot], slot) for slot in order.outputs]
    path, dumper = partial(new_path, order.folder), new_dumper(order.is_by_value)
    rest: list[Any] | None = None
    outputs: list[Any] = []
    failures: list[RowFailure] = []
    loop = Loop()
    started_at = perf_counter()
    for number, row in enumerate(order.rows):
        count = len(outputs)
        step = steps[0]
        try:
            if rest is None:
                opened = list(order.rest)
                for position, value in enumerate(opened):
                    if type(value) is Payload:
                        step = _taker(steps, len(row) + position)
                        opened[position] = open_payload(value, step, len(row) + position)
                rest = opened
            values = [*row, *rest]
            for slot, value in enumerate(row):
                if type(value) is Payload:
                    step = _taker(steps, slot)
                    values[slot] = open_payload(value, step, slot)
            for step in steps:
                for out, value in zip(step.outputs, call(step, values, loop.wait_for), strict=True):
                    if out is not None:
                        values[out] = value
            for step, slot in wanted:
                value = values[slot]
                outputs.append(value if is_sent_as_is(value) else _pack(value, step, dumper, path))
        except BaseException as error:
            del outputs[count:]
            outputs += [None] * len(wanted)
            failures.append(RowFailure(number, step.index, describe(error)))
    loop.close()
    return RowOutcomes(outputs, failures, perf_counter() - started_at)


def _pack(value: Any, step: CallStep, dumper: Dumper, path: Callable[[], str]) -> Any:
    try:
        return pack(value, f"the result of node {step.node.name!r}", dumper, path)
    except SerializationError as error:
        raise cannot_be_sent_back(step.node.name, value, dumper.is_by_value) from error.__cause__


def _taker(steps: Sequence[CallStep], slot: int) -> CallStep:
    """Return the first call that takes the value in a slot."""
    return next(step for step in steps if slot in step.arguments)
