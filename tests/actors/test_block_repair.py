"""Streams whose block files rot: no wrong byte is ever served, and every replica gets whole by itself."""

from __future__ import annotations

import errno
from collections.abc import Iterable
from functools import partial
from random import Random
from typing import cast

import pytest
import trio
from trio.testing import MockClock

from tests.actors.cluster import Cluster, open_memory_cluster, until
from tests.actors.damage import flip, group_files
from tests.actors.load import STREAM, assignment, load
from trimaran import StreamHandle, open_stream
from trimaran.actors.peers.requests import Refusal
from trimaran.actors.replica.group import Group
from trimaran.actors.replica.mender import RECORDS
from trimaran.actors.stream.errors import DamagedRecord
from trimaran.actors.stream.machine import StreamMachine
from trimaran.codec.block import RECORD_HEADER_SIZE, scan_block
from trimaran.storage.memory_disk import MemoryDisk

MESSAGES = 300


def payload(number: int) -> bytes:
    return Random(number).randbytes(1000)


def replica(cluster: Cluster, name: str, number: int) -> Group:
    group = cluster[name].groups.get(number)
    assert group is not None
    return group


def machine(cluster: Cluster, name: str, number: int) -> StreamMachine:
    found = replica(cluster, name, number).machine
    assert isinstance(found, StreamMachine)
    return found


async def fill(cluster: Cluster, replicas: int = 3) -> int:
    """A stream with messages in several blocks, which a manifest names, on its nodes."""
    stream = await open_stream(cluster["a"], STREAM, ["orders.>"], replicas=replicas)
    for number in range(1, MESSAGES + 1):
        await stream.publish("orders.x", payload(number))
    names = [name for name in cluster.members if cluster[name].groups.get(stream.group) is not None]
    await until(
        lambda: all(machine(cluster, name, stream.group).info().last_seq == MESSAGES for name in names)
    )
    for name in names:
        await replica(cluster, name, stream.group).snapshots.take()
        assert len(blocks(cluster, name, stream.group)) > 3
    return stream.group


def blocks(cluster: Cluster, name: str, group: int) -> list[str]:
    """Paths of the block files of a replica, oldest first."""
    files = group_files(cluster.members[name].disk, group)
    return [path for file, path in sorted(files.items()) if file.startswith("block")]


def hurt(disk: MemoryDisk, path: str, *sequences: int) -> None:
    """The records of these sequences get a bit flipped in their payload."""
    scan = scan_block(disk.read(path))
    places = dict(zip(scan.sequences, scan.offsets, strict=True))
    for sequence in sequences:
        flip(disk, path, places[sequence] + RECORD_HEADER_SIZE + 100)


def sequences_in(disk: MemoryDisk, path: str) -> list[int]:
    return list(scan_block(disk.read(path)).sequences)


def aside(disk: MemoryDisk, group: int) -> list[str]:
    [directory] = [name for name in disk.listdir("groups") if name.startswith(f"{group}-")]
    return disk.listdir(f"groups/{directory}/quarantine")


async def stop_all(cluster: Cluster) -> None:
    for name in cluster.members:
        await cluster.crash(name)


async def serves(cluster: Cluster, name: str, group: int, lost: Iterable[int] = ()) -> None:
    """Every message is there on a replica, but for those that are lost: asked for, these are an error."""
    await until(lambda: cluster[name].groups.get(group) is not None)
    await until(lambda: not replica(cluster, name, group).state.faulty)
    await until(lambda: machine(cluster, name, group).info().last_seq == MESSAGES)
    for sequence in range(1, MESSAGES + 1):
        if sequence in lost:
            with pytest.raises(DamagedRecord, match=f"sequence {sequence}:"):
                await machine(cluster, name, group).get(sequence)
            continue
        message = await machine(cluster, name, group).get(sequence)
        assert message is not None and message.payload == payload(sequence), (name, sequence)


async def test_a_damaged_block_is_mended_from_another_replica(autojump_clock: MockClock) -> None:
    async with open_memory_cluster() as cluster:
        group = await fill(cluster)
        await stop_all(cluster)
        disk = cluster.members["b"].disk
        path = blocks(cluster, "b", group)[1]
        sound = disk.read(path)
        first = sequences_in(disk, path)[0]
        hurt(disk, path, first, first + 7, first + 8)
        damaged = disk.read(path)
        for name in "abc":
            await cluster.start(name)
        await serves(cluster, "b", group)
        assert replica(cluster, "b", group).repair.mender.mended == 3, "only what was damaged came"
        assert replica(cluster, "b", group).snapshots.installed == 0
        disk = cluster.members["b"].disk
        assert disk.read(path) == sound
        [kept] = [name for name in aside(disk, group) if name.endswith(path.rpartition("/")[2])]
        assert disk.read(f"{path.rpartition('/')[0]}/quarantine/{kept}") == damaged
        await cluster.crash("b", power=True)
        await cluster.start("b")
        await serves(cluster, "b", group)
        assert replica(cluster, "b", group).repair.mender.mended == 0, "for good"


async def test_two_replicas_damaged_in_different_places_heal_each_other(autojump_clock: MockClock) -> None:
    """The third node is away, so nobody could lead before both are whole."""
    async with open_memory_cluster() as cluster:
        group = await fill(cluster)
        await stop_all(cluster)
        a, b = cluster.members["a"].disk, cluster.members["b"].disk
        at_a, at_b = blocks(cluster, "a", group), blocks(cluster, "b", group)
        shared = sequences_in(a, at_a[0])
        hurt(a, at_a[0], shared[3])
        a.unlink(at_a[2])
        hurt(b, at_b[0], shared[4], shared[5])
        b.shorten(at_b[1], 3000)
        await cluster.start("a")
        await cluster.start("b")
        for name in "ab":
            await serves(cluster, name, group)
            assert replica(cluster, name, group).snapshots.installed == 0
        published = await StreamHandle(cluster["a"], STREAM, group).publish("orders.x", b"on")
        assert published.sequence == MESSAGES + 1


async def test_a_replica_with_damaged_blocks_neither_leads_nor_votes(autojump_clock: MockClock) -> None:
    async with open_memory_cluster() as cluster:
        group = await fill(cluster)
        await stop_all(cluster)
        hurt(cluster.members["b"].disk, blocks(cluster, "b", group)[0], 5)
        await cluster.start("b")
        await until(lambda: cluster["b"].groups.get(group) is not None)
        await trio.sleep(5)
        state = replica(cluster, "b", group).state
        assert state.faulty and state.role.value == "follower" and not state.leader
        [reason] = [reason for reason in cluster["b"].vitals.health() if "stream" in reason]
        assert "sequences 5 can't be read" in reason and "file block-" in reason and "offset " in reason
        await cluster.start("c")
        await serves(cluster, "b", group)


@pytest.mark.parametrize("seed", range(2))
async def test_damaged_blocks_under_load(autojump_clock: MockClock, seed: int) -> None:
    random = Random(seed)
    async with open_memory_cluster(seed=seed) as cluster, load(cluster, "c", 3) as running:
        group = assignment(cluster, "c").group
        await until(lambda: len(running.acknowledged) >= 500, 60)
        for name in "ab":
            await cluster.crash(name)
            disk = cluster.members[name].disk
            for path in random.sample(blocks(cluster, name, group)[:-1], 2):
                for _ in range(random.randint(1, 5)):
                    flip(disk, path, random.randrange(len(disk.read(path))))
            before = len(running.acknowledged)
            await cluster.start(name)
            await until(lambda: cluster[name].groups.get(group) is not None)
            await until(lambda: not replica(cluster, name, group).state.faulty)
            assert replica(cluster, name, group).repair.mender.mended > 0
            await until(lambda: len(running.acknowledged) > before)


async def test_a_record_that_rots_while_the_stream_runs_is_served_all_the_same(
    autojump_clock: MockClock,
) -> None:
    async with open_memory_cluster() as cluster:
        group = await fill(cluster)
        leader = cluster.leader(group)
        disk = cluster.members[leader].disk
        paths = blocks(cluster, leader, group)
        hurt(disk, paths[0], 2, 9)
        hurt(disk, paths[-1], sequences_in(disk, paths[-1])[0])
        await serves(cluster, leader, group)
        found = replica(cluster, leader, group)
        assert found.repair.mender.mended == 3 and cluster.leader(group) == leader
        assert found.repair.waits_for == ""
        await cluster.crash(leader, power=True)
        await cluster.start(leader)
        await serves(cluster, leader, group)
        assert replica(cluster, leader, group).repair.mender.mended == 0


async def test_without_space_for_a_copy_repair_waits_and_the_rest_is_served(
    autojump_clock: MockClock,
) -> None:
    async with open_memory_cluster() as cluster:
        group = await fill(cluster)
        disk = cluster.members["b"].disk

        def full(operation: str, path: str) -> None:
            if "block-" in path and path.endswith(".tmp"):
                raise OSError(errno.ENOSPC, "no space")

        disk.before = full
        hurt(disk, blocks(cluster, "b", group)[0], 4)
        await serves(cluster, "b", group, lost=[4])
        found = replica(cluster, "b", group)
        assert found.repair.mender.mended == 0 and cluster["b"].storage.failed is None
        disk.before = None
        await until(lambda: found.repair.mender.mended == 1)
        await serves(cluster, "b", group)


async def test_without_a_copy_anywhere_a_read_is_an_error_and_all_else_is_served(
    autojump_clock: MockClock,
) -> None:
    async with open_memory_cluster() as cluster:
        group = await fill(cluster)
        for name in "abc":
            hurt(cluster.members[name].disk, blocks(cluster, name, group)[0], 4)
        for name in "abc":
            await serves(cluster, name, group, lost=[4])
        assert "sequence 4:" in replica(cluster, "a", group).repair.waits_for
        for name in "abc":
            health = cluster[name].vitals.health
            await until(lambda: any("no replica has it" in each for each in health()))
        await StreamHandle(cluster["a"], STREAM, group).publish("orders.x", b"on")


async def test_a_single_replica_starts_without_what_is_lost_and_says_what_that_is(
    autojump_clock: MockClock,
) -> None:
    async with open_memory_cluster("a", "b", "c") as cluster:
        group = await fill(cluster, replicas=1)
        [home] = [name for name in "abc" if cluster[name].groups.get(group) is not None]
        await cluster.crash(home)
        disk = cluster.members[home].disk
        paths = blocks(cluster, home, group)
        gone = sequences_in(disk, paths[2])
        hurt(disk, paths[0], 3, 4)
        disk.unlink(paths[2])
        lost = {3, 4, *gone}
        for _ in range(2):
            await cluster.start(home)
            await serves(cluster, home, group, lost)
            info = machine(cluster, home, group).info()
            assert info.messages == MESSAGES - len(lost) and info.num_deleted == len(lost)
            assert machine(cluster, home, group).damage.lost == [(3, 4), (gone[0], gone[-1])]
            await replica(cluster, home, group).snapshots.take()
            await cluster.crash(home)
        await cluster.start(home)
        await serves(cluster, home, group, lost)
        published = await StreamHandle(cluster[home], STREAM, group).publish("orders.x", b"on")
        assert published.sequence == MESSAGES + 1


async def test_the_same_record_damaged_everywhere_costs_that_record_only(autojump_clock: MockClock) -> None:
    async with open_memory_cluster() as cluster:
        group = await fill(cluster)
        await stop_all(cluster)
        for name in "abc":
            also = [11] if name == "b" else []
            hurt(cluster.members[name].disk, blocks(cluster, name, group)[0], 4, *also)
        for name in "abc":
            await cluster.start(name)
        for name in "abc":
            await serves(cluster, name, group, lost=[4])
        await cluster.ready()
        leader = cluster.leader(group)
        others = [replica(cluster, name, group) for name in "abc" if name != leader]
        await until(lambda: all(each.snapshots.installed == 1 for each in others))
        assert replica(cluster, leader, group).snapshots.installed == 0, "its state counts"
        for name in "abc":
            await serves(cluster, name, group, lost=[4])
            assert machine(cluster, name, group).info() == machine(cluster, leader, group).info()
        published = await StreamHandle(cluster["a"], STREAM, group).publish("orders.x", b"on")
        assert published.sequence == MESSAGES + 1


async def test_who_has_yet_to_apply_a_record_does_not_say_that_it_has_none(autojump_clock: MockClock) -> None:
    """The others might be damaged at the same record, and would give it up."""
    async with open_memory_cluster() as cluster:
        group = await fill(cluster)
        leader = cluster.leader(group)
        late = next(name for name in "abc" if name != leader)
        behind, asker = replica(cluster, late, group), replica(cluster, leader, group)
        async with behind.applier.exclusive:
            await StreamHandle(cluster[leader], STREAM, group).publish("orders.x", payload(MESSAGES + 1))
            await until(lambda: behind.state.log.last_index == asker.applier.applied)
            await asker.snapshots.take()
            manifest = asker.snapshots.manifest
            assert manifest is not None and behind.applier.applied < manifest.index
            question = [group, asker.incarnation, manifest.index, manifest.rolling_hash, [MESSAGES + 1]]
            ask = partial(cluster[leader].requests.ask, cluster[late].me.node, RECORDS, question, 5.0, list)
            with pytest.raises(Refusal, match="not applied yet"):
                await ask()
        await until(lambda: behind.applier.applied >= manifest.index)
        [[sequence, _]] = cast("list[list[object]]", await ask())
        assert sequence == MESSAGES + 1


async def test_what_was_given_up_is_no_damage_again(autojump_clock: MockClock) -> None:
    """A peer that asked for it, or other damage in its block, made it damaged once more, beyond mending."""
    async with open_memory_cluster() as cluster:
        group = await fill(cluster)
        await stop_all(cluster)
        disk = cluster.members["b"].disk
        path = blocks(cluster, "b", group)[0]
        place = scan_block(disk.read(path)).offsets[6]  # of sequence 7
        for name in "abc":
            hurt(cluster.members[name].disk, blocks(cluster, name, group)[0], 4)
        for name in "abc":
            await cluster.start(name)
        await cluster.ready()
        for name in "abc":
            await serves(cluster, name, group, lost=[4])
        others = [name for name in "abc" if name != cluster.leader(group)]
        await until(lambda: all(replica(cluster, name, group).snapshots.installed == 1 for name in others))
        given = await machine(cluster, "a", group).damage.give([3, 4, 5], 1 << 20)
        assert [sequence for sequence, _ in given] == [3, 5]
        damage = machine(cluster, "b", group).damage
        flip(cluster.members["b"].disk, blocks(cluster, "b", group)[0], place + RECORD_HEADER_SIZE + 100)
        assert await damage.examine(blocks(cluster, "b", group)[0].rpartition("/")[2]) == 1
        await until(lambda: damage.whole)
        assert replica(cluster, "b", group).repair.mender.mended == 1
        await serves(cluster, "b", group, lost=[4])
        assert [machine(cluster, name, group).damage.found for name in "abc"] == [0, 1, 0]


async def test_a_block_that_is_cut_while_the_stream_runs_is_mended_and_then_named(
    autojump_clock: MockClock,
) -> None:
    """Seed 3018: the next snapshot found the block too short, and the group stopped until a restart."""
    async with open_memory_cluster() as cluster:
        group = await fill(cluster)
        stream = StreamHandle(cluster["a"], STREAM, group)
        for number in range(MESSAGES + 1, MESSAGES + 6):
            await stream.publish("orders.x", payload(number))
        await until(lambda: machine(cluster, "b", group).info().last_seq == MESSAGES + 5)
        disk, found = cluster.members["b"].disk, replica(cluster, "b", group)
        await found.files.settle(0)
        path = blocks(cluster, "b", group)[-1]
        sound, taken = disk.read(path), found.snapshots.taken
        disk.shorten(path, len(sound) - 1500)
        await found.snapshots.take()
        assert not found.failed
        await until(lambda: found.snapshots.taken > taken)
        assert disk.read(path) == sound and found.repair.mender.mended == 2
        assert found.repair.waits_for == ""
        await cluster.crash("b", power=True)
        await cluster.start("b")
        await until(lambda: cluster["b"].groups.get(group) is not None)
        await until(lambda: machine(cluster, "b", group).info().last_seq == MESSAGES + 5)
        assert replica(cluster, "b", group).repair.mender.mended == 0, "for good"


async def test_a_block_that_has_grown_since_it_was_named_is_mended_before_it_is_sent(
    autojump_clock: MockClock,
) -> None:
    """Actor seed 5700303: it failed at each try to send it, and nobody looked which record was damaged."""
    async with open_memory_cluster() as cluster:
        group = await fill(cluster)
        leader = cluster.leader(group)
        late = next(name for name in "abc" if name != leader)
        behind = replica(cluster, late, group).state.log.last_index
        await cluster.crash(late)
        stream, found = StreamHandle(cluster[leader], STREAM, group), replica(cluster, leader, group)
        for number in range(MESSAGES + 1, MESSAGES + 6):
            if number < MESSAGES + 5:
                await found.snapshots.take()
            await stream.publish("orders.x", payload(number))
        await until(lambda: found.state.log.compacted.index > behind)
        await found.files.settle(0)
        disk, path = cluster.members[leader].disk, blocks(cluster, leader, group)[-1]
        sound, named = disk.read(path), found.snapshots.manifest
        assert named is not None and named.files[-1].length < len(sound), "it has grown"
        hurt(disk, path, sequences_in(disk, path)[0])
        await cluster.start(late)
        await until(lambda: cluster[late].groups.get(group) is not None)
        await until(lambda: machine(cluster, late, group).info().last_seq == MESSAGES + 5)
        assert replica(cluster, late, group).snapshots.installed == 1
        assert disk.read(path) == sound and found.repair.mender.mended == 1
