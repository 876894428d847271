"""Code that changes while the process lives, has no source, or came from another process."""

from __future__ import annotations

import asyncio
import functools
import gc
import linecache
import pickle
import subprocess
import sys
import textwrap
import warnings
import weakref
import zipfile
from collections.abc import Callable
from decimal import ROUND_UP, Decimal, localcontext
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import cloudpickle
import pytest

from hypernodes import InvalidNodeError, MemoryCache, Node, Pipeline, node
from hypernodes.signature import (
    UnhashableValueError,
    code_components,
    code_digest,
    digest,
    new_memo,
    register,
    with_code_digest,
)
from tests.support import Recorder

LoadModule = Callable[..., ModuleType]


class Notebook:
    """Runs cells like an interactive session: in one namespace, each with a source of its own."""

    def __init__(self) -> None:
        self.namespace: dict[str, Any] = {"__name__": "__main__", "node": node, "Pipeline": Pipeline}
        self.count = 0

    def run(self, cell: str, name: str | None = None) -> Any:
        self.count += 1
        name = name or f"<cell {self.count}>"
        cell = textwrap.dedent(cell)
        linecache.cache[name] = (len(cell), None, cell.splitlines(keepends=True), name)
        exec(compile(cell, name, "exec"), self.namespace)
        return self.namespace


@pytest.fixture
def notebook() -> Notebook:
    return Notebook()


def computed_in(pipeline: Pipeline, cache: MemoryCache, **inputs: Any) -> int:
    recorder = Recorder()
    pipeline.with_cache(cache).with_callbacks([recorder]).run(inputs)
    return len(recorder.computed)


# --- while the process lives -------------------------------------------------------------------------------------

CELL = """
    LIMIT = 1
    TABLE = {"a": [1]}
    def helper(x):
        return x + LIMIT + TABLE["a"][0]
    @node(output_name="y")
    def compute(x):
        return helper(x)
    pipeline = Pipeline(nodes=[compute])
"""
CHANGES: dict[str, Callable[[Notebook], Any]] = {
    "constant rebound": lambda n: n.run("LIMIT = 2"),
    "constant rebound to an equal one of another type": lambda n: n.run("LIMIT = 1.0"),
    "table changed in place": lambda n: n.run("TABLE['b'] = 1"),
    "deep change in place": lambda n: n.run("TABLE['a'].append(2)"),
    "helper defined again": lambda n: n.run("def helper(x):\n    return 0"),
    "code of a helper replaced": lambda n: n.run("helper.__code__ = (lambda x: 0).__code__"),
    "helper's default replaced": lambda n: n.run("helper.__defaults__ = (1,)"),
    "name deleted from a table": lambda n: n.run("del TABLE['a'][0]; TABLE['a'].append('1')"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_a_change_in_a_notebook_is_seen_at_the_next_run(notebook: Notebook, change: Callable[[Notebook], Any]) -> None:
    notebook.run(CELL)
    pipeline, cache = notebook.namespace["pipeline"], MemoryCache()
    assert [computed_in(pipeline, cache, x=1) for _ in range(3)] == [1, 0, 0]
    change(notebook)
    before = dict(notebook.namespace)
    try:
        assert computed_in(pipeline, cache, x=1) == 1
        assert computed_in(pipeline, cache, x=1) == 0
    except TypeError:  # the changed table cannot be added up; that it was asked at all is the point
        assert before["TABLE"]["a"] == ["1"]


def test_a_cell_that_is_run_again_unchanged_finds_what_was_computed(notebook: Notebook) -> None:
    cache = MemoryCache()
    assert computed_in(notebook.run(CELL)["pipeline"], cache, x=1) == 1
    assert computed_in(notebook.run("# again\n\n" + textwrap.dedent(CELL))["pipeline"], cache, x=1) == 0


def test_two_versions_of_a_cell_under_one_name_are_told_apart(notebook: Notebook) -> None:
    """The source that the name stands for now is not that of the older function."""
    old = notebook.run("def f(x):\n    return 1", name="<cell>")["f"]
    new = notebook.run("def f(x):\n    return 2", name="<cell>")["f"]
    assert digest(old) != digest(new)
    assert digest(notebook.run("def f(x):\n    return 2  # the same", name="<cell>")["f"]) == digest(new)


def test_a_changed_class_is_seen_at_the_next_run(notebook: Notebook) -> None:
    notebook.run("""
        class Model:
            factor = 1
            @property
            def doubled(self):
                return 2
            def predict(self, x):
                return x * self.factor + self.doubled
        @node(output_name="y")
        def compute(model, x):
            return model.predict(x)
        pipeline = Pipeline(nodes=[compute])
        model = Model()
    """)
    pipeline, model, cache = notebook.namespace["pipeline"], notebook.namespace["model"], MemoryCache()
    assert [computed_in(pipeline, cache, model=model, x=1) for _ in range(3)] == [1, 0, 0]
    notebook.run("Model.factor = 5")
    assert [computed_in(pipeline, cache, model=model, x=1) for _ in range(2)] == [1, 0]
    notebook.run("Model.doubled = property(lambda self: 3)")
    assert [computed_in(pipeline, cache, model=model, x=1) for _ in range(2)] == [1, 0]
    notebook.run("Model.predict = lambda self, x: 0")
    assert [computed_in(pipeline, cache, model=model, x=1) for _ in range(2)] == [1, 0]


def test_a_change_deep_below_is_seen_by_everything_above() -> None:
    """Also by what was asked about first in a run, and by what is asked about after a failed check."""
    space: dict[str, Any] = {}
    exec("def a(): return b()\ndef b(): return c()\ndef c(): return 1\ndef d(): return b()", space)
    before = [digest(space[name]) for name in "abd"]
    exec("def c(): return 2", space)
    for order in ("abd", "dba", "bad"):
        memo = new_memo()
        found = {name: digest(space[name], memo) for name in order}
        assert not set(found.values()) & set(before)
        assert found == {name: digest(space[name]) for name in order}


def test_a_constant_that_comes_to_refer_back_to_the_function_is_still_identified() -> None:
    space: dict[str, Any] = {}
    exec("TABLE = [1]\nclass Call:\n    def run(self): return f()\ndef f(): return TABLE", space)
    before = digest(space["f"])
    space["TABLE"].append(space["Call"]())
    after = digest(space["f"])
    assert before != after == digest(space["f"])


def test_mutually_recursive_functions_have_one_digest_whichever_is_met_first() -> None:
    source = "def even(n): return n == 0 or odd(n - 1)\ndef odd(n): return n != 0 and even(n - 1)"
    spaces: list[dict[str, Any]] = [{}, {}]
    for space in spaces:
        exec(source, space)
    memo = new_memo()
    first = digest(spaces[0]["even"], memo), digest(spaces[0]["odd"], memo)
    memo = new_memo()
    then = digest(spaces[1]["odd"], memo), digest(spaces[1]["even"], memo)
    assert first == then[::-1]
    exec("def odd(n): return n != 1 and even(n - 1)", spaces[0])
    assert digest(spaces[0]["even"]) != first[0]


def test_an_unchanged_function_is_not_read_again(load_module: LoadModule, monkeypatch: pytest.MonkeyPatch) -> None:
    module = load_module(f"from hypernodes import Pipeline, node\n{textwrap.dedent(CELL)}")
    before = code_digest(module.compute, new_memo())
    monkeypatch.setattr("hypernodes.signature.code.text_of", lambda *_: pytest.fail("read again"))
    assert code_digest(module.compute, new_memo()) == before


# --- what is set for the whole process ---------------------------------------------------------------------------


def test_the_context_of_decimals_counts_for_every_node_also_when_it_is_changed_later(load_module: LoadModule) -> None:
    module = load_module("from hypernodes import Pipeline, node\n@node(output_name='y')\ndef third(x): return x / 3")
    pipeline, cache = Pipeline(nodes=[module.third]), MemoryCache()
    assert [computed_in(pipeline, cache, x=Decimal(1)) for _ in range(2)] == [1, 0]
    before = code_components(module.third)
    with localcontext(prec=5):
        assert [computed_in(pipeline, cache, x=Decimal(1)) for _ in range(2)] == [1, 0]
        assert code_components(module.third).keys() - before.keys() == {"option decimal context"}
    with localcontext(rounding=ROUND_UP):
        assert [computed_in(pipeline, cache, x=Decimal(1)) for _ in range(2)] == [1, 0]
    assert computed_in(pipeline, cache, x=Decimal(1)) == 0


@pytest.mark.parametrize("expression", ["os.path.expanduser('~')", "Path('~').expanduser()", "Path.home()"])
def test_the_home_directory_counts_where_code_asks_for_it(
    load_module: LoadModule, monkeypatch: pytest.MonkeyPatch, expression: str
) -> None:
    module = load_module(f"import os\nfrom pathlib import Path\ndef asks(): return {expression}\ndef other(): return 1")
    before = digest(module.asks), digest(module.other)
    monkeypatch.setenv("HOME", "/another/home")
    assert digest(module.asks) != before[0]
    assert digest(module.other) == before[1]


# --- source and bytecode -----------------------------------------------------------------------------------------


def test_source_edited_after_import_counts_as_what_runs_and_what_is_unchanged_as_unchanged(
    load_module: LoadModule,
) -> None:
    old = "def f(x):\n    return x + 1\n\ndef g(x):\n    return x + 1\n"
    module = load_module(old)
    path = Path(str(module.__file__))
    path.write_text("# a new line\n" + old.replace("+ 1", "+ 1000", 1), encoding="utf-8")
    fresh = load_module(path.read_text(encoding="utf-8"))
    assert digest(module.f) != digest(fresh.f)
    assert digest(module.g) == digest(fresh.g) == digest(load_module(old).g)


def test_functions_without_source_are_told_apart_by_what_they_do() -> None:
    def made(body: str) -> Any:
        space: dict[str, Any] = {}
        exec(f"def f(x):\n    {body}", space)
        return space["f"]

    bodies = [
        "return x + 1",
        "return x + 2",
        "return x - 1",
        "return (x, 1.0)",
        "return (x, 1)",
        "return x.a",
        "return x.b",
    ]
    assert len({digest(made(body)) for body in bodies}) == len(bodies)
    assert digest(made("'docstring'\n    return x + 1")) == digest(made("return x + 1"))
    assert digest(made("if x:\n        pass\n    return x")) == digest(made("if x: pass\n    return x"))


def test_a_text_in_a_comprehension_without_source_is_no_docstring() -> None:
    def made(text: str) -> Any:
        return eval(f"lambda x: [{text!r} for _ in x]")

    assert digest(made("a")) != digest(made("b"))


def test_lambdas_on_one_line_are_told_apart() -> None:
    one, two, three = lambda x: x + 1, lambda x: x + 2, lambda x: lambda y: x + y
    assert len({digest(one), digest(two), digest(three), digest(three(1)), digest(three(2))}) == 5


def test_code_in_an_archive_is_read_from_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digests = []
    for number, text in enumerate(
        ["def f(x): return x + 1", "# moved\ndef f(x):\n    return x + 1", "def f(x): return x"]
    ):
        archive = tmp_path / f"archive_{number}.zip"
        with zipfile.ZipFile(archive, "w") as target:
            target.writestr("zipped_module.py", text)
        with monkeypatch.context() as patch:
            patch.syspath_prepend(str(archive))
            patch.delitem(sys.modules, "zipped_module", raising=False)
            import zipped_module  # type: ignore[import-not-found]

            digests.append(digest(zipped_module.f))
            del sys.modules["zipped_module"]
    assert digests[0] == digests[1] != digests[2]


# --- a node that travels -----------------------------------------------------------------------------------------

TRAVELLER = """
    import sys
    from hypernodes import node
    LIMIT = {limit}
    def make():
        @node(output_name="y", version="1", cache_ignore=("verbose",))
        def compute(x, verbose=False):
            return x + LIMIT
        return compute
"""
ON_ARRIVAL = """
import pickle, sys
from hypernodes.signature import code_digest
node = pickle.load(sys.stdin.buffer)
print(code_digest(node).hex(), sorted(node.cache_ignore), node.version, node(1))
"""


@pytest.mark.parametrize("has_source", [True, False], ids=["source at hand", "source gone"])
def test_a_node_that_travelled_by_cloudpickle_keeps_its_signature(
    load_module: LoadModule, tmp_path: Path, has_source: bool
) -> None:
    found = []
    for limit in (1, 2):
        module = load_module(TRAVELLER.format(limit=limit), name="travelling_module")
        compute = module.make()
        cloudpickle.register_pickle_by_value(module)
        try:
            packed = cloudpickle.dumps(compute)
        finally:
            cloudpickle.unregister_pickle_by_value(module)
        expected = code_digest(compute).hex()
        if not has_source:
            Path(str(module.__file__)).unlink()
        out = subprocess.run(
            [sys.executable, "-c", ON_ARRIVAL], input=packed, capture_output=True, check=True, cwd=tmp_path
        )
        assert out.stdout.decode().strip() == f"{expected} ['verbose'] 1 {1 + limit}"
        found.append(expected)
    assert found[0] != found[1]


def test_a_node_that_travelled_on_still_has_its_signature() -> None:
    captured = [1]
    compute: Node[..., Any] = Node(lambda x: (x, captured), "y")
    here = code_digest(compute)
    there = cloudpickle.loads(cloudpickle.dumps(compute))
    captured.append(2)
    assert code_digest(pickle.loads(cloudpickle.dumps(there))) == here != code_digest(compute)


def test_a_digest_can_be_attached_without_touching_the_node() -> None:
    compute: Node[..., Any] = Node(lambda x: x, "y")
    other = with_code_digest(compute, b"d" * 32)
    assert code_digest(other) == b"d" * 32 != code_digest(compute)
    assert other(1) == 1


# --- what cannot be identified -----------------------------------------------------------------------------------


def test_the_path_to_what_cannot_be_identified_leads_through_code() -> None:
    class Client:
        def __init__(self) -> None:
            self.pool = [object()]

    client = Client()
    with pytest.raises(UnhashableValueError) as caught:
        code_digest(Node(lambda x: client, "y"))
    assert caught.value.path.endswith("closure 'client'.pool[0]")
    assert caught.value.culprit_type == "object"


def test_register_refuses_what_is_no_class_or_no_function() -> None:
    with pytest.raises(TypeError, match="takes a class first; got 'int'"):
        register("int", repr)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="takes a function second; got 3"):
        register(int, 3)  # type: ignore[arg-type]


# --- options of a node -------------------------------------------------------------------------------------------


def add(a: int, b: int = 0, verbose: bool = False) -> int:
    return a + b


def test_another_version_is_another_computation() -> None:
    cache = MemoryCache()
    for version in ("1", "2", None):
        pipeline = Pipeline(nodes=[Node(add, "sum", version=version)])
        assert [computed_in(pipeline, cache, a=1) for _ in range(2)] == [1, 0]


def test_an_ignored_parameter_makes_no_difference_not_even_by_its_type() -> None:
    pipeline, cache = Pipeline(nodes=[Node(add, "sum", cache_ignore=("verbose",))]), MemoryCache()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert [computed_in(pipeline, cache, a=1, verbose=v) for v in (False, True, object())] == [1, 0, 0]
    assert computed_in(pipeline, cache, a=2, verbose=False) == 1


def test_ignoring_one_parameter_or_another_are_different_computations() -> None:
    """Otherwise 5 for the one would be taken for 5 for the other."""
    cache = MemoryCache()
    for ignored in ("a", "b"):
        pipeline = Pipeline(nodes=[Node(add, "sum", cache_ignore=ignored)])
        assert computed_in(pipeline, cache, **{"a": 1, "b": 1} | {"ab".replace(ignored, ""): 5}) == 1


def test_an_ignored_parameter_makes_no_difference_in_maps_and_nested_pipelines() -> None:
    inner = Pipeline(nodes=[Node(add, "total", cache_ignore=("verbose",), name="add")])
    outer = Pipeline(
        nodes=[inner.as_node({"items": "a"}, map_over="items"), Node(lambda total: len(total), "n", name="count")]
    )
    cache = MemoryCache()
    assert computed_in(outer, cache, items=[1, 2], verbose=False) == 3
    assert computed_in(outer, cache, items=[1, 2], verbose=True) == 0
    assert computed_in(outer, cache, items=[1, 2, 3], verbose=object()) == 2


def test_what_only_an_ignored_parameter_needs_may_come_from_anywhere() -> None:
    """A result of a node that is never cached, passed to a parameter that does not matter, costs no hit."""
    clock = Node(functools.partial(iter([object(), object(), object()]).__next__), "verbose", cache=False, name="clock")
    pipeline = Pipeline(nodes=[clock, Node(add, "sum", cache_ignore=("verbose",), name="add")])
    cache = MemoryCache()
    recorder = Recorder()
    for _ in range(2):
        pipeline.with_cache(cache).with_callbacks([recorder]).run({"a": 1}, output_name="sum")
    assert recorder.computed == ["clock", "add"]


def test_options_that_make_no_sense_are_refused_when_the_node_is_made() -> None:
    with pytest.raises(InvalidNodeError, match=r"cache_ignore of node 'add' names 'verbos', .* a, b, verbose"):
        Node(add, cache_ignore=("verbos",))
    with pytest.raises(InvalidNodeError, match=r"version of node 'add' must be a string; got 2: write version='2'"):
        Node(add, version=2)  # type: ignore[arg-type]


# --- what changed ------------------------------------------------------------------------------------------------


def test_code_that_is_gone_is_not_kept_alive(load_module: LoadModule) -> None:
    """A program that makes functions by `exec`, or loads modules again and again, would grow for ever."""
    cache = MemoryCache()
    for number in range(3):
        module = load_module(f"def helper(x): return x + {number}\ndef compute(x): return helper(x)")
        pipeline = Pipeline(nodes=[Node(module.compute, "y")], cache=cache)
        pipeline.run({"x": 1})
        assert pipeline.explain({"x": 1})["compute"].status == "hit"
        codes = [weakref.ref(module.compute.__code__), weakref.ref(module.helper.__code__)]
        del sys.modules[module.__name__]
        del module, pipeline
        gc.collect()
        assert [code() for code in codes] == [None, None]


def test_source_files_are_not_kept_parsed_for_ever(load_module: LoadModule) -> None:
    def parsed() -> int:
        gc.collect()
        return sum(type(obj).__name__ == "_File" for obj in gc.get_objects())

    for number in range(100):
        digest(load_module(f"compute = lambda x: x + {number}\nother = lambda x: x\ndef third(x): return x").compute)
    assert 0 < parsed() <= 64


def test_components_name_exactly_what_changed(load_module: LoadModule) -> None:
    source = """
        import numpy as np
        from hypernodes import node
        LIMIT = 3
        def normalise(x):
            return np.clip(x, 0, LIMIT)
        class Scaler:
            factor = 2
            def scale(self, x):
                return self.factor * x
        @node(output_name="y")
        def compute(x, k=1):
            return Scaler().scale(normalise(x)) + k
    """
    before = code_components(load_module(source).compute)
    assert code_components(load_module(source).compute) == before
    assert {"constant LIMIT", "default k", "class Scaler", "constant Scaler.factor"} <= before.keys()
    assert any(label.startswith("numpy ") for label in before)
    assert "function normalise (users_module.py:5)" in before
    changes = {
        "LIMIT = 3": ("LIMIT = 4", "constant LIMIT"),
        "np.clip(x, 0": ("np.clip(x, 1", "function normalise (users_module.py:5)"),
        "k=1": ("k=2", "default k"),
        "factor = 2": ("factor = 3", "constant Scaler.factor"),
        "self.factor * x": ("self.factor + x", "function Scaler.scale (users_module.py:9)"),
    }
    for old, (new, label) in changes.items():
        after = code_components(load_module(source.replace(old, new)).compute)
        assert {name for name in before | after if before.get(name) != after.get(name)} == {label}
        assert code_digest(load_module(source.replace(old, new)).compute) != code_digest(load_module(source).compute)


def test_components_of_code_that_cannot_be_identified_say_where_it_fails() -> None:
    lock = object()
    found = code_components(Node(lambda x: lock, "y"))
    assert any(label.startswith("closure lock (cannot be identified") for label in found)


def test_async_nodes_and_their_helpers_are_identified(load_module: LoadModule) -> None:
    source = "async def fetch(x): return x + 1\nasync def compute(x): return await fetch(x)"
    old, new = load_module(source).compute, load_module(source.replace("+ 1", "+ 2")).compute
    assert isinstance(old, FunctionType)
    assert asyncio.run(old(1)) == 2
    assert digest(old) != digest(new)


def test_code_with_an_instruction_of_an_unknown_python_is_not_identified(monkeypatch: pytest.MonkeyPatch) -> None:
    """It might load a name in a way that is not seen."""
    from hypernodes.signature import access_paths

    def look(x: int) -> int:
        return helper(x)  # type: ignore[name-defined]  # noqa: F821

    monkeypatch.setattr(access_paths, "KNOWN", access_paths.KNOWN - {"LOAD_GLOBAL"})
    with pytest.raises(UnhashableValueError, match=r"it has the instruction LOAD_GLOBAL of Python 3\.\d+"):
        digest(look)
