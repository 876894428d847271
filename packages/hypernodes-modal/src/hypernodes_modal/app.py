"""The app that a backend keeps open: one function, in containers that stay warm between runs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from typing import Any

import modal

from hypernodes_modal.container import run_job
from hypernodes_modal.error_translation import TRANSIENT

FUNCTION_NAME = "run_job"
_BROUGHT_ALONG = ("hypernodes", "hypernodes_modal", "cloudpickle")
_FOR_A_CACHE = ("hypernodes_cache", "diskcache")


def make_app(
    name: str | None, image: modal.Image, options: Mapping[str, Any], with_cache: bool = False
) -> tuple[modal.App, Any]:
    """Return an app with the function that runs jobs.

    Args:
        name: Name of the app; None for one without.
        image: The image, to which the packages that the function needs are added, without a step of building.
        options: What else `modal.App.function` takes.
        with_cache: Whether a `DiskCache` is used in the container.
    """
    app = modal.App(name)
    complete = image.add_local_python_source(*_BROUGHT_ALONG, *(_FOR_A_CACHE if with_cache else ()))
    # Not serialized: the versions in the job are to be compared before anything is unpickled.
    made = app.function(image=complete, include_source=False, name=FUNCTION_NAME, **options)(run_job)
    return app, made


class OpenApp:
    """A running app.

    Args:
        name: Name of the app.
        image: The image.
        options: What `modal.App.function` takes.
        detach: Whether it goes on when this process ends.
        environment_name: Modal environment.
        show_logs: Whether what containers print is shown here.
        with_cache: Whether a `DiskCache` is used in the container.

    Attributes:
        function: The function that runs jobs.
    """

    def __init__(
        self,
        name: str | None,
        image: modal.Image,
        options: Mapping[str, Any],
        detach: bool,
        environment_name: str | None,
        show_logs: bool,
        with_cache: bool,
    ) -> None:
        self._process = os.getpid()
        self._stack = ExitStack()
        app, self.function = make_app(name, image, options, with_cache)
        try:
            if show_logs:
                self._stack.enter_context(modal.enable_output())
            self._stack.enter_context(app.run(detach=detach, environment_name=environment_name))
        except BaseException:
            self._stack.close()
            raise

    @property
    def is_usable(self) -> bool:
        """Whether it belongs to this process, rather than to the one that forked it."""
        return self._process == os.getpid()

    def close(self) -> None:
        """Stop the app."""
        if self.is_usable:
            # Without a connection, or with a client that was closed, it cannot be told; Modal stops an app that it has
            # not heard of for a while.
            with suppress(*TRANSIENT, modal.exception.ClientClosed):
                self._stack.close()
