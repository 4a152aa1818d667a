"""What the two block codecs take and give; the format itself is described in `block.py`."""

from __future__ import annotations

import enum
from array import array
from dataclasses import dataclass, field
from typing import Final, Protocol, TypeAlias

from .errors import CodecError

NO_SUBJECT: Final = 0xFFFFFFFF
"""A subject id that no subject has. In a block's index: that message is gone. For a subject: refused."""

Column: TypeAlias = "array[int] | memoryview"
"""u32 per message of a block: an array while the block grows, a view of its place afterwards."""

EVERYTHING: Final = (1 << 64) - 1
"""A number of messages that no block has."""


class RecordFault(enum.IntEnum):
    """What is wrong with the bytes of a record."""

    SHORT = 1
    LENGTH = 2
    CHECKSUM = 3
    FIELDS = 4
    ORDER = 5

    @property
    def text(self) -> str:
        return _FAULTS[self]


_FAULTS: Final = {
    RecordFault.SHORT: "the bytes end inside the record",
    RecordFault.LENGTH: "the record's lengths contradict each other",
    RecordFault.CHECKSUM: "the record's checksum does not match",
    RecordFault.FIELDS: "a field of the record that must be zero is not",
    RecordFault.ORDER: "the record's sequence does not follow the one before",
}


class RecordDamaged(CodecError):
    """The bytes are no block record: nothing in them is served."""

    def __init__(self, fault: RecordFault, offset: int = 0) -> None:
        super().__init__(f"{fault.text} (offset {offset})")
        self.fault = fault
        self.offset = offset


@dataclass(frozen=True, slots=True)
class Record:
    """One stored message."""

    sequence: int
    time: int
    """Time of its batch, ns since 1970."""
    subject: bytes
    headers: bytes
    """The whole header block as it came, or nothing."""
    payload: bytes


@dataclass(slots=True)
class SubjectCounters:
    """Three u64 arrays indexed by subject id; ids are small numbers and are reused."""

    counts: array[int] = field(default_factory=lambda: array("Q"))
    """Messages with the subject."""
    firsts: array[int] = field(default_factory=lambda: array("Q"))
    """No message with the subject has a lower sequence than this."""
    lasts: array[int] = field(default_factory=lambda: array("Q"))
    """Sequence of the newest message with the subject."""

    def grow(self) -> int:
        """Makes room for one more subject and gives its id."""
        self.counts.append(0)
        self.firsts.append(0)
        self.lasts.append(0)
        return len(self.counts) - 1

    def count_message(self, subject: int, sequence: int) -> None:
        if self.counts[subject] == 0:
            self.firsts[subject] = sequence
        self.counts[subject] += 1
        self.lasts[subject] = sequence


@dataclass(frozen=True, slots=True)
class Refusals:
    """The packed results of entries that are not stored."""

    subject: int
    """The stream does not take the subject."""
    size: int
    """Headers and payload are larger than the stream allows."""
    entry: int
    """The entry contradicts itself."""


@dataclass(frozen=True, slots=True)
class Appended:
    """What appending (a part of) a run gave."""

    entries: int
    """Entries taken from the run; fewer than offered when the room ended."""
    records: int
    """Messages stored: entries without the refused ones."""
    size: int
    """Accounted bytes of the messages stored."""
    data: bytes
    """The records."""
    offsets: bytes
    """Per record its offset in the block, native u32."""
    sizes: bytes
    """Per record its accounted size, native u32."""
    ids: bytes
    """Per record its subject's id, native u32."""
    results: bytes
    """Per entry taken its result, little-endian u64."""


class PublishRun(Protocol):
    """A run of PUBLISH entries, sorted by subject. Only the newest run of a thread can be appended."""

    subjects: list[bytes]
    """Distinct subjects, in the order of their first entry."""

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
        """Records of the run's entries from `start` on, until the run or the room (bytes) ends.

        `ids` has the id of every one of `subjects`, or NO_SUBJECT to refuse it; `sequence` and
        `block_offset` are those of the first record. `counters` take what is stored.
        """
        ...


@dataclass(slots=True)
class BlockScan:
    """The records of a buffer, up to the first damage."""

    offsets: array[int]
    """Per record its offset (u32)."""
    sizes: array[int]
    """Per record its accounted size (u32)."""
    sequences: array[int]
    """Per record its sequence (u64)."""
    time_starts: array[int]
    """Per run of records with one time, the number of its first record (u32)."""
    time_values: array[int]
    """Per such run its time (i64)."""
    subjects: list[bytes]
    """Distinct subjects in the order of their first record."""
    group_of: array[int]
    """Per record its subject's number in `subjects` (u32)."""
    fault: RecordFault | None
    """What ended the scan early, if anything did."""
    fault_offset: int
    """Where; without a fault the end of the buffer."""


@dataclass(frozen=True, slots=True)
class IndexChange:
    """What was done to a block's index."""

    messages: int
    size: int
    position: int
    """The first position that was not looked at."""
    emptied: tuple[int, ...] = ()
    """Ids of subjects that have no message left, in the order in which that happened."""
