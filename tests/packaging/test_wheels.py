"""The wheels as a user gets them: installed in empty environments, with no source checkout on the path."""

from __future__ import annotations

import sys
import tarfile
from collections.abc import Callable
from email.parser import Parser
from pathlib import Path
from zipfile import ZipFile

import pytest

from tests.packaging.environments import EXTENSIONS, PACKAGES, ROOT, Environment, build, run

pytestmark = pytest.mark.packaging

Wheels = dict[str, Path]

every_package = pytest.mark.parametrize("name", PACKAGES)
every_extension = pytest.mark.parametrize("name", EXTENSIONS)


@every_package
def test_wheel_holds_the_whole_package_and_nothing_else(name: str, wheels: Wheels) -> None:
    source = PACKAGES[name] / "src"
    expected = {
        path.relative_to(source).as_posix()
        for path in source.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    if name == "hypernodes-core":
        expected.add("hypernodes.py")  # says how to repair an incomplete package
    with ZipFile(wheels[name]) as wheel:
        found = {entry for entry in wheel.namelist() if ".dist-info/" not in entry}
        licence = next(entry for entry in wheel.namelist() if entry.endswith("licenses/LICENSE"))
        assert wheel.read(licence) == (ROOT / "LICENSE").read_bytes()
    assert found == expected
    assert any(entry.endswith("/py.typed") for entry in found)


def test_an_editable_installation_has_nothing_that_comes_before_the_checkout(tmp_path: Path) -> None:
    core = PACKAGES["hypernodes-core"]
    run([sys.executable, "-m", "hatchling", "build", "-t", "wheel:editable", "-d", tmp_path], cwd=core)
    (wheel,) = tmp_path.iterdir()
    with ZipFile(wheel) as editable:
        files = [entry for entry in editable.namelist() if ".dist-info/" not in entry]
        assert [Path(file).suffix for file in files] == [".pth"]
        assert editable.read(files[0]).decode().splitlines() == [str(core / "src")]


@every_package
def test_wheel_from_the_sdist_equals_the_wheel_from_the_checkout(name: str, wheels: Wheels, tmp_path: Path) -> None:
    from_checkout, from_sdist = (
        ZipFile(path) for path in (build(PACKAGES[name], tmp_path, "--wheel")[0], wheels[name])
    )
    with from_checkout, from_sdist:
        assert {info.filename: info.CRC for info in from_checkout.infolist()} == {
            info.filename: info.CRC for info in from_sdist.infolist()
        }


@every_package
def test_sdist_holds_what_a_packager_needs(name: str, distributions: dict[str, list[Path]]) -> None:
    sdist = next(file for file in distributions[name] if file.name.endswith(".tar.gz"))
    with tarfile.open(sdist) as archive:
        top = {Path(*Path(entry).parts[1:2]).as_posix() for entry in archive.getnames()}
    assert {"LICENSE", "README.md", "pyproject.toml", "src", "PKG-INFO"} <= top


@every_package
def test_hatch_and_the_wheel_say_the_one_version(name: str, wheels: Wheels, core_alone: Environment) -> None:
    version = core_alone.evaluate("import hypernodes", "hypernodes.__version__")
    with ZipFile(wheels[name]) as wheel:
        metadata_file = next(entry for entry in wheel.namelist() if entry.endswith(".dist-info/METADATA"))
        metadata = Parser().parsestr(wheel.read(metadata_file).decode())
    assert metadata["Version"] == version
    assert run([sys.executable, "-m", "hatchling", "version"], cwd=PACKAGES[name]).strip() == version


def test_core_runs_alone_with_no_other_distribution_installed(core_alone: Environment) -> None:
    assert list(core_alone.distributions()) == ["hypernodes-core"]
    core_alone.run(
        """
        import sys
        import hypernodes
        from hypernodes import MemoryCache, Pipeline, node

        assert hypernodes.__file__.startswith(sys.prefix), hypernodes.__file__

        @node(output_name="clean")
        def strip(verse: str) -> str:
            return verse.strip()

        @node(output_name="words")
        def count(clean: str) -> int:
            return len(clean.split())

        @node(output_name="total")
        def add(counts: list) -> int:
            return sum(counts)

        per_verse = Pipeline(nodes=[strip, count])
        book = Pipeline(
            nodes=[
                per_verse.as_node(
                    input_mapping={"verses": "verse"}, output_mapping={"words": "counts"}, map_over="verses"
                ),
                add,
            ],
            cache=MemoryCache(),
        )
        for _ in range(2):
            assert book.run(inputs={"verses": [" a b ", "c"]}, output_name="total") == {"total": 3}
        assert per_verse.map(inputs={"verse": ["a", "b c"]}, map_over="verse", output_name="words") == {"words": [1, 2]}
        """
    )


def test_command_line_is_installed_and_also_a_module(core_alone: Environment) -> None:
    version = core_alone.distributions()["hypernodes-core"]
    assert version in run([core_alone.bin / "hypernodes", "--version"], cwd=core_alone.scripts)
    assert version in run([core_alone.python, "-I", "-m", "hypernodes", "--version"])


def test_disk_cache_keeps_results_between_processes(extended: Callable[[str], Environment]) -> None:
    environment = extended("hypernodes-cache")
    script = """
        from hypernodes import DiskCache, Pipeline, node

        @node(output_name="doubled")
        def double(x: int) -> int:
            print("computed")
            return 2 * x

        pipeline = Pipeline(nodes=[double], cache=DiskCache(path="cache"))
        print(pipeline.run(inputs={"x": 21})["doubled"])
        """
    assert environment.run(script).split() == ["computed", "42"]
    assert environment.run(script).split() == ["42"]


def test_disk_cache_without_its_distribution_says_what_to_install(core_alone: Environment) -> None:
    message = core_alone.run(
        """
        try:
            from hypernodes import DiskCache
        except ImportError as error:
            print(error)
        """
    )
    assert "pip install hypernodes-cache" in message


def test_modal_backend_without_its_distribution_says_what_to_install(core_alone: Environment) -> None:
    message = core_alone.run(
        """
        try:
            from hypernodes.backend import ModalBackend
        except ImportError as error:
            print(error)
        """
    )
    assert "pip install hypernodes-modal" in message


def test_modal_backend_runs_a_pipeline_from_the_wheels(extended: Callable[[str], Environment]) -> None:
    printed = extended("hypernodes-modal").run(
        """
        import sys
        import modal
        from hypernodes import Pipeline, node
        from hypernodes.backend import ModalBackend
        from hypernodes_modal.loopback import ModalLoopback

        @node(output_name="doubled")
        def double(x: int) -> int:
            return 2 * x

        image = modal.Image.debian_slim(python_version="{}.{}".format(*sys.version_info[:2]))
        with ModalLoopback(), ModalBackend(image=image) as backend:
            print(Pipeline(nodes=[double], backend=backend).run(inputs={"x": 21}))
        """
    )
    assert "{'doubled': 42}" in printed


@every_extension
def test_extension_works_with_the_built_core(name: str, extended: Callable[[str], Environment]) -> None:
    environment = extended(name)
    loaded = environment.evaluate(
        f"""
        import {name.replace("-", "_")}
        from importlib.metadata import distribution

        loaded = [point.load().__name__ for point in distribution("{name}").entry_points]
        """,
        "loaded",
    )
    assert loaded, "an extension that registers nothing cannot be found"
    run([sys.executable, "-m", "pip", "--python", environment.python, "check"])


def test_extra_all_brings_the_extensions(empty_environment: Environment, wheels: Wheels) -> None:
    core, *extensions = wheels["hypernodes-core"], *(wheels[name] for name in EXTENSIONS)
    empty_environment.install(f"hypernodes-core[all] @ {core.as_uri()}", *extensions)
    assert {"hypernodes-cache", "hypernodes-modal", "loky"} <= empty_environment.distributions().keys()
