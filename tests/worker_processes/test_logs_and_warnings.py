"""What nodes log and warn of in worker processes arrives here, where levels, handlers and filters are set."""

from __future__ import annotations

import gc
import logging
import threading
import warnings
from collections.abc import Iterator

import pytest

from hypernodes import LocalBackend, Node, Pipeline, node
from tests.worker_processes.conftest import Scripts

NAME = "tests.logging_node"


class UsersWarning(UserWarning):
    pass


@node(output_name="y")
def log_and_warn(x: int) -> int:
    log = logging.getLogger(NAME)
    log.debug("debug %d", x)
    log.info("info %d", x, extra={"lock": threading.Lock(), "count": x})
    try:
        1 / (x - x)
    except ZeroDivisionError:
        log.exception("failed")
    warnings.warn(f"careful with {x}", UsersWarning, stacklevel=1)
    return x


@pytest.fixture(params=["items", "nodes"])
def pipeline(request: pytest.FixtureRequest) -> Pipeline:
    backend: LocalBackend = request.getfixturevalue(f"{request.param}_backend")
    return Pipeline(nodes=[log_and_warn], backend=backend)


@pytest.fixture(autouse=True)
def level() -> Iterator[None]:
    yield
    logging.getLogger(NAME).setLevel(logging.NOTSET)


def run(pipeline: Pipeline) -> None:
    assert pipeline.map(inputs={"x": [1]}, map_over="x") == {"y": [1]}


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_records_of_workers_reach_the_handlers_of_the_caller_by_its_levels(
    pipeline: Pipeline, caplog: pytest.LogCaptureFixture
) -> None:
    for level, expected in (
        (logging.NOTSET, ["failed"]),
        (logging.DEBUG, ["debug 1", "info 1", "failed"]),
        (logging.INFO, ["info 1", "failed"]),
        (logging.CRITICAL, []),
        (logging.NOTSET, ["failed"]),
    ):
        caplog.clear()
        logging.getLogger(NAME).setLevel(level)
        run(pipeline)
        assert [record.getMessage() for record in caplog.records] == expected

    caplog.clear()
    logging.getLogger(NAME).setLevel(logging.INFO)
    run(pipeline)
    info, failed = caplog.records
    assert info.name == NAME
    assert vars(info)["count"] == 1
    assert not hasattr(info, "lock")  # which cannot travel
    assert "ZeroDivisionError: division by zero" in (failed.exc_text or "")


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_handler_that_fails_fails_no_node(pipeline: Pipeline, capfd: pytest.CaptureFixture[str]) -> None:
    def refuse(record: logging.LogRecord) -> bool:
        raise RuntimeError("the filter failed")

    logger = logging.getLogger(NAME)
    logger.addFilter(refuse)
    try:
        run(pipeline)
    finally:
        logger.removeFilter(refuse)
    assert "RuntimeError: the filter failed" in capfd.readouterr().err


def test_warnings_of_workers_are_shown_here_at_the_line_of_the_node(pipeline: Pipeline) -> None:
    with pytest.warns(UsersWarning, match="careful with 1") as caught:
        run(pipeline)
    (warning,) = caught
    assert warning.filename == __file__
    assert warning.lineno == log_and_warn.func.__code__.co_firstlineno + 9


def test_filters_of_warnings_hold_in_workers(pipeline: Pipeline) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UsersWarning)
        with pytest.raises(UsersWarning, match="careful with 1"):
            run(pipeline)
        warnings.simplefilter("ignore", UsersWarning)
        run(pipeline)


OWN_HANDLERS = """
import logging, sys
from hypernodes import LocalBackend, Pipeline
import users_module

if __name__ == "__main__":
    logging.basicConfig(stream=sys.stdout, format="root: %(message)s")
    Pipeline(nodes=[users_module.warn], backend=LocalBackend(map_execution="parallel")).map({"x": [1]}, map_over="x")
"""
USERS_MODULE = """
import logging, sys
from hypernodes import node

logger = logging.getLogger("own")
handler = logging.StreamHandler(sys.stdout)
handler.setFormatter(logging.Formatter("own: %(message)s"))
logger.addHandler(handler)

@node(output_name="y")
def warn(x):
    logger.warning("once")
    sys.stdout.flush()
"""


def test_each_handler_gets_a_record_once(scripts: Scripts, scripts_without_loky: Scripts) -> None:
    for kind in (scripts, scripts_without_loky):
        kind.write(USERS_MODULE, "users_module.py")
        assert sorted(kind.run(kind.write(OWN_HANDLERS)).splitlines()) == ["own: once", "root: once"]


class LogsAtItsEnd:
    """Logs when the garbage collector finds it, as unclosed clients do."""

    def __init__(self) -> None:
        self.itself = self

    def __del__(self) -> None:
        logging.getLogger(NAME).warning("not closed")


@node(output_name="y")
def leave_unclosed(x: int) -> int:
    gc.set_threshold(20)  # so that it comes at any moment, also while something is sent
    for _ in range(3):
        LogsAtItsEnd()
    return x


def test_a_finalizer_may_log_while_the_worker_sends_something(
    items_backend: LocalBackend, caplog: pytest.LogCaptureFixture
) -> None:
    limited = Node(leave_unclosed.func, "y", name="leave_unclosed", timeout=60)  # announced for each call
    found = Pipeline(nodes=[limited], backend=items_backend).map(inputs={"x": range(200)}, map_over="x")
    assert found == {"y": [*range(200)]}
    assert "not closed" in caplog.text
