"""A pipeline in a notebook whose functions were defined anew still runs the old ones, and says so."""

from __future__ import annotations

import os
import sys
import types
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from hypernodes import HyperNodesWarning, MemoryCache, Pipeline
from tests.support import run_python


class Notebook:
    """Executes cells as IPython does: each is a file of its own, whose number the shell knows."""

    def __init__(self) -> None:
        self.names: dict[str, Any] = {"__name__": "__main__"}
        self.compile = types.SimpleNamespace(_filename_map={})

    def cell(self, source: str) -> None:
        number = len(self.compile._filename_map) + 1
        file = f"/tmp/ipykernel_7/{number}.py"
        self.compile._filename_map[file] = number
        exec(compile(source, file, "exec"), self.names)

    def __getitem__(self, name: str) -> Any:
        return self.names[name]


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> Iterator[Notebook]:
    found = Notebook()
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: found))  # type: ignore[arg-type]
    found.cell("from hypernodes import *")
    found.cell('@node(output_name="y")\ndef slow(x):\n    return x + 1')
    return found


EDITED = '@node(output_name="y")\ndef slow(x):\n    return x + 10'
TEXT = "`slow` in cell 4 is newer than the one in this pipeline (cell 2)"
PLACES: dict[str, Callable[[Pipeline], Any]] = {
    "run": lambda pipeline: pipeline.run({"x": 1}),
    "run of one output": lambda pipeline: pipeline.run({"x": 1}, ["y"]),
    "map": lambda pipeline: pipeline.map({"x": [1]}, "x"),
    "map_iter": lambda pipeline: list(pipeline.map_iter({"x": [1]}, "x")),
}


@pytest.mark.parametrize("has_run", [True, False])
@pytest.mark.parametrize("go", PLACES.values(), ids=PLACES)
def test_a_run_says_once_that_a_function_is_newer(notebook: Notebook, go: Any, has_run: bool) -> None:
    notebook.cell("pipeline = Pipeline(nodes=[slow])")
    if has_run:
        go(notebook["pipeline"])
    notebook.cell(EDITED)
    with pytest.warns(HyperNodesWarning) as shown:
        go(notebook["pipeline"])
    assert [str(warning.message) for warning in shown] == [f"{TEXT}. Build the pipeline again to use it."]
    assert shown[0].filename == __file__
    go(notebook["pipeline"])  # it is known now


def test_functions_of_nested_pipelines_are_looked_at(notebook: Notebook) -> None:
    notebook.cell('inner = Pipeline(nodes=[slow], name="inner"); outer = Pipeline(nodes=[inner.as_node(map_over="x")])')
    notebook.cell(EDITED)
    with pytest.warns(HyperNodesWarning, match="`slow` in cell 4 is newer"):
        notebook["outer"].run({"x": [1]})


TIMES = """
import functools
def times(factor):
    def decorate(function):
        @functools.wraps(function)
        def decorated(x):
            return factor * function(x)
        return decorated
    return decorate
"""


@pytest.mark.parametrize(
    ("first", "again"),
    [
        ('@node(output_name="y")\ndef f(x, k=2): return x * k', '@node(output_name="y")\ndef f(x, k=3): return x * k'),
        ('@node(output_name="y")\ndef f(x, *, k=2): return k', '@node(output_name="y")\ndef f(x, *, k=3): return k'),
        (
            '@node(output_name="y")\n@times(2)\ndef f(x): return x',
            '@node(output_name="y")\n@times(5)\ndef f(x): return x',
        ),
        ('@node(output_name="y")\ndef f(x): return x', '@node(output_name="z")\ndef f(x): return x'),
        ('@node(output_name="y")\ndef f(x): return x', '@node(output_name="y", retries=2)\ndef f(x): return x'),
    ],
    ids=["default", "keyword default", "decorator", "output name", "option"],
)
def test_what_surrounds_the_code_of_a_function_counts(notebook: Notebook, first: str, again: str) -> None:
    notebook.cell(TIMES)
    notebook.cell(first)
    notebook.cell("pipeline = Pipeline(nodes=[f])")
    notebook.cell(first)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        notebook["pipeline"].run({"x": 1})  # the same again
    notebook.cell(again)
    with pytest.warns(HyperNodesWarning, match=r"`f` in cell 7 is newer than the one in this pipeline \(cell 4\)"):
        notebook["pipeline"].run({"x": 1})


@pytest.mark.parametrize(
    ("first", "again"),
    [
        ("n = node(output_name='y')(lambda x: x)", "n = node(output_name='y')(lambda x: x + 1)"),
        (
            "class C:\n    def __call__(self, x): return x\nn = node(output_name='y')(C())",
            "class C:\n    def __call__(self, x): return x + 1\nn = node(output_name='y')(C())",
        ),
    ],
    ids=["lambda", "object"],
)
def test_a_node_without_a_named_function_is_known_by_its_variable(
    notebook: Notebook, monkeypatch: pytest.MonkeyPatch, first: str, again: str
) -> None:
    main = types.ModuleType("__main__")
    main.__dict__.update(notebook.names)
    notebook.names = vars(main)
    monkeypatch.setitem(sys.modules, "__main__", main)
    notebook.cell(first)
    notebook.cell("pipeline = Pipeline(nodes=[n])")
    notebook.cell("n = node(output_name='other')(lambda x: 3)")  # the variable is used for something else
    assert notebook["pipeline"].run({"x": 1}) == {"y": 1}
    notebook.cell(again)
    with pytest.warns(HyperNodesWarning, match=r"`n`.* is newer than the one in this pipeline"):
        notebook["pipeline"].run({"x": 1})


def test_explain_says_so_every_time(notebook: Notebook) -> None:
    notebook.cell("pipeline = Pipeline(nodes=[slow], cache=MemoryCache())")
    notebook["pipeline"].run({"x": 1})
    notebook.cell(EDITED)
    with pytest.warns(HyperNodesWarning):
        explained = notebook["pipeline"].explain({"x": 1})
    for _ in range(2):
        assert explained.warnings == (f"{TEXT}: build the pipeline again to use it",)
        explained = notebook["pipeline"].explain({"x": 1})


@pytest.mark.parametrize(
    "cell",
    [
        '# a comment\n\n@node(output_name="y")\ndef slow(x):\n    return (x + 1)',  # the same function
        "slow = 3",
        "def slow(x): return x + 1\nslow = node(output_name='y')(slow)",
        "class slow:\n    pass",
        "def other(x): return x",
        "def make():\n    def slow(x): return 3\n    return slow\nslow = make()",  # not what the name stood for
    ],
)
def test_what_is_no_newer_function_is_not_reported(notebook: Notebook, cell: str) -> None:
    notebook.cell("pipeline = Pipeline(nodes=[slow])")
    notebook.cell(cell)
    assert notebook["pipeline"].run({"x": 1}) == {"y": 2}
    notebook.cell(EDITED + "\npipeline = Pipeline(nodes=[slow])\n" + EDITED.replace("10", "20"))  # in one go
    assert notebook["pipeline"].run({"x": 1}) == {"y": 11}


def test_a_pipeline_that_is_built_again_is_silent(notebook: Notebook) -> None:
    notebook.cell(EDITED)
    notebook.cell("pipeline = Pipeline(nodes=[slow])")
    assert notebook["pipeline"].run({"x": 1}) == {"y": 11}


def test_scripts_are_not_looked_at() -> None:
    source = '@node(output_name="y")\ndef slow(x):\n    return x + {}\n'
    build = "first = Pipeline(nodes=[slow], cache=MemoryCache())\n"
    script = "from hypernodes import *\n" + source.format(1) + build + source.format(2)
    script += "print(first.run({'x': 1}), first.explain({'x': 1}).warnings, type(first._plans).__name__)"
    script += "\nprint('hypernodes.newer_code' in __import__('sys').modules)"
    printed = run_python("-W", "error", "-c", script.replace("first.explain({'x': 1}).warnings, ", "")).splitlines()
    assert printed == ["{'y': 2} dict", "False"]
    assert run_python("-W", "error", "-c", script).splitlines()[0] == "{'y': 2} () dict"


def test_a_session_of_the_plain_interpreter_is_interactive() -> None:
    lines = "from hypernodes import *\n@node(output_name='y')\ndef slow(x): return 1\n\np = Pipeline(nodes=[slow])\n"
    lines += "@node(output_name='y')\ndef slow(x): return 2\n\np.run({'x': 1})\n"
    import subprocess

    environment = {**os.environ, "PYTHON_BASIC_REPL": "1"}
    done = subprocess.run(
        [sys.executable, "-i"], input=lines, capture_output=True, text=True, timeout=100, env=environment, check=True
    )
    assert "{'y': 1}" in done.stdout
    assert "HyperNodesWarning: `slow` in" in done.stderr


def test_the_cache_of_a_pipeline_in_a_notebook_is_not_disturbed(notebook: Notebook) -> None:
    cache = MemoryCache()
    notebook.names["cache"] = cache
    notebook.cell("pipeline = Pipeline(nodes=[slow]).with_cache(cache)")
    notebook["pipeline"].run({"x": 1})
    notebook.cell(EDITED)
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
        assert notebook["pipeline"].run({"x": 1}) == {"y": 2}
    notebook.cell("pipeline = Pipeline(nodes=[slow]).with_cache(cache)")
    assert notebook["pipeline"].run({"x": 1}) == {"y": 11}
