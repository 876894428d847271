"""The Hypothesis profile `pytest tests/semantics --hypothesis-profile=thorough`, for nights rather than commits."""

from hypothesis import settings

settings.register_profile("thorough", max_examples=20_000, deadline=None, print_blob=True)
