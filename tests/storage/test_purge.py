"""Segments go oldest first once nothing in them is needed, and no group can keep the whole log alive."""

from __future__ import annotations

import errno
from functools import partial
from random import Random

import pytest
import trio

from trimaran.storage import CompactPrefix, DiskFull, MemoryDisk, Storage, StorageOptions
from trimaran.storage.recovery import recover
from trimaran.storage.segment import BATCH, SegmentHeader, SegmentScan
from trimaran.storage.wal import (
    MORE_RECYCLED,
    NEW,
    RECYCLED,
    WAL,
    drop_recycled,
    make_zeros,
    prepare_segment,
    read_segment_header,
    recycled,
    retire_segment,
    segment_numbers,
    segment_path,
)

from .helpers import INCARNATION, batch, create, names, opened, record, state, stored

SIZE = 16 << 10
TINY = StorageOptions(segment_bytes=SIZE, write_bytes=8 << 10)


async def settle(storage: Storage) -> None:
    await storage.drain()
    await trio.sleep(1)


async def busy(storage: Storage, first: int, last: int, group: int = 2) -> None:
    """A group that compacts as it goes."""
    for index in range(first, last + 1):
        storage.append([record(index, group=group, size=2000)])
        if index > 4:
            storage.append([CompactPrefix(group, INCARNATION, index - 3, 1, index)])
        await storage.drain()


async def test_dead_segments_are_freed_and_recycled(autojump_clock: trio.testing.MockClock) -> None:
    disk = MemoryDisk()
    async with opened(disk, options=TINY) as storage:
        storage.append([create(), state(1)])
        await busy(storage, 1, 100)
        await settle(storage)
        # 100 batches need 17 segments; the current one, the next, and few closed ones are left.
        assert storage.statistics().segments <= 6
        assert ("rename", "wal/recycled.tmp") in disk.operations
        assert storage.pinned().keys() <= {2}
    async with opened(disk, options=TINY) as storage:
        group = storage.recovered.groups[2]
        assert (group.kind, group.term, group.compacted.index) == ("test", 1, 97)
        assert group.compacted.manifest_crc == 100
        assert not group.faulty and not group.closed
        assert await stored(storage) == [batch(index, size=2000) for index in (98, 99, 100)]


async def test_what_is_written_again_is_read_and_written_in_the_order_of_the_log(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Else each batch would cost a read of its own, and a start would put each before all others."""
    disk = MemoryDisk()
    in_order = list(range(1, 21))
    async with opened(disk, options=TINY) as storage:
        storage.append([create(3), *(record(index, group=3) for index in in_order)])
        storage.append([create(), state(1)])
        await storage.drain()
        [(_, names)] = storage._reader.pieces(storage._writer.segment.number)
        assert names == [(3, index) for index in in_order]
        await busy(storage, 1, 60)
        await settle(storage)
    writes = [
        [each.index for each in write.records if (each.group, each.kind) == (3, BATCH)]
        for number in segment_numbers(disk)
        for write in SegmentScan(disk.read(segment_path(number)), read_segment_header(disk, number)).writes()
    ]
    assert all(indexes == sorted(indexes) for indexes in writes)
    assert segment_numbers(disk)[0] > 2 and max(map(len, writes)) > 1, "several were written again, together"


async def test_segments_that_are_freed_together_are_all_used_again(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """As a snapshot frees them. Zeros are written for none of those that come next."""
    disk = MemoryDisk()
    async with opened(disk, options=TINY) as storage:
        storage.append([create(), state(1)])
        for index in range(1, 41):
            storage.append([record(index, size=2000)])
            await storage.drain()
        storage.append([CompactPrefix(2, INCARNATION, 38, 1, 5)])
        await settle(storage)
        for index in range(41, 54):  # what the first segment has of this group is written again
            storage.append([record(index, size=2000)])
            await storage.drain()
        await settle(storage)
        kept = {path for kind, path in disk.operations if kind == "rename" and "recycled" in path}
        assert len(kept) > 3, "nothing was freed together, or this test tells nothing"
        disk.operations.clear()
        for index in range(54, 67):
            storage.append([record(index, size=2000)])
            await storage.drain()
        assert ("rename", RECYCLED) not in disk.operations
        assert not [path for kind, path in disk.operations if kind == "write" and path == NEW]
    async with opened(disk, options=TINY) as storage:
        assert await stored(storage) == [batch(index, size=2000) for index in range(39, 67)]


def test_no_two_names_of_a_file_are_kept() -> None:
    """Start-up gave the segment that it replaces a second name, and got no further; or a power loss gave a
    kept file its former name back. As two segments they would overwrite each other."""
    disk = MemoryDisk()
    disk.mkdir(WAL)
    for number in (1, 2):
        make_zeros(disk, segment_path(number), SIZE)
    disk.link(segment_path(1), RECYCLED)
    retire_segment(disk, 1, SIZE)
    assert disk.listdir(WAL) == ["0000000000000002.wal", "recycled.tmp"]
    disk.link(segment_path(2), MORE_RECYCLED[0])
    assert recycled(disk, SIZE) == RECYCLED and not disk.exists(MORE_RECYCLED[0])


async def test_a_segment_that_kept_its_place_is_not_recycled(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Start-up gave the empty segment behind the last one a second name, and was cut before it replaced it.
    The power loss took the last one's only write as well, so the next start left the empty one in its place;
    and the start after that refused it, since it had the header of a later one."""
    disk = MemoryDisk()
    async with opened(disk, options=TINY) as storage:
        storage.append([create(), record(1)])
        await settle(storage)
    last = segment_numbers(disk)[-1]
    disk.link(segment_path(last), RECYCLED)
    node = read_segment_header(disk, last).node_id
    prepare_segment(disk, SegmentHeader(last + 1, node, 0, 7, SIZE), recycle=False)
    async with opened(disk, options=TINY) as storage:
        storage.append([record(2)])
        await settle(storage)
    for number in segment_numbers(disk):
        assert read_segment_header(disk, number).number == number


def test_what_is_kept_is_given_back_where_space_is_short() -> None:
    disk = MemoryDisk(capacity=40 * SIZE)
    disk.mkdir(WAL)
    for number in range(1, 5):
        make_zeros(disk, segment_path(number), SIZE)
        retire_segment(disk, number, SIZE)
    assert disk.listdir(WAL) == ["recycled-1.tmp", "recycled-2.tmp", "recycled-3.tmp", "recycled.tmp"]
    drop_recycled(disk)
    assert disk.listdir(WAL) == ["recycled.tmp"]
    disk.capacity = 8 * SIZE
    make_zeros(disk, segment_path(5), SIZE)
    retire_segment(disk, 5, SIZE)
    assert disk.listdir(WAL) == ["recycled.tmp"]


async def test_a_laggard_is_written_again_instead_of_pinning_the_log(
    autojump_clock: trio.testing.MockClock,
) -> None:
    disk = MemoryDisk()
    async with opened(disk, options=TINY) as storage:
        storage.append([create(3), record(1, group=3), record(2, group=3), record(3, group=3), create()])
        storage.append([CompactPrefix(3, INCARNATION, 1, 1, 5), state(9, vote=4, group=3)])
        await busy(storage, 1, 100)
        await settle(storage)
        statistics = storage.statistics()
        assert statistics.rewritten_records > 0
        assert statistics.segments <= 6
    async with opened(disk, options=TINY) as storage:
        group = storage.recovered.groups[3]
        assert (group.name, group.term, group.vote, group.compacted.index) == ("group 3", 9, 4, 1)
        assert not group.faulty and not group.closed
        assert await stored(storage, 3) == [batch(2, group=3), batch(3, group=3)]


async def test_an_idle_group_that_needs_all_its_log_keeps_it(autojump_clock: trio.testing.MockClock) -> None:
    """Rewriting must end: what is live is never rewritten for its own sake."""
    async with opened(MemoryDisk(), options=TINY) as storage:
        storage.append([create(3)])
        for index in range(1, 60):
            storage.append([record(index, group=3, size=2000)])
            await storage.drain()
        await settle(storage)
        assert storage.statistics().rewritten_records == 0
        assert storage.pinned()[3] >= 59 * 2000
        assert len(await stored(storage, 3)) == 59


async def test_what_fills_a_segment_alone_is_not_written_again_for_ever(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Less than half of each segment is live, and packing them anew would give as many segments."""
    disk = MemoryDisk()
    async with opened(disk, options=TINY) as storage:
        storage.append([create()])
        for index in range(1, 11):
            storage.append([record(index, size=6000)])
            await storage.drain()

        def count(operation: str, path: str) -> None:
            assert len(disk.operations) < 2000, "the log is written again and again"

        disk.before = count
        await settle(storage)
        assert storage.statistics().rewritten_records == 0
        assert len(await stored(storage)) == 10


@pytest.mark.parametrize("seed", range(3))
async def test_power_loss_while_segments_are_freed_rewritten_and_recycled(
    seed: int, autojump_clock: trio.testing.MockClock
) -> None:
    disk = MemoryDisk()
    fates = Random(f"{seed} fates")
    acknowledged = 0
    snapshots: list[tuple[MemoryDisk, int]] = []
    armed = fates.randint(20, 40)

    def before(operation: str, path: str) -> None:
        if acknowledged >= armed and len(snapshots) < 80:
            snapshots.append((disk.fork(), acknowledged))

    disk.before = before
    async with opened(disk, options=TINY, seed=seed) as storage:
        storage.append([create(3), *(record(index, group=3, size=100) for index in range(1, 9)), create()])
        storage.append([state(6, vote=2, group=3)])
        for index in range(1, 80):
            storage.append([record(index, size=2000)])
            if index > 4:
                storage.append([CompactPrefix(2, INCARNATION, index - 3, 1, index)])
            await storage.drain()
            acknowledged = index
    kinds = {operation for operation, _ in disk.operations}
    assert {"unlink", "rename"} <= kinds or ("rename", "wal/recycled.tmp") in disk.operations
    for cut, at_least in snapshots:
        cut.crash(fates)
        draw = Random(f"{seed} again").getrandbits
        found = recover(cut, name="n1", draw=partial(draw, 64), segment_bytes=TINY.segment_bytes)
        groups = found.recovered.groups
        assert not any(group.closed for group in groups.values())
        assert all(fault.doubtful for group in groups.values() for fault in group.faults)
        assert (groups[3].term, groups[3].vote, groups[3].last_index, len(groups[3].entries)) == (6, 2, 8, 8)
        assert groups[2].last_index in (at_least, at_least + 1)
        assert groups[2].compacted.index in (at_least - 3, at_least - 2)


async def test_no_space_for_a_segment_is_told_and_heals(autojump_clock: trio.testing.MockClock) -> None:
    disk = MemoryDisk(capacity=24 << 10)
    async with opened(disk, options=TINY) as storage:
        storage.append([create(), record(1, size=2000)])
        await settle(storage)
        with pytest.raises(DiskFull):
            storage.room()
        storage.append([record(2, size=500)])
        await storage.drain()
        assert names(storage) == [(1, 1), (2, 1)], "what fits the current segment is still stored"
        for index in range(3, 12):
            storage.append([record(index, size=2000)])
        await trio.sleep(5)
        assert storage.failed is None
        disk.capacity = None
        await settle(storage)
        storage.room()
        assert names(storage)[-1] == (11, 1)


async def test_an_error_other_than_space_while_preparing_is_a_failure(
    autojump_clock: trio.testing.MockClock,
) -> None:
    disk = MemoryDisk()
    async with opened(disk, options=TINY, run=False) as storage:

        def before(operation: str, path: str) -> None:
            if path == "wal/new.tmp":
                raise OSError(errno.EIO, "gone")

        disk.before = before
        with trio.fail_after(5):
            await storage.run()
        assert storage.failed is not None


async def test_a_node_starts_on_a_full_disk(autojump_clock: trio.testing.MockClock) -> None:
    disk = MemoryDisk()
    async with opened(disk, options=TINY) as storage:
        storage.append([create(), record(1, size=2000)])
        await storage.drain()
    used = sum(len(file.content) for file in disk._files())
    disk.capacity = used
    async with opened(disk, options=TINY) as storage:
        assert await stored(storage) == [batch(1, size=2000)]
        storage.append([record(2, size=300)])
        await settle(storage)
        assert names(storage) == [(1, 1), (2, 1)]


async def test_a_segment_goes_only_once_a_durable_trailer_says_so() -> None:
    """Else a power loss would leave a log whose last trailer asks for a file that is gone."""
    disk = MemoryDisk()
    async with opened(disk, options=TINY) as storage:
        storage.append([create(), *(record(index, size=2000) for index in range(1, 20))])
        await storage.drain()
        await trio.testing.wait_all_tasks_blocked()
        storage.append([create(), state(1), CompactPrefix(2, INCARNATION, 19, 1, 0)])
        await storage.drain()
        storage.group_files(2, INCARNATION).sync_in_background("nothing")
        await trio.testing.wait_all_tasks_blocked()
    disk.kill()
    async with opened(disk, options=TINY) as storage:
        assert storage.recovered.groups[2].compacted.index == 19
