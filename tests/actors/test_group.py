"""The group actor: what it applies, and what of its own breaks without breaking the node."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from random import Random

import pytest
import trio
from trio.testing import MockClock

from tests.actors.cluster import Counter, VirtualClock, open_memory_cluster, until
from tests.storage.helpers import GatedRunner, opened
from trimaran import open_group
from trimaran.actors.alarm import Alarms
from trimaran.actors.cluster.meta_state import META_GROUP
from trimaran.actors.groups import Birth, Groups
from trimaran.actors.peers.requests import PeerLost, Shape
from trimaran.actors.raft.membership import Membership
from trimaran.actors.raft.messages import Append, Now, PeerMessage
from trimaran.actors.raft.state import GroupState, RaftOptions
from trimaran.actors.reads import READ_SECONDS
from trimaran.actors.replica.group import Group, NotDone
from trimaran.actors.replica.pass_time import PassTime
from trimaran.actors.replica.repair import Repair
from trimaran.actors.replica.snapshots import Snapshots
from trimaran.actors.replica.user_machine import UserMachine
from trimaran.codec import EntryType, Kind, make_chunk, seal_batch
from trimaran.storage import BatchRecord, GroupCreate, MemoryDisk, Storage
from trimaran.storage.manifest import Manifest
from trimaran.storage.turns import Turns

GROUP, INCARNATION = 5, 9
ME, LEADER, OTHER = 1, 2, 3


class Around:
    """A node that hears nothing, and frames that go nowhere."""

    def send(self, peer: int, message: PeerMessage) -> None:
        return

    def on_role(self, group: Group) -> None:
        return


class Frames:
    def is_up(self, peer: int) -> bool:
        return False

    def send(self, *frame: object) -> bool:
        return False

    async def ask(
        self, peer: int, method: str, argument: object, seconds: float, shape: Shape = object
    ) -> object:
        raise PeerLost

    def name_of(self, node: int) -> str:
        return str(node)


def batch(index: int, term: int, text: bytes, previous_term: int = 1) -> bytes:
    return seal_batch(
        [make_chunk([(EntryType.OPAQUE, text)])],
        kind=Kind.NORMAL,
        group=GROUP,
        incarnation=INCARNATION,
        index=index,
        term=term,
        previous_term=previous_term,
        time=index,
    )


@asynccontextmanager
async def running(
    machine: Counter,
    stored: Sequence[bytes] = (),
    *,
    runner: GatedRunner | None = None,
    log_bytes: int = 1 << 20,
    manifest: Manifest | None = None,
) -> AsyncIterator[tuple[Group, Storage]]:
    """A follower of three, with these batches of term 1 on its disk."""
    async with opened(MemoryDisk(), runner=runner) as storage, trio.open_nursery() as nursery:
        storage.append([GroupCreate(GROUP, INCARNATION, "counter", "hits", b"")])
        storage.append([BatchRecord(each) for each in stored])
        await storage.drain()
        state = GroupState.recovered(
            group=GROUP,
            incarnation=INCARNATION,
            node=ME,
            options=RaftOptions(),
            randomness=Random(1),
            now=Now(trio.current_time(), 0),
            settled=Membership.of((ME, LEADER, OTHER)),
            term=1,
            entries=[(index, 1, Kind.NORMAL, len(each)) for index, each in enumerate(stored, 1)],
        )
        files = storage.group_files(GROUP, INCARNATION)
        snapshots = Snapshots(files, Frames(), log_bytes, log_bytes, manifest, 1)
        made = UserMachine("counter", machine)
        repair, turns = Repair(storage, Frames(), Frames()), Turns()
        group = Group(
            "hits",
            state,
            made,
            files,
            storage,
            PassTime(VirtualClock(), turns),
            Alarms(turns.through),
            turns,
            Around(),
            snapshots,
            repair,
        )
        await nursery.start(group.run)
        yield group, storage
        nursery.cancel_scope.cancel()


def append(*batches: bytes, term: int, previous: int, commit: int) -> Append:
    return Append(
        group=GROUP,
        incarnation=INCARNATION,
        sender=LEADER,
        term=term,
        previous_index=previous,
        previous_term=min(previous, 1),
        commit=commit,
        session=1,
        batches=batches,
    )


async def test_a_sync_that_wakes_no_follower_is_seen_by_who_waits_for_it(autojump_clock: MockClock) -> None:
    async with running(Counter()) as (group, storage):
        group.deliver(append(batch(1, 1, b"one", previous_term=0), term=1, previous=0, commit=0))
        await trio.testing.wait_all_tasks_blocked()
        await storage.drain()
        assert group.state.log.synced == 0, "nobody was woken, or this test tells nothing"
        with trio.fail_after(0.1):  # below any timeout that would wake the follower
            await group.wait_synced(1)


async def test_who_waits_for_a_sync_is_woken_by_it(autojump_clock: MockClock) -> None:
    runner = GatedRunner()
    async with running(Counter(), runner=runner) as (group, _), trio.open_nursery() as nursery:
        runner.hold()
        group.deliver(append(batch(1, 1, b"one", previous_term=0), term=1, previous=0, commit=0))
        await runner.waiting.wait()
        woken = trio.Event()

        async def wait() -> None:
            await group.wait_synced(1)
            woken.set()

        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        with trio.fail_after(0.1):
            runner.gate.set()
            await woken.wait()


async def test_applied_is_what_the_log_has_not_what_the_disk_still_has(autojump_clock: MockClock) -> None:
    counter, runner = Counter(), GatedRunner()
    stored = [batch(1, 1, b"first"), batch(2, 1, b"given up")]
    async with running(counter, stored, runner=runner) as (group, _):
        runner.hold()  # the others are a majority, and faster than this disk
        group.deliver(append(batch(2, 2, b"in its place"), term=2, previous=1, commit=2))
        await runner.waiting.wait()
        await trio.sleep(0.1)
        assert b"given up" not in counter.seen
        runner.gate.set()
        await group.wait_applied(2)
        assert counter.seen == [b"first", b"in its place"]


class Broken(Counter):
    """Raises where it is told to."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self.where = where

    def snapshot(self) -> bytes:
        if self.where == "snapshot":
            raise ZeroDivisionError
        return "text" if self.where == "text" else super().snapshot()  # type: ignore[return-value]  # what a wrong machine does

    def restore(self, state: bytes) -> None:
        if self.where == "restore":
            raise ZeroDivisionError
        super().restore(state)


@pytest.mark.parametrize("where", ["snapshot", "text"])
async def test_a_machine_that_makes_no_snapshot_stops_its_replica_alone(
    autojump_clock: MockClock, where: str
) -> None:
    async with running(Broken(where), log_bytes=1) as (group, storage):
        group.deliver(append(batch(1, 1, b"x", 0), term=1, previous=0, commit=1))
        with pytest.raises(NotDone):
            await group.wait_applied(2)
        assert "'counter' failed making a snapshot at index 1" in group.failed
        assert ("not bytes" if where == "text" else "ZeroDivisionError") in group.failed
        await storage.drain()


async def test_a_machine_that_refuses_its_snapshot_waits_for_another_one(autojump_clock: MockClock) -> None:
    manifest = Manifest(
        group=GROUP,
        incarnation=INCARNATION,
        index=7,
        term=1,
        members=Membership.of((ME,)).encode(),
        time=1,
        kind="counter",
        rolling_hash=1,
        state=UserMachine("counter", Counter()).capture().state,
    )
    async with running(Broken("restore"), manifest=manifest) as (group, storage):
        await until(lambda: "waits for a snapshot" in group.repair.waits_for)
        assert group.state.unrestored and group.snapshots.manifest is None and not group.failed
        assert group.applier.applied == 0
        await storage.drain()


async def test_a_peer_that_breaks_raft_stops_the_replica_not_the_node(autojump_clock: MockClock) -> None:
    async with running(Counter(), [batch(1, 1, b"first")]) as (group, storage):
        group.deliver(append(term=1, previous=1, commit=1))
        await group.wait_applied(1)
        group.deliver(replace(append(term=1, previous=1, commit=1), sender=OTHER))
        with pytest.raises(NotDone):
            await group.wait_applied(2)
        assert "two leaders in term 1" in group.failed
        await storage.drain()


async def test_a_group_that_is_stopped_while_it_reads_its_snapshot_stops_alone(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_memory_cluster("a") as cluster:
        group = (await cluster.counter("a", replicas=1)).group
        await cluster.crash("a")
        restore = Group._restore

        async def slowly(self: Group) -> None:
            await trio.sleep(2 if self.number == group else 0)
            await restore(self)

        monkeypatch.setattr(Group, "_restore", slowly)
        node = await cluster.start("a")
        await until(lambda: node.groups.get(group) is not None)
        node.groups.fail(group, "somebody said so")
        await until(node.ready.is_set)
        stopped = node.groups.get(group)
        assert stopped is not None and stopped.failed == "somebody said so"


async def test_what_the_log_says_is_deleted_is_not_hosted_by_an_older_meta(autojump_clock: MockClock) -> None:
    async with open_memory_cluster("a") as cluster:
        node = cluster["a"]
        group = (await cluster.counter("a", replicas=1)).group
        old = node.state.groups[group]
        await node.desk.propose_meta({"op": "delete_group", "name": "hits"})
        await until(lambda: node.groups.get(group) is None)
        await until(lambda: node.storage.was_deleted(group, old.incarnation))
        await node.hosting._host(old)
        assert node.groups.get(group) is None
        await cluster.crash("a")
        node = await cluster.start("a")
        await until(node.ready.is_set)
        await node.hosting._host(old)
        assert node.groups.get(group) is None


def noting_what_is_made(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The groups that a node makes from now on."""
    made: list[int] = []
    create = Groups.create

    async def noted(self: Groups, birth: Birth, *, campaign: bool) -> Group:
        made.append(birth.group)
        return await create(self, birth, campaign=campaign)

    monkeypatch.setattr(Groups, "create", noted)
    return made


async def test_a_deleted_group_is_not_made_again_when_its_record_is_gone_with_its_segment(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it took until this node learnt of the deletion once more would be acknowledged, and lost."""
    async with open_memory_cluster("a") as cluster:
        node = cluster["a"]
        group = (await cluster.counter("a", replicas=1)).group
        old = node.state.groups[group]
        await node.desk.propose_meta({"op": "delete_group", "name": "hits"})
        await until(lambda: node.groups.get(group) is None)
        await cluster.crash("a")
        monkeypatch.setattr(Storage, "was_deleted", lambda *_: False)
        made = noting_what_is_made(monkeypatch)
        node = await cluster.start("a")
        await until(node.hosting._can_tell_what_is_new)
        assert await node.hosting._host(old)
        assert not made


async def test_a_deleted_group_is_not_made_anew_once_its_deletion_is_no_more_in_the_log(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_memory_cluster() as cluster:
        leader = cluster.leader(META_GROUP)
        name = next(each for each in cluster.members if each != leader)
        old = cluster[name].state.groups[(await cluster.counter(name)).group]
        await cluster.crash(leader)
        # A vote is written with what is committed by then: the group, and not its deletion.
        await until(lambda: len(cluster.leaders(META_GROUP)) == 1)
        await cluster.start(leader)
        await cluster.ready()
        node = cluster[name]
        await node.desk.propose_meta({"op": "delete_group", "name": "hits"})
        await until(lambda: node.storage.was_deleted(old.group, old.incarnation))
        other = await cluster.counter(name)
        for _ in range(200):
            await other.propose(b"." * 12_000)
        await cluster.crash(name)
        made = noting_what_is_made(monkeypatch)
        node = await cluster.start(name)
        assert not node.storage.was_deleted(old.group, old.incarnation)
        await cluster.ready()
        assert node.groups.get(other.group) is not None
        assert made == []


async def test_a_node_without_a_majority_of_meta_asks_once_for_all_groups_that_it_may_have_to_make(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_memory_cluster() as cluster:
        leader = cluster.leader(META_GROUP)
        name = next(each for each in cluster.members if each != leader)
        for number in range(5):
            await open_group(cluster[name], f"hits{number}", machine="counter", replicas=3)
        await cluster.crash(leader)
        await until(lambda: len(cluster.leaders(META_GROUP)) == 1)  # a vote is written with what is committed
        await cluster.start(leader)
        await cluster.ready()
        node = cluster[name]
        for number in range(5):
            await node.desk.propose_meta({"op": "delete_group", "name": f"hits{number}"})
        await until(lambda: [group.number for group in node.groups.hosted()] == [META_GROUP])
        for each in cluster.members:
            await cluster.crash(each)
        monkeypatch.setattr(Storage, "was_deleted", lambda *_: False)  # as once its segment is freed
        node = await cluster.start(name)
        await until(lambda: bool(node.hosting.missing), seconds=READ_SECONDS + 1)
        assert len(node.hosting.missing) > 2
        assert all("a majority of the meta group" in why for why in node.hosting.missing)
