"""The signature of a node's code: computed where its source is, and known wherever the node arrives.

A function that came by pickle has lost its source and its place among other functions. So a node that is pickled by
value carries the digest of its code, and where it arrives that one counts.
"""

from __future__ import annotations

from typing import Any

from hypernodes.nodes import Node
from hypernodes.signature.memo import Memo
from hypernodes.signature.value import digest, new_memo


def code_digest(node: Node[..., Any], memo: Memo | None = None) -> bytes:
    """Return the 32-byte digest of a node's code: its function, all that it refers to, and what its options add.

    Args:
        node: The node.
        memo: What is known of code in this run (see `new_memo`); without one, everything is looked at again.

    Raises:
        UnhashableValueError: Something that the function refers to cannot be identified by its content.

    Example:
        >>> from hypernodes import node
        >>> from hypernodes.signature import code_digest
        >>> __name__ = "my_pipelines"  # code of the library itself is not looked into
        >>> one, other = (node(output_name="y")(function) for function in (lambda x: x + 1, lambda x: x + 2))
        >>> code_digest(one) == code_digest(one) != code_digest(other)
        True
    """
    return node.code_signature or digest(node, memo or new_memo())


def with_code_digest(node: Node[..., Any], code: bytes) -> Node[..., Any]:
    """Return a copy of a node that is identified by a digest computed elsewhere, whatever can be seen of it here.

    Args:
        node: The node, as it arrived.
        code: What `code_digest` returned where it came from.
    """
    copy: Node[..., Any] = object.__new__(type(node))
    copy.__dict__.update(node.__dict__, code_signature=code)
    return copy


def digest_to_carry(node: Node[..., Any]) -> bytes | None:
    """Return the digest that a node takes along when it is pickled; None when its code cannot be identified."""
    try:
        return code_digest(node)
    except Exception:  # then it is not cached where it arrives either, and that is said there
        return None
