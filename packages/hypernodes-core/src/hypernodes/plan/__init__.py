"""Plans: pipelines compiled for given inputs and requested outputs."""

from hypernodes.plan.compiler import compile_plan
from hypernodes.plan.parts import PlanPart
from hypernodes.plan.plan import UNSET, CallStep, MapMode, NestedStep, OnError, Plan, Release, Scope, Settings, Step

__all__ = [
    "UNSET",
    "CallStep",
    "MapMode",
    "NestedStep",
    "OnError",
    "Plan",
    "PlanPart",
    "Release",
    "Scope",
    "Settings",
    "Step",
    "compile_plan",
]
