"""A worker that is lost, or no longer waited for, leaves nothing open: what began is told to have ended."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import pytest

from hypernodes import MemoryCache, Pipeline, PipelineCallback, RemoteBackend, WorkerLostError, node
from hypernodes.backend import SubprocessBackend
from hypernodes.remote.channel import Channel
from hypernodes.remote.worker import execute
from tests.support import Recorder
from tests.worker_processes.observe import wait_until


@node(output_name="words")
def split(text: str) -> list[str]:
    return text.split()


@node(output_name="length")
def measure_or_die(word: str, observed: str) -> int:
    if word == "die":
        assert wait_until(Path(observed).exists)  # until the caller has observed what was reported before
        os.kill(os.getpid(), signal.SIGKILL)
    return len(word)


@node(output_name="length")
def measure_or_wait(word: str, begun: str) -> int:
    if word == "wait":
        Path(begun).touch()
        time.sleep(60)
    return len(word)


def whole(function: Any, backend: RemoteBackend, recorder: PipelineCallback) -> Pipeline:
    each = Pipeline([function], name="each").as_node({"words": "word"}, {"length": "lengths"}, map_over="words")
    return Pipeline([Pipeline([split, each], name="inner")], name="outer", backend=backend, callbacks=[recorder])


def dying(folder: Path) -> dict[str, str]:
    return {"text": "in die", "observed": str(folder / "observed")}


EXPECTED = [
    ("pipeline_start", "outer"),
    ("nested_start", "outer", "inner"),
    ("node_start", "split"),
    ("node_end", "split"),
    ("nested_start", "inner", "each"),
    ("map_start", 2),
    ("map_item_start", 0),
    ("node_start", "measure"),
    ("node_end", "measure"),
    ("map_item_end", 0),
    ("map_item_start", 1),
    ("node_start", "measure"),
    ("error", "measure"),
    ("map_item_end", 1),
    ("map_end",),
    ("nested_end", "inner", "each"),
    ("nested_end", "outer", "inner"),
    ("pipeline_end", "outer"),
]


class Witness(Recorder):
    """Makes a file when it has observed the start of the third node."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def on_node_start(self, node_id: str, inputs: Any, ctx: Any) -> None:
        super().on_node_start(node_id, inputs, ctx)
        if len(self.computed) == 3:
            self._path.touch()


def as_expected(recorder: Recorder) -> list[tuple[Any, ...]]:
    return [
        tuple("measure" if str(part).startswith("measure") else part for part in event) for event in recorder.events
    ]


def test_what_ran_in_a_process_that_is_killed_ends_innermost_first(tmp_path: Path) -> None:
    recorder = Witness(tmp_path / "observed")
    with pytest.raises(WorkerLostError) as lost:
        whole(measure_or_die, SubprocessBackend(), recorder).run(dying(tmp_path))
    assert as_expected(recorder) == EXPECTED
    ((_, ctx, payload),) = recorder.of("error")
    assert payload["error"] is lost.value
    assert (ctx.hierarchy_path, ctx.item_path) == (("outer", "inner", "each"), (1,))
    assert all(
        row[2]["duration"] >= 0 for hook in ("map_item_end", "map_end", "nested_end") for row in recorder.of(hook)
    )


def test_what_runs_on_a_backend_of_a_nested_pipeline_ends_when_its_process_is_killed(tmp_path: Path) -> None:
    recorder = Witness(tmp_path / "observed")
    inner = whole(measure_or_die, SubprocessBackend(), recorder).with_callbacks([recorder])
    with pytest.raises(WorkerLostError):
        Pipeline([inner], name="around", callbacks=[recorder]).run(dying(tmp_path))
    begun = [event[1:] for event in recorder.events if event[0] == "nested_start"]
    ended = [event[1:] for event in recorder.events if event[0] == "nested_end"]
    assert ended == begun[::-1] == [("inner", "each"), ("outer", "inner"), ("around", "outer")]
    assert len(recorder.of("node_start")) == len(recorder.of("node_end")) + len(recorder.of("error"))


def test_what_ran_in_a_subprocess_ends_when_the_run_is_cancelled(tmp_path: Path) -> None:
    recorder = Recorder()
    pipeline = whole(measure_or_wait, SubprocessBackend(), recorder)

    async def cancel() -> None:
        task = asyncio.create_task(pipeline.arun({"text": "in wait", "begun": str(tmp_path / "begun")}))
        while not (tmp_path / "begun").exists() or len(recorder.of("node_start")) < 3:
            await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(cancel())
    assert as_expected(recorder) == EXPECTED
    assert isinstance(recorder.of("error")[0][2]["error"], CancelledError)


class Lost(RemoteBackend):
    """A place whose worker is lost when it has said so many things."""

    backend_name = "lost"

    def __init__(self, messages: int, **settings: Any) -> None:
        super().__init__(**settings)
        self._left = messages

    def submit(self, job: bytes, channel: Channel) -> bytes:
        def exchange(message: bytes) -> bytes | None:
            self._left -= 1
            if self._left < 0:
                raise ConnectionError("nobody is there any more")
            return channel.handle(message)

        execute(job, exchange)
        raise WorkerLostError("the worker was lost", backend_name=self.backend_name, exit_code=None, log_tail="")


@pytest.mark.parametrize("messages", range(16))
@pytest.mark.parametrize("cache", [None, MemoryCache])
def test_whenever_a_worker_is_lost_each_start_event_has_an_end(messages: int, cache: Callable[[], Any] | None) -> None:
    @node(output_name="length")
    def measure(word: str) -> int:
        return len(word)

    recorder = Recorder()
    backend = Lost(messages, map_execution="threaded", max_workers=2)
    pipeline = whole(measure, backend, recorder).with_cache(cache() if cache else False)
    with pytest.raises(WorkerLostError):
        pipeline.run({"text": "in the beginning"})
    starts = [
        (event, ctx.hierarchy_path, ctx.item_path)
        for event, ctx in zip(recorder.events, recorder.contexts, strict=True)
    ]
    open_now: list[tuple[Any, ...]] = []
    for event, path, items in starts:
        kind, _, what = event[0].rpartition("_")
        key = (kind, path, items, *event[1:]) if kind != "map" else (kind, path, items)
        if what == "start":
            open_now.append(key)
        elif event[0] == "error":
            open_now.remove(("node", path, items, *event[1:]))
        elif what == "end":
            assert open_now.index(key) == len(open_now) - 1 or kind in ("node", "map_item")
            open_now.remove(key)
    assert open_now == []


def test_a_callback_that_observes_no_ends_observes_no_errors_either(tmp_path: Path) -> None:
    class Starts(PipelineCallback):
        def __init__(self) -> None:
            self.begun: list[str] = []
            self.failed: list[str] = []

        def on_node_start(self, node_id: str, inputs: Any, ctx: Any) -> None:
            self.begun.append(node_id)
            if len(self.begun) == 3:
                (tmp_path / "observed").touch()

        def on_error(self, node_id: str, error: BaseException, ctx: Any) -> None:
            self.failed.append(node_id)

    recorder = Starts()
    with pytest.raises(WorkerLostError):
        whole(measure_or_die, SubprocessBackend(), recorder).run(dying(tmp_path))
    assert len(recorder.begun) == 3
    assert recorder.failed == []  # nobody can say here which of them had ended
