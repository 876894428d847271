"""`hypernodes.extension`: what packages that extend HyperNodes may import."""

from __future__ import annotations

import pytest

from hypernodes import extension
from tests.support import run_python


def loaded_by(code: str) -> set[str]:
    """Names of the modules that a fresh interpreter has loaded after running `code`."""
    return set(run_python("-c", f"{code}\nimport sys; print(*sys.modules)").split())


@pytest.mark.parametrize("name", extension.__all__)
def test_every_declared_name_can_be_imported_and_is_explained(name: str) -> None:
    namespace: dict[str, object] = {}
    exec(f"from hypernodes.extension import {name}", namespace)
    assert namespace[name] is getattr(extension, name)
    assert extension.__doc__ is not None
    assert f"`{name}`" in extension.__doc__


def test_the_declared_names_are_all_there_is() -> None:
    assert set(extension.__all__) <= set(dir(extension))
    with pytest.raises(AttributeError, match="has no attribute 'RunState'"):
        extension.RunState  # noqa: B018


def test_importing_it_loads_nothing_else() -> None:
    assert loaded_by("import hypernodes.extension") - loaded_by("import hypernodes") == {"hypernodes.extension"}


def test_what_a_cache_needs_does_not_load_what_a_backend_needs() -> None:
    code = "from hypernodes.extension import RECORD_PREFIX, describe_record, digest, is_record_key, new_buffer"
    found = loaded_by(code)
    assert "hypernodes.cache.record" in found
    assert {name for name in found if name.startswith("hypernodes.remote")} == set()


def test_importing_hypernodes_does_not_load_it() -> None:
    assert "hypernodes.extension" not in loaded_by("import hypernodes")
