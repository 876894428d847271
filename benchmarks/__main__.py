"""`python -m benchmarks` measures HyperNodes beside the ideal and, with `--peers`, beside other tools."""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path

from benchmarks.measure import Measured, Suite, Workload, measure
from benchmarks.report import machine, table, write

SUITES = (
    "overhead",
    "per_item",
    "start_up",
    "efficiency",
    "pools",
    "parallel_maps",
    "batched",
    "transfer",
    "remote",
    "clusters",
    "modal_calls",
    "reruns",
    "caching",
)
"""Each is a module here with a SUITE."""


def main() -> int:
    arguments = _parse()
    chosen = _choose(arguments.names, is_quick=arguments.quick)
    if arguments.list:
        for name, _, workloads in chosen:
            print(f"{name}:", *(f"  {workload.name}" for workload in workloads), sep="\n")
        return 0
    if arguments.peers:
        from benchmarks import peers

        peers.install_all()
    rounds = arguments.rounds or (3 if arguments.quick else 7)
    print(f"{machine()}; median and extremes of {rounds} rounds")
    results: list[tuple[Suite, list[Measured]]] = []
    for _, suite, workloads in chosen:
        rows = []
        for workload in workloads:
            print(f"measuring: {workload.name}", file=sys.stderr)
            rows.append(measure(workload, rounds))
        print(f"\n## {suite.title}\n\n{table(rows)}", flush=True)
        results.append((suite, rows))
    if arguments.output:
        write(results, rounds, arguments.output)
        print(f"\nWritten: {arguments.output}/performance.md, performance.json and the pictures in performance/")
    return 0 if all(row.is_within_budget for _, rows in results for row in rows) else 1


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="./dev bench",
        description="Measure against the budgets. Ends with 1 when one of them is missed.",
    )
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"a suite ({', '.join(SUITES)}) or a part of a workload's name"
    )
    parser.add_argument("--list", action="store_true", help="only list what would be measured")
    parser.add_argument("--peers", action="store_true", help="install other tools, and measure them too")
    parser.add_argument("--quick", action="store_true", help="3 rounds, and not the largest workloads")
    parser.add_argument("--rounds", type=int, help="how often each workload is run (default: 7)")
    parser.add_argument("--output", type=Path, metavar="DIR", help="write tables (Markdown, JSON) and pictures (SVG)")
    arguments = parser.parse_args()
    if arguments.rounds is not None and arguments.rounds < 1:
        parser.error("--rounds must be at least 1")
    return arguments


def _choose(names: list[str], *, is_quick: bool) -> list[tuple[str, Suite, list[Workload]]]:
    """Find what is asked for, by the name of a suite or a part of the name of a workload."""
    chosen = []
    unknown = set(names)
    for suite_name in SUITES:
        suite: Suite = importlib.import_module(f"benchmarks.{suite_name}").SUITE
        workloads = []
        for workload in suite.workloads:
            matching = {name for name in names if name == suite_name or name in workload.name}
            unknown -= matching
            if (matching or not names) and not (is_quick and workload.is_large):
                workloads.append(workload)
        if workloads:
            chosen.append((suite_name, suite, workloads))
    if unknown:
        sys.exit(f"./dev bench: nothing is named {', '.join(sorted(unknown))}; `./dev bench --list` shows all")
    return chosen


if __name__ == "__main__":
    sys.exit(main())
