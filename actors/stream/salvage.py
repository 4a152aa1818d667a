"""Damaged blocks at start-up: what of them can still be read, and how they become whole again.

A block that is missing, short or has a wrong checksum keeps its stream from starting. What it lacks is
known: the captured state says which sequences lie in it, and its sound records say which of them are here.
The others come from replicas, and nothing is taken for the block but the very bytes whose checksum the
manifest has.
"""

from __future__ import annotations

import struct
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ...codec import crc32c
from ...codec.block import RECORD_HEADER_SIZE, BlockScan, check_record, encode_record, scan_block
from ...storage.errors import FileDamaged
from .errors import DamagedRecord, StateDamaged

if TYPE_CHECKING:
    from ...storage.files import GroupFiles
    from ...storage.manifest import FileEntry

LOST_SUBJECT: Final = b"?"
"""Stands in the index of a block for the subject of a lost message, which nobody knows."""

_HEAD: Final = struct.Struct("<IIQq")
_WORD: Final = 8


@dataclass(frozen=True, slots=True)
class BlockNote:
    """What a captured state and its manifest say of one block."""

    file: FileEntry
    first: int
    """Sequence of its first message; 0 if the state is too old to say."""
    count: int
    start: int
    live: bytes | None

    @property
    def last(self) -> int:
        return self.first + self.count - 1


def block_notes(state: Mapping[str, object], files: Sequence[FileEntry]) -> list[BlockNote] | None:
    """The notes of a captured state; None if its blocks and files don't belong together."""
    blocks = state["blocks"]
    if not isinstance(blocks, list) or len(blocks) != len(files):
        return None
    return [
        BlockNote(file, rest[0] if rest else 0, count, start, live)
        for file, (count, start, live, *rest) in zip(files, blocks, strict=True)
    ]


def what_is_wrong(data: bytes, scan: BlockScan, note: BlockNote) -> str:
    """Why a block, which was scanned, is not what its note says, in words; empty if it is.

    Raises StateDamaged if the note contradicts itself: then no bytes could be right.
    """
    count = len(scan.offsets)
    if scan.fault is not None:
        return f"{scan.fault.text} (offset {scan.fault_offset})"
    if len(data) != note.file.length:
        return f"{len(data)} bytes, the manifest says {note.file.length}"
    if crc32c(data) != note.file.crc32c:
        return "not the file that the manifest names"
    if not count or count != note.count or scan.sequences[-1] - scan.sequences[0] + 1 != count:
        raise StateDamaged(f"file {note.file.name}: {count} records, the state says {note.count}")
    if note.live is not None and len(note.live) != (count + 7) // 8:
        size = len(note.live)
        raise StateDamaged(f"file {note.file.name}: {size} bytes say which of {count} messages are there")
    return ""


Place = tuple[int, int]
"""(offset, length) of a record in its file."""


def find_records(data: bytes, first: int, count: int) -> dict[int, Place]:
    """The sound records of a damaged block, by sequence; only sequences that belong there count.

    Behind damage it goes on at the next place that has such a sequence and a record's checksum.
    """
    found: dict[int, Place] = {}
    view = memoryview(data)
    at: int | None = 0
    newest = first - 1
    while at is not None:
        scan = scan_block(view[at:])
        ends = [*scan.offsets[1:], scan.fault_offset]
        for sequence, begin, end in zip(scan.sequences, scan.offsets, ends, strict=False):
            if newest < sequence < first + count:
                found[sequence] = (at + begin, end - begin)
                newest = sequence
        at = _next_record(view, at + scan.fault_offset + _WORD, newest + 1, first + count)
    return found


def _next_record(view: memoryview, start: int, first: int, end: int) -> int | None:
    """The first offset from `start` on with a record of one of these sequences: all lie at multiples of 8."""
    words = view[start : len(view) // _WORD * _WORD].cast("Q") if start < len(view) else ()
    for position, word in enumerate(words):
        if first <= word < end and position:
            at = start + (position - 1) * _WORD
            length = _HEAD.unpack_from(view, at)[0] if at + RECORD_HEADER_SIZE <= len(view) else 0
            if length and check_record(view[at : at + length]) is None:
                return at
    return None


def is_record_of(data: bytes, sequence: int) -> bool:
    """Whether these bytes are one sound record with this sequence."""
    return check_record(data) is None and _HEAD.unpack_from(data)[2] == sequence


def filled(data: bytes, places: Mapping[int, Place], note: BlockNote) -> tuple[bytes, list[int]]:
    """A block as it would be scanned if every lost record were there and empty, and the true offsets."""
    pieces: list[bytes] = []
    offsets: list[int] = []
    end = time = 0
    for sequence in range(note.first, note.first + note.count):
        place = places.get(sequence)
        if place is None:
            pieces.append(encode_record(sequence, time, LOST_SUBJECT, b"", b""))
            offsets.append(end)
            continue
        offset, length = place
        time = _HEAD.unpack_from(data, offset)[3]
        pieces.append(data[offset : offset + length])
        offsets.append(offset)
        end = offset + length
    return b"".join(pieces), offsets


def without(live: bytes | None, start: int, count: int, gone: Iterable[int]) -> bytes:
    """The bits of what is there in a block, without these positions."""
    bits = bytearray(live) if live is not None else bytearray(b"\xff" * ((count + 7) // 8))
    for position in (*range(start), *gone):
        bits[position // 8] &= ~(1 << position % 8) & 0xFF
    return bytes(bits)


@dataclass(slots=True)
class _Hurt:
    """One block that can't be used as it is."""

    note: BlockNote
    damage: DamagedRecord
    own: dict[int, bytes] | None = None
    """Its sound records by sequence, those that are here and those that came; None until it is its turn."""

    def lacking(self) -> list[int]:
        note, own = self.note, self.own or {}
        return [each for each in range(note.first, note.last + 1) if each not in own]


class Wreck:
    """The blocks of a stream that could not start. Nothing else uses its files meanwhile."""

    def __init__(self, files: GroupFiles, stream: str, notes: Sequence[BlockNote]) -> None:
        """`notes` has every block; those that are damaged are told by `add`."""
        self._files = files
        self._stream = stream
        self._notes = notes
        self._hurt: dict[str, _Hurt] = {}
        self.lost: list[tuple[int, int]] = []
        """None: who gives up starts without them."""

    def add(self, note: BlockNote, data: bytes, reason: str) -> None:
        """A damaged block, and what can be read of its file."""
        found = find_records(data, note.first, note.count)
        lacking = [each for each in range(note.first, note.last + 1) if each not in found]
        before = [sum(place) for sequence, place in found.items() if not lacking or sequence < lacking[0]]
        if lacking:
            reason += f"; sequences {show(lacking)} can't be read"
        damage = DamagedRecord(
            self._stream,
            note.file.name,
            max(before, default=0) if lacking else 0,
            lacking[0] if lacking else note.first,
            reason,
        )
        self._hurt[note.file.name] = _Hurt(note, damage)

    @property
    def whole(self) -> bool:
        """Whether every block can be used again."""
        return not self._hurt

    @property
    def newest(self) -> int:
        """The highest sequence in the blocks; 0 if there is none."""
        return max((note.last for note in self._notes), default=0)

    @property
    def mendable(self) -> bool:
        """Whether it is known which sequences the damaged blocks have."""
        return all(hurt.note.first for hurt in self._hurt.values())

    def damage(self) -> DamagedRecord:
        """The error with which a stream doesn't start; with what would help, if something can."""
        damage = next(iter(self._hurt.values())).damage
        damage.patient = self if self.mendable else None
        return damage

    @property
    def reasons(self) -> list[str]:
        """Each damaged block in words: file, offset, sequences."""
        return [str(hurt.damage) for hurt in self._hurt.values()]

    async def missing(self, limit: int) -> list[int]:
        """The next sequences to ask others for, all of one block."""
        for name, hurt in list(self._hurt.items()):
            await self._load(hurt)
            if lacking := hurt.lacking()[:limit]:
                return lacking
            await self._put_back(name, hurt)  # only what lies between its records was damaged
        return []

    async def _load(self, hurt: _Hurt) -> dict[int, bytes]:
        if hurt.own is None:
            note = hurt.note
            data = await self._data(note)
            found = find_records(data, note.first, note.count)
            hurt.own = {sequence: data[at : at + length] for sequence, (at, length) in found.items()}
        return hurt.own

    async def take(self, records: Mapping[int, bytes]) -> int:
        """Records from another replica; a block that has all of its own is put back. How many were of use.

        If a block has all of its sequences and yet another checksum, all of them must come from others.
        """
        used = 0
        for name, hurt in list(self._hurt.items()):
            if hurt.own is None:
                break  # its turn comes
            for sequence in hurt.lacking():
                record = records.get(sequence)
                if record is not None and is_record_of(record, sequence):
                    hurt.own[sequence] = record
                    used += 1
            if not hurt.lacking():
                await self._put_back(name, hurt)
        return used

    async def _put_back(self, name: str, hurt: _Hurt) -> None:
        file, own = hurt.note.file, hurt.own or {}
        content = b"".join(own[sequence] for sequence in sorted(own))
        if len(content) == file.length and crc32c(content) == file.crc32c:
            await self._files.mend(name, {0: content}, file.length, file.crc32c)
            del self._hurt[name]
        else:
            hurt.own = {}

    async def scrub(self, pace: Callable[[int], Awaitable[None]]) -> int:
        """Nothing: all of it was just read."""
        return 0

    async def examine(self, name: str) -> int:
        """Nothing, as `scrub`."""
        return 0

    async def give_up(self, numbers: Sequence[int]) -> None:
        """Nobody has these: what came of the others is put where it was missing, before it is lost again."""
        for name, hurt in self._hurt.items():
            if hurt.own:
                content = await self._filled(hurt.note, hurt.own)
                await self._files.mend(name, {0: content}, len(content), crc32c(content))

    async def _filled(self, note: BlockNote, own: Mapping[int, bytes]) -> bytes:
        """A block with all records that are known, each in its place or behind the one before it."""
        data = await self._data(note)
        places = find_records(data, note.first, note.count)
        content = bytearray(data.ljust(note.file.length, b"\0"))
        end = 0
        for sequence in range(note.first, note.last + 1):
            record = own.get(sequence)
            offset = places[sequence][0] if sequence in places else end
            if record is not None and offset + len(record) <= len(content):
                content[offset : offset + len(record)] = record
                end = offset + len(record)
        return bytes(content)

    async def _data(self, note: BlockNote) -> bytes:
        """What can be read of a block's file."""
        try:
            return await self._files.read(note.file.name, 0, note.file.length)
        except FileDamaged:
            return b""

    async def give(self, sequences: Sequence[int], limit: int) -> list[tuple[int, bytes]]:
        """Those of these records that can be read here, about `limit` bytes of them."""
        given: list[tuple[int, bytes]] = []
        size = 0
        for note in self._notes:
            wanted = [each for each in sequences if note.first <= each <= note.last]
            if not wanted or size >= limit:
                continue
            known = await self._records(note)
            for sequence in wanted:
                record = known.get(sequence)
                if record is not None and size < limit:
                    given.append((sequence, record))
                    size += len(record)
        return given

    async def _records(self, note: BlockNote) -> dict[int, bytes]:
        hurt = self._hurt.get(note.file.name)
        if hurt is not None:
            return await self._load(hurt)
        data = await self._data(note)
        scan = scan_block(data)
        ends = [*scan.offsets[1:], scan.fault_offset]
        return {
            sequence: data[begin:end]
            for sequence, begin, end in zip(scan.sequences, scan.offsets, ends, strict=True)
        }


def spans(sequences: Iterable[int]) -> list[tuple[int, int]]:
    """(first, last) of each run of sequences without a gap."""
    found: list[tuple[int, int]] = []
    for sequence in sorted(sequences):
        if found and sequence == found[-1][1] + 1:
            found[-1] = (found[-1][0], sequence)
        else:
            found.append((sequence, sequence))
    return found


def show(sequences: Iterable[int]) -> str:
    """Sequences in words: 3, 7 to 9."""
    parts = [str(first) if first == last else f"{first} to {last}" for first, last in spans(sequences)]
    return ", ".join(parts)
