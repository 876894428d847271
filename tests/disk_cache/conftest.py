"""Caches in the directory of the test."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from hypernodes_cache import DiskCache  # its tests are skipped where it is not installed


@pytest.fixture
def open_cache(tmp_path: Path) -> Iterator[Callable[..., DiskCache]]:
    """Open a cache in the test's own directory; all are closed at the end."""
    from hypernodes_cache import DiskCache

    opened: list[DiskCache] = []

    def open_(name: str = "cache", **settings: Any) -> DiskCache:
        opened.append(DiskCache(path=tmp_path / name, **settings))
        return opened[-1]

    yield open_
    for cache in opened:
        cache.close()


@pytest.fixture
def shown_to_all() -> Iterator[Path]:
    """A folder that every user can come to, and in which only its owner can write.

    Not one of pytest's, which are closed again when another pytest starts.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder
