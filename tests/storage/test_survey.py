"""A look at a stopped directory: it finds what a start would find, every damage, and changes nothing."""

from __future__ import annotations

import itertools
from pathlib import Path
from random import Random

import pytest
import trio

from trimaran.storage import (
    CompactPrefix,
    DirectoryLocked,
    FileDisk,
    FileEntry,
    LogDamaged,
    Manifest,
    MemoryDisk,
    NodeHeaderDamaged,
    SegmentGap,
    Storage,
)
from trimaran.storage.segment import BATCH, DATA_START, HEADER_COPY, SegmentScan, decode_segment_header
from trimaran.storage.survey import Damage, ReadOnlyDisk, Survey, survey

from .helpers import GROUP, INCARNATION, batch, create, opened, record, state

DIRECTORY = f"groups/{GROUP}-{INCARNATION}"
BATCHES = 60


def look(disk: MemoryDisk) -> Survey:
    """A survey, which must not change anything."""
    disk.kill()
    disk.operations.clear()
    found = survey(disk, files=True)
    assert disk.operations == []
    return found


async def write(disk: MemoryDisk, *, count: int = BATCHES) -> dict[int, int]:
    """Several segments, a group of `count` batches with a manifest at 10 and a file, and another group.

    Returns the bytes that each group pins.
    """
    async with opened(disk) as storage:
        storage.append([create(), create(3), state(3, vote=1)])
        for index in range(1, count + 1):
            storage.append([record(index, size=4000, term=1 + index // 20)])
            await storage.drain()
        await snapshot(storage, b"0123456789" * 20)
        storage.append([record(1, group=3)])
        await storage.drain()
        await trio.sleep(1)  # the mark
        return storage.pinned()


async def snapshot(storage: Storage, data: bytes) -> None:
    from trimaran.codec import crc32c

    files = storage.group_files(GROUP, INCARNATION)
    files.write("a", 0, data)
    await files.sync(["a"])
    manifest = Manifest(
        group=GROUP,
        incarnation=INCARNATION,
        index=10,
        term=1,
        members=b"",
        time=0,
        kind="test",
        rolling_hash=0,
        files=(FileEntry("a", len(data), crc32c(data)),),
    )
    crc = await files.write_manifest(manifest)
    files.write("a", len(data), b"behind the manifest")
    storage.append([CompactPrefix(GROUP, INCARNATION, 10, 1, crc)])
    await storage.drain()


async def test_a_sound_directory_is_described(autojump_clock: trio.testing.MockClock) -> None:
    disk = MemoryDisk()
    pinned = await write(disk)
    found = look(disk)
    assert found.damages == [] and found.torn is None and found.orphans == ()
    assert (found.node.name, found.node.cluster_id) == ("n1", 0)
    assert len(found.segments) >= 4
    assert sum(each.batches for each in found.segments) == BATCHES + 1
    assert sum(each.entries for each in found.segments) == BATCHES + 1
    sequences = [(each.first, each.last) for each in found.segments if each.writes]
    assert sequences[0][0] == 1
    assert all(one[1] + 1 == other[0] for one, other in itertools.pairwise(sequences))
    mine, other = found.groups
    assert (mine.found.group, mine.found.name, mine.found.term, mine.found.vote) == (
        GROUP,
        f"group {GROUP}",
        3,
        1,
    )
    assert (mine.found.compacted.index, mine.found.last_index) == (10, BATCHES)
    assert mine.terms == ((1, 11), (2, 20), (3, 40), (4, 60))
    assert mine.found.manifest is not None and mine.found.manifest.index == 10
    assert {each.found.group: each.pinned_bytes for each in found.groups if each.pinned_bytes} == pinned
    assert (other.found.group, other.found.last_index) == (3, 1)
    async with opened(disk) as storage:
        assert storage.recovered.groups[GROUP].last_index == BATCHES


async def test_the_last_write_counts_although_no_mark_follows_it() -> None:
    disk = MemoryDisk()
    async with opened(disk) as storage:
        storage.append([create(), record(1), record(2)])
        await storage.drain()
    found = look(disk)
    [group] = found.groups
    assert group.found.last_index == 2
    assert found.tail[GROUP, 2] == batch(2)


async def test_a_torn_end_is_no_damage() -> None:
    torn = 0
    for seed in range(20):
        disk, cut = MemoryDisk(), list[MemoryDisk]()

        def before(operation: str, path: str, disk: MemoryDisk = disk, cut: list[MemoryDisk] = cut) -> None:
            if operation == "sync" and path.startswith("wal/0") and not cut:
                cut.append(disk.fork())  # as it is when the power fails now

        async with opened(disk, seed=seed) as storage:
            storage.append([create()])
            await storage.drain()
            disk.before = before
            storage.append([record(1, size=3000)])
            await storage.drain()
        cut[0].crash(Random(seed))
        found = look(cut[0])
        assert found.damages == []
        torn += found.torn is not None
    assert torn > 3


def places(disk: MemoryDisk) -> dict[int, tuple[str, int, int]]:
    """index -> (file, offset, length) of the group's batches."""
    found: dict[int, tuple[str, int, int]] = {}
    for name in disk.listdir("wal"):
        if name.endswith(".wal"):
            data = disk.read(f"wal/{name}")
            header = decode_segment_header(data[:DATA_START], name)
            for write in SegmentScan(data, header).writes():
                for each in write.records:
                    if each.kind == BATCH and each.group == GROUP:
                        found[each.index] = (f"wal/{name}", each.offset, each.length)
    return found


async def test_every_damaged_batch_is_named_dead_or_alive(autojump_clock: trio.testing.MockClock) -> None:
    disk = MemoryDisk()
    await write(disk)
    where = places(disk)
    for index in (min(where), 30, 31, 50):
        path, offset, length = where[index]
        disk.damage(path, offset + length // 2, b"damage")
    found = look(disk)
    named = {(each.file, each.offset, each.group, each.first, each.last) for each in found.damages}
    first = min(where)
    assert named >= {(where[first][0], where[first][1], GROUP, first, first)}
    assert (where[50][0], where[50][1], GROUP, 50, 50) in named
    assert {index for each in found.damages for index in range(each.first, each.last + 1)} == {
        first,
        30,
        31,
        50,
    }
    assert [(each.first, each.last) for each in found.groups[0].found.faulty] == [(30, 31), (50, 50)]
    assert f"index {first}" in str(next(each for each in found.damages if each.first == first))


async def test_any_flipped_bit_in_what_was_written_is_found(autojump_clock: trio.testing.MockClock) -> None:
    """Bit by bit through all that has a checksum: each flip is told as damage, or refused as at a start."""
    disk = MemoryDisk()
    await write(disk, count=20)
    sound = look(disk)
    ends = {each.file: DATA_START + each.used_bytes for each in sound.segments if each.writes}
    last = max(ends)
    random = Random(5)
    targets = [
        (path, random.randrange(DATA_START, end))
        for path, end in ends.items()
        if path != last
        for _ in range(40)
    ]
    targets += [("node", random.randrange(len(disk.read("node")))) for _ in range(10)]
    targets += [
        (f"{DIRECTORY}/manifest", random.randrange(len(disk.read(f"{DIRECTORY}/manifest"))))
        for _ in range(10)
    ]
    targets += [(f"{DIRECTORY}/a", random.randrange(200)) for _ in range(10)]
    targets += [(path, at + random.randrange(60)) for path in ends for at in (0, HEADER_COPY)]
    missed = []
    for path, offset in targets:
        hurt = disk.fork()
        hurt.damage(path, offset, bytes([hurt.read(path)[offset] ^ 0x10]))
        try:
            found = look(hurt)
        except NodeHeaderDamaged:
            assert path == "node"
            continue
        if not any(each.file == path for each in found.damages) and not _is_padding(disk, path, offset):
            missed.append((path, offset))
    assert missed == []


def _is_padding(disk: MemoryDisk, path: str, offset: int) -> bool:
    """Zeros that fill a write up to the next sector have no checksum of their own and no meaning."""
    data = disk.read(path)
    return not any(data[offset - 8 : offset + 8])


async def test_damage_in_a_group_s_files_is_named(autojump_clock: trio.testing.MockClock) -> None:
    disk = MemoryDisk()
    await write(disk)
    whole = disk.fork()
    disk.damage(f"{DIRECTORY}/a", 77, b"?")
    assert look(disk).damages == [Damage(f"{DIRECTORY}/a", 0, "a wrong checksum", GROUP)]
    disk = whole.fork()
    disk.damage(f"{DIRECTORY}/a", 205, b"?")
    assert look(disk).damages == [], "what no manifest names is nobody's"
    disk.shorten(f"{DIRECTORY}/a", 150)
    assert look(disk).damages == [Damage(f"{DIRECTORY}/a", 150, "50 bytes are missing at its end", GROUP)]
    disk.unlink(f"{DIRECTORY}/a")
    found = look(disk)
    assert found.damages == [Damage(f"{DIRECTORY}/a", 0, "it is missing", GROUP)]
    assert found.groups[0].found.broken == ("a",)
    disk = whole.fork()
    disk.damage(f"{DIRECTORY}/manifest", 9, b"?")
    assert [each.file for each in look(disk).damages] == [f"{DIRECTORY}/manifest"]
    disk.unlink(f"{DIRECTORY}/manifest")
    assert look(disk).damages == [Damage(f"{DIRECTORY}/manifest", 0, "the manifest is missing", GROUP)]


async def test_what_a_start_refuses_is_refused_here(autojump_clock: trio.testing.MockClock) -> None:
    disk = MemoryDisk()
    await write(disk)
    names = [f"wal/{name}" for name in disk.listdir("wal") if name.endswith(".wal")]
    gap = disk.fork()
    gap.unlink(names[2])
    with pytest.raises(SegmentGap):
        look(gap)
    headless = disk.fork()
    headless.damage(names[1], 0, bytes(DATA_START))
    with pytest.raises(LogDamaged):
        look(headless)
    nobody = disk.fork()
    nobody.unlink("node")
    with pytest.raises(NodeHeaderDamaged):
        look(nobody)


def test_a_running_node_is_left_alone_and_nothing_is_ever_changed(tmp_path: Path) -> None:
    async def make() -> None:
        async with opened(FileDisk(tmp_path / "data")) as storage:
            storage.append([create(), record(1)])
            await storage.drain()
            with pytest.raises(DirectoryLocked):
                survey(ReadOnlyDisk(tmp_path / "data"), files=True)

    trio.run(make)
    before = {each: (each.stat().st_mtime_ns, each.stat().st_size) for each in tmp_path.rglob("*")}
    disk = ReadOnlyDisk(tmp_path / "data")
    assert survey(disk, files=True).damages == []
    assert {each: (each.stat().st_mtime_ns, each.stat().st_size) for each in tmp_path.rglob("*")} == before
    for change in (
        lambda: disk.open("node", write=True),
        lambda: disk.open("new", create=True),
        lambda: disk.rename("node", "other"),
        lambda: disk.link("node", "other"),
        lambda: disk.unlink("node"),
        lambda: disk.mkdir("new"),
        lambda: disk.rmdir("wal"),
        lambda: disk.pwritev(0, [b"x"], 0),
        lambda: disk.truncate(0, 0),
    ):
        with pytest.raises(OSError, match="Read-only"):
            change()
    lock = disk.lock("LOCK")
    with pytest.raises(DirectoryLocked):
        FileDisk(tmp_path / "data").lock("LOCK")
    disk.close(lock)
