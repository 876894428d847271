"""What was measured, as a table in Markdown, as JSON, and as one picture for each family of workloads."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.measure import Measured, Suite, Times, Workload

Results = Sequence[tuple[Suite, Sequence[Measured]]]

HOW = """\
Every number here comes from one run, and can be had again with `./dev bench --peers --output docs` (without `--peers`:
HyperNodes and the ideals only, in a few minutes). All candidates of a workload take turns, round by round, so that they
meet the same machine. A round does short work in twenty passes, of which the one that was disturbed least counts.
Times are medians of the rounds, with the extremes behind them; a ratio to the ideal is the median of the ratios in the
rounds.

**Read the ratios.** "Ideal" is what nothing could beat, or the same work written by hand; what it is stands with each
workload. A budget is a ratio to it that HyperNodes must keep to, or a time, and a lead is how many times faster than
the fastest other tool it must be. "Busy" is the share of the time, from the beginning of the first item to the end of
the last one, in which both of two workers worked; of more workers, in which each of them worked, on average. The
workloads are in `benchmarks/`, a module for each table; what is called a hand-written loop, or bare keyword calls, is
defined there.
"""


def machine() -> str:
    """Describe where this runs, in general terms."""
    return (
        f"{platform.python_implementation()} {platform.python_version()}, {platform.system()}, {os.cpu_count()} cores"
    )


def markdown(results: Results, rounds: int, pictures: Mapping[str, str]) -> str:
    """Return the whole page.

    Args:
        results: What was measured.
        rounds: In how many rounds.
        pictures: Path of the picture of each family, relative to the page.
    """
    parts = ["# Performance", HOW, f"Measured with {machine()}, in {rounds} rounds."]
    for suite, rows in results:
        parts += [f"## {suite.title}", table(rows)]
        for family in dict.fromkeys(row.workload.family for row in rows):
            if family in pictures:
                parts.append(f"![{family}]({pictures[family]})")
    return "\n\n".join(part.strip() for part in parts) + "\n"


def table(measured: Iterable[Measured]) -> str:
    """Return a Markdown table."""
    lines = [
        "| workload | ideal | HyperNodes | × ideal | budget | | other tools, × HyperNodes |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in measured:
        workload = row.workload
        lines.append(
            f"| {workload.name} | {workload.ideal}: {amount(row.ideal, workload)}{_busy(row, 'ideal')} "
            f"| {amount(row.ours, workload)}{_busy(row, 'ours')} "
            f"| {row.ratio:.2f} | {_budget(workload)} | {_verdict(row)} | {_others(row)} |"
        )
    return "\n".join(lines)


def amount(times: Times, workload: Workload) -> str:
    """Return the median for one unit, and the extremes where there were several rounds."""
    scales = [(1.0, "MiB")] if workload.is_memory else [(1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns")]
    scale, symbol = next((entry for entry in scales if times.median >= entry[0]), scales[-1])
    text = f"{times.median / scale:.3g} {symbol}" + (f" per {workload.unit}" if workload.unit else "")
    if len(times.rounds) > 1:
        text += f" ({min(times.rounds) / scale:.3g}–{max(times.rounds) / scale:.3g})"
    return text


def _busy(row: Measured, name: str) -> str:
    return f"; busy {row.busy[name].median:.0%}" if name in row.busy else ""


def _budget(workload: Workload) -> str:
    parts = [] if workload.budget is None else [f"≤ {1 / workload.budget:.2f}"]
    if workload.limit_s is not None:
        parts.append(f"≤ {amount(Times([workload.limit_s]), workload)}")
    if workload.busy is not None:
        parts.append(f"busy ≥ {workload.busy:.0%}")
    if workload.lead is not None:
        over = f" over {workload.lead_over}" if workload.lead_over else ""
        parts.append(f"lead{over} ≥ {workload.lead:g}")
    return ", ".join(parts) or "–"


def _verdict(row: Measured) -> str:
    if _budget(row.workload) == "–":
        return ""
    return "met" if row.is_within_budget else "**missed**"


def _others(row: Measured) -> str:
    found = sorted(row.peers.items(), key=lambda peer: peer[1].median)
    texts = [
        f"{name} {times.median / row.ours.median:.3g}{_busy(row, name).replace(';', ',')}" for name, times in found
    ]
    texts += [f"{name}: {reason}" for name, reason in row.failed.items()]
    return "; ".join(texts) or "–"


def as_json(results: Results, rounds: int) -> str:
    """Return everything that was read, for other programs."""
    suites = {suite.title: [_row_as_data(row) for row in rows] for suite, rows in results}
    return json.dumps({"machine": machine(), "rounds": rounds, "suites": suites}, indent=1, ensure_ascii=False) + "\n"


def _row_as_data(row: Measured) -> dict[str, Any]:
    workload = row.workload
    return {
        "workload": workload.name,
        "quantity": "MiB" if workload.is_memory else "CPU seconds" if workload.is_cpu else "seconds",
        "per": workload.unit or "call",
        "size": workload.size,
        "ideal": {"what": workload.ideal, **_times_as_data(row.ideal)},
        "ours": _times_as_data(row.ours),
        "ratio": row.ratio,
        "budget": None if workload.budget is None else 1 / workload.budget,
        "lead": row.lead,
        "required_lead": workload.lead,
        "limit_s": workload.limit_s,
        "busy": {name: _times_as_data(shares) for name, shares in row.busy.items()},
        "required_busy": workload.busy,
        "is_within_budget": row.is_within_budget,
        "peers": {name: _times_as_data(times) for name, times in row.peers.items()},
        "failed": dict(row.failed),
    }


def _times_as_data(times: Times) -> dict[str, Any]:
    return {"median": times.median, "rounds": list(times.rounds)}


def write(results: Results, rounds: int, folder: Path) -> None:
    """Write `performance.md`, `performance.json` and the pictures, in `performance/`."""
    from benchmarks.pictures import draw_all  # needs matplotlib

    folder.mkdir(parents=True, exist_ok=True)
    pictures = draw_all([row for _, rows in results for row in rows], folder / "performance")
    relative = {family: path.relative_to(folder).as_posix() for family, path in pictures.items()}
    (folder / "performance.md").write_text(markdown(results, rounds, relative), encoding="utf-8")
    (folder / "performance.json").write_text(as_json(results, rounds), encoding="utf-8")
