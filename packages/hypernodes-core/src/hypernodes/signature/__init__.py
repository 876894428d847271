"""The identity of computations: code, inputs, and the signatures of what they depend on.

`digest` identifies a value, and code with everything it refers to; `code_digest` identifies the function of a node;
`code_components` names what it consists of; `register` adds a hasher for a type; `reduce_sentinel` keeps
sentinels what they are when they are pickled. The modules behind are imported when something is to be identified for
the first time.
"""

from typing import TYPE_CHECKING, Any

from hypernodes.nodes import Node, sign_travelling_nodes_with

if TYPE_CHECKING:
    from hypernodes.signature.changed import changed_parts
    from hypernodes.signature.components import code_components
    from hypernodes.signature.hashers import register
    from hypernodes.signature.memo import Memo
    from hypernodes.signature.remedies import advice
    from hypernodes.signature.sentinels import reduce_sentinel
    from hypernodes.signature.travel import code_digest, with_code_digest
    from hypernodes.signature.value import digest, new_memo
    from hypernodes.signature.walk import Parts, UnhashableValueError, atom, combine

__all__ = [
    "DIGEST_SIZE",
    "Memo",
    "Parts",
    "UnhashableValueError",
    "advice",
    "atom",
    "changed_parts",
    "code_components",
    "code_digest",
    "combine",
    "digest",
    "new_memo",
    "reduce_sentinel",
    "register",
    "with_code_digest",
]

DIGEST_SIZE = 32
_MODULES = {
    "Memo": "memo",
    "Parts": "walk",
    "UnhashableValueError": "walk",
    "advice": "remedies",
    "atom": "walk",
    "changed_parts": "changed",
    "code_components": "components",
    "code_digest": "travel",
    "combine": "walk",
    "digest": "value",
    "new_memo": "value",
    "reduce_sentinel": "sentinels",
    "register": "hashers",
    "with_code_digest": "travel",
}


def _digest_to_carry(node: Node[..., Any]) -> bytes | None:
    from hypernodes.signature.travel import digest_to_carry

    return digest_to_carry(node)


sign_travelling_nodes_with(_digest_to_carry)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}", name=name)
    from importlib import import_module

    found = globals()[name] = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    return found
