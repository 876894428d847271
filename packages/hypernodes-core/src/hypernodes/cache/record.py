"""Records of the last computation of a node, stored next to its results, so that `explain` can report what changed.

A record is a plain dict, since the version that wrote it may be older or newer than the one that reads it:

- `format`: "1"; records of other formats are not read;
- `node`: name of the node, and `version` its `@node(version=...)`, where it has one;
- `computed_at`: time of the computation, in seconds since the epoch;
- `duration_s`: how long that took, in seconds, where it is known;
- `code_digest`: digest of its whole code;
- `code`: for every component of that code its digest; empty where the code could not be inspected;
- `after_failures`, where it depends on failed items: the mapped pipeline that they are of, and `is_uncached`, whether
  the result is not stored because their errors cannot be identified;
- `inputs`: for every parameter a dict of known facts: `digest`, unless it varies from item to item; `shown`, its value
  as text where that is short; `from`, the name of the node that made it.
"""

from __future__ import annotations

import time
from typing import Any, Final

from hypernodes.durations import in_words

RECORD_PREFIX: Final = "about-"
FORMAT: Final = "1"


def is_record_key(key: str) -> bool:
    """Whether a key is that of a record of a node, rather than of a result."""
    return key.startswith(RECORD_PREFIX)


def checked_record(value: Any) -> dict[str, Any] | None:
    """Return a record as it was read from a cache; None when it is not a valid record of a known format."""
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        return None
    code, inputs = value.get("code"), value.get("inputs")
    is_valid = (
        isinstance(value.get("node"), str)
        and isinstance(value.get("version", ""), str)
        and isinstance(value.get("after_failures", ""), str)
        and isinstance(value.get("computed_at"), float)
        and isinstance(value.get("duration_s", 0.0), float)
        and isinstance(value.get("code_digest"), bytes)
        and isinstance(code, dict)
        and all(isinstance(label, str) and isinstance(own, bytes) for label, own in code.items())
        and isinstance(inputs, dict)
        and all(isinstance(name, str) and _is_input(known) for name, known in inputs.items())
    )
    return value if is_valid else None


def _is_input(known: Any) -> bool:
    return (
        isinstance(known, dict)
        and isinstance(known.get("digest", b""), bytes)
        and isinstance(known.get("shown", ""), str)
        and isinstance(known.get("from", ""), str)
    )


def without_values(record: Any) -> Any:
    """Return a record that holds digests only, and no input as text."""
    inputs = record.get("inputs") if isinstance(record, dict) else None
    if not isinstance(inputs, dict):
        return record
    kept = {name: {fact: known[fact] for fact in known if fact != "shown"} for name, known in inputs.items()}
    return {**record, "inputs": kept}


def describe_record(value: Any) -> list[str]:
    """Return a description of a record, line by line.

    Args:
        value: The record, as it was read from a cache.
    """
    record = checked_record(value)
    if record is None:
        return ["a record that this version cannot read"]
    took = f", in {in_words(record['duration_s'])}" if "duration_s" in record else ""
    lines = [f"computed  {_date(record['computed_at'])}{took}"]
    if "version" in record:
        lines.append(f"version   {record['version']}")
    if "after_failures" in record:
        lines.append(f"after     failed items of {record['after_failures']}")
    heads = ["code", *[""] * len(record["code"])]
    lines += [f"{head:<10}{label}" for head, label in zip(heads, record["code"] or ["not inspected"], strict=False)]
    heads = ["inputs", *[""] * len(record["inputs"])]
    inputs = [_describe_input(name, known) for name, known in record["inputs"].items()]
    return lines + [f"{head:<10}{text}" for head, text in zip(heads, inputs or ["none"], strict=False)]


def _describe_input(name: str, known: dict[str, Any]) -> str:
    source = f", made by {known['from']}" if "from" in known else ""
    if "shown" in known:
        return f"{name} = {known['shown']}{source}"
    return f"{name}{source}" if "digest" in known else f"{name}{source}, which varies from item to item"


def _date(moment: float) -> str:
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(moment))
    except (OverflowError, ValueError, OSError):  # outside the range of dates
        return "?"
