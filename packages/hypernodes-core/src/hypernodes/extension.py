"""What packages that extend HyperNodes may import from core, besides the names in `hypernodes` itself.

Other modules of core are private: they may change in any release, while the names below follow the compatibility
policy (docs/compatibility.md). Each is imported when it is first asked for, so that a cache does not load what only a
backend needs.

An extension is found through an entry point in the group of its kind; see `hypernodes.plugins`.

**A backend** (group `hypernodes.backends`) subclasses `hypernodes.RemoteBackend` and implements `submit`, or subclasses
`hypernodes.Backend` and implements `run` and `map` (see `hypernodes.RunRequest` and `hypernodes.MapRequest`):

- `Channel`: the second argument of `submit`; takes the worker's messages while a job runs (`Channel.handle`), and the
  function that cancels the job (`Channel.when_cancelled`);
- `execute`: runs a job in the worker process and returns its outcome, which `submit` returns; for backends that take
  several jobs at a time (`RemoteBackend.jobs_at_once`), also with `fetch`, for what `RemoteBackend.share` made
  available, and `should_stop`;
- `wants_reply`: whether a message of the worker has to be answered;
- `Package`: what `find_missing` is asked for: a package that a node or an input needs;
- `ExecutionMode`: type of `node_execution` and `map_execution`;
- `OutputNames`, `MapMode`, `OnError`: types of `output_name`, `map_mode` and `on_error`;
- `OwnedFolder`: a temporary folder that is removed also when the process that made it was killed;
- `show_output`: writes what nodes printed elsewhere to a standard stream, and lets no fork come in between;
- `start_thread`: starts a thread, or says why the system allows no more of them;
- `reset_after_fork`: a lock that is free in a forked process.

**A cache** (group `hypernodes.caches`) subclasses `hypernodes.Cache`. Beside results it holds one record for each node,
for `Pipeline.explain`:

- `RECORD_PREFIX`: how the keys of records begin;
- `is_record_key`: whether a key is that of a record, rather than of a result;
- `describe_record`: a record as lines of text for people;
- `reduce_sentinel`: how an object that means something by being itself (`UNSET = object()`) is pickled, or None;
- `new_buffer`: writable memory for large values that are read from storage.

Backends and caches that have something to tell the user:

- `warn_caller`: shows a warning at the line of the user's code that is being executed.

**A hasher** (group `hypernodes.hashers`) is a function that returns what identifies an object of one class:

- `digest`: the 32-byte digest of a value or of code, by content;
- `register`: sets the hasher of a class in this process, without an entry point;
- `UnhashableValueError`: raised when a value cannot be identified by its content.

**A callback** (group `hypernodes.callbacks`) subclasses `hypernodes.PipelineCallback`, and **a command** (group
`hypernodes.commands`) is a function that adds its arguments to an `argparse.ArgumentParser` and calls
`set_defaults(run=...)` with a function that takes the parsed arguments and returns the exit status. Both need no more
than the names in `hypernodes`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hypernodes.buffers import new_buffer
    from hypernodes.cache.record import RECORD_PREFIX, describe_record, is_record_key
    from hypernodes.caller import warn_caller
    from hypernodes.engine.settings import ExecutionMode
    from hypernodes.engine.workers.threads import start_thread
    from hypernodes.locks import reset_after_fork
    from hypernodes.plan import MapMode, OnError
    from hypernodes.remote.channel import Channel
    from hypernodes.remote.messages import wants_reply
    from hypernodes.remote.needed_packages import Package
    from hypernodes.remote.worker import execute
    from hypernodes.request import OutputNames
    from hypernodes.signature import UnhashableValueError, digest, reduce_sentinel, register
    from hypernodes.standard_streams import show_output
    from hypernodes.temporary import OwnedFolder

__all__ = [
    "RECORD_PREFIX",
    "Channel",
    "ExecutionMode",
    "MapMode",
    "OnError",
    "OutputNames",
    "OwnedFolder",
    "Package",
    "UnhashableValueError",
    "describe_record",
    "digest",
    "execute",
    "is_record_key",
    "new_buffer",
    "reduce_sentinel",
    "register",
    "reset_after_fork",
    "show_output",
    "start_thread",
    "wants_reply",
    "warn_caller",
]

_MODULES = {
    "RECORD_PREFIX": "cache.record",
    "Channel": "remote.channel",
    "ExecutionMode": "engine.settings",
    "MapMode": "plan",
    "OnError": "plan",
    "OutputNames": "request",
    "OwnedFolder": "temporary",
    "Package": "remote.needed_packages",
    "UnhashableValueError": "signature",
    "describe_record": "cache.record",
    "digest": "signature",
    "execute": "remote.worker",
    "is_record_key": "cache.record",
    "new_buffer": "buffers",
    "reduce_sentinel": "signature",
    "register": "signature",
    "reset_after_fork": "locks",
    "show_output": "standard_streams",
    "start_thread": "engine.workers.threads",
    "wants_reply": "remote.messages",
    "warn_caller": "caller",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}", name=name)
    from importlib import import_module

    found = globals()[name] = getattr(import_module(f"hypernodes.{_MODULES[name]}"), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
