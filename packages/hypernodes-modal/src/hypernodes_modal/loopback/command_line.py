"""`hypernodes-modal loopback -- COMMAND`: runs a program against a control plane made for it."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import subprocess
import sys
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from argparse import _SubParsersAction

    from hypernodes_modal.loopback.modal_loopback import ModalLoopback

_DESCRIPTION = """\
Run a program that uses Modal without Modal's cloud and without an account.

The program, and every program it starts, talks to a control plane on this machine. Functions run in processes of their
own, in an environment that holds only what their image installs. This is no cloud: there are no GPUs, containers are
not isolated from this machine, and of images only Python packages, local files, variables and the working directory are
built; what is left out is said on standard error."""


def add_to(commands: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to a command line."""
    parser = commands.add_parser(
        "loopback",
        help="run a program against a Modal control plane on this machine",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="hypernodes-modal loopback [-h] [--host HOST] [--max-containers N] [--summary] -- COMMAND [ARGUMENT ...]",
    )
    parser.add_argument("--host", default="127.0.0.1", help="loopback address to listen on (default: %(default)s)")
    parser.add_argument(
        "--max-containers", type=int, metavar="N", help="containers per function that sets no limit (default: CPUs)"
    )
    parser.add_argument("--summary", action="store_true", help="say in the end what was called and what ran")
    parser.add_argument("program", nargs=argparse.REMAINDER, metavar="COMMAND")
    parser.set_defaults(run=run, parser=parser)


def run(chosen: argparse.Namespace) -> int:
    """Run the program.

    Args:
        chosen: The command line, parsed.

    Returns:
        The exit status of the program; 128 and the signal's number if a signal ended it, as a shell has it.
    """
    program = chosen.program[1:] if chosen.program[:1] == ["--"] else chosen.program
    if not program:
        chosen.parser.error("which program? For example: hypernodes-modal loopback -- python my_script.py")
    from hypernodes_modal.loopback.modal_loopback import ModalLoopback

    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    try:
        plane = ModalLoopback(chosen.host, max_containers=chosen.max_containers, set_environment=False)
    except ValueError as error:
        chosen.parser.error(str(error))
    with plane:
        status = _run(program, {**_without_modal(os.environ), **plane.environment})
        if chosen.summary:
            _summarize(plane)
    return status


def _run(program: list[str], environment: dict[str, str]) -> int:
    try:
        process = subprocess.Popen(program, env=environment)
    except OSError as error:
        print(f"hypernodes-modal: cannot run {program[0]}: {error.strerror}", file=sys.stderr)
        return 127

    def pass_on(number: int, frame: FrameType | None) -> None:
        process.send_signal(number)

    # Ctrl-C reaches the program by itself, which then decides; this process ends when the program does.
    before = {signal.SIGTERM: signal.signal(signal.SIGTERM, pass_on)}
    before[signal.SIGINT] = signal.signal(signal.SIGINT, lambda number, frame: None)
    try:
        code = process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return 128 - code if code < 0 else code


def _without_modal(environment: os._Environ[str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if not name.startswith("MODAL_")}


def _summarize(plane: ModalLoopback) -> None:
    for call in plane.calls:
        kind = "spawned" if call.is_spawned else "mapped" if call.is_map else "called"
        print(f"{kind} {call.function_name}: {len(call.inputs)} input(s)", file=sys.stderr)
    for container in plane.containers:
        print(
            f"container {container.id} of {container.function_name}: {container.inputs_taken} input(s), "
            f"{container.state} {container.end_reason or ''}".rstrip(),
            file=sys.stderr,
        )
