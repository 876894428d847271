"""A pickler that sends a user's code by value: cloudpickle, and what it cannot send or does not send faithfully.

Objects arrive in a process that belongs to the sender alone (a worker process), or in one that executes jobs of several
senders; the latter says with `code_owner` whose code it is receiving.
"""

from __future__ import annotations

import enum
import functools
import struct
import sys
import threading
import typing
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import BuiltinFunctionType, CodeType, FunctionType, MemberDescriptorType, resolve_bases
from typing import TYPE_CHECKING, Any, NamedTuple

import cloudpickle

from hypernodes.engine.workers.by_name import MAIN, find_by_name, is_imported_by_name
from hypernodes.engine.workers.code_owner import code_owner
from hypernodes.engine.workers.exception_parts import reduce_exception
from hypernodes.engine.workers.kept_caches import CACHED, CacheIdentity, keep
from hypernodes.engine.workers.names_in_main import SPAWNED_MAIN, adopt_in_main
from hypernodes.locks import reset_after_fork

if TYPE_CHECKING:
    from hypernodes.engine.workers.cache_identities import CacheIdentities

_originals: weakref.WeakSet[Any] = weakref.WeakSet()  # classes of this process that were sent to others
_arrived: weakref.WeakSet[Any] = weakref.WeakSet()  # classes of other processes that were made again here
_OF_ENUM = frozenset({"_name_", "_value_", "__objclass__", "_sort_order_"})  # attributes that every member has
_making = reset_after_fork(threading.RLock())
_classes_by_id: Mapping[str, type] = getattr(cloudpickle.cloudpickle, "_DYNAMIC_CLASS_TRACKER_BY_ID", {})


class ByValuePickler(cloudpickle.Pickler):  # type: ignore[misc, unused-ignore]
    """Pickles functions and classes that the other side cannot import whole, with whatever they refer to.

    Beyond cloudpickle: functions cached with `functools.cache` (see `kept_caches`), weak references and
    dictionaries with weak keys or values, `functools.cached_property` where it holds a lock (Python 3.11), classes with
    `__slots__` or inside of others, attributes of enum members, aliases and parameters of types, the file names that
    tracebacks show, and code of `__main__` that can be pickled again where it arrived.
    """

    def __init__(self, *arguments: Any, **by_keyword: Any) -> None:
        super().__init__(*arguments, **by_keyword)
        self._identities: CacheIdentities | None = None
        if SPAWNED_MAIN in sys.modules and SPAWNED_MAIN not in cloudpickle.list_registry_pickle_by_value():
            cloudpickle.register_pickle_by_value(sys.modules[SPAWNED_MAIN])  # no other process can import it

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, BaseException) and (reduced := reduce_exception(obj)) is not None:
            return reduced
        if type(obj) is CACHED and not is_imported_by_name(obj):
            return self._reduce_cached_function(obj)
        if type(obj) is BuiltinFunctionType and type(obj.__self__) is CACHED and obj.__name__ == "cache_clear":
            self._cache_identities.note_other_way_to_clear(obj.__self__)
        reduce = _REDUCERS.get(type(obj))
        if reduce is not None and (reduced := reduce(obj)) is not None:
            return reduced
        reduced = super().reducer_override(obj)
        if type(reduced) is tuple and len(reduced) == 6:
            make, arguments, state, _, _, set_state = reduced
            if isinstance(obj, FunctionType):
                return make_function, (_name_in_main(obj), make, *arguments), state, None, None, set_state
            if isinstance(obj, type):
                if obj not in _arrived:
                    _originals.add(obj)
                arguments, state = _as_defined(obj, arguments, state)
                new_arguments = (_name_in_main(obj), make, *arguments)
                new_state = (set_state, state, _attributes_of_members(obj))
                return make_class, new_arguments, new_state, None, None, set_class_state
        return reduced

    @property
    def _cache_identities(self) -> CacheIdentities:
        if self._identities is None:
            from hypernodes.engine.workers.cache_identities import CacheIdentities  # which takes long to load

            self._identities = CacheIdentities()
        return self._identities

    def _reduce_cached_function(self, function: Any) -> Any:
        identity = self._cache_identities.of(function)
        parameters = function.cache_parameters()
        size, is_typed = parameters["maxsize"], parameters["typed"]
        made_from = (_name_in_main(function), function.__wrapped__, size, is_typed, identity)
        return make_cached_function, made_from, self._cache_identities.attributes_to_send(function)


# --- on the sender's side -----------------------------------------------------------------------------------------


def _name_in_main(obj: Any) -> str | None:
    """Return the name under which plain pickle finds something in the `__main__` module; None when it does not."""
    if getattr(obj, "__module__", None) not in MAIN or "." in obj.__qualname__:
        return None
    return obj.__qualname__ if find_by_name(sys.modules["__main__"], obj) is obj else None


def _as_defined(kind: type, arguments: tuple[Any, ...], state: tuple[Any, ...]) -> tuple[Any, Any]:
    """Let a class have its qualified name, its slots, or all names of its members on the other side as well.

    The name is shown by `repr` of dataclasses, and an object without a `__dict__` does not load one.
    """
    if isinstance(kind, enum.EnumMeta):
        members = {name: member.value for name, member in vars(kind)["_member_map_"].items()}
        rest = {name: value for name, value in state[0].items() if name not in members}
        return (*arguments[:3], members, *arguments[4:]), (rest, state[1])
    meta, name, bases, namespace, tracker_id, extra = arguments
    namespace = {**namespace, "__qualname__": kind.__qualname__}
    content, others = state
    slots = vars(kind).get("__slots__")
    if slots is not None and NamedTuple not in bases:  # which makes the slots itself
        namespace["__slots__"] = (slots,) if isinstance(slots, str) else tuple(slots)
        content = {
            key: value
            for key, value in content.items()
            if not (isinstance(value, MemberDescriptorType) and value.__objclass__ is kind)
        }
    return (meta, name, bases, namespace, tracker_id, extra), (content, others)


def _attributes_of_members(kind: type) -> dict[str, dict[str, Any]]:
    """Return, for an enum, what `__init__` and others have set on its members, which are made from their values."""
    if not isinstance(kind, enum.EnumMeta):
        return {}
    members: Mapping[str, Any] = vars(kind)["_member_map_"]
    own = {member.name: vars(member) for member in members.values() if hasattr(member, "__dict__")}
    return {name: {key: value for key, value in held.items() if key not in _OF_ENUM} for name, held in own.items()}


def _reduce_code(code: CodeType) -> Any:
    make, arguments = cloudpickle.Pickler.dispatch_table[CodeType](code)
    return make, tuple(code.co_filename if isinstance(a, str) and a == "<dynamic-code>" else a for a in arguments)


def _reduce_cached_property(prop: functools.cached_property[Any]) -> Any:
    if "lock" not in vars(prop):
        return None
    return make_cached_property, (prop.func,), {name: v for name, v in vars(prop).items() if name != "lock"}


def _reduce_weak_dictionary(values: Mapping[Any, Any]) -> Any:
    return make_weak_dictionary, (type(values), list(values.items()))


def _reduce_weak_reference(reference: weakref.ref[Any]) -> Any:
    return make_weak_reference, (type(reference), reference())


def _reduce_new_type(made: Any) -> Any:
    if is_imported_by_name(made):
        return None
    return make_new_type, (made.__name__, made.__supertype__), {"__module__": made.__module__}


def _reduce_type_parameter(parameter: Any) -> Any:
    if is_imported_by_name(parameter):
        return None
    return make_type_parameter, (type(parameter), parameter.__name__)


def _reduce_type_alias(alias: Any) -> Any:
    if is_imported_by_name(alias):
        return None
    if alias.__type_params__:
        return make_generic_alias, (alias.__name__, alias.__value__, alias.__type_params__)
    namespace = {"__name__": alias.__module__}  # filled at last, since an alias may refer to itself
    state = (namespace, alias.__value__)
    return make_type_alias, (alias.__name__, namespace), state, None, None, set_value_of_alias


def _reduce_struct(layout: struct.Struct) -> Any:
    return struct.Struct, (layout.format,)


_REDUCERS: dict[type, Callable[[Any], Any]] = {
    CodeType: _reduce_code,
    functools.cached_property: _reduce_cached_property,
    weakref.WeakKeyDictionary: _reduce_weak_dictionary,
    weakref.WeakValueDictionary: _reduce_weak_dictionary,
    weakref.ref: _reduce_weak_reference,
    weakref.WeakMethod: _reduce_weak_reference,
    typing.NewType: _reduce_new_type,
    typing.ParamSpec: _reduce_type_parameter,
    typing.TypeVarTuple: _reduce_type_parameter,
    struct.Struct: _reduce_struct,
}
if sys.version_info >= (3, 12):
    _REDUCERS[typing.TypeAliasType] = _reduce_type_alias


# --- where it arrives ---------------------------------------------------------------------------------------------


def make_function(name_in_main: str | None, make: Callable[..., FunctionType], *arguments: Any) -> FunctionType:
    """Make a function, to be filled by the unpickler."""
    function = make(*arguments)
    owner = code_owner.get()
    if owner is not None:
        owner.adopt_function(function)
    return _adopt(name_in_main, function)  # type: ignore[no-any-return]


def class_known_as(tracker_id: str) -> type | None:
    """Return the class that cloudpickle has sent from this process, or received, under an id."""
    return _classes_by_id.get(tracker_id)


def make_class(name_in_main: str | None, make: Callable[..., type], *arguments: Any) -> type:
    """Make a class, to be filled by the unpickler; one that was sent from here, or arrived before, is itself again."""

    def make_quietly(*facts: Any) -> type:
        is_enum = len(facts) == 7  # then its metaclass is that of its last base
        bases = facts[0] if is_enum else facts[2]
        with _without_announcing(type(bases[-1]) if is_enum else facts[0], bases):
            return make(*facts)

    owner = code_owner.get()
    if owner is not None:
        made = owner.make_class(make_quietly, arguments)
    else:
        made = class_known_as(arguments[-2]) or make_quietly(*arguments)
        if made not in _originals:
            _arrived.add(made)
    return _adopt(name_in_main, made)  # type: ignore[no-any-return]


@contextmanager
def _without_announcing(metaclass: type, bases: Iterable[Any]) -> Iterator[None]:
    """Make a class of which its bases and its metaclass were told where they came from.

    What they did there, e.g. put it into a registry, has arrived with them or arrives with the class.
    """
    kinds = {kind for base in resolve_bases(bases) for kind in base.__mro__}  # also of `Base[int]`
    hooks = [(kind, "__init_subclass__") for kind in kinds]
    hooks += [(kind, name) for kind in metaclass.__mro__ for name in ("__prepare__", "__new__", "__init__")]
    announcing = [(kind, name) for kind, name in hooks if name in vars(kind) and not is_imported_by_name(kind)]
    if not announcing:
        yield
        return
    with _making:
        before = [(kind, name, vars(kind)[name]) for kind, name in announcing]
        for kind, name in announcing:
            type.__setattr__(kind, name, _skipping(kind, name))
        try:
            yield
        finally:
            for kind, name, hook in before:
                type.__setattr__(kind, name, hook)


def _skipping(kind: Any, name: str) -> Any:
    """Return what calls the next class's method of this name only."""
    if name == "__new__":
        return lambda made, *arguments, **options: super(kind, made).__new__(made, *arguments, **options)
    if name == "__init__":
        return lambda made, *arguments, **options: super(kind, made).__init__(*arguments, **options)

    def skip(made: Any, *arguments: Any, **options: Any) -> Any:
        return getattr(super(kind, made), name)(*arguments, **options)

    return classmethod(skip)


def set_class_state(made: type, state: tuple[Callable[[type, Any], object], Any, dict[str, dict[str, Any]]]) -> None:
    """Fill a class, unless it is one that was sent from here, whose own methods are not to be replaced by copies."""
    set_state, content, members = state
    owner = code_owner.get()

    def fill() -> None:
        set_state(made, content)
        for name, attributes in members.items():
            held = vars(vars(made)["_member_map_"][name])
            if owner is not None:  # something else may be there from an earlier job
                for extra in held.keys() - attributes.keys() - _OF_ENUM:
                    del held[extra]
            held.update(attributes)

    if owner is not None:
        owner.fill_class(made, fill)
    elif made not in _originals:
        fill()


def make_cached_function(
    name_in_main: str | None,
    function: Callable[..., Any],
    maxsize: int | None,
    typed: bool,
    identity: CacheIdentity | None,
) -> Any:
    """Make a cached function, with an empty cache unless it has an identity (see `kept_caches`)."""
    if identity is None:
        return _adopt(name_in_main, functools.lru_cache(maxsize, typed)(function))
    return _adopt(name_in_main, keep(function, maxsize, typed, identity))


def make_cached_property(function: Callable[[Any], Any]) -> functools.cached_property[Any]:
    """Make a cached property with a lock of its own."""
    return functools.cached_property(function)


def make_weak_dictionary(kind: type, entries: list[tuple[Any, Any]]) -> Any:
    """Make a dictionary with weak keys or values; an entry stays as long as something else refers to it."""
    return kind(entries)


def make_weak_reference(kind: type, target: Any) -> Any:
    """Make a weak reference; it is dead if its target was, or if nothing else refers to that."""
    return kind(_Dead().stand_in if target is None else target)


class _Dead:
    def stand_in(self) -> None:
        """Is bound to an object that is gone at once."""


def make_new_type(name: str, supertype: Any) -> Any:
    """Make what `typing.NewType` makes."""
    return typing.NewType(name, supertype)


def make_type_parameter(kind: Callable[[str], Any], name: str) -> Any:
    """Make a `ParamSpec` or a `TypeVarTuple`."""
    return kind(name)


def make_generic_alias(name: str, value: Any, parameters: tuple[Any, ...]) -> Any:
    """Make what a `type` statement with parameters makes."""
    kind: Any = vars(typing)["TypeAliasType"]
    return kind(name, value, type_params=parameters)


def make_type_alias(name: str, namespace: dict[str, Any]) -> Any:
    """Make what a `type` statement makes, without its value."""
    exec(f"type {name} = _value", namespace)
    return namespace[name]


def set_value_of_alias(alias: Any, state: tuple[dict[str, Any], Any]) -> None:
    """Give an alias of a type its value."""
    namespace, value = state
    namespace["_value"] = value


def _adopt(name: str | None, made: Any) -> Any:
    """Let plain pickle, used inside a node, find what the sender's `__main__` module held."""
    if name is None:
        return made
    owner = code_owner.get()
    if owner is not None:
        owner.adopt_in_main(name, made)
        return made
    adopt_in_main(name, made)
    return made
