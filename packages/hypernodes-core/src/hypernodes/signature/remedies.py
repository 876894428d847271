"""What to do about an object that cannot be identified by its content, by the kind of the object."""

from __future__ import annotations

import functools
import io
from collections.abc import Sequence
from types import (
    AsyncGeneratorType,
    CodeType,
    CoroutineType,
    FunctionType,
    MappingProxyType,
    MethodType,
    ModuleType,
)
from typing import Any

from hypernodes.nodes import Node
from hypernodes.signature.object_state import class_name
from hypernodes.signature.origin import origin_of_class
from hypernodes.signature.references import MissingModule, Unknowable
from hypernodes.signature.walk import UnhashableValueError

# What an object may be a part of without being hidden by it.
_CONTAINERS = (
    Node,
    FunctionType,
    CodeType,
    MethodType,
    ModuleType,
    MappingProxyType,
    functools.partial,
    staticmethod,
    classmethod,
    property,
    list,
    tuple,
    dict,
    set,
    frozenset,
)
# By the packages of their classes: what lets threads and tasks wait for each other, or runs them ...
_SYNCHRONISING = frozenset({"_thread", "threading", "asyncio", "concurrent", "multiprocessing", "loky"})
_HOLDS_VALUES = ("Queue", "Future", "Manager", "Value", "Array", "local")  # unlike others of these packages
# ... and what is open: files, connections, clients.
_OPEN = frozenset(
    {"_io", "_socket", "_sqlite3", "_ssl", "ftplib", "http", "imaplib", "mmap", "select", "shelve", "smtplib", "socket"}
    | {"sqlite3", "ssl", "subprocess", "tarfile", "tempfile", "zipfile"}
    | {"aiohttp", "asyncpg", "boto3", "botocore", "h5py", "httpx", "mysql", "openai", "paramiko", "psycopg", "psycopg2"}
    | {"pymongo", "pymysql", "redis", "requests", "sqlalchemy", "urllib3"}
)


def advice(error: Exception, parameter: str | None = None) -> str:
    """Return what to do about an object that cannot be identified, as sentences.

    Args:
        error: Why it cannot be identified.
        parameter: The parameter of nodes that it is passed as; None when their code refers to it.
    """
    chain: Sequence[tuple[Any, type]] = getattr(error, "chain", ())
    if not isinstance(error, UnhashableValueError) or not chain:
        return "Give its class __cache_key__(), or name attributes that do not matter in __cache_ignore__."
    kind = chain[-1][1]
    if kind in (Unknowable, MissingModule):
        return ""  # the reason says it
    position = next((i for i, (_, held) in enumerate(chain) if _hides_content(held)), None)
    if position is None:
        return f"Give class {kind.__name__} __cache_key__(), or name attributes that do not matter in __cache_ignore__."
    for i in range(position - 1, -1, -1):
        owner, label = chain[i][1], chain[i + 1][0]
        if not issubclass(owner, (*_CONTAINERS, type)):
            return _leave_out_attribute(owner, str(label))
    is_default = any(str(label).startswith((".__defaults__", ".__kwdefaults__")) for label, _ in chain)
    return _of_kind(chain[position][1], parameter, is_default)


def _hides_content(kind: type) -> bool:
    return not issubclass(kind, (*_CONTAINERS, type)) and bool(origin_of_class(kind))


def _leave_out_attribute(owner: type, label: str) -> str:
    own_key = f"give class {owner.__name__} __cache_key__(), which says what identifies its objects"
    if label.startswith(".") and label[1:].isidentifier():
        ignored = f"__cache_ignore__ = ({label[1:]!r},) in class {owner.__name__}"
        return f"If it does not affect results, leave it out: {ignored}; or {own_key}."
    return f"{own_key[0].upper()}{own_key[1:]}."


def _of_kind(kind: type, parameter: str | None, is_default: bool) -> str:
    package = kind.__module__.partition(".")[0]
    if parameter:
        leave_it_out = f"leave it out: @node(cache_ignore={parameter!r})"
    else:
        instead = " instead of making it a default, which counts as code" if is_default else ""
        leave_it_out = f"pass it as an input{instead}, and leave that out with @node(cache_ignore=...)"
    if kind is object:
        return "Make it a variable of a module, which gives it a name, or use a member of an Enum."
    if issubclass(kind, (CoroutineType, AsyncGeneratorType)):
        return "Await it first, and pass what it returns." if parameter else "Await it inside the node."
    if issubclass(kind, io.IOBase) or package in _OPEN:
        where = "from what says where it is (a path, an address)"
        return f"Open it inside the node, {where}; or, if it does not affect results, {leave_it_out}."
    if hasattr(kind, "__next__"):
        return f"Pass a list: list({parameter})." if parameter else "Make it a list."
    if package in _SYNCHRONISING and not any(part in kind.__name__ for part in _HOLDS_VALUES):
        return f"It does not affect results, so {leave_it_out}."
    text = f"if it does not affect results, {leave_it_out}"
    if not parameter:
        text = f"make it inside the node; or, {text}"
    if package != "builtins":
        text += f"; or say what identifies such objects: hypernodes.signature.register({class_name(kind)}, function)"
    return f"{text[0].upper()}{text[1:]}."
