"""One connection to one server: its address, its greeting, its socket, and its end."""

from __future__ import annotations

import json
import ssl
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote, urlsplit

import trio

from .. import __version__
from ..codec.protocol import Direction, OpKind, Scanner
from .errors import Disconnected, NatsError, ServerError
from .messages import json_object

MAX_UNSENT: Final = 1 << 20
"""Bytes waiting for the socket before a publisher has to wait."""


@dataclass(frozen=True, slots=True)
class ServerAddress:
    """Where a server is, and who connects to it."""

    host: str
    port: int
    user: str | None = None
    password: str | None = None
    encrypted: bool = False
    """It was asked for; a server that requires TLS gets it anyway."""

    @classmethod
    def parse(cls, url: str) -> ServerAddress:
        """`host:port` or `nats://[user:password@]host[:port]`; a user alone is a token, `tls://` wants TLS.

        Raises:
            ValueError: not such an address.
        """
        try:
            parts = urlsplit(url if "://" in url else f"nats://{url}")
            host, port = parts.hostname, parts.port
            (host or "").encode("idna")
        except ValueError:  # a port beyond 65535, an open bracket, a name that no resolver takes
            host = port = None
        if not host or parts.scheme not in ("nats", "tls"):
            raise ValueError(f"{url!r} is not an address such as nats://127.0.0.1:4222")
        user = unquote(parts.username) if parts.username else None
        password = unquote(parts.password) if parts.password else None
        return cls(host, port or 4222, user, password, parts.scheme == "tls")

    def credentials(self) -> dict[str, str]:
        """The fields of CONNECT that say who this is."""
        if self.user is None:
            return {}
        if self.password is None:
            return {"auth_token": self.user}
        return {"user": self.user, "pass": self.password}


class Link:
    """One connection: its socket, what is unsent, and its end, which comes once and says why."""

    def __init__(self, stream: trio.abc.Stream, scanner: Scanner, info: dict[str, object]) -> None:
        self.stream = stream
        self.scanner = scanner
        self.info = info
        self.unsent = bytearray()
        self.sent = 0
        self.queued = 0
        self.failure: NatsError | None = None
        self._wake = trio.Event()
        self._room = trio.Event()

    @property
    def max_payload(self) -> int:
        size = self.info.get("max_payload")
        return size if isinstance(size, int) else 1 << 20

    def write(self, *parts: bytes) -> int:
        """Queue bytes; returns the position in the outgoing stream behind them."""
        for part in parts:
            self.unsent += part
            self.queued += len(part)
        self._wake.set()
        return self.queued

    def fail(self, error: NatsError) -> None:
        """End this connection; the first reason stands."""
        if self.failure is None:
            self.failure = error
            self._wake.set()
            self._room.set()

    async def room(self) -> None:
        """Wait until the backlog is below its bound, or the connection has failed."""
        while len(self.unsent) >= MAX_UNSENT and self.failure is None:
            self._room = trio.Event()
            await self._room.wait()

    async def run_writer(self) -> None:
        while self.failure is None:
            if not self.unsent:
                self._wake = trio.Event()
                await self._wake.wait()
                continue
            data, self.unsent = self.unsent, bytearray()
            try:
                await self.stream.send_all(data)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                self.fail(Disconnected("the connection broke while sending"))
                return
            self.sent += len(data)
            self._room.set()


async def open_link(server: ServerAddress, name: str) -> Link:
    """INFO, CONNECT, PING, PONG. Raises NatsError, ProtocolError, OSError, trio.BrokenResourceError."""
    stream: trio.abc.Stream = await trio.open_tcp_stream(server.host, server.port)
    try:
        scanner = Scanner(Direction.CLIENT, max_control_line=65000, max_payload=1 << 30)
        link = Link(stream, scanner, {})
        while not await _read_until(link, OpKind.INFO):
            pass
        if server.encrypted or link.info.get("tls_required") is True:
            # Trusts whom this machine trusts; SSL_CERT_FILE names others.
            context = ssl.create_default_context()
            stream = link.stream = trio.SSLStream(stream, context, server_hostname=server.host)
        options = {
            "verbose": False,
            "pedantic": False,
            "headers": True,
            "no_responders": True,
            "protocol": 1,
            "lang": "trimaran",
            "version": __version__,
            "name": name,
            **server.credentials(),
        }
        await stream.send_all(b"CONNECT %b\r\nPING\r\n" % json.dumps(options).encode())
        while not await _read_until(link, OpKind.PONG):
            pass
        return link
    except BaseException:
        await trio.aclose_forcefully(stream)
        raise


async def _read_until(link: Link, awaited: OpKind) -> bool:
    """Read once; True when the awaited operation was among what came."""
    data = await link.stream.receive_some(65536)
    if not data:
        raise Disconnected("the server closed the connection")
    link.scanner.feed(data)
    found = False
    while count := link.scanner.scan():
        for number in range(count):
            kind = link.scanner.kind(number)
            if kind == OpKind.ERR:
                raise ServerError(link.scanner.text(number))
            if kind == OpKind.INFO:
                link.info = {**link.info, **json_object(link.scanner.args(number))}
            found = found or kind == awaited
    return found


async def receive(stream: trio.abc.Stream, into: memoryview) -> int:
    """Bytes read; 0: the end. A plain socket copies nothing on the way."""
    if isinstance(stream, trio.SocketStream):
        return await stream.socket.recv_into(into)
    data = await stream.receive_some(len(into))
    into[: len(data)] = data
    return len(data)
