"""Damage is neither cut nor guessed away: it has a name (C1, C2, C6, C9, D5 of the fault catalogue)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import trio

from trimaran.codec import read_header
from trimaran.storage import (
    BatchRecord,
    Compacted,
    CompactPrefix,
    GroupDelete,
    HardState,
    Lane,
    LogDamaged,
    MemoryDisk,
    Range,
    Record,
    Storage,
    StorageOptions,
    TruncateSuffix,
)
from trimaran.storage.segment import CREATE, DATA_START, HARD_STATE, SegmentScan, Write, decode_segment_header
from trimaran.storage.upkeep import Upkeep
from trimaran.storage.wal import segment_numbers, segment_path

from .helpers import GROUP, INCARNATION, GatedRunner, batch, create, names, opened, record, state, stored


def writes(disk: MemoryDisk, number: int) -> Iterator[Write]:
    data = disk.read(f"wal/{number:016x}.wal")
    return SegmentScan(data, decode_segment_header(data[:DATA_START], "")).writes()


async def a_log(disk: MemoryDisk) -> None:
    """Two groups, batches 1 to 6 each in a write of its own, a hard state; at rest behind a mark."""
    async with opened(disk) as storage:
        storage.append([create(), create(3), state(4, vote=5), state(2, vote=1, group=3)])
        for index in range(1, 7):
            storage.append([record(index, size=600), record(index, group=3, size=600)])
            await storage.drain()
        await trio.sleep(1)


@pytest.fixture(autouse=True)
def no_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start-up reads every segment: tables of contents would make it look later (test_contents.py)."""
    monkeypatch.setattr(Upkeep, "_tabulate", lambda *_: None)


async def test_every_flipped_byte_of_synced_writes_is_noticed_and_blamed(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """One bit anywhere in the log of two groups: the group it belongs to says so, the other one is whole.

    In frames and trailers there may be nothing to blame, as both name every record; then all is readable.
    """
    disk = MemoryDisk()
    await a_log(disk)
    [number] = [n for n in (1, 2, 3) if disk.exists(f"wal/{n:016x}.wal") and len([*writes(disk, n)]) > 3]
    path = f"wal/{number:016x}.wal"
    found = [*writes(disk, number)]
    data = disk.read(path)
    target = found[4]
    index = target.records[0].index
    spots: list[tuple[int, int]] = []
    for record_found in target.records:
        spots += [(record_found.offset + at, record_found.group) for at in range(0, record_found.length, 37)]
    for spot, group in spots:
        bad = disk.fork()
        bad.damage(path, spot, bytes([data[spot] ^ 4]))
        async with opened(bad) as storage:
            groups = storage.recovered.groups
            assert groups[group].faulty == [Range(index, index)], spot
            assert groups[5 - group].faulty == []
            assert not groups[2].closed and not groups[3].closed
            assert (groups[2].term, groups[2].vote, groups[3].term) == (4, 5, 2)
            assert (groups[2].last_index, groups[3].last_index) == (6, 6)
            assert await stored(storage, 5 - group) == [
                batch(index, group=5 - group, size=600) for index in range(1, 7)
            ]
            with pytest.raises(LogDamaged) as caught:
                await storage.read_batches(group, index, index, 1)
            assert (caught.value.group, caught.value.first) == (group, index)


async def test_a_flipped_bit_in_a_frame_or_trailer_loses_no_name(
    autojump_clock: trio.testing.MockClock,
) -> None:
    disk = MemoryDisk()
    await a_log(disk)
    [number] = [n for n in (1, 2, 3) if disk.exists(f"wal/{n:016x}.wal") and len([*writes(disk, n)]) > 3]
    path = f"wal/{number:016x}.wal"
    target = [*writes(disk, number)][4]
    data = disk.read(path)
    inside = {at for one in target.records for at in range(one.offset, one.offset + one.length)}
    for spot in [at for at in range(target.start, target.end) if at not in inside][::3]:
        bad = disk.fork()
        bad.damage(path, spot, bytes([data[spot] ^ 0x10]))
        async with opened(bad) as storage:
            for group in (2, 3):
                seen = storage.recovered.groups[group]
                blamed = seen.faulty == [Range(target.records[0].index, target.records[0].index)]
                assert blamed or not seen.faulty
                assert seen.last_index == 6
                assert (seen.term, seen.vote) == ((4, 5) if group == 2 else (2, 1))
                assert not seen.closed


async def test_damage_to_the_newest_synced_record_is_not_taken_for_a_torn_tail(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """C2: at rest a mark follows, which proves that the write before it had been synced."""
    disk = MemoryDisk()
    await a_log(disk)
    number = max(n for n in range(1, 4) if disk.exists(f"wal/{n:016x}.wal") and [*writes(disk, n)])
    last = [one for one in writes(disk, number) if one.records][-1]
    disk.damage(f"wal/{number:016x}.wal", last.records[0].offset + 90, b"????")
    async with opened(disk) as storage:
        assert storage.recovered.torn is None
        assert storage.recovered.groups[GROUP].faulty == [Range(6, 6)]
        assert storage.recovered.groups[GROUP].last_index == 6


async def test_a_zeroed_page_closes_the_groups_instead_of_guessing(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """D5: whole small writes are gone with their names. What the groups had promised there is unknown."""
    disk = MemoryDisk()
    async with opened(disk) as storage:
        storage.append([create()])
        for index in range(1, 40):
            storage.append([record(index, size=20)])
            await storage.drain()
        number = storage._writer.segment.number
        await trio.sleep(1)
    disk.damage(f"wal/{number:016x}.wal", DATA_START + 4096, bytes(4096))
    async with opened(disk) as storage:
        group = storage.recovered.groups[GROUP]
        assert group.closed
        assert group.last_index == 39
        [faulty] = group.faulty
        assert 5 <= faulty.last - faulty.first + 1 <= 9


async def test_a_shortened_segment_closes_the_groups(autojump_clock: trio.testing.MockClock) -> None:
    """C9: a segment has its full size before its first use, so a shorter one was cut by somebody."""
    disk = MemoryDisk()
    await a_log(disk)
    number = max(n for n in range(1, 4) if disk.exists(f"wal/{n:016x}.wal") and [*writes(disk, n)])
    disk.shorten(f"wal/{number:016x}.wal", [*writes(disk, number)][3].start)
    async with opened(disk) as storage:
        assert all(group.closed for group in storage.recovered.groups.values())


async def test_a_faulty_index_that_was_truncated_or_compacted_later_is_no_fault(
    autojump_clock: trio.testing.MockClock,
) -> None:
    for cure in (TruncateSuffix(GROUP, INCARNATION, 3), CompactPrefix(GROUP, INCARNATION, 5, 1, 0)):
        disk = MemoryDisk()
        await a_log(disk)
        async with opened(disk) as storage:
            storage.append([cure])
            await storage.drain()
        number = max(n for n in range(1, 3) if disk.exists(f"wal/{n:016x}.wal") and [*writes(disk, n)])
        for write in writes(disk, number):
            for one in write.records:
                if one.group == GROUP and one.index == 4 and one.kind == 1:
                    disk.damage(f"wal/{number:016x}.wal", one.offset + 100, b"!!!!")
        async with opened(disk) as storage:
            assert storage.recovered.groups[GROUP].faulty == []


async def test_a_repaired_batch_fills_the_hole_for_good(autojump_clock: trio.testing.MockClock) -> None:
    disk = MemoryDisk()
    await a_log(disk)
    [number] = [n for n in (1, 2, 3) if disk.exists(f"wal/{n:016x}.wal") and len([*writes(disk, n)]) > 3]
    target = [*writes(disk, number)][3].records[0]
    disk.damage(f"wal/{number:016x}.wal", target.offset + 80, b"????")
    async with opened(disk) as storage:
        assert storage.recovered.groups[target.group].faulty == [Range(target.index, target.index)]
        good = batch(target.index, group=target.group, size=600)
        storage.append([BatchRecord(good, repair=True)])
        await storage.drain()
        assert (await storage.read_batches(target.group, target.index, target.index, 1)) == [good]
    async with opened(disk) as storage:
        assert storage.recovered.groups[target.group].faulty == []
        assert names(storage, target.group) == [(index, 1) for index in range(1, 7)]


async def test_damage_under_a_running_node_is_told_to_the_reader() -> None:
    disk = MemoryDisk()
    async with opened(disk) as storage:
        storage.append([create(), record(1), record(2), record(3)])
        await storage.drain()
        place = storage._index.place(GROUP, 2)
        assert place is not None
        disk.damage(f"wal/{place.segment:016x}.wal", place.offset + 75, b"?")
        assert await storage.read_batches(GROUP, 1, 3, 1 << 20) == [batch(1)]
        with pytest.raises(LogDamaged):
            await storage.read_batches(GROUP, 2, 3, 1 << 20)
        assert storage.statistics().damaged_reads == 1


async def test_a_segment_that_lost_its_end_closes_the_groups(autojump_clock: trio.testing.MockClock) -> None:
    """The next segment goes on with a higher sequence than the last readable one promises."""
    disk = MemoryDisk()
    async with opened(disk) as storage:
        storage.append([create()])
        for index in range(1, 40):
            storage.append([record(index, size=4000)])
            await storage.drain()
        first = storage._index.place(GROUP, 1)
        await trio.sleep(1)
    assert first is not None
    path = f"wal/{first.segment:016x}.wal"
    last = [*writes(disk, first.segment)][-1]
    disk.damage(path, last.start, bytes(last.end - last.start))
    async with opened(disk) as storage:
        group = storage.recovered.groups[GROUP]
        assert group.closed
        assert [range_.first for range_ in group.faulty] == [last.records[0].index]


async def test_a_read_that_the_log_overtook_is_no_damage() -> None:
    """The segment may be freed and filled with other bytes while a read waits for its turn."""
    disk, runner = MemoryDisk(), GatedRunner(Lane.FILE)
    async with opened(disk, runner=runner) as storage:
        storage.append([create(), record(1), record(2), record(3)])
        await storage.drain()
        place = storage._index.place(GROUP, 1)
        assert place is not None
        runner.hold()
        async with trio.open_nursery() as nursery:

            async def read() -> None:
                with pytest.raises(Compacted):
                    await storage.read_batches(GROUP, 1, 3, 1 << 20)

            nursery.start_soon(read)
            await runner.waiting.wait()
            synced = trio.Event()
            storage.append([CompactPrefix(GROUP, INCARNATION, 2, 1, 0)], synced.set)
            await synced.wait()
            disk.damage(f"wal/{place.segment:016x}.wal", place.offset, bytes(place.length))
            runner.gate.set()
        assert storage.statistics().damaged_reads == 0


async def test_a_fault_says_what_a_copy_of_the_batch_must_be(autojump_clock: trio.testing.MockClock) -> None:
    disk = MemoryDisk()
    await a_log(disk)
    [number] = [n for n in (1, 2, 3) if disk.exists(f"wal/{n:016x}.wal") and len([*writes(disk, n)]) > 3]
    target = [*writes(disk, number)][3].records[0]
    disk.damage(f"wal/{number:016x}.wal", target.offset + 80, b"????")
    async with opened(disk) as storage:
        [fault] = storage.recovered.groups[target.group].faults
        assert storage.faults(target.group) == [fault]
        good = read_header(batch(target.index, group=target.group, size=600))
        assert (fault.index, fault.term, fault.crc) == (good.index, good.term, good.header_crc)
        assert (fault.doubtful, fault.segment, fault.offset) == (False, number, target.offset)
        storage.append([GroupDelete(target.group, INCARNATION)])
        await storage.drain()
        assert storage.faults(target.group) == []


# --- the last write: torn, or damaged in the moment before its mark


async def doubtful_log(disk: MemoryDisk) -> tuple[str, Write]:
    """Batches 1 and 2, and as the last write, which no mark follows: 3, a hard state, 4."""
    async with opened(disk) as storage:
        storage.append([create(), record(1), record(2)])
        await storage.drain()
        storage.append([record(3, size=1500), state(5, vote=9), record(4, size=1500)])
        await storage.drain()
        number = storage._writer.segment.number
    return f"wal/{number:016x}.wal", [*writes(disk, number)][-1]


async def test_what_a_torn_write_names_is_neither_held_nor_absent() -> None:
    disk = MemoryDisk()
    path, last = await doubtful_log(disk)
    disk.damage(path, last.records[2].offset + 700, bytes(512))
    for _ in range(3):  # the doubt outlives restarts: what was cut off once must not be forgotten
        async with opened(disk) as storage:
            group = storage.recovered.groups[GROUP]
            assert not group.closed
            [fault] = group.faults
            header = read_header(batch(4, size=1500))
            assert (fault.index, fault.term, fault.crc, fault.doubtful) == (4, 1, header.header_crc, True)
            assert await storage.read_batches(GROUP, 3, 3, 1) == [batch(3, size=1500)]
            assert (group.term, group.vote) == (5, 9)


@pytest.mark.parametrize("found", [True, False])
async def test_a_doubt_ends_with_a_copy_or_with_a_cut(found: bool) -> None:
    disk = MemoryDisk()
    path, last = await doubtful_log(disk)
    disk.damage(path, last.records[2].offset + 700, bytes(512))
    async with opened(disk) as storage:
        cure = (
            BatchRecord(batch(4, size=1500), repair=True) if found else TruncateSuffix(GROUP, INCARNATION, 4)
        )
        storage.append([cure])
        await storage.drain()
        assert storage.faults(GROUP) == []
    async with opened(disk) as storage:
        assert storage.recovered.groups[GROUP].faults == []
        assert names(storage) == [(1, 1), (2, 1), (3, 1), (4, 1)][: 4 if found else 3]


async def test_a_vote_in_a_torn_write_is_kept_as_far_as_its_frame_says_it() -> None:
    """Whether it was promised is not known; to keep a promise that nobody got does no harm."""
    disk = MemoryDisk()
    path, last = await doubtful_log(disk)
    disk.damage(path, last.records[1].offset, b"?")
    async with opened(disk) as storage:
        group = storage.recovered.groups[GROUP]
        assert (group.term, group.vote, group.faults) == (5, 9, [])
        assert group.last_index == 4


async def test_a_last_write_that_lost_its_trailer_keeps_its_records() -> None:
    disk = MemoryDisk()
    path, last = await doubtful_log(disk)
    disk.damage(path, last.end - 600, bytes(600))
    async with opened(disk) as storage:
        group = storage.recovered.groups[GROUP]
        assert (group.faults, group.last_index, group.term) == ([], 4, 5)


# --- closed groups


async def test_damage_in_the_write_that_freed_a_segment_leaves_no_gap(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Only this write's trailer says that the segment is not needed any more, and it is gone already."""
    disk = MemoryDisk()
    options = StorageOptions(segment_bytes=16 << 10, write_bytes=8 << 10)
    async with opened(disk, options=options) as storage:
        storage.append([create(), state(1)])
        for index in range(1, 100):
            before = segment_numbers(disk)[0]
            storage.append([record(index, size=2000), CompactPrefix(GROUP, INCARNATION, index - 1, 1, 0)])
            await storage.drain()
            await trio.testing.wait_all_tasks_blocked()
            if segment_numbers(disk)[0] > before > 1:
                break
        [*_, (number, last)] = [(n, write) for n in segment_numbers(disk) for write in writes(disk, n)]
        place = last.records[0]
        assert place.index == index, "a mark is behind it, or this test tells nothing"
        disk.damage(segment_path(number), place.offset + 200, b"?")
    async with opened(disk, options=options) as storage:
        group = storage.recovered.groups[GROUP]
        assert group.faulty == [Range(index, index)] and not group.closed


async def test_a_group_stays_closed_when_the_place_of_the_loss_is_long_gone(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Segments are freed; that a promise may be forgotten is not. Only being taken in again ends it."""
    options = StorageOptions(segment_bytes=16 << 10, write_bytes=8 << 10)
    disk = MemoryDisk()
    async with opened(disk, options=options) as storage:
        storage.append([create(), create(3), create(4), state(4, vote=5)])
        for index in range(1, 13):
            storage.append([record(index, size=20)])
            await storage.drain()
        number = storage._writer.segment.number
        await trio.sleep(1)
    disk.damage(f"wal/{number:016x}.wal", [*writes(disk, number)][4].start, bytes(2048))
    index = 0
    for _ in range(3):
        async with opened(disk, options=options) as storage:
            assert storage.recovered.groups[GROUP].closed and storage.recovered.groups[3].closed
            for _ in range(40):
                index += 1
                storage.append([record(index, group=3, size=1000), state(2, vote=index, group=3)])
                storage.append([CompactPrefix(3, INCARNATION, index, 1, 0)])
                storage.append([TruncateSuffix(GROUP, INCARNATION, 1)])
                await storage.drain()
            await trio.sleep(1)
    assert not disk.exists(f"wal/{number:016x}.wal")
    async with opened(disk, options=options) as storage:
        assert storage.recovered.losses == ()
        assert [storage.recovered.groups[number].closed for number in (2, 3, 4)] == [True] * 3
        assert (storage.recovered.groups[GROUP].term, storage.recovered.groups[GROUP].vote) == (4, 5)
        storage.append([HardState(GROUP, INCARNATION, 7, 1, 0, closed=False)])
        await storage.drain()
    async with opened(disk, options=options) as storage:
        assert not storage.recovered.groups[GROUP].closed
        assert storage.recovered.groups[3].closed
        assert storage.recovered.groups[GROUP].term == 7


async def test_a_loss_is_told_with_its_place(autojump_clock: trio.testing.MockClock) -> None:
    disk = MemoryDisk()
    await a_log(disk)
    number = max(n for n in range(1, 4) if disk.exists(f"wal/{n:016x}.wal") and [*writes(disk, n)])
    path = f"wal/{number:016x}.wal"
    gone = [*writes(disk, number)][3]
    disk.damage(path, gone.start, bytes(gone.end - gone.start))
    async with opened(disk) as storage:
        assert storage.recovered.losses == (f"{path} before offset {gone.end}",)


async def test_a_group_that_was_made_behind_a_loss_is_none_of_its_victims(
    autojump_clock: trio.testing.MockClock,
) -> None:
    disk = MemoryDisk()
    async with opened(disk) as storage:
        for records in (
            [create(2)],
            [create(3)],
            [record(1)],
            [record(2)],
            [create(4)],
            [record(1, group=4)],
        ):
            storage.append(records)
            await storage.drain()
        number = storage._writer.segment.number
        await trio.sleep(1)
    gone = [write for write in writes(disk, number) if write.records][2]
    disk.damage(f"wal/{number:016x}.wal", gone.start, bytes(gone.end - gone.start))
    async with opened(disk) as storage:
        groups = storage.recovered.groups
        assert [groups[number].closed for number in (2, 3, 4)] == [True, True, False]


@pytest.mark.parametrize("in_tail", [False, True])
async def test_a_group_whose_creation_was_written_again_behind_a_loss_is_its_victim(
    autojump_clock: trio.testing.MockClock, in_tail: bool
) -> None:
    """Its vote is lost, and the first that is met of it lies behind the loss, since the segment with its
    creation was freed. That must not make it a group that was made since, and never voted.

    `in_tail`: its creation is lost, too, and it is met in the last write.
    """
    options = StorageOptions(segment_bytes=16 << 10, write_bytes=8 << 10)
    disk = MemoryDisk()

    async def noise(storage: Storage, first: int, last: int, *with_it: Record) -> None:
        for index in range(first, last + 1):
            compact = CompactPrefix(GROUP, INCARNATION, index - 1, 1, 0)
            storage.append([record(index, size=2000), compact, *with_it])
            await storage.drain()
            await trio.testing.wait_all_tasks_blocked()

    async with opened(disk, options=options) as storage:
        storage.append([create(), create(3)])
        await noise(storage, 1, 12)
        await noise(storage, 13, 13, state(9, vote=5, group=3))
        await noise(storage, 14, 16)
        if in_tail:
            storage.append([state(10, group=3)])
            await storage.drain()
            disk = disk.fork()
        await trio.sleep(1)
    number = segment_numbers(disk)[0]
    vote, creation, *_ = [one for one in writes(disk, number) if 3 in {each.group for each in one.records}]
    assert {each.kind for each in vote.records if each.group == 3} == {HARD_STATE}
    assert {each.kind for each in creation.records if each.group == 3} == {CREATE}
    disk.damage(segment_path(number), vote.start, bytes(vote.end - vote.start))
    if in_tail:
        disk.damage(segment_path(number), creation.start, bytes(creation.end - creation.start))
    async with opened(disk, options=options) as storage:
        assert storage.recovered.losses and storage.recovered.groups[3].closed
        index = 17
        while segment_numbers(disk)[0] <= number:
            await noise(storage, index, index)
            index += 1
    async with opened(disk, options=options) as storage:
        group = storage.recovered.groups[3]
        assert not storage.recovered.losses, "its place is long gone"
        assert group.closed and (group.created, group.term, group.vote) == (not in_tail, 10 * in_tail, 0)


async def test_an_unreadable_creation_is_told_apart_from_a_lost_vote(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Kind and name can come from elsewhere, and term and vote are known: nothing was forgotten."""
    disk = MemoryDisk()
    await a_log(disk)
    for number in range(1, 4):
        if disk.exists(f"wal/{number:016x}.wal"):
            for write in writes(disk, number):
                for one in write.records:
                    if one.kind == 5 and one.group == GROUP:
                        disk.damage(f"wal/{number:016x}.wal", one.offset + 8, b"????")
    async with opened(disk) as storage:
        group = storage.recovered.groups[GROUP]
        assert (group.created, group.closed, group.kind) == (False, False, "")
        assert (group.term, group.vote, group.last_index) == (4, 5, 6)
        storage.append([create()])
        await storage.drain()
    async with opened(disk) as storage:
        group = storage.recovered.groups[GROUP]
        assert (group.created, group.kind, group.last_index) == (True, "test", 6)


# --- while the node runs


async def free(size: int) -> None:
    """A pace that never waits."""
    assert size > 0


async def test_the_scrub_finds_damage_in_closed_segments_and_names_it(
    autojump_clock: trio.testing.MockClock,
) -> None:
    disk = MemoryDisk()
    options = StorageOptions(segment_bytes=16 << 10, write_bytes=8 << 10)
    async with opened(disk, options=options) as storage:
        storage.append([create(), create(3)])
        for index in range(1, 30):
            storage.append([record(index, size=1000), record(index, group=3, size=10)])
            await storage.drain()
        await trio.sleep(1)
        told: list[tuple[int, int]] = []
        storage.on_damage = lambda group, index: told.append((group, index))
        assert await storage.scrub(free) == 0
        for group, index in ((GROUP, 3), (3, 4), (GROUP, 4)):
            place = storage._index.place(group, index)
            assert place is not None and place.segment < storage._writer.segment.number
            disk.damage(f"wal/{place.segment:016x}.wal", place.offset + 75, b"?")
        assert await storage.scrub(free) == 3
        assert sorted(told) == [(GROUP, 3), (GROUP, 4), (3, 4)]
        assert [fault.index for fault in storage.faults(GROUP)] == [3, 4]
        assert await storage.scrub(free) == 0, "it is known already"
        storage.append([BatchRecord(batch(index, size=1000), repair=True) for index in (3, 4)])
        await storage.drain()
        assert storage.faults(GROUP) == []
        assert await stored(storage) == [batch(index, size=1000) for index in range(1, 30)]


async def test_a_batch_found_bad_by_a_reader_is_told_once() -> None:
    disk = MemoryDisk()
    async with opened(disk) as storage:
        storage.append([create(), record(1), record(2)])
        await storage.drain()
        told: list[tuple[int, int]] = []
        storage.on_damage = lambda group, index: told.append((group, index))
        place = storage._index.place(GROUP, 2)
        assert place is not None
        disk.damage(f"wal/{place.segment:016x}.wal", place.offset + 75, b"?")
        for _ in range(2):
            with pytest.raises(LogDamaged):
                await storage.read_batches(GROUP, 2, 2, 1)
        assert told == [(GROUP, 2)]


@pytest.mark.parametrize("where", ["body", "frame", "trailer"])
async def test_a_copy_that_outlived_its_original_is_damaged_not_absent(
    where: str, autojump_clock: trio.testing.MockClock
) -> None:
    """Start-up copied the last write, synced the copy, and the replica promised what it says. Then the power
    took the original, which had never been synced, and a bit of the copy flipped."""
    disk = MemoryDisk()
    async with opened(disk) as storage:
        storage.append([create(), state(1), record(1)])
        await storage.drain()
        await trio.sleep(1)
    async with opened(disk) as storage:
        storage.append([record(2)])
        await storage.drain()
    async with opened(disk):
        pass
    found = [(number, write) for number in segment_numbers(disk) for write in writes(disk, number)]
    (original, first), (copy, second) = [
        (number, write) for number, write in found if any(each.index == 2 for each in write.records)
    ]
    disk.damage(segment_path(original), first.start, bytes(first.end - first.start))
    body = second.records[0].offset
    place = {"body": body + 9, "frame": body - 20, "trailer": second.end - 30}[where]
    disk.damage(segment_path(copy), place, b"\xff")
    async with opened(disk) as storage:
        assert names(storage) == [(1, 1), (2, 1)]
        faulty = storage.recovered.groups[GROUP].faulty
        assert faulty == ([] if where == "trailer" else [Range(2, 2)])
