"""The version of Python that an image will have, where its definition says so."""

from __future__ import annotations

import re
import sys
from inspect import getclosurevars
from typing import Any

import modal


def python_version_of(image: modal.Image) -> str | None:
    """Return the minor version ("3.12"); None if it is not known before the image is built.

    Modal has no interface for this. The version is read from the closures of its functions, so that with another
    version of Modal it may not be found.
    """
    try:
        from modal._utils.async_utils import synchronizer

        found = _version_in_definition(synchronizer._translate_in(image))  # type: ignore[no-untyped-call]
    except Exception:
        return None
    minor = re.match(r"3\.\d+", found or "")
    return minor[0] if minor is not None else None


def _version_in_definition(layer: Any) -> str | None:
    outer = dict(getclosurevars(layer._load).nonlocals)
    dockerfile = outer.get("dockerfile_function")
    outer |= getclosurevars(dockerfile).nonlocals if dockerfile is not None else {}
    if outer.get("add_python") is not None:
        return str(outer["add_python"])
    if "python_version" in outer:  # without one, Modal takes the caller's
        return str(outer["python_version"] or "{}.{}".format(*sys.version_info[:2]))
    below = [part for part in layer._deps() if type(part) is type(layer)] if layer._deps is not None else []
    return _version_in_definition(below[0]) if below else None
