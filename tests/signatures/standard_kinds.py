"""More kinds of values: the standard library, type by type; see `value_kinds`."""

from __future__ import annotations

from tests.signatures.value_kinds import kind

HANDLE = "it holds something of this process, which has no content to compare"

# --- numbers, texts, bytes ---------------------------------------------------------------------------------------

kind("int", "", ("1", "int('1')"), "2", "1.0", "True", "'1'", "b'1'", "1 + 0j", "10**30", "-1")
kind("bool", "", "True", "False", "1", "'True'")
kind("none", "", "None", "False", "0", "''", "...", "NotImplemented")
kind("complex", "", ("1 + 2j", "complex(1, 2)"), "1 - 2j", "2 + 1j", "complex(-0.0, 2)", "complex(1)")
kind("infinity", "", ("float('inf')", "1e999"), "-float('inf')", "float('nan')", "1.7e308")
kind("long text", "", ("'ab' * 5000", "''.join(['ab'] * 5000)"), "'ab' * 4999 + 'ba'", "'ab' * 5001", "b'ab' * 5000")
kind("text with surrogates", "", r"'\ud800'", r"'\ud801'", r"'\ufffd'")
kind("texts that only look the same", "", r"'\u00e9'", r"'e\u0301'", "'e'")
kind("bytes", "", ("b'ab'", "bytes([97, 98])"), "b'ba'", "bytearray(b'ab')", "memoryview(b'ab')", "'ab'", "[97, 98]")
kind("fraction", "from fractions import Fraction as F", ("F(1, 2)", "F('0.5')"), "F(1, 3)", "0.5", "F(2)")
kind(
    "decimal in full",
    "from decimal import Decimal as D",
    ("D('1.10')", "D((0, (1, 1, 0), -2))"),
    "D('1.1')",
    "D('-1.10')",
    "D('NaN')",
    "D('sNaN')",
    "D('Infinity')",
)
kind("decimal context", "import decimal", "decimal.Context(prec=5)", "decimal.Context(prec=6)")

# --- containers --------------------------------------------------------------------------------------------------

kind("list", "", ("[1, 2]", "list((1, 2))"), "[2, 1]", "(1, 2)", "{1, 2}", "[1]", "[[1, 2]]", "[1, [2]]", "[1, 2.0]")
kind("nesting", "", "[[1], [2]]", "[[1, 2]]", "[[1], 2]", "[[], [1], [2]]", "[[1], [2], []]", "([1], [2])")
kind("empty things", "", "[]", "()", "{}", "set()", "frozenset()", "''", "b''", "None", "range(0)")
kind(
    "frozen set",
    "",
    ("frozenset({1, 'a', None})", "frozenset([None, 'a', 1])"),
    "frozenset({1, 'a'})",
    "{1, 'a', None}",
)
kind("keys of several types", "", "{1: 'a', '1': 'b'}", "{1: 'b', '1': 'a'}", "{'1': 'b', 1: 'a'}")
kind("shared and equal parts", "a = [1]", ("[a, a]", "[[1], [1]]"), "[a]", "[a, [2]]")
kind("long list", "", ("list(range(10_000))", "[*range(10_000)]"), "list(range(10_001))", "[*range(9_999), 0]")
kind(
    "long dict",
    "",
    "{n: n for n in range(9_000)}",
    "{n: n for n in reversed(range(9_000))}",
    "{n: -n for n in range(9_000)}",
)
kind("range", "", ("range(0, 10, 3)", "range(0, 10, 3)"), "range(0, 11, 3)", "range(0, 10, 2)", "[0, 3, 6, 9]")
kind("slice", "", "slice(1, 2)", "slice(1, 3)", "slice(1, 2, 1)", "slice(None, 2)")
kind("mapping proxy", "from types import MappingProxyType as M", "M({'a': 1})", "M({'a': 2})", "{'a': 1}")
kind(
    "chain of mappings",
    "from collections import ChainMap as C",
    "C({'a': 1}, {'b': 2})",
    "C({'b': 2}, {'a': 1})",
    "C({'a': 1})",
)
kind(
    "user's containers",
    "import collections as c",
    "c.UserDict(a=1)",
    "c.UserDict(a=2)",
    "c.UserList([1])",
    "c.UserString('a')",
)
kind(
    "simple namespace",
    "from types import SimpleNamespace as N",
    ("N(a=1, b=2)", "N(b=2, a=1)"),
    "N(a=1)",
    "N(a=2, b=1)",
)
kind(
    "array of the standard library",
    "from array import array",
    ("array('i', [1, 2])", "array('i', range(1, 3))"),
    "array('i', [2, 1])",
    "array('l', [1, 2])",
    "array('f', [1, 2])",
    "[1, 2]",
)
kind(
    "deque with a limit",
    "from collections import deque",
    "deque([1, 2], 3)",
    "deque([1, 2], 4)",
    "deque([2, 1], 3)",
    "deque([1, 2])",
)
kind(
    "named tuple",
    "from collections import namedtuple\nP = namedtuple('P', 'x y')\nQ = namedtuple('Q', 'x y')\nR = namedtuple('P', 'y x')",
    ("P(1, 2)", "P(y=2, x=1)"),
    "P(2, 1)",
    "Q(1, 2)",
    "R(1, 2)",
    "(1, 2)",
)
kind(
    "typed named tuple",
    "from typing import NamedTuple\nclass P(NamedTuple):\n    x: int\n    y: int = 0\n    def norm(self): return self.x\nclass Q(NamedTuple):\n    x: int\n    y: int = 0\n    def norm(self): return self.y",
    ("P(1)", "P(1, 0)"),
    "P(1, 1)",
    "Q(1)",
)

# --- classes of one's own ----------------------------------------------------------------------------------------

kind(
    "data class",
    "from dataclasses import dataclass, field\n@dataclass\nclass P:\n    x: int\n    y: list = field(default_factory=list)\n@dataclass\nclass Q:\n    x: int\n    y: list = field(default_factory=list)\n    def area(self): return 1",
    ("P(1)", "P(x=1, y=[])"),
    "P(2)",
    "P(1, [1])",
    "Q(1)",
)
kind(
    "data class with slots",
    "from dataclasses import dataclass\n@dataclass(slots=True, frozen=True)\nclass P:\n    x: int\n    y: int = 0\n@dataclass(slots=True)\nclass Q:\n    x: int\n    y: int = 0",
    ("P(1)", "P(1, 0)"),
    "P(1, 1)",
    "Q(1)",
)
kind(
    "a field that is not compared",
    "from dataclasses import dataclass, field\n@dataclass\nclass P:\n    x: int\n    note: str = field(default='', compare=False, repr=False)",
    "P(1)",
    "P(1, 'a')",
)
kind(
    "slots",
    "class C:\n    __slots__ = ('a', 'b')\ndef make(**k):\n    c = C()\n    [setattr(c, n, v) for n, v in k.items()]\n    return c",
    ("make(a=1, b=2)", "make(b=2, a=1)"),
    "make(a=1)",
    "make(a=2, b=1)",
)
kind("private attributes", "class C:\n    def __init__(self, v): self.__v = v", "C(1)", "C(2)")
kind("an attribute of a base class", "class A: k = 1\nclass B: k = 2\nclass C(A): pass\nclass D(B): pass", "C()", "D()")
kind(
    "the text of a method",
    "class C:\n    def f(self): return 1\nclass D:\n    def f(self): return 2\nD.__name__ = D.__qualname__ = 'C'",
    "C()",
    "D()",
)
kind(
    "a class attribute that was set later",
    "class C: pass\nclass D: pass\nD.__name__ = D.__qualname__ = 'C'\nD.k = 1",
    "C()",
    "D()",
)
kind(
    "a metaclass",
    "class M(type): pass\nclass C(metaclass=M): pass\nclass D: pass\nD.__name__ = D.__qualname__ = 'C'",
    "C()",
    "D()",
)
kind(
    "descriptor",
    "class D:\n    def __init__(self, k): self.k = k\n    def __get__(self, o, t=None): return self.k\nclass C: a = D(1)\nclass E: a = D(2)\nE.__name__ = E.__qualname__ = 'C'",
    "C()",
    "E()",
)
kind(
    "class attributes that are containers",
    "class C: a = {'x': [1]}\nclass D: a = {'x': [2]}\nD.__name__ = D.__qualname__ = 'C'",
    "C()",
    "D()",
)
kind(
    "integer enum",
    "import enum\nclass E(enum.IntEnum):\n    A = 1\n    B = 2\nclass F(enum.IntEnum):\n    A = 1\n    B = 3",
    ("E.A", "E(1)"),
    "E.B",
    "F.A",
    "1",
)
kind("text enum", "import enum\nclass E(enum.StrEnum):\n    A = 'a'", "E.A", "'a'", "'A'")
kind("alias of an enum member", "import enum\nclass E(enum.Enum):\n    A = 1\n    B = 1", ("E.A", "E.B"), "E")
kind(
    "what __cache_key__ says",
    "class C:\n    def __init__(self, k, r): self.k, self.r = k, r\n    def __cache_key__(self): return self.k",
    ("C(1, 2)", "C(1, 3)"),
    "C(2, 2)",
    "1",
)
kind(
    "what __cache_ignore__ leaves out",
    "class C:\n    __cache_ignore__ = ('r',)\n    def __init__(self, k, r): self.k, self.r = k, r",
    ("C(1, 2)", "C(1, 3)"),
    "C(2, 2)",
)
kind(
    "callable object",
    "class C:\n    def __init__(self, k): self.k = k\n    def __call__(self): return self.k",
    "C(1)",
    "C(2)",
)
kind(
    "generic class",
    "from typing import Generic, TypeVar\nT = TypeVar('T')\nclass C(Generic[T]):\n    def __init__(self, v): self.v = v",
    "C(1)",
    "C(2)",
    "C[int](1)",
)

# --- code --------------------------------------------------------------------------------------------------------

kind("lambda", "", ("lambda x: x + 1", "lambda x: x  +  1"), "lambda x: x + 2", "lambda y: y + 1", "lambda x, y: x + 1")
kind(
    "closure", "def make(k):\n    def f(x): return x + k\n    return f", "make(1)", "make(2)", "make('1')", "make([1])"
)
kind(
    "defaults",
    "def a(x, k=1): return x\ndef b(x, k=2): return x\ndef c(x, *, k=1): return x\nb.__name__ = c.__name__ = 'a'",
    "a",
    "b",
    "c",
)
kind("global variables", "K, L = 1, 2\ndef a(x): return x + K\ndef b(x): return x + L", "a", "b")
kind("helpers", "def h(x): return 1\ndef g(x): return 2\ndef a(x): return h(x)\ndef b(x): return g(x)", "a", "b")
kind(
    "bound method",
    "class C:\n    def __init__(self, k): self.k = k\n    def f(self): return self.k\n    def g(self): return -self.k",
    "C(1).f",
    "C(2).f",
    "C(1).g",
)
kind(
    "partial function",
    "from functools import partial\ndef f(*a, **k): return a",
    "partial(f, 1, k=2)",
    "partial(f, 1, k=3)",
    "partial(f, 2, k=2)",
    "partial(f, 1, 2)",
)
kind(
    "cached function",
    "from functools import cache, lru_cache\ndef f(x): return x\ndef g(x): return -x",
    "cache(f)",
    "cache(g)",
    "lru_cache(maxsize=2)(f)",
)
kind(
    "single dispatch",
    "from functools import singledispatch\ndef make(k):\n    @singledispatch\n    def f(x): return 0\n    @f.register\n    def _(x: int): return k\n    return f",
    "make(1)",
    "make(2)",
)
kind(
    "operators",
    "from operator import itemgetter as i, attrgetter as a, methodcaller as m",
    "i(1)",
    "i(2)",
    "i(1, 2)",
    "a('b')",
    "a('c')",
    "m('b')",
    "m('b', 1)",
    "m('b', k=1)",
)
kind("code object", "", "compile('1 + 1 * x', 'a', 'eval')", "compile('1 + 2 * x', 'a', 'eval')")
kind("syntax tree", "import ast", "ast.parse('a + 1')", "ast.parse('a + 2')", "ast.parse('a - 1')")
kind(
    "signature of a function",
    "import inspect",
    "inspect.signature(lambda a, b=1: 0)",
    "inspect.signature(lambda a, b=2: 0)",
    "inspect.signature(lambda a: 0)",
)
kind(
    "type hints",
    "import typing as t",
    "list[int]",
    "list[str]",
    "t.List[int]",
    "dict[str, int]",
    "t.Optional[int]",
    "int | str",
    "t.Literal['a']",
    "t.Literal['b']",
    "t.Callable[[int], str]",
    "t.Any",
)
kind("modules", "import json, csv", "json", "csv")
kind("coroutine function", "async def a(): return 1\nasync def b(): return 2", "a", "b")

# --- the standard library, by module --------------------------------------------------------------------------------

kind(
    "date and time",
    "from datetime import *",
    "datetime(2020, 1, 1)",
    "datetime(2020, 1, 1, tzinfo=timezone.utc)",
    "datetime(2020, 1, 1, fold=1)",
    "datetime(2020, 1, 1, 0, 0, 0, 1)",
    "date(2020, 1, 1)",
    "'2020-01-01T00:00:00'",
)
kind(
    "duration",
    "from datetime import *",
    ("timedelta(1)", "timedelta(hours=24)"),
    "timedelta(2)",
    "timedelta(1, microseconds=1)",
    "86400",
)
kind(
    "fixed zone",
    "from datetime import *",
    "timezone(timedelta(hours=1))",
    "timezone(timedelta(hours=2))",
    "timezone(timedelta(hours=1), 'CET')",
)
kind(
    "uuid",
    "import uuid",
    ("uuid.UUID(int=1)", "uuid.UUID('00000000-0000-0000-0000-000000000001')"),
    "uuid.UUID(int=2)",
    "1",
)
kind(
    "addresses",
    "import ipaddress as i",
    "i.ip_address('10.0.0.1')",
    "i.ip_address('10.0.0.2')",
    "i.ip_network('10.0.0.0/8')",
    "i.ip_network('10.0.0.0/9')",
    "i.ip_address('::1')",
    "i.ip_interface('10.0.0.1/8')",
)
kind(
    "paths",
    "from pathlib import *",
    ("PurePosixPath('a/b')", "PurePosixPath('a') / 'b'"),
    "PurePosixPath('a/c')",
    "PureWindowsPath('a/b')",
    "'a/b'",
    "PurePosixPath('a/b/..')",
)
kind(
    "regular expression",
    "import re",
    ("re.compile('a+')", "re.compile(r'a+')"),
    "re.compile('a*')",
    "re.compile('a+', re.I)",
    "re.compile(b'a+')",
    "'a+'",
)
kind(
    "parts of an address",
    "from urllib.parse import *",
    "urlsplit('http://a/b?c')",
    "urlsplit('http://a/b?d')",
    "urlparse('http://a/b?c')",
)
kind(
    "text in memory",
    "import io\ndef at(f, n):\n    f.seek(n)\n    return f",
    "io.StringIO('ab')",
    "io.StringIO('ac')",
    "at(io.StringIO('ab'), 1)",
    "io.BytesIO(b'ab')",
    "at(io.BytesIO(b'ab'), 1)",
)
kind("template", "import string", "string.Template('$a')", "string.Template('$b')")
kind(
    "settings of a text wrapper", "import textwrap", "textwrap.TextWrapper(width=10)", "textwrap.TextWrapper(width=11)"
)
kind(
    "arguments of a command line",
    "from argparse import *",
    ("Namespace(a=1, b=2)", "Namespace(b=2, a=1)"),
    "Namespace(a=2)",
)
kind(
    "configuration",
    "import configparser\ndef make(t):\n    c = configparser.ConfigParser()\n    c.read_string(t)\n    return c",
    "make('[a]\\nb=1')",
    "make('[a]\\nb=2')",
    "make('[c]\\nb=1')",
)
kind(
    "message",
    "from email.message import EmailMessage\ndef make(s, t):\n    m = EmailMessage()\n    m['Subject'] = s\n    m.set_content(t)\n    return m",
    "make('a', 'b')",
    "make('c', 'b')",
    "make('a', 'c')",
)
kind(
    "XML",
    "import xml.etree.ElementTree as E",
    ("E.fromstring('<a b=\"1\">c</a>')", "E.fromstring('<a b=\"1\">c</a>')"),
    "E.fromstring('<a b=\"2\">c</a>')",
    "E.fromstring('<a b=\"1\">d</a>')",
    "E.fromstring('<a b=\"1\"><c/></a>')",
)
kind("normal distribution", "from statistics import NormalDist as N", "N(0, 1)", "N(0, 2)", "N(1, 1)")
kind(
    "random numbers",
    "import random\ndef after(n):\n    r = random.Random(1)\n    [r.random() for _ in range(n)]\n    return r",
    "after(0)",
    "after(1)",
    "random.Random(2)",
)
kind(
    "ctypes",
    "import ctypes\nclass S(ctypes.Structure): _fields_ = [('a', ctypes.c_int)]",
    "S(1)",
    "S(2)",
    "ctypes.c_int(1)",
    "ctypes.c_int(2)",
    "(ctypes.c_int * 2)(1, 2)",
    "(ctypes.c_int * 2)(1, 3)",
    needless="the layout of a structure is in compiled fields",
)
kind(
    "exceptions",
    "def caused(a, b):\n    a.__cause__ = b\n    return a",
    "ValueError('a')",
    "ValueError('b')",
    "TypeError('a')",
    "ValueError('a', 1)",
    "caused(ValueError('a'), KeyError(1))",
    "caused(ValueError('a'), KeyError(2))",
    "OSError(1, 'a')",
    "OSError(2, 'a')",
    "ExceptionGroup('a', [ValueError(1)])",
    "ExceptionGroup('a', [ValueError(2)])",
)
kind(
    "failed items",
    "from hypernodes import Failure\ndef make(e='a', t='', i=0, p=('n',)): return Failure(ValueError(e), t, i, p)",
    "make()",
    "make('b')",
    "make(t='x')",
    "make(i=1)",
    "make(p=('m',))",
    "(ValueError('a'), '', 0, ('n',))",
)
kind(
    "weak containers",
    "import weakref\nclass C:\n    def __init__(self, k): self.k = k\nkept = [C(1), C(2)]",
    "weakref.WeakSet(kept[:1])",
    "weakref.WeakSet(kept[1:])",
)
kind(
    "context variable",
    "import contextvars",
    "contextvars.ContextVar('a')",
    "contextvars.ContextVar('b')",
    needless=HANDLE,
)
kind("lock", "import threading", "threading.Lock()", "threading.RLock()", needless=HANDLE)
kind("queue", "import queue", "queue.Queue()", needless=HANDLE)
kind("iterator", "", "iter([1, 2])", "iter([1, 3])", "iter((1, 2))")
kind("generator", "def g(k): yield k", "g(1)", "g(2)", needless="where a generator is in its code cannot be seen")
kind(
    "map and zip",
    "",
    "zip([1], [2])",
    "zip([1], [3])",
    "map(str, [1])",
    "map(int, [1])",
    "enumerate([1])",
    "enumerate([1], 1)",
)
kind("itertools", "import itertools as i", "i.count(1)", "i.count(2)", "i.repeat(1, 2)", "i.repeat(1, 3)")
kind("cookies", "from http.cookies import SimpleCookie as C", "C('a=1')", "C('a=2')")
kind("zip archive entry", "from zipfile import ZipInfo as Z", "Z('a')", "Z('b')", "Z('a', (1990, 1, 1, 0, 0, 0))")
kind(
    "encoder of JSON",
    "import json",
    "json.JSONEncoder(indent=1)",
    "json.JSONEncoder(indent=2)",
    "json.JSONEncoder(sort_keys=True)",
)
kind("logger by name", "import logging", "logging.getLogger('a')", "logging.getLogger('b')")
kind("topological sorter", "from graphlib import TopologicalSorter as T", "T({'a': {'b'}})", "T({'a': {'c'}})")
