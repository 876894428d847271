"""Where the job can run. Nothing else about the program changes."""

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import Any

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
def in_a_subprocess(**settings: Any) -> Iterator[Place]:
    """In a fresh Python beside this one, or in several."""
    from hypernodes.backend import SubprocessBackend

    with SubprocessBackend(**settings) as backend:
        yield Place(backend, f"backend subprocess: {'two Pythons' if settings else 'a fresh Python'} beside this one")


@contextmanager
def on_dask() -> Iterator[Place]:
    """On two workers of a Dask cluster, which here are processes beside this one.

    `DaskBackend("tcp://scheduler:8786")` would take another cluster.
    """
    from hypernodes.backend import DaskBackend

    with DaskBackend("local", workers=2) as backend:
        yield Place(backend, "backend dask: two workers of a Dask cluster on this machine")


@contextmanager
def on_modal(**settings: Any) -> Iterator[Place]:
    """In containers of Modal's, which here are processes of a control plane on this machine.

    With an account, everything but the line with `ModalLoopback` would stay the same.
    """
    import modal

    from hypernodes.backend import ModalBackend
    from hypernodes_modal.loopback import ModalLoopback

    packages = [f"{name}=={version(name)}" for name in ("cloudpickle", "numpy", DISTRIBUTION)]
    image = modal.Image.debian_slim(python_version="{}.{}".format(*sys.version_info[:2])).uv_pip_install(*packages)
    with ModalLoopback() as plane, ModalBackend(image=image, **settings) as backend:
        containers = "up to two containers" if settings else "a container"
        yield Place(
            backend,
            f"backend modal: {containers} on a Modal control plane on this machine",
            lambda: plane.rpc_counts["FunctionMap"],
        )


PLACES: dict[str, Callable[[], AbstractContextManager[Place]]] = {
    "dask": on_dask,
    "local": in_this_process,
    "modal": on_modal,
    "subprocess": in_a_subprocess,
}
"""By the name that `--backend` takes."""

DISTRIBUTED: dict[str, Callable[[], AbstractContextManager[Place]]] = {
    "dask": on_dask,
    "modal": partial(on_modal, mode="distributed", max_concurrent=2),
    "subprocess": partial(in_a_subprocess, jobs_at_once=2),
}
"""The same with `--mode distributed`: the items of maps are divided among workers."""
