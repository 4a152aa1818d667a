"""The checker of histories, on histories that are known to be right or wrong."""

from math import inf
from random import Random

import pytest

from trimaran.testing.linearizability import Operation, is_linearizable
from trimaran.testing.nodes.history import REFUSED, Answered, Get, KeyOperation, Put, check_keys, register

NOTHING: Answered = (b"", 0)


def put(value: bytes, revision: int, began: float, ended: float, expected: int | None = None) -> KeyOperation:
    result = (value, revision) if revision > 0 else REFUSED
    return Operation(Put(value, expected), began, ended, result)


def get(value: bytes, revision: int, began: float, ended: float) -> KeyOperation:
    return Operation(Get(), began, ended, (value, revision))


RIGHT: dict[str, list[KeyOperation]] = {
    "nothing at all": [],
    "one after the other": [put(b"a", 1, 0, 1), get(b"a", 1, 2, 3), put(b"b", 2, 4, 5), get(b"b", 2, 6, 7)],
    "a read beside a write sees either": [put(b"a", 1, 0, 10), get(b"", 0, 1, 2), get(b"a", 1, 3, 4)],
    "writes beside each other, in the order of their revisions": [
        put(b"a", 2, 0, 10),
        put(b"b", 1, 0, 10),
        get(b"a", 2, 11, 12),
    ],
    "a write without an answer that happened late": [
        put(b"a", 1, 0, inf),
        get(b"", 0, 5, 6),
        get(b"a", 1, 7, 8),
    ],
    "a comparison that failed beside the write that made it": [
        put(b"a", 1, 0, 10),
        put(b"b", -1, 0, 10, expected=0),
        get(b"a", 1, 11, 12),
    ],
    "a comparison that held": [put(b"a", 1, 0, 1), put(b"b", 2, 2, 3, expected=1), get(b"b", 2, 4, 5)],
}
WRONG: dict[str, list[KeyOperation]] = {
    "a stale read": [put(b"a", 1, 0, 1), put(b"b", 2, 2, 3), get(b"a", 1, 4, 5)],
    "a lost write": [put(b"a", 1, 0, 1), get(b"", 0, 2, 3)],
    "a read that goes back": [
        put(b"a", 1, 0, 1),
        put(b"b", 2, 2, 20),
        get(b"b", 2, 3, 4),
        get(b"a", 1, 5, 6),
    ],
    "a value that nobody wrote": [get(b"x", 1, 0, 1)],
    "a comparison that held against a newer value": [
        put(b"a", 1, 0, 1),
        put(b"b", 2, 2, 3),
        put(b"c", 3, 4, 5, expected=1),
    ],
    "two comparisons with one revision": [
        put(b"a", 1, 0, 1),
        put(b"b", 2, 2, 9, expected=1),
        put(b"c", 3, 2, 9, expected=1),
    ],
    "a comparison that failed though nothing had changed": [
        put(b"a", 1, 0, 1),
        put(b"b", -1, 2, 3, expected=1),
    ],
    "revisions against real time": [put(b"a", 2, 0, 1), put(b"b", 1, 2, 3)],
}


@pytest.mark.parametrize("name", RIGHT)
def test_a_history_of_one_register_is_linearizable(name: str) -> None:
    assert is_linearizable(RIGHT[name], NOTHING, register)


@pytest.mark.parametrize("name", WRONG)
def test_a_history_that_no_register_can_have_is_not(name: str) -> None:
    assert not is_linearizable(WRONG[name], NOTHING, register)


def history_of_a_register(random: Random, operations: int) -> list[KeyOperation]:
    """Many clients at one register: what each sees is what is there at some moment while it waits."""
    state, revision, history = NOTHING, 0, []
    for number in range(operations):
        moment = float(number)
        began, ended = moment - random.uniform(0, 6), moment + random.uniform(0, 6)
        if random.random() < 0.5:
            revision += 1
            state = (b"v%d" % number, revision)
            history.append(put(*state, began, ended))
        else:
            history.append(get(*state, began, ended))
    return history


@pytest.mark.parametrize("seed", range(20))
def test_what_a_register_did_is_found_right_and_a_change_in_it_wrong(seed: int) -> None:
    random = Random(seed)
    history = history_of_a_register(random, 200)
    assert is_linearizable(history, NOTHING, register)
    reads = [number for number, each in enumerate(history) if isinstance(each.call, Get) and number > 40]
    victim = random.choice(reads)
    old = next(each.result for each in history if isinstance(each.call, Put))
    assert old is not None
    history[victim] = get(*old, history[victim].began, history[victim].ended)
    assert not is_linearizable(history, NOTHING, register)


def test_a_write_without_an_answer_is_looked_up_in_what_is_stored() -> None:
    complaints: list[str] = []

    def complain(rule: str, facts: str) -> None:
        complaints.append(facts)

    unanswered: KeyOperation = Operation(Put(b"a"), 0)
    read = get(b"a", 1, 5, 6)
    check_keys({"k": [unanswered, read]}, {1: b"a"}, complain)
    assert not complaints
    check_keys({"k": [unanswered, read]}, {}, complain)
    assert complaints == ["k: 1 operations fit no order"]
