"""The sweep over kinds of values, as a command: two processes with different hash seeds, and a table of the results.

    python -m tests.signatures.sweep            # what is wrong, and what is not found again, with reasons
    python -m tests.signatures.sweep --write    # writes the table `sweep.md` beside this file

It ends with 1 if anything is wrong. Kinds of libraries that are not installed are skipped, and named.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, TypeAlias

from tests.signatures.value_kinds import Kind, all_kinds, missing
from tests.support import start_python

REPOSITORY = Path(__file__).parents[2]
TABLE = Path(__file__).with_name("sweep.md")
_CALL = (
    "import json, sys, warnings; sys.path.insert(0, sys.argv[1]); warnings.simplefilter('ignore');"
    "from tests.signatures.value_kinds import digests; print('\\n' + json.dumps(digests()))"
)
_REFUSED = "refused"
_ERROR = "error"
_PATIENCE_S = 300

Found: TypeAlias = Mapping[str, list[list[str]]]


class Verdict(NamedTuple):
    """What two processes say of a kind.

    Attributes:
        kind: The kind.
        faults: What is wrong.
        is_found: Whether the same value is found again.
    """

    kind: Kind
    faults: list[str]
    is_found: bool


def sweep() -> list[Verdict]:
    """Return the verdict on each kind whose libraries are installed."""
    processes = [start_python("-c", _CALL, str(REPOSITORY), hash_seed=seed) for seed in (1, 2)]
    try:
        one, other = map(_output_of, processes)
    finally:
        for process in processes:
            process.kill()
            process.wait()
    kinds = [kind for kind in all_kinds() if not missing(kind.needs)]
    assert one.keys() == other.keys() == {kind.name for kind in kinds}
    return [judge(kind, one[kind.name], other[kind.name]) for kind in kinds]


def _output_of(process: subprocess.Popen[str]) -> Found:
    out, err = process.communicate(timeout=_PATIENCE_S)
    assert process.returncode == 0, err
    found: Found = json.loads(out.splitlines()[-1])
    return found


def judge(kind: Kind, one: list[list[str]], other: list[list[str]]) -> Verdict:
    """Compare the digests of the same and of the different values in two processes."""
    (same, different), (same_there, different_there) = one, other
    faults = [text for text in (*same, *different, *same_there, *different_there) if text.startswith(_ERROR)]
    refused = [text for text in same if text.startswith(_REFUSED)]
    is_found = not refused and len({*same, *same_there}) == 1
    if is_found and kind.needless:
        faults.append("it is found again; say so in the list")
    elif not is_found and not kind.needless:
        faults += refused or ["the same value has different digests"]
    for rivals in (different, different_there):
        known = [text for text in rivals if not text.startswith(_REFUSED)]
        if {*known} & {*same, *same_there}:
            faults.append(f"another value has the same digest: {_equal(kind, [*same, *same_there], rivals)}")
        if len(known) != len(set(known)):
            faults.append("two different values have one digest")
    return Verdict(kind, list(dict.fromkeys(faults)), is_found)


def _equal(kind: Kind, same: list[str], rivals: list[str]) -> str:
    pairs = zip(kind.different, rivals, strict=True)
    return ", ".join(text for text, digest in pairs if digest in same)


def library_of(kind: Kind) -> str:
    """Return the name of the library that a kind is about."""
    return " and ".join(kind.needs) or "Python"


def table_of(verdicts: list[Verdict]) -> str:
    """Return the verdicts as a table."""
    wrong = sum(bool(verdict.faults) for verdict in verdicts)
    misses = sum(not verdict.is_found for verdict in verdicts)
    compared = sum(len(verdict.kind.same) + len(verdict.kind.different) for verdict in verdicts)
    lines = [
        "# Kinds of values, and what of them is found again",
        "",
        "Written by `python -m tests.signatures.sweep --write`: in two processes with different hash seeds, the same",
        "value has one signature, and every other value another one, or is refused.",
        "",
        f"{len(verdicts)} kinds, {compared} values: {wrong} wrong, {misses} needlessly not found again.",
        "",
        "| library | kind | values that are one | others | the same is found again |",
        "|---|---|---|---|---|",
    ]
    known = {verdict.kind.name: verdict for verdict in verdicts}
    for kind in sorted(all_kinds(), key=_order):
        answer = _answer(known[kind.name]) if kind.name in known else "not tried: the library was not installed"
        lines.append(f"| {library_of(kind)} | {kind.name} | {len(kind.same)} | {len(kind.different)} | {answer} |")
    return "\n".join(lines) + "\n"


def _order(kind: Kind) -> tuple[bool, str]:
    library = library_of(kind)
    return library != "Python", library


def _answer(verdict: Verdict) -> str:
    if verdict.faults:
        return f"WRONG: {'; '.join(verdict.faults)}"
    return "yes" if verdict.is_found else f"no: {verdict.kind.needless}"


def main(arguments: list[str]) -> int:
    """Run the command."""
    absent = sorted({name for kind in all_kinds() for name in missing(kind.needs)})
    verdicts = sweep()
    for verdict in verdicts:
        for fault in verdict.faults:
            print(f"WRONG  {library_of(verdict.kind)}, {verdict.kind.name}: {fault}")
        if not verdict.is_found and not verdict.faults:
            print(f"missed {library_of(verdict.kind)}, {verdict.kind.name}: {verdict.kind.needless}")
    wrong = sum(bool(verdict.faults) for verdict in verdicts)
    print(f"{len(verdicts)} kinds, {wrong} wrong; not installed, and skipped: {', '.join(absent) or 'none'}")
    if "--write" in arguments:
        TABLE.write_text(table_of(verdicts), encoding="utf-8")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
