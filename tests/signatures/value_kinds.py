"""Kinds of values that nodes are given, and what makes two of them the same or different; see `test_value_sweep`."""

from __future__ import annotations

import importlib.util
import sys
import textwrap
from collections.abc import Sequence
from types import ModuleType
from typing import NamedTuple


class Kind(NamedTuple):
    """A kind of value.

    Attributes:
        name: What is it.
        setup: Statements before the expressions.
        same: Expressions for one and the same value, made in different ways.
        different: Expressions for other values, each different from the first and from the others.
        needs: Modules that must be installed.
        needless: Why a value is not found again; empty if it must be.
    """

    name: str
    setup: str
    same: tuple[str, ...]
    different: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    needless: str = ""


KINDS: list[Kind] = []


def kind(
    name: str, setup: str, same: tuple[str, ...] | str, *different: str, needs: str = "", needless: str = ""
) -> None:
    expressions = (same,) if isinstance(same, str) else same
    KINDS.append(Kind(name, textwrap.dedent(setup), expressions, different, tuple(needs.split()), needless))


# --- the language and the standard library -----------------------------------------------------------------------

kind("dict", "", ("{'a': 1, 'b': 2}", "dict(a=1, b=2)"), "{'b': 2, 'a': 1}", "{'a': 1, 'b': 3}", "{'a': 1}")
kind("dict of objects", "class C: pass", "{'a': C, 'b': C}", "{'b': C, 'a': C}")
kind("dict of numbers", "", "{1: 'a', 2: 'b'}", "{2: 'b', 1: 'a'}", "{True: 'a', 2: 'b'}")
kind("set", "", ("{'a', 'b', 'c'}", "{'c', 'b', 'a'}", "set('cab')"), "{'a', 'b'}", "frozenset('abc')")
kind(
    "attributes in another order",
    """
    class C:
        def __init__(self, **items): self.__dict__.update(items)
    """,
    ("C(a=1, b=2)", "C(b=2, a=1)"),
    "C(a=2, b=1)",
)
kind(
    "attributes in another order, with objects",
    """
    class C:
        def __init__(self, **items): self.__dict__.update(items)
    """,
    ("C(a=[C()], b=2)", "C(b=2, a=[C()])"),
    "C(a=[C(a=1)], b=2)",
)
kind("float", "", ("float('nan')", "-float('nan')"), "0.0", "-0.0", "0")
kind("subclass of int", "class I(int): pass", "I(1)", "I(2)", "1", "True")
kind(
    "subclass of str with an attribute",
    "class S(str): pass\ndef make(k):\n    s = S('a')\n    s.k = k\n    return s",
    "make(1)",
    "make(2)",
    "'a'",
)
kind("subclass of dict", "class D(dict): pass", "D(a=1, b=2)", "D(b=2, a=1)", "D(a=1)", "{'a': 1, 'b': 2}")
kind(
    "ordered dict, after a move",
    "import collections\ndef moved(kind):\n    d = kind(a=1, b=2)\n    d.move_to_end('a')\n    return d\nclass O(collections.OrderedDict): pass",
    ("moved(collections.OrderedDict)", "collections.OrderedDict(b=2, a=1)"),
    "collections.OrderedDict(a=1, b=2)",
    "O(a=1, b=2)",
    "moved(O)",
)
kind("default dict", "import collections\nclass D(collections.defaultdict): pass", "D(int)", "D(list)", "D(int, a=1)")
kind("counter", "import collections\nclass C(collections.Counter): pass", "C('ab')", "C('abb')")
kind("deque", "import collections\nclass D(collections.deque): pass", "D('ab', 3)", "D('ab', 4)", "D('ba', 3)")
kind(
    "subclass of set",
    "class S(set): pass\ndef make(k):\n    s = S('abcdef')\n    s.k = k\n    return s",
    "make(1)",
    "make(2)",
    "S('abcde')",
)
kind(
    "struct",
    "import struct\nclass S(struct.Struct): pass",
    "struct.Struct('<i')",
    "struct.Struct('>i')",
    "S('<i')",
    "S('>i')",
)
kind(
    "subclass of struct with an attribute",
    "import struct\nclass S(struct.Struct): pass\ndef make(k):\n    s = S('<i')\n    s.k = k\n    return s",
    "make(1)",
    "make(2)",
)
kind(
    "path with an attribute",
    "import pathlib\nclass P(pathlib.PurePosixPath): pass\ndef make(k):\n    p = P('a')\n    p.k = k\n    return p",
    "make(1)",
    "make(2)",
    "P('a')",
    "pathlib.PurePosixPath('a')",
    "pathlib.PureWindowsPath('a')",
)
kind(
    "method of a path's class",
    "import pathlib\nclass P(pathlib.PurePosixPath):\n    def f(self): return 1\nclass Q(pathlib.PurePosixPath):\n    def f(self): return 2\nQ.__qualname__ = 'P'",
    "P('a')",
    "Q('a')",
)
kind(
    "zone",
    """
    import io, zoneinfo, importlib.resources
    def read(key):
        import os
        for place in zoneinfo.TZPATH:
            if os.path.exists(os.path.join(place, key)):
                return io.BytesIO(open(os.path.join(place, key), 'rb').read())
        return importlib.resources.files('tzdata.zoneinfo').joinpath(key).open('rb')
    """,
    ("zoneinfo.ZoneInfo('UTC')", "zoneinfo.ZoneInfo.no_cache('UTC')"),
    "zoneinfo.ZoneInfo('Europe/Paris')",
    "zoneinfo.ZoneInfo.from_file(read('Europe/Paris'), key='UTC')",
)
kind(
    "time",
    "import datetime as d",
    "d.datetime(2020, 1, 1)",
    "d.datetime(2020, 1, 1, fold=1)",
    "d.datetime(2020, 1, 1, tzinfo=d.UTC)",
    "d.date(2020, 1, 1)",
)
kind(
    "subclass of time",
    "import datetime as d\nclass D(d.datetime): pass\ndef make(k):\n    m = D(2020, 1, 1)\n    m.k = k\n    return m",
    "make(1)",
    "make(2)",
    "D(2021, 1, 1)",
)
kind("decimal", "import decimal\nclass D(decimal.Decimal): pass", "D('1.0')", "D('1.00')", "decimal.Decimal('1.0')")
kind(
    "exception",
    "class E(Exception): pass\ndef make(k, n):\n    e = E(k)\n    e.n = n\n    return e",
    "make(1, 1)",
    "make(2, 1)",
    "make(1, 2)",
)
kind("pattern", "import re", "re.compile('a')", "re.compile('a', re.I)", "re.compile('b')", "re.compile(b'a')")
kind(
    "partial",
    "import functools",
    "functools.partial(print, sep='')",
    "functools.partial(print, sep=' ')",
    "functools.partial(print)",
)
kind("subclass of partial", "import functools\nclass P(functools.partial): pass", "P(print, 1)", "P(print, 2)")
kind("property", "class P(property): pass", "P(lambda self: 1)", "P(lambda self: 2)", "property(lambda self: 1)")
kind(
    "weak reference",
    "import weakref\nclass C:\n    def __init__(self, k): self.k = k\nkept = [C(1), C(2)]",
    "weakref.ref(kept[0])",
    "weakref.ref(kept[1])",
)
kind("enum", "import enum\nclass E(enum.Enum):\n    A = 1\n    B = 1\n    C = 2", ("E.A", "E.B", "E(1)"), "E.C", "1")
kind("flags", "import enum\nclass F(enum.Flag):\n    A = 1\n    B = 2", ("F.A | F.B", "F.B | F.A"), "F.A", "F(0)")
kind(
    "json decoder",
    "import json\nclass D(json.JSONDecoder): pass",
    ("json.JSONDecoder()",),
    "json.JSONDecoder(strict=False)",
    "json.JSONDecoder(parse_float=str)",
    "D()",
)
kind("type alias", "import typing", "list[int]", "list[str]", "typing.List[int]", "dict[str, int]")
kind(
    "memory",
    "import array",
    "array.array('i', [1])",
    "array.array('i', [2])",
    "array.array('h', [1])",
    "memoryview(b'a')",
)
kind("bound method of a built-in", "", "'a'.join", "'b'.join", "'a'.split")
kind("function of compiled code", "import math, cmath", "math.sqrt", "cmath.sqrt", "math.exp")
kind("function of Python's own", "import html, xml.sax.saxutils", "html.escape", "xml.sax.saxutils.escape")
kind("class of Python's own", "import queue, asyncio", "queue.Queue", "asyncio.Queue")
kind("random generator", "import random", "random.Random(1)", "random.Random(2)")
kind(
    "buffer",
    "import io\ndef at(n):\n    b = io.BytesIO(b'abc')\n    b.seek(n)\n    return b",
    "at(0)",
    "at(1)",
    "io.BytesIO(b'abd')",
)
kind(
    "cached property",
    "import functools\nclass C:\n    def __init__(self, k): self.k = k\n    @functools.cached_property\n    def p(self): return id(self)\ndef used(c):\n    c.p\n    return c",
    ("C(1)", "used(C(1))"),
    "C(2)",
)
kind(
    "__getstate__ of one's own",
    "class C:\n    def __init__(self, k): self.k = k\n    def __getstate__(self): return {}",
    "C(1)",
    "C(2)",
)
kind(
    "__reduce__ of one's own",
    "class C:\n    def __init__(self, k): self.k = k\n    def __reduce__(self): return C, (0,)",
    "C(1)",
    "C(2)",
)
kind("stateless object", "class C: pass\nclass D: pass", ("C()", "C()"), "D()")
kind(
    "list in a circle", "def loop(k):\n    a = [k]\n    a.append(a)\n    return a", ("loop(1)",), "loop(2)", "[1, [1]]"
)
kind(
    "ring of objects that are alike",
    """
    class Part: pass
    def ring(size):
        parts = [Part() for _ in range(size)]
        for i, part in enumerate(parts): part.next = parts[i - 1]
        return parts[0]
    """,
    ("ring(3)",),
    "ring(6)",
    "ring(2)",
)
kind(
    "tree with references to parents",
    """
    class Node:
        def __init__(self, parent, name):
            self.parent, self.name, self.children = parent, name, set()
            if parent: parent.children.add(self)
    def tree(last):
        root = Node(None, 'root')
        for name in 'abcde':
            child = Node(root, name)
            for inner in 'xy': Node(child, inner)
        Node(child, last)
        return root
    def whole(root): return [root, *sorted(root.children, key=lambda n: n.name)]
    """,
    ("tree('z')",),
    "tree('w')",
    "whole(tree('z'))",
    "whole(tree('w'))",
)
kind(
    "open things",
    """
    import mmap, queue, socket, sqlite3, ssl, tempfile, threading
    class Connection(sqlite3.Connection): pass
    class Memory(mmap.mmap): pass
    class Queue(queue.SimpleQueue): pass
    def file(text):
        f = tempfile.TemporaryFile('w+')
        f.write(text)
        f.seek(0)
        return f
    def filled(q, item):
        q.put(item)
        return q
    def context(verifies):
        c = ssl.create_default_context()
        c.check_hostname = verifies
        return c
    kept = []
    def keep(value):
        kept.append(value)
        return value
    """,
    "1",
    *(
        "file('a')",
        "file('b')",
        "keep(Connection(':memory:'))",
        "Memory(-1, 1)",
        "filled(Queue(), 1)",
        "filled(Queue(), 2)",
    ),
    *("context(True)", "context(False)", "threading.Lock()", "socket.SocketType", "(i for i in 'a')"),
)

# --- numpy, pandas, polars, pyarrow ------------------------------------------------------------------------------

kind(
    "array",
    "import numpy as np",
    ("np.arange(6.).reshape(2, 3)", "np.asfortranarray(np.arange(6.).reshape(2, 3))"),
    "np.arange(6.)",
    "np.arange(6).reshape(2, 3)",
    "np.arange(6., dtype='>f8').reshape(2, 3)",
    needs="numpy",
)
kind(
    "array with nan",
    "import numpy as np",
    ("np.array([1., np.nan])", "np.array([1., -np.nan])"),
    "np.array([1., 0.])",
    "np.array([1., -0.])",
    needs="numpy",
)
kind(
    "large array with nan",
    "import numpy as np\ndef make(v):\n    a = np.zeros(400_000)\n    a[300_000] = v\n    return a",
    ("make(np.nan)", "make(-np.nan)"),
    "make(0.)",
    "make(-0.)",
    needs="numpy",
)
kind(
    "complex array with nan",
    "import numpy as np",
    ("np.array([complex(np.nan, 1)])", "np.array([complex(-np.nan, 1)])"),
    "np.array([complex(1, np.nan)])",
    needs="numpy",
)
kind(
    "long floats",
    "import numpy as np",
    (
        "np.array([1, 2], 'g')",
        "(np.full(32, 255, 'u1').view('g') * 0 + np.array([1, 2], 'g')) if False else np.array([1, 2, 3], 'g')[:2]",
    ),
    "np.array([1, 3], 'g')",
    needs="numpy",
)
kind(
    "subclass of an array",
    "import numpy as np\nclass A(np.ndarray): pass\ndef make(k):\n    a = np.arange(3).view(A)\n    a.k = k\n    return a",
    "make(1)",
    "make(2)",
    "np.arange(3)",
    needs="numpy",
)
kind(
    "subclass of a number",
    "import numpy as np\nclass F(np.float64): pass\ndef make(k):\n    f = F(1)\n    f.k = k\n    return f",
    "make(1)",
    "make(2)",
    "np.float64(1)",
    "np.float32(1)",
    needs="numpy",
)
kind(
    "metadata of a dtype",
    "import numpy as np",
    "np.zeros(1, np.dtype('i4', metadata={'k': 1}))",
    "np.zeros(1, np.dtype('i4', metadata={'k': 2}))",
    "np.zeros(1, 'i4')",
    needs="numpy",
)
kind("universal function", "import numpy as np", "np.add", "np.subtract", needs="numpy")
kind(
    "random state",
    "import numpy as np",
    "np.random.RandomState(1)",
    "np.random.RandomState(2)",
    "np.random.default_rng(1)",
    needs="numpy",
)
kind(
    "frame",
    "import pandas as pd\nf = pd.DataFrame({'a': [1], 'b': [2]})\ndef used(f):\n    f['a']\n    f.iloc[0]\n    f.index.is_unique\n    return f",
    ("f", "f.copy()", "used(f.copy())"),
    "f[['b', 'a']]",
    "f.astype(float)",
    "f.set_index('a')",
    needs="pandas",
)
kind(
    "frame with an attribute",
    "import pandas as pd, warnings\ndef make(k):\n    f = pd.DataFrame({'a': [1]})\n    object.__setattr__(f, 'note', k)\n    return f",
    "make(1)",
    "make(2)",
    "pd.DataFrame({'a': [1]})",
    needs="pandas",
)
kind(
    "frame of a subclass",
    "import pandas as pd\nclass F(pd.DataFrame):\n    _metadata = ['unit']\n    @property\n    def _constructor(self): return F\ndef make(k):\n    f = F({'a': [1]})\n    f.unit = k\n    return f",
    "make(1)",
    "make(2)",
    needs="pandas",
)
kind(
    "series",
    "import pandas as pd\ndef make(k):\n    s = pd.Series([1])\n    object.__setattr__(s, 'note', k)\n    return s",
    "make(1)",
    "make(2)",
    "pd.Series([1], name='a')",
    "pd.Series([1.])",
    needs="pandas",
)
kind(
    "levels of an index that no row uses",
    "import pandas as pd\ni = pd.MultiIndex.from_product([[1, 2], ['a']])",
    ("i", "i.copy()"),
    "i[:1]",
    "pd.MultiIndex.from_product([[1], ['a']])",
    needs="pandas",
)
kind(
    "categories",
    "import pandas as pd",
    "pd.Categorical(['a'])",
    "pd.Categorical(['a'], ['a', 'b'])",
    "pd.Categorical(['a'], ordered=True)",
    needs="pandas",
)
kind(
    "timestamp",
    "import pandas as pd",
    "pd.Timestamp('2020')",
    "pd.Timestamp('2021')",
    "pd.Timestamp('2020', tz='UTC')",
    needs="pandas",
)
kind("functions of pandas", "import pandas as pd", "pd.api.types.is_integer", "pd.api.types.is_float", needs="pandas")
kind(
    "polars frame",
    "import polars as pl\nf = pl.DataFrame({'a': [1], 'b': [2]})",
    ("f", "f.clone()"),
    "f.select('b', 'a')",
    "f.cast(pl.Int8)",
    needs="polars",
)
kind(
    "polars enum",
    "import polars as pl",
    "pl.Series(['a'], dtype=pl.Enum(['a', 'b']))",
    "pl.Series(['a'], dtype=pl.Enum(['a', 'c']))",
    needs="polars",
)
kind(
    "arrow dictionary",
    "import pyarrow as pa\ndef make(*c): return pa.DictionaryArray.from_arrays(pa.array([0]), pa.array(c))",
    ("make('a', 'b')", "pa.chunked_array([make('a', 'b')])"),
    "make('a', 'c')",
    "make('a')",
    needs="pyarrow",
    needless="",
)
kind(
    "arrow metadata",
    "import pyarrow as pa\ndef make(k): return pa.table({'a': [1]}).replace_schema_metadata({'k': 'x' * 500 + k})",
    "make('1')",
    "make('2')",
    "pa.table({'a': [1]})",
    needs="pyarrow",
)
kind(
    "arrow field metadata",
    "import pyarrow as pa\ndef make(k): return pa.array([{'a': 1}], pa.struct([pa.field('a', pa.int8(), metadata={'k': k})]))",
    "make('1')",
    "make('2')",
    needs="pyarrow",
)
for _name, _type, _one, _two in (
    ("list", "pa.list_(ns)", "[[1], None, []]", "[[2], None, []]"),
    ("large list", "pa.large_list(ns)", "[[1], None, []]", "[[2], None, []]"),
    ("fixed list", "pa.list_(ns, 1)", "[[1], None]", "[[2], None]"),
    ("struct", "pa.struct([('a', ns)])", "[{'a': 1}, None]", "[{'a': 2}, None]"),
    ("map", "pa.map_(pa.string(), ns)", "[[('a', 1)], None]", "[[('a', 2)], None]"),
    ("list of structs", "pa.list_(pa.struct([('a', ns)]))", "[[{'a': 1}], None]", "[[{'a': 2}], None]"),
):
    kind(
        f"nanoseconds in an arrow {_name}",
        f"import pyarrow as pa\nns = pa.timestamp('ns')\nt = {_type}",
        (f"pa.array({_one}, t)", f"pa.concat_arrays([pa.array({_two}, t), pa.array({_one}, t)]).slice(len({_two}))"),
        f"pa.array({_two}, t)",
        f"pa.array({_one}[:1], t)",
        needs="pyarrow",
    )
kind(
    "arrow slice",
    "import pyarrow as pa",
    ("pa.array([1])", "pa.array([1, 2])[:1]", "pa.array([None, 1, 2])[1:2]"),
    "pa.array([1, 2])",
    "pa.array([1], pa.int8())",
    needs="pyarrow",
)
kind(
    "arrow union",
    "import pyarrow as pa\ndef make(k): return pa.UnionArray.from_sparse(pa.array([0], pa.int8()), [pa.array([k]), pa.array(['a'])])",
    "make(1)",
    "make(2)",
    needs="pyarrow",
)

# --- scipy, scikit-learn, torch, sympy, pydantic, attrs and others -----------------------------------------------

kind(
    "sparse matrix",
    "import numpy as np, scipy.sparse as sp\ndef make(k):\n    return sp.csr_matrix(np.eye(3) * k)\ndef used(m):\n    m.has_sorted_indices, m.has_canonical_format\n    return m",
    ("make(1)", "used(make(1))"),
    "make(2)",
    "make(1).tocsc()",
    needs="numpy scipy",
)
kind(
    "distribution",
    "import numpy as np, scipy.stats\ndef used():\n    np.random.rand(3)\n    return scipy.stats.norm",
    ("scipy.stats.norm", "used()"),
    "scipy.stats.expon",
    "scipy.stats.norm(1)",
    needs="numpy scipy",
)
kind(
    "modules of scipy", "import scipy.linalg, scipy.sparse.linalg", "scipy.linalg", "scipy.sparse.linalg", needs="scipy"
)
kind(
    "vectorizer",
    "from sklearn.feature_extraction.text import TfidfVectorizer as V",
    ("V().fit(['aaa', 'ccc aaa'])",),
    "V().fit(['aaa', 'bbb aaa'])",
    "V()",
    "V(stop_words='english')",
    needs="sklearn",
)
kind(
    "model of scikit-learn",
    "from sklearn.linear_model import LogisticRegression as M\nX, y = [[0.], [1.], [2.]], [0, 1, 1]",
    ("M().fit(X, y)",),
    "M(C=2).fit(X, y)",
    "M()",
    needs="sklearn",
)
kind(
    "forest",
    "from sklearn.ensemble import RandomForestClassifier as M\nX, y = [[0.], [1.], [2.]], [0, 1, 1]\ndef make(seed): return M(3, random_state=seed).fit(X, y)",
    "make(0)",
    "make(1)",
    needs="sklearn",
)
kind(
    "tensor",
    "import torch",
    ("torch.arange(6.).reshape(2, 3)", "torch.arange(6.).reshape(3, 2).T.contiguous().T.reshape(2, 3)"),
    "torch.arange(6.)",
    "torch.arange(6.).reshape(2, 3).requires_grad_()",
    needs="torch",
)
kind(
    "gradient",
    "import torch\ndef leaf(k):\n    t = torch.ones(1, requires_grad=True)\n    (t * k).sum().backward()\n    return t",
    "leaf(1)",
    "leaf(2)",
    "torch.ones(1, requires_grad=True)",
    needs="torch",
)
kind(
    "network",
    "import torch\ndef make(seed):\n    torch.manual_seed(seed)\n    return torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU())",
    "make(0)",
    "make(1)",
    needs="torch",
)
kind(
    "recurrent network",
    "import torch\ndef make(seed):\n    torch.manual_seed(seed)\n    return torch.nn.LSTM(2, 2)",
    "make(0)",
    "make(1)",
    needs="torch",
)
kind(
    "recurrent network of a subclass",
    "import torch\nclass N(torch.nn.LSTM): pass\ndef make(seed, k=0):\n    torch.manual_seed(seed)\n    n = N(2, 2)\n    n.k = k\n    return n",
    "make(0)",
    "make(1)",
    "make(0, 1)",
    needs="torch",
)
kind(
    "expression",
    "import sympy",
    ("sympy.Symbol('a') + 1", "1 + sympy.Symbol('a')"),
    "sympy.Symbol('b') + 1",
    "sympy.Symbol('a', positive=True) + 1",
    "sympy.Symbol('a') * 2",
    needs="sympy",
)
kind(
    "pydantic model",
    "import functools, pydantic\nclass M(pydantic.BaseModel):\n    k: int\n    j: int = 0\n    @functools.cached_property\n    def p(self): return id(self)\ndef used(m):\n    m.p\n    return m",
    ("M(k=1)", "used(M(k=1))"),
    "M(k=2)",
    "M(k=1, j=0)",
    "M.model_construct(k='1')",
    needs="pydantic",
)
kind(
    "attrs with a hash",
    "import attrs\n@attrs.frozen(cache_hash=True)\nclass A:\n    k: str\ndef used(a):\n    hash(a)\n    return a",
    ("A('a')", "used(A('a'))"),
    "A('b')",
    needs="attrs",
)
kind(
    "persistent map",
    "import pyrsistent\ndef used(m):\n    hash(m)\n    return m",
    ("pyrsistent.pmap({'a': 1, 'b': 2})", "used(pyrsistent.pmap({'b': 2, 'a': 1}))"),
    "pyrsistent.pmap({'a': 2, 'b': 1})",
    needs="pyrsistent",
)
kind(
    "persistent vector",
    "import pyrsistent",
    "pyrsistent.pvector([1, 2])",
    "pyrsistent.pvector([2, 1])",
    needs="pyrsistent",
)
kind(
    "compiled function",
    "import numba\n@numba.njit\ndef f(x): return x + 1\n@numba.njit\ndef g(x): return x + 2\n@numba.njit(fastmath=True)\ndef h(x): return x + 1",
    ("f", "(f(1), f)[1]"),
    "g",
    "h",
    needs="numba",
)
kind(
    "compiled function for given types",
    """
    import numba
    def f(x): return x + 1
    """,
    ("numba.njit('int64(int64)')(f)",),
    "numba.njit('float64(float64)')(f)",
    "numba.njit(f)",
    "numba.vectorize(['int64(int64)'])(f)",
    "numba.vectorize(['float64(float64)'])(f)",
    needs="numba",
)
kind("logger of loguru", "from loguru import logger", ("logger", "logger.bind(a=1)"), "1", needs="loguru")
kind(
    "statement of SQLAlchemy",
    "import sqlalchemy as sa\nt = sa.table('t', sa.column('a'), sa.column('b'))",
    "str(sa.select(t.c.a))",
    "str(sa.select(t.c.b))",
    needs="sqlalchemy",
)
kind(
    "picture",
    "from PIL import Image",
    ("Image.new('L', (2, 2), 1)",),
    "Image.new('L', (2, 2), 2)",
    "Image.new('RGB', (2, 2), 1)",
    needs="PIL",
)
kind(
    "picture with a palette",
    """
    from PIL import Image
    def make(opacity):
        image = Image.new('P', (2, 2), 1)
        image.putpalette([1, 2, 3, opacity] * 4, 'RGBA')
        return image
    """,
    ("make(10)",),
    "make(200)",
    needs="PIL",
)
kind(
    "picture with tags",
    """
    from PIL import Image
    def make(orientation, **attributes):
        image = Image.new('L', (2, 3), 1)
        image.getexif()[0x0112] = orientation
        vars(image).update(attributes)
        return image
    class Labelled(Image.Image): pass
    def labelled(label):
        image = make(1, label=label)
        image.__class__ = Labelled
        return image
    """,
    ("make(1)",),
    "make(6)",
    "make(1, label='a')",
    "make(1, label='b')",
    "labelled('a')",
    "labelled('b')",
    needs="PIL",
)
kind(
    "moving picture",
    """
    import io
    from PIL import Image
    def make(*durations):
        first, *others = [Image.new('L', (2, 2), i * 60) for i, _ in enumerate(durations)]
        file = io.BytesIO()
        first.save(file, 'GIF', save_all=True, append_images=others, duration=list(durations))
        return Image.open(io.BytesIO(file.getvalue()))
    """,
    ("make(100, 200, 300)",),
    "make(100, 300, 200)",
    needs="PIL",
)


def missing(modules: Sequence[str]) -> list[str]:
    """Return which of some modules are not installed."""
    return [module for module in modules if importlib.util.find_spec(module) is None]


def all_kinds() -> list[Kind]:
    """Return all kinds: those of this module, and those of the standard library and of libraries type by type."""
    from tests.signatures import library_kinds, standard_kinds

    assert {library_kinds.kind, standard_kinds.kind} == {kind}
    return KINDS


def digests() -> dict[str, list[list[str]]]:
    """Return, for each kind whose modules are installed, the digests of the same and of the different values.

    In the place of a digest is why there is none: "refused: ..." by the library, "error: ..." for anything else.
    """
    found: dict[str, list[list[str]]] = {}
    for number, wanted in enumerate(all_kinds()):
        if missing(wanted.needs):
            continue
        # As if each were a module of the user's own, so that its classes and functions are the user's code.
        module = sys.modules[f"values_{number}"] = ModuleType(f"values_{number}")
        try:
            exec(compile(wanted.setup, f"<values_{number}>", "exec", dont_inherit=True), module.__dict__)
        except Exception as error:
            found[wanted.name] = [[_problem(error)], []]
            continue
        rows = [[_digest_of(text, module) for text in texts] for texts in (wanted.same, wanted.different)]
        found[wanted.name] = rows
    return found


def _digest_of(expression: str, module: ModuleType) -> str:
    from hypernodes.signature import UnhashableValueError, digest

    try:
        value = eval(expression, module.__dict__)
        return digest(value).hex()
    except UnhashableValueError as error:
        return f"refused: {error}"
    except Exception as error:
        return _problem(error)


def _problem(error: Exception) -> str:
    return f"error: {type(error).__name__}: {error}"
