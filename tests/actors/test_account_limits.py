"""An account's limits hold for the cluster, whatever node is asked and however many ask at once."""

from dataclasses import replace
from typing import Any

import trio
from trio.testing import MockClock

from tests.actors.cluster import until
from tests.actors.consumers import Harness, harness
from tests.actors.nats_client import MemoryClient
from trimaran.actors.stream.account_limits import AccountLimits
from trimaran.actors.usage import LOOK_SECONDS


def limit(it: Harness, limits: AccountLimits) -> None:
    for name in it.cluster.members:
        node = it.cluster[name]
        node._security = replace(node._security, limits=limits)


async def stored(client: MemoryClient, subject: str, count: int) -> int:
    """How many of so many publishes were taken; the others are beyond the account's limit."""
    answers = [(await client.request(subject, bytes(100))).payload for _ in range(count)]
    refused = sum(b'"err_code":10002,' in each for each in answers)
    assert refused + sum(b'"seq":' in each and b"error" not in each for each in answers) == count
    return count - refused


async def test_every_node_tells_what_all_of_them_hold(autojump_clock: MockClock) -> None:
    async with harness("a", "b", "c") as it:
        for name in "XYZ":
            await it.client.api(f"STREAM.CREATE.{name}", name=name, subjects=[name])
            await it.client.request(name, bytes(50))
        await it.client.fill("s.1")
        await it.consumer()
        await until(lambda: sum(it.machine(name).messages.size for name in it.cluster.members) == 3 * 35)
        answers: list[dict[str, Any]] = []
        for name in it.cluster.members:
            answer = await (await it.connect(name)).api("INFO")
            del answer["api"]
            answers.append(answer)
        assert answers[0] == answers[1] == answers[2]
        assert answers[0]["storage"] == 3 * 81 + 3 * 35 and answers[0]["consumers"] == 1


async def test_what_other_nodes_store_counts(autojump_clock: MockClock) -> None:
    async with harness("a", "b", "c") as it:
        limit(it, AccountLimits(max_storage=1000))
        for name in "XYZ":
            await it.client.api(f"STREAM.CREATE.{name}", name=name, subjects=[name])
        for name in "XYZ":
            await trio.sleep(2 * LOOK_SECONDS)
            assert await stored(it.client, name, 3) == (3 if name != "Z" else 1)
        await it.client.api("STREAM.PURGE.X")
        await trio.sleep(2 * LOOK_SECONDS)
        assert await stored(it.client, "Z", 5) == 3


async def test_who_creates_at_once_gets_no_more_than_one_after_another(autojump_clock: MockClock) -> None:
    async with harness("a", "b", "c") as it:
        limit(it, AccountLimits(max_streams=4, max_consumers=3))
        outcomes: list[object] = []

        async def create(subject: str, **body: object) -> None:
            client = await it.connect(sorted(it.cluster.members)[len(outcomes) % 3])
            answer = await client.api(subject, **body)
            outcomes.append(answer.get("error", {}).get("err_code"))

        async with trio.open_nursery() as nursery:
            for number in range(8):
                nursery.start_soon(
                    lambda n: create(f"STREAM.CREATE.T{n}", name=f"T{n}", subjects=[f"t{n}"]), number
                )
        assert outcomes.count(None) == 3 and outcomes.count(10027) == 5
        outcomes.clear()
        async with trio.open_nursery() as nursery:
            for number in range(8):
                config = {"durable_name": f"c{number}", "ack_policy": "explicit"}
                nursery.start_soon(
                    lambda c: create(f"CONSUMER.CREATE.S.{c['durable_name']}", stream_name="S", config=c),
                    config,
                )
        assert outcomes.count(None) == 3 and outcomes.count(10026) == 5


async def test_reserved_room_is_checked_for_every_replica(autojump_clock: MockClock) -> None:
    async with harness("a", "b", "c") as it:
        limit(it, AccountLimits(max_storage=1000))
        wanted: dict[str, object] = {"name": "T", "subjects": ["t"], "max_bytes": 400}
        answer = await it.client.api("STREAM.CREATE.T", **wanted, num_replicas=3)
        assert answer["error"]["err_code"] == 10047
        answer = await it.client.api("STREAM.CREATE.T", **wanted)
        assert "error" not in answer
        answer = await it.client.api("STREAM.UPDATE.T", **wanted, num_replicas=3)
        assert answer["error"]["err_code"] == 10047
