"""Real processes on real small disks: one that fills up and gets space again, one whose syncs begin to fail.

Both need a file system of their own: they run where this process may mount one, and say so where it may not.
"""

from __future__ import annotations

import base64
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import pytest
import trio

from tests.command.test_node_process import node, ready
from trimaran.client import Client, JetStreamError, connect
from trimaran.storage.errors import StorageFailed

MIB = 1 << 20
INSUFFICIENT = 10023
UNKNOWN = 20001
EXIT_SECONDS = 1.0
SMALL = (
    "--segment-bytes",
    "1MiB",
    "--batch-bytes",
    "256KiB",
    "--max-payload",
    "64KiB",
    "--block-bytes",
    "1MiB",
)


def command(*words: str | Path) -> None:
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"{' '.join(map(str, words))}: {done.stderr.strip()}")


@contextmanager
def mounted(directory: Path, *options: str | Path) -> Iterator[Path]:
    """A file system of the test's own. Where nobody may mount one, this machine does not run the test."""
    directory.mkdir()
    try:
        command("mount", *options, directory)
    except OSError as error:
        pytest.skip(f"NOT TESTED HERE, a small file system can't be mounted: {error}")
    try:
        assert directory.stat().st_dev != directory.parent.stat().st_dev
        yield directory
    finally:
        command("umount", "--lazy", directory)


@contextmanager
def tmpfs(directory: Path, size: int) -> Iterator[Path]:
    with mounted(directory, "-t", "tmpfs", "-o", f"size={size}", "tmpfs") as place:
        yield place


def fill(directory: Path) -> Path:
    """Somebody else's file takes all the space that is left."""
    path = directory / "somebody-else"
    with path.open("wb", buffering=0) as file:
        for size in (MIB, 4096):
            try:
                while file.write(bytes(size)) == size:
                    pass
            except OSError:
                pass  # full, as it should be
    return path


def options_for(place: Path, min_free: str) -> tuple[str, ...]:
    return ("--listen", "127.0.0.1:0", "--data", str(place / "data"), "--min-free-bytes", min_free, *SMALL)


async def publish(client: Client, number: int) -> int:
    """Publish one message of 20 KB; the error code, or 0."""
    try:
        await client.jetstream_publish("s.x", b"%d " % number + b"x" * 20_000)
    except JetStreamError as refused:
        return refused.err_code
    return 0


async def number_of(client: Client, sequence: int) -> int:
    """Which message has this sequence."""
    found = await client.api("STREAM.MSG.GET.S", {"seq": sequence})
    message = cast("dict[str, str]", found["message"])
    return int(base64.b64decode(message["data"]).split()[0])


async def until_refused(client: Client, first: int) -> int:
    """Publish until the disk is said to be full; how many messages were acknowledged."""
    for number in range(first, first + 5000):
        code = await publish(client, number)
        if code:
            assert code == INSUFFICIENT
            return number - first
    raise AssertionError("a disk of a few MiB took 100 MB")


async def test_a_disk_that_fills_up_and_gets_space_again(tmp_path: Path) -> None:
    with tmpfs(tmp_path / "small", 24 * MIB) as place:
        options = (
            "--listen",
            "127.0.0.1:0",
            "--data",
            str(place / "data"),
            "--min-free-bytes",
            "4MiB",
            *SMALL,
        )
        async with node(tmp_path, *options) as started, connect(await ready(started)) as client:
            await client.create_stream("S", ["s.>"])
            stored = await until_refused(client, 0)
            assert stored > 100
            fill(place)
            assert await publish(client, 0) == INSUFFICIENT
            assert await number_of(client, stored) == stored - 1, "what is stored can be read"
            assert started.process.returncode is None
            started.process.kill()
            await started.process.wait()
        async with node(tmp_path, *options) as started, connect(await ready(started)) as client:
            assert os.statvfs(place).f_bavail == 0
            assert [await number_of(client, each) for each in (1, stored)] == [0, stored - 1]
            assert await publish(client, 0) == INSUFFICIENT
            command("mount", "-o", f"remount,size={64 * MIB}", place)
            with trio.fail_after(10):
                while await publish(client, stored):
                    pass
            assert await number_of(client, stored + 1) == stored
        assert "Traceback" not in started.said


async def test_a_disk_whose_syncs_fail(tmp_path: Path) -> None:
    """A file system in a file on a disk that is full: what the kernel can't write back is lost in a sync."""
    with tmpfs(tmp_path / "below", 40 * MIB) as below:
        image = below / "image"
        with image.open("wb") as file:
            file.truncate(64 * MIB)
        # Without a journal and going on after errors, as some disks do: the next sync succeeds and lies.
        command("mkfs.ext4", "-q", "-O", "^has_journal", "-e", "continue", image)
        with mounted(tmp_path / "above", "-o", "loop", image) as place:
            options = (
                "--listen",
                "127.0.0.1:0",
                "--data",
                str(place / "data"),
                "--min-free-bytes",
                "0",
                *SMALL,
            )
            async with node(tmp_path, *options) as started:
                async with connect(await ready(started)) as client:
                    await client.create_stream("S", ["s.>"])
                    assert not any([await publish(client, number) for number in range(20)])
                    filler, stored = fill(below), 20
                    while not (code := await publish(client, stored)):
                        stored += 1
                    assert code == UNKNOWN, "an answer, and not a connection that just ends"
                    began = time.monotonic()
                assert await started.exit() == StorageFailed.exit_code
                assert time.monotonic() - began < EXIT_SECONDS
            filler.unlink()
            async with node(tmp_path, *options) as started, connect(await ready(started)) as client:
                assert [await number_of(client, each + 1) for each in range(stored)] == [*range(stored)]
            assert "Traceback" not in started.said
