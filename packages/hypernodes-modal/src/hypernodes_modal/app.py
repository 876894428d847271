"""The Modal app of a backend: one function, in containers that stay warm between runs."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Mapping
from contextlib import ExitStack, nullcontext, suppress
from typing import Any

import modal

from hypernodes.extension import reset_after_fork
from hypernodes_modal.container import run_job
from hypernodes_modal.container_logs import containers_print_here
from hypernodes_modal.error_translation import TRANSIENT
from hypernodes_modal.shared_data import SharedData

FUNCTION_NAME = "run_job"
_ADDED_PACKAGES = ("hypernodes", "hypernodes_modal", "cloudpickle")
_PACKAGES_FOR_A_CACHE = ("hypernodes_cache", "diskcache")


def make_app(
    name: str | None, image: modal.Image, options: Mapping[str, Any], *, has_cache: bool = False
) -> tuple[modal.App, Any]:
    """Return an app with the function that runs jobs, and that function.

    Args:
        name: Name of the app; None for an app without a name.
        image: The image; the packages that the function needs are added to it without a build step.
        options: Further arguments of `modal.App.function`.
        has_cache: Whether a `DiskCache` is used in the container.
    """
    app = modal.App(name)
    complete = image.add_local_python_source(*_ADDED_PACKAGES, *(_PACKAGES_FOR_A_CACHE if has_cache else ()))
    # Not serialized, so that the versions in the job are compared before anything is unpickled.
    function = app.function(image=complete, include_source=False, name=FUNCTION_NAME, **options)(run_job)
    return app, function


class SharedApp:
    """The app of a backend, and of those made from it by `with_options`: at most one is open.

    Args:
        environment_name: Modal environment; None for the default one.

    Attributes:
        lock: Held while the app is opened or closed, or data shared.
        times_entered: How many `with` blocks of these backends are open.
        times_closed: How often it was closed by these backends, rather than by somebody else.
    """

    def __init__(self, environment_name: str | None) -> None:
        self.lock = reset_after_fork(threading.RLock())
        self.times_entered = self.times_closed = 0
        self._environment_name = environment_name
        # At most one of each; in lists, so that they can be closed after this object is deleted.
        self._apps: list[OpenApp] = []
        self._data: list[SharedData] = []
        weakref.finalize(self, _close_all, self._apps, self._data)

    def open(self, make: Callable[[], OpenApp]) -> OpenApp:
        """Return the open app, or a new one.

        Args:
            make: Opens an app.
        """
        with self.lock:
            self._forget_those_of_parent()
            if not self._apps:
                self._apps.append(make())
            return self._apps[0]

    def share(self, key: str, data: bytes) -> str:
        """Share data with jobs; return where they find it."""
        with self.lock:
            self._forget_those_of_parent()
            if not self._data:
                self._data.append(SharedData(self._environment_name))
            return self._data[0].put(key, data)

    @property
    def shared(self) -> modal.Dict | None:
        """What holds the data that is shared with jobs; None if there is none."""
        return self._data[0].dictionary if self._data else None

    def _forget_those_of_parent(self) -> None:
        """Forget what belongs to the process that forked this one."""
        known: list[OpenApp | SharedData] = [*self._apps, *self._data]
        if not all(each.is_usable for each in known):
            self._apps.clear()
            self._data.clear()

    def drop(self, app: OpenApp) -> None:
        """Close an app that somebody else has stopped, unless that has happened; what is shared stays."""
        with self.lock:
            if app in self._apps:
                self._apps.remove(app)
                app.close()

    def close(self) -> None:
        """Stop the app, and forget what is shared."""
        with self.lock:
            self.times_closed += 1
            _close_all(self._apps, self._data)


def _close_all(apps: list[OpenApp], data: list[SharedData]) -> None:
    while data:
        data.pop().close()
    while apps:
        apps.pop().close()


class OpenApp:
    """A running app.

    Args:
        name: Name of the app; None for an app without a name.
        image: The image.
        options: Further arguments of `modal.App.function`.
        detach: Whether the app continues when this process ends.
        environment_name: Modal environment; None for the default one.
        show_logs: Whether what containers and the building of the image print is shown here.
        has_cache: Whether a `DiskCache` is used in the container.

    Attributes:
        function: The function that runs jobs.
    """

    def __init__(
        self,
        *,
        name: str | None,
        image: modal.Image,
        options: Mapping[str, Any],
        detach: bool,
        environment_name: str | None,
        show_logs: bool,
        has_cache: bool,
    ) -> None:
        self._process = os.getpid()
        self._stack = ExitStack()
        app, self.function = make_app(name, image, options, has_cache=has_cache)
        try:
            with containers_print_here() if show_logs else nullcontext():
                self._stack.enter_context(app.run(detach=detach, environment_name=environment_name))
        except BaseException:
            self._stack.close()
            raise

    @property
    def is_usable(self) -> bool:
        """Whether the app belongs to this process, rather than to the process that forked it."""
        return self._process == os.getpid()

    def close(self) -> None:
        """Stop the app."""
        if self.is_usable:
            # Without a connection, or with a closed client, Modal cannot be told to stop the app; it does so by itself
            # when it has received no heartbeat for a while.
            with suppress(*TRANSIENT, modal.exception.ClientClosed):
                self._stack.close()
