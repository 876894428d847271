"""The main module of the caller, for the processes that nodes start by `multiprocessing` in a worker process.

`multiprocessing` imports the main module of the process that starts another one there, so that functions of a script
can be found. The main module of a worker process is not the caller's script. So it names `main_of_children` instead,
which imports the script when something in it is looked for. Not before: a script may have no `__main__` guard, which
nothing needs as long as its functions are not looked for.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
from importlib.util import find_spec
from multiprocessing import process
from types import ModuleType
from typing import Any

from hypernodes.locks import reset_after_fork

_MAIN = "HYPERNODES_CALLERS_MAIN"  # environment variable: the path of a script, or the name of a module
_FOLDER = "HYPERNODES_CALLERS_FOLDER"  # environment variable: where that and what lies beside it is found
_STAND_IN = "hypernodes.engine.workers.main_of_children"
_importing = reset_after_fork(threading.RLock())
_is_importing = False
_replaced: list[ModuleType] = []  # whose code is still running


def locate_callers_main() -> dict[str, str]:
    """Return environment variables that tell a worker process where the main module of its caller is imported from.

    They are those of this process if it is a worker process itself, and empty for sessions and `python -c`.
    """
    main = sys.modules["__main__"]
    if names_callers_main(main):
        return {variable: os.environ.get(variable, "") for variable in (_MAIN, _FOLDER)}
    name = getattr(getattr(main, "__spec__", None), "name", None)
    path = getattr(main, "__file__", None)
    if path is None:
        return {_MAIN: "", _FOLDER: ""}
    path = os.path.normpath(os.path.join(getattr(process, "ORIGINAL_DIR", None) or "", path))
    folder = os.path.dirname(path)
    for _ in range((name or "").count(".")):
        folder = os.path.dirname(folder)
    return {_MAIN: name or path, _FOLDER: folder}


def names_callers_main(main: ModuleType) -> bool:
    """Whether a main module is that of a worker process, and makes its children find the caller's."""
    return getattr(getattr(main, "__spec__", None), "name", None) == _STAND_IN


def use_empty_main() -> None:
    """Give a worker process a main module for the names of the caller's, without those of what started the process."""
    _replaced.append(sys.modules["__main__"])
    sys.modules["__main__"] = sys.modules["__mp_main__"] = ModuleType("__main__")
    let_children_find_callers_main()


def let_children_find_callers_main() -> None:
    """Give the main module of a worker process the name of the one that its children are to import."""
    if os.environ.get(_MAIN):
        sys.modules["__main__"].__spec__ = find_spec(_STAND_IN)


def find_modules_beside_main() -> None:
    """Let a child import the caller's main module and those beside it, also if its parent has another search path."""
    folder = os.environ.get(_FOLDER)
    if folder and folder not in sys.path:
        sys.path.append(folder)


def find_in_callers_main(name: str) -> Any:
    """Find something in the main module of the caller, which is imported in the place of `main_of_children`.

    Args:
        name: The name of a global variable.

    Raises:
        AttributeError: There is no such variable.
        RuntimeError: The module starts processes when it is imported.
    """
    global _is_importing
    if not name.startswith("__") and _MAIN in os.environ:
        with _importing:
            if names_callers_main(sys.modules["__main__"]) and not _is_importing:
                _is_importing = True
                try:
                    _import_callers_main(os.environ[_MAIN])
                finally:
                    _is_importing = False
            main = sys.modules["__main__"]
        if not names_callers_main(main):
            return getattr(main, name)
    raise AttributeError(f"module '__main__' has no attribute {name!r}")


def _import_callers_main(main: str) -> None:
    from multiprocessing import spawn  # which only a child needs

    this_process: Any = multiprocessing.current_process()
    was_inheriting = hasattr(this_process, "_inheriting")
    this_process._inheriting = True  # so that a script without a guard cannot start processes that import it, and so on  # noqa: SLF001
    try:
        spawn.prepare({"init_main_from_path" if os.path.isabs(main) else "init_main_from_name": main})
    finally:
        if not was_inheriting:
            del this_process._inheriting  # noqa: SLF001
