"""`import hypernodes` is fast because it loads next to nothing."""

from __future__ import annotations

import sys

import pytest

from tests.support import run_python

HEAVY = {
    "ast",
    "asyncio",
    "concurrent.futures",
    "dis",
    "hashlib",
    "importlib.metadata",
    "inspect",
    "logging",
    "multiprocessing",
    "pickle",
    "random",
    "sqlite3",
    "ssl",
    "subprocess",
    "sysconfig",
    "tempfile",
    "traceback",
    "zipfile",
}


def modules_loaded_by(code: str) -> set[str]:
    """Names of the modules that a fresh interpreter has loaded after running `code`."""
    return set(run_python("-c", f"{code}\nimport sys; print(*sys.modules)").split())


@pytest.fixture(scope="module")
def loaded() -> set[str]:
    return modules_loaded_by("import hypernodes") - modules_loaded_by("pass")


def test_no_third_party_module_is_loaded(loaded: set[str]) -> None:
    known = {*sys.stdlib_module_names, "hypernodes"}
    assert {name for name in loaded if name.partition(".")[0] not in known} == set()
    assert "hypernodes.pipeline" in loaded


def test_no_heavy_module_of_the_standard_library_is_loaded(loaded: set[str]) -> None:
    assert loaded & HEAVY == set()


def test_running_without_a_cache_loads_no_more() -> None:
    define = "import hypernodes as h; p = h.Pipeline(nodes=[h.node(output_name='y')(lambda x: x)]); "
    without = modules_loaded_by(define)
    assert modules_loaded_by(f"{define}p.run({{'x': 1}}); p.map({{'x': [1, 2]}}, map_over='x')") == without
