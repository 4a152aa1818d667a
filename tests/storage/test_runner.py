"""Who writes and syncs the log: the same bytes, the same errors and the same end, either way."""

import errno
import os
import resource
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from tests.storage.helpers import GROUP, create, opened, record
from trimaran.codec import IMPLEMENTATION
from trimaran.codec.syncer import Syncer, Way, open_syncer
from trimaran.storage import FileDisk, InlineRunner, Lane, Runner, StorageFailed
from trimaran.storage.runner import ThreadRunner

MAKERS: dict[str, Callable[[], Runner]] = {
    "thread": ThreadRunner,
    "uring": lambda: ThreadRunner(syncer="uring"),
    "python thread": lambda: ThreadRunner(syncer=None),
    "all inline": InlineRunner,
    "log inline": lambda: ThreadRunner(inline=[Lane.LOG]),
}
every_way = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS.keys())


@contextmanager
def files_limited_to(size: int) -> Iterator[None]:
    """A file system that is full at this size of a file; Python ignores the signal."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@every_way
@pytest.mark.parametrize("count", [1, 3, 256, 257, 1500])
async def test_a_gathered_write_lies_on_the_disk_as_it_was_given(
    tmp_path: Path, make: Callable[[], Runner], count: int
) -> None:
    disk, runner = FileDisk(tmp_path), make()
    descriptor = disk.open("log", create=True)
    buffers = [b"%06d" % number * (number % 5 + 1) for number in range(count)]
    await runner.write_and_sync(disk, descriptor, buffers, 512)
    await runner.write_and_sync(disk, descriptor, [bytearray(b"head"), memoryview(b"er")], 0)
    written = (tmp_path / "log").read_bytes()
    assert written[:6] == b"header"
    assert written[512:] == b"".join(buffers)
    runner.close()


@every_way
async def test_a_failed_write_is_an_error(tmp_path: Path, make: Callable[[], Runner]) -> None:
    disk, runner = FileDisk(tmp_path), make()
    descriptor = disk.open("log", create=True)
    with pytest.raises(OSError) as raised:
        await runner.write_and_sync(disk, disk.open("log"), [b"x"], 0)
    assert raised.value.errno == errno.EBADF
    await runner.write_and_sync(disk, descriptor, [b"x"], 0)
    assert (tmp_path / "log").read_bytes() == b"x"
    runner.close()


@every_way
async def test_a_write_that_comes_short_is_an_error(tmp_path: Path, make: Callable[[], Runner]) -> None:
    disk, runner = FileDisk(tmp_path), make()
    descriptor = disk.open("log", create=True)
    with files_limited_to(1000), pytest.raises(OSError) as raised:
        await runner.write_and_sync(disk, descriptor, [bytes(700), bytes(800)], 0)
    assert raised.value.errno in (errno.EIO, errno.EFBIG)
    runner.close()


@every_way
async def test_a_failed_sync_is_an_error(tmp_path: Path, make: Callable[[], Runner]) -> None:
    """/dev/null takes every write and can't be synced."""
    disk, runner = FileDisk(tmp_path), make()
    nothing = os.open("/dev/null", os.O_WRONLY)
    with pytest.raises(OSError) as raised:
        await runner.write_and_sync(disk, nothing, [b"x"], 0)
    assert raised.value.errno == errno.EINVAL
    os.close(nothing)
    runner.close()


@every_way
async def test_an_empty_job_still_syncs(tmp_path: Path, make: Callable[[], Runner]) -> None:
    disk, runner = FileDisk(tmp_path), make()
    await runner.write_and_sync(disk, disk.open("log", create=True), [], 0)
    runner.close()
    assert (tmp_path / "log").read_bytes() == b""


@every_way
async def test_a_sync_that_failed_is_final(tmp_path: Path, make: Callable[[], Runner]) -> None:
    """Its waiters never hear of success, nothing is written after it, and a restart has what was synced."""
    failures: list[StorageFailed] = []
    done: list[int] = []
    nothing = os.open("/dev/null", os.O_RDWR)
    async with opened(FileDisk(tmp_path), runner=make(), on_failure=failures.append) as storage:
        storage.append([create(), record(1)], lambda: done.append(1))
        await storage.drain()
        descriptor = storage._writer.segment.descriptor
        log = os.dup(descriptor)
        os.dup2(nothing, descriptor)
        storage.append([record(2)], lambda: done.append(2))
        storage.append([record(3)], lambda: done.append(3))
        with pytest.raises(StorageFailed):
            await storage.drain()
        os.dup2(log, descriptor)  # the disk is well again: that changes nothing
        storage.append([record(4)], lambda: done.append(4))
        with pytest.raises(StorageFailed):
            await storage.drain()
    assert done == [1]
    assert failures == [storage.failed]
    os.close(nothing)
    os.close(log)
    async with opened(FileDisk(tmp_path), runner=make(), seed=2) as again:
        assert again.recovered.groups[GROUP].last_index == 1


@every_way
async def test_a_log_that_is_stopped_in_a_sync_keeps_what_was_acknowledged(
    tmp_path: Path, make: Callable[[], Runner]
) -> None:
    done: list[int] = []
    async with opened(FileDisk(tmp_path), runner=make()) as storage:
        storage.append([create(), record(1)], lambda: done.append(1))
        await storage.drain()
        storage.append([record(2, size=20_000)], lambda: done.append(2))
        for _ in range(2):  # until the write is under way, and not until it is done
            await trio.lowlevel.checkpoint()
    async with opened(FileDisk(tmp_path), runner=make(), seed=2) as again:
        last = again.recovered.groups[GROUP].last_index
        assert max(done) <= last <= 2
        assert (await again.read_batches(GROUP, 1, last, 1 << 20))[0] == record(1).batch


async def test_where_the_kernel_forbids_io_uring_the_thread_does_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Way] = []

    def refuse(way: Way = "thread") -> Syncer | None:
        asked.append(way)
        return None if way == "uring" else open_syncer(way)

    monkeypatch.setattr("trimaran.storage.runner.open_syncer", refuse)
    disk, runner = FileDisk(tmp_path), ThreadRunner(syncer="uring")
    await runner.write_and_sync(disk, disk.open("log", create=True), [b"x"], 0)
    assert asked == ["uring", "thread"]
    assert (tmp_path / "log").read_bytes() == b"x"
    runner.close()


WAYS: list[Way] = ["thread", "uring"]


@pytest.mark.skipif(IMPLEMENTATION != "c", reason="the syncers in C need a compiler; CI has one")
@pytest.mark.parametrize("way", WAYS)
class TestSyncer:
    async def test_one_job_at_a_time_and_its_buffers_live_as_long_as_it(
        self, tmp_path: Path, way: Way
    ) -> None:
        disk, syncer = FileDisk(tmp_path), Syncer(way)
        read_end, write_end = os.pipe()
        # A pipe takes no pwrite: the job fails, and until its result is taken no other begins.
        syncer.submit(write_end, [b"never"], 0)
        with pytest.raises(RuntimeError):
            syncer.submit(write_end, [b"never"], 0)
        await trio.lowlevel.wait_readable(syncer.receiver)
        with pytest.raises(OSError, match=r"Illegal seek|Invalid argument"):
            syncer.result()
        descriptor = disk.open("log", create=True)
        for number in range(200):
            syncer.submit(descriptor, [b"%03d" % number, b"." * 10_000], number * 10_003)
            await trio.lowlevel.wait_readable(syncer.receiver)
            assert syncer.result()
        expected = b"".join(b"%03d" % number + b"." * 10_000 for number in range(200))
        assert (tmp_path / "log").read_bytes() == expected
        assert syncer.close(1)
        for end in (read_end, write_end):
            os.close(end)

    async def test_it_is_not_closed_under_a_job(self, tmp_path: Path, way: Way) -> None:
        disk, syncer = FileDisk(tmp_path), Syncer(way)
        data = b"." * (32 << 20)
        syncer.submit(disk.open("log", create=True), [data], 0)
        if not syncer.close(0):  # it is, unless the disk was faster than that
            await trio.lowlevel.wait_readable(syncer.receiver)
            assert syncer.result()
            assert syncer.close(0)
        assert (tmp_path / "log").read_bytes() == data


class StuckDisk(FileDisk):
    """A disk whose reads don't return before `release`."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.reading = threading.Event()
        self.release = threading.Event()

    def pread(self, descriptor: int, length: int, offset: int) -> bytes:
        self.reading.set()
        self.release.wait()
        return b""


async def test_closing_does_not_wait_for_a_thread_that_is_stuck(tmp_path: Path) -> None:
    disk, runner = StuckDisk(tmp_path), ThreadRunner()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(runner.run, Lane.FILE, disk.pread, 0, 1, 0)
        await trio.to_thread.run_sync(disk.reading.wait)
        nursery.cancel_scope.cancel()
    began = time.monotonic()
    assert not runner.close(0.05), "a job is under way, and what it uses must stay open"
    assert time.monotonic() - began < 2
    disk.release.set()


async def test_closing_waits_for_a_write_that_is_under_way(tmp_path: Path) -> None:
    """A node that is cancelled gives its directory back whole, not while the disk still writes."""
    disk, runner = FileDisk(tmp_path), ThreadRunner()
    descriptor = disk.open("log", create=True)
    await runner.write_and_sync(disk, descriptor, [b"x"], 0)
    size = 64 << 20
    async with trio.open_nursery() as nursery:
        nursery.start_soon(runner.write_and_sync, disk, descriptor, [bytes(size)], 0)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert runner.close(30)
    assert disk.size(descriptor) == size
    disk.close(descriptor)
