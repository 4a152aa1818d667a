"""Block records: how a stream's messages lie in its block files (a durable format).

A block file is a row of records and nothing else. A record, little endian, 8-byte aligned:

    offset  field
     0  u32 length of the whole record, a multiple of 8
     4  u32 CRC32C of everything after this field, padding included
     8  u64 sequence                 16  i64 time of the batch (ns since 1970)
    24  u32 headers length           28  u16 subject length      30  u16 flags = 0
    32  u32 payload length           36  u32 zero
    40  subject | headers | payload | zeros to 8

Beside the format, this module has the per-message half of applying a batch: a run of PUBLISH entries is
sorted by subject (`group_publishes`) and turned into records (`PublishRun.append`) in C, so that Python
works per distinct subject; and the loops over a block's index, which a stream keeps in memory.
"""

from __future__ import annotations

import struct
from typing import Final

from ._backend import crc32c
from ._backend_block import (
    check_record,
    drop_messages,
    find_last_message,
    find_message,
    group_publishes,
    index_records,
    live_bits,
    scan_block,
    trim_subjects,
)
from .block_types import (
    EVERYTHING,
    NO_SUBJECT,
    Appended,
    BlockScan,
    Column,
    IndexChange,
    PublishRun,
    Record,
    RecordDamaged,
    RecordFault,
    Refusals,
    SubjectCounters,
)
from .chunk import Buffer

__all__ = [
    # records
    "RECORD_HEADER_SIZE",
    "Record",
    "RecordDamaged",
    "RecordFault",
    "accounted_size",
    "check_record",
    "encode_record",
    "read_record",
    "record_size",
    "scan_block",
    "BlockScan",
    "Column",
    # appending
    "Appended",
    "PublishRun",
    "Refusals",
    "group_publishes",
    # the index of a block
    "EVERYTHING",
    "IndexChange",
    "NO_SUBJECT",
    "SubjectCounters",
    "drop_messages",
    "find_last_message",
    "find_message",
    "index_records",
    "live_bits",
    "trim_subjects",
]

RECORD: Final = struct.Struct("<IIQqIHHII")
RECORD_HEADER_SIZE: Final = RECORD.size
assert RECORD_HEADER_SIZE == 40


def accounted_size(subject: int, headers: int, payload: int) -> int:
    """Bytes that a message counts for in a stream's limits and state, from the lengths of its parts.

    The same sum as JetStream's own store makes, because tools and limits compare it.
    """
    return 22 + subject + (4 + headers if headers else 0) + payload + 8


def record_size(subject: int, headers: int, payload: int) -> int:
    """Bytes that a message takes in a block, from the lengths of its parts."""
    return RECORD_HEADER_SIZE + (subject + headers + payload + 7) // 8 * 8


def encode_record(sequence: int, time: int, subject: bytes, headers: bytes, payload: bytes) -> bytes:
    """One record; `time` in ns. The lengths are those of a PUBLISH entry: u16, u32 and u32."""
    length = record_size(len(subject), len(headers), len(payload))
    head = RECORD.pack(length, 0, sequence, time, len(headers), len(subject), 0, len(payload), 0)
    record = b"".join((head[8:], subject, headers, payload)).ljust(length - 8, b"\0")
    return struct.pack("<II", length, crc32c(record)) + record


def read_record(buffer: Buffer) -> Record:
    """The message of a buffer that must be exactly one record. Raises RecordDamaged."""
    fault = check_record(buffer)
    if fault is not None:
        raise RecordDamaged(fault)
    _, _, sequence, time, headers, subject, _, payload, _ = RECORD.unpack_from(buffer)
    view = memoryview(buffer)
    body = RECORD_HEADER_SIZE + subject
    end = body + headers + payload
    return Record(
        sequence,
        time,
        bytes(view[RECORD_HEADER_SIZE:body]),
        bytes(view[body : body + headers]),
        bytes(view[body + headers : end]),
    )
