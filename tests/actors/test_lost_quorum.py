"""A majority is lost for good: one directory is made a cluster of its own, and serves what it has."""

import pytest
import trio
from trio.testing import MockClock

from tests.actors.cluster import Cluster, open_memory_cluster, until
from tests.actors.load import STREAM, assignment, check, load, machines, scale
from tests.actors.test_nodes import invite
from trimaran import StreamHandle, open_stream
from trimaran.actors.cluster.lost_quorum import CannotRecover, Survey, recover, survey
from trimaran.actors.cluster.meta_state import META_GROUP
from trimaran.actors.node import NodeRemoved
from trimaran.storage.actor import Storage
from trimaran.storage.memory_disk import MemoryDisk
from trimaran.storage.runner import InlineRunner


async def recover_disk(disk: MemoryDisk, *, really: bool = True) -> Survey:
    storage = await Storage.open(disk, InlineRunner(), name="", draw=lambda: 5)
    found = await survey(storage)
    async with trio.open_nursery() as nursery:
        await nursery.start(storage.run)
        if really:
            await recover(storage, found)
        nursery.cancel_scope.cancel()
    await storage.close()
    return found


async def lose_all_but(cluster: Cluster, survivor: str) -> None:
    for name in list(cluster.members):
        await cluster.crash(name, power=True)
    await recover_disk(cluster.members[survivor].disk)
    await cluster.start(survivor)
    await cluster.ready(survivor)


@pytest.mark.parametrize("survivor", ["a", "b", "c"])
async def test_any_survivor_serves_all_that_its_log_has(autojump_clock: MockClock, survivor: str) -> None:
    async with open_memory_cluster() as cluster:
        async with load(cluster, "a", 3) as running:
            await until(lambda: len(running.acknowledged) > 400, 60)
        await lose_all_but(cluster, survivor)
        await check(cluster, survivor, running.acknowledged)
        handle = StreamHandle(cluster[survivor], STREAM, assignment(cluster, survivor).group)
        assert (await handle.publish("orders.x", b"on")).sequence == len(running.acknowledged) + 1


async def test_what_has_no_replica_here_is_given_up_and_said_so(autojump_clock: MockClock) -> None:
    async with open_memory_cluster() as cluster:
        for number in range(3):
            await open_stream(cluster["a"], f"S{number}", [f"s{number}.>"])
        names = {
            cluster["a"].state.nodes[each.replicas[0]].name: each.name
            for each in cluster["a"].state.streams()
        }
        assert set(names) == {"a", "b", "c"}
        for name in "abc":
            await cluster.crash(name)
        found = await recover_disk(cluster.members["b"].disk, really=False)
        assert found.given_up == sorted([names["a"], names["c"]])
        assert found.lost_nodes == ["a", "c"]
        await recover_disk(cluster.members["b"].disk)
        await cluster.start("b")
        await cluster.ready("b")
        await until(lambda: [each.name for each in cluster["b"].state.streams()] == [names["b"]])


async def test_only_looking_leaves_the_cluster_as_it_was(autojump_clock: MockClock) -> None:
    async with open_memory_cluster() as cluster:
        async with load(cluster, "a", 3) as running:
            await until(lambda: len(running.acknowledged) > 50)
        for name in "abc":
            await cluster.crash(name)
        for name in "abc":
            await recover_disk(cluster.members[name].disk, really=False)
            await cluster.start(name)
        await cluster.ready()
        await check(cluster, "a", running.acknowledged)
        assert len(cluster["a"].state.nodes) == 3


async def test_who_comes_back_from_before_is_told_and_a_new_cluster_grows(autojump_clock: MockClock) -> None:
    async with open_memory_cluster() as cluster:
        async with load(cluster, "a", 3) as running:
            await until(lambda: len(running.acknowledged) > 50)
        await lose_all_but(cluster, "a")
        for name in "bc":
            member = cluster.members[name]
            await cluster.start(name)
            with trio.fail_after(20):
                await member.gone.wait()
            assert isinstance(member.ended_by, NodeRemoved)
        cluster.wipe("b")
        del cluster.addresses["c"]
        await invite(cluster, "a", "b")
        await scale(cluster, "a", 2)
        await check(cluster, "b", running.acknowledged)


async def test_a_living_majority_does_not_believe_a_survivor_that_was_made_alone(
    autojump_clock: MockClock,
) -> None:
    """Somebody recovered a node while the others were alive after all: they go on, without it."""
    async with open_memory_cluster() as cluster:
        async with load(cluster, "a", 3) as running:
            await until(lambda: len(running.acknowledged) > 50)
            others = [name for name in "abc" if name != "a"]
            mistaken = others[0]
            await cluster.crash(mistaken)
            await recover_disk(cluster.members[mistaken].disk)
            await cluster.start(mistaken)
            await trio.sleep(5)
            before = len(running.acknowledged)
            await until(lambda: len(running.acknowledged) > before + 20)
            assert all(cluster.members[name].node is not None for name in "abc")
            await cluster.crash(mistaken)
            cluster.wipe(mistaken)
            await cluster.start(mistaken)
            await cluster.ready()
        assert len(machines(cluster, assignment(cluster, "a").group)) == 3
        assert any("state machine safety" in str(each) for each in cluster.violations), (
            "two histories, as asked for"
        )
        cluster.violations.clear()


async def test_an_empty_or_foreign_directory_is_refused(autojump_clock: MockClock) -> None:
    with pytest.raises(CannotRecover, match="never belonged"):
        await recover_disk(MemoryDisk())


async def test_recovering_twice_changes_nothing_more(autojump_clock: MockClock) -> None:
    async with open_memory_cluster() as cluster:
        async with load(cluster, "a", 3) as running:
            await until(lambda: len(running.acknowledged) > 50)
        for name in "abc":
            await cluster.crash(name)
        await recover_disk(cluster.members["a"].disk)
        found = await recover_disk(cluster.members["a"].disk)
        assert found.lost_nodes == []
        await cluster.start("a")
        await cluster.ready("a")
        await check(cluster, "a", running.acknowledged)
        group = cluster["a"].groups.get(META_GROUP)
        assert group is not None and group.state.membership.voters == {cluster["a"].me.node}
