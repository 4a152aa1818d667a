"""A small NATS client for Trio: what the demo, the benchmark and the examples talk to a cluster with.

    async with connect("127.0.0.1:4222", "127.0.0.1:4223") as client:
        await client.create_stream("ORDERS", ["orders.>"], replicas=3)
        ack = await client.jetstream_publish("orders.new", b"42")
        async with client.publisher(window=1000) as publisher:
            for number in range(10_000):
                await publisher.publish("orders.new", str(number).encode())

It knows several servers. When a connection breaks, everything that waits for an answer ends with a typed
error at once; the next operation (or, while there are subscriptions, the client by itself) connects to the
next server and subscribes again. Nothing is sent a second time by the client: a message whose fate is not
known is reported as `Unknown`, and whether to repeat it is the caller's decision (with a `Nats-Msg-Id`, that
is safe).

Answers are awaited for the client's `request_timeout`; for a shorter wait use `trio.fail_after`.
"""

from __future__ import annotations

import contextlib
import json
import math
import secrets
import ssl
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, TypeAlias
from urllib.parse import unquote, urlsplit

import trio

from .codec.protocol import Direction, OpKind, ProtocolError, Scanner, valid_publish_subject, valid_subject

__all__ = [
    "Client",
    "Closed",
    "ConnectFailed",
    "Disconnected",
    "JetStreamError",
    "Message",
    "NatsError",
    "NoResponders",
    "OUTCOME_UNKNOWN",
    "Outcome",
    "PayloadTooLarge",
    "PendingAck",
    "PubAck",
    "Publisher",
    "Refused",
    "RequestTimeout",
    "ServerAddress",
    "ServerError",
    "Stored",
    "Subscription",
    "Unknown",
    "connect",
]

DEFAULT_SERVER: Final = "nats://127.0.0.1:4222"
MAX_UNSENT: Final = 1 << 20
"""Bytes waiting for the socket before a publisher has to wait."""
RECONNECT_PAUSE: Final = 0.1
"""Seconds between two rounds over all servers."""
INBOX_SID: Final = 1


class NatsError(Exception):
    """Base of what this client raises."""


class ConnectFailed(NatsError):
    """No server could be reached within the time allowed."""


class Disconnected(NatsError):
    """The connection broke while an answer was awaited: the request may or may not have been carried out."""


class Closed(NatsError):
    """You closed this client."""


class ServerError(NatsError):
    """The server refused the connection or something sent on it, by an -ERR line."""


class NoResponders(NatsError):
    """Nobody listens on the subject: the request reached no one, it is safe to repeat."""


class RequestTimeout(NatsError, TimeoutError):
    """No answer in time: the request may or may not have been carried out."""


class PayloadTooLarge(NatsError, ValueError):
    """More bytes than the server's max_payload; nothing was sent."""


OUTCOME_UNKNOWN: Final = 20001
"""Trimaran's error code for what may or may not have been carried out. All others mean that it was not."""


class JetStreamError(NatsError):
    """A JetStream request was answered with an error: it was not carried out.

    Unless `err_code` is `OUTCOME_UNKNOWN`: then it may have been.
    """

    def __init__(self, code: int, err_code: int, description: str) -> None:
        super().__init__(f"{description} ({code}/{err_code})")
        self.code = code
        self.err_code = err_code
        self.description = description


@dataclass(frozen=True, slots=True)
class Message:
    """A message as a subscriber gets it."""

    subject: str
    reply: str
    """Subject to answer to; empty if none is wanted."""
    data: bytes
    headers: Mapping[str, Sequence[str]] = field(default_factory=dict)
    status: int = 0
    """Status of a message that the server made itself (404, 503, ...); 0 for everybody's messages."""
    description: str = ""


@dataclass(frozen=True, slots=True)
class PubAck:
    """A stream has stored a message, durably on a majority of its replicas."""

    stream: str
    sequence: int
    duplicate: bool = False
    """The stream had this message id already: `sequence` is the earlier one's."""


@dataclass(frozen=True, slots=True)
class Stored:
    """The message is in the stream."""

    ack: PubAck


@dataclass(frozen=True, slots=True)
class Refused:
    """The message is not in the stream, and safe to send again."""

    error: NatsError


@dataclass(frozen=True, slots=True)
class Unknown:
    """The message may or may not be in the stream."""

    error: NatsError


Outcome: TypeAlias = Stored | Refused | Unknown


def format_headers(headers: Mapping[str, str | Sequence[str]]) -> bytes:
    """A headers block as it stands on the wire; a key with several values is repeated.

    Raises:
        ValueError: a key that is empty or has a colon, or a line break in a key or value.
    """
    lines = ["NATS/1.0"]
    for key, values in headers.items():
        for value in [values] if isinstance(values, str) else values:
            if not key or ":" in key or any(end in key + value for end in "\r\n"):
                raise ValueError(f"not a header: {key!r}: {value!r}")
            lines.append(f"{key}: {value}")
    return "\r\n".join([*lines, "", ""]).encode()


def parse_headers(block: bytes) -> tuple[int, str, dict[str, list[str]]]:
    """(status or 0, description, headers) of a headers block; lines without a colon are passed over."""
    first, *lines = block.decode(errors="replace").split("\r\n")
    words = first.split(None, 2)
    status = int(words[1]) if len(words) > 1 and words[1].isdecimal() else 0
    headers: dict[str, list[str]] = {}
    for line in lines:
        key, colon, value = line.partition(":")
        if colon:
            headers.setdefault(key, []).append(value.strip())
    return status, words[2] if len(words) > 2 else "", headers


async def _receive(stream: trio.abc.Stream, into: memoryview) -> int:
    """Bytes read; 0: the end. A plain socket copies nothing on the way."""
    if isinstance(stream, trio.SocketStream):
        return await stream.socket.recv_into(into)
    data = await stream.receive_some(len(into))
    into[: len(data)] = data
    return len(data)


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
        except ValueError:  # a port beyond 65535, an open bracket
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


class _Link:
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


class Subscription:
    """Messages of one subscription, as an async iterator; leaving its context unsubscribes.

    `dropped` counts messages that found the buffer full: the client never stops reading for one slow reader.
    """

    def __init__(self, client: Client, sid: int, subject: str, queue: str, buffer: int) -> None:
        self.subject = subject
        self.queue = queue
        self.dropped = 0
        self._client = client
        self._sid = sid
        self._send, self._receive = trio.open_memory_channel[Message](buffer)

    async def __aenter__(self) -> Subscription:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.unsubscribe()

    def __aiter__(self) -> Subscription:
        return self

    async def __anext__(self) -> Message:
        try:
            return await self._receive.receive()
        except trio.EndOfChannel:
            raise StopAsyncIteration from None

    async def receive(self) -> Message:
        """The next message.

        Raises:
            Closed: unsubscribed, or the client was closed, and nothing is left in the buffer.
        """
        try:
            return await self._receive.receive()
        except trio.EndOfChannel:
            raise Closed("this subscription has ended") from None

    def unsubscribe(self) -> None:
        """No more messages; those in the buffer can still be read."""
        self._client._unsubscribe(self._sid)
        self._send.close()

    def _line(self) -> bytes:
        queue = f"{self.queue} " if self.queue else ""
        return f"SUB {self.subject} {queue}{self._sid}\r\n".encode()

    def _deliver(self, message: Message) -> None:
        try:
            self._send.send_nowait(message)
        except trio.WouldBlock:
            self.dropped += 1


class _Waiter:
    """Somebody who waits for the answer to one request."""

    __slots__ = ("_arrived", "link", "result")

    def __init__(self, link: _Link) -> None:
        self.link = link
        self.result: Message | NatsError | None = None
        self._arrived = trio.Event()

    def resolve(self, result: Message | NatsError) -> None:
        if self.result is None:
            self.result = result
            self._arrived.set()

    async def wait(self) -> Message | NatsError:
        await self._arrived.wait()
        assert self.result is not None
        return self.result


class PendingAck:
    """A message on its way into a stream; `outcome` is None until its fate is known."""

    __slots__ = ("_decided", "_publisher", "outcome")

    def __init__(self, publisher: Publisher) -> None:
        self.outcome: Outcome | None = None
        self._publisher = publisher
        self._decided = trio.Event()

    async def wait(self) -> Outcome:
        """The message's fate."""
        await self._decided.wait()
        assert self.outcome is not None
        return self.outcome

    def resolve(self, result: Message | NatsError) -> None:
        if self.outcome is None:
            self.outcome = _outcome(result)
            self._decided.set()
            self._publisher._decided(self.outcome)


def _outcome(result: Message | NatsError) -> Outcome:
    if isinstance(result, Disconnected | RequestTimeout | Closed):
        return Unknown(result)
    if isinstance(result, NatsError):
        return Refused(result)
    try:
        return Stored(_parse_ack(result))
    except JetStreamError as error:
        return Unknown(error) if error.err_code == OUTCOME_UNKNOWN else Refused(error)
    except NoResponders as error:
        return Refused(error)
    except NatsError as error:
        return Unknown(error)


def _parse_ack(message: Message) -> PubAck:
    body = _parse_response(message)
    stream, sequence = body.get("stream"), body.get("seq")
    if not isinstance(stream, str) or not isinstance(sequence, int):
        raise NatsError(f"not an acknowledgement of a stream: {message.data[:80]!r}")
    return PubAck(stream, sequence, body.get("duplicate") is True)


def _parse_response(message: Message) -> dict[str, object]:
    """The JSON object of a JetStream answer; its error is raised."""
    if message.status == 503:
        raise NoResponders("no responders")
    try:
        body = json.loads(message.data)
    except ValueError:
        raise NatsError(f"not JSON: {message.data[:80]!r}") from None
    if not isinstance(body, dict):
        raise NatsError(f"not a JSON object: {message.data[:80]!r}")
    error = body.get("error")
    if isinstance(error, dict):
        numbers = [value if isinstance(value, int) else 0 for value in map(error.get, ("code", "err_code"))]
        raise JetStreamError(numbers[0], numbers[1], str(error.get("description", "")))
    return body


class Publisher:
    """Pipelined publishing: up to `window` messages are on their way at once.

    Leaving the context waits until every message's fate is known, at most `timeout` seconds; what is
    undecided then is Unknown. Counters: `stored`, `duplicates`, `refused`, `unknown`.
    """

    def __init__(self, client: Client, window: int, timeout: float) -> None:
        if window < 1:
            raise ValueError(f"a window of {window}")
        self.stored = self.duplicates = self.refused = self.unknown = 0
        self._client = client
        self._window = window
        self._timeout = timeout
        self._outstanding: dict[int, PendingAck] = {}
        self._changed = trio.Event()
        self._pending = 0

    @property
    def pending(self) -> int:
        """Messages whose fate is not known yet."""
        return self._pending

    async def __aenter__(self) -> Publisher:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            with trio.move_on_after(self._timeout):
                await self.drain()
        for token, pending in list(self._outstanding.items()):
            self._client._forget(token)
            pending.resolve(RequestTimeout("no acknowledgement in time"))
        self._outstanding.clear()

    async def publish(
        self,
        subject: str,
        data: bytes = b"",
        *,
        headers: Mapping[str, str | Sequence[str]] | None = None,
        message_id: str | None = None,
    ) -> PendingAck:
        """Send one message as soon as the window has room; its fate is told by the result.

        Raises:
            ConnectFailed, Closed, PayloadTooLarge, ValueError: nothing was sent.
        """
        while self._pending >= self._window:
            self._changed = trio.Event()
            await self._changed.wait()
        pending = PendingAck(self)
        token = await self._client._send_request(subject, data, _with_id(headers, message_id), pending)
        self._pending += 1
        if len(self._outstanding) > 2 * self._window:
            self._outstanding = {t: p for t, p in self._outstanding.items() if p.outcome is None}
        self._outstanding[token] = pending
        return pending

    async def drain(self) -> None:
        """Wait until no message's fate is open."""
        while self._pending:
            self._changed = trio.Event()
            await self._changed.wait()

    def _decided(self, outcome: Outcome) -> None:
        self._pending -= 1
        self._changed.set()
        match outcome:
            case Stored(ack):
                self.stored += 1
                self.duplicates += ack.duplicate
            case Refused():
                self.refused += 1
            case Unknown():
                self.unknown += 1


def _with_id(
    headers: Mapping[str, str | Sequence[str]] | None, message_id: str | None
) -> Mapping[str, str | Sequence[str]] | None:
    return headers if message_id is None else {**(headers or {}), "Nats-Msg-Id": message_id}


class Client:
    """A connection to one of several servers. Made by `connect`."""

    def __init__(
        self, servers: Sequence[str], name: str, connect_timeout: float, request_timeout: float
    ) -> None:
        self._servers = [ServerAddress.parse(url) for url in servers or [DEFAULT_SERVER]]
        self._next_server = 0
        self._name = name
        self._connect_timeout = connect_timeout
        self._request_timeout = request_timeout
        self._link: _Link | None = None
        self._linked = trio.Event()
        self._wanted = trio.Event()
        self._closed = False
        self._last_failure = "none was tried"
        self._inbox = f"_INBOX.{secrets.token_hex(11)}."
        self._next_token = 1
        self._waiters: dict[int, _Waiter | PendingAck] = {}
        self._next_sid = INBOX_SID + 1
        self._subscriptions: dict[int, Subscription] = {}
        self._pongs: list[_Waiter] = []

    # What one can do

    @property
    def server_info(self) -> Mapping[str, object]:
        """INFO of the server connected to; empty while there is no connection."""
        return self._link.info if self._link is not None else {}

    async def publish(
        self,
        subject: str,
        data: bytes = b"",
        *,
        reply: str = "",
        headers: Mapping[str, str | Sequence[str]] | None = None,
    ) -> None:
        """Send a message to whoever listens; `flush` tells when the server has it.

        Raises:
            ConnectFailed, Closed, PayloadTooLarge, ValueError: nothing was sent.
        """
        link = await self._connected()
        self._check(link, subject, data, headers)
        self._write_publish(link, subject, reply, data, headers)
        await link.room()

    async def flush(self) -> None:
        """Wait until the server has answered everything sent so far.

        Raises:
            RequestTimeout, Disconnected, ConnectFailed, Closed
        """
        link = await self._connected()
        waiter = _Waiter(link)
        self._pongs.append(waiter)
        link.write(b"PING\r\n")
        await self._result(waiter)

    async def request(
        self,
        subject: str,
        data: bytes = b"",
        *,
        headers: Mapping[str, str | Sequence[str]] | None = None,
    ) -> Message:
        """Send a message and wait for one answer.

        Raises:
            NoResponders: nobody listens there.
            RequestTimeout, Disconnected: sent, and no answer came.
            ConnectFailed, Closed, PayloadTooLarge, ValueError: nothing was sent.
        """
        waiter = _Waiter(await self._connected())
        token = await self._send_request(subject, data, headers, waiter)
        try:
            message = await self._result(waiter)
        finally:
            self._forget(token)
        if message.status == 503 and not message.data:
            raise NoResponders(f"no responders on {subject}")
        return message

    async def subscribe(self, subject: str, *, queue: str = "", buffer: int = 65536) -> Subscription:
        """Receive what is published to `subject` (wildcards `*` and `>`); one of each `queue` group gets it.

        The subscription survives reconnections; messages sent meanwhile are missed, as is NATS's way.

        Raises:
            ValueError: not a subject. ConnectFailed, Closed.
        """
        if not valid_subject(subject.encode()) or (queue and not valid_subject(queue.encode())):
            raise ValueError(f"not a subject: {subject!r} {queue!r}")
        link = await self._connected()
        subscription = Subscription(self, self._next_sid, subject, queue, buffer)
        self._subscriptions[self._next_sid] = subscription
        self._next_sid += 1
        link.write(subscription._line())
        return subscription

    async def jetstream_publish(
        self,
        subject: str,
        data: bytes = b"",
        *,
        headers: Mapping[str, str | Sequence[str]] | None = None,
        message_id: str | None = None,
    ) -> PubAck:
        """Store a message in the stream that listens on `subject`; returns when it is durable.

        Nobody listening (a stream that has no leader right now) is retried twice after 250 ms: such a message
        reached no one.

        Raises:
            JetStreamError, NoResponders: it is not stored.
            RequestTimeout, Disconnected: it may or may not be stored.
            ConnectFailed, Closed, PayloadTooLarge, ValueError: nothing was sent.
        """
        for pause in (0.25, 0.25):
            try:
                return _parse_ack(await self.request(subject, data, headers=_with_id(headers, message_id)))
            except NoResponders:
                await trio.sleep(pause)
        return _parse_ack(await self.request(subject, data, headers=_with_id(headers, message_id)))

    def publisher(self, *, window: int = 1000, timeout: float = 10.0) -> Publisher:
        """Pipelined publishing into streams; use it as an async context."""
        return Publisher(self, window, timeout)

    async def api(self, subject: str, body: Mapping[str, object] | None = None) -> dict[str, object]:
        """A JetStream API request: `api("STREAM.INFO.ORDERS")`.

        Raises:
            JetStreamError: the answer was an error. NoResponders, RequestTimeout, Disconnected, ...
        """
        data = json.dumps(body).encode() if body is not None else b""
        return _parse_response(await self.request(f"$JS.API.{subject}", data))

    async def administer(self, subject: str, body: Mapping[str, object] | None = None) -> dict[str, object]:
        """A request about the cluster itself: `administer("CLUSTER.INFO")`. Raises as `api`."""
        data = json.dumps(body).encode() if body is not None else b""
        return _parse_response(await self.request(f"$TRIMARAN.API.{subject}", data))

    async def administer_raw(self, subject: str, data: bytes = b"") -> bytes:
        """As `administer`, with bytes both ways; an answer that is JSON is checked for an error."""
        answer = await self.request(f"$TRIMARAN.API.{subject}", data)
        if not answer.data.startswith(b"\0"):
            _parse_response(answer)
        return answer.data

    async def create_stream(
        self, name: str, subjects: Iterable[str], *, replicas: int = 1, **config: object
    ) -> dict[str, object]:
        """Create a stream (file storage unless `storage` says otherwise); an equal one is no error.

        Raises:
            JetStreamError: in use with another configuration, overlapping subjects, too few nodes, ...
        """
        body = {
            "name": name,
            "subjects": list(subjects),
            "num_replicas": replicas,
            "storage": "file",
            **config,
        }
        return await self.api(f"STREAM.CREATE.{name}", body)

    async def delete_stream(self, name: str) -> None:
        """Delete a stream with all its messages."""
        await self.api(f"STREAM.DELETE.{name}")

    async def stream_info(self, name: str) -> dict[str, object]:
        """Configuration and state of a stream."""
        return await self.api(f"STREAM.INFO.{name}")

    def close(self) -> None:
        """End everything; what waits gets Closed. Leaving `connect` does it too."""
        self._closed = True
        self._wanted.set()
        if self._link is not None:
            self._link.fail(Closed("the client was closed"))
        self._abandon(Closed("the client was closed"))
        for subscription in list(self._subscriptions.values()):
            subscription.unsubscribe()

    # Sending

    async def _connected(self) -> _Link:
        """The connection, made first if there is none."""
        if self._link is not None and self._link.failure is None:
            await trio.lowlevel.checkpoint()
        with trio.move_on_after(self._connect_timeout):
            while self._link is None or self._link.failure is not None:
                if self._closed:
                    raise Closed("the client was closed")
                self._wanted.set()
                await self._linked.wait()
        if self._link is None or self._link.failure is not None:
            raise ConnectFailed(f"no server in {self._connect_timeout} s: {self._last_failure}")
        return self._link

    async def _send_request(
        self,
        subject: str,
        data: bytes,
        headers: Mapping[str, str | Sequence[str]] | None,
        waiter: _Waiter | PendingAck,
    ) -> int:
        """Send a message whose answer goes to `waiter`; returns the token that `_forget` wants."""
        link = await self._connected()
        self._check(link, subject, data, headers)
        token = self._next_token
        self._next_token += 1
        self._waiters[token] = waiter
        self._write_publish(link, subject, f"{self._inbox}{token}", data, headers)
        try:
            await link.room()
        except trio.Cancelled:
            self._forget(token)
            raise
        return token

    @staticmethod
    def _check(
        link: _Link, subject: str, data: bytes, headers: Mapping[str, str | Sequence[str]] | None
    ) -> None:
        if not valid_publish_subject(subject.encode()):
            raise ValueError(f"not a subject to publish to: {subject!r}")
        size = len(data) + (len(format_headers(headers)) if headers else 0)
        if size > link.max_payload:
            raise PayloadTooLarge(f"{size} bytes, the server takes {link.max_payload}")

    @staticmethod
    def _write_publish(
        link: _Link,
        subject: str,
        reply: str,
        data: bytes,
        headers: Mapping[str, str | Sequence[str]] | None,
    ) -> None:
        words = f"{subject} {reply}" if reply else subject
        if headers:
            block = format_headers(headers)
            link.write(
                f"HPUB {words} {len(block)} {len(block) + len(data)}\r\n".encode(), block, data, b"\r\n"
            )
        else:
            link.write(f"PUB {words} {len(data)}\r\n".encode(), data, b"\r\n")

    async def _result(self, waiter: _Waiter) -> Message:
        result: Message | NatsError | None = None
        with trio.move_on_after(self._request_timeout):
            result = await waiter.wait()
        if result is None:
            raise RequestTimeout(f"no answer in {self._request_timeout} s")
        if isinstance(result, NatsError):
            raise result
        return result

    def _forget(self, token: int) -> None:
        self._waiters.pop(token, None)

    def _unsubscribe(self, sid: int) -> None:
        if self._subscriptions.pop(sid, None) and self._link is not None and self._link.failure is None:
            self._link.write(b"UNSUB %d\r\n" % sid)

    # Connecting and receiving

    async def _run(self) -> None:
        """Keep a connection while one is wanted, until the client is closed."""
        while not self._closed:
            if not self._subscriptions:
                await self._wanted.wait()
            if self._closed:
                return
            link = await self._link_up()
            if link is None:
                continue
            self._link = link
            self._wanted = trio.Event()
            self._linked.set()
            self._linked = trio.Event()
            try:
                await self._serve(link)
            finally:
                self._abandon(link.failure or Disconnected("the connection ended"))
                self._link = None

    async def _link_up(self) -> _Link | None:
        """Try each server once; None if none could be reached, after a pause."""
        for _ in range(len(self._servers)):
            server = self._servers[self._next_server % len(self._servers)]
            self._next_server += 1
            try:
                with trio.fail_after(min(2.0, self._connect_timeout)):
                    return await self._handshake(server)
            except (OSError, trio.TooSlowError, trio.BrokenResourceError, NatsError, ProtocolError) as error:
                # Too slow and broken off have no text: something listens there that is no NATS server.
                told = error.__cause__ if isinstance(error.__cause__, ssl.SSLError) else error
                reason = str(told) or "no greeting of a NATS server"
                self._last_failure = f"{server.host}:{server.port}: {reason}"
        await trio.sleep(RECONNECT_PAUSE)
        return None

    async def _handshake(self, server: ServerAddress) -> _Link:
        """INFO, CONNECT, PING, PONG; then all subscriptions again."""
        stream: trio.abc.Stream = await trio.open_tcp_stream(server.host, server.port)
        try:
            scanner = Scanner(Direction.CLIENT, max_control_line=65000, max_payload=1 << 30)
            link = _Link(stream, scanner, {})
            while not await self._handshake_step(link, OpKind.INFO):
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
                "version": "0.1",
                "name": self._name,
                **server.credentials(),
            }
            await stream.send_all(b"CONNECT %b\r\nPING\r\n" % json.dumps(options).encode())
            while not await self._handshake_step(link, OpKind.PONG):
                pass
            link.write(b"SUB %b* %d\r\n" % (self._inbox.encode(), INBOX_SID))
            for subscription in self._subscriptions.values():
                link.write(subscription._line())
            return link
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise

    @staticmethod
    async def _handshake_step(link: _Link, awaited: OpKind) -> bool:
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
                    link.info = {**link.info, **_json_object(link.scanner.args(number))}
                found = found or kind == awaited
        return found

    async def _serve(self, link: _Link) -> None:
        """Read and write until the connection ends; `link.failure` says why."""
        async with link.stream, trio.open_nursery() as nursery:
            nursery.start_soon(self._read, link, nursery.cancel_scope)
            await link.run_writer()
            nursery.cancel_scope.cancel()

    async def _read(self, link: _Link, scope: trio.CancelScope) -> None:
        scanner = link.scanner
        try:
            while link.failure is None:
                size = await _receive(link.stream, scanner.writable())
                if not size:
                    link.fail(Disconnected("the server closed the connection"))
                    return
                scanner.wrote(size)
                while count := scanner.scan():
                    for number in range(count):
                        self._handle(link, number)
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
            link.fail(Disconnected(f"the connection broke: {error}"))
        except ProtocolError as error:
            link.fail(Disconnected(f"the server broke the protocol: {error}"))
        finally:
            scope.cancel()

    def _handle(self, link: _Link, number: int) -> None:
        scanner = link.scanner
        kind = scanner.kind(number)
        if kind in (OpKind.MSG, OpKind.HMSG):
            self._handle_message(link, number)
        elif kind == OpKind.PING:
            link.write(b"PONG\r\n")
        elif kind == OpKind.PONG and self._pongs:
            self._pongs.pop(0).resolve(Message("", "", b""))
        elif kind == OpKind.INFO:
            link.info = {**link.info, **_json_object(scanner.args(number))}
        elif kind == OpKind.ERR:
            text = scanner.text(number)
            if not text.lower().startswith("permissions violation"):
                link.fail(ServerError(text))

    def _handle_message(self, link: _Link, number: int) -> None:
        scanner = link.scanner
        subject = scanner.subject(number).decode()
        reply = scanner.reply(number).decode()
        status, description = 0, ""
        headers: dict[str, list[str]] = {}
        if scanner.header_size(number):
            status, description, headers = parse_headers(scanner.headers(number))
        message = Message(subject, reply, scanner.payload(number), headers, status, description)
        sid = int(scanner.sid(number))
        if sid == INBOX_SID:
            token = subject.removeprefix(self._inbox)
            waiter = self._waiters.pop(int(token), None) if token.isdecimal() else None
            if waiter is not None:
                waiter.resolve(message)
        elif sid in self._subscriptions:
            self._subscriptions[sid]._deliver(message)

    def _abandon(self, error: NatsError) -> None:
        """Nobody will answer what was sent: tell those who wait."""
        if isinstance(error, ServerError):
            error = Disconnected(f"the server ended the connection: {error}")
        waiters, self._waiters = self._waiters, {}
        pongs, self._pongs = self._pongs, []
        for waiter in [*waiters.values(), *pongs]:
            waiter.resolve(error)


def _json_object(text: bytes) -> dict[str, object]:
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


@contextlib.asynccontextmanager
async def connect(
    *servers: str, name: str = "trimaran", connect_timeout: float = 5.0, request_timeout: float = 5.0
) -> AsyncIterator[Client]:
    """Connect to the first server that answers; leaving the context closes the client.

    `servers` are `host:port` or `nats://[user:password@|token@]host:port`; none means 127.0.0.1:4222.
    `connect_timeout` (seconds) also bounds how long a later operation waits for a new connection;
    `request_timeout` (seconds) how long an answer is awaited.

    Raises:
        ConnectFailed: no server could be reached in time.
        ValueError: not an address.
    """
    if not 0 < connect_timeout < math.inf or not request_timeout > 0:
        raise ValueError(f"a connect_timeout of {connect_timeout}, a request_timeout of {request_timeout}")
    client = Client(servers, name, connect_timeout, request_timeout)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client._run)
            try:
                await client._connected()
                yield client
            finally:
                client.close()
                nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        # The nursery inside is nobody's business: what the caller's block raised comes out as it was.
        if len(group.exceptions) == 1:
            raise group.exceptions[0] from None
        raise
