"""The engine: how steps and items run, wherever that is."""

from hypernodes.engine.engine import PipelineExecutionEngine
from hypernodes.engine.settings import ExecutionMode

__all__ = ["ExecutionMode", "PipelineExecutionEngine"]
