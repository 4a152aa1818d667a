"""When a node refuses to start, with which exit code, and that the message names file and place."""

from __future__ import annotations

import struct
from pathlib import Path
from random import Random

import pytest

from trimaran.codec import crc32c
from trimaran.storage import (
    DirectoryLocked,
    FileDisk,
    ForeignDirectory,
    LogDamaged,
    MemoryDisk,
    NewerFormat,
    NodeHeaderDamaged,
    SegmentGap,
    StorageError,
    errors,
)
from trimaran.storage.manifest import MANIFEST_VERSION, Manifest, encode_manifest
from trimaran.storage.recovery import Opened, recover
from trimaran.storage.segment import DATA_START, decode_segment_header

from .helpers import GROUP, INCARNATION, create, opened, record


def start(disk: MemoryDisk | FileDisk, seed: int = 9) -> Opened:
    draw = Random(f"{seed} start").getrandbits
    return recover(disk, name="n1", draw=lambda: draw(64), segment_bytes=64 << 10)


async def a_log(disk: MemoryDisk, batches: int = 60, seed: int = 1) -> list[str]:
    """A log of several segments, whose names are returned."""
    async with opened(disk, seed=seed) as storage:
        storage.append([create()])
        for index in range(1, batches + 1):
            storage.append([record(index, size=4000)])
            await storage.drain()
    return [f"wal/{name}" for name in disk.listdir("wal") if name.endswith(".wal")]


def test_each_error_has_its_own_exit_code() -> None:
    kinds = [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, StorageError) and "exit_code" in vars(kind)
    ]
    assert len({kind.exit_code for kind in kinds}) == len(kinds) >= 10


def test_a_second_process_is_refused(tmp_path: Path) -> None:
    for disk in (MemoryDisk(), FileDisk(tmp_path)):
        first = start(disk)
        with pytest.raises(DirectoryLocked):
            start(FileDisk(tmp_path) if isinstance(disk, FileDisk) else disk)
        disk.close(first.lock)
        start(disk)


async def test_an_unreadable_node_header_is_refused() -> None:
    disk = MemoryDisk()
    await a_log(disk, 3)
    size = len(disk.read("node"))
    for at in range(size):
        bad = disk.fork()
        bad.damage("node", at, bytes([disk.read("node")[at] ^ 1]))
        with pytest.raises(NodeHeaderDamaged):
            start(bad)
    for length in range(size):
        bad = disk.fork()
        bad.shorten("node", length)
        with pytest.raises(NodeHeaderDamaged):
            start(bad)
    bad = disk.fork()
    bad.unlink("node")
    with pytest.raises(NodeHeaderDamaged):
        start(bad)


async def test_a_missing_segment_is_a_gap_wherever_it_is() -> None:
    """C9: the log's last trailer says which segments must exist, also the newest one, which is empty."""
    disk = MemoryDisk()
    paths = await a_log(disk)
    assert len(paths) >= 5
    for path in paths[:-1]:
        bad = disk.fork()
        bad.unlink(path)
        with pytest.raises(SegmentGap, match=path):
            start(bad)
    bad = disk.fork()
    for path in paths:
        bad.unlink(path)
    with pytest.raises(SegmentGap):
        start(bad)


async def test_files_of_another_node_or_cluster_are_refused() -> None:
    one, other = MemoryDisk(), MemoryDisk()
    paths = await a_log(one, seed=1)
    await a_log(other, seed=2)
    foreign = one.fork()
    foreign.shorten(paths[1], 0)
    foreign.damage(paths[1], 0, other.read(paths[1]))
    with pytest.raises(ForeignDirectory, match=paths[1]):
        start(foreign)
    async with opened(one) as storage:
        await storage.set_cluster(5)
        with pytest.raises(ForeignDirectory):
            await storage.set_cluster(6)
    async with opened(one) as storage:
        storage.append([record(100, size=4000)])
        await storage.drain()
    header = one.read("node")
    body = header[:24] + struct.pack("<Q", 6) + header[32:-4]
    one.damage("node", 0, body + struct.pack("<I", crc32c(body)))
    with pytest.raises(ForeignDirectory):
        start(one)


async def test_a_segment_under_another_name_is_refused() -> None:
    disk = MemoryDisk()
    paths = await a_log(disk)
    data = disk.read(paths[2])
    disk.shorten(paths[1], 0)
    disk.damage(paths[1], 0, data)
    with pytest.raises(ForeignDirectory):
        start(disk)


async def test_newer_formats_are_refused() -> None:
    disk = MemoryDisk()
    paths = await a_log(disk)
    newer = disk.fork()
    header = disk.read("node")
    body = header[:8] + struct.pack("<H", 2) + header[10:-4]
    newer.damage("node", 0, body + struct.pack("<I", crc32c(body)))
    with pytest.raises(NewerFormat):
        start(newer)
    page = disk.read(paths[2])[:64]
    fields = page[:8] + struct.pack("<H", 2) + page[10:]
    for at in (0, 2048):
        disk.damage(paths[2], at, fields + struct.pack("<I", crc32c(fields)))
    with pytest.raises(NewerFormat, match=paths[2]):
        start(disk)


async def test_a_newer_manifest_is_refused_and_not_replaced() -> None:
    """Taken for a damaged one, it would give way to a snapshot of a peer, and with it what only it knew."""
    disk = MemoryDisk()
    async with opened(disk) as storage:
        storage.append([create()])
        await storage.drain()
        await storage.group_files(GROUP, INCARNATION).write_manifest(a_manifest(MANIFEST_VERSION))
    path = f"groups/{GROUP}-{INCARNATION}/manifest"
    assert start(disk.fork()).recovered.groups[GROUP].manifest is not None
    disk.damage(path, 0, encode_manifest(a_manifest(MANIFEST_VERSION + 1)))
    with pytest.raises(NewerFormat):
        start(disk)


def a_manifest(version: int) -> Manifest:
    return Manifest(
        group=GROUP,
        incarnation=INCARNATION,
        index=0,
        term=0,
        members=b"",
        time=0,
        kind="test",
        rolling_hash=0,
        version=version,
    )


async def test_a_segment_header_survives_one_bad_sector_and_not_two() -> None:
    disk = MemoryDisk()
    paths = await a_log(disk)
    expected = decode_segment_header(disk.read(paths[1])[:DATA_START], "")
    for at in (0, 2048):
        one = disk.fork()
        one.damage(paths[1], at, bytes(512))
        assert decode_segment_header(one.read(paths[1])[:DATA_START], "") == expected
        assert not start(one).recovered.groups[2].closed
    for at in (0, 2048):
        disk.damage(paths[1], at, bytes(512))
    with pytest.raises(LogDamaged, match=paths[1]) as caught:
        start(disk)
    assert (caught.value.file, caught.value.offset, caught.value.exit_code) == (paths[1], 0, 66)


async def test_a_refused_start_changes_nothing_and_frees_the_lock() -> None:
    disk = MemoryDisk()
    paths = await a_log(disk)
    data = disk.read(paths[1])
    disk.unlink(paths[1])
    disk.operations.clear()
    with pytest.raises(SegmentGap):
        start(disk)
    assert {operation for operation, _ in disk.operations} <= {"sync", "sync directory"}
    disk.close(disk.open(paths[1], create=True))
    disk.damage(paths[1], 0, data)
    assert start(disk).recovered.groups[2].last_index == 60


async def test_a_start_deletes_nothing_that_holds_a_record() -> None:
    disk = MemoryDisk()
    paths = await a_log(disk)
    before = {path: disk.read(path) for path in paths[:-1]}
    disk.kill()
    disk.operations.clear()
    start(disk)
    assert not [
        path
        for operation, path in disk.operations
        if operation in ("unlink", "rmdir", "truncate") and path != "wal/new.tmp"
    ]
    assert {path: disk.read(path) for path in paths[:-1]} == before
