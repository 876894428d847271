"""Notices the older, separate project named `hypernodes` of PyPI, whose files go into the same folder as these.

Where files of ours are gone, `hypernodes.py` beside this folder says so (from `repair/` of the checkout).
"""

from __future__ import annotations

import os
import sys

_FOLDER = os.path.dirname(__file__)
_REPAIR = "Run `pip uninstall hypernodes hypernodes-core`, then install hypernodes-core again as before."


def warn_if_installed() -> None:
    """Warn whoever imports `hypernodes` if files of the other project are in this folder."""
    if os.path.exists(os.path.join(_FOLDER, "hypernode.py")):  # only the other one has it
        import warnings

        from hypernodes.errors import HyperNodesWarning

        warnings.warn(
            "the older, separate project 'hypernodes' of PyPI is installed beside hypernodes-core, in the same folder "
            f"({_FOLDER}). Uninstalling either removes files of the other. {_REPAIR}",
            HyperNodesWarning,
            stacklevel=3,
        )


def refuse_if_imported() -> None:
    """Refuse to be imported by the other project, whose files have replaced some of ours.

    Raises:
        ImportError: It is the other project's `__init__` that is being imported.
    """
    if "plugins" not in vars(sys.modules["hypernodes"]):  # the first that ours imports
        raise ImportError(
            "the older, separate project 'hypernodes' of PyPI was installed over hypernodes-core and has replaced some "
            f"of its files ({_FOLDER}). {_REPAIR}",
            name="hypernodes",
            path=_FOLDER,
        )
