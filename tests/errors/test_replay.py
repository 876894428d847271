"""A call that failed is made again here: with its inputs, from a `Failure` or from the error of a run."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hypernodes import (
    ConfigurationError,
    ExecutionError,
    Failure,
    LocalBackend,
    MemoryCache,
    Pipeline,
    SubprocessBackend,
    failures,
    node,
    replay,
    resource,
)
from tests.semantics.modes import MODES, REMOTE_MODES, Modes, local_backend


class Fixed:
    """Whether what a function does wrong has been mended meanwhile; each process has its own."""

    def __init__(self) -> None:
        self.is_mended = False

    def __cache_key__(self) -> str:
        return "fixed"


FIXED = Fixed()


@node(output_name="clean")
def strip(text: str) -> str:
    return text.strip()


@node(output_name="number")
def convert(clean: str, *, base: int = 10) -> int:
    return -1 if FIXED.is_mended else int(clean, base)


@pytest.fixture(autouse=True)
def unmended() -> Any:
    FIXED.is_mended = False
    yield
    FIXED.is_mended = False


PIPELINE = Pipeline([strip, convert], name="reading")


def check(failure: Failure) -> None:
    with pytest.raises(ValueError, match="invalid literal"):
        failure.replay()
    FIXED.is_mended = True
    assert failure.replay() == replay(failure) == replay(failure.error) == -1
    FIXED.is_mended = False


@pytest.mark.parametrize("modes", MODES)
@pytest.mark.parametrize("is_cached", [False, True])
def test_a_failed_item_is_called_again_with_its_inputs(modes: Modes, is_cached: bool) -> None:
    pipeline = PIPELINE.with_backend(local_backend(modes)).with_cache(MemoryCache() if is_cached else None)
    (failure,) = failures(pipeline.map({"text": [" 1", " x ", "2"]}, "text", on_error="collect"))
    assert failure.inputs.items() >= {"base": 10}.items()
    assert failure.inputs.get("clean", "x") == "x"  # what only a worker process knew is computed again
    check(failure)


@pytest.mark.parametrize("modes", REMOTE_MODES)
def test_the_error_of_a_run_says_how_the_call_is_made_again(modes: Modes) -> None:
    with pytest.raises(ValueError, match="invalid literal") as caught:
        PIPELINE.with_backend(local_backend(modes)).run({"text": "x"})
    assert caught.value.__notes__.count("to make this call again with the same inputs: hypernodes.replay(error)") == 1
    FIXED.is_mended = True
    assert replay(caught.value) == -1


@pytest.mark.slow
@pytest.mark.parametrize("modes", REMOTE_MODES)
def test_inputs_come_back_from_another_process_unless_they_are_large(modes: Modes) -> None:
    node_execution, map_execution = modes
    with SubprocessBackend(node_execution=node_execution, map_execution=map_execution) as backend:
        pipeline = PIPELINE.with_backend(backend)
        (failure,) = failures(pipeline.map({"text": ["1", "x"]}, "text", on_error="collect"))
        if map_execution == "parallel":  # in which a process of that process made the calls
            with pytest.raises(ExecutionError, match="'clean' is <a value that only a worker process there knew>"):
                failure.replay()
            return
        assert failure.inputs == {"clean": "x", "base": 10}
        check(failure)
        (failure,) = failures(pipeline.map({"text": ["1", "x" * 2_000_000]}, "text", on_error="collect"))
        with pytest.raises(ExecutionError, match=r"'clean' is <str of about 2,0\d\d,\d+ bytes, which was not sent"):
            failure.replay()


@resource
def parser(name: str) -> dict[str, str]:
    return {"name": name}


def test_special_inputs_are_given_as_they_were() -> None:
    @node(output_name="inverse")
    def invert(x: int) -> float:
        return 1 / x

    @node(output_name="total", skip_failures="inverses")
    async def add(inverses: list[float], parser: dict[str, str]) -> float:
        if not FIXED.is_mended:
            raise LookupError(parser["name"])
        return sum(inverses) + len(parser["name"])

    items = Pipeline([invert]).as_node({"xs": "x"}, {"inverse": "inverses"}, map_over="xs", on_error="collect")
    with pytest.raises(LookupError) as caught:
        Pipeline([items, add]).run({"xs": [1, 0, 2], "parser": parser("abc")})
    FIXED.is_mended = True
    assert replay(caught.value) == 4.5


def test_one_error_object_that_is_raised_twice_stands_for_the_call_that_raised_it_last() -> None:
    error = RuntimeError("again")

    @node(output_name="y")
    def fail(x: int) -> int:
        raise error

    for x in (1, 2):
        with pytest.raises(RuntimeError):
            Pipeline([fail]).run({"x": x})
        assert error.__hypernodes_call__.inputs == {"x": x}  # type: ignore[attr-defined]


def test_an_error_can_be_pickled_whatever_the_inputs_are() -> None:
    @node(output_name="y")
    def fail(x: Any) -> int:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no") as caught:
        Pipeline([fail]).run({"x": lambda: 1})
    again = pickle.loads(pickle.dumps(caught.value))
    with pytest.raises(ExecutionError, match="it is not known which call raised ValueError"):
        replay(again)


def test_failures_that_differ_in_nothing_but_places_are_found_again_in_a_cache() -> None:
    @node(output_name="y")
    def fail(x: int) -> int:
        raise ValueError("no")

    @node(output_name="count")
    def count(y: list[Any]) -> int:
        return len(y)

    cache = MemoryCache()
    items = Pipeline([fail]).as_node({"xs": "x"}, map_over="xs", on_error="collect")
    for mode in ("sequential", "threaded"):
        pipeline = Pipeline([items, count], cache=cache).with_backend(LocalBackend(map_execution=mode))
        pipeline.run({"xs": [1, 2]})
        assert pipeline.explain({"xs": [1, 2]})["count"].runs == 0


@pytest.mark.parametrize("failed", [3, None, "x", [1]])
def test_what_is_no_failure_is_refused(failed: Any) -> None:
    with pytest.raises(ConfigurationError, match="replay takes a Failure or the error of a run"):
        replay(failed)


def test_an_error_that_no_node_raised_is_refused() -> None:
    with pytest.raises(ExecutionError, match="it is not known which call raised KeyError: no node did"):
        replay(KeyError("x"))


def test_the_debugger_opens_where_the_function_raises(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from hypernodes import Pipeline, failures, node\n"
        "@node(output_name='y')\n"
        "def invert(x):\n"
        "    scale = 10\n"
        "    return scale / x\n"
        "found = Pipeline([invert]).map({'x': [1, 0]}, 'x', on_error='collect')\n"
        "try:\n"
        "    failures(found)[0].replay(debugger=True)\n"
        "except ZeroDivisionError:\n"
        "    print('raised')\n"
    )
    done = subprocess.run(
        [sys.executable, str(script)], input="p scale, x\nq\n", capture_output=True, text=True, timeout=120, check=True
    )
    assert "(10, 0)" in done.stdout
    assert done.stdout.rstrip().endswith("raised")
