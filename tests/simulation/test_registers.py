"""The checker of register histories, against known histories and against trying all orders."""

from collections.abc import Sequence
from itertools import permutations
from math import inf
from random import Random

import pytest

from trimaran.testing.registers import Operation, first_anomaly, is_linearizable


def write(value: object, began: float, ended: float = inf) -> Operation:
    return Operation("r", value, True, began, ended)


def read(value: object, began: float, ended: float) -> Operation:
    return Operation("r", value, False, began, ended)


@pytest.mark.parametrize(
    ("holds", "history"),
    [
        (True, []),
        (True, [read(None, 0, 1), write(1, 2, 3), read(1, 4, 5)]),
        (True, [write(1, 0, 10), read(None, 1, 2), read(1, 3, 4)]),  # it took effect in between
        (True, [write(1, 0), read(None, 5, 6), read(1, 7, 8)]),  # a write that never ended took effect late
        (True, [write(1, 0), write(2, 1, 2), read(2, 3, 4)]),  # or never
        (True, [write(1, 0, 5), write(2, 1, 4), read(2, 6, 7)]),
        (False, [read(1, 0, 1), write(1, 2, 3)]),  # read before it was written
        (False, [read(7, 0, 1)]),  # out of nowhere
        (False, [write(1, 0, 1), read(None, 2, 3)]),  # stale: the write had ended
        (False, [write(1, 0, 1), write(2, 2, 3), read(1, 4, 5)]),  # stale by a whole write
        (False, [write(1, 0, 10), read(1, 1, 2), read(None, 3, 4)]),  # back in time
        (False, [write(1, 0, 9), write(2, 0, 9), read(1, 1, 2), read(2, 3, 4), read(1, 5, 6)]),
        (False, [write(1, 0), read(1, 2, 3), read(None, 4, 5)]),
    ],
)
def test_known_histories(holds: bool, history: list[Operation]) -> None:
    assert is_linearizable(history) is holds
    assert by_trying_all_orders(history) is holds


def by_trying_all_orders(history: Sequence[Operation]) -> bool:
    ended = [operation for operation in history if operation.ended != inf]
    unknown = [operation for operation in history if operation.ended == inf and operation.write]
    for chosen in range(1 << len(unknown)):
        operations = [*ended, *(each for bit, each in enumerate(unknown) if chosen >> bit & 1)]
        if any(map(explains, permutations(operations))):
            return True
    return False


def explains(order: Sequence[Operation]) -> bool:
    value: object = None
    for position, operation in enumerate(order):
        if any(later.ended < operation.began for later in order[position + 1 :]):
            return False
        if operation.write:
            value = operation.value
        elif operation.value != value:
            return False
    return True


def test_random_histories_against_all_orders() -> None:
    draw, verdicts = Random(5), []
    for _ in range(1500):
        history = []
        for value in range(draw.randint(1, 3)):
            began = draw.randrange(10)
            history.append(
                write(value, began, inf if draw.random() < 0.3 else began + draw.randint(1, 5) + 0.5)
            )
        for _ in range(draw.randint(1, 3)):
            began = draw.randrange(12)
            history.append(read(draw.choice((None, 0, 1, 2)), began, began + draw.randint(1, 5) + 0.5))
        verdicts.append(is_linearizable(history))
        assert verdicts[-1] is by_trying_all_orders(history), history
    assert 100 < sum(verdicts) < 1400


def test_registers_are_independent_and_a_value_is_written_once() -> None:
    other = Operation("s", 1, False, 0, 1)
    assert first_anomaly([write(1, 0, 1), read(1, 2, 3)]) is None
    assert first_anomaly([write(1, 0, 1), other]) == "s"
    with pytest.raises(ValueError, match="twice"):
        is_linearizable([write(1, 0, 1), write(1, 2, 3)])
