"""What clients get while a stream has no leader: an answer in bounded time that says what is known."""

import json
from typing import Any

import trio
from trio.testing import MockClock

from tests.actors.cluster import Cluster, open_memory_cluster, until
from tests.actors.nats_client import MemoryClient, Received
from trimaran.actors.gateway.publishing import UNKNOWN
from trimaran.actors.proposals import HOLD_SECONDS, LOOK_SECONDS

SECOND = 1_000_000_000
ELECTION_SECONDS = 3.0
"""More than an election takes with the default options."""


async def start(cluster: Cluster) -> tuple[MemoryClient, str, str]:
    """A stream S on all nodes, a client at a node that does not lead it, that node, and the one that does."""
    client = await MemoryClient.connect(cluster.members["a"].port)
    await client.api("STREAM.CREATE.S", name="S", subjects=["s.>"], num_replicas=3)
    leader: str = (await client.api("STREAM.INFO.S"))["cluster"]["leader"]
    other = next(name for name in "abc" if name != leader)
    await client.fill("s.first")
    return await MemoryClient.connect(cluster.members[other].port), other, leader


def told(answer: Received) -> dict[str, Any]:
    return dict(json.loads(answer.payload)) if answer.payload else {"status": answer.status}


async def state(client: MemoryClient) -> dict[str, Any]:
    return dict((await client.api("STREAM.INFO.S"))["state"])


async def test_a_publish_waits_for_the_next_leader(autojump_clock: MockClock) -> None:
    async with open_memory_cluster() as cluster:
        client, _, leader = await start(cluster)
        await cluster.crash(leader)
        began = trio.current_time()
        inboxes = [client.inbox() for _ in range(20)]
        for number, inbox in enumerate(inboxes):
            client.publish(f"s.{number}", b"x", inbox)
        answers = [told((await client.take(inbox, 1, 15.0))[0]) for inbox in inboxes]
        assert [answer.get("seq") for answer in answers] == list(range(2, 22)), "in order, none refused"
        assert trio.current_time() - began < HOLD_SECONDS + LOOK_SECONDS


async def test_without_a_majority_the_answer_is_that_nobody_took_it(autojump_clock: MockClock) -> None:
    async with open_memory_cluster() as cluster:
        client, here, _ = await start(cluster)
        for name in "abc":
            if name != here:
                await cluster.crash(name)
        await trio.sleep(ELECTION_SECONDS)
        began = trio.current_time()
        answer = await client.request("s.x", b"x")
        took = trio.current_time() - began
        assert answer.status == "503" and not answer.payload, "what clients retry by themselves"
        assert HOLD_SECONDS <= took <= HOLD_SECONDS + 2 * LOOK_SECONDS, "held a bounded time"
        for name in "abc":
            if name != here:
                await cluster.start(name)
        await cluster.ready()
        assert (await state(client))["messages"] == 1, "503 says that it is not stored, now or later"


async def test_an_end_that_nobody_knows_has_an_answer_of_its_own(autojump_clock: MockClock) -> None:
    async with open_memory_cluster() as cluster:
        _, _, leader = await start(cluster)
        client = await MemoryClient.connect(cluster.members[leader].port)
        for name in "abc":
            if name != leader:
                await cluster.crash(name)
        inbox = client.inbox()
        client.publish_with("s.x", {"Nats-Msg-Id": "one"}, b"x", inbox)
        [answer] = await client.take(inbox, 1, 15.0)
        error = told(answer)["error"]
        assert error["err_code"] == UNKNOWN.err_code and error["description"] == UNKNOWN.description
        assert "retry with the same Nats-Msg-Id" in error["description"]
        for name in "abc":
            if name != leader:
                await cluster.start(name)
        await cluster.ready()
        inbox = client.inbox()
        client.publish_with("s.x", {"Nats-Msg-Id": "one"}, b"x", inbox)
        [again] = await client.take(inbox, 1, 15.0)
        assert told(again)["seq"] == 2
        assert (await state(client))["messages"] == 2, "once, whatever became of the first attempt"


async def test_what_was_on_its_way_to_a_leader_that_died_is_unknown(autojump_clock: MockClock) -> None:
    async with open_memory_cluster() as cluster:
        client, other, leader = await start(cluster)
        for name in "abc":
            if name != other:  # it takes it, and does not get to say so
                cluster.members[name].runner.sync_seconds = 0.9
        inbox = client.inbox()
        client.publish_with("s.x", {"Nats-Msg-Id": "one"}, b"x", inbox)
        await until(lambda: any(node.proposals.statistics().in_flight for node in running(cluster)))
        await cluster.crash(leader)
        for name in "abc":
            cluster.members[name].runner.sync_seconds = 0.0
        [answer] = await client.take(inbox, 1, 15.0)
        assert told(answer)["error"]["err_code"] == UNKNOWN.err_code
        inbox = client.inbox()
        client.publish_with("s.x", {"Nats-Msg-Id": "one"}, b"x", inbox)
        [again] = await client.take(inbox, 1, 15.0)
        assert told(again)["seq"] == 2
        assert (await state(client))["messages"] == 2


async def test_a_handover_under_load_is_told_of_and_loses_nothing(autojump_clock: MockClock) -> None:
    """Each publish ends as stored or as a 503 that is true; nothing is unknown when a leader steps down."""
    async with open_memory_cluster() as cluster:
        client, _, _ = await start(cluster)
        stored = refused = 0
        for number in range(300):
            if number in (100, 200):
                assert (await client.api("STREAM.LEADER.STEPDOWN.S"))["success"] is True
            answer = await client.request("s.x", b"%d" % number)
            if answer.status == "503":
                refused += 1
            else:
                assert "seq" in told(answer), told(answer)
                stored += 1
        assert stored + refused == 300 and refused <= 2
        assert (await state(client))["messages"] == 1 + stored


async def test_pulls_end_with_leadership_change(autojump_clock: MockClock) -> None:
    """Told by the old leader when it steps down, and by the client's own node when the leader died."""
    async with open_memory_cluster() as cluster:
        client, _, leader = await start(cluster)
        config = {"durable_name": "c", "ack_policy": "explicit", "filter_subject": "s.later"}
        made = await client.api("CONSUMER.DURABLE.CREATE.S.c", stream_name="S", config=config)
        assert made["name"] == "c", made
        waiting = client.pull("S.c", batch=1, expires=60 * SECOND)
        await trio.sleep(0.5)
        assert (await client.api("STREAM.LEADER.STEPDOWN.S"))["success"] is True
        [ended] = await client.take(waiting, 1, 5.0)
        assert ended.status == "409 Leadership Change"
        group = next(each.group for each in cluster["a"].state.streams() if each.name == "S")
        await until(lambda: bool(cluster.leaders(group)))
        leader = cluster.leader(group)
        other = next(name for name in "abc" if name != leader)
        client = await MemoryClient.connect(cluster.members[other].port)
        waiting = client.pull("S.c", batch=1, expires=60 * SECOND)
        await trio.sleep(0.5)
        await cluster.crash(leader)
        [ended] = await client.take(waiting, 1, 10.0)
        assert ended.status == "409 Leadership Change"
        again = client.pull("S.c", batch=1, expires=30 * SECOND)
        await client.fill("s.later")
        [message] = await client.take(again, 1, 20.0)
        if message.status:  # asked before there was a leader: as clients do, once more
            assert message.status == "409 Leadership Change"
            [message] = await client.fetch("S.c", 1)
        assert message.payload == b"m0"


async def test_a_pull_that_came_with_an_acknowledgement_is_told_of_a_dead_leader(
    autojump_clock: MockClock,
) -> None:
    async with open_memory_cluster() as cluster:
        client, _, leader = await start(cluster)
        other = next(name for name in "abc" if name != leader)
        client = await MemoryClient.connect(cluster.members[other].port)
        config = {"durable_name": "c", "ack_policy": "explicit"}
        await client.api("CONSUMER.DURABLE.CREATE.S.c", stream_name="S", config=config)
        [message] = await client.fetch("S.c", 1)
        waiting, at_once = client.inbox(), client.inbox()
        client.publish(message.reply, b'+NXT {"batch": 1, "expires": %d}' % (60 * SECOND), waiting)
        client.publish(message.reply, b'+NXT {"batch": 1, "no_wait": true}', at_once)
        assert (await client.take(at_once, 1))[0].status == "404 No Messages"
        await cluster.crash(leader)
        [ended] = await client.take(waiting, 1, 10.0)
        assert ended.status == "409 Leadership Change"
        assert await client.take(at_once, 1, 1.0) == []


def running(cluster: Cluster) -> list[Any]:
    return [member.node for member in cluster.members.values() if member.node is not None]
