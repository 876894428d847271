"""Helpers with `functools.cache`, the usual way to load a model once, of scripts: their caches stay from run to run."""

from __future__ import annotations

import enum
import functools
import gc
import json
import os
import sys
import traceback
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from hypernodes import Backend, LocalBackend, Node, Pipeline
from hypernodes.backend import SubprocessBackend
from tests.support import end_idle_workers
from tests.worker_processes.helpers_with_effects import EFFECTS
from tests.worker_processes.nodes import note_line, read_lines

PLACES: dict[str, Callable[[], Backend]] = {
    "parallel": lambda: LocalBackend(map_execution="parallel", max_workers=1),
    "subprocess": SubprocessBackend,
    "processes of a subprocess": lambda: SubprocessBackend(map_execution="parallel", max_workers=1),
}


@pytest.fixture(params=PLACES, scope="module")
def backend(request: pytest.FixtureRequest) -> Iterator[Any]:
    """A place whose processes serve all tests, each of which has helpers of its own."""
    end_idle_workers()
    backend = PLACES[request.param]()
    with backend:  # type: ignore[attr-defined]
        yield backend


def script(source: str, **names: Any) -> types.ModuleType:
    """Return what a script defines, which no other process can import."""
    module = types.ModuleType("__main__")
    vars(module).update(names, functools=functools, note_line=note_line, os=os, Path=Path)
    exec(compile(source, "<a script>", "exec"), vars(module))
    return module


def run(backend: Backend, function: Callable[..., Any], x: Any = (1, 2)) -> Any:
    """Map a function over `x` as a user does it, and return what it returned."""
    return Pipeline(nodes=[Node(function, "y")], backend=backend).map(inputs={"x": list(x)}, map_over="x")["y"]


def loader(path: Path) -> tuple[Any, Callable[[int], Any]]:
    """Return a cached helper that notes each time that it is called, and a function that uses it."""
    noted = str(path)

    @functools.cache
    def load(name: str) -> list[str]:
        note_line(Path(noted), os.getpid())
        return [name]

    def use(x: int) -> tuple[int, str]:
        return x, load("model")[0]

    return load, use


def test_what_a_helper_has_loaded_is_there_in_the_next_runs(backend: Backend, tmp_path: Path) -> None:
    _, use = loader(tmp_path / "loads")
    for _ in range(3):
        assert run(backend, use) == [(1, "model"), (2, "model")]
    assert len(read_lines(tmp_path / "loads")) == 1


def test_numbers_and_text_are_kept_too(backend: Backend, tmp_path: Path) -> None:
    module = script(
        "@functools.cache\ndef load(name):\n    note_line(PATH, name)\n    return len(name), name.upper()\n\n"
        "def use(x):\n    return load('a' * x)",
        PATH=tmp_path / "loads",
    )
    for _ in range(2):
        assert run(backend, module.use) == [(1, "A"), (2, "AA")]
    assert read_lines(tmp_path / "loads") == ["a", "aa"]


def test_a_helper_that_is_called_with_many_arguments_begins_empty(backend: Backend, tmp_path: Path) -> None:
    load, _ = loader(tmp_path / "loads")

    def use(x: int) -> int:
        return sum(len(load(str(number))) for number in range(100))

    for times in (1, 2):
        assert run(backend, use, [1, 1]) == [100, 100]
        assert len(read_lines(tmp_path / "loads")) == 100 * times


def test_it_is_loaded_again_when_its_cache_was_cleared_here(backend: Backend, tmp_path: Path) -> None:
    load, use = loader(tmp_path / "loads")
    for _ in range(3):
        run(backend, use)
        load.cache_clear()
    assert len(read_lines(tmp_path / "loads")) == 3


def test_a_node_may_clear_the_cache_too(backend: Backend, tmp_path: Path) -> None:
    load, _ = loader(tmp_path / "loads")

    def use(x: int) -> Any:
        found = load("model")
        load.cache_clear()
        return found

    for _ in range(2):
        run(backend, use)
    assert len(read_lines(tmp_path / "loads")) == 4


def test_two_helpers_with_the_same_code_have_caches_of_their_own(backend: Backend, tmp_path: Path) -> None:
    (first, _), (second, _) = loader(tmp_path / "loads"), loader(tmp_path / "loads")

    def use(x: int) -> tuple[int, int]:
        first("a").append("changed")
        return len(first("a")), len(second("a"))

    assert run(backend, use) == [(2, 1), (3, 1)]
    assert run(backend, use) == [(4, 1), (5, 1)]

    def use_second(x: int) -> int:
        return len(second("a"))

    assert run(backend, use_second) == [1, 1]


def test_a_helper_whose_code_is_another_one_begins_anew(backend: Backend) -> None:
    source = "@functools.cache\ndef load():\n    return {}\n\ndef use(x):\n    return load() * x"
    assert run(backend, script(source.format(5)).use) == [5, 10]
    assert run(backend, script(source.format(7)).use) == [7, 14]


def test_a_helper_sees_the_variables_of_this_run(backend: Backend) -> None:
    module = script("@functools.cache\ndef load():\n    return FACTOR\n\ndef use(x):\n    return load() * x", FACTOR=2)
    assert run(backend, module.use) == [2, 4]
    module.FACTOR = 3
    assert run(backend, module.use) == [3, 6]


def test_a_helper_of_a_helper_that_was_defined_again_is_called(backend: Backend) -> None:
    module = script("@functools.cache\ndef load():\n    return base()\n\ndef use(x):\n    return load() * x")
    exec("def base():\n    return 2", vars(module))
    assert run(backend, module.use) == [2, 4]
    exec("def base():\n    return 3", vars(module))
    assert run(backend, module.use) == [3, 6]


def test_nothing_is_kept_of_a_helper_that_refers_to_what_can_be_changed(backend: Backend) -> None:
    """Locally, what it returns would be the very object that the other function has."""
    registry: list[int] = []

    @functools.cache
    def get_registry() -> list[int]:
        return registry

    def use(x: int) -> tuple[int, bool]:
        registry.append(x)
        return len(registry), get_registry() is registry

    for _ in range(2):
        assert all(is_same for _, is_same in run(backend, use))


def test_nothing_is_kept_of_a_helper_that_counts_its_calls(backend: Backend) -> None:
    source = """
calls = 0

@functools.cache
def load(x):
    global calls
    calls += 1
    return calls

def use(x):
    return load(x), calls
"""
    module = script(source)
    assert run(backend, module.use, [5]) == [(1, 1)]
    assert run(backend, module.use, [5]) == [(1, 1)]


class Color(enum.Enum):
    RED = "red"


class Point(NamedTuple):
    x: int


@dataclass
class Model:
    """A class that travels by value in remote jobs, and by name to worker processes."""

    path: str
    words: list[str] = field(default_factory=list)
    color: Color = Color.RED

    def name(self) -> str:
        return f"{self.color.value} {len(self.words)}"


def own_classes(path: Path) -> Callable[[int], Any]:
    noted = str(path)

    class Encoder(Model):
        kind = Color.RED

        def encode(self, x: int) -> int:
            return 2 * x

    @functools.cache
    def load() -> Encoder:
        note_line(Path(noted), os.getpid())
        return Encoder("a", ["b"])

    def use(x: int) -> Any:
        encoder: Any = load()
        is_of_class = isinstance(encoder, Encoder) and isinstance(encoder, Model) and type(encoder) is Encoder
        return encoder.encode(x), encoder.name(), is_of_class, encoder.color is Color.RED, Encoder.kind is encoder.color

    return use


def test_an_object_of_an_own_class_is_of_that_class_in_the_next_run_too(backend: Backend, tmp_path: Path) -> None:
    use = own_classes(tmp_path / "loads")
    for _ in range(3):
        assert run(backend, use, [1]) == [(2, "red 1", True, True, True)]
    assert len(read_lines(tmp_path / "loads")) == 1


def test_a_class_that_was_edited_is_used_by_a_helper_that_was_not(backend: Backend) -> None:
    source = """
class Encoder:
    def encode(self, x):
        return {} * x
"""
    module = script("@functools.cache\ndef load():\n    return Encoder()\n\ndef use(x):\n    return load().encode(x)")
    exec(source.format(2), vars(module))
    assert run(backend, module.use) == [2, 4]
    exec(source.format(3), vars(module))
    assert run(backend, module.use) == [3, 6]


def test_an_object_is_of_the_class_that_is_there_now_if_that_was_defined_again_as_it_was(backend: Backend) -> None:
    module = script(
        "@functools.cache\ndef load():\n    return Encoder()\n\ndef use(x):\n    return isinstance(load(), Encoder)"
    )
    for _ in range(2):
        exec("class Encoder:\n    pass", vars(module))
        assert run(backend, module.use) == [True, True]


def test_arguments_that_are_equal_by_the_code_of_their_class_are_not_found_in_the_next_run(backend: Backend) -> None:
    source = """
class Key:
    def __init__(self, x):
        self.x = x

    def __eq__(self, other):
        return self.x == other.x

    def __hash__(self):
        return hash(self.x)

    def value(self):
        return {} * self.x
"""
    helper = "@functools.cache\ndef load(key):\n    return key.value()\n\ndef use(x):\n    return load(Key(x))"
    module = script(helper)
    for factor in (2, 3):
        exec(source.format(factor), vars(module))
        assert run(backend, module.use) == [factor, 2 * factor]


def test_tuples_with_names_are_those_of_the_run(backend: Backend) -> None:
    @functools.cache
    def same(point: Any) -> Any:
        return point

    def use(x: int) -> bool:
        point: Any = Point(x)
        return type(same(point)) is Point

    for _ in range(2):
        assert run(backend, use) == [True, True]


def test_a_recursive_helper_goes_as_deep_as_here(backend: Backend) -> None:
    @functools.cache
    def count_paths(n: int) -> int:
        return 1 if n < 2 else count_paths(n - 1) + count_paths(n - 2)

    def paths(x: int) -> int:
        return count_paths(x)

    assert run(backend, paths, [400, 60])[1] == 2504730781961


def test_helpers_that_call_each_other_can_be_sent(backend: Backend) -> None:
    source = """
@functools.cache
def is_even(n):
    return n == 0 or is_odd(n - 1)

@functools.cache
def is_odd(n):
    return n != 0 and is_even(n - 1)

@functools.cache
def name(n):
    return "even" if is_even(n) else "odd"

def use(x):
    return name(x), is_odd(x)
"""
    module = script(source)
    for _ in range(2):
        assert run(backend, module.use, [150, 151]) == [("even", False), ("odd", True)]


def test_the_cache_has_the_size_that_it_has_here(backend: Backend, tmp_path: Path) -> None:
    noted = str(tmp_path / "loads")

    @functools.lru_cache(maxsize=1)
    def load(x: int) -> int:
        note_line(Path(noted), x)
        return x

    def use(x: int) -> int:
        return load(x)

    for _ in range(2):
        assert run(backend, use, [1, 2, 2]) == [1, 2, 2]
    assert read_lines(tmp_path / "loads") == ["1", "2", "1", "2"]


def test_what_earlier_versions_of_a_helper_loaded_is_let_go() -> None:
    def alive(x: int) -> int:
        gc.collect()
        return sum(type(each).__name__ == "Large" for each in gc.get_objects())

    source = """
class Large:
    pass

@functools.cache
def load():
    return Large()

def use(x):
    return bool(load())
"""
    with LocalBackend(map_execution="parallel", max_workers=1) as backend:
        module = script("")
        for _ in range(5):
            exec(source, vars(module))  # a cell that is run again
            gc.collect()
            run(backend, module.use, [1])
        assert run(backend, alive, [1])[0] <= 2


def test_signatures_do_not_depend_on_whether_a_helper_was_sent(tmp_path: Path) -> None:
    from hypernodes import signature

    load, use = loader(tmp_path / "loads")
    before = signature.digest(load, signature.new_memo()), signature.digest(use, signature.new_memo())
    run(LocalBackend(map_execution="parallel", max_workers=1), use)
    assert before == (signature.digest(load, signature.new_memo()), signature.digest(use, signature.new_memo()))


def test_constants_and_installed_modules_are_no_hindrance(backend: Backend, tmp_path: Path) -> None:
    import logging
    import re

    source = """
def noted(path):
    note_line(path, 1)

@functools.lru_cache
def load(name, size=SIZES[0]):
    import numpy as np
    from a_package_that_only_the_image_has import it  # noqa

@functools.lru_cache
def read(name):
    log.debug("reading")
    noted(LOADS)
    return json.loads(PATTERN.sub("1", name))

def use(x):
    return read("[2]")[0] * x
"""
    constants = {"SIZES": (1, 2), "LOADS": tmp_path / "loads", "PATTERN": re.compile("2"), "json": json}
    module = script(source, log=logging.getLogger("a script"), **constants)
    for _ in range(2):
        assert run(backend, module.use) == [1, 2]
    assert len(read_lines(tmp_path / "loads")) == 1


# --- results that are not kept, since a run could tell them from its own -------------------------------------------


@pytest.mark.parametrize("name", EFFECTS)
def test_results_are_those_of_a_cache_that_begins_empty_where_it_makes_a_difference(
    backend: Backend, name: str
) -> None:
    use = script(EFFECTS[name]).use
    first = run(backend, use, [1])
    assert first not in ([False], [None])
    assert run(backend, use, [1]) == first
    assert run(backend, use, [1]) == first


WAYS_TO_CLEAR = {
    "a reference": "clear = load.cache_clear\n    clear()",
    "an attribute of another function": "other.clear()",
    "what wraps it": "wrapped.cache_clear()",
}


@pytest.mark.parametrize("name", WAYS_TO_CLEAR)
def test_a_node_may_clear_a_cache_by_whatever_refers_to_it(backend: Backend, name: str, tmp_path: Path) -> None:
    source = f"""
@functools.cache
def load():
    note_line(PATH, 1)
    return []

def other():
    pass

@functools.wraps(other)
def wrapped():
    return load()

def use(x):
    {WAYS_TO_CLEAR[name]}
    load()
    return x
"""
    module = script(source, PATH=tmp_path / "loads")
    for times in (1, 2, 3):
        module.other.clear = module.wrapped.cache_clear = module.load.cache_clear
        assert run(backend, module.use, [1]) == [1]
        assert len(read_lines(tmp_path / "loads")) == times


def test_a_function_that_is_cleared_in_its_own_way_begins_anew(backend: Backend, tmp_path: Path) -> None:
    load, use = loader(tmp_path / "loads")
    load.cache_clear = lambda: None
    for times in (1, 2):
        run(backend, use)
        assert len(read_lines(tmp_path / "loads")) == times


def test_a_function_that_another_one_clears_begins_anew(backend: Backend, tmp_path: Path) -> None:
    load, _ = loader(tmp_path / "loads")

    def wrapper(name: str) -> Any:
        return load(name)

    wrapper.cache_clear = load.cache_clear  # type: ignore[attr-defined]

    def use(x: int) -> Any:
        return wrapper("a")

    for times in (1, 2):
        run(backend, use)
        wrapper.cache_clear()  # type: ignore[attr-defined]
        assert len(read_lines(tmp_path / "loads")) == times


def test_what_the_caller_deleted_from_a_class_is_not_there_in_the_next_run() -> None:
    backend = SubprocessBackend()
    module = script("""
class Model:
    debug = True
    def old(self):
        return 1

@functools.cache
def load():
    return Model()

def use(x):
    return hasattr(load(), 'debug'), hasattr(load(), 'old'), Model.__name__
""")
    assert run(backend, module.use, [1]) == [(True, True, "Model")]
    del module.Model.debug, module.Model.old
    assert run(backend, module.use, [1]) == [(False, False, "Model")]


def test_modules_that_a_helper_imports_when_it_is_called_are_not_imported_here(tmp_path: Path) -> None:
    (tmp_path / "imported_by_a_helper_only.py").write_text("LOADED = True\n")
    source = "@functools.cache\ndef load():\n    import imported_by_a_helper_only as m\n    return [m.LOADED]\n\n"
    module = script(source + "def use(x):\n    return load()")
    sys.path.append(str(tmp_path))
    try:
        assert run(LocalBackend(map_execution="parallel", max_workers=1), module.use, [1]) == [[True]]
        assert "imported_by_a_helper_only" not in sys.modules
    finally:
        sys.path.remove(str(tmp_path))


def test_what_wraps_a_helper_that_was_sent_has_the_same_signature() -> None:
    from hypernodes import signature

    module = script(
        "@functools.cache\ndef load():\n    return []\n\ndef use(x):\n    return load()\n\n"
        "def wrap():\n    @functools.wraps(load)\n    def wrapper():\n        return load()\n    return wrapper"
    )
    before = signature.digest(module.wrap(), signature.new_memo())
    run(LocalBackend(map_execution="parallel", max_workers=1), module.use, [1])
    assert signature.digest(module.wrap(), signature.new_memo()) == before


def test_an_error_of_a_helper_shows_the_lines_of_the_user(backend: Backend) -> None:
    module = script("@functools.cache\ndef load():\n    return 1 / 0\n\ndef use(x):\n    return load()")
    with pytest.raises(ZeroDivisionError) as caught:
        run(backend, module.use, [1])
    shown = "".join(traceback.format_exception(caught.value))
    assert shown.count("kept_caches") <= 1


def test_an_error_whose_attributes_cannot_be_set_is_the_same_error(backend: Backend) -> None:
    module = script("""
import dataclasses

@dataclasses.dataclass(frozen=True)
class AppError(Exception):
    code: int

@functools.cache
def load():
    raise AppError(7)

def use(x):
    try:
        load()
    except AppError as error:
        return error.code
""")
    for _ in range(2):
        assert run(backend, module.use, [1]) == [7]


def test_a_helper_may_have_parameters_of_any_name(backend: Backend) -> None:
    source = "@functools.cache\ndef load(self, function, arguments):\n    return [self, function, arguments]\n\n"
    module = script(source + "def use(x):\n    return load(function=1, self=2, arguments=3)")
    assert run(backend, module.use, [1]) == [[2, 1, 3]]


def test_what_wraps_a_helper_after_it_was_sent_has_a_cache_of_its_own() -> None:
    module = script("@functools.cache\ndef load():\n    return []\n\ndef use(x):\n    return load()")
    run(LocalBackend(map_execution="parallel", max_workers=1), module.use, [1])
    calls = []
    again: Any = functools.cache(functools.wraps(module.load)(lambda: calls.append(1)))
    again()
    again.cache_clear()
    again()
    assert calls == [1, 1]
