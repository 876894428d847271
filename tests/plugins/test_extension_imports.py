"""Our own extensions import from core what any third party may import, and nothing else."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import hypernodes
from hypernodes import extension

PACKAGES = Path(__file__).parents[2] / "packages"
PUBLIC = {"hypernodes": {*hypernodes.__all__}, "hypernodes.extension": {*extension.__all__}}
SOURCES = [
    path
    for package in sorted(PACKAGES.iterdir())
    if package.name != "hypernodes-core"
    for path in sorted((package / "src").rglob("*.py"))
]


def imports_of_core(source: str) -> Iterator[str]:
    """What a module imports from core, for type checking included: "module.name", or a module."""
    for part in ast.walk(ast.parse(source)):
        if isinstance(part, ast.Import):
            yield from (alias.name for alias in part.names if alias.name.partition(".")[0] == "hypernodes")
        elif isinstance(part, ast.ImportFrom) and (part.module or "").partition(".")[0] == "hypernodes":
            yield from (f"{part.module}.{alias.name}" for alias in part.names)


def is_public(imported: str) -> bool:
    module, _, name = imported.rpartition(".")
    return imported in PUBLIC or name in PUBLIC.get(module, ())


def test_our_extensions_import_only_the_extension_interface() -> None:
    private = [
        f"{path.relative_to(PACKAGES)}: {imported}"
        for path in SOURCES
        for imported in imports_of_core(path.read_text(encoding="utf-8"))
        if not is_public(imported)
    ]
    assert private == []
    assert {"disk_cache.py", "backend.py"} <= {path.name for path in SOURCES}


def test_the_check_finds_private_imports_in_every_form() -> None:
    source = """
from typing import TYPE_CHECKING

import hypernodes.engine
from hypernodes import Cache, signature
from hypernodes.extension import digest

if TYPE_CHECKING:
    from hypernodes.remote.channel import Channel


def later():
    from hypernodes.extension import RunState
"""
    found = list(imports_of_core(source))
    assert [imported for imported in found if not is_public(imported)] == [
        "hypernodes.engine",
        "hypernodes.signature",
        "hypernodes.remote.channel.Channel",
        "hypernodes.extension.RunState",
    ]
