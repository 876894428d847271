"""Reads the layers of an image: what each adds, and what of it cannot be done here."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath

from modal_proto import api_pb2

from hypernodes_modal.loopback.pip_commands import read_pip_install

DEFAULT_WORKDIR = "/root"
_PYTHON_IMAGE = re.compile(r"^(?:\S*/)?python:(?P<version>3\.\d+)(?:[.\-]|$)")
_VARIABLE = re.compile(r"\$(?:\{(?P<braced>\w+)\}|(?P<plain>\w+))")
# What the client puts into the base layers of its own accord, and what changes nothing here.
_OF_NO_CONSEQUENCE = re.compile(
    r"^(?:apt-get update|apt-get install -y gcc gfortran build-essential|pip install --upgrade pip\b.*|"
    r"python -m pip install --upgrade pip\b.*|echo 'debconf .*|rm /modal_requirements\.txt|"
    r"(?:uv )?pip install .*-r /modal_requirements\.txt|ln -s /usr/local/bin/python3 .*)$"
)
_SILENT = {"CMD", "ENTRYPOINT", "LABEL", "EXPOSE", "STOPSIGNAL", "HEALTHCHECK", "MAINTAINER"}


@dataclass(frozen=True)
class Recipe:
    """An image, as far as it can be had here.

    Attributes:
        python_version: "3.12"; None when the image does not say.
        requirements: What was pip-installed, in order.
        pip_options: Where to look for it.
        environment: Variables.
        workdir: The working directory.
        files: Where each file is in the container, and its content's hash.
        notices: What the image asks for that is not done here.
    """

    python_version: str | None = None
    requirements: tuple[str, ...] = ()
    pip_options: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    workdir: str = DEFAULT_WORKDIR
    files: tuple[api_pb2.MountFile, ...] = ()
    notices: tuple[str, ...] = ()


class ContentStore:
    """What reading a recipe needs from the files that were uploaded."""

    def put(self, data: bytes) -> str:
        """Keep some content, and return its hash."""
        raise NotImplementedError

    def read(self, sha256_hex: str) -> bytes:
        """Return some content."""
        raise NotImplementedError


def read_layer(
    base: Recipe,
    layer: api_pb2.Image,
    context: list[api_pb2.MountFile],
    context_python_version: str | None,
    store: ContentStore,
) -> Recipe:
    """Add a layer to a recipe.

    Args:
        base: The recipe of the image the layer is put on.
        layer: The layer.
        context: Files that can be copied into the image.
        context_python_version: The version of Python among these files, if there is one.
        store: The content of files.

    Returns:
        The recipe with the layer.

    Raises:
        ValueError: The layer is malformed.
    """
    reader = _Reader(base, layer, context, context_python_version, store)
    for instruction in _instructions(layer.dockerfile_commands):
        reader.read(instruction)
    return reader.recipe


class _Reader:
    def __init__(
        self,
        base: Recipe,
        layer: api_pb2.Image,
        context: list[api_pb2.MountFile],
        context_python_version: str | None,
        store: ContentStore,
    ) -> None:
        self.recipe = base
        self._bases = {each.docker_tag for each in layer.base_images}
        self._context = context
        self._context_python_version = context_python_version
        self._store = store
        self._arguments = dict(layer.build_args)
        self._attached = {each.filename: each.data for each in layer.context_files}

    def read(self, instruction: str) -> None:
        keyword, _, rest = instruction.partition(" ")
        keyword = keyword.upper()
        rest = rest.strip()
        method = getattr(self, f"_read_{keyword.lower()}", None)
        if method is not None:
            method(rest)
        elif keyword not in _SILENT:
            self._note(f"not done: {instruction}")

    def _read_from(self, rest: str) -> None:
        tag = rest.split()[0]
        if tag in self._bases:
            return
        match = _PYTHON_IMAGE.match(tag)
        if match:
            self.recipe = Recipe(python_version=match["version"])
        else:
            self.recipe = Recipe(notices=(f"the files of image {tag!r} are not there; only its name is known here",))

    def _read_env(self, rest: str) -> None:
        words = shlex.split(rest)
        if words and "=" not in words[0]:  # the old form, ENV NAME value
            name, _, value = rest.partition(" ")
            pairs = [(name, value.strip())]
        else:
            pairs = [(name, value) for name, _, value in (word.partition("=") for word in words)]
        environment = dict(self.recipe.environment)
        for name, value in pairs:
            environment[name] = self._expand(value)
        self.recipe = replace(self.recipe, environment=environment)

    def _read_arg(self, rest: str) -> None:
        name, has_default, default = rest.partition("=")
        if has_default:
            self._arguments.setdefault(name, default.strip("\"'"))

    def _read_workdir(self, rest: str) -> None:
        path = PurePosixPath(self._expand(shlex.split(rest)[0]))
        self.recipe = replace(self.recipe, workdir=str(PurePosixPath(self.recipe.workdir) / path))

    def _read_shell(self, rest: str) -> None:
        """Which shell would run what is not run anyway."""

    def _read_copy(self, rest: str) -> None:
        words = [word for word in shlex.split(rest) if not word.startswith(("--chown", "--chmod"))]
        if any(word.startswith("--from=") for word in words):
            if "astral-sh/uv" not in rest:
                self._note(f"not done: COPY {rest}")
            return
        *sources, destination = (self._expand(word) for word in words)
        if sources == ["/python/."] and self._context_python_version:
            self.recipe = replace(self.recipe, python_version=self._context_python_version)
            return
        for source in sources:
            self._copy(source, destination, has_several=len(sources) > 1)

    _read_add = _read_copy

    def _copy(self, source: str, destination: str, has_several: bool) -> None:
        base = PurePosixPath(self.recipe.workdir) / destination
        if source in self._attached:
            into_folder = has_several or destination.endswith("/")
            target = base / PurePosixPath(source).name if into_folder else base
            self._add_file(target, self._store.put(self._attached[source]), 0)
            return
        wanted = PurePosixPath("/", source.removesuffix("/."))
        found = False
        for file in self._context:
            path = PurePosixPath("/", file.filename)
            if path == wanted:
                into_folder = has_several or destination.endswith("/")
                self._add_file(base / path.name if into_folder else base, file.sha256_hex, file.mode)
            elif wanted in path.parents or str(wanted) in ("/.", "/"):
                self._add_file(base / path.relative_to(wanted), file.sha256_hex, file.mode)
            elif path.match(str(wanted)):
                self._add_file(base / path.name, file.sha256_hex, file.mode)
            else:
                continue
            found = True
        if not found:
            raise ValueError(f"COPY {source}: there is no such file in the build context")

    def _read_run(self, rest: str) -> None:
        if _OF_NO_CONSEQUENCE.match(rest):
            return
        install = read_pip_install(rest, self._read_file)
        if install is None:
            self._note(f"not run: {rest}")
            return
        self.recipe = replace(
            self.recipe,
            requirements=(*self.recipe.requirements, *install.requirements),
            pip_options=(*self.recipe.pip_options, *install.options),
        )

    def _read_file(self, path: str) -> str:
        for file in reversed(self.recipe.files):
            if PurePosixPath("/", file.filename) == PurePosixPath(self.recipe.workdir, path):
                return self._store.read(file.sha256_hex).decode()
        raise ValueError(f"there is no file {path} in the image")

    def _add_file(self, path: PurePosixPath, sha256_hex: str, mode: int) -> None:
        file = api_pb2.MountFile(filename=str(path), sha256_hex=sha256_hex, mode=mode)
        self.recipe = replace(self.recipe, files=(*self.recipe.files, file))

    def _note(self, text: str) -> None:
        self.recipe = replace(self.recipe, notices=(*self.recipe.notices, text))

    def _expand(self, text: str) -> str:
        known = {**self._arguments, **self.recipe.environment}
        return _VARIABLE.sub(lambda match: known.get(match["braced"] or match["plain"], match[0]), text)


def _instructions(lines: object) -> list[str]:
    """Join what is continued on the next line, and drop comments."""
    found: list[str] = []
    open_line = ""
    for line in (part for entry in lines for part in str(entry).splitlines()):  # type: ignore[attr-defined]
        if not open_line and (not line.strip() or line.lstrip().startswith("#")):
            continue
        stripped = line.rstrip()
        if stripped.endswith("\\"):
            open_line += stripped[:-1]
        else:
            found.append((open_line + stripped).strip())
            open_line = ""
    if open_line.strip():
        found.append(open_line.strip())
    return found
