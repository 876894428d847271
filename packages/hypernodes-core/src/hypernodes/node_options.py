"""Checks of what a node is made of: its function, the names of its outputs, and its options."""

from __future__ import annotations

from collections.abc import Iterable
from types import FunctionType
from typing import Any, NoReturn

from hypernodes.checks import check_bool, shown
from hypernodes.errors import ConfigurationError, InvalidNodeError
from hypernodes.nearest import suggest


def refuse_uncallable(func: Any) -> NoReturn:
    """Refuse what is no function, with what to write instead."""
    advice = ""
    if isinstance(func, (classmethod, property)):
        advice = f": a {type(func).__name__} belongs to a class. Write a function outside the class"
        if isinstance(func, classmethod):
            advice += ", or make a node of the method that the class has: node(output_name=...)(Class.method)"
    raise InvalidNodeError(f"a node wraps a function (func); got {shown(func)}{advice}", culprit=func)


def check_no_method(func: Any, inputs: tuple[str, ...], node_name: str) -> None:
    """Refuse a function that a class defines as its method, which would ask for a value for `self`."""
    if type(func) is not FunctionType or inputs[:1] not in (("self",), ("cls",)):
        return
    class_name, _, method = func.__qualname__.rpartition("<locals>.")[2].rpartition(".")
    if class_name:
        owner = class_name.rpartition(".")[2]
        raise InvalidNodeError(
            f"node {node_name!r} is a method of class {owner!r}, so it would need a value for {inputs[0]!r}. Make a "
            f"node of the method of an object, outside the class: node(output_name=...)({owner}(...).{method}); or "
            "write a function that takes the object as an input",
            culprit=func,
        )


def check_output_names(output_name: Any, function_name: str) -> tuple[str, ...]:
    """Return the names of the outputs."""
    owner = f"node {function_name!r}"
    if not isinstance(output_name, Iterable) or isinstance(output_name, (type, bytes)):
        raise InvalidNodeError(
            f"output_name of {owner} must be a name or a tuple of names; got {shown(output_name)}", culprit=output_name
        )
    names: tuple[Any, ...] = (output_name,) if isinstance(output_name, str) else tuple(output_name)
    if not names:
        raise InvalidNodeError(f"output_name of {owner} names no output", culprit=output_name)
    for output in names:
        if not isinstance(output, str) or not output.isidentifier():
            raise InvalidNodeError(
                f"output_name {shown(output)} of {owner} must be a valid Python name: "
                "other nodes refer to it by the name of a parameter",
                culprit=output_name,
            )
    if len(set(names)) != len(names):
        raise InvalidNodeError(f"{owner} names an output twice: {', '.join(names)}", culprit=output_name)
    return names


def check_version(version: Any, node_name: str) -> str | None:
    """Return the version of a node."""
    if version is not None and not isinstance(version, str):
        advice = f": write version={str(version)!r}" if isinstance(version, (int, float)) else ""
        raise InvalidNodeError(
            f"version of node {node_name!r} must be a string; got {shown(version)}{advice}", culprit=version
        )
    return version


def check_cache_for(cache_for: Any, is_cached: bool, node_name: str) -> float | None:
    """Return how long a cached result of a node counts, in seconds."""
    if cache_for is None:
        return None
    if not _is_number(cache_for) or not 0 < cache_for < float("inf"):
        raise ConfigurationError(
            f"cache_for of node {node_name!r} must be seconds, more than 0; got {shown(cache_for)}"
        )
    if not is_cached:
        raise ConfigurationError(f"cache_for of node {node_name!r} has no use with cache=False")
    return float(cache_for)


def check_each(each: Any, node_name: str, is_generator: bool, outputs: tuple[str, ...], func: Any) -> bool:
    """Return whether the elements that a node yields may be taken one by one."""
    if each is False or not check_bool(f"each of node {node_name!r}", each):
        return False
    if not is_generator:
        raise InvalidNodeError(
            f"node {node_name!r} has each=True, but its function does not yield: use `yield`, or leave out each",
            culprit=func,
        )
    if len(outputs) > 1:
        raise InvalidNodeError(
            f"node {node_name!r} has each=True and several outputs; what it yields is the elements of one list",
            culprit=outputs,
        )
    return True


def check_parameters(option: str, names: Any, inputs: tuple[str, ...], node_name: str) -> frozenset[str]:
    """Return the parameters that an option names."""
    if type(names) is tuple and not names:  # the default, at once
        return frozenset()
    if not isinstance(names, Iterable) or isinstance(names, type):
        raise InvalidNodeError(
            f"{option} of node {node_name!r} must be a parameter or a list of them; got {shown(names)}",
            culprit=names,
        )
    found = (names,) if isinstance(names, str) else tuple(names)
    for name in found:
        if name not in inputs:
            raise InvalidNodeError(
                f"{option} of node {node_name!r} names {shown(name)}, which is not a parameter"
                f"{suggest(str(name), inputs)}; its parameters are {', '.join(inputs) or 'none'}",
                culprit=name,
            )
    return frozenset(found)


def check_policy(
    node_name: str, retries: Any, retry_delay: Any, retry_on: Any, timeout: Any, retry_after: Any = None
) -> None:
    """Check the options for retries and time limits."""
    owner = f"of node {node_name!r} must be"
    if not isinstance(retries, int) or isinstance(retries, bool) or retries < 0:
        raise ConfigurationError(f"retries {owner} a whole number, 0 or more; got {shown(retries)}")
    if not _is_number(retry_delay) or not 0 <= retry_delay < float("inf"):
        raise ConfigurationError(f"retry_delay {owner} seconds, 0 or more; got {shown(retry_delay)}")
    if timeout is not None and (not _is_number(timeout) or not 0 < timeout < float("inf")):
        raise ConfigurationError(f"timeout {owner} seconds, more than 0; got {shown(timeout)}")
    if retry_after is not None and not callable(retry_after):
        raise ConfigurationError(f"retry_after {owner} a function of the error or None; got {shown(retry_after)}")
    if retry_after is not None and not retries:
        raise ConfigurationError(f"retry_after of node {node_name!r} has no use without retries=")
    kinds = retry_on if isinstance(retry_on, tuple) else (retry_on,)
    if not all(isinstance(kind, type) and issubclass(kind, BaseException) for kind in kinds):
        raise ConfigurationError(f"retry_on {owner} a class of exceptions or a tuple of them; got {shown(retry_on)}")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
