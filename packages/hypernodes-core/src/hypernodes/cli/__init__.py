"""The command line: `hypernodes` or `python -m hypernodes`."""

from __future__ import annotations

from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: What to do; the arguments of the process when None.

    Returns:
        The exit status.
    """
    import argparse

    import hypernodes

    parser = argparse.ArgumentParser(prog="hypernodes", description="Pipelines from plain functions.")
    parser.add_argument("--version", action="version", version=f"hypernodes-core {hypernodes.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    commands.add_parser("plugins", help="list the installed backends and caches")
    chosen = parser.parse_args(arguments)
    if chosen.command is None:
        parser.print_help()
        return 0
    found = [*hypernodes.backends(), *hypernodes.caches()]
    for plugin in found:
        print(plugin)
    return 0 if all(plugin.loadable for plugin in found) else 1
