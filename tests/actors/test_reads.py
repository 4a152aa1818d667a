"""Linearizable reads from any replica: what was acknowledged anywhere is seen, an old leader can't answer."""

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from tests.actors.cluster import Cluster, Counter, open_memory_cluster, until
from trimaran import GroupHandle, NotApplied, NotDone, Reason, open_stream
from trimaran.actors.peers.requests import Shape
from trimaran.actors.reads import READ_SECONDS, Reads


def followers(cluster: Cluster, group: int) -> list[str]:
    leader = cluster.leader(group)
    return [name for name in cluster.members if name != leader]


async def seen(handle: GroupHandle) -> list[bytes]:
    machine = await handle.read()
    assert isinstance(machine, Counter)
    return machine.seen


async def test_a_read_at_a_follower_sees_what_was_just_acknowledged(autojump_clock: MockClock) -> None:
    async with open_memory_cluster() as cluster:
        handle = await cluster.counter("a")
        near = GroupHandle(cluster[cluster.leader(handle.group)], handle.group)
        far = GroupHandle(cluster[followers(cluster, handle.group)[0]], handle.group)
        for number in range(5):
            await near.propose(b"%d" % number)
            assert cluster.counted(far.node.options.name, handle.group) != cluster.counted(
                near.node.options.name, handle.group
            ), "the follower is told of the commit later, so a stale read shows less"
            assert await seen(far) == [b"%d" % n for n in range(number + 1)]


async def test_a_read_waits_until_its_own_replica_has_applied(autojump_clock: MockClock) -> None:
    async with open_memory_cluster() as cluster:
        handle = await cluster.counter("a")
        far = GroupHandle(cluster[followers(cluster, handle.group)[0]], handle.group)
        group = far.node.groups.get(handle.group)
        assert group is not None
        read = trio.Event()

        async def reader() -> None:
            assert await seen(far) == [b"1"]
            read.set()

        async with trio.open_nursery() as nursery:
            async with group.applier.exclusive:
                await handle.propose(b"1")
                nursery.start_soon(reader)
                await trio.sleep(1)
                assert not read.is_set()
            await read.wait()


async def test_a_question_on_its_way_is_too_old_for_whoever_comes_later(autojump_clock: MockClock) -> None:
    async with open_memory_cluster() as cluster:
        handle = await cluster.counter("a")
        near = GroupHandle(cluster[cluster.leader(handle.group)], handle.group)
        far = GroupHandle(cluster[followers(cluster, handle.group)[0]], handle.group)
        ask, answered, release = far.node.requests.ask, trio.Event(), trio.Event()

        async def slow(
            peer: int, method: str, argument: object, seconds: float, shape: Shape = object
        ) -> object:
            answer = await ask(peer, method, argument, seconds, shape)
            answered.set()
            await release.wait()
            return answer

        far.node.requests.ask = slow  # type: ignore[method-assign]  # a slow answer

        async def late_reader() -> None:
            assert await seen(far) == [b"1"]

        async with trio.open_nursery() as nursery:
            nursery.start_soon(far.read_barrier)
            await answered.wait()
            await near.propose(b"1")
            nursery.start_soon(late_reader)
            await trio.testing.wait_all_tasks_blocked()
            release.set()


async def test_readers_who_wait_together_share_one_round(autojump_clock: MockClock) -> None:
    async with open_memory_cluster() as cluster:
        handle = await cluster.counter("a")
        await handle.propose(b"1")
        leading = cluster[cluster.leader(handle.group)].groups.led_by_me()[handle.group].state.leading
        assert leading is not None
        before = leading.read_number
        async with trio.open_nursery() as nursery:
            for name in followers(cluster, handle.group):
                for _ in range(200):
                    nursery.start_soon(GroupHandle(cluster[name], handle.group).read_barrier)
        assert 1 <= leading.read_number - before <= 4, "two nodes, a question that went and one that waited"


async def test_a_read_goes_on_at_the_next_leader(autojump_clock: MockClock) -> None:
    async with open_memory_cluster() as cluster:
        handle = await cluster.counter("a")
        await handle.propose(b"1")
        leader = cluster.leader(handle.group)
        near = followers(cluster, handle.group)[0]
        await cluster.crash(leader)
        assert await seen(GroupHandle(cluster[near], handle.group)) == [b"1"]


async def test_without_a_majority_nobody_reads(autojump_clock: MockClock) -> None:
    async with open_memory_cluster() as cluster:
        handle = await cluster.counter("a")
        await handle.propose(b"1")
        leader = cluster.leader(handle.group)
        for name in followers(cluster, handle.group):
            await cluster.crash(name)
        began = trio.current_time()
        with pytest.raises(NotDone) as refused:
            await GroupHandle(cluster[leader], handle.group).read()
        assert isinstance(refused.value.outcome, NotApplied)
        assert refused.value.outcome.reason in (Reason.NO_LEADER, Reason.NO_ANSWER)
        assert trio.current_time() - began <= READ_SECONDS + 0.1
        assert cluster.counted(leader, handle.group) == [b"1"], (
            "the stale read is still there, under its name"
        )


async def test_a_node_that_ends_refuses_what_its_other_tasks_still_ask(autojump_clock: MockClock) -> None:
    async with open_memory_cluster() as cluster:
        handle = await cluster.counter("a")
        reads = Reads(handle.node.groups, handle.node.requests)
        async with trio.open_nursery() as nursery:
            await nursery.start(reads.run)
            nursery.cancel_scope.cancel()
        with pytest.raises(NotDone) as refused:
            await reads.barrier(handle.group)
        assert refused.value.outcome == NotApplied(Reason.CLOSED)


async def test_a_node_without_a_replica_has_nothing_to_read(autojump_clock: MockClock) -> None:
    async with open_memory_cluster() as cluster:
        handle = await cluster.counter("a", replicas=1)
        elsewhere = next(name for name in "abc" if cluster[name].groups.get(handle.group) is None)
        with pytest.raises(LookupError):
            await GroupHandle(cluster[elsewhere], handle.group).read_barrier()


async def test_a_message_is_read_at_any_replica_as_soon_as_it_is_acknowledged(
    autojump_clock: MockClock,
) -> None:
    async with open_memory_cluster() as cluster:
        streams = {
            name: await open_stream(cluster[name], "ORDERS", ["orders.>"], replicas=3) for name in "abc"
        }
        await until(lambda: len(cluster.leaders(streams["a"].group)) == 1)
        for number, name in enumerate("abcabc", start=1):
            stored = await streams[name].publish("orders.new", b"%d" % number)
            for reader in streams.values():
                message = await reader.get(stored.sequence)
                assert message is not None and message.payload == b"%d" % number
