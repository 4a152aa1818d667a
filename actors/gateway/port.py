"""Where clients' bytes come in and go out: a `Port` of `Wire`s, here over sockets.
`memory_port.py` has one in memory.

One wake-up serves every client that has something to say. `SocketPort` keeps all sockets in one epoll object
that is itself awaited, so that Trio's cost per wait is paid once per pass and not once per client (DESIGN
section 12).
"""

from __future__ import annotations

import errno
import socket
import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol, cast

import trio

from ...storage.readiness import Wake, each_readable
from .access import Certificate
from .poller import new_poller

__all__ = ["Port", "Ready", "SocketPort", "Wire"]

RECEIVE_PASS: Final = 256
"""Sockets served in one pass; the others are ready in the next. Bounds how long one pass keeps the loop."""

BACKLOG: Final = 1024
"""Connections the kernel may hold until the next pass; reconnecting clients come in crowds."""

_OUT_OF_FILES: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class Wire(Protocol):
    """One client's bytes. No call waits or raises for what the client or the network did."""

    @property
    def address(self) -> str:
        """Host the client connects from, for INFO and log lines."""

    @property
    def port(self) -> int:
        """And its port there."""

    @property
    def pending(self) -> int:
        """Bytes written that the client has not taken yet."""

    @property
    def securing(self) -> bool:
        """A TLS handshake is under way."""

    @property
    def certificate(self) -> Certificate | None:
        """The client's verified certificate, if it showed one."""

    def secure(self, context: ssl.SSLContext) -> None:
        """Encrypt from here on, as the server; what is written waits for the handshake."""

    def receive(self, into: memoryview) -> int | None:
        """Copy what has arrived, at most `len(into)` bytes; 0: the client is gone; None: nothing now."""

    def write(self, data: bytes | bytearray) -> None:
        """Send, keeping what the client does not take now. Copies what it keeps. Nothing after `close`."""

    def pause(self) -> None:
        """Report this wire as readable no more, until `resume`."""

    def resume(self) -> None: ...

    def close(self) -> None:
        """Close once pending bytes are out."""

    def abort(self) -> None:
        """Close now, dropping pending bytes."""


@dataclass(slots=True)
class Ready:
    """What one pass of a port found."""

    accepted: list[Wire] = field(default_factory=list)
    readable: list[Wire] = field(default_factory=list)
    """Wires with bytes, or whose client is gone: `receive` tells."""


class Port(Protocol):
    """All clients of one gateway."""

    async def open(self) -> tuple[str, int]:
        """Start to listen; the bound host and port. Raises OSError."""

    async def serve(self, take: Callable[[Ready], None]) -> None:
        """Report what there is to do, whenever there is something, until cancelled. Raises what `take`
        raises."""

    def unsent(self) -> int:
        """Bytes written to any wire, closing ones included, that clients have not taken yet."""

    def stop_listening(self) -> None:
        """Accept nobody any more; standing connections stay."""

    def close(self) -> None:
        """Close everything."""


# --- sockets ---------------------------------------------------------------------------------------------


class _SocketWire:
    """A client's socket, never blocking."""

    def __init__(self, port: SocketPort, sock: socket.socket, address: tuple[str, int]) -> None:
        self._port = port
        self._socket = sock
        self._address = address
        self._unsent = bytearray()
        self._reading = True
        self._closing = False
        self._broken = False
        self._tls: ssl.SSLSocket | None = None
        self._shaking = False
        self._waits_to_write = False
        """TLS has something to say before it goes on."""
        self.fd = sock.fileno()
        self.open = True

    @property
    def address(self) -> str:
        return self._address[0]

    @property
    def port(self) -> int:
        return self._address[1]

    @property
    def pending(self) -> int:
        return len(self._unsent)

    @property
    def securing(self) -> bool:
        return self._shaking

    @property
    def certificate(self) -> Certificate | None:
        shown = self._tls.getpeercert() if self._tls is not None and not self._shaking else None
        return read_certificate(shown) if shown else None

    def secure(self, context: ssl.SSLContext) -> None:
        try:
            self._tls = context.wrap_socket(self._socket, server_side=True, do_handshake_on_connect=False)
        except OSError:
            return  # it went away; reading tells
        self._socket = self._tls
        self._shaking = True

    def receive(self, into: memoryview) -> int | None:
        if not self.open:
            return 0
        if self._shaking and not self._shake():
            return 0 if self._broken else None
        try:
            size = self._socket.recv_into(into)
        except (BlockingIOError, InterruptedError, ssl.SSLWantReadError):
            return None
        except ssl.SSLWantWriteError:
            self._write_soon()
            return None
        except OSError:
            return 0
        return size if self._tls is None or not size else self._receive_records(into, size)

    def _receive_records(self, into: memoryview, size: int) -> int:
        """Read on behind `size` bytes: TLS gives one record at a time, and asyncio makes one of each publish.

        A pass for each of them would answer them one by one.
        """
        try:
            while size < len(into) and (more := self._socket.recv_into(into[size:])):
                size += more
        except (BlockingIOError, InterruptedError, ssl.SSLWantReadError):
            return size
        except ssl.SSLWantWriteError:
            self._write_soon()
            return size
        except OSError:
            pass  # the next read tells
        self._port.again(self)  # what is decrypted already, or its end, the socket will not report
        return size

    def _shake(self) -> bool:
        """Go on with the handshake; True: it is done."""
        assert self._tls is not None
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        except ssl.SSLWantWriteError:
            self._write_soon()
            return False
        except (OSError, ValueError):
            self._shaking = False
            self._break()
            return False
        self._shaking = False
        if self._unsent:
            self.flush()
        return True

    def _write_soon(self) -> None:
        self._waits_to_write = True
        self._watch()

    def write(self, data: bytes | bytearray) -> None:
        if not self.open or self._closing or self._broken:
            return
        if self._unsent or self._shaking:
            self._unsent += data
            return
        sent = self._send(data)
        if sent < len(data):
            self._unsent += memoryview(data)[sent:]
            self._watch()

    def pause(self) -> None:
        if self.open and self._reading:
            self._reading = False
            self._watch()

    def resume(self) -> None:
        if self.open and not self._reading and not self._closing:
            self._reading = True
            self._watch()
            if self._tls is not None and self._tls.pending():
                self._port.again(self)

    @property
    def reading(self) -> bool:
        """It was not paused."""
        return self._reading

    def close(self) -> None:
        if not self.open or self._closing:
            return
        self._closing = True
        if self._unsent:
            self._reading = False
            self._watch()
        else:
            self.abort()

    def abort(self) -> None:
        if self.open:
            self.open = False
            self._unsent.clear()
            self._port.forget(self)
            self._socket.close()

    def flush(self) -> None:
        """Send pending bytes now that the socket takes some."""
        if self._waits_to_write:
            self._waits_to_write = False
            self._watch()
            self._port.again(self)  # whatever it was doing goes on in `receive`
        if self._shaking:
            return
        sent = self._send(self._unsent)
        if self.open and sent:
            del self._unsent[:sent]
            if not self._unsent:
                self._drained()

    def _drained(self) -> None:
        if self._closing:
            self.abort()
        else:
            self._watch()

    def _send(self, data: bytes | bytearray) -> int:
        sent = 0
        try:
            if self._tls is None:
                return self._socket.send(data)
            with memoryview(data) as view:
                while sent < len(view):  # one TLS record a time
                    sent += self._tls.send(view[sent:])
        except (BlockingIOError, InterruptedError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
            return sent
        except OSError:
            self._break()
            return len(data)
        return sent

    def _break(self) -> None:
        """The client is gone. That is reported as readable, so that the owner learns it in one place."""
        self._broken = True
        self._unsent.clear()
        if self._closing:
            self.abort()
            return
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # it was down already
        self._reading = True
        self._watch()

    @property
    def wants_to_write(self) -> bool:
        return self._waits_to_write or (bool(self._unsent) and not self._shaking)

    def _watch(self) -> None:
        self._port.poller.change(self.fd, read=self._reading, write=self.wants_to_write)


class SocketPort:
    """TCP clients behind one epoll object (kqueue on macOS and the BSDs).

    Args:
        host, port: where to listen; port 0 takes a free one.
    """

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port
        self._listener: socket.socket | None = None
        self._listening = False
        self._wires: dict[int, _SocketWire] = {}
        self._again: dict[_SocketWire, None] = {}
        self._wake = Wake()
        """Makes the poller readable when there is something in `_again`."""
        self.poller = new_poller()
        self.poller.watch(self._wake.fileno(), read=True, write=False)

    async def open(self) -> tuple[str, int]:
        listeners = await trio.open_tcp_listeners(self._port, host=self._host, backlog=BACKLOG)
        # Trio resolves the name; the descriptor is all that is wanted of its sockets.
        first, *others = listeners
        for each in others:
            await each.aclose()
        self._listener = socket.socket(fileno=first.socket.detach())
        self._listener.setblocking(False)
        self._listening = True
        self.poller.watch(self._listener.fileno(), read=True, write=False)
        host, port = self._listener.getsockname()[:2]
        return host, port

    async def serve(self, take: Callable[[Ready], None]) -> None:
        def look() -> bool:
            take(self._found())
            return True

        await each_readable(self.poller.fileno(), look)

    def _found(self) -> Ready:
        again, self._again = self._again, {}
        ready = Ready(readable=[wire for wire in again if wire.open and wire.reading])
        for fd, readable, writable in self.poller.poll(RECEIVE_PASS):
            wire = self._wires.get(fd)
            if wire is None:
                if fd == self._wake.fileno():
                    self._wake.clear()
                elif self._listener is not None and fd == self._listener.fileno():
                    self._accept(ready)
                continue
            if writable and wire.wants_to_write:
                wire.flush()
            if readable and wire.open and wire not in again:
                ready.readable.append(wire)
        return ready

    def again(self, wire: _SocketWire) -> None:
        """Report this wire as readable in the next pass whatever its socket says."""
        self._again[wire] = None
        self._wake.set()

    def unsent(self) -> int:
        return sum(wire.pending for wire in self._wires.values())

    def stop_listening(self) -> None:
        if self._listener is not None:
            self._unlisten()
            self._listener.close()
            self._listener = None

    def close(self) -> None:
        self.stop_listening()
        for wire in list(self._wires.values()):
            wire.abort()
        self.poller.close()

    def forget(self, wire: _SocketWire) -> None:
        """A wire closes: its descriptor number may be another client's in a moment."""
        self.poller.forget(wire.fd)
        self._again.pop(wire, None)
        del self._wires[wire.fd]
        if not self._listening and self._listener is not None:
            self._listening = True
            self.poller.watch(self._listener.fileno(), read=True, write=False)

    def _unlisten(self) -> None:
        if self._listening and self._listener is not None:
            self._listening = False
            self.poller.forget(self._listener.fileno())

    def _accept(self, ready: Ready) -> None:
        assert self._listener is not None
        for _ in range(RECEIVE_PASS):
            try:
                sock, address = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _OUT_OF_FILES:
                    # Level-triggered readiness would spin; listen again when a client has left.
                    if self._wires:
                        self._unlisten()
                    return
                continue  # this one client went away before it was accepted
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            wire = _SocketWire(self, sock, (str(address[0]), int(address[1])))
            self._wires[wire.fd] = wire
            self.poller.watch(wire.fd, read=True, write=False)
            ready.accepted.append(wire)


_SHORT: Final = {
    "commonName": "CN",
    "organizationName": "O",
    "organizationalUnitName": "OU",
    "countryName": "C",
    "localityName": "L",
    "stateOrProvinceName": "ST",
    "domainComponent": "DC",
    "streetAddress": "STREET",
}


def read_certificate(shown: Mapping[str, object]) -> Certificate:
    """What `getpeercert` found, by the names that users may have."""
    alternatives = cast("Sequence[tuple[str, str]]", shown.get("subjectAltName", ()))
    parts = cast("Sequence[Sequence[tuple[str, str]]]", shown.get("subject", ()))
    names = ["+".join(f"{_SHORT.get(kind, kind)}={value}" for kind, value in part) for part in parts]
    return Certificate(
        emails=tuple(value for kind, value in alternatives if kind == "email"),
        hosts=tuple(value for kind, value in alternatives if kind == "DNS"),
        subject=",".join(reversed(names)),
    )
