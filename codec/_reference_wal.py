"""Sealing and reading the log's writes in Python: the model of `csrc/wal.c`, or its stand-in."""

from __future__ import annotations

import struct
from array import array
from dataclasses import dataclass
from typing import Final

from ._reference_batch import verify_batch
from ._reference_crc32c import crc32c
from .chunk import Buffer
from .errors import BadLength, CodecError
from .wal_types import Columns, Cursor, Run, WriteReader

_FRAME: Final = struct.Struct("<IBBHIIQQQQII")
_HEAD: Final = struct.Struct("<IIII")
_TAIL: Final = struct.Struct("<II")
_U32: Final = struct.Struct("<I")
_SEQUENCE: Final = struct.Struct("<Q")
_AT_LENGTH: Final = 8
_AT_SEQUENCE: Final = 16
_BATCH: Final = 1
_LOST: Final = 2
_TRAILER: Final = 255
_SECTOR: Final = 512
_NO_ROOM: Final = -1
_HIGHEST_PLACE: Final = (1 << 32) - 1


@dataclass(slots=True)
class _Record:
    group: int
    incarnation: int
    index: int
    term: int
    kind: int
    flags: int
    offset: int
    """In what is read; once it counts, in the segment."""
    length: int
    crc: int
    batch_kind: int = 0

    def continues(self, run: Run) -> bool:
        plain = run.kind == self.kind == _BATCH and not run.flags and not self.flags
        same = (run.group, run.incarnation) == (self.group, self.incarnation)
        return plain and same and run.index + run.count == self.index


def seal_write(
    frames: bytearray,
    bodies: int,
    *,
    sequence: int,
    newest: int,
    known_synced: int,
    oldest: int,
    tag: int,
    seed: int,
    chain: int,
) -> tuple[bytearray, int]:
    """Seal a write's frames where they lie: tag, sequence and checksum of each.

    `frames` are 56 bytes for each record; `bodies` is how many bytes all records have together. Returns the
    trailer with its frame and the chain's new value. BadLength if the lengths in the frames are not those
    bytes, or the write would have 4 GiB.
    """
    starts = range(0, len(frames), _FRAME.size)
    before = len(frames) + bodies
    least = _FRAME.size + _HEAD.size + len(frames) + _TAIL.size
    size = least + -(before + least) % _SECTOR
    lengths = sum(_U32.unpack_from(frames, at + _AT_LENGTH)[0] for at in starts)
    if lengths != bodies or before + size > _HIGHEST_PLACE:
        raise BadLength("the frames of a write do not add up to its bodies, or it is too long")
    for at in starts:
        _U32.pack_into(frames, at, tag)
        _SEQUENCE.pack_into(frames, at + _AT_SEQUENCE, sequence)
        _sum_frame(frames, at, seed)
    # Not of the frames themselves: a CRC that runs over something and over its own CRC says nothing about it.
    checksums = b"".join(frames[at + _FRAME.size - 4 : at + _FRAME.size] for at in starts)
    new_chain = crc32c(checksums, chain)
    body = _HEAD.pack(before + size, chain, new_chain, len(starts)) + frames
    body += bytes(size - _FRAME.size - len(body) - _TAIL.size) + _TAIL.pack(size, tag)
    identity = (tag, _TRAILER, 0, 0, len(body), 0, sequence, newest, known_synced, oldest)
    trailer = bytearray(_FRAME.pack(*identity, crc32c(body), 0) + body)
    _sum_frame(trailer, 0, seed)
    return trailer, new_chain


def _sum_frame(frames: bytearray, at: int, seed: int) -> None:
    end = at + _FRAME.size - 4
    _U32.pack_into(frames, end, crc32c(frames[at:end], seed))


def write_reader(capacity: int) -> WriteReader:
    """A reader that takes in so many records with one `read`."""
    return _WriteReader(capacity)


def has_tag(data: Buffer, tag: int) -> bool:
    """Whether the tag is where a write has it, at a sector's begin or end; `data` begins with a sector."""
    wanted = tag.to_bytes(4, "little")
    ends = (end for at in range(0, len(data), _SECTOR) for end in (at, at + _SECTOR - 4))
    return any(data[at : at + 4] == wanted for at in ends)


class _WriteReader:
    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._records: list[_Record] = []

    def read(self, data: Buffer, cursor: Cursor) -> bool:
        self._records = []
        cursor.writes = cursor.records = cursor.last_records = 0
        if cursor.position < cursor.base:
            return False
        view = memoryview(data)[: _HIGHEST_PLACE - cursor.base]
        while (found := _frames(view, cursor, self._capacity - cursor.records)) is not None:
            records, trailer = found
            if trailer == _NO_ROOM:
                return True
            if not _take(view, cursor, records, trailer):
                break
            self._records += records
        return False

    def columns(self, first: int, last: int) -> Columns:
        by_group: dict[int, list[_Record]] = {}
        for record in self._records[first:last]:
            by_group.setdefault(record.group, []).append(record)
        columns = Columns([], array("I"), array("I"), array("I"), array("Q"), array("B"))
        for record in (record for records in by_group.values() for record in records):
            if columns.runs and record.continues(columns.runs[-1]):
                columns.runs[-1].count += 1
            else:
                place = (record.group, len(columns.offsets), 1, record.kind, record.flags)
                columns.runs.append(Run(record.incarnation, record.index, *place))
            columns.offsets.append(record.offset)
            columns.lengths.append(record.length)
            columns.crcs.append(record.crc)
            columns.terms.append(record.term)
            columns.kinds.append(record.batch_kind)
        return columns


def _frames(view: memoryview, cursor: Cursor, room: int) -> tuple[list[_Record], int] | None:
    """The records of the write at the cursor by their frames, and where in `view` its trailer's frame lies.

    The latter is _NO_ROOM if there are more records than that.
    """
    at, sequence = cursor.position - cursor.base, cursor.sequence
    records: list[_Record] = []
    while at <= len(view) - _FRAME.size:
        tag, kind, flags, _, length, group, found, incarnation, index, term, crc, _ = _FRAME.unpack_from(
            view, at
        )
        if tag != cursor.tag or not 0 < found <= cursor.limit or (sequence and found != sequence):
            return None
        if kind == _TRAILER:
            return records, at
        sequence = found
        at += _FRAME.size
        if kind == 0 or length > len(view) - at:
            return None
        if len(records) == room:
            return records, _NO_ROOM
        records.append(_Record(group, incarnation, index, term, kind, flags, at, length, crc))
        at += length
    return None


def _take(view: memoryview, cursor: Cursor, records: list[_Record], trailer: int) -> bool:
    """Moves the cursor behind a write if its trailer and all of its records are sound."""
    frame = _FRAME.unpack_from(view, trailer)
    length, sequence, newest, known_synced, oldest, body_crc, frame_crc = (frame[4], *frame[6:])
    body = view[trailer + _FRAME.size :][:length]
    if len(body) < length or length < _HEAD.size + _TAIL.size + len(records) * _FRAME.size:
        return False
    if crc32c(view[trailer : trailer + _FRAME.size - 4], cursor.seed) != frame_crc:
        return False
    if crc32c(body) != body_crc:
        return False
    total, chain, new_chain, count = _HEAD.unpack_from(body)
    end = cursor.base + trailer + _FRAME.size + length
    if (total, chain, count) != (end - cursor.position, cursor.chain, len(records)):
        return False
    frames = b"".join(view[record.offset - _FRAME.size : record.offset] for record in records)
    checksums = b"".join(view[record.offset - 4 : record.offset] for record in records)
    if body[_HEAD.size :][: len(frames)] != frames or crc32c(checksums, chain) != new_chain:
        return False
    if not all(_is_named(view, record) for record in records):
        return False
    for record in records:
        record.offset += cursor.base
    cursor.known_synced, cursor.oldest, cursor.newest = known_synced, oldest, newest
    cursor.last_start, cursor.last_records = cursor.position, count
    cursor.position, cursor.sequence, cursor.chain = end, sequence + 1, new_chain
    cursor.writes += 1
    cursor.records += count
    return True


def _is_named(view: memoryview, record: _Record) -> bool:
    """Whether the body is sound and the very one that its frame names."""
    body = view[record.offset : record.offset + record.length]
    if record.kind != _BATCH:
        return crc32c(body) == record.crc
    if record.flags & _LOST:
        return record.length == 0
    try:
        header = verify_batch(body)
    except CodecError:
        return False
    record.batch_kind = header.kind
    named = (header.group, header.incarnation, header.index, header.term, header.header_crc)
    return named == (record.group, record.incarnation, record.index, record.term, record.crc)
