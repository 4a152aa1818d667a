"""Block records: what is stored comes back, and nothing else ever does."""

from __future__ import annotations

import importlib
import struct
from array import array
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimaran.codec import Entries, EntryType, Kind, make_chunk, seal_batch, walk_batch
from trimaran.codec.block import (
    EVERYTHING,
    NO_SUBJECT,
    RECORD_HEADER_SIZE,
    Record,
    RecordDamaged,
    RecordFault,
    Refusals,
    SubjectCounters,
    accounted_size,
    encode_record,
    read_record,
    record_size,
)

REFUSALS = Refusals(subject=2 << 56 | 1, size=2 << 56 | 2, entry=2 << 56 | 3)


@pytest.fixture(scope="session", params=["c", "python"])
def block(request: pytest.FixtureRequest) -> ModuleType:
    """The block functions of one implementation."""
    name = "compiled" if request.param == "c" else "reference"
    return importlib.import_module(f"trimaran.codec._{name}_block")


def publish(subject: bytes, headers: bytes = b"", payload: bytes = b"") -> bytes:
    return struct.pack("<HHI", len(subject), 0, len(headers)) + subject + headers + payload


def entries_of(*entries: bytes, time: int = 0) -> Entries:
    chunk = make_chunk([(EntryType.PUBLISH, entry) for entry in entries])
    identity: dict[str, Any] = {"group": 2, "incarnation": 1, "index": 1, "term": 1, "previous_term": 0}
    return walk_batch(seal_batch([chunk], kind=Kind.NORMAL, time=time, **identity))


def append_all(block: ModuleType, entries: Entries, counters: SubjectCounters, **options: Any) -> Any:
    run = block.group_publishes(entries, 0, len(entries))
    ids = array("I", [counters.grow() for _ in run.subjects])
    settings = {
        "sequence": 1,
        "time": 7,
        "block_offset": 0,
        "room": 1 << 20,
        "max_message_size": EVERYTHING,
        "refusals": REFUSALS,
    } | options
    return run.append(0, ids, counters, **settings)


def sample() -> bytes:
    """Three records, with and without headers, payload and padding."""
    return (
        encode_record(1, 1_700_000_000_000_000_001, b"s.1", b"", b"hello")
        + encode_record(2, 1_700_000_000_000_000_001, b"s.2", b"NATS/1.0\r\nA: b\r\n\r\n", b"")
        + encode_record(3, 1_700_000_000_000_000_002, b"eight.ch", b"", b"12345678")
    )


def test_the_accounted_size_is_that_of_jetstream() -> None:
    assert accounted_size(len(b"s.1"), 0, len(b"hello")) == 38
    assert accounted_size(len(b"s.1"), 10, len(b"hello")) == 38 + 4 + 10


@given(
    st.integers(0, EVERYTHING),
    st.integers(-(1 << 63), (1 << 63) - 1),
    st.binary(min_size=1, max_size=30),
    st.binary(max_size=30),
    st.binary(max_size=30),
)
def test_a_record_comes_back(
    sequence: int, time: int, subject: bytes, headers: bytes, payload: bytes
) -> None:
    data = encode_record(sequence, time, subject, headers, payload)
    assert len(data) == record_size(len(subject), len(headers), len(payload))
    assert len(data) % 8 == 0
    assert read_record(data) == Record(sequence, time, subject, headers, payload)


def test_every_truncation_of_a_record_is_detected(block: ModuleType) -> None:
    data = encode_record(5, 6, b"s.1", b"headers", b"payload!")
    for size in range(len(data)):
        assert block.check_record(data[:size]) is RecordFault.SHORT
        with pytest.raises(RecordDamaged):
            read_record(data[:size])
    assert block.check_record(data + bytes(8)) is RecordFault.LENGTH
    assert block.check_record(data) is None


def test_every_flipped_bit_of_a_record_is_detected(block: ModuleType) -> None:
    data = encode_record(5, 6, b"s.1", b"headers", b"payload!")
    for position in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[position // 8] ^= 1 << position % 8
        assert block.check_record(damaged) is not None, position


def test_fields_that_must_be_zero_are_checked_behind_the_checksum(block: ModuleType) -> None:
    from trimaran.codec import crc32c

    data = encode_record(5, 6, b"s.1", b"", b"pad")
    for position in (30, 36, len(data) - 1):
        changed = bytearray(data)
        changed[position] = 1
        changed[4:8] = struct.pack("<I", crc32c(changed[8:]))
        assert block.check_record(changed) is RecordFault.FIELDS


def test_a_scan_lists_every_record(block: ModuleType) -> None:
    scan = block.scan_block(sample())
    assert scan.fault is None
    assert scan.fault_offset == len(sample())
    assert list(scan.sequences) == [1, 2, 3]
    assert list(scan.offsets) == [0, 48, 112]
    assert list(scan.sizes) == [38, 33 + 4 + 18, 46]
    assert list(scan.time_starts) == [0, 2]
    assert list(scan.time_values) == [1_700_000_000_000_000_001, 1_700_000_000_000_000_002]
    assert scan.subjects == [b"s.1", b"s.2", b"eight.ch"]
    assert list(scan.group_of) == [0, 1, 2]


def test_an_empty_block_has_no_records(block: ModuleType) -> None:
    scan = block.scan_block(b"")
    assert (scan.fault, len(scan.offsets), scan.subjects) == (None, 0, [])


def test_every_truncation_of_a_block_is_detected_where_it_is(block: ModuleType) -> None:
    data, begins = sample(), [0, 48, 112, len(sample())]
    for size in range(len(data)):
        scan = block.scan_block(data[:size])
        intact = max(number for number, begin in enumerate(begins) if begin <= size)
        assert len(scan.offsets) == intact
        assert scan.fault_offset == begins[intact]
        assert scan.fault is (None if size in begins else RecordFault.SHORT)


def test_every_flipped_bit_of_a_block_is_detected_where_it_is(block: ModuleType) -> None:
    data, begins = sample(), [0, 48, 112]
    for position in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[position // 8] ^= 1 << position % 8
        scan = block.scan_block(damaged)
        record = max(begin for begin in begins if begin <= position // 8)
        assert scan.fault is not None
        assert scan.fault_offset == record
        assert len(scan.offsets) == begins.index(record)


def test_records_out_of_order_are_damage(block: ModuleType) -> None:
    data = encode_record(2, 0, b"a", b"", b"") + encode_record(2, 0, b"a", b"", b"")
    scan = block.scan_block(data)
    assert (scan.fault, scan.fault_offset) == (RecordFault.ORDER, RECORD_HEADER_SIZE + 8)


def test_a_run_becomes_the_records_that_encode_record_makes(block: ModuleType) -> None:
    counters = SubjectCounters()
    entries = entries_of(publish(b"a", b"", b"1"), publish(b"b", b"H", b""), publish(b"a", b"", b"33"))
    appended = append_all(block, entries, counters, sequence=10, time=99, block_offset=1000)
    assert appended.data == (
        encode_record(10, 99, b"a", b"", b"1")
        + encode_record(11, 99, b"b", b"H", b"")
        + encode_record(12, 99, b"a", b"", b"33")
    )
    assert struct.unpack("<3Q", appended.results) == (10, 11, 12)
    assert struct.unpack("3I", appended.offsets) == (1000, 1048, 1096)
    assert struct.unpack("3I", appended.sizes) == (32, 36, 33)
    assert struct.unpack("3I", appended.ids) == (0, 1, 0)
    assert (appended.entries, appended.records, appended.size) == (3, 3, 101)
    assert (list(counters.counts), list(counters.firsts), list(counters.lasts)) == (
        [2, 1],
        [10, 11],
        [12, 11],
    )


def test_a_run_stops_where_the_room_ends(block: ModuleType) -> None:
    counters = SubjectCounters()
    entries = entries_of(*[publish(b"a", b"", b"1")] * 3)
    appended = append_all(block, entries, counters, room=2 * 48 + 47)
    assert (appended.entries, appended.records, len(appended.data)) == (2, 2, 96)
    assert counters.counts[0] == 2
    assert append_all(block, entries, SubjectCounters(), room=47).entries == 0


def test_refused_entries_leave_no_record(block: ModuleType) -> None:
    counters = SubjectCounters()
    torn = [b"", b"\1\0\0\0\0\0\0", publish(b""), publish(b"abc", b"", b"")[:-1], b"\1\0\1\0\0\0\0\0a"]
    entries = entries_of(publish(b"a", b"", b"12345"), *torn, publish(b"a", b"", b"1"))
    appended = append_all(block, entries, counters, max_message_size=4)
    results = struct.unpack("<7Q", appended.results)
    assert results == (REFUSALS.size, *[REFUSALS.entry] * 5, 1)
    assert (appended.entries, appended.records, counters.counts[0]) == (7, 1, 1)


def test_a_refused_subject_takes_no_room(block: ModuleType) -> None:
    entries = entries_of(publish(b"a"), publish(b"b"))
    run = block.group_publishes(entries, 0, 2)
    assert run.subjects == [b"a", b"b"]
    counters = SubjectCounters()
    ids = array("I", [NO_SUBJECT, counters.grow()])
    appended = run.append(
        0,
        ids,
        counters,
        sequence=1,
        time=0,
        block_offset=0,
        room=48,
        max_message_size=EVERYTHING,
        refusals=REFUSALS,
    )
    assert struct.unpack("<2Q", appended.results) == (REFUSALS.subject, 1)


def test_dropping_takes_the_oldest_until_both_needs_are_met(block: ModuleType) -> None:
    counters = SubjectCounters(array("Q", [2, 3]), array("Q", [0, 0]), array("Q", [0, 0]))
    ids, sizes = array("I", [0, 1, NO_SUBJECT, 1, 0, 1]), array("I", [10, 20, 99, 30, 40, 50])
    change = block.drop_messages(ids, sizes, 0, 6, counters, messages=1, size=31)
    assert (change.messages, change.size, change.position, change.emptied) == (3, 60, 4, ())
    assert list(ids) == [NO_SUBJECT] * 4 + [0, 1]
    change = block.drop_messages(ids, sizes, 0, 6, counters, wanted=bytearray([1, 0]), messages=EVERYTHING)
    assert (change.messages, change.size, change.emptied) == (1, 40, (0,))
    change = block.drop_messages(ids, sizes, 0, 6, counters, wanted=bytearray([1, 0]), messages=EVERYTHING)
    assert change.messages == 0
    assert block.live_bits(ids) == b"\x20"


def test_trimming_takes_each_subjects_oldest(block: ModuleType) -> None:
    counters = SubjectCounters(array("Q", [3, 2]), array("Q", [10, 11]), array("Q", [15, 13]))
    ids, sizes = array("I", [0, 1, 0, 1, 7, 0]), array("I", [1, 2, 4, 8, 16, 32])
    excess = array("Q", [2, 1])
    change = block.trim_subjects(ids, sizes, 0, 6, 10, array("I", [0, 1]), excess, counters)
    assert (change.messages, change.size) == (3, 7)
    assert list(ids) == [NO_SUBJECT, NO_SUBJECT, NO_SUBJECT, 1, 7, 0]
    assert (list(excess), list(counters.counts), list(counters.firsts)) == ([0, 0], [1, 1], [15, 13])


def test_trimming_stops_at_the_end_and_goes_on_from_there(block: ModuleType) -> None:
    counters = SubjectCounters(array("Q", [4]), array("Q", [0]), array("Q", [99]))
    ids, excess = array("I", [0, 5, 0, 0]), array("Q", [3])
    change = block.trim_subjects(ids, array("I", [1] * 4), 0, 3, 10, array("I", [0]), excess, counters)
    assert (change.messages, list(excess), list(counters.firsts)) == (2, [1], [13])
    assert list(ids) == [NO_SUBJECT, 5, NO_SUBJECT, 0]
