"""One block file of a stream, as the stream remembers it: where each message lies and whether it is there."""

from __future__ import annotations

import mmap
from array import array
from bisect import bisect_right
from collections import Counter
from typing import Final

from ...codec import crc32c
from ...codec.block import (
    NO_SUBJECT,
    Appended,
    BlockScan,
    Column,
    IndexChange,
    SubjectCounters,
    drop_messages,
    find_last_message,
    find_message,
    live_bits,
    trim_subjects,
)

COLUMNS: Final = 3
WORD: Final = 4
SETTLED_BYTES: Final = 64 * 1024
"""From this size on a full block's columns get memory of their own. Below it a page more or less counts."""


class Block:
    """Index of a block file: 12 bytes per message. The sequences in a block have no gaps."""

    __slots__ = (
        "crc",
        "first",
        "ids",
        "length",
        "live",
        "name",
        "offsets",
        "sizes",
        "start",
        "time_starts",
        "time_values",
    )

    def __init__(self, name: str, first: int) -> None:
        self.name = name
        self.first = first
        """Sequence of the first message ever written to the block."""
        self.offsets: Column = array("I")
        """Per message, where its record begins."""
        self.sizes: Column = array("I")
        """Per message, its accounted size."""
        self.ids: Column = array("I")
        """Per message, its subject's id; NO_SUBJECT if the message is gone."""
        self.time_starts = array("I")
        """Per run of messages with one time, the position of the first of them."""
        self.time_values = array("q")
        self.start = 0
        """Invariant: no message before this position is there."""
        self.live = 0
        """Messages that are there."""
        self.length = 0
        """Bytes of the file, including what waits to be written."""
        self.crc = 0
        """CRC32C of those bytes."""

    @classmethod
    def scanned(
        cls, name: str, data: bytes, scan: BlockScan, ids: array[int], live: int, start: int
    ) -> Block:
        """The index of a file that was read and scanned without a fault."""
        block = cls(name, scan.sequences[0])
        block.offsets, block.sizes, block.ids = scan.offsets, scan.sizes, ids
        block.time_starts, block.time_values = scan.time_starts, scan.time_values
        block.live, block.start = live, start
        block.length, block.crc = len(data), crc32c(data)
        return block

    def __len__(self) -> int:
        return len(self.offsets)

    @property
    def last(self) -> int:
        """Sequence of the last message ever written to the block."""
        return self.first + len(self.offsets) - 1

    def extend(self, appended: Appended, time: int) -> None:
        """Takes the records that were made for the end of the block."""
        if not appended.records:
            return
        self._note_time(time)
        offsets, sizes, ids = self._open_columns()
        offsets.frombytes(appended.offsets)
        sizes.frombytes(appended.sizes)
        ids.frombytes(appended.ids)
        self._note_data(appended.data, appended.records)

    def append(self, record: bytes, time: int, size: int, subject: int) -> None:
        """Takes one record, of so many accounted bytes."""
        self._note_time(time)
        offsets, sizes, ids = self._open_columns()
        offsets.append(self.length)
        sizes.append(size)
        ids.append(subject)
        self._note_data(record, 1)

    def settle(self) -> None:
        """The block takes no more records: its columns move to one mapping of just their size.

        Arrays that grow side by side leave holes in the heap, a third of what they hold; a large stream keeps
        its index for as long as it lives.
        """
        count = len(self)
        if COLUMNS * WORD * count < SETTLED_BYTES or isinstance(self.ids, memoryview):
            return
        try:
            area = mmap.mmap(-1, COLUMNS * WORD * count, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        except OSError:
            return  # as many mappings as a process may have: the heap will do
        view = memoryview(area).cast("I")
        columns = [view[count * number : count * (number + 1)] for number in range(COLUMNS)]
        for column, grown in zip(columns, self._open_columns(), strict=True):
            column[:] = memoryview(grown)
        self.offsets, self.sizes, self.ids = columns

    def _open_columns(self) -> tuple[array[int], array[int], array[int]]:
        offsets, sizes, ids = self.offsets, self.sizes, self.ids
        assert isinstance(offsets, array) and isinstance(sizes, array) and isinstance(ids, array), "settled"
        return offsets, sizes, ids

    def _note_time(self, time: int) -> None:
        if not self.time_values or self.time_values[-1] != time:
            self.time_starts.append(len(self.offsets))
            self.time_values.append(time)

    def _note_data(self, data: bytes, messages: int) -> None:
        self.length += len(data)
        self.crc = crc32c(data, self.crc)
        self.live += messages

    def span(self, position: int) -> tuple[int, int]:
        """Offset and length of a message's record."""
        begin = self.offsets[position]
        end = self.offsets[position + 1] if position + 1 < len(self.offsets) else self.length
        return begin, end - begin

    def time_of(self, position: int) -> int:
        """Time (ns) of a message."""
        return self.time_values[bisect_right(self.time_starts, position) - 1]

    def older_than(self, time: int) -> int:
        """The first position whose message is newer than `time`."""
        run = bisect_right(self.time_values, time)
        return self.time_starts[run] if run < len(self.time_starts) else len(self.offsets)

    def drop(
        self,
        counters: SubjectCounters,
        start: int,
        end: int,
        *,
        wanted: bytearray | None = None,
        messages: int = 0,
        size: int = 0,
    ) -> IndexChange:
        """Lets messages go, see `drop_messages`."""
        start = max(start, self.start)
        if start >= end:
            return IndexChange(0, 0, end)
        change = drop_messages(
            self.ids,
            self.sizes,
            start,
            end,
            counters,
            wanted=wanted,
            messages=messages,
            size=size,
        )
        self.live -= change.messages
        return change

    def trim(
        self, counters: SubjectCounters, subjects: array[int], excess: array[int], before: int
    ) -> IndexChange:
        """Lets each subject's oldest messages below a sequence go, see `trim_subjects`."""
        end = max(0, min(len(self), before - self.first))
        change = trim_subjects(self.ids, self.sizes, self.start, end, self.first, subjects, excess, counters)
        self.live -= change.messages
        return change

    def find(self, start: int, *, subject: int = NO_SUBJECT, wanted: bytearray | None = None) -> int | None:
        """The first position from `start` on with a message (of a subject, or of wanted ones)."""
        start = max(start, self.start)
        if start >= len(self) or not self.live:
            return None
        position = find_message(self.ids, start, len(self), subject=subject, wanted=wanted)
        return position if position < len(self) else None

    def find_last(self, end: int, subject: int) -> int | None:
        """The last position before `end` with a message of the subject."""
        if end <= self.start or not self.live:
            return None
        position = find_last_message(self.ids, self.start, end, subject)
        return position if position < end else None

    def count(self, start: int, wanted: bytearray | None = None) -> int:
        """Messages from a position on (of wanted subjects)."""
        start = max(start, self.start)
        if wanted is not None:
            found = Counter(self.ids[start:])
            return sum(times for number, times in found.items() if number < len(wanted) and wanted[number])
        if start <= self.start or self.live == len(self) - self.start:
            return self.live if start <= self.start else max(0, len(self) - start)
        tail = array("I", self.ids[start:])
        return len(tail) - tail.count(NO_SUBJECT)

    def live_bits(self) -> bytes | None:
        """One bit per message if some between `start` and the end are gone; else None."""
        if self.live == len(self) - self.start:
            return None
        return live_bits(self.ids)
