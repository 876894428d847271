"""One picture for each family of workloads: lines over the size, or bars where they have none."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from benchmarks.measure import Measured

OURS, IDEAL = "HyperNodes", "ideal"
COLOURS = {OURS: "#1f5fbf", IDEAL: "#888888"}
PEER_COLOURS = ("#c0562b", "#3b8f5a", "#8b5fb0", "#b08a1e", "#4d9db0", "#a8446b")

mpl.rcParams.update(
    {
        "svg.fonttype": "none",  # text stays text: small files that can be searched
        "svg.hashsalt": "hypernodes",  # the same picture is the same file
        "font.size": 10,
        "font.family": "sans-serif",
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
)


def draw_all(measured: Iterable[Measured], folder: Path) -> dict[str, Path]:
    """Draw every family into a file of `folder`; return the paths."""
    families: dict[str, list[Measured]] = {}
    for row in measured:
        families.setdefault(row.workload.family, []).append(row)
    folder.mkdir(parents=True, exist_ok=True)
    paths = {}
    for family, rows in families.items():
        path = paths[family] = folder / f"{re.sub(r'[^a-z0-9]+', '-', family.lower()).strip('-')}.svg"
        draw = _draw_bars if len(rows) == 1 else _draw_groups if rows[0].workload.size is None else _draw_lines
        height = 0.6 + 0.55 * len(rows) if draw is _draw_groups else 3.4
        figure = Figure(figsize=(7, max(height, 3.4)), layout="constrained")
        axes = figure.subplots()
        draw(axes, rows)
        axes.set_title(family, loc="left", fontsize=11)
        figure.savefig(path, metadata={"Date": None}, transparent=False, facecolor="white")
    return paths


def _quantity(row: Measured) -> str:
    if row.workload.is_memory:
        return "MiB"
    seconds = "µs of CPU time" if row.workload.is_cpu else "µs"
    return f"{seconds} per {row.workload.unit}" if row.workload.unit else "ms"


def _scale(row: Measured) -> float:
    if row.workload.is_memory:
        return 1
    return 1e6 if row.workload.unit else 1e3


def _candidates(rows: Sequence[Measured]) -> dict[str, str]:
    """The names to show, with their colours; ours comes last, so that it is on top."""
    peers = list(dict.fromkeys(name for row in rows for name in row.peers))
    colours = {IDEAL: COLOURS[IDEAL]}
    colours |= {name: PEER_COLOURS[i % len(PEER_COLOURS)] for i, name in enumerate(peers)}
    return colours | {OURS: COLOURS[OURS]}


def _median(row: Measured, name: str) -> float | None:
    if name == OURS:
        return row.ours.median
    times = row.ideal if name == IDEAL else row.peers.get(name)
    return None if times is None else times.median


def _label(name: str, row: Measured) -> str:
    return row.workload.ideal if name == IDEAL else name


def _draw_lines(axes: Any, rows: Sequence[Measured]) -> None:
    for name, colour in _candidates(rows).items():
        points = [(row.workload.size, value * _scale(row)) for row in rows if (value := _median(row, name)) is not None]
        style = "--" if name == IDEAL else "-"
        axes.plot(
            *zip(*points, strict=True), style, marker="o", color=colour, label=_label(name, rows[0]), markersize=4
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks([row.workload.size for row in rows], [f"{row.workload.size:,}" for row in rows])
    axes.minorticks_off()
    axes.set_xlabel(rows[0].workload.axis or f"{rows[0].workload.unit or 'item'}s")
    axes.set_ylabel(f"{_quantity(rows[0])} (log)")
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))


def _draw_bars(axes: Any, rows: Sequence[Measured]) -> None:
    (row,) = rows
    shown = [(name, colour, value) for name, colour in _candidates(rows).items() if (value := _median(row, name))]
    labels = [_label(name, row) for name, _, _ in shown]
    values = [value * _scale(row) for _, _, value in shown]
    bars = axes.barh(labels, values, color=[colour for _, colour, _ in shown], height=0.6)
    axes.bar_label(bars, [f"{value:.3g}" for value in values], padding=3, fontsize=9)
    if max(values) > 20 * min(values):
        axes.set_xscale("log")
    axes.set_xlabel(_quantity(row) + (" (log)" if axes.get_xscale() == "log" else ""))
    axes.margins(x=0.12)


def _draw_groups(axes: Any, rows: Sequence[Measured]) -> None:
    candidates = _candidates(rows)
    thickness = 0.8 / len(candidates)
    for place, (name, colour) in enumerate(reversed(candidates.items())):  # ours comes first
        found = [(index, value) for index, row in enumerate(rows) if (value := _median(row, name)) is not None]
        heights = [index + (place - (len(candidates) - 1) / 2) * thickness for index, _ in found]
        values = [value * _scale(rows[index]) for index, value in found]
        bars = axes.barh(heights, values, color=colour, height=thickness, label=_label(name, rows[0]))
        axes.bar_label(bars, [f"{value:.3g}" for value in values], padding=3, fontsize=8)
    axes.set_yticks(range(len(rows)), [row.workload.label or row.workload.name for row in rows])
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlabel(f"{_quantity(rows[0])} (log)")
    axes.margins(x=0.12)
    axes.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.06), ncols=len(candidates), fontsize=9)
