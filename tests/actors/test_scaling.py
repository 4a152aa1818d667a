"""Streams change their number of replicas under load: nothing is lost, nothing is there twice (S7, S14)."""

import pytest
import trio
from trio.testing import MockClock

from tests.actors.cluster import Cluster, open_memory_cluster, until
from tests.actors.load import assignment, load, machines, scale
from trimaran.codec import Kind, read_header

FIVE = ("a", "b", "c", "d", "e")


async def test_one_three_five_three_one_under_load(autojump_clock: MockClock) -> None:
    async with open_memory_cluster(*FIVE) as cluster, load(cluster, "a", 1) as running:
        for replicas in (3, 5, 3, 1):
            before = len(running.acknowledged)
            await scale(cluster, "b", replicas)
            await until(lambda before=before: len(running.acknowledged) > before + 20)  # type: ignore[misc]


async def test_a_node_that_left_a_stream_comes_back_to_it_with_its_log(autojump_clock: MockClock) -> None:
    async with open_memory_cluster() as cluster, load(cluster, "a", 3) as running:
        for replicas in (1, 3, 1, 3, 2, 3):
            await scale(cluster, "c", replicas)
        before = len(running.acknowledged)
        await until(lambda: len(running.acknowledged) > before + 20)


@pytest.mark.parametrize("power", [False, True])
async def test_crashes_while_scaling_lose_nothing(autojump_clock: MockClock, power: bool) -> None:
    async with open_memory_cluster(*FIVE) as cluster, load(cluster, "a", 3):
        for replicas in (5, 1, 3):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(scale, cluster, "a", replicas)
                for name in ("b", "c", "d", "e"):
                    await trio.sleep(0.05)
                    await cluster.crash(name, power=power)
                    await cluster.start(name)
                    await cluster.ready(name)


async def test_all_nodes_crash_after_a_scale_down_and_only_the_last_replica_serves(
    autojump_clock: MockClock,
) -> None:
    async with open_memory_cluster() as cluster:
        async with load(cluster, "a", 3) as running:
            await scale(cluster, "a", 1)
        group = assignment(cluster, "a").group
        for name in "abc":
            await cluster.crash(name)
        for name in "abc":
            await cluster.start(name)
        await cluster.ready()
        await until(lambda: len(machines(cluster, group)) == 1)
        [machine] = machines(cluster, group).values()
        assert machine.info().messages == len(running.acknowledged)


async def test_growing_from_one_replica_announces_the_snapshot_first(autojump_clock: MockClock) -> None:
    """Rule S7: the snapshot entry is in the log, alone in its batch, before the first newcomer."""
    async with open_memory_cluster() as cluster, load(cluster, "a", 1):
        leader = cluster.leader(assignment(cluster, "a").group)
        await scale(cluster, "a", 3)
        kinds = await kinds_of_log(cluster, leader)
        assert Kind.SNAPSHOT in kinds[: kinds.index(Kind.MEMBERSHIP)]


async def kinds_of_log(cluster: Cluster, name: str) -> list[Kind]:
    group = cluster[name].groups.get(assignment(cluster, name).group)
    assert group is not None
    log = group.state.log
    batches = await cluster[name].storage.read_batches(group.number, log.first_index, log.synced, 1 << 30)
    return [Kind(read_header(batch).kind) for batch in batches]
