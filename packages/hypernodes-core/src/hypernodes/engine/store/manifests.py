"""Reads stored results of nested pipelines: those of single nodes, and lists made by mapped pipelines.

A list is stored as a manifest, which names the entry of each element.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from hypernodes import signature
from hypernodes.cache.base import Cache
from hypernodes.conditions import SKIPPED
from hypernodes.engine.store.run_store import RunStore, manifest_key, read_manifest
from hypernodes.failure import Failure
from hypernodes.plan import CallStep, NestedStep, Plan, Step


def origin_of(plan: Plan, slot: int) -> tuple[Plan, Step, int]:
    """Return the step that computes the value in a slot, with its plan and slot; it may be in a nested pipeline."""
    step = plan.steps[plan.producers[slot]]
    while isinstance(step, NestedStep) and not step.mapped:
        slot = list(step.inner.outputs.values())[step.outputs.index(slot)]
        plan = step.inner
        step = plan.steps[plan.producers[slot]]
    return plan, step, slot


@cache
def skipped_signature() -> bytes:
    """Return the signature of `SKIPPED`, which stands in lists and is stored nowhere."""
    return signature.digest(SKIPPED)


def read_elements(store: RunStore, plan: Plan, slot: int, elements: list[bytes]) -> list[Any] | None:
    """Return the values of a slot of a mapped plan, one per item; None when any is not in the cache any more.

    Args:
        store: Reads caches.
        plan: The plan of one item.
        slot: The slot.
        elements: The signatures of the values, one per item.
    """
    plan, step, slot = origin_of(plan, slot)
    skipped = skipped_signature()
    if skipped in elements:
        made = read_elements(store, plan, slot, [element for element in elements if element != skipped])
        values = iter(made or ())
        return None if made is None else [SKIPPED if own == skipped else next(values) for own in elements]
    names = [element.hex() for element in elements]
    if isinstance(step, CallStep):
        own_cache = plan.scopes[step.scope].cache
        return None if own_cache is None else store.get_each(own_cache, names)
    inner_slot = list(step.inner.outputs.values())[step.outputs.index(slot)]
    return _read_lists(store, step.inner, inner_slot, names)


def _read_lists(store: RunStore, plan: Plan, slot: int, names: list[str]) -> list[Any] | None:
    """Return the lists that a mapped plan made, by their signatures; None when any element is not in the cache."""
    items_cache = plan.scopes[0].cache
    keys = [manifest_key(name) for name in names]
    manifests = store.get_many(items_cache, keys) if items_cache is not None else {}
    lists: list[Any] = []
    for key in keys:
        elements = read_manifest(manifests.get(key))
        values = None if elements is None else read_elements(store, plan, slot, elements)
        if values is None:
            return None
        lists.append(values)
    return lists


def is_stored(store: RunStore, plan: Plan, signatures: Sequence[bytes | None]) -> bool:
    """Return whether caches hold the outputs of a plan that ran once under the signatures that they should have.

    Args:
        store: Queries caches.
        plan: The plan.
        signatures: The signature of each output; empty or None where it has none, or no step reads it.
    """
    keys: dict[int, tuple[Cache, list[str]]] = {}
    for inner_slot, own in zip(plan.outputs.values(), signatures, strict=True):
        if not own:
            continue
        held_in, key_of = _place_of(plan, inner_slot)
        if held_in is None:
            return False
        keys.setdefault(id(held_in), (held_in, []))[1].append(key_of(own.hex()))
    return all(store.holds(held_in, wanted) for held_in, wanted in keys.values())


def listed_elements(store: RunStore, plan: Plan, signatures: Sequence[bytes | None]) -> dict[int, list[bytes]]:
    """Return the signatures of the elements of those outputs of a plan that are lists made by mapped pipelines.

    Args:
        store: Queries caches.
        plan: The plan, which ran once.
        signatures: The signature of each output; empty or None where it has none.

    Returns:
        For each such list that caches hold, by position among the outputs.
    """
    found: dict[int, list[bytes]] = {}
    for position, (slot, own) in enumerate(zip(plan.outputs.values(), signatures, strict=True)):
        if not own or plan.producers[slot] < 0 or not isinstance(origin_of(plan, slot)[1], NestedStep):
            continue
        held_in, key_of = _place_of(plan, slot)
        if held_in is not None:
            key = key_of(own.hex())
            elements = read_manifest(store.get_many(held_in, [key]).get(key))
            if elements is not None:
                found[position] = elements
    return found


def stored_elements(
    store: RunStore, step: NestedStep, columns: Sequence[Sequence[Any]], elements: Sequence[list[bytes]]
) -> list[list[bytes]]:
    """Return the signatures of those results of items that caches hold under them; empty ones in place of others.

    Args:
        store: Queries caches.
        step: The mapped pipeline.
        columns: For each output, one result per item.
        elements: For each output, the signature that each result should have.
    """
    found: list[list[bytes]] = []
    for inner_slot, column, expected in zip(step.inner.outputs.values(), columns, elements, strict=True):
        held_in, key_of = _place_of(step.inner, inner_slot)
        keys = {own: key_of(own.hex()) for own in expected if own}
        held = store.held(held_in, keys.values()) if held_in is not None else set()
        pairs = zip(column, expected, strict=False)
        known = [
            skipped_signature()
            if value is SKIPPED
            else own
            if own and keys[own] in held and not isinstance(value, Failure)
            else b""
            for value, own in pairs
        ]
        found.append(known + [b""] * (len(column) - len(known)))
    return found


def _place_of(plan: Plan, slot: int) -> tuple[Cache | None, Callable[[str], str]]:
    """Return the cache that stores the value in a slot, and how its key is made from its signature."""
    plan, origin, _ = origin_of(plan, slot)
    if isinstance(origin, CallStep):
        return plan.scopes[origin.scope].cache, str
    return origin.inner.scopes[0].cache, manifest_key
