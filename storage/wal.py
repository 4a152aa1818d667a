"""The log as files: where segments lie, how one is prepared, and how a write reaches the disk.

Segments are numbered without gaps. They are written in order, become useless oldest first, and are zeros
on the disk before their first use, so that a sync while writing changes no metadata.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from ..codec import Buffer
from .disk import Disk
from .segment import DATA_START, Item, SegmentHeader, Vouch, build_write, decode_segment_header, write_size

WAL: Final = "wal"
SUFFIX: Final = ".wal"
NEW: Final = f"{WAL}/new.tmp"
RECYCLED: Final = f"{WAL}/recycled.tmp"
"""A file whose records are all dead, kept for its space. Names ending in .tmp mean nothing at start-up."""
MORE_RECYCLED: Final = tuple(f"{WAL}/recycled-{number}.tmp" for number in range(1, 8))
"""More of them: a snapshot lets several segments go at once, and the log fills as many until the next one.
Writing zeros instead would cost as much of the disk, and of new memory, as the log itself."""
RESERVE: Final = f"{WAL}/reserve.tmp"
"""A segment's worth of zeros for the day on which the disk is full: votes and what was accepted go on."""
LEAST_SHARE: Final = 4
"""What is left of a reserve must be this part of a segment to be one."""
SPACE_SHARE: Final = 32
"""More than one dead segment is kept only while so many times its size are free."""
ZEROS: Final = bytes(1 << 20)
ZERO_SYNC_BYTES: Final = 4 << 20
"""Zeros are synced in pieces of this size, so that the log's own syncs don't queue behind 64 MiB."""


def segment_path(number: int) -> str:
    return f"{WAL}/{number:016x}{SUFFIX}"


def segment_numbers(disk: Disk) -> list[int]:
    """The segments that are there, in order. Other names in the directory are none of the log's."""
    numbers = []
    for name in disk.listdir(WAL):
        stem = name.removesuffix(SUFFIX)
        if stem != name and len(stem) == 16 and all(digit in "0123456789abcdef" for digit in stem):
            numbers.append(int(stem, 16))
    return sorted(numbers)


@dataclass(frozen=True, slots=True)
class Segment:
    """A segment that is open for writing."""

    header: SegmentHeader
    descriptor: int

    @property
    def number(self) -> int:
        return self.header.number


def read_segment_header(disk: Disk, number: int) -> SegmentHeader:
    """The header of a segment, as the disk has it; see `decode_segment_header` for the errors."""
    path = segment_path(number)
    descriptor = disk.open(path)
    try:
        disk.drop_cache(descriptor)
        return decode_segment_header(disk.pread(descriptor, DATA_START, 0), path)
    finally:
        disk.close(descriptor)


def prepare_segment(
    disk: Disk, header: SegmentHeader, first_write: Sequence[Buffer] = (), *, recycle: bool = True
) -> Segment:
    """Makes a segment ready for use: zeros or recycled bytes, header, all durable, then its name.

    With `first_write` that write is in it before it has its name. An OSError leaves no half-made segment.
    """
    if recycle and (path := recycled(disk, header.size)) is not None:
        return _name_segment(disk, path, header, first_write)
    make_zeros(disk, NEW, header.size)
    return _name_segment(disk, NEW, header, first_write)


def recycled(disk: Disk, size: int) -> str | None:
    """A dead file of this size, if there is one: of several the one that was kept last, whose pages are the
    most likely to be in memory."""
    for path in reversed(MORE_RECYCLED):
        if not disk.exists(path):
            continue
        if _size_of(disk, path) == size and _is_alone(disk, path):
            return path
        disk.unlink(path)  # of other options; or a power loss gave a segment its former name back
    if _size_of(disk, RECYCLED) != size:
        return None
    if _is_alone(disk, RECYCLED):
        return RECYCLED
    # A start that was cut named it so, and the next one left the segment in its place: only the name goes.
    disk.unlink(RECYCLED)
    return None


def use_reserve(disk: Disk, header: SegmentHeader, first_write: Sequence[Buffer] = ()) -> Segment | None:
    """Makes the reserve a segment, whose size is then the reserve's; None if there is none worth it."""
    size = _size_of(disk, RESERVE)
    if size < max(header.size // LEAST_SHARE, DATA_START + sum(map(len, first_write))):
        return None
    return _name_segment(disk, RESERVE, replace(header, size=size), first_write)


def shrink_reserve(disk: Disk, size: int, whole: int) -> bool:
    """Gives so many bytes of the reserve back to the file system; False if too little would be left."""
    left = _size_of(disk, RESERVE) - size
    if left < whole // LEAST_SHARE:
        return False
    descriptor = disk.open(RESERVE, write=True)
    try:
        disk.truncate(descriptor, left)
        disk.fsync(descriptor)
    finally:
        disk.close(descriptor)
    return True


def _name_segment(disk: Disk, source: str, header: SegmentHeader, first_write: Sequence[Buffer]) -> Segment:
    descriptor = disk.open(source, write=True)
    try:
        disk.pwritev(descriptor, [header.encode()], 0)
        if first_write:
            disk.pwritev(descriptor, first_write, DATA_START)
        disk.fsync(descriptor)
        disk.rename(source, segment_path(header.number))
        disk.sync_directory(WAL)
    except OSError:
        disk.close(descriptor)
        raise
    return Segment(header, descriptor)


def make_zeros(disk: Disk, path: str, size: int) -> None:
    """A file of written zeros. An OSError leaves none, and a lack of space is found before it is used up."""
    if disk.exists(path):
        disk.unlink(path)  # half made; or a power loss gave a segment its former name back
    if disk.free_bytes() < size:
        raise OSError(errno.ENOSPC, f"{size} bytes are not free")
    descriptor = disk.open(path, create=True)
    try:
        _fill_with_zeros(disk, descriptor, size)
    except OSError:
        disk.unlink(path)  # it would keep the space that ran out
        raise
    finally:
        disk.close(descriptor)


def make_reserve(disk: Disk, size: int) -> None:
    """Sees to it that there is a reserve of this size."""
    if _size_of(disk, RESERVE) == size:
        return
    make_zeros(disk, NEW, size)
    disk.rename(NEW, RESERVE)
    disk.sync_directory(WAL)  # a power loss on a full disk is when it is needed


def take_over_segment(disk: Disk, header: SegmentHeader, first_write: Sequence[Buffer]) -> Segment:
    """Uses a segment without any valid write where it lies, for want of space to make another.

    If this is cut, either header copy leads to the same: no valid write is in the segment.
    """
    if disk.exists(RECYCLED):
        disk.unlink(RECYCLED)  # it may be a second name of this very file
    descriptor = disk.open(segment_path(header.number), write=True)
    try:
        disk.pwritev(descriptor, [header.encode()], 0)
        disk.pwritev(descriptor, first_write, DATA_START)
        disk.fsync(descriptor)
        disk.sync_directory(WAL)
    except OSError:
        disk.close(descriptor)
        raise
    return Segment(header, descriptor)


def retire_segment(disk: Disk, number: int, segment_bytes: int) -> None:
    """Gives a segment's file back, for recycling or to the file system. Nothing in it may be live.

    The name is durably gone before the next one goes and before the file gets a new header: the segments
    that remain have no gap, and none has another one's header.
    """
    path = segment_path(number)
    if not disk.exists(path):
        return
    kept = _place_for(disk, path) if _size_of(disk, path) == segment_bytes else None
    if kept is not None:
        disk.rename(path, kept)
    else:
        disk.unlink(path)
    disk.sync_directory(WAL)


def _place_for(disk: Disk, path: str) -> str | None:
    """A free name under which a dead segment can be kept; None if there are enough, or little space."""
    if not disk.exists(RECYCLED):
        return RECYCLED
    # Start-up gives a segment that it replaces a second name, the first one: no other may lead to that file.
    if not _is_alone(disk, path) or disk.free_bytes() < SPACE_SHARE * _size_of(disk, path):
        return None
    return next((place for place in MORE_RECYCLED if not disk.exists(place)), None)


def drop_recycled(disk: Disk) -> None:
    """Gives back what is kept beyond one segment: the space is needed."""
    for path in MORE_RECYCLED:
        if disk.exists(path):
            disk.unlink(path)


def _is_alone(disk: Disk, path: str) -> bool:
    descriptor = disk.open(path)
    try:
        return disk.names(descriptor) == 1
    finally:
        disk.close(descriptor)


def _size_of(disk: Disk, path: str) -> int:
    """Bytes of a file; 0 if there is none."""
    if not disk.exists(path):
        return 0
    descriptor = disk.open(path)
    try:
        return disk.size(descriptor)
    finally:
        disk.close(descriptor)


def _fill_with_zeros(disk: Disk, descriptor: int, size: int) -> None:
    """Really writes them: blocks that are only reserved cost a metadata write at their first use."""
    disk.truncate(descriptor, 0)
    for offset in range(0, size, len(ZEROS)):
        disk.pwritev(descriptor, [ZEROS[: min(len(ZEROS), size - offset)]], offset)
        if (offset + len(ZEROS)) % ZERO_SYNC_BYTES == 0 or offset + len(ZEROS) >= size:
            disk.fdatasync(descriptor)


@dataclass(slots=True)
class BuiltWrite:
    """A gathered write, ready for `Runner.write_and_sync`, and where each of its bodies will lie."""

    segment: Segment
    buffers: list[Buffer]
    start: int
    size: int
    items: list[Item]


class LogWriter:
    """Where the next write goes. Plain bookkeeping: it builds writes and performs none."""

    def __init__(self, segment: Segment, position: int, sequence: int, chain: int) -> None:
        self.segment = segment
        self.position = position
        """Where the next write begins in the segment."""
        self.sequence = sequence
        """Of the last write built."""
        self._chain = chain

    def room(self) -> int:
        """Bytes left in the segment."""
        return self.segment.header.size - self.position

    def fits(self, count: int, bodies: int) -> bool:
        """Whether a write of `count` records with these body bytes goes into the segment."""
        return write_size(count, bodies) <= self.room()

    def roll(self, segment: Segment) -> None:
        """Goes on in the next segment."""
        self.segment = segment
        self.position = DATA_START
        self._chain = segment.header.seed

    def build(self, items: list[Item], oldest: int, newest: int) -> BuiltWrite:
        """The next write. With one write in flight at most, every one before it is synced."""
        self.sequence += 1
        vouch = Vouch(known_synced=self.sequence - 1, oldest=oldest, newest=newest)
        buffers, size, self._chain = build_write(
            items, self.segment.header, self.sequence, self._chain, vouch
        )
        built = BuiltWrite(self.segment, buffers, self.position, size, items)
        self.position += size
        return built
