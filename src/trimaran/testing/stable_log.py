"""What the storage actor does, without Trio: the real log, its real recovery and its real manifests, one step
at a time.

A write leaves at one event, its sync ends at a later one, and the power may go in between. Segments are
prepared, rolled, recycled and freed by the functions that the storage actor uses; recovery is `recover`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, TypeVar

from ..actors.raft.log import EntryId
from ..codec import Buffer, CodecError, verify_batch
from ..storage import Disk, Lane, Manifest, MemoryDisk, StorageFailed
from ..storage.file_lane import FileLane
from ..storage.files import GroupFiles
from ..storage.group_directory import FoundFiles
from ..storage.index import FAULTY, Fault, GroupLog, live_record
from ..storage.records import Record
from ..storage.recovery import Opened, apply_item
from ..storage.segment import (
    BATCH,
    FRAME_SIZE,
    HARD_STATE,
    Item,
    SegmentHeader,
    encode_record,
    write_size,
)
from ..storage.wal import BuiltWrite, Segment, prepare_segment, retire_segment, segment_path

Result = TypeVar("Result")
Then = Callable[[], None]
Later = Callable[..., None]
"""(delay, action, *arguments): as long as the process lives."""

MARK_DELAY = 0.05
CLOSED_SEGMENTS = 2
"""So many closed segments may lie there before the oldest one's live records are written again."""


class Immediately:
    """A `Runner` that runs a job where it is asked for it, and waits for nothing."""

    async def run(self, lane: Lane, function: Callable[..., Result], *args: object) -> Result:
        return function(*args)

    async def write_and_sync(
        self, disk: Disk, descriptor: int, buffers: Sequence[Buffer], offset: int
    ) -> None:
        disk.pwritev(descriptor, buffers, offset)
        disk.fdatasync(descriptor)

    def close(self, seconds: float = 0.0) -> bool:
        """Nothing to end."""
        return True


def finish(coroutine: Coroutine[Any, Any, Result]) -> Result:
    """The result of a coroutine that waits for nothing."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        result: Result = end.value
        return result
    raise AssertionError("it waits, and there is nothing here to wait for")


@dataclass(slots=True)
class _InFlight:
    built: BuiltWrite
    thens: list[Then]
    oldest: int


class StableLog:
    """One node's log and manifests. It follows `storage/actor.py` and `storage/upkeep.py` step by step.

    Args:
        opened: what recovery found.
        segment_bytes: of one file of the log.
        draw: salts of new segments.
        sync_time: how long the next sync takes (s).
        later: plans an event in this process's life.
        on_batch: from here on the log reads this batch where it has just been synced.
        on_failure: a write or a sync failed; nothing is written any more.
    """

    def __init__(
        self,
        disk: MemoryDisk,
        opened: Opened,
        *,
        segment_bytes: int,
        draw: Random,
        sync_time: Callable[[], float],
        later: Later,
        on_batch: Callable[[EntryId], None],
        on_failure: Callable[[OSError], None],
    ) -> None:
        self.index = opened.index
        """What is synced."""
        self.failed = False
        self._disk = disk
        self._segment_bytes = segment_bytes
        self._node = opened.recovered.node
        self._writer = opened.writer
        self._sizes = opened.sizes
        self._draw = draw
        self._sync_time = sync_time
        self._later = later
        self._on_batch = on_batch
        self._on_failure = on_failure
        self._queue: deque[tuple[Item | None, Then | None]] = deque()
        self._renewals: deque[Item] = deque()
        self._in_flight: _InFlight | None = None
        self._spare: Segment | None = None
        self._newest = max(self._sizes)
        self._marked = True
        self._last_write_at = 0
        self._lane = FileLane(disk, Immediately(), self._failed)
        self.freed = 0
        self._hard_state: tuple[int, int, int] | None = None
        """(segment, offset, length) of the newest term and vote, if it was written in this life."""
        self._later(0.001, self._prepare_spare)

    def _failed(self, error: OSError) -> StorageFailed:
        self.fail(error)
        return StorageFailed(f"the disk failed: {error}")

    # --- writing

    def append(self, records: Sequence[Record], then: Then | None = None) -> None:
        """Queue records; `then` runs once a sync covers them."""
        if self.failed:
            return
        items = [encode_record(record) for record in records]
        for item in items[:-1]:
            self._queue.append((item, None))
        self._queue.append((items[-1] if items else None, then))
        self._write()

    def write_at_once(self, records: Sequence[Record]) -> None:
        """Append and sync before anything else happens: for a new group's first record."""
        items = [encode_record(record) for record in records]
        built = self._writer.build(items, self._oldest_live(), self._newest)
        self._disk.pwritev(built.segment.descriptor, built.buffers, built.start)
        self._disk.fdatasync(built.segment.descriptor)
        self._follow(built)

    def _follow(self, built: BuiltWrite) -> None:
        """Takes a synced write into the index."""
        position = built.start + FRAME_SIZE
        for item in built.items:
            apply_item(self.index, item, built.segment.number, position)
            if item.kind == BATCH and self._lies_at(item, built.segment.number, position):
                self._on_batch(EntryId(item.index, item.term))
            elif item.kind == HARD_STATE:
                self._hard_state = (built.segment.number, position - FRAME_SIZE, FRAME_SIZE + len(item.body))
            position += FRAME_SIZE + len(item.body)

    def _lies_at(self, item: Item, segment: int, offset: int) -> bool:
        place = self.index.place(item.group, item.index)
        return place is not None and (place.segment, place.offset) == (segment, offset)

    def _write(self) -> None:
        """One gathered write of what is queued, unless one is in flight."""
        while self._in_flight is None and not self.failed and (self._queue or self._renewals):
            self._make_room()
            items, thens = self._take()
            if items:
                self._begin(items, thens)
                return
            for then in thens:
                then()

    def _make_room(self) -> None:
        first = next((item for item, _ in self._queue if item is not None), None)
        size = len(first.body) if first is not None else 0
        if self._renewals:
            size = max(size, len(self._renewals[0].body))
        if self._writer.fits(1, size):
            return
        if self._spare is None:
            self._prepare_spare()
        assert self._spare is not None
        self._disk.close(self._writer.segment.descriptor)
        self._writer.roll(self._spare)
        self._spare = None
        self._later(0.001, self._prepare_spare)
        self._renew()

    def _prepare_spare(self) -> None:
        if self._spare is not None:
            return
        number = self._newest + 1
        salt = self._draw.getrandbits(64)
        header = SegmentHeader(number, self._node.node_id, self._node.cluster_id, salt, self._segment_bytes)
        self._spare = prepare_segment(self._disk, header)
        self._newest = number
        self._sizes[number] = header.size

    def _take(self) -> tuple[list[Item], list[Then]]:
        """As many records as go into one write, renewed ones first, and what waits for them."""
        items: list[Item] = []
        thens: list[Then] = []
        bodies = 0
        room = self._writer.room()
        while self._renewals:
            item = self._renewals[0]
            if write_size(len(items) + 1, bodies + len(item.body)) > room:
                return items, thens
            items.append(self._renewals.popleft())
            bodies += len(item.body)
        while self._queue:
            queued, then = self._queue[0]
            if queued is not None:
                if write_size(len(items) + 1, bodies + len(queued.body)) > room:
                    break
                items.append(queued)
                bodies += len(queued.body)
            self._queue.popleft()
            if then is not None:
                thens.append(then)
        return items, thens

    def _begin(self, items: list[Item], thens: list[Then]) -> None:
        oldest = self._oldest_live()
        built = self._writer.build(items, oldest, self._newest)
        self._in_flight = _InFlight(built, thens, oldest)
        try:
            self._disk.pwritev(built.segment.descriptor, built.buffers, built.start)
        except OSError as error:
            self.fail(error)
            return
        self._later(self._sync_time(), self._end)

    def _end(self) -> None:
        """The sync ends: the records count from here on."""
        flight = self._in_flight
        if flight is None or self.failed:
            return
        built = flight.built
        try:
            self._disk.fdatasync(built.segment.descriptor)
        except OSError as error:
            self.fail(error)
            return
        self._follow(built)
        self._in_flight = None
        self._marked = not built.items
        if built.items:
            self._last_write_at += 1
            self._later(MARK_DELAY, self._mark, self._last_write_at)
        self._free(flight.oldest)
        for then in flight.thens:
            then()
        self._write()

    def _mark(self, write: int) -> None:
        """At rest the log says that all of it is synced."""
        at_rest = write == self._last_write_at and self._in_flight is None
        if at_rest and not self._marked and not self.failed:
            self._make_room()
            self._begin([], [])

    def fail(self, error: OSError) -> None:
        """The disk failed: nothing is retried, nothing more is written."""
        self.failed = True
        self._queue.clear()
        self._on_failure(error)

    # --- segments

    def _oldest_live(self) -> int:
        current = self._writer.segment.number
        return min((number for number, use in self.index.uses.items() if use.groups), default=current)

    def _free(self, oldest: int) -> None:
        """Segments before the one that a durable trailer names as the oldest needed."""
        for number in sorted(self._sizes):
            if number >= oldest:
                break
            self._lane.open.forget(segment_path(number))
            retire_segment(self._disk, number, self._segment_bytes)
            del self._sizes[number]
            self.index.uses.pop(number, None)
            self.freed += 1

    def _renew(self) -> None:
        """Write the oldest segment's live records again, so that it can go."""
        oldest = self._oldest_live()
        if self._writer.segment.number - oldest <= CLOSED_SEGMENTS or self.index.entries_in(oldest):
            return  # batches go with the next snapshot
        for log, kind in self.index.homes_in(oldest):
            record = live_record(log, kind)
            assert record is not None
            self._renewals.append(encode_record(record))

    # --- reading

    def log(self, group: int) -> GroupLog:
        """A group's synced log."""
        return self.index.groups[group]

    def faults(self, group: int) -> list[Fault]:
        log = self.index.groups.get(group)
        return log.faults() if log is not None else []

    def read(self, group: int, first: int, last: int, max_bytes: int) -> tuple[list[bytes], int]:
        """Synced batches from `first` on, at least one if it can be read, and the index of the first one
        that turned out to be damaged (0: none)."""
        batches: list[bytes] = []
        for index in range(first, last + 1):
            place = self.index.place(group, index)
            if place is None or (batches and max_bytes <= 0):
                break
            batch = self._lane.open.read(segment_path(place.segment), place.length, place.offset)
            if not _is_named(batch, group, index):
                self.index.mark_faulty(group, index)
                return batches, index
            batches.append(batch)
            max_bytes -= len(batch)
        return batches, 0

    def unsound(self, group: int) -> list[EntryId]:
        """What the newest segment has of a group and calls readable, and is not. It changes nothing."""
        log, newest = self.log(group), self._writer.segment.number
        return [
            EntryId(log.first + position, log.terms[position])
            for position, segment in enumerate(log.segments)
            if segment == newest and not self._is_sound(log, position)
        ]

    def _is_sound(self, log: GroupLog, position: int) -> bool:
        if log.kinds[position] & FAULTY:
            return True
        offset = log.offsets[position]
        data = self._disk.pread(self._writer.segment.descriptor, log.lengths[position], offset)
        return _is_named(data, log.group, log.first + position)

    # --- manifests

    def write_manifest(self, manifest: Manifest) -> None:
        """Makes it durable and current. StorageFailed if the disk fails."""
        files = GroupFiles(manifest.group, manifest.incarnation, self._lane, lambda job: job(), FoundFiles())
        finish(files.write_manifest(manifest))

    # --- what a simulated fault wants to know

    def unsynced(self) -> list[Item]:
        """What was appended and is not known to be synced, in order."""
        flight = self._in_flight.built.items if self._in_flight is not None else []
        return [*flight, *(item for item, _ in self._queue if item is not None)]

    def damage(self, group: int, index: int, draw: Random) -> bool:
        """Flip a bit of a synced batch, or of its frame, where it lies. False if it isn't there."""
        place = self.index.place(group, index)
        if place is None:
            return False
        path = segment_path(place.segment)
        self._flip(path, place.offset - FRAME_SIZE, FRAME_SIZE + place.length, draw)
        return True

    def damage_hard_state(self, draw: Random) -> bool:
        """The same for the newest term and vote, which their write's trailer repeats. False if it isn't
        known where they are."""
        if self._hard_state is None or self._hard_state[0] not in self._sizes:
            return False
        number, position, length = self._hard_state
        self._flip(segment_path(number), position, length, draw)
        return True

    def _flip(self, path: str, start: int, length: int, draw: Random) -> None:
        offset = start + draw.randrange(length)
        byte = self._disk.read(path)[offset]
        self._disk.damage(path, offset, bytes([byte ^ 1 << draw.randrange(8)]))


def _is_named(batch: bytes, group: int, index: int) -> bool:
    """Whether these bytes are a sound batch of this group and index."""
    try:
        header = verify_batch(batch)
    except CodecError:
        return False
    return (header.group, header.index) == (group, index)
