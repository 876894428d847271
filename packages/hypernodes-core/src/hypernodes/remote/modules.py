"""Modules of the user's that travel: rebuilt on the other side under their own names, so that imports find them."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any, NamedTuple

from hypernodes.engine.workers.pickling import travelling_modules

_restored: dict[str, ModuleType] = {}
_LEFT_OUT = "__hypernodes_left_out__"
_INCIDENTAL = frozenset(
    {"__annotations__", "__builtins__", "__cached__", "__file__", "__loader__", "__name__", "__package__", "__path__"}
    | {"__spec__", "__warningregistry__"}
)


def state_of(module: ModuleType, left_out: set[str]) -> dict[str, Any]:
    """Return what is in a module, but for the names that are left out, which are listed."""
    found = {name: value for name, value in vars(module).items() if name not in _INCIDENTAL and name not in left_out}
    return {**found, _LEFT_OUT: sorted(left_out)}


class Shell(NamedTuple):
    """What of a module travels before its content, which refers to it.

    Attributes:
        name: Full name of the module.
        is_package: Whether it may have modules in it.
        file: Where it was written.
    """

    name: str
    is_package: bool
    file: str | None


def shell_of(module: ModuleType) -> Shell:
    """Return the shell of a module."""
    return Shell(module.__name__, hasattr(module, "__path__"), getattr(module, "__file__", None))


class Namespace(dict[str, Any]):
    """The globals of functions of a module: on the other side, those of the module that is restored there.

    Args:
        shell: The module.
    """

    def __init__(self, shell: Shell) -> None:
        super().__init__(__name__=shell.name)
        self._shell = shell

    def __reduce__(self) -> Any:
        return vars, (self._shell,)


def restore_module(shell: Shell, is_found_by_imports: bool) -> ModuleType:
    """Return an empty module, to be filled by the unpickler.

    Args:
        shell: What is known of it.
        is_found_by_imports: Whether it belongs to the job that is executed here: then it is made once for this job, and
            imports find it, unless a module of the same name was really imported here.
    """
    module: ModuleType | None = _restored.get(shell.name) if is_found_by_imports else None
    if module is None:
        module = _RestoredModule(shell.name)
        module.__file__ = shell.file
        module.__package__ = shell.name if shell.is_package else shell.name.rpartition(".")[0]
        if shell.is_package:
            module.__path__ = []
        if is_found_by_imports and shell.name not in sys.modules:
            import cloudpickle

            sys.modules[shell.name] = _restored[shell.name] = travelling_modules[shell.name] = module
            cloudpickle.register_pickle_by_value(module)
    return module


def forget_restored() -> None:
    """Forget the modules of the last job: the next one brings its own."""
    while _restored:
        name, module = _restored.popitem()
        del travelling_modules[name]
        if sys.modules.get(name) is module:
            del sys.modules[name]


class _RestoredModule(ModuleType):
    def __reduce__(self) -> tuple[Any, ...]:
        left_out = self.__dict__.get(_LEFT_OUT, ())
        return restore_module, (shell_of(self), True), {**state_of(self, set()), _LEFT_OUT: left_out}

    def __getattr__(self, name: str) -> Any:
        if name in self.__dict__.get(_LEFT_OUT, ()):
            raise AttributeError(f"{self.__name__}.{name} stayed with the caller, because it cannot be sent")
        raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
