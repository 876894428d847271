"""The packages that an image installs, where its definition says so."""

from __future__ import annotations

import re
from collections.abc import Iterable
from importlib import metadata
from inspect import getclosurevars
from typing import Any

import modal
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

# Layers that install no packages of Python.
_OTHER_LAYERS = frozenset({"debian_slim", "apt_install", "env", "workdir", "entrypoint"})
_ADDED = ("modal", "hypernodes-modal")  # their requirements are there for certain
_LAYER = re.compile(r"_Image\.(\w+)\.<locals>")


def packages_of(image: modal.Image) -> set[str] | None:
    """Return the canonical names of the distributions in an image, with what they require as far as that is known here.

    None if the definition does not say, as for an image from a registry. Modal has no interface for this. What
    is installed is read from the closures of its functions, so that with another version of Modal it may not be found.
    """
    try:
        from modal._utils.async_utils import synchronizer

        named = _named_in_definition(synchronizer._translate_in(image))  # type: ignore[no-untyped-call]
    except Exception:
        return None
    return None if named is None else _with_requirements([*named, *_ADDED])


def _named_in_definition(layer: Any) -> list[str] | None:
    dockerfile = getclosurevars(layer._load).nonlocals.get("dockerfile_function")
    below = [part for part in layer._deps() if type(part) is type(layer)] if layer._deps is not None else []
    named: list[str] = []
    if dockerfile is not None:
        match = _LAYER.search(dockerfile.__qualname__)
        kind = match[1] if match is not None else ""
        if kind in ("pip_install", "uv_pip_install"):
            outer = getclosurevars(dockerfile).nonlocals
            if outer.get("requirements"):
                return None  # it is in files, which can change until the image is built
            named = list(outer["pkgs"])
        elif kind not in _OTHER_LAYERS:
            return None
        if kind == "debian_slim":
            return named
    elif not below:
        return None
    under = _named_in_definition(below[0]) if below else None
    return None if under is None else named + under


def _with_requirements(named: Iterable[str]) -> set[str] | None:
    """Return distributions and all that they require; None if that is not known here.

    What is required on another system counts as there, and what is required and not installed here has no requirements.
    """
    found: set[str] = set()
    seen: set[str] = set()
    waiting = [(each, True) for each in named]
    while waiting:
        text, is_named = waiting.pop()
        try:
            requirement = Requirement(text)
            requires = metadata.requires(requirement.name) or []
        except (InvalidRequirement, metadata.PackageNotFoundError):  # a path or an address, or not installed here
            if is_named:
                return None
            continue
        key = f"{canonicalize_name(requirement.name)}{sorted(requirement.extras)}"
        if key not in seen:
            seen.add(key)
            found.add(canonicalize_name(requirement.name))
            waiting += [(each, False) for each in requires if _applies(Requirement(each), requirement.extras)]
    return found


def _applies(requirement: Requirement, extras: set[str]) -> bool:
    marker = requirement.marker
    if marker is None or "extra" not in str(marker):
        return True
    return any(marker.evaluate({"extra": extra}) for extra in extras)
