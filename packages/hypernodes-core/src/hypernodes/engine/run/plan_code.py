"""The part of signatures that does not depend on inputs: the code of each step of a plan."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from hypernodes import signature
from hypernodes.cache.base import Cache
from hypernodes.engine.run.run_state import RunState
from hypernodes.plan import CallStep, NestedStep, Plan, Step


class MappedOutput(NamedTuple):
    """What an output of a mapped pipeline is, as a function of the inputs.

    Attributes:
        code: Its signature with each input replaced by its name.
        inputs: The inputs it depends on, by the pipeline's own names.
    """

    code: bytes
    inputs: frozenset[str]


class SignedCall(NamedTuple):
    """What the signatures of the results of a call are made of.

    Attributes:
        step: The step.
        code: Digest of its function.
        signed: The slots whose contents make a difference, in order.
        kept: The slots of the results that are kept, one at least.
    """

    step: CallStep
    code: bytes
    signed: tuple[int, ...]
    kept: tuple[int, ...]


class IdentifiedCalls(NamedTuple):
    """A plan of calls all of which are known by what goes in, with one cache for all.

    Attributes:
        cache: The cache.
        calls: The steps.
        inputs: The slots of the inputs and defaults that are a part of signatures.
        requested: Positions of the steps that make what is asked for.
        slots: The slots of what these keep.
    """

    cache: Cache
    calls: tuple[SignedCall, ...]
    inputs: frozenset[int]
    requested: tuple[int, ...]
    slots: tuple[int, ...]


class PlanCode:
    """Signatures of the code of a plan, computed once per run.

    Attributes:
        calls: For each step, the digest of its function; None when its results cannot be identified by what went in,
            because it is never cached, has no cache around it, or its code cannot be hashed.
        mapped: For each step that is a mapped pipeline, what each output is; None like above.
        signed: For each step, the slots whose contents make a difference to its results, in order.
        identified: The whole plan, if it is so simple; else None.
    """

    def __init__(self, plan: Plan, run: RunState) -> None:
        self.calls: list[bytes | None] = []
        self.mapped: list[tuple[MappedOutput | None, ...] | None] = []
        self.signed: list[tuple[int, ...]] = []
        for step in plan.steps:
            is_call = isinstance(step, CallStep)
            self.calls.append(_call_code(plan, step, run) if isinstance(step, CallStep) else None)
            self.mapped.append(None if is_call else _mapped_code(step, run))  # type: ignore[arg-type]
            self.signed.append(_signed_arguments(step, self.mapped[-1]))
        self.identified = _identified(plan, self.calls, self.signed)


def code_of(plan: Plan, run: RunState) -> PlanCode:
    """Return the signatures of the code of `plan`, computed at its first use in a run."""
    code = run.code.get(plan)
    if code is None:
        code = run.code[plan] = PlanCode(plan, run)
    assert isinstance(code, PlanCode)
    return code


def _identified(plan: Plan, codes: Sequence[bytes | None], signed: Sequence[tuple[int, ...]]) -> IdentifiedCalls | None:
    calls: list[SignedCall] = []
    caches: dict[int, Cache] = {}
    for step, code, slots in zip(plan.steps, codes, signed, strict=True):
        cache = plan.scopes[step.scope].cache
        if isinstance(step, NestedStep) or code is None or cache is None:
            return None
        caches[id(cache)] = cache
        calls.append(SignedCall(step, code, slots, tuple([slot for slot in step.outputs if slot is not None])))
    if len(caches) != 1:
        return None
    requested = sorted({plan.producers[slot] for slot in plan.outputs.values()} - {-1})
    return IdentifiedCalls(
        cache=caches.popitem()[1],
        calls=tuple(calls),
        inputs=frozenset(slot for call in calls for slot in call.signed if plan.producers[slot] < 0),
        requested=tuple(requested),
        slots=tuple([slot for position in requested for slot in calls[position].kept]),
    )


def _signed_arguments(step: Step, mapped: tuple[MappedOutput | None, ...] | None) -> tuple[int, ...]:
    """Return the slots of the arguments that are a part of the signature of a step's results."""
    if isinstance(step, CallStep):
        if not step.node.cache_ignore:
            return tuple(step.arguments)
        pairs = zip(step.node.inputs, step.arguments, strict=True)
        return tuple(slot for name, slot in pairs if name not in step.node.cache_ignore)
    used = set(step.mapped)
    for output in mapped or (None,):
        if output is None:
            return tuple(step.arguments)
        used |= output.inputs
    return tuple(slot for name, slot in zip(step.inner_inputs, step.arguments, strict=True) if name in used)


def sign_outputs(step: Step, signature_of_step: bytes) -> tuple[bytes, ...]:
    """Return the signature of each output of a call."""
    if len(step.outputs) == 1:
        return (signature_of_step,)
    return tuple(signature.combine(b"output %d" % i, [signature_of_step]) for i in range(len(step.outputs)))


def sign_call(code: bytes, inputs: list[bytes]) -> bytes:
    """Return the signature of a call, from the digest of its function and the signatures of what goes in."""
    return signature.combine(b"call", [code, *inputs])


def _call_code(plan: Plan, step: CallStep, run: RunState) -> bytes | None:
    if not step.node.cache or plan.scopes[step.scope].cache is None:
        return None
    try:
        return signature.code_digest(step.node, run.memo)
    except Exception as error:
        run.warn(
            step.node.name,
            "code",
            f"node {step.node.name!r} runs uncached: its function cannot be identified: {_reason(error)}. Pass the "
            "object as an input instead, or give its class __cache_key__() or __cache_ignore__.",
        )
        return None


def _mapped_code(step: NestedStep, run: RunState) -> tuple[MappedOutput | None, ...] | None:
    if not step.mapped or step.node.pipeline.has_own_backend:
        return None
    plan = step.inner
    code = code_of(plan, run)
    known: dict[int, tuple[bytes, frozenset[str]] | None] = {
        slot: (signature.atom(b"input " + name.encode()), frozenset([name])) for name, slot in plan.inputs.items()
    }
    for inner, digest, mapped in zip(plan.steps, code.calls, code.mapped, strict=True):
        if isinstance(inner, CallStep):
            signed = code.signed[inner.index]
            sources = [known[slot] if slot in known else _constant(plan, slot, run) for slot in signed]
            if digest is None or None in sources:
                known.update((slot, None) for slot in inner.outputs if slot is not None)
                continue
            whole = sign_call(digest, [source[0] for source in sources if source])
            inputs = frozenset[str]().union(*(source[1] for source in sources if source))
            for slot, own in zip(inner.outputs, sign_outputs(inner, whole), strict=True):
                if slot is not None:
                    known[slot] = (own, inputs)
        else:
            for slot, output in zip(inner.outputs, mapped or [None] * len(inner.outputs), strict=True):
                if slot is not None:
                    known[slot] = _mapped_inside(inner, output, known)
    outputs = [known.get(slot) for slot in plan.outputs.values()]
    return tuple(None if known_output is None else MappedOutput(*known_output) for known_output in outputs)


def _mapped_inside(
    step: NestedStep, output: MappedOutput | None, known: dict[int, tuple[bytes, frozenset[str]] | None]
) -> tuple[bytes, frozenset[str]] | None:
    if output is None:
        return None
    used = output.inputs.union(step.mapped)
    sources = [known[slot] for name, slot in zip(step.inner_inputs, step.arguments, strict=True) if name in used]
    if None in sources:
        return None
    digests = [source[0] for source in sources if source]
    return sign_map(step, output, digests), frozenset[str]().union(*(source[1] for source in sources if source))


def sign_map(step: NestedStep, output: MappedOutput, inputs: list[bytes]) -> bytes:
    """Return the signature of one output of a mapped pipeline, from those of the inputs it depends on."""
    names = [name for name in step.inner_inputs if name in output.inputs or name in step.mapped]
    how = f"map {step.node.map_mode} over {','.join(step.mapped)} of {','.join(names)}"
    return signature.combine(how.encode(), [output.code, *inputs])


def _constant(plan: Plan, slot: int, run: RunState) -> tuple[bytes, frozenset[str]] | None:
    try:
        return signature.digest(plan.template[slot], run.memo), frozenset()
    except signature.UnhashableValueError:
        return None


def _reason(error: Exception) -> str:
    return f"node{error}" if isinstance(error, signature.UnhashableValueError) else repr(error)
