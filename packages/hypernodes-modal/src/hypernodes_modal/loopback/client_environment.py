"""Points Modal's client in this process at a control plane, and back."""

from __future__ import annotations

import gc
import os
from collections.abc import Mapping


class ClientEnvironment:
    """Changes environment variables and drops what the client remembers of the ones before.

    Args:
        variables: Variables to set.
    """

    def __init__(self, variables: Mapping[str, str]) -> None:
        self._variables = dict(variables)
        self._before: dict[str, str | None] = {}

    def enter(self) -> None:
        """Point the client at the control plane."""
        unwanted = {name for name in os.environ if name.startswith("MODAL_")} - {"MODAL_LOGLEVEL", "MODAL_TRACEBACK"}
        for name in unwanted | self._variables.keys():
            self._before[name] = os.environ.pop(name, None)
        os.environ.update(self._variables)
        _forget()

    def leave(self) -> None:
        """Restore what was before."""
        _forget()
        for name in self._variables:
            os.environ.pop(name, None)
        os.environ.update({name: value for name, value in self._before.items() if value is not None})
        self._before.clear()


def variables_for(url: str, credentials: tuple[str, str], missing_file: str) -> dict[str, str]:
    """The variables that make Modal's client use a control plane.

    Args:
        url: Where it listens.
        credentials: Token id and token secret.
        missing_file: Path of a file that does not exist, in place of the user's configuration.
    """
    return {
        "MODAL_SERVER_URL": url,
        "MODAL_TOKEN_ID": credentials[0],
        "MODAL_TOKEN_SECRET": credentials[1],
        "MODAL_CONFIG_PATH": missing_file,
        "MODAL_DISABLE_API_PROXY": "1",
        "MODAL_ENVIRONMENT": "main",
    }


def _forget() -> None:
    """Close the client of this process, and drop what it knows, which would otherwise outlive the control plane."""
    import modal
    from modal import _environments
    from modal._object import _Object
    from modal.client import _Client

    known = _Client._client_from_env
    if known is not None:
        modal.Client.from_env().close()
        _Client._client_from_env = None
    _environments.ENVIRONMENT_CACHE.clear()
    # Objects such as a queue or an image at the top of a module keep the identifier they once got, which means nothing
    # elsewhere. Without it they are looked up when they are used next.
    for each in gc.get_objects():
        if issubclass(type(each), _Object) and each._is_hydrated:
            each._unhydrate()
