"""Runs pipelines in Modal containers."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from inspect import signature
from time import monotonic, sleep
from typing import Any, Literal, Self

import modal
import modal.exception as modal_errors
from packaging.utils import canonicalize_name

from hypernodes import Backend, ConfigurationError, Limit, RemoteBackend, RemoteError
from hypernodes.extension import Channel, ExecutionMode, Package
from hypernodes_modal import error_translation
from hypernodes_modal.app import FUNCTION_NAME, OpenApp, SharedApp, make_app
from hypernodes_modal.call import CallContext, JobCall
from hypernodes_modal.callable_backends import CallableBackendSpec
from hypernodes_modal.errors import ModalSetupError
from hypernodes_modal.event_loops import outside_event_loop
from hypernodes_modal.image_packages import packages_of
from hypernodes_modal.image_python import python_version_of
from hypernodes_modal.resources import check_cpu, check_gpu, check_name, check_volumes, check_whole, parse_memory

CACHE_KEY_VARIABLE = "HYPERNODES_CACHE_KEY"
_MAX_SUBMITS = 3
_START_PATIENCE_S = 10.0  # how long to retry when the connection fails before a call was started
_FIRST_PAUSE_S = 0.2
_LONGEST_PAUSE_S = 2.0
_MAX_CONCURRENT = 10  # jobs, if nothing else is said
_ENGINE_SETTINGS = (
    "node_execution",
    "map_execution",
    "max_workers",
    "limits",
    "max_in_flight",
    "mode",
    "chunk_size",
    "max_concurrent",
)


class ModalBackend(RemoteBackend):
    """Runs whole pipelines in one Modal container, with one remote call for each `run` or `map`; or maps in many.

    The pipeline, its inputs and the user's own modules are sent with the call; `hypernodes`, `hypernodes_modal` and
    cloudpickle are added to the image; everything else that nodes import must be in the image. The cache and the
    callbacks stay in this process and receive results and events as they happen. The app stays open, and its container
    warm, until `close`, the end of a `with` block, or the end of the program.

    With `mode="distributed"` the items of a map, also of one inside a run, are divided among containers: each job is a
    spawned call of the same function, known by its id, so that Modal starts as many containers as there is work for.
    This process drives the map, and must stay until it is done.

    A nested pipeline with a `ModalBackend` of its own runs in the same container if both have the same image and
    settings, otherwise in another container, which is called from the first one.

    Args:
        image: Image of the containers; its Python must have the same minor version as this one.
        gpu: Kind of GPU, such as "A10G" or "H100:2", or a list of kinds in order of preference.
        memory: "32GB", "512MiB", an int in MiB, or a pair (request, limit) of these.
        cpu: Number of cores, or a pair (request, limit).
        timeout: Time limit of one job, in seconds, from 1 second to 24 hours: of a `run` or `map`, or of a part of it.
        volumes: Modal volumes by the absolute path at which they are mounted.
        secrets: Modal secrets.
        retries: How many times Modal restarts a lost container.
        region: Region, or regions, in which containers may run.
        cloud: Cloud provider on which containers run.
        max_containers: Maximum number of containers.
        min_containers: Number of containers that stay warm without work; they cost money.
        scaledown_window: How long an idle container stays, in seconds, from 2 to 3600.
        app_name: Name of the app, as Modal shows it.
        function_options: Further arguments of `modal.App.function`.
        environment_name: Modal environment; None for the default one.
        detach: Whether the app continues when this program ends.
        show_logs: Whether what nodes print, and the building of the image, is shown here.
        cache_location: "local" to store results in the caller's cache. "remote" if the cache is a `DiskCache` on a
            path in one of `volumes`: it is then used in the container, the volume is reloaded before and committed
            after a job, and the caller looks nothing up. All containers need the same secret key for it:
            HYPERNODES_CACHE_KEY, set here or in one of `secrets`.
        node_execution: How the nodes of one run are executed in the container.
        map_execution: How the items of a map are executed in the container.
        max_workers: Maximum number of concurrent calls in the container.
        limits: The limits that nodes may name (see `hypernodes.Limit`); they hold for what runs in one container.
        max_in_flight: The largest number of items of a map that have begun and are not done.
        mode: "single" for one container at a time, "distributed" to divide maps.
        chunk_size: How many items of a map a job gets in mode "distributed"; "auto" for as many as take about four
            seconds, fewer at first and at the end.
        max_concurrent: The largest number of jobs at a time in mode "distributed"; `max_containers`, or 10, if nothing
            is said.

    Attributes:
        patience_s: How long to poll a call while the connection is lost, in seconds.

    Raises:
        TypeError: `image` is not a Modal image.
        ConfigurationError: A setting has an invalid value.

    Example:
        ```python
        image = modal.Image.debian_slim(python_version="3.12").uv_pip_install("cloudpickle")
        pipeline = pipeline.with_backend(ModalBackend(image=image, gpu="A10G"))
        pipeline.run(inputs={"x": 21})
        ```
    """

    backend_name = error_translation.BACKEND_NAME
    patience_s: float = 120.0

    def __init__(
        self,
        image: modal.Image,
        *,
        gpu: str | list[str] | None = None,
        memory: str | int | tuple[str | int, str | int] | None = None,
        cpu: float | tuple[float, float] | None = None,
        timeout: int = 3600,
        volumes: Mapping[str, modal.Volume] | None = None,
        secrets: Sequence[modal.Secret] | None = None,
        retries: int | modal.Retries | None = None,
        region: str | Sequence[str] | None = None,
        cloud: str | None = None,
        max_containers: int | None = None,
        min_containers: int | None = None,
        scaledown_window: int | None = None,
        app_name: str | None = None,
        function_options: Mapping[str, Any] | None = None,
        environment_name: str | None = None,
        detach: bool = False,
        show_logs: bool = True,
        cache_location: Literal["local", "remote"] = "local",
        node_execution: ExecutionMode | None = None,
        map_execution: ExecutionMode | None = None,
        max_workers: int | None = None,
        limits: Iterable[Limit] | None = None,
        max_in_flight: int | None = None,
        mode: Literal["single", "distributed"] = "single",
        chunk_size: int | Literal["auto"] | None = None,
        max_concurrent: int | None = None,
    ) -> None:
        super().__init__(
            node_execution=node_execution,
            map_execution=map_execution,
            max_workers=max_workers,
            limits=limits,
            max_in_flight=max_in_flight,
            chunk_size=chunk_size,
        )
        if not isinstance(image, modal.Image):
            raise TypeError(f"image must be a modal.Image, e.g. modal.Image.debian_slim(); got {image!r}")
        options = _checked(
            {
                "gpu": gpu,
                "memory": memory,
                "cpu": cpu,
                "timeout": timeout,
                "volumes": volumes or {},
                "secrets": secrets,
                "retries": retries,
                "region": region,
                "cloud": cloud,
                "max_containers": max_containers,
                "min_containers": min_containers,
                "scaledown_window": scaledown_window,
            }
        )
        if cache_location not in ("local", "remote"):
            raise ConfigurationError(f"cache_location must be 'local' or 'remote'; got {cache_location!r}")
        if cache_location == "remote" and not options["volumes"]:
            raise ConfigurationError(
                "cache_location='remote' needs the volume that holds the cache: volumes={path: volume}"
            )
        self.image = image
        self.cache_location = cache_location
        self.sends_caches = cache_location == "remote"
        options["secrets"] = self._with_cache_key(options["secrets"])
        self.app_name = check_name("app_name", app_name)
        self.environment_name = environment_name
        self.detach = detach
        self.show_logs = show_logs
        self.timeout: int | None = timeout
        self.function_options = self._base_options = _merge(
            {name: value for name, value in options.items() if value}, function_options or {}
        )
        self._deployed_name: str | None = None
        self._set_mode(mode, max_concurrent)
        self._check_with_modal()
        self._shared_app = SharedApp(environment_name)
        self._variant: dict[str, Any] = {}  # options that differ from those of the app's function

    @classmethod
    def deployed(
        cls,
        app_name: str,
        *,
        environment_name: str | None = None,
        node_execution: ExecutionMode | None = None,
        map_execution: ExecutionMode | None = None,
        max_workers: int | None = None,
        limits: Iterable[Limit] | None = None,
        max_in_flight: int | None = None,
        mode: Literal["single", "distributed"] = "single",
        chunk_size: int | Literal["auto"] | None = None,
        max_concurrent: int | None = None,
    ) -> Self:
        """Return a backend that uses an app deployed by `hypernodes-modal deploy`, instead of an app of its own.

        What nodes print is not shown here, but in the app's own log: `modal app logs`.

        Args:
            app_name: Name of the app.
            environment_name: Modal environment; None for the default one.
            node_execution: How the nodes of one run are executed in the container.
            map_execution: How the items of a map are executed in the container.
            max_workers: Maximum number of concurrent calls in the container.
            limits: The limits that nodes may name (see `hypernodes.Limit`).
            max_in_flight: The largest number of items of a map that have begun and are not done.
            mode: "single" or "distributed".
            chunk_size: How many items of a map a job gets in mode "distributed".
            max_concurrent: The largest number of jobs at a time in mode "distributed".
        """
        backend = object.__new__(cls)
        RemoteBackend.__init__(
            backend,
            node_execution=node_execution,
            map_execution=map_execution,
            max_workers=max_workers,
            limits=limits,
            max_in_flight=max_in_flight,
            chunk_size=chunk_size,
        )
        backend.app_name = app_name
        backend.environment_name = environment_name
        backend.detach = backend.show_logs = False
        backend.cache_location = "local"
        backend.timeout = None
        backend.function_options = backend._base_options = {}
        backend._set_mode(mode, max_concurrent)
        backend._deployed_name = app_name
        backend._shared_app = SharedApp(environment_name)
        backend._variant = {}
        return backend

    def with_options(
        self,
        *,
        gpu: str | None = None,
        memory: str | int | tuple[str | int, str | int] | None = None,
        cpu: float | tuple[float, float] | None = None,
        timeout: int | None = None,
        volumes: Mapping[str, modal.Volume] | None = None,
        secrets: Sequence[modal.Secret] | None = None,
        retries: int | modal.Retries | None = None,
        region: str | Sequence[str] | None = None,
        cloud: str | None = None,
        max_containers: int | None = None,
        scaledown_window: int | None = None,
        **settings: Any,
    ) -> Self:
        """Return a backend with other options for its containers, which shares app and image with this one.

        Its containers are others, and their number is limited by itself. Both use the app until both are closed.

        Args:
            gpu: See `ModalBackend`; None leaves it as it is, as for all options.
            memory: See there.
            cpu: See there.
            timeout: See there.
            volumes: See there; they replace those of this backend.
            secrets: See there; they replace those of this backend.
            retries: See there.
            region: See there.
            cloud: See there.
            max_containers: See there.
            scaledown_window: See there.
            settings: Other settings of how jobs are executed: `node_execution`, `map_execution`, `max_workers`,
                `limits`, `max_in_flight`, `mode`, `chunk_size` and `max_concurrent`. Those that are not named stay.

        Raises:
            ConfigurationError: An option has an invalid value, or Modal cannot change it for an existing function.

        Example:
            ```python
            cpu = ModalBackend(image=image)
            gpu = cpu.with_options(gpu="H100", memory="64GB")
            pipeline.with_backend(cpu, nodes={"encode": gpu})
            ```
        """
        if self.sends_caches and volumes is not None:
            raise ConfigurationError("with_options cannot replace the volumes, which hold the cache")
        options = {
            "gpu": gpu,
            "memory": memory,
            "cpu": cpu,
            "timeout": timeout,
            "volumes": volumes,
            "secrets": secrets,
            "retries": retries,
            "region": region,
            "cloud": cloud,
            "max_containers": max_containers,
            "scaledown_window": scaledown_window,
        }
        given = _checked({name: value for name, value in options.items() if value is not None})
        if "secrets" in given:
            given["secrets"] = self._with_cache_key(given["secrets"])
        if isinstance(gpu, list):
            raise ConfigurationError(f"with_options takes one kind of GPU, not a list: {gpu}")
        if volumes is not None and not volumes:
            raise ConfigurationError("with_options cannot remove volumes, since Modal cannot")
        known = {name: getattr(self, name) for name in _ENGINE_SETTINGS}
        unknown = [name for name in settings if name not in known]
        if unknown:
            raise ConfigurationError(
                f"with_options cannot change {', '.join(unknown)}; it takes: {', '.join([*options, *known])}"
            )
        if settings.get("mode") == "single":
            known |= {"chunk_size": None, "max_concurrent": None}
        found = {**known, **settings}
        changed = object.__new__(type(self))
        changed.__dict__.update(self.__dict__)
        mode, most = found.pop("mode"), found.pop("max_concurrent")
        RemoteBackend.__init__(changed, **found)
        changed._variant = {**self._variant, **given}
        changed.function_options = {**self.function_options, **given}
        changed._set_mode(mode, most)
        changed.timeout = self.timeout if timeout is None else timeout
        if changed._deployed_name is None:
            changed._check_with_modal()
        return changed

    def _with_cache_key(self, secrets: list[modal.Secret]) -> list[modal.Secret]:
        """Return secrets with that of the cache, if it is used in the container and its key is set here."""
        if not self.sends_caches or CACHE_KEY_VARIABLE not in os.environ:
            return secrets
        key: dict[str, str | None] = {CACHE_KEY_VARIABLE: os.environ[CACHE_KEY_VARIABLE]}
        return [*secrets, modal.Secret.from_dict(key)]

    def _set_mode(self, mode: Any, max_concurrent: Any) -> None:
        if self.sends_caches and mode == "distributed":
            raise ConfigurationError(
                "cache_location='remote' does not go with mode='distributed': several containers would write to one "
                "volume at a time, and Modal keeps what the last one wrote. Leave the cache here, or use mode='single'"
            )
        if mode not in ("single", "distributed"):
            raise ConfigurationError(f"mode must be 'single' or 'distributed'; got {mode!r}")
        check_whole("max_concurrent", max_concurrent, 1)
        if mode == "single" and (max_concurrent is not None or self.chunk_size is not None):
            setting = "chunk_size" if max_concurrent is None else "max_concurrent"
            raise ConfigurationError(f"{setting} has no use in mode 'single': choose mode='distributed'")
        self.mode: Literal["single", "distributed"] = mode
        self.max_concurrent: int | None = max_concurrent
        most = max_concurrent or self.function_options.get("max_containers") or _MAX_CONCURRENT
        self.jobs_at_once = 1 if mode == "single" else most
        if mode == "distributed" and self.chunk_size is None:
            self.chunk_size = "auto"

    def _check_with_modal(self) -> None:
        """Make an app that is never run, since Modal's client checks some settings only then."""
        try:
            make_app(self.app_name, self.image, self.function_options)
        except (TypeError, ValueError, modal_errors.Error) as error:
            raise ConfigurationError(f"Modal does not accept the settings of ModalBackend: {error}") from error

    # --- jobs -----------------------------------------------------------------------------------------------------

    def submit(self, job: bytes, channel: Channel) -> bytes:
        calls: list[JobCall] = []  # the current call

        def cancel() -> None:
            for call in calls:
                call.cancel()

        try:
            return outside_event_loop(lambda: self._submit(job, channel, calls), on_interrupt=cancel)
        except ModalSetupError as error:
            # It says what is wrong; the frames of two libraries would not. Modal's own is its context.
            raise error.with_traceback(None) from None

    @property
    def shares_data(self) -> bool:
        """Whether jobs share data: where there are several for one map."""
        return self.mode == "distributed"

    def share(self, key: str, data: bytes) -> str:
        try:
            return outside_event_loop(lambda: self._shared_app.share(key, data))
        except (modal_errors.Error, *error_translation.TRANSIENT) as error:
            raise self._translate(error) from error

    def runs_here(self, other: Backend) -> bool:
        """Whether a nested pipeline with another backend can run in the same container as this one."""
        if not isinstance(other, ModalBackend):
            return False
        if other is self:
            return True
        if self._deployed_name is not None or other._deployed_name is not None:
            is_same_app = (
                self._deployed_name == other._deployed_name and self.environment_name == other.environment_name
            )
            return is_same_app and self._variant == other._variant
        return self.image is other.image and self.function_options == other.function_options

    def _submit(self, job: bytes, channel: Channel, calls: list[JobCall]) -> bytes:
        began_at = monotonic()
        times_closed = self._shared_app.times_closed
        submits = 0
        pause_s = _FIRST_PAUSE_S
        while True:
            call_id, app = "", None
            try:
                app = self._app()
                call = JobCall(self._function_of(app), self.patience_s, self._context(channel))
                calls[:] = [call]
                try:
                    return call.run(job, channel)
                finally:
                    call_id = call.call_id
            except error_translation.TRANSIENT as error:
                # Without an id no call was started, so a retry cannot do anything twice.
                if call_id or monotonic() - began_at > min(self.patience_s, _START_PATIENCE_S):
                    raise self._translate(error, call_id) from error
                sleep(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
            except modal_errors.Error as error:
                if self._shared_app.times_closed != times_closed:
                    raise RemoteError(
                        "the backend was closed while it executed a job", backend_name=self.backend_name
                    ) from error
                submits += 1
                if submits == _MAX_SUBMITS or not self._can_resubmit(error, call_id, app):
                    raise self._translate(error, call_id) from error

    def _can_resubmit(self, error: modal_errors.Error, call_id: str, app: OpenApp | None) -> bool:
        if isinstance(error, modal_errors.InternalFailure):
            return True
        is_closed = isinstance(error, modal_errors.ClientClosed)  # by other code in this process
        if not call_id:  # the app was stopped by somebody else, for instance on Modal's website
            stopped = (modal_errors.NotFoundError, modal_errors.InvalidError, modal_errors.ExecutionError)
            is_closed |= isinstance(error, stopped)
        if is_closed and app is not None:
            self._shared_app.drop(app)
            return True
        return False

    def _translate(self, error: modal_errors.Error | ConnectionError, call_id: str = "") -> RemoteError:
        return error_translation.translate(error, self.timeout, call_id=call_id, gpu=self.function_options.get("gpu"))

    def can_call(self, other: Backend) -> bool:
        """Whether the container can call another backend, for a nested pipeline that has it."""
        return isinstance(other, ModalBackend)

    def find_python_version(self) -> str | None:
        """Return the minor version of Python in the image ("3.12"); None if it is known only after a build."""
        return None if self._deployed_name is not None else python_version_of(self.image)

    def find_missing(self, packages: Sequence[Package]) -> Sequence[Package]:
        """Return those of some packages that the image does not install; none if that is known only after a build."""
        installed = None if self._deployed_name is not None else packages_of(self.image)
        if installed is None:
            return ()
        return [package for package in packages if canonicalize_name(package.distribution) not in installed]

    def advise_python(self, version: str) -> str:
        """Return what to do so that the containers have a version of Python."""
        return f'Make the image with modal.Image.debian_slim(python_version="{version}"){self._then_deploy()}.'

    def advise_packages(self, requirements: Sequence[str]) -> str:
        """Return what to do so that the containers have some packages."""
        names = ", ".join(f'"{requirement}"' for requirement in requirements)
        return f"Add it to the image of ModalBackend: image.uv_pip_install({names}){self._then_deploy()}"

    def _then_deploy(self) -> str:
        return "" if self._deployed_name is None else f", and deploy {self._deployed_name!r} again"

    def callable_spec(self) -> CallableBackendSpec:
        """Return what a container needs to call this backend's function."""
        function = self._function_of(self._app())
        function.hydrate()  # so that it can be sent
        return CallableBackendSpec(
            function,
            self.timeout,
            self.node_execution,
            self.map_execution,
            self.max_workers,
            self.limits,
            self.max_in_flight,
        )

    def _context(self, channel: Channel) -> CallContext:
        specs = [other.callable_spec() for other in channel.callable_backends if isinstance(other, ModalBackend)]
        volumes = list(self.function_options["volumes"].values()) if self.sends_caches else []
        shared = self._shared_app.shared if channel.shared else None
        return CallContext(specs, volumes, channel.has_caches, self.mode == "distributed", shared)

    # --- the app --------------------------------------------------------------------------------------------------

    def _app(self) -> OpenApp | None:
        """Return the open app; None for a deployed one."""
        return None if self._deployed_name is not None else self._shared_app.open(self._open_app)

    def _function_of(self, app: OpenApp | None) -> Any:
        """Return the function that runs jobs in an app."""
        function: Any = None
        if app is not None:
            function = app.function
        elif self._deployed_name is not None:
            name, environment_name = self._deployed_name, self.environment_name
            function = modal.Function.from_name(name, FUNCTION_NAME, environment_name=environment_name)
        return function.with_options(**self._variant) if self._variant else function

    def _open_app(self) -> OpenApp:
        return OpenApp(
            name=self.app_name,
            image=self.image,
            options=self._base_options,
            detach=self.detach,
            environment_name=self.environment_name,
            show_logs=self.show_logs,
            has_cache=self.sends_caches,
        )

    def deploy(self, app_name: str) -> None:
        """Deploy the function that runs jobs as a persistent app; `deployed` finds it by the name of the app.

        Args:
            app_name: Name of the app.
        """
        if self._deployed_name is not None:
            raise ConfigurationError(f"{self!r} is already deployed")
        app, _ = make_app(app_name, self.image, self.function_options, has_cache=self.sends_caches)
        try:
            outside_event_loop(lambda: app.deploy(name=app_name, environment_name=self.environment_name))
        except modal_errors.Error as error:
            raise self._translate(error) from None

    def close(self) -> None:
        """Stop the app and its containers; the next run starts them again."""
        outside_event_loop(self._shared_app.close)

    def __enter__(self) -> Self:
        shared = self._shared_app
        with shared.lock:
            shared.times_entered += 1
        return self

    def __exit__(self, *exc_info: object) -> None:
        shared = self._shared_app
        with shared.lock:
            shared.times_entered -= 1
            is_last = shared.times_entered == 0
        if is_last:
            self.close()

    def __reduce__(self) -> Any:
        raise TypeError(
            "a ModalBackend belongs to the process that made it, with its app, and cannot be pickled: make it where it "
            "is needed, or use ModalBackend.deployed(...) there"
        )

    def __repr__(self) -> str:
        if self._deployed_name is not None:
            return f"ModalBackend.deployed({self._deployed_name!r})"
        shown = {
            name: self.function_options[name] for name in ("gpu", "memory", "cpu") if name in self.function_options
        }
        return f"ModalBackend({', '.join(f'{name}={value!r}' for name, value in shown.items())})"


def _checked(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options of containers in the form that Modal takes.

    Raises:
        ConfigurationError: One has an invalid value.
    """
    return {name: _CHECKS[name](value) if name in _CHECKS else value for name, value in options.items()}


def _check_retries(retries: Any) -> Any:
    return retries if isinstance(retries, modal.Retries) else check_whole("retries", retries, 0, 10)


def _check_secrets(secrets: Any) -> list[modal.Secret]:
    found = [secrets] if isinstance(secrets, modal.Secret) else list(secrets or ())
    for secret in found:
        if not isinstance(secret, modal.Secret):
            # The value is not shown: a string here is probably the secret itself.
            raise ConfigurationError(f"secrets must be modal.Secret objects; one is a {type(secret).__name__}")
    return found


_CHECKS: dict[str, Callable[[Any], Any]] = {
    "gpu": check_gpu,
    "memory": parse_memory,
    "cpu": check_cpu,
    "timeout": lambda value: check_whole("timeout", value, 1, 24 * 3600),
    "volumes": check_volumes,
    "secrets": _check_secrets,
    "retries": _check_retries,
    "cloud": lambda value: check_name("cloud", value),
    "max_containers": lambda value: check_whole("max_containers", value, 1),
    "min_containers": lambda value: check_whole("min_containers", value, 0),
    "scaledown_window": lambda value: check_whole("scaledown_window", value, 2, 3600),
}


def _merge(options: dict[str, Any], further: Mapping[str, Any]) -> dict[str, Any]:
    for name in further:
        if name in options or name in ("image", "serialized", "name", "include_source", "is_generator"):
            raise ConfigurationError(f"function_options must not contain {name!r}, which ModalBackend sets itself")
        if name not in signature(modal.App.function).parameters:
            raise ConfigurationError(f"function_options: modal.App.function takes no {name!r}")
    return {**options, **further}
