"""Modal's blocking interface where an event loop runs, as in a notebook."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

_T = TypeVar("_T")


def outside_event_loop(function: Callable[[], _T], on_interrupt: Callable[[], Any] = lambda: None) -> _T:
    """Call a function where no event loop runs, since Modal's blocking interface warns of one.

    Args:
        function: What to call; in another thread when an event loop runs in this one.
        on_interrupt: Called when this thread is interrupted meanwhile, to make `function` end soon.
    """
    if asyncio._get_running_loop() is None:
        return function()
    outcome, thread = _start(function)
    try:
        return outcome.result()
    except BaseException:
        if not outcome.done():  # it is this thread that was interrupted
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
    thread.start()
    return outcome, thread
