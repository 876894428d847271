"""Finds nodes whose functions have been defined anew since the pipeline was built: it still runs the old ones.

That happens where definitions are executed again while pipelines stay: in notebooks, in interactive sessions, and after
`importlib.reload`. Scripts are not looked at, and cost nothing.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Iterator
from types import CodeType, FunctionType
from typing import Any
from weakref import WeakKeyDictionary

from hypernodes.caller import warn_caller
from hypernodes.errors import HyperNodesWarning
from hypernodes.graph import Graph
from hypernodes.nodes import Node

_CELLS = ("<ipython-input-", "ipykernel_")  # how the files begin, or are in folders, that notebooks have for cells
_known: WeakKeyDictionary[Node[..., Any], CodeType] = WeakKeyDictionary()  # the newer code that was warned about


def is_interactive() -> bool:
    """Whether definitions may be executed again in this process: it is a notebook or an interactive session."""
    return hasattr(sys, "ps1") or _shell() is not None


class WatchedPlans(dict[tuple[Any, ...], Any]):
    """The plans of a pipeline in an interactive session: looks for newer functions whenever one is used."""

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self._graph = graph

    def __getitem__(self, key: tuple[Any, ...]) -> Any:
        plan = super().__getitem__(key)
        self._look()
        return plan

    def get(self, key: tuple[Any, ...], default: Any = None) -> Any:
        found = super().get(key, default)
        self._look()
        return found

    def __setitem__(self, key: tuple[Any, ...], plan: Any) -> None:
        super().__setitem__(key, plan)
        self._look()

    def _look(self) -> None:
        for node, text in newer_functions(self._graph):
            newer = _newer(node)
            if newer is not None and _known.get(node) is not newer.__code__:
                _known[node] = newer.__code__
                warn_caller(f"{text}. Build the pipeline again to use it.", HyperNodesWarning)


def newer_functions(graph: Graph) -> Iterator[tuple[Node[..., Any], str]]:
    """Return the nodes, also of nested pipelines, whose functions have been defined anew, and say so of each."""
    waiting = [graph]
    while waiting:
        for node in waiting.pop().nodes:
            if not isinstance(node, Node):
                nested: Any = node
                waiting.append(nested.pipeline.graph)
                continue
            newer = _newer(node)
            if newer is not None:
                own = _function(node.func)
                old = f" ({_place(own.__code__)})" if own is not None else ""
                yield node, f"`{node.name}` in {_place(newer.__code__)} is newer than the one in this pipeline{old}"


def _newer(node: Node[..., Any]) -> FunctionType | None:
    """Return the function that has the name of a node's function now, if it was defined later and is another one."""
    own = _function(node.func)
    if own is None or "." in own.__qualname__:
        return None
    now = own.__globals__.get(own.__name__)
    found = _function(now.func if isinstance(now, Node) else now)
    if found is None or found is own or found.__globals__ is not own.__globals__ or found.__code__ == own.__code__:
        return None
    if found.__qualname__ != own.__qualname__:
        return None
    file = own.__code__.co_filename
    if found.__code__.co_filename == file and (any(part in file for part in _CELLS) or not is_interactive()):
        return None  # both were defined in one go, one after the other
    from hypernodes.signature.source import text_of

    same = text_of(found.__code__, found.__globals__) == text_of(own.__code__, own.__globals__)
    return None if same else found


def _function(func: Any) -> FunctionType | None:
    while True:
        if isinstance(func, functools.partial):
            func = func.func
        elif hasattr(func, "__wrapped__"):
            func = func.__wrapped__
        else:
            return func if isinstance(func, FunctionType) else None


def _place(code: CodeType) -> str:
    """Return where code was defined: the number of a cell, or file and line."""
    numbers = getattr(getattr(_shell(), "compile", None), "_filename_map", {})
    number = numbers.get(code.co_filename) if isinstance(numbers, dict) else None
    return f"cell {number}" if number is not None else f"{os.path.basename(code.co_filename)}:{code.co_firstlineno}"


def _shell() -> Any:
    """Return IPython's shell, which also runs notebooks; None where there is none."""
    module = sys.modules.get("IPython")
    found = getattr(module, "get_ipython", None)
    return found() if callable(found) else None
