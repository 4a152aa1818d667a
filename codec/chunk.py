"""The chunk: one proposal's entries on their way to a batch, laid out as a batch's payload already.

Layout of `payload`, little endian, each part beginning 8-byte aligned:

    entries area (entry bytes back to back) | zeros to 8 | u32 lengths[count] | u8 types[count] | zeros to 8
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from .errors import BadTable, BatchFull, EntryTooLarge

Buffer: TypeAlias = bytes | bytearray | memoryview
"""What the codec reads from: contiguous bytes, however they are held."""

MAX_ENTRIES = 65535
"""Entries in one batch: the header counts them in 16 bits."""

BATCH_HEADER_SIZE = 72
"""Bytes before a batch's payload."""

MAX_BATCH_SIZE = 0xFFFFFFF8
"""Bytes of a whole batch: its length is 32 bits and a multiple of 8. The configured cap is far below."""


class EntryType(enum.IntEnum):
    """Who reads an entry's bytes. 0 is invalid, so that unwritten bytes are never an entry."""

    OPAQUE = 1
    SESSION = 2
    PUBLISH = 16
    PUBLISH_CHECKED = 17
    STREAM_COMMAND = 18


@dataclass(frozen=True, slots=True)
class Chunk:
    """Entries of one proposal; a chunk is never split over two batches (rule S15).

    Build one by `make_chunk`, or by `check_chunk` from bytes of the network: sealing trusts the tables in it.
    """

    count: int
    """Entries, 1 to 65,535."""
    entries_size: int
    """Bytes of the entries area before its padding."""
    payload: bytes
    """Exactly what a batch of these entries alone has behind its header."""

    @property
    def encoded_size(self) -> int:
        """Bytes that this chunk adds to a batch; what joins it there may share a few bytes of padding."""
        return len(self.payload)

    @property
    def types(self) -> bytes:
        """The type of each entry."""
        begin = self.entries_size + padding(self.entries_size) + 4 * self.count
        return self.payload[begin : begin + self.count]


def padding(size: int) -> int:
    """Zero bytes that follow `size` bytes up to a multiple of 8."""
    return -size & 7


def payload_size(count: int, entries_size: int) -> int:
    """Bytes of a payload: the padded entries area and the padded table (4 + 1 bytes per entry)."""
    table_size = 5 * count
    return entries_size + padding(entries_size) + table_size + padding(table_size)


def make_chunk(entries: Sequence[tuple[int, bytes]]) -> Chunk:
    """Lay out (entry type, data) pairs as a chunk.

    Raises:
        BatchFull: more than 65,535 entries, or more bytes together than one batch can hold.
        EntryTooLarge: one entry that fits no batch.
        BadTable: no entry, or a type outside of 1..255.
    """
    types = [entry_type for entry_type, _ in entries]
    if types and (min(types) < 1 or max(types) > 255):
        raise BadTable("an entry type outside of 1..255")
    return _lay_out([data for _, data in entries], bytes(types))


def make_chunk_of(entry_type: int, entries: Sequence[bytes]) -> Chunk:
    """Lay out entries of one type as a chunk: `make_chunk` without a pair for each. Raises the same."""
    if not 1 <= entry_type <= 255:
        raise BadTable("an entry type outside of 1..255")
    return _lay_out(entries, bytes((entry_type,)) * len(entries))


def _lay_out(entries: Sequence[bytes], types: bytes) -> Chunk:
    count = len(entries)
    if count == 0:
        raise BadTable("a chunk holds at least one entry")
    if count > MAX_ENTRIES:
        raise BatchFull(f"{count} entries, a batch holds {MAX_ENTRIES}")
    lengths = list(map(len, entries))
    largest = MAX_BATCH_SIZE - BATCH_HEADER_SIZE
    if payload_size(1, max(lengths)) > largest:
        raise EntryTooLarge(f"an entry of {max(lengths)} bytes")
    entries_size = sum(lengths)
    if payload_size(count, entries_size) > largest:
        raise BatchFull(f"{entries_size} bytes in {count} entries")
    table = struct.pack(f"<{count}I", *lengths) + types
    parts = [*entries, bytes(padding(entries_size)), table, bytes(padding(len(table)))]
    return Chunk(count, entries_size, b"".join(parts))
