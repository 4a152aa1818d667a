"""What replicas decide they decide from the log alone: whatever their number, whatever their clocks say."""

import json

import pytest
import trio
from trio.testing import MockClock

from tests.actors.cluster import until
from tests.actors.consumers import SECOND, Harness, harness
from trimaran.actors.stream.machine import StreamMachine

STREAM = "Nats-Expected-Stream"
LAST = "Nats-Expected-Last-Sequence"
OF_SUBJECT = "Nats-Expected-Last-Subject-Sequence"
ID = "Nats-Msg-Id"
HOUR = 3600.0


@pytest.mark.parametrize("nodes", ["a", "abc"])
async def test_one_order_of_checks_for_one_replica_and_for_three(
    autojump_clock: MockClock, nodes: str
) -> None:
    async with harness(*nodes, max_msg_size=300, deny_purge=True) as it:

        async def asked(payload: bytes = b"m", **headers: str) -> object:
            names = {"stream": STREAM, "last": LAST, "subject": OF_SUBJECT, "id": ID, "rollup": "Nats-Rollup"}
            inbox = it.client.inbox()
            it.client.publish_with("s.1", {names[key]: text for key, text in headers.items()}, payload, inbox)
            [answer] = await it.client.take(inbox)
            fields = json.loads(answer.payload)
            return (
                fields["error"]["err_code"] if "error" in fields else (fields["seq"], "duplicate" in fields)
            )

        assert await asked(id="1") == (1, False)
        assert await asked(id="1", last="7", subject="7") == (1, True), "what is stored already is a success"
        assert await asked(b"m" * 999, id="1") == (1, True)
        assert await asked(id="1", stream="T") == 10060, "it was meant for another stream"
        assert await asked(b"m" * 999, last="7") == 10054
        assert await asked(last="7", subject="7") == 10071
        assert await asked(subject="7", rollup="sub") == 10071
        assert await asked(rollup="sub") == 10111
        assert await asked(id="2", last="1", subject="1") == (2, False)


async def another_leader(it: Harness, before: str) -> None:
    await until(lambda: it.cluster.leaders(it.group) not in ([], [before]))


async def applied_everywhere(it: Harness) -> list[StreamMachine]:
    """The replicas, all at the same place of the log."""
    machines = [it.machine(name) for name in "abc"]
    await until(lambda: len({machine.clock for machine in machines}) == 1, seconds=10)
    return machines


async def test_replicas_whose_clocks_differ_by_an_hour_decide_the_same(autojump_clock: MockClock) -> None:
    async with harness(
        *"abc", max_age=20 * SECOND, duplicate_window=10 * SECOND, allow_msg_ttl=True, num_replicas=3
    ) as it:
        await it.consumer(ack_wait=SECOND, max_deliver=2)
        for round_, ahead in enumerate((0.0, HOUR, -HOUR, HOUR / 2)):
            leader = it.leader
            for name in "abc":
                it.cluster.members[name].clock.ahead = ahead if name == leader else -ahead
            for number in range(6):
                headers = {ID: f"{round_}.{number % 4}"} | ({"Nats-TTL": "3"} if number % 2 else {})
                inbox = it.client.inbox()
                it.client.publish_with(f"s.{number}", headers, b"m", inbox)
                assert await it.client.take(inbox, 1, seconds=10)
            await it.client.fetch("S.c", 3)
            await trio.sleep(5)
            assert (await it.client.api("STREAM.LEADER.STEPDOWN.S"))["success"] is True
            await another_leader(it, leader)
        first, *others = await applied_everywhere(it)
        assert first.info().last_seq > 12
        for other in others:
            assert other.info() == first.info() and other.clock == first.clock
            assert other.subjects() == first.subjects()
            assert other.consumers.pack() == first.consumers.pack()
            assert other.next_due() == first.next_due()


@pytest.mark.parametrize("at", ["a", "b", "c"])
async def test_a_message_just_acknowledged_is_read_at_any_node(autojump_clock: MockClock, at: str) -> None:
    async with harness(*"abc", at=at, allow_direct=True, max_msgs_per_subject=1) as it:
        readers = [await it.connect(name) for name in "abc"]
        for number in range(1, 8):
            await it.client.fill("s.key")
            for reader in readers:
                got = await reader.api("STREAM.MSG.GET.S", last_by_subj="s.key")
                assert got["message"]["seq"] == number
                direct = await reader.request(
                    "$JS.API.DIRECT.GET.S", b'{"last_by_subj":"s.key","min_last_seq":%d}' % number
                )
                assert f"Nats-Sequence: {number}\r\n" in direct.headers


async def test_a_leader_without_a_majority_gives_no_message(autojump_clock: MockClock) -> None:
    async with harness(*"abc") as it:
        await it.client.fill("s.0")
        leader = it.leader
        it.client = await it.connect(leader)
        for name in "abc":
            if name != leader:
                await it.cluster.crash(name)
        answer = await it.client.api("STREAM.MSG.GET.S", seq=1)
        assert answer["error"]["code"] == 503, "it could have been overwritten elsewhere"
