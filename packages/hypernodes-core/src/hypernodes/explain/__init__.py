"""What a run would compute and what it would find, and why, found out without running anything."""

from hypernodes.explain.dry_run_counts import explain_map, explain_run
from hypernodes.explain.explanation import Explanation, NodeExplanation

__all__ = ["Explanation", "NodeExplanation", "explain_map", "explain_run"]
