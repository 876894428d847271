"""The orders that one run sends to worker processes."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import BrokenExecutor, Future
from itertools import count
from typing import TYPE_CHECKING, Any

from hypernodes.decimals import settings_here
from hypernodes.engine.workers.caller_settings import settings_of_caller
from hypernodes.engine.workers.payloads import Payloads
from hypernodes.engine.workers.pickling import PROTOCOL, blame, check_importable, dumps
from hypernodes.engine.workers.process_main import ItemKind, WorkItem, WorkOrder, work
from hypernodes.engine.workers.process_pool import ProcessPool
from hypernodes.engine.workers.row_orders import RowOrder, work_rows
from hypernodes.errors import ConfigurationError, SerializationError
from hypernodes.plan import CallStep, NestedStep, Plan, Step

if TYPE_CHECKING:
    from concurrent.futures import Executor


class WorkerProcesses:
    """The worker processes of one run.

    Args:
        pool: The processes; None when the caller gave an executor.
        executor: The caller's own executor, instead of a pool of ours.

    Attributes:
        payloads: The values sent to the processes.
        settings: What the processes take over from this one.
    """

    def __init__(self, pool: ProcessPool | None, executor: Executor | None = None) -> None:
        self._pool = pool
        self._executor = executor
        self._programs: dict[int, tuple[str, Sequence[Any]]] = {}
        self._numbers = count()
        self._is_by_value = pool.is_loky if pool else _has_cloudpickle()
        self._decimals = settings_here()
        self.payloads = Payloads(self._is_by_value)
        self.settings = settings_of_caller(self._is_by_value) if pool else b""

    def prefetch(self, workers: int) -> int:
        """Return how many tasks to submit at a time: one extra for each process of our pool, so that none is idle."""
        return 2 * workers if self._pool is not None else workers

    @property
    def can_restart(self) -> bool:
        """Whether dead workers are replaced."""
        return self._pool is not None

    def check(self, plan: Plan) -> None:
        """Refuse a plan whose functions cannot be sent.

        Raises:
            SerializationError: A node cannot be sent; the message names it.
        """
        for step in plan.steps:
            if step.index in plan.places:
                continue
            if isinstance(step, CallStep):
                where = f" ({step.node.location})" if step.node.location else ""
                name = f"node {step.node.name!r}{where}"
                try:
                    dumps(step.node, name, self._is_by_value)
                except SerializationError as error:
                    raise blame(error, step.node, name, self._is_by_value) from error.__cause__
                if self._pool is not None and not self._is_by_value:
                    check_importable(step.node, name)
            elif not step.is_delegated:
                self.check(step.inner)

    def submit(
        self,
        steps: Sequence[CallStep | NestedStep],
        shared: Mapping[int, Any],
        needed: frozenset[int],
        returns_everything: bool,
        kinds: Sequence[ItemKind],
        items: Sequence[WorkItem],
    ) -> tuple[int, Future[Any]]:
        """Start the calls of some work items.

        Args:
            steps: The program.
            shared: Payloads of values that all items share, by slot.
            needed: Slots whose values must be sent back.
            returns_everything: Whether the other results are sent back as well, if possible.
            kinds: The kinds of work items.
            items: The work items.

        Returns:
            The number of the order, and the future of its outcomes.
        """
        number = next(self._numbers)
        order = WorkOrder(
            folder=self.payloads.folder,
            number=number,
            program=self._program(steps),
            shared=dict(shared),
            needed=needed,
            returns_everything=returns_everything,
            is_by_value=self._is_by_value,
            decimals=self._decimals,
            kinds=[*kinds],
            items=[*items],
        )
        return number, self._submit(work, order)

    def submit_rows(
        self, steps: Sequence[Step], outputs: tuple[int, ...], rest: tuple[Any, ...], rows: list[tuple[Any, ...]]
    ) -> tuple[int, Future[Any]]:
        """Start executing a plan of calls for some rows.

        Args:
            steps: The steps of the plan.
            outputs: Slots whose values must be sent back; the calls make them.
            rest: Payloads of the values after those of a row.
            rows: For each execution, payloads of the values of the first slots.

        Returns:
            The number of the order, and the future of its outcomes.
        """
        number = next(self._numbers)
        order = RowOrder(
            folder=self.payloads.folder,
            number=number,
            program=self._program(steps),
            outputs=outputs,
            rest=rest,
            is_by_value=self._is_by_value,
            decimals=self._decimals,
            rows=rows,
        )
        return number, self._submit(work_rows, order)

    def _submit(self, function: Callable[[bytes], bytes], order: WorkOrder | RowOrder) -> Future[Any]:
        packed = pickle.dumps(order, PROTOCOL)
        if self._pool is not None:
            return self._pool.submit(self, pickle.dumps(function, PROTOCOL), packed)
        assert self._executor is not None
        try:
            return self._executor.submit(function, packed)
        except BrokenExecutor as error:
            broken: Future[Any] = Future()
            broken.set_exception(error)
            return broken
        except RuntimeError as error:
            raise ConfigurationError(f"the executor passed as executor= takes no work ({error})") from error

    def stop_calls(self) -> None:
        """Drop the orders of this run, and end the processes that work on them."""
        if self._pool is not None:
            self._pool.drop(self)

    def end_run(self) -> None:
        """Remove the files of the run."""
        self.payloads.close()
        self._programs.clear()

    def kill(self) -> None:
        """Stop everything that the run is computing, at once."""
        self.stop_calls()
        self.end_run()

    def _program(self, steps: Sequence[Any]) -> str:
        key = id(steps[0]) if len(steps) == 1 else id(steps)
        known = self._programs.get(key)
        if known is None:
            path = self.payloads.new_path()
            self.payloads.write(path, tuple(s if isinstance(s, CallStep) else None for s in steps), "a plan")
            known = self._programs[key] = (path, steps)  # referencing the steps keeps their id from being reused
        return known[0]


def _has_cloudpickle() -> bool:
    from importlib.util import find_spec

    return find_spec("cloudpickle") is not None
