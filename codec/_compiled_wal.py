"""Sealing and reading the log's writes in C: thin callers of `csrc/wal.c`, which says what each does."""

from __future__ import annotations

import struct
from array import array
from itertools import starmap
from typing import Any, Final

from ._native import ffi, lib
from .chunk import Buffer
from .errors import BadLength
from .wal_types import Columns, Cursor, Run, WriteReader

_RUN: Final = struct.Struct("<QQIIIBBxx")
assert _RUN.size == ffi.sizeof("tri_wal_run")
_FIELDS: Final = ("position", "chain", "writes", "records", "last_start", "last_records")
_LONG_FIELDS: Final = ("sequence", "known_synced", "oldest", "newest")
_SEAL: Final = ffi.typeof("tri_wal_seal *")
_BYTES: Final = ffi.typeof("uint8_t[]")
_FRAME_SIZE: Final = lib.TRI_FRAME_SIZE


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
    """Seal a write's frames where they lie; see the twin in `_reference_wal`."""
    count = len(frames) // _FRAME_SIZE
    size = lib.tri_wal_trailer_size(count, bodies)
    trailer = bytearray(size)
    seal: Any = ffi.new(_SEAL, (sequence, newest, known_synced, oldest, tag, seed, chain, bodies))
    if lib.tri_wal_seal_write(
        ffi.from_buffer(_BYTES, frames), count, seal, ffi.from_buffer(_BYTES, trailer), size
    ):
        raise BadLength("the frames of a write do not add up to its bodies, or it is too long")
    return trailer, seal.chain


def write_reader(capacity: int) -> WriteReader:
    """A reader that takes in so many records with one `read`."""
    return _WriteReader(capacity)


def has_tag(data: Buffer, tag: int) -> bool:
    """Whether the tag is where a write has it, at a sector's begin or end; `data` begins with a sector."""
    return lib.tri_wal_has_tag(ffi.from_buffer("uint8_t[]", data), len(data), tag) != 0


class _WriteReader:
    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._records: Any = ffi.new("tri_wal_record[]", capacity)

    def read(self, data: Buffer, cursor: Cursor) -> bool:
        inside: Any = ffi.new("tri_wal_cursor *")
        inside.sequence, inside.limit = cursor.sequence, cursor.limit
        inside.base, inside.position, inside.chain = cursor.base, cursor.position, cursor.chain
        inside.tag, inside.seed = cursor.tag, cursor.seed
        full = lib.tri_wal_read(
            ffi.from_buffer("uint8_t[]", data), len(data), inside, self._records, self._capacity
        )
        for field in (*_FIELDS, *_LONG_FIELDS):
            setattr(cursor, field, getattr(inside, field))
        return full != 0

    def columns(self, first: int, last: int) -> Columns:
        count = last - first
        offsets, lengths, crcs = (array("I", bytes(4 * count)) for _ in range(3))
        terms, kinds = array("Q", bytes(8 * count)), array("B", bytes(count))
        table_size = 2 << max(0, (count - 1).bit_length())
        runs = ffi.new("tri_wal_run[]", count)
        found = lib.tri_wal_runs(
            self._records + first,
            count,
            runs,
            ffi.from_buffer("uint32_t[]", offsets),
            ffi.from_buffer("uint32_t[]", lengths),
            ffi.from_buffer("uint32_t[]", crcs),
            ffi.from_buffer("uint64_t[]", terms),
            ffi.from_buffer("uint8_t[]", kinds),
            ffi.new("uint32_t[]", table_size),
            table_size,
            ffi.new("uint32_t[]", count),
            ffi.new("uint32_t[]", count + 1),
            ffi.new("uint32_t[]", count),
        )
        rows = ffi.buffer(runs, found * _RUN.size)
        return Columns(list(starmap(Run, _RUN.iter_unpack(rows))), offsets, lengths, crcs, terms, kinds)
