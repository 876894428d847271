"""Durations in words."""

from __future__ import annotations


def in_words(seconds: float) -> str:
    """Return a duration with two digits: "25 ms", "1.3 s", "14 min", "2.5 h", "3.1 days"."""
    if seconds < 0.001:
        return "less than 1 ms"
    for unit, size, most in (("ms", 0.001, 1.0), ("s", 1.0, 120.0), ("min", 60.0, 7200.0), ("h", 3600.0, 172800.0)):
        if seconds < most:
            return f"{_rounded(seconds / size)} {unit}"
    return f"{_rounded(seconds / 86400)} days"


def _rounded(number: float) -> str:
    return f"{number:.1f}".removesuffix(".0") if number < 9.95 else f"{number:.0f}"
