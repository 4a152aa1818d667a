"""A disk that fails or stands still: nobody is left waiting, nothing is promised any more, others take over
(rule S9, DESIGN 5)."""

import errno
import json
import os
from collections.abc import Callable
from typing import TypeVar

import pytest
import trio
from trio.testing import MockClock

from tests.actors.cluster import OPTIONS, Cluster, open_memory_cluster, until
from tests.actors.load import load
from tests.actors.nats_client import MemoryClient
from tests.actors.test_cluster import count_until_taken
from trimaran import GroupHandle, NotDone, StreamHandle, Unknown, open_group, open_stream
from trimaran.actors.node import NodeFailed
from trimaran.actors.peers.wire import FrameKind
from trimaran.actors.raft.outcomes import Reason
from trimaran.actors.scrub import Scrub
from trimaran.storage.disk import Lane
from trimaran.storage.errors import StorageFailed

T = TypeVar("T")
ELECTIONS = 2 * OPTIONS.election_max_ms / 1000
EXIT_SECONDS = 1.0


def break_disk(cluster: Cluster, name: str, operation: str, place: str) -> None:
    """From now on each such operation below `place` fails."""

    def before(what: str, path: str) -> None:
        if what == operation and path.startswith(place):
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)

    cluster.members[name].disk.before = before


async def is_gone(cluster: Cluster, name: str) -> None:
    """Its process has ended with the code for a failed disk, in time."""
    member = cluster.members[name]
    with trio.fail_after(EXIT_SECONDS):
        await member.gone.wait()
    assert isinstance(member.ended_by, NodeFailed)
    assert member.ended_by.exit_code == StorageFailed.exit_code


@pytest.mark.parametrize(
    ("operation", "place"),
    [
        ("write", "wal"),
        ("sync", "wal"),
        ("rename", "wal"),
        ("sync directory", "wal"),
        ("write", "groups"),
        ("sync", "groups"),
        ("rename", "groups"),
        ("sync directory", "groups"),
    ],
)
async def test_a_node_whose_disk_fails_ends_and_the_others_go_on(
    autojump_clock: MockClock, operation: str, place: str
) -> None:
    async with open_memory_cluster() as cluster, load(cluster, "a", 3) as running:
        before = len(running.acknowledged)
        break_disk(cluster, "c", operation, place)
        await until(lambda: cluster.members["c"].node is None or cluster["c"]._failed.is_set())
        await is_gone(cluster, "c")
        await until(lambda: len(running.acknowledged) >= before + 100)
        cluster.members["c"].disk.before = None
        await cluster.start("c")
        await cluster.ready()


async def test_whoever_else_finds_out_that_the_disk_failed_changes_nothing_about_the_end(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A delivery that waits for a read, say: its error goes through the nursery of the whole node."""

    async def finds_out(scrub: Scrub) -> None:
        while scrub._storage.failed is None:  # noqa: ASYNC110  # nothing tells it; the clock is virtual
            await trio.sleep(0.01)
        raise scrub._storage.failed

    monkeypatch.setattr(Scrub, "run", finds_out)
    async with open_memory_cluster() as cluster:
        monkeypatch.setattr(cluster["c"].groups, "end", trio.sleep_forever)  # last words that take long
        handle = await cluster.counter("a")
        break_disk(cluster, "c", "sync", "wal")
        await handle.propose(b"1")
        await is_gone(cluster, "c")


@pytest.mark.parametrize("who", ["client", "program", "other node"])
async def test_whoever_waits_is_told_that_the_outcome_is_unknown(autojump_clock: MockClock, who: str) -> None:
    """A NATS client of the node that fails, a caller in its program, and one whom another node serves."""
    async with open_memory_cluster() as cluster:
        stream = await open_stream(cluster["a"], "ORDERS", ["orders.>"], replicas=3)
        name = cluster.leader(stream.group)
        other = next(each for each in "abc" if each != name)
        for each in "abc":
            cluster.members[each].runner.sync_seconds = 0.1  # so that it is under way
        client = await MemoryClient.connect(cluster.members[name].port)
        told: list[int] = []
        cluster[name].on_failure = told.append

        async def publish() -> None:
            if who == "client":
                answer = json.loads((await client.request("orders.x", b"x")).payload)
                assert answer["error"]["err_code"] == 20001
                return
            node = cluster[name if who == "program" else other]
            with pytest.raises(NotDone) as ended:
                await StreamHandle(node, "ORDERS", stream.group).publish("orders.x", b"x")
            assert ended.value.outcome == Unknown(Reason.STORAGE_FAILED)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(publish)
            await trio.sleep(0.05)
            break_disk(cluster, name, "sync", "wal")
            await is_gone(cluster, name)
        assert told == [StorageFailed.exit_code]


async def test_nothing_is_promised_after_the_failure(autojump_clock: MockClock) -> None:
    """The others never hear of an acknowledgement or a vote again, only last words."""
    async with open_memory_cluster() as cluster:
        handle = await cluster.counter("a")
        leader = cluster.leader(handle.group)
        name = next(each for each in "abc" if each != leader)
        sent: list[tuple[object, ...]] = []
        for link in cluster[name].peers._links.values():
            real = link.send

            def send(*frame: object, real: Callable[..., bool] = real) -> bool:
                if cluster[name].storage.failed is not None:
                    sent.append(frame)
                return real(*frame)

            link.send = send  # type: ignore[method-assign, assignment]  # it listens in
        break_disk(cluster, name, "sync", "wal")
        await GroupHandle(cluster[leader], handle.group).propose(b"1")
        await is_gone(cluster, name)
        promises = {
            FrameKind.APPEND_REPLY,
            FrameKind.APPEND_REPLIES,
            FrameKind.VOTE_REPLY,
            FrameKind.BEAT_REPLIES,
        }
        assert not promises & {frame[0] for frame in sent}


async def test_a_stuck_disk_does_not_keep_a_failed_node_alive(autojump_clock: MockClock) -> None:
    """One call never returns, another one fails: nobody waits for the first."""
    async with open_memory_cluster() as cluster:
        await open_group(cluster["a"], "hits", machine="counter", replicas=3)
        runner, real = cluster.members["a"].runner, cluster.members["a"].runner.run

        async def run(lane: Lane, function: Callable[..., T], *args: object) -> T:
            if lane is not Lane.LOG:
                await trio.sleep_forever()
            return await real(lane, function, *args)

        runner.run = run  # type: ignore[method-assign]  # a disk that hangs
        runner.close = lambda seconds=0.0: False  # type: ignore[method-assign]  # a disk that hangs
        break_disk(cluster, "a", "sync", "wal")
        await until(lambda: cluster.members["a"].node is None or cluster["a"]._failed.is_set())
        await is_gone(cluster, "a")


async def test_leaders_on_a_disk_that_stands_still_step_down(autojump_clock: MockClock) -> None:
    """Several groups, led by one node whose sync never ends: each has another leader within two elections of
    the deadline, and the node leads none of them again while the disk stands still."""
    async with open_memory_cluster() as cluster:
        groups = [
            (await open_group(cluster["a"], f"g{number}", machine="counter", replicas=3)).group
            for number in range(6)
        ]
        await until(lambda: all(len(cluster.leaders(group)) == 1 for group in groups))
        name = cluster.leader(groups[0])
        led = [group for group in groups if cluster.leader(group) == name]
        near = next(each for each in "abc" if each != name)
        cluster.members[name].runner.sync_seconds = 10_000.0
        began = trio.current_time()
        deadline = OPTIONS.fsync_deadline_ms / 1000
        async with trio.open_nursery() as nursery:
            for group in led:
                nursery.start_soon(count_until_taken, cluster, near, group, b"x")
            await until(lambda: all(set(cluster.leaders(group)) - {name} for group in led))
            assert trio.current_time() - began <= deadline + ELECTIONS
        await trio.sleep(20)
        assert not any(name in cluster.leaders(group) for group in groups)
