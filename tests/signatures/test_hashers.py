"""Hashers that an installed distribution brings along, found through its entry points when they are needed."""

from __future__ import annotations

import json
from pathlib import Path

from tests.support import run_python

CLASSES = """
class Opaque:
    def __init__(self, name):
        self.name, self.handle = name, object()
class Fragile(Opaque): pass
class Rival(Opaque): pass
"""
HASHING = """
print("loaded", flush=True)
def key(thing): return thing.name
"""
SCRIPT = """
import json, sys
sys.path.insert(0, sys.argv[1])
from hypernodes.signature import UnhashableValueError, digest
import opaquelib

def outcome(value):
    try:
        return digest(value).hex()
    except UnhashableValueError as error:
        return str(error)

digest({"a": object.__new__(type("Own", (), {}))})
print("plain values and own classes were identified")
kinds = (opaquelib.Opaque, opaquelib.Fragile, opaquelib.Rival)
print(json.dumps([[outcome([kind(name)]) for name in "aab"] for kind in kinds]))
"""


def install(folder: Path, name: str, entries: dict[str, str], **modules: str) -> None:
    for module, text in modules.items():
        (folder / f"{module}.py").write_text(text, encoding="utf-8")
    metadata = folder / f"{name}-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n", encoding="utf-8")
    (metadata / "RECORD").write_text("".join(f"{module}.py,,\n" for module in modules), encoding="utf-8")
    lines = [f"{key} = {value}" for key, value in entries.items()]
    (metadata / "entry_points.txt").write_text("[hypernodes.hashers]\n" + "\n".join(lines) + "\n", encoding="utf-8")


def test_installed_hashers_are_loaded_when_needed_and_a_broken_one_breaks_only_itself(tmp_path: Path) -> None:
    folder = tmp_path / "site-packages"
    folder.mkdir()
    good = {
        "opaquelib.Opaque": "opaquehash:key",
        "opaquelib.Fragile": "opaquehash:absent",
        "opaquelib.Rival": "opaquehash:key",
    }
    install(folder, "opaquelib", good, opaquelib=CLASSES, opaquehash=HASHING)
    install(folder, "rival", {"opaquelib.Rival": "elsewhere:key"})
    first, loaded, found = run_python("-c", SCRIPT, str(folder), cwd=tmp_path).splitlines()
    assert (first, loaded) == ("plain values and own classes were identified", "loaded")
    opaque, fragile, rival = json.loads(found)
    assert opaque[0] == opaque[1] != opaque[2]
    assert fragile[0].startswith("[0] is a opaquelib.Fragile: the hasher of opaquelib cannot be loaded from")
    assert "AttributeError" in fragile[0]
    assert "opaquelib and rival both claim to know how" in rival[0]
