"""What containers print: kept per app, and streamed to clients that ask for it."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from modal_proto import api_pb2

from hypernodes_modal.loopback.notifications import ChangeNotifier
from hypernodes_modal.loopback.rpc import Caller, rpc

if TYPE_CHECKING:
    from hypernodes_modal.loopback.apps import App
    from hypernodes_modal.loopback.containers import Container

_MAX_ENTRIES = 100_000  # per app; what is older is forgotten


@dataclass(eq=False)
class LogEntry:
    """Something a container printed.

    Attributes:
        number: Its position in the log of the app, from 1.
        container_id: Who printed it.
        function_id: What the container runs.
        call_id: The function call the container worked on; empty between inputs, or when there were several.
        stream: Standard output or standard error.
        text: A line, with its end, or a part of one.
        at: When, in seconds since 1970.
    """

    number: int
    container_id: str
    function_id: str
    call_id: str
    stream: api_pb2.FileDescriptor.ValueType
    text: str
    at: float


@dataclass(eq=False)
class _AppLog:
    entries: list[LogEntry] = field(default_factory=list)
    forgotten: int = 0
    changed: ChangeNotifier = field(default_factory=ChangeNotifier)


class Logs:
    """Keeps and streams logs.

    Attributes:
        is_done: Tells of an app whether nothing more will be printed in it.
    """

    def __init__(self) -> None:
        self._apps: defaultdict[str, _AppLog] = defaultdict(_AppLog)
        self.is_done: Callable[[str], bool] = lambda app_id: False

    def add(self, container: Container, stream: api_pb2.FileDescriptor.ValueType, text: str) -> None:
        """A container printed something."""
        log = self._apps[container.function.app_id]
        calls = {given.call.id for given in container.inputs.values()}
        log.entries.append(
            LogEntry(
                number=log.forgotten + len(log.entries) + 1,
                container_id=container.id,
                function_id=container.function.id,
                call_id=calls.pop() if len(calls) == 1 else "",
                stream=stream,
                text=text,
                at=time.time(),
            )
        )
        if len(log.entries) > _MAX_ENTRIES:
            surplus = len(log.entries) - _MAX_ENTRIES
            del log.entries[:surplus]
            log.forgotten += surplus
        log.changed.notify()

    def of_app(self, app_id: str) -> list[LogEntry]:
        """What was printed in an app."""
        return list(self._apps[app_id].entries)

    def forget(self) -> None:
        """Drop what was printed so far."""
        for log in self._apps.values():
            log.forgotten += len(log.entries)
            log.entries.clear()

    def wake(self, app_id: str) -> None:
        """Something changed that may be the end of the log of an app."""
        self._apps[app_id].changed.notify()

    async def app_stopped(self, app: App) -> None:
        """End the log of an app that has no containers; the last container does it otherwise."""
        self.wake(app.id)

    @rpc
    async def app_get_logs(
        self, request: api_pb2.AppGetLogsRequest, caller: Caller
    ) -> AsyncIterator[api_pb2.TaskLogsBatch]:
        log = self._apps[request.app_id]
        sent = int(request.last_entry_id or 0)
        deadline = time.monotonic() + (request.timeout or 55.0)
        while True:
            done = self.is_done(request.app_id)  # asked first, so that nothing can come between the last entry and it
            for entry in log.entries[max(0, sent - log.forgotten) :]:
                sent = entry.number
                if _is_wanted(entry, request):
                    yield _batch(entry)
            if done:
                yield api_pb2.TaskLogsBatch(app_done=True, entry_id=str(sent))
                return
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                return
            if sent == log.forgotten + len(log.entries):
                await log.changed.wait(remaining)

    @rpc
    async def app_fetch_logs(
        self, request: api_pb2.AppFetchLogsRequest, caller: Caller
    ) -> api_pb2.AppFetchLogsResponse:
        since = request.since.ToNanoseconds() / 1e9 if request.HasField("since") else 0.0
        until = request.until.ToNanoseconds() / 1e9 if request.HasField("until") else float("inf")
        entries = [
            entry
            for entry in self._apps[request.app_id].entries
            if since <= entry.at <= until
            and _is_wanted(entry, request)
            and (not request.search_text or request.search_text in entry.text)
        ]
        return api_pb2.AppFetchLogsResponse(batches=[_batch(entry) for entry in entries[-(request.limit or 1000) :]])


def _is_wanted(entry: LogEntry, request: api_pb2.AppGetLogsRequest | api_pb2.AppFetchLogsRequest) -> bool:
    stream = request.file_descriptor if isinstance(request, api_pb2.AppGetLogsRequest) else request.source
    return (
        request.task_id in ("", entry.container_id)
        and request.function_id in ("", entry.function_id)
        and request.function_call_id in ("", entry.call_id)
        and stream in (api_pb2.FILE_DESCRIPTOR_UNSPECIFIED, entry.stream)
    )


def _batch(entry: LogEntry) -> api_pb2.TaskLogsBatch:
    return api_pb2.TaskLogsBatch(
        task_id=entry.container_id,
        function_id=entry.function_id,
        root_function_id=entry.function_id,
        entry_id=str(entry.number),
        items=[
            api_pb2.TaskLogs(
                data=entry.text,
                timestamp=entry.at,
                timestamp_ns=int(entry.at * 1e9),
                file_descriptor=entry.stream,
                function_call_id=entry.call_id,
                container_id=entry.container_id,
            )
        ],
    )
