"""Hypothesis profiles: the short one is reproducible; NORMKIT_TESTS=long searches more, and elsewhere each time."""

import os

import pytest
from hypothesis import HealthCheck, settings

QUIET = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture]
settings.register_profile("short", max_examples=60, deadline=None, derandomize=True, suppress_health_check=QUIET)
settings.register_profile("long", max_examples=3000, deadline=None, suppress_health_check=QUIET)
settings.load_profile(os.environ.get("NORMKIT_TESTS", "short"))


@pytest.fixture(autouse=True)
def _same_number_of_threads_afterwards():
    import normkit as nk

    before = nk.get_num_threads()
    yield
    if nk.get_num_threads() != before:
        nk.set_num_threads(before)
