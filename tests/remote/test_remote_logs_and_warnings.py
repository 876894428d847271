"""What nodes log and warn of in remote jobs arrives at the caller, whose levels, handlers and filters hold there."""

from __future__ import annotations

import logging
import sys
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import pytest

from hypernodes import CacheWarning, HyperNodesWarning, Pipeline, SubprocessBackend, node

NAME = "tests.remote_logging_node"


class UsersWarning(UserWarning):
    pass


@node(output_name="y")
def log_and_warn(x: int) -> int:
    log = logging.getLogger(NAME)
    log.debug("debug %d", x)
    log.info("info %d", x)
    log.warning("warning %d", x)
    warnings.warn(f"careful with {x}", UsersWarning, stacklevel=1)
    return x


@node(output_name="y")
def log_in_own_thread(x: int) -> int:
    def log() -> None:
        logging.getLogger(NAME).warning("from a thread")

    thread = threading.Thread(target=log)
    thread.start()
    thread.join()
    return x


@node(output_name="y")
def ignore(x: int, generator: Any) -> int:
    return x


class Unknown:
    def __cache_key__(self) -> object:
        raise TypeError("no key")


@node(output_name="y")
def take(x: Unknown) -> int:
    return 1


@pytest.fixture(scope="module")
def plain_backend() -> Iterator[SubprocessBackend]:
    with SubprocessBackend() as backend:
        yield backend


@pytest.fixture(scope="module")
def parallel_backend() -> Iterator[SubprocessBackend]:
    with SubprocessBackend(map_execution="parallel", max_workers=2) as backend:
        yield backend


@pytest.fixture(params=["plain", "parallel"])
def backend(request: pytest.FixtureRequest) -> SubprocessBackend:
    found: SubprocessBackend = request.getfixturevalue(f"{request.param}_backend")
    return found


@pytest.fixture(autouse=True)
def level() -> Iterator[None]:
    yield
    logging.getLogger(NAME).setLevel(logging.NOTSET)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_records_reach_the_handlers_of_the_caller_by_its_levels(
    backend: SubprocessBackend, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    pipeline = Pipeline(nodes=[log_and_warn], backend=backend)
    for level, expected in (
        (logging.INFO, ["info 1", "warning 1"]),
        (logging.ERROR, []),
        (logging.NOTSET, ["warning 1"]),
    ):
        caplog.clear()
        logging.getLogger(NAME).setLevel(level)
        assert pipeline.map({"x": [1]}, map_over="x") == {"y": [1]}
        assert [record.getMessage() for record in caplog.records] == expected
    assert "warning 1" not in capfd.readouterr().err


def test_filters_of_warnings_hold_and_warnings_are_those_of_the_line_of_the_node(backend: SubprocessBackend) -> None:
    pipeline = Pipeline(nodes=[log_and_warn], backend=backend)
    with pytest.warns(UsersWarning) as caught:
        pipeline.map({"x": [1, 2]}, map_over="x")
    assert sorted(str(warning.message) for warning in caught) == ["careful with 1", "careful with 2"]
    assert {warning.filename for warning in caught} == {__file__}
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        with pytest.raises(UserWarning, match="careful with 1"):
            pipeline.map({"x": [1]}, map_over="x")
        warnings.resetwarnings()
        warnings.simplefilter("error", UsersWarning)
        with pytest.raises(UsersWarning, match="careful with 1"):
            pipeline.map({"x": [1]}, map_over="x")
        warnings.simplefilter("ignore", UsersWarning)
        assert pipeline.map({"x": [1]}, map_over="x") == {"y": [1]}


def test_a_thread_that_a_node_starts_logs_to_standard_error(
    plain_backend: SubprocessBackend, capfd: pytest.CaptureFixture[str]
) -> None:
    Pipeline(nodes=[log_in_own_thread], backend=plain_backend).run({"x": 1})
    sys.stderr.flush()
    assert "from a thread" in capfd.readouterr().err


def test_warnings_of_the_engine_are_those_of_the_callers_line(parallel_backend: SubprocessBackend) -> None:
    import random

    pipeline = Pipeline(nodes=[ignore], backend=parallel_backend)
    with pytest.warns(HyperNodesWarning, match="'generator' of node 'ignore' is shared by the items") as caught:
        pipeline.map({"x": [1, 2], "generator": random.Random(1)}, map_over="x")
    (warning,) = caught
    assert warning.filename == __file__


def test_what_caller_and_worker_both_warn_of_is_warned_of_once(backend: SubprocessBackend) -> None:
    from hypernodes import MemoryCache

    pipeline = Pipeline(nodes=[take], backend=backend, cache=MemoryCache())
    with pytest.warns(CacheWarning, match="'take': runs uncached") as caught:
        pipeline.map({"x": [Unknown(), Unknown()]}, map_over="x")
    assert len(caught) == 1
