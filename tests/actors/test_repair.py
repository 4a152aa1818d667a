"""Whole clusters whose disks rot: nothing acknowledged is lost, and every replica gets whole by itself."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from tests.actors.cluster import OPTIONS, Cluster, open_memory_cluster, until
from tests.actors.damage import batches, hurt_batches, hurt_creation, lose_group, lose_writes
from tests.actors.test_cluster import count_until_taken
from trimaran import GroupHandle, Node, NotDone, open_stream
from trimaran.actors.cluster.meta_state import META_GROUP
from trimaran.actors.gateway.memory_port import MemoryPort
from trimaran.actors.groups import Birth
from trimaran.actors.raft.membership import Change, ChangeKind
from trimaran.actors.raft.state import Role
from trimaran.actors.replica.group import Group
from trimaran.storage.errors import LogDamaged
from trimaran.storage.memory_disk import MemoryDisk
from trimaran.storage.recovery import recover

KIB = 1024
LOG_ONLY = replace(OPTIONS, snapshot_log_bytes=64 * 1024 * KIB)
"""The log is never compacted: what it lost can only come from another log."""


class Load:
    """A client that proposes all the time, to whoever takes it, and remembers what was acknowledged."""

    def __init__(self, cluster: Cluster, group: int) -> None:
        self.acknowledged: list[bytes] = []
        self._cluster = cluster
        self._group = group
        self._number = 0

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        task_status.started()
        while True:
            self._number += 1
            entry = b"load %d" % self._number
            for member in list(self._cluster.members.values()):
                if member.node is None:
                    continue
                try:
                    with trio.move_on_after(5):
                        await GroupHandle(member.node, self._group).propose(entry)
                        self.acknowledged.append(entry)
                        break
                except (NotDone, LookupError):
                    pass
            await trio.sleep(0.005)


@asynccontextmanager
async def loaded(cluster: Cluster, group: int) -> AsyncIterator[Load]:
    load = Load(cluster, group)
    async with trio.open_nursery() as nursery:
        await nursery.start(load.run)
        yield load
        nursery.cancel_scope.cancel()


def replica(cluster: Cluster, name: str, number: int) -> Group:
    group = cluster[name].groups.get(number)
    assert group is not None
    return group


async def fill(cluster: Cluster, count: int) -> int:
    """A group with so many entries, each in a batch of its own, on all nodes."""
    handle = await cluster.counter("a")
    for number in range(count):
        await handle.propose(b"%d" % number)
    await until(lambda: len({len(cluster.counted(name, handle.group)) for name in "abc"}) == 1)
    return handle.group


async def stop_all(cluster: Cluster) -> None:
    await trio.sleep(0.2)  # the mark: what was acknowledged is known to be synced
    for name in cluster.members:
        await cluster.crash(name)


async def whole(cluster: Cluster, group: int, *names: str) -> list[bytes]:
    """Wait until these replicas are whole, led and equal; what they have counted."""
    await until(lambda: all(cluster[name].groups.get(group) is not None for name in names))
    await until(lambda: not any(replica(cluster, name, group).state.faulty for name in names))
    await until(lambda: bool(cluster.leaders(group)))
    await replica(cluster, cluster.leader(group), group).read_barrier()
    await until(lambda: len({tuple(cluster.counted(name, group)) for name in names}) == 1)
    return cluster.counted(names[0], group)


def contains(seen: list[bytes], acknowledged: list[bytes]) -> bool:
    """Whether all that was acknowledged is there, once, and in order."""
    position = -1
    for entry in acknowledged:
        position = seen.index(entry, position + 1)
    return len(set(acknowledged)) == len(acknowledged)


async def test_one_damaged_log_is_repaired_from_the_others(autojump_clock: MockClock) -> None:
    async with open_memory_cluster(options=LOG_ONLY) as cluster:
        group = await fill(cluster, 30)
        await stop_all(cluster)
        hurt_batches(cluster.members["b"].disk, group, 5, 6, 17, 30)
        for name in "abc":
            await cluster.start(name)
        await until(lambda: cluster["b"].groups.get(group) is not None)
        hurt = replica(cluster, "b", group)
        seen = await whole(cluster, group, "a", "b", "c")
        assert seen == [b"%d" % number for number in range(30)]
        assert hurt.repair.repaired == 4 and hurt.statistics().faulty == ()
        await cluster.crash("b")
        await cluster.start("b")
        await until(lambda: cluster["b"].groups.get(group) is not None)
        assert not replica(cluster, "b", group).state.faulty, "for good"


async def test_two_logs_damaged_in_different_places_heal_each_other_without_a_leader(
    autojump_clock: MockClock,
) -> None:
    """The third node is away, so nobody could lead before both are whole."""
    async with open_memory_cluster(options=LOG_ONLY) as cluster:
        group = await fill(cluster, 30)
        await stop_all(cluster)
        hurt_batches(cluster.members["a"].disk, group, 4, 20)
        hurt_batches(cluster.members["b"].disk, group, 9, 21)
        await cluster.start("a")
        await cluster.start("b")
        seen = await whole(cluster, group, "a", "b")
        assert seen == [b"%d" % number for number in range(30)]
        assert await GroupHandle(cluster["a"], group).propose(b"on") == 31


@pytest.mark.parametrize("seed", range(3))
async def test_two_damaged_logs_under_load(autojump_clock: MockClock, seed: int) -> None:
    async with open_memory_cluster(options=LOG_ONLY, seed=seed) as cluster:
        group = await fill(cluster, 20)
        async with loaded(cluster, group) as load:
            await trio.sleep(1)
            for name in "ab":
                await cluster.crash(name)
                await trio.sleep(0.3)
                disk = cluster.members[name].disk
                known = [record.index for _, record in batches(disk, group)]
                hurt_batches(disk, group, *sorted(set(known))[3 + ord(name) % 3 :: 7])
                before = len(load.acknowledged)
                await cluster.start(name)
                await until(lambda: cluster[name].groups.get(group) is not None)
                await until(lambda: not replica(cluster, name, group).state.faulty)
                assert replica(cluster, name, group).repair.repaired > 0
                assert len(load.acknowledged) > before, "the load went on"
            await trio.sleep(1)
        seen = await whole(cluster, group, "a", "b", "c")
        assert contains(seen, load.acknowledged)


async def test_a_damaged_meta_log_is_repaired_as_well(autojump_clock: MockClock) -> None:
    async with open_memory_cluster(options=LOG_ONLY) as cluster:
        group = await fill(cluster, 3)
        await stop_all(cluster)
        for name in "ab":
            disk = cluster.members[name].disk
            last = max(record.index for _, record in batches(disk, META_GROUP))
            hurt_batches(disk, META_GROUP, 2 if name == "a" else last)
        for name in "abc":
            await cluster.start(name)
        await cluster.ready()
        assert await whole(cluster, group, "a", "b", "c") == [b"0", b"1", b"2"]
        for name in "ab":
            assert replica(cluster, name, META_GROUP).repair.repaired == 1


async def test_a_damaged_replica_says_so_and_neither_leads_nor_votes(autojump_clock: MockClock) -> None:
    async with open_memory_cluster(options=LOG_ONLY) as cluster:
        group = await fill(cluster, 10)
        await stop_all(cluster)
        hurt_batches(cluster.members["b"].disk, group, 7)
        await cluster.start("b")
        await until(lambda: cluster["b"].groups.get(group) is not None)
        await trio.sleep(5)
        hurt = replica(cluster, "b", group)
        assert hurt.state.role is Role.FOLLOWER and hurt.statistics().faulty == ((7, 7),)
        assert len(cluster.counted("b", group)) < 6
        [reason] = [reason for reason in cluster["b"].vitals.health() if "can't be read" in reason]
        assert "counter hits: index 7 can't be read (wal/" in reason and "offset" in reason
        await cluster.start("c")
        await trio.sleep(5)
        assert hurt.state.faulty is False, "one intact peer is enough, though none of the two could lead"
        await cluster.ready("b", "c")


async def test_who_lost_what_nobody_can_name_helps_nobody_to_lead(autojump_clock: MockClock) -> None:
    """The others were two when they acknowledged: one forgot it, and the third was away."""
    async with open_memory_cluster(options=LOG_ONLY) as cluster:
        group = await fill(cluster, 5)
        await until(lambda: bool(cluster.leaders(group)))
        first = cluster.leader(group)
        forgets, away = [name for name in "abc" if name != first]
        for name in "abc":
            await replica(cluster, name, group).snapshots.take()
        await cluster.crash(away)
        for number in range(9):
            await GroupHandle(cluster[first], group).propose(b"without %d" % number)
        await until(lambda: len(cluster.counted(forgets, group)) == 14)
        await trio.sleep(0.2)
        await cluster.crash(forgets)
        await cluster.crash(first)
        lose_writes(cluster.members[forgets].disk, group, 9)
        await cluster.start(forgets)
        await cluster.start(away)
        await trio.sleep(10)
        assert not cluster.leaders(group), "what the third lacks may have been acknowledged"
        await cluster.start(first)
        seen = await whole(cluster, group, "a", "b", "c")
        assert seen[5:14] == [b"without %d" % number for number in range(9)]
        await cluster.crash(first)
        await count_until_taken(cluster, forgets, group, b"on")


async def test_the_log_s_clock_outlives_the_damage_of_the_newest_batch(autojump_clock: MockClock) -> None:
    """The next batch may be sealed before that one is mended, or in its place; a wall clock may be behind."""
    async with open_memory_cluster(options=LOG_ONLY) as cluster:
        number = await fill(cluster, 5)
        clock = replica(cluster, "c", number).state.log.last_time
        await stop_all(cluster)
        disk = cluster.members["c"].disk
        hurt_batches(disk, number, max(record.index for _, record in batches(disk, number)))
        await cluster.start("c")
        await until(lambda: cluster["c"].groups.get(number) is not None)
        log = replica(cluster, "c", number).state.log
        assert log.holes and log.last_time > clock - 10**9


async def test_a_group_whose_creation_is_damaged_gets_it_from_meta(autojump_clock: MockClock) -> None:
    async with open_memory_cluster(options=LOG_ONLY) as cluster:
        group = await fill(cluster, 5)
        await cluster.crash("b")
        hurt_creation(cluster.members["b"].disk, group)
        await cluster.start("b")
        await until(lambda: cluster["b"].groups.get(group) is not None)
        await whole(cluster, group, "a", "b", "c")
        await cluster.crash("b")
        await cluster.start("b")
        await until(lambda: cluster["b"].groups.get(group) is not None)
        assert cluster["b"].storage.recovered.groups[group].created, "its own log knows again"


async def test_a_member_that_forgot_whom_it_was_founded_with_does_not_start(
    autojump_clock: MockClock,
) -> None:
    """Like any directory that can't be served: a person replaces it by an empty one."""
    async with open_memory_cluster() as cluster:
        await cluster.crash("b")
        member = cluster.members["b"]
        hurt_creation(member.disk, META_GROUP)
        options = replace(OPTIONS, name="b", data=Path("b"), peer_listen="b:1", peers=(("a", "a:1"),))
        with pytest.raises(LogDamaged):
            await Node(options, cluster.world(member), {}, MemoryPort()).run()
        cluster.wipe("b")
        await cluster.start("b")
        await cluster.ready("a", "b", "c")


async def test_who_lost_a_group_without_a_trace_forgot_it_and_is_not_new_to_it(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Not even the creation is left: a replica made anew would vote for whoever was away."""
    async with open_memory_cluster(options=LOG_ONLY) as cluster:
        group = await fill(cluster, 5)
        await until(lambda: bool(cluster.leaders(group)))
        first = cluster.leader(group)
        forgets, away = [name for name in "abc" if name != first]
        await cluster.crash(away)
        for number in range(9):
            await GroupHandle(cluster[first], group).propose(b"without %d" % number)
        await until(lambda: len(cluster.counted(forgets, group)) == 14)
        await trio.sleep(0.2)
        await cluster.crash(forgets)
        lose_group(cluster.members[forgets].disk, group)
        await cluster.start(forgets)
        await trio.sleep(10)
        assert cluster[forgets].groups.get(group) is None, "before meta is whole, nobody knows what is new"
        await cluster.start(away)
        await until(lambda: cluster[forgets].groups.get(group) is not None)
        seen = await whole(cluster, group, "a", "b", "c")
        assert seen[5:14] == [b"without %d" % number for number in range(9)]
        assert "group hits: its whole log is lost here" in caplog.text
        assert "group hits is damaged on this node: its log lost what nobody can name" in caplog.text
        await open_stream(cluster[forgets], "NEW", ["new.>"], replicas=1)
        await cluster.ready()


async def test_that_a_replica_forgot_is_durable_no_later_than_its_creation(autojump_clock: MockClock) -> None:
    """A crash in between would leave a replica that may vote in terms in which it has."""
    async with open_memory_cluster("a") as cluster:
        node, disk = cluster["a"], cluster.members["a"].disk
        moments: list[MemoryDisk] = []

        def before(operation: str, path: str) -> None:
            if operation == "write" and path.startswith("wal/"):
                disk.before = None
                moments.append(disk.fork())
                disk.before = before

        disk.before = before
        await node.groups.record(Birth(77, 7, "counter", "lost", (1, 2, 3), b"members"), forgetful=True)
        disk.before = None
        moments.append(disk.fork())
    found = []
    for moment in moments:
        moment.before = None
        opened = recover(moment, name="a", draw=iter(range(1, 99)).__next__, segment_bytes=256 << 10)
        group = opened.recovered.groups.get(77)
        found.append(None if group is None else (group.closed, group.created))
    assert found[-1] == (True, True)
    assert all(each is None or each[0] for each in found), found


async def test_a_replacement_that_forgets_before_the_lost_id_is_removed_gets_whole(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seed 2002: it waited for the word of the id whose disk was lost; that was to go once this one votes."""
    async with open_memory_cluster(options=LOG_ONLY) as cluster:
        group = await fill(cluster, 5)
        await until(lambda: bool(cluster.leaders(group)))
        leader = replica(cluster, cluster.leader(group), group)
        lost = next(name for name in "abc" if name != cluster.leader(group))
        old, change = cluster[lost].me.node, leader.change_membership

        async def change_slowly(wanted: Change, term: int = 0) -> None:
            await trio.sleep(3 if wanted.kind is ChangeKind.PROMOTE else 0)
            await change(wanted, term)

        monkeypatch.setattr(leader, "change_membership", change_slowly)
        await cluster.crash(lost)
        cluster.wipe(lost)
        await cluster.start(lost)
        await until(lambda: (new := cluster[lost].groups.get(group)) is not None and new.state.matched > 5)
        await trio.sleep(0.2)
        assert cluster[lost].me.node not in leader.state.membership.voters
        monkeypatch.undo()
        await cluster.crash(lost)
        lose_writes(cluster.members[lost].disk, group, 2)
        await cluster.start(lost)
        await until(lambda: cluster[lost].groups.get(group) is not None)
        assert await whole(cluster, group, "a", "b", "c") == [b"%d" % number for number in range(5)]
        await until(lambda: len(leader.state.membership.voters - {old}) == 3)


async def test_a_lone_replica_that_forgot_serves_nobody_and_says_the_ways_out(
    autojump_clock: MockClock,
) -> None:
    async with open_memory_cluster("solo", options=LOG_ONLY) as cluster:
        handle = await cluster.counter("solo", replicas=1)
        for number in range(5):
            await handle.propose(b"%d" % number)
        await trio.sleep(0.2)
        await cluster.crash("solo")
        lose_writes(cluster.members["solo"].disk, handle.group, 2)
        await cluster.start("solo")
        await until(lambda: any("trimaran log repair" in each for each in cluster["solo"].vitals.health()))
        with pytest.raises(NotDone):
            await GroupHandle(cluster["solo"], handle.group).propose(b"more")
