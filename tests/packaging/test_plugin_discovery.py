"""Discovery of plug-ins, proven with distributions that are built and installed for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.packaging.environments import Environment, build_plugin

pytestmark = pytest.mark.packaging

TOY_BACKEND = """
    import hypernodes.backend

    class ToyBackend(hypernodes.backend.LocalBackend):
        "A third party's backend: runs here, and says so."

        def run(self, request):
            print("on the toy backend")
            return super().run(request)
    """

LIST_BACKENDS = """
    import hypernodes

    listed = [
        {"name": b.name, "distribution": b.distribution, "version": b.version, "loadable": b.loadable, "error": b.error}
        for b in hypernodes.backends()
    ]
    """

IMPORT_TOY_BACKEND = """
    try:
        from hypernodes.backend import ToyBackend
    except ImportError as error:
        print(error)
    """

RUN_ON_TOY_BACKEND = """
    import sys
    from hypernodes import LocalBackend, Pipeline, node

    assert "toy_backend" not in sys.modules, "a plug-in must not be imported until it is asked for"

    from hypernodes.backend import ToyBackend

    @node(output_name="y")
    def increment(x: int) -> int:
        return x + 1

    print(Pipeline(nodes=[increment], backend=ToyBackend()).run(inputs={"x": 1}))
    """


def toy_backend(
    folder: Path, distribution: str = "acme-toy", module: str = "toy_backend", class_name: str = "ToyBackend"
) -> Path:
    return build_plugin(
        folder,
        distribution,
        group="hypernodes.backends",
        entry_points={"toy": f"{module}:{class_name}"},
        module=module,
        source=TOY_BACKEND.replace("ToyBackend", class_name),
    )


def broken_backend(folder: Path) -> Path:
    return build_plugin(
        folder,
        "acme-broken",
        group="hypernodes.backends",
        entry_points={"broken": "broken_backend:BrokenBackend"},
        module="broken_backend",
        source="import a_module_that_nobody_has",
    )


def listed(environment: Environment) -> dict[str, list[dict[str, object]]]:
    """What `hypernodes.backends()` lists, by name."""
    found: dict[str, list[dict[str, object]]] = {}
    for entry in environment.evaluate(LIST_BACKENDS, "listed"):
        found.setdefault(entry["name"], []).append(entry)
    return found


def test_core_alone_lists_its_own_backend(core_alone: Environment) -> None:
    version = core_alone.distributions()["hypernodes-core"]
    expected = {"name": "local", "distribution": "hypernodes-core", "version": version, "loadable": True, "error": None}
    assert listed(core_alone)["local"] == [expected]


def test_installed_backend_is_found_and_runs(core_environment: Environment, tmp_path: Path) -> None:
    core_environment.install(toy_backend(tmp_path), index=False)
    expected = {"name": "toy", "distribution": "acme-toy", "version": "2.5.0", "loadable": True, "error": None}
    assert listed(core_environment)["toy"] == [expected]
    assert core_environment.run(RUN_ON_TOY_BACKEND).splitlines() == ["on the toy backend", "{'y': 2}"]


@pytest.mark.parametrize("rival_class", ["ToyBackend", "AnotherBackend"])
def test_two_distributions_claiming_one_name_are_both_named(
    rival_class: str, core_environment: Environment, tmp_path: Path
) -> None:
    rival = toy_backend(tmp_path, "globex-toy", "globex_toy_backend", rival_class)
    core_environment.install(toy_backend(tmp_path), rival, index=False)
    message = core_environment.run(IMPORT_TOY_BACKEND)
    assert "acme-toy" in message
    assert "globex-toy" in message
    assert {entry["distribution"] for entry in listed(core_environment)["toy"]} == {"acme-toy", "globex-toy"}
    assert not any(entry["loadable"] for entry in listed(core_environment)["toy"])


def test_broken_plugin_names_itself_and_the_cause_and_breaks_nothing_else(
    core_environment: Environment, tmp_path: Path
) -> None:
    core_environment.install(toy_backend(tmp_path), broken_backend(tmp_path), index=False)

    (broken,) = listed(core_environment)["broken"]
    assert broken["loadable"] is False
    assert "a_module_that_nobody_has" in str(broken["error"])

    message = core_environment.run(IMPORT_TOY_BACKEND.replace("ToyBackend", "BrokenBackend"))
    assert "acme-broken" in message
    assert "a_module_that_nobody_has" in message

    (toy,) = listed(core_environment)["toy"]
    assert toy["loadable"] is True
    assert core_environment.run(RUN_ON_TOY_BACKEND).splitlines() == ["on the toy backend", "{'y': 2}"]


def test_core_alone_says_what_the_cache_command_takes(core_alone: Environment) -> None:
    script = "import sys; from hypernodes.cli import main; sys.stderr = sys.stdout; print(main(['cache', 'ls', '.']))"
    assert core_alone.run(script).splitlines() == [
        "hypernodes: the command 'cache' is in the distribution hypernodes-cache, which is not installed: "
        "pip install hypernodes-cache",
        "2",
    ]
