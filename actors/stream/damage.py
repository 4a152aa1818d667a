"""Damage to the blocks of a running stream: known by sequence, asked for from replicas, put back in place.

The index in memory says which bytes a block must have, down to its checksum. So a record from elsewhere is
put back only if the whole file is right again with it; and whoever reads a damaged message waits a moment for
that and gets an error after it, never something else.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

import trio

from ...codec import Buffer, crc32c
from ...codec.block import Record, RecordDamaged, read_record
from ...storage.errors import FileDamaged
from .blocks import Block
from .errors import DamagedRecord
from .salvage import is_record_of

if TYPE_CHECKING:
    from ...storage.files import GroupFiles

MEND_SECONDS: Final = 2.0
"""How long a reader waits for a damaged message to come back; then the error is the better answer."""
PIECE_BYTES: Final = 512 << 10
"""A block is read again in pieces of this size, so that nothing else waits long for the disk."""

Pace = Callable[[int], Awaitable[None]]
"""Awaited before each read, with its size in bytes."""


class Damage:
    """What of one stream's blocks can't be read. Found by readers and by the scrub, mended by repair."""

    def __init__(
        self,
        files: GroupFiles,
        stream: str,
        blocks: Sequence[Block],
        block_of: Callable[[int], Block | None],
        tell: Callable[[], bool],
    ) -> None:
        """`blocks` are the stream's, which change; `block_of` finds the one that has a sequence; `tell` wakes
        whoever repairs, False if nobody does."""
        self.records: dict[int, DamagedRecord] = {}
        """By sequence, what is wrong with it."""
        self.lost: list[tuple[int, int]] = []
        """(first, last) of sequences that were given up, in order: no replica could read them."""
        self.found = 0
        """Damaged records found since the start."""
        self._files = files
        self._stream = stream
        self._blocks = blocks
        self._block_of = block_of
        self._tell = tell
        self._suspects: set[int] = set()
        """Records that look sound in a file which is not: they are not served either."""
        self._hopeless: set[int] = set()
        self._changed = trio.Event()

    # --- readers

    def check(self, data: Buffer, block: Block, position: int) -> Record:
        """The message at this place, whose bytes these must be. Raises DamagedRecord, and notes it."""
        offset, length = block.span(position)
        sequence = block.first + position
        try:
            record = read_record(data)
        except RecordDamaged as damage:
            reason = damage.fault.text
        else:
            if record.sequence == sequence and len(data) == length:
                if sequence in self._suspects:
                    raise self.records[sequence].with_traceback(None)
                if sequence in self.records:
                    self._settle(sequence)  # the disk only failed to give it back at first
                return record
            reason = "another record lies there"
        raise self.note(DamagedRecord(self._stream, block.name, offset, sequence, reason))

    def note(self, damage: DamagedRecord) -> DamagedRecord:
        """A record can't be read; returns the error, to be raised."""
        if damage.sequence not in self.records:
            self.found += 1
            self.records[damage.sequence] = damage
            self._tell()
        return damage

    async def is_mended(self, sequence: int) -> bool:
        """Waits a moment for a damaged record to be put back."""
        if not self._tell():
            return False
        with trio.move_on_after(MEND_SECONDS):
            while sequence in self.records and sequence not in self._hopeless:
                await self._changed.wait()
        return sequence not in self.records

    # --- repair

    @property
    def reasons(self) -> list[str]:
        """Each damaged record in words: file, offset, sequence."""
        return [str(damage) for damage in self.records.values()]

    @property
    def whole(self) -> bool:
        return not self.records

    @property
    def newest(self) -> int:
        """The highest sequence in the blocks; 0 if there is none."""
        return self._blocks[-1].last if self._blocks else 0

    def is_lost(self, sequence: int) -> bool:
        """Whether a message was given up: that is known, and no damage to be mended or told any more."""
        at = bisect_right(self.lost, sequence, key=lambda span: span[0]) - 1
        return at >= 0 and sequence <= self.lost[at][1]

    async def missing(self, limit: int) -> list[int]:
        """The next sequences to ask others for; those whose block is gone need none."""
        for sequence in [each for each in self.records if self._block_of(each) is None]:
            self._settle(sequence)
        return sorted(self.records)[:limit]

    async def give_up(self, sequences: Sequence[int]) -> None:
        """Nobody who can be asked has these: readers get their error at once, until somebody does."""
        self._hopeless.update(sequences)
        self._wake()

    async def take(self, records: Mapping[int, bytes]) -> int:
        """Records from another replica; how many of them were put back, durably."""
        by_block: dict[str, tuple[Block, dict[int, bytes]]] = {}
        for sequence, record in records.items():
            block = self._block_of(sequence)
            if block is not None and sequence in self.records and self._fits(block, sequence, record):
                by_block.setdefault(block.name, (block, {}))[1][sequence] = record
        return sum([await self._put_back(block, found) for block, found in by_block.values()])

    def _fits(self, block: Block, sequence: int, record: bytes) -> bool:
        _, length = block.span(sequence - block.first)
        return len(record) == length and is_record_of(record, sequence)

    async def _put_back(self, block: Block, records: Mapping[int, bytes]) -> int:
        patches = {block.span(sequence - block.first)[0]: record for sequence, record in records.items()}
        try:
            await self._files.mend(block.name, patches, block.length, block.crc)
        except FileDamaged:
            # More of it is damaged than was known, or a copy was not the same: look at all of it.
            before = len(self.records)
            await self.inspect(block, self._files.read)
            if len(self.records) == before:
                self._suspect(block)
            return 0
        for sequence in records:
            self._settle(sequence)
        return len(records)

    def _settle(self, sequence: int) -> None:
        self.records.pop(sequence, None)
        self._hopeless.discard(sequence)
        self._suspects.discard(sequence)
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def give(self, sequences: Sequence[int], limit: int) -> list[tuple[int, bytes]]:
        """Those of these records that can be read here, about `limit` bytes of them."""
        given: list[tuple[int, bytes]] = []
        size = 0
        for sequence in sequences:
            block = self._block_of(sequence)
            if block is None or sequence in self.records or self.is_lost(sequence) or size >= limit:
                continue
            offset, length = block.span(sequence - block.first)
            try:
                record = await self._files.read(block.name, offset, length)
                self.check(record, block, sequence - block.first)
            except (FileDamaged, DamagedRecord):
                continue
            given.append((sequence, record))
            size += length
        return given

    # --- scrub

    async def scrub(self, pace: Pace) -> int:
        """Reads every block once more from the disk, as far as a manifest has it: those are written fully."""
        found = 0
        for block in list(self._blocks):
            manifest = self._files.manifest
            entries = manifest.files if manifest is not None else ()
            durable = any(entry.name == block.name and entry.length == block.length for entry in entries)
            if durable and self._block_of(block.first) is block:
                found += await self.inspect(block, self._files.reread, pace)
        return found

    async def examine(self, name: str) -> int:
        """Reads one file once more, as far as it is written by now; how many damaged records are new."""
        blocks = [block for block in self._blocks if block.name == name]
        return sum([await self.inspect(block, self._files.read) for block in blocks])

    async def inspect(
        self,
        block: Block,
        read: Callable[[str, int, int], Awaitable[bytes]],
        pace: Pace | None = None,
    ) -> int:
        """Reads a block once more; how many damaged records were found that nobody knew of."""
        name, length, crc, count = block.name, block.length, block.crc, len(block)
        data = bytearray()
        before = self.found
        for offset in range(0, length, PIECE_BYTES):
            size = min(PIECE_BYTES, length - offset)
            if pace is not None:
                await pace(size)
            try:
                piece = await read(name, offset, size)
            except (FileDamaged, FileNotFoundError):
                piece = b""
            data += piece.ljust(size, b"\0")
        if crc32c(data) == crc:
            return 0
        for position in range(count):
            offset, size = block.span(position)
            sequence = block.first + position
            known = sequence in self.records or self.is_lost(sequence)
            if not known and self._block_of(sequence) is block:
                try:
                    self.check(memoryview(data)[offset : offset + size], block, position)
                except DamagedRecord:
                    pass  # it is noted
        return self.found - before

    def _suspect(self, block: Block) -> None:
        """The file is not what it was, and yet each record is sound: none of them can be trusted."""
        reason = "the file does not have its checksum"
        for position in range(len(block)):
            offset, _ = block.span(position)
            sequence = block.first + position
            if not self.is_lost(sequence):
                self._suspects.add(sequence)
                self.note(DamagedRecord(self._stream, block.name, offset, sequence, reason))
