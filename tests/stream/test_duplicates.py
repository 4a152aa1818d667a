"""The window of message ids against a model, and its packed form against what it stands for."""

from __future__ import annotations

import msgpack
from hypothesis import given
from hypothesis import strategies as st

from tests.stream.support import (
    Log,
    MemoryFiles,
    configured,
    machine_on,
    now,
    publish,
    restored,
    snapshot,
)
from trimaran.actors.stream import duplicates
from trimaran.actors.stream.duplicates import Duplicates
from trimaran.actors.stream.expiry import Expiry
from trimaran.actors.stream.results import Status, unpack


@given(st.lists(st.tuples(st.integers(0, 40), st.booleans()), max_size=80), st.integers(1, 5))
def test_ids_are_known_for_their_time_also_after_a_snapshot(
    steps: list[tuple[int, bool]], piece: int
) -> None:
    duplicates.PIECE, before = piece, duplicates.PIECE  # type: ignore[misc]  # small pieces, to cross them
    try:
        window, model, time = Duplicates(), dict[bytes, tuple[int, int]](), 0
        for number, snapshot in steps:
            time += number
            window.expire(time - 50)
            model = {known: place for known, place in model.items() if place[1] > time - 50}
            if snapshot:
                packed = window.pack()
                window = Duplicates()
                now(window.restore(packed, MemoryFiles().pause))
                window.expire(time - 50)
            name = b"%d" % number
            assert window.get(name) == model.get(name)
            if name not in model:
                window.note(name, len(model), time)
                model[name] = (len(model), time)
            assert len(window) == len(model)
    finally:
        duplicates.PIECE = before  # type: ignore[misc]  # as it was


def test_states_of_the_first_version_are_understood() -> None:
    window = Duplicates()
    now(window.restore(msgpack.unpackb(msgpack.packb([[b"a", 1, 5], [b"b", 2, 6]])), MemoryFiles().pause))
    assert (window.get(b"a"), window.get(b"b"), len(window)) == ((1, 5), (2, 6), 2)
    expiry = Expiry(machine_on(MemoryFiles()).messages)
    expiry.restore(msgpack.unpackb(msgpack.packb({"due": [(7, 1), (9, 2)], "kept": [], "markers": []})))
    assert expiry.next_due(0) == 7


def test_older_nodes_get_a_state_that_they_can_read() -> None:
    files, log = MemoryFiles(), Log()
    machine = machine_on(files)
    machine.apply(log.batch(configured(allow_msg_ttl=True)))
    for number in range(20):
        machine.apply(log.batch(publish(f"s.{number % 3}", bytes(100), Msg_Id=str(number), TTL="1h")))
    state_now = msgpack.unpackb(machine.capture().state)
    machine._level, machine._newest = lambda: 1, False
    capture = snapshot(machine, files)
    state = msgpack.unpackb(capture.state)
    assert (state_now["v"], state["v"]) == (2, 1)
    assert all(len(block) == 3 for block in state["store"]["blocks"])
    assert [each[0] for each in state["duplicates"]] == [b"%d" % number for number in range(20)]
    assert len(state["expiry"]["due"]) == 20
    again = restored(capture, files)
    assert again.info() == machine.info() and again.next_due() == machine.next_due()
    assert unpack(again.apply(log.batch(publish("s.1", Msg_Id="7"))), 0) == (Status.DUPLICATE, 8)


def test_times_to_live_outlive_a_snapshot() -> None:
    store = machine_on(MemoryFiles()).messages
    expiry = Expiry(store)
    for sequence, ttl in ((1, 50), (2, 10), (3, 30)):
        expiry.note(sequence, ttl, 100)
    again = Expiry(store)
    again.restore(msgpack.unpackb(msgpack.packb(expiry.pack())))
    assert again.next_due(0) == 110
    again.expire(120, 0, watched=False)
    assert again.next_due(0) == 130
