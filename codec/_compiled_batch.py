"""The batch codec in C (`csrc/batch.h`): the functions of `_reference_batch`, one call for each batch.

A C call gives up the interpreter lock, so a buffer must not be changed by another thread meanwhile.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ._native import ffi, lib
from .batch import KINDS, BatchHeader, Entries, Kind, check_fields, plan_batch, unpack_header
from .chunk import BATCH_HEADER_SIZE, MAX_BATCH_SIZE, MAX_ENTRIES, Buffer, Chunk, payload_size
from .errors import (
    BadField,
    BadLength,
    BadMagic,
    BadTable,
    BatchFull,
    CodecError,
    HeaderDamaged,
    NewerVersion,
    PayloadDamaged,
    ShortBuffer,
)

if TYPE_CHECKING:
    from _cffi_backend import _CDataBase as CData

__all__ = [
    "OpenBatch",
    "check_chunk",
    "crc32c",
    "decode_batch",
    "read_header",
    "seal_batch",
    "split_batches",
    "verify_batch",
    "walk_batch",
]

_ERRORS: dict[int, tuple[type[CodecError], str]] = {
    lib.TRI_SHORT_BUFFER: (ShortBuffer, "fewer bytes than the batch's header or its length"),
    lib.TRI_BAD_MAGIC: (BadMagic, "not the begin of a batch"),
    lib.TRI_NEWER_VERSION: (NewerVersion, "a version, kind or flag that this program does not know"),
    lib.TRI_HEADER_DAMAGED: (HeaderDamaged, "the header's checksum does not match"),
    lib.TRI_PAYLOAD_DAMAGED: (PayloadDamaged, "the payload's checksum does not match"),
    lib.TRI_BAD_LENGTH: (BadLength, "length fields that contradict each other or the buffer"),
    lib.TRI_NO_ENTRIES: (BadTable, "no entries where there must be some"),
    lib.TRI_BAD_PADDING: (BadTable, "padding that is not 0"),
    lib.TRI_BAD_SUM: (BadTable, "lengths that do not sum up to the entries' size"),
    lib.TRI_BAD_TYPE: (BadTable, "an entry of type 0"),
    lib.TRI_BAD_FIELD: (BadField, "version 0, kind 0, or a reserved field that is not 0"),
    lib.TRI_BATCH_FULL: (BatchFull, "more entries or bytes than one batch can have"),
}

_ZERO = array("I", [0])
assert _ZERO.itemsize == 4

_BYTES = ffi.typeof("uint8_t[]")
_WORDS = ffi.typeof("uint32_t[]")
_ROWS = ffi.typeof("tri_chunk[]")
_HEADER = ffi.typeof("tri_batch_header *")
_LENGTH = struct.Struct("<4xI")
"""The one field of a header that going on behind its batch takes."""


def _error(code: int, header: BatchHeader | None = None) -> CodecError:
    error_type, detail = _ERRORS[code]
    return error_type(detail, header)


def _batch_error(code: int, buffer: Buffer) -> CodecError:
    """The error about a batch; its header goes with it if that one is sound."""
    is_sound = lib.tri_read_header(_pointer(buffer), len(buffer), ffi.NULL) == lib.TRI_OK
    return _error(code, unpack_header(buffer) if is_sound else None)


def _pointer(buffer: Buffer) -> CData | bytes:
    """What a C function takes for `const uint8_t *`; bytes are passed as they are, which is the fastest."""
    return buffer if type(buffer) is bytes else ffi.from_buffer(_BYTES, buffer)


def crc32c(data: Buffer, value: int = 0) -> int:
    """The checksum of `data`, continuing from `value`: `crc32c(b, crc32c(a)) == crc32c(a + b)`."""
    return lib.tri_crc32c(value, _pointer(data), len(data))


def check_chunk(count: int, entries_size: int, payload: Buffer) -> Chunk:
    """A chunk from untrusted parts; see the twin in `_reference_batch` for the errors."""
    # Out of range for C, and wrong: as the twin says it.
    if count < 1:
        raise _error(lib.TRI_NO_ENTRIES)
    if count >> 32:
        raise _error(lib.TRI_BATCH_FULL)
    if not 0 <= entries_size < 1 << 32:
        raise _error(lib.TRI_BAD_LENGTH)
    code = lib.tri_check_payload(_pointer(payload), len(payload), count, entries_size)
    if code:
        raise _error(code)
    return Chunk(count, entries_size, bytes(payload))


def _header(
    kind: int, group: int, incarnation: int, index: int, term: int, previous_term: int, time: int, flags: int
) -> CData:
    """The fields for C. Which of them is out of its range is only looked for if one is (BadField)."""
    fields = (incarnation, index, term, previous_term, time, 0, group, 0, 0, 0, 0, flags, kind)
    try:
        header = ffi.new(_HEADER, fields)
    except OverflowError:
        header = None
    if header is None or flags or kind not in KINDS:
        check_fields(kind, group, incarnation, index, term, previous_term, time, flags)
        raise AssertionError("C and Python differ about the range of a field")
    return header


def seal_batch(
    chunks: Sequence[Chunk],
    *,
    kind: Kind,
    group: int,
    incarnation: int,
    index: int,
    term: int,
    previous_term: int,
    time: int,
    flags: int = 0,
) -> bytes:
    """Encode chunks as one batch, with both checksums; see the twin in `_reference_batch` for the errors."""
    header = _header(kind, group, incarnation, index, term, previous_term, time, flags)
    size = plan_batch(chunks, kind)
    payloads = [
        ffi.from_buffer(_BYTES, chunk.payload) for chunk in chunks
    ]  # also keeps what the rows point to
    rows = ffi.new(
        _ROWS,
        [
            (payload, len(payload), chunk.entries_size, chunk.count)
            for payload, chunk in zip(payloads, chunks, strict=True)
        ],
    )
    # Bytes that nobody else has seen yet are written in place, which saves a copy of the whole batch.
    batch = bytes(size)
    code = lib.tri_seal_batch(rows, len(payloads), header, batch, size)
    if code:
        raise _error(code)
    return batch


def read_header(buffer: Buffer, offset: int = 0) -> BatchHeader:
    """The header of the batch at `offset`; see the twin in `_reference_batch` for the errors."""
    _check_header(buffer, offset)
    return unpack_header(buffer, offset)


def _check_header(buffer: Buffer, offset: int) -> None:
    remaining = len(buffer) - offset
    if offset < 0 or remaining < 0:
        raise _error(lib.TRI_SHORT_BUFFER)
    begin = ffi.from_buffer(_BYTES, buffer) + offset if offset else _pointer(buffer)
    code = lib.tri_read_header(begin, remaining, ffi.NULL)
    if code:
        raise _error(code)


def verify_batch(buffer: Buffer) -> BatchHeader:
    """Check a buffer that must be exactly one batch; see the twin in `_reference_batch` for the errors."""
    code = lib.tri_verify_batch(_pointer(buffer), len(buffer), ffi.NULL)
    if code:
        raise _batch_error(code, buffer)
    return unpack_header(buffer)


def _reader(walk: Callable[[CData | bytes, int, CData, int], int]) -> Callable[[Buffer], Entries]:
    """A function from a batch to its entries: without a call in between, since it runs for every batch."""

    def read(buffer: Buffer) -> Entries:
        size = len(buffer)
        if size < BATCH_HEADER_SIZE:
            raise _error(lib.TRI_SHORT_BUFFER)
        header = unpack_header(buffer)  # not checked yet, but 16 bits never ask for too much room
        words = 2 * header.count
        spans = _ZERO * words
        pointer = buffer if type(buffer) is bytes else ffi.from_buffer(_BYTES, buffer)
        code = walk(pointer, size, ffi.from_buffer(_WORDS, spans), words)
        if code:
            raise _batch_error(code, buffer)
        return Entries(buffer, header, spans)

    return read


walk_batch = _reader(lib.tri_walk_batch)
decode_batch = _reader(lib.tri_decode_batch)


def split_batches(buffer: Buffer) -> list[memoryview]:
    """Views of the batches back to back in a buffer; see the twin in `_reference_batch` for the errors."""
    view = memoryview(buffer)
    batches = []
    offset = 0
    while offset < len(view):
        _check_header(view, offset)
        end = offset + _LENGTH.unpack_from(view, offset)[0]
        batches.append(view[offset:end])
        offset = end
    return batches


class OpenBatch:
    """A batch or chunk under construction; see the twin in `_reference_batch`.

    The areas start small and double when C asks for room, up to what the caps can fill.
    """

    FIRST_BYTES = 16 * 1024
    FIRST_COUNT = 256

    def __init__(self, max_bytes: int, max_count: int = MAX_ENTRIES) -> None:
        self._max_size = min(max_bytes, MAX_BATCH_SIZE - BATCH_HEADER_SIZE)
        self._max_count = min(max_count, MAX_ENTRIES)
        caps = {"max_size": self._max_size, "max_count": self._max_count}
        self._state: Any = ffi.new("tri_open_batch *", caps)
        self._taken = ffi.new("uint32_t *")
        self._size = ffi.new("uint64_t *")
        self._areas: dict[str, bytearray] = {}
        self._held: dict[str, CData] = {}
        self._enlarge(self.FIRST_BYTES, self.FIRST_COUNT)

    def __len__(self) -> int:
        return int(self._state.count)

    @property
    def encoded_size(self) -> int:
        """See the twin."""
        return payload_size(self._state.count, self._state.entries_size)

    def append_spans(self, buffer: Buffer, offsets: array[int], lengths: array[int], types: Buffer) -> int:
        """Take spans of a buffer as entries; see the twin for the errors."""
        count = len(types)
        if len(offsets) != count or len(lengths) != count:
            raise BadLength(f"{len(offsets)} offsets and {len(lengths)} lengths for {count} types")
        spans = (
            _pointer(buffer),
            len(buffer),
            ffi.from_buffer(_WORDS, offsets),
            ffi.from_buffer(_WORDS, lengths),
            _pointer(types),
            count,
        )
        while (code := lib.tri_append_spans(self._state, *spans, self._taken)) == lib.TRI_NO_ROOM:
            self._enlarge(2 * len(self._areas["area"]), 2 * len(self._areas["types"]))
        if code and code != lib.TRI_BATCH_FULL:
            raise _error(code)
        taken: int = self._taken[0]
        return taken

    def take(self) -> Chunk:
        """What was appended, as a chunk; see the twin for the errors."""
        count, entries_size = self._state.count, self._state.entries_size
        code = lib.tri_close_payload(self._state, self._size)
        if code:
            raise _error(code)
        end = BATCH_HEADER_SIZE + self._size[0]
        return Chunk(count, entries_size, bytes(memoryview(self._areas["area"])[BATCH_HEADER_SIZE:end]))

    def seal(
        self,
        *,
        kind: Kind,
        group: int,
        incarnation: int,
        index: int,
        term: int,
        previous_term: int,
        time: int,
        flags: int = 0,
    ) -> bytes:
        """What was appended, as a batch; see the twin for the errors."""
        header = _header(kind, group, incarnation, index, term, previous_term, time, flags)
        code = lib.tri_seal_open(self._state, header, self._size)
        if code:
            raise _error(code)
        return bytes(memoryview(self._areas["area"])[: self._size[0]])

    def _enlarge(self, area: int, count: int) -> None:
        size = min(area, BATCH_HEADER_SIZE + self._max_size)
        count = min(count, self._max_count)
        state = self._state
        grows = size > state.area_capacity or count > state.count_capacity
        assert grows or not self._areas, "C asks for more room than the caps can fill"
        self._resize("area", size)
        self._resize("lengths", 4 * count)
        self._resize("types", count)
        state.area_capacity = size
        state.count_capacity = count

    def _resize(self, name: str, size: int) -> None:
        old = self._areas.get(name, b"")
        area = bytearray(size)
        area[: len(old)] = old
        self._areas[name] = area
        self._held[name] = ffi.from_buffer(_BYTES, area)
        setattr(self._state, name, self._held[name])
