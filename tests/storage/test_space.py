"""A disk without space: nothing fails that can wait, nothing accepted is lost, and it heals by itself.

The fault catalogue's E3: proposals are refused in time, while votes, reads and what was accepted go on.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

import pytest
import trio

from trimaran.codec import Buffer
from trimaran.storage import (
    CompactPrefix,
    DiskFull,
    FileDisk,
    FileEntry,
    GroupDelete,
    GroupFiles,
    Manifest,
    MemoryDisk,
    Storage,
    StorageFailed,
    StorageOptions,
    recovery,
)

from .helpers import GROUP, INCARNATION, GatedRunner, batch, create, names, opened, record, state, stored

SEGMENT = 16 << 10
TINY = StorageOptions(segment_bytes=SEGMENT, write_bytes=8 << 10)
DIRECTORY = f"groups/{GROUP}-{INCARNATION}"


async def settle(storage: Storage) -> None:
    await storage.drain()
    await trio.sleep(3)


@contextmanager
def stranger(disk: MemoryDisk, left: int = 0) -> Iterator[None]:
    """Somebody else's file, which leaves so many bytes free."""
    disk.capacity = disk._used() + left
    yield
    disk.capacity = None


def own(storage: Storage) -> GroupFiles:
    return storage.group_files(GROUP, INCARNATION)


def manifest(index: int = 1, *files: FileEntry) -> Manifest:
    return Manifest(
        group=GROUP,
        incarnation=INCARNATION,
        index=index,
        term=1,
        members=b"",
        time=0,
        kind="test",
        rolling_hash=0,
        files=files,
    )


# --- the log ----------------------------------------------------------------------------------------------


async def test_the_reserve_takes_what_was_accepted_and_the_votes(
    autojump_clock: trio.testing.MockClock,
) -> None:
    disk = MemoryDisk()
    async with opened(disk, options=TINY) as storage:
        told: list[bool] = []
        storage.on_space = lambda: told.append(storage.full is None)
        storage.append([create()])
        await settle(storage)
        assert disk.exists("wal/reserve.tmp") and storage.full is None
        with stranger(disk):
            index = 0
            while storage.full is None:
                index += 1
                storage.append([record(index, size=2000)])
                await storage.drain()
            assert not disk.exists("wal/reserve.tmp"), "it became a segment"
            for _ in range(5):
                index += 1
                storage.append([record(index, size=2000), state(index, vote=3)])
                await storage.drain()
            with pytest.raises(DiskFull):
                storage.room()
            assert await stored(storage) == [batch(one, size=2000) for one in range(1, index + 1)]
            await trio.sleep(60)
            assert storage.failed is None
            assert told and not any(told), "twice where the last segment came into use as well"
        await settle(storage)
        assert disk.exists("wal/reserve.tmp")
        assert told[-1] and not any(told[:-1])
        storage.room()


async def test_votes_find_a_place_when_the_reserve_is_used_up(autojump_clock: trio.testing.MockClock) -> None:
    disk = MemoryDisk()
    options = StorageOptions(segment_bytes=64 << 10, write_bytes=8 << 10)
    async with opened(disk, options=options) as storage:
        told: list[tuple[bool, bool]] = []
        storage.on_space = lambda: told.append((storage.full is None, storage.spent))
        storage.append([create()])
        await settle(storage)
        with stranger(disk):
            for index in range(1, 200):  # as a follower, who takes batches until then
                if storage.spent:
                    break
                storage.append([record(index, size=2000)])
                with trio.fail_after(60):
                    await storage.drain()
                await trio.testing.wait_all_tasks_blocked()
            assert told == [(False, False), (False, True)]
            for term in range(2, 12):
                storage.append([state(term, vote=1)])
                with trio.fail_after(1):
                    await storage.drain()
            await settle(storage)
        await trio.sleep(3)  # nothing is written meanwhile
        assert told[1:] == [(False, True), (False, False), (True, False)], "first a segment, then a reserve"
    async with opened(disk, options=options) as storage:
        assert storage.recovered.groups[GROUP].term == 11


async def test_proposals_are_refused_before_the_disk_is_full(autojump_clock: trio.testing.MockClock) -> None:
    disk = MemoryDisk()
    keep = 100_000
    options = StorageOptions(segment_bytes=SEGMENT, write_bytes=8 << 10, min_free_bytes=keep)
    async with opened(disk, options=options) as storage:
        storage.append([create()])
        await settle(storage)
        with stranger(disk, left=keep + 3 * SEGMENT):
            storage.append([record(1, size=9)])
            await settle(storage)
            assert storage.full is None
            files = own(storage)
            for number in range(20):
                files.write("a", 4000 * number, bytes(4000))
            storage.append([record(2, size=9)])
            await settle(storage)
            assert storage.full is not None and "bytes are free" in str(storage.full)
            storage.append([record(3, size=9)])
            await storage.drain()
            assert names(storage)[-1] == (3, 1), "what is appended all the same is stored"
            files.forget(["a"])
            await settle(storage)
            assert storage.full is None


async def test_a_fuller_disk_is_noticed_soon_under_load(autojump_clock: trio.testing.MockClock) -> None:
    """Not only once a second: that is a lot of bytes on a fast disk."""
    disk = MemoryDisk()
    options = StorageOptions(segment_bytes=SEGMENT, write_bytes=8 << 10, min_free_bytes=40_000)
    async with opened(disk, options=options) as storage:
        storage.append([create()])
        await settle(storage)
        disk.capacity = disk._used() + 20_000
        began = trio.current_time()
        for index in range(1, 9):
            storage.append([record(index, size=2000)])
            await storage.drain()
            await trio.testing.wait_all_tasks_blocked()
        assert storage.full is not None
        assert trio.current_time() - began < 0.5


async def test_a_node_starts_on_a_full_disk_and_votes(autojump_clock: trio.testing.MockClock) -> None:
    disk = MemoryDisk()
    async with opened(disk, options=TINY) as storage:
        storage.append([create(), record(1, size=2000)])
        await settle(storage)
    for life in range(2):
        disk.crash(Random(life))
        with stranger(disk):
            async with opened(disk, options=TINY, seed=life) as storage:
                storage.append([state(5 + life, vote=life)])
                await settle(storage)
                assert storage.full is not None
                assert await stored(storage) == [batch(1, size=2000)]
    async with opened(disk, options=TINY) as storage:
        assert (storage.recovered.groups[GROUP].term, storage.recovered.groups[GROUP].vote) == (6, 1)
        await settle(storage)
        assert storage.full is None


async def test_a_node_starts_again_and_again_on_a_full_disk(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each start needs a segment: it takes a small part of the reserve, which is whole again later."""
    monkeypatch.setattr(recovery, "FIRST_SEGMENT_BYTES", 12 << 10)
    options = StorageOptions(segment_bytes=256 << 10, write_bytes=8 << 10)
    disk = MemoryDisk()
    async with opened(disk, options=options) as storage:
        storage.append([create()])
        await settle(storage)
    starts = 16
    for life in range(starts):
        disk.kill()
        with stranger(disk):
            async with opened(disk, options=options, seed=life) as storage:
                storage.append([state(1 + life, vote=life)])
                await settle(storage)
                assert storage.full is not None
    async with opened(disk, options=options) as storage:
        assert storage.recovered.groups[GROUP].term == starts
        await settle(storage)
        assert len(disk.read("wal/reserve.tmp")) == 256 << 10


async def test_what_a_crash_left_half_made_does_not_keep_its_space(
    autojump_clock: trio.testing.MockClock,
) -> None:
    disk = MemoryDisk()
    async with opened(disk, options=TINY) as storage:
        storage.append([create()])
        await settle(storage)
    disk.pwritev(disk.open("wal/new.tmp", create=True), [bytes(SEGMENT)], 0)
    with stranger(disk):
        async with opened(disk, options=TINY) as storage:
            await settle(storage)
            assert disk.exists("wal/reserve.tmp"), "a start that has space elsewhere leaves it alone"
            storage.room()


async def test_credit_that_comes_back_is_told_once() -> None:
    runner = GatedRunner()
    options = StorageOptions(segment_bytes=64 << 10, queue_bytes=10_000)
    async with opened(MemoryDisk(), runner=runner, options=options) as storage:
        told: list[int] = []
        storage.on_credit = lambda: told.append(storage.credit())
        storage.append([create()])
        await storage.drain()
        runner.hold()
        storage.append([record(1, size=4000)])
        assert storage.credit() > 0
        storage.append([record(index, size=4000) for index in (2, 3)])
        assert storage.credit() == 0
        runner.gate.set()
        await storage.drain()
        assert told == [10_000]
        storage.append([record(4, size=4000)])
        await storage.drain()
        assert len(told) == 1


# --- group files ------------------------------------------------------------------------------------------


async def test_writes_behind_wait_for_space_and_can_be_read_meanwhile(
    autojump_clock: trio.testing.MockClock,
) -> None:
    disk = MemoryDisk()
    async with opened(disk, options=TINY) as storage:
        storage.append([create()])
        await settle(storage)
        files = own(storage)
        files.write("a", 0, b"0123456789")
        await settle(storage)
        with stranger(disk):
            files.write("a", 10, b"abc")
            files.write("b", 0, b"new")
            files.write("a", 13, b"def")
            await settle(storage)
            assert storage.failed is None and files.pending_bytes == 9
            assert storage.full is not None and "files" in str(storage.full)
            assert await files.read("a", 8, 100) == b"89abcdef"
            assert await files.read("a", 11, 4) == b"bcde"
            assert await files.read("a", 2, 3) == b"234"
            assert await files.read("b", 1, 9) == b"ew"
            with pytest.raises(DiskFull):
                await files.sync(["a"])
            assert storage.failed is None
        await settle(storage)
        assert files.pending_bytes == 0
        storage.room()
        await files.sync(["a", "b"])
        assert disk.read(f"{DIRECTORY}/a") == b"0123456789abcdef"
        assert disk.read(f"{DIRECTORY}/b") == b"new"


async def test_what_makes_space_does_not_wait_behind_what_needs_it(
    autojump_clock: trio.testing.MockClock,
) -> None:
    disk = MemoryDisk()
    async with opened(disk, options=TINY) as storage:
        storage.append([create()])
        await settle(storage)
        files = own(storage)
        files.write("old", 0, bytes(5000))
        await settle(storage)
        with stranger(disk, left=100):
            files.write("new", 0, bytes(4000))
            files.write("short", 0, b"x")
            await settle(storage)
            assert storage.full is not None
            assert not disk.exists(f"{DIRECTORY}/short"), "it would overtake"
            files.forget(["old", "short"])
            await settle(storage)
            assert storage.full is None
            assert disk.read(f"{DIRECTORY}/new") == bytes(4000)
            assert files.pending_bytes == 0, "what was to be written to a removed file is dropped"
            assert not disk.exists(f"{DIRECTORY}/short")


async def test_a_deleted_group_s_waiting_writes_go_with_it(autojump_clock: trio.testing.MockClock) -> None:
    disk = MemoryDisk()
    async with opened(disk, options=TINY) as storage:
        storage.append([create(), create(3)])
        await settle(storage)
        other = storage.group_files(3, INCARNATION)
        own(storage).write("a", 0, bytes(100))
        other.write("a", 0, b"kept")
        await settle(storage)
        with stranger(disk):
            own(storage).write("a", 100, bytes(5000))
            other.write("a", 4, b" too")
            await settle(storage)
            storage.append([GroupDelete(GROUP, INCARNATION)])
            await settle(storage)
            assert not disk.exists(DIRECTORY)
        await settle(storage)
        assert not disk.exists(DIRECTORY)
        assert disk.read(f"groups/3-{INCARNATION}/a") == b"kept too"


async def test_waiting_for_the_writes_behind_ends_when_there_is_space(
    autojump_clock: trio.testing.MockClock,
) -> None:
    disk = MemoryDisk()
    async with opened(disk, options=TINY) as storage, trio.open_nursery() as nursery:
        storage.append([create()])
        await settle(storage)
        with stranger(disk):
            own(storage).write("a", 0, bytes(5000))
            nursery.start_soon(own(storage).settle, 100)
            await trio.sleep(30)
            assert nursery.child_tasks
        await trio.sleep(5)
        assert not nursery.child_tasks


async def test_a_manifest_without_space_leaves_the_old_one(autojump_clock: trio.testing.MockClock) -> None:
    disk = MemoryDisk()
    async with opened(disk, options=TINY) as storage:
        storage.append([create(), record(1)])
        files = own(storage)
        await files.write_manifest(manifest(1))
        await settle(storage)
        with stranger(disk, left=10):
            with pytest.raises(DiskFull):
                await files.write_manifest(manifest(2))
            assert storage.failed is None
            assert files.manifest == manifest(1)
            assert disk.listdir(DIRECTORY) == ["manifest"], "nothing half written keeps the space"
        await files.write_manifest(manifest(2))
        assert files.manifest == manifest(2)


@pytest.mark.parametrize("what", ["block", "manifest"])
async def test_a_sync_that_fails_for_space_is_a_failure(what: str) -> None:
    """The system may have dropped what it could not place: that is nothing to try again."""
    disk = MemoryDisk()

    def before(operation: str, path: str) -> None:
        if operation == "sync" and path.startswith("groups"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    async with opened(disk, options=TINY) as storage:
        storage.append([create()])
        await storage.drain()
        own(storage).write("a", 0, b"x")
        disk.before = before
        with pytest.raises(StorageFailed):
            if what == "block":
                await own(storage).sync(["a"])
            else:
                await own(storage).write_manifest(manifest(1))
        assert storage.failed is not None


def test_a_short_write_goes_on_until_the_disk_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = FileDisk(tmp_path)
    descriptor = disk.open("a", create=True)
    real, room = os.pwritev, [3, 4, 0, 100]

    def short(fd: int, buffers: list[bytes], offset: int) -> int:
        size = room.pop(0)
        if not size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(fd, [b"".join(buffers)[:size]], offset)

    monkeypatch.setattr(os, "pwritev", short)
    pieces: list[Buffer] = [b"01", memoryview(b"234"), b"", bytearray(b"56789")]
    with pytest.raises(OSError, match="No space") as caught:
        disk.pwritev(descriptor, pieces, 5)
    assert caught.value.errno == errno.ENOSPC
    disk.pwritev(descriptor, pieces, 5)
    assert disk.pread(descriptor, 99, 5) == b"0123456789"
    disk.close(descriptor)


# --- tables of contents -----------------------------------------------------------------------------------


async def test_closed_segments_get_tables_which_go_with_them(autojump_clock: trio.testing.MockClock) -> None:
    disk = MemoryDisk()
    async with opened(disk, options=TINY) as storage:
        storage.append([create()])
        for index in range(1, 40):
            storage.append([record(index, size=2000)])
            await storage.drain()
        await trio.sleep(30)
        closed = [name for name in disk.listdir("wal") if name.endswith(".wal")][:-2]
        assert [name for name in disk.listdir("wal") if name.endswith(".toc")] == [
            name.replace(".wal", ".toc") for name in closed
        ]
    disk.operations.clear()
    reads: list[str] = []
    real = disk.read_into

    def read_into(descriptor: int, buffer: memoryview, offset: int) -> int:
        reads.append(disk._descriptors[descriptor][0])
        return real(descriptor, buffer, offset)

    disk.read_into = read_into  # type: ignore[method-assign]  # it counts
    async with opened(disk, options=TINY, seed=2) as storage:
        assert not {f"wal/{name}" for name in closed[:-1]} & set(reads), "their tables say it all"
        assert await stored(storage) == [batch(index, size=2000) for index in range(1, 40)]
        storage.append([CompactPrefix(GROUP, INCARNATION, 39, 1, 0)])
        for index in range(40, 60):
            storage.append([record(index, size=2000)])
            await storage.drain()
        await trio.sleep(30)
        left = disk.listdir("wal")
        assert not set(closed) & set(left)
        assert not {name.replace(".wal", ".toc") for name in closed} & set(left)


async def test_a_damaged_segment_gets_no_table(autojump_clock: trio.testing.MockClock) -> None:
    disk = MemoryDisk()
    async with opened(disk, options=TINY) as storage:
        storage.append([create()])
        for index in range(1, 15):
            storage.append([record(index, size=2000)])
            await storage.drain()
            if index == 3:
                number = storage._writer.segment.number
                disk.damage(f"wal/{number:016x}.wal", 4096 + 3000, b"damage")
        await trio.sleep(30)
        assert disk.exists(f"wal/{number + 1:016x}.toc")
        assert not disk.exists(f"wal/{number:016x}.toc")
