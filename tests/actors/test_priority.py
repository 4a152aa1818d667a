"""Priority groups over time and over leaders; who gets what is compared with the reference elsewhere."""

import re

import trio
from trio.testing import MockClock

from tests.actors.cluster import open_memory_cluster, until
from tests.actors.consumers import SECOND, Harness, harness
from tests.actors.nats_client import MemoryClient, Received
from tests.actors.test_upgrade import levels, upgrade
from trimaran.actors.peers.wire import PROTOCOL_VERSION
from trimaran.actors.stream.consumer_config import PRIORITY_SINCE

PINNED: dict[str, object] = {"priority_groups": ["A"], "priority_policy": "pinned_client"}
LONG = 3600 * SECOND


def pull(client: MemoryClient, batch: int = 1, **fields: object) -> str:
    return client.pull("S.c", batch=batch, group="A", **{"expires": LONG, **fields})


def pin_of(message: Received) -> str:
    found = re.search(r"Nats-Pin-Id: (\w{22})\r\n", message.headers)
    assert found, message
    return found[1]


async def pinned(it: Harness, inbox: str) -> str:
    """The pin of the client at an inbox, which gets the next message."""
    await it.client.fill("s.1")
    [message] = await it.client.take(inbox)
    return pin_of(message)


async def test_a_pinned_client_that_is_silent_is_followed_by_another(autojump_clock: MockClock) -> None:
    async with harness() as it:
        await it.consumer("c", **PINNED, priority_timeout=5 * SECOND)
        advisories = it.client.subscribe("$JS.EVENT.ADVISORY.CONSUMER.*.S.c")
        first, second = pull(it.client), pull(it.client)
        pin = await pinned(it, first)
        await trio.sleep(3)
        again = pull(it.client, id=pin)  # a sign of life
        assert await pinned(it, again) == pin
        await it.client.fill("s.1")
        assert await it.client.take(second, seconds=4.9) == []
        [message] = await it.client.take(second, seconds=0.2)
        assert pin_of(message) != pin
        [group] = (await it.info())["priority_groups"]
        assert group["group"] == "A" and group["pinned_client_id"] == pin_of(message)
        late = pull(it.client, id=pin)
        assert [each.status for each in await it.client.take(late)] == ["423 Nats-Pin-Id mismatch"]
        told = [each.payload for each in await it.client.take(advisories, 3)]
        assert [b'"reason":"timeout"' in each for each in told] == [False, True, False]


async def test_a_new_leader_pins_anew(autojump_clock: MockClock) -> None:
    async with harness("a", "b", "c") as it:
        await it.consumer("c", **PINNED)
        pin = await pinned(it, pull(it.client))
        old = it.leader
        await it.client.api("STREAM.LEADER.STEPDOWN.S")
        await until(lambda: it.cluster.leaders(it.group) not in ([], [old]))
        known = pull(it.client, id=pin)
        await it.client.fill("s.1")
        assert [each.status for each in await it.client.take(known)] == ["423 Nats-Wrong-Pin-Id"]
        [message] = await it.client.take(pull(it.client))
        assert pin_of(message) != pin and message.numbers[:2] == (1, 2)


async def test_a_consumer_that_gives_its_group_up_serves_everybody(autojump_clock: MockClock) -> None:
    async with harness() as it:
        await it.consumer("c", **PINNED, priority_timeout=5 * SECOND)
        advisories = it.client.subscribe("$JS.EVENT.ADVISORY.CONSUMER.*.S.c")
        await pinned(it, pull(it.client))
        await it.consumer()
        await it.client.fill("s.1")
        [message] = await it.client.fetch("S.c", 1)
        assert message.payload == b"m0" and not message.headers
        assert "priority_groups" not in await it.info()
        await trio.sleep(10)
        told = await it.client.take(advisories, 2, seconds=1.0)
        assert [each.subject for each in told] == ["$JS.EVENT.ADVISORY.CONSUMER.PINNED.S.c"]


async def test_what_did_not_go_out_is_the_same_clients(autojump_clock: MockClock) -> None:
    """An acknowledgement changes who takes messages: nobody waits for the next publish."""
    async with harness() as it:
        await it.consumer(priority_groups=["A"], priority_policy="overflow", max_ack_pending=2)
        helper = pull(it.client, 5, min_pending=2)
        await it.client.fill("s.1", "s.1", "s.1", "s.1")
        got = await it.client.take(helper, 2)
        assert len(got) == 2 and await it.client.take(helper, seconds=1.0) == []
        await it.ack(got[0])
        [third] = await it.client.take(helper, seconds=1.0)
        assert third.numbers[1] == 3


async def test_groups_wait_until_every_node_knows_them(autojump_clock: MockClock) -> None:
    async with open_memory_cluster("a", "b", speaks={"b": PRIORITY_SINCE - 1}) as cluster:
        client = await MemoryClient.connect(cluster.members["a"].port)
        await client.api("STREAM.CREATE.S", name="S", subjects=["s"])
        config = {"durable_name": "c", "ack_policy": "explicit", **PINNED}
        answer = await client.api("CONSUMER.CREATE.S.c", stream_name="S", config=config)
        assert answer["error"]["err_code"] == 10036
        await upgrade(cluster, "b")
        await until(lambda: levels(cluster) == {PROTOCOL_VERSION})
        answer = await client.api("CONSUMER.CREATE.S.c", stream_name="S", config=config)
        assert answer["config"]["priority_policy"] == "pinned_client"
