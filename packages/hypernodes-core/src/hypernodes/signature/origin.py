"""Where code comes from: an installed distribution, the standard library, or the user.

Installed code is identified by distribution and version, the standard library by Python's minor version. Everything
else is the user's own - also a project that is installed in editable mode, whose files stay where they are edited.
"""

from __future__ import annotations

import functools
import os
import sys
import sysconfig
from types import FunctionType
from typing import Any

PYTHON = "python {}.{}".format(*sys.version_info[:2])
# Options of the interpreter that change what code does: `-O` leaves out assertions and `if __debug__`.
INTERPRETER = PYTHON + (" -" + "O" * sys.flags.optimize if sys.flags.optimize else "")
_HEAP_TYPE = 1 << 9  # of `type.__flags__`: made at run time, not compiled in
_LIBRARY_FOLDERS = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")


def origin_of_module(module_name: str) -> str:
    """Return where a module comes from, e.g. "numpy 2.1.0" or "python 3.12"; empty for the user's own code."""
    return _origin(module_name, id(sys.modules.get(module_name)))


def origin_of_class(kind: type) -> str:
    """Return where a class comes from; empty for one that its module does not hold, so that it is looked into.

    Functions that make classes (`make_dataclass`, `exec`) leave the name of a module in them that does not know them.
    """
    name: Any = kind.__module__
    origin = origin_of_module(name) if isinstance(name, str) else ""
    if origin and (not kind.__flags__ & _HEAP_TYPE or _is_held(kind, name)):
        return origin
    if origin or not isinstance(name, str) or getattr(sys.modules.get(name), "__file__", None) is None:
        return (origin or "compiled") if _is_compiled(kind) else ""
    return ""


def _is_compiled(kind: type) -> bool:
    """Whether compiled code made a class: it is no heap type, or its objects have fields that it does not show."""
    if not kind.__flags__ & _HEAP_TYPE:
        return True
    base: Any = kind.__base__
    slots = kind.__dict__.get("__slots__", ())
    shown = base.__basicsize__ + tuple.__itemsize__ * (
        (1 if isinstance(slots, str) else len(tuple(slots)))
        + (kind.__dictoffset__ > 0 and base.__dictoffset__ <= 0)
        + (kind.__weakrefoffset__ > 0 and base.__weakrefoffset__ <= 0)
    )
    return bool(kind.__basicsize__ > shown)


def _is_held(kind: type, module_name: str) -> bool:
    found: Any = sys.modules.get(module_name)
    for part in kind.__qualname__.split("."):
        found = getattr(found, "__dict__", {}).get(part)
        if found is None:
            return False
    return found is kind


def origin_of_function(function: FunctionType) -> str:
    """Return where a function was written; what `functools.wraps` says of it is where another one was."""
    name: Any = function.__globals__.get("__name__")
    if not isinstance(name, str):
        name = function.__module__
    if isinstance(name, str) and name.startswith("namedtuple_"):
        return PYTHON
    return origin_of_module(name) if isinstance(name, str) else ""


def is_installed_module(module_name: str) -> bool:
    """Whether a module that may not have been imported yet is installed or standard, without importing anything."""
    package = module_name.partition(".")[0]
    if module_name in sys.modules or package in sys.modules:
        return bool(origin_of_module(module_name if module_name in sys.modules else package))
    from importlib.util import find_spec

    try:
        spec = find_spec(package)
    except (ImportError, ValueError):
        return False
    if spec is None:
        return False
    file = spec.origin if spec.has_location else next(iter(spec.submodule_search_locations or ()), None)
    return _origin_of_file(package, file) != ""


def origin_of_missing_module(module_name: str) -> str:
    """Return where an installed module that has not been imported comes from."""
    from importlib.util import find_spec

    package = module_name.partition(".")[0]
    spec = find_spec(package)
    if spec is None:
        return ""
    file = spec.origin if spec.has_location else next(iter(spec.submodule_search_locations or ()), None)
    return _origin_of_file(package, file)


@functools.lru_cache(maxsize=4096)
def _origin(module_name: str, module_id: int) -> str:
    package = module_name.partition(".")[0]
    if package == "__main__":
        return ""
    if package == "hypernodes":
        return "hypernodes"
    module = sys.modules.get(module_name) or sys.modules.get(package)
    file = getattr(module, "__file__", None)
    if file is None:
        file = next(iter(getattr(module, "__path__", ())), None)
    return _origin_of_file(package, file)


def _origin_of_file(package: str, file: str | None) -> str:
    is_standard = package in sys.stdlib_module_names or package in sys.builtin_module_names
    if file is None or file in ("built-in", "frozen"):
        return PYTHON if is_standard else ""
    path = os.path.realpath(file)
    folder = _library_folder(path, package)
    if folder:
        return _distribution_of(package, folder)
    if is_standard and (
        path.startswith(_standard_folders()) or f"python{''.join(map(str, sys.version_info[:2]))}.zip" in path
    ):
        return PYTHON  # a module of the user's own may bear a name of the standard library
    return ""


@functools.lru_cache(maxsize=1)
def _standard_folders() -> tuple[str, ...]:
    paths = sysconfig.get_paths()
    folders = {paths["stdlib"], paths["platstdlib"], os.path.dirname(os.__file__)}
    return tuple({os.path.realpath(folder) + os.sep for folder in folders})


@functools.lru_cache(maxsize=1)
def _installed_folders() -> tuple[str, ...]:
    paths = sysconfig.get_paths()
    return tuple({os.path.realpath(paths[key]) + os.sep for key in ("purelib", "platlib")})


def _library_folder(path: str, package: str) -> str:
    """Return the folder of installed distributions that a file lies in; empty when it lies in none."""
    for folder in _installed_folders():
        if path.startswith(folder):
            return folder
    for part in _LIBRARY_FOLDERS:
        before, found, _ = path.rpartition(part)
        if found:
            return before + found
    folder = _folder_of_package(path, package)
    # Packages may have been installed with `pip install --target`, also beside the user's own modules.
    return folder if folder and _holds_distributions(folder) and _distributions_of(package, folder) else ""


def _folder_of_package(path: str, package: str) -> str:
    folder = os.path.dirname(path)
    while folder and os.path.dirname(folder) != folder:
        name = os.path.basename(folder)
        if name == package:
            return os.path.dirname(folder) + os.sep
        folder = os.path.dirname(folder)
    return os.path.dirname(path) + os.sep


@functools.lru_cache(maxsize=256)
def _holds_distributions(folder: str) -> bool:
    """Whether packages were installed into a folder with `pip install --target`."""
    try:
        return any(name.endswith(".dist-info") for name in os.listdir(folder))
    except OSError:
        return False


@functools.lru_cache(maxsize=1024)
def _distribution_of(package: str, folder: str) -> str:
    found = _distributions_of(package, folder)
    return found or f"{package} with content {_digest_of_package(package, folder)}"


@functools.lru_cache(maxsize=1024)
def _distributions_of(package: str, folder: str) -> str:
    """Return name and version of the distributions that give a package; empty when none says so."""
    import importlib.metadata

    try:
        likely = importlib.metadata.distribution(package)  # most are called like what they give
        if _gives(likely, package) and _lies_in(likely, folder):
            return f"{likely.name} {likely.version}"
    except importlib.metadata.PackageNotFoundError:
        pass
    found = sorted(
        f"{distribution.name} {distribution.version}"
        for distribution in importlib.metadata.distributions(path=[folder])
        if _gives(distribution, package)
    )
    return ", ".join(found)


def _lies_in(distribution: Any, folder: str) -> bool:
    return os.path.realpath(str(distribution.locate_file(""))) + os.sep == os.path.realpath(folder) + os.sep


def _digest_of_package(package: str, folder: str) -> str:
    """Return a digest of the files of a package that no distribution claims: it has no version to be known by."""
    from hashlib import sha256

    hashed = sha256()
    top = os.path.join(folder, package)
    files = [os.path.join(folder, name) for name in sorted(os.listdir(folder)) if name.startswith(f"{package}.")]
    for place, folders, names in os.walk(top):
        folders[:] = sorted(name for name in folders if name != "__pycache__")
        files += [os.path.join(place, name) for name in sorted(names)]
    for path in files:
        if os.path.isfile(path):
            with open(path, "rb") as file:
                content = file.read()
            hashed.update(os.path.relpath(path, folder).encode("utf-8", "surrogateescape") + b"%d:" % len(content))
            hashed.update(content)
    return hashed.hexdigest()[:16]


def _gives(distribution: Any, package: str) -> bool:
    names = distribution.read_text("top_level.txt")
    if names is not None and package in names.split():
        return True
    record = distribution.read_text("RECORD") or ""
    starts = (f"{package}/", f"{package}.")
    return any(line.startswith(starts) for line in record.splitlines())
