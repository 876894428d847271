"""What a plan is assembled from: its steps, before it is known what they need, release and decide."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from hypernodes.conditions import Condition

if TYPE_CHECKING:
    from hypernodes.plan.plan import Plan, Scope


class DraftConditions(Protocol):
    """What has to hold so that a step runs."""

    @property
    def found(self) -> tuple[tuple[Condition, int], ...]: ...

    @property
    def slots(self) -> tuple[int, ...]: ...


class DraftStep(Protocol):
    """A step, before it is one."""

    @property
    def node(self) -> Any: ...

    @property
    def scope(self) -> int: ...

    @property
    def arguments(self) -> Mapping[str, int]:
        """Slot of each input, by the names of the enclosing pipeline; those that are mapped over come first."""

    @property
    def slots(self) -> tuple[int, ...]:
        """The slots of all its results."""

    @property
    def made(self) -> tuple[int | None, ...]:
        """Slot of each output; None for one that a given value replaces, or that is not needed."""

    @property
    def conditions(self) -> DraftConditions: ...

    @property
    def nested(self) -> tuple[Plan, tuple[int | None, ...]] | None:
        """Of a nested pipeline: its plan, and the slots of its results."""

    @property
    def backend(self) -> Any:
        """The backend that runs it; None for the one that runs the plan."""


class PlanDraft(NamedTuple):
    """What a plan is assembled from; see `Plan`.

    Attributes:
        scopes: The pipelines in it.
        inputs: Slot of each given input.
        outputs: Slot of each requested output.
        template: Initial value of every slot.
        steps: The steps, in topological order.
        outside: For the slots of outputs, the names of their readers outside the plan.
        resources: The slots that may hold resources.
        skippable: The slots of the inputs that may be skipped.
        is_requested: Whether its outputs were asked for by name.
        places: The backends that run steps together with their neighbours, by position.
        open_scopes: The scopes whose start and end are reported by the plan that this one is a part of.
    """

    scopes: Sequence[Scope]
    inputs: Mapping[str, int]
    outputs: Mapping[str, int]
    template: Sequence[Any]
    steps: Sequence[DraftStep]
    outside: Mapping[int, Sequence[str]]
    resources: Collection[int]
    skippable: Collection[int]
    is_requested: bool
    places: Mapping[int, Any] = MappingProxyType({})
    open_scopes: frozenset[int] | None = None
