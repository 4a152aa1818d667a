"""A snapshot on its way to a follower: cut anywhere, it goes on where it was; and one is enough."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import pytest
import trio
from trio.testing import MockClock

from tests.actors.cluster import KIB, OPTIONS, Cluster, Counter, Member, VirtualClock, until
from tests.actors.load import STREAM
from tests.actors.test_block_repair import blocks, hurt, machine, payload, replica, sequences_in
from tests.actors.weather import Sea
from trimaran import NotDone, Options, StreamHandle, World, open_stream
from trimaran.actors.replica.snapshots import PARTS_IN_FLIGHT

MESSAGES = 1200
SLOW_WIRE = 0.1


class SlowCluster(Cluster):
    """Its wires can be slowed down, cut and stilled, each node's own ones."""

    def __init__(self, nursery: trio.Nursery, options: Options) -> None:
        super().__init__(nursery, "abc", {"counter": Counter}, options, 1)
        self.seas = {name: Sea(self.network, member.random, 0.0) for name, member in self.members.items()}

    def world(self, member: Member) -> World:
        return World(member.disk, member.runner, VirtualClock(), member.random, self.seas[member.name])


@dataclass
class Behind:
    """A cluster in which node c needs a snapshot of a stream, and has not begun to get it."""

    cluster: SlowCluster
    group: int
    leader: str

    @property
    def sent_parts(self) -> int:
        return replica(self.cluster, self.leader, self.group).snapshots.sent_parts

    async def start(self, wire: float = SLOW_WIRE) -> None:
        """Start c; return once it has got some of its snapshot, over a slow wire."""
        self.cluster.seas[self.leader].longest = wire
        await self.cluster.start("c")
        await until(lambda: self.cluster["c"].groups.get(self.group) is not None)
        await self.getting()

    async def getting(self, parts: int = 8) -> None:
        await until(lambda: replica(self.cluster, "c", self.group).snapshots.received_parts >= parts, 120)
        assert replica(self.cluster, "c", self.group).snapshots.installed == 0

    async def done(self) -> None:
        """Return once c has everything."""
        for sea in self.cluster.seas.values():
            sea.longest = 0.0
        await until(lambda: self.cluster["c"].groups.get(self.group) is not None, 60)
        last = machine(self.cluster, self.leader, self.group).info().last_seq
        await until(lambda: machine(self.cluster, "c", self.group).info().last_seq >= last, 120)
        for sequence in range(1, MESSAGES + 1, 7):
            message = await machine(self.cluster, "c", self.group).get(sequence)
            assert message is not None and message.payload == payload(sequence)


@asynccontextmanager
async def behind(options: Options = OPTIONS) -> AsyncIterator[Behind]:
    async with trio.open_nursery() as nursery:
        cluster = SlowCluster(nursery, options)
        for name in "abc":
            await cluster.start(name)
        await cluster.ready()
        stream = await open_stream(cluster["a"], STREAM, ["orders.>"], replicas=3)
        if cluster.leader(stream.group) == "c":
            await cluster["c"].desk.transfer(stream.group, "a")
        await until(lambda: cluster.leaders(stream.group) in (["a"], ["b"]))
        await cluster.crash("c")
        for number in range(1, MESSAGES + 1):
            await StreamHandle(cluster["a"], STREAM, stream.group).publish("orders.x", payload(number))
        leader = cluster.leader(stream.group)
        await until(lambda: replica(cluster, leader, stream.group).state.log.first_index > MESSAGES // 2)
        yield Behind(cluster, stream.group, leader)
        nursery.cancel_scope.cancel()
    assert not cluster.violations, cluster.violations[0]


async def test_a_cut_link_costs_only_what_was_on_its_way(autojump_clock: MockClock) -> None:
    async with behind() as late:
        await late.start()
        late.cluster.seas[late.leader].cut("c:1")
        await trio.sleep(3)
        late.cluster.seas[late.leader].heal()
        await late.getting(12)
        late.cluster.seas[late.leader].cut("c:1")
        await trio.sleep(3)
        late.cluster.seas[late.leader].heal()
        await late.done()
        files = len(blocks(late.cluster, late.leader, late.group))
        assert files <= late.sent_parts <= files + 2 * PARTS_IN_FLIGHT + 2


@pytest.mark.parametrize("power", [False, True])
async def test_a_receiver_that_restarts_keeps_what_it_got(autojump_clock: MockClock, power: bool) -> None:
    async with behind() as late:
        await late.start()
        await late.getting(15)
        await late.cluster.crash("c", power=power)
        await trio.sleep(1)
        await late.cluster.start("c")
        await late.done()
        files = len(blocks(late.cluster, late.leader, late.group))
        if not power:  # else what was not synced may be gone, and comes again
            assert late.sent_parts <= files + 2 * PARTS_IN_FLIGHT  # in flight, or not yet written
        assert replica(late.cluster, "c", late.group).snapshots.installed == 1


async def test_a_sender_that_restarts_goes_on_where_it_was(autojump_clock: MockClock) -> None:
    async with behind() as late:
        await late.start()
        await late.getting(12)
        got = replica(late.cluster, "c", late.group).snapshots.received_parts
        await late.cluster.crash(late.leader, power=True)
        await late.cluster.start(late.leader)
        await until(lambda: bool(late.cluster.leaders(late.group)))
        late.leader = late.cluster.leader(late.group)
        late.cluster.seas[late.leader].longest = SLOW_WIRE
        await late.done()
        files = len(blocks(late.cluster, late.leader, late.group))
        assert late.sent_parts <= files - got + PARTS_IN_FLIGHT + 4


async def test_a_receiver_that_says_nothing_gets_no_more_than_a_few_parts(autojump_clock: MockClock) -> None:
    async with behind() as late:
        await late.start()
        late.cluster.seas["c"].calm(f"{late.leader}:1")  # it hears, and is not heard
        before = late.sent_parts
        await trio.sleep(9)
        assert late.sent_parts - before <= PARTS_IN_FLIGHT
        late.cluster.seas["c"].heal()
        await late.done()


async def write_on(late: Behind, published: list[int]) -> None:
    while True:
        try:
            stream = StreamHandle(late.cluster["a"], STREAM, late.group)
            published.append((await stream.publish("orders.x", bytes(4000))).sequence)
        except NotDone:
            pass
        await trio.sleep(0.01)


async def test_one_snapshot_is_enough_however_much_is_written_meanwhile(autojump_clock: MockClock) -> None:
    async with behind() as late, trio.open_nursery() as nursery:
        published: list[int] = []
        await late.start()
        late.cluster.seas[late.leader].calm("c:1")
        late.cluster.seas[late.leader].longest = 0.0
        nursery.start_soon(write_on, late, published)
        source = replica(late.cluster, late.leader, late.group)
        coming = replica(late.cluster, "c", late.group)
        assert coming.files._incoming is not None
        index = coming.files._incoming.manifest.index
        held, taken = source.state.log.first_index, source.snapshots.taken
        await until(lambda: source.snapshots.taken >= taken + 3, 120)
        assert coming.snapshots.installed == 0
        assert source.state.log.first_index <= index + 1, "what follows the snapshot is still there"
        late.cluster.seas[late.leader].heal()
        await late.done()
        assert source.snapshots.sent == replica(late.cluster, "c", late.group).snapshots.installed == 1
        taken = source.snapshots.taken
        await until(lambda: source.snapshots.taken >= taken + 2, 120)
        assert source.state.log.first_index > held, "and then the log goes"
        nursery.cancel_scope.cancel()


async def test_a_log_that_grows_too_much_goes_and_a_second_snapshot_follows(
    autojump_clock: MockClock,
) -> None:
    async with (
        behind(replace(OPTIONS, transfer_log_bytes=64 * KIB)) as late,
        trio.open_nursery() as nursery,
    ):
        published: list[int] = []
        await late.start()
        late.cluster.seas[late.leader].calm("c:1")
        late.cluster.seas[late.leader].longest = 0.0
        nursery.start_soon(write_on, late, published)
        source = replica(late.cluster, late.leader, late.group)
        coming = replica(late.cluster, "c", late.group).files._incoming
        assert coming is not None
        index, taken = coming.manifest.index, source.snapshots.taken
        await until(lambda: source.snapshots.taken >= taken + 4, 120)
        assert source.state.log.first_index > index + 1
        late.cluster.seas[late.leader].heal()
        await late.done()
        nursery.cancel_scope.cancel()
    assert published


async def test_a_block_that_turns_out_to_be_damaged_is_mended_before_it_is_sent(
    autojump_clock: MockClock,
) -> None:
    async with behind() as late:
        disk = late.cluster.members[late.leader].disk
        path = blocks(late.cluster, late.leader, late.group)[1]
        hurt(disk, path, sequences_in(disk, path)[0])
        await late.cluster.start("c")
        await late.done()
        assert replica(late.cluster, late.leader, late.group).repair.mender.mended == 1
