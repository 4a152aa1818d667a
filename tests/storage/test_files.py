"""Group files: only the manifest gives a file a meaning, and a switch of manifests is all or nothing."""

from __future__ import annotations

import errno
from contextlib import suppress
from dataclasses import replace
from functools import partial
from random import Random
from typing import Any

import pytest
import trio

from trimaran.codec import crc32c
from trimaran.storage import (
    CompactPrefix,
    FileDamaged,
    FileEntry,
    GroupDelete,
    GroupFiles,
    Manifest,
    ManifestDamaged,
    MemoryDisk,
    NewerFormat,
    Storage,
    StorageFailed,
    StorageOptions,
    decode_manifest,
    encode_manifest,
)
from trimaran.storage.actor import FLUSH_DELAY
from trimaran.storage.errors import ManifestTooLarge
from trimaran.storage.file_lane import MUCH_BYTES
from trimaran.storage.group_directory import CACHED_FILES
from trimaran.storage.recovery import recover

from .helpers import GROUP, INCARNATION, SMALL, create, opened, record

DIRECTORY = f"groups/{GROUP}-{INCARNATION}"


def manifest(index: int, files: dict[str, bytes], **more: object) -> Manifest:
    entries = tuple(FileEntry(name, len(data), crc32c(data)) for name, data in files.items())
    fields: dict[str, Any] = {
        "group": GROUP,
        "incarnation": INCARNATION,
        "index": index,
        "term": 1,
        "members": b"m",
        "time": index,
        "kind": "test",
        "rolling_hash": 2**64 - 1,
        "files": entries,
        "state": b"state",
    }
    return Manifest(**(fields | more))


def own(storage: Storage) -> GroupFiles:
    return storage.group_files(GROUP, INCARNATION)


async def test_reads_see_earlier_writes_in_order() -> None:
    async with opened(MemoryDisk()) as storage:
        files = own(storage)
        files.write("a", 0, b"hello world")
        files.write("a", 6, b"there")
        assert files.pending_bytes == 16
        assert await files.read("a", 0, 100) == b"hello there"
        assert await files.read("a", 6, 3) == b"the"
        assert files.pending_bytes == 0
        files.write("a", 11, b"!")
        assert await files.read("a", 0, 100) == b"hello there!"
        with pytest.raises(FileDamaged):
            await files.read("b", 0, 1)
        assert storage.failed is None


async def test_what_is_written_behind_gets_written_without_anyone_asking(
    autojump_clock: trio.testing.MockClock,
) -> None:
    disk = MemoryDisk()
    async with opened(disk) as storage:
        own(storage).write("a", 0, b"x" * 60)
        own(storage).write("a", 60, b"x" * 40)
        await trio.sleep(2 * FLUSH_DELAY)
        assert disk.operations.count(("write", f"{DIRECTORY}/a")) == 1, "what follows on joins the write"
        assert disk.read(f"{DIRECTORY}/a") == b"x" * 100
        assert own(storage).pending_bytes == 0
        await own(storage).settle(0)


async def test_much_that_is_written_behind_waits_for_no_more(autojump_clock: trio.testing.MockClock) -> None:
    disk = MemoryDisk()
    async with opened(disk) as storage:
        half = bytes(MUCH_BYTES // 2)
        own(storage).write("a", 0, half)
        await trio.sleep(FLUSH_DELAY / 4)
        assert own(storage).pending_bytes == len(half)
        own(storage).write("a", len(half), half)
        await trio.sleep(FLUSH_DELAY / 4)
        assert own(storage).pending_bytes == 0
        own(storage).write("a", 2 * len(half), b"x")
        await trio.sleep(FLUSH_DELAY / 4)
        assert own(storage).pending_bytes == 1, "one hurry is for what was there"


@pytest.mark.parametrize(
    "name", ["", "manifest", "quarantine", "../a", "a/b", ".a", "-a", "x.tmp", "ä", "a" * 101]
)
async def test_names_that_could_escape_or_clash_are_refused(name: str) -> None:
    async with opened(MemoryDisk()) as storage:
        with pytest.raises(ValueError, match="can't be a file name"):
            own(storage).write(name, 0, b"")
    with pytest.raises(ManifestDamaged):
        decode_manifest(encode_manifest(manifest(1, {name: b""})))


async def test_files_are_cut_to_the_manifest_and_unnamed_ones_moved_aside() -> None:
    disk = MemoryDisk()
    async with opened(disk) as storage:
        files = own(storage)
        storage.append([create()])
        files.write("block-1", 0, b"1" * 1000)
        files.write("block-2", 0, b"2" * 500)
        await files.sync(["block-1", "block-2"])
        crc = await files.write_manifest(manifest(5, {"block-1": b"1" * 1000, "block-2": b"2" * 300}))
        files.write("block-2", 500, b"later" * 100)
        files.write("block-3", 0, b"3" * 700)
        storage.append([CompactPrefix(GROUP, INCARNATION, 5, 1, crc)])
        await storage.drain()
    async with opened(disk) as storage:
        group = storage.recovered.groups[GROUP]
        assert group.manifest == manifest(5, {"block-1": b"1" * 1000, "block-2": b"2" * 300})
        assert not group.manifest_damaged
        assert own(storage).manifest == group.manifest
        assert await own(storage).read("block-2", 0, 10_000) == b"2" * 300
        assert disk.listdir(DIRECTORY) == ["block-1", "block-2", "manifest", "quarantine"]
        assert disk.listdir(f"{DIRECTORY}/quarantine") == ["00000001-block-3"]
        own(storage).write("block-3", 0, b"again")
        await storage.drain()
    async with opened(disk) as storage:
        assert disk.listdir(f"{DIRECTORY}/quarantine") == ["00000001-block-3", "00000002-block-3"]


CAPPED = StorageOptions(segment_bytes=64 << 10, quarantine_bytes=2500)


async def restarted(disk: MemoryDisk, lives: int) -> None:
    """A node that starts, writes a file that no manifest will name, and starts anew."""
    async with opened(disk, options=CAPPED) as storage:
        storage.append([create()])
        await storage.drain()
    for life in range(lives):
        async with opened(disk, options=CAPPED) as storage:
            await trio.sleep(1)
            own(storage).write(f"file-{life}", 0, bytes(1000))
            await storage.drain()


async def test_what_has_come_whole_of_a_snapshot_is_synced_while_the_rest_comes(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Who restores a large stream is not let wait at its end for a disk that has written nothing yet."""
    disk = MemoryDisk()
    async with opened(disk) as storage:
        incoming = own(storage).incoming(manifest(9, {"a": b"1" * 3000, "b": b"2" * 3000}))
        await incoming.begin()
        await incoming.write_chunk(0, 0, b"1" * 3000, crc32c(b"1" * 3000))
        await incoming.write_chunk(1, 0, b"2" * 100, crc32c(b"2" * 100))
        await trio.sleep(1)
        synced = [path for kind, path in disk.operations if kind == "sync" and "/received-" in path]
        assert len(synced) == 1


async def test_a_start_removes_nothing_and_a_snapshot_caps_the_quarantine_oldest_first(
    autojump_clock: trio.testing.MockClock,
) -> None:
    disk = MemoryDisk()
    await restarted(disk, 5)
    async with opened(disk, options=CAPPED) as storage:
        await trio.sleep(10)
        statistics = storage.statistics()
        assert (statistics.quarantine_files, statistics.quarantine_bytes) == (5, 5000), "counted, all there"
        assert len(disk.listdir(f"{DIRECTORY}/quarantine")) == 5
        await own(storage).write_manifest(manifest(1, {}))
        await trio.sleep(1)
        assert disk.listdir(f"{DIRECTORY}/quarantine") == ["00000004-file-3", "00000005-file-4"]


async def test_a_disk_without_space_caps_the_quarantine(autojump_clock: trio.testing.MockClock) -> None:
    """Else a node that never gets as far as a snapshot would fill its disk with what it moves aside."""
    disk = MemoryDisk()
    await restarted(disk, 5)
    async with opened(disk, options=replace(CAPPED, min_free_bytes=40_000)) as storage:
        disk.capacity = disk._used() + 20_000
        storage.append([create(9)])
        await storage.drain()
        await trio.sleep(10)
        assert disk.listdir(f"{DIRECTORY}/quarantine") == ["00000004-file-3", "00000005-file-4"]


async def test_a_manifest_is_the_old_or_the_new_one_whatever_happens() -> None:
    """Power loss before every operation of a snapshot; its files are whole under either manifest (D9)."""
    disk = MemoryDisk()
    cuts: list[MemoryDisk] = []
    old, new = {"a": b"A" * 2000}, {"a": b"A" * 2000 + b"more", "b": b"B" * 3000}
    async with opened(disk) as storage:
        files = own(storage)
        storage.append([create()])
        files.write("a", 0, old["a"])
        await files.sync(["a"])
        await files.write_manifest(manifest(5, old))
        await storage.drain()
        disk.before = lambda operation, path: cuts.append(disk.fork())
        files.write("a", 2000, b"more")
        files.write("b", 0, new["b"])
        await files.sync(["a", "b"])
        await files.write_manifest(manifest(9, new))
        done = len(cuts)
        files.forget([])
        await storage.drain()
        cuts.append(disk.fork())
    fates = Random(3)
    draw = partial(fates.getrandbits, 64)
    seen = set()
    for number, cut in enumerate(cuts):
        for _ in range(4):
            crashed = cut.fork()
            crashed.crash(fates)
            found = recover(crashed, name="n1", draw=draw, segment_bytes=1 << 16)
            group = found.recovered.groups[GROUP]
            assert group.manifest is not None and not group.manifest_damaged
            seen.add(group.manifest.index)
            assert number < done or group.manifest.index == 9
            for name, data in (old if group.manifest.index == 5 else new).items():
                assert crashed.read(f"{DIRECTORY}/{name}") == data
    assert seen == {5, 9}


async def test_a_manifest_may_not_promise_more_than_a_file_has() -> None:
    async with opened(MemoryDisk()) as storage:
        files = own(storage)
        files.write("a", 0, b"short")
        with pytest.raises(FileDamaged):
            await files.write_manifest(manifest(1, {"a": b"longer than that"}))
        assert files.manifest is None and storage.failed is None


async def test_files_go_only_after_the_manifest_that_no_longer_names_them() -> None:
    disk = MemoryDisk()
    async with opened(disk) as storage:
        files = own(storage)
        for name in ("a", "b"):
            files.write(name, 0, name.encode() * 10)
        await files.sync(["a", "b"])
        await files.write_manifest(manifest(1, {"a": b"a" * 10, "b": b"b" * 10}))
        with pytest.raises(ValueError, match="still names"):
            files.forget(["a"])
        await files.write_manifest(manifest(2, {"b": b"b" * 10}))
        with files.hold() as held:
            assert held is not None and held.index == 2
            files.forget(["a"])
            assert await files.read("a", 0, 10) == b"a" * 10, "a snapshot being sent keeps its files"
        await storage.drain()
        assert disk.listdir(DIRECTORY) == ["b", "manifest"]


@pytest.mark.parametrize("what", ["gone", "flipped", "older", "file short", "file gone"])
async def test_a_log_that_lost_its_manifest_says_so(what: str) -> None:
    """Never an older manifest: what was compacted since is nowhere else (C7)."""
    disk = MemoryDisk()
    async with opened(disk) as storage:
        files = own(storage)
        storage.append([create(), *(record(index) for index in range(1, 8))])
        files.write("a", 0, b"a" * 1000)
        await files.sync(["a"])
        await files.write_manifest(manifest(3, {"a": b"a" * 1000}))
        older = disk.read(f"{DIRECTORY}/manifest")
        crc = await files.write_manifest(manifest(5, {"a": b"a" * 1000}))
        storage.append([CompactPrefix(GROUP, INCARNATION, 5, 1, crc)])
        await storage.drain()
    if what == "gone":
        disk.unlink(f"{DIRECTORY}/manifest")
    elif what == "flipped":
        disk.damage(f"{DIRECTORY}/manifest", 20, b"\xff")
    elif what == "older":
        disk.shorten(f"{DIRECTORY}/manifest", 0)
        disk.damage(f"{DIRECTORY}/manifest", 0, older)
    elif what == "file short":
        disk.shorten(f"{DIRECTORY}/a", 999)
    else:
        disk.unlink(f"{DIRECTORY}/a")
    async with opened(disk) as storage:
        group = storage.recovered.groups[GROUP]
        if what.startswith("file"):
            assert group.manifest is not None and group.broken == ("a",) and not group.manifest_damaged
        else:
            assert group.manifest_damaged and group.manifest is None
        assert (group.last_index, len(group.entries), group.faulty) == (7, 2, [])


async def test_a_snapshot_syncs_only_what_changed_since_the_last_one() -> None:
    disk = MemoryDisk()
    async with opened(disk) as storage:
        files = own(storage)
        files.write("a", 0, b"1" * 100)
        files.write("b", 0, b"2" * 100)
        first = manifest(3, {"a": b"1" * 100, "b": b"2" * 100})
        await files.sync_for(first)
        await files.write_manifest(first)
        files.write("b", 100, b"2" * 100)
        files.write("c", 0, b"3")
        done = len(disk.operations)
        second = manifest(4, {"a": b"1" * 100, "b": b"2" * 200, "c": b"3"})
        await files.sync_for(second)
        await files.write_manifest(second)
        synced = {path for operation, path in disk.operations[done:] if operation == "sync"}
        assert {f"{DIRECTORY}/b", f"{DIRECTORY}/c"} <= synced and f"{DIRECTORY}/a" not in synced
    disk.crash(Random(1))
    async with opened(disk) as storage:
        assert storage.recovered.groups == {}
        assert disk.read(f"{DIRECTORY}/b") == b"2" * 200


async def test_a_snapshot_from_a_peer_replaces_the_files_in_one_step() -> None:
    disk = MemoryDisk()
    sent = {"x-1": b"1" * 5000, "empty": b"", "x-2": b"2" * 100}
    theirs = manifest(40, sent)
    async with opened(disk) as storage:
        files = own(storage)
        storage.append([create()])
        files.write("x-1", 0, b"mine")
        await files.sync(["x-1"])
        await files.write_manifest(manifest(3, {"x-1": b"mine"}))
        incoming = files.incoming(theirs)
        assert await incoming.begin() == (0, 0, 0)
        await incoming.write_chunk(0, 0, b"1" * 3000, crc32c(b"1" * 3000))
        with pytest.raises(FileDamaged):
            await incoming.write_chunk(0, 3000, b"1" * 2000, 77)
        with pytest.raises(FileDamaged):
            await incoming.write_chunk(0, 4000, b"1" * 100, crc32c(b"1" * 100))
        with pytest.raises(FileDamaged):
            await incoming.finish()
        assert files.incoming(theirs) is incoming
        assert await incoming.begin() == (3000, 0, 0), "a resumed transfer goes on here"
        await incoming.write_chunk(0, 3000, b"1" * 2000, crc32c(b"1" * 2000))
        await incoming.write_chunk(2, 0, b"2" * 100, crc32c(b"2" * 100))
        assert await files.read("x-1", 0, 10) == b"mine", "the old state stands until the end"
        local, crc = await incoming.finish()
        assert [(file.length, file.crc32c) for file in local.files] == [
            (file.length, file.crc32c) for file in theirs.files
        ]
        assert not {file.name for file in local.files} & sent.keys()
        assert files.manifest == local
        storage.append([CompactPrefix(GROUP, INCARNATION, 40, 1, crc)])
        await storage.drain()
        assert len(disk.listdir(DIRECTORY)) == 5
        [kept] = disk.listdir(f"{DIRECTORY}/quarantine")
        assert disk.read(f"{DIRECTORY}/quarantine/{kept}") == b"mine", "nothing is thrown away"
    disk.crash(Random(1))
    async with opened(disk) as storage:
        group = storage.recovered.groups[GROUP]
        assert group.manifest == local and not group.manifest_damaged
        for file, data in zip(local.files, sent.values(), strict=True):
            assert await own(storage).read(file.name, 0, 10_000) == data
        assert own(storage).new_name("received") not in {file.name for file in local.files}


async def test_a_chunk_that_makes_the_whole_file_wrong_is_found_with_the_last_one() -> None:
    async with opened(MemoryDisk()) as storage:
        files = own(storage)
        incoming = files.incoming(manifest(9, {"a": b"right"}))
        await incoming.begin()
        await incoming.write_chunk(0, 0, b"wr", crc32c(b"wr"))
        with pytest.raises(FileDamaged, match="checksum"):
            await incoming.write_chunk(0, 2, b"ong", crc32c(b"ong"))
        assert incoming.offsets() == (0,), "it comes again"
        with pytest.raises(FileDamaged):
            await incoming.finish()
        assert files.manifest is None
        other = files.incoming(manifest(10, {"a": b"right"}))
        assert other is not incoming
        await other.begin()
        other.abandon()
        await storage.drain()
        assert storage.failed is None


async def test_power_loss_during_an_install_leaves_the_old_or_the_new_state() -> None:
    """F3: never a mix."""
    disk = MemoryDisk()
    cuts: list[MemoryDisk] = []
    async with opened(disk) as storage:
        files = own(storage)
        storage.append([create()])
        files.write("a", 0, b"old" * 500)
        await files.sync(["a"])
        await files.write_manifest(manifest(3, {"a": b"old" * 500}))
        await storage.drain()
        disk.before = lambda operation, path: cuts.append(disk.fork())
        incoming = files.incoming(manifest(9, {"b": b"new" * 900}))
        await incoming.begin()
        await incoming.write_chunk(0, 0, b"new" * 900, crc32c(b"new" * 900))
        await incoming.finish()
        await storage.drain()
        cuts.append(disk.fork())
    fates = Random(5)
    draw = partial(fates.getrandbits, 64)
    seen = set()
    for cut in cuts:
        cut.crash(fates)
        found = recover(cut, name="n1", draw=draw, segment_bytes=1 << 16)
        group = found.recovered.groups[GROUP]
        assert group.manifest is not None and not group.manifest_damaged
        [file] = group.manifest.files
        data = cut.read(f"{DIRECTORY}/{file.name}")
        assert data == {3: b"old" * 500, 9: b"new" * 900}[group.manifest.index]
        seen.add(group.manifest.index)
        await install_again(cut)
    assert seen == {3, 9}


async def install_again(disk: MemoryDisk) -> None:
    """What a cut left is no obstacle to the next attempt, which takes over what is whole of it."""
    disk.kill()
    async with opened(disk) as storage:
        incoming = own(storage).incoming(manifest(9, {"b": b"new" * 900}))
        [offset] = await incoming.begin()
        assert offset in (0, 2700)
        if not offset:
            await incoming.write_chunk(0, 0, b"new" * 900, crc32c(b"new" * 900))
        local, _ = await incoming.finish()
        assert await own(storage).read(local.files[0].name, 0, 5000) == b"new" * 900
        await storage.drain()


async def test_what_an_install_replaces_stays_in_quarantine_as_far_as_there_is_room() -> None:
    disk = MemoryDisk()
    async with opened(disk, options=replace(SMALL, quarantine_bytes=3000)) as storage:
        for index in range(1, 5):
            incoming = own(storage).incoming(manifest(index, {"b": bytes(1000)}))
            await incoming.begin()
            await incoming.write_chunk(0, 0, bytes(1000), crc32c(bytes(1000)))
            await incoming.finish()
        await storage.drain()
        await trio.testing.wait_all_tasks_blocked()
        assert len(disk.listdir(f"{DIRECTORY}/quarantine")) == 3
        statistics = storage.statistics()
        assert (statistics.quarantine_files, statistics.quarantine_bytes) == (3, 3000)
        for _ in range(3):
            incoming = own(storage).incoming(manifest(9, {"b": bytes(1000)}))
            await incoming.begin()
            await incoming.write_chunk(0, 0, bytes(1000), crc32c(bytes(1000)))
            await incoming.finish()
        await storage.drain()
        await trio.testing.wait_all_tasks_blocked()
        assert len(disk.listdir(f"{DIRECTORY}/quarantine")) == 3


@pytest.mark.parametrize("power", [False, True])
async def test_a_transfer_goes_on_after_a_restart_with_the_files_that_are_whole(power: bool) -> None:
    disk = MemoryDisk()
    sent = {"x-1": b"1" * 5000, "x-2": b"2" * 5000, "x-3": b"3" * 5000}
    async with opened(disk) as storage:
        storage.append([create()])
        incoming = own(storage).incoming(manifest(40, sent))
        await incoming.begin()
        for position, size in ((0, 5000), (1, 5000), (2, 3000)):
            piece = list(sent.values())[position][:size]
            await incoming.write_chunk(position, 0, piece, crc32c(piece))
        await own(storage).sync(incoming._names[:2])
        await storage.drain()
        if power:
            disk.damage(f"{DIRECTORY}/{incoming._names[1]}", 100, bytes(512))
    disk.kill()
    newer = manifest(44, sent | {"x-3": b"3" * 9000, "x-4": b"4"})
    async with opened(disk) as storage:
        assert not disk.exists(f"{DIRECTORY}/quarantine")
        incoming = own(storage).incoming(newer)
        whole = (5000, 0 if power else 5000, 0, 0)
        assert await incoming.begin() == whole, "also of a newer snapshot of the same sender"
        await storage.drain()
        assert len([name for name in disk.listdir(DIRECTORY) if name.startswith("received")]) == 4


async def test_a_file_that_came_and_whose_sync_failed_comes_again_after_a_restart() -> None:
    """The page cache still has it, whole, and takes it for clean: it would go with the cache."""
    disk = MemoryDisk()
    theirs = manifest(40, {"x-1": b"1" * 5000})
    async with opened(disk, on_failure=lambda failure: None) as storage:
        files = own(storage)
        storage.append([create()])
        await storage.drain()
        incoming = files.incoming(theirs)
        await incoming.begin()
        [name] = incoming._names
        fail_syncs_of(disk, f"{DIRECTORY}/{name}")
        with suppress(StorageFailed):
            await incoming.write_chunk(0, 0, b"1" * 5000, crc32c(b"1" * 5000))
            await incoming.finish()
    assert disk.read(f"{DIRECTORY}/{name}") == b"1" * 5000
    disk.kill()
    async with opened(disk) as storage:
        incoming = own(storage).incoming(theirs)
        assert await incoming.begin() == (0,)
        await incoming.write_chunk(0, 0, b"1" * 5000, crc32c(b"1" * 5000))
        local, _ = await incoming.finish()
        await storage.drain()
    disk.crash(Random(1))
    assert disk.read(f"{DIRECTORY}/{local.files[0].name}") == b"1" * 5000


@pytest.mark.parametrize("operation", ["write", "sync", "rename"])
async def test_a_failing_file_operation_is_a_failure_of_storage(operation: str) -> None:
    disk = MemoryDisk()
    failures: list[StorageFailed] = []

    def before(name: str, path: str) -> None:
        if name == operation and path.startswith(DIRECTORY):
            raise OSError(errno.EIO, "gone")

    async with opened(disk, on_failure=failures.append) as storage:
        files = own(storage)
        disk.before = before
        files.write("a", 0, b"data")
        with pytest.raises(StorageFailed):
            await files.sync(["a"])
            await files.write_manifest(manifest(1, {"a": b"data"}))
        files.write("a", 4, b"more")
        with pytest.raises(StorageFailed):
            await files.read("a", 0, 1)
        assert len(failures) == 1
        assert files.manifest is None


async def test_a_failed_write_behind_is_found_even_if_nobody_waits(
    autojump_clock: trio.testing.MockClock,
) -> None:
    disk = MemoryDisk()

    def before(name: str, path: str) -> None:
        if path.startswith(DIRECTORY):
            raise OSError(errno.EIO, "gone")

    async with opened(disk) as storage:
        disk.before = before
        own(storage).write("a", 0, b"data")
        await trio.sleep(2 * FLUSH_DELAY)
        assert storage.failed is not None


async def test_a_deleted_group_takes_its_files_along_and_no_others(
    autojump_clock: trio.testing.MockClock,
) -> None:
    disk = MemoryDisk()
    async with opened(disk) as storage:
        storage.append([create(), create(3)])
        own(storage).write("a", 0, b"data")
        storage.group_files(3, INCARNATION).write("a", 0, b"other")
        await storage.drain()
        storage.append([GroupDelete(GROUP, INCARNATION)])
        await storage.drain()
        await trio.sleep(1)
        assert disk.listdir("groups") == [f"3-{INCARNATION}"]
    disk.mkdir("groups/9-9")
    async with opened(disk) as storage:
        assert storage.recovered.orphans == ("9-9",), "an unknown directory is reported and left alone"
        assert disk.listdir("groups") == [f"3-{INCARNATION}", "9-9"]


async def test_a_full_block_is_synced_in_the_background(autojump_clock: trio.testing.MockClock) -> None:
    disk = MemoryDisk()
    async with opened(disk) as storage:
        own(storage).write("a", 0, b"full" * 100)
        own(storage).sync_in_background("a")
        await trio.sleep(1)
        assert ("sync", f"{DIRECTORY}/a") in disk.operations


async def test_a_file_whose_background_sync_failed_is_durable_by_no_later_sync() -> None:
    """The system took its writes for clean by then: a manifest named bytes that were not on the disk."""
    disk = MemoryDisk()
    async with opened(disk) as storage:
        files = own(storage)
        files.write("a", 0, b"full" * 100)
        await files.settle(0)
        fail_syncs_of(disk, f"{DIRECTORY}/a")
        with pytest.raises(OSError, match="no luck"):
            files._directory.sync_apart("a")  # as another thread does; the actor hears of it a moment later
        disk.before = None
        with pytest.raises(StorageFailed, match="no luck"):
            await files.sync_for(manifest(1, {"a": b"full" * 100}))


def fail_syncs_of(disk: MemoryDisk, failing: str) -> None:
    def before(operation: str, path: str) -> None:
        if (operation, path) == ("sync", failing):
            raise OSError(errno.EIO, "no luck")

    disk.before = before


async def test_a_sync_waits_for_one_of_the_same_file_in_the_background(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    disk = MemoryDisk()
    async with opened(disk) as storage:
        files = own(storage)
        files.write("a", 0, b"full" * 100)
        await files.settle(0)
        syncing = files._lane.syncing
        syncing[f"{DIRECTORY}/a"] = None
        waited: list[str] = []

        async def wait_apart() -> None:
            await trio.lowlevel.checkpoint()
            waited.extend(syncing)
            syncing.clear()

        monkeypatch.setattr(files._lane, "wait_apart", wait_apart)
        await files.sync(["a"])
        assert waited == [f"{DIRECTORY}/a"]
        assert disk.operations.count(("sync", f"{DIRECTORY}/a")) == 2, "once before, which proved nothing"


async def test_only_the_newest_full_files_stay_in_the_page_cache(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = MemoryDisk()
    dropped: list[str] = []

    def drop_cache(descriptor: int) -> None:
        dropped.append(disk._descriptors[descriptor][0])

    async with opened(disk) as storage:
        monkeypatch.setattr(disk, "drop_cache", drop_cache)
        for number in range(CACHED_FILES + 2):
            own(storage).write(f"f{number}", 0, b"full" * 100)
            own(storage).sync_in_background(f"f{number}")
            await trio.sleep(1)
        assert dropped == [f"{DIRECTORY}/f0", f"{DIRECTORY}/f1"]
        assert await own(storage).read("f0", 0, 8) == b"fullfull"


class Vanishing(MemoryDisk):
    """A file goes just before it is opened by a name that was there: another lane removed it."""

    gone = ""

    def open(self, path: str, *, write: bool = False, create: bool = False, exclusive: bool = False) -> int:
        if path == self.gone:
            self.gone = ""
            self.unlink(path)
        return super().open(path, write=write, create=create, exclusive=exclusive)


async def test_a_file_that_goes_before_its_background_sync_needs_none(
    autojump_clock: trio.testing.MockClock,
) -> None:
    disk = Vanishing()
    async with opened(disk) as storage:
        own(storage).write("a", 0, b"full" * 100)
        await own(storage).settle(0)
        disk.gone = f"{DIRECTORY}/a"
        own(storage).sync_in_background("a")
        await trio.sleep(1)
        assert not disk.gone and storage.failed is None


async def test_a_manifest_that_could_not_be_read_again_is_not_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("trimaran.storage.manifest.MAX_MANIFEST_BYTES", 10_000)
    monkeypatch.setattr("trimaran.storage.files.MAX_MANIFEST_BYTES", 10_000)
    disk = MemoryDisk()
    async with opened(disk) as storage:
        files = own(storage)
        await files.write_manifest(manifest(1, {}))
        with pytest.raises(ManifestTooLarge):
            await files.write_manifest(manifest(2, {}, state=bytes(10_000)))
        assert files.manifest == manifest(1, {}) and storage.failed is None
        storage.append([create()])
        await storage.drain()
    async with opened(disk) as storage:
        assert storage.recovered.groups[GROUP].manifest == manifest(1, {})


def test_every_flipped_bit_of_a_manifest_is_found_and_a_newer_one_is_refused() -> None:
    encoded = encode_manifest(manifest(5, {"a": b"x"}))
    assert decode_manifest(encoded) == manifest(5, {"a": b"x"})
    for at in range(len(encoded)):
        for bit in range(8):
            bad = bytearray(encoded)
            bad[at] ^= 1 << bit
            with pytest.raises(ManifestDamaged):
                decode_manifest(bytes(bad))
    for length in range(len(encoded)):
        with pytest.raises(ManifestDamaged):
            decode_manifest(encoded[:length])
    with pytest.raises(NewerFormat):
        decode_manifest(encode_manifest(manifest(5, {}, version=2)))
    with pytest.raises(ManifestDamaged):
        decode_manifest(encode_manifest(manifest(5, {}, time="five")))
