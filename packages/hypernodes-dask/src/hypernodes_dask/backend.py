"""Runs pipelines on the workers of a Dask cluster."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from time import monotonic
from typing import Any, Literal, Self

import distributed
from distributed import Client
from distributed.client import FutureCancelledError
from distributed.scheduler import KilledWorker

from hypernodes import ConfigurationError, Limit, RemoteBackend, RemoteError, RemoteVersionError, WorkerLostError
from hypernodes.extension import Channel, ExecutionMode, Package, reset_after_fork
from hypernodes_dask.cluster import start_local_cluster
from hypernodes_dask.mailbox import Mailbox
from hypernodes_dask.worker import BEGUN_BEFORE, run_job

_DISTRIBUTIONS = ("hypernodes-core", "hypernodes-dask", "cloudpickle")
_ASK_S = 1.0  # between two questions how many workers there are
_MAX_SHARED_BYTES = 4 << 30
_LARGE_JOB_BYTES = 1 << 20  # from which on it is sent to a worker first, rather than through the graph
_CONNECT_S = 10
_connected_in: int | None = None  # id of the process in which a connection was opened last


class DaskBackend(RemoteBackend):
    """Runs pipelines on the workers of a Dask cluster: a run on one of them, the items of a map divided among all.

    The pipeline, its inputs and the user's own modules are sent; `hypernodes-core`, `hypernodes-dask`, cloudpickle and
    everything else that nodes import must be installed on the workers, with the same version of Python. The cache and
    the callbacks stay in this process and receive results and events as they happen.

    A worker that is lost costs what it was computing at the moment: others compute what it has not done. Large inputs
    that all items share are sent to each worker once, and stay there for the runs that follow.

    Args:
        client: A `distributed.Client`, the address of a scheduler, or "local" for a cluster of this backend's own on
            this machine, which ends with `close`. None for the current client of this process, or "local" if there is
            none.
        node_execution: How the nodes of one run are executed in a worker; None for "sequential".
        map_execution: How the items of a job are executed in a worker; None for "sequential".
        max_workers: The largest number of calls at a time in a job.
        chunk_size: How many items of a map a job gets; "auto" for as many as take about four seconds, fewer at first
            and at the end.
        resources: What a job needs of a worker, as in `Client.submit`: `{"GPU": 1}`.
        retries: How often Dask runs a job again that the transport failed; errors of nodes are not retried by Dask.
        limits: The limits that nodes may name (see `hypernodes.Limit`); they hold for what runs in one worker process.
        max_in_flight: The largest number of items of a map that have begun and are not done; see `map_iter`.
        workers: How many worker processes a cluster of this backend's own has; None for one for each core.

    Raises:
        ConfigurationError: A setting has a value it cannot have.

    Example:
        ```python
        with DaskBackend("tcp://scheduler:8786") as backend:
            pipeline.with_backend(backend).map(inputs={"x": range(100_000)}, map_over="x")
        ```
    """

    backend_name = "dask"

    def __init__(
        self,
        client: Client | str | None = None,
        *,
        node_execution: ExecutionMode | None = None,
        map_execution: ExecutionMode | None = None,
        max_workers: int | None = None,
        chunk_size: int | Literal["auto"] = "auto",
        resources: Mapping[str, float] | None = None,
        retries: int = 0,
        limits: Iterable[Limit] | None = None,
        max_in_flight: int | None = None,
        workers: int | None = None,
    ) -> None:
        super().__init__(
            node_execution,
            map_execution,
            max_workers=max_workers,
            limits=limits,
            max_in_flight=max_in_flight,
            chunk_size=chunk_size,
        )
        if chunk_size is None:
            raise ConfigurationError('chunk_size must be a whole number of at least 1, or "auto"; got None')
        if not _is_client(client):
            raise ConfigurationError(
                f'client must be a distributed.Client, the address of a scheduler, "local" or None; got {client!r}'
            )
        if isinstance(client, Client) and client.asynchronous:
            raise ConfigurationError("client must be a Client for ordinary code; this one is asynchronous")
        self.resources = _checked_resources(resources)
        if not _is_whole(retries, 0):
            raise ConfigurationError(f"retries must be a whole number of at least 0; got {retries!r}")
        self.retries = retries
        if workers is not None and not _is_whole(workers, 1):
            raise ConfigurationError(f"workers must be a whole number of at least 1; got {workers!r}")
        if workers is not None and client not in (None, "local"):
            raise ConfigurationError(f'workers={workers} is for client="local"; the cluster at {client!r} has its own')
        self.workers = workers
        self._given = client
        self._lock = reset_after_fork(threading.RLock())
        self._forget_connection()
        self._is_closed = False  # since the last run or map began
        self._times_entered = 0

    def _remote_call(self, *arguments: Any) -> Any:
        self._is_closed = False  # a run opens the connection again; one that goes on does not
        return super()._remote_call(*arguments)

    def _forget_connection(self) -> None:
        self._client: Client | None = None
        self._cluster: Any = None
        self._mailbox: Mailbox | None = None
        self._slots: tuple[float, int] = (0.0, 0)  # when they were counted, and how many jobs workers can execute
        self._pythons: dict[str, str] = {}  # minor version of each worker, by its address
        self._checked: set[str] = set()  # addresses of the workers whose versions are right
        self._shared: OrderedDict[str, tuple[bytes, Any]] = OrderedDict()  # by key, the one that was used last at last
        self._pid = os.getpid()

    # --- the connection -------------------------------------------------------------------------------------------

    @property
    def client(self) -> Client:
        """The connection to the scheduler; opened when it is first needed.

        Raises:
            RemoteError: There is no scheduler at the address.
        """
        with self._lock:
            if _connected_in not in (None, os.getpid()):
                raise RemoteError(
                    "this process was forked from one that was connected to a Dask scheduler, and Dask cannot connect "
                    'here again; start it in another way, e.g. multiprocessing.get_context("spawn")',
                    backend_name=self.backend_name,
                )
            if self._client is None or self._client.status == "closed":
                if self._is_closed:
                    raise RemoteError(
                        "the DaskBackend was closed while something was running on it", backend_name=self.backend_name
                    )
                self._forget_connection()
                self._client = self._connect()
            return self._client

    def _connect(self) -> Any:
        global _connected_in
        _connected_in = os.getpid()
        given = self._given
        if isinstance(given, Client):
            if given.status != "running":
                raise RemoteError(
                    f"the Client that DaskBackend was given is not connected any more ({given.status})",
                    backend_name=self.backend_name,
                )
            return given
        if given is None:
            with contextlib.suppress(ValueError):
                return Client.current()
            given = "local"
        if given == "local":
            self._cluster = start_local_cluster(self.workers)
            return Client(self._cluster, set_as_default=False)
        try:
            return Client(given, timeout=_CONNECT_S, set_as_default=False)
        except (OSError, TimeoutError, ValueError) as error:
            raise RemoteError(
                f"there is no Dask scheduler at {given!r}: {type(error).__name__}: {error}",
                backend_name=self.backend_name,
            ) from error

    @property
    def jobs_at_once(self) -> int:
        """How many jobs the workers can execute, and as many again that wait for them; asked again once a second."""
        client, (counted_at, slots) = self.client, self._slots
        if monotonic() - counted_at > _ASK_S:
            slots = self._count_slots(client)
            self._slots = (monotonic(), slots)
        return max(2 * slots, 1)

    @jobs_at_once.setter
    def jobs_at_once(self, value: int) -> None:
        raise AttributeError("the cluster says how many jobs it takes")

    def _count_slots(self, client: Client) -> int:
        try:
            threads: dict[str, int] = client.nthreads()
            if not self.resources:
                return sum(threads.values())
            found = client.run_on_scheduler(_resources_of_workers)
        except Exception as error:
            raise self._lost_scheduler(error) from error
        fits = (
            min([count, *(int(found.get(address, {}).get(name, 0) // need) for name, need in self.resources.items())])
            for address, count in threads.items()
        )
        return sum(fits)

    def _lost_scheduler(self, error: BaseException) -> RemoteError:
        return RemoteError(
            f"the connection to the Dask scheduler was lost: {type(error).__name__}: {error}. What was computed and "
            "sent before is stored in the cache, if there is one",
            backend_name=self.backend_name,
        )

    # --- versions -------------------------------------------------------------------------------------------------

    def find_python_version(self) -> str | None:
        """Return the minor version of Python on the workers; that of one with another version if there is any."""
        client = self.client
        try:
            if not client.nthreads().keys() <= self._pythons.keys():
                versions: Any = client.get_versions()
                self._pythons = {address: _minor(facts) for address, facts in versions["workers"].items()}
        except Exception as error:
            raise self._lost_scheduler(error) from error
        own = "{}.{}".format(*sys.version_info[:2])
        return next((other for other in self._pythons.values() if other != own), own if self._pythons else None)

    def _check_workers(self, client: Client) -> None:
        """Refuse workers that cannot execute jobs, before they get any.

        Raises:
            RemoteVersionError: A worker has other versions of what has to agree.
            RemoteError: A worker lacks what every worker needs.
        """
        addresses = set(client.nthreads())
        new = sorted(addresses - self._checked)
        if not new:
            return
        for name in _DISTRIBUTIONS:
            own = _own_version(name)
            found = client.run(version, name, workers=new, on_error="return")
            for address, theirs in found.items():
                if isinstance(theirs, PackageNotFoundError):
                    raise RemoteError(
                        f"the Dask worker at {address} has no {name}: pip install hypernodes-dask there",
                        backend_name=self.backend_name,
                    )
                if theirs != own:
                    raise RemoteVersionError(
                        f"the two sides cannot understand each other: {name} {own} here and {theirs} at the Dask "
                        f"worker {address}. Install the same versions on both.",
                        differing={name: (own, theirs)},
                        backend_name=self.backend_name,
                    )
        self._checked = addresses

    def find_missing(self, packages: Sequence[Package]) -> Sequence[Package]:
        """Return those of some packages that a worker lacks."""
        client = self.client
        missing = []
        for package in packages:
            found = client.run(version, package.distribution, on_error="return")
            if any(isinstance(theirs, PackageNotFoundError) for theirs in found.values()):
                missing.append(package)
        return missing

    def advise_python(self, version: str) -> str:
        """Return what to do so that the workers have a version of Python."""
        return f"Start the Dask workers with Python {version}."

    def advise_packages(self, requirements: Sequence[str]) -> str:
        """Return what to do so that the workers have some packages."""
        return f"Install it on all Dask workers: pip install {' '.join(requirements)}"

    # --- jobs -----------------------------------------------------------------------------------------------------

    def share(self, key: str, data: bytes) -> str | None:
        with self._lock:
            client = self.client
            if key not in self._shared:
                self._shared[key] = (data, client.scatter(data, hash=False))
            self._shared.move_to_end(key)
            while len(self._shared) > 1 and sum(len(each) for each, _ in self._shared.values()) > _MAX_SHARED_BYTES:
                self._shared.popitem(last=False)
        return key

    def _futures_of_shared(self, client: Client, keys: Iterable[str]) -> dict[str, Any]:
        """Return what jobs share, as futures; data that was lost with the workers that held it is sent again."""
        with self._lock:
            found = {}
            for key in keys:
                data, future = self._shared[key]
                if future.status in ("cancelled", "lost", "error"):
                    future = client.scatter(data, hash=False)
                    self._shared[key] = (data, future)
                found[key] = future
            return found

    def submit(self, job: bytes, channel: Channel) -> bytes:
        try:
            return self._submit(job, channel)
        except (TimeoutError, OSError) as error:
            raise self._lost_scheduler(error) from error

    def _submit(self, job: bytes, channel: Channel) -> bytes:
        client = self.client
        with self._lock:
            self._check_workers(client)
            if self._mailbox is None or self._mailbox.is_closed:
                self._mailbox = Mailbox(client)
            mailbox = self._mailbox
        shared = self._futures_of_shared(client, channel.shared)
        with mailbox.open_line() as opened:
            line = opened.line if channel.has_listeners else opened.line._replace(mailbox="")
            payload = client.scatter(job, hash=False) if len(job) > _LARGE_JOB_BYTES else job
            future = client.submit(
                run_job,
                payload,
                line,
                shared,
                key=f"{_label(channel)}-{line.job_id}",
                pure=False,
                resources=self.resources or None,
                retries=self.retries or None,
            )
            del job, payload
            channel.when_cancelled(lambda: future.cancel(force=True))
            future.add_done_callback(lambda _: opened.arrived.put(None))
            try:
                opened.take_messages(channel)
                outcome, sent = future.result()
            except KilledWorker as error:
                raise self._lost_worker(f"the Dask worker that executed a job was lost: {error}") from error
            except FutureCancelledError as error:
                raise self._lost_job(error, channel) from error
            finally:
                self._release(client, future, line.begun)
            if (outcome, sent) == BEGUN_BEFORE:
                raise self._lost_worker(
                    "the Dask worker that executed a job was lost: killed, out of memory, or removed from the cluster"
                )
            opened.take_last(channel, sent, mailbox)
            return bytes(outcome)

    def _lost_job(self, error: FutureCancelledError, channel: Channel) -> RemoteError:
        """Return the error for a job that the scheduler has given up."""
        if not channel.is_cancelled and self._client is not None and self._client.status == "running":
            return self._lost_worker(f"a job, or data that it needs, was lost with a Dask worker: {error}")
        return self._lost_scheduler(error)

    def _lost_worker(self, text: str) -> WorkerLostError:
        return WorkerLostError(text, backend_name=self.backend_name, exit_code=None, log_tail="")

    def _release(self, client: Client, future: Any, event: str) -> None:
        """Let the scheduler forget a job."""
        with contextlib.suppress(Exception):  # the connection may be lost
            if future.status == "pending":  # the caller was interrupted
                future.cancel(force=True)
            future.release()
            distributed.Event(event, client=client).clear()

    def close(self) -> None:
        """Close the connection, unless it was given, and end a cluster of this backend's own."""
        with self._lock:
            client, cluster, mailbox = self._client, self._cluster, self._mailbox
            is_ours = not isinstance(self._given, Client) and client is not None and self._pid == os.getpid()
            if mailbox is not None and self._pid == os.getpid():
                mailbox.close()
            self._forget_connection()
            self._is_closed = True
        if is_ours and client is not None and (cluster is not None or isinstance(self._given, str)):
            client.close()
        if cluster is not None:
            cluster.close()

    def __enter__(self) -> Self:
        with self._lock:
            self._is_closed = False
            self._times_entered += 1
        return self

    def __exit__(self, *exc_info: object) -> None:
        with self._lock:
            self._times_entered -= 1
            is_last = self._times_entered == 0
        if is_last:
            self.close()

    def __getstate__(self) -> dict[str, Any]:
        kept = {name: value for name, value in self.__dict__.items() if name not in _OF_CONNECTION}
        return {**kept, "_is_closed": False, "_given": self._address, "_times_entered": 0}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = reset_after_fork(threading.RLock())
        self._forget_connection()

    def __repr__(self) -> str:
        return f"DaskBackend({self._address!r})"

    @property
    def _address(self) -> str | None:
        if not isinstance(self._given, Client):
            return self._given
        scheduler: Any = self._given.scheduler
        return None if scheduler is None else str(scheduler.address)


_OF_CONNECTION = frozenset(
    ("_lock", "_client", "_cluster", "_mailbox", "_slots", "_pythons", "_checked", "_shared", "_pid")
)


def _is_client(client: object) -> bool:
    return client is None or isinstance(client, Client) or (isinstance(client, str) and client != "")


def _is_whole(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _checked_resources(resources: Any) -> dict[str, float]:
    if resources is None:
        return {}
    if not isinstance(resources, Mapping):
        raise ConfigurationError(f'resources must be a dict such as {{"GPU": 1}}; got {resources!r}')
    for name, need in resources.items():
        if not isinstance(name, str) or not isinstance(need, (int, float)) or isinstance(need, bool) or need <= 0:
            raise ConfigurationError(f"resources must map names to numbers above 0; got {name!r}: {need!r}")
    return dict(resources)


def _resources_of_workers(dask_scheduler: Any = None) -> dict[str, dict[str, float]]:
    """Return what each worker has; called in the scheduler."""
    return {address: dict(state.resources) for address, state in dask_scheduler.workers.items()}


def _label(channel: Channel) -> str:
    """Return what the dashboard shows for a job: the names of its nodes."""
    names = "·".join(channel.node_names) or "job"
    return names if len(names) <= 60 else f"{names[:59]}…"


def _minor(facts: Mapping[str, Any]) -> str:
    """Return the minor version of Python in what a worker says of itself."""
    return ".".join(str(facts["host"]["python"]).split(".")[:2])


def _own_version(name: str) -> str:
    return version(name)
