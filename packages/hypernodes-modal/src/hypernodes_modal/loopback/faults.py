"""Ways in which a control plane can be told to misbehave, as networks and clouds do; repeatable from a seed.

Which replies are delayed or lost depends only on the seed and on how many replies of that procedure there were before,
so that a run can be repeated as far as its own timing allows.
"""

from __future__ import annotations

import asyncio
import fnmatch
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from grpclib import GRPCError, Status

from hypernodes_modal.loopback.containers import Container, EndReason
from hypernodes_modal.loopback.notifications import ChangeNotifier
from hypernodes_modal.loopback.observations import RpcRecord

Moment = Literal["start", "input", "output", "after output"]
_PREEMPTION_GRACE_S = 30.0  # as Modal documents
_HELD_BACK_AT_MOST_S = 1.0


@dataclass(frozen=True)
class KillContainer:
    """A container is killed, as when its machine fails.

    Attributes:
        moment: "start" (its process was started), "input" (it gets an input), "output" (it wants to deliver an output,
            which is lost) or "after output" (it has delivered one).
        nth: The how-manieth time this happens, from 1.
        times: How many times from then on.
        function_name: Only containers of this function.
        after_s: How long after that moment, in seconds.
    """

    moment: Moment = "input"
    nth: int = 1
    times: int = 1
    function_name: str | None = None
    after_s: float = 0.0


@dataclass(frozen=True)
class PreemptContainer(KillContainer):
    """A container is taken away: interrupted, and killed if it has not ended within half a minute."""


@dataclass(frozen=True)
class RunOutOfMemory(KillContainer):
    """A container is killed because it has used up its memory."""


@dataclass(frozen=True)
class _ReplyFault:
    """Something that happens to replies.

    Attributes:
        rpc: The procedure, as in Modal's protocol; may hold wildcards ("Function*").
        probability: How likely it is, from 0 to 1.
        caller: "client", "container", or None for both.
    """

    rpc: str = "*"
    probability: float = 1.0
    caller: Literal["client", "container"] | None = None


@dataclass(frozen=True)
class DelayReplies(_ReplyFault):
    """Replies come late.

    Attributes:
        seconds: Shortest and longest delay.
    """

    seconds: tuple[float, float] = (0.0, 0.2)


@dataclass(frozen=True)
class DropReplies(_ReplyFault):
    """Replies are lost, although what was asked for has been done. The caller asks again."""


@dataclass(frozen=True)
class DuplicateReplies(_ReplyFault):
    """What was asked for is handled twice; outputs, and the messages of streams, come twice."""


@dataclass(frozen=True)
class ReorderReplies(_ReplyFault):
    """A reply is held back until a later one has been sent."""


@dataclass(frozen=True)
class RefuseConnections:
    """All connections of clients end, and new ones are refused for a while.

    Attributes:
        rpc: It begins when this is asked for.
        nth: The how-manieth time, from 1.
        seconds: How long.
    """

    rpc: str
    nth: int = 1
    seconds: float = 1.0


@dataclass(frozen=True)
class StartCold:
    """Containers take longer to start.

    Attributes:
        seconds: How much longer.
        function_name: Only containers of this function.
    """

    seconds: float
    function_name: str | None = None


Fault = KillContainer | DelayReplies | DropReplies | DuplicateReplies | ReorderReplies | RefuseConnections | StartCold


class Faults:
    """Makes a control plane misbehave.

    Args:
        refuse_connections: Ends all connections, and listens again after so many seconds.
    """

    def __init__(self, refuse_connections: Callable[[float], Awaitable[None]]) -> None:
        self._refuse_connections = refuse_connections
        self._faults: Sequence[Fault] = ()
        self._seed = 0
        self._seen: Counter[tuple[int, str]] = Counter()
        self._random: dict[tuple[int, str], random.Random] = {}
        self._sent = ChangeNotifier()
        self._tasks: set[asyncio.Task[None]] = set()

    def set(self, faults: Sequence[Fault], seed: int) -> None:
        """Misbehave in these ways from now on, and no other."""
        self._faults, self._seed = tuple(faults), seed
        self._seen.clear()
        self._random.clear()

    def on_request(self, record: RpcRecord) -> None:
        """A request has come.

        Raises:
            GRPCError: It is the one at which connections begin to be refused.
        """
        for index, fault in enumerate(self._faults):
            if isinstance(fault, RefuseConnections) and record.name == fault.rpc and record.caller == "client":
                self._seen[index, ""] += 1
                if self._seen[index, ""] == fault.nth:
                    self._spawn(self._refuse_connections(fault.seconds))
                    raise GRPCError(Status.UNAVAILABLE, "loopback: told to refuse connections")

    def is_duplicated(self, record: RpcRecord) -> bool:
        """Whether what is asked for is to be handled twice."""
        return any(
            isinstance(fault, DuplicateReplies) and self._happens(index, fault, record)
            for index, fault in enumerate(self._faults)
        )

    async def before_reply(self, record: RpcRecord) -> None:
        """A reply is ready: delay it, hold it back, or lose it.

        Raises:
            GRPCError: It is lost.
        """
        for index, fault in enumerate(self._faults):
            if isinstance(fault, _ReplyFault) and not isinstance(fault, DuplicateReplies):
                if not self._happens(index, fault, record):
                    continue
                if isinstance(fault, DelayReplies):
                    await asyncio.sleep(self._source(index, record.name).uniform(*fault.seconds))
                elif isinstance(fault, ReorderReplies):
                    await self._sent.wait(_HELD_BACK_AT_MOST_S)
                else:
                    raise GRPCError(Status.UNAVAILABLE, "loopback: told to lose this reply")

    def after_reply(self) -> None:
        """A reply was sent: those that were held back may follow."""
        self._sent.notify()

    def start_delay_s(self, container: Container) -> float:
        """How much longer a container is to take to start, in seconds."""
        return sum(
            fault.seconds
            for fault in self._faults
            if isinstance(fault, StartCold) and fault.function_name in (None, container.function.name)
        )

    def at(self, moment: Moment, container: Container) -> bool:
        """Something happens with a container.

        Returns:
            Whether the container was killed for it on the spot.
        """
        killed = False
        for index, fault in enumerate(self._faults):
            if not isinstance(fault, KillContainer) or fault.moment != moment:
                continue
            if fault.function_name not in (None, container.function.name):
                continue
            self._seen[index, ""] += 1
            if fault.nth <= self._seen[index, ""] < fault.nth + fault.times:
                if fault.after_s:
                    asyncio.get_running_loop().call_later(fault.after_s, _end, fault, container)
                else:
                    _end(fault, container)
                    killed = True
        return killed

    def close(self) -> None:
        """Misbehave no more."""
        self._faults = ()
        for task in self._tasks:
            task.cancel()

    def _happens(self, index: int, fault: _ReplyFault, record: RpcRecord) -> bool:
        caller = "client" if record.caller == "client" else "container"
        if not fnmatch.fnmatchcase(record.name, fault.rpc) or fault.caller not in (None, caller):
            return False
        return self._source(index, record.name).random() < fault.probability

    def _source(self, index: int, name: str) -> random.Random:
        return self._random.setdefault((index, name), random.Random(f"{self._seed}/{index}/{name}"))

    def _spawn(self, work: Awaitable[None]) -> None:
        async def do() -> None:
            await work

        task = asyncio.get_running_loop().create_task(do())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _end(fault: KillContainer, container: Container) -> None:
    if isinstance(fault, PreemptContainer):
        container.interrupt(EndReason.PREEMPTED)
        asyncio.get_running_loop().call_later(_PREEMPTION_GRACE_S, container.kill, EndReason.PREEMPTED)
    elif isinstance(fault, RunOutOfMemory):
        container.kill(EndReason.OUT_OF_MEMORY)
    else:
        container.kill(EndReason.KILLED)
