"""What a client sees on the wire: handshake, subscriptions, errors, and the texts that clients depend on."""

import json

import pytest
import trio

from tests.gateway.fakes import CONNECT, ask, running
from trimaran.actors.gateway.access import Access
from trimaran.actors.gateway.gateway import Settings
from trimaran.actors.gateway.memory_port import MemoryPeer

VERBOSE = b'CONNECT {"verbose":true,"pedantic":true,"headers":true,"protocol":1}\r\n'


async def closing_words(peer: MemoryPeer, data: bytes) -> bytes:
    """Send; everything received until the gateway closes."""
    peer.send(data)
    await peer.until(lambda peer: peer.closed)
    return bytes(peer.received)


async def test_info_comes_first_and_has_what_clients_look_for() -> None:
    async with running() as up:
        peer = up.port.connect()
        line = await peer.receive_until(b"\r\n")
        assert line.startswith(b"INFO {") and line.endswith(b"} \r\n")
        info = json.loads(line[5:])
        assert info["server_id"] == "0000000000000001" and info["server_name"] == "n1"
        assert info["version"] == "2.15.0" and info["trimaran"] == "0.1.0" and info["proto"] == 1
        assert info["headers"] is True and info["jetstream"] is True and info["max_payload"] == 1 << 20
        assert info["client_id"] == 1 and "auth_required" not in info


async def test_pong_is_the_first_line_after_connect_and_ping() -> None:
    async with running() as up:
        peer = await up.raw(CONNECT + b"PING\r\n")
        assert await peer.receive_until(b"\r\n") == b"PONG\r\n"
        assert not peer.received


async def test_verbose_client_gets_ok_for_all_but_ping() -> None:
    async with running() as up:
        peer = await up.raw(VERBOSE + b"PING\r\nSUB a 1\r\nPUB a 1\r\nx\r\nUNSUB 1\r\nPING\r\n")
        got = await peer.receive_until(b"PONG\r\n") + await peer.receive_until(b"PONG\r\n")
        assert got == b"+OK\r\nPONG\r\n+OK\r\n+OK\r\nMSG a 1 1\r\nx\r\n+OK\r\nPONG\r\n"


async def test_verbose_publishes_to_a_stream_get_one_ok_each() -> None:
    async with running() as up:
        up.node.add_stream("S", "s.>")
        peer = await up.client(VERBOSE)
        assert await ask(peer, b"PUB s.1 1\r\nx\r\nPUB s.2 1\r\ny\r\n") == b"+OK\r\n+OK\r\n"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"FOO\r\n", b"-ERR 'Unknown Protocol Operation'\r\n"),
        (b"SUB " + b"a" * 5000 + b" 1\r\n", b"-ERR 'maximum control line exceeded'\r\n"),
        (b"PUB a 2000000\r\n", b"-ERR 'Maximum Payload Violation'\r\n"),
        (b"PUB a 1\r\nxxxx\r\n", b"-ERR 'Unknown Protocol Operation'\r\n"),
        (b"PUB a x\r\n", b"-ERR 'Parser Error'\r\n"),
        (b"CONNECT {bad}\r\n", b"-ERR 'Parser Error'\r\n"),
        (b'CONNECT {"no_responders":true}\r\n', b"-ERR 'no responders requires headers support'\r\n"),
        (
            b'CONNECT {"verbose":false}\r\nHPUB a 12 12\r\nNATS/1.0\r\n\r\n\r\n',
            b"-ERR 'message headers not supported'\r\n",
        ),
    ],
)
async def test_fatal_errors_say_why_and_close(data: bytes, words: bytes) -> None:
    async with running() as up:
        assert await closing_words(await up.client(), data) == words


async def test_operations_before_a_fatal_error_count() -> None:
    async with running() as up:
        peer = await up.client()
        assert (
            await closing_words(peer, b"SUB a 1\r\nPUB a 1\r\nx\r\nFOO\r\n")
            == b"MSG a 1 1\r\nx\r\n-ERR 'Unknown Protocol Operation'\r\n"
        )


@pytest.mark.parametrize("subject", [b"a..b", b"a.", b".a", b"a.>.b", b"x." * 200 + b"x"])
async def test_bad_subscription_is_refused_and_the_connection_stays(subject: bytes) -> None:
    async with running() as up:
        peer = await up.client()
        assert await ask(peer, b"SUB " + subject + b" 1\r\n") == b"-ERR 'Invalid Subject'\r\n"
        assert up.gateway.statistics().subscriptions == 0


async def test_pedantic_publish_to_a_wildcard_is_refused() -> None:
    async with running() as up:
        peer = await up.client(VERBOSE)
        assert await ask(peer, b"PUB a.* 1\r\nx\r\n") == b"-ERR 'Invalid Publish Subject'\r\n"


async def test_wildcards_and_several_subscriptions_of_one_client() -> None:
    async with running() as up:
        peer = await up.client()
        got = await ask(peer, b"SUB a.* 1\r\nSUB a.> 2\r\nSUB a.b 3\r\nSUB b.* 4\r\nPUB a.b r 1\r\nx\r\n")
        messages = sorted(got.split(b"MSG ")[1:])
        assert messages == [b"a.b %d r 1\r\nx\r\n" % sid for sid in (1, 2, 3)]


async def test_a_sid_in_use_keeps_its_first_subject() -> None:
    async with running() as up:
        peer = await up.client()
        got = await ask(peer, b"SUB a 1\r\nSUB b 1\r\nPUB a 1\r\nx\r\nPUB b 1\r\ny\r\n")
        assert got == b"MSG a 1 1\r\nx\r\n"


async def test_headers_reach_those_who_know_them_and_only_the_payload_the_others() -> None:
    async with running() as up:
        modern, old = await up.client(), await up.client(b'CONNECT {"verbose":false}\r\n')
        await ask(modern, b"SUB a 1\r\n")
        await ask(old, b"SUB a 2\r\n")
        assert await ask(modern, b"HPUB a r 12 14\r\nNATS/1.0\r\n\r\nhi\r\n") == (
            b"HMSG a 1 r 12 14\r\nNATS/1.0\r\n\r\nhi\r\n"
        )
        assert await old.receive_until(b"hi\r\n") == b"MSG a 2 r 2\r\nhi\r\n"


async def test_echo_false_keeps_own_messages_away() -> None:
    async with running() as up:
        peer = await up.client(b'CONNECT {"verbose":false,"echo":false}\r\n')
        other = await up.client()
        await ask(other, b"SUB a 9\r\n")
        assert await ask(peer, b"SUB a 1\r\nSUB a q 2\r\nPUB a 1\r\nx\r\n") == b""
        assert await ask(other, b"PUB a 1\r\ny\r\n") == b"MSG a 9 1\r\nx\r\nMSG a 9 1\r\ny\r\n"
        assert await ask(peer, b"") == b"MSG a 1 1\r\ny\r\nMSG a 2 1\r\ny\r\n"


async def test_queue_group_gives_each_message_to_one_member() -> None:
    async with running() as up:
        members = [await up.client() for _ in range(3)]
        for member in members:
            await ask(member, b"SUB a q 1\r\n")
        publisher = await up.client()
        await ask(publisher, b"PUB a 1\r\nx\r\n" * 300)
        counts = [(await ask(member, b"")).count(b"MSG a 1 1") for member in members]
        assert sum(counts) == 300 and min(counts) > 50


async def test_queue_group_with_members_under_several_patterns_is_one_group() -> None:
    async with running() as up:
        peer = await up.client()
        got = await ask(peer, b"SUB a.* q 1\r\nSUB a.b q 2\r\n" + b"PUB a.b 1\r\nx\r\n" * 50)
        assert got.count(b"MSG") == 50


async def test_unsub_takes_effect_at_once() -> None:
    async with running() as up:
        peer = await up.client()
        assert await ask(peer, b"SUB a 1\r\nUNSUB 1\r\nUNSUB 77\r\nPUB a 1\r\nx\r\n") == b""


async def test_unsub_max_counts_deliveries_since_sub() -> None:
    async with running() as up:
        peer = await up.client()
        publish = b"PUB a 1\r\nx\r\n"
        got = await ask(peer, b"SUB a 1\r\n" + publish + b"UNSUB 1 3\r\n" + publish * 5)
        assert got.count(b"MSG") == 3
        assert up.gateway.statistics().subscriptions == 0


async def test_unsub_max_already_reached_ends_the_subscription() -> None:
    async with running() as up:
        peer = await up.client()
        publish = b"PUB a 1\r\nx\r\n"
        got = await ask(peer, b"SUB a 1\r\n" + publish * 2 + b"UNSUB 1 1\r\n" + publish)
        assert got.count(b"MSG") == 2


async def test_no_responders_status_goes_to_the_publishers_inbox() -> None:
    async with running() as up:
        peer = await up.client()
        got = await ask(peer, b"SUB _INBOX.x.* 1\r\nPUB nobody _INBOX.x.1 0\r\n\r\n")
        assert got == (b"HMSG _INBOX.x.1 1 38 38\r\nNATS/1.0 503\r\nNats-Subject: nobody\r\n\r\n\r\n")


async def test_no_responders_is_silent_for_clients_that_did_not_ask() -> None:
    async with running() as up:
        peer = await up.client(b'CONNECT {"verbose":false,"headers":true}\r\n')
        assert await ask(peer, b"SUB i.* 1\r\nPUB nobody i.1 0\r\n\r\n") == b""


async def test_a_dialogue_cut_at_every_byte_gives_the_same_answers() -> None:
    dialogue = b"SUB a.* q 1\r\nPUB a.b r 5\r\nhello\r\nHPUB a.c 12 14\r\nNATS/1.0\r\n\r\nhi\r\nUNSUB 1 2\r\n"
    async with running() as up:
        whole = await ask(await up.client(), dialogue)
        assert whole.count(b"MSG") == 2
        peer = await up.client()
        for byte in dialogue:
            peer.send(bytes([byte]))
            await trio.testing.wait_all_tasks_blocked()
        assert await ask(peer, b"") == whole


async def test_slow_consumer_is_closed_without_a_word() -> None:
    async with running(settings=Settings(max_pending=10_000)) as up:
        slow, publisher = await up.client(), await up.client()
        await ask(slow, b"SUB a 1\r\n")
        slow.stalled = True
        await ask(publisher, b"PUB a 1000\r\n" + bytes(1000) + b"\r\n")
        assert not slow.closed
        await ask(publisher, (b"PUB a 1000\r\n" + bytes(1000) + b"\r\n") * 10)
        assert slow.closed and not slow.received
        statistics = up.gateway.statistics()
        assert statistics.slow_consumers == 1 and statistics.subscriptions == 0


async def test_silent_client_is_pinged_then_closed_as_stale(autojump_clock: trio.testing.MockClock) -> None:
    async with running(settings=Settings(ping_interval=5)) as up:
        peer = await up.client()
        await trio.sleep(6)
        assert bytes(peer.received) == b"PING\r\n"
        peer.send(b"PONG\r\n")
        await trio.sleep(11)
        assert bytes(peer.received) == b"PING\r\n" * 3 and not peer.closed
        await trio.sleep(5)
        assert peer.closed and bytes(peer.received).endswith(b"-ERR 'Stale Connection'\r\n")
        assert up.gateway.statistics().stale_connections == 1


async def test_a_client_gone_quiet_gives_its_buffer_back(autojump_clock: trio.testing.MockClock) -> None:
    async with running() as up:
        up.node.add_stream("S", "s.>")
        peer = await up.client()
        await ask(peer, b"SUB i.* 1\r\n" + b"PUB s.1 1000\r\n%b\r\n" % bytes(1000) * 500)
        [client] = up.gateway.clients()
        peer.send(b"PUB s.1 i.1 5\r\nhel")
        await trio.sleep(3)
        assert len(client.scanner.writable()) > client.scanner.FIRST_CAPACITY, "half a message is kept"
        assert b'"seq":501' in await ask(peer, b"lo\r\n")
        await trio.sleep(3)
        assert len(client.scanner.writable()) == client.scanner.FIRST_CAPACITY
        assert b'"seq":502' in await ask(peer, b"PUB s.1 i.1 5\r\nhello\r\n")


async def test_client_in_its_handshake_gets_no_ping(autojump_clock: trio.testing.MockClock) -> None:
    async with running(settings=Settings(ping_interval=1)) as up:
        peer = await up.raw(CONNECT)
        await trio.sleep(8)
        assert not peer.received


async def test_authentication_admits_refuses_and_times_out(autojump_clock: trio.testing.MockClock) -> None:
    async with running(access=Access(token="secret")) as up:
        good = await up.client(b'CONNECT {"verbose":false,"auth_token":"secret"}\r\n')
        assert await ask(good, b"SUB a 1\r\nPUB a 1\r\nx\r\n") == b"MSG a 1 1\r\nx\r\n"
        for hello in (CONNECT, b"SUB a 1\r\n", b"PUB a 1\r\nx\r\n"):
            bad = await up.raw(b"")
            assert await closing_words(bad, hello) == b"-ERR 'Authorization Violation'\r\n"
        late = up.port.connect()
        assert json.loads((await late.receive_until(b"\r\n"))[5:])["auth_required"] is True
        await trio.sleep(4)
        assert bytes(late.received) == b"-ERR 'Authentication Timeout'\r\n" and late.closed
        assert not good.closed


async def test_connections_beyond_the_maximum_are_refused() -> None:
    async with running(settings=Settings(max_connections=1)) as up:
        await up.client()
        second = up.port.connect()
        await second.until(lambda peer: peer.closed)
        info, error = bytes(second.received).splitlines()
        assert info.startswith(b"INFO ") and error == b"-ERR 'maximum connections exceeded'"
        assert up.gateway.statistics().refused_connections == 1


async def test_a_client_that_leaves_takes_its_subscriptions_along() -> None:
    async with running() as up:
        peer, publisher = await up.client(), await up.client()
        await ask(peer, b"SUB a 1\r\n")
        peer.close()
        await peer.until(lambda peer: peer.closed)
        await ask(publisher, b"PUB a 1\r\nx\r\n")
        statistics = up.gateway.statistics()
        assert (statistics.connections, statistics.subscriptions, statistics.total_connections) == (1, 0, 2)
        assert len(up.gateway.table) == 0
        assert statistics.in_messages == 1


async def test_shutting_down_sends_clients_elsewhere_and_closes_after_what_is_owed() -> None:
    async with running() as up:
        up.node.add_stream("S", "s.>")
        up.node.held = []
        peer = await up.client()
        await ask(peer, b"SUB i.* 1\r\nPUB s.1 i.1 0\r\n\r\n")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(up.gateway.shut_down, 5)
            line = await peer.receive_until(b"\r\n")
            assert json.loads(line[5:])["ldm"] is True
            with pytest.raises(ConnectionRefusedError):
                up.port.connect()
            assert not peer.closed
            up.node.held.pop()()
        assert bytes(peer.received).endswith(b'{"stream":"S","seq":1}\r\n') and peer.closed


async def test_answers_to_one_clients_requests_come_in_their_order(
    autojump_clock: trio.testing.MockClock,
) -> None:
    def requests(inbox: str, *names: str) -> bytes:
        return "".join(f"PUB $JS.API.{name} {inbox} 0\r\n\r\n" for name in names).encode()

    def answers(*names: str) -> bytes:
        return "".join(f"MSG i 1 {len(name)}\r\n{name}\r\n" for name in names).encode()

    async with running() as up:
        takes = {"SLOW": 0.2, "FAST": 0.01, "STUCK": 8.0}

        async def api(subject: str, payload: bytes) -> bytes:
            name = subject.rpartition(".")[2]
            await trio.sleep(takes[name])
            return name.encode()

        up.node.api = api  # type: ignore[method-assign]  # a node that takes its time
        peer, other = await up.client(), await up.client()
        peer.send(b"SUB i 1\r\n" + requests("i", "SLOW", "FAST", "FAST"))
        other.send(b"SUB j 1\r\n" + requests("j", "FAST"))
        began = trio.current_time()
        await other.receive_until(b"FAST\r\n")
        assert trio.current_time() - began < 0.1, "others are not held up"
        expected = answers("SLOW", "FAST", "FAST")
        assert await peer.receive_until(answers("FAST", "FAST")) == expected
        assert trio.current_time() - began < 0.25, "they ran side by side"
        began = trio.current_time()
        peer.send(requests("i", "STUCK", "FAST", "FAST"))
        expected = answers("FAST", "FAST")
        assert await peer.receive_until(expected) == expected
        assert 0.2 < trio.current_time() - began < 0.4, "one that is stuck holds nobody up for long"
        assert await peer.receive_until(b"STUCK\r\n") == answers("STUCK")
