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
_known: WeakKeyDictionary[Node[..., Any], Any] = WeakKeyDictionary()  # what was warned about
_compared: WeakKeyDictionary[Node[..., Any], tuple[Any, bool]] = WeakKeyDictionary()  # and whether it does the same
_variables: WeakKeyDictionary[Node[..., Any], str] = WeakKeyDictionary()  # names of nodes when a pipeline took them


def is_interactive() -> bool:
    """Whether definitions may be executed again in this process: it is a notebook or an interactive session."""
    return hasattr(sys, "ps1") or _shell() is not None


class WatchedPlans(dict[tuple[Any, ...], Any]):
    """The plans of a pipeline in an interactive session: looks for newer functions whenever one is used."""

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self._graph = graph
        names = {id(value): name for name, value in list(vars(sys.modules["__main__"]).items())}
        for node in graph.nodes:
            if isinstance(node, Node) and id(node) in names:
                _variables[node] = names[id(node)]

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
            if newer is not None and _known.get(node) is not newer:
                _known[node] = newer
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
                own, now = _function(node.func), _function(newer.func if isinstance(newer, Node) else newer)
                place = f" in {_place(now.__code__)}" if now is not None else ""
                old = f" ({_place(own.__code__)})" if own is not None else ""
                name = node.name if own is not None and own.__name__ == node.name else _variables.get(node, node.name)
                yield node, f"`{name}`{place} is newer than the one in this pipeline{old}"


def _newer(node: Node[..., Any]) -> Any:
    """Return the node or function that has the name of a node now, if it was defined later and is another one."""
    own = _function(node.func)
    now = _named_like(node, own)
    found = _function(now.func if isinstance(now, Node) else now)
    if now is None or now is node or now is node.func or (found is own and own is not None):
        return None
    if own is not None and found is not None:
        is_one_file = found.__code__.co_filename == own.__code__.co_filename
        if is_one_file and (any(part in own.__code__.co_filename for part in _CELLS) or not is_interactive()):
            return None  # both were defined in one go, one after the other
    last = _compared.get(node)
    if last is None or last[0] is not now:
        last = _compared[node] = (now, _is_same(node, now, own, found))
    return None if last[1] else now


def _named_like(node: Node[..., Any], own: FunctionType | None) -> Any:
    """Return what has the name of a node's function now, or that of the variable that the node was in."""
    if own is not None and own.__name__.isidentifier():
        if "." in own.__qualname__:
            return None
        now = own.__globals__.get(own.__name__)
        found = _function(now.func if isinstance(now, Node) else now)
        is_alike = found is not None and found.__globals__ is own.__globals__ and found.__qualname__ == own.__qualname__
        return now if is_alike else None
    now = vars(sys.modules["__main__"]).get(_variables.get(node, ""))
    if not isinstance(now, Node) or now.outputs != node.outputs:
        return None  # the variable is used for something else
    return now if type(now.func).__qualname__ == type(node.func).__qualname__ else None


def _is_same(node: Node[..., Any], now: Any, own: FunctionType | None, found: FunctionType | None) -> bool:
    """Whether a node or function does what a node does: by code, defaults, decorators, and options."""
    from hypernodes import signature
    from hypernodes.signature.source import text_of

    if isinstance(now, Node) and _options(now) != _options(node):
        return False
    memo = signature.new_memo()
    try:
        return signature.digest(now.func if isinstance(now, Node) else now, memo) == signature.digest(node.func, memo)
    except Exception:  # what cannot be identified is compared by its text
        if own is None or found is None:
            return True
        return text_of(found.__code__, found.__globals__) == text_of(own.__code__, own.__globals__)


def _options(node: Node[..., Any]) -> str:
    _, (_, output_name, options, conditions, _) = node.reduce_by_value()
    return repr((output_name, [value for value in options.values() if not callable(value)], conditions))


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
