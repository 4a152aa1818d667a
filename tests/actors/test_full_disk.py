"""Whole nodes on a full disk: clients are refused in time and told why, the rest goes on (DESIGN 5)."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import trio
from trio.testing import MockClock

from tests.actors.cluster import OPTIONS, Cluster, open_memory_cluster, until
from tests.actors.load import load, machines
from tests.actors.nats_client import MemoryClient
from trimaran import NotApplied, NotDone, StreamHandle, open_stream
from trimaran.actors.raft.outcomes import Reason

INSUFFICIENT = {"code": 503, "err_code": 10023, "description": "insufficient resources"}
LOOK_SECONDS = 2.0
"""By then a node has asked its disk how much is free."""


@contextmanager
def full(cluster: Cluster, name: str, left: int = 0) -> Iterator[None]:
    """Somebody else's file on the node's disk leaves so many bytes."""
    disk = cluster.members[name].disk
    disk.capacity = disk._used() + left
    yield
    cluster.members[name].disk.capacity = None


def metrics(cluster: Cluster, name: str) -> str:
    return "".join(cluster[name].vitals.metrics())


async def is_refused(handle: StreamHandle, subject: str) -> bool:
    try:
        await handle.publish(subject, b"x")
    except NotDone as refused:
        return isinstance(refused.outcome, NotApplied) and refused.outcome.reason is Reason.NO_SPACE
    return False


async def until_refused(cluster: Cluster, name: str) -> None:
    await until(lambda: cluster[name].storage.full is not None, LOOK_SECONDS)
    await trio.testing.wait_all_tasks_blocked()


async def test_jetstream_clients_are_refused_before_the_disk_is_full(autojump_clock: MockClock) -> None:
    async with open_memory_cluster("solo") as cluster:
        client = await MemoryClient.connect(cluster.members["solo"].port)
        await client.api("STREAM.CREATE.ORDERS", name="ORDERS", subjects=["orders.>"])
        assert b'"seq":1' in (await client.request("orders.1", b"first")).payload
        with full(cluster, "solo", left=OPTIONS.min_free_bytes - 1):
            await client.request(
                "orders.1", b"first", seconds=LOOK_SECONDS
            )  # a disk is looked at when written
            await until_refused(cluster, "solo")
            answer = json.loads((await client.request("orders.2", b"second")).payload)
            assert answer["error"] == INSUFFICIENT
            read = await client.api("STREAM.MSG.GET.ORDERS", seq=1)
            assert read["message"]["seq"] == 1
            assert "error" not in await client.api(
                "CONSUMER.CREATE.ORDERS.c", stream_name="ORDERS", config={"name": "c"}
            )
            [message] = await client.fetch("ORDERS.c", 1)
            assert (await client.request(message.reply, b"+ACK")).payload == b""
            purged = await client.api("STREAM.PURGE.ORDERS")
            assert purged["success"] and purged["purged"] == 2
            assert any("bytes are free" in reason for reason in cluster["solo"].vitals.health())
            assert re.search(r"^jetstream_raft_disk_full.* 1(\.0)?$", metrics(cluster, "solo"), re.MULTILINE)
        await until(lambda: cluster["solo"].storage.full is None, LOOK_SECONDS)
        await cluster.ready()
        assert b'"seq":3' in (await client.request("orders.2", b"second")).payload


async def test_streams_led_elsewhere_go_on_and_nothing_is_lost(autojump_clock: MockClock) -> None:
    async with open_memory_cluster() as cluster, load(cluster, "a", 3) as running:
        group = cluster["a"].state.named("stream", "ORDERS")
        assert group is not None
        leader = cluster.leader(group.group)
        follower = next(name for name in "abc" if name != leader)
        with full(cluster, follower):
            await until_refused(cluster, follower)
            before = len(running.acknowledged)
            await until(lambda: len(running.acknowledged) >= before + 100)
            assert cluster.leader(group.group) == leader
            followed = machines(cluster, group.group)[follower]
            assert followed.info().last_seq >= before, "it follows, out of the reserve"
        with full(cluster, leader):
            await until_refused(cluster, leader)
            handle = StreamHandle(cluster[leader], "ORDERS", group.group)
            assert await is_refused(handle, "orders.y")
        before = len(running.acknowledged)
        await until(lambda: len(running.acknowledged) >= before + 20)


async def test_a_node_starts_and_serves_reads_and_votes_on_a_full_disk(autojump_clock: MockClock) -> None:
    async with open_memory_cluster() as cluster:
        stream = await open_stream(cluster["a"], "ORDERS", ["orders.>"], replicas=3)
        for number in range(10):
            await stream.publish("orders.x", b"%d" % number)
        name = cluster.leader(stream.group)
        others = [other for other in "abc" if other != name]
        await trio.sleep(1)  # the reserve is made
        await cluster.crash(name, power=True)
        disk = cluster.members[name].disk
        disk.capacity = disk._used()
        await cluster.start(name)
        await until(lambda: stream.group in cluster[name].groups._leaders)
        await until_refused(cluster, name)
        await until(lambda: machines(cluster, stream.group)[name].info().last_seq == 10)
        await cluster.crash(others[0])
        await until(lambda: bool(cluster.leaders(stream.group)))
        near = StreamHandle(cluster[others[1]], "ORDERS", stream.group)
        message = await near.get(10)
        assert message is not None and message.payload == b"9", "two of three, one of them on a full disk"
        disk.capacity = None
        await until(lambda: cluster[name].storage.full is None, LOOK_SECONDS)
        assert (await near.publish("orders.x", b"10")).sequence == 11


async def test_no_snapshot_for_want_of_space_is_taken_later(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_memory_cluster("solo") as cluster:
        handle = await cluster.counter("solo", replicas=1)
        group = cluster["solo"].groups.get(handle.group)
        assert group is not None
        await handle.propose(b"x" * 10_000)
        await trio.sleep(1)
        taken = group.snapshots.taken
        with full(cluster, "solo", left=100):
            await group.snapshots.take()
            assert group.snapshots.taken == taken and not group.failed
            assert "no snapshot for now" in caplog.text
            await trio.sleep(30)
            assert caplog.text.count("no snapshot for now") == 1
        await until(lambda: group.snapshots.taken > taken)


async def test_the_cluster_can_be_changed_on_a_full_disk(autojump_clock: MockClock) -> None:
    """Deleting a stream makes space, and that is a command to the meta group. A new one is born full."""
    async with open_memory_cluster("solo") as cluster:
        stream = await open_stream(cluster["solo"], "ORDERS", ["orders.>"])
        await trio.sleep(1)
        with full(cluster, "solo"):
            await stream.publish("orders.1", b"x")
            await until_refused(cluster, "solo")
            other = await open_stream(cluster["solo"], "OTHER", ["other.>"])
            assert await is_refused(other, "other.1")
            client = await MemoryClient.connect(cluster.members["solo"].port)
            assert (await client.api("STREAM.DELETE.ORDERS"))["success"]
