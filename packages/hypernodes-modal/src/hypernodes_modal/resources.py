"""Checks the resources of a container, since Modal silently ignores some values that it cannot interpret."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from hypernodes import ConfigurationError

_UNITS_MIB = {"KB": 1000 / 1024**2, "MB": 1000**2 / 1024**2, "GB": 1000**3 / 1024**2, "TB": 1000**4 / 1024**2}
_UNITS_MIB |= {"KIB": 1 / 1024, "MIB": 1, "GIB": 1024, "TIB": 1024**2}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]i?B)\s*", re.IGNORECASE)
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_GPU = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*(:[1-9]\d*)?!?")


def parse_memory(memory: Any) -> int | tuple[int, int] | None:
    """Return memory in the form that Modal takes: MiB, or a request and a limit in MiB.

    Args:
        memory: "32GB", "512MiB", an int in MiB, or a pair of these; None for Modal's default.

    Raises:
        ConfigurationError: It has another form.
    """
    if memory is None:
        return None
    if isinstance(memory, (tuple, list)):
        if len(memory) != 2:
            raise ConfigurationError(f"memory as a pair is (request, limit); got {memory!r}")
        request, limit = (_parse_size(size) for size in memory)
        if request > limit:
            raise ConfigurationError(f"memory asks for more than its own limit: {memory!r}")
        return request, limit
    return _parse_size(memory)


def _parse_size(size: Any) -> int:
    mib = 0.0
    if isinstance(size, int) and not isinstance(size, bool):
        mib = size
    elif isinstance(size, str) and (found := _SIZE.fullmatch(size)) is not None:
        mib = float(found[1]) * _UNITS_MIB[found[2].upper()]
    if mib < 1:
        raise ConfigurationError(
            f'memory must be a size such as "32GB" or "512MiB", or an int in MiB, of at least 1 MiB; got {size!r}'
        )
    return round(mib)


def check_cpu(cpu: Any) -> Any:
    """Return the number of CPU cores, or a request and a limit, if Modal accepts it.

    Raises:
        ConfigurationError: Modal would ignore or refuse it.
    """
    values = cpu if isinstance(cpu, (tuple, list)) else (cpu,)
    for value in values:
        if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float)) or value <= 0):
            raise ConfigurationError(f"cpu must be a number of cores greater than 0, or (request, limit); got {cpu!r}")
    if isinstance(cpu, (tuple, list)):
        if len(cpu) != 2 or None in cpu or cpu[0] > cpu[1]:
            raise ConfigurationError(f"cpu as a pair is (request, limit); got {cpu!r}")
        return float(cpu[0]), float(cpu[1])
    return cpu


def check_gpu(gpu: Any) -> str | list[str] | None:
    """Return the kind of GPU, or the kinds in order of preference.

    Raises:
        ConfigurationError: It has another form.
    """
    if gpu is None:
        return None
    kinds = [gpu] if isinstance(gpu, str) else gpu
    if not isinstance(kinds, Sequence) or not kinds or not all(isinstance(kind, str) for kind in kinds):
        raise ConfigurationError(f'gpu must be a name such as "A10G" or "H100:2", or a list of them; got {gpu!r}')
    for kind in kinds:
        if not _GPU.fullmatch(kind):
            raise ConfigurationError(
                f'gpu must be a name, followed by a colon and a number for several: "H100:2"; got {kind!r}'
            )
    return gpu if isinstance(gpu, str) else list(kinds)


def check_whole(name: str, value: Any, least: int, most: int | None = None) -> int | None:
    """Return a whole number within limits, or None.

    Raises:
        ConfigurationError: It is not a whole number, or is outside the limits.
    """
    if value is None:
        return None
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    if not is_whole or value < least or (most is not None and value > most):
        limits = f"from {least} to {most}" if most is not None else f"of at least {least}"
        raise ConfigurationError(f"{name} must be a whole number {limits}; got {value!r}")
    return int(value)


def check_name(setting: str, name: Any) -> str | None:
    """Return a name of an app, or None."""
    if name is None or (isinstance(name, str) and _NAME.fullmatch(name)):
        return name
    raise ConfigurationError(
        f"{setting} must be at most 64 letters, digits, dashes, dots and underscores; got {name!r}"
    )


def check_volumes(volumes: Any) -> dict[str, Any]:
    """Return volumes by the absolute path at which each is mounted."""
    if not isinstance(volumes, Mapping):
        raise ConfigurationError(f"volumes must map paths to volumes, e.g. {{'/data': volume}}; got {volumes!r}")
    found = {str(path): volume for path, volume in volumes.items()}
    for path in found:
        if not path.startswith("/") or path == "/":
            raise ConfigurationError(f"a volume is mounted at an absolute path such as '/data'; got {path!r}")
    return found
