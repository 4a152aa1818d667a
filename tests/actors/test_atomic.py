"""Batches that are published as one, in a cluster: all of it or nothing, on every replica."""

import json
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from tests.actors.cluster import Cluster, open_memory_cluster, until
from tests.actors.consumers import Harness, harness
from tests.actors.nats_client import MemoryClient
from tests.actors.test_upgrade import levels, upgrade
from trimaran.actors.gateway import batches
from trimaran.actors.peers.wire import PROTOCOL_VERSION
from trimaran.actors.stream.together import ATOMIC_SINCE


async def add(
    client: MemoryClient, sequence: int, *, name: str = "b", end: str = "", size: int = 1
) -> dict[str, Any]:
    """One message of a batch, and what the publisher hears."""
    headers = {"Nats-Batch-Id": name, "Nats-Batch-Sequence": str(sequence)}
    if end:
        headers["Nats-Batch-Commit"] = end
    inbox = client.inbox()
    client.publish_with("s.1", headers, b"m" * size, inbox)
    [answer] = await client.take(inbox, seconds=20.0)
    return dict(json.loads(answer.payload)) if answer.payload else {}


def sizes(cluster: Cluster, it: Harness) -> set[int]:
    return {it.machine(name).info().messages for name in cluster.members}


@pytest.mark.parametrize("at", ["a", "b", "c"])
async def test_a_batch_is_on_every_replica_once_it_ends(autojump_clock: MockClock, at: str) -> None:
    async with harness("a", "b", "c", at=at, allow_atomic=True) as it:
        for number in range(1, 5):
            assert await add(it.client, number) == {}
        assert sizes(it.cluster, it) == {0}
        assert await add(it.client, 5, end="1") == {"stream": "S", "seq": 5, "batch": "b", "count": 5}
        await until(lambda: sizes(it.cluster, it) == {5})


async def test_a_batch_outlives_its_leader_whole_or_not_at_all(autojump_clock: MockClock) -> None:
    async with harness("a", "b", "c", allow_atomic=True) as it:
        client = await it.connect(next(name for name in it.cluster.members if name != it.leader))
        for batch in range(1, 6):
            for number in range(1, 4):
                await add(client, number, name=str(batch))
            if batch == 3:
                await it.cluster.crash(it.leader, power=True)
            answer = await add(client, 4, name=str(batch), end="1")
            assert answer == {"stream": "S", "seq": 4 * batch, "batch": str(batch), "count": 4}
        for name, member in it.cluster.members.items():
            if member.node is None:
                await it.cluster.start(name)
        await it.cluster.ready()
        await until(lambda: sizes(it.cluster, it) == {20})


async def test_a_batch_that_nobody_ends_is_forgotten(autojump_clock: MockClock) -> None:
    async with harness(allow_atomic=True) as it:
        await add(it.client, 1)
        await trio.sleep(batches.PATIENCE_SECONDS)
        answer = await add(it.client, 2, end="1")
        assert answer["error"]["err_code"] == 10176
        assert (await it.client.api("STREAM.INFO.S"))["state"]["messages"] == 0


async def test_open_batches_take_bounded_memory(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "MOST_BYTES", 10_000)
    async with harness(allow_atomic=True) as it:
        for number in range(10):
            assert await add(it.client, 1, name=str(number), size=1000) == {}
        answer = await add(it.client, 1, name="one more")
        assert answer["error"]["err_code"] == 10210
        assert (await add(it.client, 2, name="3", end="1"))["count"] == 2
        assert await add(it.client, 1, name="one more") == {}


async def test_a_batch_that_fits_no_entry_is_refused(autojump_clock: MockClock) -> None:
    async with harness(allow_atomic=True) as it:
        number, answer = 0, dict[str, Any]()
        while not answer:
            number += 1
            answer = await add(it.client, number, size=10_000)
        assert answer["error"]["err_code"] == 10054 and 9 < number < 14
        answer = await add(it.client, number, end="1")
        assert answer["error"]["err_code"] == 10176


async def test_what_is_published_before_a_batch_is_stored_before_it(autojump_clock: MockClock) -> None:
    async with harness(allow_atomic=True) as it:
        inbox = it.client.inbox()
        for number in range(1, 4):
            it.client.publish("s.1", b"m", inbox)
            headers = {"Nats-Batch-Id": "b", "Nats-Batch-Sequence": str(number)}
            it.client.publish_with("s.2", headers | ({"Nats-Batch-Commit": "1"} if number == 3 else {}), b"m")
        it.client.publish("s.1", b"m", inbox)
        answers = [json.loads(each.payload)["seq"] for each in await it.client.take(inbox, 4)]
        assert answers == [1, 2, 3, 7]


async def test_batches_wait_until_every_node_knows_them(autojump_clock: MockClock) -> None:
    async with open_memory_cluster("a", "b", speaks={"b": ATOMIC_SINCE - 1}) as cluster:
        client = await MemoryClient.connect(cluster.members["a"].port)
        wanted: dict[str, object] = {"name": "S", "subjects": ["s.>"]}
        assert "error" in await client.api("STREAM.CREATE.S", **wanted, allow_atomic=True)
        assert "error" not in await client.api("STREAM.CREATE.S", **wanted)
        assert "error" in await client.api("STREAM.UPDATE.S", **wanted, allow_atomic=True)
        await upgrade(cluster, "b")
        await until(lambda: levels(cluster) == {PROTOCOL_VERSION})
        assert "error" not in await client.api("STREAM.UPDATE.S", **wanted, allow_atomic=True)
