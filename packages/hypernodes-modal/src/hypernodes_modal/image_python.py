"""Which version of Python an image will have, as far as it was said when the image was described."""

from __future__ import annotations

import re
import sys
from inspect import getclosurevars
from typing import Any

import modal


def python_version_of(image: modal.Image) -> str | None:
    """Return the minor version ("3.12"); None when only building the image tells.

    Modal tells nobody before the image is built. What it was described with is kept in its own functions, so that this
    may find nothing with another version of Modal.
    """
    try:
        from modal._utils.async_utils import synchronizer

        found = _described(synchronizer._translate_in(image))  # type: ignore[no-untyped-call]
    except Exception:
        return None
    minor = re.match(r"3\.\d+", found or "")
    return minor[0] if minor is not None else None


def _described(layer: Any) -> str | None:
    outer = dict(getclosurevars(layer._load).nonlocals)
    written = outer.get("dockerfile_function")
    outer |= getclosurevars(written).nonlocals if written is not None else {}
    if outer.get("add_python") is not None:
        return str(outer["add_python"])
    if "python_version" in outer:  # Modal takes the caller's own when nothing is said
        return str(outer["python_version"] or "{}.{}".format(*sys.version_info[:2]))
    below = [part for part in layer._deps() if type(part) is type(layer)] if layer._deps is not None else []
    return _described(below[0]) if below else None
