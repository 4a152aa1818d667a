"""Damage to the disks of a cluster in memory: where a batch, a write or a file lies, and what befalls it."""

from __future__ import annotations

from collections.abc import Iterator

from trimaran.actors.cluster.meta_state import META_GROUP
from trimaran.codec import BATCH_HEADER_SIZE
from trimaran.storage.memory_disk import MemoryDisk
from trimaran.storage.segment import (
    BATCH,
    CREATE,
    DATA_START,
    Found,
    SegmentScan,
    Write,
    decode_segment_header,
)
from trimaran.storage.wal import segment_numbers, segment_path


def writes(disk: MemoryDisk) -> Iterator[tuple[str, Write]]:
    """Every write of the log with its file, oldest first."""
    for number in segment_numbers(disk):
        path = segment_path(number)
        data = disk.read(path)
        for write in SegmentScan(data, decode_segment_header(data[:DATA_START], path)).writes():
            yield path, write


def batches(disk: MemoryDisk, group: int) -> list[tuple[str, Found]]:
    """Every batch record of a group with its file, in the order in which they were written."""
    return [
        (path, record)
        for path, write in writes(disk)
        for record in write.records
        if record.kind == BATCH and record.group == group
    ]


def flip(disk: MemoryDisk, path: str, offset: int) -> None:
    """One bit of a file changes where it lies."""
    disk.damage(path, offset, bytes([disk.read(path)[offset] ^ 0x20]))


def hurt_batches(disk: MemoryDisk, group: int, *indexes: int) -> None:
    """Every copy of these batches in the log gets a bit flipped behind its header."""
    found = [(path, record) for path, record in batches(disk, group) if record.index in indexes]
    assert {record.index for _, record in found} == set(indexes)
    for path, record in found:
        flip(disk, path, record.offset + min(record.length - 1, BATCH_HEADER_SIZE + 1))


def hurt_creation(disk: MemoryDisk, group: int) -> None:
    """Every copy of the record that made a group gets a bit flipped."""
    found = [
        (path, record)
        for path, write in writes(disk)
        for record in write.records
        if record.kind == CREATE and record.group == group
    ]
    assert found
    for path, record in found:
        flip(disk, path, record.offset + 8)


def lose_write(disk: MemoryDisk, group: int) -> None:
    """The middle one of the writes that have a batch of the group is gone, with all its names."""
    having = [
        (path, write)
        for path, write in writes(disk)
        if any(record.kind == BATCH and record.group == group for record in write.records)
    ]
    path, write = having[len(having) // 2]
    disk.damage(path, write.start, bytes(write.end - write.start))


def lose_writes(disk: MemoryDisk, group: int, count: int) -> None:
    """The last so many writes with a batch of the group are gone, but for the very last one of the log.

    Those that say who founded the cluster stay: without them a node does not start.
    """
    found = list(writes(disk))[:-1]
    having = [
        (path, write)
        for path, write in found
        if any(record.kind == BATCH and record.group == group for record in write.records)
        and not any(record.kind == CREATE and record.group == META_GROUP for record in write.records)
    ]
    for path, write in having[-count:]:
        disk.damage(path, write.start, bytes(write.end - write.start))


def lose_group(disk: MemoryDisk, group: int) -> None:
    """Every write with a record of the group is gone, but for the very last one of the log."""
    for path, write in list(writes(disk))[:-1]:
        if any(record.group == group for record in write.records):
            disk.damage(path, write.start, bytes(write.end - write.start))


def group_files(disk: MemoryDisk, group: int) -> dict[str, str]:
    """The files of a group, if it has any: name -> path."""
    paths = [f"groups/{name}" for name in disk.listdir("groups") if name.startswith(f"{group}-")]
    return {name: f"{path}/{name}" for path in paths for name in disk.listdir(path) if name != "quarantine"}
