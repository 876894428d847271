"""Real distributions, built and installed into real environments that hold nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import venv
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PACKAGES = {path.parent.name: path.parent for path in sorted(ROOT.glob("packages/*/pyproject.toml"))}
EXTENSIONS = [name for name in PACKAGES if name != "hypernodes-core"]


class Environment:
    """A virtual environment that starts without any distribution, not even pip.

    Args:
        home: Folder to make it in; scripts run beside it, in `<home>-scripts`.
    """

    def __init__(self, home: Path) -> None:
        venv.create(home)
        self.python = home / "bin" / "python"
        self.bin = home / "bin"
        self.scripts = home.with_name(f"{home.name}-scripts")
        self.scripts.mkdir()

    def install(self, *requirements: str | Path, index: bool = True) -> None:
        """Install with the pip of the calling Python; `index=False` allows nothing but the files given."""
        options = ["-q", "--disable-pip-version-check", *([] if index else ["--no-index"])]
        run([sys.executable, "-m", "pip", "--python", self.python, "install", *options, *requirements])

    def distributions(self) -> dict[str, str]:
        """Name and version of everything that is installed."""
        found: dict[str, str] = self.evaluate(
            "import importlib.metadata as metadata",
            "{found.name: found.version for found in metadata.distributions()}",
        )
        return found

    def run(self, code: str) -> str:
        """What a script with this code prints. It sees only what is installed: no checkout, no user site."""
        script = self.scripts / "script.py"
        script.write_text(textwrap.dedent(code), encoding="utf-8")
        return run([self.python, "-I", script], cwd=self.scripts)

    def evaluate(self, statements: str, expression: str) -> Any:
        """The value of an expression after the statements, brought over as JSON."""
        return json.loads(self.run(f"{textwrap.dedent(statements)}\nimport json\nprint(json.dumps({expression}))"))


def run(command: list[str | Path], cwd: Path | None = None) -> str:
    """What the command prints; its complaints are in the failure when it fails."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    result = subprocess.run(command, cwd=cwd, env=environ, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, f"{' '.join(map(str, command))}\n{result.stdout}\n{result.stderr}"
    return result.stdout


def build(project: Path, out: Path, *targets: str) -> list[Path]:
    """Build a project with the hatchling that is installed here; without targets: sdist, and the wheel from it."""
    run([sys.executable, "-m", "build", "--no-isolation", *targets, "--outdir", out, project])
    return sorted(out.iterdir())


def build_plugin(
    folder: Path, distribution: str, *, group: str, entry_points: dict[str, str], module: str, source: str
) -> Path:
    """The wheel of a distribution with one module, such as a third party would write."""
    project = folder / distribution
    project.mkdir()
    (project / f"{module}.py").write_text(textwrap.dedent(source), encoding="utf-8")
    lines = [
        "[build-system]",
        'requires = ["hatchling"]',
        'build-backend = "hatchling.build"',
        "[project]",
        f'name = "{distribution}"',
        'version = "2.5.0"',
        'dependencies = ["hypernodes-core"]',
        f'[project.entry-points."{group}"]',
        *(f'{name} = "{target}"' for name, target in entry_points.items()),
        "[tool.hatch.build.targets.wheel]",
        f'only-include = ["{module}.py"]',
    ]
    (project / "pyproject.toml").write_text("\n".join(lines), encoding="utf-8")
    return build(project, project / "dist", "--wheel")[0]
