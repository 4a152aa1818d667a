"""Block records in C: thin callers of `csrc/stream.c`, which says what each function does."""

from __future__ import annotations

import secrets
import threading
from array import array
from collections.abc import Sequence
from typing import Any

from ._native import ffi, lib
from .batch import Entries
from .block_types import (
    NO_SUBJECT,
    Appended,
    BlockScan,
    Column,
    IndexChange,
    PublishRun,
    RecordFault,
    Refusals,
    SubjectCounters,
)
from .chunk import Buffer

lib.tri_set_hash_secret(secrets.randbits(64), secrets.randbits(64))

_GROUP_WORDS = ffi.sizeof("tri_subject_group") // 4


class _Scratch(threading.local):
    """Memory that one call fills and the next one overwrites; one set per thread, grown when needed.

    A run's grouping stays in it until the run is appended, which happens without an await in between.
    """

    def __init__(self) -> None:
        self._capacity = 0
        self._room = 0
        self.owner: object = None
        self.job: Any = ffi.new("tri_store_job *")

    def hold(self, count: int) -> None:
        """Makes room for `count` entries or records."""
        if count <= self._capacity:
            return
        self._capacity = 1 << max(8, (count - 1).bit_length())
        self.table = ffi.new("uint32_t[]", 2 * self._capacity)
        self.groups = ffi.new("tri_subject_group[]", self._capacity)
        self.group_of = ffi.new("uint32_t[]", self._capacity)
        self.offsets = ffi.new("uint32_t[]", self._capacity)
        self.sizes = ffi.new("uint32_t[]", self._capacity)
        self.ids = ffi.new("uint32_t[]", self._capacity)
        self.results = ffi.new("uint64_t[]", self._capacity)

    def hold_bytes(self, room: int) -> None:
        if room > self._room:
            self._room = 1 << max(16, (room - 1).bit_length())
            self.out = ffi.new("uint8_t[]", self._room)


_scratch = _Scratch()


def _table_size(count: int) -> int:
    return 2 << max(0, (count - 1).bit_length())


def _distinct(buffer: Buffer, groups: Any, count: int) -> list[bytes]:
    if count == 1:
        begin = groups[0].subject
        return [bytes(buffer[begin : begin + groups[0].subject_len])]
    words = array("I")
    words.frombytes(ffi.buffer(groups, 4 * _GROUP_WORDS * count))
    begins, lengths = words[0::_GROUP_WORDS], words[1::_GROUP_WORDS]
    if isinstance(buffer, bytes):
        return [buffer[begin : begin + length] for begin, length in zip(begins, lengths, strict=True)]
    view = memoryview(buffer)
    return [bytes(view[begin : begin + length]) for begin, length in zip(begins, lengths, strict=True)]


class _PublishRun:
    def __init__(self, entries: Entries, first: int, count: int) -> None:
        scratch = self._scratch = _scratch
        scratch.hold(count)
        scratch.owner = self
        self._count = count
        self._buffer = ffi.from_buffer("uint8_t[]", entries.buffer)
        self._offsets = ffi.from_buffer("uint32_t[]", entries.spans)
        self._lengths = self._offsets + len(entries)
        self._first = first
        last = first + count - 1
        spans = entries.spans
        self._span = spans[last] + spans[len(entries) + last] - spans[first] if count else 0
        groups = lib.tri_group_publishes(
            self._buffer,
            len(entries.buffer),
            self._offsets + first,
            self._lengths + first,
            count,
            scratch.table,
            _table_size(count),
            scratch.groups,
            scratch.group_of,
        )
        self.subjects = _distinct(entries.buffer, scratch.groups, groups)

    def append(
        self,
        start: int,
        ids: array[int],
        counters: SubjectCounters,
        *,
        sequence: int,
        time: int,
        block_offset: int,
        room: int,
        max_message_size: int,
        refusals: Refusals,
    ) -> Appended:
        scratch = self._scratch
        if scratch.owner is not self:
            raise RuntimeError("another run was grouped since")
        room = min(room, self._span + 48 * self._count)
        scratch.hold_bytes(room)
        job = scratch.job
        job.sequence = sequence
        job.time = time
        job.max_message_size = max_message_size
        job.refused_subject = refusals.subject
        job.refused_size = refusals.size
        job.refused_entry = refusals.entry
        job.block_offset = block_offset
        job.room = room
        lib.tri_store_publishes(
            self._buffer,
            self._offsets + self._first + start,
            self._lengths + self._first + start,
            scratch.group_of + start,
            self._count - start,
            ffi.from_buffer("uint32_t[]", ids),
            ffi.from_buffer("uint64_t[]", counters.counts),
            ffi.from_buffer("uint64_t[]", counters.firsts),
            ffi.from_buffer("uint64_t[]", counters.lasts),
            scratch.out,
            scratch.offsets,
            scratch.sizes,
            scratch.ids,
            scratch.results,
            job,
        )
        words = 4 * job.records
        return Appended(
            job.entries,
            job.records,
            job.bytes,
            ffi.buffer(scratch.out, job.used)[:],
            ffi.buffer(scratch.offsets, words)[:],
            ffi.buffer(scratch.sizes, words)[:],
            ffi.buffer(scratch.ids, words)[:],
            ffi.buffer(scratch.results, 8 * job.entries)[:],
        )


def group_publishes(entries: Entries, first: int, count: int) -> PublishRun:
    """Sorts `count` entries from number `first` on, all of type PUBLISH, by subject."""
    return _PublishRun(entries, first, count)


def check_record(buffer: Buffer) -> RecordFault | None:
    """What is wrong with a buffer that must be exactly one record."""
    fault = lib.tri_check_record(ffi.from_buffer("uint8_t[]", buffer), len(buffer))
    return RecordFault(fault) if fault else None


def _zeros(code: str, count: int) -> array[int]:
    return array(code, bytes(count * array(code).itemsize))


def scan_block(buffer: Buffer) -> BlockScan:
    """Verifies and lists the records of a buffer, up to the first damage."""
    data = ffi.from_buffer("uint8_t[]", buffer)
    capacity = lib.tri_count_records(data, len(buffer)) + 1
    offsets, sizes, group_of = _zeros("I", capacity), _zeros("I", capacity), _zeros("I", capacity)
    time_starts, time_values = _zeros("I", capacity), _zeros("q", capacity)
    sequences = _zeros("Q", capacity)
    table_size = _table_size(capacity)
    groups = ffi.new("tri_subject_group[]", capacity)
    result: Any = ffi.new("tri_scan_result *")
    lib.tri_scan_block(
        data,
        len(buffer),
        capacity,
        ffi.new("uint32_t[]", table_size),
        table_size,
        groups,
        ffi.from_buffer("uint32_t[]", group_of),
        ffi.from_buffer("uint32_t[]", offsets),
        ffi.from_buffer("uint32_t[]", sizes),
        ffi.from_buffer("uint64_t[]", sequences),
        ffi.from_buffer("uint32_t[]", time_starts),
        ffi.from_buffer("int64_t[]", time_values),
        result,
    )
    for column in (offsets, sizes, sequences, group_of):
        del column[result.records :]
    for column in (time_starts, time_values):
        del column[result.time_runs :]
    return BlockScan(
        offsets,
        sizes,
        sequences,
        time_starts,
        time_values,
        _distinct(buffer, groups, result.groups),
        group_of,
        RecordFault(result.error) if result.error else None,
        result.offset,
    )


def index_records(
    scan: BlockScan, ids: Sequence[int], counters: SubjectCounters, start: int, live: bytes | None
) -> tuple[array[int], IndexChange]:
    """The index of a scanned block: per record its subject's id, NO_SUBJECT where the message is gone.

    Gone are those before position `start` and, if `live` is given, those whose bit in it is 0.
    """
    count = len(scan.group_of)
    if live is not None and len(live) < (count + 7) // 8:
        raise IndexError("fewer bits than records")
    record_ids = _zeros("I", count)
    change: Any = ffi.new("tri_index_change *")
    lib.tri_index_records(
        ffi.from_buffer("uint32_t[]", scan.group_of),
        ffi.from_buffer("uint32_t[]", scan.sizes),
        count,
        start,
        ffi.NULL if live is None else ffi.from_buffer("uint8_t[]", live),
        scan.sequences[0] if count else 0,
        ffi.from_buffer("uint32_t[]", array("I", ids)),
        ffi.from_buffer("uint64_t[]", counters.counts),
        ffi.from_buffer("uint64_t[]", counters.firsts),
        ffi.from_buffer("uint64_t[]", counters.lasts),
        ffi.from_buffer("uint32_t[]", record_ids),
        change,
    )
    return record_ids, IndexChange(change.messages, change.bytes, change.position)


def drop_messages(
    record_ids: Column,
    record_sizes: Column,
    start: int,
    end: int,
    counters: SubjectCounters,
    *,
    wanted: bytearray | None = None,
    messages: int = 0,
    size: int = 0,
) -> IndexChange:
    """Lets messages between two positions go, oldest first, until enough messages and enough bytes are gone.

    Only those of the subjects whose byte in `wanted` is not 0, or all.
    """
    # No more subjects can become empty than there are, nor than there are messages looked at.
    emptied: Any = ffi.new("uint32_t[]", max(1, min(end - start, len(counters.counts))))
    change: Any = ffi.new("tri_index_change *")
    lib.tri_drop_messages(
        ffi.from_buffer("uint32_t[]", record_ids),
        ffi.from_buffer("uint32_t[]", record_sizes),
        start,
        end,
        ffi.NULL if wanted is None else ffi.from_buffer("uint8_t[]", wanted),
        messages,
        size,
        ffi.from_buffer("uint64_t[]", counters.counts),
        emptied,
        change,
    )
    gone = tuple(emptied[0 : change.emptied]) if change.emptied else ()
    return IndexChange(change.messages, change.bytes, change.position, gone)


def trim_subjects(
    record_ids: Column,
    record_sizes: Column,
    start: int,
    end: int,
    first_sequence: int,
    subjects: array[int],
    excess: array[int],
    counters: SubjectCounters,
) -> IndexChange:
    """Lets the oldest messages of some subjects go, of each as many as its number in `excess` (u64) says.

    Only those between two positions of a block that begins with `first_sequence`; `excess` falls accordingly.
    """
    change: Any = ffi.new("tri_index_change *")
    lib.tri_trim_subjects(
        ffi.from_buffer("uint32_t[]", record_ids),
        ffi.from_buffer("uint32_t[]", record_sizes),
        start,
        end,
        first_sequence,
        ffi.from_buffer("uint32_t[]", subjects),
        ffi.from_buffer("uint64_t[]", excess),
        len(subjects),
        ffi.from_buffer("uint64_t[]", counters.counts),
        ffi.from_buffer("uint64_t[]", counters.firsts),
        ffi.from_buffer("uint64_t[]", counters.lasts),
        change,
    )
    return IndexChange(change.messages, change.bytes, end)


def find_message(
    record_ids: Column,
    start: int,
    end: int,
    *,
    subject: int = NO_SUBJECT,
    wanted: bytearray | None = None,
) -> int:
    """The first position with a message (of one subject, or of wanted ones, or any), or `end`."""
    return lib.tri_find_message(
        ffi.from_buffer("uint32_t[]", record_ids),
        start,
        end,
        subject,
        ffi.NULL if wanted is None else ffi.from_buffer("uint8_t[]", wanted),
    )


def find_last_message(record_ids: Column, start: int, end: int, subject: int) -> int:
    """The last position of a subject's messages in between, or `end`."""
    return lib.tri_find_last_message(ffi.from_buffer("uint32_t[]", record_ids), start, end, subject)


def live_bits(record_ids: Column) -> bytes:
    """One bit per message, the lowest first: 1 if it is there."""
    size = (len(record_ids) + 7) // 8
    bits = bytearray(size)
    lib.tri_live_bits(
        ffi.from_buffer("uint32_t[]", record_ids), len(record_ids), ffi.from_buffer("uint8_t[]", bits)
    )
    return bytes(bits)
