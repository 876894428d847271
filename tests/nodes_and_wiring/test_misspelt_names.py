"""A name that does not exist gets the nearest one that does, with the node that makes it."""

from __future__ import annotations

from typing import Any

import pytest

from hypernodes import (
    ConfigurationError,
    HyperNodesWarning,
    InvalidNodeError,
    LocalBackend,
    MappingError,
    MissingInputError,
    Pipeline,
    PipelineCallback,
    UnknownInputError,
    UnknownOutputError,
    node,
)


@node(output_name="clean_text")
def strip(text: str) -> str:
    return text.strip()


@node(output_name="words")
def split(cleaned_text: str) -> list[str]:
    return cleaned_text.split()


@node(output_name="documents")
def load(count: int) -> list[str]:
    return ["a"] * count


@node(output_name="embedding")
def encode(document: str) -> int:
    return len(document)


misspelt = Pipeline(nodes=[strip, split], name="misspelt")
encoding = Pipeline(nodes=[encode], name="encoding")


def raised_by(pipeline: Pipeline, **inputs: Any) -> MissingInputError:
    with pytest.raises(MissingInputError) as caught:
        pipeline.run(inputs)
    return caught.value


def test_a_misspelt_parameter_suggests_the_nearest_output_and_the_node_that_makes_it() -> None:
    error = raised_by(misspelt, text=" a ")
    assert str(error) == (
        "pipeline 'misspelt' needs a value for 'cleaned_text' (for node 'split'); inputs has 'text'. "
        f"Did you mean 'clean_text', which 'strip' ({strip.location}) makes? "
        f"Then rename the parameter 'cleaned_text' of 'split' ({split.location})"
    )
    assert error.meant == {"cleaned_text": "clean_text"}


def test_the_suggestion_is_the_same_for_a_map_and_for_explain() -> None:
    with pytest.raises(MissingInputError, match=r"Did you mean 'clean_text', which 'strip' \("):
        misspelt.map({"text": ["a"]}, map_over="text")
    with pytest.raises(MissingInputError, match=r"Did you mean 'clean_text', which 'strip' \("):
        misspelt.explain({"text": "a"})


def test_outputs_that_need_the_missing_input_are_not_suggested() -> None:
    @node(output_name="texts")
    def spread(text: str) -> list[str]:
        return [text]

    error = raised_by(Pipeline(nodes=[spread], name="p"))
    assert str(error) == "pipeline 'p' needs a value for 'text' (for node 'spread'); inputs has nothing"
    assert error.meant == {}


def test_an_input_that_has_a_value_is_suggested_when_it_is_very_near() -> None:
    @node(output_name="upper")
    def shout(txet: str) -> str:
        return txet.upper()

    @node(output_name="loss")
    def fit(train_path: str, test_path: str) -> str:
        return train_path + test_path

    error = raised_by(Pipeline(nodes=[strip, shout]), text="a")
    assert (
        f"Did you mean 'text', which has a value? Then rename the parameter 'txet' of 'shout' ({shout.location})"
        in (str(error))
    )
    assert raised_by(Pipeline(nodes=[fit]), train_path="a").meant == {}


def test_a_misspelt_parameter_in_a_nested_pipeline_is_found_there() -> None:
    renamed = misspelt.as_node({"page": "text"}, {"clean_text": "tidy_page"})
    error = raised_by(Pipeline(nodes=[Pipeline(nodes=[renamed], name="middle")], name="outer"), page=" a ")
    assert (
        f"Did you mean 'clean_text', which 'strip' ({strip.location}) makes in 'middle' → 'misspelt'? "
        f"Then rename the parameter 'cleaned_text' of 'split' ({split.location})"
    ) in str(error)


@pytest.mark.parametrize("backend", [None, LocalBackend()], ids=["inherited", "own backend"])
@pytest.mark.parametrize("is_mapped", [False, True], ids=["once", "mapped"])
def test_an_input_of_a_nested_pipeline_suggests_input_mapping(backend: LocalBackend | None, is_mapped: bool) -> None:
    nested = encoding.with_backend(backend).as_node(map_over="document" if is_mapped else None)
    error = raised_by(Pipeline(nodes=[load, nested], name="outer"), count=3)
    over = " and map_over='documents'" if is_mapped else ""
    assert str(error).endswith(
        f"Did you mean 'documents', which 'load' ({load.location}) makes? "
        f"Then pass input_mapping={{'documents': 'document'}}{over} to as_node of 'encoding'"
    )


def test_an_output_of_a_nested_pipeline_suggests_output_mapping() -> None:
    @node(output_name="size")
    def build(embeddings: int) -> int:
        return embeddings

    error = raised_by(Pipeline(nodes=[encoding, build], name="outer"), document="a")
    assert str(error).endswith(
        "Did you mean 'embedding', which 'encoding' makes? "
        "Then pass output_mapping={'embedding': 'embeddings'} to as_node of 'encoding'"
    )


def test_map_over_the_name_of_the_enclosing_pipeline_suggests_input_mapping() -> None:
    hint = r"\(did you mean 'document'\? To map over 'documents', add input_mapping=\{'documents': 'document'\}\)"
    with pytest.raises(MappingError, match=hint):
        encoding.as_node(map_over="documents")


def test_words_of_settings_get_the_nearest_too() -> None:
    with pytest.raises(ConfigurationError, match=r"got 'thread' \(did you mean 'threaded'\?\)"):
        LocalBackend("thread")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match=r"got 'colect' \(did you mean 'collect'\?\)"):
        encoding.map({"document": ["a"]}, "document", on_error="colect")  # type: ignore[arg-type]


def test_a_misspelt_method_of_a_callback_is_a_warning_since_nothing_calls_it() -> None:
    class Misspelt(PipelineCallback):
        def on_node_strat(self, *arguments: object) -> None:
            raise AssertionError

        def on_click(self) -> None:
            raise AssertionError

    class OwnHelper(PipelineCallback):
        def on_node_end(self, *arguments: object) -> None:
            self.on_node_ended()

        def on_node_ended(self) -> None:
            pass

    with pytest.warns(HyperNodesWarning) as shown:
        Pipeline(nodes=[strip], callbacks=[Misspelt(), OwnHelper()])
    assert [str(warning.message) for warning in shown] == [
        "Misspelt.on_node_strat is never called (did you mean 'on_node_start'?)"
    ]
    assert shown[0].filename == __file__


def test_each_of_several_misspelt_parameters_gets_its_suggestion() -> None:
    @node(output_name="pair")
    def pair(cleaned_text: str, document: str) -> str:
        return cleaned_text + document

    error = raised_by(Pipeline(nodes=[strip, load, pair]), text="a", count=1)
    assert error.meant == {"cleaned_text": "clean_text", "document": "documents"}
    assert str(error).count("Did you mean") == 2


def test_a_deeply_nested_pipeline_still_gets_its_suggestion() -> None:
    deep = misspelt
    for _ in range(1200):
        deep = Pipeline(nodes=[deep])
    assert raised_by(deep, text="a").meant == {"cleaned_text": "clean_text"}
    with pytest.raises(UnknownInputError, match=r"did you mean 'clean_text', which"):
        deep.run({"clean_txt": "a"})


def test_an_unknown_input_near_an_output_names_its_node() -> None:
    message = r"has no input 'clean_txt' \(did you mean 'clean_text', which 'strip' \(.*:\d+\) makes\?\)"
    with pytest.raises(UnknownInputError, match=message):
        misspelt.run({"clean_txt": "a"})


def test_an_unknown_output_names_the_node_that_makes_the_nearest() -> None:
    message = (
        r"output 'clean' not found in pipeline '.*' \(did you mean 'clean_text', which 'strip' \(.*:\d+\) makes\?\)"
    )
    with pytest.raises(UnknownOutputError, match=message):
        misspelt.run({"text": "a"}, output_name="clean")


def test_a_name_that_only_the_nested_pipeline_has_suggests_what_it_is_called_outside() -> None:
    inner = Pipeline(nodes=[strip], name="inner").as_node({"page": "text"}, {"clean_text": "tidy"})
    outer = Pipeline(nodes=[Pipeline(nodes=[inner], name="middle")])
    with pytest.raises(UnknownInputError, match=r"no input 'text' \(did you mean 'page'\?\)"):
        outer.run({"text": "a"})
    with pytest.raises(UnknownOutputError, match=r"'clean_text' not found in .* mean 'tidy', which 'middle' makes"):
        outer.run({"page": "a"}, output_name="clean_text")
    with pytest.raises(MappingError, match=r"map_over of node 'encoding' names 'document', .* \(did you mean 'pages'"):
        encoding.as_node({"pages": "document"}, map_over="document")


def test_output_mapping_the_wrong_way_round_says_so() -> None:
    with pytest.raises(
        MappingError, match=r"output_mapping of node 'encoding' maps 'all'.*perhaps \{'embedding': 'all'"
    ):
        encoding.as_node(output_mapping={"all": "embedding"})


def test_other_names_that_do_not_exist_get_the_nearest_too() -> None:
    with pytest.raises(InvalidNodeError, match=r"not a parameter \(did you mean 'text'\?\)"):
        node(output_name="y", cache_ignore="txt")(strip.func)
    with pytest.raises(KeyError, match=r"no node is called 'stripp' \(did you mean 'strip'\?\)"):
        Pipeline(nodes=[strip]).explain({"text": "a"})["stripp"]
