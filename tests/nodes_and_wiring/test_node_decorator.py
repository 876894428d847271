"""Nodes: what the decorator makes of a function."""

from __future__ import annotations

import functools
import inspect
from pathlib import Path
from typing import Any

import pytest

from hypernodes import InvalidNodeError, Node, Pipeline, node


@node(output_name="scaled")
def scale(x: float, factor: float = 2.0, *, offset: float = 0.0) -> float:
    """Scale and shift."""
    return x * factor + offset


class Multiplier:
    def __init__(self, factor: int) -> None:
        self.factor = factor

    def __call__(self, x: int) -> int:
        return self.factor * x


def test_a_node_is_called_like_the_function_it_wraps() -> None:
    assert scale(3) == 6
    assert scale(3, 10) == 30
    assert scale(x=3, factor=10, offset=1) == 31


def test_a_node_knows_its_inputs_outputs_and_defaults() -> None:
    assert scale.inputs == ("x", "factor", "offset")
    assert scale.outputs == ("scaled",)
    assert scale.output_name == "scaled"
    assert dict(scale.defaults) == {"factor": 2.0, "offset": 0.0}
    assert scale.keyword_only == {"offset"}
    assert scale.name == "scale"
    assert scale.cache is True
    assert scale.is_async is False


def test_a_node_keeps_the_documentation_and_signature_of_its_function() -> None:
    assert scale.__doc__ == "Scale and shift."
    assert scale.__name__ == "scale"
    assert list(inspect.signature(scale).parameters) == ["x", "factor", "offset"]


def test_a_node_shows_what_it_takes_and_makes() -> None:
    assert repr(scale) == "<node scale(x, factor, offset) -> scaled>"


def test_a_node_says_where_its_function_stands() -> None:
    line = inspect.getsourcelines(scale.func)[1]
    assert scale.location == f"{Path(__file__).name}:{line}"


@pytest.mark.parametrize("decorate", [node, node()], ids=["bare", "called"])
def test_without_output_name_the_result_is_named_like_the_function(decorate: Any) -> None:
    def total(values: list[int]) -> int:
        return sum(values)

    made = decorate(total)
    assert made.outputs == ("total",)
    assert made([1, 2]) == 3


def test_a_node_may_have_several_output_names() -> None:
    @node(output_name=("low", "high"))
    def bounds(values: list[int]) -> tuple[int, int]:
        return min(values), max(values)

    assert bounds.outputs == ("low", "high")
    assert bounds.output_name == ("low", "high")


def test_name_and_cache_of_a_node_can_be_chosen() -> None:
    @node(output_name="now", cache=False, name="clock")
    def read() -> int:
        return 0

    assert (read.name, read.cache) == ("clock", False)


def test_a_lambda_takes_its_id_from_its_output() -> None:
    made = node(output_name="doubled")(lambda x: 2 * x)
    assert made.name == "doubled"
    assert made.inputs == ("x",)


def test_a_partial_leaves_out_the_inputs_that_are_bound() -> None:
    made: Node[..., int] = Node(functools.partial(pow, 2), "power")
    assert made.name == "pow"
    assert made.inputs == ("exp", "mod")
    assert Pipeline(nodes=[made]).run({"exp": 5}) == {"power": 32}


def test_a_partial_with_a_keyword_makes_it_an_input_with_that_default() -> None:
    def subtract(a: int, b: int) -> int:
        return a - b

    pipeline = Pipeline(nodes=[Node(functools.partial(subtract, b=1), "less")])
    assert pipeline.run({"a": 5}) == {"less": 4}
    assert pipeline.run({"a": 5, "b": 3}) == {"less": 2}


def test_an_object_with_call_can_be_a_node() -> None:
    made = Node(Multiplier(3), "tripled")
    assert (made.name, made.inputs) == ("Multiplier", ("x",))
    assert Pipeline(nodes=[made]).run({"x": 2}) == {"tripled": 6}


def test_a_builtin_can_be_a_node() -> None:
    assert Pipeline(nodes=[Node(len, "length")]).run({"obj": "abc"}) == {"length": 3}


def test_a_decorated_function_is_wired_by_the_signature_it_shows() -> None:
    def log_calls(function: Any) -> Any:
        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            return function(*args, **kwargs)

        return wrapper

    @node(output_name="sum")
    @log_calls
    def add(a: int, b: int = 1) -> int:
        return a + b

    assert add.inputs == ("a", "b")
    assert Pipeline(nodes=[add]).run({"a": 4}) == {"sum": 5}


def test_async_functions_are_recognised() -> None:
    async def fetch(url: str) -> str:
        return url

    class Fetcher:
        async def __call__(self, url: str) -> str:
            return url

    assert Node(fetch).is_async
    assert Node(functools.partial(fetch, "a"), "page").is_async
    assert Node(Fetcher(), "page").is_async


# --- what cannot be a node ---------------------------------------------------------------------------------------


def test_a_node_of_a_node_is_refused() -> None:
    with pytest.raises(InvalidNodeError, match=r"'scale' is already a node; decorate the function itself"):
        node(output_name="again")(scale)


def test_a_lambda_needs_an_output_name() -> None:
    with pytest.raises(InvalidNodeError, match=r"a lambda has no name: give it one with output_name="):
        Node(lambda x: x)


def test_what_cannot_be_called_cannot_be_a_node() -> None:
    with pytest.raises(InvalidNodeError, match=r"a node wraps a function \(func\); got 3") as caught:
        Node(3, "three")  # type: ignore[arg-type]
    assert caught.value.culprit == 3


@pytest.mark.parametrize("name", ["two words", "1st", "", "a.b"])
def test_an_output_name_that_no_parameter_could_have_is_refused(name: str) -> None:
    with pytest.raises(InvalidNodeError, match=r"output_name .* of node 'f' must be a valid Python name"):

        @node(output_name=name)
        def f(x: int) -> int:
            return x


def test_an_output_name_that_is_no_string_is_refused() -> None:
    with pytest.raises(InvalidNodeError, match=r"output_name 3 of node 'f' must be a valid Python name"):

        @node(output_name=("a", 3))  # type: ignore[arg-type]
        def f(x: int) -> int:
            return x


def test_no_output_name_at_all_is_refused() -> None:
    with pytest.raises(InvalidNodeError, match=r"output_name of node 'f' names no output"):

        @node(output_name=())
        def f(x: int) -> int:
            return x


def test_the_same_output_name_twice_is_refused() -> None:
    with pytest.raises(InvalidNodeError, match=r"node 'f' names an output twice: a, a"):

        @node(output_name=("a", "a"))
        def f(x: int) -> tuple[int, int]:
            return x, x


def test_a_callable_without_readable_parameters_is_refused() -> None:
    with pytest.raises(InvalidNodeError, match=r"the parameters of 'max' cannot be read|takes \*"):
        Node(max, "largest")


def test_a_method_in_a_class_body_is_refused_with_what_to_write_instead() -> None:
    with pytest.raises(InvalidNodeError) as caught:

        class Model:
            @node(output_name="y")
            def encode(self, x: int) -> int:
                return x

    assert str(caught.value) == (
        "node 'encode' is a method of class 'Model', so it would need a value for 'self'. Make a node of the method of "
        "an object, outside the class: node(output_name=...)(Model(...).encode); or write a function that takes the "
        "object as an input"
    )
    with pytest.raises(InvalidNodeError, match=r"a classmethod belongs to a class.*\(Class\.method\)"):

        class Other:
            @node(output_name="y")  # type: ignore[arg-type]
            @classmethod
            def make(cls, x: int) -> int:
                return x


def test_what_belongs_to_no_object_may_stand_in_a_class() -> None:
    class Nodes:
        @staticmethod
        @node(output_name="y")
        def of_static(x: int) -> int:
            return x + 1

        @node(output_name="z")
        def of_function(y: int) -> int:  # type: ignore[misc]  # noqa: N805
            return y * 2

        def scale(self, z: int) -> int:
            return z * 3

    def takes_itself(self: int) -> int:
        return self

    nodes = [Nodes.of_static, Nodes.of_function, node(output_name="scaled")(Nodes().scale), node("own")(takes_itself)]
    found = Pipeline(nodes=nodes).run({"x": 1, "self": 0})
    assert found == {"y": 2, "z": 4, "scaled": 12, "own": 0}
