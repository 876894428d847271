"""Checks of arguments, and how their values are shown in messages: short, and never failing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from reprlib import Repr
from typing import Any

from hypernodes.errors import ConfigurationError
from hypernodes.nearest import suggest

_MOST_SECONDS = 1_000_000_000  # Python can wait for a few times as long

_short = Repr()
_short.maxstring = _short.maxother = 100
_short.maxlong = 40
_short.maxlevel = 3


def shown(value: object) -> str:
    """Return the text of a value for a message: at most a few elements, a hundred characters of each."""
    text = _short.repr(value)  # also of an object whose own `__repr__` fails
    return text if len(text) <= 300 else f"{text[:300]}..."


def check_bool(name: str, value: object) -> bool:
    """Return a setting that is True or False.

    Raises:
        ConfigurationError: It is something else.
    """
    if not isinstance(value, bool):
        raise ConfigurationError(f"{name} must be True or False; got {shown(value)}")
    return value


def as_number(value: Any) -> float | None:
    """Return a finite number, also one of numpy, as a float; None for anything else."""
    if isinstance(value, (bool, str, bytes, bytearray)):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if -float("inf") < number < float("inf") else None


def check_name(name: str, value: object) -> str | None:
    """Return a setting that is a name, or None.

    Raises:
        ConfigurationError: It is something else, or empty.
    """
    if value is not None and (not isinstance(value, str) or not value):
        raise ConfigurationError(f"{name} must be a non-empty string; got {shown(value)}")
    return value


def check_seconds(name: str, value: Any) -> float:
    """Return a setting that is a number of seconds, 0 or more.

    Raises:
        ConfigurationError: It is something else.
    """
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value <= _MOST_SECONDS:
        raise ConfigurationError(f"{name} must be seconds, 0 or more, at most {_MOST_SECONDS:,}; got {shown(value)}")
    return float(value)


def check_choice(name: str, value: object, choices: Sequence[str]) -> Any:
    """Return a setting that is one of a few words.

    Raises:
        ConfigurationError: It is something else.
    """
    for choice in choices:
        if isinstance(value, str) and value == choice:
            return choice
    words = ", ".join(map(repr, choices))
    before, comma, last = words.rpartition(", ")
    one_of = f"one of {words}" if words.count(",") > 1 else f"{before} or {last}" if comma else last
    hint = suggest(value, choices) if isinstance(value, str) else ""
    raise ConfigurationError(f"{name} must be {one_of}; got {shown(value)}{hint}")


def check_initialised(obj: object, kind: type) -> None:
    """Check that a subclass that has an `__init__` of its own called that of its base class.

    Args:
        obj: The object.
        kind: A class whose attribute `_set_by_init` names attributes that its `__init__` sets.

    Raises:
        ConfigurationError: One of them is not there.
    """
    own = type(obj)
    names: tuple[str, ...] = getattr(own, "_set_by_init", ())
    if names and not all(hasattr(obj, name) for name in names):
        raise ConfigurationError(
            f"{own.__name__} is not set up as a {kind.__name__}: its __init__ must call super().__init__(...)"
        )


def as_names(names: Any, parameter: str) -> tuple[str, ...]:
    """Return one name, several or none as a tuple without duplicates.

    Args:
        names: The argument.
        parameter: Name of the parameter, for messages.

    Raises:
        ConfigurationError: The argument is not a name or a list of names.
    """
    if names is None:
        return ()
    as_tuple = (names,) if isinstance(names, str) else tuple(names) if _is_collection(names) else (names,)
    if not all(isinstance(name, str) for name in as_tuple):
        raise ConfigurationError(f"{parameter} must be a name or a list of names; got {shown(names)}")
    return tuple(dict.fromkeys(as_tuple))


def _is_collection(value: object) -> bool:
    return isinstance(value, Iterable) and not isinstance(value, type)


def as_mapping(parameter: str, mapping: object, of: str) -> dict[Any, Any]:
    """Return an argument that is a dict, or None for an empty one.

    Args:
        parameter: Name of the parameter, for messages.
        mapping: The argument.
        of: What it maps to what, for messages.

    Raises:
        ConfigurationError: It is no dict.
    """
    if mapping is None:
        return {}
    if not isinstance(mapping, Mapping):
        raise ConfigurationError(f"{parameter} must be a dict {of}; got {shown(mapping)}")
    return dict(mapping)
