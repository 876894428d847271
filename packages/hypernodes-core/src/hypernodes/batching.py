"""How the items of a batched node are gathered into batches, one call each."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

from hypernodes.checks import shown
from hypernodes.errors import ConfigurationError, InvalidNodeError
from hypernodes.node_options import check_parameters

_DEFAULT_SIZE = 64
_DEFAULT_WAIT_S = 0.1
_OPEN_FOR_WEIGHTS = 256  # items that are gathered at most where only their weights are limited


class Batching(NamedTuple):
    """How the items of a batched node are gathered.

    Attributes:
        over: The parameters that take a list with one element per item.
        size: The largest number of items; None for any number.
        weight: Returns the weight of an item from its elements, in the order of the parameters; None if all weigh
            nothing.
        limit: The largest weight of all items together; an item that is heavier is a batch of its own.
        wait_s: How long an item waits for others that are still being computed, in seconds.
    """

    over: frozenset[str]
    size: int | None
    weight: Callable[..., Any] | None
    limit: float
    wait_s: float

    @property
    def most_items(self) -> int:
        """The number of items that have to be open at a time so that batches are full."""
        return self.size or _OPEN_FOR_WEIGHTS

    def options(self) -> dict[str, Any]:
        """Return the options of `node` that it comes from."""
        has_weights = self.weight is not None
        return {
            "batch_over": tuple(sorted(self.over)),
            "batch_size": self.size,
            "batch_weight": self.weight,
            "batch_limit": self.limit if has_weights else None,
            "batch_wait": self.wait_s,
        }


def check_batching(
    options: Mapping[str, Any],
    node_name: str,
    inputs: tuple[str, ...],
    defaults: Collection[str],
    skip_failures: Collection[str],
    is_generator: bool,
) -> Batching | None:
    """Return how the items of a node are gathered; None if it is not batched.

    Args:
        options: The options `batch_over`, `batch_size`, `batch_weight`, `batch_limit` and `batch_wait` of the node.
        node_name: Name of the node.
        inputs: Its parameters.
        defaults: Those of them that have a default.
        skip_failures: Those of them that take lists without failed items.
        is_generator: Whether its function is a generator function.

    Raises:
        InvalidNodeError: The function cannot be called with several items.
        ConfigurationError: A number is out of range, or an option has no use.
    """
    given = options["batch_over"]
    over = check_parameters("batch_over", () if given is None else given, inputs, node_name)
    if not over:
        for option, value in options.items():
            if option != "batch_over" and value is not None:
                raise ConfigurationError(
                    f"{option} of node {node_name!r} has no use without batch_over=, the parameters that take a list "
                    "with one element per item"
                )
        return None
    if is_generator:
        raise InvalidNodeError(
            f"node {node_name!r} yields its results, which cannot be told apart from those of other items of a batch: "
            "return a list with one result per item, or leave out batch_over",
            culprit=given,
        )
    for name in sorted(over):
        if name in defaults or name in skip_failures:
            problem = "has a default" if name in defaults else "is one of skip_failures"
            raise InvalidNodeError(
                f"batch_over of node {node_name!r} names {name!r}, which {problem}: every item of a batch needs an "
                "element of its own there",
                culprit=given,
            )
    size, weight, limit = options["batch_size"], options["batch_weight"], options["batch_limit"]
    if size is not None and (not isinstance(size, int) or isinstance(size, bool) or size < 1):
        raise ConfigurationError(
            f"batch_size of node {node_name!r} must be a whole number, 1 or more; got {shown(size)}"
        )
    if (weight is None) is not (limit is None):
        raise ConfigurationError(
            f"node {node_name!r} needs both batch_weight=, a function that returns the weight of an item, and "
            "batch_limit=, the largest weight of a batch"
        )
    if weight is not None and not callable(weight):
        raise ConfigurationError(
            f"batch_weight of node {node_name!r} must be a function that returns the weight of an item; got "
            f"{shown(weight)}"
        )
    if limit is not None and not (_is_number(limit) and limit > 0):
        raise ConfigurationError(f"batch_limit of node {node_name!r} must be a number above 0; got {shown(limit)}")
    wait = _DEFAULT_WAIT_S if options["batch_wait"] is None else options["batch_wait"]
    if not _is_number(wait) or not 0 <= wait < float("inf"):
        raise ConfigurationError(f"batch_wait of node {node_name!r} must be seconds, 0 or more; got {shown(wait)}")
    if size is None and weight is None:
        size = _DEFAULT_SIZE
    return Batching(over, size, weight, float("inf") if limit is None else float(limit), float(wait))


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
