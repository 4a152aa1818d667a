"""Reading the log: C and Python read the same, and what they read is exactly what is sound."""

from __future__ import annotations

import itertools
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.strategies import batches
from trimaran.codec import BadLength, Kind, crc32c, make_chunk, seal_batch
from trimaran.codec import _compiled_wal as compiled
from trimaran.codec import _reference_wal as reference
from trimaran.codec.wal import Columns, Cursor
from trimaran.storage import BatchRecord, CompactPrefix, GroupDelete, HardState, Record, TruncateSuffix
from trimaran.storage.segment import (
    BATCH,
    DATA_START,
    FRAME,
    LOST,
    SECTOR,
    Item,
    SegmentHeader,
    SegmentScan,
    Vouch,
    Write,
    build_write,
    encode_record,
)

HEADER = SegmentHeader(number=3, node_id=5, cluster_id=7, salt=0x1122334455667788, size=1 << 20)

few = st.integers(1, 3)
records: st.SearchStrategy[Record] = st.one_of(
    st.builds(BatchRecord, batches, st.booleans()),
    st.builds(HardState, few, few, few, few, few, st.sampled_from([None, True, False])),
    st.builds(TruncateSuffix, few, few, few),
    st.builds(CompactPrefix, few, few, few, few, few),
    st.builds(GroupDelete, few, few),
)
lost = st.builds(
    Item, st.just(BATCH), st.just(LOST), few, few, few, few, st.sampled_from([b"", b"", bytes(8)]), few
)
histories = st.lists(st.lists(st.one_of(records, records, lost), max_size=5), max_size=5)


def segment(writes: list[list[Record | Item]], first: int = 1) -> bytes:
    data = bytearray(HEADER.encode())
    chain = HEADER.seed
    for sequence, write in enumerate(writes, first):
        items = [one if isinstance(one, Item) else encode_record(one) for one in write]
        vouch = Vouch(sequence - 1, sequence % 3, 4)
        buffers, _, chain = build_write(items, HEADER, sequence, chain, vouch)
        data += b"".join(buffers)
    return bytes(data) + bytes(2 * SECTOR)


def cursor(**more: int) -> Cursor:
    fields = {"position": DATA_START, "sequence": 0, "chain": HEADER.seed, "tag": HEADER.tag}
    return Cursor(**{**fields, "seed": HEADER.seed, **more})


def rows(columns: Columns) -> list[tuple[int, ...]]:
    return [
        (
            run.group,
            run.incarnation,
            run.index + number,
            run.kind,
            run.flags,
            columns.terms[run.start + number],
            columns.offsets[run.start + number],
            columns.lengths[run.start + number],
            columns.kinds[run.start + number],
            columns.crcs[run.start + number],
        )
        for run in columns.runs
        for number in range(run.count)
    ]


u32, u64 = st.integers(0, (1 << 32) - 1), st.integers(0, (1 << 64) - 1)
sealed_frames = st.lists(
    st.tuples(st.integers(0, 255), st.integers(0, 3), st.integers(0, 5000), u32, u64, u64, u64, u32),
    max_size=20,
)
FRAME_FIELDS = ("sequence", "newest", "known_synced", "oldest", "tag", "seed", "chain")


@given(sealed_frames, st.tuples(u64, u64, u64, u64, u32, u32, u32), st.sampled_from([0, 0, 0, 1, -1]))
def test_both_seal_the_same(fields: list[tuple[int, ...]], words: tuple[int, ...], wrong: int) -> None:
    frames = b"".join(
        FRAME.pack(0, kind, flags, 0, length, group, 0, incarnation, index, term, crc, 0)
        for kind, flags, length, group, incarnation, index, term, crc in fields
    )
    bodies = max(0, sum(length for _, _, length, *_ in fields) + wrong)
    results: list[object] = []
    for module in (compiled, reference):
        buffer = bytearray(frames)
        try:
            sealed = module.seal_write(buffer, bodies, **dict(zip(FRAME_FIELDS, words, strict=True)))
            results.append((buffer, *sealed))
            assert (len(frames) + bodies + len(sealed[0])) % SECTOR == 0
        except BadLength:
            results.append(None)
            assert buffer == frames
    assert results[0] == results[1]
    assert (results[0] is None) == (bodies != sum(length for _, _, length, *_ in fields))


def test_a_write_of_4_gib_is_refused() -> None:
    lengths = [(1 << 32) - 600]
    frames = b"".join(FRAME.pack(0, 1, 0, 0, length, 0, 0, 0, 0, 0, 0, 0) for length in lengths)
    words = dict.fromkeys(FRAME_FIELDS, 1)
    for module in (compiled, reference):
        with pytest.raises(BadLength):
            module.seal_write(bytearray(frames), sum(lengths), **words)


@given(
    histories,
    st.integers(0, 20),
    st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(1, 255)), max_size=2),
    st.integers(0, 1 << 16),
    st.integers(0, 8),
    st.sampled_from([5, 7, (1 << 64) - 1]),
)
@settings(max_examples=200)
def test_both_read_the_same_and_what_is_sound(
    history: list[list[Record | Item]],
    capacity: int,
    flips: list[tuple[int, int]],
    cut: int,
    skipped: int,
    limit: int,
) -> None:
    data = bytearray(segment(history, first=5))
    for at, mask in flips:
        data[DATA_START + at % (len(data) - DATA_START)] ^= mask
    if cut % 3 == 0:
        del data[DATA_START + cut % (len(data) - DATA_START) :]
    base = DATA_START - min(skipped, 1) * SECTOR
    view = bytes(data[base:])
    results: list[tuple[bool, Cursor, list[Columns]]] = []
    for module in (compiled, reference):
        reader, end = module.write_reader(capacity), cursor(base=base, limit=limit)
        full = reader.read(view, end)
        half = end.records // 2
        parts = [reader.columns(first, last) for first, last in ((0, half), (half, end.records))]
        results.append((full, end, parts))
        assert end.records <= capacity
    assert results[0] == results[1]
    full, end, parts = results[0]
    sound: list[Write] = []
    for write in SegmentScan(bytes(data), HEADER).writes():
        follows = write.start == (sound[-1].end if sound else DATA_START)
        if not write.intact or not follows or write.sequence > limit:
            break
        sound.append(write)
    if full:
        assert len(sound) == end.writes or len(sound[end.writes].records) > capacity - end.records
        sound = sound[: end.writes]
    assert end.writes == len(sound)
    assert end.position == (sound[-1].end if sound else DATA_START)
    expected = sorted((found.group, found.offset) for write in sound for found in write.records)
    assert sorted((row[0], row[6]) for part in parts for row in rows(part)) == expected
    if sound:
        last = sound[-1]
        assert Vouch(end.known_synced, end.oldest, end.newest) == last.vouch
        assert (end.last_start, end.last_records) == (last.start, len(last.records))


@given(histories)
def test_each_group_keeps_its_order_and_runs_are_what_they_say(history: list[list[Record | Item]]) -> None:
    data = segment(history)
    at = cursor()
    reader = compiled.write_reader(1000)
    assert not reader.read(data, at)
    columns = reader.columns(0, at.records)
    writes = list(itertools.takewhile(lambda write: write.intact, SegmentScan(data, HEADER).writes()))
    found = [one for write in writes for one in write.records]
    by_group: dict[int, list[tuple[int, ...]]] = {}
    for one in found:
        row = (one.group, one.incarnation, one.index, one.kind, one.flags, one.term)
        by_group.setdefault(one.group, []).append((*row, one.offset, one.length, one.batch_kind, one.crc))
    assert rows(columns) == [row for group in by_group.values() for row in group]
    assert [run.start for run in columns.runs] == [
        sum(run.count for run in columns.runs[:number]) for number in range(len(columns.runs))
    ]


def test_the_tag_is_looked_for_where_a_write_has_it() -> None:
    tag = HEADER.tag.to_bytes(4, "little")
    for module in (compiled, reference):
        for at in range(3 * SECTOR - 3):
            data = bytearray(3 * SECTOR)
            data[at : at + 4] = tag
            assert module.has_tag(bytes(data), HEADER.tag) == (at % SECTOR in (0, SECTOR - 4)), at
        assert not module.has_tag(b"", HEADER.tag)
        assert module.has_tag(bytes(SECTOR) + tag, HEADER.tag)
        assert not module.has_tag(bytes(SECTOR) + tag[:3], HEADER.tag)


def read_with(module: ModuleType, data: bytes) -> Cursor:
    at = cursor(base=DATA_START)
    module.write_reader(100).read(data[DATA_START:], at)
    return at


def batch(index: int) -> BatchRecord:
    chunk = make_chunk([(1, b"entry %d" % index)])
    identity = {"group": 2, "incarnation": 7, "index": index, "term": 1, "previous_term": 1, "time": 0}
    return BatchRecord(seal_batch([chunk], kind=Kind.NORMAL, **identity))


def test_no_flipped_byte_is_overlooked() -> None:
    data = segment([[batch(1), HardState(2, 7, 1, 9, 0)], [batch(2)]])
    ends = [write.end for write in SegmentScan(data, HEADER).writes()]
    for at in range(DATA_START, ends[-1]):
        flipped = data[:at] + bytes([data[at] ^ 0x20]) + data[at + 1 :]
        sound = sum(at >= end for end in ends)
        for module in (compiled, reference):
            assert read_with(module, flipped).writes == sound, (module, at)


def test_a_write_of_another_history_does_not_follow() -> None:
    """It is sound by itself, has the right place, salt and sequence, and yet is not what was written next."""
    one, other = segment([[batch(1)], [batch(2)]]), segment([[batch(3)], [batch(2)]])
    first, _ = SegmentScan(one, HEADER).writes()
    spliced = one[: first.end] + other[first.end :]
    for module in (compiled, reference):
        assert read_with(module, one).writes == read_with(module, other).writes == 2
        assert read_with(module, spliced).writes == 1


def test_a_trailer_must_lead_on_to_the_right_chain() -> None:
    data = bytearray(segment([[batch(1)]]))
    body = data.index(b"entry 1")
    trailer = data.index(HEADER.tag.to_bytes(4, "little"), body)
    length = int.from_bytes(data[trailer + 8 : trailer + 12], "little")
    data[trailer + 56 + 8] ^= 1
    for at, covered, seed in (
        (trailer + 48, data[trailer + 56 : trailer + 56 + length], 0),
        (trailer + 52, b"", HEADER.seed),
    ):
        summed = crc32c(covered or bytes(data[trailer : trailer + 52]), seed)
        data[at : at + 4] = summed.to_bytes(4, "little")
    for module in (compiled, reference):
        assert read_with(module, bytes(data)).writes == 0
