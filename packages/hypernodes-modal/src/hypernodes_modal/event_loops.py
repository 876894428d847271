"""Calls of Modal's blocking interface from a thread that runs an event loop, as in a notebook."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from hypernodes.extension import start_thread

_T = TypeVar("_T")


def outside_event_loop(function: Callable[[], _T], on_interrupt: Callable[[], Any] = lambda: None) -> _T:
    """Call a function in a thread without an event loop, since Modal's blocking interface warns of one.

    Args:
        function: The function; called in another thread if an event loop runs in this one.
        on_interrupt: Called if this thread is interrupted in the meantime, to make `function` end soon.
    """
    if asyncio._get_running_loop() is None:
        return function()
    outcome, thread = _start(function)
    try:
        return outcome.result()
    except BaseException:
        if not outcome.done():  # this thread was interrupted, not the function
            _start(on_interrupt)[1].join()
        raise
    finally:
        thread.join()


def _start(function: Callable[[], _T]) -> tuple[Future[_T], threading.Thread]:
    outcome: Future[_T] = Future()

    def work() -> None:
        try:
            outcome.set_result(function())
        except BaseException as error:
            outcome.set_exception(error)

    thread = threading.Thread(target=work, name="hypernodes-modal")
    start_thread(thread)
    return outcome, thread
