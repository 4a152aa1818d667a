"""The batch codec in Python: the model of `csrc/batch.c`, and its stand-in where no compiler was.

The checks come in the same order as in C, so that the same bytes give the same error.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Sequence

from ._reference_crc32c import crc32c
from .batch import (
    EMPTY_KINDS,
    HEADER,
    KINDS,
    MAGIC,
    VERSION,
    BatchHeader,
    Entries,
    Kind,
    check_fields,
    plan_batch,
    unpack_header,
)
from .chunk import BATCH_HEADER_SIZE, MAX_BATCH_SIZE, MAX_ENTRIES, Buffer, Chunk, padding, payload_size
from .errors import (
    BadField,
    BadLength,
    BadMagic,
    BadTable,
    BatchFull,
    HeaderDamaged,
    NewerVersion,
    PayloadDamaged,
    ShortBuffer,
)

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


def check_chunk(count: int, entries_size: int, payload: Buffer) -> Chunk:
    """A chunk from untrusted parts; everything is verified before anything is allocated.

    Raises:
        BatchFull: more than 65,535 entries.
        BadLength: the payload's size is not that of so many entries with so many bytes.
        BadTable: no entry, lengths that do not sum up to `entries_size`, a type of 0, padding that is not 0.
    """
    if count > MAX_ENTRIES:
        raise BatchFull(f"{count} entries, a batch holds {MAX_ENTRIES}")
    if count < 1:
        raise BadTable("a chunk holds at least one entry")
    if entries_size < 0 or len(payload) != payload_size(count, entries_size):
        raise BadLength(f"{len(payload)} bytes for {count} entries of {entries_size} bytes together")
    fault = _table_fault(memoryview(payload), count, entries_size)
    if fault:
        raise BadTable(fault)
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
    """Encode chunks as one batch, with both checksums; `time` is ns since 1970.

    No chunks at all are fine for the kinds NOOP and TICK. What is returned is never encoded again: it is
    the payload on the wire and the record in every log.

    Raises:
        BatchFull: more than 65,535 entries or 4 GiB together.
        BadTable: no entries in a kind that has some.
        BadLength: a chunk whose payload is not of the size that its fields say.
        BadField: a number that its field cannot hold, an unknown kind, flags other than 0.
    """
    check_fields(kind, group, incarnation, index, term, previous_term, time, flags)
    size = plan_batch(chunks, kind)
    if any(len(chunk.payload) != payload_size(chunk.count, chunk.entries_size) for chunk in chunks):
        raise BadLength("a chunk whose payload is not of the size that its fields say")
    count = sum(chunk.count for chunk in chunks)
    entries_size = sum(chunk.entries_size for chunk in chunks)
    parts = [chunk.payload[: chunk.entries_size] for chunk in chunks]
    parts.append(bytes(padding(entries_size)))
    tables = [chunk.entries_size + padding(chunk.entries_size) for chunk in chunks]
    for chunk, table in zip(chunks, tables, strict=True):
        parts.append(chunk.payload[table : table + 4 * chunk.count])
    for chunk, table in zip(chunks, tables, strict=True):
        parts.append(chunk.payload[table + 4 * chunk.count : table + 5 * chunk.count])
    parts.append(bytes(padding(5 * count)))
    payload = b"".join(parts)
    fields = (MAGIC, VERSION, kind, size, group, count, flags, incarnation, index, term, previous_term, time)
    header = HEADER.pack(*fields, entries_size, crc32c(payload), 0, 0)[:-4]
    return header + struct.pack("<I", crc32c(header)) + payload


def read_header(buffer: Buffer, offset: int = 0) -> BatchHeader:
    """The header of the batch at `offset`; the whole batch must be in the buffer, its payload is not checked.

    Raises:
        ShortBuffer: fewer bytes than a header, or than its length field says.
        BadMagic, HeaderDamaged: no batch, or one whose header cannot be believed.
        NewerVersion: a sound header of a version, kind or flag from the future.
        BadField, BadLength, BadTable: a sound header whose fields contradict the format or each other.
    """
    remaining = len(buffer) - offset if offset >= 0 else 0
    if remaining < BATCH_HEADER_SIZE:
        raise ShortBuffer("fewer bytes than a batch header")
    fields = HEADER.unpack_from(buffer, offset)
    magic, version, kind, length, _, count, flags = fields[:7]
    entries_size, _, reserved, header_crc = fields[12:]
    if magic != MAGIC:
        raise BadMagic("not the begin of a batch")
    if crc32c(memoryview(buffer)[offset : offset + BATCH_HEADER_SIZE - 4]) != header_crc:
        raise HeaderDamaged("the header's checksum does not match")
    if version > VERSION or kind > len(KINDS) or flags:
        raise NewerVersion("a version, kind or flag that this program does not know")
    if version == 0 or kind == 0 or reserved:
        raise BadField("version 0, kind 0, or a reserved field that is not 0")
    if count == 0 and kind not in EMPTY_KINDS:
        raise BadTable("no entries in a kind that has some")
    if length != BATCH_HEADER_SIZE + payload_size(count, entries_size):
        raise BadLength("the header's length fields contradict each other")
    if remaining < length:
        raise ShortBuffer("fewer bytes than the batch's length")
    return unpack_header(buffer, offset)


def verify_batch(buffer: Buffer) -> BatchHeader:
    """Check everything in a buffer that must be exactly one batch; its header.

    Raises:
        PayloadDamaged: the payload's checksum does not match; `error.header` says which batch it was.
        BadLength: bytes behind the batch.
        BadTable: the table contradicts the entries, or padding is not 0.
        What `read_header` raises.
    """
    header = read_header(buffer)
    if len(buffer) != header.length:
        raise BadLength("bytes behind the batch", header)
    payload = memoryview(buffer)[BATCH_HEADER_SIZE:]
    if crc32c(payload) != header.payload_crc:
        raise PayloadDamaged("the payload's checksum does not match", header)
    fault = _table_fault(payload, header.count, header.entries_size)
    if fault:
        raise BadTable(fault, header)
    return header


def walk_batch(buffer: Buffer) -> Entries:
    """The entries of a buffer that is exactly one batch and was verified.

    The payload's checksum is not computed again; the lengths are bounded again, so that no entry ever lies
    outside of its batch. Raises what `verify_batch` raises but for PayloadDamaged.
    """
    header = read_header(buffer)
    if len(buffer) != header.length:
        raise BadLength("bytes behind the batch", header)
    view = memoryview(buffer)
    fault = _table_fault(view[BATCH_HEADER_SIZE:], header.count, header.entries_size)
    if fault:
        raise BadTable(fault, header)
    table = BATCH_HEADER_SIZE + header.entries_size + padding(header.entries_size)
    lengths = struct.unpack_from(f"<{header.count}I", view, table)
    spans = array("I")
    offset = BATCH_HEADER_SIZE
    for length in lengths:
        spans.append(offset)
        offset += length
    spans.extend(lengths)
    return Entries(buffer, header, spans)


def decode_batch(buffer: Buffer) -> Entries:
    """Check everything in a buffer that must be exactly one batch; its entries.

    The same as `verify_batch` and then `walk_batch`, with the same errors: all there is to do with a batch
    that comes in.
    """
    verify_batch(buffer)
    return walk_batch(buffer)


def split_batches(buffer: Buffer) -> list[memoryview]:
    """Views of the batches that lie back to back in a buffer; payloads are not checked.

    Raises what `read_header` raises, ShortBuffer also for fewer bytes than a header behind the last batch.
    """
    view = memoryview(buffer)
    batches = []
    offset = 0
    while offset < len(view):
        end = offset + read_header(view, offset).length
        batches.append(view[offset:end])
        offset = end
    return batches


class OpenBatch:
    """A batch or a chunk under construction, from spans of a caller's buffers; empty again once it is taken.

    `max_bytes` caps the payload, `max_count` the entries; a batch's own limits do anyway.
    """

    def __init__(self, max_bytes: int, max_count: int = MAX_ENTRIES) -> None:
        self._max_size = min(max_bytes, MAX_BATCH_SIZE - BATCH_HEADER_SIZE)
        self._max_count = min(max_count, MAX_ENTRIES)
        self._entries = bytearray()
        self._lengths = array("I")
        self._types = bytearray()

    def __len__(self) -> int:
        return len(self._types)

    @property
    def encoded_size(self) -> int:
        """Bytes of the payload as it would be now."""
        return payload_size(len(self._types), len(self._entries))

    def append_spans(self, buffer: Buffer, offsets: array[int], lengths: array[int], types: Buffer) -> int:
        """Take spans of a buffer as entries, in one call: how many were taken.

        Entry i has `lengths[i]` bytes (u32) from `offsets[i]` on (u32) and type `types[i]` (u8); spans may
        overlap and come in any order. Fewer than all are taken if the next one exceeds a cap; if none are and
        nothing was before, that entry fits no batch.

        Raises (and nothing was taken):
            BadLength: a span that is not inside of the buffer; not as many offsets and lengths as types.
            BadTable: a type of 0.
        """
        if not len(offsets) == len(lengths) == len(types):
            raise BadLength(f"{len(offsets)} offsets and {len(lengths)} lengths for {len(types)} types")
        count, size = len(self._types), len(self._entries)
        taken = 0
        for offset, length, entry_type in zip(offsets, lengths, types, strict=True):
            if offset > len(buffer) or length > len(buffer) - offset:
                raise BadLength("a span that is not inside of its buffer")
            if entry_type == 0:
                raise BadTable("an entry of type 0")
            count, size = count + 1, size + length
            if count > self._max_count or payload_size(count, size) > self._max_size:
                break
            taken += 1
        view = memoryview(buffer)
        for offset, length in zip(offsets[:taken], lengths[:taken], strict=True):
            self._entries += view[offset : offset + length]
        self._lengths += lengths[:taken]
        self._types += types[:taken]
        return taken

    def take(self) -> Chunk:
        """What was appended, as a chunk. Raises BadTable: nothing was."""
        if not self._types:
            raise BadTable("a chunk holds at least one entry")
        chunk = self._chunk()
        self._clear()
        return chunk

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
        """What was appended, as a batch: what `seal_batch` makes of it, with the same errors."""
        batch = seal_batch(
            [self._chunk()] if self._types else [],
            kind=kind,
            group=group,
            incarnation=incarnation,
            index=index,
            term=term,
            previous_term=previous_term,
            time=time,
            flags=flags,
        )
        self._clear()
        return batch

    def _chunk(self) -> Chunk:
        count, size = len(self._types), len(self._entries)
        table = struct.pack(f"<{count}I", *self._lengths) + self._types
        parts = (self._entries, bytes(padding(size)), table, bytes(padding(len(table))))
        return Chunk(count, size, b"".join(parts))

    def _clear(self) -> None:
        self._entries.clear()
        self._lengths = array("I")
        self._types.clear()


def _table_fault(payload: memoryview, count: int, entries_size: int) -> str | None:
    """What is wrong with a payload of the right size, or None."""
    table = entries_size + padding(entries_size)
    end = table + 5 * count
    if any(payload[entries_size:table]) or any(payload[end:]):
        return "padding that is not 0"
    if sum(struct.unpack_from(f"<{count}I", payload, table)) != entries_size:
        return "lengths that do not sum up to the entries' size"
    if 0 in payload[table + 4 * count : end].tobytes():
        return "an entry of type 0"
    return None
