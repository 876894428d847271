"""Where the Modal scripts and tests run: a control plane on this machine, or with `--live` Modal's cloud."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager


def parse_live(description: str) -> bool:
    """Return whether the command line asks for Modal's cloud."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--live", action="store_true", help="use Modal's cloud, with the credentials of `modal setup`")
    return bool(parser.parse_args().live)


@contextmanager
def connected(is_live: bool, has_own_plane: bool = True) -> Iterator[None]:
    """Have the `modal` client of this process talk to Modal's cloud, or to a control plane of its own.

    Args:
        is_live: Whether it is to be the cloud.
        has_own_plane: Whether to start a control plane when it is not; there is one already otherwise.
    """
    if is_live:
        import modal

        try:
            modal.Client.from_env()
        except modal.exception.AuthError as error:
            sys.exit(f"--live needs credentials: run `modal setup` first. Modal says: {error}")
        yield
    elif has_own_plane:
        from hypernodes_modal.loopback import ModalLoopback

        with ModalLoopback():
            yield
    else:
        yield
