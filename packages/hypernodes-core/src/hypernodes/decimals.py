"""The context in which a thread computes with decimals.

It is part of the signatures of all nodes, since decimals come from anywhere, and so it goes along to where calls are
made: a result must be that of the context under which it is stored.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from operator import attrgetter
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import decimal

DecimalSettings: TypeAlias = tuple[Any, ...]
"""prec, rounding, Emin, Emax, capitals and clamp of a context, followed by the names of the signals that it traps."""

_TRAPPED = ("DivisionByZero", "InvalidOperation", "Overflow")
_INITIAL: DecimalSettings = (28, "ROUND_HALF_EVEN", -999999, 999999, 1, 0, *_TRAPPED)
_read = attrgetter("prec", "rounding", "Emin", "Emax", "capitals", "clamp", "traps")


def settings_here() -> DecimalSettings | None:
    """Return the settings of this thread; None if they are what Python begins with."""
    module = sys.modules.get("decimal")
    if module is None:  # so that nobody can have changed them
        return None
    own = _read(module.getcontext())
    if own == _read(_initial()):
        return None
    *plain, traps = own
    return (*plain, *sorted([signal.__name__ for signal, is_trapped in traps.items() if is_trapped]))


@cache
def _initial() -> decimal.Context:
    return _context_of(_INITIAL)  # kept whole: its `traps` are a view of it, and nothing else keeps it


def _context_of(settings: DecimalSettings) -> decimal.Context:
    import decimal

    prec, rounding, least, greatest, capitals, clamp, *traps = settings
    trapped = [getattr(decimal, name) for name in traps]
    return decimal.Context(prec, rounding, least, greatest, capitals, clamp, traps=trapped)


@contextmanager
def using(settings: DecimalSettings | None) -> Iterator[None]:
    """Let this thread compute with settings of another; see `settings_here`."""
    if settings == settings_here():
        yield
        return
    from decimal import localcontext

    with localcontext(_context_of(settings or _INITIAL)):
        yield
