"""Freeing the oldest segments: the few live records in them are written again at the log's end.

The records go through the actor's write loop: first in a write, since they repeat what is synced, and only if
they are still live where they were.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import trio

from .errors import StorageFailed
from .index import LogIndex, live_record
from .reading import LogReader
from .records import BatchRecord
from .segment import BATCH, DATA_START, Item, encode_record, write_size
from .upkeep import Upkeep
from .wal import LogWriter

CLEAN_SEGMENTS: Final = 2
"""Below this many closed segments nothing is rewritten, however little of them is live."""
CLEAN_SHARE: Final = 0.5
"""Rewriting begins when less than this share of the closed segments is live: the log is then at most
about twice what its groups need."""


@dataclass(frozen=True, slots=True)
class _Rewrite:
    """A live record of the oldest segment, to be written again at the log's end."""

    segment: int
    group: int
    kind: int
    """BATCH, or which of the group's single records: CREATE, HARD_STATE, COMPACT."""
    index: int = 0
    batch: Item | None = None


class Cleaner:
    """Decides what is to be written again, and keeps it until the write loop takes it."""

    def __init__(
        self,
        index: LogIndex,
        reader: LogReader,
        writer: LogWriter,
        upkeep: Upkeep,
        *,
        segment_bytes: int,
        wake: Callable[[], None],
        synced: Callable[[], Awaitable[None]],
    ) -> None:
        """`wake` tells the write loop that there is something; `synced` waits until all of it is synced."""
        self.rewritten = 0
        """Records written again."""
        self._index = index
        self._reader = reader
        self._writer = writer
        self._upkeep = upkeep
        self._segment_bytes = segment_bytes
        self._wake = wake
        self._synced = synced
        self._rewrites: deque[_Rewrite] = deque()
        self._suspects: set[int] = set()
        """Closed segments that turned out to be damaged."""
        self._event = trio.Event()
        self._taken = trio.Event()

    @property
    def waits(self) -> bool:
        """Whether there is something to be written again."""
        return bool(self._rewrites)

    @property
    def next_size(self) -> int:
        """Bytes of the next record to be written again, if it is a batch."""
        batch = self._rewrites[0].batch if self._rewrites else None
        return len(batch.body) if batch is not None else 0

    def look(self) -> None:
        """A segment was closed: it may be time to clean."""
        self._event.set()

    def suspect(self, segment: int) -> None:
        """A closed segment is damaged: what in it is no batch is to be written again while it is known."""
        self._suspects.add(segment)
        self._event.set()

    def forget(self, segment: int) -> None:
        """A segment is gone."""
        self._suspects.discard(segment)

    def oldest_live(self) -> int:
        """The oldest segment that a restart needs. Segments go oldest first, so all behind it are kept."""
        current = self._writer.segment.number
        return min((number for number, use in self._index.uses.items() if use.groups), default=current)

    async def run(self) -> None:
        """Writes the oldest segment's live records again when most of the log is dead behind them."""
        try:
            while True:
                await self._event.wait()
                self._event = trio.Event()
                while self._suspects:
                    await self._rewrite_homes(self._suspects.pop())
                while self._wants_cleaning():
                    oldest = self.oldest_live()
                    if not await self._clean(oldest) or self.oldest_live() == oldest:
                        break  # something in it is damaged: it stays for repair
        except StorageFailed:
            pass  # told by whoever found it

    def _wants_cleaning(self) -> bool:
        current = self._writer.segment.number
        sizes = self._upkeep.sizes
        closed = [number for number in sizes if self._upkeep.oldest <= number < current]
        total = sum(sizes[number] for number in closed)
        live = self._index.live_bytes(closed)
        return (
            len(closed) > CLEAN_SEGMENTS
            and self.oldest_live() < current
            and live < total * CLEAN_SHARE
            and self._takes(live) < len(closed)
        )

    def _takes(self, live: int) -> int:
        """How many segments so many live bytes may fill. If a segment holds few batches, much of each is
        empty, and to write it again would change nothing, again and again."""
        filled = self._segment_bytes - DATA_START - write_size(1, self._index.largest())
        return -(-live // filled) if filled > 0 else live

    async def _clean(self, segment: int) -> bool:
        """Rewrites a segment's live records; False if one can't be read."""
        for places, names in self._reader.pieces(segment):
            batches = await self._reader.read_sound(places, names)
            if len(batches) < len(places) and self._reader.is_damaged(
                places[len(batches)], names[len(batches)]
            ):
                return False
            items = [encode_record(BatchRecord(batch, repair=True)) for batch in batches]
            await self._rewrite([_Rewrite(segment, item.group, BATCH, item.index, item) for item in items])
        await self._rewrite_homes(segment)
        return True

    async def _rewrite_homes(self, segment: int) -> None:
        """Rewrites a segment's live records that are no batches: what they say is known."""
        homes = self._index.homes_in(segment)
        await self._rewrite([_Rewrite(segment, log.group, kind) for log, kind in homes])

    async def _rewrite(self, rewrites: list[_Rewrite]) -> None:
        """Hands records to the write loop and waits until they are synced."""
        self._rewrites.extend(rewrites)
        while self._rewrites:
            self._taken = trio.Event()
            self._wake()
            await self._taken.wait()
        await self._synced()

    def take(self, limit: int) -> list[Item]:
        """The rewritten records that go into this write, if they are still live where they were.

        The index says what is synced, and no write is in flight: nothing newer can be overtaken.
        """
        items: list[Item] = []
        bodies = 0
        while self._rewrites:
            item = self._renewed(self._rewrites[0])
            if item is not None:
                size = len(item.body)
                if write_size(len(items) + 1, bodies + size) > limit and (
                    items or not self._writer.fits(1, size)
                ):
                    break
                items.append(item)
                bodies += size
            self._rewrites.popleft()
        self.rewritten += len(items)
        self._taken.set()
        return items

    def _renewed(self, rewrite: _Rewrite) -> Item | None:
        """A live record as it is now; None if it is no longer live in the segment to be freed."""
        log = self._index.groups.get(rewrite.group)
        if log is None:
            return None
        if rewrite.batch is not None:
            place = self._index.place(log.group, rewrite.index)
            live = place is not None and place.segment == rewrite.segment
            return rewrite.batch if live and log.incarnation == rewrite.batch.incarnation else None
        if log.homes.get(rewrite.kind, (0, 0))[0] != rewrite.segment:
            return None
        record = live_record(log, rewrite.kind)
        return encode_record(record) if record is not None else None
