"""What the storage actor costs beside a bare loop over the same disk: `python benchmarks/storage.py [DIR]`.

The bare loop writes and syncs from the main thread of a program that does nothing else: no implementation
of the same promise can be faster.
"""

from __future__ import annotations

import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from random import Random

import trio
from rich.console import Console
from rich.table import Table

from trimaran.codec import EntryType, Kind, make_chunk, seal_batch
from trimaran.storage import BatchRecord, FileDisk, GroupCreate, Lane, Storage, StorageOptions, ThreadRunner

SEGMENT = 64 << 20
ROUNDS = 2000


def batch(index: int, size: int, group: int = 2) -> bytes:
    """A sealed batch of about `size` bytes in all."""
    chunk = make_chunk([(EntryType.OPAQUE, os.urandom(max(1, size - 96)))])
    return seal_batch(
        [chunk],
        kind=Kind.NORMAL,
        group=group,
        incarnation=1,
        index=index,
        term=1,
        previous_term=1,
        time=0,
    )


def prepared(path: Path) -> int:
    """A file of zeros, as a segment is."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    os.pwrite(descriptor, bytes(SEGMENT), 0)
    os.fsync(descriptor)
    return descriptor


def bare(directory: Path, size: int, rounds: int) -> list[float]:
    """Seconds of each write and fdatasync, one after the other, on the main thread."""
    descriptor = prepared(directory / "bare")
    data, step = os.urandom(size), size + -size % 512
    times = []
    for number in range(rounds):
        began = time.perf_counter()
        os.pwrite(descriptor, data, number * step % (SEGMENT - step))
        os.fdatasync(descriptor)
        times.append(time.perf_counter() - began)
    os.close(descriptor)
    return times


async def one_at_a_time(storage: Storage, size: int, rounds: int) -> list[float]:
    """Seconds from `append` to its completion, with one append outstanding."""
    records = [BatchRecord(batch(index, size)) for index in range(1, rounds + 1)]
    times = []
    for record in records:
        done = trio.Event()
        began = time.perf_counter()
        storage.append([record], done.set)
        await done.wait()
        times.append(time.perf_counter() - began)
    return times


async def as_fast_as_credit(storage: Storage, size: int, total: int, groups: int = 1) -> float:
    """Bytes per second of batches appended whenever there is credit, over several groups in turn."""
    records = [
        BatchRecord(batch(1 + number // groups, size, group=10 + number % groups))
        for number in range(total // size)
    ]
    written = 0
    began = time.perf_counter()
    for number, record in enumerate(records):
        while storage.credit() < 2 * size:
            done = trio.Event()
            storage.append((), done.set)
            await done.wait()
        storage.append([record])
        written += len(record.batch)
        if number % 16 == 15:
            await trio.lowlevel.checkpoint()
    await storage.drain()
    return written / (time.perf_counter() - began)


async def many_groups(storage: Storage, groups: int, size: int, rounds: int) -> tuple[float, float]:
    """(appends per second, p50 seconds) of that many groups, each with one append outstanding."""
    times: list[float] = []

    async def one(group: int) -> None:
        for index in range(1, rounds + 1):
            record = BatchRecord(batch(index, size, group))
            done = trio.Event()
            began = time.perf_counter()
            storage.append([record], done.set)
            await done.wait()
            times.append(time.perf_counter() - began)

    began = time.perf_counter()
    async with trio.open_nursery() as nursery:
        for group in range(100, 100 + groups):
            nursery.start_soon(one, group)
    return groups * rounds / (time.perf_counter() - began), statistics.median(times)


async def start(directory: Path, runner: ThreadRunner) -> Storage:
    draw = Random().getrandbits
    return await Storage.open(
        FileDisk(directory), runner, name="bench", draw=lambda: draw(64), options=StorageOptions()
    )


async def main(root: Path) -> None:
    table = Table("what", "storage actor", "bare loop", "ratio", title="Storage")

    def row(what: str, mine: float, other: float | None, unit: str, scale: float) -> None:
        ratio = "" if other is None else f"{mine / other:.2f}"
        reference = "" if other is None else f"{other * scale:,.0f} {unit}"
        table.add_row(what, f"{mine * scale:,.0f} {unit}", reference, ratio)

    for label, runner in (("thread", ThreadRunner()), ("inline", ThreadRunner(inline=[Lane.LOG]))):
        directory = root / label
        storage = await start(directory, runner)
        async with trio.open_nursery() as nursery:
            await nursery.start(storage.run)
            await trio.sleep(0.5)  # the next segment's zeros would disturb the disk
            storage.append([GroupCreate(2, 1, "bench", "bench", b"")])
            for size in (512, 4096):
                mine = statistics.median(await one_at_a_time(storage, size, ROUNDS))
                other = statistics.median(bare(root, size, ROUNDS))
                row(f"{label}: {size} B append, p50", mine, other, "us", 1e6)
            sizes = (64 << 10, 4000)
            if label == "thread":
                speed = await as_fast_as_credit(storage, sizes[0], 512 << 20)
                other = (64 << 10) / statistics.mean(bare(root, 64 << 10, 500))
                big = (8 << 20) / statistics.mean(bare(root, 8 << 20, 30))
                row("64 KiB batches, bare loop syncs each", speed, other, "MB/s", 1e-6)
                row("64 KiB batches, bare loop syncs 8 MiB", speed, big, "MB/s", 1e-6)
            rate, latency = await many_groups(storage, 100, 512, 100)
            row(f"{label}: 100 groups, 512 B, appends", rate, None, "/s", 1)
            row(f"{label}: 100 groups, 512 B, p50", latency, None, "us", 1e6)
            nursery.cancel_scope.cancel()
        log_bytes = storage.statistics().log_bytes
        await storage.close()
        began = time.perf_counter()
        storage = await start(directory, ThreadRunner())
        seconds = time.perf_counter() - began
        row(f"{label}: recovery of {log_bytes >> 20} MiB", log_bytes / seconds, None, "MB/s", 1e-6)
        row(f"{label}: recovery, time", seconds, None, "ms", 1e3)
        await storage.close()
    empty = root / "empty"
    began = time.perf_counter()
    storage = await start(empty, ThreadRunner())
    row("start of a new node", time.perf_counter() - began, None, "ms", 1e3)
    await storage.close()
    Console(width=110).print(table)


if __name__ == "__main__":
    place = Path(tempfile.mkdtemp(prefix="trimaran-bench-", dir=sys.argv[1] if len(sys.argv) > 1 else "."))
    try:
        trio.run(main, place)
    finally:
        shutil.rmtree(place)
