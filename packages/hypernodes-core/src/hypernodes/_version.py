"""The version of every HyperNodes distribution: each `pyproject.toml` of this repository reads it from here."""

__version__ = "0.1.0"
