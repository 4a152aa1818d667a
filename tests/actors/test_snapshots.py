"""Snapshots between nodes and on one: what arrives, what stands when two meet, what a crash leaves."""

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.actors.cluster import Counter, open_memory_cluster, until
from tests.actors.test_cluster import count_until_taken, same_everywhere
from tests.actors.test_group import GROUP, INCARNATION, LEADER, ME, OTHER, append, batch, running
from tests.storage.helpers import GatedRunner, opened
from trimaran import GroupHandle
from trimaran.actors.peers.wire import FrameKind
from trimaran.actors.raft.membership import Membership
from trimaran.actors.replica.snapshots import MANIFEST_PART
from trimaran.actors.replica.user_machine import UserMachine
from trimaran.codec import crc32c
from trimaran.storage.group_directory import MANIFEST, group_directory
from trimaran.storage.manifest import Manifest, encode_manifest
from trimaran.storage.node import replace_file

TRANSFER = 7


def manifest_at(index: int, *seen: bytes) -> Manifest:
    counter = Counter()
    counter.seen = list(seen)
    return Manifest(
        group=GROUP,
        incarnation=INCARNATION,
        index=index,
        term=1,
        members=Membership.of((ME, LEADER, OTHER)).encode(),
        time=1,
        kind="counter",
        rolling_hash=1,
        state=UserMachine("counter", counter).capture().state,
    )


def part(number: int, data: bytes = b"") -> tuple[list[object], memoryview]:
    envelope: list[object] = [GROUP, INCARNATION, 1, TRANSFER, number, 0, len(data), crc32c(data)]
    return envelope, memoryview(data)


async def test_a_snapshot_that_comes_in_is_not_replaced_by_an_older_one_being_taken(
    autojump_clock: MockClock,
) -> None:
    counter, runner = Counter(), GatedRunner()
    async with running(counter, [batch(1, 1, b"own")], runner=runner) as (group, _):
        runner.hold()  # a snapshot waits for the own log
        group.deliver(append(batch(2, 1, b"more"), term=1, previous=1, commit=2))
        await group.wait_applied(2)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(group.snapshots.take)
            theirs = encode_manifest(manifest_at(40, b"a", b"b"))
            group.snapshots.on_part(LEADER, *part(MANIFEST_PART, theirs))
            group.snapshots.on_part(LEADER, *part(0))
            await wait_all_tasks_blocked()
            runner.gate.set()
        await group.wait_applied(40)
        await group.wait_synced(40)
        assert counter.seen == [b"a", b"b"]
        for manifest in (group.snapshots.manifest, group.files.manifest):
            assert manifest is not None and manifest.index == 40
        await group.snapshots.take()
        assert group.state.log.compacted.index == 40


async def test_a_manifest_larger_than_a_frame_is_sent_in_parts(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trimaran.actors.replica.snapshots.PART_BYTES", 5_000)
    async with open_memory_cluster() as cluster:
        handle = await cluster.counter("a")
        leader = cluster.leader(handle.group)
        away = next(name for name in "abc" if name != leader)
        await cluster.stop(away)
        near = GroupHandle(cluster[leader], handle.group)
        for number in range(20):
            await near.propose(b"%d" % number + b"x" * 12_000)
        await near.propose(b"the last")
        sizes: list[int] = []
        peers = cluster[leader].peers
        send = peers.send

        def measured(peer: int, kind: FrameKind, envelope: tuple[object, ...], *data: bytes) -> bool:
            if kind is FrameKind.SNAPSHOT_PART:
                sizes.append(sum(map(len, data)))
            return send(peer, kind, envelope, *data)

        monkeypatch.setattr(peers, "send", measured)
        await cluster.start(away)
        await cluster.ready()
        assert len(await same_everywhere(cluster, handle.group, "a", "b", "c")) == 21
        assert max(sizes) <= 5_000 < sum(sizes)


async def test_a_manifest_newer_than_the_log_takes_its_place_on_the_disk_too(
    autojump_clock: MockClock,
) -> None:
    """Power was lost behind an installed snapshot, before the log knew of it."""
    async with open_memory_cluster() as cluster:
        handle = await cluster.counter("a")
        await handle.propose(b"1")
        await same_everywhere(cluster, handle.group, "a", "b", "c")
        leader = cluster.leader(handle.group)
        away = next(name for name in "abc" if name != leader)
        await cluster.crash(away)
        for number in range(20):
            await GroupHandle(cluster[leader], handle.group).propose(b"%d" % number + b"x" * 12_000)
        group = cluster[leader].groups.get(handle.group)
        assert group is not None and group.snapshots.manifest is not None
        newer, disk = group.snapshots.manifest, cluster.members[away].disk
        directory = group_directory(group.number, group.incarnation)
        disk.mkdir(directory)
        replace_file(disk, directory, f"{directory}/new", f"{directory}/{MANIFEST}", encode_manifest(newer))
        for name in "abc":
            if name != away:
                await cluster.crash(name)
        await cluster.start(away)
        again = cluster[away].groups
        await until(lambda: again.get(handle.group) is not None)
        await cluster.crash(away)
        async with opened(cluster.members[away].disk.fork(), seed=2) as storage:
            found = storage.recovered.groups[handle.group]
            assert (found.compacted.index, found.compacted.term) == (newer.index, newer.term)
            assert found.last_index == newer.index and not found.manifest_damaged
        for name in "abc":
            await cluster.start(name)
        await cluster.ready()
        await count_until_taken(cluster, away, handle.group, b"last")
        assert len(await same_everywhere(cluster, handle.group, "a", "b", "c")) == 22
