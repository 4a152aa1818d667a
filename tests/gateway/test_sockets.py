"""The gateway over real sockets: many clients behind one epoll object, and nats-py as a foreign client."""

import asyncio
import json
import random
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import nats
import nats.errors
import nats.js.errors
import pytest
import trio
from nats.aio.msg import Msg

from tests.certificates import Authority
from tests.gateway.fakes import CONNECT, FakeNode
from trimaran.actors.certificates import ClientTls, client_tls
from trimaran.actors.gateway.client import Settings
from trimaran.actors.gateway.gateway import Gateway
from trimaran.actors.gateway.port import SocketPort
from trimaran.actors.raft.outcomes import NotApplied, Reason


@asynccontextmanager
async def listening(
    node: FakeNode, settings: Settings | None = None, tls: ClientTls | None = None
) -> AsyncIterator[Gateway]:
    """A gateway on a free port of the loopback."""
    gateway = Gateway(node, SocketPort("127.0.0.1", 0), random.Random(1), settings, tls=tls)
    async with trio.open_nursery() as nursery:
        await nursery.start(gateway.run)
        yield gateway
        nursery.cancel_scope.cancel()


async def in_asyncio(story: Callable[[str], Awaitable[None]], gateway: Gateway) -> None:
    """Run a nats-py story in a thread with an event loop of its own."""
    url = "nats://{}:{}".format(*gateway.address)

    async def bounded() -> None:
        await asyncio.wait_for(story(url), 20)

    await trio.to_thread.run_sync(lambda: asyncio.run(bounded()))


async def connect(gateway: Gateway) -> trio.SocketStream:
    stream = await trio.open_tcp_stream(*gateway.address)
    await stream.send_all(CONNECT + b"PING\r\n")
    assert (await receive(stream, b"PONG\r\n")).startswith(b"INFO {")
    return stream


async def receive(stream: trio.SocketStream, end: bytes) -> bytes:
    got = b""
    while not got.endswith(end):
        piece = await stream.receive_some()
        if not piece:
            raise EOFError(got)
        got += piece
    return got


async def test_nats_py_publishes_subscribes_and_asks() -> None:
    async def story(url: str) -> None:
        one, two = await nats.connect(url), await nats.connect(url)
        assert one.connected_server_version.major == 2
        got: asyncio.Queue[bytes] = asyncio.Queue()

        async def handle(message: Msg) -> None:
            await got.put(message.subject.encode() + b" " + message.data)

        await one.subscribe("orders.*", cb=handle)
        await one.flush()
        await two.publish("orders.new", b"1", headers={"A": "b"})
        await two.publish("orders.a.b", b"2")
        await two.publish("orders.old", b"3")
        assert [await got.get(), await got.get()] == [b"orders.new 1", b"orders.old 3"]

        async def answer(message: Msg) -> None:
            await message.respond(message.data.upper())

        await one.subscribe("shout", queue="workers", cb=answer)
        await one.flush()
        assert (await two.request("shout", b"hello", timeout=5)).data == b"HELLO"
        with pytest.raises(nats.errors.NoRespondersError):
            await two.request("nobody", b"", timeout=5)
        await one.drain()
        await two.close()

    async with listening(FakeNode()) as gateway:
        await in_asyncio(story, gateway)


async def test_nats_py_publishes_to_a_stream() -> None:
    node = FakeNode()
    node.add_stream("S", "s.>")

    async def story(url: str) -> None:
        client = await nats.connect(url)
        stream = client.jetstream()
        first = await stream.publish("s.1", b"x")
        assert (first.stream, first.seq, first.duplicate) == ("S", 1, None)
        many = await asyncio.gather(*(stream.publish(f"s.{n}", b"x" * n) for n in range(200)))
        assert sorted(ack.seq for ack in many) == list(range(2, 202))
        node.outcomes.append(NotApplied(Reason.NOT_LEADER))
        with pytest.raises(nats.js.errors.NoStreamResponseError):
            await stream.publish("s.1", b"x")
        node.outcomes.append(NotApplied(Reason.BUSY))
        with pytest.raises(nats.js.errors.ServiceUnavailableError):
            await stream.publish("s.1", b"x")
        await client.close()

    async with listening(node) as gateway:
        await in_asyncio(story, gateway)


async def test_many_clients_each_get_their_own_answers() -> None:
    node = FakeNode()
    node.add_stream("S", "s.>")
    async with listening(node) as gateway:
        streams = [await connect(gateway) for _ in range(300)]
        assert gateway.statistics().connections == 300
        for number, stream in enumerate(streams):
            await stream.send_all(b"SUB i%d.* 1\r\nPUB s.1 i%d.x 1\r\nx\r\n" % (number, number))
        sequences = set()
        for number, stream in enumerate(streams):
            got = await receive(stream, b"}\r\n")
            assert got.startswith(b"MSG i%d.x 1 " % number)
            sequences.add(got)
        assert len(sequences) == 300
        for stream in streams:
            await stream.aclose()


async def test_a_large_message_passes_through_small_socket_buffers() -> None:
    async with listening(FakeNode()) as gateway:
        stream = await connect(gateway)
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        body = random.Random(3).randbytes(1 << 20)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(
                stream.send_all, b"SUB a 1\r\n" + b"PUB a %d\r\n%b\r\n" % (len(body), body) * 3
            )
            got = await receive_exactly(stream, 3 * len(b"MSG a 1 1048576\r\n" + body + b"\r\n"))
        assert got == b"MSG a 1 %d\r\n%b\r\n" % (len(body), body) * 3
        await stream.aclose()


async def receive_exactly(stream: trio.SocketStream, size: int) -> bytes:
    got = bytearray()
    while len(got) < size:
        got += await stream.receive_some()
    return bytes(got)


async def test_a_client_that_reads_nothing_is_dropped_and_the_others_served() -> None:
    async with listening(FakeNode(), Settings(max_pending=1 << 20)) as gateway:
        deaf, peer = await connect(gateway), await connect(gateway)
        await deaf.send_all(b"SUB a 1\r\nPING\r\n")
        await receive(deaf, b"PONG\r\n")
        message = b"PUB a 65536\r\n" + bytes(65536) + b"\r\n"
        while not gateway.statistics().slow_consumers:
            await peer.send_all(message + b"PING\r\n")
            await receive(peer, b"PONG\r\n")
        statistics = gateway.statistics()
        assert (statistics.connections, statistics.subscriptions) == (1, 0)
        await peer.aclose()
        await deaf.aclose()


async def test_a_client_that_vanishes_is_noticed() -> None:
    async with listening(FakeNode()) as gateway:
        stream, other = await connect(gateway), await connect(gateway)
        # Linger 0 makes close() send a reset instead of an orderly end.
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
        await stream.aclose()
        while gateway.statistics().connections != 1:
            await other.send_all(b"PING\r\n")
            await receive(other, b"PONG\r\n")
        await other.aclose()


async def test_a_fatal_error_reaches_the_client_before_the_end() -> None:
    async with listening(FakeNode()) as gateway:
        stream = await connect(gateway)
        await stream.send_all(b"NONSENSE\r\n")
        assert await receive(stream, b"\r\n") == b"-ERR 'Unknown Protocol Operation'\r\n"
        assert await stream.receive_some() == b""
        await stream.aclose()


async def test_shutting_down_refuses_new_clients_and_closes_the_others() -> None:
    async with listening(FakeNode()) as gateway:
        stream = await connect(gateway)
        await gateway.shut_down(1)
        assert b'"ldm":true' in await receive(stream, b"\r\n")
        assert await stream.receive_some() == b""
        with pytest.raises(OSError, match="all attempts to connect"):
            await trio.open_tcp_stream(*gateway.address)
        await stream.aclose()


async def test_clients_learn_where_the_other_nodes_are() -> None:
    first, second = FakeNode(node_id=1), FakeNode(node_id=2)
    async with listening(first) as one, listening(second) as two:
        stream = await trio.open_tcp_stream(*one.address)
        own, other = ("{}:{}".format(*gateway.address) for gateway in (one, two))
        assert "connect_urls" not in json.loads((await receive(stream, b"\r\n"))[5:]), "it has no others"
        await stream.send_all(CONNECT + b"PING\r\n")
        await receive(stream, b"PONG\r\n")
        first.links[2], second.links[1] = two, one
        one.on_peer_up(2)
        two.on_peer_up(1)
        assert json.loads((await receive(stream, b"\r\n"))[5:])["connect_urls"] == [own, other]
        one.on_peer_down(2)
        assert "connect_urls" not in json.loads((await receive(stream, b"\r\n"))[5:])
        await stream.aclose()


async def test_nats_py_moves_to_another_node_when_its_own_goes_away() -> None:
    first, second = FakeNode(node_id=1), FakeNode(node_id=2)
    async with listening(second) as two, listening(first) as one:
        first.links[2], second.links[1] = two, one
        one.on_peer_up(2)
        two.on_peer_up(1)
        connected = trio.Event()
        token = trio.lowlevel.current_trio_token()

        async def story(url: str) -> None:
            back = asyncio.Event()

            async def reconnected() -> None:
                back.set()

            client = await nats.connect(url, reconnected_cb=reconnected, reconnect_time_wait=0.01)
            token.run_sync_soon(connected.set)
            await back.wait()
            assert client.connected_url is not None and client.connected_url.port == two.address[1]
            await client.close()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(in_asyncio, story, one)
            await connected.wait()
            await one.shut_down(1)


async def test_a_port_in_use_is_an_error_of_whoever_asked_for_it() -> None:
    async with listening(FakeNode()) as gateway:
        second = Gateway(FakeNode(), SocketPort(*gateway.address), random.Random(1))
        with pytest.raises(OSError, match="in use"):
            await second.run()


class TlsClient:
    """A client that decides itself what is one record, and what leaves as one segment."""

    def __init__(self, stream: trio.SocketStream, context: ssl.SSLContext) -> None:
        self._stream = stream
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing)

    async def shake_hands(self) -> None:
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                await self.send()
                self._incoming.write(await self._stream.receive_some())
            else:
                return await self.send()

    async def send(self, *records: bytes) -> None:
        """Every argument as a record, all of them as one segment."""
        for record in records:
            self._tls.write(record)
        await self._stream.send_all(self._outgoing.read())

    async def receive(self) -> bytes:
        """The next record."""
        while True:
            try:
                return self._tls.read()
            except ssl.SSLWantReadError:
                self._incoming.write(await self._stream.receive_some())


async def test_records_of_tls_that_came_together_are_answered_together(tmp_path: Path) -> None:
    """asyncio makes a record of each publish, and nats-py's `test_tls_reconnect` closes behind the first
    of two answers: it fails if the second one comes after that."""
    authority = Authority(tmp_path)
    pair = authority.sign("server")
    tls = client_tls(pair.certificate, pair.key)
    async with listening(FakeNode(), tls=tls) as gateway:
        stream = await trio.open_tcp_stream(*gateway.address)
        assert b'"tls_required":true' in await receive(stream, b"\r\n")
        context = ssl.create_default_context(cafile=str(authority.path))
        context.check_hostname = False
        client = TlsClient(stream, context)
        await client.shake_hands()
        await client.send(CONNECT + b"SUB a 1\r\nPING\r\n")
        assert await client.receive() == b"PONG\r\n"
        await client.send(b"PUB a 1\r\n1\r\n", b"PUB a 1\r\n2\r\n", b"PUB a 1\r\n3\r\n")
        assert await client.receive() == b"MSG a 1 1\r\n1\r\nMSG a 1 1\r\n2\r\nMSG a 1 1\r\n3\r\n"

        large = [b"PUB a 16000\r\n" + b"x" * 16_000 + b"\r\n"] * 30
        await client.send(*large, b"PUB a 3\r\nend\r\n")
        got = b""
        while not got.endswith(b"end\r\n"):
            got += await client.receive()
        assert got.count(b"MSG a 1 16000\r\n") == 30, "more than the buffer takes at once"
        await stream.aclose()
