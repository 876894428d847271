"""`hypernodes-modal deploy`: the function of a backend as an app that stays, for `ModalBackend.deployed`."""

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
        help="deploy the function of a ModalBackend, to be used with ModalBackend.deployed(APP_NAME)",
        description="Deploys the function of a ModalBackend that a Python file makes. Nothing of the pipelines is "
        "deployed: they travel with each run.",
    )
    parser.add_argument("backend", metavar="FILE.py:NAME", help="a file, and the name of the ModalBackend in it")
    parser.add_argument("--app-name", help="name of the app; the backend's own app_name by default")
    parser.set_defaults(run=run)


def run(chosen: argparse.Namespace) -> int:
    """Deploy, and say how to use it.

    Returns:
        The exit status.
    """
    from hypernodes_modal.backend import ModalBackend

    path, _, name = chosen.backend.rpartition(":")
    if not path or not name:
        return _refuse(f"{chosen.backend!r} must be a file and a name in it, such as my_backend.py:backend")
    if not Path(path).is_file():
        return _refuse(f"there is no file {path!r}")
    found = runpy.run_path(path, run_name="hypernodes_deploy")  # not __main__: its script part is not for us
    backend = found.get(name)
    if not isinstance(backend, ModalBackend):
        known = [key for key, value in found.items() if isinstance(value, ModalBackend)]
        return _refuse(f"{name!r} in {path} is no ModalBackend; there is {', '.join(known) or 'none'}")
    app_name = chosen.app_name or backend.app_name
    if not app_name:
        return _refuse("the app needs a name: --app-name, or ModalBackend(app_name=...)")
    backend.deploy(app_name)
    print(f"Deployed. Use it with ModalBackend.deployed({app_name!r}).")
    return 0


def _refuse(message: str) -> int:
    print(f"hypernodes-modal deploy: {message}", file=sys.stderr)
    return 2
