"""Enumerated crash states: a part of them each time; `python -m trimaran.testing states` tries all."""

from random import Random

import pytest

from trimaran.testing.crash_states import PROTOCOLS, Protocol, enumerate_states, record, survivals

STATES = 200
"""Of each protocol; all of them, for five seeds, are more than a hundred thousand."""


@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=PROTOCOLS.keys())
def test_whatever_a_power_loss_leaves_is_recovered(protocol: Protocol) -> None:
    tried = enumerate_states(protocol, limit=STATES)
    assert tried.operations > 15 and tried.states > 50


def test_a_recording_repeats() -> None:
    first, second = (record(PROTOCOLS["rotate"], seed=3) for _ in range(2))
    assert [moment.operation for moment in first.moments] == [moment.operation for moment in second.moments]
    assert first.views == second.views


def test_every_subset_and_every_tear_is_tried() -> None:
    """Three changes: a name, a write of one sector, a write of three."""
    kept = {
        tuple(
            (number, sector)
            for number, sectors in enumerate((1, 1, 3))
            for sector in range(sectors)
            if keep(number, sector)
        )
        for _, keep in survivals([1, 1, 3], Random(1))
    }
    whole = [(0, 0)], [(1, 0)], [(2, 0), (2, 1), (2, 2)]
    for subset in range(8):
        assert tuple(piece for bit in range(3) if subset >> bit & 1 for piece in whole[bit]) in kept
    assert (
        ((0, 0), (1, 0), (2, 0)) in kept
        and ((2, 1), (2, 2)) in kept
        and ((0, 0), (1, 0), (2, 0), (2, 2)) in kept
    )
