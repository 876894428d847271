"""The engine: executes the steps of plans and the items of maps, in the same way on every backend."""

from hypernodes.engine.engine import PipelineExecutionEngine
from hypernodes.engine.settings import ExecutionMode

__all__ = ["ExecutionMode", "PipelineExecutionEngine"]
