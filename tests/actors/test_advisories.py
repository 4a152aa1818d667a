"""What happened to streams and consumers is told to whoever listens, and into a stream that keeps it."""

import json
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from tests.actors.cluster import until
from tests.actors.consumers import SECOND, harness
from tests.actors.nats_client import MemoryClient
from trimaran.actors.delivery.advisories import Advisories


async def told(client: MemoryClient, inbox: str, count: int) -> list[tuple[str, dict[str, Any]]]:
    """Kind and fields of so many advisories, and no more."""
    found = [json.loads(each.payload) for each in await client.take(inbox, count + 1, seconds=1.0)]
    shown = [(each.pop("type").removeprefix("io.nats.jetstream.advisory.v1."), each) for each in found]
    for _, each in shown:
        assert len(each.pop("id")) == 22 and each.pop("timestamp").endswith("Z")
    assert len(shown) == count, shown
    return shown


@pytest.mark.parametrize("at", ["a", "b", "c"])
async def test_what_happens_to_streams_and_consumers_is_told(autojump_clock: MockClock, at: str) -> None:
    async with harness("a", "b", "c", at=at) as it:
        client = it.client
        streams = client.subscribe("$JS.EVENT.ADVISORY.STREAM.*.T")
        consumers = client.subscribe("$JS.EVENT.ADVISORY.CONSUMER.>")
        wanted: dict[str, object] = {"name": "T", "subjects": ["t"]}
        for _ in range(2):
            await client.api("STREAM.CREATE.T", **wanted)
        await client.api("STREAM.UPDATE.T", **wanted, max_msgs=5)
        await client.api("STREAM.DELETE.T")
        actions = [(kind, each["stream"], each["action"]) for kind, each in await told(client, streams, 3)]
        assert actions == [("stream_action", "T", each) for each in ("create", "modify", "delete")]
        for most in (2, 3):
            await it.consumer("c", max_deliver=most)
        await client.api("CONSUMER.PAUSE.S.c", pause_until="2500-01-01T00:00:00Z")
        await client.api("CONSUMER.DELETE.S.c")
        made, paused, gone = await told(client, consumers, 3)
        assert made == ("consumer_action", {"stream": "S", "consumer": "c", "action": "create"})
        assert paused[0] == "consumer_pause" and paused[1]["paused"] is True
        assert gone == ("consumer_action", {"stream": "S", "consumer": "c", "action": "delete"})
        config = {"ack_policy": "none", "inactive_threshold": SECOND}
        name = (await client.api("CONSUMER.CREATE.S", stream_name="S", config=config))["name"]
        await trio.sleep(5)
        shown = [(each["consumer"], each["action"]) for _, each in await told(client, consumers, 2)]
        assert shown == [(name, "create"), (name, "delete")]


async def test_a_new_leader_is_told_and_makes_no_consumer_new(autojump_clock: MockClock) -> None:
    async with harness("a", "b", "c") as it:
        await it.consumer("c")
        everything = it.client.subscribe("$JS.EVENT.ADVISORY.STREAM.>")
        consumers = it.client.subscribe("$JS.EVENT.ADVISORY.CONSUMER.>")
        old = it.leader
        await it.client.api("STREAM.LEADER.STEPDOWN.S")
        await until(lambda: it.cluster.leaders(it.group) not in ([], [old]))
        [(kind, shown)] = await told(it.client, everything, 1)
        assert kind == "stream_leader_elected" and shown["stream"] == "S" and shown["leader"] == it.leader
        assert {each["name"] for each in shown["replicas"]} == set(it.cluster.members) - {it.leader}
        assert await told(it.client, consumers, 0) == []


async def test_requests_are_audited(autojump_clock: MockClock) -> None:
    async with harness("a", "b", "c", at="b") as it:
        listener = await it.connect("c")
        audits = listener.subscribe("$JS.EVENT.ADVISORY.API")
        await listener.api("INFO")  # the subscription is known everywhere
        await told(listener, audits, 1)
        answer = await it.client.request("$JS.API.STREAM.INFO.S", b'{"deleted_details":true}')
        [(kind, shown)] = await told(listener, audits, 1)
        assert kind == "api_audit" and shown["subject"] == "$JS.API.STREAM.INFO.S"
        assert shown["request"] == '{"deleted_details":true}' and shown["response"] == answer.payload.decode()
        assert shown["client"]["acc"] == "$G" and shown["client"]["kind"] == "Client"
        await it.client.api("STREAM.INFO.S")
        [(_, shown)] = await told(listener, audits, 1)
        assert "request" not in shown


async def test_a_stream_may_keep_them(autojump_clock: MockClock) -> None:
    async with harness() as it:
        await it.client.api("STREAM.CREATE.E", name="E", subjects=["$JS.EVENT.ADVISORY.CONSUMER.>"])
        await it.consumer("c")
        await trio.sleep(1)
        assert (await it.client.api("STREAM.INFO.E"))["state"]["messages"] == 1


async def test_while_nobody_listens_nothing_is_made(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with harness() as it:

        def never(advisories: Advisories) -> str:
            raise AssertionError("an advisory that nobody hears was made")

        monkeypatch.setattr(Advisories, "draw_id", never)
        await it.consumer("c")
        await it.client.api("STREAM.CREATE.T", name="T", subjects=["t"])
        await it.client.api("CONSUMER.DELETE.S.c")
