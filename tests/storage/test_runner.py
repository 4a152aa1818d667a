"""Who writes and syncs the log: the same bytes and the same errors, with the interpreter or without it."""

import errno
import os
from pathlib import Path

import pytest
import trio

from trimaran.codec import IMPLEMENTATION
from trimaran.codec.syncer import Syncer, open_syncer
from trimaran.storage import FileDisk, InlineRunner, Lane
from trimaran.storage.runner import ThreadRunner

RUNNERS = [ThreadRunner, InlineRunner, lambda: ThreadRunner(inline=[Lane.LOG])]


@pytest.mark.parametrize("make", RUNNERS, ids=["thread", "all inline", "log inline"])
@pytest.mark.parametrize("count", [1, 3, 256, 257, 1500])
async def test_a_gathered_write_lies_on_the_disk_as_it_was_given(
    tmp_path: Path, make: type[ThreadRunner], count: int
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


@pytest.mark.parametrize("make", RUNNERS, ids=["thread", "all inline", "log inline"])
async def test_a_failed_write_is_an_error_and_the_runner_goes_on(
    tmp_path: Path, make: type[ThreadRunner]
) -> None:
    disk, runner = FileDisk(tmp_path), make()
    descriptor = disk.open("log", create=True)
    read_only = disk.open("log")
    with pytest.raises(OSError) as raised:
        await runner.write_and_sync(disk, read_only, [b"x"], 0)
    assert raised.value.errno == errno.EBADF
    await runner.write_and_sync(disk, descriptor, [b"x"], 0)
    assert (tmp_path / "log").read_bytes() == b"x"
    runner.close()


async def test_an_empty_job_still_syncs(tmp_path: Path) -> None:
    disk, runner = FileDisk(tmp_path), ThreadRunner()
    await runner.write_and_sync(disk, disk.open("log", create=True), [], 0)
    runner.close()
    assert (tmp_path / "log").read_bytes() == b""


def a_syncer() -> Syncer:
    syncer = open_syncer()
    assert syncer is not None
    return syncer


@pytest.mark.skipif(IMPLEMENTATION != "c", reason="the thread in C needs a compiler; CI has one")
class TestSyncer:
    async def test_one_job_at_a_time_and_its_buffers_live_as_long_as_it(self, tmp_path: Path) -> None:
        disk, syncer = FileDisk(tmp_path), a_syncer()
        read_end, write_end = os.pipe()
        # A pipe takes no pwrite: the job ends with ESPIPE, and until its result is taken no other begins.
        syncer.submit(write_end, [b"never"], 0)
        with pytest.raises(RuntimeError):
            syncer.submit(write_end, [b"never"], 0)
        await trio.lowlevel.wait_readable(syncer.receiver)
        with pytest.raises(OSError) as raised:
            syncer.result()
        assert raised.value.errno == errno.ESPIPE
        descriptor = disk.open("log", create=True)
        for number in range(200):
            syncer.submit(descriptor, [b"%03d" % number, b"." * 10_000], number * 10_003)
            await trio.lowlevel.wait_readable(syncer.receiver)
            syncer.result()
        expected = b"".join(b"%03d" % number + b"." * 10_000 for number in range(200))
        assert (tmp_path / "log").read_bytes() == expected
        assert syncer.close()
        for end in (read_end, write_end):
            os.close(end)
