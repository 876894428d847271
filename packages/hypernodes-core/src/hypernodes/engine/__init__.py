"""The engine: how steps and items run, wherever that is."""

from hypernodes.engine.engine import ExecutionMode, PipelineExecutionEngine

__all__ = ["ExecutionMode", "PipelineExecutionEngine"]
