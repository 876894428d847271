"""HyperNodes on Modal: runs whole pipelines in a Modal container.

`hypernodes_modal.loopback` is a Modal control plane on this machine, for tests and experiments without an account.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hypernodes_modal.backend import ModalBackend
    from hypernodes_modal.errors import (
        ContainerLostError,
        ModalConnectionError,
        ModalEnvironmentError,
        ModalSetupError,
        ModalTimeoutError,
    )

_MODULES = {
    "ContainerLostError": "errors",
    "ModalBackend": "backend",
    "ModalConnectionError": "errors",
    "ModalEnvironmentError": "errors",
    "ModalSetupError": "errors",
    "ModalTimeoutError": "errors",
}

__all__ = [
    "ContainerLostError",
    "ModalBackend",
    "ModalConnectionError",
    "ModalEnvironmentError",
    "ModalSetupError",
    "ModalTimeoutError",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:  # imported on demand, since the container needs few of them
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}", name=name)
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
