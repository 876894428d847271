"""Values that are preset for inputs of a pipeline."""

from __future__ import annotations

import argparse
import pickle
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import attrs
import pydantic
import pytest

from hypernodes import (
    ConfigurationError,
    LocalBackend,
    MapInputError,
    MemoryCache,
    MissingInputError,
    Node,
    Pipeline,
    UnknownInputError,
    node,
)
from hypernodes.backend import SubprocessBackend
from tests.support import Recorder


@node(output_name="scaled")
def scale(x: int, factor: int) -> int:
    return x * factor


@node(output_name="shifted")
def shift(scaled: int, offset: int = 0) -> int:
    return scaled + offset


@node(output_name="total")
def add_up(scaled: list[int], factor: int = 1) -> int:
    return sum(scaled) * factor


scaling = Pipeline([scale, shift], name="scaling")
preset = scaling.with_inputs(factor=10)
PLACES = [
    pytest.param(None, id="inlined"),
    pytest.param(LocalBackend(), id="backend_of_its_own"),
    pytest.param(LocalBackend(map_execution="threaded", node_execution="threaded"), id="threaded"),
    pytest.param(LocalBackend(map_execution="parallel"), id="parallel", marks=pytest.mark.slow),
    pytest.param(SubprocessBackend(), id="subprocess", marks=pytest.mark.slow),
]


@pytest.mark.parametrize("backend", PLACES)
def test_a_preset_value_is_used_until_another_is_given(backend: Any) -> None:
    pipeline = preset.with_backend(backend)
    assert pipeline.run({"x": 1}) == {"scaled": 10, "shifted": 10}
    assert pipeline.run({"x": 1, "factor": 2}, "scaled") == {"scaled": 2}
    assert pipeline.map({"x": [1, 2]}, map_over="x", output_name="scaled") == {"scaled": [10, 20]}
    assert pipeline.map({"x": 1, "factor": [1, 2]}, map_over="factor", output_name="scaled") == {"scaled": [1, 2]}


@pytest.mark.parametrize("backend", PLACES)
def test_nested_pipelines_keep_their_own_preset_values(backend: Any) -> None:
    tens = preset.with_backend(backend).as_node(outputs="scaled", prefix="ten_")
    twos = scaling.with_inputs(factor=2).with_backend(backend).as_node({"xs": "x"}, map_over="xs", outputs="scaled")
    pipeline = Pipeline([tens, twos])
    inputs = {"x": 1, "xs": [1, 2]}
    assert pipeline.missing_inputs == ("x", "xs")
    assert pipeline.run(inputs) == {"ten_scaled": 10, "scaled": [2, 4]}
    assert pipeline.run({**inputs, "factor": 3}) == {"ten_scaled": 3, "scaled": [3, 6]}
    assert pipeline.with_inputs(factor=4).run(inputs) == {"ten_scaled": 4, "scaled": [4, 8]}


def test_a_preset_value_takes_the_place_of_defaults_in_all_nodes() -> None:
    pipeline = Pipeline([scale, Node(lambda x, factor=5: x + factor, "sum", name="add")])
    assert pipeline.missing_inputs == ("x", "factor")
    assert pipeline.with_inputs(factor=3).run({"x": 1}) == {"scaled": 3, "sum": 4}


def test_what_is_preset_and_what_is_missing_can_be_asked_for() -> None:
    assert scaling.missing_inputs == ("x", "factor")
    assert preset.missing_inputs == ("x",)
    assert dict(preset.defaults) == {"factor": 10, "offset": 0}
    assert dict(preset.preset) == {"factor": 10}
    assert dict(scaling.preset) == {}
    more = preset.with_inputs(offset=1, factor=3)
    assert dict(more.defaults) == {"factor": 3, "offset": 1}
    assert more.with_name("other").with_cache(None).with_outputs("scaled").run({"x": 1}) == {"scaled": 3}
    assert pickle.loads(pickle.dumps(more)).run({"x": 1}) == more.run({"x": 1})
    assert dict(preset.preset) == {"factor": 10}, "with_inputs returns a new pipeline"


def test_missing_values_are_still_missing() -> None:
    with pytest.raises(MissingInputError, match=r"needs a value for 'x' \(for node 'scale'\)"):
        preset.run()


def test_what_a_node_around_makes_takes_precedence() -> None:
    pipeline = Pipeline([preset, Node(lambda base: base + 1, "factor", name="choose")])
    assert pipeline.run({"x": 1, "base": 4}, "scaled") == {"scaled": 5}


def test_a_preset_list_can_be_mapped_over() -> None:
    pipeline = preset.with_inputs(x=[1, 2])
    assert pipeline.map({}, map_over="x", output_name="scaled") == {"scaled": [10, 20]}
    assert pipeline.map({"x": [3]}, map_over="x", output_name="scaled") == {"scaled": [30]}
    mapped = Pipeline([preset.as_node(map_over="x", outputs="scaled")]).with_inputs(x=[1, 2])
    assert mapped.run() == {"scaled": [10, 20]}


def test_a_nested_pipeline_maps_over_its_preset_list_too() -> None:
    mapped = scaling.with_inputs(x=[1, 2], factor=10).as_node(map_over="x", outputs="scaled")
    assert Pipeline([mapped]).missing_inputs == ()
    assert Pipeline([mapped]).run() == {"scaled": [10, 20]}
    assert Pipeline([mapped]).run({"x": [3]}) == {"scaled": [30]}
    with pytest.raises(MapInputError, match="maps over 'x', which must hold one value per item"):
        Pipeline([scaling.with_inputs(x=1, factor=1).as_node(map_over="x")]).run()


def test_a_default_of_a_function_is_no_list_to_map_over() -> None:
    pipeline = Pipeline([shift]).with_inputs(scaled=1).as_node(map_over="offset")
    with pytest.raises(MissingInputError, match="needs a value for 'offset'"):
        Pipeline([pipeline]).run()


# --- caches ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", PLACES)
def test_a_preset_value_is_part_of_signatures_like_a_given_one(backend: Any) -> None:
    recorder = Recorder()
    pipeline = scaling.with_cache(MemoryCache()).with_callbacks([recorder]).with_backend(backend)
    pipeline.run({"x": 1, "factor": 10})
    recorder.clear()
    pipeline.with_inputs(factor=10).run({"x": 1})
    assert recorder.computed == []
    pipeline.with_inputs(factor=11).run({"x": 1})
    assert recorder.computed == ["scale", "shift"]
    recorder.clear()
    around = Pipeline([pipeline.with_inputs(factor=11).as_node(map_over="x")])
    around.run({"x": [1, 2]}, "scaled")
    assert recorder.computed == ["scale"]
    around.run({"x": [1, 2]}, "scaled")
    assert recorder.computed == ["scale"]


def test_explain_says_that_a_preset_value_changed() -> None:
    pipeline = scaling.with_cache(MemoryCache())
    pipeline.with_inputs(factor=10).run({"x": 1})
    explanation = pipeline.with_inputs(factor=12).explain({"x": 1})
    assert explanation["scale"].reasons == ("input `factor` changed 10 → 12",)


# --- objects with settings ---------------------------------------------------------------------------------------


@dataclass
class Settings:
    factor: int = 3
    offset: int = 1


class Model(pydantic.BaseModel):
    factor: int = 3
    offset: int = 1


@attrs.define
class Attributes:
    factor: int = 3
    offset: int = 1


class Row(NamedTuple):
    factor: int = 3
    offset: int = 1


@pytest.mark.parametrize(
    "settings", [Settings(), Model(), Attributes(), Row(), {"factor": 3, "offset": 1}], ids=lambda s: type(s).__name__
)
def test_the_fields_of_an_object_are_preset_by_name(settings: Any) -> None:
    pipeline = scaling.with_inputs(settings)
    assert pipeline.run({"x": 2}) == {"scaled": 6, "shifted": 7}
    assert scaling.with_inputs(settings, offset=5).run({"x": 2}) == {"scaled": 6, "shifted": 11}


def test_a_field_that_no_input_takes_is_refused_with_the_nearest_name() -> None:
    @dataclass
    class Misspelt:
        facter: int = 3
        seed: int = 1

    with pytest.raises(UnknownInputError, match=r"'facter' is not an input \(did you mean 'factor'\?\); 'seed' is not"):
        scaling.with_inputs(Misspelt())


# --- wrong input -------------------------------------------------------------------------------------------------


def test_names_that_are_no_inputs_are_refused() -> None:
    with pytest.raises(
        UnknownInputError, match=r"'facter' is not an input \(did you mean 'factor'\?\). Its inputs are"
    ):
        scaling.with_inputs(facter=3)
    with pytest.raises(
        UnknownInputError, match=r"'scaled' is not an input but an output of 'scale' \(.*\), which a val"
    ):
        scaling.with_inputs(scaled=3)


@pytest.mark.parametrize("values", [3, "factor", Settings, [1], argparse.Namespace(factor=3)])
def test_values_that_are_no_settings_are_refused(values: Any) -> None:
    with pytest.raises(
        ConfigurationError, match="with_inputs takes values by keyword, a dict of values by name, or an"
    ):
        scaling.with_inputs(values)


def test_an_object_with_a_field_that_has_no_value_is_refused() -> None:
    @dataclass
    class Unset:
        factor: int = field(init=False)

    with pytest.raises(ConfigurationError, match="with_inputs: a field of Unset has no value"):
        scaling.with_inputs(Unset())


def test_names_that_are_no_strings_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="names must be str"):
        scaling.with_inputs({3: 4})


def test_an_iterator_is_refused_since_only_the_first_run_could_read_it() -> None:
    with pytest.raises(ConfigurationError, match=r"only the first run could read; pass list\(x\)"):
        preset.with_inputs(x=iter([1, 2]))
