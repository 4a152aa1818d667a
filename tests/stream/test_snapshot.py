"""Snapshots and recovery of a stream: rules S11, S12 and S13, and that nothing replicated is forgotten."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.stream.support import (
    Log,
    MemoryFiles,
    command,
    configured,
    machine_on,
    now,
    publish,
    restored,
    snapshot,
)
from trimaran.actors.replica.machine import Capture
from trimaran.actors.stream.commands import delete, purge
from trimaran.actors.stream.errors import DamagedRecord, StateDamaged
from trimaran.actors.stream.results import Status, unpack
from trimaran.codec import Entries, walk_batch
from trimaran.codec.block import encode_record

SECOND = 1_000_000_000


def filled(messages: int, **settings: Any) -> tuple[Any, MemoryFiles, Log]:
    """A stream over small blocks with so many messages, one per batch."""
    files, log = MemoryFiles(), Log()
    machine = machine_on(files)
    machine.apply(log.batch(configured(**settings)))
    for number in range(messages):
        machine.apply(log.batch(publish(f"s.{number % 3}", b"%d" % number * 20), after=SECOND))
    return machine, files, log


def contents(machine: Any) -> list[object]:
    info = machine.info()
    return [info, *(now(machine.get(sequence)) for sequence in range(info.last_seq + 2))]


def replayed(machine: Any, log: Log, after: int) -> Any:
    for sealed in log.batches[after:]:
        machine.apply(walk_batch(sealed))
    return machine


def test_s11_block_files_are_never_synced_per_message_and_synced_before_the_snapshot() -> None:
    machine, files, log = filled(40)
    kinds = {kind for kind, _ in files.operations}
    assert kinds == {"write", "background"}, (
        "applying only writes behind; full blocks go out in the background"
    )
    capture = snapshot(machine, files)
    order = [operation for operation in files.operations if operation[0] in ("sync", "manifest")]
    assert order == [*(("sync", entry.name) for entry in capture.files), ("manifest", None)]
    assert all(len(files.synced[entry.name]) >= entry.length for entry in capture.files)
    machine.apply(log.batch(publish("s.1")))
    assert files.operations[-1][0] == "write", "after the snapshot as before it"


def test_s11_a_full_block_is_synced_in_the_background_once() -> None:
    _, files, _ = filled(40)
    written = [name for kind, name in files.operations if kind == "write"]
    background = [name for kind, name in files.operations if kind == "background"]
    assert background == list(dict.fromkeys(written))[:-1], "every block but the open one"


def crash_and_recover(
    machine: Any, files: MemoryFiles, log: Log, capture: Capture, index: int, survives: Callable[[str], bool]
) -> Any:
    return replayed(restored(capture, files.recovered(capture, survives)), log, index)


@pytest.mark.parametrize("survivor", ["none", "all", "last", "first"])
def test_s12_recovery_cuts_to_the_manifest_and_replays_the_tail(survivor: str) -> None:
    """With "last", the disk has a later block and misses an earlier one: skipping would lose messages."""
    machine, files, log = filled(25)
    index = len(log.batches)
    capture = snapshot(machine, files)
    for number in range(30):
        machine.apply(log.batch(publish("s.9", b"%d" % number * 25), after=SECOND))
    machine.apply(log.batch(command(delete(27)), command(purge("s.1", 0, 2))))
    names = list(files.written)
    survives = {
        "none": lambda name: False,
        "all": lambda name: True,
        "last": lambda name: name == names[-1],
        "first": lambda name: name == names[0],
    }[survivor]
    assert len(names) > len(capture.files) + 2, "the tail fills several blocks"
    recovered = crash_and_recover(machine, files, log, capture, index, survives)
    assert contents(recovered) == contents(machine)
    assert recovered.capture().state == machine.capture().state


def test_s12_replaying_twice_is_replaying_once() -> None:
    machine, files, log = filled(10)
    index = len(log.batches)
    capture = snapshot(machine, files)
    for number in range(10):
        machine.apply(log.batch(publish("s.1", b"%d" % number), publish("s.2", Msg_Id=f"{number % 4}")))
    once = crash_and_recover(machine, files, log, capture, index, lambda name: False)
    # The second crash comes in the middle of the first recovery's replay.
    half = files.recovered(capture, lambda name: True)
    replayed(restored(capture, half), Log(log.batches[:-5]), index)
    twice = crash_and_recover(machine, half, log, capture, index, lambda name: True)
    assert contents(once) == contents(twice) == contents(machine)


@settings(max_examples=60)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.integers(0, 60), st.data())
def test_s13_whatever_the_disk_kept_recovery_loses_nothing(
    steps: list[int], at: int, data: st.DataObject
) -> None:
    files, log = MemoryFiles(), Log()
    machine = machine_on(files)
    machine.apply(log.batch(configured(max_msgs_per_subject=4)))
    capture, index = snapshot(machine, files), 1
    for number, step in enumerate(steps):
        if number == at:
            capture, index = snapshot(machine, files), len(log.batches)
        entries = {
            0: [publish("s.0", bytes(30 * number))],
            1: [publish(f"s.{n}", b"%d" % n) for n in range(7)],
            2: [command(delete(number))],
            3: [command(purge("s.*", number, 0))],
            4: [],
        }[step]
        machine.apply(log.batch(*entries, after=SECOND))
    kept = data.draw(st.sets(st.sampled_from(sorted(files.written) or [""])))
    recovered = crash_and_recover(machine, files, log, capture, index, lambda name: name in kept)
    assert contents(recovered) == contents(machine)
    assert recovered.capture().state == machine.capture().state


def test_an_obsolete_block_goes_only_after_the_next_manifest() -> None:
    machine, files, log = filled(40)
    before = snapshot(machine, files)
    machine.apply(log.batch(command(purge("", 30, 0))))
    gone = [entry.name for entry in before.files[:3]]
    assert set(gone) <= set(files.written), "the durable manifest still names them"
    capture = machine.capture()
    assert set(gone) <= set(capture.obsolete)
    assert not {entry.name for entry in capture.files} & set(capture.obsolete)
    assert set(gone) <= set(files.written), "a capture alone changes nothing"
    machine.captured(capture)
    assert not set(gone) & set(files.written)
    assert machine.capture().obsolete == ()


def test_a_block_dropped_between_capture_and_manifest_stays() -> None:
    machine, files, log = filled(40)
    capture = machine.capture()
    machine.apply(log.batch(command(purge())))
    machine.captured(capture)
    assert {entry.name for entry in capture.files} <= set(files.written)


def test_the_duplicate_window_survives_a_snapshot() -> None:
    machine, files, log = filled(0, duplicate_window=10 * SECOND)
    machine.apply(log.batch(publish("s.1", Msg_Id="a"), after=SECOND))
    again = restored(snapshot(machine, files), files)
    inside: Entries = log.batch(publish("s.1", Msg_Id="a"), after=9 * SECOND)
    assert unpack(again.apply(inside), 0) == (Status.DUPLICATE, 1)
    behind = log.batch(publish("s.1", Msg_Id="a"), after=SECOND)
    assert unpack(again.apply(behind), 0) == (Status.STORED, 2)


def test_the_last_message_id_and_the_version_survive_a_snapshot() -> None:
    machine, files, log = filled(0)
    machine.apply(log.batch(publish("s.1", Msg_Id="a")))
    again = restored(snapshot(machine, files), files)
    results = again.apply(log.batch(publish("s.1", Expected_Last_Msg_Id="a"), configured(max_msgs=1)))
    assert unpack(results, 0) == (Status.STORED, 2)
    assert unpack(results, 1) == (Status.DONE, 1)
    assert again.info().messages == 2, "version 1 is there already: its repetition changes nothing"


def test_the_sequences_of_an_emptied_stream_survive_a_snapshot() -> None:
    machine, files, log = filled(12)
    machine.apply(log.batch(command(purge())))
    again = restored(snapshot(machine, files), files)
    assert (again.info().first_seq, again.info().last_seq) == (13, 12)
    assert unpack(again.apply(log.batch(publish("s.1"))), 0) == (Status.STORED, 13)


def test_a_damaged_block_is_never_restored() -> None:
    machine, files, _ = filled(12)
    capture = snapshot(machine, files)
    name = capture.files[1].name
    for position in range(0, capture.files[1].length, 7):
        damaged = files.recovered(capture, lambda _: True)
        damaged.written[name][position] ^= 0x10
        with pytest.raises(DamagedRecord) as caught:
            restored(capture, damaged)
        assert (caught.value.file, caught.value.stream) == (name, "S")
        assert caught.value.offset <= position


def test_a_short_or_foreign_block_is_never_restored() -> None:
    machine, files, _ = filled(12)
    capture = snapshot(machine, files)
    first, second = capture.files[0].name, capture.files[1].name
    cut = files.recovered(capture, lambda _: True)
    del cut.written[first][-len(cut.written[first]) // 2 :]
    with pytest.raises((StateDamaged, DamagedRecord)):
        restored(capture, cut)
    swapped = files.recovered(capture, lambda _: True)
    swapped.written[first], swapped.written[second] = swapped.written[second], swapped.written[first]
    with pytest.raises(DamagedRecord):
        restored(capture, swapped)


def test_a_damaged_record_is_never_served() -> None:
    machine, files, _ = filled(12)
    for name, data in files.written.items():
        for position in range(0, len(data), 5):
            data[position] ^= 1
            outcomes = [attempt(machine, sequence) for sequence in range(1, 13)]
            assert sum(isinstance(outcome, DamagedRecord) for outcome in outcomes) == 1, (name, position)
            data[position] ^= 1


def test_another_sound_record_is_never_taken_for_the_one_that_was_there() -> None:
    machine, files, log = filled(0)
    machine.apply(log.batch(publish("s.1", b"one"), publish("s.1", b"two")))
    capture = snapshot(machine, files)
    name = capture.files[0].name
    other = encode_record(1, log.time, b"s.1", b"", b"uno")
    files.written[name][: len(other)] = other
    with pytest.raises(DamagedRecord, match="not the file"):
        restored(capture, files)
    files.written[name][: len(other)] = encode_record(7, log.time, b"s.1", b"", b"one")
    assert isinstance(attempt(machine, 1), DamagedRecord)


def test_a_table_of_wanted_subjects_does_not_want_later_ones() -> None:
    machine, _, log = filled(0)
    machine.apply(log.batch(publish("s.1"), publish("s.2")))
    store = machine._store
    wanted = store.wanted([store.subjects[b"s.2"]])
    machine.apply(log.batch(*[publish(f"s.{number}") for number in range(3, 40)]))
    assert store.find(1, wanted=wanted) == 2
    assert store.find(3, wanted=wanted) is None
    assert store.drop_wanted(wanted[:1]) == 0


def attempt(machine: Any, sequence: int) -> object:
    try:
        return now(machine.get(sequence))
    except DamagedRecord as damage:
        assert damage.sequence == sequence
        return damage


@pytest.mark.parametrize("field", ["store", "version", "clock", "last_id", "duplicates", "config"])
def test_a_state_without_one_of_its_fields_is_damaged(field: str) -> None:
    machine, files, _ = filled(3)
    capture = snapshot(machine, files)
    fields = msgpack.unpackb(capture.state)
    del fields[field]
    with pytest.raises(StateDamaged):
        restored(Capture(msgpack.packb(fields), capture.files), files)
    fields = msgpack.unpackb(capture.state)
    fields["v"] = 3
    with pytest.raises(StateDamaged):
        restored(Capture(msgpack.packb(fields), capture.files), files)


def test_settle_waits_only_for_too_many_pending_bytes() -> None:
    machine, files, _ = filled(0)
    files.pending_bytes = 16 << 20
    now(machine.settle())
    assert files.pending_bytes == 16 << 20
    files.pending_bytes += 1
    now(machine.settle())
    assert files.pending_bytes == 16 << 20
