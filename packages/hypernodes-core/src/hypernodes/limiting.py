"""How many calls of a node may be made at a time, or in a time: what the options of a node say."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from hypernodes.checks import shown
from hypernodes.errors import ConfigurationError, InvalidNodeError
from hypernodes.nearest import suggest

Weigh = Callable[..., Any]


class Weight(NamedTuple):
    """What a call counts for a limit.

    Attributes:
        function: Returns it.
        parameters: The parameters of the node that the function takes, by name; None for the only one, by position.
    """

    function: Weigh
    parameters: tuple[str, ...] | None

    def of(self, arguments: Mapping[str, Any]) -> Any:
        """Return the weight of a call with some arguments."""
        if self.parameters is None:
            return self.function(*arguments.values())
        return self.function(**{name: arguments[name] for name in self.parameters})


class Limiting(NamedTuple):
    """What limits the calls of a node.

    Attributes:
        max_concurrency: The largest number of calls at a time in this process; None for any number.
        weights: For the name of each limit, what a call counts for it; None for 1.
    """

    max_concurrency: int | None
    weights: tuple[tuple[str, Weight | None], ...]

    def options(self) -> dict[str, Any]:
        """Return the options of `node` that it comes from."""
        return {
            "max_concurrency": self.max_concurrency,
            "limit": {name: None if weight is None else weight.function for name, weight in self.weights} or None,
        }


def check_limiting(max_concurrency: Any, limit: Any, node_name: str, inputs: tuple[str, ...]) -> Limiting:
    """Return what limits the calls of a node.

    Args:
        max_concurrency: The option of that name.
        limit: The option of that name.
        node_name: Name of the node.
        inputs: Its parameters.

    Raises:
        InvalidNodeError: A weight takes what is no parameter of the node.
        ConfigurationError: An option has a value it cannot have.
    """
    is_count = isinstance(max_concurrency, int) and not isinstance(max_concurrency, bool)
    if max_concurrency is not None and not (is_count and max_concurrency >= 1):
        raise ConfigurationError(
            f"max_concurrency of node {node_name!r} must be a whole number, 1 or more; got {shown(max_concurrency)}"
        )
    owner = f"limit of node {node_name!r}"
    weights: Mapping[Any, Any]
    if limit is None:
        weights = {}
    elif isinstance(limit, str):
        weights = {limit: None}
    elif isinstance(limit, Mapping):
        weights = limit
    elif isinstance(limit, Iterable) and not isinstance(limit, type):
        weights = dict.fromkeys(limit)
    else:
        raise ConfigurationError(
            f"{owner} must be the name of a limit, several names, or a dict with the function that weighs a call for "
            f"each; got {shown(limit)}"
        )
    found: list[tuple[str, Weight | None]] = []
    for name, weigh in weights.items():
        if not isinstance(name, str) or not name:
            raise ConfigurationError(f"{owner} must name limits by strings; got {shown(name)}")
        found.append(
            (name, None if weigh is None else _weight(weigh, f"weight for limit {name!r} {owner[6:]}", inputs))
        )
    return Limiting(max_concurrency, tuple(found))


def _weight(function: Any, owner: str, inputs: tuple[str, ...]) -> Weight:
    if not callable(function):
        raise ConfigurationError(f"the {owner} must be a function; got {shown(function)}")
    try:
        parameters = tuple(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        parameters = ()
    names = tuple([p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)])
    unknown = [name for name in names if name not in inputs]
    if len(inputs) == 1 and (unknown or not parameters):  # `len`, say
        return Weight(function, None)
    if unknown or not parameters:
        problem = f"takes {unknown[0]!r}{suggest(unknown[0], inputs)}" if unknown else "takes unknown parameters"
        raise InvalidNodeError(
            f"the {owner} {problem}; it gets arguments of the node by the names of its parameters: {', '.join(inputs)}",
            culprit=function,
        )
    return Weight(function, names)
