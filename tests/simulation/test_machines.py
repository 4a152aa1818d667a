"""Users' machines on the core tier: correct ones pass, classic mistakes are found, by seeds and by rules."""

import json
import random
from collections.abc import Callable, Sequence
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import rule, run_state_machine_as_test

from trimaran.actors.replica.user_machine import StateMachine
from trimaran.testing.machines import SimulationFailed, play_machine, simulate
from trimaran.testing.rules import ClusterRules


class Counter:
    """Counts what it is given. Correct."""

    def __init__(self) -> None:
        self.total = 0
        self.seen = 0

    def apply(self, entries: Sequence[bytes], index: int, time: int) -> Sequence[object]:
        return [self.add(int(entry)) for entry in entries]

    def add(self, number: int) -> object:
        self.total += number
        self.seen += 1
        return self.total

    def snapshot(self) -> bytes:
        return json.dumps([self.total, self.seen]).encode()

    def restore(self, state: bytes) -> None:
        self.total, self.seen = json.loads(state)


class Chance(Counter):
    """Decides by chance."""

    def add(self, number: int) -> object:
        return super().add(number if random.random() < 0.99 else number + 1)


class Address(Counter):
    """Decides by an address, here that of itself."""

    def add(self, number: int) -> object:
        return super().add(number + id(self))


class Silent(Counter):
    """Its results are right, its state differs."""

    def add(self, number: int) -> object:
        result = super().add(number)
        self.seen += random.randrange(2)
        return result


class Forgetful(Counter):
    """Part of its state is not in the snapshot."""

    def snapshot(self) -> bytes:
        return json.dumps([self.total, 0]).encode()

    def add(self, number: int) -> object:
        super().add(number)
        return self.seen


class Mixed(Counter):
    """Mixes what it had with what a snapshot says."""

    def restore(self, state: bytes) -> None:
        self.total, seen = json.loads(state)
        self.seen += seen + 1


WRONG = [Chance, Address, Silent, Forgetful, Mixed]


def numbers(draw: random.Random) -> bytes:
    return b"%d" % draw.randint(1, 9)


def test_a_deterministic_machine_passes() -> None:
    reports = simulate(Counter, numbers, seeds=10)
    assert sum(report.appends for report in reports) > 100
    assert sum(report.crashes for report in reports) > 10


@pytest.mark.parametrize("machine", WRONG)
def test_a_machine_that_is_not_deterministic_is_found_by_seeds(machine: Callable[[], StateMachine]) -> None:
    with pytest.raises(SimulationFailed, match=r"(?s)seed \d+, at .* s: .*again: simulate"):
        simulate(machine, numbers, seeds=50)


def test_what_a_user_checks_is_checked_behind_each_batch() -> None:
    def below_100(machine: StateMachine) -> None:
        assert isinstance(machine, Counter)
        assert machine.total < 100, "more than the shelf holds"

    with pytest.raises(SimulationFailed, match="more than the shelf holds"):
        simulate(Counter, numbers, seeds=10, check=below_100)


def test_a_machine_that_raises_is_the_seed_s_violation() -> None:
    report = play_machine(0, Counter, lambda draw: b"no number")
    assert [violation.property for violation in report.violations] == ["ValueError"]


class CounterRules(ClusterRules):
    machine: ClassVar[Callable[[], StateMachine]] = Counter

    def __init__(self) -> None:
        super().__init__()
        self.least = 0

    @rule(number=st.integers(1, 9))
    def add(self, number: int) -> None:
        total = self.propose(b"%d" % number)
        if isinstance(total, int):
            assert total > self.least
            self.least = total

    @rule()
    def show(self) -> None:
        counter = self.read()
        if counter is not None:
            assert isinstance(counter, Counter) and counter.total >= self.least


QUICK = settings(
    max_examples=15,
    stateful_step_count=20,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)


def test_rules_pass_for_a_deterministic_machine() -> None:
    run_state_machine_as_test(CounterRules, settings=QUICK)


@pytest.mark.parametrize("wrong", [Address, Silent, Mixed])
def test_rules_find_a_machine_that_is_not(wrong: Callable[[], StateMachine]) -> None:
    class Rules(CounterRules):
        machine = wrong

    with pytest.raises(AssertionError, match="replicas"):
        run_state_machine_as_test(Rules, settings=settings(QUICK, max_examples=100, phases=[Phase.generate]))
