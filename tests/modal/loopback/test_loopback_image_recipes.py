"""Reading image layers and pip command lines, without building anything."""

from __future__ import annotations

import hashlib

import pytest
from modal_proto import api_pb2

from hypernodes_modal.loopback.pip_commands import read_pip_install
from hypernodes_modal.loopback.recipes import ContentStore, Recipe, read_layer


class Store(ContentStore):
    def __init__(self):
        self.contents = {}

    def put(self, data):
        name = hashlib.sha256(data).hexdigest()
        self.contents[name] = data
        return name

    def read(self, sha256_hex):
        return self.contents[sha256_hex]


def read(*commands, base=None, context=(), python=None, attached=None, store=None):
    layer = api_pb2.Image(dockerfile_commands=commands, base_images=[api_pb2.BaseImage(docker_tag="base")])
    for name, data in (attached or {}).items():
        layer.context_files.add(filename=name, data=data)
    return read_layer(base or Recipe(python_version="3.12"), layer, list(context), python, store or Store())


@pytest.mark.parametrize(
    ("command", "requirements", "options"),
    [
        ("python -m pip install numpy 'torch>=2,<3' ", ["numpy", "torch>=2,<3"], []),
        ("/.uv/uv pip install --python $(command -v python) --compile-bytecode a b", ["a", "b"], []),
        ("pip install --index-url https://x/simple --pre a", ["a"], ["--index-url", "https://x/simple", "--pre"]),
        ("pip install --extra-index-url=https://x a", ["a"], ["--extra-index-url", "https://x"]),
        ("uv pip install --prerelease allow a", ["a"], ["--pre"]),
        ("python3 -m pip install git+https://x/y.git", ["git+https://x/y.git"], []),
        ("pip3 install -r /r.txt c", ["a==1", "b[x]>2 ; python_version > '3'", "c"], []),
    ],
)
def test_pip_command_lines_are_read(command, requirements, options):
    files = {"/r.txt": "# top\na==1  # why\n\n--index-url https://z\nb[x]>2 ; python_version > '3'\n"}
    install = read_pip_install(command, files.__getitem__)
    assert install.requirements == requirements
    assert install.options == options


@pytest.mark.parametrize("command", ["apt-get install -y git", "make install", "echo pip install x", "pip download a"])
def test_other_commands_are_no_pip_installs(command):
    assert read_pip_install(command, {}.__getitem__) is None


def test_a_base_image_of_python_gives_its_version():
    assert read("FROM python:3.11.9-slim-bookworm").python_version == "3.11"
    assert read("FROM docker.io/library/python:3.13").python_version == "3.13"
    unknown = read("FROM nvidia/cuda:12.4.0-devel-ubuntu22.04", "COPY /python/. /usr/local", python="3.12")
    assert unknown.python_version == "3.12"
    assert "nvidia/cuda" in unknown.notices[0]


def test_variables_working_directories_and_arguments_are_followed():
    recipe = read(
        "FROM base",
        "ARG WHO=world",
        "ENV A=1 B='two words' C=$A-${A}",
        "ENV OLD form of it",
        "WORKDIR /one",
        "WORKDIR two",
        "ENV HELLO=$WHO NEW=\\",
        "yes",
    )
    assert recipe.environment == {
        "A": "1", "B": "two words", "C": "$A-${A}", "OLD": "form of it", "HELLO": "world", "NEW": "yes"
    }  # fmt: skip
    assert recipe.workdir == "/one/two"


def test_files_are_copied_as_docker_does():
    context = [
        api_pb2.MountFile(filename="/src/a.py", sha256_hex="a"),
        api_pb2.MountFile(filename="/src/sub/b.py", sha256_hex="b"),
    ]
    recipe = read("FROM base", "COPY src /app", "COPY src/a.py /one.py", "COPY src/*.py /many/", context=context)
    assert [file.filename for file in recipe.files] == ["/app/a.py", "/app/sub/b.py", "/one.py", "/many/a.py"]
    with pytest.raises(ValueError, match=r"COPY missing: there is no such file"):
        read("FROM base", "COPY missing /x", context=context)


def test_requirements_files_come_from_the_layer():
    recipe = read(
        "FROM base",
        "COPY /.requirements.txt /.requirements.txt",
        "RUN python -m pip install -r /.requirements.txt",
        attached={"/.requirements.txt": b"numpy\n"},
    )
    assert recipe.requirements == ("numpy",)


def test_what_cannot_be_done_is_noted_and_what_changes_nothing_is_not():
    recipe = read("FROM base", "RUN curl x | sh", "USER nobody", 'CMD ["x"]', "RUN apt-get update", "LABEL a=b")
    assert recipe.notices == ("not run: curl x | sh", "not done: USER nobody")
