"""The engine: how steps and items run, wherever that is."""

from hypernodes.engine.engine import PipelineExecutionEngine
from hypernodes.engine.modes import ExecutionMode

__all__ = ["ExecutionMode", "PipelineExecutionEngine"]
