"""Finds the mapped pipelines that can take the elements of a list while a generator function yields them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from hypernodes.plan.plan import CallStep, NestedStep, Step


def streams_of(
    steps: Sequence[Step], nested: Iterable[NestedStep], producers: Sequence[int]
) -> Mapping[int, tuple[int, ...]]:
    """Return, for each step whose elements can be taken one by one, the positions of the mapped pipelines that do so.

    A pipeline that maps over several lists takes them when all are complete, and so does one that may be skipped.

    Args:
        steps: The steps of a plan.
        nested: Those of them that are nested pipelines.
        producers: Position of the step that fills a slot.
    """
    found: dict[int, tuple[int, ...]] = {}
    for step in nested:
        if len(step.mapped) != 1 or step.is_delegated:
            continue
        source = producers[step.arguments[0]]
        if source < 0 or step.guard is not None:
            continue
        maker = steps[source]
        is_shared = step.arguments[0] in step.arguments[1:]
        if isinstance(maker, CallStep) and maker.node.each and maker.guard is None and not is_shared:
            found[source] = (*found.get(source, ()), step.index)
    return found


def has_streams(step: NestedStep) -> bool:
    """Whether a nested pipeline runs here and has streams in it."""
    return not step.is_delegated and step.inner.has_streams
