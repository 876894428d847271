"""Without loky and cloudpickle, the standard library's processes do what they can, and the rest is refused at once."""

from __future__ import annotations

import pytest

from tests.worker_processes.conftest import Scripts, finish

USERS_MODULE = """
    import os
    from hypernodes import node

    @node(output_name="y")
    def double(x):
        return 2 * x

    @node(output_name="process_id")
    def tell_process(x):
        return os.getpid()
"""

HEAD = """
    import os, sys
    from hypernodes import LocalBackend, Node, Pipeline, SerializationError, node
    import users_module

    try:
        import loky
    except ModuleNotFoundError:
        pass
    else:
        raise AssertionError("loky is there")

    @node(output_name="y")
    def square(x):
        return x * x

    def run(modes, *nodes):
        return Pipeline(nodes=nodes, backend=LocalBackend(max_workers=2, **modes)).map(
            inputs={"x": [1, 2, 3]}, map_over="x"
        )
"""


@pytest.mark.parametrize("mode", ["map_execution", "node_execution"])
def test_without_loky_module_level_nodes_run_in_workers(scripts_without_loky: Scripts, mode: str) -> None:
    scripts = scripts_without_loky
    scripts.write(USERS_MODULE, "users_module.py")
    body = f"""
    if __name__ == "__main__":
        found = run({{{mode!r}: "parallel"}}, users_module.double, users_module.tell_process)
        assert os.getpid() not in found.pop("process_id")
        print(found, run({{{mode!r}: "parallel"}}, square))
    """
    assert scripts.run(scripts.write(HEAD + body)) == "{'y': [2, 4, 6]} {'y': [1, 4, 9]}\n"


@pytest.mark.parametrize("mode", ["map_execution", "node_execution"])
def test_without_loky_what_cannot_be_sent_is_refused_before_anything_runs(
    scripts_without_loky: Scripts, mode: str
) -> None:
    scripts = scripts_without_loky
    scripts.write(USERS_MODULE, "users_module.py")
    body = f"""
    def closure_over(base):
        @node(output_name="based")
        def add_base(x):
            return base + x
        return add_base

    @node(output_name="z")
    def leave_a_trace(x):
        open("trace", "w").close()

    if __name__ == "__main__":
        for refused in (Node(lambda x: x, output_name="same"), closure_over(1)):
            try:
                run({{{mode!r}: "parallel"}}, leave_a_trace, refused)
            except SerializationError as error:
                assert repr(refused.name) in str(error), error
                assert "pip install 'hypernodes-core[parallel]'" in str(error), error
            else:
                raise AssertionError("not refused")
        assert not os.path.exists("trace")
        print("refused")
    """
    assert scripts.run(scripts.write(HEAD + body)) == "refused\n"


def test_without_loky_a_session_that_no_worker_can_import_is_named(scripts_without_loky: Scripts) -> None:
    source = """
from hypernodes import *

@node(output_name="y")
def double(x):
    return 2 * x

for mode in ("map_execution", "node_execution"):
    try:
        Pipeline([double], backend=LocalBackend(**{mode: "parallel"})).map({"x": [1, 2]}, map_over="x")
    except SerializationError as error:
        print(error)
"""
    printed = scripts_without_loky.run("-c", source).splitlines()
    message = (
        "node 'double' (<string>:4) cannot be sent to a worker process, which cannot import what is defined in an "
        "interactive session or by `python -c`; pip install 'hypernodes-core[parallel]' sends functions of every kind"
    )
    assert printed == [message, message]


def test_without_loky_a_dead_worker_is_replaced(scripts_without_loky: Scripts) -> None:
    scripts = scripts_without_loky
    scripts.write(USERS_MODULE, "users_module.py")
    body = """
    @node(output_name="z")
    def die_once(x):
        if x == 2 and not os.path.exists("died"):
            open("died", "w").close()
            os._exit(1)
        return x

    if __name__ == "__main__":
        print(run({"map_execution": "parallel"}, die_once))
    """
    assert scripts.run(scripts.write(HEAD + body)) == "{'z': [1, 2, 3]}\n"


@pytest.mark.parametrize("on_error", ["raise", "collect"])
def test_without_loky_a_forgotten_main_guard_is_explained_once(scripts_without_loky: Scripts, on_error: str) -> None:
    scripts = scripts_without_loky
    body = f"""
    from hypernodes import LocalBackend, Node, Pipeline

    open("imported", "a").write(".")
    backend = LocalBackend(map_execution="parallel", max_workers=8)
    pipeline = Pipeline(nodes=[Node(abs, output_name="y")], backend=backend)
    pipeline.map(inputs={{"x": range(100)}}, map_over="x", on_error={on_error!r})
    """
    process = scripts.start(scripts.write(body))
    out, err = finish(process)
    assert process.returncode == 1
    assert out == ""
    assert err.count("Traceback") == 1
    assert err.splitlines()[-1].startswith(
        "hypernodes.errors.WorkerDiedError: worker processes cannot start: a script must start its runs under "
        "`if __name__ == '__main__':`"
    )
    assert "pip install 'hypernodes-core[parallel]'" in err.splitlines()[-1]
    assert (scripts.folder / "imported").read_text() == ".."  # by the script itself, and by one worker


def test_without_loky_a_script_that_workers_cannot_import_is_told_from_a_crash(scripts_without_loky: Scripts) -> None:
    scripts = scripts_without_loky
    body = """
    from hypernodes import LocalBackend, Node, Pipeline

    if __name__ == "__main__":
        pipeline = Pipeline(nodes=[Node(abs, output_name="y")], backend=LocalBackend(map_execution="parallel"))
        pipeline.map(inputs={"x": range(100)}, map_over="x", on_error="collect")
    else:
        open("imported", "a").write(".")
        raise RuntimeError("not twice")
    """
    process = scripts.start(scripts.write(body))
    _, err = finish(process)
    assert process.returncode == 1
    assert "RuntimeError: not twice" in err  # said by the worker
    assert "WorkerDiedError: a worker process ended with exit code 1 before it took any work" in err.splitlines()[-1]
    assert (scripts.folder / "imported").read_text() == "."
