"""What nobody waits for: segments prepared ahead and freed behind, space watched, full files synced.

    prepared ahead   one segment ready for use, and one in reserve for the day on which the disk is full
    freed behind     closed segments that no restart needs; the last one's file is kept for its space
    beside           tables of contents of closed segments, syncs of files that are full

All of it runs in the BACKGROUND lane, one piece at a time, the most pressing first.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import trio

from .contents import (
    BadBatch,
    SegmentReader,
    bad_batches,
    encode_toc,
    read_toc,
    read_toc_header,
    toc_path,
    write_toc,
)
from .disk import NO_SPACE, Disk, Lane, Runner
from .errors import DiskFull, StorageError, StorageFailed
from .file_lane import FileLane
from .node import NodeHeader, read_file
from .segment import SegmentHeader
from .wal import (
    Segment,
    drop_recycled,
    make_reserve,
    prepare_segment,
    read_segment_header,
    retire_segment,
    segment_path,
    use_reserve,
)

logger = logging.getLogger(__name__)

SPACE_SECONDS: Final = 1.0
"""How often a disk that is written to is asked how much of it is free, and a full one if it has space."""
READING_SECONDS: Final = 0.25
"""Between two segments that are read to see whether they are what their tables say."""
TABLE_SECONDS: Final = 1.0
"""Between two tables of contents: each means to read a segment, and under load many never live to be used."""
RECOVERED_SHARE: Final = 1.25
"""Proposals are taken again when there is this much more free than when they were refused."""


@dataclass(frozen=True, slots=True)
class _Untabled:
    """A closed segment without a table of contents."""

    number: int
    limit: int
    """Writes with a higher sequence don't count."""
    exact: bool = False
    """The write with just this sequence is its last one."""


class Upkeep:
    """Owns the segments' files but for the one that is written to, and what is known of the disk's space."""

    def __init__(
        self,
        disk: Disk,
        runner: Runner,
        lane: FileLane,
        *,
        node: Callable[[], NodeHeader],
        draw: Callable[[], int],
        segment_bytes: int,
        min_free_bytes: int,
        sizes: dict[int, int],
        current: Segment,
        oldest: int,
        limits: Mapping[int, int],
        unread: Sequence[int],
        on_freed: Callable[[int], None],
        on_bad: Callable[[int, list[BadBatch]], None],
        on_space: Callable[[], None],
        fail: Callable[[OSError], StorageFailed],
    ) -> None:
        """What start-up left to do: `limits` has the segments without a table of contents, with the last
        sequence that counts in each, `unread` those whose table stood in for them.

        `on_freed` is told the number of a segment that is gone, `on_bad` of one that is not what its table
        says, with the batches that can't be read, `on_space` that `full` changed.
        """
        self.sizes = sizes
        """Bytes of every segment that is there."""
        self.newest = current.number
        """The newest segment that exists durably."""
        self.oldest = oldest
        """The oldest segment that a durable trailer says is still needed. Moved by `need`."""
        self.full: DiskFull | None = None
        """Why proposals are to be refused for now. Reads, and what was accepted before, go on."""
        self.at_the_end = False
        """The log can't go on behind the segment that is written to: there is no space, and no reserve."""
        self.free_bytes: int | None = None
        """Free space as of the last look; None if it was never asked for."""
        self._disk = disk
        self._runner = runner
        self._lane = lane
        self._node = node
        self._draw = draw
        self._segment_bytes = segment_bytes
        self._min_free = min_free_bytes
        self._on_freed = on_freed
        self._on_bad = on_bad
        self._on_space = on_space
        self._fail = fail
        self._spare: Segment | None = None
        self._spare_ready = trio.Event()
        self._spare_refused = self._reserve_refused = False
        self._has_reserve = False
        self._closed: list[Segment] = []
        self._jobs: deque[Callable[[], object]] = deque()
        self._untabled = deque(_Untabled(number, limit) for number, limit in sorted(limits.items()))
        self._reader: SegmentReader | None = None
        self._verifier: SegmentReader | None = None
        self._unread = deque(sorted(unread))
        self._next_table = self._next_reading = -math.inf
        self._look_at = -math.inf
        """When the free space is to be looked at; inf while nothing is written and the disk is not full."""
        self._unlooked = 0
        self._event = trio.Event()

    # --- what the log asks for

    async def spare(self) -> Segment:
        """The next segment, ready for use; waits while there is none."""
        while self._spare is None:
            await self._spare_ready.wait()
        spare, self._spare = self._spare, None
        self._spare_ready = trio.Event()
        self._event.set()
        return spare

    def close_segment(self, segment: Segment, last: int) -> None:
        """The log goes on in the next segment; `last` is the sequence of the last write in this one."""
        self._closed.append(segment)
        self._untabled.append(_Untabled(segment.number, last, exact=True))
        self._event.set()

    def need(self, oldest: int) -> None:
        """A durable trailer says that no segment before `oldest` is needed."""
        if oldest > self.oldest:
            self.oldest = oldest
            self._event.set()

    def run_later(self, job: Callable[[], object]) -> None:
        """Runs a job in the BACKGROUND lane behind everything that was deferred so far."""
        self._jobs.append(job)
        self._event.set()

    def grew(self, size: int) -> None:
        """So many bytes were written: the disk may be fuller than at the last look."""
        self._unlooked += size
        soon = self._unlooked > self._min_free // 4
        if self._min_free and (soon or self._look_at == math.inf):
            self.look_within(0 if soon else SPACE_SECONDS)

    def look_within(self, seconds: float) -> None:
        """Asks the disk for its free space in so many seconds at the latest."""
        at = trio.current_time() + seconds
        if at < self._look_at:
            self._look_at = at
            self._event.set()

    def note_no_space(self) -> None:
        """A write behind waits for space."""
        if self.full is None:
            self._judge()

    def close(self) -> None:
        """Closes every descriptor. Nothing else may be called any more."""
        for segment in (*self._closed, *([self._spare] if self._spare is not None else [])):
            self._disk.close(segment.descriptor)
        self._closed.clear()
        self._spare = None

    # --- the task

    async def run(self) -> None:
        """Works until cancelled. An error of the disk is a failure of storage, a lack of space is none."""
        try:
            await self._do(self._lane.quarantine.count)
            while True:
                self._event = trio.Event()
                if await self._work():
                    continue
                with trio.move_on_at(self._wake_at()):
                    await self._event.wait()
        except OSError as error:
            self._fail(error)
        except StorageFailed:
            pass  # told by whoever found it

    async def _do(self, function: Callable[..., object], *args: object) -> None:
        await self._runner.run(Lane.BACKGROUND, function, *args)

    async def _work(self) -> bool:
        """The most pressing piece of work; False if there is none now."""
        now = trio.current_time()
        if self._closed:
            await self._do(self._disk.close, self._closed.pop().descriptor)
        elif now >= self._look_at:
            await self._look()
        elif (dead := min(self.sizes, default=self.oldest)) < self.oldest:
            await self._free(dead)
        elif self._spare is None and not self._spare_refused:
            await self._make_spare()
        elif not self._has_reserve and not self._reserve_refused:
            await self._make_reserve()
        elif self._jobs:
            await self._lane.flush()
            await self._do(self._jobs.popleft())
        elif self._unread and now >= self._next_reading:
            await self._read_after_all(self._unread.popleft())
        elif self._untabled and now >= self._next_table:
            await self._write_table(self._untabled.popleft())
        else:
            return False
        return True

    def _wake_at(self) -> float:
        table = self._next_table if self._untabled else math.inf
        reading = self._next_reading if self._unread else math.inf
        return min(self._look_at, table, reading)

    # --- segments

    async def _make_spare(self) -> None:
        number = self.newest + 1
        node = self._node()
        header = SegmentHeader(number, node.node_id, node.cluster_id, self._draw(), self._segment_bytes)
        spare = await self._runner.run(Lane.BACKGROUND, self._prepare, header)
        self._spare_refused = spare is None
        if spare is not None:
            self._spare = spare
            self.sizes[number] = spare.header.size
            self.newest = number
            self._spare_ready.set()
        self._judge()

    def _prepare(self, header: SegmentHeader) -> Segment | None:
        """The next segment, if need be out of the reserve; None if there is no space for it."""
        try:
            return prepare_segment(self._disk, header)
        except OSError as error:
            if error.errno not in NO_SPACE:
                raise
        self._has_reserve = False
        return use_reserve(self._disk, header)

    async def _make_reserve(self) -> None:
        try:
            await self._do(make_reserve, self._disk, self._segment_bytes)
        except OSError as error:
            if error.errno not in NO_SPACE:
                raise
        else:
            self._has_reserve = True
        self._reserve_refused = not self._has_reserve
        self._judge()

    async def _free(self, number: int) -> None:
        """Gives up a segment below the one that a durable trailer names as the oldest needed."""
        path = segment_path(number)
        await self._lane.run(self._lane.open.forget, path)
        await self._do(self._forget_table, path)
        await self._do(retire_segment, self._disk, number, self._segment_bytes)
        del self.sizes[number]
        self._on_freed(number)
        if self.full is not None:
            self.look_within(0)

    # --- tables of contents

    def _forget_table(self, path: str) -> None:
        if self._disk.exists(toc_path(path)):
            self._disk.unlink(toc_path(path))

    async def _write_table(self, untabled: _Untabled) -> None:
        self._next_table = trio.current_time() + TABLE_SECONDS
        if untabled.number in self.sizes:
            await self._do(self._tabulate, untabled)

    def _tabulate(self, untabled: _Untabled) -> None:
        """Reads a closed segment and writes its table of contents, unless something in it is not sound."""
        path = segment_path(untabled.number)
        try:
            header = read_segment_header(self._disk, untabled.number)
            if read_toc_header(self._disk, path, header) is not None:
                return
            self._reader = self._reader or SegmentReader(self._disk, keep_cache=True)
            contents = self._reader.read(path, header, untabled.limit)
            complete = contents.last == untabled.limit or (contents.clean and not untabled.exact)
            if contents.writes and complete:
                write_toc(self._disk, path, encode_toc(contents, header))
        except (OSError, StorageError) as error:
            # It is a cache. A start-up reads the segment then, and says what is wrong with it.
            logger.info("%s gets no table of contents: %s", path, error)

    async def _read_after_all(self, number: int) -> None:
        """Start-up believed a table of contents. Now that it is over, the segment itself is looked at."""
        self._next_reading = trio.current_time() + READING_SECONDS
        if number not in self.sizes:
            return
        bad = await self._runner.run(Lane.BACKGROUND, self._compare, number)
        if bad is not None and number in self.sizes:
            self._on_bad(number, bad)

    def _compare(self, number: int) -> list[BadBatch] | None:
        """The batches of a segment that are not what its table says; None if every bit of it is sound."""
        path = segment_path(number)
        try:
            header = read_segment_header(self._disk, number)
            table = read_toc(self._disk, path, header)
            if table is None:
                return None
            self._verifier = self._verifier or SegmentReader(self._disk)
            if self._verifier.read(path, header, table.last).last == table.last:
                return None
            return bad_batches(table, number, read_file(self._disk, path))
        except (OSError, StorageError) as error:
            logger.warning("%s can't be read: %s", path, error)  # whoever reads a batch of it sees which
            return None

    # --- space

    async def _look(self) -> None:
        """How much is free; a full disk is looked at again and again, until it is not."""
        self._unlooked = 0
        self._look_at = math.inf
        self.free_bytes = await self._runner.run(Lane.BACKGROUND, self._disk.free_bytes)
        if self.full is not None:
            await self._do(self._lane.quarantine.trim_if_over)
            await self._do(drop_recycled, self._disk)
        if self._lane.no_space:
            await self._lane.flush()
        if self._spare_refused:
            await self._make_spare()
        if self._reserve_refused:
            await self._make_reserve()
        self._judge()

    def _judge(self) -> None:
        before = (self.full is None, self.at_the_end)
        self.full, self.at_the_end = self._why_full(), self._spare_refused
        if self.full is not None:
            self.look_within(SPACE_SECONDS)
        if before != (self.full is None, self.at_the_end):
            self._on_space()

    def _why_full(self) -> DiskFull | None:
        if self._spare_refused or self._reserve_refused:
            return DiskFull(f"no space for another {self._segment_bytes} bytes of log")
        if self._lane.no_space:
            return DiskFull("no space for what was written to a group's files")
        wanted = self._min_free * (RECOVERED_SHARE if self.full is not None else 1)
        if self.free_bytes is not None and self.free_bytes < wanted:
            return DiskFull(f"{self.free_bytes} bytes are free, the last {self._min_free} are kept back")
        return None
