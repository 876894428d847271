"""The user's own code comes along: a project in a folder runs in a process that knows nothing of that folder."""

from __future__ import annotations

import enum
import sys
import types
from dataclasses import dataclass
from typing import Any

import pytest

from hypernodes import Pipeline, SerializationError, node
from hypernodes.backend import SubprocessBackend
from tests.remote.conftest import Project


def test_a_package_with_relative_imports_comes_along(project: Project) -> None:
    project.write(
        shop__units="FACTOR = 3\n",
        shop__prices="""
            from .units import FACTOR
            from . import units

            def price(x):
                from .taxes import add_tax
                import shop.deep.labels as labels
                return labels.label(add_tax(x * FACTOR * units.FACTOR))
        """,
        shop__taxes="RATE = 2\ndef add_tax(x):\n    return x + RATE\n",
        shop__deep__labels="""
            from ..taxes import RATE
            from shop import units

            def label(x):
                return f"{x} {RATE} {units.FACTOR}"
        """,
    )
    out = project.run("""
        from shop import prices
        import shop.prices as p

        @node(output_name="label")
        def find(x):
            return p.price(x)

        wrapped = node(output_name="other")(prices.price)
        print(Pipeline([find, wrapped], backend=elsewhere).run({"x": 1}))
    """)
    assert out == "{'label': '11 2 3', 'other': '11 2 3'}\n"


def test_nodes_and_pipelines_of_a_module_come_along_with_its_constants_and_state(project: Project) -> None:
    project.write(
        etl="""
            from hypernodes import Pipeline, node

            SEEN = []
            SCALE = 10

            def remember(x):
                SEEN.append(x)
                return len(SEEN)

            @node(output_name="scaled")
            def scale(x):
                return x * SCALE

            @node(output_name="count")
            def count(scaled):
                remember(scaled)
                return remember(scaled)

            pipeline = Pipeline([scale, count], name="etl")
        """
    )
    out = project.run("""
        import etl
        etl.SCALE = 100
        etl.SEEN.append("from the caller")
        print(etl.pipeline.with_backend(elsewhere).run({"x": 2}), etl.SEEN)
    """)
    assert out == "{'scaled': 200, 'count': 3} ['from the caller']\n"


def test_functions_of_a_module_share_its_globals_there_too(project: Project) -> None:
    project.write(
        state="""
            count = 0

            def add():
                global count
                count += 1
                return count
        """
    )
    out = project.run("""
        import state
        from state import add

        @node(output_name="counts")
        def use(x):
            import state as again
            return [add(), state.add(), state.count, again.count]

        print(Pipeline([use], backend=elsewhere).run({"x": 1}), state.count)
    """)
    assert out == "{'counts': [1, 2, 2, 2]} 0\n"


def test_own_code_reaches_the_worker_processes_of_the_other_process(project: Project) -> None:
    project.write(
        far__base="FACTOR = 3\ndef scale(x):\n    return x * FACTOR\n",
        far__work="""
            from dataclasses import dataclass
            from . import base

            @dataclass
            class Box:
                x: int

            def box(x):
                from .base import scale
                return Box(scale(x) + base.FACTOR)
        """,
    )
    out = project.run("""
        from far.work import Box, box
        from far import work

        elsewhere = SubprocessBackend(
            cwd=elsewhere.cwd, env={"PYTHONSAFEPATH": "1"}, map_execution="parallel", max_workers=2
        )
        nodes = [node(output_name="box")(box), node(output_name="other")(lambda x: work.box(x))]
        found = Pipeline(nodes, backend=elsewhere).map({"x": [1, 2, 3]}, "x")
        print([(type(value) is Box, value.x) for column in found.values() for value in column])
    """)
    assert out == f"{[(True, 6), (True, 9), (True, 12)] * 2}\n"


def test_what_cannot_be_sent_matters_only_where_it_is_used(project: Project) -> None:
    project.write(
        tools="""
            import threading
            lock = threading.Lock()
            CONSTANT = 5

            def free(x):
                return x + CONSTANT

            def locked(x):
                with lock:
                    return x
        """
    )
    out = project.run("""
        import tools

        @node(output_name="y")
        def use(x):
            return tools.free(x)

        @node(output_name="z")
        def use_lock(x):
            return tools.locked(x)

        print(Pipeline([use], backend=elsewhere).run({"x": 1}))
        try:
            Pipeline([use_lock], backend=elsewhere).run({"x": 1})
        except (SerializationError, AttributeError, NameError) as error:
            print(type(error).__name__, error)
    """)
    first, second = out.splitlines()
    assert first == "{'y': 6}"
    assert "lock" in second
    assert "cannot be sent" in second


def test_classes_of_the_project_come_back_as_the_same_classes(project: Project) -> None:
    project.write(
        base="""
            from dataclasses import dataclass
            import enum

            class Color(enum.Enum):
                RED = 1
                BLUE = 2

            @dataclass
            class Shape:
                color: Color
                def area(self):
                    return 0

            class ShapeError(Exception):
                def __init__(self, *, color):
                    super().__init__(str(color))
                    self.color = color
                def __reduce__(self):
                    return _again, (self.color,)

            def _again(color):
                return ShapeError(color=color)
        """,
        shapes="""
            from dataclasses import dataclass
            from base import Color, Shape
            from pydantic import BaseModel

            @dataclass
            class Square(Shape):
                side: int
                def area(self):
                    return super().area() + self.side ** 2

            class Model(BaseModel):
                side: int
        """,
    )
    out = project.run("""
        import sys
        elsewhere = SubprocessBackend()  # pydantic is needed there
        from base import Color, Shape, ShapeError
        from shapes import Model, Square
        from dataclasses import dataclass

        @dataclass(frozen=True)
        class Local:
            square: Square

        @node(output_name="square")
        def make(model, color):
            assert isinstance(model, Model), type(model)
            assert color is Color.BLUE
            return Square(color, model.side)

        @node(output_name="local")
        def wrap(square):
            assert isinstance(square, Shape)
            return Local(square)

        @node(output_name="never")
        def fail(square):
            raise ShapeError(color=square.color)

        pipeline = Pipeline([make, wrap, fail], backend=elsewhere)
        found = pipeline.run({"model": Model(side=3), "color": Color.BLUE}, ["square", "local"])
        assert type(found["square"]) is Square and type(found["local"]) is Local
        assert found["square"].color is Color.BLUE and found["square"].area() == 9
        try:
            pipeline.run({"model": Model(side=3), "color": Color.BLUE})
        except ShapeError as error:
            assert error.color is Color.BLUE
            print("fine")
    """)
    assert out == "fine\n"


def test_results_of_classes_that_only_the_worker_saw_used_come_back(project: Project) -> None:
    project.write(hidden="class Found:\n    def __init__(self, x):\n        self.x = x\n")
    out = project.run("""
        @node(output_name="found")
        def find(x):
            from hidden import Found
            return Found(x)

        found = Pipeline([find], backend=elsewhere).run({"x": 3})["found"]
        import hidden
        print(type(found) is hidden.Found, found.x)
    """)
    assert out == "True 3\n"


def test_decorated_functions_methods_partials_and_callables_come_along(project: Project) -> None:
    project.write(
        deco="""
            import functools

            def twice(function):
                @functools.wraps(function)
                def wrapper(*args, **kwargs):
                    return 2 * function(*args, **kwargs)
                return wrapper

            class Model:
                def __init__(self, weight):
                    self.weight = weight
                def predict(self, x):
                    return self.weight * x
                def __call__(self, x):
                    return self.weight + x
        """
    )
    out = project.run("""
        import functools
        from deco import Model, twice

        @node(output_name="a")
        @twice
        def add(x):
            return x + 1

        def power(x, exponent):
            return x ** exponent

        nodes = [
            add,
            node(output_name="b")(Model(10).predict),
            node(output_name="c")(functools.partial(power, exponent=3)),
            node(output_name="d")(Model(7)),
            node(output_name="e")(lambda a, b: (lambda z: z + a + b)(0)),
        ]
        cache = MemoryCache()
        found = Pipeline(nodes, backend=elsewhere, cache=cache).run({"x": 2})
        print(found)
        assert Pipeline(nodes, cache=cache).run({"x": 2}) == found
    """)
    assert out == "{'a': 6, 'b': 20, 'c': 8, 'd': 9, 'e': 26}\n"


def test_here_and_there_find_each_others_results_for_code_of_all_kinds(project: Project) -> None:
    project.write(
        parts__items="""
            from dataclasses import dataclass

            @dataclass(frozen=True)
            class Item:
                name: str
        """,
        parts__nodes="""
            from hypernodes import node
            from .items import Item

            @node(output_name="items")
            def make(n):
                return [Item(f"item {i}") for i in range(n)]

            @node(output_name="size")
            def measure(item):
                return len(item.name)
        """,
    )
    out = project.run("""
        from parts.nodes import make, measure
        from dataclasses import dataclass

        @dataclass
        class Local:
            size: int

        @node(output_name="local", cache=False)
        def localize(size):
            return Local(size)

        @node(output_name="back")
        def back(local):
            return local.size

        class Counter(PipelineCallback):
            def __init__(self):
                self.names = []
            def on_node_start(self, node_id, inputs, ctx):
                self.names.append(node_id)

        each = Pipeline([measure, localize, back], name="each")
        each = each.as_node(input_mapping={"items": "item"}, map_over="items")
        for first, second in ((None, elsewhere), (elsewhere, None)):
            cache, counter = MemoryCache(), Counter()
            pipeline = Pipeline([make, each], cache=cache, callbacks=[counter])
            expected = pipeline.with_backend(first).run({"n": 3})
            counter.names.clear()
            found = pipeline.with_backend(second).run({"n": 3}, ["size", "back"])
            assert found == {"size": expected["size"], "back": expected["back"]}
            print(sorted(set(counter.names)))
            counter.names.clear()
            pipeline.with_backend(second).run({"n": 4}, "size")
            print(sorted(counter.names))
    """)
    assert out == "['localize']\n['make', 'measure']\n" * 2


def test_a_module_that_was_executed_rather_than_imported_comes_along(kept: SubprocessBackend) -> None:
    notebook = types.ModuleType("notebook_of_a_test")
    source = """
from dataclasses import dataclass
from hypernodes import node
FACTOR = 4
@dataclass
class Cell:
    value: int
def helper(x):
    return Cell(x * FACTOR)
@node(output_name="cell")
def run_cell(x):
    return helper(x)
"""
    exec(compile(source, "<cell 1>", "exec", dont_inherit=True), notebook.__dict__)
    found = Pipeline([notebook.run_cell], backend=kept).run({"x": 2})["cell"]
    assert type(found) is notebook.Cell
    assert found.value == 8
    assert "notebook_of_a_test" not in sys.modules


def test_local_classes_come_back_as_themselves(kept: SubprocessBackend) -> None:
    class Mood(enum.Enum):
        FINE = "fine"

    @dataclass
    class Note:
        mood: Mood

    @node(output_name="note")
    def write(mood: Mood) -> Note:
        return Note(mood)

    found = Pipeline([write], backend=kept).run({"mood": Mood.FINE})["note"]
    assert type(found) is Note
    assert found.mood is Mood.FINE


def test_code_that_changed_between_two_jobs_of_a_kept_process_is_the_new_one(
    kept: SubprocessBackend, load_module: Any
) -> None:
    for number in (1, 2):
        module = load_module(f"def helper(x):\n    return x + {number}\n", "changing")

        @node(output_name="y")
        def call(x: int, module: Any = module) -> Any:
            return module.helper(x)

        assert Pipeline([call], backend=kept).run({"x": 0}) == {"y": number}


# --- what cannot be sent ---------------------------------------------------------------------------------------------


class Client:
    def __init__(self) -> None:
        import threading

        self._lock = threading.Lock()


def test_what_cannot_be_sent_is_named_with_the_way_to_it(kept: SubprocessBackend) -> None:
    client = Client()

    @node(output_name="vector")
    def encode(text: str) -> str:
        return f"{client}{text}"

    inner = Pipeline([encode], name="inner")
    with pytest.raises(SerializationError) as caught:
        Pipeline([encode], name="outer", backend=kept).run({"text": "a"})
    assert caught.value.path == "pipeline → encode → closure 'client' → attribute '_lock'"
    assert "pipeline → encode → closure 'client' → attribute '_lock' cannot be sent to subprocess" in str(caught.value)
    with pytest.raises(SerializationError) as caught:
        Pipeline([inner.as_node(name="each", map_over="text")], backend=kept).run({"text": ["a"]})
    assert caught.value.path == "pipeline → each → encode → closure 'client' → attribute '_lock'"


def test_an_input_that_cannot_be_sent_is_named_and_not_shown(kept: SubprocessBackend) -> None:
    @node(output_name="y")
    def use(x: Any, options: Any = None) -> int:
        return 1

    inputs = {"x": {"password": "hunter2", "clients": [1, Client()]}}
    with pytest.raises(SerializationError) as caught:
        Pipeline([use], backend=kept).run(inputs)
    assert caught.value.path == "input 'x' → ['clients'] → [1] → attribute '_lock'"
    assert "hunter2" not in str(caught.value)
    with pytest.raises(SerializationError, match=r"item 1 of 'x' → attribute '_lock' cannot"):
        Pipeline([use], backend=kept).map({"x": [1, Client()]}, "x")


def test_what_cannot_be_sent_is_refused_before_anything_is_submitted() -> None:
    from tests.remote.transports import InProcess

    place = InProcess()
    with pytest.raises(SerializationError):
        Pipeline([node(output_name="y")(lambda x: 1)], backend=place).run({"x": Client()})
    assert place.jobs == []
