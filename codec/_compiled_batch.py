"""The batch codec in C (`csrc/batch.h`): the functions of `_reference_batch`, one call for each batch.

A C call gives up the interpreter lock, so a buffer must not be changed by another thread meanwhile.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ._native import ffi, lib
from .batch import BatchHeader, Entries, Kind, check_fields, plan_batch, unpack_header
from .chunk import Buffer, Chunk, padding
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
    "check_chunk",
    "crc32c",
    "entry_pointers",
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


def _error(code: int, header: BatchHeader | None = None) -> CodecError:
    error_type, detail = _ERRORS[code]
    return error_type(detail, header)


def _pointer(buffer: Buffer) -> CData:
    return ffi.from_buffer("uint8_t[]", buffer)


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
    check_fields(kind, group, incarnation, index, term, previous_term, time, flags)
    size = plan_batch(chunks, kind)
    payloads = [_pointer(chunk.payload) for chunk in chunks]  # also keeps what the rows point to
    rows = ffi.new(
        "tri_chunk[]",
        [
            (payload, len(payload), chunk.entries_size, chunk.count)
            for payload, chunk in zip(payloads, chunks, strict=True)
        ],
    )
    fields = (incarnation, index, term, previous_term, time, size, group, 0, 0, 0, 0, flags, kind)
    header = ffi.new("tri_batch_header *", fields)
    # Bytes that nobody else has seen yet are written in place, which saves a copy of the whole batch.
    batch = bytes(size)
    code = lib.tri_seal_batch(rows, len(payloads), header, _pointer(batch), size)
    if code:
        raise _error(code)
    return batch


def read_header(buffer: Buffer, offset: int = 0) -> BatchHeader:
    """The header of the batch at `offset`; see the twin in `_reference_batch` for the errors."""
    remaining = len(buffer) - offset
    if offset < 0 or remaining < 0:
        raise _error(lib.TRI_SHORT_BUFFER)
    code = lib.tri_read_header(_pointer(buffer) + offset, remaining, ffi.new("tri_batch_header *"))
    if code:
        raise _error(code)
    return unpack_header(buffer, offset)


def verify_batch(buffer: Buffer) -> BatchHeader:
    """Check a buffer that must be exactly one batch; see the twin in `_reference_batch` for the errors."""
    decoded: Any = ffi.new("tri_batch_header *")
    code = lib.tri_verify_batch(_pointer(buffer), len(buffer), decoded)
    if code:
        header_is_sound = decoded.length != 0
        raise _error(code, unpack_header(buffer) if header_is_sound else None)
    return unpack_header(buffer)


def walk_batch(buffer: Buffer) -> Entries:
    """The entries of a verified batch; see the twin in `_reference_batch` for the errors."""
    header = read_header(buffer)
    count = header.count
    offsets = _ZERO * count
    lengths = _ZERO * count
    code = lib.tri_walk_batch(
        _pointer(buffer),
        len(buffer),
        ffi.from_buffer("uint32_t[]", offsets),
        ffi.from_buffer("uint32_t[]", lengths),
        count,
    )
    if code:
        raise _error(code, header)
    types = header.length - padding(5 * count) - count
    return Entries(buffer, header, offsets, lengths, memoryview(buffer)[types : types + count])


def split_batches(buffer: Buffer) -> list[memoryview]:
    """Views of the batches back to back in a buffer; see the twin in `_reference_batch` for the errors."""
    view = memoryview(buffer)
    batches = []
    offset = 0
    while offset < len(view):
        end = offset + read_header(view, offset).length
        batches.append(view[offset:end])
        offset = end
    return batches


def entry_pointers(entries: Entries) -> tuple[CData, CData, CData, CData]:
    """What C needs to walk the entries: batch bytes, offsets, lengths (u32) and types (u8).

    The pointers keep their memory alive, not each other's; `len(entries)` items are behind the last three.
    """
    return (
        _pointer(entries.buffer),
        ffi.from_buffer("uint32_t[]", entries.offsets),
        ffi.from_buffer("uint32_t[]", entries.lengths),
        _pointer(entries.types),
    )
