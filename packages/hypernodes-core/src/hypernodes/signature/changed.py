"""Which of the things that a node's code refers to are not what they were when the node was identified."""

from __future__ import annotations

from types import FunctionType
from typing import Any

from hypernodes.nodes import Node
from hypernodes.signature import memo as known_code
from hypernodes.signature.components import name_of_reference
from hypernodes.signature.travel import code_digest
from hypernodes.signature.value import new_memo

UNNAMED = "something"


def changed_parts(node: Node[..., Any], digest: bytes) -> dict[str, bytes]:
    """Return what has changed since a node was identified, by the labels of `code_components`.

    Args:
        node: The node.
        digest: The digest of its code.

    Returns:
        The digest of the content that each had; empty where it is not known. `UNNAMED` stands for what has no label.
    """
    fresh = new_memo()
    changes = known_code.changes(node, fresh)
    if changes is None:
        return {} if code_digest(node, fresh) == digest else {UNNAMED: b""}
    found: dict[str, bytes] = {}
    for target, label, before in changes:
        if isinstance(target, FunctionType) and label not in (".__defaults__", ".__kwdefaults__"):
            name = name_of_reference(label)
            found[name if name.startswith("closure ") else f"constant {name}"] = before
        elif isinstance(target, FunctionType):
            found |= {f"default {name}": b"" for name in _changeable_defaults(target)}
        elif label.startswith("."):
            found[f"constant {getattr(target, '__qualname__', getattr(target, '__name__', ''))}{label}"] = before
        else:
            found[UNNAMED] = b""
    return found


def _changeable_defaults(function: FunctionType) -> list[str]:
    """Return the parameters whose defaults can change in place."""
    code, values = function.__code__, function.__defaults__ or ()
    named = dict(zip(code.co_varnames[code.co_argcount - len(values) : code.co_argcount], values, strict=True))
    named |= function.__kwdefaults__ or {}
    return [name for name, value in named.items() if not isinstance(value, (str, int, float, bytes, type(None)))]
