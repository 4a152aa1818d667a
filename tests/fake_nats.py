"""A NATS server small enough to be trusted: core subscriptions, and streams that only count.

It reads with the package's scanner and answers what it was told to: `silent` makes it swallow publishes to a
stream, `refusal` answers them with an error, `drop` cuts every connection.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import trio

from trimaran.codec.protocol import OpKind, ProtocolError, Scanner

NO_RESPONDERS = b"NATS/1.0 503\r\n\r\n"


def matches(subject: str, pattern: str) -> bool:
    words, wanted = subject.split("."), pattern.split(".")
    if wanted[-1] == ">":
        return len(words) >= len(wanted) and words[: len(wanted) - 1] == wanted[:-1]
    return len(words) == len(wanted) and all(w in ("*", word) for word, w in zip(words, wanted, strict=True))


@dataclass(eq=False)
class Peer:
    """One connection and its subscriptions (sid -> subject)."""

    stream: trio.SocketStream
    subscriptions: dict[bytes, str] = field(default_factory=dict)
    out: bytearray = field(default_factory=bytearray)


class FakeServer:
    def __init__(self, *, token: str | None = None, max_payload: int = 1 << 20) -> None:
        self.token = token
        self.max_payload = max_payload
        self.streams: dict[str, list[str]] = {}
        self.stored: dict[str, list[tuple[str, bytes, bytes]]] = {}
        self.message_ids: dict[bytes, int] = {}
        self.connects: list[dict[str, object]] = []
        self.silent = False
        self.refusal: dict[str, object] | None = None
        self.port = 0
        self._peers: list[Peer] = []

    @property
    def url(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        listeners = await trio.open_tcp_listeners(self.port, host="127.0.0.1")
        self.port = listeners[0].socket.getsockname()[1]
        async with trio.open_nursery() as nursery:
            await nursery.start(trio.serve_listeners, self._serve, listeners)
            task_status.started()

    async def drop(self) -> None:
        """Cut every connection."""
        for peer in list(self._peers):
            await trio.aclose_forcefully(peer.stream)

    async def say(self, line: bytes) -> None:
        """Send a line to every client."""
        for peer in list(self._peers):
            await peer.stream.send_all(line)

    async def _serve(self, stream: trio.SocketStream) -> None:
        peer = Peer(stream)
        self._peers.append(peer)
        scanner = Scanner()
        info = {"server_id": "FAKE", "headers": True, "max_payload": self.max_payload}
        try:
            await stream.send_all(b"INFO %b \r\n" % json.dumps(info).encode())
            async for data in stream:
                scanner.feed(data)
                while count := scanner.scan():
                    for number in range(count):
                        self._handle(peer, scanner, number)
                await self._flush()
        except ProtocolError as error:
            await stream.send_all(error.line)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            self._peers.remove(peer)
            await trio.aclose_forcefully(stream)

    async def _flush(self) -> None:
        for peer in list(self._peers):
            out, peer.out = peer.out, bytearray()
            if out:
                await peer.stream.send_all(out)

    def _handle(self, peer: Peer, scanner: Scanner, number: int) -> None:
        match scanner.kind(number):
            case OpKind.CONNECT:
                options = json.loads(scanner.args(number))
                self.connects.append(options)
                if self.token is not None and options.get("auth_token") != self.token:
                    raise ProtocolError("Authorization Violation")
            case OpKind.PING:
                peer.out += b"PONG\r\n"
            case OpKind.SUB:
                peer.subscriptions[scanner.sid(number)] = scanner.subject(number).decode()
            case OpKind.UNSUB:
                peer.subscriptions.pop(scanner.sid(number), None)
            case OpKind.PUB | OpKind.HPUB:
                subject, reply = scanner.subject(number).decode(), scanner.reply(number).decode()
                self._published(subject, reply, scanner.headers(number), scanner.payload(number))

    def _published(self, subject: str, reply: str, headers: bytes, payload: bytes) -> None:
        if subject.startswith("$JS.API."):
            self._send(reply, b"", json.dumps(self._api(subject.split(".")[2:], payload)).encode())
            return
        stream = next(
            (n for n, filters in self.streams.items() if any(matches(subject, f) for f in filters)), None
        )
        received = self._send(subject, headers, payload, reply)
        if stream is not None and not self.silent:
            self._send(reply, b"", self._store(stream, subject, headers, payload))
        elif stream is None and not received and reply:
            self._send(reply, NO_RESPONDERS, b"")

    def _store(self, stream: str, subject: str, headers: bytes, payload: bytes) -> bytes:
        if self.refusal is not None:
            return json.dumps({"error": self.refusal, "stream": stream, "seq": 0}).encode()
        stored = self.stored[stream]
        _, found, rest = headers.partition(b"Nats-Msg-Id: ")
        message_id = rest.split(b"\r\n")[0]
        if found and message_id in self.message_ids:
            return b'{"stream":"%b","seq":%d,"duplicate": true}' % (
                stream.encode(),
                self.message_ids[message_id],
            )
        stored.append((subject, headers, payload))
        self.message_ids[message_id] = len(stored)
        return b'{"stream":"%b","seq":%d}' % (stream.encode(), len(stored))

    def _api(self, words: list[str], payload: bytes) -> dict[str, object]:
        name = words[2]
        match words[1]:
            case "CREATE":
                self.streams[name] = json.loads(payload)["subjects"]
                self.stored[name] = []
                return {"config": json.loads(payload), "did_create": True}
            case "INFO" if name in self.streams:
                return {"config": {"name": name, "subjects": self.streams[name]}}
            case "DELETE" if name in self.streams:
                del self.streams[name]
                return {"success": True}
        return {"error": {"code": 404, "err_code": 10059, "description": "stream not found"}}

    def _send(self, subject: str, headers: bytes, payload: bytes, reply: str = "") -> int:
        """Deliver to every subscription; returns how many there were."""
        sent = 0
        for peer in self._peers:
            for sid, pattern in peer.subscriptions.items():
                if matches(subject, pattern):
                    words = b"%b %b" % (subject.encode(), sid) + (b" %b" % reply.encode() if reply else b"")
                    size = len(headers) + len(payload)
                    if headers:
                        peer.out += (
                            b"HMSG %b %d %d\r\n" % (words, len(headers), size) + headers + payload + b"\r\n"
                        )
                    else:
                        peer.out += b"MSG %b %d\r\n" % (words, size) + payload + b"\r\n"
                    sent += 1
        return sent


@contextmanager
def in_thread(server: FakeServer) -> Iterator[FakeServer]:
    """Run the server in a thread of its own, for what blocks."""
    ready = threading.Event()
    stop: list[object] = []

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(server.run)
            stop.extend([trio.lowlevel.current_trio_token(), nursery.cancel_scope])
            ready.set()

    thread = threading.Thread(target=trio.run, args=(main,))
    thread.start()
    assert ready.wait(10)
    token, scope = stop
    assert isinstance(token, trio.lowlevel.TrioToken)
    assert isinstance(scope, trio.CancelScope)
    try:
        yield server
    finally:
        token.run_sync_soon(scope.cancel)
        thread.join(10)
