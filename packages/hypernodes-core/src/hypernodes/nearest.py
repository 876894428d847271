"""Finds the name that was meant, for messages about a name that does not exist."""

from __future__ import annotations

from collections.abc import Iterable

_CUTOFF = 0.6


def nearest(name: str, available: Iterable[str], cutoff: float = _CUTOFF) -> tuple[str, float] | None:
    """Return the most similar of the available names, and how similar it is (0 to 1).

    Args:
        name: The name that does not exist.
        available: The names that exist.
        cutoff: The least similarity.

    Returns:
        None when no name is similar.
    """
    from difflib import SequenceMatcher, get_close_matches  # slow to import, and needed for messages only

    near = get_close_matches(name, sorted(set(available)), n=1, cutoff=cutoff)
    return (near[0], SequenceMatcher(None, near[0], name).ratio()) if near else None


def suggest(name: str, available: Iterable[str], cutoff: float = _CUTOFF) -> str:
    """Return " (did you mean 'x'?)" for the name most similar to `name`; empty when none is similar."""
    near = nearest(name, available, cutoff)
    return f" (did you mean {near[0]!r}?)" if near else ""
