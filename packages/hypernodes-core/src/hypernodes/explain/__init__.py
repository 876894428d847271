"""Explains what a run would compute, what it would find in caches, and why, without running anything."""

from hypernodes.explain.dry_run_counts import explain_map, explain_run
from hypernodes.explain.explanation import Explanation, NodeExplanation

__all__ = ["Explanation", "NodeExplanation", "explain_map", "explain_run"]
