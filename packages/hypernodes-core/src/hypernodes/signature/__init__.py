"""The identity of computations: code, inputs, and the signatures of what they depend on.

`digest` identifies a value, and code with everything it refers to; `register` teaches it a type it does not know. The
modules behind are imported when something is to be identified for the first time.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hypernodes.signature.value import digest, register
    from hypernodes.signature.walk import Memo, Parts, UnhashableValueError, atom, combine

__all__ = ["DIGEST_SIZE", "Memo", "Parts", "UnhashableValueError", "atom", "combine", "digest", "register"]

DIGEST_SIZE = 32
_WALK = ("Memo", "Parts", "UnhashableValueError", "atom", "combine")


def __getattr__(name: str) -> Any:
    if name in ("digest", "register"):
        from hypernodes.signature import value as module
    elif name in _WALK:
        from hypernodes.signature import walk as module  # type: ignore[no-redef]
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}", name=name)
    found = globals()[name] = getattr(module, name)
    return found
