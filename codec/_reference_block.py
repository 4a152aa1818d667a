"""Block records in Python: the model of `csrc/stream.c`, and its stand-in where no compiler was.

The checks come in the same order as in C, so that the same bytes give the same fault.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterable, Sequence

from ._reference_crc32c import crc32c
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

_RECORD = struct.Struct("<IIQqIHHII")
_PUBLISH = struct.Struct("<HHI")


def _accounted(subject: int, headers: int, payload: int) -> int:
    return 22 + subject + (4 + headers if headers else 0) + payload + 8


def _publish_parts(entry: memoryview) -> tuple[int, int] | None:
    """Lengths of subject and headers, or None for an entry that contradicts itself."""
    if len(entry) < _PUBLISH.size:
        return None
    subject, zero, headers = _PUBLISH.unpack_from(entry)
    left = len(entry) - _PUBLISH.size
    if subject == 0 or zero != 0 or left < subject or left - subject < headers:
        return None
    return subject, headers


class _PublishRun:
    """A run of PUBLISH entries, sorted by subject."""

    def __init__(self, entries: Entries, first: int, count: int) -> None:
        numbers: dict[bytes, int] = {}
        self._entries = [entries.entry(i) for i in range(first, first + count)]
        self._group_of = []
        for entry in self._entries:
            parts = _publish_parts(entry)
            if parts is None:
                self._group_of.append(NO_SUBJECT)
                continue
            subject = bytes(entry[_PUBLISH.size : _PUBLISH.size + parts[0]])
            self._group_of.append(numbers.setdefault(subject, len(numbers)))
        self.subjects = list(numbers)

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
        data = bytearray()
        offsets, sizes, record_ids, results = array("I"), array("I"), array("I"), array("Q")
        stored = sequence
        for entry, group in zip(self._entries[start:], self._group_of[start:], strict=True):
            parts = _publish_parts(entry)
            if parts is None:
                results.append(refusals.entry)
                continue
            if ids[group] == NO_SUBJECT:
                results.append(refusals.subject)
                continue
            subject, headers = parts
            body = bytes(entry[_PUBLISH.size :])
            payload = len(body) - subject - headers
            if headers + payload > max_message_size:
                results.append(refusals.size)
                continue
            length = _RECORD.size + (len(body) + 7) // 8 * 8
            if room - len(data) < length:
                break
            head = _RECORD.pack(length, 0, stored, time, headers, subject, 0, payload, 0)
            record = (head[8:] + body).ljust(length - 8, b"\0")
            offsets.append(block_offset + len(data))
            sizes.append(_accounted(subject, headers, payload))
            record_ids.append(ids[group])
            data += struct.pack("<II", length, crc32c(record)) + record
            counters.count_message(ids[group], stored)
            results.append(stored)
            stored += 1
        packed = struct.pack(f"<{len(results)}Q", *results)
        return Appended(
            len(results),
            stored - sequence,
            sum(sizes),
            bytes(data),
            offsets.tobytes(),
            sizes.tobytes(),
            record_ids.tobytes(),
            packed,
        )


def group_publishes(entries: Entries, first: int, count: int) -> PublishRun:
    """Sorts `count` entries from number `first` on, all of type PUBLISH, by subject."""
    return _PublishRun(entries, first, count)


def _record_fault(view: memoryview) -> tuple[RecordFault | None, int]:
    """The fault of the record at the start of a view, and its length."""
    if len(view) < _RECORD.size:
        return RecordFault.SHORT, 0
    length, checksum, _, _, headers, subject, flags, payload, zero = _RECORD.unpack_from(view)
    if length < _RECORD.size or length % 8:
        return RecordFault.LENGTH, 0
    if len(view) < length:
        return RecordFault.SHORT, 0
    body = subject + headers + payload
    space = length - _RECORD.size
    if not body <= space <= body + 7:
        return RecordFault.LENGTH, 0
    if crc32c(view[8:length]) != checksum:
        return RecordFault.CHECKSUM, 0
    if subject == 0 or flags or zero or any(view[_RECORD.size + body : length]):
        return RecordFault.FIELDS, 0
    return None, length


def check_record(buffer: Buffer) -> RecordFault | None:
    """What is wrong with a buffer that must be exactly one record."""
    fault, length = _record_fault(memoryview(buffer))
    return RecordFault.LENGTH if fault is None and length != len(buffer) else fault


def scan_block(buffer: Buffer) -> BlockScan:
    """Verifies and lists the records of a buffer, up to the first damage."""
    view = memoryview(buffer)
    numbers: dict[bytes, int] = {}
    scan = BlockScan(
        array("I"), array("I"), array("Q"), array("I"), array("q"), [], array("I"), fault=None, fault_offset=0
    )
    at = 0
    while at < len(view):
        fault, length = _record_fault(view[at:])
        if fault is None:
            _, _, sequence, time, headers, subject, _, payload, _ = _RECORD.unpack_from(view, at)
            if scan.sequences and sequence <= scan.sequences[-1]:
                fault = RecordFault.ORDER
        if fault is not None:
            scan.fault = fault
            break
        if not scan.time_values or scan.time_values[-1] != time:
            scan.time_starts.append(len(scan.offsets))
            scan.time_values.append(time)
        scan.offsets.append(at)
        scan.sizes.append(_accounted(subject, headers, payload))
        scan.sequences.append(sequence)
        name = bytes(view[at + _RECORD.size : at + _RECORD.size + subject])
        scan.group_of.append(numbers.setdefault(name, len(numbers)))
        at += length
    scan.fault_offset = at
    scan.subjects = list(numbers)
    return scan


def index_records(
    scan: BlockScan, ids: Sequence[int], counters: SubjectCounters, start: int, live: bytes | None
) -> tuple[array[int], IndexChange]:
    """The index of a scanned block: per record its subject's id, NO_SUBJECT where the message is gone.

    Gone are those before position `start` and, if `live` is given, those whose bit in it is 0.
    """
    record_ids = array("I")
    total = messages = 0
    for i, group in enumerate(scan.group_of):
        if i < start or (live is not None and not live[i // 8] >> i % 8 & 1):
            record_ids.append(NO_SUBJECT)
            continue
        record_ids.append(ids[group])
        counters.count_message(ids[group], scan.sequences[0] + i)
        messages += 1
        total += scan.sizes[i]
    return record_ids, IndexChange(messages, total, len(record_ids))


def _is_meant(found: int, subject: int, wanted: bytearray | None) -> bool:
    if subject != NO_SUBJECT:
        return found == subject
    return found != NO_SUBJECT and (wanted is None or wanted[found] != 0)


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
    gone = freed = 0
    emptied: list[int] = []
    at = start
    while at < end and (gone < messages or freed < size):
        found = record_ids[at]
        if _is_meant(found, NO_SUBJECT, wanted):
            gone += 1
            freed += record_sizes[at]
            record_ids[at] = NO_SUBJECT
            counters.counts[found] -= 1
            if counters.counts[found] == 0:
                emptied.append(found)
        at += 1
    return IndexChange(gone, freed, at, tuple(emptied))


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
    gone = freed = 0
    for i, subject in enumerate(subjects):
        at = max(start, counters.firsts[subject] - first_sequence)
        while excess[i] > 0 and at < end:
            if record_ids[at] == subject:
                record_ids[at] = NO_SUBJECT
                freed += record_sizes[at]
                gone += 1
                counters.counts[subject] -= 1
                excess[i] -= 1
            at += 1
        one = counters.counts[subject] == 1
        counters.firsts[subject] = counters.lasts[subject] if one else first_sequence + at
    return IndexChange(gone, freed, end)


def find_message(
    record_ids: Column,
    start: int,
    end: int,
    *,
    subject: int = NO_SUBJECT,
    wanted: bytearray | None = None,
) -> int:
    """The first position with a message (of one subject, or of wanted ones, or any), or `end`."""
    positions: Iterable[int] = range(start, end)
    return next((at for at in positions if _is_meant(record_ids[at], subject, wanted)), end)


def find_last_message(record_ids: Column, start: int, end: int, subject: int) -> int:
    """The last position of a subject's messages in between, or `end`."""
    return next((at for at in range(end - 1, start - 1, -1) if record_ids[at] == subject), end)


def live_bits(record_ids: Column) -> bytes:
    """One bit per message, the lowest first: 1 if it is there."""
    bits = bytearray((len(record_ids) + 7) // 8)
    for i, found in enumerate(record_ids):
        bits[i // 8] |= (found != NO_SUBJECT) << i % 8
    return bytes(bits)
