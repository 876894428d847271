"""The context in which a thread computes with decimals.

It is part of the signatures of all nodes, since decimals come from anywhere, and so it goes along to where calls are
made: a result must be that of the context under which it is stored.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import decimal

DecimalSettings: TypeAlias = tuple[Any, ...]
"""prec, rounding, Emin, Emax, capitals and clamp of a context, followed by the names of the signals that it traps."""

_TRAPPED = ("DivisionByZero", "InvalidOperation", "Overflow")
_INITIAL: DecimalSettings = (28, "ROUND_HALF_EVEN", -999999, 999999, 1, 0, *_TRAPPED)


def settings_here() -> DecimalSettings | None:
    """Return the settings of this thread; None if they are what Python begins with."""
    module = sys.modules.get("decimal")
    if module is None:  # so that nobody can have changed them
        return None
    own: decimal.Context = module.getcontext()
    traps = sorted([signal.__name__ for signal, is_trapped in own.traps.items() if is_trapped])
    settings = (own.prec, own.rounding, own.Emin, own.Emax, own.capitals, own.clamp, *traps)
    return None if settings == _INITIAL else settings


@contextmanager
def using(settings: DecimalSettings | None) -> Iterator[None]:
    """Let this thread compute with settings of another; see `settings_here`."""
    if settings == settings_here():
        yield
        return
    import decimal

    prec, rounding, least, greatest, capitals, clamp, *traps = settings or _INITIAL
    context = decimal.Context(
        prec, rounding, least, greatest, capitals, clamp, traps=[getattr(decimal, name) for name in traps]
    )
    with decimal.localcontext(context):
        yield
