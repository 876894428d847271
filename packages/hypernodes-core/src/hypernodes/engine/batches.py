"""Forms batches of calls of batched nodes, and finds the items that are to blame when a batch fails."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from hypernodes.batching import Batching
from hypernodes.checks import shown
from hypernodes.engine.timing import now
from hypernodes.errors import BatchResultError, ConfigurationError, HyperNodesWarning, add_note
from hypernodes.nodes import Node
from hypernodes.plan import CallStep

_COMPARED = frozenset({type(None), bool, int, str, bytes})  # by value; floats by their text, since -0.0 == 0.0


class BatchSizes:
    """The sizes of batches in one run: those of the nodes, or smaller ones after one did not fit into memory.

    Args:
        warn: Warns the user once for each subject and reason.
        max_in_flight: The largest number of items of a map that are open at a time; None for any number.
    """

    def __init__(self, warn: Callable[[str, str, str, type[Warning]], None], max_in_flight: int | None = None) -> None:
        self._warn = warn
        self._max_in_flight = max_in_flight
        self._fitting: dict[Node[..., Any], int] = {}

    def most(self, node: Node[..., Any]) -> int | None:
        """Return the largest number of items of a call; None for any number."""
        size = None if node.batching is None else node.batching.size
        fitting = self._fitting.get(node)
        if fitting is None:
            return size
        return fitting if size is None else min(size, fitting)

    def open_items(self, suitable: int) -> int:
        """Return how many items may be open at a time: a number that suits, unless it is limited."""
        return suitable if self._max_in_flight is None else min(suitable, self._max_in_flight)

    def shrink(self, node: Node[..., Any], count: int, error: BaseException) -> None:
        """Make batches half as large for the rest of the run, since one of `count` items did not fit into memory."""
        half = max(count // 2, 1)
        self._fitting[node] = min(half, self._fitting.get(node, half))
        self._warn(
            node.name,
            "batch size",
            f"node {node.name!r} ran out of memory with a batch of {count} items ({type(error).__name__}): batches are "
            f"half as large for the rest of the run. Set batch_size={half} or less",
            HyperNodesWarning,
        )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory was exhausted, that of this machine or of a GPU."""
    if isinstance(error, MemoryError):
        return True
    name, text = type(error).__name__, str(error)
    if name in ("OutOfMemoryError", "ResourceExhaustedError"):  # torch, CuPy; TensorFlow
        return True
    return isinstance(error, RuntimeError) and ("CUDA out of memory" in text or "RESOURCE_EXHAUSTED" in text)


def note_batch(error: BaseException, count: int) -> None:
    """Add to an error that a call raised for several items, and that ends the run, that it is not known for which."""
    if count > 1:
        add_note(error, f"it was raised by a call for a batch of {count} items, the first of which is named here")


class Outcome(NamedTuple):
    """What became of some items of a batch that were computed by one call.

    Attributes:
        positions: Positions of the items in the batch.
        results: For each item, one value for each output of the node; empty after an error.
        error: The error of a call with one item alone; None if there was none.
        duration_s: The share of each item in the duration of the call.
    """

    positions: range
    results: Sequence[tuple[Any, ...]]
    error: Exception | None
    duration_s: float


class BatchReturned(Protocol):
    """What a call of a batched node returned."""

    @property
    def outputs(self) -> Sequence[tuple[Any, ...]]:
        """For each item, one value for each output of the node."""

    @property
    def duration_s(self) -> float:
        """How long the call took."""


def outcomes_of_batch(
    node: Node[..., Any],
    count: int,
    sizes: BatchSizes,
    attempt: Callable[[range], BatchReturned],
    is_over: Callable[[], bool],
) -> Iterator[Outcome]:
    """Call the function of a batched node for `count` items; yield what became of them, in order.

    A call that raises is made again with the first and then with the second half of its items, until the items that
    are to blame are alone. An item that is not is so computed at most log2(count) + 1 times. A wrong number of results
    is no item's fault: all fail. What is not an `Exception` is raised at once.

    Args:
        node: The node.
        count: Number of items.
        sizes: The sizes of batches in this run.
        attempt: Makes a call for the items at some positions.
        is_over: Whether the run was cancelled, so that an error is not one of the function.
    """
    waiting = [range(count)]
    while waiting:
        positions = waiting.pop()
        most = sizes.most(node)
        if most is not None and len(positions) > most:  # one before it did not fit into memory
            waiting += [positions[most:], positions[:most]]
            continue
        try:
            returned = attempt(positions)
        except Exception as error:
            if is_over():
                raise
            if len(positions) == 1 or isinstance(error, BatchResultError):
                for position, own in zip(positions, errors_of_items(error, len(positions)), strict=True):
                    yield Outcome(range(position, position + 1), (), own, 0.0)
            else:
                waiting += reversed(halves(node, positions, sizes, error))
            continue
        yield Outcome(positions, returned.outputs, None, returned.duration_s / len(positions))


def errors_of_items(error: Exception, count: int) -> list[Exception]:
    """Return an error for each of the items of a call that failed: each gets notes of its own."""
    if count == 1 or not isinstance(error, BatchResultError):
        return [error] * count
    facts = {"node_name": error.node_name, "expected": error.expected, "got": error.got}
    return [BatchResultError(str(error), **facts) for _ in range(count)]


_Items = TypeVar("_Items", bound=Sequence[Any])


def halves(node: Node[..., Any], items: _Items, sizes: BatchSizes, error: BaseException) -> tuple[_Items, _Items]:
    """Return the two halves of a batch of several items that failed; after some errors, batches become smaller."""
    if is_out_of_memory(error):
        sizes.shrink(node, len(items), error)
    middle = (len(items) + 1) // 2
    return items[:middle], items[middle:]  # type: ignore[return-value]


_Member = TypeVar("_Member")


class Group(Generic[_Member]):
    """Items that may be computed by one call of a batched node.

    Args:
        step: The call of the first of them.

    Attributes:
        step: The same.
        members: The items.
        weights: Their weights.
        weight: The sum of these.
        since_s: When the first came, on the monotonic clock.
    """

    __slots__ = ("members", "since_s", "step", "weight", "weights")

    def __init__(self, step: CallStep) -> None:
        self.step = step
        self.members: list[_Member] = []
        self.weights: list[float] = []
        self.weight = 0.0
        self.since_s = now()

    def add(self, member: _Member, weight: float) -> None:
        """Add an item."""
        self.members.append(member)
        self.weights.append(weight)
        self.weight += weight

    def remove(self, matches: Callable[[_Member], bool]) -> list[_Member]:
        """Remove the items that match, and return them."""
        removed = [member for member in self.members if matches(member)]
        if removed:
            pairs = zip(self.members, self.weights, strict=True)
            left = [(member, weight) for member, weight in pairs if not matches(member)]
            self.members = [member for member, _ in left]
            self.weights = [weight for _, weight in left]
            self.weight = sum(self.weights)
        return removed


class Groups(Generic[_Member]):
    """The items that wait for a call of a batched node, in groups that may share one.

    Args:
        sizes: The sizes of batches in this run.

    Attributes:
        full: The groups that need not wait for others.
    """

    def __init__(self, sizes: BatchSizes) -> None:
        self._sizes = sizes
        self._open: dict[tuple[Any, ...], Group[_Member]] = {}
        self.full: deque[Group[_Member]] = deque()

    def __bool__(self) -> bool:
        return bool(self._open or self.full)

    def add(self, step: CallStep, values: Sequence[Any], member: _Member, known: Sequence[bytes] = ()) -> None:
        """Add an item.

        Args:
            step: The call that it waits for.
            values: Value of every slot.
            member: The item.
            known: The signatures of the arguments that are no lists, in order; empty ones where there are none.

        Raises:
            Exception: The error of the function that weighs items.
        """
        batching = step.node.batching
        assert batching is not None
        weight = 0.0 if batching.weight is None else _weigh(step, batching, values)
        key = (step.batch_kind, *_shared_identity(step, values, known))
        group = self._open.get(key)
        if group is not None and group.weight + weight > batching.limit:
            self.full.append(self._open.pop(key))
            group = None
        if group is None:
            group = self._open[key] = Group(step)
        group.add(member, weight)
        most = self._sizes.most(step.node)
        if (most is not None and len(group.members) >= most) or group.weight >= batching.limit:
            self.full.append(self._open.pop(key))

    @property
    def open_groups(self) -> Iterable[Group[_Member]]:
        """The groups that are not full, the oldest first."""
        return self._open.values()

    def close(self, matches: Callable[[Group[_Member]], bool]) -> None:
        """Let the groups that match wait for no others."""
        closed = [(key, group) for key, group in self._open.items() if matches(group)]
        for key, group in closed:
            del self._open[key]
            self.full.append(group)

    def remove(self, matches: Callable[[_Member], bool]) -> list[_Member]:
        """Remove the items that match, and return them."""
        removed: list[_Member] = []
        for key, group in list(self._open.items()):
            removed += group.remove(matches)
            if not group.members:
                del self._open[key]
        for group in self.full:
            removed += group.remove(matches)
        self.full = deque([group for group in self.full if group.members])
        return removed

    def clear(self) -> list[Group[_Member]]:
        """Remove all groups, and return them."""
        found = [*self.full, *self._open.values()]
        self.full.clear()
        self._open.clear()
        return found


def _weigh(step: CallStep, batching: Batching, values: Sequence[Any]) -> float:
    assert batching.weight is not None
    elements = [values[slot] for name, slot in step.named if name in batching.over]
    weight = batching.weight(*elements)
    try:
        as_float = float("nan") if isinstance(weight, (str, bytes)) else float(weight)
        is_weight = as_float >= 0
    except (TypeError, ValueError, OverflowError):
        is_weight = False
    if not is_weight:
        raise ConfigurationError(
            f"batch_weight of node {step.node.name!r} must return a number, 0 or more; it returned {shown(weight)}"
        )
    return as_float


def _shared_identity(step: CallStep, values: Sequence[Any], known: Sequence[bytes]) -> list[Any]:
    """Return what tells arguments that items have to share from others: values that are alike share a batch."""
    found: list[Any] = []
    for position, slot in enumerate(step.shared_by_batch):
        value = values[slot]
        kind = type(value)
        if kind in _COMPARED:
            found.append((kind, value))
        elif kind is float:
            found.append((kind, repr(value)))
        elif known and known[position]:
            found.append(known[position])
        else:
            found.append(id(value))
    return found
