"""What the sound writes of a segment say, sorted by group, and the file that repeats it for a fast start.

A closed segment never changes, so what it contains can be written down beside it: ``wal/<number>.toc``, its
table of contents. It is a cache and nothing else. It is never synced; one that is missing, damaged or of an
earlier use of the segment's file costs a scan of the segment, no more.

    header  magic 8 | version u16 | zero u16 | sections u32 | segment u64 | salt u64 | first sequence u64 |
            last sequence u64 | known synced u64 | oldest u64 | newest u64 | end u32 | body bytes u32 |
            CRC32C of the body u32 | CRC32C of the header u32
    body    sections, each: runs u32 | records u32 | bytes of bodies u32 | zero u32 |
            runs (incarnation u64, index u64, group u32, start u32, count u32, kind u8, flags u8, zero u16) |
            offsets u32 each | lengths u32 each | checksums u32 each | terms u64 each | batch kinds u8 each |
            bodies of the records that are no batches
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import starmap
from typing import Final

from ..codec import crc32c
from ..codec.wal import NO_LIMIT, Columns, Cursor, Run, WriteReader, has_tag, write_reader
from .disk import Disk
from .index import LogIndex, Place
from .node import read_file
from .segment import (
    BATCH,
    DATA_START,
    LOST,
    SECTOR,
    Item,
    SegmentHeader,
    Vouch,
    is_batch,
)

TOC_MAGIC: Final = b"TRIMTOC\0"
TOC_VERSION: Final = 1
_HEADER: Final = struct.Struct("<8sHHIQQQQQQQIII")
_U32: Final = struct.Struct("<I")
TOC_HEADER_SIZE: Final = _HEADER.size + _U32.size
_SECTION: Final = struct.Struct("<IIII")
_RUN: Final = struct.Struct("<QQIIIBBxx")
RECORDS_AT_ONCE: Final = 1 << 17
"""Records read by one call. A write with more (of 64 bytes each, 8 MiB) is left to the careful reader."""
WINDOW_BYTES: Final = 16 << 20
"""Read at once: above the usual largest write, and small enough to be kept and used again, for memory that
was never touched costs more than reading into it."""


class TocUnusable(Exception):
    """A table of contents that is damaged, of another version, or not of this use of the segment."""


@dataclass(slots=True)
class Section:
    """Records of successive writes, sorted by group; each group's are in order."""

    columns: Columns
    bodies: list[bytes]
    """Of the runs that are no batches, in their order."""

    def apply(self, index: LogIndex, segment: int) -> None:
        """Takes every record into the index."""
        columns, bodies = self.columns, iter(self.bodies)
        for run in columns.runs:
            if run.kind == BATCH and not run.flags:
                index.apply_run(run, columns, segment)
                continue
            at = run.start
            index.apply(
                run.kind,
                run.flags,
                run.group,
                run.incarnation,
                run.index,
                columns.terms[at],
                segment=segment,
                offset=columns.offsets[at],
                length=columns.lengths[at],
                body=b"" if run.kind == BATCH else next(bodies),
                batch_kind=columns.kinds[at],
                crc=columns.crcs[at],
            )

    def items(self, data: bytes, base: int) -> list[Item] | None:
        """Every record with its body out of `data`, whose first byte has the place `base` in the segment.

        None if these are not the bytes among which the records were found.
        """
        columns, bodies = self.columns, iter(self.bodies)
        items: list[Item] = []
        for run in columns.runs:
            body = None if run.kind == BATCH else next(bodies)
            for number in range(run.count):
                found = _body(columns, run.start + number, data, base)
                item = _item(run, number, columns, found)
                if item is None or body not in (None, found):
                    return None
                items.append(item)
        return items


def _item(run: Run, number: int, columns: Columns, body: bytes) -> Item | None:
    """The record of a run with this body; None if that is not the batch which the run has there."""
    index, term, crc = run.index + number, columns.terms[run.start + number], columns.crcs[run.start + number]
    has_batch = run.kind == BATCH and not run.flags & LOST
    if has_batch and not is_batch(body, run.group, run.incarnation, index, term, crc):
        return None
    return Item(run.kind, run.flags, run.group, run.incarnation, index, term, body, crc)


@dataclass(slots=True)
class Contents:
    """The sound writes from a segment's begin on. Places are in the segment."""

    first: int = 0
    """Sequence of the first one; 0 if there is none."""
    last: int = 0
    """Sequence of the last one."""
    end: int = DATA_START
    """Where the last one ends."""
    chain: int = 0
    """The chain's value behind it; not known from a table of contents."""
    vouch: Vouch = field(default_factory=lambda: Vouch(0, 0, 0))
    """What the last one says."""
    last_start: int = 0
    """Where the last one begins; 0 from a table of contents."""
    clean: bool = True
    """Nothing behind them looks like a part of a write."""
    size: int = 0
    """Bytes of the segment's file."""
    sections: list[Section] = field(default_factory=list)
    """The records of all writes, or of all but the last one if `last_section` has those."""
    last_section: Section | None = None

    @property
    def writes(self) -> int:
        return self.last - self.first + 1 if self.first else 0

    def all_sections(self) -> Iterator[Section]:
        yield from self.sections
        if self.last_section is not None:
            yield self.last_section


class SegmentReader:
    """Reads segments, one after the other, as far as they are sound. For one thread at a time."""

    def __init__(self, disk: Disk, *, keep_cache: bool = False) -> None:
        """With `keep_cache` the system's cached pages are believed: never for what a start-up vouches for."""
        self._disk = disk
        self._keep_cache = keep_cache
        self._reader = write_reader(RECORDS_AT_ONCE)
        self._buffer = bytearray()

    def read(self, path: str, header: SegmentHeader, limit: int = NO_LIMIT) -> Contents:
        """The contents up to the write with the sequence `limit`."""
        descriptor = self._disk.open(path)
        try:
            if not self._keep_cache:
                self._disk.drop_cache(descriptor)
            return self._read(descriptor, self._disk.size(descriptor), header, limit)
        finally:
            self._disk.close(descriptor)
            self._buffer = bytearray()  # it may be long until the next one

    def _read(self, descriptor: int, size: int, header: SegmentHeader, limit: int) -> Contents:
        contents = Contents(chain=header.seed, size=size)
        cursor = Cursor(DATA_START, 0, header.seed, header.tag, header.seed, limit, base=DATA_START)
        if len(self._buffer) < min(WINDOW_BYTES, size):
            self._buffer = bytearray(min(WINDOW_BYTES, size))
        filled = 0
        while True:
            with memoryview(self._buffer) as view:
                count = self._disk.read_into(descriptor, view[filled:], cursor.base + filled)
                filled += count
                self._scan(view[:filled], cursor, contents)
                used = cursor.position - cursor.base
                at_end = not count or cursor.base + filled >= size
                if at_end or not _begins_write(view[used:filled], cursor.tag):
                    break
                view[: filled - used] = view[used:filled]
            if not used:
                self._buffer += bytes(len(self._buffer))  # the write is larger than the window
            filled -= used
            cursor.base = cursor.position
        contents.clean = not self._has_more(descriptor, size, contents.end, cursor.tag)
        return contents

    def _scan(self, window: memoryview, cursor: Cursor, contents: Contents) -> None:
        more = True
        while more:
            more = self._reader.read(window, cursor)
            if not cursor.writes:
                return
            _take(contents, cursor, self._reader, window)

    def _has_more(self, descriptor: int, size: int, end: int, tag: int) -> bool:
        """Whether anything from the sector of `end` on looks like the begin or end of a write."""
        place = end - end % SECTOR
        while place < size:
            with memoryview(self._buffer) as view:
                length = self._disk.read_into(descriptor, view, place)
                if has_tag(view[:length], tag):
                    return True
            if not length:
                break
            place += length
        return False


def _begins_write(rest: memoryview, tag: int) -> bool:
    """Whether there may be a write that goes on behind the window."""
    return len(rest) < _U32.size or _U32.unpack_from(rest)[0] == tag


def _take(contents: Contents, cursor: Cursor, reader: WriteReader, window: memoryview) -> None:
    before = cursor.records - cursor.last_records
    if contents.last_section is not None:
        contents.sections.append(contents.last_section)
    if before:
        contents.sections.append(_section(reader, 0, before, window, cursor.base))
    contents.last_section = _section(reader, before, cursor.records, window, cursor.base)
    contents.first = contents.first or cursor.sequence - cursor.writes
    contents.last = cursor.sequence - 1
    contents.end, contents.chain, contents.last_start = cursor.position, cursor.chain, cursor.last_start
    contents.vouch = Vouch(cursor.known_synced, cursor.oldest, cursor.newest)


def _section(reader: WriteReader, first: int, last: int, window: memoryview, base: int) -> Section:
    columns = reader.columns(first, last)
    bodies = []
    for run in columns.runs:
        if run.kind != BATCH:
            at = columns.offsets[run.start] - base
            bodies.append(bytes(window[at : at + columns.lengths[run.start]]))
    return Section(columns, bodies)


@dataclass(frozen=True, slots=True)
class BadBatch:
    """A batch that a table of contents names and the segment does not have."""

    group: int
    index: int
    place: Place
    crc: int
    """What its header's checksum must be."""


def bad_batches(table: Contents, segment: int, data: bytes) -> list[BadBatch]:
    """The batches that are not where the table says; `data` is the whole segment."""
    return [
        BadBatch(
            run.group,
            run.index + number,
            Place(segment, columns.offsets[run.start + number], columns.lengths[run.start + number]),
            columns.crcs[run.start + number],
        )
        for section in table.all_sections()
        for columns in (section.columns,)
        for run in columns.runs
        if run.kind == BATCH
        for number in range(run.count)
        if _item(run, number, columns, _body(columns, run.start + number, data, 0)) is None
    ]


def _body(columns: Columns, at: int, data: bytes, base: int) -> bytes:
    place = columns.offsets[at] - base
    return data[place : place + columns.lengths[at]]


# --- the file ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TocHeader:
    """What a table of contents says before its sections are read."""

    sections: int
    first: int
    last: int
    end: int
    vouch: Vouch
    body_size: int
    body_crc: int


def encode_toc(contents: Contents, header: SegmentHeader) -> bytes:
    """The table of contents of a closed segment, whose writes are all sound."""
    sections = list(contents.all_sections())
    body = b"".join(map(_encode_section, sections))
    vouch = contents.vouch
    fields = _HEADER.pack(
        TOC_MAGIC,
        TOC_VERSION,
        0,
        len(sections),
        header.number,
        header.salt,
        contents.first,
        contents.last,
        vouch.known_synced,
        vouch.oldest,
        vouch.newest,
        contents.end,
        len(body),
        crc32c(body),
    )
    return fields + _U32.pack(crc32c(fields)) + body


def _encode_section(section: Section) -> bytes:
    columns, bodies = section.columns, b"".join(section.bodies)
    return b"".join(
        (
            _SECTION.pack(len(columns.runs), len(columns.offsets), len(bodies), 0),
            *(_encode_run(run) for run in columns.runs),
            columns.offsets.tobytes(),
            columns.lengths.tobytes(),
            columns.crcs.tobytes(),
            columns.terms.tobytes(),
            columns.kinds.tobytes(),
            bodies,
        )
    )


def _encode_run(run: Run) -> bytes:
    return _RUN.pack(run.incarnation, run.index, run.group, run.start, run.count, run.kind, run.flags)


def decode_toc_header(data: bytes, header: SegmentHeader) -> TocHeader:
    """Checks a table's header against the segment's; TocUnusable if it isn't about it."""
    fields, stored = data[: _HEADER.size], data[_HEADER.size : TOC_HEADER_SIZE]
    if len(stored) < _U32.size or _U32.unpack(stored)[0] != crc32c(fields):
        raise TocUnusable("the header's checksum does not match")
    magic, version, _, sections, number, salt, first, last, known, oldest, newest, end, size, crc = (
        _HEADER.unpack(fields)
    )
    if (magic, version, number, salt) != (TOC_MAGIC, TOC_VERSION, header.number, header.salt):
        raise TocUnusable("not of this version or not of this use of the segment")
    return TocHeader(sections, first, last, end, Vouch(known, oldest, newest), size, crc)


def decode_toc(data: bytes, header: SegmentHeader) -> Contents:
    """The contents that a table says; TocUnusable if it doesn't tell."""
    toc = decode_toc_header(data, header)
    body = memoryview(data)[TOC_HEADER_SIZE:]
    if len(body) != toc.body_size or crc32c(body) != toc.body_crc:
        raise TocUnusable("the body's checksum does not match")
    contents = Contents(toc.first, toc.last, toc.end, vouch=toc.vouch)
    for _ in range(toc.sections):
        section, size = _decode_section(body)
        contents.sections.append(section)
        body = body[size:]
    return contents


def _decode_section(body: memoryview) -> tuple[Section, int]:
    runs, records, _, _ = _SECTION.unpack_from(body)
    at = _SECTION.size
    found = list(starmap(Run, _RUN.iter_unpack(body[at : at + runs * _RUN.size])))
    at += runs * _RUN.size
    columns = Columns(found, array("I"), array("I"), array("I"), array("Q"), array("B"))
    for column in (columns.offsets, columns.lengths, columns.crcs, columns.terms, columns.kinds):
        size = records * column.itemsize
        column.frombytes(body[at : at + size])
        at += size
    bodies: list[bytes] = []
    for run in found:
        if run.kind != BATCH:
            length = columns.lengths[run.start]
            bodies.append(bytes(body[at : at + length]))
            at += length
    return Section(columns, bodies), at


def toc_path(segment_path: str) -> str:
    """Where the table of contents of a segment is."""
    return segment_path.rpartition(".")[0] + ".toc"


def write_toc(disk: Disk, segment_path: str, encoded: bytes) -> None:
    """Puts a table of contents in its place. No sync: if it gets lost, the segment is scanned."""
    path = toc_path(segment_path)
    descriptor = disk.open(f"{path}.tmp", create=True)
    try:
        disk.truncate(descriptor, 0)
        disk.pwritev(descriptor, [encoded], 0)
    except OSError:
        disk.unlink(f"{path}.tmp")
        raise
    finally:
        disk.close(descriptor)
    disk.rename(f"{path}.tmp", path)


def read_toc_header(disk: Disk, segment_path: str, header: SegmentHeader) -> TocHeader | None:
    """The header of a segment's table of contents; None if there is no table that can be used."""
    path = toc_path(segment_path)
    if not disk.exists(path):
        return None
    try:
        descriptor = disk.open(path)
        try:
            return decode_toc_header(disk.pread(descriptor, TOC_HEADER_SIZE, 0), header)
        finally:
            disk.close(descriptor)
    except (TocUnusable, OSError):
        return None


def read_toc(disk: Disk, segment_path: str, header: SegmentHeader) -> Contents | None:
    """The contents of a segment by its table; None if there is no table that can be used."""
    try:
        contents = decode_toc(read_file(disk, toc_path(segment_path)), header)
    except (TocUnusable, OSError):
        return None
    descriptor = disk.open(segment_path)
    try:
        contents.size = disk.size(descriptor)
    finally:
        disk.close(descriptor)
    return contents
