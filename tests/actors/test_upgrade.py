"""Nodes of two versions in one cluster: it works, uses what is new once all know it, and never goes back
(DESIGN 10)."""

import pytest
import trio
from trio.testing import MockClock

from tests.actors.cluster import Cluster, open_memory_cluster, until
from tests.actors.load import assignment, load, scale
from trimaran.actors.cluster.meta_state import FENCED_REPORTS, META_GROUP, MetaState
from trimaran.actors.peers.wire import PROTOCOL_VERSION

OLDER = FENCED_REPORTS - 1


def states(cluster: Cluster) -> list[MetaState]:
    return [member.node.state for member in cluster.members.values() if member.node is not None]


def levels(cluster: Cluster) -> set[int]:
    return {state.level for state in states(cluster)}


async def upgrade(cluster: Cluster, name: str, to: int = PROTOCOL_VERSION) -> None:
    """As the operator's page has it: stop it, start the other version, wait until it is healthy."""
    await cluster.stop(name)
    cluster.speaks[name] = to
    await cluster.start(name)
    await cluster.ready(name)


async def lead(cluster: Cluster, group: int, name: str) -> None:
    await until(lambda: len(cluster.leaders(group)) == 1)
    if cluster.leader(group) != name:
        await cluster[cluster.leader(group)].desk.transfer(group, name)
        await until(lambda: cluster.leaders(group) == [name])


async def test_one_older_node_works_with_the_others_and_nothing_new_is_written(
    autojump_clock: MockClock,
) -> None:
    async with open_memory_cluster(speaks={"c": OLDER}) as cluster, load(cluster, "a", 3) as running:
        group = assignment(cluster, "a").group
        for leader in "cab":  # the older one replicates to the newer ones, and they to it
            await lead(cluster, group, leader)
            await lead(cluster, META_GROUP, leader)
            for replicas in (1, 3):
                await scale(cluster, "b", replicas)
            before = len(running.acknowledged)
            await until(lambda: len(running.acknowledged) > before + 20)
        assert levels(cluster) == {OLDER}
        assert [state.versions[cluster["a"].me.node] for state in states(cluster)] == [PROTOCOL_VERSION] * 3
        assert all(each.settled_at == 0 for state in states(cluster) for each in state.groups.values())
        assert [cluster[name].peers.unknown_frames for name in "abc"] == [0, 0, 0]
        await cluster.crash("b")  # and elects, with the older one
        before = len(running.acknowledged)
        await until(lambda: len(running.acknowledged) > before + 20)
        await cluster.start("b")
        await cluster.ready()


async def test_a_rolling_upgrade_under_load_loses_nothing(autojump_clock: MockClock) -> None:
    older = dict.fromkeys("abcd", OLDER)
    async with open_memory_cluster(*older, speaks=older) as cluster:
        async with load(cluster, "a", 3) as running:
            assert levels(cluster) == {OLDER}
            for name in "bcd":  # the writers' own node comes last, when they have stopped
                await upgrade(cluster, name)
                before = len(running.acknowledged)
                await until(lambda: len(running.acknowledged) > before + 20)
                assert levels(cluster) == {OLDER}
        await upgrade(cluster, "a")
        await until(lambda: levels(cluster) == {PROTOCOL_VERSION})
        await scale(cluster, "a", 1)
        await until(lambda: assignment(cluster, "a").settled_at > 0)
        for name in older:  # and what it has written is read again
            await cluster.crash(name)
        for name in older:
            await cluster.start(name)
        await cluster.ready()
        assert levels(cluster) == {PROTOCOL_VERSION} and assignment(cluster, "a").settled_at > 0


async def test_a_node_can_go_back_only_while_another_is_older(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_memory_cluster(speaks={"b": OLDER, "c": OLDER}) as cluster:
        await upgrade(cluster, "b")
        await upgrade(cluster, "b", OLDER)
        await until(lambda: states(cluster)[0].versions[cluster["b"].me.node] == OLDER)
        for name in "bc":
            await upgrade(cluster, name)
        await until(lambda: levels(cluster) == {PROTOCOL_VERSION})
        await cluster.crash("c")
        cluster.speaks["c"] = OLDER
        await cluster.start("c")
        await trio.sleep(10)
        assert cluster["c"].peers.linked() == {}, "nobody greets it any more"
        assert "no leader is known" in str(cluster["c"].vitals.health())
        assert any(
            f"it speaks protocols 1 to 1, this node {PROTOCOL_VERSION} to {PROTOCOL_VERSION}" in each.message
            for each in caplog.records
        )
        await cluster.crash("c")
        del cluster.speaks["c"]
        await cluster.start("c")
        await cluster.ready()


async def test_a_newcomer_must_speak_what_the_cluster_speaks(autojump_clock: MockClock) -> None:
    async with open_memory_cluster("a") as cluster:
        await until(lambda: levels(cluster) == {PROTOCOL_VERSION})
        cluster.add("b")
        cluster.speaks["b"] = OLDER
        command = {"op": "invite", "name": "b", "address": cluster.addresses["b"]}
        await cluster["a"].desk.propose_meta(command)
        await cluster.start("b")
        await trio.sleep(5)
        assert not cluster["b"].ready.is_set() and len(cluster["a"].state.nodes) == 1
        await cluster.crash("b")
        del cluster.speaks["b"]
        await cluster.start("b")
        await cluster.ready()
        await until(lambda: [len(state.versions) for state in states(cluster)] == [2, 2])
        assert levels(cluster) == {PROTOCOL_VERSION}
