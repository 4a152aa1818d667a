"""One segment of the log: its header, and writes made of frames, records and a trailer.

    segment   header page (4,096 bytes) | write | write | ... | zeros, or what an earlier use left
    write     frame record frame record ... trailer frame, trailer     (begins and ends on a sector)

docs/format.md draws the bytes. Three properties carry recovery:

- Every frame begins with the segment's tag and has a checksum over the segment's salt: bytes of an earlier
  use of the file never pass.
- A trailer repeats all frames of its write, so a record's name is stored twice, apart from its bytes.
- A write begins and ends on a sector, so a torn write never touches an acknowledged one, and both the
  next write's begin and a damaged write's trailer can be found again behind any damage.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import msgpack

from ..codec import Buffer, CodecError, crc32c, verify_batch
from ..codec.wal import seal_write
from .errors import LogDamaged, NewerFormat
from .records import BatchRecord, CompactPrefix, GroupCreate, GroupDelete, HardState, Record, TruncateSuffix

SECTOR: Final = 512
"""What a disk writes as one piece."""
DATA_START: Final = 4096
"""The header's page; writes begin behind it."""
HEADER_COPY: Final = 2048
"""Where the header's second copy lies: no single damaged sector makes a segment unreadable."""

SEGMENT_MAGIC: Final = b"TRIMWAL\0"
SEGMENT_VERSION: Final = 1
RESUMES: Final = 1
"""Segment flag: made by recovery; writes of earlier segments count only up to `resumes_after`."""
_SEGMENT_HEADER: Final = struct.Struct("<8sHHIQQQQQQ")
_U32: Final = struct.Struct("<I")

FRAME: Final = struct.Struct("<IBBHIIQQQQII")
FRAME_SIZE: Final = 56
assert FRAME.size == FRAME_SIZE
FRAME_CHECKED: Final = FRAME_SIZE - 4
"""The frame's own checksum covers everything before it."""

# Record kinds. 0 is invalid, so that zeros are never a record.
BATCH: Final = 1
HARD_STATE: Final = 2
TRUNCATE: Final = 3
COMPACT: Final = 4
CREATE: Final = 5
DELETE: Final = 6
TRAILER: Final = 255

# Frame flags.
REPAIR: Final = 1
"""Of a batch: it is put back at its place, replacing nothing else. Of a creation: the group existed before
it."""
LOST: Final = 2
"""Of a batch: only its name is here. A torn write may have held it, so it can't be called absent."""
CLOSED: Final = 4
"""Of a hard state: something is lost that nobody can name, so term and vote may have been others."""
READMITTED: Final = 8
"""Of a hard state: the group was taken in again since, and what it had promised before counts no more."""

_TRAILER_HEAD: Final = struct.Struct("<IIII")
_TRAILER_TAIL: Final = struct.Struct("<II")
TRAILER_FIXED: Final = FRAME_SIZE + _TRAILER_HEAD.size + _TRAILER_TAIL.size

COPIED_BYTES: Final = 16 << 10
"""A body below this size is copied into its write; a larger one is written from where it is."""

_BATCH_IDENTITY: Final = struct.Struct("<xxxBII4xQQQ")  # kind, length, group, incarnation, index, term
BATCH_CRC: Final = _U32
BATCH_CRC_AT: Final = 68
"""Where a batch's header keeps its own checksum."""
_COMMIT: Final = struct.Struct("<Q")
_MANIFEST_CRC: Final = struct.Struct("<II")


@dataclass(frozen=True, slots=True)
class SegmentHeader:
    """What a segment's header says; `size` is the whole file's, in bytes."""

    number: int
    node_id: int
    cluster_id: int
    salt: int
    size: int
    resumes: bool = False
    resumes_after: int = 0

    def encode(self) -> bytes:
        """The whole header page, with both copies."""
        fields = _SEGMENT_HEADER.pack(
            SEGMENT_MAGIC,
            SEGMENT_VERSION,
            RESUMES if self.resumes else 0,
            0,
            self.node_id,
            self.cluster_id,
            self.number,
            self.salt,
            self.size,
            self.resumes_after,
        )
        copy = fields + _U32.pack(crc32c(fields))
        page = bytearray(DATA_START)
        page[: len(copy)] = copy
        page[HEADER_COPY : HEADER_COPY + len(copy)] = copy
        return bytes(page)

    @property
    def tag(self) -> int:
        """The first four bytes of every frame: never 0, and new with each use of the file."""
        return (self.salt & 0xFFFFFFFF) | 1

    @property
    def seed(self) -> int:
        """Where frame checksums begin: they cover the salt and the segment's number."""
        return _seed(self.salt, self.number)


@lru_cache
def _seed(salt: int, number: int) -> int:
    return crc32c(struct.pack("<QQ", salt, number))


def decode_segment_header(page: bytes, file: str) -> SegmentHeader:
    """Reads the header page; LogDamaged if both copies are bad, NewerFormat if a sound one is newer."""
    size = _SEGMENT_HEADER.size
    for at in (0, HEADER_COPY):
        fields = page[at : at + size]
        stored = page[at + size : at + size + 4]
        if len(stored) < 4 or _U32.unpack(stored)[0] != crc32c(fields):
            continue
        magic, version, flags, _, node, cluster, number, salt, length, after = _SEGMENT_HEADER.unpack(fields)
        if magic != SEGMENT_MAGIC:
            continue
        if version > SEGMENT_VERSION or flags & ~RESUMES:
            raise NewerFormat(f"{file}: segment version {version}, this program knows {SEGMENT_VERSION}")
        return SegmentHeader(number, node, cluster, salt, length, bool(flags & RESUMES), after)
    raise LogDamaged(file, 0)


# --- encoding ---------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Item:
    """A record on its way to the disk, or found there: what its frame says, and its body."""

    kind: int
    flags: int
    group: int
    incarnation: int
    index: int
    """Batch: its index. HardState: the vote. Truncate: first index removed. Compact: last index covered."""
    term: int
    body: bytes
    crc: int
    """Of the body; of a batch its header's own checksum, which covers the payload's."""


def encode_record(record: Record) -> Item:
    """The frame fields and the body of a record. A batch's body is the batch itself, not a copy."""
    match record:
        case BatchRecord(batch, repair):
            _, _, group, incarnation, index, term = _BATCH_IDENTITY.unpack_from(batch)
            crc = BATCH_CRC.unpack_from(batch, BATCH_CRC_AT)[0]
            return Item(BATCH, REPAIR if repair else 0, group, incarnation, index, term, batch, crc)
        case HardState(group, incarnation, term, vote, commit, closed):
            body = encode_commit(commit)
            flags = 0 if closed is None else CLOSED if closed else READMITTED
            return Item(HARD_STATE, flags, group, incarnation, vote, term, body, crc32c(body))
        case TruncateSuffix(group, incarnation, first_removed):
            return Item(TRUNCATE, 0, group, incarnation, first_removed, 0, b"", 0)
        case CompactPrefix(group, incarnation, index, term, manifest_crc):
            body = encode_manifest_crc(manifest_crc)
            return Item(COMPACT, 0, group, incarnation, index, term, body, crc32c(body))
        case GroupCreate(group, incarnation, kind, name, members, again):
            packed = msgpack.packb({"v": 1, "kind": kind, "name": name, "members": members})
            body = _U32.pack(len(packed)) + packed
            body += bytes(-len(body) % 8)
            return Item(CREATE, REPAIR if again else 0, group, incarnation, 0, 0, body, crc32c(body))
        case GroupDelete(group, incarnation):
            return Item(DELETE, 0, group, incarnation, 0, 0, b"", 0)


def encode_commit(commit: int) -> bytes:
    """A HardState's body."""
    return _COMMIT.pack(commit)


def encode_manifest_crc(crc: int) -> bytes:
    """A CompactPrefix's body; 0 if the manifest's checksum is not known."""
    return _MANIFEST_CRC.pack(crc, 0)


def decode_commit(body: bytes) -> int:
    """The commit hint of a HardState's body."""
    commit: int = _COMMIT.unpack(body)[0]
    return commit


def decode_manifest_crc(body: bytes) -> int:
    """The manifest's checksum in a CompactPrefix's body."""
    crc: int = _MANIFEST_CRC.unpack(body)[0]
    return crc


def decode_create(body: bytes) -> tuple[str, str, bytes]:
    """(kind, name, members) of a GroupCreate's body, whose checksum was right."""
    size = _U32.unpack_from(body)[0]
    fields = msgpack.unpackb(body[4 : 4 + size])
    return fields["kind"], fields["name"], fields["members"]


def write_size(count: int, bodies: int) -> int:
    """Bytes of a write of `count` records whose bodies have `bodies` bytes in all."""
    size = count * (2 * FRAME_SIZE) + bodies + TRAILER_FIXED
    return size + -size % SECTOR


@dataclass(frozen=True, slots=True)
class Vouch:
    """What a trailer says about the log beyond its own write."""

    known_synced: int
    """Every write up to this sequence was synced before this one was begun."""
    oldest: int
    """The oldest segment that still has a live record."""
    newest: int
    """The newest segment that exists durably."""


def build_write(
    items: Sequence[Item], header: SegmentHeader, sequence: int, chain: int, vouch: Vouch
) -> tuple[list[Buffer], int, int]:
    """The buffers of one gathered write, their size together, and the chain's new value."""
    frames = bytearray().join([_pack_frame(item) for item in items])
    bodies = sum([len(item.body) for item in items])
    trailer, new_chain = seal_write(
        frames,
        bodies,
        sequence=sequence,
        newest=vouch.newest,
        known_synced=vouch.known_synced,
        oldest=vouch.oldest,
        tag=header.tag,
        seed=header.seed,
        chain=chain,
    )
    return _gather(frames, items, trailer), len(frames) + bodies + len(trailer), new_chain


def _pack_frame(item: Item) -> bytes:
    """A frame without what sealing puts into it."""
    body = item.body
    identity = (item.group, 0, item.incarnation, item.index, item.term)
    return FRAME.pack(0, item.kind, item.flags, 0, len(body), *identity, item.crc, 0)


def _gather(frames: bytearray, items: Sequence[Item], trailer: bytearray) -> list[Buffer]:
    """The buffers of a write: small bodies are copied together with their frames, since handing over a buffer
    costs more than copying it."""
    buffers: list[Buffer] = []
    pieces: list[Buffer] = []
    at = 0
    for item in items:
        pieces.append(frames[at : at + FRAME_SIZE])
        at += FRAME_SIZE
        if len(item.body) < COPIED_BYTES:
            pieces.append(item.body)
        else:
            buffers += (b"".join(pieces), item.body)
            pieces = []
    pieces.append(trailer)
    buffers.append(b"".join(pieces))
    return buffers


def follow_chain(chain: int, frames: bytes) -> int:
    """The chain's value behind a write: the CRC32C of its frames' checksums, continued.

    Not of the frames themselves: a CRC that runs over something and over its own CRC says nothing about it.
    """
    checksums = [frames[end - 4 : end] for end in range(FRAME_SIZE, len(frames) + 1, FRAME_SIZE)]
    return crc32c(b"".join(checksums), chain)


# --- reading ----------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Found:
    """A record as a segment shows it. If it is not `intact`, only its frame is known, not its body."""

    kind: int
    flags: int
    group: int
    incarnation: int
    index: int
    term: int
    offset: int
    """Of the body, in the segment."""
    length: int
    intact: bool
    crc: int
    """The body's checksum as the frame has it; of a batch that of its header."""
    batch_kind: int = 0
    body: bytes = b""
    """Empty for a batch: those are only checked, and read again when they are wanted."""


@dataclass(slots=True)
class Write:
    """One gathered write as a segment shows it."""

    segment: int
    start: int
    sequence: int
    end: int
    records: list[Found]
    vouch: Vouch | None
    """What the trailer says; None if it is not readable: `records` may lack some, `end` be too low then."""
    chain_before: int = 0
    frames: bytes = b""
    """Its frames one after the other, for `follow_chain`."""

    @property
    def intact(self) -> bool:
        return self.vouch is not None and all(record.intact for record in self.records)


class SegmentScan:
    """Reads the writes of one segment, also behind damage. `codec/wal.py` is faster where there is none."""

    def __init__(self, data: bytes, header: SegmentHeader) -> None:
        self._data = data
        self._view = memoryview(data)
        self._segment = header.number
        self._seed = header.seed
        self._tag = header.tag
        self._tag_bytes = _U32.pack(header.tag)

    def writes(self, position: int = DATA_START, sequence: int = 0) -> Iterator[Write]:
        """Every write with at least one readable frame, in order of place (and so of sequence).

        With arguments, only those from `position` on that have a higher sequence.
        """
        while (write := self._next_write(position, sequence)) is not None:
            yield write
            position, sequence = write.end, write.sequence

    def _next_write(self, position: int, after: int) -> Write | None:
        """The first write at or behind `position` whose sequence is higher than `after`."""
        trailer = self._walk(position, after)
        if trailer is not None:
            return self._complete(trailer)
        return self._search(position, after)

    def _walk(self, position: int, after: int) -> int | None:
        """Where the trailer frame of the write at `position` lies, if following the frames leads there.

        Frames are only believed by their trailer, which repeats them, so their checksums can wait.
        """
        data, end, tag = self._data, len(self._data) - FRAME_SIZE, self._tag
        sequence = 0
        start = position
        while position <= end:
            found_tag, kind, _, _, length, _, at_sequence = FRAME.unpack_from(data, position)[:7]
            if found_tag != tag or at_sequence <= after or (sequence and at_sequence != sequence):
                return None
            if kind == TRAILER:
                checked = self._trailer_at(position)
                return position if checked is not None and checked[0] == start else None
            sequence = at_sequence
            position += FRAME_SIZE + length
        return None

    def _trailer_at(self, position: int) -> tuple[int, int] | None:
        """(begin, end) of the write whose trailer frame is here, if that trailer is sound."""
        frame = self._frame_at(position)
        if frame is None or frame[1] != TRAILER:
            return None
        length, body_crc = frame[4], frame[10]
        body_start = position + FRAME_SIZE
        if length > len(self._data) - body_start or length < _TRAILER_HEAD.size + _TRAILER_TAIL.size:
            return None
        if crc32c(self._view[body_start : body_start + length]) != body_crc:
            return None
        total, _, _, count = _TRAILER_HEAD.unpack_from(self._data, body_start)
        end = body_start + length
        if total > end - DATA_START or count * FRAME_SIZE > length:
            return None
        return end - total, end

    def _frame_at(self, position: int) -> tuple[int, ...] | None:
        """The fields of the frame here, if its checksum is right."""
        data = self._data
        if position < DATA_START or len(data) - position < FRAME_SIZE:
            return None
        fields: tuple[int, ...] = FRAME.unpack_from(data, position)
        if fields[0] != self._tag:
            return None
        if crc32c(self._view[position : position + FRAME_CHECKED], self._seed) != fields[11]:
            return None
        return fields

    def _complete(self, trailer: int) -> Write:
        """The write that ends in the sound trailer whose frame is at `trailer`."""
        data = self._data
        frame = FRAME.unpack_from(data, trailer)
        sequence, newest, known_synced, oldest = frame[6:10]
        head = trailer + FRAME_SIZE
        total, chain_before, _, count = _TRAILER_HEAD.unpack_from(data, head)
        end = head + frame[4]
        position = start = end - total
        copy = head + _TRAILER_HEAD.size
        frames = data[copy : copy + count * FRAME_SIZE]
        records: list[Found] = []
        for _ in range(count):
            records.append(self._record(position, copy, trailer))
            position += FRAME_SIZE + records[-1].length
            copy += FRAME_SIZE
        vouch = Vouch(known_synced, oldest, newest)
        return Write(self._segment, start, sequence, end, records, vouch, chain_before, frames)

    def _record(self, position: int, copy: int, limit: int) -> Found:
        """The record whose frame is at `position` and, repeated in the trailer, at `copy`."""
        data = self._data
        _, kind, flags, _, length, group, _, incarnation, index, term, crc, _ = FRAME.unpack_from(data, copy)
        found = Found(kind, flags, group, incarnation, index, term, position + FRAME_SIZE, length, False, crc)
        framed = data[position : position + FRAME_SIZE] == data[copy : copy + FRAME_SIZE]
        if framed and length <= limit - found.offset:
            self._check_body(found)
        return found

    def _check_body(self, found: Found) -> None:
        """Sets `intact`, and takes the body along if it is no batch."""
        body = self._view[found.offset : found.offset + found.length]
        if found.kind == BATCH and found.flags & LOST:
            found.intact = found.length == 0
        elif found.kind == BATCH:
            found.intact = is_batch(body, found.group, found.incarnation, found.index, found.term, found.crc)
            found.batch_kind = body[3] if found.intact else 0
        elif crc32c(body) == found.crc:
            found.intact = True
            found.body = bytes(body)

    def _search(self, position: int, after: int) -> Write | None:
        """What can be read behind damage at `position`: a write by its trailer, or the begin of one."""
        broken: Write | None = None
        hit = self._data.find(self._tag_bytes, position)
        while hit >= 0:
            if hit % SECTOR == SECTOR - 4:
                trailer = self._trailer_ending(hit + 4)
                if trailer is not None and (sequence := FRAME.unpack_from(self._data, trailer)[6]) > after:
                    if broken is None or sequence == broken.sequence:
                        return self._complete(trailer)
                    return broken
            elif hit % SECTOR == 0 and (frame := self._frame_at(hit)) is not None and frame[6] > after:
                if broken is not None and frame[6] != broken.sequence:
                    return broken
                if broken is None:
                    broken = self._partial(hit, frame[6])
            hit = self._data.find(self._tag_bytes, hit + 1)
        return broken

    def _trailer_ending(self, end: int) -> int | None:
        """Where the trailer frame lies that says it ends at `end`, if it is sound."""
        distance = _TRAILER_TAIL.unpack_from(self._data, end - _TRAILER_TAIL.size)[0]
        trailer = end - distance
        checked = self._trailer_at(trailer) if trailer >= DATA_START else None
        return trailer if checked is not None and checked[1] == end else None

    def _partial(self, start: int, sequence: int) -> Write:
        """A write whose trailer is not readable: as many records as can be followed.

        Whether they are all of them is for the next write to say, whose trailer has the chain's value.
        """
        records: list[Found] = []
        frames: list[bytes] = []
        position = start
        while (frame := self._frame_at(position)) is not None and frame[6] == sequence:
            _, kind, flags, _, length, group, _, incarnation, index, term, crc, _ = frame
            if kind == TRAILER or length > len(self._data) - position - FRAME_SIZE:
                break
            offset = position + FRAME_SIZE
            found = Found(kind, flags, group, incarnation, index, term, offset, length, False, crc)
            self._check_body(found)
            records.append(found)
            frames.append(self._data[position : position + FRAME_SIZE])
            position = offset + length
        end = start + write_size(len(records), sum(record.length for record in records))
        return Write(self._segment, start, sequence, end, records, None, frames=b"".join(frames))


def is_batch(body: Buffer, group: int, incarnation: int, index: int, term: int, crc: int) -> bool:
    """Whether the bytes are a sound batch and the very one that its frame names."""
    try:
        header = verify_batch(body)
    except CodecError:
        return False
    named = (header.group, header.incarnation, header.index, header.term, header.header_crc)
    return named == (group, incarnation, index, term, crc)
