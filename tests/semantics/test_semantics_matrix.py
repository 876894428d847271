"""The semantics matrix: every backend and every way of running gives the same outputs, events, cache and errors.

`BackendConformance` is to be subclassed with a `backend` fixture. What it expects is written out; it computes nothing
with the library but what it tests.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from hypernodes import (
    Backend,
    CallbackContext,
    MapInputError,
    MapLengthError,
    MissingInputError,
    Pipeline,
    PipelineCallback,
    RemoteNodeError,
    UnknownInputError,
    UnknownOutputError,
    node,
)
from tests.semantics.build import DictCache, Recorder
from tests.semantics.modes import MODES_ELSEWHERE, REMOTE_MODES, Modes, local_backend, subprocess_backend
from tests.support import notes_of


@dataclass(frozen=True)
class Word:
    text: str
    length: int


class AwkwardError(Exception):
    """Cannot be made from its arguments alone."""

    def __init__(self, *, position: int) -> None:
        super().__init__(f"at {position}")
        self.position = position


@node(output_name="clean")
def strip(text: str) -> str:
    return text.strip()


@node(output_name="words")
def split(clean: str, separator: str = " ") -> list[str]:
    return clean.split(separator)


@node(output_name=("count", "longest"))
def measure(words: list[str]) -> tuple[int, str]:
    return len(words), max(words, key=len)


@node(output_name="word")
def make_word(token: str) -> Word:
    return Word(token, len(token))


@node(output_name="doubled")
def double(x: int) -> int:
    return 2 * x


@node(output_name="shifted")
def shift(doubled: int, by: int = 10) -> int:
    return doubled + by


@node(output_name="scaled")
def scale(shifted: int, factor: int) -> int:
    return shifted * factor


@node(output_name="slow")
async def wait(x: int) -> int:
    await asyncio.sleep(0)
    return -x


@node(output_name="after")
async def wait_more(slow: int, doubled: int) -> tuple[int, int]:
    await asyncio.sleep(0)
    return slow, doubled


@node(output_name="sum")
def add(x: int, y: int) -> int:
    return x + y


@node(output_name="total")
def total(sums: list[int]) -> int:
    return sum(sums)


@node(output_name="inverse")
def invert(x: int) -> float:
    return 1 / x


@node(output_name="rounded")
def round_up(inverse: float) -> int:
    return int(inverse) + 1


@node(output_name="never")
def fail_awkwardly(x: int) -> int:
    raise AwkwardError(position=x)


@node(output_name="nothing")
def find_nothing(x: int) -> None:
    return None


@node(output_name="tripled", batch_over="doubled", batch_size=2)
def triple_all(doubled: list[int]) -> list[int]:
    return [3 * number for number in doubled] if len(doubled) <= 2 else []


@node(output_name="turn", max_concurrency=1)
def take_turns(x: int) -> int:
    return x + 1


@node(output_name="drawn", cache=False)
def draw(x: int) -> int:
    return x % 2


@node(output_name="used")
def use(drawn: int) -> int:
    return drawn + 100


class Pids(PipelineCallback):
    """Notes the process in which it is called."""

    def __init__(self) -> None:
        self.seen: set[int] = set()

    def on_node_end(self, node_id: str, outputs: Any, duration: float, ctx: CallbackContext) -> None:
        self.seen.add(os.getpid())


class Broken(PipelineCallback):
    def on_node_start(self, node_id: str, inputs: Any, ctx: CallbackContext) -> None:
        raise RuntimeError("a callback with a bug")


class Watched(Recorder):
    """Recorded events in the forms that the tests ask about."""

    def clear(self) -> None:
        self.events.clear()

    def hooks(self, hook: str) -> list[tuple[str, tuple[int, ...]]]:
        """Subject and item path of the events of one hook, sorted: what ran side by side has no order."""
        return sorted((event.subject, event.items) for event, _ in self.events if event.hook == hook)

    def called(self) -> list[str]:
        return [subject for subject, _ in self.hooks("node_start")]

    def cached(self) -> list[str]:
        return [subject for subject, _ in self.hooks("node_cached")]

    def position(self, hook: str, subject: str = "", items: tuple[int, ...] = ()) -> int:
        return next(
            i
            for i, (event, _) in enumerate(self.events)
            if (event.hook, event.subject, event.items) == (hook, subject, items)
        )


class BackendConformance:
    """What every backend must do. Subclass it in a test module and override the `backend` fixture."""

    @pytest.fixture
    def backend(self) -> Backend:
        raise NotImplementedError("override the fixture `backend`")

    @pytest.fixture
    def watched(self) -> Watched:
        return Watched()

    # --- outputs --------------------------------------------------------------------------------------------------

    def test_run_gives_every_output_and_no_input(self, backend: Backend) -> None:
        pipeline = Pipeline([measure, split, strip], backend=backend)
        assert pipeline.run({"text": " to be or "}) == {
            "clean": "to be or",
            "words": ["to", "be", "or"],
            "count": 3,
            "longest": "to",
        }

    def test_a_value_comes_before_a_default(self, backend: Backend) -> None:
        pipeline = Pipeline([strip, split], backend=backend)
        assert pipeline.run({"text": "a-b c", "separator": "-"})["words"] == ["a", "b c"]

    def test_only_what_is_asked_for_is_computed(self, backend: Backend, watched: Watched) -> None:
        pipeline = Pipeline([strip, split, measure, double, shift], backend=backend, callbacks=[watched])
        assert pipeline.run({"text": "to be"}, output_name="words") == {"words": ["to", "be"]}
        assert watched.called() == ["split", "strip"]
        assert pipeline.run({"text": "x", "x": 1}, output_name=["doubled", "clean"]) == {"doubled": 2, "clean": "x"}

    def test_a_given_output_replaces_its_node_and_what_only_that_needed(
        self, backend: Backend, watched: Watched
    ) -> None:
        pipeline = Pipeline([strip, split, measure], backend=backend, callbacks=[watched])
        assert pipeline.run({"words": ["never", "mind"]}) == {"count": 2, "longest": "never"}
        assert watched.called() == ["measure"]

    def test_objects_and_none_pass_unchanged(self, backend: Backend) -> None:
        pipeline = Pipeline([make_word, find_nothing], backend=backend)
        assert pipeline.run({"token": "aleph", "x": 0}) == {"word": Word("aleph", 5), "nothing": None}

    def test_closures_and_lambdas_are_nodes_too(self, backend: Backend) -> None:
        offset = 7

        @node(output_name="moved")
        def move(x: int) -> int:
            return x + offset

        squared = node(output_name="squared")(lambda moved: moved**2)
        assert Pipeline([move, squared], backend=backend).run({"x": 1}) == {"moved": 8, "squared": 64}

    # --- nesting --------------------------------------------------------------------------------------------------

    def test_nested_pipelines_take_and_give_renamed_values(self, backend: Backend) -> None:
        innermost = Pipeline([double], name="innermost").as_node(
            input_mapping={"a": "x"}, output_mapping={"doubled": "b"}
        )
        middle = Pipeline([innermost], name="middle").as_node(input_mapping={"x": "a"}, output_mapping={"b": "doubled"})
        assert Pipeline([middle, shift], backend=backend).run({"x": 4}) == {"doubled": 8, "shifted": 18}

    def test_events_show_the_hierarchy(self, backend: Backend, watched: Watched) -> None:
        inner = Pipeline([double], name="inner").as_node(name="twice")
        Pipeline([inner, shift], name="outer", backend=backend, callbacks=[watched]).run({"x": 4})
        outer = (("outer", "outer"),)
        assert [(event.hook, event.path, event.subject) for event, _ in watched.events] == [
            ("pipeline_start", outer, "outer"),
            ("nested_pipeline_start", outer, "inner"),
            ("node_start", (*outer, ("twice", "inner")), "double"),
            ("node_end", (*outer, ("twice", "inner")), "double"),
            ("nested_pipeline_end", outer, "inner"),
            ("node_start", outer, "shift"),
            ("node_end", outer, "shift"),
            ("pipeline_end", outer, "outer"),
        ]

    # --- mapped nodes ---------------------------------------------------------------------------------------------

    def test_a_mapped_node_gives_lists_in_item_order(self, backend: Backend) -> None:
        mapped = Pipeline([double, shift]).as_node(input_mapping={"xs": "x"}, map_over="xs")
        pipeline = Pipeline([mapped], backend=backend)
        assert pipeline.run({"xs": range(3), "by": 1}) == {"doubled": [0, 2, 4], "shifted": [1, 3, 5]}

    @pytest.mark.parametrize(
        ("map_mode", "sums"), [("zip", [11, 22, 33]), ("product", [11, 21, 31, 12, 22, 32, 13, 23, 33])]
    )
    def test_a_mapped_node_pairs_or_combines(self, backend: Backend, map_mode: Any, sums: list[int]) -> None:
        mapped = Pipeline([add]).as_node(
            input_mapping={"xs": "x", "ys": "y"},
            output_mapping={"sum": "sums"},
            map_over=["xs", "ys"],
            map_mode=map_mode,
        )
        found = Pipeline([mapped, total], backend=backend).run({"xs": [1, 2, 3], "ys": [10, 20, 30]})
        assert found == {"sums": sums, "total": sum(sums)}

    def test_mapped_nodes_nest(self, backend: Backend, watched: Watched) -> None:
        row = Pipeline([add], name="row").as_node(
            input_mapping={"xs": "x"}, output_mapping={"sum": "sums"}, map_over="xs"
        )
        table = Pipeline([row, total], name="table").as_node(
            input_mapping={"rows": "xs"}, output_mapping={"total": "totals"}, map_over="rows"
        )
        pipeline = Pipeline([table], backend=backend, callbacks=[watched])
        assert pipeline.run({"rows": [[1, 2], [], [3]], "y": 10}, "totals") == {"totals": [23, 0, 13]}
        assert watched.hooks("node_start") == [
            ("add", (0, 0)),
            ("add", (0, 1)),
            ("add", (2, 0)),
            ("total", (0,)),
            ("total", (1,)),
            ("total", (2,)),
        ]

    def test_no_items_give_empty_lists(self, backend: Backend, watched: Watched) -> None:
        mapped = Pipeline([double], name="inner").as_node(map_over="x")
        pipeline = Pipeline([mapped], backend=backend, callbacks=[watched])
        assert pipeline.run({"x": iter(())}) == {"doubled": []}
        assert [carried for event, carried in watched.events if event.hook == "map_start"] == [0]

    # --- map ------------------------------------------------------------------------------------------------------

    def test_map_keeps_input_order_and_shares_the_other_inputs(self, backend: Backend) -> None:
        pipeline = Pipeline([double, shift], backend=backend)
        found = pipeline.map({"x": (n for n in range(20)), "by": 5}, map_over="x")
        assert found == {"doubled": [2 * n for n in range(20)], "shifted": [2 * n + 5 for n in range(20)]}

    def test_map_combines_with_the_last_name_varying_fastest(self, backend: Backend) -> None:
        pipeline = Pipeline([add], backend=backend)
        found = pipeline.map({"x": [1, 2], "y": [10, 20]}, map_over=["y", "x"], map_mode="product")
        assert found == {"sum": [11, 12, 21, 22]}

    def test_a_batched_node_gets_lists_and_each_item_its_result(self, backend: Backend, watched: Watched) -> None:
        pipeline = Pipeline([double, triple_all], backend=backend, cache=DictCache(), callbacks=[watched])
        expected = {"doubled": [0, 2, 4, 6, 8], "tripled": [0, 6, 12, 18, 24]}
        assert pipeline.map(inputs={"x": range(5)}, map_over="x") == expected
        items = [("triple_all", (index,)) for index in range(5)]
        assert [event for event in watched.hooks("node_end") if event[0] == "triple_all"] == items
        assert pipeline.run(inputs={"x": 7}) == {"doubled": 14, "tripled": 42}
        nested = Pipeline([pipeline.as_node({"xs": "x"}, map_over="xs")], backend=backend)
        assert nested.map(inputs={"xs": [[1, 2], [], [9]]}, map_over="xs")["tripled"] == [[6, 12], [], [54]]

    def test_a_limited_node_is_called_for_every_item(self, backend: Backend) -> None:
        found = Pipeline([take_turns], backend=backend).map(inputs={"x": range(5)}, map_over="x")
        assert found == {"turn": [1, 2, 3, 4, 5]}

    def test_map_computes_only_what_is_asked_for(self, backend: Backend, watched: Watched) -> None:
        pipeline = Pipeline([double, shift], backend=backend, callbacks=[watched])
        assert pipeline.map({"x": [1, 2]}, map_over="x", output_name="doubled") == {"doubled": [2, 4]}
        assert watched.called() == ["double", "double"]

    def test_map_over_nothing_gives_empty_lists(self, backend: Backend) -> None:
        assert Pipeline([double, shift], backend=backend).map({"x": []}, map_over="x") == {"doubled": [], "shifted": []}

    def test_map_gives_nothing_where_every_output_is_given(self, backend: Backend) -> None:
        pipeline = Pipeline([double], backend=backend)
        assert pipeline.run({"x": 1, "doubled": 5}) == {}
        assert pipeline.map({"x": [1, 2], "doubled": [5, 6]}, ["x", "doubled"]) == {}
        assert list(pipeline.map_iter({"x": [1, 2], "doubled": [5, 6]}, ["x", "doubled"])) == [{}, {}]

    def test_map_announces_every_item(self, backend: Backend, watched: Watched) -> None:
        Pipeline([double], backend=backend, callbacks=[watched]).map({"x": [5, 6]}, map_over="x")
        assert watched.position("map_start") == 0
        assert watched.position("map_end") == len(watched.events) - 1
        for index in (0, 1):
            at = (index,)
            start, end = (watched.position(f"map_item_{what}", str(index), at) for what in ("start", "end"))
            assert (
                start < watched.position("node_start", "double", at) < watched.position("node_end", "double", at) < end
            )

    # --- async ----------------------------------------------------------------------------------------------------

    def test_async_nodes_are_awaited(self, backend: Backend) -> None:
        pipeline = Pipeline([wait, double, wait_more], backend=backend)
        assert pipeline.run({"x": 3}) == {"slow": -3, "doubled": 6, "after": (-3, 6)}
        assert pipeline.map({"x": [1, 2]}, map_over="x", output_name="after") == {"after": [(-1, 2), (-2, 4)]}

    def test_async_nodes_run_inside_a_running_event_loop(self, backend: Backend) -> None:
        pipeline = Pipeline([wait, double, wait_more], backend=backend)

        async def notebook_cell() -> dict[str, Any]:
            return pipeline.run({"x": 3}, "after")

        assert asyncio.run(notebook_cell()) == {"after": (-3, 6)}

    # --- wrong input ----------------------------------------------------------------------------------------------

    @pytest.mark.parametrize(
        ("inputs", "output_name", "error"),
        [
            ({}, None, MissingInputError),
            ({"x": [1], "y": [2], "z": 3}, None, UnknownInputError),
            ({"x": [1], "y": [2]}, "sun", UnknownOutputError),
            ({"x": [1], "y": [2, 3]}, None, MapLengthError),
            ({"x": [1], "y": 2}, None, MapInputError),
            ({"x": [1], "y": "2"}, None, MapInputError),
        ],
    )
    def test_wrong_input_is_refused_before_anything_runs(
        self, backend: Backend, watched: Watched, inputs: Any, output_name: Any, error: type[Exception]
    ) -> None:
        mapped = Pipeline([add]).as_node(map_over=["x", "y"])
        pipeline = Pipeline([mapped], backend=backend, callbacks=[watched])
        with pytest.raises(error):
            pipeline.run(inputs, output_name)
        assert watched.events == []

    # --- errors ---------------------------------------------------------------------------------------------------

    def test_an_error_in_a_node_surfaces_as_it_is_with_a_note(self, backend: Backend, watched: Watched) -> None:
        inner = Pipeline([invert, round_up], name="inner")
        pipeline = Pipeline([inner], name="outer", backend=backend, callbacks=[watched])
        with pytest.raises(ZeroDivisionError, match="division by zero") as caught:
            pipeline.run({"x": 0})
        (note,) = notes_of(caught.value)
        for fact in ("invert", "outer", "inner", "x", pipeline_place(backend)):
            assert fact in note
        here = any(entry.name == "invert" for entry in caught.traceback)
        assert here or "in invert" in str(caught.value.__cause__)  # from another process it comes as text
        assert watched.called() == ["invert"]
        assert watched.hooks("error") == [("invert", ())]
        assert watched.hooks("node_end") == []
        assert watched.hooks("nested_pipeline_end") == [("inner", ())]
        assert watched.hooks("pipeline_end") == [("outer", ())]

    def test_an_error_in_an_item_names_the_item(self, backend: Backend, watched: Watched) -> None:
        pipeline = Pipeline([invert], backend=backend, callbacks=[watched])
        with pytest.raises(ZeroDivisionError) as caught:
            pipeline.map({"x": [1, 2, 0, 4]}, map_over="x")
        assert "map item 2" in caught.value.__notes__[0]
        assert ("invert", (2,)) in watched.hooks("error")  # perhaps beside others that were called off
        assert sorted(watched.hooks("map_item_start")) == sorted(watched.hooks("map_item_end"))
        assert len(watched.hooks("map_end")) == 1

    def test_an_error_in_an_item_of_a_mapped_node_names_the_item(self, backend: Backend) -> None:
        mapped = Pipeline([invert], name="inner").as_node(map_over="x")
        with pytest.raises(ZeroDivisionError) as caught:
            Pipeline([mapped], backend=backend).run({"x": [1, 0]})
        assert "map item 1" in caught.value.__notes__[0]

    def test_an_exception_with_an_awkward_constructor_arrives(self, backend: Backend) -> None:
        with pytest.raises((AwkwardError, RemoteNodeError), match="at 3") as caught:
            Pipeline([fail_awkwardly], backend=backend).run({"x": 3})
        if isinstance(caught.value, RemoteNodeError):  # it cannot be made again in another process
            assert caught.value.original_type.endswith("AwkwardError")
            assert "in fail_awkwardly" in caught.value.traceback_text
        else:
            assert isinstance(caught.value, AwkwardError)
            assert caught.value.position == 3

    def test_what_was_computed_before_an_error_stays_in_the_cache(self, backend: Backend, watched: Watched) -> None:
        pipeline = Pipeline([double, invert], backend=backend, cache=DictCache(), callbacks=[watched])
        assert pipeline.run({"x": 0}, "doubled") == {"doubled": 0}
        watched.clear()
        with pytest.raises(ZeroDivisionError):
            pipeline.run({"x": 0})
        assert watched.called() == ["invert"]

    # --- the cache ------------------------------------------------------------------------------------------------

    def test_the_same_run_again_calls_nothing(self, backend: Backend, watched: Watched) -> None:
        pipeline = Pipeline([strip, split, measure], backend=backend, cache=DictCache(), callbacks=[watched])
        first = pipeline.run({"text": "to be"})
        watched.clear()
        assert pipeline.run({"text": "to be"}) == first
        assert watched.called() == []
        assert watched.cached() == ["measure", "split", "strip"]

    def test_what_a_cached_result_needed_is_not_asked_for(self, backend: Backend, watched: Watched) -> None:
        pipeline = Pipeline([strip, split, measure], backend=backend, cache=DictCache(), callbacks=[watched])
        pipeline.run({"text": "to be"}, "count")
        watched.clear()
        assert pipeline.run({"text": "to be"}, "count") == {"count": 2}
        assert watched.cached() == ["measure"]
        watched.clear()
        assert pipeline.run({"text": "to be", "words": ["or"]}, "count") == {"count": 1}
        assert watched.called() == ["measure"]
        assert watched.cached() == []

    def test_what_a_cached_result_needed_is_not_asked_for_when_something_else_runs(
        self, backend: Backend, watched: Watched
    ) -> None:
        pipeline = Pipeline([double, shift, scale], backend=backend, cache=DictCache(), callbacks=[watched])
        pipeline.run({"x": 1, "factor": 2}, "scaled")
        watched.clear()
        assert pipeline.run({"x": 1, "factor": 3}, "scaled") == {"scaled": 36}
        assert watched.called() == ["scale"]
        assert watched.cached() == ["shift"]

    def test_another_input_computes_what_depends_on_it(self, backend: Backend, watched: Watched) -> None:
        pipeline = Pipeline([strip, split, measure], backend=backend, cache=DictCache(), callbacks=[watched])
        pipeline.run({"text": "to-be or"})
        watched.clear()
        assert pipeline.run({"text": "to-be or", "separator": "-"})["words"] == ["to", "be or"]
        assert watched.called() == ["measure", "split"]
        assert watched.cached() == ["strip"]

    def test_values_of_different_types_are_different(self, backend: Backend, watched: Watched) -> None:
        pipeline = Pipeline([double], backend=backend, cache=DictCache(), callbacks=[watched])
        for x in (1, 1.0, True):
            pipeline.run({"x": x})
        assert watched.called() == ["double"] * 3

    def test_none_is_cached_like_any_value(self, backend: Backend, watched: Watched) -> None:
        pipeline = Pipeline([find_nothing], backend=backend, cache=DictCache(), callbacks=[watched])
        for _ in range(2):
            assert pipeline.run({"x": 1}) == {"nothing": None}
        assert watched.called() == ["find_nothing"]

    def test_what_depends_on_an_uncached_node_is_found_by_its_value(self, backend: Backend, watched: Watched) -> None:
        pipeline = Pipeline([draw, use], backend=backend, cache=DictCache(), callbacks=[watched])
        assert pipeline.run({"x": 1}, "used") == {"used": 101}
        watched.clear()
        assert pipeline.run({"x": 3}, "used") == {"used": 101}
        assert watched.called() == ["draw"]
        assert watched.cached() == ["use"]

    def test_map_computes_only_items_it_has_not_seen(self, backend: Backend, watched: Watched) -> None:
        pipeline = Pipeline([double, shift], backend=backend, cache=DictCache(), callbacks=[watched])
        pipeline.map({"x": [1, 2]}, map_over="x")
        pipeline.run({"x": 3})
        watched.clear()
        assert pipeline.map({"x": [1, 2, 3, 4]}, map_over="x", output_name="shifted") == {"shifted": [12, 14, 16, 18]}
        assert watched.hooks("node_start") == [("double", (3,)), ("shift", (3,))]
        assert watched.hooks("map_item_cached") == [("0", (0,)), ("1", (1,)), ("2", (2,))]
        assert watched.hooks("map_item_start") == [("3", (3,))]

    def test_a_mapped_node_is_found_whole_and_item_by_item(self, backend: Backend, watched: Watched) -> None:
        mapped = Pipeline([double], name="inner").as_node(input_mapping={"xs": "x"}, map_over="xs")
        pipeline = Pipeline([mapped], backend=backend, cache=DictCache(), callbacks=[watched])
        pipeline.run({"xs": [1, 2]})
        for xs, called in ([1, 2], []), ([2, 3, 1], ["double"]):
            watched.clear()
            assert pipeline.run({"xs": xs}) == {"doubled": [2 * x for x in xs]}
            assert watched.called() == called

    def test_pairs_and_combinations_of_the_same_values_are_kept_apart(self, backend: Backend) -> None:
        cache = DictCache()
        for map_mode, sums in ("zip", [11, 22]), ("product", [11, 21, 12, 22]):
            mapped = Pipeline([add]).as_node(map_over=["x", "y"], map_mode=map_mode)  # type: ignore[arg-type]
            assert Pipeline([mapped], backend=backend, cache=cache).run({"x": [1, 2], "y": [10, 20]}) == {"sum": sums}

    def test_a_nested_pipeline_inherits_the_cache_unless_it_says_otherwise(
        self, backend: Backend, watched: Watched
    ) -> None:
        own = DictCache()
        inner = [
            Pipeline([double], name="inherits"),
            Pipeline([shift], name="has none", cache=False),
            Pipeline([invert], name="has its own", cache=own),
        ]
        pipeline = Pipeline(inner, backend=backend, cache=DictCache(), callbacks=[watched])
        pipeline.run({"x": 2})
        watched.clear()
        assert pipeline.run({"x": 2}) == {"doubled": 4, "shifted": 14, "inverse": 0.5}
        assert watched.called() == ["shift"]
        assert watched.cached() == ["double", "invert"]
        assert list(own.entries.values()) == [0.5]

    def test_the_cache_holds_what_a_sequential_local_run_would_leave(self, backend: Backend) -> None:
        mapped = Pipeline([double, shift]).as_node(input_mapping={"xs": "x"}, map_over="xs")
        here, there = DictCache(), DictCache()
        for cache, place in ((there, backend), (here, local_backend(("sequential", "sequential")))):
            Pipeline([mapped, draw, use], cache=cache, backend=place).run({"xs": [1, 2], "x": 5})
        assert there.entries == here.entries

    # --- callbacks ------------------------------------------------------------------------------------------------

    def test_callbacks_observe_everything_in_the_calling_process(self, backend: Backend) -> None:
        pids = Pids()
        pipeline = Pipeline([double, shift], backend=backend, callbacks=[pids])
        pipeline.map({"x": [1, 2]}, map_over="x")
        assert pids.seen == {os.getpid()}

    def test_callbacks_see_inputs_and_outputs(self, backend: Backend, watched: Watched) -> None:
        Pipeline([split, measure], name="p", backend=backend, callbacks=[watched]).run({"clean": "to be"})
        carried = {(event.hook, event.subject): what for event, what in watched.events}
        assert carried["pipeline_start", "p"] == {"clean": "to be"}
        assert carried["node_start", "split"] == {"clean": "to be", "separator": " "}
        assert carried["node_end", "measure"] == {"count": 2, "longest": "to"}
        assert carried["pipeline_end", "p"] == {"words": ["to", "be"], "count": 2, "longest": "to"}

    def test_a_nested_pipeline_tells_its_own_callbacks(self, backend: Backend, watched: Watched) -> None:
        own = Watched()
        inner = [
            Pipeline([double], name="inherits"),
            Pipeline([shift], name="tells nobody", callbacks=[]),
            Pipeline([invert], name="tells its own", callbacks=[own]),
        ]
        Pipeline(inner, backend=backend, callbacks=[watched]).run({"x": 2})
        assert watched.called() == ["double"]
        assert own.called() == ["invert"]

    def test_a_callback_that_raises_does_not_break_the_run(self, backend: Backend, watched: Watched) -> None:
        pipeline = Pipeline([double, shift], backend=backend, callbacks=[Broken(), watched])
        assert pipeline.run({"x": 1}) == {"doubled": 2, "shifted": 12}
        assert watched.called() == ["double", "shift"]


def pipeline_place(backend: Backend) -> str:
    """Return what a note calls the backend."""
    return str(getattr(getattr(backend, "engine", backend), "place", ""))


# Each mode for nodes and for items, with itself and with another; test_generated_pipelines.py draws from all pairs. On
# each version of Python those that need no processes, with each mode once.
PAIRS: list[Modes] = [
    *REMOTE_MODES,
    ("async", "async"),
    ("threaded", "threaded"),
    ("parallel", "sequential"),
    ("sequential", "parallel"),
]
LOCAL = [pytest.param(modes, marks=() if modes in REMOTE_MODES[:3] else pytest.mark.slow) for modes in PAIRS]


@pytest.fixture(params=LOCAL, ids="-".join, scope="module")
def shared_backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    with local_backend(request.param) as backend:  # keeps worker processes for all tests
        yield backend


class TestLocalBackend(BackendConformance):
    @pytest.fixture
    def backend(self, shared_backend: Backend) -> Backend:
        return shared_backend


# remote/test_remote_modes.py holds a part of this in more pairs.
REMOTE = [pytest.param(modes, marks=pytest.mark.slow if "parallel" in modes else ()) for modes in MODES_ELSEWHERE]


@pytest.fixture(params=REMOTE, ids="-".join, scope="module")
def shared_subprocess(request: pytest.FixtureRequest) -> Iterator[Backend]:
    with subprocess_backend(request.param) as backend:  # keeps the process for all tests
        yield backend


class TestSubprocessBackend(BackendConformance):
    @pytest.fixture
    def backend(self, shared_subprocess: Backend) -> Backend:
        return shared_subprocess
