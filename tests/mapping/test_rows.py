"""The results of maps with the values that they were computed from."""

from __future__ import annotations

import pickle
import sys
from typing import Any

import pytest

from hypernodes import ConfigurationError, Failure, LocalBackend, Node, Pipeline, UnknownInputError
from hypernodes.backend import SubprocessBackend

pipeline = Pipeline(
    [
        Node(lambda size, depth: size * depth, "score", name="rate"),
        Node(lambda score, offset: 1 / (score - offset), "inverse", name="invert"),
    ]
)
SHARED = {"offset": 1}


@pytest.mark.parametrize("backend", [LocalBackend(), LocalBackend(map_execution="threaded"), SubprocessBackend()])
def test_a_row_has_the_inputs_that_vary_and_the_outputs(backend: Any) -> None:
    found = pipeline.with_backend(backend).map_rows({**SHARED, "size": [2, 3], "depth": (5, 7)}, ["size", "depth"])
    assert found == [
        {"size": 2, "depth": 5, "score": 10, "inverse": 1 / 9},
        {"size": 3, "depth": 7, "score": 21, "inverse": 1 / 20},
    ]
    assert found.columns["score"] == [10, 21]


def test_a_product_has_a_row_for_every_combination() -> None:
    grid = {"size": iter([1, 2]), "depth": range(2)}
    found = pipeline.map_rows(grid, ["size", "depth"], map_mode="product", output_name="score")
    assert [tuple(row.items()) for row in found] == [
        (("size", size), ("depth", depth), ("score", size * depth)) for size in (1, 2) for depth in (0, 1)
    ]


def test_failed_items_have_rows_too() -> None:
    found = pipeline.map_rows({**SHARED, "size": [1, 2], "depth": 1}, "size", on_error="collect")
    assert isinstance(found[0]["inverse"], Failure)
    assert (found[0]["size"], found[1]["inverse"]) == (1, 1.0)


def test_preset_values_can_be_mapped_over() -> None:
    preset = pipeline.with_inputs(size=[1, 2], depth=3)
    assert preset.map_rows({}, "size", output_name="score") == [{"size": 1, "score": 3}, {"size": 2, "score": 6}]


def test_rows_travel() -> None:
    found = pipeline.map_rows({"size": [1], "depth": 1}, "size", output_name="score")
    again = pickle.loads(pickle.dumps(found))
    assert again == found
    assert again.columns == found.columns


def test_rows_make_tables_with_their_columns_also_if_there_are_none() -> None:
    pandas, polars = pytest.importorskip("pandas"), pytest.importorskip("polars")
    for sizes in ([1, 2], []):
        found = pipeline.map_rows({"size": sizes, "depth": 3}, "size", output_name="score")
        assert found.to_pandas().to_dict("list") == {"size": sizes, "score": [3 * size for size in sizes]}
        assert isinstance(found.to_pandas(), pandas.DataFrame)
        assert found.to_polars().to_dict(as_series=False) == {"size": sizes, "score": [3 * size for size in sizes]}
        assert isinstance(found.to_polars(), polars.DataFrame)


def test_tables_hold_failed_items_and_other_objects() -> None:
    pytest.importorskip("pandas")
    pytest.importorskip("polars")
    found = pipeline.map_rows({**SHARED, "size": [1, 2], "depth": 1}, "size", on_error="collect")
    assert found.to_pandas()["inverse"].tolist() == found.columns["inverse"]
    assert found.to_polars()["inverse"].to_list() == found.columns["inverse"]


def test_a_table_of_a_library_that_is_missing_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    found = pipeline.map_rows({"size": [1], "depth": 3}, "size", output_name="score")
    with pytest.raises(ConfigurationError, match="pip install pandas"):
        found.to_pandas()


def test_wrong_arguments_are_refused_as_by_map() -> None:
    with pytest.raises(UnknownInputError, match="map_over names 'sizes'"):
        pipeline.map_rows({"size": [1], "depth": 1}, "sizes")
