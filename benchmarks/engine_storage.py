"""Figures of the log: appends against a bare loop in C on the same file system, and recovery."""

from __future__ import annotations

import array
import ctypes
import os
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import accumulate
from pathlib import Path
from random import Random
from typing import Any

import trio
from figures import Figure, bandwidth, microseconds

from trimaran.codec import Buffer, EntryType, Kind, make_chunk, seal_batch
from trimaran.storage import (
    BatchRecord,
    CompactPrefix,
    Disk,
    FileDisk,
    GroupCreate,
    Lane,
    Runner,
    Storage,
    StorageOptions,
    ThreadRunner,
)
from trimaran.storage.segment import DATA_START, write_size

SEGMENT = 64 << 20
ENVELOPE = 80
"""Bytes of a batch around one entry."""


# --- the bare loop


class BareLoop:
    """pwrite and fdatasync in C, in a file of written and synced zeros, as a segment is."""

    def __init__(self, directory: Path) -> None:
        library = directory / "bare_sync.so"
        source = Path(__file__).with_name("bare_sync.c")
        compiler = os.environ.get("CC", "cc")
        subprocess.run([compiler, "-O2", "-shared", "-fPIC", source, "-o", library], check=True)
        self._run = ctypes.CDLL(str(library)).bare_sync
        self._descriptor = os.open(directory / "bare", os.O_RDWR | os.O_CREAT, 0o600)
        for at in range(0, SEGMENT, 1 << 20):
            os.pwrite(self._descriptor, bytes(1 << 20), at)
        os.fsync(self._descriptor)
        self._data = os.urandom(SEGMENT)
        self._position = DATA_START

    def run(self, sizes: Sequence[int]) -> list[float]:
        """Seconds of each of these writes, one behind the other; the file begins anew when it is full."""
        offsets = []
        for size in sizes:
            if self._position + size > SEGMENT:
                self._position = DATA_START
            offsets.append(self._position)
            self._position += size
        seconds = array.array("d", bytes(8 * len(sizes)))
        done = self._run(
            self._descriptor,
            self._data,
            (ctypes.c_uint32 * len(sizes))(*sizes),
            (ctypes.c_uint64 * len(sizes))(*offsets),
            len(sizes),
            (ctypes.c_double * len(sizes)).from_buffer(seconds),
        )
        assert done == len(sizes), "the bare loop's write or sync failed"
        return list(seconds)


# --- the storage actor


class Watched:
    """A runner that notes how large each write is, and how long all of them take."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self.run, self.close = runner.run, runner.close
        self.sizes: list[int] = []
        self.busy = 0.0
        """Seconds in which a write was under way."""

    async def write_and_sync(
        self, disk: Disk, descriptor: int, buffers: Sequence[Buffer], offset: int
    ) -> None:
        self.sizes.append(sum(map(len, buffers)))
        began = time.perf_counter()
        await self._runner.write_and_sync(disk, descriptor, buffers, offset)
        self.busy += time.perf_counter() - began


class TrioHop:
    """Writes and syncs in one of Trio's own worker threads."""

    def __init__(self) -> None:
        runner = ThreadRunner()
        self.run, self.close = runner.run, runner.close

    async def write_and_sync(
        self, disk: Disk, descriptor: int, buffers: Sequence[Buffer], offset: int
    ) -> None:
        def job() -> None:
            disk.pwritev(descriptor, buffers, offset)
            disk.fdatasync(descriptor)

        await trio.to_thread.run_sync(job)


WAYS: dict[str, Callable[[], Runner]] = {
    "thread in C (default)": ThreadRunner,
    "io_uring": lambda: ThreadRunner(syncer="uring"),
    "thread in Python": lambda: ThreadRunner(syncer=None),
    "Trio's worker thread": TrioHop,
    "inline on the loop": lambda: ThreadRunner(inline=[Lane.LOG]),
}


async def _open(directory: Path, runner: Runner, segment_bytes: int) -> Storage:
    draw = Random().getrandbits
    options = StorageOptions(segment_bytes=segment_bytes)
    return await Storage.open(
        FileDisk(directory), runner, name="bench", draw=lambda: draw(64), options=options
    )


@asynccontextmanager
async def running(
    directory: Path, runner: Runner, groups: Sequence[int] = (2,), segment_bytes: int = SEGMENT
) -> Any:
    """A storage whose next segment is ready: its zeros would disturb what is measured."""
    storage = await _open(directory, runner, segment_bytes)
    async with trio.open_nursery() as nursery:
        await nursery.start(storage.run)
        storage.append([GroupCreate(group, 1, "bench", f"bench {group}", b"") for group in groups])
        await storage.drain()
        await trio.sleep(segment_bytes / SEGMENT)
        assert storage.statistics().segments > 1, "the next segment is still in the making"
        yield storage
        nursery.cancel_scope.cancel()
    await storage.close()


def sealed(index: int, size: int, group: int = 2) -> BatchRecord:
    """A batch of exactly `size` bytes, a multiple of 8."""
    batch = seal_batch(
        [make_chunk([(EntryType.OPAQUE, os.urandom(size - ENVELOPE))])],
        kind=Kind.NORMAL,
        group=group,
        incarnation=1,
        index=index,
        term=1,
        previous_term=1,
        time=0,
    )
    assert len(batch) == size
    return BatchRecord(batch)


class Appender:
    """Keeps a number of appends of each of its groups outstanding: each completion appends the next one."""

    def __init__(self, storage: Storage, groups: Sequence[int], outstanding: int, size: int) -> None:
        self._storage = storage
        self._size = size
        self._next = dict.fromkeys(groups, 1)
        self._outstanding = outstanding
        self._left = self._running = 0
        self._done = trio.Event()
        self._ready: dict[int, list[BatchRecord]] = {}

    async def run(self, count: int) -> tuple[float, int]:
        """Seconds and writes of `count` appends in all, from the first append to the last completion."""
        groups = list(self._next)
        for group in groups:
            first = self._next[group]
            share = count // len(groups)
            self._ready[group] = [sealed(first + n, self._size, group) for n in reversed(range(share))]
            self._next[group] += share
        self._left = sum(map(len, self._ready.values()))
        self._done = trio.Event()
        writes = self._storage.statistics().writes
        began = time.perf_counter()
        for group in groups:
            for _ in range(self._outstanding):
                self._append(group)
        await self._done.wait()
        seconds = time.perf_counter() - began
        return seconds, self._storage.statistics().writes - writes

    def _append(self, group: int) -> None:
        ready = self._ready[group]
        if ready:
            self._storage.append([ready.pop()], lambda: self._completed(group))

    def _completed(self, group: int) -> None:
        self._left -= 1
        if self._left == 0:
            self._done.set()
        self._append(group)

    async def compact(self) -> None:
        """Lets everything so far go, as a snapshot would: closed segments are recycled from then on."""
        self._storage.append(
            [CompactPrefix(group, 1, following - 1, 1, 0) for group, following in self._next.items()]
        )
        await self._storage.drain()
        await trio.sleep(0.5)


# --- the figures


async def storage_figures(directory: Path) -> list[Figure]:
    bare = BareLoop(directory)
    return [
        *await _throughput(directory / "throughput", bare),
        *await _single(directory / "single", bare),
        *await _many_groups(directory / "groups"),
        *await _recovery(directory / "recovery"),
    ]


async def _throughput(directory: Path, bare: BareLoop) -> list[Figure]:
    """One group, 64 KiB batches, 512 of them outstanding, against a bare loop of the very same writes.

    Segments are ready when they are needed, as the bare loop's file is: they are prepared between the rounds.
    Beside it the share of the time in which the storage actor has a write and sync under way, which depends
    less on what else the disk has to do.
    """
    size, count = 64 << 10, 2000
    runner = Watched(ThreadRunner())
    mine, other, busy = [], [], []
    async with running(directory, runner, segment_bytes=4 * SEGMENT) as storage:
        appender = Appender(storage, [2], 512, size)
        for number in range(24):
            runner.sizes.clear()
            runner.busy = 0.0
            seconds, _ = await appender.run(count)
            busy.append(runner.busy / seconds)
            bare_seconds = sum(bare.run(runner.sizes))
            await appender.compact()
            if number >= 4:
                mine.append(seconds)
                other.append(bare_seconds)
    total = size * count
    ratio = statistics.median(two / one for one, two in zip(mine, other, strict=True))
    share = statistics.median(busy[4:])
    return [
        Figure(
            "append, one group, 64 KiB batches, against the same writes in the bare loop",
            bandwidth(total, statistics.median(mine)),
            bandwidth(total, statistics.median(other)),
            f"{ratio:.0%} of its throughput",
            "≥ 85 %",
            ratio >= 0.85,
        ),
        Figure("the same: share of the time in which a write and sync is under way", f"{share:.0%}", "", ""),
    ]


async def _one_at_a_time(storage: Storage, first: int, size: int, rounds: int) -> list[float]:
    """Seconds from `append` until what was to be told is told, with one append outstanding."""
    records = [sealed(index, size) for index in range(first, first + rounds)]
    seconds = []
    for record in records:
        done = trio.Event()
        began = time.perf_counter()

        def synced(began: float = began, done: trio.Event = done) -> None:
            seconds.append(time.perf_counter() - began)
            done.set()

        storage.append([record], synced)
        await done.wait()
    return seconds


async def _single(directory: Path, bare: BareLoop) -> list[Figure]:
    """A 512 B batch, nothing else to do, by way of syncing.

    Blocks of a hundred in turn with the bare loop's; what counts is the median over the blocks of the
    difference of their medians, since the disk is now slower, now faster.
    """
    size, block, blocks, warm = 512, 100, 20, 10
    loop: list[float] = []
    results: dict[str, list[float]] = {way: [] for way in WAYS}
    more: dict[str, list[float]] = {way: [] for way in WAYS}
    async with AsyncExitStack() as stack:
        storages = {
            way: await stack.enter_async_context(running(directory / str(number), make()))
            for number, (way, make) in enumerate(WAYS.items())
        }
        for number in range(blocks):
            first = 1 + number * (block + warm)
            for way, storage in storages.items():
                seconds = bare.run([write_size(1, size)] * (block + warm))[warm:]
                loop += seconds
                mine = (await _one_at_a_time(storage, first, size, block + warm))[warm:]
                results[way] += mine
                more[way].append(statistics.median(mine) - statistics.median(seconds))
    other = statistics.median(loop)
    figures = []
    for way, seconds in results.items():
        difference = statistics.median(more[way])
        judged = way == next(iter(WAYS))
        figures.append(
            Figure(
                f"append of one 512 B batch, idle, p50: {way}",
                microseconds(statistics.median(seconds)),
                microseconds(other),
                f"{difference * 1e6:+.1f} µs",
                "≤ +60 µs" if judged else "",
                difference <= 60e-6 if judged else None,
            )
        )
    return figures


async def _many_groups(directory: Path) -> list[Figure]:
    """100 groups with one append outstanding each, against one group with 100."""
    size, count, groups = 4096, 20_000, range(100, 200)
    rates: list[float] = []
    writes: list[float] = []
    mine, other = [], []
    async with running(directory, ThreadRunner(), [2, *groups]) as storage:
        one, many = Appender(storage, [2], 100, size), Appender(storage, groups, 1, size)
        for number in range(10):
            one_seconds, one_writes = await one.run(count)
            await one.compact()
            many_seconds, many_writes = await many.run(count)
            await many.compact()
            if number >= 2:
                mine.append(count / many_seconds)
                other.append(count / one_seconds)
                rates.append(one_seconds / many_seconds)
                writes.append(many_writes / one_writes)
    rate, more = statistics.median(rates), statistics.median(writes) - 1
    return [
        Figure(
            "append, 100 groups at once, 4 KiB batches, against one group with as many outstanding",
            f"{statistics.median(mine):,.0f}/s",
            f"{statistics.median(other):,.0f}/s",
            f"{rate:.2f} of its throughput",
            "≥ 0.9",
            rate >= 0.9,
        ),
        Figure("the same, syncs", "", "", f"{more:+.1%}", "< +5 %", more < 0.05),
    ]


class WarmDisk(FileDisk):
    """Leaves the page cache as it is, so that reading costs memory bandwidth and no disk."""

    def drop_cache(self, descriptor: int) -> None:
        pass


async def _recovery(directory: Path) -> list[Figure]:
    """Every byte of the log read and verified: closed segments without their tables of contents.

    From the page cache, which shows what the program costs; from the disk, which shows what the disk does.
    """
    size, count = 16 << 10, 24_000
    async with running(directory, ThreadRunner(), [2]) as storage:
        await Appender(storage, [2], 256, size).run(count)
    figures = []
    for what, disk in (("from the page cache", WarmDisk), ("from the disk", FileDisk)):
        seconds, others = [], []
        for _ in range(5):
            for table in (directory / "wal").glob("*.toc"):
                table.unlink()
            total = size * count
            others.append(_read_all(directory / "wal", disk(directory)))
            began = time.perf_counter()
            draw = Random().getrandbits
            storage = await Storage.open(
                disk(directory), ThreadRunner(), name="bench", draw=lambda draw=draw: draw(64)
            )
            seconds.append(time.perf_counter() - began)
            assert storage.recovered.groups[2].last_index == count
            await storage.close()
        mine, other = statistics.median(seconds), statistics.median(others)
        figures.append(
            Figure(
                f"recovery of {total >> 20} MiB of log, {what}, against only reading it",
                bandwidth(total, mine),
                bandwidth(total, other),
                f"{other / mine:.0%} of reading",
                "≥ 1 GB/s" if disk is WarmDisk else "",
                total / mine >= 1e9 if disk is WarmDisk else None,
            )
        )
    return figures


def _read_all(directory: Path, disk: FileDisk) -> float:
    """Seconds to read the segments, as recovery does but without looking at what they say."""
    buffer = memoryview(bytearray(16 << 20))
    began = time.perf_counter()
    for path in sorted(directory.glob("*.wal")):
        descriptor = os.open(path, os.O_RDONLY)
        disk.drop_cache(descriptor)
        for at in accumulate([0] + [len(buffer)] * (path.stat().st_size // len(buffer) - 1)):
            disk.read_into(descriptor, buffer, at)
        os.close(descriptor)
    return time.perf_counter() - began
