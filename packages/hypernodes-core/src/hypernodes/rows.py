"""The results of a map with the values that they were computed from, row by row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

from hypernodes.errors import ConfigurationError
from hypernodes.failure import Failure


class Rows(list[dict[str, Any]]):
    """A row for each item of a map: the values of the inputs that vary, and the outputs, by name.

    Args:
        columns: The same, name by name: for each a list with one value per item.

    Attributes:
        columns: The same.
    """

    def __init__(self, columns: Mapping[str, Sequence[Any]]) -> None:
        super().__init__(dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True))
        self.columns = {name: list(values) for name, values in columns.items()}

    def to_pandas(self) -> Any:
        """Return a `pandas.DataFrame`.

        Raises:
            ConfigurationError: pandas is not installed.
        """
        return _library("pandas").DataFrame(self.columns)

    def to_polars(self) -> Any:
        """Return a `polars.DataFrame`; a column of values that Polars has no type for holds them as objects.

        Raises:
            ConfigurationError: Polars is not installed.
        """
        polars = _library("polars")
        return polars.DataFrame([_polars_column(polars, name, values) for name, values in self.columns.items()])

    def __reduce__(self) -> tuple[Any, ...]:
        return Rows, (self.columns,)


def _polars_column(polars: Any, name: str, values: list[Any]) -> Any:
    if not any(type(value) is Failure for value in values):  # which is a tuple
        try:
            return polars.Series(name, values)
        except (TypeError, ValueError, polars.exceptions.PolarsError):  # of no type, or of several
            pass
    return polars.Series(name, values, dtype=polars.Object)


def _library(name: str) -> Any:
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise ConfigurationError(f"a table of {name} needs {name}: pip install {name}") from None
