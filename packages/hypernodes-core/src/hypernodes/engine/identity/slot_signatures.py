"""The signatures of the values in one execution of a plan: inputs by content, results by the call that made them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hypernodes import signature
from hypernodes.engine.identity.plan_code import (
    NestedOutput,
    Origin,
    PlanCodes,
    origin_of_map,
    origins_of_call,
    sign_call,
    sign_outputs,
    trace,
)
from hypernodes.failure import Failure
from hypernodes.plan import UNSET, CallStep, NestedStep, Plan, Step

UNKNOWN = None
NEVER = b""  # the signature of a value that cannot be identified at all


class SlotSignatures:
    """The known signatures of the slots of a plan.

    Args:
        plan: The plan.
        codes: Signatures of code in this run.
        values: Value of every slot so far; the caller fills them in.
        known: Signatures known beforehand, by slot.

    Attributes:
        code: Signatures of the code of the plan.
        signatures: Signature of the value in every slot; None while unknown, empty when there can be none.
        undecided: Positions of the steps that may be skipped: what is in the slots of their results is not known yet.
    """

    __slots__ = ("_codes", "_plan", "_values", "code", "signatures", "undecided")

    def __init__(
        self, plan: Plan, codes: PlanCodes, values: list[Any], known: Mapping[int, bytes] | None = None
    ) -> None:
        self._plan = plan
        self._codes = codes
        self._values = values
        self.code = codes.of(plan)
        self.undecided: set[int] = set(plan.guarded)
        self.signatures: list[bytes | None] = [UNKNOWN] * len(values)
        for slot, own in (known or {}).items():
            self.signatures[slot] = own

    def sign_all(self) -> None:
        """Compute the signatures that can be known before any step has run."""
        for step in self._plan.steps:
            self.sign(step)

    def can_be_identified(self, step: Step) -> bool:
        """Whether the results of a step are identified by its inputs, rather than by their values."""
        if isinstance(step, CallStep):
            is_known = self.code.calls[step.index] is not None
        else:
            has_cache = not step.mapped or step.inner.scopes[0].cache is not None  # for the list of its items
            is_known = has_cache and None not in self.code.nested[step.index]
        if not is_known:
            return False
        signatures = self.signatures
        for slot in self.code.signed[step.index]:  # noqa: SIM110 - runs several times for every step
            if not signatures[slot] and self.of(slot) == NEVER:
                return False
        return True

    def is_signed(self, step: Step) -> bool:
        """Whether the signatures of all arguments of a step are known."""
        signatures = self.signatures
        for slot in self.code.signed[step.index]:
            if signatures[slot] is UNKNOWN and self.of(slot) is UNKNOWN:
                return False
        return True

    def of(self, slot: int) -> bytes | None:
        """Return the signature of the value in a slot; inputs and defaults are identified at the first call."""
        known = self.signatures[slot]
        if known is UNKNOWN and self._plan.producers[slot] < 0:
            known = self.signatures[slot] = self.identify(slot)
        return known

    def of_inputs(self, except_slots: Iterable[int]) -> dict[int, bytes]:
        """Return the signatures of the inputs and defaults that cached steps read, without those of `except_slots`."""
        varying = set(except_slots)
        for step in self._plan.steps:
            is_identified = isinstance(step, NestedStep) or self.code.calls[step.index] is not None
            for slot in self.code.signed[step.index] if is_identified else ():
                if slot not in varying:
                    self.of(slot)
        return {slot: own for slot, own in enumerate(self.signatures) if own is not UNKNOWN}

    def of_outputs(self) -> str:
        """Return one signature for all requested outputs."""
        return sign_item(self._plan, self.signatures)

    def key(self, slot: int) -> str:
        """Return the cache key of the value in a slot."""
        return (self.signatures[slot] or b"").hex()

    def sign(self, step: Step) -> bool:
        """Compute the signatures of a step's outputs if those of its inputs are known; return whether they are now."""
        if step.index in self.undecided:
            return False
        if isinstance(step, NestedStep) and not step.mapped:
            return self._sign_once(step)
        if not self.can_be_identified(step) or not self.is_signed(step):
            return False
        if isinstance(step, CallStep):
            code = self.code.calls[step.index]
            assert code is not None
            known = [self.signatures[slot] or b"" for slot in self.code.signed[step.index]]
            outputs = sign_outputs(step, sign_call(code, known))
        else:
            outputs = self._sign_map(step)
        for slot, own in zip(step.outputs, outputs, strict=True):
            if slot is not None:
                self.signatures[slot] = own
        return True

    def _sign_map(self, step: NestedStep) -> tuple[bytes, ...]:
        return tuple(origin.signature() for origin in self.origins(step))

    def origins(self, step: Step) -> list[Origin]:
        """Return what the signature of each output of a call, or of a mapped pipeline, is made of."""
        if isinstance(step, CallStep):
            code = self.code.calls[step.index]
            assert code is not None
            return origins_of_call(
                step, code, tuple(self.signatures[slot] or b"" for slot in self.code.signed[step.index])
            )
        made: list[Origin] = []
        for output in self.code.nested[step.index]:
            assert output is not None
            used = output.inputs.union(step.mapped)
            pairs = zip(step.inner_inputs, step.arguments, strict=True)
            made.append(
                origin_of_map(step, output, [self.signatures[slot] or b"" for name, slot in pairs if name in used])
            )
        return made

    def _sign_once(self, step: NestedStep) -> bool:
        """Sign the outputs of an unmapped nested pipeline whose inputs are known; return whether all could be signed.

        They get the signatures that they would have if the nodes of the nested pipeline were a part of this plan.
        """
        signed = self.code.signed[step.index]
        inputs: dict[int, NestedOutput | None] = {}
        for name, slot in zip(step.inner_inputs, step.arguments, strict=True):
            known = self.of(slot) if slot in signed else UNKNOWN
            inputs[step.inner.inputs[name]] = NestedOutput(known, frozenset()) if known else None
        outputs = trace(step.inner, self._codes, inputs)
        for filled, output in zip(step.outputs, outputs, strict=True):
            if filled is not None and output is not None:
                self.signatures[filled] = output.code
        return None not in outputs

    def origins_of_dated(self, step: CallStep) -> list[Origin] | None:
        """Return what the keys of a call's results are made of that count for some time only; None while unknown."""
        code = self.code.dated[step.index]
        if code is None:
            return None
        known = [self.of(slot) for slot in self.code.signed[step.index]]
        return origins_of_call(step, code, tuple([own for own in known if own])) if all(known) else None

    def unidentified_sources(self, step: Step, seen: set[int] | None = None) -> list[int]:
        """Return the steps upstream that have to run, or to be decided on, before the signature of `step` can be known.

        Args:
            step: The step.
            seen: Steps whose upstream steps were returned by an earlier call; extended by this one.
        """
        seen = set() if seen is None else seen
        found: list[int] = []
        if step.index in seen:
            return found
        seen.add(step.index)
        stack: list[Step] = [step]
        while stack:
            for slot in self.code.signed[stack.pop().index]:
                if self.of(slot) is not UNKNOWN:
                    continue
                for source in self._plan.makers(slot):
                    if source in seen:
                        continue
                    seen.add(source)
                    upstream = self._plan.steps[source]
                    if source not in self.undecided and self.can_be_identified(upstream):
                        stack.append(upstream)
                    else:
                        found.append(source)
        return found

    def identify(self, slot: int) -> bytes:
        """Return the signature of a value by its content; empty, with one warning, when it has none."""
        return identify(self._plan, self._codes, slot, self._values[slot])

    def identify_element(self, slot: int, position: int) -> bytes:
        """Return the signature of an element of a list by its content; empty, with one warning, when it has none."""
        return identify(self._plan, self._codes, slot, self._values[slot][position], f"[{position}]")


def sign_item(plan: Plan, signatures: Sequence[bytes | None]) -> str:
    """Return one signature for all requested outputs, from the signatures of all slots."""
    known = [signatures[slot] or b"" for slot in plan.outputs.values()]
    return (known[0] if len(known) == 1 else signature.combine(b"item", known)).hex()


def identify(plan: Plan, codes: PlanCodes, slot: int, value: Any, where: str = "") -> bytes:
    """Return the signature of a value by its content; empty, with one warning, if it has none.

    Args:
        plan: The plan.
        codes: Signatures of code in this run.
        slot: The slot that the value is in.
        value: The value.
        where: Where in the slot, when it is an element of a list.
    """
    if value is UNSET:
        return NEVER
    try:
        return signature.digest(value, codes.memo)
    except Exception as error:  # an error of a __cache_key__, a __reduce__ or a property must not end the run
        names = [name for name, own in plan.inputs.items() if own == slot]
        users = [step for step, signed in zip(plan.steps, codes.of(plan).signed, strict=True) if slot in signed]
        if not names:
            names = [name for step in users for name, own in _named_arguments(step) if own == slot]
        name = (names[0] if names else "a result") + where
        is_ours = isinstance(error, signature.UnhashableValueError)
        problem = f"{name}{error}" if is_ours else f"{name} cannot be identified: {error!r}"
        if isinstance(value, Failure):
            problem = f"{name}, a failed item, cannot be identified: its error has {problem.removeprefix(name)}"
        codes.warn(
            name,
            "value",
            f"{', '.join(repr(step.node.name) for step in users)}: runs uncached, because {problem}. "
            f"{signature.advice(error, name)}".rstrip(),
        )
        return NEVER


def _named_arguments(step: Step) -> list[tuple[str, int]]:
    names = step.node.inputs if isinstance(step, CallStep) else step.inner_inputs
    return list(zip(names, step.arguments, strict=True))
