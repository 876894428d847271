"""Signatures of the code of each step of a plan: the part of signatures that does not depend on inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from hypernodes import signature
from hypernodes.cache.base import Cache
from hypernodes.conditions import Condition
from hypernodes.engine.store.run_store import Warn
from hypernodes.plan import CallStep, NestedStep, Plan, Step

CALL = b"call"
DATED_CALL = b"dated call"


class NestedOutput(NamedTuple):
    """An output of a nested pipeline as a function of the pipeline's inputs.

    Attributes:
        code: Its signature with each input replaced by its name.
        inputs: The inputs it depends on, by the pipeline's own names.
    """

    code: bytes
    inputs: frozenset[str]


class Origin(NamedTuple):
    """What the signature of a result is made of, for somebody who wants to check a key.

    Attributes:
        how: What makes the result: a call, or the items of a map.
        code: Digest of the function, or signature of the mapped output.
        inputs: The signatures of the inputs.
        position: Position of the output among several; None for the only one.
    """

    how: bytes
    code: bytes
    inputs: tuple[bytes, ...]
    position: int | None = None

    @property
    def is_of_call(self) -> bool:
        """Whether the result is one of a call, rather than a list of the results of items."""
        return self.how in (CALL, DATED_CALL)

    def signature(self) -> bytes:
        """Return the signature."""
        whole = signature.combine(self.how, [self.code, *self.inputs])
        return whole if self.position is None else signature.combine(b"output %d" % self.position, [whole])


class SignedCall(NamedTuple):
    """The parts of the signatures of a call's results.

    Attributes:
        step: The step.
        code: Digest of its function.
        signed: The slots whose values are part of the signature, in order.
        stored: The slots of the results that are stored, at least one.
    """

    step: CallStep
    code: bytes
    signed: tuple[int, ...]
    stored: tuple[int, ...]


class IdentifiedCalls(NamedTuple):
    """The calls of a plan whose results are all identified by their inputs and stored in one cache.

    Attributes:
        cache: The cache.
        calls: The steps.
        inputs: The slots of the inputs and defaults that are a part of signatures.
        requested: Positions of the steps that make the requested outputs.
        slots: The slots of the stored results of these steps.
        may_repeat: Whether two of the steps may have the same result, since their code is the same.
    """

    cache: Cache
    calls: tuple[SignedCall, ...]
    inputs: frozenset[int]
    requested: tuple[int, ...]
    slots: tuple[int, ...]
    may_repeat: bool


class PlanCode:
    """Signatures of the code of one plan.

    Attributes:
        calls: For each step, the digest of its function; None when its results cannot be identified by its inputs,
            because it is never cached, its pipeline has no cache, or its code cannot be hashed.
        nested: For each step that is a nested pipeline, its outputs as functions of its inputs; None as above. The
            backend that runs it makes no difference.
        signed: For each step, the slots whose values are part of the signatures of its results, in order.
        identified: The calls of the plan, if all results are identified by their inputs; else None.
        may_repeat: Whether two steps may have the same result, since their code is the same.
        dated: For each step whose results count for some time only, the digest of its function; None for others. What
            depends on them is identified by their values.
        is_dated: Whether there is any such step.
    """

    def __init__(self, plan: Plan, codes: PlanCodes) -> None:
        self.calls: list[bytes | None] = []
        self.dated: list[bytes | None] = []
        self.nested: list[tuple[NestedOutput | None, ...]] = []
        self.signed: list[tuple[int, ...]] = []
        for step in plan.steps:
            code = _call_code(plan, step, codes) if isinstance(step, CallStep) else None
            is_dated = isinstance(step, CallStep) and step.node.cache_for is not None
            self.calls.append(None if is_dated else code)
            self.dated.append(code if is_dated else None)
            self.nested.append(_nested_code(step, codes) if isinstance(step, NestedStep) else ())
            self.signed.append(_signed_arguments(step, self.nested[-1]))
        known = [code for code in self.calls if code is not None]
        self.may_repeat = len(set(known)) < len(known)
        self.is_dated = any(code is not None for code in self.dated)
        self.identified = _identified(plan, self)


class PlanCodes:
    """Signatures of the code of all plans of a run, each computed at its first use.

    Args:
        memo: Digests of functions, classes and values that were computed before.
        warn: Warns the user, once for each subject and reason, that a node runs uncached.

    Attributes:
        memo: The same.
        warn: The same.
        known: The signatures computed so far.
        sent: The digests of the code of nodes that a remote job holds, also of those that its functions refer to.
    """

    def __init__(self, memo: signature.Memo, warn: Warn) -> None:
        self.memo = memo
        self.warn = warn
        self.known: dict[Plan, PlanCode] = {}
        self.sent: set[bytes | None] = set()

    def is_ours(self, origin: Origin) -> bool:
        """Whether a signature is that of something that a plan known by now makes, or a node that was sent."""
        if origin.is_of_call:
            return origin.code in self.sent or any(
                origin.code in (code.calls if origin.how == CALL else code.dated) for code in self.known.values()
            )
        return any(
            output is not None and output.code == origin.code
            for code in self.known.values()
            for outputs in code.nested
            for output in outputs
        )

    def of(self, plan: Plan) -> PlanCode:
        """Return the signatures of the code of a plan."""
        code = self.known.get(plan)
        if code is None:
            code = self.known[plan] = PlanCode(plan, self)
        return code


def _identified(plan: Plan, plan_code: PlanCode) -> IdentifiedCalls | None:
    if plan.guarded:  # what is in a slot depends on which steps run
        return None
    calls: list[SignedCall] = []
    caches: dict[int, Cache] = {}
    for step, code, slots in zip(plan.steps, plan_code.calls, plan_code.signed, strict=True):
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
        slots=tuple([slot for position in requested for slot in calls[position].stored]),
        may_repeat=plan_code.may_repeat,
    )


def _signed_arguments(step: Step, outputs: tuple[NestedOutput | None, ...]) -> tuple[int, ...]:
    """Return the slots of the arguments that are a part of the signature of a step's results."""
    if isinstance(step, CallStep):
        if not step.node.cache_ignore:
            return tuple(step.arguments)
        pairs = zip(step.node.inputs, step.arguments, strict=True)
        return tuple(slot for name, slot in pairs if name not in step.node.cache_ignore)
    if step.mapped and None in outputs:
        return tuple(step.arguments)
    used = set(step.mapped).union(*(output.inputs for output in outputs if output is not None))
    return tuple(slot for name, slot in zip(step.inner_inputs, step.arguments, strict=True) if name in used)


def sign_outputs(step: Step, signature_of_step: bytes) -> tuple[bytes, ...]:
    """Return the signature of each output of a call."""
    if len(step.outputs) == 1:
        return (signature_of_step,)
    return tuple(signature.combine(b"output %d" % i, [signature_of_step]) for i in range(len(step.outputs)))


def sign_call(code: bytes, inputs: list[bytes]) -> bytes:
    """Return the signature of a call, from the digest of its function and the signatures of its inputs."""
    return signature.combine(CALL, [code, *inputs])


def origins_of_call(step: CallStep, code: bytes, inputs: tuple[bytes, ...]) -> list[Origin]:
    """Return what the signature of each output of a call is made of; see `sign_outputs`."""
    how = CALL if step.node.cache_for is None else DATED_CALL
    if len(step.outputs) == 1:
        return [Origin(how, code, inputs)]
    return [Origin(how, code, inputs, position) for position in range(len(step.outputs))]


def _call_code(plan: Plan, step: CallStep, codes: PlanCodes) -> bytes | None:
    if not step.node.cache or plan.scopes[step.scope].cache is None:
        return None
    try:
        return signature.code_digest(step.node, codes.memo)
    except Exception as error:
        codes.warn(
            step.node.name,
            "code",
            f"node {step.node.name!r} runs uncached: its function cannot be identified: {_reason(error)}. "
            f"{signature.advice(error)}".rstrip(),
        )
        return None


def _nested_code(step: NestedStep, codes: PlanCodes) -> tuple[NestedOutput | None, ...]:
    plan = step.inner
    names = plan.inputs.items()
    inputs = {slot: NestedOutput(signature.atom(b"input " + name.encode()), frozenset([name])) for name, slot in names}
    # Another backend does not say which steps ran, so that its results are known by their values only.
    covers_branches = bool(step.mapped) and not step.is_delegated
    outputs = trace(plan, codes, inputs, covers_branches=covers_branches)
    is_collected = bool(step.mapped) and step.node.on_error == "collect" and len(outputs) > 1
    return _collected_together(outputs) if is_collected else outputs


def _collected_together(outputs: tuple[NestedOutput | None, ...]) -> tuple[NestedOutput | None, ...]:
    """Return the outputs of a mapped pipeline whose failed items are collected: each depends on what all depend on.

    An item that fails for one output has a `Failure` in the place of every output.
    """
    known = [output for output in outputs if output is not None]
    if len(known) < len(outputs):
        return (None,) * len(outputs)
    codes = [output.code for output in known]
    inputs = frozenset[str]().union(*(output.inputs for output in known))
    return tuple([NestedOutput(signature.combine(b"collected", [own, *codes]), inputs) for own in codes])


def trace(
    plan: Plan, codes: PlanCodes, inputs: Mapping[int, NestedOutput | None], *, covers_branches: bool = False
) -> tuple[NestedOutput | None, ...]:
    """Return each output of a plan as a function of its inputs; None where it cannot be identified by them.

    Args:
        plan: The plan.
        codes: Signatures of code in this run.
        inputs: The signature of the value in the slot of each input; None where unknown.
        covers_branches: Whether outputs that depend on which steps run get a signature for all cases together. It is
            for lists: their elements have those of the steps that ran.
    """
    code = codes.of(plan)
    known = dict(inputs)

    def source(slot: int) -> NestedOutput | None:
        return known[slot] if slot in known else _constant(plan, slot, codes)

    for step, digest, nested in zip(plan.steps, code.calls, code.nested, strict=True):
        outputs: Sequence[NestedOutput | None]
        if step.guard is not None and not (covers_branches and isinstance(step, CallStep)):
            outputs = [None] * len(step.outputs)
        elif isinstance(step, CallStep):
            outputs = _trace_call(step, digest, [source(slot) for slot in code.signed[step.index]])
        elif step.mapped:
            sources = {name: source(slot) for name, slot in zip(step.inner_inputs, step.arguments, strict=True)}
            outputs = [_trace_map(step, output, sources) for output in nested]
        else:
            pairs = zip(step.inner_inputs, step.arguments, strict=True)
            outputs = trace(step.inner, codes, {step.inner.inputs[name]: source(slot) for name, slot in pairs})
        if step.guard is not None:
            on = [(condition, source(slot)) for condition, slot in step.guard.conditions]
            outputs = [_on_conditions(output, on, codes) for output in outputs]
        for slot, own in zip(step.outputs, outputs, strict=True):
            if slot is None:
                continue
            makers = plan.makers(slot)
            known[slot] = own if makers[0] == step.index else _either(known[slot], own)
            if len({id(plan.scopes[plan.steps[maker].scope].cache) for maker in makers}) > 1:
                known[slot] = None  # there is not one cache that holds all results
    return tuple([known.get(slot) for slot in plan.outputs.values()])


def _trace_call(
    step: CallStep, digest: bytes | None, sources: Sequence[NestedOutput | None]
) -> Sequence[NestedOutput | None]:
    if digest is None or None in sources:
        return [None] * len(step.outputs)
    whole = sign_call(digest, [source.code for source in sources if source])
    inputs = frozenset[str]().union(*(source.inputs for source in sources if source))
    return [NestedOutput(own, inputs) for own in sign_outputs(step, whole)]


def _on_conditions(
    output: NestedOutput | None, conditions: Sequence[tuple[Condition, NestedOutput | None]], codes: PlanCodes
) -> NestedOutput | None:
    """Return the result of a step that runs on conditions, as a function that includes these."""
    if output is None:
        return None
    codes_of_parts, inputs = [output.code], output.inputs
    for condition, value in conditions:
        if value is None:
            return None
        try:
            meaning = signature.digest((condition.values, condition.is_negated), codes.memo)
        except signature.UnhashableValueError:
            return None
        codes_of_parts += [value.code, meaning]
        inputs |= value.inputs
    return NestedOutput(signature.combine(b"conditional", codes_of_parts), inputs) if conditions else output


def _either(first: NestedOutput | None, second: NestedOutput | None) -> NestedOutput | None:
    if first is None or second is None:
        return None
    return NestedOutput(signature.combine(b"either", [first.code, second.code]), first.inputs | second.inputs)


def _trace_map(
    step: NestedStep, output: NestedOutput | None, sources: Mapping[str, NestedOutput | None]
) -> NestedOutput | None:
    if output is None:
        return None
    used = [source for name, source in sources.items() if name in output.inputs or name in step.mapped]
    if None in used:
        return None
    inputs = frozenset[str]().union(*(source.inputs for source in used if source))
    return NestedOutput(sign_map(step, output, [source.code for source in used if source]), inputs)


def sign_map(step: NestedStep, output: NestedOutput, inputs: list[bytes]) -> bytes:
    """Return the signature of one output of a mapped pipeline, from those of the inputs it depends on."""
    return origin_of_map(step, output, inputs).signature()


def origin_of_map(step: NestedStep, output: NestedOutput, inputs: Sequence[bytes]) -> Origin:
    """Return what the signature of one output of a mapped pipeline is made of; see `sign_map`."""
    names = [name for name in step.inner_inputs if name in output.inputs or name in step.mapped]
    how = f"map {step.node.map_mode} over {','.join(step.mapped)} of {','.join(names)}"
    return Origin(how.encode(), output.code, tuple(inputs))


def _constant(plan: Plan, slot: int, codes: PlanCodes) -> NestedOutput | None:
    try:
        return NestedOutput(signature.digest(plan.template[slot], codes.memo), frozenset())
    except signature.UnhashableValueError:
        return None


def _reason(error: Exception) -> str:
    return f"node{error}" if isinstance(error, signature.UnhashableValueError) else repr(error)
