"""Conditions: which nodes run, decided by a value; and `SKIPPED`, which stands for the outputs of those that do not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple, Self, final

from hypernodes import special_values
from hypernodes.checks import shown
from hypernodes.errors import InvalidNodeError


@final
class Skipped:
    """Type of `SKIPPED`. It is false where a truth value is asked for."""

    def __bool__(self) -> bool:
        return False

    def __repr__(self) -> str:
        return "SKIPPED"

    def __reduce__(self) -> str:
        return "SKIPPED"

    def __cache_key__(self) -> str:
        return "skipped"


SKIPPED: Final = Skipped()
"""Stands for an output of a node whose condition did not hold, or that needs one of such a node."""


class Condition(NamedTuple):
    """A condition on the value of an input or output.

    Attributes:
        name: Name of the input or output.
        values: It holds for values that are equal to one of these; None for those that are true.
        is_negated: Whether it is the other way round.
    """

    name: str
    values: tuple[Any, ...] | None = None
    is_negated: bool = False

    def holds(self, value: Any) -> bool:
        """Whether it holds for a value; never for `SKIPPED`.

        Raises:
            Exception: The value has no truth value, or cannot be compared.
        """
        if value is SKIPPED:
            return False
        return self.accepts(value)

    def accepts(self, value: Any) -> bool:
        """Do the same for a value that is not `SKIPPED`."""
        is_met = bool(value) if self.values is None else value in self.values
        return is_met is not self.is_negated

    def excludes(self, other: Condition) -> bool:
        """Whether no value can fulfil both."""
        if self.name != other.name:
            return False
        if self.values is None and other.values is None:
            return self.is_negated is not other.is_negated
        # What one accepts is a list of values, none of which the other accepts.
        return any(
            one.values is not None and not one.is_negated and not any(map(rest.accepts, one.values))
            for one, rest in ((self, other), (other, self))
        )

    def __str__(self) -> str:
        option = "unless" if self.is_negated else "when"
        if self.values is None:
            return f"{option}={self.name!r}"
        values = self.values[0] if len(self.values) == 1 else self.values
        return f"{option}={{{self.name!r}: {shown(values)}}}"


def names_of_skipped(given: Any) -> tuple[str, ...]:
    """Return the names of the values that are `SKIPPED`; none if only names are given."""
    if not isinstance(given, Mapping) or Skipped not in map(type, given.values()):
        return ()
    return tuple([name for name, value in given.items() if value is SKIPPED])


def conditions_of(when: Any, unless: Any, owner: str) -> tuple[Condition, ...]:
    """Return the conditions that the options `when` and `unless` mean; all of them have to hold.

    Args:
        when: The name of an input or output that has to be true; or a dict, from such names to the value that each has
            to have, or to a tuple, list or set of possible values. None for no condition.
        unless: The same for what must not be so; a dict has one name.
        owner: What has these options, for messages.

    Raises:
        InvalidNodeError: They have other values.
    """
    if when is None and unless is None:
        return ()
    found = [
        *_conditions(when, "when", owner, is_negated=False),
        *_conditions(unless, "unless", owner, is_negated=True),
    ]
    for position, condition in enumerate(found):
        for other in found[:position]:
            if condition.excludes(other):
                raise InvalidNodeError(
                    f"{owner} can never run: {other} and {condition} exclude each other", culprit=condition.name
                )
    return tuple(found)


def _conditions(given: Any, option: str, owner: str, *, is_negated: bool) -> list[Condition]:
    if given is None:
        return []
    if isinstance(given, str):
        return [Condition(_checked_name(given, option, owner), None, is_negated)]
    if not isinstance(given, Mapping) or not given:
        raise InvalidNodeError(
            f"{option} of {owner} must be the name of an input or output, or a dict {{name: value}}; "
            f"got {shown(given)}",
            culprit=given,
        )
    if is_negated and len(given) > 1:
        raise InvalidNodeError(
            f"unless of {owner} names several values, {', '.join(map(repr, given))}: make a node of what they mean "
            "together, and name its output",
            culprit=given,
        )
    found: list[Condition] = []
    for name, values in given.items():
        if isinstance(values, (set, frozenset)):
            accepted = tuple(sorted(values, key=repr))  # the same in every process
        else:
            accepted = tuple(values) if isinstance(values, (tuple, list)) else (values,)
        if not accepted:
            raise InvalidNodeError(f"{option} of {owner} lists no value for {shown(name)}", culprit=given)
        found.append(Condition(_checked_name(name, option, owner), accepted, is_negated))
    return found


def _checked_name(name: Any, option: str, owner: str) -> str:
    if not isinstance(name, str) or not name.isidentifier():
        raise InvalidNodeError(
            f"{option} of {owner} must name an input or output; {shown(name)} is not such a name", culprit=name
        )
    return name


class Conditional:
    """Something that runs on conditions: a node, or a pipeline as a node.

    Attributes:
        inputs: Names of its inputs.
        conditions: What has to hold so that it runs.
        needs: Names of what has to be known before it runs: its inputs, and what its conditions are on.
    """

    inputs: tuple[str, ...]
    conditions: tuple[Condition, ...]
    needs: tuple[str, ...]

    def set_conditions(self, conditions: tuple[Condition, ...]) -> None:
        """Set the conditions of an object that is being made."""
        if conditions:
            special_values.note_use()  # from now on, values may be `SKIPPED`
        self.conditions = conditions
        self.needs = tuple(dict.fromkeys([*self.inputs, *(condition.name for condition in conditions)]))

    def with_conditions(self, conditions: tuple[Condition, ...]) -> Self:
        """Return the same node that runs only if these conditions hold, and those that it has."""
        made = object.__new__(type(self))
        made.__dict__.update(self.__dict__)
        made.set_conditions(self.conditions + conditions)
        return made


def can_hold_together(first: Sequence[Condition], second: Sequence[Condition]) -> bool:
    """Whether it is certain that all of these conditions may hold at a time; only known if they are on one name."""
    conditions = (*first, *second)
    if len({condition.name for condition in conditions}) != 1:
        return False
    listed = [value for condition in conditions for value in condition.values or ()]
    try:
        return any(
            all(condition.accepts(value) for condition in conditions) for value in (*listed, True, False, object())
        )
    except Exception:  # values that cannot be compared, such as arrays
        return False


def cover_everything(alternatives: Iterable[Sequence[Condition]]) -> bool:
    """Whether one of several nodes with these conditions runs in any case, as far as that can be seen from them."""
    singles = [conditions[0] for conditions in alternatives if len(conditions) == 1]
    for rest in singles:
        if not rest.is_negated:
            continue
        others = [one for one in singles if one.name == rest.name and not one.is_negated]
        if rest.values is None:
            if any(one.values is None for one in others):
                return True
        elif all(any(one.accepts(value) for one in others) for value in rest.values):
            return True
    return False
