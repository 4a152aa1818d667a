"""Segments read in windows, and their tables of contents: the same records, however they are come by."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import pytest
import trio

from trimaran.codec import read_header
from trimaran.codec.wal import NO_LIMIT
from trimaran.storage import (
    BatchRecord,
    CompactPrefix,
    GroupDelete,
    MemoryDisk,
    Record,
    StorageOptions,
    TruncateSuffix,
    cleaning,
    contents,
)
from trimaran.storage.contents import (
    Contents,
    SegmentReader,
    TocUnusable,
    decode_toc,
    encode_toc,
    read_toc,
    toc_path,
    write_toc,
)
from trimaran.storage.index import LogIndex
from trimaran.storage.recovery import Opened, recover
from trimaran.storage.replay import plan
from trimaran.storage.segment import (
    DATA_START,
    SegmentHeader,
    SegmentScan,
    Vouch,
    build_write,
    decode_segment_header,
    encode_record,
)
from trimaran.storage.wal import segment_numbers, segment_path

from .helpers import GROUP, batch, create, opened, record, state

HEADER = SegmentHeader(number=3, node_id=5, cluster_id=7, salt=0x1122334455667788, size=1 << 20)
PATH = "wal/0000000000000003.wal"


def history(random: Random, writes: int) -> Iterator[list[Record]]:
    """Records of three groups, as a leader and a follower append them."""
    last = {1: 0, 2: 0, 3: 0}
    for group in last:
        yield [create(group, 7)]
    for _ in range(writes):
        records: list[Record] = []
        for _ in range(random.randint(0, 6)):
            group = random.choice(list(last))
            choice = random.random()
            if choice < 0.7:
                # Now and then a lower index replaces what follows it, without a truncation.
                last[group] = max(0, last[group] - (choice < 0.1)) + 1
                size = random.choice([0, 40, 3000])
                records.append(record(last[group], group=group, size=size, term=1 + random.randint(0, 1)))
            elif choice < 0.8:
                records.append(state(random.randint(1, 9), random.randint(1, 9), group=group))
            elif choice < 0.9 and last[group] > 2:
                last[group] -= random.randint(0, 2)
                records.append(TruncateSuffix(group, 7, last[group] + 1))
            elif choice < 0.97:
                ahead = random.choice([-3, -3, 2])  # a snapshot may be ahead of the log
                records.append(CompactPrefix(group, 7, max(0, last[group] + ahead), 1, 5))
            else:
                records += [GroupDelete(group, 7), create(group, 8)]
        yield records


def segment(random: Random, writes: int = 20, header: SegmentHeader = HEADER) -> bytes:
    data = bytearray(header.encode())
    chain = header.seed
    for sequence, records in enumerate(history(random, writes), 40):
        items = [encode_record(one) for one in records]
        buffers, _, chain = build_write(items, header, sequence, chain, Vouch(sequence - 1, 2, 4))
        data += b"".join(buffers)
    return bytes(data)


def on_disk(data: bytes) -> MemoryDisk:
    disk = MemoryDisk()
    disk.mkdir("wal")
    disk.pwritev(disk.open(PATH, create=True), [data], 0)
    return disk


def index_of(found: Contents) -> LogIndex:
    index = LogIndex()
    for section in found.all_sections():
        section.apply(index, HEADER.number)
    return index


def one_by_one(data: bytes, limit: int = NO_LIMIT) -> LogIndex:
    """The index by the plainest way: every record of every write, in order."""
    index = LogIndex()
    for write in SegmentScan(data, HEADER).writes():
        for one in write.records if write.sequence <= limit else ():
            index.apply(
                one.kind,
                one.flags,
                one.group,
                one.incarnation,
                one.index,
                one.term,
                segment=HEADER.number,
                offset=one.offset,
                length=one.length,
                body=one.body,
                batch_kind=one.batch_kind,
                crc=one.crc,
                intact=one.intact,
            )
    return index


def said(index: LogIndex) -> object:
    """Everything that an index says."""
    logs = {
        number: [getattr(log, name) for name in log.__slots__] for number, log in sorted(index.groups.items())
    }
    return logs, {number: dict(sorted(use.groups.items())) for number, use in index.uses.items()}


@pytest.mark.parametrize("seed", range(20))
def test_sorted_by_group_is_the_same_as_one_by_one(seed: int) -> None:
    data = segment(Random(seed), writes=40)
    found = SegmentReader(on_disk(data)).read(PATH, HEADER)
    assert said(index_of(found)) == said(one_by_one(data))
    assert (found.first, found.writes, found.end) == (40, 43, len(data))
    assert found.clean and found.size == len(data)


@pytest.mark.parametrize("window", [512, 700, 4096, 20_000])
@pytest.mark.parametrize("at_once", [1, 3, 1 << 17])
def test_windows_and_portions_change_nothing(
    window: int, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = segment(Random(1)) + bytes(3000)
    whole = SegmentReader(on_disk(data)).read(PATH, HEADER)
    monkeypatch.setattr(contents, "WINDOW_BYTES", window)
    monkeypatch.setattr(contents, "RECORDS_AT_ONCE", at_once)
    reader = SegmentReader(on_disk(data))
    for limit in (NO_LIMIT, 45):
        found = reader.read(PATH, HEADER, limit)
        if at_once == 1 << 17:
            assert (found.last, found.end) == (min(whole.last, limit), found.end)
            assert said(index_of(found)) == said(one_by_one(data, limit))
        else:
            # A write with more records than fit at once is left to the careful reader.
            assert found.last < whole.last and not found.clean


def test_what_looks_like_a_write_behind_the_sound_ones_is_noticed() -> None:
    data = segment(Random(1))
    last = [*SegmentScan(data, HEADER).writes()][-1]
    torn = bytearray(data + bytes(100_000))
    torn[last.start + 100] ^= 1
    found = SegmentReader(on_disk(bytes(torn))).read(PATH, HEADER)
    assert (found.last, found.clean) == (last.sequence - 1, False)
    recycled = (
        data + bytes(1024) + segment(Random(2), header=SegmentHeader(2, 5, 7, 99, 1 << 20))[DATA_START:]
    )
    assert SegmentReader(on_disk(recycled)).read(PATH, HEADER).clean
    behind = SegmentReader(on_disk(data)).read(PATH, HEADER, limit=last.sequence - 1)
    assert not behind.clean


def test_an_empty_segment_has_no_contents() -> None:
    for data in (HEADER.encode() + bytes(9999), HEADER.encode(), HEADER.encode()[:100]):
        found = SegmentReader(on_disk(data)).read(PATH, HEADER)
        assert (found.writes, found.end, found.clean) == (0, DATA_START, True)


# --- the table --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_a_table_says_what_the_segment_says(seed: int) -> None:
    data = segment(Random(seed))
    disk = on_disk(data)
    found = SegmentReader(disk).read(PATH, HEADER)
    write_toc(disk, PATH, encode_toc(found, HEADER))
    again = read_toc(disk, PATH, HEADER)
    assert again is not None
    assert said(index_of(again)) == said(one_by_one(data))
    for name in ("first", "last", "end", "vouch", "size"):
        assert getattr(again, name) == getattr(found, name)


def test_a_damaged_or_foreign_table_is_not_believed() -> None:
    found = SegmentReader(on_disk(segment(Random(1), writes=2))).read(PATH, HEADER)
    table = encode_toc(found, HEADER)
    decode_toc(table, HEADER)
    for at in range(len(table)):
        with pytest.raises(TocUnusable):
            decode_toc(table[:at] + bytes([table[at] ^ 4]) + table[at + 1 :], HEADER)
        with pytest.raises(TocUnusable):
            decode_toc(table[:at], HEADER)
    with pytest.raises(TocUnusable):
        decode_toc(table, SegmentHeader(3, 5, 7, HEADER.salt + 1, 1 << 20))
    with pytest.raises(TocUnusable):
        decode_toc(table, SegmentHeader(4, 5, 7, HEADER.salt, 1 << 20))


def start(disk: MemoryDisk, seed: int = 9) -> Opened:
    draw = Random(seed).getrandbits
    return recover(disk, name="n1", draw=lambda: draw(64), segment_bytes=64 << 10)


def write_all_tocs(disk: MemoryDisk) -> list[str]:
    """A table for every segment, also where there should be none yet; returns the segments' paths."""
    paths = []
    for number in segment_numbers(disk):
        path = segment_path(number)
        header = decode_segment_header(disk.read(path)[:DATA_START], path)
        found = SegmentReader(disk).read(path, header)
        if found.writes:
            write_toc(disk, path, encode_toc(found, header))
            paths.append(path)
    return paths


async def a_log(disk: MemoryDisk, lives: int = 3) -> None:
    """A log of many segments and several starts."""
    index = 0
    for life in range(lives):
        async with opened(disk, seed=life, options=StorageOptions(segment_bytes=16 << 10)) as storage:
            if not life:
                storage.append([create()])
            for _ in range(20):
                index += 1
                storage.append([record(index, size=2000), state(life + 1, 2)])
                await storage.drain()
        disk.crash(Random(life))


async def test_recovery_finds_the_same_with_tables_and_without() -> None:
    disk = MemoryDisk()
    await a_log(disk)
    plain, tabled = disk.fork(), disk.fork()
    paths = write_all_tocs(tabled)
    headers = [decode_segment_header(tabled.read(path)[:DATA_START], path) for path in paths]
    by_table = [job.by_table for job in plan(tabled, headers)]
    assert sum(by_table) > 4 and not by_table[-1], "the last segment is read whatever table it has"
    damaged = [tabled.fork() for _ in paths]
    found, expected = start(tabled), start(plain)
    assert said(found.index) == said(expected.index)
    assert (found.writer.sequence, found.sizes) == (expected.writer.sequence, expected.sizes)
    for path, lost in zip(paths, damaged, strict=True):
        lost.damage(toc_path(path), 50, b"?")
        assert said(start(lost).index) == said(expected.index)


async def test_a_table_that_says_more_than_a_recovery_counted_is_not_believed() -> None:
    """What a kill left behind the last segment's counted writes was written again elsewhere."""
    disk = MemoryDisk()
    await a_log(disk, lives=2)
    everything = write_all_tocs(disk)
    headers = [decode_segment_header(disk.read(path)[:DATA_START], path) for path in everything]
    for job in plan(disk, headers):
        path = segment_path(job.header.number)
        table = read_toc(disk, path, job.header)
        assert table is not None
        assert not job.by_table or table.last <= job.limit
    assert any(job.limit != NO_LIMIT and not job.by_table for job in plan(disk, headers))


async def test_damage_that_a_table_hid_is_found_right_after_the_start(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Start-up believes the tables; then the segments are read, and what they lack is faulty."""
    monkeypatch.setattr(cleaning, "CLEAN_SHARE", 0)  # nothing is written again for another reason
    disk = MemoryDisk()
    options = StorageOptions(segment_bytes=16 << 10)
    async with opened(disk, options=options) as storage:
        storage.append([create(), state(4, vote=2)])
        for index in range(1, 30):
            storage.append([record(index, size=2000)])
            await storage.drain()
        await trio.sleep(30)
        places = {index: storage._index.place(GROUP, index) for index in range(1, 30)}
    first, other = places[1], places[20]
    assert first is not None and other is not None
    path = segment_path(first.segment)
    # All that the group is, its vote and its first batch, and one batch somewhere else.
    disk.damage(path, DATA_START, bytes(first.offset + first.length - DATA_START))
    disk.damage(segment_path(other.segment), other.offset + 100, b"????")
    async with opened(disk, options=options, seed=2) as storage:
        assert storage.recovered.groups[GROUP].faulty == []
        told: list[tuple[int, int]] = []
        storage.on_damage = lambda group, index: told.append((group, index))
        await trio.sleep(10)
        assert sorted(told) == [(GROUP, 1), (GROUP, 20)]
        faults = {fault.index: fault for fault in storage.faults(GROUP)}
        assert sorted(faults) == [1, 20]
        for index, fault in faults.items():
            header = read_header(batch(index, size=2000))
            assert (fault.term, fault.crc, fault.doubtful) == (1, header.header_crc, False)
        storage.append([BatchRecord(batch(1, size=2000), repair=True)])
        await storage.drain()
        assert [fault.index for fault in storage.faults(GROUP)] == [20]
    # Its creation, term and vote were written again, so that the damaged segment is not needed for them.
    disk.unlink(toc_path(path))
    async with opened(disk, options=options, seed=3) as storage:
        group = storage.recovered.groups[GROUP]
        assert (group.kind, group.term, group.vote, group.created) == ("test", 4, 2, True)
        assert (await storage.read_batches(GROUP, 1, 1, 1)) == [batch(1, size=2000)]


async def test_segments_whose_tables_are_right_are_read_once_and_nobody_is_told(
    autojump_clock: trio.testing.MockClock,
) -> None:
    disk = MemoryDisk()
    await a_log(disk)
    write_all_tocs(disk)
    async with opened(disk, options=StorageOptions(segment_bytes=16 << 10), seed=2) as storage:
        storage.on_damage = lambda group, index: pytest.fail(f"{group} {index}")
        await trio.sleep(30)
        assert storage.faults(GROUP) == [] and storage.statistics().damaged_reads == 0
