"""Clusters under faults: every invariant of `invariants.py`, at every step, and convergence afterwards."""

import pytest

from .cluster import run_seed

SEEDS_PER_TEST = 25
SEEDS = 300


@pytest.mark.parametrize("first", range(0, SEEDS, SEEDS_PER_TEST))
def test_safe_under_faults_and_live_after_them(first: int) -> None:
    for seed in range(first, first + SEEDS_PER_TEST):
        run_seed(seed)


def test_equal_seeds_give_equal_histories() -> None:
    """Without it a seed would not be a bug report."""
    first, second = run_seed(7), run_seed(7)
    assert first.invariants.states == second.invariants.states
    assert first.invariants.outcomes == second.invariants.outcomes
    assert first.events == second.events
