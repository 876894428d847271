"""The command line: `hypernodes-modal` or `python -m hypernodes_modal`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: The arguments; those of the process when None.

    Returns:
        The exit status.
    """
    parser = argparse.ArgumentParser(prog="hypernodes-modal", description="HyperNodes pipelines on Modal.")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    from hypernodes_modal import deploy
    from hypernodes_modal.loopback import command_line

    deploy.add_to(commands)
    command_line.add_to(commands)
    chosen = parser.parse_args(arguments)
    return int(chosen.run(chosen))
