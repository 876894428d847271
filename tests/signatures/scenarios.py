"""The torture matrix: what may change between two runs, and whether the first run's results are then still right."""

from __future__ import annotations

import textwrap
from typing import NamedTuple

HEADER = "from hypernodes import Pipeline, node\n"
FOOTER = "\npipeline = Pipeline(nodes=[compute])\n"


class Scenario(NamedTuple):
    """One change between two processes.

    Attributes:
        name: What changes.
        is_hit: Whether the second process must find what the first one computed; None when it cannot be known, so that
            the node must run uncached in both, with a warning.
        before: The files of the first process, by path.
        after: The files of the second process.
    """

    name: str
    is_hit: bool | None
    before: dict[str, str]
    after: dict[str, str]


SCENARIOS: list[Scenario] = []


def _pipe(body: str, inputs: str = "{'x': 5}") -> str:
    body = textwrap.dedent(body)
    footer = "" if "pipeline =" in body else FOOTER
    inputs_line = "" if "def inputs" in body else f"inputs = {inputs}\n"
    return HEADER + body + footer + inputs_line


def _files(files: dict[str, str]) -> dict[str, str]:
    return {path: textwrap.dedent(text) for path, text in files.items()}


def misses(name: str, body: str, *changes: tuple[str, str], files: dict[str, str] | None = None) -> None:
    _add(name, False, body, changes, files or {})


def hits(name: str, body: str, *changes: tuple[str, str], files: dict[str, str] | None = None) -> None:
    _add(name, True, body, changes, files or {})


def refused(name: str, body: str, *changes: tuple[str, str], files: dict[str, str] | None = None) -> None:
    _add(name, None, body, changes, files or {})


def needless(name: str, why: str, body: str, *changes: tuple[str, str], files: dict[str, str] | None = None) -> None:
    """A change that makes no difference to this very function, and yet the result is computed again."""
    assert why
    misses(f"needless: {name}", body, *changes, files=files)


def _add(
    name: str, is_hit: bool | None, body: str, changes: tuple[tuple[str, str], ...], others: dict[str, str]
) -> None:
    """Replace the first text of each change with the second, in whichever file it stands."""
    files = {"pipe.py": _pipe(body)} | _files(others)
    after = dict(files)
    for old, new in changes:
        assert any(old in text for text in after.values()), (name, old)
        after = {path: text.replace(old, new) for path, text in after.items()}
    SCENARIOS.append(Scenario(name, is_hit, files, after))


def moves(name: str, is_hit: bool, before: dict[str, str], after: dict[str, str]) -> None:
    SCENARIOS.append(Scenario(name, is_hit, _files(before), _files(after)))


# --- the function itself -----------------------------------------------------------------------------------------

PLAIN = '''
    @node(output_name="y")
    def compute(x, k=1):
        """Say something."""
        total = x * 2 + k
        return total
'''
hits("nothing", PLAIN)
misses("body", PLAIN, ("x * 2", "x * 3"))
misses("default", PLAIN, ("k=1", "k=2"))
misses("type of a default", PLAIN, ("k=1", "k=1.0"))
hits("comment", PLAIN, ("return total", "# well\n    return total  # done"))
hits("docstring", PLAIN, ("Say something.", "Say\n        something else."))
hits("docstring removed", PLAIN, ('"""Say something."""', ""))
hits("formatting", PLAIN, ("x * 2 + k", "(\n            x * 2\n\n            + k\n        )"))
hits("blank lines above", PLAIN, ("@node", "\n\n\nUNUSED = 3\n\n\n@node"))
hits("annotations", PLAIN, ("x, k=1", "x: int, k: int = 1"), ("total =", "total: int ="))
hits("quotes", PLAIN.replace("total = ", "total = len('a') + "), ("'a'", '"a"'))
misses("order of operations", PLAIN, ("x * 2 + k", "x * (2 + k)"))
misses("constant type", PLAIN, ("x * 2 + k", "x * 2.0 + k"))
misses(
    "output of a nested function",
    "@node(output_name='y')\ndef compute(x):\n    def inner(): return 1\n    return inner() + x\n",
    ("return 1", "return 2"),
)
misses(
    "nested class",
    "@node(output_name='y')\ndef compute(x):\n    class Inner:\n        k = 1\n    return Inner.k + x\n",
    ("k = 1", "k = 2"),
)
misses(
    "comprehension",
    "@node(output_name='y')\ndef compute(x):\n    return [i * 2 for i in range(x)]\n",
    ("i * 2", "i * 3"),
)
misses("lambda", "compute = node(output_name='y')(lambda x: x + 1)\n", ("x + 1", "x + 2"))
misses(
    "one of two lambdas on a line",
    "compute, other = node(output_name='y')(lambda x: x + 1), lambda x: x\n",
    ("x + 1", "x + 2"),
)
hits(
    "the other of two lambdas on a line",
    "compute, other = node(output_name='y')(lambda x: x + 1), lambda x: x\n",
    ("lambda x: x\n", "lambda x: -x\n"),
)
misses(
    "two lambdas swapped",
    "one, two = lambda x: x + 1, lambda x: x + 2\ncompute = node(output_name='y')(one)\n",
    ("one, two", "two, one"),
)
misses("async function", "@node(output_name='y')\nasync def compute(x):\n    return x + 1\n", ("x + 1", "x + 2"))
misses(
    "generator helper",
    "def many(x):\n    yield x\n    yield 1\n@node(output_name='y')\ndef compute(x):\n    return list(many(x))\n",
    ("yield 1", "yield 2"),
)
misses(
    "version", "@node(output_name='y', version='1')\ndef compute(x):\n    return x\n", ("version='1'", "version='2'")
)
hits("retries", "@node(output_name='y', retries=1)\ndef compute(x):\n    return x\n", ("retries=1", "retries=2"))
hits(
    "name of the function",
    "@node(output_name='y')\ndef old_name(x):\n    return x\npipeline = Pipeline(nodes=[old_name])\n",
    ("old_name", "new_name"),
)
hits(
    "name of a helper's file and line",
    "from aid import h\n@node(output_name='y')\ndef compute(x):\n    return h(x)\n",
    ("def h", "import os\n\ndef h"),
    files={"aid.py": "def h(x):\n    return x\n"},
)
misses(
    "frozen set in a condition",
    "@node(output_name='y')\ndef compute(x):\n    return x in {5, 6}\n",
    ("{5, 6}", "{6, 7}"),
)
hits(
    "order in a set",
    "SET = {'a', 'b', 'c', 'd'}\n@node(output_name='y')\ndef compute(x):\n    return sorted(SET)\n",
    ("'a', 'b', 'c', 'd'", "'d', 'c', 'b', 'a'"),
)

# --- helpers and constants ---------------------------------------------------------------------------------------

HELPED = """
    import math
    LIMIT = 3
    TABLE = {"a": [1, 2]}
    def deeper(x):
        return x * 2
    def helper(x):
        return deeper(x) + LIMIT + TABLE["a"][0]
    @node(output_name="y")
    def compute(x):
        return helper(x)
"""
misses("helper", HELPED, ("+ LIMIT", "- LIMIT"))
misses("helper's helper", HELPED, ("x * 2", "x * 3"))
misses("constant", HELPED, ("LIMIT = 3", "LIMIT = 4"))
misses("type of a constant", HELPED, ("LIMIT = 3", "LIMIT = 3.0"))
misses("deep in a table", HELPED, ("[1, 2]", "[9, 2]"))
misses(
    "order of a table",
    HELPED.replace('{"a": [1, 2]}', '{"a": [1, 2], "b": 1}'),
    ('{"a": [1, 2], "b": 1}', '{"b": 1, "a": [1, 2]}'),
)
hits("unused constant", HELPED, ("import math", "import math\nUNUSED = 1"))
hits("docstring of a helper", HELPED, ("def deeper(x):", "def deeper(x):\n    '''Words.'''"))
hits("unused function", HELPED, ("import math", "import math\ndef unused(): pass"))
misses(
    "mutual recursion",
    "def even(n):\n    return True if n == 0 else odd(n - 1)\ndef odd(n):\n    return False if n == 0 else even(n - 1)\n@node(output_name='y')\ndef compute(x):\n    return even(x)\n",
    ("return False if n == 0", "return None if n == 0"),
)
misses(
    "constant that is used in a comprehension",
    "K = 2\n@node(output_name='y')\ndef compute(x):\n    return [K * i for i in range(x)]\n",
    ("K = 2", "K = 3"),
)
misses(
    "constant that is used in a nested function",
    "K = 2\n@node(output_name='y')\ndef compute(x):\n    def inner():\n        return K\n    return inner()\n",
    ("K = 2", "K = 3"),
)
misses(
    "constant that is used in a nested class",
    "K = 2\n@node(output_name='y')\ndef compute(x):\n    class Inner:\n        k = K\n    return Inner.k\n",
    ("K = 2", "K = 3"),
)
misses(
    "closure",
    "def make(k):\n    @node(output_name='y')\n    def compute(x):\n        return x + k\n    return compute\ncompute = make(1)\n",
    ("make(1)", "make(2)"),
)
misses(
    "function in a closure",
    "def one(x): return 1\ndef make(f):\n    @node(output_name='y')\n    def compute(x):\n        return f(x)\n    return compute\ncompute = make(one)\n",
    ("return 1", "return 2"),
)
misses(
    "default that is a function",
    "def one(x): return 1\n@node(output_name='y')\ndef compute(x, f=one):\n    return f(x)\n",
    ("return 1", "return 2"),
)
misses(
    "keyword-only default",
    "def h(*, k=1): return k\n@node(output_name='y')\ndef compute(x):\n    return h()\n",
    ("k=1", "k=2"),
)
misses(
    "globals() with a name",
    "def h(x): return x + 1\n@node(output_name='y')\ndef compute(x):\n    return globals()['h'](x)\n",
    ("x + 1", "x + 2"),
)
misses(
    "eval of a constant string",
    "def h(x): return x + 1\n@node(output_name='y')\ndef compute(x):\n    return eval('h(x)')\n",
    ("x + 1", "x + 2"),
)
misses(
    "functions in a table",
    "def h(x): return x + 1\nTABLE = {'h': h}\n@node(output_name='y')\ndef compute(x):\n    return TABLE['h'](x)\n",
    ("x + 1", "x + 2"),
)
misses(
    "attribute of a function",
    "def h(x): return h.k\nh.k = 1\n@node(output_name='y')\ndef compute(x):\n    return h(x)\n",
    ("h.k = 1", "h.k = 2"),
)
misses(
    "another node that is called",
    "@node(output_name='z')\ndef other(x): return x + 1\n@node(output_name='y')\ndef compute(x):\n    return other(x)\n",
    ("x + 1", "x + 2"),
)
misses(
    "operator of a constant",
    "import operator\nOP = operator.add\n@node(output_name='y')\ndef compute(x):\n    return OP(x, 2)\n",
    ("operator.add", "operator.mul"),
)
misses(
    "code made by exec",
    "space = {}\nexec('def h(x): return x + 1', space)\nh = space['h']\n@node(output_name='y')\ndef compute(x):\n    return h(x)\n",
    ("x + 1", "x + 2"),
)
misses(
    "code of a lambda made by eval", "compute = node(output_name='y')(eval('lambda x: x + 1'))\n", ("x + 1", "x + 2")
)

# --- other modules, by every road --------------------------------------------------------------------------------

AID = "def h(x):\n    return x + 1\n\ndef unused(x):\n    return 0\n"
ROADS = {
    "from aid import h": ("from aid import h", "return h(x)"),
    "from aid import h as g": ("from aid import h as g", "return g(x)"),
    "import aid": ("import aid", "return aid.h(x)"),
    "import aid as a": ("import aid as a", "return a.h(x)"),
    "from aid import *": ("from aid import *", "return h(x)"),
    "inside: from aid import h": ("", "from aid import h; return h(x)"),
    "inside: import aid": ("", "import aid; return aid.h(x)"),
    "inside: import aid as a": ("", "import aid as a; return a.h(x)"),
    "module in a variable": ("import aid", "a = aid; return a.h(x)"),
    "module in a walrus": ("import aid", "return (a := aid).h(x)"),
    "module in two variables": ("import aid", "a = aid; b = a; return b.h(x)"),
    "function in a variable": ("import aid", "f = aid.h; return f(x)"),
    "getattr": ("import aid", "return getattr(aid, 'h')(x)"),
    "getattr with a variable name": ("import aid", "name = 'h'; return getattr(aid, name)(x)"),
    "importlib": ("import importlib", "return importlib.import_module('aid').h(x)"),
    "sys.modules": ("import sys, aid", "return sys.modules['aid'].h(x)"),
    "module passed on": ("import aid\ndef use(m, x): return m.h(x)", "return use(aid, x)"),
    "module in a list": ("import aid\nMODULES = [aid]", "return MODULES[0].h(x)"),
    "module as a default": ("import aid\ndef use(x, m=aid): return m.h(x)", "return use(x)"),
    "module in a lambda": ("import aid", "return (lambda: aid)().h(x)"),
    "module in a comprehension": ("import aid", "return [aid.h(i) for i in range(x)]"),
    "vars(module)": ("import aid", "return vars(aid)['h'](x)"),
    "with dots through a variable": ("import aid", "f = [aid.h for _ in range(2)]; return f[0](x)"),
}
for _road, (_top, _body) in ROADS.items():
    _source = f"{_top}\n@node(output_name='y')\ndef compute(x):\n    {_body}\n"
    misses(f"helper by {_road}", _source, ("x + 1", "x + 2"), files={"aid.py": AID})
    if "variable name" not in _road and not any(w in _road for w in ("passed", "list", "default", "lambda", "vars")):
        hits(f"unused neighbour by {_road}", _source, ("return 0", "return -1"), files={"aid.py": AID})

PACKAGE_ROADS = {
    "import pkg.sub": ("import pkg.sub", "return pkg.sub.h(x)"),
    "import pkg.sub as s": ("import pkg.sub as s", "return s.h(x)"),
    "from pkg import sub": ("from pkg import sub", "return sub.h(x)"),
    "from pkg.sub import h": ("from pkg.sub import h", "return h(x)"),
    "inside: import pkg.sub": ("", "import pkg.sub; return pkg.sub.h(x)"),
    "inside: import pkg.sub as s": ("", "import pkg.sub as s; return s.h(x)"),
    "inside: from pkg import sub": ("", "from pkg import sub; return sub.h(x)"),
    "inside: from pkg.sub import h": ("", "from pkg.sub import h; return h(x)"),
    "inside: from . import": ("from pkg.user import use", "return use(x)"),
}
for _road, (_top, _body) in PACKAGE_ROADS.items():
    misses(
        f"package by {_road}",
        f"{_top}\n@node(output_name='y')\ndef compute(x):\n    {_body}\n",
        ("x + 1", "x + 2"),
        files={
            "pkg/__init__.py": "",
            "pkg/sub.py": AID,
            "pkg/user.py": "def use(x):\n    from .sub import h\n    return h(x)\n",
        },
    )

MOVED = "@node(output_name='y')\ndef compute(x):\n    return h(x)\n"
moves(
    "helper moved to another module",
    True,
    {"pipe.py": _pipe("def h(x):\n    return x + 1\n" + MOVED)},
    {"pipe.py": _pipe("from aid import h\n" + MOVED), "aid.py": "def h(x):\n    return x + 1\n"},
)
moves(
    "file renamed",
    True,
    {"pipe.py": _pipe("from aid import h\n" + MOVED), "aid.py": AID},
    {"pipe.py": _pipe("from tools import h\n" + MOVED), "tools.py": AID},
)
moves(
    "class in a renamed file",
    True,
    {
        "pipe.py": _pipe("from aid import C\n@node(output_name='y')\ndef compute(x):\n    return C().k + x\n"),
        "aid.py": "class C:\n    k = 1\n",
    },
    {
        "pipe.py": _pipe("from tools import C\n@node(output_name='y')\ndef compute(x):\n    return C().k + x\n"),
        "tools.py": "class C:\n    k = 1\n",
    },
)
_OPTIONAL = "@node(output_name='y')\ndef compute(x):\n    try:\n        from absent import h\n    except ImportError:\n        return -1\n    return h(x)\n"
moves(
    "optional module appears",
    False,
    {"pipe.py": _pipe(_OPTIONAL)},
    {"pipe.py": _pipe(_OPTIONAL), "absent.py": "def h(x):\n    return x\n"},
)

# --- classes -----------------------------------------------------------------------------------------------------

CLASSY = """
    class Meta(type):
        weight = 1
    class Base:
        offset = 1
        def base(self, x):
            return x + self.offset
    class Scaler(Base, metaclass=Meta):
        factor = 3
        def scale(self, x):
            return self.base(self.factor * x) + self.prop + self.static() + self.named() + type(self).weight
        @property
        def prop(self):
            return 10
        @staticmethod
        def static():
            return 100
        @classmethod
        def named(cls):
            return 1000
        def unused(self):
            '''Words.'''
    @node(output_name="y")
    def compute(x):
        return Scaler().scale(x)
"""
misses("method", CLASSY, ("self.factor * x", "self.factor + x"))
misses("class attribute", CLASSY, ("factor = 3", "factor = 4"))
misses("base class", CLASSY, ("x + self.offset", "x - self.offset"))
misses("attribute of a base class", CLASSY, ("offset = 1", "offset = 2"))
misses("property", CLASSY, ("return 10\n", "return 20\n"))
misses("static method", CLASSY, ("return 100\n", "return 200\n"))
misses("class method", CLASSY, ("return 1000", "return 2000"))
misses("metaclass", CLASSY, ("weight = 1", "weight = 2"))
hits("docstring of a method", CLASSY, ("Words.", "Other words."))
hits("position of a class", CLASSY, ("class Base", "class Between:\n    pass\nclass Base"))
hits(
    "order of methods",
    "class C:\n    def a(self): return 1\n    def b(self): return 2\n@node(output_name='y')\ndef compute(x):\n    return C().a()\n",
    (
        "    def a(self): return 1\n    def b(self): return 2\n",
        "    def b(self): return 2\n    def a(self): return 1\n",
    ),
)
misses(
    "super()",
    "class A:\n    def f(self): return 1\nclass B(A):\n    def f(self): return super().f()\n@node(output_name='y')\ndef compute(x):\n    return B().f()\n",
    ("return 1", "return 2"),
)
misses(
    "monkeypatched method",
    "class A:\n    def f(self): return 1\nA.f = lambda self: 2\n@node(output_name='y')\ndef compute(x):\n    return A().f()\n",
    ("lambda self: 2", "lambda self: 3"),
)
misses(
    "callable object as a node",
    "class Add:\n    def __init__(self, k): self.k = k\n    def __call__(self, x): return x + self.k\ncompute = node(output_name='y')(Add(1))\n",
    ("Add(1)", "Add(2)"),
)
misses(
    "code of a callable object",
    "class Add:\n    def __init__(self, k): self.k = k\n    def __call__(self, x): return x + self.k\ncompute = node(output_name='y')(Add(1))\n",
    ("x + self.k", "x - self.k"),
)
misses(
    "bound method as a node",
    "class Add:\n    def __init__(self, k): self._k = k\n    def add(self, x): return x + self._k\ncompute = node(output_name='y')(Add(1).add)\n",
    ("Add(1)", "Add(2)"),
)
misses(
    "member of an enum",
    "import enum\nclass E(enum.Enum):\n    A = 1\n@node(output_name='y')\ndef compute(x):\n    return E.A.value\n",
    ("A = 1", "A = 2"),
)
misses(
    "method of an enum",
    "import enum\nclass E(enum.Enum):\n    A = 1\n    def f(self): return 1\n    def __str__(self): return 'a'\n@node(output_name='y')\ndef compute(x):\n    return str(E.A)\n",
    ("'a'", "'b'"),
)
misses(
    "default of a dataclass",
    "import dataclasses\n@dataclasses.dataclass\nclass D:\n    k: int = 1\n@node(output_name='y')\ndef compute(x):\n    return D().k\n",
    ("k: int = 1", "k: int = 2"),
)
misses(
    "factory of a dataclass",
    "import dataclasses\n@dataclasses.dataclass\nclass D:\n    k: list = dataclasses.field(default_factory=lambda: [1])\n@node(output_name='y')\ndef compute(x):\n    return D().k\n",
    ("[1]", "[2]"),
)
misses(
    "default of a named tuple",
    "import typing\nclass T(typing.NamedTuple):\n    k: int = 1\n@node(output_name='y')\ndef compute(x):\n    return T().k\n",
    ("k: int = 1", "k: int = 2"),
)
misses(
    "default of an attrs class",
    "import attrs\n@attrs.define\nclass D:\n    k: int = 1\n@node(output_name='y')\ndef compute(x):\n    return D().k\n",
    ("k: int = 1", "k: int = 2"),
)
misses(
    "default of a pydantic model",
    "import pydantic\nclass M(pydantic.BaseModel):\n    k: int = 1\n@node(output_name='y')\ndef compute(x):\n    return M().k\n",
    ("k: int = 1", "k: int = 2"),
)
misses(
    "constraint of a pydantic model",
    "import pydantic\nclass M(pydantic.BaseModel):\n    k: int = pydantic.Field(1, validate_default=True, multiple_of=1)\n    def f(self): return 1\n@node(output_name='y')\ndef compute(x):\n    return M().f()\n",
    ("return 1", "return 2"),
)
misses(
    "slots with a default",
    "class S:\n    __slots__ = ('k',)\n    def __init__(self): self.k = 1\n@node(output_name='y')\ndef compute(x):\n    return S().k\n",
    ("self.k = 1", "self.k = 2"),
)
misses(
    "descriptor",
    "class Field:\n    def __get__(self, obj, kind): return 1\nclass C:\n    f = Field()\n@node(output_name='y')\ndef compute(x):\n    return C().f\n",
    ("return 1", "return 2"),
)

# --- decorators and wrappers -------------------------------------------------------------------------------------

WRAPPING = """
    import functools
    def loud(function):
        @functools.wraps(function)
        def wrapper(*args, **kwargs):
            return function(*args, **kwargs) * 2
        return wrapper
    @node(output_name="y")
    @loud
    def compute(x):
        return x + 1
"""
misses("decorated function", WRAPPING, ("x + 1", "x + 2"))
misses("decorator", WRAPPING, ("** kwargs) * 2".replace("** ", "**"), "**kwargs) * 3"))
misses(
    "decorator without wraps",
    "def loud(function):\n    def wrapper(x):\n        return function(x)\n    return wrapper\n@node(output_name='y')\n@loud\ndef compute(x):\n    return x + 1\n",
    ("x + 1", "x + 2"),
)
misses(
    "argument of a decorator",
    "def times(k):\n    def decorate(f):\n        def wrapper(x): return f(x) * k\n        return wrapper\n    return decorate\n@node(output_name='y')\n@times(2)\ndef compute(x):\n    return x\n",
    ("@times(2)", "@times(3)"),
)
misses(
    "partial",
    "import functools\ndef add(k, x): return x + k\ncompute = node(output_name='y')(functools.partial(add, 1))\n",
    ("(add, 1)", "(add, 2)"),
)
misses(
    "function of a partial",
    "import functools\ndef add(k, x): return x + k\ncompute = node(output_name='y')(functools.partial(add, 1))\n",
    ("x + k", "x - k"),
)
misses(
    "partial in a constant",
    "import functools\ndef add(k, x): return x + k\nADD = functools.partial(add, 1)\n@node(output_name='y')\ndef compute(x):\n    return ADD(x)\n",
    ("x + k", "x - k"),
)
misses(
    "lru_cache",
    "import functools\n@functools.lru_cache\ndef h(x): return x + 1\n@node(output_name='y')\ndef compute(x):\n    return h(x)\n",
    ("x + 1", "x + 2"),
)
misses(
    "registry of singledispatch",
    "import functools\n@functools.singledispatch\ndef h(x): return 0\n@h.register\ndef _(x: int): return 1\n@node(output_name='y')\ndef compute(x):\n    return h(x)\n",
    ("return 1", "return 2"),
)
misses(
    "contextmanager",
    "import contextlib\n@contextlib.contextmanager\ndef h(x):\n    yield x + 1\n@node(output_name='y')\ndef compute(x):\n    with h(x) as y:\n        return y\n",
    ("x + 1", "x + 2"),
)
misses(
    "cached_property",
    "import functools\nclass C:\n    @functools.cached_property\n    def p(self): return 1\n@node(output_name='y')\ndef compute(x):\n    return C().p\n",
    ("return 1", "return 2"),
)
misses(
    "partialmethod",
    "import functools\nclass C:\n    def f(self, k): return k\n    g = functools.partialmethod(f, 1)\n@node(output_name='y')\ndef compute(x):\n    return C().g()\n",
    ("(f, 1)", "(f, 2)"),
)
misses(
    "class decorator",
    "def mark(kind):\n    kind.k = 1\n    return kind\n@mark\nclass C:\n    pass\n@node(output_name='y')\ndef compute(x):\n    return C.k\n",
    ("kind.k = 1", "kind.k = 2"),
)

# --- values ------------------------------------------------------------------------------------------------------

VALUES: dict[str, tuple[str, str, str]] = {
    "int and bool": ("", "1", "True"),
    "int and float": ("", "1", "1.0"),
    "int and text": ("", "1", "'1'"),
    "list and tuple": ("", "[1, 2]", "(1, 2)"),
    "signs of zero": ("", "0.0", "-0.0"),
    "deep nesting": ("", "[[[[[[[[[[[[1]]]]]]]]]]]]", "[[[[[[[[[[[[2]]]]]]]]]]]]"),
    "decimal": ("import decimal", "decimal.Decimal('1.0')", "decimal.Decimal('1.00')"),
    "fold of a time": ("import datetime", "datetime.datetime(2020, 1, 1)", "datetime.datetime(2020, 1, 1, fold=1)"),
    "array": ("import numpy as np", "np.array([1, 2])", "np.array([1, 3])"),
    "dtype of an array": ("import numpy as np", "np.array([1, 2])", "np.array([1, 2], dtype='i4')"),
    "shape of an array": ("import numpy as np", "np.zeros((2, 3))", "np.zeros((3, 2))"),
    "frame": ("import pandas as pd", "pd.DataFrame({'a': [1, 2]})", "pd.DataFrame({'a': [1, 3]})"),
    "column of a frame": ("import pandas as pd", "pd.DataFrame({'a': [1, 2]})", "pd.DataFrame({'b': [1, 2]})"),
    "index of a frame": (
        "import pandas as pd",
        "pd.DataFrame({'a': [1]}, index=[0])",
        "pd.DataFrame({'a': [1]}, index=[7])",
    ),
    "series": ("import pandas as pd", "pd.Series(['a', None])", "pd.Series(['b', None])"),
    "polars frame": ("import polars as pl", "pl.DataFrame({'a': ['x']})", "pl.DataFrame({'a': ['y']})"),
    "picture": ("from PIL import Image", "Image.new('L', (2, 2), 1)", "Image.new('L', (2, 2), 2)"),
    "private state": ("from aid import Encoder", "Encoder(1)", "Encoder(2)"),
    "attrs": ("from aid import Attrs", "Attrs(1)", "Attrs(2)"),
    "pydantic": ("from aid import Model", "Model(k=1)", "Model(k=2)"),
    "dataclass": ("from aid import Data", "Data(1)", "Data(2)"),
    "cache key": ("from aid import Keyed", "Keyed(1)", "Keyed(2)"),
}
CLASSES = """
import attrs, dataclasses, pydantic
class Encoder:
    def __init__(self, dim): self._dim = dim
    def __repr__(self): return 'encoder'
@attrs.define
class Attrs:
    k: int
@dataclasses.dataclass
class Data:
    k: int
class Model(pydantic.BaseModel):
    k: int
class Keyed:
    def __init__(self, k): self.k, self.lock = k, object()
    def __cache_key__(self): return self.k
    def __repr__(self): return f'keyed {self.k}'
class Forgetful:
    __cache_ignore__ = ('_client', 'calls')
    calls = 0
    def __init__(self, client): self._client = client
    def __repr__(self): return 'forgetful'
"""
TEXT_OF = "def show(v): return v.tobytes() if hasattr(v, 'getpixel') else repr(v)\n@node(output_name='y')\ndef compute(v):\n    return show(v), getattr(v, '_dim', None), str(getattr(v, 'dtype', ''))\n"
for _name, (_import, _one, _two) in VALUES.items():
    _source = f"{_import}\n{TEXT_OF}def inputs():\n    return {{'v': {_one}}}\n"
    _others = {"aid.py": CLASSES} if "aid" in _import else {}
    misses(f"value: {_name}", _source, (f"{{'v': {_one}}}", f"{{'v': {_two}}}"), files=_others)
    hits(f"same value: {_name}", _source, files=_others)

FORGETFUL = f"from aid import Forgetful\n{TEXT_OF}def inputs():\n    return {{'v': Forgetful('a')}}\n"
hits("ignored attribute", FORGETFUL, ("Forgetful('a')", "Forgetful('b')"), files={"aid.py": CLASSES})
hits("ignored class attribute", FORGETFUL, ("calls = 0", "calls = 1"), files={"aid.py": CLASSES})
misses(
    "method of a value's class", FORGETFUL, ("return 'forgetful'", "return 'absent-minded'"), files={"aid.py": CLASSES}
)
IGNORING = "@node(output_name='y', cache_ignore=('verbose',))\ndef compute(x, verbose):\n    return x\ninputs = {'x': 5, 'verbose': False}\n"
hits("ignored parameter", IGNORING.replace("inputs =", "def inputs(): return"), ("False", "True"))
misses("parameter that is not ignored", IGNORING.replace("inputs =", "def inputs(): return"), ("'x': 5", "'x': 6"))
hits(
    "ignored parameter that cannot be identified",
    IGNORING.replace("inputs =", "def inputs(): return"),
    ("False", "object()"),
)
misses(
    "order of a dict",
    f"{TEXT_OF.replace('return show(v)', 'return sorted(v)')}def inputs():\n    return {{'v': {{'a': 1, 'b': 2}}}}\n",
    ("{'a': 1, 'b': 2}", "{'b': 2, 'a': 1}"),
)
hits(
    "layout of an array",
    f"import numpy as np\n{TEXT_OF.replace('return show(v)', 'return v.sum()')}def inputs():\n    return {{'v': np.arange(6).reshape(2, 3)}}\n",
    ("np.arange(6).reshape(2, 3)", "np.asfortranarray(np.arange(6).reshape(2, 3))"),
)

# --- libraries ---------------------------------------------------------------------------------------------------

_LIBRARY = "libraries/site-packages/"
_USES = {"pipe.py": _pipe("import somelib\n@node(output_name='y')\ndef compute(x):\n    return somelib.f(x)\n")}


def _library(version: str, body: str) -> dict[str, str]:
    return _USES | {
        f"{_LIBRARY}somelib/__init__.py": body,
        f"{_LIBRARY}somelib-{version}.dist-info/METADATA": f"Metadata-Version: 2.1\nName: somelib\nVersion: {version}\n",
        f"{_LIBRARY}somelib-{version}.dist-info/RECORD": "somelib/__init__.py,,\n",
    }


moves(
    "version of a library",
    False,
    _library("1.0", "def f(x): return x + 1\n"),
    _library("2.0", "def f(x): return x + 2\n"),
)
moves(
    "library with the same version",
    True,
    _library("1.0", "def f(x): return x + 1\n"),
    _library("1.0", "def f(x):\n    return 1 + x\n"),
)
misses(
    "function of a library that was replaced",
    "import colorsys\ncolorsys.rgb_to_hsv = lambda v: 'a'\n@node(output_name='y')\ndef compute(x):\n    return colorsys.rgb_to_hsv(x)\n",
    ("'a'", "'b'"),
)
misses(
    "user's module with a name of the standard library",
    "import this_is_mine as secrets\n@node(output_name='y')\ndef compute(x):\n    return secrets.h(x)\n",
    ("x + 1", "x + 2"),
    files={"this_is_mine.py": AID},
)

# --- what is installed -------------------------------------------------------------------------------------------


def uses(expression: str, *imports: str) -> str:
    """A node that returns the value of an expression, in a file with some imports."""
    lines = "".join(f"{line}\n" for line in imports)
    return f"{lines}@node(output_name='y')\ndef compute(x):\n    return {expression}\n"


misses(
    "function of another module of Python",
    uses("sqrt(x)", "from math import sqrt"),
    ("from math", "from cmath"),
)
misses("module by an alias", uses("m.sqrt(x)", "import math as m"), ("import math as", "import cmath as"))
misses(
    "module by an alias, inside",
    uses("m.sqrt(x)", "").replace("    return", "    import math as m\n    return"),
    ("import math", "import cmath"),
)
misses(
    "deep module by an alias",
    uses("m.escape('\"<')", "import html as m"),
    ("import html as", "import xml.sax.saxutils as"),
)
misses(
    "Python function of another module",
    uses("escape('\"<')", "from html import escape"),
    ("from html", "from xml.sax.saxutils"),
)
misses(
    "built-in function in a table",
    uses("T['f'](x)", "import cmath, math", "T = {'f': math.exp}"),
    ("math.exp", "cmath.exp"),
)
misses(
    "class of another module in a table",
    uses("T[0].__module__", "import queue, asyncio", "T = [queue.Queue]"),
    ("[queue.", "[asyncio."),
)
misses("universal function", uses("f(x)", "from numpy import negative as f"), ("negative", "positive"))
misses(
    "compiled function of pandas",
    uses("f(x)", "from pandas.api.types import is_integer as f"),
    ("is_integer", "is_float"),
)
misses(
    "class method of a built-in class",
    uses("f([x])", "f = dict.fromkeys"),
    ("dict.fromkeys", "__import__('collections').OrderedDict.fromkeys"),
)
misses("method of a built-in class", uses("f('a')", "f = str.upper"), ("str.upper", "str.title"))
misses(
    "method added to an installed class",
    uses(
        "fractions.Fraction(1, 3).loud()", "import fractions", "fractions.Fraction.loud = lambda self: str(self) + '!'"
    ),
    ("'!'", "'?'"),
)
misses(
    "property added to an installed class, of a value",
    uses("x.loud", "import fractions", "fractions.Fraction.loud = property(lambda self: '!')")
    + "def inputs():\n    return {'x': fractions.Fraction(1, 3)}\n",
    ("'!'", "'?'"),
)
misses(
    "partial in an installed module",
    uses(
        "colorsys.mine(x)",
        "import colorsys, functools",
        "def mine(x, k): return x, k",
        "colorsys.mine = functools.partial(mine, k=1)",
    ),
    ("k=1", "k=2"),
)
misses(
    "object in an installed module",
    uses(
        "colorsys.mine(x)",
        "import colorsys",
        "class Mine:\n    def __call__(self, x): return 1",
        "colorsys.mine = Mine()",
    ),
    ("return 1", "return 2"),
)
misses(
    "accessor of a frame",
    "import pandas as pd\n@pd.api.extensions.register_dataframe_accessor('mine')\nclass Mine:\n    def __init__(self, frame): pass\n    k = 1\n"
    "@node(output_name='y')\ndef compute(x):\n    return pd.DataFrame({'a': [x]}).mine.k\n",
    ("k = 1", "k = 2"),
)
misses(
    "namespace of a polars frame",
    "import polars as pl\n@pl.api.register_dataframe_namespace('mine')\nclass Mine:\n    def __init__(self, frame): pass\n    k = 1\n"
    "@node(output_name='y')\ndef compute(x):\n    return pl.DataFrame({'a': [x]}).mine.k\n",
    ("k = 1", "k = 2"),
)
hits(
    "use of another function of a module",
    uses("math.sqrt(x)", "import math", "A = math.floor"),
    ("math.floor", "math.ceil"),
)
moves(
    "own module beside something installed",
    False,
    {
        "pipe.py": _pipe(uses("h(x)", "from aid import h")),
        "aid.py": "def h(x): return 1\n",
        "other-2.0.dist-info/METADATA": "Name: other\n",
    },
    {
        "pipe.py": _pipe(uses("h(x)", "from aid import h")),
        "aid.py": "def h(x): return 2\n",
        "other-2.0.dist-info/METADATA": "Name: other\n",
    },
)
moves(
    "file that was copied among the installed ones",
    False,
    {
        "pipe.py": _pipe(uses("copied_aid.h(x)", "import copied_aid")),
        f"{_LIBRARY}copied_aid.py": "def h(x): return 1\n",
    },
    {
        "pipe.py": _pipe(uses("copied_aid.h(x)", "import copied_aid")),
        f"{_LIBRARY}copied_aid.py": "def h(x): return 2\n",
    },
)

# --- other ways to a name ----------------------------------------------------------------------------------------

_PACKAGE = {"package/__init__.py": "", "package/inner/__init__.py": "", "package/inner/aid.py": AID}
_ADDED = ("x + 1", "x + 2")


def inside(*lines: str, **options: str) -> str:
    """A node with some lines, between others at the top and after."""
    body = "".join(f"    {line}\n" for line in lines)
    return f"{options.get('top', '')}\n@node(output_name='y')\ndef compute(x):\n{body}"


misses(
    "import of a deep module as", inside("import package.inner.aid as aid", "return aid.h(x)"), _ADDED, files=_PACKAGE
)
misses(
    "import of a deep module",
    inside("import package.inner.aid", "return package.inner.aid.h(x)"),
    _ADDED,
    files=_PACKAGE,
)
misses(
    "module from a package as", inside("from package.inner import aid as a", "return a.h(x)"), _ADDED, files=_PACKAGE
)
misses(
    "two names from a module", inside("from aid import k, h", "return h(x)"), _ADDED, files={"aid.py": AID + "k = 1\n"}
)
misses(
    "module in a local variable",
    inside("m = aid if x else None", "return m.h(x)", top="import aid"),
    _ADDED,
    files={"aid.py": AID},
)
misses(
    "composed attribute",
    inside("n = 'h'", "return getattr(aid, f'{n}')(x)", top="import aid"),
    _ADDED,
    files={"aid.py": AID},
)
misses(
    "composed attribute with a beginning",
    inside("n = ''", "return getattr(aid, f'h{n}')(x)", top="import aid"),
    _ADDED,
    files={"aid.py": AID + "def hh(x): return 0\n"},
)
misses(
    "composed attribute with a default",
    inside("n = 'h'", "return getattr(aid, n + '', None)(x)", top="import aid"),
    _ADDED,
    files={"aid.py": AID},
)
misses(
    "attribute with a default",
    inside("return getattr(aid, 'h', None)(x)", top="import aid"),
    _ADDED,
    files={"aid.py": AID},
)
misses("vars of a module", inside("return vars(aid)['h'](x)", top="import aid"), _ADDED, files={"aid.py": AID})
misses("dict of a module", inside("return aid.__dict__['h'](x)", top="import aid"), _ADDED, files={"aid.py": AID})
misses(
    "dict of a module, composed",
    inside("n = 'h'", "return aid.__dict__[n + ''](x)", top="import aid"),
    _ADDED,
    files={"aid.py": AID},
)
misses(
    "attrgetter",
    inside("return operator.attrgetter('h')(aid)(x)", top="import aid, operator"),
    _ADDED,
    files={"aid.py": AID},
)
_OWN = "def h(x): return x + 1\n"
misses("globals().get", inside("return globals().get('h')(x)", top=_OWN), _ADDED)
misses("globals() in a variable", inside("g = globals()", "return g['h'](x)", top=_OWN), _ADDED)
misses("globals() with a composed name", inside("n = 'h'", "return globals()[n + ''](x)", top=_OWN), _ADDED)
misses("eval of a composed text", inside("n = 'h'", "return eval(n + '(x)')", top=_OWN), _ADDED)
misses(
    "sys.modules of itself",
    inside("n = 'h'", "return getattr(sys.modules[__name__], n + '')(x)", top="import sys\n" + _OWN),
    _ADDED,
)
misses("sys.modules of itself, by name", inside("return sys.modules[__name__].h(x)", top="import sys\n" + _OWN), _ADDED)
misses("globals of a frame", inside("return sys._getframe().f_globals['h'](x)", top="import sys\n" + _OWN), _ADDED)
misses("globals of a function", inside("return compute.func.__globals__['h'](x)", top=_OWN), _ADDED)
misses(
    "import by a constant",
    inside("return importlib.import_module('aid').h(x)", top="import importlib"),
    _ADDED,
    files={"aid.py": AID},
)
misses(
    "import by a function under another name",
    inside("return importlib.import_module(NAME).h(x)", top="import importlib\nNAME = 'aid'"),
    _ADDED,
    files={"aid.py": AID},
)
misses(
    "import by configuration",
    inside("return importlib.import_module(C['p']).h(x)", top="import importlib\nC = {'p': 'aid'}"),
    _ADDED,
    files={"aid.py": AID},
)
misses(
    "configuration of an import",
    inside("return importlib.import_module(C['p']).h(x)", top="import importlib\nC = {'p': 'aid'}"),
    ("'aid'}", "'aid2'}"),
    files={"aid.py": AID, "aid2.py": "def h(x): return 0\n"},
)
misses("import by __import__", inside("return __import__('aid').h(x)"), _ADDED, files={"aid.py": AID})
refused(
    "import by a computed name",
    inside("n = 'ai'", "return importlib.import_module(n + 'd').h(x)", top="import importlib"),
    _ADDED,
    files={"aid.py": AID},
)
refused(
    "import by a parameter",
    inside("return load('aid').h(x)", top="import importlib\ndef load(name): return importlib.import_module(name)"),
    _ADDED,
    files={"aid.py": AID},
)
refused(
    "import with a function of another name",
    inside("n = 'ai'", "return load(n + 'd').h(x)", top="from importlib import import_module as load"),
    _ADDED,
    files={"aid.py": AID},
)
refused(
    "sys.modules by a computed name",
    inside("n = 'ai'", "return sys.modules[n + 'd'].h(x)", top="import sys, aid"),
    _ADDED,
    files={"aid.py": AID},
)
misses("docstring that is read", inside("return h.__doc__", top="def h():\n    'one'\n"), ("'one'", "'two'"))
misses("docstring of a class that is read", inside("return H.__doc__", top="class H:\n    'one'\n"), ("'one'", "'two'"))
misses("name of a function that is read", inside("return h.__name__", top="def one(): pass\nh = one\n"), ("one", "two"))
misses(
    "environment variable",
    inside("return os.environ['HYPERNODES_K']", top="import os\nos.environ['HYPERNODES_K'] = '1'"),
    ("= '1'", "= '2'"),
)
misses(
    "environment variable with a default",
    inside("return environ.get('HYPERNODES_K', '')", top="from os import environ\nenviron['HYPERNODES_K'] = '1'"),
    ("= '1'", "= '2'"),
)
misses(
    "environment variable by a function",
    inside("return os.getenv('HYPERNODES_K')", top="import os\nos.environ['HYPERNODES_K'] = '1'"),
    ("= '1'", "= '2'"),
)
hits(
    "environment variable that is not read",
    inside("return environ['HOME']", top="from os import environ\nenviron['HYPERNODES_K'] = '1'"),
    ("= '1'", "= '2'"),
)

# --- what classes and functions hold -----------------------------------------------------------------------------

_ENUM = "import enum\nclass E(enum.Enum):\n    A = 1, 'copper'\n    B = 2, 'tin'\n    def __new__(cls, value, metal):\n        made = object.__new__(cls)\n        made._value_ = value\n        made.metal = metal\n        return made\n"
misses(
    "order of the members of an enum",
    inside("return [e.name for e in E]", top=_ENUM),
    ("    A = 1, 'copper'\n    B = 2, 'tin'\n", "    B = 2, 'tin'\n    A = 1, 'copper'\n"),
)
misses("attribute of a member of an enum", inside("return E.A.metal", top=_ENUM), ("copper", "zinc"))
misses(
    "alias of a member of an enum",
    inside("return list(E.__members__)", top="import enum\nclass E(enum.Enum):\n    A = 1\n    B = 1\n"),
    ("B = 1", "C = 1"),
)
misses(
    "boundary of a flag",
    inside(
        "return int(F(8)) if F._boundary_ is enum.KEEP else 0",
        top="import enum\nclass F(enum.IntFlag, boundary=enum.KEEP):\n    A = 1\n",
    ),
    ("boundary=enum.KEEP", "boundary=enum.EJECT"),
)
misses(
    "metadata of a field",
    inside(
        "return dataclasses.fields(D)[0].metadata['k']",
        top="import dataclasses\n@dataclasses.dataclass\nclass D:\n    a: int = dataclasses.field(default=1, metadata={'k': 1})\n",
    ),
    ("{'k': 1}", "{'k': 2}"),
)
misses(
    "type of a field",
    inside(
        "return dataclasses.fields(D)[0].type.__name__",
        top="import dataclasses\n@dataclasses.dataclass\nclass D:\n    a: int = 1\n",
    ),
    ("a: int", "a: float"),
)
misses(
    "annotation of a class", inside("return [*D.__annotations__]", top="class D:\n    a: int\n"), ("a: int", "b: int")
)
misses(
    "keys of a typed dict",
    inside("return sorted(D.__required_keys__)", top="import typing\nclass D(typing.TypedDict):\n    a: int\n"),
    ("a: int", "b: int"),
)
misses(
    "class made by make_dataclass",
    inside("return D().k", top="import dataclasses\nD = dataclasses.make_dataclass('D', [('k', int, 1)])\n"),
    ("int, 1", "int, 2"),
)
misses(
    "class made by exec",
    inside("return D.k", top="s = {}\nexec('class D:\\n    k = 1', s)\nD = s['D']\n"),
    ("k = 1", "k = 2"),
)
misses(
    "function made by exec",
    inside("return f()", top="s = {}\nexec('def f(): return 1', s)\nf = s['f']\n"),
    ("return 1", "return 2"),
)
misses("class made by type", inside("return D.k", top="D = type('D', (), {'k': 1})\n"), ("'k': 1", "'k': 2"))
misses(
    "named tuple by function",
    inside("return D(1)[-1]", top="import collections\nD = collections.namedtuple('D', 'a b', defaults=[1])\n"),
    ("defaults=[1]", "defaults=[2]"),
)
misses(
    "field of another pydantic validator",
    inside(
        "return M(a=1, b=1).model_dump()",
        top="import pydantic\nclass M(pydantic.BaseModel):\n    a: int\n    b: int\n    @pydantic.field_validator('a')\n    @classmethod\n    def tenfold(cls, value): return value * 10\n",
    ),
    ("validator('a')", "validator('b')"),
)
misses(
    "mode of a pydantic validator",
    inside(
        "return M(a='1').a",
        top="import pydantic\nclass M(pydantic.BaseModel):\n    a: int\n    @pydantic.field_validator('a', mode='before')\n    @classmethod\n    def tenfold(cls, value): return value * 10\n",
    ),
    ("'before'", "'after'"),
)
misses(
    "description of a pydantic model",
    inside(
        "return M.model_json_schema()", top="import pydantic\nclass M(pydantic.BaseModel):\n    'one'\n    a: int\n"
    ),
    ("'one'", "'two'"),
)
misses(
    "description of a pydantic field",
    inside(
        "return M.model_json_schema()",
        top="import pydantic\nclass M(pydantic.BaseModel):\n    a: int = pydantic.Field(description='one')\n",
    ),
    ("'one'", "'two'"),
)
misses(
    "order of pydantic fields",
    inside("return [*M.model_fields]", top="import pydantic\nclass M(pydantic.BaseModel):\n    a: int\n    b: int\n"),
    ("    a: int\n    b: int\n", "    b: int\n    a: int\n"),
)
misses(
    "type of an attrs field",
    inside(
        "return A('1').k", top="import attrs\n@attrs.define\nclass A:\n    k: object = attrs.field(converter=int)\n"
    ),
    ("converter=int", "converter=str"),
)
misses(
    "metadata of an attrs field",
    inside(
        "return attrs.fields(A).k.metadata['k']",
        top="import attrs\n@attrs.define\nclass A:\n    k: object = attrs.field(metadata={'k': 1})\n",
    ),
    ("{'k': 1}", "{'k': 2}"),
)
_PROPERTY = "class own(property):\n    def __get__(self, obj, kind): return self.fget(kind)\nclass C:\n    @own\n    def k(cls): return 1\n"
misses("property of a kind of one's own", inside("return C.k", top=_PROPERTY), ("return 1", "return 2"))
misses("kind of property of one's own", inside("return C.k", top=_PROPERTY), ("self.fget(kind)", "-self.fget(kind)"))
misses(
    "attribute of such a property",
    inside("return C.__dict__['k'].unit", top=_PROPERTY + "C.__dict__['k'].unit = 'm'\n"),
    ("'m'", "'s'"),
)
misses(
    "class method of a kind of one's own",
    inside(
        "return C.k()",
        top=_PROPERTY.replace("(property)", "(classmethod)").replace("self.fget(kind)", "lambda: self.__func__(kind)"),
    ),
    ("return 1", "return 2"),
)
misses(
    "metaclass of one's own with the name of another",
    inside("return C.k", top="class ABCMeta(type):\n    k = 1\nclass C(metaclass=ABCMeta): pass\n"),
    ("k = 1", "k = 2"),
)
_WEIGHTED = "def weighted(w):\n    def decorate(f):\n        f.weight = w\n        return f\n    return decorate\n@weighted(3)\ndef helper(x): return x\ndef apply(f, x): return f(x) * f.weight\n"
misses(
    "attribute of a function that is passed on",
    inside("return apply(helper, x)", top=_WEIGHTED),
    ("weighted(3)", "weighted(4)"),
)
misses(
    "attribute of a function in a table",
    inside("return T[0].weight", top=_WEIGHTED + "T = [helper]\n"),
    ("weighted(3)", "weighted(4)"),
)
misses(
    "annotation that singledispatch reads",
    inside(
        "@functools.singledispatch",
        "def h(v): return 0",
        "@h.register",
        "def _(v: int): return 1",
        "return h(x)",
        top="import functools",
    ),
    ("v: int", "v: str"),
)
hits(
    "annotation of an inner function",
    inside("def inner(v): return math.floor(v)", "return inner(x)", top="import math"),
    ("inner(v)", "inner(v: int)"),
)
hits(
    "docstring of an inner function",
    inside("def inner(v):", "    return math.floor(v)", "return inner(x)", top="import math"),
    ("    return math", "    'Words.'\n        return math"),
)
hits(
    "docstring of an inner class",
    inside("class Inner:", "    k = math.floor(1)", "return Inner.k", top="import math"),
    ("class Inner:", "class Inner:\n        'Words.'"),
)
hits(
    "import added at the top",
    inside("import colorsys", "return colorsys.rgb_to_hls(1, 1, 1)", top="import math"),
    ("import math", "import math, colorsys"),
)
hits(
    "import added in a branch at the top",
    inside("import colorsys", "return colorsys.rgb_to_hls(1, 1, 1)", top="import math"),
    ("import math", "try:\n    import colorsys\nexcept ImportError:\n    pass"),
)
misses(
    "docstring and an equal constant",
    inside("'one'", "math.floor(x)", "return 'one'", top="import math"),
    ("'one'", "'two'"),
)
misses(
    "docstring and an equal constant without source",
    "exec(\"def h():\\n    'one'\\n    return 'one'\\n\")\n" + inside("return h()"),
    ("'one'", "'two'"),
)
for _text, _made in {
    "json decoder": "json.JSONDecoder()",
    "struct": "struct.Struct('<i')",
    "pattern": "re.compile('a')",
    "lock by a name": "logging.getLogger('a')",
}.items():
    hits(f"global {_text}", inside("return str(type(G))", top=f"import json, logging, re, struct\nG = {_made}"))
hits("bare sentinel", inside("return x is UNSET", top="UNSET = object()"))
misses(
    "which bare sentinel",
    inside("return PAIR[0] is UNSET", top="UNSET = object()\nOTHER = object()\nPAIR = [UNSET]"),
    ("[UNSET]", "[OTHER]"),
)
misses(
    "which sentinel of a class",
    inside("return PAIR[0] is UNSET", top="class S: pass\nUNSET, OTHER = S(), S()\nPAIR = [UNSET]"),
    ("[UNSET]", "[OTHER]"),
)
misses(
    "constant set in an installed module",
    inside("return colorsys.K", top="import colorsys\ncolorsys.K = 1"),
    ("= 1", "= 2"),
)
misses(
    "constant set in an installed class",
    inside("return Fraction.K", top="from fractions import Fraction\nFraction.K = 1"),
    ("= 1", "= 2"),
)
misses(
    "constant set in a class of a module",
    inside("return fractions.Fraction.K", top="import fractions\nfractions.Fraction.K = 1"),
    ("= 1", "= 2"),
)
misses(
    "class method added to an installed class",
    inside("return Fraction.k()", top="from fractions import Fraction\nFraction.k = classmethod(lambda kind: 1)"),
    ("kind: 1", "kind: 2"),
)
misses(
    "docstring read by inspect",
    inside("return inspect.getdoc(h)", top="import inspect\ndef h():\n    'one'\n"),
    ("'one'", "'two'"),
)
misses(
    "type hints of a helper",
    inside("return str(typing.get_type_hints(h))", top="import typing\ndef h(v: int): pass\n"),
    ("v: int", "v: str"),
)

# --- references by names that are computed, or looked up by others ------------------------------------------------

_BY_NAME = {
    "function that finds objects by name": ("import pkgutil", "return pkgutil.resolve_name('aid:h')(x)"),
    "module that is run": ("import runpy", "return runpy.run_module('aid')['h'](x)"),
    "importlib.__import__": ("import importlib", "return importlib.__import__('aid').h(x)"),
    "builtins.__import__": ("import builtins", "return builtins.__import__('aid').h(x)"),
    "globals under another name": ("from aid import h", "g = globals; return g()['h'](x)"),
    "globals passed on": ("from aid import h\ndef call(g, x): return g()['h'](x)", "return call(globals, x)"),
}
for _name, (_top, _body) in _BY_NAME.items():
    misses(_name, inside(_body, top=_top), _ADDED, files={"aid.py": AID})
_UNKNOWN = {
    "sys.modules.get by a computed name": ("import sys, aid as _", "n = 'a'; return sys.modules.get(n + 'id').h(x)"),
    "sys.modules under another name": ("import sys, aid as _", "m = sys.modules; n = 'a'; return m[n + 'id'].h(x)"),
    "file that is run": ("import runpy", "return runpy.run_path('aid.py')['h'](x) if not x else x"),
    "module from a file": (
        "import importlib.util",
        "return importlib.util.spec_from_file_location('a', 'aid.py') and x",
    ),
}
for _name, (_top, _body) in _UNKNOWN.items():
    refused(_name, inside(_body, top=_top), _ADDED, files={"aid.py": AID})
hits(
    "whether a module has been imported",
    inside("return 'aid' in sys.modules and x", top="import sys, aid as _"),
    _ADDED,
    files={"aid.py": AID},
)
_VARIABLE = "import os\nNAME = 'HN_SCENARIO'\nos.environ[NAME] = 'one'\n"
_READING = {
    "whether an environment variable is set": "return 'HN_SCENARIO' in os.environ",
    "environment variable by a global name": "return os.environ[NAME]",
    "environment variable by a global name, with a default": "return os.environ.get(NAME, '')",
    "environment variable by a function and a global name": "return os.getenv(NAME)",
    "environment variable by a computed name": "n = 'HN_'; return os.environ[n + 'SCENARIO']",
    "environment that is passed on": "return dict(os.environ)[NAME]",
    "environment variable with setdefault": "return os.environ.setdefault('HN_SCENARIO', 'two')",
}
for _number, (_name, _body) in enumerate(_READING.items()):
    _change = ("os.environ[NAME] = 'one'", "os.environ.pop(NAME, 0)") if " in " in _body else ("'one'", "'two'")
    _text = (
        inside(_body, top=_VARIABLE)
        .replace("HN_SCENARIO", f"HN_{_number}_SCENARIO")
        .replace("'HN_'", f"'HN_{_number}_'")
    )
    misses(_name, _text, _change)
misses(
    "global variable in a query of pandas",
    inside("return len(pd.DataFrame({'a': [1, 2, 3]}).query('a > @LIMIT'))", top="import pandas as pd\nLIMIT = 1"),
    ("LIMIT = 1", "LIMIT = 2"),
)
misses(
    "constant put among the built-in names",
    inside("return HN_CONSTANT * x", top="import builtins\nbuiltins.HN_CONSTANT = 3"),
    ("= 3", "= 4"),
)
misses(
    "subclasses of a class",
    inside(
        "return [kind().f(x) for kind in Base.__subclasses__()]",
        top="class Base: pass\nclass Part(Base):\n    def f(self, x): return x + 1",
    ),
    ("x + 1", "x + 2"),
)
misses(
    "subclasses of a class, in a class method",
    inside(
        "return Base.all(x)",
        top="class Base:\n    @classmethod\n    def all(cls, x): return [c().f(x) for c in cls.__subclasses__()]\n"
        "class Part(Base):\n    def f(self, x): return x + 1",
    ),
    ("x + 1", "x + 2"),
)
for _name, _abstract in {
    "class registered as a subclass": "import abc\nclass Shape(abc.ABC): pass",
    "class registered with one of Python's own": "from collections.abc import Sequence as Shape",
}.items():
    misses(
        _name,
        inside("return isinstance(A(), Shape)", top=f"{_abstract}\nclass A: pass\nclass B: pass\nShape.register(A)"),
        ("register(A)", "register(B)"),
    )

_IN_NAMESPACES = {
    "sys.modules in vars(sys)": ("import sys, aid as _", "return vars(sys)['modules']['aid'].h(x)"),
    "local variable in locals()": ("from aid import h", "f = h; return locals()['f'](x)"),
    "local variable in a text that is evaluated": ("from aid import h", "f = h; return eval('f(x)')"),
    "local variable in vars()": ("from aid import h", "f = h; return vars()['f'](x)"),
    "names of a text in a global variable": ("TEXT = '__import__(\"aid\").h(x)'", "return eval(TEXT)"),
    "names of a text that is compiled": ("", "return eval(compile('__import__(\"aid\").h(x)', '', 'eval'))"),
}
for _name, (_top, _body) in _IN_NAMESPACES.items():
    misses(_name, inside(_body, top=_top), _ADDED, files={"aid.py": AID})
hits(
    "unused neighbour by vars(module)",
    inside("return vars(aid)['h'](x)", top="import aid"),
    ("return 0", "return -1"),
    files={"aid.py": AID},
)
misses(
    "function by a computed name in a module with __getattr__",
    inside("n = 'h'", "return getattr(lazy, n + '')(x)", top="import lazy"),
    _ADDED,
    files={"aid.py": AID, "lazy.py": "def __getattr__(name):\n    import aid\n    return getattr(aid, name)\n"},
)
misses(
    "module that is imported for what its import does",
    inside("import plugin", "return TABLE['h'](x)", top="from table import TABLE, add"),
    _ADDED,
    files={
        "table.py": "TABLE = {}\ndef add(f):\n    TABLE[f.__name__] = f\n    return f\n",
        "plugin.py": "from table import add\n@add\ndef h(x):\n    return x + 1\n",
    },
)
for _name, _listed in {"that is passed on": "below(base.Base)", "by type": "type.__subclasses__(base.Base)"}.items():
    misses(
        f"subclasses of a class of another module {_name}",
        inside(
            f"return [kind().f(x) for kind in {_listed}]",
            top="import base, part as _\ndef below(kind): return kind.__subclasses__()",
        ),
        _ADDED,
        files={
            "base.py": "class Base: pass\n",
            "part.py": "from base import Base\nclass Part(Base):\n    def f(self, x): return x + 1\n",
        },
    )

_READ = "s = dict(); exec({}, s); return s['h'](x)"
_UNKNOWN = {
    "sys that is passed on": (
        "import sys, aid as _\ndef use(s, x): return s.modules['aid'].h(x)",
        "return use(sys, x)",
    ),
    "sys by a computed attribute": ("import sys, aid as _", "n = 'mod'; return getattr(sys, n + 'ules')['aid'].h(x)"),
    "module of a function": ("import inspect\nfrom aid import h", "return inspect.getmodule(h).h(x)"),
    "module from a specification": (
        "import importlib.util as u",
        "s = u.find_spec('aid'); m = u.module_from_spec(s); s.loader.exec_module(m); return m.h(x)",
    ),
    "entry point": ("import importlib.metadata as m", "return m.EntryPoint('a', 'aid:h', 'g').load()(x)"),
    "importing function in a table": (
        "import importlib\nT = {'i': importlib.import_module}",
        "return T['i']('aid').h(x)",
    ),
    "__import__ in __builtins__": (
        "",
        "b = __builtins__; return (b['__import__'] if isinstance(b, dict) else b.__import__)('aid').h(x)",
    ),
    "text of a file": ("", _READ.format("open('aid.py').read()")),
    "text of a path": ("from pathlib import Path", _READ.format("Path('aid.py').read_text()")),
    "text of a file, compiled": ("", _READ.format("compile(open('aid.py').read(), 'a', 'exec')")),
    "text of a file in variables": ("", "t = open('aid.py').read(); u = t + ''; " + _READ.format("u")),
    "text of a file, put together": ("", _READ.format("''.join(line for line in open('aid.py'))")),
    "lines of a file": ("", "s = {}\n    for line in [open('aid.py').read()]: exec(line, s)\n    return s['h'](x)"),
    "text of a file or another": ("", "t = open('aid.py').read() if x else ''; " + _READ.format("t[0:]")),
    "text of a file in a list": ("", "t = []; t.append(open('aid.py').read()); " + _READ.format("t[0]")),
    "text of a file that a match captures": (
        "",
        "s = dict()\n    match open('aid.py').read():\n        case str(t): exec(t, s)\n    return s['h'](x)",
    ),
    "text that a helper returns with others": (
        "def texts(): return open('aid.py').read(), 1",
        "t, _ = texts(); " + _READ.format("t"),
    ),
    "text that a helper evaluates": (
        "def run(text, space): exec(text, space)",
        "s = {}; run(open('aid.py').read(), s); return s['h'](x)",
    ),
    "text that a helper reads": (
        "def text(): return open('aid.py').read()",
        _READ.format("text()"),
    ),
    "exec of a module": ("import builtins", _READ.format("open('aid.py').read()").replace("exec", "builtins.exec")),
    "exec under another name": ("", "run = exec; " + _READ.format("open('aid.py').read()").replace("exec", "run")),
    "exec in a table": ("T = {'e': exec}", _READ.format("open('aid.py').read()").replace("exec", "T['e']")),
    "interpreter that is given a file": (
        "import code",
        "i = code.InteractiveInterpreter(); i.runsource(open('aid.py').read(), 'a', 'exec'); return i.locals['h'](x)",
    ),
    "globals of the caller": ("from aid import h\nfrom up import get", "return get('h')(x)"),
    "globals of a caller on the stack": ("from aid import h\nfrom up import find", "return find('h')(x)"),
}
_UP = (
    "import inspect, sys\ndef get(n): return sys._getframe(1).f_globals[n]\n"
    "def find(n): return inspect.stack()[1].frame.f_globals[n]\n"
)
for _name, (_top, _body) in _UNKNOWN.items():
    refused(_name, inside(_body, top=_top), _ADDED, files={"aid.py": AID, "up.py": _UP})
for _name, (_top, _body) in {
    "name of an attribute of sys": ("import sys", "return hasattr(sys, 'ps1')"),
    "stream of sys": ("import sys", "return print(x, file=sys.stderr)"),
    "unused import of an installed module": ("", "import sys; return x"),
    "text that is an input": ("", "return eval(f'{x} + 1')"),
    "function of one's own called eval": ("def eval(v): return v", "return eval(str(x))"),
    "method called compile": ("import re", "return bool(re.compile(str(x).strip()).match('5'))"),
    "constant that is executed": ("", "s = {}; exec('y = 1', s); return s['y']"),
}.items():
    hits(_name, inside(_body, top=_top))

_INDIRECT = {
    "in a text": "return os.path.expandvars('$HN_SCENARIO')",
    "in a text that is composed": "return os.path.expandvars('$HN_' + ''.join(['SCENARIO']))",
    "in bytes": "return os.environb[b'HN_SCENARIO']",
    "by a function in a variable": "g = os.getenv; return g('HN_SCENARIO')",
    "by a function in a table": "return TABLE['get']('HN_SCENARIO')",
    "by a function that is passed on": "return list(map(os.getenv, ['HN_SCENARIO']))",
    "in a template": "return string.Template('$HN_SCENARIO').substitute(os.environ)",
    "in vars(os)": "return vars(os)['environ']['HN_SCENARIO']",
    "in a module of a module": "return shutil.os.environ['HN_SCENARIO']",
    "in os that is passed on": "return use(os)",
    "in an attribute of a class": "return Held.held['HN_SCENARIO']",
}
for _number, (_name, _body) in enumerate(_INDIRECT.items()):
    _text = inside(
        _body,
        top="import os, shutil, string\nos.environ['HN_SCENARIO'] = 'one'\nTABLE = {'get': os.getenv}\n"
        "class Held: held = os.environ\ndef use(o): return o.environ['HN_SCENARIO']\n",
    )
    misses(
        f"environment variable {_name}",
        _text.replace("SCENARIO", f"INDIRECT_{_number}"),
        ("'one'", "'two'"),
    )
# --- what is said of functions and classes, where it is read -------------------------------------------------------

_SAID = {
    "docstrings of functions in a list": ("return [t.__doc__ for t in [*TOOLS]]", "TOOLS = [a]"),
    "docstring of a class in a table": ("return TABLE.get('c').__doc__", "class C:\n    'one'\nTABLE = {'c': C}"),
    "docstring read by a helper": ("return show(a)", "def show(f): return f.__doc__"),
    "source of a function": ("return inspect.getsource(a)", "import inspect"),
    "source of a function by a function under another name": (
        "return text(a)",
        "from inspect import getsource as text",
    ),
    "source of a function that a helper reads": (
        "return text(a)",
        "import inspect\ndef text(f): return inspect.getsource(f)",
    ),
    "comment in a source": ("return inspect.getsource(b)", "import inspect\ndef b():\n    # 'one'\n    return 1"),
    "comment in the source of a class": (
        "return inspect.getsource(C)",
        "import inspect\nclass C:\n    # 'one'\n    k = 1",
    ),
    "comment above a function": ("return inspect.getcomments(b)", "import inspect\n# 'one'\ndef b(): pass"),
    "constants of a code object": ("return a.__code__.co_consts", ""),
    "description of code": ("return dis.code_info(a).split('Constants')[1]", "import dis"),
    "page of documentation": ("return pydoc.render_doc(a)", "import pydoc"),
    "docstring of a method that is read": ("return C.f.__doc__", "class C:\n    def f(self):\n        'one'"),
}
for _name, (_body, _top) in _SAID.items():
    misses(_name, inside(_body, top=f"def a():\n    'one'\n{_top}"), ("'one'", "'two'"))
misses(
    "annotation that a decorator reads",
    inside(
        "return g(x)",
        top="def convert(f):\n    def w(x): return f.__annotations__['x'](x)\n    return w\n"
        "@convert\ndef g(x: int): return x",
    ),
    ("x: int", "x: str"),
)
misses(
    "line of a function",
    inside("return h.__code__.co_firstlineno", top="def h(): pass"),
    ("def h", "\ndef h"),
)
misses(
    "source of a module",
    inside("return inspect.getsource(aid)", top="import aid, inspect"),
    ("# one", "# two"),
    files={"aid.py": "# one\n"},
)
hits(
    "docstring of a function in a list of which nobody reads it",
    inside("return [t() for t in TOOLS]", top="def a():\n    'one'\nTOOLS = [a]"),
    ("'one'", "'two'"),
)
misses(
    "class that an annotation names",
    inside(
        "return typing.get_type_hints(Outer)['inner']().k",
        top="import dataclasses, typing\n@dataclasses.dataclass\nclass Inner:\n    k: int = 1\n"
        "@dataclasses.dataclass\nclass Outer:\n    inner: 'Inner'",
    ),
    ("k: int = 1", "k: int = 2"),
)
misses(
    "order of a union",
    inside("return [kind.__name__ for kind in typing.get_args(U)]", top="import typing\nU = int | str"),
    ("int | str", "str | int"),
)
for _name, _top in {
    "attribute of a cached function": "import functools\n@functools.lru_cache\ndef h(x): return x",
    "attribute of a dispatcher": "import functools\n@functools.singledispatch\ndef h(x): return x",
    "attribute of a context manager": "import contextlib\n@contextlib.contextmanager\ndef h(x): yield x",
}.items():
    misses(_name, inside("return h.k", top=f"{_top}\nh.k = 1"), ("h.k = 1", "h.k = 2"))
misses(
    "attribute of an installed function",
    inside("return shlex.join.k", top="import shlex\nshlex.join.k = 1"),
    ("k = 1", "k = 2"),
)
misses("list set in an installed module", inside("return shlex.k", top="import shlex\nshlex.k = [1]"), ("[1]", "[2]"))
misses(
    "list set in an installed class",
    inside("return shlex.shlex.k", top="import shlex\nshlex.shlex.k = [1]"),
    ("[1]", "[2]"),
)

# --- needless computations, with the reason ----------------------------------------------------------------------

needless(
    "annotation of an attribute of a class",
    "libraries read annotations of classes (parsers of settings, schemas), and whether one does cannot be seen",
    inside("return C.k", top="class C:\n    k = 1\n"),
    ("k = 1", "k: int = 1"),
)
needless(
    "order of a dict of which only the values are looked up",
    "what a function does with a dict cannot be seen, and many things show its order",
    inside("return T['a']", top="T = {'a': 1, 'b': 2}\n"),
    ("{'a': 1, 'b': 2}", "{'b': 2, 'a': 1}"),
)
needless(
    "attribute of a function that nobody reads",
    "whoever is given the function may read it",
    inside("return h()", top="def h(): return 1\nh.note = 'a'\n"),
    ("'a'", "'b'"),
)
needless(
    "another function of a module in which names are composed",
    "which of its names are looked up is known only when the function runs",
    inside("n = 'h'", "return getattr(aid, n + '')(x)", top="import aid"),
    ("return 0", "return -1"),
    files={"aid.py": AID + "def unused(): return 0\n"},
)
needless(
    "description of a pydantic model",
    "it is a part of the schema, which people give to language models",
    inside("return M(a=1).a", top="import pydantic\nclass M(pydantic.BaseModel):\n    'one'\n    a: int\n"),
    ("'one'", "'two'"),
)
needless(
    "name of a bare sentinel",
    "it holds nothing else to be known by",
    inside("return x is UNSET", top="UNSET = object()"),
    ("UNSET", "ABSENT"),
)
