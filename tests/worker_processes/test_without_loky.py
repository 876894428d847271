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
                assert "pip install hypernodes-core[parallel]" in str(error), error
            else:
                raise AssertionError("not refused")
        assert not os.path.exists("trace")
        print("refused")
    """
    assert scripts.run(scripts.write(HEAD + body)) == "refused\n"


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


def test_without_loky_a_forgotten_main_guard_is_explained(scripts_without_loky: Scripts) -> None:
    scripts = scripts_without_loky
    scripts.write(USERS_MODULE, "users_module.py")
    process = scripts.start(scripts.write(HEAD + '\n    print(run({"map_execution": "parallel"}, square))\n'))
    out, err = finish(process)
    assert process.returncode == 1
    assert out == ""
    assert "if __name__ == '__main__':" in err.strip().splitlines()[-1] or "WorkerDiedError" in err
