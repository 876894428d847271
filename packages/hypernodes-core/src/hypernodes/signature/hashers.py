"""Hashers that users and distributions add: with `register`, or through entry points."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from hypernodes.checks import shown
from hypernodes.signature.object_state import class_name
from hypernodes.signature.origin import PYTHON, origin_of_class
from hypernodes.signature.walk import Parts, UnhashableValueError

GROUP = "hypernodes.hashers"

_registered: dict[type, Callable[[Any], Any]] = {}


def register(value_type: type, function: Callable[[Any], Any]) -> None:
    """Say how objects of a type are identified.

    A distribution can say it for its users with an entry point in the group `hypernodes.hashers`: its name is the full
    name of the class (`package.module.Class`), its object the function. It is loaded when such an object is first met.

    Args:
        value_type: The class; its subclasses are covered too.
        function: Takes an object and returns something that stands for its whole content: any value that can itself be
            identified (a string, bytes, a tuple of its parts).

    Raises:
        TypeError: `value_type` is no class, or `function` cannot be called.

    Example:
        >>> from hypernodes.signature import digest, register
        >>> class Connection:
        ...     def __init__(self, url):
        ...         self.url, self.socket = url, object()
        >>> register(Connection, lambda connection: connection.url)
        >>> digest(Connection("a")) == digest(Connection("a")) != digest(Connection("b"))
        True
    """
    if not isinstance(value_type, type):
        raise TypeError(f"register(type, function) takes a class first; got {shown(value_type)}")
    if not callable(function):
        raise TypeError(f"register({value_type.__name__}, function) takes a function second; got {shown(function)}")
    _registered[value_type] = function


def registered_hasher(kind: type) -> Callable[[Any], Parts] | None:
    """Return the rule for a class that was registered in this process, if it was."""
    for base in kind.__mro__ if _registered else ():
        if base in _registered:
            return _rule(kind, _registered[base])
    return None


def installed_hasher(kind: type) -> Callable[[Any], Parts] | None:
    """Return the rule that an installed distribution has for a class nobody else knows, if one has."""
    for base in kind.__mro__[:-1]:
        if origin_of_class(base) in ("", PYTHON):
            continue  # entry points are for the classes of distributions, and finding them takes time
        entries = _entries().get(class_name(base), [])
        if entries:
            return _rule(kind, _load(class_name(base), entries))
    return None


def _rule(kind: type, function: Callable[[Any], Any]) -> Callable[[Any], Parts]:
    tag = b"registered:" + class_name(kind).encode("utf-8", "surrogatepass")
    return lambda value: Parts(tag, [("", function(value))])


@functools.lru_cache(maxsize=1)
def _entries() -> dict[str, list[Any]]:
    from importlib.metadata import entry_points

    found: dict[str, list[Any]] = {}
    for entry in entry_points(group=GROUP):
        known = found.setdefault(entry.name, [])
        if all(other.value != entry.value for other in known):  # an editable install may be listed twice
            known.append(entry)
    return found


def _load(name: str, entries: list[Any]) -> Callable[[Any], Any]:
    if len(entries) > 1:
        rivals = " and ".join(sorted(entry.dist.name if entry.dist else entry.value for entry in entries))
        raise UnhashableValueError(f"{rivals} both claim to know how; uninstall one", path="", culprit_type=name)
    (entry,) = entries
    try:
        function = entry.load()
        if not callable(function):
            raise TypeError(f"{function!r} is no function")
    except (Exception, SystemExit) as error:
        owner = entry.dist.name if entry.dist else "an installed distribution"
        raise UnhashableValueError(
            f"the hasher of {owner} cannot be loaded from {entry.value!r}: {type(error).__name__}: {error}",
            path="",
            culprit_type=name,
        ) from error
    return function  # type: ignore[no-any-return]
