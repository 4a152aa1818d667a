"""The block codec in C and in Python: the same bytes and the same numbers, for good input and bad."""

from __future__ import annotations

import struct
from array import array
from dataclasses import asdict
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tests.codec.test_block import REFUSALS, entries_of
from trimaran.codec import _compiled_block as compiled
from trimaran.codec import _reference_block as reference
from trimaran.codec.block import NO_SUBJECT, SubjectCounters, encode_record

subjects = st.sampled_from([b"a", b"b", b"s.1", b"s.2", b"a.longer.subject", b"a.longer.subjecT"])
sound = st.builds(
    lambda subject, headers, payload: (
        struct.pack("<HHI", len(subject), 0, len(headers)) + subject + headers + payload
    ),
    subjects,
    st.binary(max_size=20),
    st.binary(max_size=20),
)
publishes = st.lists(st.one_of(sound, sound, sound, st.binary(max_size=12)), min_size=1, max_size=30)
ids = st.lists(st.sampled_from([0, 1, 2, 3, NO_SUBJECT]), max_size=40)


def counters() -> SubjectCounters:
    return SubjectCounters(array("Q", [100] * 4), array("Q", [0] * 4), array("Q", [0] * 4))


@given(publishes, st.integers(0, 900), st.integers(0, 40), st.data())
def test_runs_are_appended_alike(entries: list[bytes], room: int, limit: int, data: st.DataObject) -> None:
    batch = entries_of(*entries)
    first = data.draw(st.integers(0, len(entries) - 1))
    refused = data.draw(st.sets(subjects, max_size=2))
    outcomes = []
    for module in (compiled, reference):
        run = module.group_publishes(batch, first, len(entries) - first)
        counts = SubjectCounters()
        numbers = array("I", [NO_SUBJECT if name in refused else counts.grow() for name in run.subjects])
        settings: dict[str, Any] = {"time": -5, "max_message_size": limit, "refusals": REFUSALS}
        part = run.append(0, numbers, counts, sequence=9, block_offset=64, room=room, **settings)
        rest = run.append(
            part.entries,
            numbers,
            counts,
            sequence=9 + part.records,
            block_offset=0,
            room=1 << 16,
            **settings,
        )
        assert part.entries + rest.entries == len(entries) - first
        outcomes.append((run.subjects, part, rest, counts))
    assert outcomes[0] == outcomes[1]


def test_subjects_with_one_hash_are_told_apart() -> None:
    """Two subjects of equal length that csrc/stream.c hashes alike, found by trying."""
    names = [b"s.0230350", b"s.0259907"]
    batch = entries_of(*[struct.pack("<HHI", len(name), 0, 0) + name for name in names * 2])
    run = compiled.group_publishes(batch, 0, 4)
    assert run.subjects == names


@given(
    st.lists(st.tuples(st.integers(0, 2), subjects, st.binary(max_size=9), st.integers(0, 2)), max_size=20),
    st.data(),
)
def test_blocks_are_scanned_alike(messages: list[tuple[int, bytes, bytes, int]], data: st.DataObject) -> None:
    sequence, block = 0, bytearray()
    for step, subject, payload, time in messages:
        sequence += step
        block += encode_record(sequence, time, subject, b"", payload)
    for _ in range(data.draw(st.integers(0, 2))):
        if block:
            block[data.draw(st.integers(0, len(block) - 1))] ^= data.draw(st.integers(1, 255))
    cut = bytes(block[: data.draw(st.integers(0, len(block)))])
    for buffer in (bytes(block), cut, bytearray(cut)):
        assert asdict(compiled.scan_block(buffer)) == asdict(reference.scan_block(buffer))


@given(st.lists(subjects, min_size=1, max_size=20), st.data())
def test_blocks_are_indexed_alike(names: list[bytes], data: st.DataObject) -> None:
    block = b"".join(encode_record(5 + i, 0, name, b"", b"") for i, name in enumerate(names))
    start = data.draw(st.integers(0, len(names)))
    size = (len(names) + 7) // 8
    live = data.draw(st.one_of(st.none(), st.binary(min_size=size, max_size=size)))
    outcomes = []
    for module in (compiled, reference):
        scan, counts = module.scan_block(block), SubjectCounters()
        numbers = [counts.grow() for _ in scan.subjects]
        outcomes.append((module.index_records(scan, numbers, counts, start, live), counts))
    assert outcomes[0] == outcomes[1]


@given(ids, st.data())
def test_messages_are_found_and_dropped_alike(found: list[int], data: st.DataObject) -> None:
    end = data.draw(st.integers(0, len(found)))
    start = data.draw(st.integers(0, end))
    subject = data.draw(st.sampled_from([0, 3, NO_SUBJECT]))
    wanted = data.draw(st.one_of(st.none(), st.binary(min_size=4, max_size=4).map(bytearray)))
    messages, size = data.draw(st.integers(0, 20)), data.draw(st.integers(0, 90))
    sizes = array("I", range(1, len(found) + 1))
    outcomes = []
    for module in (compiled, reference):
        column, counts = array("I", found), counters()
        for number in range(4):
            counts.counts[number] = max(1, found.count(number))
            counts.firsts[number] = 4 + number
        bits = module.live_bits(column)
        at = module.find_message(column, start, end, subject=subject, wanted=wanted)
        last = module.find_last_message(column, start, end, 3)
        change = module.drop_messages(
            column, sizes, start, end, counts, wanted=wanted, messages=messages, size=size
        )
        excess = array("Q", [messages, 1])
        trimmed = module.trim_subjects(column, sizes, start, end, 5, array("I", [2, 0]), excess, counts)
        outcomes.append((bits, at, last, change, trimmed, excess, column, counts))
    assert outcomes[0] == outcomes[1]
