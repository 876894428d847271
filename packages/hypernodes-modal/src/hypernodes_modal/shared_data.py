"""What the jobs of a map have in common: put into a Modal dictionary once, and kept by the containers that took it."""

from __future__ import annotations

import os
from collections import OrderedDict
from contextlib import ExitStack, suppress
from functools import partial

import modal

from hypernodes_modal.error_translation import TRANSIENT
from hypernodes_modal.queue_transport import retry_transient

_PIECE_BYTES = 8 * 1024**2
_MAX_PUT_BYTES = 4 * 1024**3  # in the dictionary; the least recently used goes
_GONE = (
    "what the jobs of this map share is not there any more: the connection to Modal, or the backend, was closed "
    "meanwhile. Run it again"
)
_MAX_KEPT_BYTES = 1024**3  # in a container, likewise


class SharedData:
    """Data that a caller shares with its jobs, for as long as its app is open.

    Args:
        environment_name: Modal environment; None for the default one.

    Attributes:
        dictionary: Where it is; None before anything was shared.
    """

    def __init__(self, environment_name: str | None) -> None:
        self._process = os.getpid()
        self._environment_name = environment_name
        self._stack = ExitStack()
        self._sizes: OrderedDict[str, int] = OrderedDict()  # in bytes, by key
        self.dictionary: modal.Dict | None = None

    def put(self, key: str, data: bytes) -> str:
        """Share data, unless it is shared already; return where the containers find it."""
        if self.dictionary is None:
            self.dictionary = retry_transient(self._open)
        starts = range(0, len(data), _PIECE_BYTES)
        if key not in self._sizes:
            for number, start in enumerate(starts):
                piece = data[start : start + _PIECE_BYTES]
                retry_transient(partial(self.dictionary.put, f"{key}-{number}", piece))
        self._sizes[key] = len(data)
        self._sizes.move_to_end(key)
        self._make_room()
        return f"{key} {len(starts)}"

    @property
    def is_usable(self) -> bool:
        """Whether it belongs to this process, rather than to the process that forked it."""
        return self._process == os.getpid()

    def _open(self) -> modal.Dict:
        return self._stack.enter_context(modal.Dict.ephemeral(environment_name=self._environment_name))

    def _make_room(self) -> None:
        while len(self._sizes) > 1 and sum(self._sizes.values()) > _MAX_PUT_BYTES:
            key, size = self._sizes.popitem(last=False)
            for number in range(-(-size // _PIECE_BYTES)):
                if self.dictionary is not None:
                    with suppress(modal.exception.Error, KeyError):
                        self.dictionary.pop(f"{key}-{number}")

    def close(self) -> None:
        """Forget the data."""
        self._sizes.clear()
        self.dictionary = None
        if self.is_usable:
            with suppress(*TRANSIENT, modal.exception.Error):
                self._stack.close()


_kept: OrderedDict[str, bytes] = OrderedDict()  # by locator, in a container


def fetch(dictionary: modal.Dict | None, locator: str) -> bytes:
    """Return what a caller shared, in a container.

    Args:
        dictionary: Where it is.
        locator: What `SharedData.put` returned.

    Raises:
        LookupError: It is not there any more.
    """
    if locator not in _kept:
        key, _, count = locator.partition(" ")
        if dictionary is None:
            raise LookupError(_GONE)
        pieces = [retry_transient(partial(dictionary.get, f"{key}-{number}")) for number in range(int(count))]
        if None in pieces:
            raise LookupError(_GONE)
        _kept[locator] = b"".join(pieces)
    _kept.move_to_end(locator)
    while len(_kept) > 1 and sum(map(len, _kept.values())) > _MAX_KEPT_BYTES:
        _kept.popitem(last=False)
    return _kept[locator]
