"""What a node's code consists of, piece by piece, to say which of them changed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from types import FunctionType, ModuleType
from typing import Any

from hypernodes.checks import shown
from hypernodes.errors import ConfigurationError
from hypernodes.nodes import Node
from hypernodes.signature import code
from hypernodes.signature.origin import INTERPRETER, origin_of_class, origin_of_function, origin_of_module
from hypernodes.signature.references import MissingModule
from hypernodes.signature.source import text_of
from hypernodes.signature.value import _RULES, _Rules, digest, new_memo
from hypernodes.signature.walk import UnhashableValueError, atom


def code_components(node: Node[..., Any]) -> dict[str, bytes]:
    """Return every function, class, constant and library that a node's code reaches, each with a digest of its own.

    Comparing two such dicts says what changed between them: the digest of a function is that of its text alone, not of
    what it calls.

    Args:
        node: The node.

    Returns:
        Digests by what people call the piece, e.g. "function normalise (text.py:14)", "constant LIMIT", "default k",
        "closure model", "numpy 2.1.0".

    Example:
        >>> from hypernodes import node
        >>> from hypernodes.signature import code_components
        >>> __name__ = "my_pipelines"  # code of the library itself is not looked into
        >>> LIMIT = 3
        >>> def capped(x, k=1):
        ...     return min(x + k, LIMIT)
        >>> sorted(label.partition(" (")[0] for label in code_components(node(capped)) if "python" not in label)
        ['constant LIMIT', 'default k', 'function capped']
    """
    if not isinstance(node, Node):
        raise ConfigurationError(f"node must be a Node; got {shown(node)}")
    found: dict[str, bytes] = {}
    memo = new_memo()
    rules = _Rules(memo)
    waiting: list[tuple[str, Any]] = [("", node.func)]
    seen: dict[int, Any] = {}  # and kept alive, since they are known by their ids

    def keep(label: str, own: bytes) -> None:
        number, name = 1, label
        while found.get(name, own) != own:
            number += 1
            name = f"{label} #{number}"
        found[name] = own

    for option, text in _options(node):
        keep(f"option {option}", atom(text.encode()))
    for _, settings in code.process_settings():
        keep("option decimal context", atom(repr(settings).encode()))
    keep(INTERPRETER, atom(INTERPRETER.encode()))
    while waiting:
        label, piece = waiting.pop(0)
        if id(piece) in seen and rules.is_code(piece):
            continue
        seen[id(piece)] = piece
        if type(piece) is FunctionType:
            origin = origin_of_function(piece)
            if origin:
                keep(origin, atom(origin.encode()))
                if label.isidentifier():  # the name may come to stand for another function
                    keep(f"constant {label}", atom(rules.parts(piece).tag))
            else:
                keep(_named("function", piece), atom(text_of(piece.__code__, piece.__globals__)))
            for part, child in code.function_children(piece):
                if part == ".__defaults__":
                    names = piece.__code__.co_varnames[: piece.__code__.co_argcount]
                    values = child or ()
                    waiting += [
                        (f"default {name}", value)
                        for name, value in zip(names[len(names) - len(values) :], values, strict=True)
                    ]
                elif part == ".__kwdefaults__":
                    waiting += [(f"default {name}", value) for name, value in (child or {}).items()]
                else:
                    waiting.append((name_of_reference(part), child))
        elif isinstance(piece, (type, ModuleType)) or type(piece) is MissingModule:
            if isinstance(piece, type):
                origin = origin_of_class(piece)
            else:
                origin = piece.origin if isinstance(piece, MissingModule) else origin_of_module(piece.__name__)
            if origin:
                keep(origin, atom(origin.encode()))
                continue
            children = [] if isinstance(piece, MissingModule) else rules.parts(piece).children
            kind = "class" if isinstance(piece, type) else "module"
            title = getattr(piece, "__qualname__", getattr(piece, "__name__", getattr(piece, "name", "")))
            keep(f"{kind} {title}", atom(",".join(part for part, _ in children).encode()))
            waiting += [(f"{title}{part}" if part.startswith(".") else part, child) for part, child in children]
        elif rules.is_code(piece):
            keep(f"{type(piece).__name__} {label}", atom(rules.parts(piece).tag))
            waiting += [(label, child) for _, child in _RULES[type(piece)](piece).children]
        else:
            title = label if label.startswith(("default ", "closure ")) else f"constant {label}"
            try:
                keep(title, digest(piece, memo))
            except UnhashableValueError as error:
                keep(f"{title} (cannot be identified: {error})", atom(b"unhashable"))
    return found


def _options(node: Node[..., Any]) -> Iterator[tuple[str, str]]:
    """Return the options of a node that make a difference to its results, with their values as text."""
    if node.version is not None:
        yield "version", repr(node.version)
    for option, names in (("cache_ignore", node.cache_ignore), ("skip_failures", node.skip_failures)):
        if names:
            yield option, ",".join(sorted(names))


def _named(kind: str, function: FunctionType) -> str:
    place = f"{os.path.basename(function.__code__.co_filename)}:{function.__code__.co_firstlineno}"
    return f"{kind} {function.__qualname__.replace('<locals>.', '')} ({place})"


def name_of_reference(label: str) -> str:
    """Return what people call the thing that a function refers to."""
    start, _, name = label.removeprefix(" → ").partition(" ")
    name = name.replace("'", "")
    return f"closure {name}" if start == "closure" else name or start
