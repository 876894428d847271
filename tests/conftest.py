"""Fixtures for all tests, what some of them need besides core, and which of them take long."""

from __future__ import annotations

import importlib.util
import itertools
import os
import signal
import sys
import textwrap
from collections.abc import Callable, Generator, Iterable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
from _pytest.doctest import DoctestModule
from hypothesis import settings

from tests.support import end_idle_workers

if importlib.util.find_spec("hypernodes_modal"):
    from hypernodes_modal.loopback.pytest_plugin import modal_loopback
    from tests.modal.compiled import modal_loopback_session

    __all__ = ["modal_loopback", "modal_loopback_session"]  # fixtures; Modal is imported when one is used

TESTS = Path(__file__).parent

# What a folder, a file or a test imports besides hypernodes-core[parallel], pytest and Hypothesis. Where that is
# missing it is skipped, with this as the reason.
NEEDS = {
    "caching/test_cache_interface.py::test_sizes_of_arrays_are_those_of_the_memory_they_keep_alive": ("numpy",),
    "caching/test_values_in_memory.py::test_arrays_are_copied": ("numpy",),
    "dask": ("hypernodes_dask",),
    "demo": ("hypernodes_cache", "hypernodes_modal", "numpy"),
    "demo/test_sentence_encoder_example.py": ("wordllama",),
    "demo/test_demo_command.py": ("hypernodes_cache", "hypernodes_modal", "numpy", "scriptures"),
    "disk_cache": ("hypernodes_cache",),
    "disk_cache/test_stored_values.py": ("hypernodes_cache", "numpy"),
    "docs": ("hypernodes_cache", "hypernodes_modal"),
    "errors/test_warnings.py::test_the_disk_cache": ("hypernodes_cache",),
    "explain/test_explain_between_processes.py": ("hypernodes_cache",),
    "modal": ("hypernodes_modal",),
    "plugins/test_plugins.py::test_caches_are_looked_up_like_backends": ("hypernodes_cache",),
    "plugins/test_plugins.py::test_disk_cache_comes_from_its_own_distribution": ("hypernodes_cache",),
    "plugins/test_plugins.py::test_the_command_of_an_extension_is_loaded_only_when_it_is_used": ("hypernodes_cache",),
    "remote/test_transfer_of_own_code.py::test_classes_of_the_project_come_back_as_the_same_classes": ("pydantic",),
    "semantics/test_semantics_matrix_dask.py": ("hypernodes_dask",),
    "semantics/test_semantics_matrix_modal.py": ("hypernodes_modal",),
    "signatures/test_code.py::test_components_name_exactly_what_changed": ("numpy",),
    "signatures/test_libraries.py": ("attrs", "numpy", "pandas", "PIL", "polars", "pydantic"),
    "signatures/test_torture.py": ("hypernodes_cache", "attrs", "pydantic"),
    "signatures/test_value_signatures.py::test_strided_arrays_are_read_by_content": ("numpy",),
    "test_modal_backend.py": ("hypernodes_cache", "hypernodes_modal"),
    "worker_processes/test_ctrl_c.py": ("hypernodes_cache",),
}
# What one version of Python is enough for: what takes long, mostly processes and containers, and what the version makes
# no difference to. Single tests elsewhere carry the marker themselves.
SLOW = (
    "branches/test_generated_branches.py",
    "dask/",
    "demo/",
    "disk_cache/test_cache_trust.py",
    "disk_cache/test_killed_run.py",
    "disk_cache/test_odd_directories.py",
    "disk_cache/test_shared_directory.py",
    "disk_cache/test_storage_faults.py",
    "docs/",
    "modal/",
    "packaging/",
    "performance/test_benchmark_arithmetic.py",
    "remote/test_distributed_generated_pipelines.py",
    "remote/test_integrity.py",
    "remote/test_lost_remote_workers.py",
    "remote/test_preflight.py",
    "remote/test_remote_logs_and_warnings.py",
    "remote/test_repeated_jobs.py",
    "remote/test_side_by_side.py",
    "remote/test_transfer_of_own_code.py",
    "semantics/test_generated_pipelines.py",
    "semantics/test_semantics_matrix_dask.py",
    "semantics/test_semantics_matrix_modal.py",
    "worker_processes/",
)
# But for these, so that each version runs some tests of every feature.
ON_EACH_PYTHON = ("worker_processes/test_functions_in_workers.py",)
# The longest files, in this order, before all others, which last seconds: so no process is left with one at the end.
LONGEST_FIRST = (
    "modal/test_modal_faults.py",
    "remote/test_subprocess_backend.py",
    "modal/loopback/test_loopback_injected_faults.py",
    "semantics/test_semantics_matrix.py",
    "demo/test_demo_command.py",
    "modal/loopback/test_loopback_control_plane.py",
    "modal/test_modal_app.py",
    "worker_processes/test_worker_lifetimes.py",
    "modal/test_modal_nested_and_deployed.py",
    "branches/test_generated_branches.py",
    "worker_processes/test_time_limits_in_workers.py",
    "modal/test_modal_calls.py",
    "worker_processes/test_idle_workers.py",
    "modal/test_modal_unreliable_control_plane.py",
    "worker_processes/test_processes_started_by_nodes.py",
    "disk_cache/test_stored_values.py",
    "resources/test_resources.py",
    "modal/loopback/test_loopback_failures.py",
    "docs/test_original_description.py",
    "signatures/test_torture.py",
    "modal/loopback/test_loopback_containers.py",
    "signatures/test_cycles.py",
    "modal/test_modal_scripts.py",
    "modal/loopback/test_loopback_calls.py",
    "worker_processes/test_dying_workers.py",
    "errors/test_base_exceptions.py",
)

settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.register_profile("thorough", max_examples=20_000, deadline=None, print_blob=True)
settings.load_profile("repeatable")

_numbers = itertools.count()


@pytest.fixture
def load_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., ModuleType]:
    """Write source to a file of its own and import it, as a user's module; for comparing versions of code."""

    def load(source: str, name: str | None = None) -> ModuleType:
        name = name or "users_module"
        path = tmp_path / f"version_{next(_numbers)}" / f"{name}.py"
        path.parent.mkdir()
        path.write_text(textwrap.dedent(source), encoding="utf-8")
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, module)
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture(scope="module", autouse=True)
def no_workers_of_other_modules() -> Iterator[None]:
    """Whichever files a process of pytest was given, and in which order, one finds nothing of the others."""
    yield
    end_idle_workers()
    if "tests.modal.compiled" in sys.modules:
        sys.modules["tests.modal.compiled"].end_containers()


@pytest.fixture(scope="session", autouse=True)
def _configuration_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep what the tests configure, such as the secret key of caches, away from the user's own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("configuration")))
        patch.delenv("HYPERNODES_CACHE_KEY", raising=False)
        yield


def pytest_configure() -> None:
    """Let interrupts through also where they are ignored, as in what a shell script starts in the background."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--live", action="store_true", help="tests/test_modal_backend.py: use Modal's cloud")


class NotInstalled(pytest.File):
    """A test file whose imports would fail."""

    reason = ""

    def collect(self) -> Iterable[pytest.Item]:
        pytest.skip(self.reason)


def missing(modules: Iterable[str]) -> str:
    """Return the reason to skip what imports these modules; empty when all of them are installed."""
    names = [name for name in modules if importlib.util.find_spec(name) is None]
    return f"needs {', '.join(names)}, which is not installed here" if names else ""


def needs_of(path: Path) -> tuple[str, ...]:
    """Return what is needed by a test file, or else by the folder of tests that it is in."""
    relative = path.relative_to(TESTS)
    return NEEDS.get(relative.as_posix()) or NEEDS.get(relative.parts[0], ())


@pytest.hookimpl(wrapper=True)
def pytest_collect_file(
    file_path: Path, parent: pytest.Collector
) -> Generator[None, list[pytest.Collector], list[pytest.Collector]]:
    """Skip test files that cannot be imported; look for doctests in the packages only."""
    collectors = yield
    if collectors and (reason := missing(needs_of(file_path))):
        skipped = NotInstalled.from_parent(parent, path=file_path)
        skipped.reason = reason
        return [skipped]
    return [found for found in collectors if not isinstance(found, DoctestModule)]


def is_slow(path: Path) -> bool:
    """Whether `tox` runs all of a file on one Python only."""
    if not path.is_relative_to(TESTS):
        return False
    name = path.relative_to(TESTS).as_posix()
    return name.startswith(SLOW) and name not in ON_EACH_PYTHON


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave files alone of which nothing is to run: some import much."""
    return ("not slow" in config.option.markexpr and collection_path.is_file() and is_slow(collection_path)) or None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what runs on one Python only, and put the longest files first."""
    for item in items:
        if is_slow(item.path):
            item.add_marker(pytest.mark.slow)
    place = {TESTS / name: number for number, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: place.get(item.path, len(place)))


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call() -> Generator[None, object, object]:
    """Hide the name of the test, which pytest sets in the environment.

    Processes are used again only where the environment is as it was when they started, so that each test would have to
    start its own.
    """
    current = os.environ.pop("PYTEST_CURRENT_TEST", None)
    try:
        return (yield)
    finally:
        if current is not None:
            os.environ["PYTEST_CURRENT_TEST"] = current


def pytest_runtest_setup(item: pytest.Item) -> None:
    name = getattr(item, "originalname", item.name)
    if item.path.is_relative_to(TESTS) and (
        reason := missing(NEEDS.get(f"{item.path.relative_to(TESTS).as_posix()}::{name}", ()))
    ):
        pytest.skip(reason)
