"""The identity of computations: code, inputs, and the signatures of what they depend on.

`digest` identifies a value, and code with everything it refers to; `register` teaches it a type it does not know.
"""

from hypernodes.signature.value import digest, register
from hypernodes.signature.walk import DIGEST_SIZE, Parts, UnhashableValueError, atom, combine

__all__ = ["DIGEST_SIZE", "Parts", "UnhashableValueError", "atom", "combine", "digest", "register"]
