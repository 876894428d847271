"""Names that extensions provide. Real distributions, broken and rival ones, are tested in `tests/packaging`."""

from __future__ import annotations

import importlib.metadata
import re
import textwrap
from pathlib import Path

import pytest

import hypernodes
import hypernodes.backend
from hypernodes import MissingPluginError, PluginError, plugins
from hypernodes.cli import main
from tests.support import run_python


def test_cores_own_classes_are_registered_like_any_extension() -> None:
    local = {plugin.name: plugin for plugin in hypernodes.backends()}["local"]
    assert (local.class_name, local.distribution, local.loadable) == ("LocalBackend", "hypernodes-core", True)
    assert local.version == hypernodes.__version__
    assert local.error is None
    memory = {plugin.name: plugin for plugin in hypernodes.caches()}["memory"]
    assert (memory.class_name, memory.distribution, memory.loadable) == ("MemoryCache", "hypernodes-core", True)


def test_an_extension_shows_where_it_comes_from() -> None:
    plugin = plugins.Plugin("toy", "ToyBackend", "toy-backend", "1.2", loadable=True)
    assert str(plugin) == "toy: ToyBackend from toy-backend 1.2"
    broken = plugins.Plugin("toy", "ToyBackend", "toy-backend", "1.2", loadable=False, error="it does not start")
    assert str(broken) == "toy: ToyBackend from toy-backend 1.2 - not usable: it does not start"


def test_disk_cache_comes_from_its_own_distribution() -> None:
    from hypernodes_cache import DiskCache

    assert hypernodes.DiskCache is DiskCache
    assert "disk" in [plugin.name for plugin in hypernodes.caches()]


def test_an_unknown_name_suggests_the_nearest_one() -> None:
    with pytest.raises(AttributeError) as caught:
        hypernodes.backend.LocalBackand  # noqa: B018
    assert str(caught.value) == (
        "module 'hypernodes.backend' has no attribute 'LocalBackand' (did you mean 'LocalBackend'?)"
    )
    assert caught.value.name == "LocalBackand"


def test_a_name_unlike_any_other_suggests_nothing() -> None:
    with pytest.raises(AttributeError) as caught:
        hypernodes.Quux  # noqa: B018
    assert str(caught.value) == "module 'hypernodes' has no attribute 'Quux'"


@pytest.mark.parametrize("module", [hypernodes, hypernodes.backend, hypernodes.cache])
def test_private_and_special_names_are_not_looked_up_in_extensions(
    module: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plugins, "find_class", None)
    assert not hasattr(module, "__wrapped__")
    assert not hasattr(module, "_private")


def test_a_backend_is_not_found_among_caches_nor_a_cache_among_backends() -> None:
    with pytest.raises(AttributeError, match=r"has no attribute 'MemoryCache' \(it is in hypernodes\.cache\)"):
        hypernodes.backend.MemoryCache  # noqa: B018
    with pytest.raises(AttributeError, match=r"has no attribute 'LocalBackend' \(it is in hypernodes\.backend\)"):
        hypernodes.cache.LocalBackend  # noqa: B018


def test_caches_are_looked_up_like_backends() -> None:
    from hypernodes.cache import DiskCache
    from hypernodes_cache import DiskCache as OwnName

    assert DiskCache is OwnName
    with pytest.raises(AttributeError, match=r"no attribute 'DiskCashe' \(did you mean 'DiskCache'\?\)"):
        hypernodes.cache.DiskCashe  # noqa: B018
    assert "DiskCache" in dir(hypernodes.cache)
    with pytest.raises(MissingPluginError, match="pip install hypernodes-cache"):
        plugins.find_class("DiskCache", [], "hypernodes.cache")


@pytest.mark.parametrize("module", [hypernodes.backend, hypernodes.cache])
def test_a_class_that_no_distribution_provides_lists_those_that_there_are(module: object) -> None:
    with pytest.raises(
        AttributeError, match=r"no attribute 'RayThing'; installed distributions provide .*(Local|Memory)"
    ):
        module.RayThing  # type: ignore[attr-defined]  # noqa: B018
    with pytest.raises(AttributeError) as caught:
        module.RayBackend  # type: ignore[attr-defined]  # noqa: B018
    assert "did you mean" not in str(caught.value)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "from hypernodes.backend import ModalBakend",
            r"'ModalBakend' from 'hypernodes.backend' \(did you mean 'Modal",
        ),
        ("from hypernodes.cache import DiskCashe", r"from 'hypernodes.cache' \(did you mean 'DiskCache'\?\)"),
        ("from hypernodes import DiskCashe", r"from 'hypernodes' \(did you mean 'DiskCache'\?\)"),
        ("from hypernodes import Pipelin", r"from 'hypernodes' \(did you mean 'Pipeline'\?\)"),
        (
            "from hypernodes.backend import RayBackend",
            r"'hypernodes.backend'; installed distributions provide (DaskBackend, )?Local",
        ),
        ("from hypernodes import RayBackend", r"'hypernodes'; installed distributions provide (DaskBackend, )?Local"),
        ("from hypernodes.cache import LocalBackend", r"from 'hypernodes.cache' \(it is in hypernodes.backend\)"),
    ],
)
def test_the_import_statement_shows_the_hint_too(line: str, message: str) -> None:
    with pytest.raises(ImportError, match=message):
        exec(line, {})


def test_modules_of_the_package_are_imported_by_from() -> None:
    code = "from hypernodes import explain; from hypernodes.backend import local; from hypernodes.cache import size"
    assert run_python("-c", code) == ""


def installed(folder: Path, group: str, source: str) -> dict[str, plugins.Plugin]:
    """Install a plug-in named "toy" into a folder that is on the path; return what is listed then."""
    metadata = folder / "acme_toy-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-toy\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[{group}]\ntoy = acme_toy_{folder.name}:Toy\n")
    (folder / f"acme_toy_{folder.name}.py").write_text(source)
    listing = hypernodes.backends() if group == plugins.BACKENDS else hypernodes.caches()
    return {plugin.name: plugin for plugin in listing}


@pytest.mark.parametrize("group", [plugins.BACKENDS, plugins.CACHES])
@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("raise SystemExit(3)", "cannot be loaded from .*: SystemExit: 3"),
        ("raise GeneratorExit", "cannot be loaded from .*: GeneratorExit: "),
        ("import sys; sys.exit('no licence')", "cannot be loaded from .*: SystemExit: no licence"),
        ("Toy = 3", r"must name a subclass of hypernodes\.\w+, not a int"),
        ("class Toy: pass", r"must name a subclass of hypernodes\.\w+, which class Toy is not"),
        ("from hypernodes import PipelineCallback as Toy", "which class PipelineCallback is not"),
        ("def Toy(): pass", "not a function"),
        ("", "AttributeError"),
    ],
)
def test_a_plugin_that_cannot_be_used_is_listed_with_the_reason_and_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, group: str, source: str, problem: str
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    listed = installed(tmp_path, group, source)
    toy = listed.pop("toy")
    assert not toy.loadable
    assert re.search(problem, toy.error or "")
    assert "acme-toy 1.0" in (toy.error or "")
    assert any(plugin.loadable for plugin in listed.values())
    module = hypernodes.backend if group == plugins.BACKENDS else hypernodes.cache
    with pytest.raises(PluginError, match=problem):
        module.Toy  # type: ignore[attr-defined]  # noqa: B018


def test_a_warning_of_a_plugin_points_at_the_users_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    source = """
    from hypernodes import MemoryCache
    from hypernodes.extension import warn_caller

    class Toy(MemoryCache):
        def clear(self):
            warn_caller("what it held is gone", UserWarning)
    """
    assert installed(tmp_path, plugins.CACHES, textwrap.dedent(source))["toy"].loadable
    cache = hypernodes.cache.Toy()  # type: ignore[attr-defined]
    with pytest.warns(UserWarning, match="what it held is gone") as shown:
        cache.clear()
    assert [warning.filename for warning in shown] == [__file__]


def test_a_known_extension_that_is_missing_says_what_to_install() -> None:
    """Looking in no group at all is what an environment without extensions does."""
    with pytest.raises(MissingPluginError) as caught:
        plugins.find_class("ModalBackend", [], "hypernodes.backend")
    assert str(caught.value) == (
        "ModalBackend is in the distribution hypernodes-modal, which is not installed: pip install hypernodes-modal"
    )
    assert caught.value.plugin_name == "ModalBackend"
    assert caught.value.distributions == ("hypernodes-modal",)
    assert isinstance(caught.value, PluginError)
    assert isinstance(caught.value, ImportError)


def test_a_command_that_is_missing_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(plugins, "COMMANDS", "no.such.group")
    assert main(["cache", "ls", "somewhere"]) == 2
    assert "pip install hypernodes-cache" in capsys.readouterr().err
    assert main([]) == 0
    assert "cache" in capsys.readouterr().out


def test_the_command_of_an_extension_is_loaded_only_when_it_is_used(tmp_path: Path) -> None:
    script = "import sys; from hypernodes.cli import main; main({}); print('hypernodes_cache' in sys.modules)"
    assert run_python("-c", script.format([])).splitlines()[-1] == "False"
    assert run_python("-c", script.format(["cache", "ls", str(tmp_path)])).splitlines()[-1] == "True"


def test_dir_lists_what_can_be_imported() -> None:
    for module in (hypernodes, hypernodes.backend):
        for name in module.__all__:
            assert name in dir(module)
    assert "DiskCache" in dir(hypernodes) or not any(p.name == "disk" for p in hypernodes.caches())


def test_everything_that_is_exported_exists() -> None:
    for module in (hypernodes, hypernodes.backend, hypernodes.cache):
        for name in module.__all__:
            assert getattr(module, name) is not None


def test_distributions_are_read_again_only_when_something_was_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pickling a function that has no module asks every module for its name, and so do others."""
    monkeypatch.syspath_prepend(tmp_path)
    assert not hasattr(hypernodes.backend, "ToyBackend")
    with monkeypatch.context() as patch:
        patch.setattr(importlib.metadata, "entry_points", None)
        assert not hasattr(hypernodes.backend, "AnotherBackend")
    information = tmp_path / "toy_backend-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-backend\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text("[hypernodes.backends]\ntoy = toy_backend:ToyBackend\n")
    (tmp_path / "toy_backend.py").write_text("from hypernodes import Backend\n\nclass ToyBackend(Backend): pass\n")
    assert hypernodes.backend.ToyBackend.__module__ == "toy_backend"
