"""A client that asks for anything: each request is answered, none ends the node, now or later."""

import itertools
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from random import Random
from typing import Any, Final

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from tests.actors.cluster import OPTIONS, open_memory_cluster
from tests.actors.nats_client import MemoryClient
from trimaran.actors.stream.config import StreamConfig
from trimaran.actors.stream.consumer_config import ConsumerConfig

STREAM_FIELDS: Final = (
    *StreamConfig.__dataclass_fields__,
    *("mirror", "sources", "republish", "subject_transform", "persist_mode"),
)
CONSUMER_FIELDS: Final = tuple(ConsumerConfig.__dataclass_fields__)
OTHER_FIELDS: Final = (
    *("seq", "last_by_subj", "next_by_subj", "start_time", "batch", "filter", "keep", "no_erase", "offset"),
    *("subject", "subjects_filter", "deleted_details", "placement", "expires", "max_bytes", "idle_heartbeat"),
    *("no_wait", "pause_until", "multi_last", "up_to_seq", "group"),
)
OTHERS: Final = (
    *("INFO", "STREAM.NAMES", "STREAM.LIST", "STREAM.INFO.S", "STREAM.PURGE.S", "STREAM.MSG.GET.S"),
    *("STREAM.MSG.DELETE.S", "STREAM.LEADER.STEPDOWN.S", "STREAM.DELETE.S", "CONSUMER.INFO.S.c"),
    *("CONSUMER.NAMES.S", "CONSUMER.LIST.S", "CONSUMER.PAUSE.S.c", "CONSUMER.UNPIN.S.c", "DIRECT.GET.S"),
    *("CONSUMER.RESET.S.c", "CONSUMER.DELETE.S.d"),
)
NUMBERS: Final = (
    0,
    1,
    -1,
    1 << 31,
    1 << 55,
    (1 << 63) - 1,
    1 << 63,
    (1 << 64) - 1,
    -(1 << 63),
    10**30,
    0.5,
    1e300,
)
WORDS: Final = (
    *("", "S", "s.1", "s.>", "s.*", ">", "*", "a b", "a..b", "\x00", "\u202e", "x" * 5000, "new", "all"),
    *("workqueue", "interest", "by_start_time", "by_start_sequence", "last_per_subject", "s2", "$JS.>"),
    *("0001-01-01T00:00:00Z", "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59.999999999-23:59"),
    *("9999-99-99T99:99:99Z", "2026-01-01T00:00:00Z", "2026-01-01", "a." * 300 + "a"),
)
SHAPES: Final[tuple[object, ...]] = (
    None,
    True,
    [],
    {},
    [1],
    [10**30],
    [""],
    ["s.1", "s.1"],
    {"a": 1},
    {"src": 1, "dest": []},
    [[[]]],
)
VALUES: Final = (*NUMBERS, *WORDS, *SHAPES)
BROKEN: Final = (
    b"[" * 3000,
    b"\xff",
    b"null",
    b"1",
    b" ",
    b"{}}",
    b'{"name":',
    b'{"seq":1e999}',
    b'"\\ud800"',
)


class Victim:
    """A node with a stream S, three messages and a consumer c of which one delivery waits."""

    def __init__(self, client: MemoryClient) -> None:
        self.client = client

    async def ask(self, subject: str, body: object) -> None:
        payload = body if isinstance(body, bytes) else json.dumps(body).encode()
        inbox = self.client.inbox()
        self.client.publish(f"$JS.API.{subject}", payload, inbox)
        [answer] = await self.client.take(inbox, 1, seconds=60)
        assert answer.payload or answer.status, (subject, body)
        self.client.unsubscribe(inbox)


@asynccontextmanager
async def victim() -> AsyncIterator[Victim]:
    async with open_memory_cluster("a", options=OPTIONS) as cluster:
        client = await MemoryClient.connect(cluster.members["a"].port)
        made = await client.api(
            "STREAM.CREATE.S", name="S", subjects=["s.>"], allow_msg_ttl=True, allow_direct=True
        )
        assert "error" not in made
        await client.fill("s.1", "s.2", "s.3")
        wanted = {"durable_name": "c", "ack_policy": "explicit"}
        await client.api("CONSUMER.CREATE.S.c", stream_name="S", config=wanted)
        await client.fetch("S.c", 1)
        yield Victim(client)
        await trio.sleep(5)
        assert "memory" in await client.api("INFO"), "the node runs"
        await cluster.stop("a")
        await cluster.start("a")
        again = await MemoryClient.connect(cluster.members["a"].port)
        for stream in (await again.api("STREAM.NAMES"))["streams"] or []:
            assert "config" in await again.api(f"STREAM.INFO.{stream}"), "it starts with everything it took"


def with_one_strange(fields: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    return ({field: value} for field, value in itertools.product(fields, VALUES))


async def test_no_value_of_a_consumers_field_ends_the_node(autojump_clock: MockClock) -> None:
    async with victim() as it:
        for number, strange in enumerate(with_one_strange(CONSUMER_FIELDS)):
            config = {"durable_name": f"n{number}", "ack_policy": "explicit", **strange}
            subject = "CONSUMER.CREATE.S" + f".n{number}" * (number % 2)
            await it.ask(subject, {"stream_name": "S", "config": config})
            push = {**config, "deliver_subject": "out", "durable_name": f"p{number}", **strange}
            await it.ask(f"CONSUMER.CREATE.S.p{number}", {"stream_name": "S", "config": push})


async def test_no_value_of_a_streams_field_ends_the_node(autojump_clock: MockClock) -> None:
    async with victim() as it:
        for number, strange in enumerate(with_one_strange(STREAM_FIELDS)):
            config = {"name": f"T{number}", "subjects": [f"t{number}.>"], **strange}
            await it.ask(f"STREAM.CREATE.T{number}", config)
            await it.ask("STREAM.UPDATE.S", {"name": "S", "subjects": ["s.>"], **strange})
            await it.ask(f"STREAM.DELETE.T{number}", b"")


@pytest.mark.parametrize("subject", OTHERS)
async def test_no_value_in_another_request_ends_the_node(autojump_clock: MockClock, subject: str) -> None:
    async with victim() as it:
        for body in (*with_one_strange(OTHER_FIELDS), *VALUES, *BROKEN):
            await it.ask(subject, body)


async def test_no_payload_that_is_no_request_ends_the_node(autojump_clock: MockClock) -> None:
    async with victim() as it:
        for subject in ("STREAM.CREATE.T", "STREAM.UPDATE.S", "CONSUMER.CREATE.S", "CONSUMER.CREATE.S.x.s.1"):
            for body in (*VALUES, *BROKEN):
                await it.ask(subject, body)
                await it.ask(subject, {"stream_name": body if body not in BROKEN else 1, "config": {}})
                await it.ask(
                    subject,
                    {"stream_name": "S", "config": {}, "action": [body]} if body not in BROKEN else {},
                )


HEADERS: Final = (
    *("Nats-Msg-Id", "Nats-TTL", "Nats-Rollup", "Nats-Expected-Stream", "Nats-Expected-Last-Sequence"),
    *("Nats-Expected-Last-Subject-Sequence", "Nats-Expected-Last-Subject-Sequence-Subject"),
    *("Nats-Expected-Last-Msg-Id", "Nats-Incr", "Nats-Batch-Id", "Nats-Schedule"),
)
TEXTS: Final = (
    "",
    "0",
    "1",
    "-1",
    "5s",
    "never",
    "9" * 30,
    "1e9",
    "9999999h",
    "sub",
    "all",
    "S",
    "s.>",
    "\u00e9",
    "a..b",
)
PULLS: Final = (
    "batch",
    "expires",
    "max_bytes",
    "idle_heartbeat",
    "no_wait",
    "min_pending",
    "group",
    "priority",
    "id",
)
TOKENS: Final = ("1", "0", "-1", "x", "9" * 20, "9" * 18, "\u0661", "")
ACKS: Final = (
    b"",
    b"-NAK",
    b'-NAK {"delay": 1e308}',
    b'-NAK {"delay": -1}',
    b"-NAK []",
    b"+WPI",
    b"+TERM x",
    b"+NXT {",
)


@settings(max_examples=10)
@given(st.integers(0, 1 << 32))
def test_no_message_ends_the_node(seed: int) -> None:
    """Publishes, pulls and acknowledgements, which nobody answers one by one."""

    async def main() -> None:
        draw = Random(seed)
        async with victim() as it:
            for _ in range(100):
                inbox = it.client.inbox()
                headers = {name: draw.choice(TEXTS) for name in draw.sample(HEADERS, draw.randrange(3))}
                it.client.publish_with(draw.choice(["s.1", "s.2"]), headers, b"x", inbox)
                tokens = ".".join(draw.choice(TOKENS) for _ in range(draw.choice([5, 5, 1, 7])))
                it.client.publish(f"$JS.ACK.S.c.{tokens}", draw.choice(ACKS), inbox)
                pull = {name: draw.choice(VALUES) for name in draw.sample(PULLS, 2)}
                body = json.dumps(pull).encode() if draw.random() < 0.9 else draw.choice(BROKEN)
                it.client.publish("$JS.API.CONSUMER.MSG.NEXT.S.c", body, inbox)
                for got in await it.client.take(inbox, 2, seconds=0.05):
                    it.client.publish(got.reply or "nobody", draw.choice(ACKS))

    trio.run(main, clock=MockClock(autojump_threshold=0))


async def test_a_heartbeat_each_nanosecond_is_not_granted(autojump_clock: MockClock) -> None:
    async with victim() as it:
        inbox = it.client.inbox()
        asked = {"batch": 9, "expires": 2_000_000_000, "idle_heartbeat": 1}
        it.client.publish("$JS.API.CONSUMER.MSG.NEXT.S.c", json.dumps(asked).encode(), inbox)
        got = await it.client.take(inbox, 500, seconds=1.0)
        assert 50 <= len(got) <= 110
