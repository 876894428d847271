"""What goes wrong in another process arrives here as what it is."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import threading
import time
import venv
from pathlib import Path
from typing import Any

import pytest

from hypernodes import (
    CacheWarning,
    ConfigurationError,
    MemoryCache,
    Node,
    NodeTimeoutError,
    Pipeline,
    RemoteError,
    RemoteVersionError,
    SerializationError,
    WorkerLostError,
    node,
)
from hypernodes.backend import SubprocessBackend
from hypernodes.remote import wire
from hypernodes.remote.worker import execute
from tests.remote.transports import InProcess
from tests.support import Recorder
from tests.worker_processes.observe import wait_until


class StrictError(Exception):
    def __init__(self, first: int, second: int) -> None:
        super().__init__(f"{first} and {second}")


class HoldingError(Exception):
    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.lock = threading.Lock()


class OwnReduceError(Exception):
    def __init__(self, *, code: int) -> None:
        super().__init__(str(code))
        self.code = code

    def __reduce__(self) -> Any:
        return _again, (self.code,)


def _again(code: int) -> OwnReduceError:
    return OwnReduceError(code=code)


class UnprintableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


def raise_strict(x: int) -> None:
    raise StrictError(1, 2)


def raise_holding(x: int) -> None:
    raise HoldingError("it holds a lock")


def raise_own_reduce(x: int) -> None:
    raise OwnReduceError(code=7)


def raise_strict_group(x: int) -> None:
    raise ExceptionGroup("several", [StrictError(1, 2), HoldingError("one")])


def raise_unprintable(x: int) -> None:
    raise UnprintableError


def raise_chained(x: int) -> None:
    try:
        raise KeyError("inner")
    except KeyError as error:
        raise ValueError("outer") from error


def raise_group(x: int) -> None:
    raise ExceptionGroup("several", [ValueError("one"), TypeError("two")])


def raise_stop(x: int) -> None:
    raise StopIteration(x)


def raise_exit(x: int) -> None:
    raise SystemExit(3)


def raise_interrupt(x: int) -> None:
    raise KeyboardInterrupt


def run(backend: Any, function: Any, **settings: Any) -> Any:
    return Pipeline([Node(function, output_name="y")], backend=backend, **settings).run({"x": 1})["y"]


@pytest.mark.parametrize(
    ("function", "kind", "message"),
    [(raise_strict, StrictError, "1 and 2"), (raise_holding, HoldingError, "it holds a lock")],
)
def test_an_exception_keeps_its_type_whatever_its_constructor_wants_and_it_holds(
    kept: SubprocessBackend, function: Any, kind: Any, message: str
) -> None:
    with pytest.raises(kind, match=message) as caught:
        run(kept, function)
    assert type(caught.value) is kind
    assert f"in {function.__name__}" in str(caught.value.__cause__)
    assert not hasattr(caught.value, "lock")


def test_a_time_limit_raises_the_same_error_as_here(kept: SubprocessBackend) -> None:
    @node(output_name="y", timeout=0.1)
    def slow(x: int) -> None:
        time.sleep(60)

    with pytest.raises(NodeTimeoutError, match=r"'slow' took longer than its timeout of 0\.1 s") as caught:
        Pipeline([slow], backend=kept).run({"x": 1})
    assert (caught.value.node_name, caught.value.timeout_s) == ("slow", 0.1)


def test_an_exception_of_a_class_made_inside_a_node_is_of_its_base_classes(kept: SubprocessBackend) -> None:
    def fail_oddly(x: int) -> None:
        class LocalError(ValueError):
            def __init__(self, *, code: int) -> None:
                super().__init__(f"code {code}")

        raise LocalError(code=x)

    with pytest.raises(ValueError, match="code 1"):
        run(kept, fail_oddly)


def test_the_note_of_a_node_arrives_with_an_exception_that_says_how_it_is_pickled(kept: SubprocessBackend) -> None:
    with pytest.raises(OwnReduceError, match="7") as caught:
        run(kept, raise_own_reduce)
    assert any("node 'raise_own_reduce'" in note for note in caught.value.__notes__)


def test_members_of_a_group_keep_their_types(kept: SubprocessBackend) -> None:
    with pytest.raises(ExceptionGroup) as caught:
        run(kept, raise_strict_group)
    assert [type(error) for error in caught.value.exceptions] == [StrictError, HoldingError]


def test_an_exception_without_a_text_arrives(kept: SubprocessBackend) -> None:
    with pytest.raises(UnprintableError) as caught:
        run(kept, raise_unprintable)
    assert "in raise_unprintable" in str(caught.value.__cause__)


def test_the_traceback_shows_what_an_exception_was_raised_from(kept: SubprocessBackend) -> None:
    with pytest.raises(ValueError, match="outer") as caught:
        run(kept, raise_chained)
    text = str(caught.value.__cause__)
    assert "KeyError: 'inner'" in text
    assert "in raise_chained" in text
    assert 'raise KeyError("inner")' in text


def test_an_exception_group_arrives_whole(kept: SubprocessBackend) -> None:
    with pytest.raises(ExceptionGroup) as caught:
        run(kept, raise_group)
    assert [type(error) for error in caught.value.exceptions] == [ValueError, TypeError]


def test_stop_iteration_is_an_error_like_others(kept: SubprocessBackend) -> None:
    with pytest.raises(StopIteration):
        run(kept, raise_stop)


@pytest.mark.parametrize("function", [raise_exit, raise_interrupt])
def test_what_is_meant_to_end_a_process_ends_the_run(kept: SubprocessBackend, function: Any) -> None:
    with pytest.raises((SystemExit, KeyboardInterrupt, RemoteError)):
        run(kept, function)
    assert run(kept, lambda x: x + 1) == 2  # and the backend can be used again


def test_a_result_that_cannot_be_sent_back_from_a_subprocess_is_named(kept: SubprocessBackend) -> None:
    @node(output_name="handle")
    def open_something(x: int) -> Any:
        import threading

        return {"inner": threading.Lock()}

    with pytest.raises(SerializationError, match=r"'handle' → \['inner'\] cannot be sent back from subprocess.*lock"):
        Pipeline([open_something], backend=kept).run({"x": 1})


def test_a_result_that_cannot_be_sent_back_serves_what_follows_there(kept: SubprocessBackend) -> None:
    @node(output_name="handle")
    def open_something(x: int) -> Any:
        import threading

        return threading.Lock()

    @node(output_name="is_free")
    def look(handle: Any) -> bool:
        return bool(handle.acquire(blocking=False))

    recorder = Recorder()
    pipeline = Pipeline([open_something, look], backend=kept, cache=MemoryCache(), callbacks=[recorder])
    with pytest.warns(CacheWarning, match="open_something"):
        assert pipeline.run({"x": 1}, "is_free") == {"is_free": True}
    assert "lock" in repr(recorder.of("node_end")[0][2]["outputs"])


def test_a_worker_that_is_killed_is_told_with_how_it_ended(kept: SubprocessBackend) -> None:
    def die(x: int) -> None:
        import os
        import signal
        import sys

        sys.stderr.write("the last words\n")
        sys.stderr.flush()
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(WorkerLostError, match=r"ended by signal 9 \(SIGKILL\)") as caught:
        run(kept, die)
    assert caught.value.exit_code == -9
    assert "the last words" in caught.value.log_tail
    assert run(kept, lambda x: x) == 1


def test_what_was_computed_before_the_worker_was_lost_is_kept(tmp_path: Path) -> None:
    class Witness(MemoryCache):
        def put_many(self, entries: Any, labels: Any = None) -> None:
            super().put_many(entries, labels)
            if 20 in entries.values():
                (tmp_path / "stored").touch()

    @node(output_name="y")
    def fail_at_three(x: int, stored: str) -> int:
        import os

        if x == 3 and "DIES" in os.environ:
            wait_until(lambda: os.path.exists(stored))  # what is computed before arrives while this is under way
            os._exit(7)
        return 10 * x

    recorder, cache = Recorder(), Witness()
    inputs = {"x": range(6), "stored": str(tmp_path / "stored")}
    pipeline = Pipeline(
        [fail_at_three], backend=SubprocessBackend(env={"DIES": "1"}), cache=cache, callbacks=[recorder]
    )
    with pytest.raises(WorkerLostError, match=r"exit code 7.*is stored in the cache"):
        pipeline.map(inputs, "x")
    recorder.clear()
    found = pipeline.with_backend(SubprocessBackend()).map(inputs, "x")
    assert found == {"y": [0, 10, 20, 30, 40, 50]}
    assert len(recorder.computed) == 3
    assert recorder.cached_items == [0, 1, 2]


def test_secrets_in_inputs_are_in_no_error_and_no_command_line(capfd: pytest.CaptureFixture[str]) -> None:
    secret = "sk-very-secret-0123456789"

    @node(output_name="seen")
    def look(token: str, x: int) -> list[str]:
        import pathlib

        return [pathlib.Path(f"/proc/self/{name}").read_bytes().decode() for name in ("cmdline", "environ")]

    @node(output_name="never")
    def fail(token: str, x: int) -> int:
        return 1 // x

    seen = Pipeline([look], backend=SubprocessBackend()).run({"token": secret, "x": 0})["seen"]
    assert not any(secret in text for text in seen)
    with pytest.raises(ZeroDivisionError) as caught:
        Pipeline([fail], backend=SubprocessBackend()).run({"token": secret, "x": 0})
    assert secret not in "".join([*caught.value.__notes__, str(caught.value.__cause__)])
    place = InProcess()
    with pytest.raises(ZeroDivisionError):
        Pipeline([fail], backend=place).run({"token": secret, "x": 0})
    assert secret.encode() not in place.jobs[0].partition(b"\n")[0]
    assert secret not in "".join(capfd.readouterr())


# --- versions --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["Python", "hypernodes-core", "cloudpickle", "job format"])
def test_a_job_of_another_version_is_refused_before_it_is_unpickled(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    place = InProcess()
    run(place, lambda x: x)
    ours = wire.versions()
    other = {**ours, what: "0.0.1"}
    monkeypatch.setattr(wire, "versions", lambda: other)
    header = header_of(execute(place.jobs[0]))
    assert header["kind"] == "refused"
    for version in (str(ours[what]), "0.0.1"):
        assert version in header["reason"]


def header_of(outcome: bytes) -> Any:
    return wire.open_sealed(outcome, "here", "there").header


def test_a_job_of_the_first_format_is_refused_by_its_versions() -> None:
    first = b'{"kind": "job", "versions": {"job format": 1, "Python": "3.12"}}\n\x80\x05.'
    assert "job format 4 here, on the remote side, and 1 at the caller" in header_of(execute(first))["reason"]


def test_a_damaged_job_is_refused() -> None:
    for damaged in (b"", b"no job", b'{"versions": 3}\nabc', b"\x80\x05."):
        assert header_of(execute(damaged))["kind"] == "refused"
    place = InProcess()
    run(place, lambda x: x)
    header = header_of(execute(place.jobs[0][:-40]))
    assert header["kind"] == "refused"
    assert "damaged on the way" in header["reason"]


@pytest.mark.parametrize("damage", [b"", b"nonsense", b'{"kind": "returned", "versions": {}}\nnonsense', None, 3, []])
def test_a_damaged_outcome_is_an_error_of_ours(damage: Any) -> None:
    class Damaging(InProcess):
        def submit(self, job: bytes, channel: Any) -> bytes:
            super().submit(job, channel)
            return damage  # type: ignore[no-any-return]

    with pytest.raises(RemoteError, match=r"in process"):
        run(Damaging(), lambda x: x)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"python": "/nowhere/python"}, "there is none at '/nowhere/python'"),
        ({"cwd": "/nowhere"}, "cwd must be a folder"),
        ({"env": {"A": 1}}, "the value of 'A' is no string"),
        ({"node_execution": "fast"}, "node_execution must be one of"),
        ({"max_workers": 0}, "max_workers must be"),
    ],
)
def test_wrong_settings_are_refused_at_once(settings: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        SubprocessBackend(**settings)


def test_a_python_without_this_library_is_told_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(WorkerLostError, match="ended with exit code 1"):
        run(SubprocessBackend(python="/bin/false"), lambda x: x)
    venv.create(tmp_path / "bare", with_pip=False)
    bare = SubprocessBackend(python=tmp_path / "bare" / "bin" / "python", env={"PYTHONPATH": ""})
    with pytest.raises(WorkerLostError, match=r"has no hypernodes-core.*pip install 'hypernodes-core\[remote\]'"):
        run(bare, lambda x: x)


def other_pythons() -> list[str]:
    found = []
    for minor in (11, 12, 13):
        name = f"python3.{minor}"
        if minor == sys.version_info.minor or shutil.which(name) is None:
            continue
        process = subprocess.run([name, "-c", "import sys; print(sys.executable)"], capture_output=True, text=True)
        if process.returncode == 0:
            found.append(process.stdout.strip())
    return found


def test_another_version_of_python_is_refused_by_name(essentials: Path) -> None:
    pythons = other_pythons()
    if not pythons:
        pytest.skip("there is no other version of Python on this machine")
    for python in pythons:
        backend = SubprocessBackend(python=python, env={"PYTHONPATH": str(essentials)})
        with pytest.raises(RemoteVersionError) as caught:
            run(backend, lambda x: x)
        here, there = caught.value.differing["Python"]
        assert here == "{}.{}".format(*sys.version_info[:2]) != there
        assert f"Python {here} at the caller and {there} at subprocess" in str(caught.value)


def test_another_version_of_python_is_refused_before_anything_is_submitted() -> None:
    class Older(InProcess):
        backend_name = "older"

        def find_python_version(self) -> str:
            return "3.2"

    older = Older()
    with pytest.raises(
        RemoteVersionError, match=r"and 3\.2 at older\. Nothing was sent\. Let the backend use"
    ) as caught:
        run(older, lambda x: x)
    assert caught.value.differing == {"Python": ("{}.{}".format(*sys.version_info[:2]), "3.2")}
    assert older.jobs == []


class Reluctant:
    """Can be pickled and not unpickled."""

    def __getstate__(self) -> dict[str, int]:
        return {"n": 1}

    def __setstate__(self, state: dict[str, int]) -> None:
        raise ValueError("not like this")


def test_an_input_that_cannot_be_unpickled_is_named_and_no_version_is_blamed() -> None:
    @node(output_name="y")
    def use(thing: Any, x: int) -> int:
        return x

    with pytest.raises(
        RemoteError, match="input 'thing' can be pickled and not unpickled: ValueError: not like"
    ) as run_:
        Pipeline([use], backend=InProcess()).run({"thing": Reluctant(), "x": 1})
    with pytest.raises(RemoteError, match="item 1 of 'thing' can be pickled and not unpickled") as map_:
        Pipeline([use], backend=InProcess()).map({"thing": [1, Reluctant()], "x": 1}, map_over="thing")
    for caught in (run_, map_):
        assert not re.search("version|installed|differ", str(caught.value))


def test_a_result_that_cannot_be_unpickled_is_no_matter_of_versions() -> None:
    with pytest.raises(
        RemoteError, match="the result of in process cannot be loaded here: ValueError: not like"
    ) as caught:
        run(InProcess(), lambda x: Reluctant())
    assert not re.search("version|installed|differ", str(caught.value))
