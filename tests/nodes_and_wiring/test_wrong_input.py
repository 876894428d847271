"""Wrong input is refused before anything runs, with a message that says what to do."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from hypernodes import (
    Backend,
    ConfigurationError,
    CycleError,
    DependencyError,
    DuplicateOutputError,
    GraphError,
    HyperNodesError,
    InvalidNodeError,
    LocalBackend,
    MapInputError,
    MapLengthError,
    MappingError,
    MapRequest,
    MemoryCache,
    MissingInputError,
    Pipeline,
    PipelineCallback,
    PipelineExecutionEngine,
    UnknownInputError,
    UnknownOutputError,
    node,
)
from hypernodes.backend import SubprocessBackend
from tests.support import Recorder


@node(output_name="clean")
def strip(text: str) -> str:
    return text.strip()


@node(output_name="words")
def split(clean: str, separator: str = " ") -> list[str]:
    return clean.split(separator)


@node(output_name="total")
def count(words: list[str], weight: int) -> int:
    return weight * len(words)


recorder = Recorder()
prep = Pipeline(nodes=[strip, split], name="prep")
scored = Pipeline(nodes=[strip, split, count], name="scored", callbacks=[recorder])
strip_all = Pipeline(nodes=[strip], name="strip_all")


@pytest.fixture(autouse=True)
def nothing_ran() -> Iterator[None]:
    """Holds for every test here: no event was observed, so nothing ran."""
    recorder.clear()
    yield
    assert recorder.events == []


# --- inputs of a run ---------------------------------------------------------------------------------------------


def test_a_missing_input_names_the_node_that_needs_it() -> None:
    with pytest.raises(MissingInputError) as caught:
        scored.run({"text": "a b"})
    assert str(caught.value) == "pipeline 'scored' needs a value for 'weight' (for node 'count'); inputs has 'text'"
    assert caught.value.missing == {"weight": ("count",)}


def test_several_missing_inputs_are_all_named_at_once() -> None:
    @node(output_name="shout")
    def shout(text: str) -> str:
        return text.upper()

    with pytest.raises(MissingInputError) as caught:
        Pipeline(nodes=[strip, shout, split, count], name="p", callbacks=[recorder]).run()
    assert str(caught.value) == (
        "pipeline 'p' needs a value for 'text' (for nodes 'strip', 'shout'), 'weight' (for node 'count'); "
        "inputs has nothing"
    )
    assert caught.value.missing == {"text": ("strip", "shout"), "weight": ("count",)}


def test_a_missing_input_of_a_nested_pipeline_has_its_outer_name() -> None:
    outer = Pipeline(nodes=[strip_all.as_node(input_mapping={"page": "text"})], name="outer", callbacks=[recorder])
    with pytest.raises(MissingInputError) as caught:
        outer.run()
    assert str(caught.value) == "pipeline 'outer' needs a value for 'page' (for node 'strip'); inputs has nothing"
    assert caught.value.missing == {"page": ("strip",)}


def test_a_missing_input_of_a_mapped_node_is_found_before_anything_runs() -> None:
    mapped = prep.as_node(input_mapping={"texts": "text"}, map_over="texts")
    with pytest.raises(MissingInputError) as caught:
        Pipeline(nodes=[mapped], name="outer", callbacks=[recorder]).run()
    assert caught.value.missing == {"texts": ("prep",)}


def test_a_missing_shared_input_of_a_map_is_named() -> None:
    with pytest.raises(MissingInputError) as caught:
        scored.map({"text": ["a", "b"]}, map_over="text")
    assert caught.value.missing == {"weight": ("count",)}


def test_an_unknown_input_suggests_the_nearest_name() -> None:
    with pytest.raises(UnknownInputError) as caught:
        scored.run({"text": "a", "wieght": 2})
    assert str(caught.value) == (
        "pipeline 'scored' has no input 'wieght' (did you mean 'weight'?). It takes: text, separator, weight; "
        "outputs that a value may replace: clean, words, total"
    )
    assert caught.value.unknown == ("wieght",)
    assert caught.value.available == ("text", "separator", "weight", "clean", "words", "total")


def test_an_unknown_input_unlike_any_other_suggests_nothing() -> None:
    with pytest.raises(UnknownInputError, match=r"has no input 'qqq'\. It takes: text, separator, weight;"):
        scored.run({"text": "a", "weight": 1, "qqq": 2})


def test_an_unknown_input_of_a_map_is_named() -> None:
    with pytest.raises(UnknownInputError, match=r"has no input 'txet' \(did you mean 'text'\?\)"):
        scored.map({"txet": ["a"], "weight": 1}, map_over="txet")


@pytest.mark.parametrize("inputs", ["text", 3], ids=["string", "number"])
def test_inputs_that_are_no_dict_are_refused(inputs: Any) -> None:
    with pytest.raises(DependencyError, match=r"inputs must be a dict of values by name; got"):
        scored.run(inputs)


@pytest.mark.parametrize("inputs", [["text", "weight"], {"text", "weight"}], ids=["list", "set"])
def test_inputs_that_are_a_collection_of_names_are_refused(inputs: Any) -> None:
    with pytest.raises(DependencyError, match=r"inputs must be a dict of values by name; got"):
        scored.run(inputs)


def test_inputs_whose_names_are_no_strings_are_refused() -> None:
    inputs: Any = {"text": "a", 3: 1}
    with pytest.raises(DependencyError, match=r"inputs must be a dict of values by name; names must be str, got 3"):
        scored.run(inputs)


# --- requested outputs -------------------------------------------------------------------------------------------


def test_an_unknown_output_lists_those_there_are() -> None:
    with pytest.raises(UnknownOutputError) as caught:
        scored.run({"text": "a", "weight": 1}, output_name="totl")
    assert str(caught.value) == (
        "output 'totl' not found in pipeline 'scored' (did you mean 'total', which 'count' "
        f"({count.location}) makes?). It has: clean, words, total"
    )
    assert caught.value.unknown == ("totl",)
    assert caught.value.available == ("clean", "words", "total")


def test_an_unknown_output_among_several_is_named() -> None:
    with pytest.raises(UnknownOutputError) as caught:
        scored.run({"text": "a", "weight": 1}, output_name=["clean", "nothing", "text"])
    assert caught.value.unknown == ("nothing", "text")


def test_an_unknown_output_of_a_map_is_named() -> None:
    with pytest.raises(UnknownOutputError, match="output 'nothing' not found in pipeline"):
        scored.map({"text": [], "weight": 1}, map_over="text", output_name="nothing")


@pytest.mark.parametrize("output_name", [3, ["clean", 3]], ids=["number", "list with a number"])
def test_a_requested_output_that_is_no_string_is_refused(output_name: Any) -> None:
    with pytest.raises(DependencyError):
        scored.run({"text": "a", "weight": 1}, output_name=output_name)


# --- what a pipeline is made of ----------------------------------------------------------------------------------


def test_two_nodes_with_one_output_name_are_refused() -> None:
    @node(output_name="clean")
    def lower(text: str) -> str:
        return text.lower()

    with pytest.raises(DuplicateOutputError) as caught:
        Pipeline(nodes=[strip, lower], name="prep")
    assert str(caught.value) == (
        f"output 'clean' is produced by both 'strip' ({strip.location}) and 'lower' ({lower.location}) in pipeline "
        "'prep'. Rename one with @node(output_name=...); of a nested pipeline, show only some outputs with "
        "as_node(outputs=[...]), or rename them with as_node(prefix=...) or output_mapping. If only one of them is to "
        "run, say on what condition: when=..., unless=...."
    )
    assert caught.value.output_name == "clean"
    assert caught.value.node_names == ("strip", "lower")


def test_a_node_that_is_listed_twice_is_named() -> None:
    with pytest.raises(
        DuplicateOutputError, match=r"node 'strip' \(.*\) is listed twice in pipeline 'p'. List it once"
    ):
        Pipeline(nodes=[strip, strip], name="p")


def test_a_nested_pipeline_with_an_output_that_exists_already_is_refused() -> None:
    with pytest.raises(DuplicateOutputError, match=r"produced by both 'strip' \(.*\) and 'strip_all' in pipeline"):
        Pipeline(nodes=[strip, strip_all])


def test_a_cycle_shows_its_path() -> None:
    @node(output_name="a")
    def first(c: int) -> int:
        return c

    @node(output_name="b")
    def second(a: int, text: str) -> int:
        return a

    @node(output_name="c")
    def third(b: int, clean: str) -> int:
        return b

    with pytest.raises(CycleError) as caught:
        Pipeline(nodes=[strip, first, second, third], name="round")
    assert str(caught.value) == (
        "nodes of pipeline 'round' depend on each other in a cycle: "
        f"'first' ({first.location}) --a--> 'second' ({second.location}) --b--> 'third' ({third.location}) "
        f"--c--> 'first' ({first.location}). Rename an input or an output so that one of them can come first."
    )
    assert caught.value.path == ("first", "second", "third", "first")


def test_a_node_that_needs_its_own_output_is_a_cycle() -> None:
    @node(output_name="x")
    def again(x: int) -> int:
        return x

    with pytest.raises(CycleError, match=r"'again' \(.*\) --x--> 'again'") as caught:
        Pipeline(nodes=[again])
    assert caught.value.path == ("again", "again")


@pytest.mark.parametrize(
    ("function", "star"),
    [(lambda *args: 0, r"\*args"), (lambda x, **kwargs: 0, r"\*\*kwargs")],
    ids=["args", "kwargs"],
)
def test_star_parameters_are_refused(function: Any, star: str) -> None:
    function.__name__ = "collect"
    with pytest.raises(InvalidNodeError) as caught:
        node(output_name="y")(function)
    caught.match(
        rf"node 'collect' takes {star}, but inputs are wired by parameter name; name each input, or take one list or "
        "dict"
    )
    assert caught.value.culprit is function


def test_a_bare_function_gets_the_hint_to_decorate_it() -> None:
    def lower(text: str) -> str:
        return text.lower()

    with pytest.raises(InvalidNodeError) as caught:
        Pipeline(nodes=[strip, lower])  # type: ignore[list-item]
    assert str(caught.value) == (
        "'lower' in nodes= is a bare function; decorate it with @node(output_name=...), "
        "or wrap it here: node(output_name=...)(lower)"
    )
    assert caught.value.culprit is lower


@pytest.mark.parametrize("entry", [3, "strip", None])
def test_something_that_is_neither_node_nor_pipeline_is_refused(entry: Any) -> None:
    with pytest.raises(InvalidNodeError) as caught:
        Pipeline(nodes=[strip, entry])
    assert str(caught.value) == f"{entry!r} in nodes= is neither a node nor a pipeline"
    assert caught.value.culprit == entry


def test_nodes_that_are_no_list_are_refused() -> None:
    with pytest.raises(InvalidNodeError, match=r"nodes must be a list of nodes and pipelines; got <node strip"):
        Pipeline(nodes=strip)  # type: ignore[arg-type]


def test_a_pipeline_without_nodes_is_refused() -> None:
    with pytest.raises(InvalidNodeError, match=r"nodes is empty: a pipeline needs at least one node"):
        Pipeline(nodes=[])


# --- as_node -----------------------------------------------------------------------------------------------------


def test_input_mapping_to_a_name_that_does_not_exist_is_refused() -> None:
    with pytest.raises(MappingError) as caught:
        prep.as_node(input_mapping={"page": "txt"})
    assert str(caught.value) == (
        "input_mapping of node 'prep' names 'txt', which is not one of its inputs (did you mean 'text'?); "
        "its inputs are: text, separator"
    )
    assert caught.value.unknown == "txt"
    assert caught.value.available == ("text", "separator")


def test_input_mapping_the_wrong_way_round_says_so() -> None:
    with pytest.raises(MappingError) as caught:
        prep.as_node(input_mapping={"text": "page"})
    assert str(caught.value) == (
        "input_mapping of node 'prep' maps 'text' to 'page', which is not one of its inputs; "
        "the direction is {outer name: inner name}, so perhaps {'page': 'text'} was meant"
    )


def test_input_mapping_of_two_names_to_one_input_is_refused() -> None:
    with pytest.raises(MappingError, match=r"input_mapping of node 'prep' maps both 'a' and 'b' to 'text'"):
        prep.as_node(input_mapping={"a": "text", "b": "text"})


def test_input_mapping_that_gives_two_inputs_one_name_is_refused() -> None:
    with pytest.raises(MappingError, match=r"gives two inputs the name 'separator'"):
        prep.as_node(input_mapping={"separator": "text"})


def test_output_mapping_of_a_name_that_does_not_exist_is_refused() -> None:
    with pytest.raises(MappingError) as caught:
        prep.as_node(output_mapping={"word": "tokens"})
    assert str(caught.value) == (
        "output_mapping of node 'prep' names 'word', which is not one of its outputs (did you mean 'words'?); "
        "its outputs are: clean, words"
    )
    assert caught.value.unknown == "word"
    assert caught.value.available == ("clean", "words")


def test_output_mapping_that_gives_two_outputs_one_name_is_refused() -> None:
    with pytest.raises(MappingError, match=r"output_mapping of node 'prep' gives two outputs the name 'words'"):
        prep.as_node(output_mapping={"clean": "words"})


def test_map_over_a_name_that_does_not_exist_is_refused() -> None:
    with pytest.raises(MappingError) as caught:
        prep.as_node(input_mapping={"texts": "text"}, map_over="text")
    assert str(caught.value) == (
        "map_over of node 'prep' names 'text', which is not one of its inputs (did you mean 'texts'?); "
        "its inputs are: texts, separator"
    )
    assert caught.value.unknown == "text"


def test_a_mapped_node_over_no_name_is_refused() -> None:
    with pytest.raises(MappingError, match=r"map_over of node 'prep' is empty"):
        prep.as_node(map_over=[])


def test_an_unknown_map_mode_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"map_mode must be 'zip' or 'product'; got 'outer'"):
        prep.as_node(map_over="text", map_mode="outer")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match=r"map_mode must be 'zip' or 'product'; got 'outer'"):
        scored.map({"text": ["a"], "weight": 1}, map_over="text", map_mode="outer")  # type: ignore[arg-type]


# --- mapped-over values ------------------------------------------------------------------------------------------


def test_a_mapped_input_that_is_not_iterable_is_refused() -> None:
    with pytest.raises(MapInputError) as caught:
        scored.map({"text": 3, "weight": 1}, map_over="text")
    assert str(caught.value) == (
        "pipeline 'scored' maps over 'text', which must hold one value per item; int is not iterable"
    )
    assert caught.value.input_name == "text"


@pytest.mark.parametrize("value", ["abc", b"abc"], ids=["str", "bytes"])
def test_a_mapped_input_that_is_a_single_string_is_refused(value: Any) -> None:
    with pytest.raises(MapInputError) as caught:
        scored.map({"text": value, "weight": 1}, map_over="text")
    assert str(caught.value) == (
        f"pipeline 'scored' maps over 'text', which is a single {type(value).__name__}; "
        "pass a list of values, e.g. [text]"
    )
    assert caught.value.input_name == "text"


@pytest.mark.parametrize("value", ["abc", 3], ids=["str", "int"])
@pytest.mark.parametrize("cache", [None, MemoryCache()], ids=["no cache", "cache"])
def test_a_mapped_node_checks_given_values_before_anything_runs(value: Any, cache: MemoryCache | None) -> None:
    mapped = strip_all.as_node({"texts": "text"}, {"clean": "all_clean"}, map_over="texts")
    pipeline = Pipeline(nodes=[strip, mapped], cache=cache, callbacks=[recorder])
    with pytest.raises(MapInputError, match=r"node 'strip_all' maps over 'texts'") as caught:
        pipeline.run({"text": "a", "texts": value})
    assert caught.value.input_name == "texts"


def test_a_mapped_node_in_a_nested_pipeline_checks_given_values_before_anything_runs() -> None:
    middle = Pipeline(nodes=[strip_all.as_node({"texts": "text"}, {"clean": "all_clean"}, map_over="texts")])
    pipeline = Pipeline(nodes=[strip, middle.as_node({"pages": "texts"})], callbacks=[recorder])
    with pytest.raises(MapInputError, match=r"node 'strip_all' maps over"):
        pipeline.run({"text": "a", "pages": "abc"})


def test_a_mapped_node_inside_a_map_checks_shared_values_before_anything_runs() -> None:
    mapped = strip_all.as_node({"texts": "text"}, {"clean": "all_clean"}, map_over="texts")
    pipeline = Pipeline(nodes=[strip, mapped], callbacks=[recorder])
    try:
        with pytest.raises(MapInputError):
            pipeline.map({"text": ["a", "b"], "texts": "abc"}, map_over="text")
        assert recorder.computed == []
    finally:
        recorder.clear()


def test_unequal_lengths_in_zip_mode_are_refused() -> None:
    with pytest.raises(MapLengthError) as caught:
        scored.map({"text": ["a", "b"], "weight": [1, 2, 3]}, map_over=["text", "weight"])
    assert str(caught.value) == (
        "pipeline 'scored' pairs its inputs item by item, but their lengths differ: 'text' has 2, 'weight' has 3 "
        "values; use map_mode='product' for every combination"
    )
    assert caught.value.lengths == {"text": 2, "weight": 3}


def test_unequal_lengths_of_a_mapped_node_are_refused_before_anything_runs() -> None:
    mapped = prep.as_node({"texts": "text", "seps": "separator"}, {"clean": "c"}, map_over=["texts", "seps"])
    with pytest.raises(MapLengthError, match=r"'texts' has 1, 'seps' has 2 values"):
        Pipeline(nodes=[strip, mapped], callbacks=[recorder]).run({"text": "a", "texts": ["a"], "seps": [" ", ","]})


def test_a_mapped_over_input_with_a_default_still_has_to_be_given() -> None:
    mapped = prep.as_node({"seps": "separator"}, map_over="seps")
    with pytest.raises(MissingInputError) as caught:
        Pipeline(nodes=[mapped], callbacks=[recorder]).run({"text": "a"})
    assert caught.value.missing == {"seps": ("prep",)}


def test_map_over_a_name_without_values_is_refused() -> None:
    with pytest.raises(UnknownInputError) as caught:
        scored.map({"text": ["a"], "weight": 1}, map_over="txt")
    assert str(caught.value) == "map_over names 'txt', for which inputs has no values (did you mean 'text'?)"
    assert caught.value.unknown == ("txt",)


@pytest.mark.parametrize("map_over", [[], None])
def test_a_map_over_no_name_is_refused(map_over: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"map_over names no input; use run\(\) for a single run"):
        scored.map({"text": ["a"], "weight": 1}, map_over=map_over)


def test_items_with_different_names_are_refused() -> None:
    with pytest.raises(DependencyError, match=r"item 0 has text; item 1 has weight"):
        MapRequest.of_items(scored, [{"text": "a"}, {"weight": 1}])


# --- settings ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"backend": "local"}, r"backend must be a Backend, e.g. LocalBackend\(\); got 'local'"),
        ({"cache": "dir"}, r"cache must be a Cache such as DiskCache\(path=...\), False or None; got 'dir'"),
        ({"cache": True}, r"cache must be a Cache .* got True"),
        ({"callbacks": Recorder()}, r"callbacks must be a list of callbacks; got"),
        ({"callbacks": [print]}, r"<built-in function print> in callbacks is not a PipelineCallback"),
        ({"callbacks": [PipelineCallback]}, r"is not a PipelineCallback \(a class: make an object of it\)"),
        ({"name": ""}, r"name must be a non-empty string; got ''"),
        ({"name": 3}, r"name must be a non-empty string; got 3"),
        ({"parent": "p"}, r"parent must be a Pipeline; got 'p'"),
    ],
)
def test_settings_that_a_pipeline_cannot_have_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Pipeline(nodes=[strip], **settings)


def test_with_methods_check_like_the_constructor() -> None:
    for change in (
        lambda: prep.with_cache("dir"),  # type: ignore[arg-type]
        lambda: prep.with_callbacks([print]),  # type: ignore[list-item]
        lambda: prep.with_backend("local"),  # type: ignore[arg-type]
        lambda: prep.with_name(""),
    ):
        with pytest.raises(ConfigurationError):
            change()


@pytest.mark.parametrize("make", [PipelineExecutionEngine, LocalBackend])
def test_a_mode_that_does_not_exist_is_refused(make: Any) -> None:
    message = r"map_execution must be one of 'sequential', 'async', 'threaded', 'parallel'; got 'thread'"
    with pytest.raises(ConfigurationError, match=message):
        make(map_execution="thread")


@pytest.mark.parametrize("max_workers", [0, -1, 1.5, True, "2"])
def test_max_workers_must_be_a_positive_whole_number(max_workers: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"max_workers must be a positive whole number or None; got"):
        PipelineExecutionEngine(max_workers=max_workers)


@pytest.mark.parametrize("make", [PipelineExecutionEngine, LocalBackend, SubprocessBackend])
def test_workers_without_a_mode_that_uses_them_are_refused(make: Any) -> None:
    message = r"max_workers=8 has no use without a mode: .* map_execution='threaded' .* node_execution='threaded'"
    with pytest.raises(ConfigurationError, match=message):
        make(max_workers=8)
    assert make(max_workers=1) is not None
    assert make(map_execution="sequential", max_workers=8) is not None  # chosen, e.g. one of several in a loop


def test_an_executor_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"executor must be a concurrent\.futures\.Executor; got"):
        LocalBackend(executor=object())  # type: ignore[arg-type]


def test_an_engine_and_the_settings_of_one_exclude_each_other() -> None:
    with pytest.raises(ConfigurationError, match=r"either engine= or the settings of an engine, not both"):
        LocalBackend(max_workers=2, engine=PipelineExecutionEngine())


def test_a_memory_cache_without_room_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"max_items must be a positive whole number or None; got 0"):
        MemoryCache(max_items=0)


def test_a_backend_has_to_implement_run_and_map() -> None:
    with pytest.raises(TypeError, match="abstract"):
        Backend()  # type: ignore[abstract]


# --- the exceptions ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "bases"),
    [
        (MissingInputError, (DependencyError, ValueError)),
        (UnknownInputError, (DependencyError, ValueError)),
        (UnknownOutputError, (DependencyError, ValueError)),
        (MapInputError, (DependencyError, ValueError, TypeError)),
        (MapLengthError, (DependencyError, ValueError)),
        (DuplicateOutputError, (GraphError, ValueError)),
        (CycleError, (GraphError, ValueError)),
        (MappingError, (GraphError, ValueError)),
        (InvalidNodeError, (GraphError, ValueError, TypeError)),
        (ConfigurationError, (ValueError,)),
    ],
)
def test_wrong_arguments_are_caught_as_the_librarys_errors_and_as_value_errors(
    error: type[Exception], bases: tuple[type[Exception], ...]
) -> None:
    assert issubclass(error, HyperNodesError)
    assert all(issubclass(error, base) for base in bases)


def test_a_backend_with_methods_of_an_older_interface_is_refused() -> None:
    class MapsColumns(LocalBackend):
        def map_columns(self, *arguments: Any) -> Any:
            return {}

    class TakesInputs(LocalBackend):
        def run(self, pipeline: Any, inputs: Any, ctx: Any = None) -> Any:  # type: ignore[override]
            return {}

    class TakesNothing(LocalBackend):
        def map(self) -> Any:  # type: ignore[override]
            return {}

    class TakesAnything(LocalBackend):
        def run(self, *arguments: Any, **options: Any) -> Any:
            return super().run(*arguments, **options)

    with pytest.raises(ConfigurationError, match=r"MapsColumns\.map_columns is never called: implement map\("):
        scored.with_backend(MapsColumns())
    with pytest.raises(ConfigurationError, match=r"TakesInputs\.run\(self, pipeline, inputs, ctx\) cannot be called"):
        scored.with_backend(TakesInputs())
    with pytest.raises(ConfigurationError, match=r"TakesNothing\.map\(self\) cannot be called"):
        scored.with_backend(TakesNothing())
    with pytest.raises(ConfigurationError, match="a class: make an object of it"):
        scored.with_backend(LocalBackend)  # type: ignore[arg-type]
    assert scored.with_backend(TakesAnything()).backend is not None
