"""Streams change their number of replicas under load: nothing is lost, nothing is there twice (S7, S14)."""

import logging
from collections.abc import Awaitable, Callable

import pytest
import trio
from trio.testing import MockClock

from tests.actors.cluster import KIB, Cluster, open_memory_cluster, until
from tests.actors.load import STREAM, ask, assignment, load, machines, scale
from trimaran import NotApplied, NotDone
from trimaran.actors.cluster.meta_state import META_GROUP
from trimaran.actors.raft.outcomes import Reason
from trimaran.actors.reads import Reads
from trimaran.codec import Kind, read_header

FIVE = ("a", "b", "c", "d", "e")


async def test_one_three_five_three_one_under_load(autojump_clock: MockClock) -> None:
    async with open_memory_cluster(*FIVE) as cluster, load(cluster, "a", 1) as running:
        for replicas in (3, 5, 3, 1):
            before = len(running.acknowledged)
            await scale(cluster, "b", replicas)
            await until(lambda: len(running.acknowledged) > before + 20)


async def test_nodes_leave_a_stream_and_come_back_to_it_again_and_again(autojump_clock: MockClock) -> None:
    async with open_memory_cluster() as cluster, load(cluster, "a", 3) as running:
        for replicas in (1, 3, 1, 3, 2, 3):
            await scale(cluster, "c", replicas)
        before = len(running.acknowledged)
        await until(lambda: len(running.acknowledged) > before + 20)


@pytest.mark.parametrize("power", [False, True])
async def test_crashes_while_scaling_lose_nothing(autojump_clock: MockClock, power: bool) -> None:
    async with open_memory_cluster(*FIVE) as cluster, load(cluster, "a", 3):
        for replicas in (5, 1, 3):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(scale, cluster, "a", replicas)
                for name in ("b", "c", "d", "e"):
                    await trio.sleep(0.05)
                    await cluster.crash(name, power=power)
                    await cluster.start(name)
                    await cluster.ready(name)


async def test_all_nodes_crash_after_a_scale_down_and_only_the_last_replica_serves(
    autojump_clock: MockClock,
) -> None:
    async with open_memory_cluster() as cluster:
        async with load(cluster, "a", 3) as running:
            await scale(cluster, "a", 1)
        group = assignment(cluster, "a").group
        for name in "abc":
            await cluster.crash(name)
        for name in "abc":
            await cluster.start(name)
        await cluster.ready()
        await until(lambda: len(machines(cluster, group)) == 1)
        [machine] = machines(cluster, group).values()
        assert machine.info().messages == len(running.acknowledged)


async def test_growing_from_one_replica_announces_the_snapshot_first(autojump_clock: MockClock) -> None:
    """Rule S7: the snapshot entry is in the log, alone in its batch, before the first newcomer."""
    async with open_memory_cluster() as cluster, load(cluster, "a", 1):
        leader = cluster.leader(assignment(cluster, "a").group)
        await scale(cluster, "a", 3)
        kinds = await kinds_of_log(cluster, leader)
        assert Kind.SNAPSHOT in kinds[: kinds.index(Kind.MEMBERSHIP)]


async def kinds_of_log(cluster: Cluster, name: str) -> list[Kind]:
    group = cluster[name].groups.get(assignment(cluster, name).group)
    assert group is not None
    log = group.state.log
    batches = await cluster[name].storage.read_batches(group.number, log.first_index, log.synced, 1 << 30)
    return [Kind(read_header(batch).kind) for batch in batches]


# --- the disk of replicas that moved away -------------------------------------------------------------------


def has_files(cluster: Cluster, name: str, group: int) -> bool:
    disk = cluster.members[name].disk
    return any(each.startswith(f"{group}-") for each in disk.listdir("groups"))


def keeps(cluster: Cluster, name: str, group: int) -> tuple[int, int] | None:
    """(bytes of its log, term) of a replica that may not run; None if its node has forgotten it."""
    storage = cluster[name].storage
    log = storage._index.groups.get(group)
    return (sum(log.lengths), log.term) if log is not None else None


async def test_a_replica_that_moved_away_frees_its_disk_and_keeps_its_promises(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with open_memory_cluster() as cluster, load(cluster, "a", 3) as running:
        group = assignment(cluster, "a").group
        await until(lambda: all(has_files(cluster, name, group) for name in "abc"))
        await until(lambda: all((keeps(cluster, name, group) or (0,))[0] > 32 * KIB for name in "abc"))
        await scale(cluster, "a", 1)
        [stays] = machines(cluster, group)
        gone = sorted(set("abc") - {stays})
        await until(lambda: not any(has_files(cluster, name, group) for name in gone))
        assert has_files(cluster, stays, group)
        for name in gone:
            size, term = keeps(cluster, name, group) or (0, 0)
            assert size < 8 * KIB and term > 0, "all but what it promised beyond its commit index"
        for name in gone:  # a start does not bring it back
            await cluster.crash(name, power=True)
            await cluster.start(name)
            await cluster.ready(name)
            assert cluster[name].groups.get(group) is None and not has_files(cluster, name, group)
        assert "comes back" not in caplog.text
        await scale(cluster, "a", 3)
        before = len(running.acknowledged)
        await until(lambda: len(running.acknowledged) > before + 20)
        await cluster.ready()
        first, other = [cluster[name].groups.get(group) for name in gone]
        assert first is not None and other is not None and not first.state.faulty and not other.state.faulty
    assert "comes back" in caplog.text and "damaged" not in caplog.text, "that is no alarm"


async def test_nothing_is_given_up_on_the_word_of_a_node_that_may_be_behind(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nobody_confirms(self: Reads, number: int) -> None:
        raise NotDone(NotApplied(Reason.NO_LEADER))

    async with open_memory_cluster() as cluster, load(cluster, "a", 3):
        group = assignment(cluster, "a").group
        await until(lambda: all(has_files(cluster, name, group) for name in "abc"))
        with monkeypatch.context() as patch:
            barrier = Reads.barrier
            await scale(cluster, "a", 3)
            patch.setattr(Reads, "barrier", nobody_confirms)
            for name in "abc":
                patch.setattr(cluster[name].reconciler, "_catch_up", lambda: barrier_of(cluster, barrier))
            await scale(cluster, "a", 1)
            await trio.sleep(10)
            assert all(has_files(cluster, name, group) for name in "abc")
        await until(lambda: sum(has_files(cluster, name, group) for name in "abc") == 1)


async def barrier_of(cluster: Cluster, barrier: Callable[[Reads, int], Awaitable[None]]) -> None:
    """What the reconcilers need is not what this test forbids."""
    await barrier(cluster["a"].reads, META_GROUP)


async def test_a_stream_that_is_deleted_is_forgotten_where_it_was_before(autojump_clock: MockClock) -> None:
    async with open_memory_cluster() as cluster:
        async with load(cluster, "a", 3):
            group = assignment(cluster, "a").group
            await scale(cluster, "a", 1)
        [stays] = machines(cluster, group)
        gone = sorted(set("abc") - {stays})
        await until(lambda: not any(has_files(cluster, name, group) for name in gone))
        await cluster.crash(gone[0])
        await cluster[stays].desk.propose_meta({"op": "delete_stream", "name": STREAM})
        await until(lambda: keeps(cluster, gone[1], group) is None)
        await cluster.start(gone[0])  # it was away, and hears of both
        await until(lambda: keeps(cluster, gone[0], group) is None)


@pytest.mark.parametrize("order", [0, 1])
async def test_a_dead_replica_leaves_before_a_living_one(autojump_clock: MockClock, order: int) -> None:
    """Two voters of which one is dead commit nothing, not even the change that would leave one."""
    async with open_memory_cluster() as cluster, load(cluster, "a", 3) as running:
        group = assignment(cluster, "a").group
        if cluster.leaders(group) != ["a"]:
            await cluster[cluster.leader(group)].desk.transfer(group, "a")
            await until(lambda: cluster.leaders(group) == ["a"])
        others = sorted("bc", key=lambda name: cluster[name].me.node)
        dead = others[order]
        await cluster.crash(dead)
        answer = await ask(
            cluster,
            "a",
            f"$JS.API.STREAM.UPDATE.{STREAM}",
            name=STREAM,
            subjects=["orders.>"],
            num_replicas=1,
        )
        assert "error" not in answer, answer
        await until(lambda: len(cluster["a"].groups.led_by_me()[group].state.membership.voters) == 1)
        before = len(running.acknowledged)
        await until(lambda: len(running.acknowledged) > before + 20)
        await cluster.start(dead)
