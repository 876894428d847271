"""Failures: they replace the outputs of failed items in the results of maps with `on_error="collect"`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from hypernodes.checks import shown
from hypernodes.errors import DependencyError

FAILED_CALL = "__hypernodes_call__"
"""The attribute of an error that says which call raised it."""

REPLAY_NOTE = "to make this call again with the same inputs: hypernodes.replay(error)"
"""The note of such an error."""


class Failure(NamedTuple):
    """A failed item; it replaces the item's outputs (`on_error="collect"`).

    It is never stored in a cache: the next run tries the item again. Results of nodes that got it are: they are found
    again when the item fails with an equal error, whatever the files and lines in its traceback are then.

    Attributes:
        error: The exception, as it was raised.
        traceback_text: Its traceback, as Python prints it.
        item_index: Index of the item in its map.
        node_path: Names of the pipelines that contain the node, outermost first, followed by the node's name.
    """

    error: BaseException
    traceback_text: str
    item_index: int
    node_path: tuple[str, ...]

    @classmethod
    def of(cls, error: BaseException, item_index: int, node_path: tuple[str, ...]) -> Failure:
        """Return the failure for an error that was raised in this process."""
        from traceback import format_exception

        return cls(error, "".join(format_exception(error)), item_index, node_path)

    @property
    def inputs(self) -> Mapping[str, Any]:
        """What the function of the node got, by the names of its parameters; empty if that is not known.

        Large inputs do not come back from remote places, and what was only known to a worker process is missing.
        """
        call = getattr(self.error, FAILED_CALL, None)
        return {} if call is None else dict(call.inputs)

    def replay(self, *, debugger: bool = False) -> Any:
        """Call the function once more, here and with the same inputs; see `hypernodes.replay`."""
        from hypernodes.replaying import replay

        return replay(self, debugger=debugger)

    def __repr__(self) -> str:
        return f"<Failure of item {self.item_index} in {' → '.join(self.node_path)}: {self.error!r}>"


def failures(result: Mapping[str, Any]) -> list[Failure]:
    """Return the failures in a result of `run` or `map`, each one once, in item order.

    Raises:
        DependencyError: It is no such result.

    Example:
        >>> from hypernodes import Pipeline, failures, node
        >>> @node(output_name="inverse")
        ... def invert(x):
        ...     return 1 / x
        >>> result = Pipeline(nodes=[invert]).map(inputs={"x": [1, 0]}, map_over="x", on_error="collect")
        >>> failures(result)
        [<Failure of item 1 in pipeline_f4789488 → invert: ZeroDivisionError('division by zero')>]
    """
    if not isinstance(result, Mapping):
        raise DependencyError(
            f"failures takes the result of run or map, a dict of values by output name; got {shown(result)}"
        )
    found: dict[int, Failure] = {}
    for value in result.values():
        for failure in _search(value):
            found.setdefault(id(failure), failure)
    return sorted(found.values(), key=lambda failure: failure.item_index)


def contains_failure(value: Any) -> bool:
    """Whether a value is a failure, or a list that contains one at any depth."""
    return next(_search(value), None) is not None


def _search(value: Any) -> Iterator[Failure]:
    if isinstance(value, Failure):
        yield value
    elif isinstance(value, list):
        for entry in value:
            yield from _search(entry)
