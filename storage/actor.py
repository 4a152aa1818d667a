"""The storage actor: owner of every file of the node. One write, one sync at a time, for all groups.

    pending.py    what waits for the disk          reading.py   batches read back and verified
    upkeep.py     segments, space, background      cleaning.py  live records of old segments, written again

`append` queues; the write loop takes what is queued, makes one gathered write of it, syncs once, and then
runs what waits for it, in order. While that sync runs, the next write collects: back-pressure makes the
batch, no timer does.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

import trio

from .cleaning import Cleaner
from .contents import BadBatch
from .disk import CLOSE_SECONDS, Disk, EagerRunner, Lane, Runner
from .errors import (
    DiskFull,
    ForeignDirectory,
    RecordTooLarge,
    StorageFailed,
)
from .file_lane import FileLane
from .files import GroupFiles
from .group_directory import FoundFiles, group_directory, recover_files
from .heap import TRIM_AFTER_BYTES, give_back
from .histogram import SECONDS_BOUNDS, Histogram
from .index import Fault
from .node import NodeHeader, write_node_header
from .pending import Pending
from .quarantine import QUARANTINE_BYTES
from .reading import LogReader
from .records import Record
from .recovery import Opened, Recovered, RecoveredGroup, apply_item, describe, recover
from .segment import (
    DATA_START,
    DELETE,
    FRAME_SIZE,
    Item,
    encode_record,
    write_size,
)
from .turns import Order, Turn, Turns
from .upkeep import Upkeep
from .wal import BuiltWrite

logger = logging.getLogger(__name__)

FLUSH_DELAY: Final = 0.1
"""Seconds for which small writes are collected. Of a hundred streams that are written at once each adds a
batch every few hundredths of a second: written one by one they cost a tenth of all processor time."""

FAILED_CLOSE_SECONDS: Final = 0.1
"""How long to wait for a failed disk at the end: the process is to end, with its code."""
KEPT_SHARE: Final = 4
"""This part of the last segment that there is space for is kept for what is small, such as votes."""
LATENCIES: Final = 1024
"""Sync times kept for the statistics."""


@dataclass(frozen=True, slots=True)
class StorageOptions:
    """Sizes in bytes, times in seconds."""

    segment_bytes: int = 64 << 20
    """One file of the log; must exceed the largest batch."""
    write_bytes: int = 8 << 20
    """One gathered write is at most this large (or one record)."""
    queue_bytes: int = 64 << 20
    """Credit: what may wait for the disk."""
    mark_delay: float = 0.05
    """At rest, this long after the last write the log says that all of it is synced."""
    quarantine_bytes: int = QUARANTINE_BYTES
    """Files that no manifest names are kept up to this size in all, newest first."""
    overlap_bytes: int = 256 << 10
    """With this much in the queue the next write begins before what waited for the last one runs: the disk is
    not to wait for that. With less, what runs may add to the next write, which saves a sync."""
    min_free_bytes: int = 0
    """With less than this free on the disk, proposals are to be refused (`full`)."""


@dataclass(frozen=True, slots=True)
class StorageStatistics:
    """Counters since start-up and the state of the queue; times in seconds."""

    appends: int
    """Calls of `append`."""
    records: int
    """Records written."""
    writes: int
    """Gathered writes, each with one sync (marks included)."""
    written_bytes: int
    queue_bytes: int
    """Bytes appended whose sync has not ended."""
    last_sync_seconds: float
    """How long the last write and sync took, with the way to its thread and back."""
    sync_p50_seconds: float
    sync_max_seconds: float
    """Over the last 1,024 syncs, as p50 is."""
    stalled_since: float | None
    """When the sync in flight began (trio's clock); None if none is in flight."""
    segments: int
    log_bytes: int
    live_bytes: int
    """What of the log a restart still needs."""
    rewritten_records: int
    damaged_reads: int
    quarantine_files: int
    quarantine_bytes: int
    """What was moved aside and may go."""
    evidence_files: int
    """What was moved aside and stays, until a person removes it."""


@dataclass(slots=True)
class _UnderWay:
    """One write on its way to the disk, and what waits for it."""

    built: BuiltWrite
    oldest: int
    """The oldest segment that was needed when it was built."""
    thens: list[Callable[[], None]]
    taken: int
    """Bytes of the queue that are in it."""
    began: float
    begun: bool = False
    """The runner has it."""


class Storage:
    """Every file of the node: log, manifests, blocks. Open it, read `recovered`, start `run`."""

    def __init__(
        self,
        disk: Disk,
        runner: Runner,
        opened: Opened,
        draw: Callable[[], int],
        options: StorageOptions,
        on_failure: Callable[[StorageFailed], None] | None,
        turns: Turns,
    ) -> None:
        """Use `open`."""
        self.recovered: Recovered = opened.recovered
        self.failed: StorageFailed | None = None
        """Set once a write or sync failed; nothing is written after that."""
        self.spent = False
        """Not even the reserve has space any more: what is left of the log is for votes."""
        self.on_damage: Callable[[int, int], None] = lambda group, index: None
        """Told of each batch that was sound once and can't be read any more: (group, index)."""
        self.on_space: Callable[[], None] = lambda: None
        """Told when `full` or `spent` has changed."""
        self.on_credit: Callable[[], None] = lambda: None
        """Told when there is credit again after there was none."""
        self._disk = disk
        self._runner = runner
        self._eager = runner if isinstance(runner, EagerRunner) else None
        self._draw = draw
        self._options = options
        self._on_failure = on_failure
        self._turns = turns
        self._lock = opened.lock
        self._node = opened.recovered.node
        self._index = opened.index
        self._writer = opened.writer
        self._found_files = opened.files
        self._files: dict[tuple[int, int], GroupFiles] = {}
        self._lane = FileLane(disk, runner, self._fail, options.quarantine_bytes)
        self._lane.wake = lambda: self._flush_event.set()
        self._lane.hurry = lambda: self._hurry_event.set()
        self._upkeep = Upkeep(
            disk,
            runner,
            self._lane,
            node=lambda: self._node,
            draw=draw,
            segment_bytes=options.segment_bytes,
            min_free_bytes=options.min_free_bytes,
            sizes=opened.sizes,
            current=self._writer.segment,
            oldest=opened.oldest,
            limits=opened.untabled,
            unread=opened.unread,
            on_freed=self._on_freed,
            on_bad=self._on_bad,
            on_space=self._look_at_space,
            fail=self._fail,
        )
        self._lane.on_no_space = self._upkeep.note_no_space

        self._reader = LogReader(self._index, self._lane, lambda group, index: self.on_damage(group, index))
        self._cleaner = Cleaner(
            self._index,
            self._reader,
            self._writer,
            self._upkeep,
            segment_bytes=options.segment_bytes,
            wake=lambda: self._turn.due(),
            synced=self._synced,
        )
        self._pending = Pending(
            self._writer, self._index.groups.values(), options.queue_bytes, lambda: self.on_credit()
        )

        self._synced_thens: deque[Callable[[], None]] = deque()
        """What a sync that ended lets run, in order."""
        self._turn = Turn(turns, Order.STORE, self._begin_if_wanted)
        self._under_way: _UnderWay | None = None
        self._rolling = False
        """The next segment is on its way, and nothing is written before it is there."""
        self._unmarked_event = trio.Event()
        self._flush_event = trio.Event()
        self._hurry_event = trio.Event()
        self._scope: trio.CancelScope | None = None
        self._waiting: set[trio.Event] = set()
        """Set when storage fails, so that nobody waits for a sync that will never end."""

        self._told_space = (True, False)
        self._marked = True
        """Whether the log says that all of its acknowledged writes are synced."""
        self._mark_due = False
        self._last_write_at = 0.0
        self._sync_began: float | None = None
        self._latencies: deque[float] = deque(maxlen=LATENCIES)
        self.sync_seconds = Histogram(SECONDS_BOUNDS)
        """Every write to the log with its sync, since the start."""
        self._burst = False
        """Much memory was taken and freed again, by something else than writing."""
        self._written_at_trim = 0
        """Bytes written when freed memory was last given back to the system."""
        self._appends = self._records = self._writes = self._written_bytes = 0

    @classmethod
    async def open(
        cls,
        disk: Disk,
        runner: Runner,
        *,
        name: str,
        draw: Callable[[], int],
        options: StorageOptions | None = None,
        on_failure: Callable[[StorageFailed], None] | None = None,
        turns: Turns | None = None,
    ) -> Storage:
        """Takes the directory's lock, recovers what is there, or makes a new node with a drawn id.

        `draw` gives random u64 numbers; `turns` are those of the node. Raises the errors with exit codes of
        `storage.errors`, or the disk's OSError.
        """
        options = options or StorageOptions()

        def recover_all() -> Opened:
            return recover(disk, name=name, draw=draw, segment_bytes=options.segment_bytes)

        opened = await runner.run(Lane.FILE, recover_all)
        return cls(disk, runner, opened, draw, options, on_failure, turns or Turns())

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """The actor: writes what is appended until it is cancelled or the disk fails.

        On failure calls `on_failure` once and returns.
        """
        async with trio.open_nursery() as nursery:
            self._scope = nursery.cancel_scope
            nursery.start_soon(self._turn.run, self._write_on)
            if self._eager is not None:
                nursery.start_soon(self._end_begun, self._eager)
            nursery.start_soon(self._mark_loop)
            nursery.start_soon(self._flush_loop)
            nursery.start_soon(self._upkeep.run)
            nursery.start_soon(self._cleaner.run)
            if self.failed is not None:
                nursery.cancel_scope.cancel()
            task_status.started()
        self._scope = None

    # --- the log

    def append(self, records: Sequence[Record], then: Callable[[], None] | None = None) -> None:
        """Queues records. Once a sync covers them all, `then` runs, in the order of the calls.

        Never awaits (S1). `then` must not raise, and never runs if storage failed before that sync.
        RecordTooLarge, with nothing queued, if a batch can't fit a segment.
        """
        items = [encode_record(record) for record in records]
        for item in items:
            if write_size(1, len(item.body)) > self._options.segment_bytes - DATA_START:
                raise RecordTooLarge(
                    f"a record of {len(item.body)} bytes, a segment has {self._options.segment_bytes}"
                )
        if self.failed is not None:
            return
        self._appends += 1
        self._pending.put(items, then)
        self._turn.due()

    def note_burst(self) -> None:
        """Whoever calls took much memory and has freed it: it goes back to the system when the log rests."""
        self._burst = True

    def credit(self) -> int:
        """Bytes that may be appended now without exceeding the queue's bound."""
        return self._pending.credit()

    @property
    def full(self) -> DiskFull | None:
        """Why proposals are to be refused: what space is left is for what was accepted before, and votes."""
        return self._upkeep.full

    def _look_at_space(self) -> None:
        kept = self._writer.segment.header.size // KEPT_SHARE
        self.spent = self._upkeep.at_the_end and self._writer.room() < kept
        if self._told_space != (self.full is None, self.spent):
            self._told_space = (self.full is None, self.spent)
            self.on_space()

    def room(self) -> None:
        """Raises `full` if it is set."""
        if self._upkeep.full is not None:
            raise self._upkeep.full.with_traceback(None)

    async def drain(self) -> None:
        """Waits until everything appended before is synced and everything written behind is written.

        StorageFailed if that will never be.
        """
        await self._lane.flush()
        await self._synced()

    async def _synced(self) -> None:
        """Waits until everything appended before is synced; StorageFailed if that will never be."""
        done = trio.Event()
        self._waiting.add(done)
        self.append((), done.set)
        if self.failed is None:
            await done.wait()
        self._waiting.discard(done)
        if self.failed is not None:
            raise self.failed.with_traceback(None)

    @property
    def _wanted(self) -> bool:
        """Whether something wants a sync, or the mark is due."""
        return bool(self._pending.urgent or self._cleaner.waits or self._mark_due)

    def _begin_if_wanted(self) -> None:
        """A turn: what the pass has brought is on its way to the disk before the pass ends."""
        if self._under_way is not None or self._rolling or self.failed is not None:
            return
        if not self._wanted:
            if self._pending and self._marked:
                # A record that rides along waits for company, but not longer than a mark would.
                self._last_write_at = trio.current_time()
                self._unmark()
            return
        if not self._fits() or (self._begin() and not self._begun):
            self._turn.leave()

    async def _write_on(self) -> None:
        """What a turn could not begin: it needs another segment, or its runner waits for each write."""
        while self.failed is None and (self._under_way is not None or self._wanted):
            if self._under_way is None:
                await self._make_room()
                self._begin()
            write = self._under_way
            if write is None:
                continue
            if write.begun:
                return  # `_end_begun` waits for it, and what is wanted then begins in a turn
            try:
                await self._runner.write_and_sync(
                    self._disk, write.built.segment.descriptor, write.built.buffers, write.built.start
                )
            except OSError as error:
                self._fail(error)
            self._ended(write)

    async def _end_begun(self, runner: EagerRunner) -> None:
        """Wait for the writes that turns begin. A task of its own, so that no write has to wake one."""
        await runner.each_end(self._begun_ended)

    def _begun_ended(self, error: OSError | None) -> bool:
        """A write that a turn began is done. False: the disk has failed."""
        if error is not None:
            self._fail(error)
        assert self._under_way is not None, "a write ended that was not begun"
        self._ended(self._under_way)
        return self.failed is None

    @property
    def _begun(self) -> bool:
        """Whether the runner has the write that is under way."""
        return self._under_way is not None and self._under_way.begun

    def _unmark(self) -> None:
        self._marked = False
        self._unmarked_event.set()

    async def _mark_loop(self) -> None:
        """Asks for a mark once the log has been at rest; a task of its own, so that no write sets a timer."""
        while True:
            await self._unmarked_event.wait()
            self._unmarked_event = trio.Event()
            while not self._marked:
                due = self._last_write_at + self._options.mark_delay
                if trio.current_time() >= due:
                    self._mark_due = True
                    self._turn.due()
                    due = trio.current_time() + self._options.mark_delay
                await trio.sleep_until(due)
            if self._burst or self._written_bytes - self._written_at_trim > TRIM_AFTER_BYTES:
                self._burst, self._written_at_trim = False, self._written_bytes
                self._upkeep.run_later(give_back)

    def _fits(self) -> bool:
        """Whether the next record fits this segment."""
        return self._writer.fits(1, max(self._pending.next_size, self._cleaner.next_size))

    async def _make_room(self) -> None:
        """Goes on in the next segment if the next record doesn't fit this one."""
        if self._fits():
            return
        self._rolling = True
        spare = await self._upkeep.spare()
        self._upkeep.close_segment(self._writer.segment, self._writer.sequence)
        self._writer.roll(spare)
        self._cleaner.look()
        self._rolling = False

    def _begin(self) -> bool:
        """Build one gathered write, and begin it if the runner can do so here. False: there is nothing to
        write, and what only waited for its turn has run."""
        limit = min(self._options.write_bytes, self._writer.room())
        # What is written again repeats what is synced, so nothing newer may come before it.
        items = self._cleaner.take(limit)
        thens, taken = self._pending.take(items, limit)
        if not items and not self._mark_due:
            # Nothing is in flight, so everything appended before them is synced already.
            self._synced_thens += thens
            self._turns.through(self._run_thens)
            return False
        oldest = self._cleaner.oldest_live()
        built = self._writer.build(items, oldest, self._upkeep.newest)
        self._sync_began = trio.current_time()
        self._under_way = write = _UnderWay(built, oldest, thens, taken, self._sync_began)
        if self._eager is not None:
            try:
                write.begun = self._eager.begin(
                    self._disk, built.segment.descriptor, built.buffers, built.start
                )
            except OSError as error:
                self._fail(error)
        return True

    def _ended(self, write: _UnderWay) -> None:
        """A write and its sync are done: a pass for what waits for them, unless the disk has failed."""
        if self.failed is not None:
            return  # be it another file's failure: after one nothing is acknowledged any more
        self._under_way = None
        self._pending.release(write.taken)
        self._finish(write.built, write.oldest, write.began)
        self._synced_thens += write.thens
        self._turns.through(self._go_on)

    def _go_on(self) -> None:
        """Run what was synced, and begin the next write: first if it is large, else with what that adds."""
        if self._wanted:
            self._turn.due()
            if self._pending.bytes >= self._options.overlap_bytes and self._fits():
                self._begin()
        self._run_thens()

    def _run_thens(self) -> None:
        """Runs what was synced, in the order in which it was appended; nothing more after a failure."""
        thens = self._synced_thens
        while thens and self.failed is None:
            thens.popleft()()

    def _finish(self, built: BuiltWrite, oldest: int, began: float) -> None:
        """The sync ended: the records count from here on."""
        position = built.start + FRAME_SIZE
        number = built.segment.number
        deleted: list[Item] = []
        for item in built.items:
            apply_item(self._index, item, number, position)
            position += FRAME_SIZE + len(item.body)
            if item.kind == DELETE:
                deleted.append(item)
        self._last_write_at = trio.current_time()
        seconds = self._last_write_at - began
        self._mark_due = False
        self._marked = not built.items
        if built.items:
            self._unmark()
        self._sync_began = None
        self._latencies.append(seconds)
        self.sync_seconds.observe(seconds)
        self._records += len(built.items)
        self._writes += 1
        self._written_bytes += built.size
        for item in deleted:
            self.remove_files(item.group, item.incarnation)
        self._upkeep.need(oldest)
        self._upkeep.grew(built.size)
        if self._upkeep.at_the_end:
            self._look_at_space()

    def _fail(self, error: OSError) -> StorageFailed:
        """The disk lied once: nothing is retried, nothing more is acknowledged."""
        if self.failed is None:
            self.failed = self._lane.failed = StorageFailed(f"the disk failed: {error}")
            self.failed.__cause__ = error
            self._pending.clear()
            for event in self._waiting:
                event.set()
            if self._scope is not None:
                self._scope.cancel()
            if self._on_failure is not None:
                self._on_failure(self.failed)
        return self.failed

    # --- reading

    async def read_batches(self, group: int, first: int, last: int, max_bytes: int) -> list[bytes]:
        """Synced batches from index `first`, verified: at least one, up to `last` or `max_bytes` in all.

        Compacted or NotStored if `first` isn't in the log, LogDamaged if it can't be read as it was written.
        """
        return await self._reader.read_batches(group, first, last, max_bytes)

    def faults(self, group: int) -> list[Fault]:
        """What of a group's log can't be read, as of now."""
        log = self._index.groups.get(group)
        return log.faults() if log is not None else []

    async def scrub(self, pace: Callable[[int], Awaitable[None]]) -> int:
        """Reads every live batch of the closed segments once more, oldest first.

        Before each read `pace` is awaited with its size in bytes. `on_damage` is told of each bad one; how
        many they were is returned.
        """
        found = 0
        for segment in sorted(number for number in self._upkeep.sizes if number != self._upkeep.newest):
            if segment == self._writer.segment.number:
                continue  # its reads would compete with the writes, and it is young
            for places, names in self._reader.pieces(segment):
                await pace(sum(place.length for place in places))
                found += await self._reader.check(places, names)
        return found

    # --- segments

    def pinned(self) -> dict[int, int]:
        """Per group, the bytes of closed segments that can't be reused because of its live records.

        A segment is counted for every group that has a live record in it.
        """
        current = self._writer.segment.number
        pinned: dict[int, int] = {}
        for number, use in self._index.uses.items():
            for group in use.groups if number != current else ():
                pinned[group] = pinned.get(group, 0) + self._upkeep.sizes.get(number, 0)
        return pinned

    def _on_freed(self, number: int) -> None:
        self._index.uses.pop(number, None)
        self._cleaner.forget(number)

    def _on_bad(self, number: int, batches: list[BadBatch]) -> None:
        """A closed segment is damaged: these batches are faulty, its other records are written again."""
        for bad in batches:
            if self._index.place(bad.group, bad.index) == bad.place:
                self._reader.note_damage(bad.group, bad.index, bad.crc)
        self._cleaner.suspect(number)

    def was_deleted(self, group: int, incarnation: int) -> bool:
        """Whether this node's log says that this incarnation of a group was deleted: it will store nothing of
        it."""
        return self._index.was_deleted(group, incarnation)

    async def reopen(self, group: int) -> RecoveredGroup | None:
        """A group as a restart would find it now; None if the log doesn't have it. Nobody may be using it.

        For a replica that was stopped and is wanted again: its files are cut to its manifest, as ever.
        """
        if group not in self._index.groups:
            return None
        await self._synced()
        log = self._index.groups[group]
        directory = group_directory(group, log.incarnation)
        found = await self._lane.run(self._recover_files, directory)
        self._files.pop((group, log.incarnation), None)
        self._found_files[group] = found
        return describe(log, found)

    def _recover_files(self, directory: str) -> FoundFiles:
        for name in self._disk.listdir(directory) if self._disk.exists(directory) else ():
            self._lane.open.forget(f"{directory}/{name}")
        return recover_files(self._disk, directory)

    # --- files

    def group_files(self, group: int, incarnation: int) -> GroupFiles:
        """The files of a group; always the same object for the same incarnation."""
        files = self._files.get((group, incarnation))
        if files is None:
            log = self._index.groups.get(group)
            known = log is not None and log.incarnation == incarnation
            found = self._found_files.pop(group, None) if known else None
            files = GroupFiles(group, incarnation, self._lane, self._upkeep.run_later, found or FoundFiles())
            self._files[group, incarnation] = files
        return files

    def remove_files(self, group: int, incarnation: int) -> None:
        """Give up a group's files, all of them. Nobody may be using them, and nothing may rely on them."""
        self.group_files(group, incarnation).remove()
        self._files.pop((group, incarnation), None)

    async def _flush_loop(self) -> None:
        """Writes behind: whatever is deferred goes to the FILE lane soon, and much of it at once.

        Nobody waits for it: a read, a sync or a bound that is reached brings it along at once.
        """
        try:
            while True:
                await self._flush_event.wait()
                with trio.move_on_after(FLUSH_DELAY):
                    await self._hurry_event.wait()
                self._flush_event, self._hurry_event = trio.Event(), trio.Event()
                if not self._lane.idle:
                    await self._lane.flush()
        except StorageFailed:
            pass  # told by whoever found it

    # --- the node

    async def set_cluster(self, cluster_id: int) -> None:
        """Makes the cluster id durable in the node header; ForeignDirectory if there is another one."""
        if self._node.cluster_id not in (0, cluster_id):
            raise ForeignDirectory(f"this node is of cluster {self._node.cluster_id:016x}")
        header = NodeHeader(self._node.node_id, cluster_id, self._node.name)
        if header != self._node:
            await self._lane.commit(write_node_header, self._disk, header)
            self._node = self.recovered.node = header

    def statistics(self) -> StorageStatistics:
        latencies = self._latencies
        return StorageStatistics(
            appends=self._appends,
            records=self._records,
            writes=self._writes,
            written_bytes=self._written_bytes,
            queue_bytes=self._pending.bytes,
            last_sync_seconds=latencies[-1] if latencies else 0.0,
            sync_p50_seconds=sorted(latencies)[len(latencies) // 2] if latencies else 0.0,
            sync_max_seconds=max(latencies, default=0.0),
            stalled_since=self._sync_began,
            segments=len(self._upkeep.sizes),
            log_bytes=sum(self._upkeep.sizes.values()),
            live_bytes=self._index.live_bytes(self._upkeep.sizes),
            rewritten_records=self._cleaner.rewritten,
            damaged_reads=self._reader.damaged,
            quarantine_files=self._lane.quarantine.aside.files,
            quarantine_bytes=self._lane.quarantine.aside.bytes,
            evidence_files=self._lane.quarantine.aside.evidence,
        )

    async def close(self) -> None:
        """Ends the lanes and releases the lock. Nothing is flushed: what was not synced stays unknown.

        If the disk is stuck, all stays open and locked until the process ends. Once it has failed nobody
        waits for it.
        """
        if not self._runner.close(FAILED_CLOSE_SECONDS if self.failed is not None else CLOSE_SECONDS):
            logger.error("The disk does not answer: its files stay open until this process ends")
            return
        self._upkeep.close()
        self._disk.close(self._writer.segment.descriptor)
        self._lane.open.close()
        self._disk.close(self._lock)
        await trio.lowlevel.checkpoint()
