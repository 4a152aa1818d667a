"""Reading the log back: batches by index, each verified, and what can't be read told as damage."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final

from ..codec import CodecError, verify_batch
from .errors import Compacted, LogDamaged, NotStored
from .file_lane import FileLane, OpenFiles
from .index import LogIndex, Place
from .wal import segment_path

PIECE_BYTES: Final = 1 << 20
"""Live records of a segment are read in pieces of this size."""
READ_GAP_BYTES: Final = 4096
"""Batches closer than this in a segment are read with one call."""


class LogReader:
    """Reads what the index says is there."""

    def __init__(self, index: LogIndex, lane: FileLane, on_damage: Callable[[int, int], None]) -> None:
        """`on_damage` is told (group, index) of each batch that was sound once and can't be read any more."""
        self.damaged = 0
        """Batches that could not be read."""
        self._index = index
        self._lane = lane
        self._on_damage = on_damage

    async def read_batches(self, group: int, first: int, last: int, max_bytes: int) -> list[bytes]:
        """Synced batches from index `first`, verified: at least one, up to `last` or `max_bytes` in all.

        Compacted or NotStored if `first` isn't in the log, LogDamaged if it can't be read as it was written.
        """
        places = self._places(group, first, last, max_bytes)
        names = [(group, index) for index in range(first, first + len(places))]
        if batches := await self.read_sound(places, names):
            return batches
        # The log may have moved on while the disk was read: then the bytes are somebody else's by now.
        if self.is_damaged(places[0], names[0]):
            raise LogDamaged(segment_path(places[0].segment), places[0].offset, group, first, first)
        return await self.read_batches(group, first, last, max_bytes)

    async def read_sound(self, places: Sequence[Place], names: Sequence[tuple[int, int]]) -> list[bytes]:
        """The batches at these places, up to the first that can't be read or isn't the one named."""
        try:
            return await self._lane.run(_read_places, self._lane.open, places, names)
        except OSError:
            # A segment may have been freed meanwhile. If it is the disk, those before the bad one are lost
            # to this read only: one by one they can be read.
            return await self.read_sound(places[:1], names[:1]) if len(places) > 1 else []

    def is_damaged(self, place: Place, name: tuple[int, int]) -> bool:
        """A batch could not be read at its place. False if that isn't its place any more."""
        if self._index.place(*name) != place:
            return False
        self.note_damage(*name)
        return True

    def note_damage(self, group: int, index: int, crc: int = 0) -> None:
        self.damaged += 1
        self._index.mark_faulty(group, index, crc)
        self._on_damage(group, index)

    async def check(self, places: list[Place], names: list[tuple[int, int]]) -> int:
        """How many of these batches are damaged."""
        found = 0
        while places:
            sound = len(await self.read_sound(places, names))
            if sound < len(places):
                found += self.is_damaged(places[sound], names[sound])
                sound += 1
            places, names = places[sound:], names[sound:]
        return found

    def pieces(self, segment: int) -> Iterator[tuple[list[Place], list[tuple[int, int]]]]:
        """The live batches of a segment, about PIECE_BYTES at a time, as they are when asked for.

        Each group's in the order of its log: neighbours are read with one call, and, written again, they make
        a log that grows at its end when it is replayed.
        """
        entries = self._index.entries_in(segment)[::-1]
        while entries:
            places: list[Place] = []
            names: list[tuple[int, int]] = []
            size = 0
            while entries and size < PIECE_BYTES:
                log, index = entries.pop()
                place = self._index.place(log.group, index)
                if place is not None and place.segment == segment:
                    places.append(place)
                    names.append((log.group, index))
                    size += place.length
            yield places, names

    def _places(self, group: int, first: int, last: int, max_bytes: int) -> list[Place]:
        log = self._index.groups.get(group)
        if log is None:
            raise NotStored(group, first)
        if first <= log.prefix.index:
            raise Compacted(group, first)
        if first > log.last or not log.terms:
            raise NotStored(group, first)
        places: list[Place] = []
        total = 0
        for index in range(first, min(last, log.last) + 1):
            place = self._index.place(group, index)
            if place is None or (places and total + place.length > max_bytes):
                break
            places.append(place)
            total += place.length
        if not places:
            segment = log.segments[first - log.first] if first >= log.first else 0
            raise LogDamaged(segment_path(segment), 0, group, first, first)
        return places


def _is_named(batch: bytes, group: int, index: int) -> bool:
    """Whether these bytes are a sound batch of this group and index."""
    try:
        header = verify_batch(batch)
    except CodecError:
        return False
    return (header.group, header.index) == (group, index)


def _read_places(files: OpenFiles, places: Sequence[Place], names: Sequence[tuple[int, int]]) -> list[bytes]:
    """The batches at these places up to the first that isn't the one named; one call reads neighbours."""
    batches: list[bytes] = []
    start = 0
    while start < len(places):
        end = start + 1
        while end < len(places) and _is_next(places[end - 1], places[end]):
            end += 1
        run = places[start:end]
        base = run[0].offset
        span = run[-1].offset + run[-1].length - base
        data = files.read(segment_path(run[0].segment), span, base)
        for place, (group, index) in zip(run, names[start:end], strict=True):
            batch = data[place.offset - base : place.offset - base + place.length]
            if not _is_named(batch, group, index):
                return batches
            batches.append(batch)
        start = end
    return batches


def _is_next(one: Place, other: Place) -> bool:
    gap = other.offset - one.offset - one.length
    return one.segment == other.segment and 0 <= gap <= READ_GAP_BYTES
