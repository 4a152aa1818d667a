"""Clients without sockets, for tests and the simulator: a `Port` whose connections are byte strings."""

from __future__ import annotations

import ssl
from collections.abc import Callable

import trio

from .access import Certificate
from .port import Ready, Wire

__all__ = ["MemoryPeer", "MemoryPort"]


class _MemoryWire:
    """The gateway's end of a connection that is two byte strings."""

    def __init__(self, port: MemoryPort, peer: MemoryPeer) -> None:
        self._port = port
        self._peer = peer
        self.arrived = bytearray()
        self.ended = False
        self.reading = True
        self.open = True
        self._closing = False
        self._unsent = bytearray()

    @property
    def address(self) -> str:
        return "memory"

    @property
    def port(self) -> int:
        return 0

    @property
    def securing(self) -> bool:
        return False

    @property
    def certificate(self) -> Certificate | None:
        return None

    def secure(self, context: ssl.SSLContext) -> None:
        """Nobody listens in on a byte string."""

    @property
    def pending(self) -> int:
        return len(self._unsent)

    def receive(self, into: memoryview) -> int | None:
        count = min(len(into), len(self.arrived))
        if not count:
            return 0 if self.ended or not self.open else None
        into[:count] = self.arrived[:count]
        del self.arrived[:count]
        return count

    def write(self, data: bytes | bytearray) -> None:
        if self.open and not self._closing:
            self._unsent += data
            self.flush()

    def flush(self) -> None:
        if not self._peer.stalled:
            self._peer.received += self._unsent
            self._unsent.clear()
            if self._closing:
                self.abort()
            self._peer.changed()

    def pause(self) -> None:
        self.reading = False

    def resume(self) -> None:
        self.reading = True
        self._port.changed()

    def close(self) -> None:
        if self.open and not self._closing:
            self._closing = True
            self.reading = False
            self.flush()

    def abort(self) -> None:
        if self.open:
            self.open = False
            self._unsent.clear()
            self._port.wires.remove(self)
            self._peer.closed = True
            self._peer.changed()


class MemoryPeer:
    """The client's end of a connection in memory."""

    def __init__(self, port: MemoryPort) -> None:
        self._wire = _MemoryWire(port, self)
        self._port = port
        self._news = trio.Event()
        self.received = bytearray()
        """Everything the gateway has sent so far; the owner may cut it."""
        self.closed = False
        """The gateway closed the connection."""
        self.stalled = False
        """While True the client takes nothing: what is written to it stays pending."""

    @property
    def wire(self) -> Wire:
        return self._wire

    def send(self, data: bytes) -> None:
        self._wire.arrived += data
        self._port.changed()

    def close(self) -> None:
        self._wire.ended = True
        self._port.changed()

    def unstall(self) -> None:
        self.stalled = False
        self._wire.flush()

    def changed(self) -> None:
        news, self._news = self._news, trio.Event()
        news.set()

    async def until(self, condition: Callable[[MemoryPeer], bool]) -> None:
        """Wait until `condition(self)` holds; asked again when bytes arrive or the connection closes."""
        while not condition(self):
            await self._news.wait()

    async def receive_until(self, end: bytes) -> bytes:
        """Wait for `end`, and take everything received up to and with it. Raises EOFError."""
        await self.until(lambda peer: end in peer.received or peer.closed)
        cut = self.received.find(end)
        if cut < 0:
            raise EOFError(bytes(self.received))
        cut += len(end)
        taken = bytes(self.received[:cut])
        del self.received[:cut]
        return taken


class MemoryPort:
    """Clients inside the same program: for tests, embedding and the simulator.

    Args:
        address: what it says it is bound to; port 0: nowhere that a client could be told of.
    """

    def __init__(self, address: tuple[str, int] = ("memory", 0)) -> None:
        self._address = address
        self._news = trio.Event()
        self._accepted: list[Wire] = []
        self.wires: list[_MemoryWire] = []
        self.listening = False

    def connect(self) -> MemoryPeer:
        """Connect a client. Raises ConnectionRefusedError when the port does not listen."""
        if not self.listening:
            raise ConnectionRefusedError("the memory port does not listen")
        peer = MemoryPeer(self)
        self.wires.append(peer._wire)
        self._accepted.append(peer.wire)
        self.changed()
        return peer

    async def open(self) -> tuple[str, int]:
        await trio.lowlevel.checkpoint()
        self.listening = True
        return self._address

    async def serve(self, take: Callable[[Ready], None]) -> None:
        while True:
            await trio.lowlevel.checkpoint()
            while not self._accepted and not any(_has_news(wire) for wire in self.wires):
                self._news = trio.Event()
                await self._news.wait()
            accepted, self._accepted = self._accepted, []
            take(Ready(accepted, [wire for wire in self.wires if _has_news(wire)]))

    def unsent(self) -> int:
        return sum(wire.pending for wire in self.wires)

    def stop_listening(self) -> None:
        self.listening = False

    def close(self) -> None:
        self.stop_listening()
        for wire in list(self.wires):
            wire.abort()

    def changed(self) -> None:
        self._news.set()


def _has_news(wire: _MemoryWire) -> bool:
    return wire.reading and (bool(wire.arrived) or wire.ended)
