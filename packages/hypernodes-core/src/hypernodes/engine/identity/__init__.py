"""Signatures of plans and of the values in them, and the records that `explain` compares."""
