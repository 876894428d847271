"""What a run would compute and what it would find, and why, found out without running anything."""

from hypernodes.explain.explanation import Explanation, NodeExplanation
from hypernodes.explain.look import explain_map, explain_run

__all__ = ["Explanation", "NodeExplanation", "explain_map", "explain_run"]
