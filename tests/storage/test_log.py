"""The log keeps what it was given, in order, across restarts."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from trimaran.storage import (
    Compacted,
    CompactPrefix,
    FileDisk,
    GroupDelete,
    MemoryDisk,
    NotStored,
    RecordTooLarge,
    ThreadRunner,
    TruncateSuffix,
    log_reset,
)

from .helpers import GROUP, INCARNATION, batch, create, names, opened, record, state, stored


async def test_what_was_synced_is_there_after_a_restart() -> None:
    disk = MemoryDisk()
    async with opened(disk) as storage:
        assert storage.recovered.created
        node = storage.recovered.node
        storage.append([create(), record(1), record(2), state(3, vote=9, commit=2)])
        await storage.drain()
    async with opened(disk) as storage:
        assert not storage.recovered.created
        assert storage.recovered.node == node
        group = storage.recovered.groups[GROUP]
        assert (group.kind, group.name, group.members) == ("test", "group 2", b"members")
        assert (group.term, group.vote, group.commit, group.last_index) == (3, 9, 2, 2)
        assert not group.faulty and not group.closed
        assert await stored(storage) == [batch(1), batch(2)]


async def test_a_real_disk_and_threads_keep_it_too(tmp_path: Path) -> None:
    for first in (1, 4, 7):
        async with opened(FileDisk(tmp_path), runner=ThreadRunner(), seed=first) as storage:
            storage.append([create()] if first == 1 else [])
            storage.append([record(first + number, size=5000) for number in range(3)])
            await storage.drain()
            assert (await stored(storage))[-1] == batch(first + 2, size=5000)
    async with opened(FileDisk(tmp_path), runner=ThreadRunner()) as storage:
        assert await stored(storage) == [batch(index, size=5000) for index in range(1, 10)]


async def test_a_truncated_suffix_stays_truncated_and_its_indexes_are_used_again() -> None:
    disk = MemoryDisk()
    async with opened(disk) as storage:
        storage.append([create(), *(record(index, term=1) for index in range(1, 8))])
        storage.append([TruncateSuffix(GROUP, INCARNATION, 5), record(5, term=2)])
        await storage.drain()
        assert names(storage) == [(1, 1), (2, 1), (3, 1), (4, 1), (5, 2)]
    async with opened(disk) as storage:
        assert names(storage) == [(1, 1), (2, 1), (3, 1), (4, 1), (5, 2)]
        storage.append([TruncateSuffix(GROUP, INCARNATION, 4)])
        await storage.drain()
    async with opened(disk) as storage:
        assert names(storage) == [(1, 1), (2, 1), (3, 1)]
        storage.append([TruncateSuffix(GROUP, INCARNATION, 1), record(1, term=5)])
        await storage.drain()
    async with opened(disk) as storage:
        assert await stored(storage) == [batch(1, term=5)]


async def test_a_lower_index_replaces_what_follows_it_also_without_a_truncation() -> None:
    disk = MemoryDisk()
    async with opened(disk) as storage:
        storage.append([create(), *(record(index) for index in range(1, 6)), record(3, term=4)])
        await storage.drain()
        assert names(storage) == [(1, 1), (2, 1), (3, 4)]
    async with opened(disk) as storage:
        assert names(storage) == [(1, 1), (2, 1), (3, 4)]


async def test_a_compacted_prefix_is_gone_and_says_so() -> None:
    disk = MemoryDisk()
    async with opened(disk) as storage:
        storage.append([create(), *(record(index) for index in range(1, 6))])
        storage.append([CompactPrefix(GROUP, INCARNATION, 3, 1, 0)])
        await storage.drain()
        with pytest.raises(Compacted):
            await storage.read_batches(GROUP, 3, 5, 1000)
        with pytest.raises(NotStored):
            await storage.read_batches(GROUP, 6, 9, 1000)
    async with opened(disk) as storage:
        group = storage.recovered.groups[GROUP]
        assert (group.compacted.index, group.last_index, names(storage)) == (3, 5, [(4, 1), (5, 1)])
        storage.append([CompactPrefix(GROUP, INCARNATION, 9, 2, 0), record(10, term=2)])
        await storage.drain()
    async with opened(disk) as storage:
        assert storage.recovered.groups[GROUP].compacted.index == 9
        assert names(storage) == [(10, 2)]


async def test_a_log_of_another_history_is_replaced_by_a_snapshot() -> None:
    disk = MemoryDisk()
    async with opened(disk) as storage:
        storage.append([create(), *(record(index, term=1) for index in range(1, 6))])
        storage.append(log_reset(GROUP, INCARNATION, 3, 2, 0))
        await storage.drain()
        assert names(storage) == []
    async with opened(disk) as storage:
        assert names(storage) == []
        assert storage.recovered.groups[GROUP].last_index == 3


async def test_a_new_incarnation_never_sees_its_predecessor() -> None:
    disk = MemoryDisk()
    async with opened(disk) as storage:
        storage.append([create(incarnation=7), record(1, incarnation=7), GroupDelete(GROUP, 7)])
        await storage.drain()
        assert GROUP not in storage._index.groups
    async with opened(disk) as storage:
        assert not storage.recovered.groups
        storage.append([create(incarnation=8), record(1, incarnation=8, term=3), record(2, incarnation=7)])
        await storage.drain()
    async with opened(disk) as storage:
        assert storage.recovered.groups[GROUP].incarnation == 8
        assert names(storage) == [(1, 3)]


async def test_a_batch_larger_than_a_segment_is_refused_and_nothing_is_queued() -> None:
    async with opened(MemoryDisk()) as storage:
        with pytest.raises(RecordTooLarge):
            storage.append([create(), record(1, size=70_000)])
        storage.append([create(), record(1, size=55_000)])
        await storage.drain()
        assert names(storage) == [(1, 1)]


async def test_reads_are_bounded_by_bytes_but_give_at_least_one_batch() -> None:
    async with opened(MemoryDisk()) as storage:
        storage.append([create(), *(record(index, size=1000) for index in range(1, 9))])
        await storage.drain()
        assert len(await storage.read_batches(GROUP, 2, 8, 1)) == 1
        assert len(await storage.read_batches(GROUP, 2, 8, 3500)) == 3
        assert await storage.read_batches(GROUP, 2, 3, 1 << 20) == [
            batch(2, size=1000),
            batch(3, size=1000),
        ]


async def test_many_segments_and_groups_survive_with_their_order() -> None:
    disk = MemoryDisk()
    async with opened(disk) as storage:
        for group in (2, 3, 4):
            storage.append([create(group)])
        for index in range(1, 60):
            for group in (2, 3, 4):
                storage.append([record(index, group=group, size=3000)])
            await storage.drain()
        assert storage.statistics().segments > 5
    async with opened(disk) as storage:
        for group in (2, 3, 4):
            expected = [batch(index, group=group, size=3000) for index in range(1, 60)]
            assert await stored(storage, group) == expected


async def test_the_cluster_id_is_durable_and_never_changes(autojump_clock: trio.testing.MockClock) -> None:
    disk = MemoryDisk()
    async with opened(disk) as storage:
        await storage.set_cluster(77)
        for index in range(1, 40):
            storage.append([record(index, size=5000)])
        await storage.drain()
    async with opened(disk) as storage:
        assert storage.recovered.node.cluster_id == 77


async def test_an_index_that_a_prefix_covers_is_not_stored_again() -> None:
    disk = MemoryDisk()
    async with opened(disk) as storage:
        storage.append([create(), CompactPrefix(GROUP, INCARNATION, 9, 1, 0), record(10), record(4)])
        await storage.drain()
        assert names(storage) == [(10, 1)]
    async with opened(disk) as storage:
        assert names(storage) == [(10, 1)]
