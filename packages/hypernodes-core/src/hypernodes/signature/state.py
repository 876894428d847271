"""The state of objects: everything that makes one object of a class differ from another."""

from __future__ import annotations

import collections
import copyreg
import functools
import sys
from collections.abc import Callable
from typing import Any

from hypernodes.signature.origin import origin_of, origin_of_class
from hypernodes.signature.plain import encode
from hypernodes.signature.walk import Parts, UnhashableValueError

_NEW_OBJECT: Any = copyreg.__newobj__  # type: ignore[attr-defined]  # pickle's "a new empty object of the class"
_PICKLING = frozenset({"__reduce__", "__reduce_ex__", "__getstate__"})
# Subclasses of these hold more than attributes.
_CONTENT_TYPES: tuple[Any, ...] = (dict, list, tuple, set, frozenset, str, bytes, bytearray, int, float, complex)


class Recipe:
    """How the state of objects of one class is read.

    Attributes:
        is_plain: Whether attributes are all there is.
    """

    __slots__ = ("_has_attributes", "_ignored", "_kind", "_slots", "is_plain")

    def __init__(self, kind: type) -> None:
        self._kind = kind
        self._slots = [name for base in kind.__mro__ for name in _slot_names(base)]
        self._has_attributes = any("__dict__" in base.__dict__ for base in kind.__mro__[:-1])
        lazy = {
            name
            for base in kind.__mro__
            for name, member in base.__dict__.items()
            if isinstance(member, functools.cached_property)
        }
        self._ignored = frozenset(ignored_attributes(kind)) | lazy
        is_ordinary = (self._has_attributes or bool(self._slots)) and kind not in copyreg.dispatch_table
        is_content = issubclass(kind, _CONTENT_TYPES)
        self.is_plain = is_ordinary and not is_content and not _has_hidden_state(kind)

    def attributes(self, value: Any) -> dict[str, Any]:
        """Return the attributes that count, by name."""
        state: dict[str, Any] = value.__dict__ if self._has_attributes else {}
        if self._slots:
            missing = object()
            slotted = {name: getattr(value, name, missing) for name in self._slots}
            state = {**state, **{name: item for name, item in slotted.items() if item is not missing}}
        if self._ignored and not self._ignored.isdisjoint(state):
            state = {name: item for name, item in state.items() if name not in self._ignored}
        return state

    def plain_tag(self, value: Any) -> bytes | None:
        """Return the state as bytes when it is plain data."""
        encoded = encode(self.attributes(value))
        return None if encoded is None else b"object:plain:" + encoded

    def parts(self, value: Any) -> Parts:
        """An object: its class (with its code, when it is the user's own) and its whole state."""
        children: list[tuple[str, Any]] = [(" (class)", self._kind)]
        if self.is_plain:
            tag = self.plain_tag(value)
            if tag is not None:
                return Parts(tag, children)
        else:
            children += reduced(value)
        state = self.attributes(value)
        children += [(f".{name}", state[name]) for name in sorted(state, key=str)]
        labels = ",".join(label for label, _ in children)
        return Parts(b"object:" + labels.encode("utf-8", "surrogatepass"), children)


def _has_hidden_state(kind: type) -> bool:
    """Whether a class that is not the user's own says how its objects are pickled: they hold more than attributes."""
    return any(_says_how_to_pickle(base) and origin_of_class(base) for base in kind.__mro__[:-1])


def _says_how_to_pickle(kind: type) -> bool:
    return not _PICKLING.isdisjoint(kind.__dict__)


def reduced(value: Any) -> list[tuple[str, Any]]:
    """Return what pickle would keep of an object that has more than attributes to look at."""
    if isinstance(value, (set, frozenset)):
        return [("", set(value))]
    if not _says_how_to_pickle(type(value)):
        for content in _CONTENT_TYPES:
            if isinstance(value, content):
                return [("", _content(content, value))]
    try:
        reducer = copyreg.dispatch_table.get(type(value))  # pickle asks it first: it knows e.g. re.Pattern
        found = reducer(value) if reducer else value.__reduce_ex__(4)
    except Exception as error:
        raise UnhashableValueError(str(error), path="", culprit_type=class_name(type(value))) from None
    if isinstance(found, str):
        return [("", _global_name(value, found))]
    maker, arguments, state, items, entries = (*found, None, None, None)[:5]
    children: list[tuple[str, Any]] = [("", maker) if maker is not _NEW_OBJECT else ("", "new")]
    children += [("", argument) for argument in arguments if argument is not type(value)]
    children += [] if items is None else [("", list(items))]
    if entries is not None:
        children.append(("", list(entries) if isinstance(value, collections.OrderedDict) else dict(entries)))
    if state is not None and state is not getattr(value, "__dict__", None):
        children.append(("", state))
    return children


def _content(kind: Callable[[Any], Any], value: Any) -> Any:
    if kind is str:
        return str.__str__(value)
    if kind is int:
        return int.__int__(value)
    if kind is float:
        return float.__float__(value)
    if kind is list or kind is tuple:
        return kind(kind.__iter__(value))
    if kind is dict:
        return dict(dict.items(value))
    return kind(value)


def _global_name(value: Any, name: str) -> str:
    """Return under what name something global is found, with where that comes from."""
    from pickle import whichmodule  # type: ignore[attr-defined]  # the very search that pickle makes

    module = whichmodule(value, name)
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    if found is not value:
        raise UnhashableValueError("it has no name of its own", path="", culprit_type=type(value).__name__)
    return f"{origin_of(module) or module}:{name}"


def _slot_names(kind: type) -> tuple[str, ...]:
    slots = kind.__dict__.get("__slots__", ())
    names = (slots,) if isinstance(slots, str) else tuple(slots)
    mangled = (f"_{kind.__name__.lstrip('_')}{n}" if n.startswith("__") and not n.endswith("__") else n for n in names)
    return tuple(n for n in mangled if n not in ("__dict__", "__weakref__"))


def ignored_attributes(kind: type) -> list[str]:
    """Return the attributes that a class and its bases leave out of the identity of their objects."""
    ignored: list[str] = []
    for base in kind.__mro__:
        names = base.__dict__.get("__cache_ignore__", ())
        ignored += [names] if isinstance(names, str) else names
    return ignored


def class_name(kind: type) -> str:
    """Return the full name of a class."""
    return f"{kind.__module__}.{kind.__qualname__}"
