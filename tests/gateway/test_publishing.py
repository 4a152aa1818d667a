"""Publishing to streams: which chunk a message gets into, and which answer an outcome gives its publisher."""

import json
import struct

import pytest
import trio

from tests.gateway.fakes import ask, running
from trimaran.actors.gateway.client import Settings
from trimaran.actors.raft.outcomes import Applied, NotApplied, Reason, Unknown
from trimaran.actors.stream.results import Status, pack, pack_all, refused
from trimaran.codec import EntryType, Kind, seal_batch, verify_batch, walk_batch

from .fakes import FakeNode


def entries(node: FakeNode) -> list[tuple[int, bytes]]:
    """Everything proposed, as (type, entry bytes)."""
    found: list[tuple[int, bytes]] = []
    for _, chunk in node.chunks:
        batch = seal_batch(
            [chunk], kind=Kind.NORMAL, group=2, incarnation=1, index=1, term=1, previous_term=0, time=0
        )
        verify_batch(batch)
        found += [(kind, bytes(data)) for kind, data in walk_batch(batch)]
    return found


def stream_node() -> FakeNode:
    node = FakeNode()
    node.add_stream("S", "s.>")
    return node


def publish(number: int, subject: bytes = b"s.1") -> bytes:
    return b"PUB %b i.%d 1\r\nx\r\n" % (subject, number)


async def test_a_publish_is_stored_as_the_entry_format_says_and_acknowledged() -> None:
    async with running(stream_node()) as up:
        peer = await up.client()
        got = await ask(peer, b"SUB i.* 1\r\nPUB s.a i.1 5\r\nhello\r\n")
        assert got == b'MSG i.1 1 22\r\n{"stream":"S","seq":1}\r\n'
        assert entries(up.node) == [(EntryType.PUBLISH, struct.pack("<HHI", 3, 0, 0) + b"s.a" + b"hello")]
        assert up.node.chunks[0][0] == 2


async def test_headers_that_apply_must_see_mark_the_entry() -> None:
    async with running(stream_node()) as up:
        peer = await up.client()
        headers = b"NATS/1.0\r\nNats-Msg-Id: 7\r\n\r\n"
        await ask(peer, b"HPUB s.a %d %d\r\n%bhi\r\n" % (len(headers), len(headers) + 2, headers))
        head = struct.pack("<HHI", 3, 0, len(headers))
        assert entries(up.node) == [(EntryType.PUBLISH_CHECKED, head + b"s.a" + headers + b"hi")]


async def test_a_pass_proposes_one_chunk_per_stream_and_acknowledges_in_order() -> None:
    node = stream_node()
    node.add_stream("T", "t.*")
    async with running(node) as up:
        peer = await up.client()
        data = b"".join(publish(number, b"s.1") + publish(number + 100, b"t.1") for number in range(50))
        got = await ask(peer, b"SUB i.* 1\r\n" + data)
        assert [(group, chunk.count) for group, chunk in node.chunks] == [(2, 50), (3, 50)]
        replies = [int(line.split()[1][2:]) for line in got.split(b"\r\n") if line.startswith(b"MSG")]
        assert [reply for reply in replies if reply < 100] == list(range(50))
        assert [reply for reply in replies if reply >= 100] == list(range(100, 150))


async def test_two_clients_of_one_pass_share_a_chunk_and_get_their_own_answers() -> None:
    async with running(stream_node()) as up:
        one, other = await up.client(), await up.client()
        await ask(one, b"SUB one.* 1\r\n")
        await ask(other, b"SUB other.* 2\r\n")
        one.send(b"PUB s.1 one.1 1\r\nx\r\n")
        other.send(b"PUB s.1 other.1 1\r\nx\r\n")
        assert await one.receive_until(b"}\r\n") == b'MSG one.1 1 22\r\n{"stream":"S","seq":1}\r\n'
        assert await other.receive_until(b"}\r\n") == b'MSG other.1 2 22\r\n{"stream":"S","seq":2}\r\n'
        assert [chunk.count for _, chunk in up.node.chunks] == [2]


async def test_publish_without_reply_is_stored_without_acknowledgement() -> None:
    async with running(stream_node()) as up:
        peer = await up.client()
        assert await ask(peer, b"SUB > 1\r\nUNSUB 1\r\nPUB s.1 1\r\nx\r\n") == b""
        assert len(entries(up.node)) == 1


async def test_a_dialogue_cut_at_every_byte_stores_the_same() -> None:
    data = b"SUB i.* 1\r\n" + publish(1) + b"HPUB s.2 i.2 12 14\r\nNATS/1.0\r\n\r\nhi\r\n" + publish(3)
    async with running(stream_node()) as up:
        peer = await up.client()
        for byte in data:
            peer.send(bytes([byte]))
            await trio.testing.wait_all_tasks_blocked()
        got = await ask(peer, b"")
        assert [line.split()[1] for line in got.split(b"\r\n") if line.startswith(b"MSG")] == [
            b"i.1",
            b"i.2",
            b"i.3",
        ]
        assert len(entries(up.node)) == 3


async def test_duplicates_and_refusals_are_answered_each_in_its_place() -> None:
    async with running(stream_node()) as up:
        results = [
            pack(Status.STORED, 9),
            pack(Status.DUPLICATE, 4),
            refused(10071, 9),
            pack(Status.STORED, 10),
            refused(10060),
        ]
        up.node.outcomes.append(Applied(1, pack_all(results)))
        peer = await up.client()
        got = await ask(peer, b"SUB i.* 1\r\n" + b"".join(publish(number) for number in range(5)))
        lines = got.split(b"\r\n")
        assert lines[0::2] == [b"MSG i.%d 1 %d" % (n, len(lines[2 * n + 1])) for n in range(5)] + [b""]
        assert lines[1] == b'{"stream":"S","seq":9}'
        assert lines[3] == b'{"stream":"S","seq":4,"duplicate": true}'
        error = b'{"code":400,"err_code":10071,"description":"wrong last sequence: 9"}'
        assert lines[5] == b'{"error":%b,"stream":"S","seq":0}' % error
        assert lines[7] == b'{"stream":"S","seq":10}'
        assert json.loads(lines[9])["error"]["err_code"] == 10060


@pytest.mark.parametrize(
    "reason", [Reason.NOT_LEADER, Reason.STALE_TERM, Reason.TRANSFERRING, Reason.TRUNCATED]
)
async def test_not_applied_is_no_responders_which_clients_may_retry(reason: Reason) -> None:
    async with running(stream_node()) as up:
        up.node.outcomes.append(NotApplied(reason))
        peer = await up.client()
        got = await ask(peer, b"SUB i.* 1\r\n" + publish(1))
        assert got == b"HMSG i.1 1 16 16\r\nNATS/1.0 503\r\n\r\n\r\n"


async def test_not_applied_is_an_error_for_clients_without_no_responders() -> None:
    async with running(stream_node()) as up:
        up.node.outcomes.append(NotApplied(Reason.NOT_LEADER))
        peer = await up.client(b'CONNECT {"verbose":false,"headers":true}\r\n')
        assert await error_code(peer_got=await ask(peer, b"SUB i.* 1\r\n" + publish(1))) == (503, 10008)


@pytest.mark.parametrize(
    ("outcome", "codes"),
    [
        (NotApplied(Reason.BUSY), (503, 10023)),
        (NotApplied(Reason.TOO_LARGE), (400, 10054)),
        (Unknown(Reason.LINK_LOST), (503, 20001)),
        (Applied(1, [None]), (503, 20001)),
        (Applied(1, bytes(7)), (503, 20001)),
    ],
)
async def test_other_failures_are_typed_errors(
    outcome: Applied | NotApplied | Unknown, codes: tuple[int, int]
) -> None:
    async with running(stream_node()) as up:
        up.node.outcomes.append(outcome)
        peer = await up.client()
        assert await error_code(await ask(peer, b"SUB i.* 1\r\n" + publish(1))) == codes
        assert up.gateway.statistics().unknown == (codes[1] == 20001)


async def error_code(peer_got: bytes) -> tuple[int, int]:
    answer = json.loads(peer_got.split(b"\r\n")[1])
    assert answer["stream"] == "S" and answer["seq"] == 0
    return answer["error"]["code"], answer["error"]["err_code"]


async def test_nothing_is_acknowledged_before_its_outcome() -> None:
    async with running(stream_node()) as up:
        up.node.held = []
        peer = await up.client()
        assert await ask(peer, b"SUB i.* 1\r\n" + publish(1)) == b""
        up.node.held.pop()()
        assert await peer.receive_until(b"}\r\n") == b'MSG i.1 1 22\r\n{"stream":"S","seq":1}\r\n'


async def test_core_subscribers_get_what_a_stream_stores() -> None:
    async with running(stream_node()) as up:
        watcher, peer = await up.client(), await up.client()
        await ask(peer, b"PUB s.2 1\r\nx\r\n")
        await ask(watcher, b"SUB s.2 7\r\n")
        await ask(peer, b"SUB i.* 1\r\n" + publish(1, b"s.1") + publish(2, b"s.2") + publish(3, b"s.3"))
        assert await ask(watcher, b"") == b"MSG s.2 7 i.2 1\r\nx\r\n"
        assert len(entries(up.node)) == 4
        await ask(watcher, b"UNSUB 7\r\n")
        await ask(peer, publish(4, b"s.2"))
        assert await ask(watcher, b"") == b""


@pytest.mark.parametrize(
    "other",
    [b"SUB i.* 9\r\n", b"SUB i.2 9\r\n", b"SUB > 9\r\n", b"SUB *.* 9\r\n", b"SUB i.2 q 9\r\n"],
)
async def test_another_listener_on_the_inbox_gets_the_acknowledgement_too(other: bytes) -> None:
    async with running(stream_node()) as up:
        peer, spy = await up.client(), await up.client()
        await ask(peer, b"SUB i.* 1\r\n" + publish(1))
        await ask(spy, other)
        assert (await ask(peer, publish(2))).count(b"MSG i.2 1 ") == 1
        assert b'MSG i.2 9 22\r\n{"stream":"S","seq":2}\r\n' in await ask(spy, b"")
        await ask(spy, b"UNSUB 9\r\n")
        assert (await ask(peer, publish(3))).count(b"MSG i.3 1 ") == 1
        assert await ask(spy, b"") == b""


async def test_acknowledgements_to_a_literal_inbox_and_a_limited_one() -> None:
    async with running(stream_node()) as up:
        peer = await up.client()
        got = await ask(peer, b"SUB r 1\r\nPUB s.1 r 1\r\nx\r\n")
        assert got == b'MSG r 1 22\r\n{"stream":"S","seq":1}\r\n'
        got = await ask(peer, b"SUB i.* 2\r\nUNSUB 2 2\r\n" + publish(1) + publish(2) + publish(3))
        assert got.count(b"MSG i.") == 2
        assert up.gateway.statistics().subscriptions == 1


async def test_a_limit_set_later_counts_the_acknowledgements_before_it() -> None:
    async with running(stream_node()) as up:
        peer = await up.client()
        await ask(peer, b"SUB i.* 2\r\n" + publish(1) + publish(2))
        got = await ask(peer, b"UNSUB 2 3\r\n" + publish(3) + publish(4))
        assert got.count(b"MSG i.") == 1
        assert up.gateway.statistics().subscriptions == 0


async def test_a_subscription_to_one_reply_gets_no_other() -> None:
    async with running(stream_node()) as up:
        peer = await up.client()
        got = await ask(peer, b"SUB i.1 5\r\n" + publish(2) + publish(1) + publish(3))
        assert got == b'MSG i.1 5 22\r\n{"stream":"S","seq":2}\r\n'


async def test_two_inboxes_of_one_client_each_get_their_own() -> None:
    async with running(stream_node()) as up:
        peer = await up.client()
        data = b"".join(b"PUB s.1 %c.%d 1\r\nx\r\n" % (b"ij"[number % 2], number) for number in range(6))
        got = await ask(peer, b"SUB i.* 5\r\nSUB j.> 6\r\n" + data)
        heads = [line.split()[1:3] for line in got.split(b"\r\n") if line.startswith(b"MSG")]
        assert heads == [[b"%c.%d" % (b"ij"[n % 2], n), b"56"[n % 2 : n % 2 + 1]] for n in range(6)]


async def test_another_clients_inbox_can_be_the_reply() -> None:
    async with running(stream_node()) as up:
        publisher, listener = await up.client(), await up.client()
        await ask(listener, b"SUB i.* 4\r\n")
        assert await ask(publisher, publish(1)) == b""
        assert await ask(listener, b"") == b'MSG i.1 4 22\r\n{"stream":"S","seq":1}\r\n'


async def test_a_publisher_that_left_costs_nobody_else_an_answer() -> None:
    async with running(stream_node()) as up:
        up.node.held = []
        gone, peer = await up.client(), await up.client()
        await ask(gone, b"SUB g.* 1\r\nPUB s.1 g.1 1\r\nx\r\n")
        await ask(peer, b"SUB i.* 1\r\n" + publish(1))
        gone.close()
        await gone.until(lambda peer: peer.closed)
        for settle in up.node.held:
            settle()
        assert await peer.receive_until(b"}\r\n") == b'MSG i.1 1 22\r\n{"stream":"S","seq":2}\r\n'


async def test_large_input_is_cut_into_chunks_that_fit() -> None:
    async with running(stream_node(), Settings(chunk_bytes=20_000)) as up:
        peer = await up.client()
        one = b"PUB s.1 i.1 1000\r\n" + bytes(1000) + b"\r\n"
        got = await ask(peer, b"SUB i.* 1\r\n" + one * 100)
        assert got.count(b"MSG") == 100
        assert sum(chunk.count for _, chunk in up.node.chunks) == 100
        assert len(up.node.chunks) >= 6 and all(c.encoded_size <= 20_000 for _, c in up.node.chunks)


async def test_a_message_that_fits_no_chunk_is_refused_and_the_next_one_stored() -> None:
    async with running(stream_node(), Settings(chunk_bytes=2_000)) as up:
        peer = await up.client()
        big = b"PUB s.1 i.1 3000\r\n" + bytes(3000) + b"\r\n"
        got = await ask(peer, b"SUB i.* 1\r\n" + big + publish(2))
        assert await error_code(got) == (400, 10054)
        assert got.endswith(b'MSG i.2 1 22\r\n{"stream":"S","seq":1}\r\n')


async def test_publishers_beyond_the_window_wait_until_it_has_room() -> None:
    async with running(stream_node(), Settings(publish_window=5_000, chunk_bytes=2_000)) as up:
        up.node.held = []
        peer = await up.client()
        peer.send((b"PUB s.1 1000\r\n" + bytes(1000) + b"\r\n") * 10)
        await trio.testing.wait_all_tasks_blocked()
        peer.send(publish(1) * 100 + b"PING\r\n")
        await trio.testing.wait_all_tasks_blocked()
        assert not peer.received
        while up.node.held:
            up.node.held.pop(0)()
        await peer.receive_until(b"PONG\r\n")


async def test_a_stream_that_asks_for_no_acknowledgement_gives_none() -> None:
    node = FakeNode()
    node.add_stream("S", "s.>", no_ack=True)
    async with running(node) as up:
        peer = await up.client()
        assert await ask(peer, b"SUB i.* 1\r\n" + publish(1)) == b""
        assert len(entries(node)) == 1


async def test_streams_that_come_and_go_are_noticed() -> None:
    async with running(FakeNode()) as up:
        peer = await up.client()
        assert b"503" in await ask(peer, b"SUB i.* 1\r\n" + publish(1))
        up.node.add_stream("S", "s.>")
        assert b'"seq":1' in await ask(peer, publish(2))
        up.node.streams.clear()
        assert b"503" in await ask(peer, publish(3))


async def test_api_requests_are_answered_or_have_no_responders() -> None:
    async with running() as up:
        up.node.answers["$JS.API.INFO"] = b'{"ok":true}'
        peer = await up.client()
        await ask(peer, b"SUB i.* 1\r\n")
        peer.send(b"HPUB $JS.API.INFO i.1 12 14\r\nNATS/1.0\r\n\r\n{}\r\n")
        assert await peer.receive_until(b"}\r\n") == b'MSG i.1 1 11\r\n{"ok":true}\r\n'
        assert up.node.requests == [("$JS.API.INFO", b"{}")]
        peer.send(b"PUB $JS.API.NONE i.2 0\r\n\r\n")
        assert b"NATS/1.0 503\r\nNats-Subject: $JS.API.NONE" in await peer.receive_until(b"\r\n\r\n\r\n")
        assert up.gateway.statistics().api_requests == 2
