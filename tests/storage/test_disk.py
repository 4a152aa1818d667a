"""The real disk does what the interface says, and the one in memory forgets what a real one may forget."""

from __future__ import annotations

import errno
import os
import stat
import threading
from pathlib import Path
from random import Random

import pytest
import trio

from trimaran.storage import Disk, FileDisk, Lane, MemoryDisk, ThreadRunner


@pytest.fixture(params=["file", "memory"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Disk:
    return FileDisk(tmp_path / "data") if request.param == "file" else MemoryDisk()


def test_both_disks_behave_alike(disk: Disk) -> None:
    disk.mkdir("d")
    disk.mkdir("d")
    descriptor = disk.open("d/a", create=True)
    disk.pwritev(descriptor, [b"one", memoryview(b"two"), bytearray(b"three")], 2)
    assert disk.pread(descriptor, 100, 0) == b"\0\0onetwothree"
    assert disk.pread(descriptor, 3, 5) == b"two"
    disk.truncate(descriptor, 5)
    assert (disk.size(descriptor), disk.pread(descriptor, 9, 0)) == (5, b"\0\0one")
    for sync in (disk.fsync, disk.fdatasync, disk.drop_cache):
        sync(descriptor)
    disk.link("d/a", "d/c")
    with pytest.raises(FileExistsError):
        disk.link("d/a", "d/c")
    disk.rename("d/a", "d/b")
    disk.sync_directory("d")
    assert disk.listdir("d") == ["b", "c"]
    assert (disk.exists("d/a"), disk.exists("d/b"), disk.exists("d"), disk.exists("")) == (
        False,
        True,
        True,
        True,
    )
    with pytest.raises(FileExistsError):
        disk.open("d/b", create=True, exclusive=True)
    with pytest.raises(FileNotFoundError):
        disk.open("d/a")
    with pytest.raises(OSError, match="not empty"):
        disk.rmdir("d")
    disk.close(descriptor)
    disk.unlink("d/b")
    disk.unlink("d/c")
    with pytest.raises(FileNotFoundError):
        disk.unlink("d/c")
    disk.rmdir("d")
    assert disk.listdir("") == []
    assert disk.free_bytes() > 0


def test_the_real_disk_is_private_and_follows_no_links(tmp_path: Path) -> None:
    disk = FileDisk(tmp_path / "data")
    descriptor = disk.open("a", create=True)
    assert not os.get_inheritable(descriptor)
    disk.close(descriptor)
    disk.mkdir("d")
    modes = [stat.S_IMODE((tmp_path / "data" / name).stat().st_mode) & 0o077 for name in (".", "a", "d")]
    assert modes == [0, 0, 0]
    (tmp_path / "data" / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links") as caught:
        disk.open("link", create=True)
    assert caught.value.errno == errno.ELOOP
    with pytest.raises(OSError, match="symbolic links"):
        disk.lock("link")


def test_more_buffers_than_one_call_takes_are_written_all(tmp_path: Path) -> None:
    disk = FileDisk(tmp_path)
    descriptor = disk.open("a", create=True)
    pieces = [bytes([number % 256]) * 3 for number in range(3000)]
    disk.pwritev(descriptor, pieces, 10)
    assert disk.pread(descriptor, 10_000, 10) == b"".join(pieces)
    disk.close(descriptor)


def test_memory_loses_what_was_not_synced_and_keeps_what_was() -> None:
    kept, lost, torn = 0, 0, 0
    for seed in range(60):
        disk = MemoryDisk()
        descriptor = disk.open("a", create=True)
        disk.pwritev(descriptor, [b"s" * 4096], 0)
        disk.fsync(descriptor)
        disk.sync_directory("")
        disk.pwritev(descriptor, [b"u" * 2048], 1024)
        disk.crash(Random(seed))
        data = disk.read("a")
        assert data[:1024] == b"s" * 1024 and data[3072:] == b"s" * 1024
        sectors = {data[at : at + 512] for at in range(1024, 3072, 512)}
        assert sectors <= {b"s" * 512, b"u" * 512}
        kept, lost, torn = (
            kept + (sectors == {b"u" * 512}),
            lost + (sectors == {b"s" * 512}),
            torn + (len(sectors) == 2),
        )
    assert kept and lost and torn


def test_memory_loses_names_that_were_not_synced() -> None:
    outcomes = set()
    for seed in range(30):
        disk = MemoryDisk()
        descriptor = disk.open("old", create=True)
        disk.pwritev(descriptor, [b"content"], 0)
        disk.fsync(descriptor)
        disk.sync_directory("")
        disk.rename("old", "new")
        disk.crash(Random(seed))
        outcomes.add(tuple(disk.listdir("")))
    assert outcomes == {("old",), ("new",)}, "a rename is atomic, and lost or not"


def test_memory_lies_after_a_failed_sync_as_a_real_kernel_does() -> None:
    disk = MemoryDisk()
    descriptor = disk.open("a", create=True)
    disk.sync_directory("")

    def fail(operation: str, path: str) -> None:
        if operation == "sync":
            raise OSError(errno.EIO, "gone")

    disk.pwritev(descriptor, [b"x" * 512], 0)
    disk.before = fail
    with pytest.raises(OSError, match="gone"):
        disk.fsync(descriptor)
    disk.before = None
    disk.fsync(descriptor)
    assert disk.read("a") == b"x" * 512, "the page cache shows it"
    survivors = set()
    for seed in range(20):
        other = disk.fork()
        other.crash(Random(seed))
        survivors.add(other.read("a"))
    assert b"" in survivors or bytes(512) in survivors, "the second sync returned, and the bytes may be gone"


async def test_lanes_keep_order_and_run_beside_each_other() -> None:
    runner = ThreadRunner()
    order: list[int] = []
    opened = threading.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(runner.run, Lane.LOG, opened.wait)
        await trio.testing.wait_all_tasks_blocked()
        for number in range(20):
            nursery.start_soon(runner.run, Lane.LOG, order.append, number)
            await trio.lowlevel.checkpoint()
        assert await runner.run(Lane.FILE, lambda: 7) == 7
        assert order == []
        opened.set()
    assert order == list(range(20))
    runner.close()


async def test_a_job_s_error_is_raised_where_it_was_asked_for() -> None:
    runner = ThreadRunner()
    with pytest.raises(ZeroDivisionError):
        await runner.run(Lane.FILE, lambda: 1 // 0)
    assert await runner.run(Lane.FILE, int, "5") == 5
    runner.close()


async def test_a_stuck_disk_does_not_hold_a_cancelled_task_and_the_job_still_runs() -> None:
    runner = ThreadRunner()
    release = threading.Event()
    done: list[str] = []

    def stuck() -> None:
        release.wait()
        done.append("ran")

    with trio.move_on_after(0.05) as scope:
        await runner.run(Lane.LOG, stuck)
    assert scope.cancelled_caught and not done
    release.set()
    assert await runner.run(Lane.LOG, lambda: list(done)) == ["ran"]
    runner.close()


async def test_an_inline_lane_runs_in_the_caller() -> None:
    runner = ThreadRunner(inline=[Lane.LOG])
    assert await runner.run(Lane.LOG, threading.get_ident) == threading.get_ident()
    assert await runner.run(Lane.FILE, threading.get_ident) != threading.get_ident()
    runner.close()
