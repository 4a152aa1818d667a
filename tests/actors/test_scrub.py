"""The scrub: finds what rots before anybody reads it, at its pace, and tells those who repair it."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import trio
from trio.testing import MockClock

from tests.actors.cluster import KIB, OPTIONS, open_memory_cluster, until
from tests.actors.damage import hurt_batches
from tests.actors.load import STREAM
from tests.actors.test_block_repair import blocks, fill, hurt, replica, sequences_in
from trimaran import StreamHandle
from trimaran.actors.scrub import YIELD

SCRUBBED = replace(OPTIONS, scrub_bytes=64 * KIB)
UNSCRUBBED = replace(OPTIONS, scrub_bytes=0)


async def free(size: int) -> None:
    """As fast as the disk gives it."""
    await trio.lowlevel.checkpoint()


async def test_a_sweep_finds_what_nobody_reads_and_the_replica_heals(autojump_clock: MockClock) -> None:
    async with open_memory_cluster(options=UNSCRUBBED) as cluster:
        group = await fill(cluster)
        found = replica(cluster, "b", group)
        disk = cluster.members["b"].disk
        paths = blocks(cluster, "b", group)
        first = sequences_in(disk, paths[1])[0]
        hurt(disk, paths[0], 2, 9)
        hurt(disk, paths[1], first)
        scrub = cluster["b"].scrub
        await scrub.sweep(free)
        assert scrub.statistics.found == 3 and scrub.statistics.sweeps == 1
        assert scrub.statistics.bytes >= sum(len(disk.read(path)) for path in paths)
        await until(lambda: found.repair.mender.mended == 3)
        await scrub.sweep(free)
        assert scrub.statistics.found == 3, "nothing more"
        assert cast("dict[str, int]", cluster["b"].vitals.varz()["scrub"])["sweeps"] == 2


async def test_a_missing_block_is_found_and_made_again(autojump_clock: MockClock) -> None:
    async with open_memory_cluster(options=UNSCRUBBED) as cluster:
        group = await fill(cluster)
        disk = cluster.members["b"].disk
        path = blocks(cluster, "b", group)[1]
        count, sound = len(sequences_in(disk, path)), disk.read(path)
        disk.unlink(path)
        await cluster["b"].scrub.sweep(free)
        found = replica(cluster, "b", group)
        await until(lambda: found.machine.damage is not None and found.machine.damage.whole)
        assert cluster["b"].scrub.statistics.found == count and disk.read(path) == sound


async def test_the_log_is_swept_as_well(autojump_clock: MockClock) -> None:
    options = replace(UNSCRUBBED, snapshot_log_bytes=64 * 1024 * KIB)
    async with open_memory_cluster(options=options) as cluster:
        handle = await cluster.counter("a")
        for number in range(60):
            await handle.propose(b"%d" % number + bytes(10_000))
        await until(lambda: len(cluster.counted("b", handle.group)) == 60)
        hurt_batches(cluster.members["b"].disk, handle.group, 4, 6)
        await cluster["b"].scrub.sweep(free)
        assert cluster["b"].scrub.statistics.found == 2
        await until(lambda: replica(cluster, "b", handle.group).repair.repaired == 2)


async def test_the_scrub_keeps_its_pace_and_gives_way_to_writing(autojump_clock: MockClock) -> None:
    async with open_memory_cluster(options=SCRUBBED) as cluster:
        group = await fill(cluster)
        scrub = cluster["a"].scrub
        statistics = scrub.statistics
        await until(lambda: statistics.sweeps == 1, 120)
        await scrub.sweep(scrub.pace)  # begins more slowly: the stream has just been written
        assert statistics.found == 0
        began = trio.current_time()
        await scrub.sweep(scrub.pace)
        idle = (trio.current_time() - began) / statistics.bytes
        assert idle >= 0.99 / SCRUBBED.scrub_bytes
        async with trio.open_nursery() as nursery:
            nursery.start_soon(write_on, StreamHandle(cluster["a"], STREAM, group))
            began = trio.current_time()
            await scrub.sweep(scrub.pace)
            assert (trio.current_time() - began) / statistics.bytes > idle * YIELD / 2
            nursery.cancel_scope.cancel()
        await trio.sleep(10)
        assert statistics.sweeps == 4, "it rests between two sweeps"


async def write_on(stream: StreamHandle) -> None:
    """Some 300 kB a second, until cancelled."""
    while True:
        await stream.publish("orders.y", bytes(15_000))
        await trio.sleep(0.05)
