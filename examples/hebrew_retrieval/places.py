"""Where the job can run. Nothing else about the program changes."""

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from importlib.metadata import version

from hypernodes import Backend, LocalBackend

from .corpus import DISTRIBUTION


@dataclass(frozen=True)
class Place:
    """A place, while it is open.

    Attributes:
        backend: Runs the pipeline there.
        description: What to call it.
        count_calls: Returns how many remote calls were made; None for a place that is not remote.
    """

    backend: Backend
    description: str
    count_calls: Callable[[], int | None] = lambda: None


@contextmanager
def in_this_process() -> Iterator[Place]:
    yield Place(LocalBackend(), "backend local")


@contextmanager
def in_a_subprocess() -> Iterator[Place]:
    """In a fresh Python beside this one."""
    from hypernodes.backend import SubprocessBackend

    with SubprocessBackend() as backend:
        yield Place(backend, "backend subprocess: a fresh Python beside this one")


@contextmanager
def in_a_modal_container() -> Iterator[Place]:
    """In a container of Modal's, which here is a process of a control plane on this machine.

    With an account, everything but the line with `ModalLoopback` would stay the same.
    """
    import modal

    from hypernodes.backend import ModalBackend
    from hypernodes_modal.loopback import ModalLoopback

    packages = [f"{name}=={version(name)}" for name in ("cloudpickle", "numpy", DISTRIBUTION)]
    image = modal.Image.debian_slim(python_version="{}.{}".format(*sys.version_info[:2])).uv_pip_install(*packages)
    with ModalLoopback() as plane, ModalBackend(image=image) as backend:
        yield Place(
            backend,
            "backend modal: a container on a Modal control plane on this machine",
            lambda: plane.rpc_counts["FunctionMap"],
        )


PLACES: dict[str, Callable[[], AbstractContextManager[Place]]] = {
    "local": in_this_process,
    "modal": in_a_modal_container,
    "subprocess": in_a_subprocess,
}
"""By the name that `--backend` takes."""
