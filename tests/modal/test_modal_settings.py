"""Settings of `ModalBackend` that cannot be are refused when it is made, before anything runs."""

from __future__ import annotations

import re
import sys
from typing import Any

import modal
import pytest

from hypernodes import ConfigurationError, Pipeline, node
from hypernodes.backend import ModalBackend as DiscoveredBackend
from hypernodes_modal import ModalBackend

IMAGE = modal.Image.debian_slim()
SECRET = "sk-this-must-not-be-shown"


def test_modal_backend_is_found_as_a_backend_of_core():
    assert DiscoveredBackend is ModalBackend


@pytest.mark.parametrize("image", [None, "python:3.12", modal.Image], ids=repr)
def test_an_image_that_is_none_is_a_type_error(image):
    with pytest.raises(TypeError, match=r"image must be a modal\.Image"):
        ModalBackend(image=image)


WRONG: list[dict[str, Any]] = [
    {"gpu": ""},
    {"gpu": 1},
    {"gpu": []},
    {"gpu": ["A10G", 2]},
    {"gpu": "H100:0"},
    {"gpu": "H100:two"},
    {"memory": "256 G"},
    {"memory": "lots"},
    {"memory": 0},
    {"memory": 1.5},
    {"memory": True},
    {"memory": ("2GB", "1GB")},
    {"memory": ("1GB", "2GB", "3GB")},
    {"cpu": 0},
    {"cpu": -1},
    {"cpu": "two"},
    {"cpu": (2, 1)},
    {"cpu": (1,)},
    {"timeout": 0},
    {"timeout": 24 * 3600 + 1},
    {"timeout": 1.5},
    {"volumes": {"data": modal.Volume.from_name("v")}},
    {"volumes": {"/": modal.Volume.from_name("v")}},
    {"volumes": {"/root": modal.Volume.from_name("v")}},
    {"volumes": {"/data": "v"}},
    {"volumes": ["/data"]},
    {"secrets": [{"TOKEN": "x"}]},
    {"retries": -1},
    {"retries": 11},
    {"retries": "3"},
    {"max_containers": 0},
    {"min_containers": -1},
    {"min_containers": 3, "max_containers": 2},
    {"scaledown_window": 1},
    {"scaledown_window": 3601},
    {"app_name": "no spaces, please"},
    {"function_options": {"no_such_option": 1}},
    {"function_options": {"gpu": "T4"}, "gpu": "T4"},
    {"function_options": {"serialized": True}},
    {"function_options": {"image": IMAGE}},
    {"node_execution": "quickly"},
    {"map_execution": "quickly"},
    {"max_workers": 0},
]


@pytest.mark.parametrize("settings", WRONG, ids=lambda settings: re.sub(" at 0x[0-9a-f]+", "", repr(settings)))
def test_a_wrong_setting_is_refused_and_named(settings):
    with pytest.raises(ConfigurationError) as caught:
        ModalBackend(image=IMAGE, **settings)
    message = str(caught.value).lower()
    assert any(name in message or name.rstrip("s") in message for name in settings)


def test_a_secret_that_is_passed_as_text_is_not_shown():
    with pytest.raises(ConfigurationError, match=r"modal\.Secret") as caught:
        ModalBackend(image=IMAGE, secrets=[SECRET])
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("memory", "mib"),
    [("32GB", 30518), ("512MiB", 512), ("1.5 GiB", 1536), (256, 256), (("512MiB", "1GiB"), (512, 1024)), (None, None)],
    ids=repr,
)
def test_memory_is_handed_to_modal_in_mib(memory, mib):
    assert ModalBackend(image=IMAGE, memory=memory).function_options.get("memory") == mib


def test_every_setting_that_modal_knows_is_accepted():
    backend = ModalBackend(
        image=IMAGE,
        gpu=["H100:2", "A10G"],
        memory=("1GB", "2GB"),
        cpu=(0.5, 2),
        timeout=60,
        volumes={"/data": modal.Volume.from_name("v")},
        secrets=[modal.Secret.from_dict({"TOKEN": "x"})],
        retries=modal.Retries(max_retries=2),
        region=["us-east", "eu-west"],
        cloud="aws",
        max_containers=2,
        min_containers=1,
        scaledown_window=300,
        app_name="retrieval",
        function_options={"ephemeral_disk": 524_288, "startup_timeout": 60},
        environment_name="dev",
        detach=True,
        show_logs=True,
        node_execution="threaded",
        map_execution="async",
        max_workers=8,
    )
    assert repr(backend) == "ModalBackend(gpu=['H100:2', 'A10G'], memory=(954, 1907), cpu=(0.5, 2.0))"


OWN_PYTHON = "{}.{}".format(*sys.version_info[:2])


@pytest.mark.parametrize(
    ("image", "python"),
    [
        (modal.Image.debian_slim(python_version="3.11"), "3.11"),
        (modal.Image.debian_slim(python_version="3.13.1").env({"A": "1"}).uv_pip_install("x"), "3.13"),
        (modal.Image.debian_slim(python_version="3.11").apt_install("x").add_local_file(__file__, "/f"), "3.11"),
        (modal.Image.debian_slim(), OWN_PYTHON),
        (modal.Image.micromamba(python_version="3.11"), "3.11"),
        (modal.Image.from_registry("debian:12", add_python="3.11").run_commands("true"), "3.11"),
        (modal.Image.from_registry("python:3.11"), None),
    ],
)
def test_the_python_of_an_image_is_known_before_it_is_built_where_it_was_said(image, python):
    assert ModalBackend(image=image).find_python_version() == python


@node(output_name="doubled")
def double(x: int) -> int:
    return 2 * x


def test_preflight_compares_the_python_of_the_image_without_any_request():
    other = "3.11" if OWN_PYTHON != "3.11" else "3.12"
    report = ModalBackend(image=modal.Image.debian_slim(python_version=other)).preflight(Pipeline([double]), {"x": 1})
    assert report.problems == (
        f"Python {OWN_PYTHON} here and {other} at modal: the minor version must be the same on both sides. "
        f'Make the image with modal.Image.debian_slim(python_version="{OWN_PYTHON}").',
    )
    own = ModalBackend(image=modal.Image.debian_slim()).preflight(Pipeline([double]), {"x": [1, 2]}, map_over="x")
    assert (own.python, own.items, own.problems) == (OWN_PYTHON, 2, ())
    deployed = ModalBackend.deployed("jobs").preflight(Pipeline([double]), {"x": 1})
    assert (deployed.python, deployed.problems) == (None, ())


@node(output_name="mean")
def average(values: list[float]) -> float:
    import numpy

    return float(numpy.mean(values))


SLIM = modal.Image.debian_slim(python_version=OWN_PYTHON)


@pytest.mark.parametrize(
    ("image", "is_missing"),
    [
        (SLIM, True),
        (SLIM.uv_pip_install("cloudpickle").apt_install("git").env({"A": "1"}).workdir("/"), True),
        (SLIM.uv_pip_install("numpy").pip_install("packaging"), False),
        (SLIM.pip_install("pandas>=2"), False),  # which brings it
        (SLIM.pip_install("some-package-that-is-not-here"), False),  # which may bring it
        (SLIM.run_commands("pip install numpy"), False),  # not known before it is built
        (modal.Image.from_registry("python:3.12"), False),
    ],
)
def test_preflight_names_a_package_that_the_image_lacks_where_its_definition_says(image, is_missing):
    numpy, _ = pytest.importorskip("numpy"), pytest.importorskip("pandas")
    report = ModalBackend(image=image).preflight(Pipeline([average]), {"values": [1.0]})
    if not is_missing:
        assert report.problems == ()
        return
    (problem,) = report.problems
    assert problem.startswith("'average' (test_modal_settings.py:")
    assert "needs 'numpy', which is not installed at modal" in problem
    assert problem.endswith(f'image.uv_pip_install("numpy=={numpy.__version__}")')


def test_preflight_names_an_input_whose_package_the_image_lacks():
    numpy = pytest.importorskip("numpy")
    report = ModalBackend(image=SLIM).preflight(Pipeline([double]), {"x": [numpy.ones(2)]}, map_over="x")
    assert [problem.partition(",")[0] for problem in report.problems] == ["input 'x' needs 'numpy'"]


@pytest.mark.parametrize("mode", ["map_execution", "node_execution"])
def test_preflight_names_loky_where_worker_processes_are_asked_for(mode):
    pipeline = Pipeline([double])
    (problem,) = ModalBackend(image=SLIM, **{mode: "parallel"}).preflight(pipeline, {"x": 1}).problems
    assert problem.startswith(f"{mode}=\"parallel\" needs 'loky', which is not installed at modal")
    image = SLIM.uv_pip_install("loky")
    assert ModalBackend(image=image, **{mode: "parallel"}).preflight(pipeline, {"x": 1}).problems == ()
