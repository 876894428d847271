"""Whose code it is that arrives in a process which works for several at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from types import FunctionType, ModuleType
from typing import Any, Protocol


class ArrivedSentinels:
    """Objects that stand for something by being themselves, and came from another process; see `sent_sentinels`."""

    def __init__(self) -> None:
        self._by_name: dict[tuple[str, str], Any] = {}
        self._names: dict[int, tuple[tuple[str, str], Any]] = {}  # by the id of what arrived, which stays alive as long

    def name_of(self, value: Any) -> tuple[str, str] | None:
        """Return the module and variable that an object arrived as."""
        known = self._names.get(id(value))
        return None if known is None else known[0]

    def find(self, name: tuple[str, str], kind: type, make: Callable[[], Any]) -> Any:
        """Return the object of a name, which is made when it is the first time."""
        if type(self._by_name.get(name)) is not kind:  # also if its class is that of a notebook cell that was run again
            made = make()
            self._by_name[name] = made
            self._names[id(made)] = name, made
        return self._by_name[name]


class CodeOwner(Protocol):
    """One sender of code, whose modules and classes are kept apart from those of others.

    Attributes:
        modules: The modules that it brought, by name; no worker process finds them, so they are sent there as well.
        sentinels: The sentinels of its code that arrived.
    """

    sentinels: ArrivedSentinels

    @property
    def modules(self) -> Mapping[str, ModuleType]: ...

    def adopt_function(self, function: FunctionType) -> None:
        """Take note of a function that arrived."""

    def adopt_in_main(self, name: str, made: Any) -> None:
        """Take note of what the sender's `__main__` module held under a name."""

    def make_class(self, make: Callable[..., type], arguments: tuple[Any, ...]) -> type:
        """Return the class that cloudpickle's `make` makes, or the same one as before if it arrived before."""

    def keep_classes(self, classes: Iterable[type]) -> None:
        """Let classes be the same ones in the jobs of the same sender that follow: objects of theirs stay."""

    def fill_class(self, made: type, fill: Callable[[], None]) -> None:
        """Call what gives a class its content, if that is to be taken from what arrives now."""


code_owner: ContextVar[CodeOwner | None] = ContextVar("code_owner", default=None)
"""The owner of the code that this context runs or receives; None where there is only one."""
