"""The pytest fixture `simulation`: put `pytest_plugins = ["trimaran.testing.fixture"]` into a test module.

def test_my_machine(simulation):
    simulation(Counter, lambda random: str(random.randint(1, 9)).encode())
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from .machines import simulate
from .report import Report


@pytest.fixture
def simulation() -> Callable[..., list[Report]]:
    """`trimaran.testing.machines.simulate`: plays seeds with replicas of your state machine."""
    return simulate
