"""The disk of a simulated machine, and the lanes in which one process works on it.

Content lies in a `MemoryDisk`, which knows what a power loss leaves. Here is how long calls take, which of
them fail, and where a process can end between them.
"""

from __future__ import annotations

import errno
import os
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from random import Random
from typing import Final, TypeVar, cast

import outcome
import trio

from ...codec import Buffer
from ...storage.disk import Disk, Lane
from ...storage.memory_disk import SECTOR, MemoryDisk
from ..swarm import DiskFaults
from .agenda import Agenda

T = TypeVar("T")

CALL_SHARE: Final = 0.2
"""What any call takes, in terms of a sync."""


class _Job:
    """One call of a node, in steps that take their time each."""

    def __init__(
        self, steps: Sequence[Callable[[], object]], torn: Callable[[Random], None] | None = None
    ) -> None:
        self.steps = deque(steps)
        self.torn = torn
        """What is left of the first step if the process ends in it."""
        self.done = trio.Event()
        self.outcome: outcome.Maybe[object] = outcome.Value(None)

    def step(self) -> None:
        self.outcome = outcome.capture(self.steps.popleft())
        if isinstance(self.outcome, outcome.Error):
            self.steps.clear()


class SimulatedRunner:
    """Runs blocking calls in lanes, as a node's threads do, on virtual time. A `Runner`.

    After `cut` nothing is performed any more; what was given and not begun is lost.
    """

    def __init__(self, agenda: Agenda, random: Random, faults: DiskFaults) -> None:
        self.stalled_until = 0.0
        """Nothing ends before this time: the disk stands still."""
        self._agenda = agenda
        self._random = random
        self._faults = faults
        self._lanes: dict[Lane, deque[_Job]] = {}
        self._is_cut = False

    async def run(self, lane: Lane, function: Callable[..., T], *args: object) -> T:
        return cast(T, await self._give(lane, _Job([partial(function, *args)])))

    async def write_and_sync(
        self, disk: Disk, descriptor: int, buffers: Sequence[Buffer], offset: int
    ) -> None:
        def tear(random: Random) -> None:
            data = b"".join(buffers)
            disk.pwritev(descriptor, [data[: random.randrange(len(data) + 1)]], offset)

        write = partial(disk.pwritev, descriptor, buffers, offset)
        await self._give(Lane.LOG, _Job([write, partial(disk.fdatasync, descriptor)], tear))

    def close(self, seconds: float = 0.0) -> bool:
        """Every job that was given is done before this returns, as when threads are joined."""
        for jobs in self._lanes.values():
            for job in jobs if not self._is_cut else ():
                while job.steps:
                    job.step()
                job.done.set()
            jobs.clear()
        return True

    def cut(self, *, tear: bool) -> bool:
        """The process ends. With `tear` a write to the log that was under way is taken in part: whether there
        was one. Without, it is as if it had not begun."""
        self._is_cut = True
        torn = False
        for jobs in self._lanes.values():
            job = jobs[0] if jobs and tear else None
            if job is not None and job.torn is not None and len(job.steps) == 2:
                job.torn(self._random)
                torn = True
        return torn

    async def _give(self, lane: Lane, job: _Job) -> object:
        jobs = self._lanes.setdefault(lane, deque())
        jobs.append(job)
        if len(jobs) == 1:
            self._begin(jobs)
        await job.done.wait()
        return job.outcome.unwrap()

    def _begin(self, jobs: deque[_Job]) -> None:
        """Half of a step's time goes by before the disk has it, the rest before the caller hears of it."""
        self._later(partial(self._perform, jobs, jobs[0]))

    def _perform(self, jobs: deque[_Job], job: _Job) -> None:
        if not self._is_cut and jobs and jobs[0] is job:
            job.step()
            self._later(partial(self._end, jobs, job))

    def _end(self, jobs: deque[_Job], job: _Job) -> None:
        if self._is_cut or not jobs or jobs[0] is not job:
            return
        if not job.steps:
            jobs.popleft()
            job.done.set()
        if jobs:
            self._begin(jobs)

    def _later(self, act: Callable[[], None]) -> None:
        seconds = self._random.expovariate(2 / self._faults.sync) * self._random.choice((CALL_SHARE, 1))
        self._agenda.at(max(trio.current_time() + seconds, self.stalled_until), act)


class Access:
    """One process's use of its machine's disk: what fails, and when the process ends in the middle.

    Put as the `before` of a `MemoryDisk`.

    Args:
        note: takes facts for the trace.
        failed_sync: share of syncs that fail.
    """

    def __init__(self, random: Random, note: Callable[..., None], failed_sync: float) -> None:
        self.is_cut = False
        self.failed_syncs = 0
        self.end_at: int = -1
        """The process ends at this many changing operations from now; negative: no."""
        self.on_end: Callable[[], None] = lambda: None
        self._random = random
        self._note = note
        self.failed_sync = failed_sync

    def __call__(self, operation: str, path: str) -> None:
        if self.end_at >= 0:
            self.end_at -= 1
            if self.end_at < 0:
                self.on_end()
        if self.is_cut:
            raise OSError(errno.EIO, "the process is gone", path)
        self._note("disk", operation, path)
        if operation.startswith("sync") and self._random.random() < self.failed_sync:
            self.failed_syncs += 1
            self._note("sync fails", path)
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)


def damage(disk: MemoryDisk, random: Random) -> str:
    """Change something on a disk behind its system's back: what, and where. Empty: there is nothing."""
    paths = [path for path in files_of(disk) if disk.read(path) and path != "LOCK"]
    if not paths:
        return ""
    path = random.choice(paths)
    content = disk.read(path)
    used = len(content.rstrip(b"\0")) or len(content)
    place = random.randrange(used)
    sector = place - place % SECTOR
    kind = random.choice(("flip", "flip", "zeros", "stale", "misdirected", "cut"))
    if kind == "flip":
        disk.damage(path, place, bytes([content[place] ^ 1 << random.randrange(8)]))
    elif kind == "zeros":
        disk.damage(path, sector, bytes(len(content[sector : sector + SECTOR])))
    elif kind == "stale":
        # What lay there once: here, what lies in front of it.
        disk.damage(path, sector, content[max(0, sector - SECTOR) : sector])
    elif kind == "misdirected":
        source = random.randrange(used)
        disk.damage(path, sector, content[source - source % SECTOR :][:SECTOR][: len(content) - sector])
    else:
        disk.shorten(path, place)
    return f"{kind} {path} {place}"


def files_of(disk: MemoryDisk, directory: str = "") -> list[str]:
    """The paths of all files below a directory, in order."""
    found = []
    for name in disk.listdir(directory):
        path = f"{directory}/{name}" if directory else name
        try:
            disk.read(path)
            found.append(path)
        except FileNotFoundError:
            found += files_of(disk, path)
    return found


def used(disk: MemoryDisk) -> int:
    """Bytes that all files have together."""
    return sum(len(disk.read(path)) for path in files_of(disk))
