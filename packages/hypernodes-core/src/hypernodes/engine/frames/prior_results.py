"""Signatures that a delegated nested pipeline receives in addition to the values of its inputs.

Its backend receives names and values, as from any other caller. The signatures that the enclosing run knows for these
values are passed with the context, so that the same computation has the same signature on every backend.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from hypernodes.callbacks import CallbackContext
from hypernodes.engine.frames.columns import MapInputs
from hypernodes.plan import Plan


class PriorResults(NamedTuple):
    """Signatures and results of a run that are known before it starts.

    Attributes:
        signatures: Signature of the value in every slot; None where unknown.
        elements: Signatures of the elements of lists, by slot.
        found: Positions of the steps whose results were found in caches and have been filled in.
        skipped: Positions of the steps that are known to be skipped.
    """

    signatures: list[bytes | None]
    elements: dict[int, list[bytes]]
    found: frozenset[int]
    skipped: frozenset[int] = frozenset()

    def holds(self, plan: Plan, slot: int) -> bool:
        """Whether the value in a slot is known before the run starts."""
        return self.found.union(self.skipped).issuperset(plan.makers(slot))


class DelegatedContext(CallbackContext):
    """The context of a nested pipeline that runs on its own backend.

    Args:
        context: Context of the nested pipeline.
        values: Values of its inputs, by name.
        signatures: Signatures of these, where they are known.
        elements: Signatures of the elements of lists among them, where they are known.
    """

    __slots__ = ("_elements", "_ids", "_signatures")

    def __init__(
        self,
        context: CallbackContext,
        values: Mapping[str, Any],
        signatures: Mapping[str, bytes],
        elements: Mapping[str, Sequence[bytes]],
    ) -> None:
        super().__init__(context.hierarchy_path, context.node_path, context.item_path, context)
        self._ids = {name: id(value) for name, value in values.items()}  # they live until the backend has returned
        self._signatures = signatures
        self._elements = elements

    def signatures_of(self, values: Mapping[str, Any]) -> dict[str, bytes]:
        """Return the known signatures of those inputs whose values are still the original objects."""
        return {name: own for name, own in self._signatures.items() if self._is_same(name, values)}

    def elements_of(self, values: Mapping[str, Any]) -> dict[str, Sequence[bytes]]:
        """Return the known signatures of the elements of these inputs."""
        return {name: own for name, own in self._elements.items() if self._is_same(name, values)}

    def _is_same(self, name: str, values: Mapping[str, Any]) -> bool:
        return name in values and id(values[name]) == self._ids[name]


def prior_results_of_run(plan: Plan, context: CallbackContext | None, inputs: Mapping[str, Any]) -> PriorResults | None:
    """Return the prior results of a run that is part of another one; None when there are none."""
    if not isinstance(context, DelegatedContext) or not plan.is_cached:
        return None
    signatures: list[bytes | None] = [None] * len(plan.template)
    for name, own in context.signatures_of(inputs).items():
        signatures[plan.inputs[name]] = own
    elements = {plan.inputs[name]: list(own) for name, own in context.elements_of(inputs).items()}
    return PriorResults(signatures, elements, frozenset())


def with_prior_signatures(given: MapInputs, context: CallbackContext | None) -> MapInputs:
    """Return the inputs of a map, with the signatures that an enclosing run knows for them."""
    if not isinstance(context, DelegatedContext):
        return given
    return given._replace(signatures=context.signatures_of(given.shared), elements=context.elements_of(given.columns))
