"""Generated pipelines do in another process what the reference interpreter says."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis.strategies import sampled_from

from hypernodes import Backend
from tests.semantics.generate import Scenario, scenarios
from tests.semantics.modes import MODES_ELSEWHERE, Modes, subprocess_backend
from tests.semantics.test_generated_pipelines import check_scenario

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def backends() -> Iterator[Callable[[Modes], Backend]]:
    """One process for each pair of modes, started when it is first drawn and kept for all examples."""
    with ExitStack() as stack:
        yield functools.cache(lambda modes: stack.enter_context(subprocess_backend(modes)))


@pytest.fixture(scope="module")
def folder() -> Iterator[str]:
    with tempfile.TemporaryDirectory() as path:
        yield path


@settings(max_examples=max(24, settings().max_examples), suppress_health_check=list(HealthCheck))
@given(scenario=scenarios(), modes=sampled_from(MODES_ELSEWHERE))
def test_generated_pipelines_do_in_another_process_what_the_reference_says(
    backends: Callable[[Modes], Backend], folder: str, scenario: Scenario, modes: Modes
) -> None:
    check_scenario(scenario, backends(modes), folder)
