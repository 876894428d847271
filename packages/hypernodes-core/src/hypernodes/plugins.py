"""Finds extensions through the entry points of installed distributions, and loads them when they are used.

Groups are `hypernodes.backends`, `hypernodes.caches` and `hypernodes.callbacks`, whose entries name a class;
`hypernodes.commands`, whose entries have the name of a command and name a function; and `hypernodes.hashers`, whose
entries name a function, see `hypernodes.extension`. Core's own classes are registered in the same way.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from hypernodes import caller
from hypernodes.errors import MissingPluginError, PluginError
from hypernodes.nearest import suggest

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint
    from types import FrameType

BACKENDS = "hypernodes.backends"
CACHES = "hypernodes.caches"
CALLBACKS = "hypernodes.callbacks"
COMMANDS = "hypernodes.commands"
HASHERS = "hypernodes.hashers"
_GROUPS = (BACKENDS, CACHES, CALLBACKS, COMMANDS, HASHERS)

# The classes whose subclasses the entries of a group name: by module and name, since these are in layers above.
_BASES = {
    BACKENDS: ("hypernodes.backend.base", "Backend"),
    CACHES: ("hypernodes.cache.base", "Cache"),
    CALLBACKS: ("hypernodes.callbacks", "PipelineCallback"),
}
_MODULES = {BACKENDS: "hypernodes.backend", CACHES: "hypernodes.cache", CALLBACKS: "hypernodes"}
_CUTOFF = 0.8  # names of classes end alike: what is less similar than this is another class, e.g. `RayBackend`
_CUTOFF_OF_OWN = 0.85  # among names of core, which has `Backend`
# The distributions of our own extensions, so that the message about a missing one can name what to install.
_KNOWN_DISTRIBUTIONS = {
    "DaskBackend": (BACKENDS, "hypernodes-dask"),
    "DiskCache": (CACHES, "hypernodes-cache"),
    "ModalBackend": (BACKENDS, "hypernodes-modal"),
}
_KNOWN_COMMANDS = {"cache": "hypernodes-cache"}

_PathState: TypeAlias = tuple[tuple[str, int], ...]
_known_entries: dict[tuple[str, ...], tuple[_PathState, list[EntryPoint]]] = {}
_known_packages: dict[str, tuple[list[EntryPoint], frozenset[str]]] = {}


class Plugin(NamedTuple):
    """An installed extension.

    Attributes:
        name: The name it is registered under.
        class_name: The class that it provides.
        distribution: Name of the distribution it comes from.
        version: Version of that distribution.
        loadable: Whether it can be used.
        error: Why not: importing it fails, it is not such a class, or its name is ambiguous; None when it can be used.
    """

    name: str
    class_name: str
    distribution: str
    version: str
    loadable: bool
    error: str | None = None

    def __str__(self) -> str:
        return f"{self.name}: {self.class_name} from {self.distribution} {self.version}" + (
            "" if self.loadable else f" - not usable: {self.error}"
        )


def find_class(class_name: str, groups: Sequence[str], module_name: str) -> Any:
    """Return the class that an installed distribution registers under `class_name`.

    Args:
        class_name: Name of the class.
        groups: Entry point groups to search.
        module_name: The module on which the name was looked up, for the message.

    Raises:
        MissingPluginError: It is one of ours, and its distribution is not installed.
        PluginError: It is installed but cannot be used, or two distributions claim the name.
        AttributeError: No installed distribution registers the name.
        ImportError: The same, for `from module import name`, which shows nothing of an AttributeError.
    """
    entries = _entries(groups)
    matching = [entry for entry in entries if _class_name(entry) == class_name]
    if matching:
        rivals = [entry for entry in entries if any(entry.name == m.name and entry.group == m.group for m in matching)]
        _check_unique(class_name, {_key(entry): entry for entry in (*matching, *rivals)}.values())
        return _load(matching[0])
    known = {name: dist for name, (group, dist) in _KNOWN_DISTRIBUTIONS.items() if not groups or group in groups}
    if class_name in known:
        distribution = known[class_name]
        raise MissingPluginError(
            f"{class_name} is in the distribution {distribution}, which is not installed: pip install {distribution}",
            plugin_name=class_name,
            distributions=(distribution,),
        )
    own = vars(sys.modules[module_name]).get("__all__", ()) if module_name in sys.modules else ()
    hint = _elsewhere(class_name, groups) or suggest(class_name, (*map(_class_name, entries), *known), _CUTOFF)
    hint = hint or suggest(class_name, own, _CUTOFF_OF_OWN) or _listing(class_name, groups)
    if _is_from_import(sys._getframe(2)):
        raise ImportError(f"cannot import name {class_name!r} from {module_name!r}{hint}", name=module_name)
    raise AttributeError(f"module {module_name!r} has no attribute {class_name!r}{hint}", name=class_name)


def _is_from_import(frame: FrameType) -> bool:
    """Whether a frame, which asks a module for a name, executes `from module import name`.

    Before that, Python asks for the name in a frame of its own, and imports a submodule of this name if there is one.
    """
    from opcode import opmap

    return frame.f_code.co_code[frame.f_lasti] == opmap["IMPORT_FROM"]


def _elsewhere(class_name: str, groups: Sequence[str]) -> str:
    """Return where a class of another group is; empty when there is none."""
    for group, module in _MODULES.items():
        known = _KNOWN_DISTRIBUTIONS.get(class_name, ("", ""))[0]
        if group not in groups and (known == group or class_name in map(_class_name, _entries([group]))):
            return f" (it is in {module})"
    return ""


def _listing(class_name: str, groups: Sequence[str]) -> str:
    """Return what the distributions that are installed provide, where the kind of a class is known."""
    if len(groups) != 1:
        groups = [group for group in groups if class_name.endswith(_BASES[group][1])][:1]
    return f"; installed distributions provide {', '.join(class_names(groups)) or 'none'}" if groups else ""


def command_names() -> list[str]:
    """Return the names of the commands that installed distributions register, and of our own extensions' commands."""
    return sorted({*_KNOWN_COMMANDS, *(entry.name for entry in _entries([COMMANDS]))})


def find_command(name: str) -> Any:
    """Return the function that an installed distribution registers for a command.

    The function receives the `argparse.ArgumentParser` of its command. It adds arguments to it, and sets, with
    `set_defaults(run=...)`, a function that takes the parsed arguments and returns the exit status.

    Args:
        name: The word after `hypernodes`.

    Raises:
        MissingPluginError: It is one of ours, and its distribution is not installed.
        PluginError: It is installed but cannot be loaded, or two distributions claim the name.
    """
    entries = [entry for entry in _entries([COMMANDS]) if entry.name == name]
    if not entries:
        distribution = _KNOWN_COMMANDS.get(name, "?")
        raise MissingPluginError(
            f"the command {name!r} is in the distribution {distribution}, which is not installed: "
            f"pip install {distribution}",
            plugin_name=name,
            distributions=(distribution,),
        )
    _check_unique(name, entries)
    return _load(entries[0])


def class_names(groups: Iterable[str]) -> list[str]:
    """Return the names of the classes that installed distributions register."""
    return sorted({_class_name(entry) for entry in _entries(groups)})


def backends() -> list[Plugin]:
    """Return the installed backends: from which distribution and version, and whether they can be loaded.

    Example:
        >>> import hypernodes
        >>> "local" in [plugin.name for plugin in hypernodes.backends()]
        True
    """
    return _plugins(BACKENDS)


def caches() -> list[Plugin]:
    """Return the installed caches: from which distribution and version, and whether they can be loaded."""
    return _plugins(CACHES)


def extension_packages() -> frozenset[str]:
    """Return the import packages of the installed extensions, and of what they require, as their metadata says.

    Whoever sends code to another machine takes these as installed there, also where they are run from a checkout.
    """
    import re

    entries = _entries(_GROUPS)
    known = _known_packages.get("extensions")
    if known is None or known[0] is not entries:
        found = set(plugin_packages())
        for distribution in {entry.dist.name: entry.dist for entry in entries if entry.dist}.values():
            required = (text for text in distribution.requires or () if "extra ==" not in text)
            found.update(re.split(r"[^\w.-]", text, maxsplit=1)[0].replace("-", "_").lower() for text in required)
        known = _known_packages["extensions"] = (entries, frozenset(found))
    return known[1]


def plugin_packages() -> frozenset[str]:
    """Return the import packages that the entry points of installed extensions name; core's own is one of them."""
    entries = _entries(_GROUPS)
    known = _known_packages.get("plugins")
    if known is None or known[0] is not entries:
        found = frozenset(entry.value.partition(":")[0].partition(".")[0].strip() for entry in entries)
        known = _known_packages["plugins"] = (entries, found)
    return known[1]


caller.packages_of_extensions = plugin_packages


def _plugins(group: str) -> list[Plugin]:
    found = []
    entries = _entries([group])
    for entry in entries:
        error = None
        try:
            claims = (entry.name, _class_name(entry))
            _check_unique(
                entry.name, [other for other in entries if other.name in claims or _class_name(other) in claims]
            )
            _load(entry)
        except PluginError as problem:
            error = str(problem)
        name, version = _distribution(entry)
        found.append(Plugin(entry.name, _class_name(entry), name, version, error is None, error))
    return found


def _entries(groups: Iterable[str]) -> list[EntryPoint]:
    """Return the entry points of some groups, read again only when something may have been installed since.

    This must be fast: pickling a function without a module looks its name up in every imported module, also in ours.
    """
    path_state = _current_path_state()
    key = tuple(groups)
    known = _known_entries.get(key)
    if known is None or known[0] != path_state:
        known = _known_entries[key] = (path_state, _read_entries(key))
    return known[1]


def _current_path_state() -> _PathState:
    """Return the folders that are searched for distributions, with the times of their last changes."""
    path_state: list[tuple[str, int]] = []
    for path in sys.path:
        try:
            path_state.append((path, os.stat(path or ".").st_mtime_ns))
        except OSError:
            path_state.append((path, 0))
    return tuple(path_state)


def _read_entries(groups: Iterable[str]) -> list[EntryPoint]:
    from importlib.metadata import entry_points  # slow to import, so only when needed

    found = [entry for group in groups for entry in entry_points(group=group)]
    # An editable install next to a built one may list the same distribution twice.
    return sorted(
        {_key(entry): entry for entry in found}.values(), key=lambda entry: (entry.name, _distribution(entry))
    )


def _key(entry: EntryPoint) -> tuple[str, str, str, str]:
    return entry.group, entry.name, entry.value, _distribution(entry)[0]


def _check_unique(name: str, entries: Iterable[EntryPoint]) -> None:
    distributions = sorted({_distribution(entry)[0] for entry in entries})
    if len(distributions) > 1:
        raise PluginError(
            f"{name!r} is claimed by more than one distribution: {' and '.join(distributions)}. Uninstall one of them.",
            plugin_name=name,
            distributions=tuple(distributions),
        )


def _load(entry: EntryPoint) -> Any:
    distribution, version = _distribution(entry)
    what = f"{_class_name(entry) or entry.name} of {distribution} {version}"
    facts: dict[str, Any] = {"plugin_name": entry.name, "distributions": (distribution,)}
    try:
        found = entry.load()
    except KeyboardInterrupt:  # most likely the user's own
        raise
    except BaseException as error:  # a module that ends the process when it is imported is no plug-in
        reason = f"{type(error).__name__}: {error}"
        raise PluginError(f"{what} cannot be loaded from {entry.value!r}: {reason:.500}", **facts) from error
    problem = _misfit(entry.group, found)
    if problem:
        role = f"the entry point {entry.name!r} in the group {entry.group!r}"
        raise PluginError(f"{what} is not usable: {role} must name {problem}; it names {entry.value!r}", **facts)
    return found


def _misfit(group: str, found: Any) -> str:
    """Return what an entry of a group must be instead of what was found; empty when that is right."""
    if group not in _BASES:
        return "" if callable(found) else f"a function, not a {type(found).__name__}"
    module, name = _BASES[group]
    if isinstance(found, type):
        if any((base.__module__, base.__name__) == (module, name) for base in found.__mro__):
            return ""
        return f"a subclass of hypernodes.{name}, which class {found.__qualname__} is not"
    return f"a subclass of hypernodes.{name}, not a {type(found).__name__}"


def _class_name(entry: EntryPoint) -> str:
    return entry.value.partition(":")[2].partition("[")[0].strip()


def _distribution(entry: EntryPoint) -> tuple[str, str]:
    return (entry.dist.name, entry.dist.version) if entry.dist else ("unknown distribution", "")
