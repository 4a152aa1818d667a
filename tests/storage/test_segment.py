"""The bytes of a segment: what is written is found again, and nothing else is ever found."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimaran.storage import CompactPrefix, GroupCreate, GroupDelete, HardState, Record, TruncateSuffix
from trimaran.storage.segment import (
    DATA_START,
    FRAME_SIZE,
    SECTOR,
    Item,
    SegmentHeader,
    SegmentScan,
    Vouch,
    build_write,
    decode_commit,
    decode_create,
    decode_manifest_crc,
    decode_segment_header,
    encode_record,
    write_size,
)

from .helpers import record

HEADER = SegmentHeader(number=3, node_id=5, cluster_id=7, salt=0x1122334455667788, size=1 << 20)

u32 = st.integers(1, 2**32 - 1)
u64 = st.integers(0, 2**64 - 1)
records = st.one_of(
    st.builds(HardState, u32, u64, u64, u64, u64),
    st.builds(TruncateSuffix, u32, u64, u64),
    st.builds(CompactPrefix, u32, u64, u64, u64, u32),
    st.builds(GroupCreate, u32, u64, st.text(max_size=9), st.text(max_size=9), st.binary(max_size=99)),
    st.builds(GroupDelete, u32, u64),
    st.builds(record, st.integers(1, 9), size=st.integers(0, 2000)),
)


def segment(writes: list[list[Item]], header: SegmentHeader = HEADER, first: int = 1) -> bytes:
    """A segment with these writes."""
    data = bytearray(header.encode())
    chain = header.seed
    for sequence, items in enumerate(writes, first):
        buffers, total, chain = build_write(items, header, sequence, chain, Vouch(sequence - 1, 1, 4))
        piece = b"".join(buffers)
        assert len(piece) == total and total % SECTOR == 0
        data += piece
    return bytes(data) + bytes(4 * SECTOR)


@given(st.lists(st.lists(records, max_size=6), max_size=4))
@settings(max_examples=60)
def test_whatever_is_written_is_found(groups: list[list[Record]]) -> None:
    items = [[encode_record(one) for one in group] for group in groups]
    data = segment(items)
    position = DATA_START
    found = [*SegmentScan(data, HEADER).writes()]
    assert [write.sequence for write in found] == [*range(1, len(groups) + 1)]
    for write, expected in zip(found, items, strict=True):
        assert write.intact and write.start == position
        assert write.end - write.start == write_size(len(expected), sum(len(item.body) for item in expected))
        assert write.vouch == Vouch(write.sequence - 1, 1, 4)
        position = write.end
        for seen, item in zip(write.records, expected, strict=True):
            names = (seen.kind, seen.flags, seen.group, seen.incarnation, seen.index, seen.term)
            assert names == (item.kind, item.flags, item.group, item.incarnation, item.index, item.term)
            assert data[seen.offset : seen.offset + seen.length] == item.body


def test_bodies_say_what_the_frames_have_no_place_for() -> None:
    assert decode_commit(encode_record(HardState(1, 2, 3, 4, 5)).body) == 5
    assert decode_manifest_crc(encode_record(CompactPrefix(1, 2, 3, 4, 5)).body) == 5
    create = GroupCreate(1, 2, "kind", "näme", b"members")
    assert decode_create(encode_record(create).body) == ("kind", "näme", b"members")


def test_bytes_written_under_another_salt_number_or_sequence_are_not_found() -> None:
    """The salts share their low half: the tag alone would let these bytes pass."""
    items = [[encode_record(record(1))], [encode_record(record(2))]]
    data = segment(items, first=5)
    assert len([*SegmentScan(data, HEADER).writes()]) == 2
    for other in (replace(HEADER, salt=HEADER.salt ^ (1 << 60)), replace(HEADER, number=4)):
        assert other.tag == HEADER.tag
        assert not [*SegmentScan(data, other).writes()]
    fresh = segment([[encode_record(record(9))]], first=9)
    both = fresh[: -4 * SECTOR] + data[DATA_START:]
    assert [write.sequence for write in SegmentScan(both, HEADER).writes()] == [9]


def test_tags_differ_with_the_salt_and_are_never_zero() -> None:
    tags = {replace(HEADER, salt=Random(seed).getrandbits(64)).tag for seed in range(100)}
    assert len(tags) > 95 and 0 not in tags
    assert replace(HEADER, salt=0).tag != 0


def test_no_flipped_bit_makes_a_write_say_something_else() -> None:
    """Every flipped byte in three writes: what is still called intact is what was written."""
    items = [[encode_record(record(1)), encode_record(HardState(2, 7, 5, 6, 1))], [encode_record(record(2))]]
    data = segment([*items, []])
    expected = [*SegmentScan(data, HEADER).writes()]
    for at in range(DATA_START, len(data) - 4 * SECTOR):
        bad = bytearray(data)
        bad[at] ^= 0x40
        found = {write.sequence: write for write in SegmentScan(bytes(bad), HEADER).writes()}
        # One flipped bit never hides a whole write: its frames or its trailer name it.
        assert found.keys() == {1, 2, 3} or (found.keys() == {1, 2} and at >= expected[2].start)
        for write in expected[: len(found)]:
            seen = found[write.sequence]
            assert len(seen.records) <= len(write.records)
            for one, other in zip(seen.records, write.records, strict=False):
                if one.intact:
                    assert one == other
            if seen.vouch is not None:
                assert len(seen.records) == len(write.records)
                assert [one.index for one in seen.records] == [one.index for one in write.records]


def test_random_bytes_are_no_writes() -> None:
    random = Random(4)
    for _ in range(20):
        data = HEADER.encode() + random.randbytes(20_000)
        assert not [*SegmentScan(data, HEADER).writes()]


@given(st.binary(max_size=300), st.integers(0, 60))
@settings(max_examples=100)
def test_hostile_lengths_never_lead_out_of_the_segment(noise: bytes, at: int) -> None:
    """Damage inside sound frames: whatever lengths come out of it, nothing is read beyond the end."""
    data = bytearray(segment([[encode_record(record(1))], [encode_record(record(2))]]))
    start = DATA_START + at * 16
    data[start : start + len(noise)] = noise
    for write in SegmentScan(bytes(data), HEADER).writes():
        assert DATA_START <= write.start < write.end <= len(data) + SECTOR
        assert all(one.offset + one.length <= len(data) for one in write.records if one.intact)


def test_a_segment_header_round_trips_and_its_frame_sizes_are_those_of_the_format_page() -> None:
    for header in (HEADER, replace(HEADER, resumes=True, resumes_after=99)):
        page = header.encode()
        assert len(page) == DATA_START
        assert decode_segment_header(page, "file") == header
    assert (FRAME_SIZE, SECTOR, DATA_START) == (56, 512, 4096)


@pytest.mark.parametrize("count", [0, 1, 5, 1000])
def test_a_write_is_as_large_as_was_said_before(count: int) -> None:
    items = [encode_record(HardState(2, 7, index, 0, 0)) for index in range(count)]
    buffers, total, _ = build_write(items, HEADER, 1, HEADER.seed, Vouch(0, 1, 1))
    assert sum(map(len, buffers)) == total == write_size(count, 8 * count)
