"""Core NATS on three whole nodes: who gets what, and what crosses a link."""

import json
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from tests.actors.cluster import OPTIONS, Cluster, open_memory_cluster, until
from tests.actors.nats_client import MemoryClient

SETTLE = 1.0
"""Seconds in which whatever could still come would have come; the clock is virtual."""


async def client_at(cluster: Cluster, name: str) -> MemoryClient:
    return await MemoryClient.connect(cluster.members[name].port)


def listening(cluster: Cluster, subject: str, *names: str) -> bool:
    """Whether these nodes know of somebody who gets messages of the subject."""
    return all(cluster[name].gateway.listens(subject.encode()) for name in names)


def crossed(cluster: Cluster, name: str) -> int:
    """Messages that a node sent to others."""
    return cluster[name].gateway.statistics().routed


async def test_a_message_reaches_every_subscriber_on_every_node_once(autojump_clock: MockClock) -> None:
    async with open_memory_cluster() as cluster:
        clients = {name: await client_at(cluster, name) for name in "abc"}
        for client in clients.values():
            client.subscribe("news.*")
            client.subscribe("news.>")
        await until(lambda: listening(cluster, "news.x", *"abc"))
        clients["a"].publish_with("news.x", {"Kind": "test"}, b"hello", reply="answer.here")
        for client in clients.values():
            for pattern in ("news.*", "news.>"):
                [got] = await client.take(pattern, 2, SETTLE)
                assert (got.subject, got.reply, got.payload) == ("news.x", "answer.here", b"hello")
                assert "Kind: test" in got.headers
        assert crossed(cluster, "a") == 2, "once to each node, whoever listens there"


async def test_a_message_crosses_only_to_where_somebody_listens(autojump_clock: MockClock) -> None:
    async with open_memory_cluster() as cluster:
        publisher, listener = await client_at(cluster, "a"), await client_at(cluster, "c")
        listener.subscribe("here.>")
        await until(lambda: listening(cluster, "here.x", "a"))
        for number in range(50):
            publisher.publish("here.x", b"%d" % number)
            publisher.publish("nowhere.x", b"lost")
        got = await listener.take("here.>", 51, SETTLE)
        assert [int(message.payload) for message in got] == list(range(50)), "in order"
        assert crossed(cluster, "a") == 50 and crossed(cluster, "b") == crossed(cluster, "c") == 0
        listener.unsubscribe("here.>")
        await until(lambda: not listening(cluster, "here.x", "a"))
        publisher.publish("here.x", b"late")
        await trio.sleep(SETTLE)
        assert crossed(cluster, "a") == 50


async def test_one_member_of_a_queue_group_gets_a_message_wherever_it_is(autojump_clock: MockClock) -> None:
    async with open_memory_cluster() as cluster:
        members = [await client_at(cluster, name) for name in "aabc"]
        for member in members:
            member.subscribe("work", "crew")
        bystander = await client_at(cluster, "b")
        bystander.subscribe("work")
        publisher = await client_at(cluster, "a")
        await until(lambda: listening(cluster, "work", *"abc"))
        await trio.sleep(SETTLE)
        for number in range(200):
            publisher.publish("work", b"%d" % number)
        await trio.sleep(SETTLE)
        taken = [[int(got.payload) for got in await member.take("work", 300, SETTLE)] for member in members]
        assert Counter(number for each in taken for number in each) == Counter(range(200)), (
            "each exactly once"
        )
        assert all(len(each) > 20 for each in taken), "and each member has the same chance"
        assert len(await bystander.take("work", 300, SETTLE)) == 200


async def test_a_request_is_answered_across_nodes_and_nobody_is_named_as_such(
    autojump_clock: MockClock,
) -> None:
    async with open_memory_cluster() as cluster:
        asker, server = await client_at(cluster, "a"), await client_at(cluster, "b")
        refused = await asker.request("service")
        assert refused.status == "503" and "Nats-Subject: service" in refused.headers
        server.subscribe("service", "crew")
        await until(lambda: listening(cluster, "service", *"abc"))
        inbox = asker.inbox()
        asker.publish("service", b"2+2", inbox)
        [question] = await server.take("service")
        server.publish(question.reply, b"4")
        [answer] = await asker.take(inbox)
        assert answer.payload == b"4" and not answer.headers
        await cluster.crash("b")
        await until(lambda: not listening(cluster, "service", "a"))
        assert (await asker.request("service")).status == "503"


async def test_a_client_that_drains_gets_all_that_was_under_way(autojump_clock: MockClock) -> None:
    """Drain is the client's: UNSUB, then PING; what comes before the PONG is the last there is."""
    async with open_memory_cluster() as cluster:
        publisher = await client_at(cluster, "a")
        members = [await client_at(cluster, name) for name in "bc"]
        for member in members:
            member.subscribe("work", "crew")
        await until(lambda: listening(cluster, "work", "a"))
        await trio.sleep(SETTLE)
        sent = 0
        for _ in range(20):
            publisher.publish("work", b"%d" % sent)
            sent += 1
        await until(lambda: crossed(cluster, "a") == sent)
        members[0].unsubscribe("work")
        await until(lambda: not cluster["b"].gateway.table.match(b"work").queues[0].local)
        await trio.sleep(SETTLE)
        for _ in range(20):
            publisher.publish("work", b"%d" % sent)
            sent += 1
        got = [await member.take("work", 100, SETTLE) for member in members]
        assert sorted(int(each.payload) for some in got for each in some) == list(range(sent))
        assert {int(each.payload) for each in got[1]} >= set(range(20, 40)), (
            "the other one gets all that follow"
        )


async def test_clients_learn_of_nodes_that_come_and_go(autojump_clock: MockClock) -> None:
    async with open_memory_cluster() as cluster:
        peer = cluster.members["a"].port.connect()
        peer.send(b'CONNECT {"verbose":false,"protocol":1}\r\nPING\r\n')

        def known() -> set[str]:
            return set(informed(bytes(peer.received))[-1].get("connect_urls", ()))

        await peer.until(lambda _: b"PONG" in peer.received)
        await until(lambda: known() == {"a:4222", "b:4222", "c:4222"})
        await cluster.crash("b")
        await until(lambda: known() == {"a:4222", "c:4222"})
        await cluster.start("b")
        await until(lambda: known() == {"a:4222", "b:4222", "c:4222"})


async def test_a_node_that_stops_says_so_and_names_the_others(autojump_clock: MockClock) -> None:
    async with open_memory_cluster() as cluster:
        peer = cluster.members["a"].port.connect()
        peer.send(b'CONNECT {"verbose":false,"protocol":1}\r\nPING\r\n')
        await peer.until(lambda _: b"PONG" in peer.received)
        await cluster.stop("a")
        last = informed(bytes(peer.received))[-1]
        assert last["ldm"] is True
        assert set(last["connect_urls"]) == {"b:4222", "c:4222"}


def informed(received: bytes) -> list[dict[str, Any]]:
    """Every INFO among what a client received."""
    lines = received.split(b"\r\n")
    return [json.loads(line[5:]) for line in lines if line.startswith(b"INFO ")]


@pytest.mark.parametrize("where", ["a", "b"])
async def test_a_client_that_reads_nothing_is_cut_off_at_its_bound(
    autojump_clock: MockClock, where: str
) -> None:
    """On the publisher's node and on another one: nobody else waits, and memory stays bounded."""
    async with open_memory_cluster(options=replace(OPTIONS, max_pending=1 << 20)) as cluster:
        publisher, fast = await client_at(cluster, "a"), await client_at(cluster, where)
        slow = cluster.members[where].port.connect()
        slow.stalled = True
        slow.send(b'CONNECT {"verbose":false,"protocol":1}\r\nPING\r\nSUB flood 1\r\n')
        fast.subscribe("flood")
        await until(lambda: listening(cluster, "flood", "a"))
        await trio.sleep(SETTLE)
        gateway = cluster[where].gateway
        size, sent = len(b"MSG flood 1 15000\r\n\r\n") + 15_000, 0
        while not gateway.statistics().slow_consumers:
            publisher.publish("flood", bytes(15_000))
            sent += 1
            await trio.sleep(0.001)
            assert sent * size < 2 * gateway.settings.max_pending, "its messages pile up"
        assert sent * size > gateway.settings.max_pending, "not before its bound"
        assert len(await fast.take("flood", sent, 20.0)) == sent
