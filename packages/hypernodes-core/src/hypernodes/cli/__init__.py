"""The command line: `hypernodes` or `python -m hypernodes`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from hypernodes import plugins
from hypernodes.errors import HyperNodesError

if TYPE_CHECKING:
    from argparse import Namespace


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: The command and its arguments; those of the process when None.

    Returns:
        The exit status.
    """
    import argparse

    import hypernodes

    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(prog="hypernodes", description="Pipelines from plain functions.")
    parser.add_argument("--version", action="version", version=f"hypernodes-core {hypernodes.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    own = commands.add_parser("plugins", help="list the installed backends and caches")
    own.set_defaults(run=_list_plugins)
    for name in sorted({*plugins.command_names()} - {*commands.choices}):
        # Only the command that is used is loaded.
        if given[:1] == [name]:
            try:
                add_arguments = plugins.find_command(name)
            except HyperNodesError as error:
                print(f"hypernodes: {error}", file=sys.stderr)
                return 2
            add_arguments(commands.add_parser(name))
        else:
            commands.add_parser(name, help=f"see `hypernodes {name} --help`")
    chosen = parser.parse_args(given)
    if chosen.command is None:
        parser.print_help()
        return 0
    status: int = chosen.run(chosen)
    return status


def _list_plugins(_: Namespace) -> int:
    import hypernodes

    found = [*hypernodes.backends(), *hypernodes.caches()]
    for plugin in found:
        print(plugin)
    return 0 if all(plugin.loadable for plugin in found) else 1
