"""The command `hypernodes-modal deploy`: deploys the function of a backend, for `ModalBackend.deployed`."""

from __future__ import annotations

import argparse
import runpy
import sys
from pathlib import Path
from typing import Any


def add_to(commands: Any) -> None:
    """Add the command to a command line."""
    parser = commands.add_parser(
        "deploy",
        help="deploy the function of a ModalBackend, for use with ModalBackend.deployed(APP_NAME)",
        description="Deploy the function of a ModalBackend that is defined in a Python file. Pipelines are not part of "
        "it: they are sent with each run.",
    )
    parser.add_argument("backend", metavar="FILE.py:NAME", help="a file, and the name of the ModalBackend in it")
    parser.add_argument("--app-name", help="name of the app; the backend's own app_name by default")
    parser.set_defaults(run=run)


def run(chosen: argparse.Namespace) -> int:
    """Deploy the function, and print how to use it.

    Returns:
        The exit status.
    """
    from hypernodes_modal.backend import ModalBackend

    path, _, name = chosen.backend.rpartition(":")
    if not path or not name:
        return _fail(f"{chosen.backend!r} must be a file and a name in it, such as my_backend.py:backend")
    if not Path(path).is_file():
        return _fail(f"there is no file {path!r}")
    found = runpy.run_path(path, run_name="hypernodes_deploy")  # not __main__, so that no script part is run
    backend = found.get(name)
    if not isinstance(backend, ModalBackend):
        known = [key for key, value in found.items() if isinstance(value, ModalBackend)]
        return _fail(f"{name!r} in {path} is not a ModalBackend; found: {', '.join(known) or 'none'}")
    app_name = chosen.app_name or backend.app_name
    if not app_name:
        return _fail("the app needs a name: --app-name, or ModalBackend(app_name=...)")
    backend.deploy(app_name)
    print(f"Deployed. Use it with ModalBackend.deployed({app_name!r}).")
    return 0


def _fail(message: str) -> int:
    print(f"hypernodes-modal deploy: {message}", file=sys.stderr)
    return 2
