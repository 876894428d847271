"""Identifiers as Modal's client expects them: the prefix says the kind of object."""

from __future__ import annotations

import itertools
import secrets


class Ids:
    """Makes identifiers that are unique among all control planes, so that a stale one is never taken for a live one."""

    def __init__(self) -> None:
        self._plane = secrets.token_hex(4)
        self._numbers = itertools.count(1)

    def new(self, prefix: str) -> str:
        """Return a new identifier.

        Args:
            prefix: Two letters for the kind of object: "ap" an app, "fu" a function, "fc" a function call.
        """
        return f"{prefix}-{self._plane}{next(self._numbers):06d}"
