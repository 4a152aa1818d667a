"""The client, against a server that does what the test wants."""

from __future__ import annotations

import contextlib

import pytest
import trio

from trimaran.client import (
    OUTCOME_UNKNOWN,
    Closed,
    ConnectFailed,
    Disconnected,
    JetStreamError,
    Message,
    NoResponders,
    PayloadTooLarge,
    PubAck,
    Refused,
    RequestTimeout,
    ServerAddress,
    Stored,
    Unknown,
    connect,
)
from trimaran.client.messages import format_headers, parse_headers

from .fake_nats import FakeServer


async def started(nursery: trio.Nursery, server: FakeServer | None = None) -> FakeServer:
    server = server or FakeServer()
    await nursery.start(server.run)
    return server


async def test_a_subscriber_gets_what_is_published_with_its_headers(nursery: trio.Nursery) -> None:
    server = await started(nursery)
    async with connect(server.url) as client:
        async with await client.subscribe("orders.*") as orders:
            await client.publish("orders.new", b"42", reply="me", headers={"A": "b", "C": ["d", "e"]})
            assert await orders.receive() == Message("orders.new", "me", b"42", {"A": ["b"], "C": ["d", "e"]})
        await client.flush()
        await client.publish("orders.new", b"nobody listens")
        with pytest.raises(Closed):
            await orders.receive()


async def test_a_slow_reader_loses_messages_and_stops_nobody(nursery: trio.Nursery) -> None:
    server = await started(nursery)
    async with connect(server.url) as client:
        slow = await client.subscribe("a", buffer=2)
        for number in range(5):
            await client.publish("a", b"%d" % number)
        await client.flush()
        assert [(await slow.receive()).data for _ in range(2)] == [b"0", b"1"]
        assert slow.dropped == 3


async def test_a_request_gets_its_answer_or_no_responders(nursery: trio.Nursery) -> None:
    server = await started(nursery)
    async with connect(server.url) as service, connect(server.url) as client:
        questions = await service.subscribe("square")
        await service.flush()

        async def answer() -> None:
            async for question in questions:
                await service.publish(question.reply, b"%d" % int(question.data) ** 2)

        nursery.start_soon(answer)
        assert (await client.request("square", b"7")).data == b"49"
        with pytest.raises(NoResponders):
            await client.request("cube", b"7")


async def test_a_stream_acknowledges_refuses_and_recognises(nursery: trio.Nursery) -> None:
    server = await started(nursery)
    async with connect(server.url) as client:
        await client.create_stream("S", ["s.>"], replicas=3)
        assert (await client.stream_info("S"))["config"] == {"name": "S", "subjects": ["s.>"]}
        assert await client.jetstream_publish("s.a", b"1", message_id="x") == PubAck("S", 1)
        assert await client.jetstream_publish("s.a", b"1", message_id="x") == PubAck("S", 1, duplicate=True)
        server.refusal = {"code": 400, "err_code": 10071, "description": "wrong last sequence: 1"}
        with pytest.raises(JetStreamError) as caught:
            await client.jetstream_publish("s.a", headers={"Nats-Expected-Last-Sequence": "5"})
        assert (caught.value.code, caught.value.err_code) == (400, 10071)
        await client.delete_stream("S")
        with pytest.raises(JetStreamError, match="stream not found"):
            await client.stream_info("S")


async def test_publishing_where_no_stream_listens_is_tried_three_times(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    server = await started(nursery)
    async with connect(server.url) as client:
        with pytest.raises(NoResponders):
            await client.jetstream_publish("s.a")
    assert trio.current_time() >= 0.5


async def test_a_publisher_keeps_its_window_and_knows_every_fate(nursery: trio.Nursery) -> None:
    server = await started(nursery)
    async with connect(server.url) as client:
        await client.create_stream("S", ["s.>"])
        async with client.publisher(window=7) as publisher:
            acks = []
            for number in range(100):
                acks.append(await publisher.publish("s.a", b"%d" % number))
                assert publisher.pending <= 7
        assert [ack.outcome for ack in acks] == [Stored(PubAck("S", number + 1)) for number in range(100)]
        assert (publisher.stored, publisher.refused, publisher.unknown) == (100, 0, 0)
        assert [payload for _, _, payload in server.stored["S"]] == [b"%d" % number for number in range(100)]

        server.refusal = {"code": 503, "err_code": 10077, "description": "maximum messages exceeded"}
        async with client.publisher() as publisher:
            refused = await publisher.publish("s.a")
            homeless = await publisher.publish("t.a")
        assert isinstance(refused.outcome, Refused)
        assert isinstance(refused.outcome.error, JetStreamError)
        assert isinstance(homeless.outcome, Refused)
        assert isinstance(homeless.outcome.error, NoResponders)
        assert publisher.refused == 2

        # A cluster that lost its leader on the way can't promise that the message is not stored.
        server.refusal = {"code": 503, "err_code": OUTCOME_UNKNOWN, "description": "outcome unknown"}
        async with client.publisher() as publisher:
            open_end = await publisher.publish("s.a")
        assert isinstance(open_end.outcome, Unknown)


async def test_a_silent_stream_leaves_the_fate_unknown(nursery: trio.Nursery) -> None:
    server = await started(nursery)
    async with connect(server.url, request_timeout=0.05) as client:
        await client.create_stream("S", ["s.>"])
        server.silent = True
        with pytest.raises(RequestTimeout):
            await client.jetstream_publish("s.a")
        async with client.publisher(timeout=0.05) as publisher:
            lost = await publisher.publish("s.a")
        assert isinstance(lost.outcome, Unknown)
        assert publisher.unknown == 1


async def test_a_broken_connection_ends_what_waits_and_the_next_server_takes_over(
    nursery: trio.Nursery,
) -> None:
    first, second = await started(nursery), await started(nursery)
    second.streams, second.stored = {"S": ["s.>"]}, {"S": []}
    async with connect(first.url, second.url) as client:
        await client.create_stream("S", ["s.>"])
        orders = await client.subscribe("orders")
        await client.flush()
        first.silent = True
        async with client.publisher() as publisher:
            pending = await publisher.publish("s.a")
            await client.flush()
            await first.drop()
            outcome = await pending.wait()
        assert isinstance(outcome, Unknown)
        assert isinstance(outcome.error, Disconnected)
        # The stream of the second server takes it, and the subscription is there again.
        assert await client.jetstream_publish("s.a") == PubAck("S", 1)
        await client.publish("orders", b"again")
        assert (await orders.receive()).data == b"again"


async def test_an_idle_client_connects_again_when_it_is_used(nursery: trio.Nursery) -> None:
    server = await started(nursery)
    async with connect(server.url) as client:
        await server.drop()
        with contextlib.suppress(Disconnected):  # unless the end was seen before anything was sent
            await client.flush()
        await client.flush()
    assert len(server.connects) == 2


async def test_a_fatal_error_line_ends_the_connection(nursery: trio.Nursery) -> None:
    server = await started(nursery)
    async with connect(server.url, request_timeout=5) as client:
        await client.create_stream("S", ["s.>"])
        server.silent = True
        async with client.publisher() as publisher:
            pending = await publisher.publish("s.a")
            await server.say(b"-ERR 'Stale Connection'\r\n")
            outcome = await pending.wait()
        assert isinstance(outcome, Unknown)
        assert "Stale Connection" in str(outcome.error)
        await client.flush()


async def test_credentials_are_sent_and_a_refusal_is_told(nursery: trio.Nursery) -> None:
    server = await started(nursery, FakeServer(token="secret"))
    async with connect(f"nats://secret@{server.url}") as client:
        await client.flush()
    with pytest.raises(ConnectFailed, match="Authorization Violation"):
        async with connect(server.url, connect_timeout=0.2):
            pass


async def test_nobody_there_is_a_failure_in_time() -> None:
    with pytest.raises(ConnectFailed):
        async with connect("127.0.0.1:1", connect_timeout=0.2):
            pass


async def test_what_can_not_be_sent_is_refused_before(nursery: trio.Nursery) -> None:
    server = await started(nursery, FakeServer(max_payload=100))
    async with connect(server.url) as client:
        with pytest.raises(PayloadTooLarge):
            await client.publish("a", bytes(101))
        for subject in ("", "a b", "a.*", "a..b", "a\r\nPING"):
            with pytest.raises(ValueError, match="not a subject"):
                await client.publish(subject)
        with pytest.raises(ValueError, match="not a header"):
            await client.publish("a", headers={"A": "b\r\nC: d"})
        with pytest.raises(ValueError, match="not a subject"):
            await client.subscribe("a b")


async def test_a_closed_client_says_so(nursery: trio.Nursery) -> None:
    server = await started(nursery)
    async with connect(server.url) as client:
        orders = await client.subscribe("a")
        client.close()
        with pytest.raises(Closed):
            await client.publish("a")
        assert [message async for message in orders] == []


async def test_what_the_block_raises_comes_out_as_it_was(nursery: trio.Nursery) -> None:
    server = await started(nursery)
    with pytest.raises(KeyError):
        async with connect(server.url):
            raise KeyError


def test_headers_round_trip() -> None:
    block = format_headers({"A": "b: c", "D": ["e", "f"]})
    assert block == b"NATS/1.0\r\nA: b: c\r\nD: e\r\nD: f\r\n\r\n"
    assert parse_headers(block) == (0, "", {"A": ["b: c"], "D": ["e", "f"]})
    assert parse_headers(b"NATS/1.0 404 Message Not Found\r\n\r\n") == (404, "Message Not Found", {})


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("localhost:4333", ServerAddress("localhost", 4333)),
        ("nats://h", ServerAddress("h", 4222)),
        ("nats://u:p%40@h:1", ServerAddress("h", 1, "u", "p@")),
        ("nats://token@h", ServerAddress("h", 4222, "token")),
    ],
)
def test_addresses(url: str, address: ServerAddress) -> None:
    assert ServerAddress.parse(url) == address


@pytest.mark.parametrize("url", ["http://h", "nats://", "h:x", "a..b:1"])
def test_what_is_no_address(url: str) -> None:
    with pytest.raises(ValueError):
        ServerAddress.parse(url)


async def test_who_may_not_ask_hears_so_when_no_answer_comes(nursery: trio.Nursery) -> None:
    server = await started(nursery)
    async with connect(server.url, request_timeout=0.2) as client:
        await client.subscribe("silent")
        await server.say(b"-ERR 'Permissions Violation for Publish to \"silent\"'\r\n")
        with pytest.raises(RequestTimeout, match="Permissions Violation for Publish"):
            await client.request("silent")
