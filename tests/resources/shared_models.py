"""Resources in a module that worker processes can import."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from hypernodes import node, resource


class Model:
    """Counts how often it is loaded, with a file for each time; cannot be sent anywhere."""

    def __init__(self, folder: str, factor: int) -> None:
        self.factor = factor
        self.is_open = True
        self._path = Path(folder) / f"loaded-{os.getpid()}-{len(list(Path(folder).iterdir()))}-{os.urandom(4).hex()}"
        self._path.touch()

    def close(self) -> None:
        self.is_open = False
        self._path.rename(self._path.with_name(self._path.name.replace("loaded", "closed")))

    def __reduce__(self) -> str:
        raise TypeError("a model cannot be sent")


@resource
def model(folder: str, factor: int = 2) -> Iterator[Model]:
    made = Model(folder, factor)
    yield made
    made.close()


@node(output_name="seen")
def look_at_class(x: int, model: Model) -> tuple[bool, bool, bool]:
    """Return whether the model is of the class that is here, and whether that class has what nobody gave it here."""
    had_mark = hasattr(Model, "mark")
    Model.mark = x  # type: ignore[attr-defined]
    return isinstance(model, Model), type(model) is Model, had_mark


@node(output_name="y")
def multiply(x: int, model: Model) -> tuple[int, int]:
    assert model.is_open
    return x * model.factor, os.getpid()
