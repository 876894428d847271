"""Compares the record of a node's last computation with the one that would be computed now."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from hypernodes.nodes import Node

_MAX_CHANGES = 5  # longer lists are shortened
# Prefixes of the labels of code components that are not libraries (see `signature.code_components`), and their titles.
_KINDS = {
    "function": "helper",
    "class": "class",
    "constant": "constant",
    "closure": "closure value",
    "default": "default of",
    "module": "module",
    "option": "option",
    "property": "property",
}


class _Piece(NamedTuple):
    """A component of a node's code.

    Attributes:
        label: Its kind and name, with its location.
        digest: The digest of its content.
    """

    label: str
    digest: bytes


def changes(node: Node[..., Any], then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return the differences between two records, in words; empty when there are none.

    Args:
        node: The node.
        then: Record of its last computation.
        now: Record of the computation that would come, without `computed_at`.
    """
    found: list[str] = []
    if then["code_digest"] != now["code_digest"]:
        found += _version_change(then.get("version"), now.get("version"))
        found += _code_changes(node, then["code"], now["code"]) if then["code"] and now["code"] else []
        found = found or ["its code changed since the last entry"]
    defaults = {line.rpartition("`")[0].rpartition("`")[2] for line in found if line.startswith("default of ")}
    for name, known in now["inputs"].items():
        change = _input_change(name, then["inputs"].get(name), known)
        if change is None:
            continue
        if name in defaults:  # more specific than the line about the code, which only says that the default changed
            found = [line for line in found if not line.startswith(f"default of `{name}`")]
            change = change.replace("input", "default of", 1)
        found.append(change)
    return (
        [*found[:_MAX_CHANGES], f"and {len(found) - _MAX_CHANGES} more changes"]
        if len(found) > _MAX_CHANGES + 1
        else found
    )


# --- inputs ------------------------------------------------------------------------------------------------------


def _input_change(name: str, then: Mapping[str, Any] | None, now: Mapping[str, Any]) -> str | None:
    if then is None:
        return None  # a new parameter; the code change reports it
    if "from" in then and "from" in now and then["from"] != now["from"]:
        return f"input `{name}` is made by `{now['from']}` now, not by `{then['from']}`"
    if "digest" not in then or "digest" not in now or then["digest"] == now["digest"]:
        return None
    if "shown" in then and "shown" in now and then["shown"] != now["shown"]:
        return f"input `{name}` changed {then['shown']} → {now['shown']}"
    return f"input `{name}` changed" + (f" (made by `{now['from']}`)" if "from" in now else "")


# --- code --------------------------------------------------------------------------------------------------------


def _version_change(then: str | None, now: str | None) -> list[str]:
    return [] if then == now else [f"version changed {then or 'none'} → {now or 'none'}"]


def _code_changes(node: Node[..., Any], then: Mapping[str, bytes], now: Mapping[str, bytes]) -> list[str]:
    before, after = _without_common(_by_name(then), _by_name(now))
    own = getattr(node.func, "__qualname__", "").replace("<locals>.", "")
    lines: list[tuple[int, str]] = []
    for name in dict.fromkeys([*after, *before]):
        if name == "option version":
            continue  # reported with its values
        old, new = before.get(name, []), after.get(name, [])
        kind, _, title = name.partition(" ")
        if kind not in _KINDS and (title == "" or old or new) and _is_library(old, new):
            lines.append((2, _library_change(name, old, new)))
        elif name == f"function {own}" and old and new:
            lines.append((0, f"its own code ({_location(new[0].label)}) changed since the last entry"))
        elif name == f"function {own}":
            lines.append((0, "it is another function now"))
        else:
            lines.append((1, _piece_change(kind, title, old, new)))
    return list(dict.fromkeys(line for _, line in sorted(lines, key=lambda entry: entry[0])))


def _piece_change(kind: str, title: str, old: list[_Piece], new: list[_Piece]) -> str:
    piece_text = f"{_KINDS.get(kind, kind)} `{title}`"
    location = _location((new or old)[0].label)
    if location:
        piece_text += f" ({location})"
    if old and new:
        return f"{piece_text} changed since the last entry"
    return f"it uses {piece_text} now" if new else f"it no longer uses {piece_text}"


def _library_change(name: str, old: list[_Piece], new: list[_Piece]) -> str:
    versions = [", ".join(piece.label.rpartition(" ")[2] for piece in pieces) for pieces in (old, new)]
    if old and new:
        return f"{name} changed {versions[0]} → {versions[1]}"
    return f"it uses {name} {versions[1]} now" if new else f"it no longer uses {name} {versions[0]}"


def _is_library(old: list[_Piece], new: list[_Piece]) -> bool:
    return all(piece.label.count(" ") == 1 for piece in (*old, *new))


def _by_name(code: Mapping[str, bytes]) -> dict[str, list[_Piece]]:
    """Return the pieces by their names without file, line, number and version."""
    found: dict[str, list[_Piece]] = {}
    for label, digest in code.items():
        found.setdefault(_name(label), []).append(_Piece(label, digest))
    return found


def _name(label: str) -> str:
    kind, _, rest = label.partition(" ")
    if kind not in _KINDS and " " not in rest:
        return kind  # a library, of which the rest is the version
    plain = label.partition(" (")[0]
    head, hash_sign, number = plain.rpartition(" #")
    return head if hash_sign and number.isdigit() else plain


def _location(label: str) -> str:
    start, end = label.find(" ("), label.rfind(")")
    inside = label[start + 2 : end] if 0 <= start < end else ""
    return inside if inside.rpartition(":")[2].isdigit() else ""


def _without_common(
    then: dict[str, list[_Piece]], now: dict[str, list[_Piece]]
) -> tuple[dict[str, list[_Piece]], dict[str, list[_Piece]]]:
    """Remove the pieces that are equal in both, also under another name."""
    for name in then.keys() & now.keys():
        common = _digests(then[name]) & _digests(now[name])
        then[name] = [piece for piece in then[name] if piece.digest not in common]
        now[name] = [piece for piece in now[name] if piece.digest not in common]
    renamed = set(_all_digests(then)) & set(_all_digests(now))
    left = [
        {name: changed for name, pieces in side.items() if (changed := [p for p in pieces if p.digest not in renamed])}
        for side in (then, now)
    ]
    return left[0], left[1]


def _digests(pieces: list[_Piece]) -> set[bytes]:
    return {piece.digest for piece in pieces}


def _all_digests(side: Mapping[str, list[_Piece]]) -> Iterator[bytes]:
    for pieces in side.values():
        yield from _digests(pieces)
