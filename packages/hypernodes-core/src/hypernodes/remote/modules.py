"""Modules of the user's that are sent: rebuilt for each job under their own names, so that its imports find them.

Several jobs may be executed at a time in one process, and bring different modules of one name. An import statement in a
function of a job therefore looks into the modules of that job first. Whatever else asks for such a module
(`importlib.import_module`, `pickle`) finds in `sys.modules` the module of the job, or, while several jobs have one of
that name, a stand-in that answers for the job in whose context it is asked.
"""

from __future__ import annotations

import builtins
import sys
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import FunctionType, ModuleType, resolve_bases
from typing import Any, NamedTuple

from hypernodes.engine.workers.code_owner import ArrivedSentinels, CodeOwner, code_owner
from hypernodes.engine.workers.kept_caches import classes_of
from hypernodes.locks import reset_after_fork
from hypernodes.resources import observers_of_making

_LEFT_OUT = "__hypernodes_left_out__"
_JOB = "__hypernodes_job__"  # in the globals of functions: the job that brought them
_INCIDENTAL = frozenset(
    {"__annotations__", "__builtins__", "__cached__", "__file__", "__loader__", "__name__", "__package__", "__path__"}
    | {"__spec__", "__warningregistry__", _JOB}
)


def state_of(module: ModuleType, left_out: set[str]) -> dict[str, Any]:
    """Return what is in a module, but for the names that are left out, which are listed."""
    found = {name: value for name, value in vars(module).items() if name not in _INCIDENTAL and name not in left_out}
    return {**found, _LEFT_OUT: sorted(left_out)}


class Shell(NamedTuple):
    """What of a module is sent before its content, which refers to it.

    Attributes:
        name: Full name of the module.
        is_package: Whether it may have modules in it.
        file: Where it was written.
    """

    name: str
    is_package: bool
    file: str | None

    def make(self) -> ModuleType:
        """Return the module without its content."""
        module = RestoredModule(self.name)
        module.__file__ = self.file
        module.__package__ = self.name if self.is_package else self.name.rpartition(".")[0]
        if self.is_package:
            module.__path__ = []
        return module


def shell_of(module: ModuleType) -> Shell:
    """Return the shell of a module."""
    return Shell(module.__name__, hasattr(module, "__path__"), getattr(module, "__file__", None))


class Namespace(dict[str, Any]):
    """The globals of functions of a module: on the other side, those of the module that is restored there.

    Args:
        shell: The module.
    """

    def __init__(self, shell: Shell) -> None:
        super().__init__(__name__=shell.name)
        self._shell = shell

    def __reduce__(self) -> Any:
        return vars, (self._shell,)


class RestoredModule(ModuleType):
    """A module that was sent here."""

    def __reduce__(self) -> tuple[Any, ...]:
        left_out = self.__dict__.get(_LEFT_OUT, ())
        job = self.__dict__.get(_JOB)
        key = job.key if job is not None else ""
        return restore_in_worker_process, (key, shell_of(self)), {**state_of(self, set()), _LEFT_OUT: left_out}

    def __getattr__(self, name: str) -> Any:
        if name in self.__dict__.get(_LEFT_OUT, ()):
            raise AttributeError(f"{self.__name__}.{name} stayed with the caller, because it cannot be sent")
        raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")


class JobModules:
    """The modules and classes of the user's that one job brought; those of other jobs are others.

    Args:
        key: Stands for the job.
        common_packages: Packages that its caller has too.

    Attributes:
        key: Stands for the job.
        modules: Its modules by name.
        main: What the `__main__` module of the caller held, by name.
        common_packages: Packages that its caller has too, so that code of theirs is sent back by name.
        sentinels: The sentinels of its code that arrived.
    """

    def __init__(self, key: str, common_packages: Iterable[str] = ()) -> None:
        self.key = key
        self.common_packages = frozenset(common_packages)
        self.modules: dict[str, ModuleType] = {}
        self.main: dict[str, Any] = {}
        self.sentinels = ArrivedSentinels()
        self._classes: dict[str, type] = {}
        self._complete: set[type] = set()  # classes of the caller's, and those that nodes of the job have made
        self._filled: set[type] = set()  # classes that this job has given their content

    def restore(self, shell: Shell) -> ModuleType:
        """Return a module of the job: an empty one, to be filled by the unpickler, when it is the first time."""
        with _lock:
            module = self.modules.get(shell.name)
            if module is None:
                module = shell.make()
                vars(module)[_JOB] = self
                self.modules[shell.name] = module
                _show(shell.name)
            return module

    def adopt_function(self, function: FunctionType) -> None:
        """Let the import statements of a function find the modules of the job."""
        function.__globals__[_JOB] = self

    def adopt_in_main(self, name: str, made: Any) -> None:
        """Let `pickle`, used inside a node, find what the `__main__` module of the caller held."""
        self.main[name] = made
        main: Any = sys.modules["__main__"]
        if not hasattr(main, "__getattr__"):
            main.__getattr__ = _find_in_main

    def make_class(self, make: Callable[..., type], arguments: tuple[Any, ...]) -> type:
        """Return a class that cloudpickle describes, which is the same one whenever it comes to this job."""
        from hypernodes.engine.workers.by_value import class_known_as  # needs cloudpickle, as the sender did

        *facts, tracker_id, extra = arguments
        made = self._classes.get(tracker_id)
        if made is None:
            own = None if _is_from_caller.get() else class_known_as(tracker_id)
            if own is not None:
                self._complete.add(own)
            with _lock:
                made = own or self._class_of_earlier_job(tracker_id, facts)
                if made is None:
                    made = make(*facts, None, extra)
                    _made_empty[made] = frozenset(vars(made))
                self._classes[tracker_id] = made
            _send_as(made, tracker_id)
        if _is_from_caller.get():
            self._complete.add(made)
        return made

    def has_class(self, tracker_id: str) -> bool:
        """Whether the job brought a class that cloudpickle knows under an id."""
        return tracker_id in self._classes

    def _class_of_earlier_job(self, tracker_id: str, facts: list[Any]) -> type | None:
        """Return the class of the caller's that an earlier job brought, if objects of that class have stayed.

        What stays from job to job, e.g. the object of a resource, is of the class then that the next job has. Jobs that
        are executed at a time have classes of their own.
        """
        made = _kept_classes.get(tracker_id)
        if made is None or any(job.has_class(tracker_id) for job in _jobs if job.key not in _over):
            return None
        is_enum = len(facts) == _ENUM_FACTS
        bases = facts[0] if is_enum else facts[2]
        expected = (tuple,) if NamedTuple in bases else resolve_bases(bases) or (object,)
        if made.__bases__ != expected or not (is_enum or type(made) is facts[0]):
            return None
        type.__setattr__(made, "__name__", facts[1])
        type.__setattr__(made, "__qualname__", facts[2] if is_enum else facts[3]["__qualname__"])
        return made

    def keep_classes(self, classes: Iterable[type]) -> None:
        """Let classes be the same ones in the jobs of the same sender that follow: objects of theirs stay."""
        with _lock:
            held = {kind for each in classes for kind in _kinds_behind(each)}.intersection(self._classes.values())
            for tracker_id, kind in self._classes.items():
                if not held.isdisjoint(_kinds_behind(kind)):  # also what those find among their subclasses
                    _kept_classes[tracker_id] = kind

    def fill_class(self, made: type, fill: Callable[[], None]) -> None:
        """Fill a class with what arrives, unless a worker process sends back what is known here.

        A class of an earlier job loses what it got there.
        """
        if not _is_from_caller.get() and made in self._complete:
            return
        if made in _made_empty and made not in self._filled:
            for name in vars(made).keys() - _made_empty[made]:
                type.__delattr__(made, name)  # also what arrives: its metaclass may not let it be replaced
        self._filled.add(made)
        fill()

    def find(self, name: str, namespace: dict[str, Any], names: Any, level: int) -> ModuleType | None:
        """Return what an import statement gives, if it is of a module of the job.

        Args:
            name: Name of the module.
            namespace: The globals in which the statement stands.
            names: What is taken from the module; empty for `import a.b`, which gives `a`.
            level: Number of leading dots.
        """
        if level:
            package = namespace.get("__package__") or ""
            base = package.rsplit(".", level - 1)[0] if level > 1 else package
            name = f"{base}.{name}" if name else base
        module = self.modules.get(name)
        if module is None:
            return None
        if not names:
            return module if level else self._top_of(name)
        for entry in vars(module).get("__all__", ()) if "*" in names else names:
            inner = self.modules.get(f"{name}.{entry}")
            if inner is not None and entry not in vars(module):
                setattr(module, entry, inner)
        return module

    def _top_of(self, name: str) -> ModuleType | None:
        """Return `a` for `a.b.c`, in which `b` is found, and so on."""
        package, _, inner = name.rpartition(".")
        while package:
            outer, module = self.modules.get(package), self.modules.get(f"{package}.{inner}")
            if outer is not None and module is not None and inner not in vars(outer):
                setattr(outer, inner, module)
            package, _, inner = package.rpartition(".")
        return self.modules.get(inner)


# --- jobs that are executed here ----------------------------------------------------------------------------------

_lock = reset_after_fork(threading.RLock())
_jobs: list[JobModules] = []  # those that are executed, and those that are over but may have left threads running
_over: set[str] = set()
_shown: dict[str, ModuleType] = {}  # what was put into `sys.modules`
_registered: set[str] = set()
_kept_classes: weakref.WeakValueDictionary[str, type] = weakref.WeakValueDictionary()  # by cloudpickle's id
_made_empty: weakref.WeakKeyDictionary[type, frozenset[str]] = weakref.WeakKeyDictionary()  # names before it was filled
_ENUM_FACTS = 5  # how many things cloudpickle says of an enum, but for its id and what comes after
_is_from_caller: ContextVar[bool] = ContextVar("is_from_caller", default=False)


@contextmanager
def modules_of_job(key: str, common_packages: Iterable[str] = (), is_dedicated: bool = True) -> Iterator[JobModules]:
    """Execute a job: functions in this context belong to it.

    In a process that is there for jobs only, the modules of earlier jobs are forgotten when one begins, rather than
    when they end: a thread that a node left running may still import them. Elsewhere they are forgotten at once, since
    other code may import modules of the same names.

    Args:
        key: Stands for the job.
        common_packages: Packages that its caller has too.
        is_dedicated: Whether this process is there for jobs only.
    """
    job = JobModules(key, common_packages)
    with _lock:
        _forget_what_is_over()
        _jobs.append(job)
    token = code_owner.set(job)
    try:
        yield job
    finally:
        code_owner.reset(token)
        with _lock:
            _over.add(key)
            if not is_dedicated:
                _forget_what_is_over()


def is_module_of_a_job(name: str) -> bool:
    """Whether a module of this name came with a job that is executed here."""
    return name in _registered


def _kinds_behind(kind: Any) -> tuple[type, ...]:
    return (*kind.__mro__, *type(kind).__mro__)


def _keep_classes_of(made: Any) -> None:
    """Let the classes of a resource's object, which stays in this process, be those of later jobs too."""
    owner = code_owner.get()
    if owner is not None:
        owner.keep_classes(classes_of(made))


observers_of_making.append(_keep_classes_of)


@contextmanager
def receiving(job: JobModules | None, is_from_caller: bool) -> Iterator[None]:
    """Unpickle something that belongs to a job, or, without one, to this process."""
    owner, before = code_owner.set(job), _is_from_caller.set(is_from_caller)
    try:
        yield
    finally:
        _is_from_caller.reset(before)
        code_owner.reset(owner)


def restore_in_worker_process(key: str, shell: Shell) -> ModuleType:
    """Return a module of the job that a worker process works for now."""
    with _lock:
        job = next((job for job in _jobs if job.key == key), None)
        if job is None:  # worker processes work for one job after the other
            _over.update(job.key for job in _jobs)
            _forget_what_is_over()
            job = JobModules(key)
            _jobs.append(job)
        return job.restore(shell)


def _forget_what_is_over() -> None:
    over = [job for job in _jobs if job.key in _over]
    _jobs[:] = [job for job in _jobs if job.key not in _over]
    _over.clear()
    for name in {name for job in over for name in job.modules}:
        _show(name)


def _show(name: str) -> None:
    """Put into `sys.modules` what is to be found under a name now; what was really imported here stays."""
    import cloudpickle

    owners = [job for job in _jobs if name in job.modules]
    current = sys.modules.get(name)
    is_ours = current is None or current is _shown.get(name)
    if len(owners) > 1 or (owners and not is_ours):
        _look_into_jobs_first()
    if not is_ours:
        return
    if not owners:
        _shown.pop(name, None)
        sys.modules.pop(name, None)
        if name in _registered:
            _registered.discard(name)
            if name in cloudpickle.list_registry_pickle_by_value():
                cloudpickle.unregister_pickle_by_value(ModuleType(name))
        return
    module = owners[0].modules[name] if len(owners) == 1 else ModuleOfSeveralJobs(name)
    if len(owners) > 1 and isinstance(current, ModuleOfSeveralJobs):
        return
    sys.modules[name] = _shown[name] = module
    if name not in _registered:
        _registered.add(name)
        cloudpickle.register_pickle_by_value(ModuleType(name))


class ModuleOfSeveralJobs(ModuleType):
    """Stands for modules of one name that several jobs brought; answers for the job in whose context it is asked."""

    def __getattribute__(self, name: str) -> Any:
        return getattr(_module_in_context(ModuleType.__getattribute__(self, "__name__")), name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(_module_in_context(ModuleType.__getattribute__(self, "__name__")), name, value)

    def __delattr__(self, name: str) -> None:
        delattr(_module_in_context(ModuleType.__getattribute__(self, "__name__")), name)

    def __dir__(self) -> list[str]:
        return dir(_module_in_context(ModuleType.__getattribute__(self, "__name__")))


def _module_in_context(name: str) -> ModuleType:
    current: CodeOwner | None = code_owner.get()
    if current is not None and name in current.modules:
        return current.modules[name]
    with _lock:
        owners = [job for job in _jobs if name in job.modules]
    if len(owners) == 1:
        return owners[0].modules[name]
    raise AttributeError(
        f"module {name!r} was brought by {len(owners)} jobs that are executed here at a time, and this thread belongs "
        "to none of them: import the module in the function that uses it"
    )


def _find_in_main(name: str) -> Any:
    """Find what the caller's `__main__` module held, for `pickle` used inside a node."""
    current: CodeOwner | None = code_owner.get()
    if current is not None:
        owners: list[Any] = [current]
    else:
        with _lock:
            owners = [job for job in _jobs if name in job.main]
    if len(owners) == 1 and name in owners[0].main:
        return owners[0].main[name]
    raise AttributeError(f"module '__main__' has no attribute {name!r}")


_import = builtins.__import__
_looks_into_jobs = False


def _look_into_jobs_first() -> None:
    """Let import statements in functions of a job find its own modules, whatever `sys.modules` has for their name."""
    global _import, _looks_into_jobs
    if not _looks_into_jobs:
        _looks_into_jobs = True
        _import = builtins.__import__
        builtins.__import__ = import_for_job


def import_for_job(
    name: str,
    globals: Any = None,  # noqa: A002 - the name under which `__import__` takes it
    locals: Any = None,  # noqa: A002
    fromlist: Any = (),
    level: int = 0,
) -> ModuleType:
    """Import a module as `__import__` does, but in a function of a job its own one."""
    if type(globals) is dict and (job := globals.get(_JOB)) is not None:
        module = job.find(name, globals, fromlist, level)
        if module is not None:
            return module  # type: ignore[no-any-return]
    return _import(name, globals, locals, fromlist, level)


def _send_as(made: type, tracker_id: str) -> None:
    """Let cloudpickle send a class under the id by which its sender knows it."""
    from cloudpickle import cloudpickle

    ids = getattr(cloudpickle, "_DYNAMIC_CLASS_TRACKER_BY_CLASS", None)
    if ids is not None and tracker_id is not None:
        ids[made] = tracker_id
