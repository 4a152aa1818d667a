"""Who runs blocking disk calls: threads that live as long as the node, or the caller itself."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Final, TypeVar, cast

import outcome
import trio

from ..codec import Buffer
from ..codec.syncer import Syncer, Way, open_syncer
from .disk import CLOSE_SECONDS, Disk, FileDisk, Lane
from .readiness import Wake, each_readable

T = TypeVar("T")

_LEFT_ALONE: Final[list[Syncer]] = []
"""Syncers whose disk did not answer in time: their threads still read from the buffers they were given."""


class ThreadRunner:
    """One long-lived thread per lane; a finished job wakes its task straight out of Trio's epoll.

    A hop through an eventfd costs about 30 microseconds around a 4 KiB write and fdatasync; Trio's own
    worker threads cost 130 there, and ``run_sync_soon`` 100 (it needs two more turns of the loop).
    """

    def __init__(self, *, inline: Iterable[Lane] = (), syncer: Way | None = "thread") -> None:
        """Lanes in `inline` run in the caller, blocking the loop (``--wal-sync inline``).

        `syncer` says who writes and syncs the log: a thread in C, or the kernel by io_uring. Where that can't
        be had the next best does it; with None, or without the C, the LOG lane's Python thread.
        """
        self._inline = frozenset(inline)
        self._way = syncer
        self._lanes: dict[Lane, _LaneThread] = {}
        self._wakes: list[Wake] = []
        self._syncer: Syncer | None = None
        """Opened at the first write; a Python thread would take turns with the loop."""
        self._syncer_asked = False
        self._begun: _Job | None = None
        """A write to the log that is not the syncer's."""
        self._has_begun = trio.Event()
        """Something was begun that has not ended; or there is a syncer, whose descriptor tells that."""

    async def run(self, lane: Lane, function: Callable[..., T], *args: object) -> T:
        if lane in self._inline:
            return await _run_here(function, *args)
        return cast("T", await self._done(self._give(lane, function, *args)))

    def _give(self, lane: Lane, function: Callable[..., object], *args: object) -> _Job:
        thread = self._lanes.get(lane)
        if thread is None:
            thread = self._lanes[lane] = _LaneThread(lane)
        job = _Job(function, args, self._wakes.pop() if self._wakes else Wake())
        thread.jobs.put(job)
        return job

    async def _done(self, job: _Job) -> object:
        # If this wait is cancelled, the wake-up stays with the job and is closed with it, never reused.
        await trio.lowlevel.wait_readable(job.wake.receiver)
        job.wake.clear()
        self._wakes.append(job.wake)
        return job.result()

    async def write_and_sync(
        self, disk: Disk, descriptor: int, buffers: Sequence[Buffer], offset: int
    ) -> None:
        if self.begin(disk, descriptor, buffers, offset):
            await self._end()
        else:
            await self.run(Lane.LOG, _write_and_sync, disk, descriptor, buffers, offset)

    def begin(self, disk: Disk, descriptor: int, buffers: Sequence[Buffer], offset: int) -> bool:
        if Lane.LOG in self._inline:
            return False
        if not self._syncer_asked and isinstance(disk, FileDisk):
            self._syncer_asked = True
            self._syncer = self._open_syncer()
        if self._syncer is not None and isinstance(disk, FileDisk):
            self._syncer.submit(descriptor, buffers, offset)
        else:
            self._begun = self._give(Lane.LOG, _write_and_sync, disk, descriptor, buffers, offset)
        self._has_begun.set()
        return True

    async def each_end(self, ended: Callable[[OSError | None], bool]) -> None:
        goes_on = True

        def look() -> bool:
            """Whether to wait on: for this one's end, or for the next one's."""
            nonlocal goes_on
            error: OSError | None = None
            try:
                if not syncer.result():
                    return True
            except OSError as failed:
                error = failed
            goes_on = ended(error)
            return goes_on

        while goes_on:
            if not self._has_begun.is_set():
                await self._has_begun.wait()
            if self._syncer is not None and self._begun is None:
                syncer = self._syncer
                await each_readable(syncer.receiver, look)
                continue
            failed = None
            try:
                await self._end()
            except OSError as error:
                failed = error
            goes_on = ended(failed)

    async def _end(self) -> None:
        """Wait until what was begun, or will be, is done."""
        if not self._has_begun.is_set():  # waiting for what has happened is another turn of the event loop
            await self._has_begun.wait()
        if self._begun is not None:
            begun, self._begun, self._has_begun = self._begun, None, trio.Event()
            await self._done(begun)
        elif self._syncer is not None:
            await trio.lowlevel.wait_readable(self._syncer.receiver)
            while not self._syncer.result():
                await trio.lowlevel.wait_readable(self._syncer.receiver)

    def _open_syncer(self) -> Syncer | None:
        if self._way is None:
            return None
        return open_syncer(self._way) or open_syncer("thread")

    def close(self, seconds: float = CLOSE_SECONDS) -> bool:
        ended, deadline = True, time.monotonic() + seconds
        for thread in self._lanes.values():
            thread.jobs.put(None)
        if self._syncer is not None:
            if not self._syncer.close(seconds):
                _LEFT_ALONE.append(self._syncer)
                ended = False
            self._syncer = None
        for thread in self._lanes.values():
            thread.join(max(0.0, deadline - time.monotonic()))
            ended &= not thread.is_alive()
        self._lanes.clear()
        self._wakes.clear()
        return ended


class InlineRunner:
    """Runs every job in the caller: for the simulator, whose disk takes no real time."""

    async def run(self, lane: Lane, function: Callable[..., T], *args: object) -> T:
        return await _run_here(function, *args)

    async def write_and_sync(
        self, disk: Disk, descriptor: int, buffers: Sequence[Buffer], offset: int
    ) -> None:
        await self.run(Lane.LOG, _write_and_sync, disk, descriptor, buffers, offset)

    def close(self, seconds: float = CLOSE_SECONDS) -> bool:
        """Nothing to end."""
        return True


def _write_and_sync(disk: Disk, descriptor: int, buffers: Sequence[Buffer], offset: int) -> None:
    disk.pwritev(descriptor, buffers, offset)
    disk.fdatasync(descriptor)


async def _run_here(function: Callable[..., T], *args: object) -> T:
    try:
        return function(*args)
    finally:
        await trio.lowlevel.cancel_shielded_checkpoint()


class _Job:
    """One call on its way through a lane."""

    __slots__ = ("_args", "_function", "_outcome", "wake")

    _outcome: outcome.Maybe[object]

    def __init__(self, function: Callable[..., object], args: tuple[object, ...], wake: Wake) -> None:
        self._function = function
        self._args = args
        self.wake = wake

    def __call__(self) -> None:
        self._outcome = outcome.capture(self._function, *self._args)
        self.wake.set()

    def result(self) -> object:
        return self._outcome.unwrap()


class _LaneThread(threading.Thread):
    """Runs a lane's jobs in order. A daemon: a disk that never answers must not keep the process alive."""

    def __init__(self, lane: Lane) -> None:
        super().__init__(name=f"disk-{lane.value}", daemon=True)
        self.jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self.start()

    def run(self) -> None:
        while (job := self.jobs.get()) is not None:
            job()
            del job
