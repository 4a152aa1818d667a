"""Byte streams between nodes: TCP, or connections inside one Trio program."""

import logging
import math
import socket
import ssl
from abc import abstractmethod
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Protocol

import trio

from ...storage.readiness import each_readable
from ..certificates import PeerTls
from ..units import join_address, split_address

if TYPE_CHECKING:
    from trio.testing import MemoryReceiveStream, MemorySendStream

    MemoryStream = trio.StapledStream[MemorySendStream, MemoryReceiveStream]

logger = logging.getLogger(__name__)

RECEIVE_BYTES = 64 * 1024
TELL_SECONDS = 10.0  # between two lines on connections that are refused
Serve = Callable[[trio.abc.HalfCloseableStream], Awaitable[None]]


class Network(Protocol):
    """Byte streams between nodes."""

    async def dial(self, address: str) -> trio.abc.HalfCloseableStream:
        """Connect to `HOST:PORT`. Raises OSError."""
        ...

    async def listen(self, address: str) -> "Listener":
        """Bind `HOST:PORT` (port 0: any). Raises OSError."""
        ...


class Listener(Protocol):
    """A bound address."""

    address: str

    async def serve(self, handler: Serve) -> None:
        """Run `handler` for every connection, until cancelled. The handler owns its stream."""
        ...


async def _connect(address: str) -> trio.SocketStream:
    """A connection to an address that came from outside, or from a log that has it for ever. OSError."""
    try:
        host, port = split_address(address)
        return await trio.open_tcp_stream(host, port)
    except ValueError as error:  # also what a resolver thinks of a name
        raise OSError(f"{address!r} can't be dialled: {error}") from error


class EagerStream(trio.abc.HalfCloseableStream):
    """A stream that can be tried before it is waited for."""

    @abstractmethod
    def send_some(self, data: bytes | bytearray | memoryview) -> int:
        """Send as much as there is room for, without waiting; the number of bytes. A connection that is gone
        takes nothing, and `send_all` says so."""

    async def each_piece(self, max_bytes: int, take: Callable[[bytes], None]) -> None:
        """Call `take` with what arrives, as it does, until the stream ends.

        Raises what `take` raises, and what `receive_some` does."""
        while piece := await self.receive_some(max_bytes):
            take(bytes(piece))


class TcpStream(EagerStream):
    """A connected socket that is tried first, and waited for only when it must be.

    Trio's own stream gives way to other tasks at every call. Between nodes each call carries a whole batch,
    and another turn of the event loop costs as much as the call; so this one gives way only when there is
    nothing to read, no room to write, or when a peer fills every read to the brim.
    """

    def __init__(self, stream: trio.SocketStream) -> None:
        """Takes the socket over; `stream` must not be used any more."""
        self._socket = socket.socket(fileno=stream.socket.detach())
        self._socket.setblocking(False)
        self._brimful = False

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[self._socket.send(rest) :]
            except BlockingIOError:
                await trio.lowlevel.wait_writable(self._socket)
            except OSError as error:
                raise self._gone() from error

    def send_some(self, data: bytes | bytearray | memoryview) -> int:
        try:
            return self._socket.send(data)
        except OSError:
            return 0

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.wait_writable(self._socket)

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        size = max_bytes if max_bytes is not None else RECEIVE_BYTES
        if self._brimful:
            await trio.lowlevel.checkpoint()
        while True:
            try:
                data = self._socket.recv(size)
            except BlockingIOError:
                await trio.lowlevel.wait_readable(self._socket)
            except OSError as error:
                raise self._gone() from error
            else:
                self._brimful = len(data) == size
                return data

    async def each_piece(self, max_bytes: int, take: Callable[[bytes], None]) -> None:
        size = RECEIVE_BYTES  # most pieces are small, and a large buffer costs more than reading into it

        def look() -> bool:
            nonlocal size
            try:
                piece = self._socket.recv(size)
            except BlockingIOError:
                return True
            except OSError as error:
                raise self._gone() from error
            size = max_bytes if len(piece) == size else RECEIVE_BYTES
            if piece:
                take(piece)
            return bool(piece)

        await each_readable(self._socket.fileno(), look)

    async def send_eof(self) -> None:
        await trio.lowlevel.checkpoint()
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError as error:
            raise self._gone() from error

    async def aclose(self) -> None:
        if self._socket.fileno() >= 0:
            trio.lowlevel.notify_closing(self._socket)
            self._socket.close()
        await trio.lowlevel.checkpoint()

    def _gone(self) -> trio.BrokenResourceError | trio.ClosedResourceError:
        if self._socket.fileno() < 0:
            return trio.ClosedResourceError("this node closed the connection")
        return trio.BrokenResourceError("the connection is gone")


class TcpListener:
    def __init__(self, listeners: list[trio.SocketListener]) -> None:
        self._listeners = listeners
        host, port = listeners[0].socket.getsockname()[:2]
        self.address = join_address(host, port)

    async def serve(self, handler: Serve) -> None:
        async def take(stream: trio.SocketStream) -> None:
            await handler(TcpStream(stream))

        await trio.serve_listeners(take, self._listeners)


class TcpNetwork:
    """TCP with Nagle off (Trio's default): a frame is sent when it is ready, batching happens above."""

    async def dial(self, address: str) -> trio.abc.HalfCloseableStream:
        return TcpStream(await _connect(address))

    async def listen(self, address: str) -> Listener:
        host, port = split_address(address)
        return TcpListener(await trio.open_tcp_listeners(port, host=host))


HANDSHAKE_SECONDS = 5.0
"""For a TLS handshake on a link; a peer that needs longer dials again."""


class TlsStream(trio.abc.HalfCloseableStream):
    """An encrypted connection whose handshake is done."""

    def __init__(self, stream: "trio.SSLStream[trio.SocketStream]") -> None:
        self._stream = stream

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        return bytes(await self._stream.receive_some(max_bytes if max_bytes is not None else RECEIVE_BYTES))

    async def send_eof(self) -> None:
        """TLS ends both directions at once."""
        await self.aclose()

    async def aclose(self) -> None:
        await trio.aclose_forcefully(self._stream)


class TlsListener:
    def __init__(self, listeners: list[trio.SocketListener], context: ssl.SSLContext) -> None:
        self._listeners = listeners
        self._context = context
        self._quiet_until = -math.inf
        host, port = listeners[0].socket.getsockname()[:2]
        self.address = join_address(host, port)

    async def serve(self, handler: Serve) -> None:
        async def take(raw: trio.SocketStream) -> None:
            stream, caller = trio.SSLStream(raw, self._context, server_side=True), _caller(raw)
            try:
                await _shake_hands(stream)
            except OSError as error:
                self._tell(caller, error)
                return
            await handler(TlsStream(stream))

        await trio.serve_listeners(take, self._listeners)

    def _tell(self, caller: str, error: OSError) -> None:
        """At most a line in a while: a node without a good certificate comes back twice a second for ever."""
        now = trio.current_time()
        if now < self._quiet_until:
            logger.debug("a peer connection was refused: %s (from %s)", error, caller)
            return
        self._quiet_until = now + TELL_SECONDS
        logger.warning("a peer connection was refused: %s (from %s)", error, caller)


def _caller(stream: trio.SocketStream) -> str:
    try:
        return str(stream.socket.getpeername()[0])
    except OSError:
        return "somebody who has gone"


class TlsNetwork:
    """TCP under TLS, both ends of which show a certificate of the cluster's authority."""

    def __init__(self, tls: PeerTls) -> None:
        self._tls = tls

    async def dial(self, address: str) -> trio.abc.HalfCloseableStream:
        stream = trio.SSLStream(await _connect(address), self._tls.client)
        await _shake_hands(stream)
        return TlsStream(stream)

    async def listen(self, address: str) -> Listener:
        host, port = split_address(address)
        return TlsListener(await trio.open_tcp_listeners(port, host=host), self._tls.server)


async def _shake_hands(stream: "trio.SSLStream[trio.SocketStream]") -> None:
    """Raises OSError, with the connection closed."""
    done = False
    try:
        with trio.fail_after(HANDSHAKE_SECONDS):
            await stream.do_handshake()
        done = True
    except trio.TooSlowError:
        raise OSError("the TLS handshake took too long") from None
    except trio.BrokenResourceError as error:
        raise OSError(f"the TLS handshake failed: {error.__cause__ or error}") from error
    finally:
        if not done:
            await trio.aclose_forcefully(stream)


class MemoryNetwork:
    """Connections inside one Trio program, for in-process clusters and simulations.

    `cut(address)` closes every connection to an address and refuses new ones until `heal(address)`.
    """

    def __init__(self) -> None:
        self._handlers: dict[str, tuple[Serve, trio.Nursery]] = {}
        self._streams: dict[str, list[MemoryStream]] = {}
        self._cut: set[str] = set()
        self._next_port = 1

    async def dial(self, address: str) -> trio.abc.HalfCloseableStream:
        # Here, since it brings all of pytest along where that is installed: a quarter of a node's start.
        from trio.testing import memory_stream_pair

        await trio.lowlevel.checkpoint()
        found = self._handlers.get(address)
        if found is None or address in self._cut:
            raise ConnectionRefusedError(f"nobody listens on {address}")
        near, far = memory_stream_pair()
        handler, nursery = found
        self._streams.setdefault(address, []).extend((near, far))
        nursery.start_soon(handler, far)
        return near

    async def listen(self, address: str) -> Listener:
        await trio.lowlevel.checkpoint()
        host, port = split_address(address)
        if port == 0:
            port, self._next_port = self._next_port, self._next_port + 1
        address = join_address(host, port)
        if address in self._handlers:
            raise OSError(f"{address} is in use")
        return _MemoryListener(self, address)

    def cut(self, address: str) -> None:
        self._cut.add(address)
        for stream in self._streams.pop(address, []):
            stream.send_stream.close()
            stream.receive_stream.close()

    def heal(self, address: str) -> None:
        self._cut.discard(address)

    def register(self, address: str, handler: Serve, nursery: trio.Nursery) -> None:
        self._handlers[address] = (handler, nursery)

    def unregister(self, address: str) -> None:
        self._handlers.pop(address, None)


class _MemoryListener:
    def __init__(self, network: MemoryNetwork, address: str) -> None:
        self._network = network
        self.address = address

    async def serve(self, handler: Serve) -> None:
        async with trio.open_nursery() as nursery:
            self._network.register(self.address, handler, nursery)
            try:
                await trio.sleep_forever()
            finally:
                self._network.unregister(self.address)
