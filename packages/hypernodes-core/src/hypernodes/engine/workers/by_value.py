"""A pickler that sends a user's code by value: cloudpickle, and what it cannot send or does not send faithfully.

Objects arrive in a process that belongs to the sender alone (a worker process), or in one that executes jobs of several
senders; the latter says with `code_owner` whose code it is receiving.
"""

from __future__ import annotations

import functools
import sys
import weakref
from collections.abc import Callable, Mapping
from types import CodeType, FunctionType, MemberDescriptorType, ModuleType
from typing import Any

import cloudpickle

from hypernodes.engine.workers.code_owner import code_owner

_originals: weakref.WeakSet[Any] = weakref.WeakSet()  # classes of this process that were sent to others
_arrived: weakref.WeakSet[Any] = weakref.WeakSet()  # classes of other processes that were made again here
_put_into_main: dict[str, Any] = {}
_SPAWNED_MAIN = "__mp_main__"  # the name of the main module in a process that multiprocessing spawned
_MAIN = ("__main__", _SPAWNED_MAIN)


class ByValuePickler(cloudpickle.Pickler):  # type: ignore[misc, unused-ignore]
    """Pickles functions and classes that the other side cannot import whole, with whatever they refer to.

    Beyond cloudpickle: functions cached with `functools.cache` (the cache itself starts empty), dictionaries with weak
    keys or values, `functools.cached_property` where it holds a lock (Python 3.11), classes with `__slots__`, the file
    names that tracebacks show, and code of `__main__` that can be pickled again where it arrived.
    """

    def __init__(self, *arguments: Any, **by_keyword: Any) -> None:
        super().__init__(*arguments, **by_keyword)
        if _SPAWNED_MAIN in sys.modules and _SPAWNED_MAIN not in cloudpickle.list_registry_pickle_by_value():
            cloudpickle.register_pickle_by_value(sys.modules[_SPAWNED_MAIN])  # no other process can import it

    def reducer_override(self, obj: Any) -> Any:
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
                arguments, state = _with_slots(obj, arguments, state)
                new_arguments = (_name_in_main(obj), make, *arguments)
                return make_class, new_arguments, (set_state, state), None, None, set_class_state
        return reduced


# --- on the sender's side -----------------------------------------------------------------------------------------


def is_imported_by_name(obj: Any) -> bool:
    """Whether a function or class is sent as the name from which the other side imports it."""
    module = sys.modules.get(getattr(obj, "__module__", None) or "__main__")
    if module is None or module.__name__ in _MAIN:
        return False
    by_value = cloudpickle.list_registry_pickle_by_value()
    package = module.__name__
    while package:
        if package in by_value:
            return False
        package = package.rpartition(".")[0]
    return _find(module, obj) is obj


def _find(module: ModuleType, obj: Any) -> Any:
    found: Any = module
    for part in getattr(obj, "__qualname__", "<unknown>").split("."):
        found = getattr(found, part, None)
    return found


def _name_in_main(obj: Any) -> str | None:
    """Return the name under which plain pickle finds something in the `__main__` module; None when it does not."""
    if getattr(obj, "__module__", None) not in _MAIN or "." in obj.__qualname__:
        return None
    return obj.__qualname__ if _find(sys.modules["__main__"], obj) is obj else None


def _with_slots(kind: type, arguments: tuple[Any, ...], state: tuple[Any, ...]) -> tuple[Any, Any]:
    """Let a class have its slots on the other side as well: an object without a `__dict__` does not load one."""
    slots = vars(kind).get("__slots__")
    if slots is None or len(arguments) != 6 or not isinstance(arguments[3], dict):
        return arguments, state
    names = (slots,) if isinstance(slots, str) else tuple(slots)
    meta, name, bases, namespace, tracker_id, extra = arguments
    content, others = state
    content = {
        key: value
        for key, value in content.items()
        if not (isinstance(value, MemberDescriptorType) and value.__objclass__ is kind)
    }
    return (meta, name, bases, {**namespace, "__slots__": names}, tracker_id, extra), (content, others)


def _reduce_code(code: CodeType) -> Any:
    make, arguments = cloudpickle.Pickler.dispatch_table[CodeType](code)
    return make, tuple(code.co_filename if isinstance(a, str) and a == "<dynamic-code>" else a for a in arguments)


def _reduce_cached_function(function: Any) -> Any:
    if is_imported_by_name(function):
        return None
    parameters = function.cache_parameters()
    state = {name: value for name, value in vars(function).items() if name != "__wrapped__"}
    made_from = (_name_in_main(function), function.__wrapped__, parameters["maxsize"], parameters["typed"])
    return make_cached_function, made_from, state


def _reduce_cached_property(prop: functools.cached_property[Any]) -> Any:
    if "lock" not in vars(prop):
        return None
    return make_cached_property, (prop.func,), {name: v for name, v in vars(prop).items() if name != "lock"}


def _reduce_weak_dictionary(values: Mapping[Any, Any]) -> Any:
    return make_weak_dictionary, (type(values), list(values.items()))


_REDUCERS: dict[type, Callable[[Any], Any]] = {
    CodeType: _reduce_code,
    type(functools.cache(len)): _reduce_cached_function,
    functools.cached_property: _reduce_cached_property,
    weakref.WeakKeyDictionary: _reduce_weak_dictionary,
    weakref.WeakValueDictionary: _reduce_weak_dictionary,
}


# --- where it arrives ---------------------------------------------------------------------------------------------


def make_function(name_in_main: str | None, make: Callable[..., FunctionType], *arguments: Any) -> FunctionType:
    """Make a function, to be filled by the unpickler."""
    function = make(*arguments)
    owner = code_owner.get()
    if owner is not None:
        owner.adopt_function(function)
    return _adopt(name_in_main, function)  # type: ignore[no-any-return]


def make_class(name_in_main: str | None, make: Callable[..., type], *arguments: Any) -> type:
    """Make a class, to be filled by the unpickler; one that was sent from here, or arrived before, is itself again."""
    owner = code_owner.get()
    if owner is not None:
        made = owner.make_class(make, arguments)
    else:
        made = make(*arguments)
        if made not in _originals:
            _arrived.add(made)
    return _adopt(name_in_main, made)  # type: ignore[no-any-return]


def set_class_state(made: type, state: tuple[Callable[[type, Any], object], Any]) -> None:
    """Fill a class, unless it is one that was sent from here, whose own methods are not to be replaced by copies."""
    set_state, content = state
    owner = code_owner.get()
    if owner.is_to_be_filled(made) if owner is not None else made not in _originals:
        set_state(made, content)


def make_cached_function(
    name_in_main: str | None, function: Callable[..., Any], maxsize: int | None, typed: bool
) -> Any:
    """Make a cached function with an empty cache."""
    return _adopt(name_in_main, functools.lru_cache(maxsize, typed)(function))


def make_cached_property(function: Callable[[Any], Any]) -> functools.cached_property[Any]:
    """Make a cached property with a lock of its own."""
    return functools.cached_property(function)


def make_weak_dictionary(kind: type, entries: list[tuple[Any, Any]]) -> Any:
    """Make a dictionary with weak keys or values; an entry stays as long as something else refers to it."""
    return kind(entries)


def _adopt(name: str | None, made: Any) -> Any:
    """Let plain pickle, used inside a node, find what the sender's `__main__` module held."""
    if name is None:
        return made
    owner = code_owner.get()
    if owner is not None:
        owner.adopt_in_main(name, made)
        return made
    main = sys.modules["__main__"]
    current = getattr(main, name, None)
    if current is None or (name in _put_into_main and current is _put_into_main[name]):
        _put_into_main[name] = made
        setattr(main, name, made)
        if made.__module__ == _SPAWNED_MAIN:
            sys.modules.setdefault(_SPAWNED_MAIN, main)
    return made
