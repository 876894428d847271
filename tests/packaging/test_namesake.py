"""The older, separate project `hypernodes` of PyPI, installed and uninstalled before and after: what to do is said."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.packaging.environments import Environment, build, run

pytestmark = pytest.mark.packaging

Wheels = dict[str, Path]

# As in hypernodes 0.4.8, with the names of files that matter.
NAMESAKE = {
    "__init__.py": "from .cache import DiskCache\nfrom .hypernode import HyperNode\nfrom .pipeline import Pipeline\n",
    "cache.py": "class DiskCache: pass\n",
    "callbacks.py": "",
    "hypernode.py": "class HyperNode: pass\n",
    "pipeline.py": "class Pipeline: pass\n",
    "pipeline_node.py": "",
}
PROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[project]
name = "hypernodes"
version = "0.4.8"
"""


@pytest.fixture(scope="module")
def namesake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    project = tmp_path_factory.mktemp("namesake")
    (project / "pyproject.toml").write_text(PROJECT)
    (project / "hypernodes").mkdir()
    for name, source in NAMESAKE.items():
        (project / "hypernodes" / name).write_text(source)
    return build(project, project / "dist", "--wheel")[0]


def uninstall(environment: Environment, *names: str) -> None:
    run([sys.executable, "-m", "pip", "--python", environment.python, "uninstall", "-qy", *names])


def imported(environment: Environment) -> str:
    """Import `Pipeline` from a script; return what it says, without the traceback."""
    (environment.scripts / "script.py").write_text("from hypernodes import MapRequest, Pipeline\nprint('fine')\n")
    done = subprocess.run(
        [environment.python, "-I", "script.py"], cwd=environment.scripts, capture_output=True, text=True, timeout=240
    )
    assert (done.returncode == 0) == ("fine" in done.stdout)
    return done.stdout + done.stderr


def check_repair(environment: Environment, said: str, wheels: Wheels) -> None:
    """Do what it says; everything works then."""
    assert "'hypernodes'" in said
    assert "Run `pip uninstall hypernodes hypernodes-core`, then install hypernodes-core again" in said.replace(
        "\n", " "
    )
    uninstall(environment, "hypernodes", "hypernodes-core")
    environment.install(wheels["hypernodes-core"], index=False)
    assert imported(environment) == "fine\n"


def test_installed_over_core_it_is_named(core_environment: Environment, namesake: Path, wheels: Wheels) -> None:
    core_environment.install(namesake, index=False)
    said = imported(core_environment)
    assert "ImportError: the older, separate project 'hypernodes' of PyPI was installed over hypernodes-core" in said
    check_repair(core_environment, said, wheels)


def test_installed_over_core_and_uninstalled_it_is_named(
    core_environment: Environment, namesake: Path, wheels: Wheels
) -> None:
    core_environment.install(namesake, index=False)
    uninstall(core_environment, "hypernodes")
    said = imported(core_environment)
    assert "ImportError: hypernodes-core is incomplete" in said
    check_repair(core_environment, said, wheels)


def test_installed_before_core_it_is_warned_of(empty_environment: Environment, namesake: Path, wheels: Wheels) -> None:
    empty_environment.install(namesake, index=False)
    empty_environment.install(wheels["hypernodes-core"], index=False)
    said = imported(empty_environment)
    assert "script.py:1: HyperNodesWarning: the older, separate project 'hypernodes'" in said  # at the caller's line
    uninstall(empty_environment, "hypernodes")
    said = imported(empty_environment)
    assert "ImportError: hypernodes-core is incomplete" in said
    check_repair(empty_environment, said, wheels)
