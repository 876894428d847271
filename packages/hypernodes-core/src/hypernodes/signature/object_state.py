"""The state of objects: everything that makes one object of a class differ from another."""

from __future__ import annotations

import copyreg
import functools
import sys
from collections.abc import Callable
from types import MemberDescriptorType
from typing import Any

from hypernodes.global_names import find_global
from hypernodes.signature.origin import origin_of_class, origin_of_module
from hypernodes.signature.plain import encode_attributes
from hypernodes.signature.sentinels import sentinel_name
from hypernodes.signature.walk import Parts, UnhashableValueError

_NEW_OBJECT: Any = copyreg.__newobj__  # type: ignore[attr-defined]  # pickle's "a new empty object of the class"
_PICKLING = frozenset({"__reduce__", "__reduce_ex__", "__getstate__"})
# Subclasses of these hold more than attributes.
_CONTENT_TYPES: tuple[Any, ...] = (dict, list, tuple, set, frozenset, str, bytes, bytearray, int, float, complex)
_HEAP_TYPE = 1 << 9  # of `type.__flags__`: made at run time, not compiled in
_POINTER = tuple.__itemsize__
# What classes keep in attributes besides their state: by package and class, what is computed from the rest when it is
# first asked for, an address, or machinery made of the rest.
_DERIVED: dict[tuple[str, str], frozenset[str]] = {
    ("json", "JSONDecoder"): frozenset({"scan_once", "memo"}),
    ("json", "JSONEncoder"): frozenset({"c_make_encoder"}),
    ("scipy", "_cs_matrix"): frozenset(
        {"_has_sorted_indices", "_has_canonical_format", "has_sorted_indices", "has_canonical_format"}
    ),
    ("sklearn", "_VectorizerMixin"): frozenset({"_stop_words_id"}),
    ("sqlalchemy", "BinaryExpression"): frozenset({"_orig"}),
    ("sqlalchemy", "BindParameter"): frozenset({"_anon_map_key", "_identifying_key", "key"}),  # see `_orig_key`
    ("sqlalchemy", "SchemaEventTarget"): frozenset({"dispatch"}),  # who listens
}
_MOST_SHAPES = 64
_ATTRS_HASH = "_attrs_cached_hash"


def _registered_reducer(kind: type) -> Any:
    """Return the reducer that was registered for a class; not one that only lets exceptions keep their tracebacks.

    Importing `distributed` registers tblib's, which would change what an exception is known by.
    """
    reducer = copyreg.dispatch_table.get(kind)
    return None if str(getattr(reducer, "__module__", "")).startswith("tblib") else reducer


class StateReader:
    """How the state of objects of one class is read.

    Attributes:
        has_attributes_only: Whether attributes are all there is, so that nothing else has to be asked.
    """

    __slots__ = ("_has_dict", "_ignored", "_is_own", "_kind", "_pickler", "_shapes", "_slots", "has_attributes_only")

    def __init__(self, kind: type) -> None:
        self._kind = kind
        pickler = _pickler_of(kind)
        self._pickler = pickler
        # By the names of the attributes: the tag, and the labels with the names in order.
        self._shapes: dict[tuple[str, ...], tuple[bytes, list[tuple[str, str]]]] = {}
        own = kind.__mro__[: kind.__mro__.index(pickler)] if pickler is not None else kind.__mro__
        self._is_own = not origin_of_class(kind)
        # A class that says how it is pickled keeps more in its slots than it shows (cached hashes, handles).
        self._slots = [name for base in own for name in _slot_names(base)]
        self._has_dict = any("__dict__" in base.__dict__ for base in kind.__mro__[:-1])
        self._ignored = frozenset(ignored_attributes(kind)) | _lazy_attributes(kind)
        self.has_attributes_only = (
            pickler is None
            and (self._has_dict or bool(self._slots))
            and _registered_reducer(kind) is None
            and not has_hidden_state(kind)
        )

    def attributes(self, value: Any) -> dict[str, Any]:
        """Return the attributes that count, by name."""
        state: dict[str, Any] = value.__dict__ if self._has_dict else {}
        if self._slots:
            state = {**state, **_slotted(value, self._slots)}
        if self._ignored and not self._ignored.isdisjoint(state):
            state = {name: item for name, item in state.items() if name not in self._ignored}
        return state

    def plain_tag(self, value: Any) -> bytes | None:
        """Return the state as bytes when it is plain data."""
        attributes = self.attributes(value)
        encoded = encode_attributes(attributes)
        if encoded is None:
            return None
        if not attributes and (name := sentinel_name(value)) is not None:  # another one without state is another
            return b"sentinel:" + name.variable.encode()
        return b"object:plain:" + encoded

    def parts(self, value: Any) -> Parts:
        """An object: its class (with its code, when it is the user's own) and its whole state."""
        if self.has_attributes_only:
            tag = self.plain_tag(value)
            return self.parts_apart(value) if tag is None else Parts(tag, [(" (class)", self._kind)])
        stated, covered = reduced(value, self._ignored)
        state = self._besides(value, covered)
        children = [(" (class)", self._kind), *stated, *((f".{name}", state[name]) for name in sorted(state, key=str))]
        labels = ",".join([label for label, _ in children])
        return Parts(b"object:" + labels.encode("utf-8", "surrogatepass"), children)

    def parts_apart(self, value: Any) -> Parts:
        """An object that has attributes only, with each of them by itself."""
        state = self.attributes(value)
        names = tuple(state)
        shape = self._shapes.get(names)
        if shape is None:
            ordered = sorted(names, key=str)
            tag = b"object: (class)," + ",".join([f".{name}" for name in ordered]).encode("utf-8", "surrogatepass")
            if len(self._shapes) >= _MOST_SHAPES:
                self._shapes.clear()
            shape = self._shapes[names] = tag, [(f".{name}", name) for name in ordered]
        return Parts(shape[0], [(" (class)", self._kind), *[(label, state[name]) for label, name in shape[1]]])

    def _besides(self, value: Any, covered: frozenset[str] | None) -> dict[str, Any]:
        """Return the attributes that what an object says of itself does not cover.

        An installed class knows what of its objects makes a difference, but nothing of subclasses of the user's own.
        """
        if self._pickler is not None and not self._is_own:
            return {}
        state = self.attributes(value)
        return state if not covered else {name: item for name, item in state.items() if name not in covered}


def _slotted(value: Any, names: list[str]) -> dict[str, Any]:
    """Return the slots that are set; a `__getattr__` that computes what is missing is not called."""
    found: dict[str, Any] = {}
    for name in names:
        try:
            found[name] = object.__getattribute__(value, name)
        except AttributeError:  # never set
            continue
    return found


def with_attributes(parts: Parts, value: Any) -> Parts:
    """Return the parts of an object of a subclass: those that the base class knows of, its class and its attributes."""
    reader = StateReader(type(value))
    state = reader.attributes(value)
    children = [
        (" (class)", type(value)),
        *parts.children,
        *((f".{name}", state[name]) for name in sorted(state, key=str)),
    ]
    names = ",".join(sorted(state, key=str)).encode("utf-8", "surrogatepass")
    return Parts(b"subclass:%b:%b" % (names, parts.tag), children)


def _pickler_of(kind: type) -> type | None:
    """Return the nearest base that is not the user's own and says how its objects are pickled."""
    for base in kind.__mro__[:-1]:
        if not _PICKLING.isdisjoint(base.__dict__) and origin_of_class(base):
            return base
    return None


def has_hidden_state(kind: type) -> bool:
    """Whether objects of a class hold more than attributes: content, or fields that only compiled code sees."""
    if issubclass(kind, _CONTENT_TYPES) or kind.__itemsize__:
        return True
    shown: int = object.__basicsize__
    for base in kind.__mro__[:-1]:
        slots = [name for name in _slot_names(base) if isinstance(base.__dict__.get(name), MemberDescriptorType)]
        shown += _POINTER * len(slots)
    if kind.__dictoffset__ > 0:
        shown += _POINTER
    if kind.__weakrefoffset__ > 0:
        shown += _POINTER
    return kind.__basicsize__ > shown


def _lazy_attributes(kind: type) -> frozenset[str]:
    """Return the attributes of a class that are computed from the others when they are first asked for."""
    found: set[str] = set()
    for base in kind.__mro__:
        found.update(name for name, member in base.__dict__.items() if isinstance(member, functools.cached_property))
        found |= _DERIVED.get((str(base.__module__).partition(".")[0], base.__name__), frozenset())
        if "__attrs_attrs__" in base.__dict__:
            found.add(_ATTRS_HASH)
    return frozenset(found)


def reduced(value: Any, ignored: frozenset[str] = frozenset()) -> tuple[list[tuple[str, Any]], frozenset[str] | None]:
    """Return what pickle would store of an object that has more than attributes to look at.

    Returns:
        The parts, and the names of the attributes among them; None when there are no such names.
    """
    if isinstance(value, (set, frozenset)) and not _is_pickled_differently(type(value)):
        return [("", set(value))], None
    if _pickles_like_content(type(value)):
        for content in _CONTENT_TYPES:
            if isinstance(value, content):
                return [("", _content(content, value))], None
    try:
        reducer = _registered_reducer(type(value))  # pickle asks it first: it knows e.g. re.Pattern
        found = reducer(value) if reducer else value.__reduce_ex__(4)
    except Exception as error:
        raise UnhashableValueError(str(error), path="", culprit_type=class_name(type(value))) from None
    if isinstance(found, str):
        return [("", _global_name(value, found))], None
    maker, arguments, state, items, entries = (*found, None, None, None)[:5]
    children: list[tuple[str, Any]] = [("", maker) if maker is not _NEW_OBJECT else ("", "new")]
    children += [("", argument) for argument in arguments if argument is not type(value)]
    children += [] if items is None else [("", list(items))]
    if entries is not None:
        children.append(("", list(entries)))
    covered = _names_in(state)
    if state is not None and state is not getattr(value, "__dict__", None):
        children.append(("", _without(state, ignored)))
    elif state is not None:
        children += [(f".{name}", state[name]) for name in sorted(state, key=str) if name not in ignored]
    return children, covered


def _pickles_like_content(kind: type) -> bool:
    """Whether content and attributes are all that an object of a subclass of a built-in type holds."""
    return issubclass(kind, _CONTENT_TYPES) and not _is_pickled_differently(kind)


def _is_pickled_differently(kind: type) -> bool:
    """Whether a class between a class and the built-in type below it says how it is pickled, or is compiled."""
    between = [base for base in kind.__mro__[:-1] if base not in _CONTENT_TYPES]
    return any(
        not _PICKLING.isdisjoint(base.__dict__)
        or (issubclass(base, _CONTENT_TYPES) and not base.__flags__ & _HEAP_TYPE)
        for base in between
    )


def _names_in(state: Any) -> frozenset[str] | None:
    """Return the names of the attributes in what `__getstate__` returns: a dict, or one with another of slots."""
    if isinstance(state, dict):
        inner = state.get("__dict__")
        return frozenset(state) | (frozenset(inner) if isinstance(inner, dict) else frozenset())
    if isinstance(state, tuple) and all(part is None or isinstance(part, dict) for part in state):
        return frozenset(name for part in state if part for name in part)
    return None


def _without(state: Any, ignored: frozenset[str]) -> Any:
    """Return a state with its attributes in a fixed order, without those that are left out."""
    if isinstance(state, dict):
        inner = {name: state[name] for name in sorted(state, key=str) if name not in ignored}
        if isinstance(inner.get("__dict__"), dict):
            inner["__dict__"] = _without(inner["__dict__"], ignored)
        return inner
    if isinstance(state, tuple):
        return tuple(_without(part, ignored) if isinstance(part, dict) else part for part in state)
    return state


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

    module = getattr(value, "__module__", None)
    if not isinstance(module, str):
        modules = [key for key, held in sys.modules.items() if getattr(held, "__dict__", {}).get(name) is value]
        installed = [key for key in modules if origin_of_module(key)]
        # Which modules have been imported differs from process to process; the outermost of a package always is.
        module = min(installed or modules, key=lambda key: (key.count("."), key), default=whichmodule(value, name))
    if find_global(module, name) is not value:
        raise UnhashableValueError("it has no name of its own", path="", culprit_type=type(value).__name__)
    origin = origin_of_module(module)
    return f"{origin}:{module}:{name}"


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
