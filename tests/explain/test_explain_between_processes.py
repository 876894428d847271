"""Real changes between two processes: a pipeline is run, its files are edited, and another process explains it."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from hypernodes import DiskCache, Pipeline, node
from hypernodes.cli import main
from tests.support import run_python

FILES = {
    "text.py": """
        MARKS = "!?"

        def normalise(text):
            return text.strip(MARKS).lower()
    """,
    "pipe.py": """
        import text
        from hypernodes import Pipeline, node

        @node(output_name="clean")
        def prepare(raw):
            return text.normalise(raw)

        @node(output_name="code")
        def encode(clean, k=5, base=2):
            return [base * k, clean]

        pipeline = Pipeline([prepare, encode], name="encoding")
    """,
}
SCRIPT = """
    import json, os, sys
    from hypernodes import DiskCache

    def each(act):
        found = {}
        for name in sorted(os.listdir("scenarios")):
            folder = os.path.join("scenarios", name)
            sys.path.insert(0, os.path.abspath(folder))
            with open(os.path.join(folder, "inputs.json")) as file:
                inputs = json.load(file)
            import pipe
            with DiskCache(os.path.join("caches", name)) as cache:
                found[name] = act(pipe.pipeline.with_cache(cache), inputs)
            del sys.path[0], sys.modules["pipe"], sys.modules["text"]
        return found

    def explain(pipeline, inputs):
        return {entry.name: [entry.status, *entry.reasons] for entry in pipeline.explain(inputs).nodes}

    if sys.argv[1] == "run":
        each(lambda pipeline, inputs: pipeline.run(inputs))
    else:
        print(json.dumps(each(explain)))
"""


class Change(NamedTuple):
    """An edit, and what is to be said of it."""

    file: str
    before: str
    after: str
    prepare: list[str]
    encode: list[str]


DOWNSTREAM = ["run", "input `clean` changed (made by `prepare`)"]
CHANGES = {
    "a helper": Change(
        "text.py",
        ".lower()",
        ".upper()",
        ["run", "helper `normalise` (text.py:4) changed since the last entry"],
        DOWNSTREAM,
    ),
    "a constant of another module": Change(
        "text.py", '"!?"', '"!?."', ["run", "constant `MARKS` changed since the last entry"], DOWNSTREAM
    ),
    "a default": Change("pipe.py", "k=5", "k=10", ["hit"], ["run", "default of `k` changed 5 → 10"]),
    "an input": Change("inputs.json", '"base": 3', '"base": 4', ["hit"], ["run", "input `base` changed 3 → 4"]),
    "a version": Change(
        "pipe.py",
        'output_name="code"',
        'output_name="code", version="2"',
        ["hit"],
        ["run", "version changed none → '2'"],
    ),
    "the function itself": Change(
        "pipe.py",
        "base * k",
        "k * base",
        ["hit"],
        ["run", "its own code (pipe.py:9) changed since the last entry"],
    ),
    "a comment": Change("text.py", "def normalise", "# a comment\ndef normalise", ["hit"], ["hit"]),
}


@pytest.fixture(scope="module")
def explained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, list[str]]]:
    """What the second process says, by scenario and node."""
    root = tmp_path_factory.mktemp("explained")
    (root / "script.py").write_text(textwrap.dedent(SCRIPT))
    for name in CHANGES:
        folder = root / "scenarios" / name
        folder.mkdir(parents=True)
        (folder / "inputs.json").write_text('{"raw": "Why?", "base": 3}')
        for file, text in FILES.items():
            (folder / file).write_text(textwrap.dedent(text))
    run_python("script.py", "run", cwd=root)
    for name, change in CHANGES.items():
        path = root / "scenarios" / name / change.file
        text = path.read_text()
        assert change.before in text
        path.write_text(text.replace(change.before, change.after))
    found: dict[str, dict[str, list[str]]] = json.loads(run_python("script.py", "explain", cwd=root, hash_seed=1))
    return found


@pytest.mark.parametrize("name", CHANGES)
def test_another_process_names_what_was_changed(name: str, explained: dict[str, dict[str, list[str]]]) -> None:
    assert explained[name] == {"prepare": CHANGES[name].prepare, "encode": CHANGES[name].encode}


@node(output_name="y")
def scaled(x: int, factor: int, api_key: str) -> int:
    return x * factor


def test_the_command_line_shows_what_a_run_noted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with DiskCache(tmp_path) as cache:
        pipeline = Pipeline([scaled], cache=cache)
        pipeline.map({"x": [1, 2], "factor": 3, "api_key": "sesame"}, map_over="x")
    assert main(["cache", "why", str(tmp_path), "scaled"]) == 0
    out = capsys.readouterr().out
    assert "function scaled (test_explain_between_processes.py:" in out
    assert "x, which varies from item to item" in out
    assert "factor = 3" in out
    assert "sesame" not in out


def test_a_node_that_was_invalidated_was_never_computed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    inputs = {"x": 1, "factor": 3, "api_key": ""}
    with DiskCache(tmp_path) as cache:
        Pipeline([scaled], cache=cache).run(inputs)
    assert main(["cache", "invalidate", str(tmp_path), "scaled"]) == 0
    assert capsys.readouterr().out == "1 entry removed\n"
    with DiskCache(tmp_path) as cache:
        assert Pipeline([scaled], cache=cache).explain(inputs)["scaled"].reasons == ("never computed",)


def test_nothing_is_read_from_disk_but_records(open_disk: Callable[[], DiskCache]) -> None:
    inputs = {"x": 1, "factor": 3, "api_key": ""}
    Pipeline([scaled], cache=open_disk()).run(inputs)
    fresh = open_disk()
    pipeline = Pipeline([scaled], cache=fresh)
    assert pipeline.explain(inputs).is_fully_cached
    assert (fresh.stats().hits, fresh.stats().misses) == (0, 0)
    assert pipeline.explain({**inputs, "x": 2}).runs == 1
    assert fresh.stats().hits == 1  # the record


@pytest.fixture
def open_disk(tmp_path: Path) -> Callable[[], DiskCache]:
    return lambda: DiskCache(tmp_path / "cache")
