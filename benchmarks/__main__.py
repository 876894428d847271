"""`python -m benchmarks [SUITE ...] [--rounds N]` measures and prints one Markdown table for each suite."""

from __future__ import annotations

import argparse
import importlib
import os
import platform
import sys

from benchmarks.measure import Measured, measure, table

SUITES = ("efficiency", "caching")  # each a module here with a SUITE


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure against the budgets.")
    parser.add_argument(
        "suites", nargs="*", metavar="SUITE", help=f"one or more of: {', '.join(SUITES)} (default: all)"
    )
    parser.add_argument("--rounds", type=int, default=7, help="how often each workload is run (default: 7)")
    arguments = parser.parse_args()
    if unknown := set(arguments.suites) - set(SUITES):
        parser.error(f"unknown suite: {', '.join(sorted(unknown))}; there is {', '.join(SUITES)}")
    if arguments.rounds < 1:
        parser.error("--rounds must be at least 1")

    load = f", load average {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores{load}; median (extremes) of {arguments.rounds}")
    everything: list[Measured] = []
    for name in arguments.suites or SUITES:
        measured = []
        for workload in importlib.import_module(f"benchmarks.{name}").SUITE.workloads:
            print(f"measuring: {workload.name}", file=sys.stderr)
            measured.append(measure(workload, arguments.rounds))
        print(f"\n## {name}\n\n{table(measured)}")
        everything += measured
    return 0 if all(row.is_within_budget for row in everything) else 1


if __name__ == "__main__":
    sys.exit(main())
