"""HyperNodes on Modal: run whole pipelines in a Modal container, and try that without an account.

`hypernodes_modal.loopback` holds a Modal control plane on this machine, for tests and for trying things out.
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
    if name not in _MODULES:  # in the container, most of this is never needed
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}", name=name)
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
