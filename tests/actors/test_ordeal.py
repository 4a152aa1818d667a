"""Whole clusters in bad weather, a few seeds; more with `python -m tests.actors.ordeal FIRST LAST`."""

import pytest

from tests.actors.ordeal import run_seed


@pytest.mark.parametrize("seed", range(6))
def test_after_a_storm_nothing_acknowledged_is_lost_or_doubled_and_replicas_are_equal(seed: int) -> None:
    ordeal = run_seed(seed)
    assert len(ordeal.counted.applied) > 20
    assert len(ordeal.published.applied) > 20
