"""Which node of a pipeline would run where, found out before anything runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from hypernodes.backend.base import Backend
from hypernodes.plan import UNSET, CallStep, Plan, PlanPart, Step


class NodesAtPlace(NamedTuple):
    """The nodes of a pipeline that run on one backend.

    Attributes:
        backend: The backend.
        nodes: Their names; after the names of mapped pipelines in which they are, where these have several places.
        problems: What would keep them from being sent or understood; empty when all is well.
    """

    backend: Backend
    nodes: tuple[str, ...]
    problems: tuple[str, ...]


class PlacedPreflight(NamedTuple):
    """Which node runs where.

    Attributes:
        places: The nodes of each backend.
    """

    places: tuple[NodesAtPlace, ...]

    @property
    def problems(self) -> tuple[str, ...]:
        """What would keep nodes from running at their places."""
        return tuple([problem for place in self.places for problem in place.problems])

    def __str__(self) -> str:
        lines: list[str] = []
        for place in self.places:
            lines.append(f"{place.backend!r}: {', '.join(place.nodes)}")
            lines += [f"  PROBLEM: {problem}" for problem in place.problems]
        return "\n".join(lines)


class PlacesFound:
    """Gathers the steps of placed plans by their backends.

    Args:
        default: Runs the steps that have no other place.
    """

    def __init__(self, default: Backend) -> None:
        self._default = default
        self._backends: dict[int, Backend] = {}
        self._nodes: dict[int, list[str]] = {}
        self._parts: dict[int, list[tuple[PlanPart, dict[str, Any]]]] = {}

    def add(self, plan: Plan, given: Mapping[str, Any], above: str = "") -> None:
        """Add the steps of a plan.

        Args:
            plan: The plan, placed.
            given: The inputs whose values are known.
            above: Path of the mapped pipeline whose items it computes.
        """
        values = {plan.inputs[name]: value for name, value in given.items() if name in plan.inputs}
        steps: dict[int, list[Step]] = {}
        for step in plan.steps:
            backend = plan.places.get(step.index)
            if backend is None and not isinstance(step, CallStep):
                if step.backend is None and step.inner.has_places:
                    self.add(step.inner, {}, f"{above}{step.node.name}/")
                    continue
                backend = step.backend
            backend = self._default if backend is None else backend
            self._backends[id(backend)] = backend
            self._nodes.setdefault(id(backend), []).append(above + step.node.name)
            steps.setdefault(id(backend), []).append(step)
        for identity, own in steps.items():
            part = PlanPart(plan, own, [], [])
            inputs = {name: values.get(slot, UNSET) for name, slot in zip(part.plan.inputs, part.entering, strict=True)}
            self._parts.setdefault(identity, []).append((part, inputs))

    def places(self) -> Iterator[NodesAtPlace]:
        """Yield the nodes of each backend."""
        for identity, backend in self._backends.items():
            problems: dict[str, None] = {}
            preflight: Any = getattr(backend, "preflight", None)  # of remote backends
            for part, inputs in self._parts[identity]:
                if preflight is not None:
                    problems |= dict.fromkeys(preflight(part, inputs).problems)
            yield NodesAtPlace(backend, tuple(self._nodes[identity]), tuple(problems))
