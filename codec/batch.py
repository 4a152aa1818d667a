"""The batch, version 1: what a group replicates, stores and checks as one piece (a durable format).

Header, 72 bytes, little endian; the payload behind it is laid out as in `chunk.py`.

    offset  field
     0  u16 magic 0x5442 ("BT")       2  u8 version = 1      3  u8 kind
     4  u32 length: the whole batch, a multiple of 8
     8  u32 group                    12  u16 count          14  u16 flags = 0
    16  u64 incarnation              24  u64 index          32  u64 term
    40  u64 previous term            48  i64 time (ns since 1970)
    56  u32 entries size (before padding)                   60  u32 CRC32C of the payload
    64  u32 reserved = 0             68  u32 CRC32C of bytes 0..67

A later version keeps magic, version, length and the header's checksum where they are: a flipped bit in
the version byte is then damage, and a newer version is one only if the checksum says so.
"""

from __future__ import annotations

import enum
import struct
from array import array
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from .chunk import BATCH_HEADER_SIZE, MAX_BATCH_SIZE, MAX_ENTRIES, Buffer, Chunk, padding, payload_size
from .errors import BadField, BadTable, BatchFull

MAGIC: Final = 0x5442
VERSION: Final = 1

HEADER: Final = struct.Struct("<HBBIIHHQQQQqIIII")
_MEANING: Final = struct.Struct("<3xBIIHHQQQQqII4xI")
"""The header without magic, version and the reserved field: the fields of `BatchHeader`, in its order."""
assert HEADER.size == _MEANING.size == BATCH_HEADER_SIZE


class Kind(enum.IntEnum):
    """What a batch is for. 0 is invalid, so that unwritten bytes are never a batch."""

    NORMAL = 1
    NOOP = 2
    MEMBERSHIP = 3
    SNAPSHOT = 4
    TICK = 5


KINDS: Final = tuple(Kind)
EMPTY_KINDS: Final = frozenset({Kind.NOOP, Kind.TICK})
"""Kinds that may have no entries."""


class _HeaderFields(NamedTuple):
    kind_number: int
    length: int
    group: int
    count: int  # type: ignore[assignment]  # of entries; not the tuple's method
    flags: int
    incarnation: int
    index: int  # type: ignore[assignment]  # in the log; not the tuple's method
    term: int
    previous_term: int
    time: int
    entries_size: int
    payload_crc: int
    header_crc: int


class BatchHeader(_HeaderFields):
    """The fields of a batch's header that carry meaning; sizes in bytes, `time` in ns since 1970.

    A tuple as it was unpacked, because a node makes several of them for each batch: a frozen dataclass takes
    six times as long.
    """

    __slots__ = ()

    @property
    def kind(self) -> Kind:
        """What the batch is for."""
        return KINDS[self.kind_number - 1]


_new_tuple: Final = tuple.__new__


def unpack_header(buffer: Buffer, offset: int = 0) -> BatchHeader:
    """The header at `offset`, whose 72 bytes are there; whoever believes it has checked it."""
    return _new_tuple(BatchHeader, _MEANING.unpack_from(buffer, offset))


class Entries:
    """The entries of a verified batch, in order: `len`, iteration over (type, data) and access by number.

    No entry is copied: `entry(i)` and iteration give views into `buffer`, which must not change meanwhile.
    Whatever only some readers want is made when it is asked for.
    """

    __slots__ = ("buffer", "header", "spans")

    buffer: Buffer
    """The whole batch."""
    header: BatchHeader
    spans: array[int]
    """Where they lie (u32): the offsets of all, from the begin of the batch; then the lengths of all."""

    def __init__(self, buffer: Buffer, header: BatchHeader, spans: array[int]) -> None:
        self.buffer = buffer
        self.header = header
        self.spans = spans

    @property
    def offsets(self) -> memoryview:
        """Per entry, where its bytes begin, from the begin of the batch (u32)."""
        return memoryview(self.spans)[: self.header.count]

    @property
    def lengths(self) -> memoryview:
        """Per entry, how many bytes it has (u32)."""
        return memoryview(self.spans)[self.header.count :]

    @property
    def types(self) -> memoryview:
        """Per entry, its type (u8)."""
        count = self.header.count
        end = self.header.length - padding(5 * count)
        return memoryview(self.buffer)[end - count : end]

    def __len__(self) -> int:
        return self.header.count

    def __iter__(self) -> Iterator[tuple[int, memoryview]]:
        view = memoryview(self.buffer)
        for offset, length, entry_type in zip(self.offsets, self.lengths, self.types, strict=True):
            yield entry_type, view[offset : offset + length]

    def datas(self) -> list[bytes]:
        """The bytes of all entries, copied."""
        buffer, spans, count = bytes(self.buffer), self.spans, self.header.count
        return [
            buffer[offset : offset + length]
            for offset, length in zip(spans[:count], spans[count:], strict=True)
        ]

    def entry(self, number: int) -> memoryview:
        """The bytes of one entry, by its place in the batch (from 0); IndexError beyond the last."""
        count = self.header.count
        if not 0 <= number < count:
            raise IndexError(f"entry {number} of {count}")
        offset = self.spans[number]
        return memoryview(self.buffer)[offset : offset + self.spans[count + number]]

    def type(self, number: int) -> int:
        """The type of one entry, by its place in the batch (from 0); IndexError beyond the last."""
        entry_type: int = self.types[number]
        return entry_type


def batch_size(chunks: Sequence[Chunk]) -> int:
    """Bytes of the batch that `seal_batch` would make of these chunks."""
    count = entries_size = 0
    for chunk in chunks:
        count += chunk.count
        entries_size += chunk.entries_size
    return BATCH_HEADER_SIZE + payload_size(count, entries_size)


def plan_batch(chunks: Sequence[Chunk], kind: Kind) -> int:
    """The size of the batch to be sealed; BatchFull or BadTable if there can be no such batch."""
    count = entries_size = 0
    for chunk in chunks:
        count += chunk.count
        entries_size += chunk.entries_size
    if count > MAX_ENTRIES:
        raise BatchFull(f"{count} entries, a batch holds {MAX_ENTRIES}")
    if count == 0 and kind not in EMPTY_KINDS:
        raise BadTable(f"a batch of kind {kind} has entries")
    size = BATCH_HEADER_SIZE + payload_size(count, entries_size)
    if size > MAX_BATCH_SIZE:
        raise BatchFull(f"{size} bytes, a batch holds {MAX_BATCH_SIZE}")
    return size


def check_fields(
    kind: int, group: int, incarnation: int, index: int, term: int, previous_term: int, time: int, flags: int
) -> None:
    """Refuse what the header's fields cannot hold, before anything is written (BadField)."""
    if not 1 <= kind <= len(KINDS):
        raise BadField(f"kind {kind} is unknown")
    if flags != 0:
        raise BadField(f"flags {flags:#x}: version {VERSION} has none")
    if not 0 <= group < 1 << 32:
        raise BadField(f"group {group} is no u32")
    for name, value in (
        ("incarnation", incarnation),
        ("index", index),
        ("term", term),
        ("previous term", previous_term),
    ):
        if not 0 <= value < 1 << 64:
            raise BadField(f"{name} {value} is no u64")
    if not -(1 << 63) <= time < 1 << 63:
        raise BadField(f"time {time} is no i64")
