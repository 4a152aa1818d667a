"""A node without Raft or disk for the gateway's tests: its streams store at once, or when the test says."""

import random
import struct
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import trio

from trimaran.actors.gateway.backend import StreamRef
from trimaran.actors.gateway.gateway import Gateway, Settings
from trimaran.actors.gateway.memory_port import MemoryPeer, MemoryPort
from trimaran.actors.gateway.port import Port
from trimaran.actors.gateway.subjects import matches
from trimaran.actors.raft.outcomes import Applied, Outcome
from trimaran.codec import Chunk

CONNECT = b'CONNECT {"verbose":false,"headers":true,"no_responders":true,"protocol":1}\r\n'


@dataclass(eq=False)
class FakeNode:
    """A `Backend` that assigns sequences itself. `outcomes` overrides what the next proposals come to."""

    node_id: int = 1
    node_name: str = "n1"
    cluster_name: str = "test"
    version: str = "0.1.0"
    streams: dict[str, StreamRef] = field(default_factory=dict)
    chunks: list[tuple[int, Chunk]] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)
    held: list[Callable[[], None]] | None = None
    """Not None: proposals wait here until the test calls them."""
    answers: dict[str, bytes] = field(default_factory=dict)
    requests: list[tuple[str, bytes]] = field(default_factory=list)
    interest: list[tuple[int | None, tuple[object, ...]]] = field(default_factory=list)
    routes: list[tuple[int, bytes]] = field(default_factory=list)
    to_consumers: list[tuple[bytes, bytes, bytes]] = field(default_factory=list)
    link_up: bool = True
    links: "dict[int, Gateway]" = field(default_factory=dict)
    audited: list[tuple[str, bytes, bytes]] = field(default_factory=list)
    sequence: int = 0
    room: int = 1 << 60
    """Bytes that the account has left."""

    def add_stream(self, name: str, *subjects: str, no_ack: bool = False) -> None:
        encoded = tuple(subject.encode() for subject in subjects)
        self.streams[name] = StreamRef(name, 2 + len(self.streams), encoded, no_ack)

    def stream_of(self, subject: bytes) -> StreamRef | None:
        for ref in self.streams.values():
            if any(matches(pattern, subject) for pattern in ref.subjects):
                return ref
        return None

    def streams_version(self) -> int:
        return len(self.streams)

    def exceeds(self, group: int, size: int) -> bool:
        return size > self.room

    def propose(self, group: int, chunk: Chunk, done: Callable[[Outcome], None]) -> None:
        self.chunks.append((group, chunk))
        outcome = self.outcomes.pop(0) if self.outcomes else self._stored(chunk.count)
        if self.held is None:
            done(outcome)
        else:
            self.held.append(lambda: done(outcome))

    def _stored(self, count: int) -> Applied:
        first = self.sequence + 1
        self.sequence += count
        return Applied(first, struct.pack(f"<{count}Q", *range(first, first + count)))

    async def api(self, subject: str, payload: bytes) -> bytes | None:
        await trio.lowlevel.checkpoint()
        self.requests.append((subject, payload))
        return self.answers.get(subject)

    def to_consumer(self, subject: bytes, reply: bytes, payload: bytes) -> bool:
        known = subject.startswith(b"$JS.ACK.")
        if known:
            self.to_consumers.append((subject, reply, payload))
        return known

    def flush_consumers(self) -> None: ...

    def audit(
        self, client: Mapping[str, object], connected: float, subject: str, request: bytes, response: bytes
    ) -> None:
        self.audited.append((subject, request, response))

    def listeners_changed(self) -> None: ...

    def peers(self) -> Iterable[int]:
        return self.links

    def send_interest(self, peer: int | None, data: tuple[object, ...]) -> None:
        self.interest.append((peer, data))
        for number, gateway in self.links.items():
            if peer in (None, number):
                gateway.on_interest(self.node_id, data)

    def send_route(self, peer: int, data: bytes) -> bool:
        self.routes.append((peer, data))
        if self.link_up and peer in self.links:
            self.links[peer].on_route(self.node_id, data)
        return self.link_up


@dataclass
class Running:
    """A gateway in a test, with its node and its port in memory."""

    node: FakeNode
    gateway: Gateway
    port: MemoryPort

    async def raw(self, hello: bytes = CONNECT) -> MemoryPeer:
        """A connection that has read its INFO and sent `hello`."""
        peer = self.port.connect()
        await peer.receive_until(b"\r\n")
        peer.send(hello)
        return peer

    async def client(self, hello: bytes = CONNECT) -> MemoryPeer:
        """A connection behind its handshake."""
        peer = await self.raw(hello + b"PING\r\n")
        await peer.receive_until(b"PONG\r\n")
        return peer


@asynccontextmanager
async def running(
    node: FakeNode | None = None, settings: Settings | None = None, **options: Any
) -> AsyncIterator[Running]:
    """A gateway that runs while the block does."""
    node = node or FakeNode()
    port = MemoryPort()
    gateway = Gateway(node, port, random.Random(7), settings, **options)
    async with trio.open_nursery() as nursery:
        await nursery.start(gateway.run)
        yield Running(node, gateway, port)
        nursery.cancel_scope.cancel()


def link(one: Running, other: Running) -> None:
    """Connect two gateways by a perfect link."""
    one.node.links[other.node.node_id] = other.gateway
    other.node.links[one.node.node_id] = one.gateway
    one.gateway.on_peer_up(other.node.node_id)
    other.gateway.on_peer_up(one.node.node_id)


async def ask(peer: MemoryPeer, data: bytes) -> bytes:
    """Send, and a PING behind it; everything that came until the gateway is at rest, without the PONG."""
    peer.send(data + b"PING\r\n")
    await peer.until(lambda peer: b"PONG\r\n" in peer.received)
    await trio.testing.wait_all_tasks_blocked()
    answer = bytes(peer.received).replace(b"PONG\r\n", b"", 1)
    peer.received.clear()
    return answer


__all__ = ["CONNECT", "FakeNode", "Port", "Running", "ask", "link", "running"]
