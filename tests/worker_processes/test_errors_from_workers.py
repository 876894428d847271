"""What goes wrong in a worker process arrives here, as itself if it can, and never unnamed."""

from __future__ import annotations

import linecache
import re
import threading
import traceback
from collections.abc import Callable
from typing import Any

import pytest

from hypernodes import (
    CacheWarning,
    Failure,
    LocalBackend,
    MemoryCache,
    Node,
    Pipeline,
    RemoteNodeError,
    SerializationError,
    failures,
    node,
)
from tests.support import Recorder, notes_of
from tests.worker_processes.nodes import AwkwardError, FailsOnArrival, FrozenError, HoldsALockError, TextOfALockError


@pytest.fixture(params=["items", "nodes"])
def backend(request: pytest.FixtureRequest) -> LocalBackend:
    return request.getfixturevalue(f"{request.param}_backend")  # type: ignore[no-any-return]


def raising(error: BaseException | None) -> Pipeline:
    @node(output_name="y")
    def fail_in_worker(x: int) -> int:
        if x == 1:
            if error is None:
                raise UsersError("unique words")
            raise error
        return x

    return Pipeline(nodes=[fail_in_worker], name="prep")


class UsersError(Exception):
    pass


@pytest.mark.parametrize("error", [ValueError("unique words"), KeyError("unique words"), None])
def test_an_exception_arrives_as_itself(error: BaseException | None, backend: LocalBackend) -> None:
    expected = UsersError if error is None else type(error)
    with pytest.raises(expected, match="unique words") as caught:
        raising(error).with_backend(backend).map(inputs={"x": [0, 1]}, map_over="x")
    (note,) = notes_of(caught.value)
    assert "node 'fail_in_worker'" in note
    assert "pipeline prep" in note
    assert "map item 1" in note
    cause = "".join(traceback.format_exception(caught.value.__cause__))
    assert "in fail_in_worker" in cause
    assert "raise" in cause


def test_tracebacks_show_the_lines_of_notebook_cells(backend: LocalBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    source = "def divide(x):\n    # a comment\n    return check(x) / 0\n\ndef check(x):\n    return 1 if x else {}[x]\n"
    monkeypatch.setitem(linecache.cache, "<cell 7>", (len(source), None, source.splitlines(True), "<cell 7>"))
    cell: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(source, "<cell 7>", "exec"), cell)
    pipeline = Pipeline(nodes=[Node(cell["divide"], output_name="y")], backend=backend)
    for x, line in ((1, "return check(x) / 0"), (0, "return 1 if x else {}[x]")):
        with pytest.raises((ZeroDivisionError, KeyError)) as caught:
            pipeline.map(inputs={"x": [x]}, map_over="x")
        text = "".join(traceback.format_exception(caught.value))
        assert text.count(f"    {line}\n") == 1
        assert text.count('File "<cell 7>", line 3, in divide\n    return check(x) / 0\n') == 1


def test_the_cause_of_an_exception_is_not_lost(backend: LocalBackend) -> None:
    @node(output_name="y")
    def fail_for_a_reason(x: int) -> int:
        try:
            return {}[x]  # type: ignore[no-any-return]
        except KeyError as error:
            raise ValueError("no such entry") from error

    with pytest.raises(ValueError, match="no such entry") as caught:
        Pipeline(nodes=[fail_for_a_reason], backend=backend).map(inputs={"x": [41]}, map_over="x")
    assert "KeyError: 41" in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AwkwardError(7, reason="bad luck"), "bad luck (7)"),
        (lambda: HoldsALockError("still locked"), "still locked"),
        (lambda: FrozenError(7), "7"),
    ],
    ids=["awkward constructor", "holds a lock", "refuses attributes"],
)
def test_an_exception_keeps_its_type_whatever_its_constructor_wants_and_it_holds(
    make: Callable[[], Exception], message: str, backend: LocalBackend
) -> None:
    kind = type(make())

    @node(output_name="y")
    def fail_oddly(x: int) -> int:
        if x == 1:
            raise make()
        return x

    pipeline = Pipeline(nodes=[fail_oddly], backend=backend)
    with pytest.raises(kind, match=re.escape(message)) as caught:
        pipeline.map(inputs={"x": [0, 1]}, map_over="x")
    assert type(caught.value) is kind
    assert not hasattr(caught.value, "lock")
    assert "in fail_oddly" in str(caught.value.__cause__)
    assert "node 'fail_oddly'" in caught.value.__notes__[0]


def test_an_exception_keeps_its_type_when_its_text_cannot_be_made_here(backend: LocalBackend) -> None:
    @node(output_name="y")
    def fail_oddly(x: int) -> int:
        raise TextOfALockError

    with pytest.raises(TextOfALockError) as caught:
        Pipeline([fail_oddly], backend=backend).map(inputs={"x": [0]}, map_over="x")
    assert "its text, where it was raised: locked: False" in caught.value.__notes__


def test_exceptions_are_values_like_others(backend: LocalBackend) -> None:
    @node(output_name="y")
    def return_errors(x: int, given: Exception) -> Any:
        return given, AwkwardError(x, reason="bad luck"), ExceptionGroup("both", [AwkwardError(x, reason="again")])

    pipeline = Pipeline([return_errors], backend=backend)
    (found,) = pipeline.map({"x": [7], "given": FrozenError(1)}, map_over="x")["y"]
    assert found[0] == FrozenError(1)
    assert (type(found[1]), str(found[1])) == (AwkwardError, "bad luck (7)")
    assert [(type(e), str(e)) for e in found[2].exceptions] == [(AwkwardError, "again (7)")]


def test_an_exception_whose_class_cannot_be_sent_is_described(backend: LocalBackend) -> None:
    @node(output_name="y")
    def fail_oddly(x: int) -> int:
        import threading

        class LocalError(Exception):
            guard = threading.Lock()

        raise LocalError("bad luck")

    with pytest.raises(RemoteNodeError, match="LocalError: bad luck") as caught:
        Pipeline(nodes=[fail_oddly], backend=backend).map(inputs={"x": [1]}, map_over="x")
    assert caught.value.original_type.endswith("LocalError")
    assert caught.value.original_message == "bad luck"
    assert "in fail_oddly" in caught.value.traceback_text


def test_a_failure_holds_the_traceback_of_the_worker(backend: LocalBackend) -> None:
    found = (
        raising(ValueError("unique words"))
        .with_backend(backend)
        .map(inputs={"x": [0, 1, 2]}, map_over="x", on_error="collect")
    )
    (failure,) = failures(found)
    assert failure.item_index == 1
    assert failure.node_path == ("prep", "fail_in_worker")
    assert isinstance(failure.error, ValueError)
    assert "in fail_in_worker" in failure.traceback_text
    assert found["y"][0] == 0
    assert found["y"][2] == 2


def test_a_result_that_cannot_be_sent_names_its_node(backend: LocalBackend) -> None:
    @node(output_name="y")
    def return_a_lock(x: int) -> Any:
        return threading.Lock() if x == 30 else x

    pipeline = Pipeline(nodes=[return_a_lock], backend=backend)
    with pytest.raises(SerializationError, match="result of node 'return_a_lock'"):
        pipeline.map(inputs={"x": range(40)}, map_over="x")
    found = pipeline.map(inputs={"x": range(40)}, map_over="x", on_error="collect")
    assert [failure.item_index for failure in failures(found)] == [30]
    assert found["y"][:30] + found["y"][31:] == [*range(30), *range(31, 40)]


def test_a_result_that_cannot_be_received_names_its_node(backend: LocalBackend) -> None:
    @node(output_name="y")
    def return_a_riddle(x: int) -> Any:
        return FailsOnArrival() if x == 30 else x

    pipeline = Pipeline(nodes=[return_a_riddle], backend=backend)
    with pytest.raises(SerializationError, match="return_a_riddle"):
        pipeline.map(inputs={"x": range(40)}, map_over="x")
    found = pipeline.map(inputs={"x": range(40)}, map_over="x", on_error="collect")
    assert [failure.item_index for failure in failures(found)] == [30]
    assert found["y"][:30] + found["y"][31:] == [*range(30), *range(31, 40)]


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(threading.Lock(), id="cannot be sent"),
        pytest.param(FailsOnArrival(), id="cannot be received"),
    ],
)
def test_an_input_that_cannot_travel_fails_its_own_item_only(value: Any, backend: LocalBackend) -> None:
    @node(output_name="y")
    def give_back(x: Any) -> Any:
        return x

    pipeline = Pipeline(nodes=[give_back], backend=backend)
    values = [*range(30), value, *range(31, 40)]
    with pytest.raises(SerializationError, match=r"cannot be (sent|received)|cannot pickle"):
        pipeline.map(inputs={"x": values}, map_over="x")
    found = pipeline.map(inputs={"x": values}, map_over="x", on_error="collect")
    assert [failure.item_index for failure in failures(found)] == [30]
    assert found["y"][:30] + found["y"][31:] == [*range(30), *range(31, 40)]


@pytest.mark.parametrize("culprit", ["input", "result that cannot be sent", "result that cannot be received"])
@pytest.mark.parametrize("position", [0, 1, 2])
def test_the_node_to_blame_is_named_wherever_it_stands(
    culprit: str, position: int, items_backend: LocalBackend
) -> None:
    def result(node_position: int, x: int) -> Any:
        if x != 3 or node_position != position or culprit == "input":
            return x
        return threading.Lock() if culprit == "result that cannot be sent" else FailsOnArrival()

    @node(output_name="a")
    def first(x: int, for_first: Any) -> Any:
        return result(0, x)

    @node(output_name="b")
    def second(x: int, for_second: Any) -> Any:
        return result(1, x)

    @node(output_name="c")
    def third(x: int, for_third: Any) -> Any:
        return result(2, x)

    pipeline = Pipeline(nodes=[first, second, third], name="prep", backend=items_backend)
    columns: dict[str, list[Any]] = {name: [0] * 5 for name in ("for_first", "for_second", "for_third")}
    if culprit == "input":
        [*columns.values()][position][3] = FailsOnArrival()
    found = pipeline.map(inputs={"x": range(5), **columns}, map_over=["x", *columns], on_error="collect")
    failure = failures(found)[0]
    name = ("first", "second", "third")[position]
    others = [value for column in found.values() for value in column if not isinstance(value, Failure)]
    assert others == [0, 1, 2, 4] * 3
    assert failure.node_path == ("prep", name)
    assert [note.split(" ")[2] for note in failure.error.__notes__] == [f"'{name}'"]
    assert repr(name) in str(failure.error)


class Client:
    def __init__(self) -> None:
        self.guards = [threading.Lock()]


@pytest.mark.filterwarnings("ignore:.* is a dict that holds a generator")
@pytest.mark.parametrize(
    ("held", "path", "advice"),
    [
        (Client(), "attribute 'guards' → [0]", "Make it where it is used"),
        ({"rows": (x for x in [1])}, "['rows']", "Pass a list instead: list(...)"),
    ],
    ids=["lock", "generator"],
)
def test_the_path_to_what_cannot_be_sent_is_named_and_what_to_do(
    held: Any, path: str, advice: str, backend: LocalBackend
) -> None:
    @node(output_name="y")
    def use_captured(x: int) -> Any:
        return x if held else None

    @node(output_name="y")
    def use_input(x: int, given: Any) -> Any:
        return x if given else None

    for use, inputs, where in ((use_captured, {}, "closure 'held'"), (use_input, {"given": held}, "input 'given'")):
        with pytest.raises(SerializationError) as caught:
            Pipeline([use], backend=backend).map({"x": [1], **inputs}, map_over="x")
        text = str(caught.value)
        assert where in text
        assert f" → {path} cannot be sent to a worker process (TypeError: cannot pickle" in text
        assert f"). {advice}" in text
        assert caught.value.path.endswith(path)


def test_the_path_to_what_cannot_be_sent_back_is_named(backend: LocalBackend) -> None:
    @node(output_name="y")
    def return_client(x: int) -> Any:
        return {"client": Client()}

    with pytest.raises(SerializationError) as caught:
        Pipeline([return_client], backend=backend).map({"x": [1]}, map_over="x")
    text = str(caught.value)
    assert text.startswith(
        "the result of node 'return_client' → ['client'] → attribute 'guards' → [0] cannot be sent back"
    )
    assert text.endswith("Return what it can be made from.")


def test_an_input_that_cannot_travel_is_named(backend: LocalBackend) -> None:
    @node(output_name="y")
    def ignore(x: int, shared: Any) -> int:
        return x

    pipeline = Pipeline(nodes=[ignore], backend=backend)
    with pytest.raises(SerializationError, match="shared") as caught:
        pipeline.map(inputs={"x": [1], "shared": threading.Lock()}, map_over="x")
    assert "cannot pickle '_thread.lock' object" in str(caught.value)


@pytest.mark.parametrize("is_observed", [False, True])
def test_what_only_the_nodes_of_an_item_hand_on_need_not_travel(items_backend: LocalBackend, is_observed: bool) -> None:
    @node(output_name="lock")
    def make_lock(x: int) -> Any:
        return threading.Lock()

    @node(output_name="y")
    def use_lock(lock: Any, x: int) -> int:
        with lock:
            return x

    pipeline = Pipeline(nodes=[make_lock, use_lock], backend=items_backend)
    if is_observed:
        pipeline = pipeline.with_callbacks([Recorder()])
    assert pipeline.map(inputs={"x": [1, 2]}, map_over="x", output_name="y") == {"y": [1, 2]}


@node(output_name="lock")
def make_a_lock(x: int) -> Any:
    return threading.Lock()


@node(output_name="y")
def use_the_lock(lock: Any, x: int) -> int:
    with lock:
        return x


def test_events_tell_of_what_stayed_in_the_worker(items_backend: LocalBackend) -> None:
    recorder = Recorder()
    pipeline = Pipeline(nodes=[make_a_lock, use_the_lock], backend=items_backend, callbacks=[recorder])
    pipeline.map(inputs={"x": [1]}, map_over="x", output_name="y")
    ends = {event[1]: payload["outputs"] for event, _, payload in recorder.of("node_end")}
    assert ends["use_the_lock"] == {"y": 1}
    assert "lock that stayed in the worker process: 'lock' cannot be sent" in repr(ends["make_a_lock"]["lock"])


def test_what_stayed_in_the_worker_is_not_cached_and_said_once(items_backend: LocalBackend) -> None:
    recorder = Recorder()
    pipeline = Pipeline(
        nodes=[make_a_lock, use_the_lock], backend=items_backend, cache=MemoryCache(), callbacks=[recorder]
    )
    with pytest.warns(CacheWarning, match="'make_a_lock' is not cached: it cannot be sent back") as warned:
        pipeline.map(inputs={"x": range(4)}, map_over="x", output_name="y")
    assert len(warned) == 1
    assert pipeline.map(inputs={"x": range(4)}, map_over="x", output_name="y") == {"y": [0, 1, 2, 3]}
    assert recorder.cached_items == [0, 1, 2, 3]


def test_an_output_that_nobody_takes_need_not_travel(backend: LocalBackend) -> None:
    @node(output_name=("y", "lock"))
    def make_both(x: int) -> tuple[int, Any]:
        return x, threading.Lock()

    pipeline = Pipeline(nodes=[make_both], backend=backend, callbacks=[Recorder()])
    assert pipeline.map(inputs={"x": [1, 2]}, map_over="x", output_name="y") == {"y": [1, 2]}
    with pytest.raises(SerializationError, match="result of node 'make_both' cannot be sent back"):
        pipeline.map(inputs={"x": [1, 2]}, map_over="x")


def test_an_attempt_that_needs_what_stayed_in_the_worker_is_not_made_again(items_backend: LocalBackend) -> None:
    @node(output_name="y", retries=3, retry_delay=0)
    def fail(lock: Any, x: int) -> int:
        raise ConnectionError(f"unique words {x}")

    pipeline = Pipeline(nodes=[make_a_lock, fail], backend=items_backend)
    with pytest.raises(ConnectionError, match="unique words"):
        pipeline.map(inputs={"x": [1]}, map_over="x", output_name="y")
