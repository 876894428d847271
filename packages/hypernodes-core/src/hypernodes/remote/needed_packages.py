"""Which installed packages the nodes and inputs of a job need, and what to install where one is missing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib import metadata
from typing import Any, NamedTuple

from hypernodes.plan import CallStep, Plan
from hypernodes.remote.job import ABSENT
from hypernodes.remote.names_used import packages_used
from hypernodes.remote.packing import common_packages


class Package(NamedTuple):
    """A package that is installed here.

    Attributes:
        module: Name under which it is imported.
        distribution: Name under which it is installed.
        requirement: What pip needs to install the same.
    """

    module: str
    distribution: str
    requirement: str


def package_of(module: str, installed: Mapping[str, list[str]] | None = None) -> Package | None:
    """Return the installed package that a module belongs to; None for one of the standard library or the user's own.

    Args:
        module: Name of the module.
        installed: The distributions of each top-level module, if they have been looked up: that takes long.
    """
    top = module.partition(".")[0]
    if installed is None:
        installed = metadata.packages_distributions()
    distributions = installed.get(top)
    if not distributions:
        return None
    name = distributions[0]
    version = metadata.version(name).partition("+")[0]  # an index may not have a build of one's own
    return Package(top, name, f"{name}=={version}")


def needed_packages(plan: Plan, values: Mapping[str, Any]) -> dict[Package, list[str]]:
    """Return the installed packages that are needed on the remote side, with what needs them.

    Args:
        plan: What is to run.
        values: The values that are sent, by name.
    """
    users: dict[str, list[str]] = {}
    for step in plan.steps:
        for name in packages_used(step.node if isinstance(step, CallStep) else step.inner):
            location = f" ({step.node.location})" if step.node.location else ""
            users.setdefault(name, []).append(f"{step.node.name!r}{location}")
    for name, value in values.items():
        for package in _packages_of_type(value):
            users.setdefault(package, []).append(f"input {name!r}")
    known = common_packages()
    installed = metadata.packages_distributions()
    found = ((package_of(name, installed), own) for name, own in sorted(users.items()) if name not in known)
    return {package: own for package, own in found if package is not None}


def users_of(package: str, plan: Plan, values: Mapping[str, Any]) -> str:
    """Return the nodes and inputs that need a package, for a message; empty when none is known to."""
    users = [
        repr(step.node.name) + (f" ({step.node.location})" if step.node.location else "")
        for step in plan.steps
        if package in packages_used(step.node if isinstance(step, CallStep) else step.inner)
    ]
    users += [f"input {name!r}" for name, value in values.items() if package in _packages_of_type(value)]
    return ", ".join(users)


def _packages_of_type(value: Any) -> set[str]:
    """Return the packages that define the type of a value, and of the first value in it."""
    if value is ABSENT:
        return set()
    values = [value]
    if isinstance(value, (list, tuple)) and value:
        values.append(value[0])
    elif isinstance(value, dict) and value:
        values.append(next(iter(value.values())))
    return {kind.__module__.partition(".")[0] for each in values for kind in type(each).__mro__}


def requirements_for(modules: Iterable[str]) -> list[str]:
    """Return what pip needs to install some modules."""
    installed = metadata.packages_distributions()
    packages = ((module.partition(".")[0], package_of(module, installed)) for module in modules)
    return [package.requirement if package is not None else module for module, package in packages]
