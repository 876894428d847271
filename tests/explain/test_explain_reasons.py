"""Why a node would run: what changed since it was last computed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from hypernodes import CacheWarning, MemoryCache, Node, Pipeline, SubprocessBackend, node
from hypernodes.cache.record import checked_record, is_record_key
from hypernodes.explain.changes import changes
from tests.remote.transports import InProcess

LoadModule = Callable[..., ModuleType]

BASE = """
    from hypernodes import Pipeline, node

    LIMIT = 3

    class Scale:
        def apply(self, x):
            return x * 2

    def cap(x):
        return min(x, LIMIT)

    @node(output_name="y"{version})
    def capped(x, k=5):
        return Scale().apply(cap(x)) + k

    @node(output_name="z")
    def negate(y):
        return -y

    pipeline = Pipeline([capped, negate], name="capping")
"""


def source(**changed: str) -> str:
    text = BASE.replace("{version}", changed.pop("version", ""))
    for before, after in changed.values():
        assert before in text
        text = text.replace(before, after)
    return text


def reasons_after(load_module: LoadModule, before: str, after: str, node_name: str = "capped") -> tuple[str, ...]:
    cache = MemoryCache()
    load_module(before).pipeline.with_cache(cache).run({"x": 2})
    explanation = load_module(after).pipeline.with_cache(cache).explain({"x": 2})
    reasons: tuple[str, ...] = explanation[node_name].reasons
    return reasons


# --- code --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        (
            "return min(x, LIMIT)",
            "return min(LIMIT, x)",
            "helper `cap` (users_module.py:10) changed since the last entry",
        ),
        ("LIMIT = 3", "LIMIT = 4", "constant `LIMIT` changed since the last entry"),
        ("x * 2", "x * 3", "helper `Scale.apply` (users_module.py:7) changed since the last entry"),
        ("k=5", "k=10", "default of `k` changed 5 → 10"),
        (") + k", ") - k", "its own code (users_module.py:13) changed since the last entry"),
    ],
)
def test_a_change_of_code_is_named(load_module: LoadModule, before: str, after: str, reason: str) -> None:
    assert reasons_after(load_module, source(), source(change=(before, after))) == (reason,)


def test_what_depends_on_it_names_the_node_that_changed(load_module: LoadModule) -> None:
    changed = source(change=("LIMIT = 3", "LIMIT = 4"))
    assert reasons_after(load_module, source(), changed, "negate") == ("input `y` changed (made by `capped`)",)


def test_a_version_is_shown_with_its_values(load_module: LoadModule) -> None:
    one, two = (source(version=f', version="{number}"') for number in (1, 2))
    assert reasons_after(load_module, one, two) == ("version changed '1' → '2'",)
    assert reasons_after(load_module, source(), two) == ("version changed none → '2'",)


def test_a_helper_that_is_new_or_gone_is_named(load_module: LoadModule) -> None:
    direct = source(change=("apply(cap(x))", "apply(x)"))
    own = "its own code (users_module.py:13) changed since the last entry"
    assert reasons_after(load_module, direct, source()) == (
        own,
        "it uses helper `cap` (users_module.py:10) now",
        "it uses constant `LIMIT` now",
    )
    assert reasons_after(load_module, source(), direct)[1] == "it no longer uses helper `cap` (users_module.py:10)"


def test_moving_and_renaming_are_no_changes(load_module: LoadModule) -> None:
    """When something else changed, only that is named."""
    moved = source(change=("    LIMIT = 3", "    # moved\n    # down\n    LIMIT = 4"))
    assert reasons_after(load_module, source(), moved) == ("constant `LIMIT` changed since the last entry",)


def test_a_closure_value_is_named() -> None:
    def adding(amount: int) -> Node[..., int]:
        return node(output_name="y", name="add")(lambda x: x + amount)

    cache = MemoryCache()
    Pipeline([adding(1)], cache=cache).run({"x": 1})
    explanation = Pipeline([adding(2)], cache=cache).explain({"x": 1})
    assert explanation["add"].reasons == ("closure value `amount` changed since the last entry",)


def test_libraries_are_named_with_their_versions() -> None:
    then = {"code_digest": b"1", "code": {"numpy 2.1.0": b"a", "python 3.11": b"b", "attrs 1": b"c"}, "inputs": {}}
    now = {"code_digest": b"2", "code": {"numpy 2.2.0": b"d", "python 3.12": b"e", "pandas 3": b"f"}, "inputs": {}}
    assert changes(Node(abs, "y"), then, now) == [
        "numpy changed 2.1.0 → 2.2.0",
        "python changed 3.11 → 3.12",
        "it uses pandas 3 now",
        "it no longer uses attrs 1",
    ]


def test_many_changes_are_cut_short() -> None:
    then: dict[str, Any] = {"code_digest": b"1", "code": {f"constant C{i}": b"a" for i in range(9)}, "inputs": {}}
    now: dict[str, Any] = {"code_digest": b"2", "code": {f"constant C{i}": b"%d" % i for i in range(9)}, "inputs": {}}
    assert len(changes(Node(abs, "y"), then, now)) == 6
    assert changes(Node(abs, "y"), then, now)[-1] == "and 4 more changes"


# --- inputs ------------------------------------------------------------------------------------------------------


@node(output_name="answer")
def ask(question: Any, model: str = "small", api_key: str = "") -> Any:
    return question


def asked(first: dict[str, Any], then: dict[str, Any]) -> tuple[str, ...]:
    pipeline = Pipeline([ask], cache=MemoryCache())
    pipeline.run(first)
    return pipeline.explain(then)["ask"].reasons


def test_small_values_are_shown_and_others_only_named() -> None:
    assert asked({"question": 5}, {"question": 10}) == ("input `question` changed 5 → 10",)
    assert asked({"question": None}, {"question": "why"}) == ("input `question` changed None → 'why'",)
    assert asked({"question": "x" * 100}, {"question": "y" * 100}) == ("input `question` changed",)
    assert asked({"question": [1]}, {"question": [2]}) == ("input `question` changed",)


def test_what_looks_like_a_secret_is_neither_shown_nor_kept() -> None:
    assert asked({"question": 1, "api_key": "sesame"}, {"question": 1, "api_key": "open"}) == (
        "input `api_key` changed",
    )
    cache = MemoryCache()
    Pipeline([ask], cache=cache).run({"question": 1, "api_key": "sesame"})
    assert "sesame" not in repr(cache._records)


SECRET_NAMES = (
    "api_key dsn user db_user dbUser cookie bearer pin userPIN pw DB_PW pwd session_id jwt login otp authToken "
    "dbpass license"
)
SECRET_VALUES = [
    "postgresql://ada:lovelace@db/prod",
    "https://ada@example.org/x",
    "https://example.org/?access_token=abc",
    "host=db password=lovelace",
    "Server=db;Pwd=love",
    '{"password": "lovelace"}',
    "server --db-password lovelace --port 1",
    "mysql -u root -plovelace",
    "the password is lovelace",
    "https://hooks.slack.com/services/T00/B00/XXXX",
    "AC0123456789abcdef0123456789abcdef",
    "4111 1111 1111 1111",
    "Bearer lovelace1815",
    "Basic YWRhOmxvdmU=",
    "sk-proj-abcdef123456",
    "sk_live_abcdef123456",
    "ghp_abcdefABCDEF0123456789",
    "github_pat_11ABCDEFG0",
    "glpat-abcdef1234",
    "hf_abcdefghij",
    "xoxb-1234-abcd",
    "AKIAIOSFODNN7EXAMPLE",
    "AIzaSyA-1234567890abcdef",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIx.c2ln",
    "-----BEGIN PRIVATE KEY-----",
    "$2b$12$abcdefghijklmnopqrstuv",
    "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
    "9f86d081884c7d659a2feaa0c55ad015",
]
PLAIN_VALUES = [
    "small",
    "text-embedding-3-large",
    "gpt-4o-mini-2024-07-18",
    "sentence-transformers/all-MiniLM-L6-v2",
    "https://example.org/a?page=2",
    "/data/corpus/2024/documentsOfJune2024.parquet",
    "20240718T120000Z",
    "spinning users keep to this",
    "a multi-user system, in 2 passes",
    "2024-07-18 12:00",
]


@pytest.mark.parametrize("name", SECRET_NAMES.split())
def test_secrets_are_recognised_by_the_names_of_their_parameters(name: str) -> None:
    pin = 18151210271852  # so long that no time and no digest holds it by chance
    assert str(pin) not in stored_for(name, pin)


@pytest.mark.parametrize("value", SECRET_VALUES)
def test_secrets_are_recognised_by_their_looks(value: str) -> None:
    assert value not in stored_for("place", value)
    assert value not in stored_for("place", value, is_default=True)


@pytest.mark.parametrize("value", PLAIN_VALUES)
@pytest.mark.parametrize("name", ["place", "spin", "width"])
def test_what_does_not_look_like_a_secret_is_shown(name: str, value: str) -> None:
    assert value in stored_for(name, value)


def stored_for(name: str, value: Any, is_default: bool = False, cache: MemoryCache | None = None) -> str:
    """Return what is stored beside a result that was computed from an input or a default."""
    cache = MemoryCache() if cache is None else cache
    names: dict[str, Any] = {"value": value}
    exec(f"def use({name}{'=value' if is_default else ''}): return 1", names)
    names["use"].__module__ = __name__
    Pipeline([Node(names["use"], "used")], cache=cache).run({} if is_default else {name: value})
    return repr(cache._records)


def test_a_cache_can_ask_for_digests_only() -> None:
    cache = MemoryCache()
    cache.shows_inputs = False
    assert "small" not in stored_for("place", "small", cache=cache)
    pipeline = Pipeline([ask], cache=cache, backend=InProcess())
    pipeline.run({"question": "whodunit"})
    assert "whodunit" not in repr(cache._records)
    assert pipeline.explain({"question": "why"})["ask"].reasons == ("input `question` changed",)


def test_an_input_that_differs_from_item_to_item_is_not_said_to_have_changed() -> None:
    pipeline = Pipeline([ask], cache=MemoryCache())
    pipeline.map({"question": [1, 2]}, map_over="question")
    explanation = pipeline.explain({"question": [3, 4]}, map_over="question")
    assert explanation["ask"].reasons == ("not computed yet for these values of `question`",)
    explanation = pipeline.explain({"question": [1, 2], "model": "large"}, map_over="question")
    assert explanation["ask"].reasons == ("input `model` changed 'small' → 'large'",)
    assert pipeline.explain({"question": 9})["ask"].reasons == ("not computed yet for this value of `question`",)


def test_what_differs_between_outer_items_varies_inside_as_well() -> None:
    inner = Pipeline([ask]).as_node({"questions": "question"}, map_over="questions")
    pipeline = Pipeline([inner], cache=MemoryCache())
    pipeline.map({"questions": [[1], [2]], "model": ["a", "b"]}, map_over=["questions", "model"])
    explanation = pipeline.explain({"questions": [[3]], "model": ["c"]}, map_over=["questions", "model"])
    assert explanation["ask"].reasons == ("not computed yet for these values of `question`, `model`",)


def test_another_source_of_an_input_is_named() -> None:
    cache = MemoryCache()
    made = [Node(lambda x: x + 1, "question", name=name) for name in ("one", "other")]
    Pipeline([made[0], ask], cache=cache).run({"x": 1})
    explanation = Pipeline([made[1], ask], cache=cache).explain({"x": 2})
    assert explanation["ask"].reasons == ("input `question` is made by `other` now, not by `one`",)


def test_parameters_that_do_not_count_are_no_reasons() -> None:
    quiet = node(output_name="y", cache_ignore=("verbose",), name="quiet")(lambda x, verbose: x)
    pipeline = Pipeline([quiet], cache=MemoryCache())
    pipeline.run({"x": 1, "verbose": 1})
    assert pipeline.explain({"x": 2, "verbose": 2})["quiet"].reasons == ("input `x` changed 1 → 2",)


# --- nothing to compare with -------------------------------------------------------------------------------------


def test_what_was_never_computed_is_said_to_be_so() -> None:
    assert Pipeline([ask], cache=MemoryCache()).explain({"question": 1})["ask"].reasons == ("never computed",)


def test_a_result_that_was_dropped_is_said_to_be_gone() -> None:
    cache = MemoryCache(max_items=1)
    pipeline = Pipeline([Node(lambda x: x, "y", name="y"), Node(lambda y: y, "z", name="z")], cache=cache)
    pipeline.run({"x": 1})
    reasons = pipeline.explain({"x": 1}, ["y", "z"])["y"].reasons
    assert reasons == ("its result is no longer in the cache, or could not be stored",)


@pytest.mark.parametrize("record", [None, "text", {"format": "0"}, {"format": "1"}, {"format": "1", "code": {1: 2}}])
def test_a_record_that_cannot_be_understood_is_no_reason_to_guess(record: Any) -> None:
    cache = MemoryCache()
    pipeline = Pipeline([ask], cache=cache)
    pipeline.run({"question": 1})
    (key,) = cache._records
    cache.put(key, record)
    (reason,) = pipeline.explain({"question": 2})["ask"].reasons
    assert reason.startswith("cannot tell what changed")


def test_what_cannot_be_identified_runs_uncached_and_says_why() -> None:
    pipeline = Pipeline([ask, Node(lambda answer: 1, "one", name="one")], cache=MemoryCache())
    explanation = pipeline.explain({"question": threading.Lock()})
    assert explanation["ask"].reasons == ("runs uncached: input `question` cannot be identified (see the warning)",)
    assert "question" in explanation.warnings[0]
    assert explanation["one"].status == "unknown"
    lock = threading.Lock()
    locked = Pipeline([Node(lambda x: lock and x, "y", name="locked")], cache=MemoryCache()).explain({"x": 1})
    assert locked["locked"].reasons == ("its code cannot be identified (see the warning)",)
    assert len(locked.warnings) == 1


# --- records -----------------------------------------------------------------------------------------------------


class Counting(MemoryCache):
    """Counts how often something is kept about nodes."""

    def __init__(self) -> None:
        super().__init__()
        self.noted = 0

    def put(self, key: str, value: Any) -> None:
        self.noted += is_record_key(key)
        super().put(key, value)


def test_a_node_is_noted_once_in_a_run_however_many_items_there_are() -> None:
    cache = Counting()
    pipeline = Pipeline([ask], cache=cache)
    pipeline.map({"question": list(range(50))}, map_over="question")
    assert cache.noted == 1
    pipeline.map({"question": list(range(50))}, map_over="question")
    assert cache.noted == 1


def test_one_function_at_two_places_is_noted_twice() -> None:
    inner = Pipeline([ask], name="inner")
    places = [inner.as_node({name: "question"}, {"answer": f"to_{name}"}, name=name) for name in ("a", "b")]
    pipeline = Pipeline(places, cache=MemoryCache())
    pipeline.run({"a": 1, "b": 2})
    explanation = pipeline.explain({"a": 1, "b": 3})
    assert explanation["a", "ask"].status == "hit"
    assert explanation["b", "ask"].reasons == ("input `question` changed 2 → 3",)


def test_records_take_no_room_among_results() -> None:
    cache = MemoryCache(max_items=1)
    pipeline = Pipeline([ask], cache=cache)
    pipeline.run({"question": 1})
    assert len(cache) == 1
    assert pipeline.explain({"question": 1}).is_fully_cached
    cache.clear()
    assert pipeline.explain({"question": 1})["ask"].reasons == ("never computed",)


def test_what_was_computed_in_another_process_is_noted_with_its_code(load_module: LoadModule) -> None:
    cache = MemoryCache()
    pipeline = load_module(source()).pipeline.with_cache(cache)
    with SubprocessBackend() as backend:
        pipeline.with_backend(backend).run({"x": 2})
    records = [checked_record(record) for record in cache._records.values()]
    assert {record["node"]: bool(record["code"]) for record in records if record} == {"capped": True, "negate": True}
    changed = load_module(source(change=("LIMIT = 3", "LIMIT = 4"))).pipeline.with_cache(cache)
    assert changed.explain({"x": 2})["capped"].reasons == ("constant `LIMIT` changed since the last entry",)


def test_a_code_that_can_be_compared_only_as_a_whole_has_changed(load_module: LoadModule) -> None:
    cache = MemoryCache()
    load_module(source()).pipeline.with_cache(cache).run({"x": 2})
    for key, record in cache._records.items():
        cache.put(key, {**record, "code": {}})
    changed = load_module(source(change=("LIMIT = 3", "LIMIT = 4"))).pipeline.with_cache(cache)
    assert changed.explain({"x": 2})["capped"].reasons == ("its code changed since the last entry",)


def test_a_cache_that_takes_no_records_costs_a_warning_and_no_result() -> None:
    class Strict(MemoryCache):
        def put(self, key: str, value: Any) -> None:
            if is_record_key(key):
                raise ValueError("not a signature")
            super().put(key, value)

    cache = Strict()
    with pytest.warns(CacheWarning, match="for `explain` is not stored: ValueError: not a signature"):
        assert Pipeline([ask], cache=cache).run({"question": 1}) == {"answer": 1}
    assert len(cache) == 1
