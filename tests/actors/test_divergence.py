"""A replica that differs from the others is found, set aside and rebuilt; nobody serves what is in doubt."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
import trio
from trio.testing import MockClock

from tests.actors.cluster import KIB, OPTIONS, Cluster, open_memory_cluster, until
from tests.actors.damage import group_files
from tests.actors.test_backup import Asked
from tests.actors.test_repair import replica
from trimaran import GroupHandle, NotDone, open_stream
from trimaran.actors.raft.events import Diverged, Event
from trimaran.actors.replica.group import Group
from trimaran.commands.backup import back_up
from trimaran.commands.restore import put_back

OFTEN = replace(OPTIONS, snapshot_log_bytes=64 * KIB)


async def counted(cluster: Cluster) -> int:
    """A group led by node a, of which a snapshot was taken and compared everywhere."""
    handle = await cluster.counter("a")
    if cluster.leader(handle.group) != "a":
        await cluster[cluster.leader(handle.group)].desk.transfer(handle.group, "a")
    await until(lambda: cluster.leaders(handle.group) == ["a"])
    await write(cluster, handle.group)
    for name in "abc":
        await until(lambda: replica(cluster, name, handle.group).repair.divergence.compared > 0)
    return handle.group


async def write(cluster: Cluster, group: int, via: str = "a", bytes_: int = 160 * KIB) -> None:
    """Enough for another snapshot or two."""
    for _ in range(bytes_ // 8000):
        await GroupHandle(cluster[via], group).propose(bytes(8000))


def plant(cluster: Cluster, name: str, group: int) -> None:
    """As if this replica had once applied something else."""
    replica(cluster, name, group).applier.rolling_hash ^= 1


def hashes(cluster: Cluster, group: int) -> set[tuple[int, int]]:
    appliers = [replica(cluster, name, group).applier for name in cluster.members]
    return {(each.applied, each.rolling_hash) for each in appliers}


async def rebuilt(found: Group) -> None:
    await until(lambda: found.repair.divergence.found == 1 and found.snapshots.installed == 1)
    await until(lambda: not found.state.faulty)


async def test_equal_replicas_compare_and_go_on(autojump_clock: MockClock) -> None:
    async with open_memory_cluster(options=OFTEN) as cluster:
        group = await counted(cluster)
        await write(cluster, group)
        for name in "abc":
            found = replica(cluster, name, group).repair.divergence
            assert found.compared >= 2 and not found.found and not found.undecided


async def test_a_follower_that_differs_is_set_aside_and_rebuilt(autojump_clock: MockClock) -> None:
    async with open_memory_cluster(options=OFTEN, checked=False) as cluster:
        group = await counted(cluster)
        odd = replica(cluster, "b", group)
        heard: list[Event] = []
        odd.listen = heard.append
        plant(cluster, "b", group)
        await write(cluster, group)
        await rebuilt(odd)
        [event] = [event for event in heard if isinstance(event, Diverged)]
        assert event.node == cluster["b"].me.node and event.group == group
        await write(cluster, group)
        await until(lambda: len(hashes(cluster, group)) == 1)
        assert len({tuple(cluster.counted(name, group)) for name in "abc"}) == 1
        disk = cluster.members["b"].disk
        [evidence] = [path for name, path in group_files(disk, group).items() if name == "evidence"]
        assert [name for name in disk.listdir(evidence) if name.endswith("-manifest")]
        assert odd.statistics().diverged == 1 and not cluster["b"].vitals.health()
        assert not any(replica(cluster, name, group).repair.divergence.found for name in "ac")
        await cluster.crash("b", power=True)
        await cluster.start("b")
        await cluster.ready()
        assert disk.listdir(evidence), "start-up leaves it alone"
        await until(lambda: cluster["b"].storage.statistics().evidence_files > 0)


async def test_a_leader_that_differs_leads_no_more_and_is_rebuilt(autojump_clock: MockClock) -> None:
    async with open_memory_cluster(options=OFTEN, checked=False) as cluster:
        group = await counted(cluster)
        odd = replica(cluster, "a", group)
        plant(cluster, "a", group)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(keep_writing, cluster, group)
            await rebuilt(odd)
            nursery.cancel_scope.cancel()
        assert not any(replica(cluster, name, group).repair.divergence.found for name in "bc")
        await until(lambda: len(hashes(cluster, group)) == 1)
        assert len({tuple(cluster.counted(name, group)) for name in "abc"}) == 1


async def keep_writing(cluster: Cluster, group: int) -> None:
    while True:
        with trio.move_on_after(2):
            try:
                await GroupHandle(cluster["b"], group).propose(bytes(8000))
            except NotDone:
                pass
        await trio.sleep(0.01)


async def test_where_nobody_can_say_who_is_right_nobody_serves(autojump_clock: MockClock) -> None:
    async with open_memory_cluster(options=OFTEN, checked=False) as cluster:
        group = await counted(cluster)
        await cluster.crash("c")
        plant(cluster, "a", group)
        right, wrong = replica(cluster, "b", group), replica(cluster, "a", group)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(keep_writing, cluster, group)
            await until(lambda: right.repair.divergence.undecided > 0)
            await trio.sleep(1)
            committed = right.state.commit
            await trio.sleep(5)
            assert right.state.commit == committed and right.state.faulty
            reasons = cluster["b"].vitals.health()
            assert any("replicas differ at index" in reason for reason in reasons), reasons
            [reason] = [each for each in cluster["a"].vitals.health() if each.startswith("counter")]
            assert "nothing is committed" in reason, "who leads on says so too"
            seen = len(cluster.counted("b", group))
            await cluster.start("c")
            await rebuilt(wrong)
            await until(lambda: not right.state.faulty)
            assert right.snapshots.installed == 0 and not right.repair.divergence.undecided
            assert not wrong.repair.divergence.undecided
            await until(lambda: len(cluster.counted("b", group)) > seen)
            nursery.cancel_scope.cancel()
        await until(lambda: len(hashes(cluster, group)) == 1)


async def test_two_replicas_that_differ_wait_for_a_person_who_keeps_the_leaders_state(
    autojump_clock: MockClock,
) -> None:
    """docs/operations.md, "Two replicas that differ": save what the leader has, delete, put it back."""
    file = io.BytesIO()
    async with open_memory_cluster(options=OFTEN, checked=False) as cluster:
        stream = await open_stream(cluster["a"], "ORDERS", ["orders.>"], replicas=2)
        home = [name for name in "abc" if cluster[name].groups.get(stream.group) is not None]
        await until(lambda: len(cluster.leaders(stream.group)) == 1)
        leader = cluster.leader(stream.group)
        [other] = set(home) - {leader}
        plant(cluster, other, stream.group)
        acknowledged = []
        with pytest.raises(NotDone):
            while True:
                acknowledged.append(await stream.publish("orders.x", bytes(8000)))
        for name in home:
            [reason] = cluster[name].vitals.health()
            assert reason.startswith("stream ORDERS: replicas differ"), reason
        await back_up(Asked(cluster, "c"), file, ["ORDERS"], lambda _: None)
        await cluster["a"].desk.propose_meta({"op": "delete_stream", "name": "ORDERS"})
        file.seek(0)
        await put_back(Asked(cluster, "c"), file, lambda _: None)
        again = await open_stream(cluster["a"], "ORDERS", ["orders.>"], replicas=2)
        assert again.group != stream.group
        again = replace(again, node=cluster[cluster.leader(again.group)])
        for stored in acknowledged:
            assert await again.get(stored.sequence) is not None
        await again.publish("orders.x", b"on")
        await until(lambda: not any(cluster[name].vitals.health() for name in "abc"))
