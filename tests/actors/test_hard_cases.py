"""Cases that others learned the hard way, on whole nodes: slow disks, slow machines, broken-off snapshots.

`tests/raft/test_reference_cases.py` says which is which.
"""

from collections.abc import Sequence
from dataclasses import replace

import pytest
import trio
import trio.lowlevel
from trio.testing import MockClock

from tests.actors.cluster import KIB, OPTIONS, Cluster, open_memory_cluster, until
from tests.actors.test_cluster import same_everywhere
from trimaran import GroupHandle, StreamHandle, open_stream
from trimaran.actors.raft.messages import Now
from trimaran.actors.raft.progress import WINDOW_BYTES, WINDOW_MESSAGES, ProgressState
from trimaran.actors.replica.group import Group
from trimaran.actors.vitals import CATCH_UP_SECONDS
from trimaran.codec import Buffer, EntryType, make_chunk
from trimaran.storage.files import GroupFiles
from trimaran.storage.incoming import Incoming


def replica(cluster: Cluster, name: str, handle: GroupHandle) -> Group:
    group = cluster[name].groups.get(handle.group)
    assert group is not None
    return group


def others(cluster: Cluster, handle: GroupHandle) -> tuple[str, str, str]:
    """The leader, and the other two."""
    leader = cluster.leader(handle.group)
    one, other = [name for name in "abc" if name != leader]
    return leader, one, other


async def test_a_follower_with_a_slow_disk_slows_nobody_and_costs_bounded_memory(
    autojump_clock: MockClock,
) -> None:
    options = replace(OPTIONS, snapshot_log_bytes=64 << 20)
    async with open_memory_cluster(options=options) as cluster:
        handle = await cluster.counter("a")
        leader, slow, _ = others(cluster, handle)
        near = GroupHandle(cluster[leader], handle.group)
        await near.propose(b"first")
        led = replica(cluster, leader, handle)
        assert led.state.leading is not None
        progress = led.state.leading.progress[cluster[slow].me.node]
        await until(lambda: progress.match == led.state.log.last_index)
        assert progress.state is ProgressState.PIPELINE
        cluster.members[slow].runner.sync_seconds = 5.0
        began = trio.current_time()
        for number in range(200):
            await near.propose(b"%d-" % number + b"x" * 12_000)
        assert trio.current_time() - began < 0.5, "two other disks are a majority"
        assert len(progress.in_flight) <= WINDOW_MESSAGES
        assert progress.in_flight_bytes <= WINDOW_BYTES + OPTIONS.batch_bytes
        assert led.state.log.cache_bytes <= OPTIONS.log_cache_bytes + 2 * OPTIONS.batch_bytes
        cluster.members[slow].runner.sync_seconds = 0.0
        assert len(await same_everywhere(cluster, handle.group, "a", "b", "c")) == 201


async def test_slow_disks_cost_latency_and_no_elections(autojump_clock: MockClock) -> None:
    """Heartbeats don't stand in line behind the disk: below the deadline a slow one is only slow."""
    async with open_memory_cluster() as cluster:
        handle = await cluster.counter("a")
        await handle.propose(b"first")
        leader, *_ = others(cluster, handle)
        term = replica(cluster, leader, handle).state.term
        for member in cluster.members.values():
            member.runner.sync_seconds = 0.9 * OPTIONS.fsync_deadline_ms / 1000
        assert OPTIONS.fsync_deadline_ms / 1000 * 0.9 > OPTIONS.election_min_ms / 1000
        near = GroupHandle(cluster[leader], handle.group)
        for number in range(10):
            await near.propose(b"%d" % number)
        assert cluster.leaders(handle.group) == [leader]
        assert replica(cluster, leader, handle).state.term == term


async def test_a_vote_does_not_wait_for_the_writes_before_it(autojump_clock: MockClock) -> None:
    """It shares their sync: with one in flight at a time, a new leader costs two syncs, not one a write."""
    async with open_memory_cluster() as cluster:
        handle = await cluster.counter("a")
        await handle.propose(b"first")
        leader, one, other = others(cluster, handle)
        for name in (one, other):
            cluster.members[name].runner.sync_seconds = 0.2
        led = replica(cluster, leader, handle)
        for number in range(50):
            led.propose(make_chunk([(EntryType.OPAQUE, b"%d" % number)]), lambda outcome: None)
            await trio.sleep(0.01)
        began = trio.current_time()
        assert cluster.leaders(handle.group) == [leader]
        await cluster.crash(leader)
        await until(lambda: len(cluster.leaders(handle.group)) == 1)
        assert trio.current_time() - began < 1.5, "what was being written, the own vote, the other's vote"


@pytest.mark.parametrize("where", ["leader", "follower"])
async def test_a_machine_that_stands_still_stops_neither_the_log_nor_catching_up(
    autojump_clock: MockClock, where: str
) -> None:
    """What is committed and not applied waits in the log; acknowledging doesn't wait for it."""
    async with open_memory_cluster() as cluster:
        handle = await cluster.counter("a")
        leader, one, other = others(cluster, handle)
        stands = replica(cluster, leader if where == "leader" else one, handle)
        near = replica(cluster, leader, handle)
        await cluster.crash(other)
        async with stands.applier.exclusive:
            before = near.state.commit
            async with trio.open_nursery() as nursery:
                for number in range(300):
                    nursery.start_soon(
                        GroupHandle(cluster[leader], handle.group).propose, b"%d-" % number + b"x" * 2000
                    )
                    await trio.sleep(0.005)
                await until(lambda: near.state.commit >= before + 50)
                assert stands.applier.applied <= stands.state.commit - 40
                await cluster.start(other)
                back = await wait_for(cluster, other, handle)
                await until(lambda: back.state.commit >= before + 50)
                stands.applier.exclusive.release()
            await stands.applier.exclusive.acquire()
        assert len(await same_everywhere(cluster, handle.group, "a", "b", "c")) == 300


async def wait_for(cluster: Cluster, name: str, handle: GroupHandle) -> Group:
    await until(lambda: cluster[name].groups.get(handle.group) is not None)
    return replica(cluster, name, handle)


async def test_a_replica_that_applies_late_is_unhealthy_only_when_it_stays_behind(
    autojump_clock: MockClock,
) -> None:
    async with open_memory_cluster() as cluster:
        handle = await cluster.counter("a")
        leader, one, _ = others(cluster, handle)
        late, near = replica(cluster, one, handle), GroupHandle(cluster[leader], handle.group)
        async with late.applier.exclusive:
            await near.propose(b"1")
            await until(lambda: late.state.commit > late.applier.applied)
            assert cluster[one].vitals.health() == []
            await trio.sleep(0.9 * CATCH_UP_SECONDS)
            assert cluster[one].vitals.health() == []
            await trio.sleep(0.2 * CATCH_UP_SECONDS)
            assert "applying is behind" in str(cluster[one].vitals.health())
        await until(lambda: cluster[one].vitals.health() == [])


async def away_for_long(cluster: Cluster) -> tuple[GroupHandle, str]:
    """A stream of some forty files, of which a node that is down has none."""
    stream = await open_stream(cluster["a"], "BLOCKS", ["blocks.>"], replicas=3)
    handle = GroupHandle(cluster["a"], stream.group)
    await until(lambda: len(cluster.leaders(stream.group)) == 1)
    _, away, _ = others(cluster, handle)
    await cluster.crash(away)
    await until(lambda: len(cluster.leaders(stream.group)) == 1)
    near = StreamHandle(cluster[cluster.leader(stream.group)], "BLOCKS", stream.group)
    for _ in range(200):
        await near.publish("blocks.x", b"x" * 12 * KIB)
    return handle, away


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """(number of the file, offset) of every part of a snapshot that was written. Each takes 50 ms."""
    parts: list[tuple[int, int]] = []
    write_chunk = Incoming.write_chunk

    async def slowly(self: Incoming, position: int, offset: int, data: Buffer, crc: int) -> None:
        await trio.sleep(0.05)
        await write_chunk(self, position, offset, data, crc)
        parts.append((position, offset))

    monkeypatch.setattr(Incoming, "write_chunk", slowly)
    return parts


async def test_a_snapshot_that_broke_off_goes_on_where_it_was(
    autojump_clock: MockClock, written: list[tuple[int, int]]
) -> None:
    """The link breaks, the leader stays: the parts that are here are not sent again."""
    async with open_memory_cluster() as cluster:
        handle, away = await away_for_long(cluster)
        await cluster.start(away)
        await until(lambda: len(written) >= 5)
        cluster.network.cut(cluster.addresses[away])
        await trio.sleep(2)
        assert len(written) < 20
        cluster.network.heal(cluster.addresses[away])
        back = await wait_for(cluster, away, handle)
        await until(lambda: back.snapshots.installed == 1)
        assert len(written) == len(set(written)) > 30
        await cluster.ready()


async def test_a_leaders_snapshot_that_comes_while_an_own_one_is_made_waits_for_it(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, written: list[tuple[int, int]]
) -> None:
    gate = trio.Event()
    sync, held = GroupFiles.sync, list[GroupFiles]()

    async with open_memory_cluster() as cluster:
        handle, away = await away_for_long(cluster)
        await cluster.start(away)
        back = await wait_for(cluster, away, handle)

        async def first_held(self: GroupFiles, names: Sequence[str]) -> None:
            if self is back.files and not held:
                held.append(self)
                await gate.wait()
            await sync(self, names)

        await until(lambda: len(written) >= 5)
        monkeypatch.setattr(GroupFiles, "sync", first_held)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(back.snapshots.take)
            await until(lambda: len(written) > 30)
            await trio.sleep(3)
            assert held and back.snapshots.installed == 0
            gate.set()
        await until(lambda: back.snapshots.installed == 1)
        await cluster.ready()
        manifest = back.snapshots.manifest
        assert manifest is not None and manifest.index <= back.applier.applied
        await until(lambda: len({replica(cluster, n, handle).applier.rolling_hash for n in "abc"}) == 1)
        await cluster.crash(away, power=True)
        await cluster.start(away)
        await cluster.ready()


@pytest.mark.parametrize("seconds", [0.7, 3.0])
async def test_a_machine_that_stands_still_for_a_while_has_no_elections_for_it(
    mock_clock: MockClock, seconds: float
) -> None:
    """All nodes stop at once, as on a host that was suspended: what they said before waits to be read."""
    mock_clock.autojump_threshold = 0
    async with open_memory_cluster() as cluster:
        handle = await cluster.counter("a")
        leader, *_ = others(cluster, handle)
        group = replica(cluster, leader, handle)
        term = group.state.term
        for number in range(20):
            await GroupHandle(cluster[leader], handle.group).propose(b"%d" % number)
            mock_clock.jump(seconds)
            await trio.sleep(0.3)
        assert cluster.leaders(handle.group) == [leader] and group.state.term == term


async def test_a_late_tick_is_excused_once_for_each_time_a_leader_was_heard(
    autojump_clock: MockClock,
) -> None:
    """A node that is always late must have its elections all the same."""
    async with open_memory_cluster("solo") as cluster:
        group = replica(cluster, "solo", await cluster.counter("solo", replicas=1))
        group.state.deadline = 1000.0

        def is_excused(seconds: float) -> bool:
            return group._is_excused(Now(1000.0 + seconds, 0))

        assert not is_excused(0.9 * group.state.options.heartbeat)
        assert [is_excused(1) for _ in range(4)] == [True, False, True, False]
        assert is_excused(1)
        group.state.leader_contact = 999.0
        assert [is_excused(1) for _ in range(3)] == [True, False, True]
        assert not is_excused(0)
