"""What reading the log's writes needs and gives, the same for the codec in C and the one in Python."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from typing import Final, Protocol

from .chunk import Buffer

NO_LIMIT: Final = (1 << 64) - 1


@dataclass(slots=True)
class Cursor:
    """Where reading begins in a segment and, afterwards, where it has come to."""

    position: int
    """Where the next write begins, in the segment as all other places."""
    sequence: int
    """Of the next write; 0 takes the one that is there."""
    chain: int
    """The chain's value before the next write."""
    tag: int
    seed: int
    limit: int = NO_LIMIT
    """No write with a higher sequence is read."""
    base: int = 0
    """Place of the first byte of what is read, which may be a part of the segment. Not behind `position`."""
    writes: int = 0
    """Read by the last call; the fields below are about the last of them."""
    records: int = 0
    """Read by the last call."""
    last_start: int = 0
    """Where the last write begins."""
    last_records: int = 0
    """Its records."""
    known_synced: int = 0
    oldest: int = 0
    newest: int = 0


@dataclass(slots=True)
class Run:
    """Successive batches of one group without a gap between their indexes, or one other record."""

    incarnation: int
    index: int
    """Of the first."""
    group: int
    start: int
    """Place of the first in the columns."""
    count: int
    kind: int
    flags: int


@dataclass(frozen=True, slots=True)
class Columns:
    """Records sorted by group, each group's in order, as parallel arrays, and the runs that they make."""

    runs: list[Run]
    offsets: array[int]
    """Of the bodies, in the segment (u32)."""
    lengths: array[int]
    """Of the bodies (u32)."""
    crcs: array[int]
    """Checksums of the bodies as their frames have them, of a batch the one in its header (u32)."""
    terms: array[int]
    """u64."""
    kinds: array[int]
    """Of batches, their kind; 0 for other records (u8)."""


class WriteReader(Protocol):
    """Reads sound writes, many records at once; keeps those of the last `read` until the next one."""

    def read(self, data: Buffer, cursor: Cursor) -> bool:
        """Moves the cursor behind the sound writes that follow each other from where it is.

        It ends in front of the first write that is not sound in every bit, is out of place or of order, or
        is beyond the limit. True: it ended in front of one whose records have no room any more.
        """

    def columns(self, first: int, last: int) -> Columns:
        """The records number `first` to `last` - 1 of the last `read`, sorted by group."""
