"""Whole nodes in trouble: a slow disk, a silent leader, nodes that flap or were removed (DESIGN 5, 8)."""

from dataclasses import replace

import pytest
import trio
from trio.testing import MockClock

from tests.actors.cluster import OPTIONS, Cluster, open_memory_cluster, until
from tests.actors.test_cluster import count_until_taken, same_everywhere
from trimaran import GroupHandle, NotApplied, NotDone, Unknown, open_group
from trimaran.actors.raft.membership import Change, ChangeKind
from trimaran.codec import EntryType, make_chunk

ELECTION_MAX = OPTIONS.election_max_ms / 1000


def mute(cluster: Cluster, name: str) -> None:
    """Nothing that this node says arrives any more, and no connection closes: as if it were stopped."""
    for link in cluster[name].peers._links.values():
        link.send = lambda *frame: True  # type: ignore[method-assign]  # mute


async def test_s1_proposals_go_on_while_a_sync_takes_half_a_second(autojump_clock: MockClock) -> None:
    """On a whole node: while its fdatasync is held for 500 ms, nothing waits but the acknowledgements."""
    async with open_memory_cluster("solo") as cluster:
        handle = await cluster.counter("solo", replicas=1)
        group = cluster["solo"].groups.get(handle.group)
        assert group is not None
        cluster.members["solo"].runner.sync_seconds = 0.5
        before, began = group.state.log.last_index, trio.current_time()
        ends: list[float] = []
        for number in range(1000):
            chunk = make_chunk([(EntryType.OPAQUE, b"%d" % number)])
            group.propose(chunk, lambda outcome: ends.append(trio.current_time() - began), 0)
            if number % 100 == 99:
                await trio.sleep(0.04)
        assert trio.current_time() - began == pytest.approx(0.4), "proposing never waited"
        assert ends == [], "and nothing was acknowledged that is not synced"
        await until(lambda: len(ends) == 1000)
        assert group.state.log.last_index - before <= 4, "what arrives during a sync is one batch"
        assert max(ends) <= 1.6, "two syncs in turn for what was sealed at once, one for all the rest"
        assert cluster.counted("solo", handle.group) == [b"%d" % number for number in range(1000)]


async def test_s1_as_few_batches_as_the_cap_allows(autojump_clock: MockClock) -> None:
    async with open_memory_cluster("solo") as cluster:
        handle = await cluster.counter("solo", replicas=1)
        group = cluster["solo"].groups.get(handle.group)
        assert group is not None
        cluster.members["solo"].runner.sync_seconds = 0.5
        before, done = group.state.log.last_index, trio.Event()
        left = 100
        for _ in range(100):
            chunk = make_chunk([(EntryType.OPAQUE, b"x" * 10_000)])

            def ended(outcome: object) -> None:
                nonlocal left
                left -= 1
                if not left:
                    done.set()

            group.propose(chunk, ended, 0)
        await done.wait()
        needed = -(-100 * 10_000 // OPTIONS.batch_bytes)
        sealed_at_once = group.state.options.pipeline_slots
        assert group.state.log.last_index - before <= needed + sealed_at_once


async def test_a_leader_whose_disk_stalls_hands_over(autojump_clock: MockClock) -> None:
    async with open_memory_cluster() as cluster:
        handle = await cluster.counter("a")
        leader = cluster.leader(handle.group)
        cluster.members[leader].runner.sync_seconds = 60.0
        near = next(name for name in "abc" if name != leader)
        began = trio.current_time()
        await GroupHandle(cluster[leader], handle.group).propose(b"1")
        assert trio.current_time() - began < 0.1, "two other disks are a majority"
        deadline = OPTIONS.fsync_deadline_ms / 1000
        await until(lambda: bool(set(cluster.leaders(handle.group)) - {leader}))
        assert trio.current_time() - began <= deadline + 2 * ELECTION_MAX
        await count_until_taken(cluster, near, handle.group, b"2")
        await until(lambda: cluster.counted(near, handle.group) == [b"1", b"2"])


@pytest.mark.parametrize("busy", [True, False])
async def test_a_leader_that_falls_silent_is_replaced(autojump_clock: MockClock, busy: bool) -> None:
    """No connection closes. `busy`: the group beats by itself; else it is quiet and trusts the node."""
    async with open_memory_cluster() as cluster:
        handle = await cluster.counter("a")
        await handle.propose(b"1")
        leader = cluster.leader(handle.group)
        near = next(name for name in "abc" if name != leader)
        group = cluster[near].groups.get(handle.group)
        assert group is not None
        if not busy:
            await until(lambda: group.state.quiet)
        began = trio.current_time()
        mute(cluster, leader)
        await until(lambda: bool(set(cluster.leaders(handle.group)) - {leader}))
        assert trio.current_time() - began < 2.0
        await until(lambda: leader not in cluster.leaders(handle.group))


async def test_an_idle_cluster_says_little(autojump_clock: MockClock) -> None:
    async with open_memory_cluster() as cluster:
        handle = await cluster.counter("a")
        await until(lambda: all(g.state.quiet for name in "abc" for g in cluster[name].groups.hosted()))

        def frames() -> int:
            nodes = [cluster[name].peers.statistics().values() for name in "abc"]
            return sum(link.sent_frames for links in nodes for link in links)

        before = frames()
        await trio.sleep(15)
        signs_of_life = 6 * 15 / (2 * OPTIONS.heartbeat_ms / 1000)
        assert frames() - before <= signs_of_life + 6
        await handle.propose(b"1")
        assert await same_everywhere(cluster, handle.group, "a", "b", "c") == [b"1"]


async def test_a_link_that_flaps_changes_neither_leader_nor_term(autojump_clock: MockClock) -> None:
    async with open_memory_cluster() as cluster:
        handle = await cluster.counter("a")
        leader = cluster.leader(handle.group)
        flapping = next(name for name in "abc" if name != leader)
        state = cluster[leader].groups.led_by_me()[handle.group].state
        term = state.term
        for number in range(10):
            cluster.network.cut(cluster.addresses[flapping])
            await trio.sleep(0.7)
            cluster.network.heal(cluster.addresses[flapping])
            await count_until_taken(cluster, leader, handle.group, b"%d" % number)
        await cluster.ready()
        assert cluster.leaders(handle.group) == [leader] and state.term == term
        assert await same_everywhere(cluster, handle.group, "a", "b", "c") == [b"%d" % n for n in range(10)]


async def test_a_removed_replica_that_never_heard_of_it_disturbs_nobody(autojump_clock: MockClock) -> None:
    async with open_memory_cluster() as cluster:
        handle = await cluster.counter("a")
        leader = cluster.leader(handle.group)
        removed = next(name for name in "abc" if name != leader)
        cluster.network.cut(cluster.addresses[removed])
        led = cluster[leader].groups.led_by_me()[handle.group]
        await GroupHandle(cluster[leader], handle.group).propose(b"0")
        await led.change_membership(Change(ChangeKind.REMOVE, cluster[removed].me.node))
        term = led.state.term
        await trio.sleep(5)
        cluster.network.heal(cluster.addresses[removed])
        await trio.sleep(5)
        assert cluster.leaders(handle.group) == [leader] and led.state.term == term
        await GroupHandle(cluster[leader], handle.group).propose(b"1")


async def test_one_down_and_one_catching_up_still_commit(autojump_clock: MockClock) -> None:
    """Acknowledgements of a follower that is far behind count as soon as they match (nats.md A.7, #8519)."""
    options = replace(OPTIONS, snapshot_log_bytes=64 << 20)
    async with open_memory_cluster(options=options) as cluster:
        handle = await cluster.counter("a")
        leader = cluster.leader(handle.group)
        behind, down = [name for name in "abc" if name != leader]
        near = GroupHandle(cluster[leader], handle.group)
        await cluster.crash(behind)
        for number in range(60):
            await near.propose(b"%d-" % number + b"x" * 12_000)
        cluster.members[behind].runner.sync_seconds = 0.05  # slow, but it gets there
        await cluster.start(behind)
        await cluster.crash(down)
        began = trio.current_time()
        await count_until_taken(cluster, leader, handle.group, b"last")
        assert trio.current_time() - began < 5.0
        seen = await same_everywhere(cluster, handle.group, leader, behind)
        assert len(seen) == 61


async def test_a_dead_peer_costs_a_bounded_memory(autojump_clock: MockClock) -> None:
    """What it lacks is read from the log when it is back; meanwhile only the newest batches are kept."""
    options = replace(OPTIONS, snapshot_log_bytes=64 << 20)
    async with open_memory_cluster(options=options) as cluster:
        handle = await cluster.counter("a")
        leader = cluster.leader(handle.group)
        dead = next(name for name in "abc" if name != leader)
        await cluster.crash(dead)
        near = GroupHandle(cluster[leader], handle.group)
        for number in range(100):
            await near.propose(b"%d-" % number + b"x" * 12_000)
        log = cluster[leader].groups.led_by_me()[handle.group].state.log
        assert log.cache_bytes <= OPTIONS.log_cache_bytes + 2 * OPTIONS.batch_bytes
        assert log.first_index < 10 < log.cached_from, "the older ones are on the disk"
        await cluster.start(dead)
        await cluster.ready()
        assert len(await same_everywhere(cluster, handle.group, "a", "b", "c")) == 100
        group = cluster[dead].groups.get(handle.group)
        assert group is not None and group.snapshots.installed == 0


async def test_an_isolated_leader_answers_its_proposers(autojump_clock: MockClock) -> None:
    """Never silence: what it had sealed is unknown, what it had not is not applied."""
    async with open_memory_cluster() as cluster:
        handle = await cluster.counter("a")
        leader = cluster.leader(handle.group)
        for name in set("abc") - {leader}:
            await cluster.crash(name)
        with trio.fail_after(10):
            with pytest.raises(NotDone) as ended:
                await GroupHandle(cluster[leader], handle.group).propose(b"1")
            assert isinstance(ended.value.outcome, Unknown)
            with pytest.raises(NotDone) as ended:
                await GroupHandle(cluster[leader], handle.group).propose(b"2")
            assert isinstance(ended.value.outcome, NotApplied)


async def test_elections_after_a_nodes_death_are_short_and_spread_over_the_others(
    autojump_clock: MockClock,
) -> None:
    async with open_memory_cluster() as cluster:
        names = [f"group-{number}" for number in range(40)]
        groups = [(await open_group(cluster["a"], n, machine="counter", replicas=3)).group for n in names]
        await until(lambda: all(len(cluster.leaders(group)) == 1 for group in groups))
        dead = cluster.leader(groups[0])
        lost = [group for group in groups if cluster.leaders(group) == [dead]]
        await until(lambda: all(g.state.quiet for name in "abc" for g in cluster[name].groups.hosted()))
        kept = {group: cluster.leader(group) for group in groups if group not in lost}
        began = trio.current_time()
        await cluster.crash(dead)
        await until(lambda: all(len(cluster.leaders(group)) == 1 for group in groups))
        assert trio.current_time() - began < 0.5, "no split votes"
        assert {group: cluster.leader(group) for group in kept} == kept, "the others are not disturbed"
        share = [sum(cluster.leader(group) == name for group in lost) for name in set("abc") - {dead}]
        assert min(share) >= len(lost) // 4, "not all to one node"
