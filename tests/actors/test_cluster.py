"""Whole clusters in memory: what was acknowledged stays, whoever crashes, is wiped, or was away too long."""

import pytest
import trio
from trio.testing import MockClock

from tests.actors.cluster import OPTIONS, Cluster, Counter, open_memory_cluster, until
from tests.storage.helpers import opened
from trimaran import GroupHandle, NotDone
from trimaran.actors.cluster.birth import JOIN, Founding
from trimaran.actors.cluster.meta_state import META_GROUP, META_KIND, NodeRecord
from trimaran.actors.peers.requests import Refusal
from trimaran.storage import GroupCreate


async def count(handle: GroupHandle, *texts: bytes) -> None:
    for text in texts:
        await handle.propose(text)


async def count_until_taken(cluster: Cluster, name: str, group: int, text: bytes) -> None:
    """Propose until it is applied. Only for entries that may be there twice."""
    with trio.fail_after(30):
        while True:
            try:
                await GroupHandle(cluster[name], group).propose(text)
                return
            except NotDone:
                await trio.sleep(0.05)


async def same_everywhere(cluster: Cluster, group: int, *names: str) -> list[bytes]:
    """Wait until these nodes have counted the same, and return it."""
    await until(lambda: len({tuple(cluster.counted(name, group)) for name in names}) == 1)
    return cluster.counted(names[0], group)


async def test_three_nodes_apply_the_same_entries_in_the_same_order(autojump_clock: MockClock) -> None:
    async with open_memory_cluster() as cluster:
        handles = [await cluster.counter(name) for name in "abc"]
        for number in range(30):
            await handles[number % 3].propose(b"%d" % number)
        seen = await same_everywhere(cluster, handles[0].group, "a", "b", "c")
        assert seen == [b"%d" % number for number in range(30)]


async def test_a_crashed_leader_is_replaced_and_nothing_acknowledged_is_lost(
    autojump_clock: MockClock,
) -> None:
    async with open_memory_cluster() as cluster:
        handle = await cluster.counter("a")
        await count(handle, b"1", b"2", b"3")
        leader = cluster.leader(handle.group)
        others = [name for name in "abc" if name != leader]
        crashed = trio.current_time()
        await cluster.crash(leader)
        await count_until_taken(cluster, others[0], handle.group, b"4")
        assert trio.current_time() - crashed < 2.0, "writes are accepted again within two seconds"
        await cluster.start(leader)
        await cluster.ready()
        assert await same_everywhere(cluster, handle.group, "a", "b", "c") == [b"1", b"2", b"3", b"4"]


@pytest.mark.parametrize("power", [False, True])
async def test_all_nodes_crash_at_once_and_come_back_with_everything(
    autojump_clock: MockClock, power: bool
) -> None:
    async with open_memory_cluster() as cluster:
        handle = await cluster.counter("a")
        for number in range(20):
            await handle.propose(b"%d" % number)
        for round_ in range(3):
            for name in "abc":
                await cluster.crash(name, power=power)
            for name in "abc":
                await cluster.start(name)
            await cluster.ready()
            await count_until_taken(cluster, "b", handle.group, b"round %d" % round_)
        seen = await same_everywhere(cluster, handle.group, "a", "b", "c")
        assert seen[:20] == [b"%d" % number for number in range(20)]
        assert seen[20:] == [b"round 0", b"round 1", b"round 2"]


async def test_a_restarted_follower_catches_up_from_the_log(autojump_clock: MockClock) -> None:
    async with open_memory_cluster() as cluster:
        handle = await cluster.counter("a")
        await count(handle, b"1")
        leader = cluster.leader(handle.group)
        away = next(name for name in "abc" if name != leader)
        await cluster.stop(away)
        await count(GroupHandle(cluster[leader], handle.group), b"2", b"3")
        await cluster.start(away)
        await cluster.ready()
        assert await same_everywhere(cluster, handle.group, "a", "b", "c") == [b"1", b"2", b"3"]
        group = cluster[away].groups.get(handle.group)
        assert group is not None and group.snapshots.installed == 0


async def test_a_follower_that_was_away_too_long_gets_a_snapshot(autojump_clock: MockClock) -> None:
    async with open_memory_cluster() as cluster:
        handle = await cluster.counter("a")
        leader = cluster.leader(handle.group)
        away = next(name for name in "abc" if name != leader)
        await cluster.stop(away)
        near = GroupHandle(cluster[leader], handle.group)
        for number in range(40):
            await near.propose(b"%d" % number + b"x" * 12_000)
        kept = cluster[leader].groups.get(handle.group)
        assert kept is not None and kept.state.log.first_index > 1, "the log was compacted"
        await cluster.start(away)
        await cluster.ready()
        await count_until_taken(cluster, away, handle.group, b"last")
        seen = await same_everywhere(cluster, handle.group, "a", "b", "c")
        assert [each[:2].rstrip(b"x") for each in seen[:40]] == [b"%d" % number for number in range(40)]
        group = cluster[away].groups.get(handle.group)
        assert group is not None and group.snapshots.installed == 1


async def test_a_wiped_node_comes_back_as_a_new_member_under_a_new_id(autojump_clock: MockClock) -> None:
    async with open_memory_cluster() as cluster:
        handle = await cluster.counter("a")
        await count(handle, b"1", b"2")
        leader = cluster.leader(handle.group)
        wiped = next(name for name in "abc" if name != leader)
        old = cluster[wiped].me.node
        await cluster.crash(wiped)
        cluster.wipe(wiped)
        await cluster.start(wiped)
        await cluster.ready()
        new = cluster[wiped].me.node
        assert new != old
        for number in (META_GROUP, handle.group):
            group = cluster[leader].groups.get(number)
            assert group is not None
            voters = {cluster[name].me.node for name in "abc"}
            await until(lambda: group.state.membership.voters == voters)
            assert old in group.state.membership.removed
        await count_until_taken(cluster, wiped, handle.group, b"3")
        assert await same_everywhere(cluster, handle.group, "a", "b", "c") == [b"1", b"2", b"3"]


async def test_leadership_moves_on_request_and_nothing_is_lost(autojump_clock: MockClock) -> None:
    async with open_memory_cluster() as cluster:
        handle = await cluster.counter("a")
        for number, name in enumerate("abcacb"):
            leader = cluster.leader(handle.group)
            assert await cluster[leader].desk.transfer(handle.group, name)
            await until(lambda: cluster.leaders(handle.group) == [name], 5)
            await count_until_taken(cluster, "a", handle.group, b"%d" % number)
        assert await same_everywhere(cluster, handle.group, "a", "b", "c") == [b"%d" % n for n in range(6)]


async def test_an_embedded_caller_that_is_cancelled_abandons_the_waiting_not_the_entry(
    autojump_clock: MockClock,
) -> None:
    async with open_memory_cluster() as cluster:
        handle = await cluster.counter("a")
        with trio.CancelScope() as scope:
            scope.cancel()
            await handle.propose(b"cancelled")
        assert scope.cancelled_caught
        await count(handle, b"next")
        assert await same_everywhere(cluster, handle.group, "a", "b", "c") == [b"cancelled", b"next"]


async def test_a_lone_node_is_a_durable_cluster_of_one(autojump_clock: MockClock) -> None:
    async with open_memory_cluster("solo") as cluster:
        handle = await cluster.counter("solo", replicas=1)
        await count(handle, b"1", b"2")
        await cluster.crash("solo", power=True)
        await cluster.start("solo")
        await cluster.ready()
        await count_until_taken(cluster, "solo", handle.group, b"3")
        assert cluster.counted("solo", handle.group) == [b"1", b"2", b"3"]


async def test_nobody_takes_the_name_of_a_living_node(autojump_clock: MockClock) -> None:
    async with open_memory_cluster() as cluster:
        before = dict(cluster["a"].state.nodes)
        a, b, c = (cluster[name].me for name in "abc")
        with pytest.raises(Refusal, match="alive"):
            await cluster["c"].requests.ask(a.node, JOIN, [c.node, b.name, c.address], 5)
        assert cluster["a"].state.nodes == before


@pytest.mark.parametrize(
    ("name", "address"), [("c", "a..b:5"), ("c", "nowhere:x"), ("c", "c:0"), ("c d", "c:1"), ("", "c:1")]
)
async def test_nobody_joins_under_an_address_that_can_not_be_dialled(
    autojump_clock: MockClock, name: str, address: str
) -> None:
    async with open_memory_cluster() as cluster:
        before = dict(cluster["a"].state.nodes)
        with pytest.raises(Refusal):
            await cluster["c"].requests.ask(
                cluster["a"].me.node, JOIN, [cluster["c"].me.node, name, address], 5
            )
        assert cluster["a"].state.nodes == before


async def test_a_leader_out_of_reach_is_found_again_when_its_link_comes_back(
    autojump_clock: MockClock,
) -> None:
    """Only the link from here broke: the leader noticed nothing, and says nothing again."""
    async with open_memory_cluster("a", "b") as cluster:
        handle = await cluster.counter("a", replicas=1)
        await handle.propose(b"1")
        leader = cluster.leader(handle.group)
        [other] = {"a", "b"} - {leader}
        await GroupHandle(cluster[other], handle.group).propose(b"2")
        cluster.network.cut(cluster.addresses[leader])
        await until(lambda: cluster[other].groups.leadership(handle.group) is None)
        cluster.network.heal(cluster.addresses[leader])
        await count_until_taken(cluster, other, handle.group, b"3")
        assert cluster.counted(leader, handle.group)[:2] == [b"1", b"2"]


async def test_a_second_founding_is_above_what_a_first_one_prepared(autojump_clock: MockClock) -> None:
    """To storage a lower incarnation is a thing of the past: its log would not outlive a restart."""
    async with trio.open_nursery() as nursery:
        cluster = Cluster(nursery, "abc", {"counter": Counter}, OPTIONS, seed=1)
        first = Founding((1 << 63) - 5, (NodeRecord(77, "a", "a:1"), NodeRecord(78, "b", "b:1")))
        async with opened(cluster.members["b"].disk) as storage:
            record = GroupCreate(META_GROUP, first.cluster, META_KIND, META_KIND, first.pack())
            storage.append([record])
            await storage.drain()
        for name in "abc":
            await cluster.start(name)
        await cluster.ready()
        handle = await cluster.counter("a")
        await handle.propose(b"1")
        for name in "abc":
            await cluster.crash(name)
        for name in "abc":
            await cluster.start(name)
        await cluster.ready()
        assert {cluster[name].birth.cluster > first.cluster for name in "abc"} == {True}
        assert await same_everywhere(cluster, handle.group, "a", "b", "c") == [b"1"]
        nursery.cancel_scope.cancel()


async def test_a_node_without_a_groups_machine_says_that_it_lacks_a_replica(
    autojump_clock: MockClock,
) -> None:
    async with open_memory_cluster() as cluster:
        handle = await cluster.counter("a")
        await handle.propose(b"1")
        machines, cluster._machines = cluster._machines, {}
        await cluster.crash("c")
        await cluster.start("c")
        await until(lambda: cluster["c"].ready.is_set())
        reason = "counter hits: this node has no state machine 'counter'"
        await until(lambda: list(cluster["c"].vitals.health()) == [reason])
        cluster._machines = machines
        await cluster.crash("c")
        await cluster.start("c")
        await cluster.ready()
