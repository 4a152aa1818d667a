"""A replica that ends while somebody of another group, or another node, wants something of it ends alone."""

import json
from typing import NoReturn

import pytest
import trio
from trio.testing import MockClock

from tests.actors.cluster import Cluster, open_memory_cluster, until
from tests.actors.test_hard_cases import replica
from trimaran import open_group
from trimaran.actors.peers.requests import Refusal
from trimaran.actors.raft.outcomes import NotApplied, Reason
from trimaran.actors.replica.group import NotDone
from trimaran.actors.replica.machine import Capture
from trimaran.actors.replica.repair import SNAPSHOT
from trimaran.storage.errors import StorageFailed


def no_snapshot() -> Capture:
    raise ZeroDivisionError


async def lives(cluster: Cluster, *names: str) -> None:
    """These nodes serve other groups as before."""
    other = await open_group(cluster[names[0]], "other", machine="counter", replicas=len(names))
    assert await other.propose(b"1") == 1
    assert all(cluster.members[name].ended_by is None for name in names)


async def test_a_peer_that_asks_for_a_snapshot_is_refused_where_the_machine_makes_none(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_memory_cluster() as cluster:
        handle = await cluster.counter("a")
        await handle.propose(b"1")
        leader = cluster.leader(handle.group)
        name = next(each for each in "abc" if each != leader)
        await until(lambda: cluster.counted(name, handle.group) == [b"1"])
        asked = replica(cluster, name, handle)
        monkeypatch.setattr(asked.machine, "capture", no_snapshot)
        question = [handle.group, asked.incarnation, 1]
        with pytest.raises(Refusal, match="no snapshot could be taken"):
            await cluster[leader].requests.ask(cluster[name].me.node, SNAPSHOT, question, 5)
        await until(lambda: "failed making a snapshot" in asked.failed)
        await lives(cluster, "a", "b", "c")


async def test_a_backup_that_loses_its_leader_is_refused(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_memory_cluster() as cluster:
        handle = await cluster.counter("a")
        await handle.propose(b"1")
        leader = cluster.leader(handle.group)
        asker = next(name for name in "abc" if name != leader)

        async def lost() -> NoReturn:
            raise NotDone(NotApplied(Reason.LEADERSHIP_LOST))

        monkeypatch.setattr(replica(cluster, leader, handle), "read_barrier", lost)
        answer = await cluster[asker].api_router.ask(f"$TRIMARAN.API.BACKUP.BEGIN.{handle.group}", b"{}")
        assert answer is not None and json.loads(answer)["error"]["code"] == 503
        await lives(cluster, "a", "b", "c")


async def test_a_group_can_not_grow_for_want_of_a_snapshot(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_memory_cluster("a") as cluster:
        handle = await cluster.counter("a", replicas=1)
        await handle.propose(b"1")
        group = replica(cluster, "a", handle)
        monkeypatch.setattr(group.machine, "capture", no_snapshot)
        with pytest.raises(NotDone):
            await group.announce_snapshot()
        await until(lambda: "failed making a snapshot" in group.failed)
        await lives(cluster, "a")


async def test_a_step_towards_desired_state_that_finds_the_disk_failed(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What that means for the node is for storage to say."""
    async with open_memory_cluster("a") as cluster:
        handle = await cluster.counter("a", replicas=1)
        stepped = trio.Event()

        async def finds(*_: object) -> NoReturn:
            stepped.set()
            raise StorageFailed("the disk failed")

        with monkeypatch.context() as patch:
            patch.setattr(cluster["a"].reconciler, "_step", finds)
            patch.setattr(cluster["a"].reconciler, "_differs", lambda group: group.number == handle.group)
            cluster["a"].reconciler.wake()
            await stepped.wait()
        await lives(cluster, "a")
