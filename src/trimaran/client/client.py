"""The client: one connection at a time, whatever waits on it, and the next server when it breaks."""

from __future__ import annotations

import contextlib
import json
import math
import secrets
import ssl
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import Final

import trio

from ..codec.protocol import OpKind, ProtocolError, valid_publish_subject, valid_subject
from .connection import Link, ServerAddress, open_link, receive
from .errors import (
    Closed,
    ConnectFailed,
    Disconnected,
    NatsError,
    NoResponders,
    PayloadTooLarge,
    RequestTimeout,
    ServerError,
)
from .messages import (
    Headers,
    Message,
    PubAck,
    format_headers,
    json_object,
    parse_ack,
    parse_headers,
    parse_response,
    with_id,
)
from .publisher import PendingAck, Publisher
from .subscription import Subscription

DEFAULT_SERVER: Final = "nats://127.0.0.1:4222"
RECONNECT_PAUSE: Final = 0.1
"""Seconds between two rounds over all servers."""
INBOX_SID: Final = 1


class Waiter:
    """Somebody who waits for the answer to one request."""

    __slots__ = ("_arrived", "link", "result")

    def __init__(self, link: Link) -> None:
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
        self._link: Link | None = None
        self._linked = trio.Event()
        self._wanted = trio.Event()
        self._closed = False
        self._last_failure = "none was tried"
        self._inbox = f"_INBOX.{secrets.token_hex(11)}."
        self._next_token = 1
        self._waiters: dict[int, Waiter | PendingAck] = {}
        self._next_sid = INBOX_SID + 1
        self._subscriptions: dict[int, Subscription] = {}
        self._pongs: list[Waiter] = []
        self._denied = ""
        """What the server last forbade: a request that nobody answers may be that one."""

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
        headers: Headers | None = None,
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
        waiter = Waiter(link)
        self._pongs.append(waiter)
        link.write(b"PING\r\n")
        await self._result(waiter)

    async def request(
        self,
        subject: str,
        data: bytes = b"",
        *,
        headers: Headers | None = None,
    ) -> Message:
        """Send a message and wait for one answer.

        Raises:
            NoResponders: nobody listens there.
            RequestTimeout, Disconnected: sent, and no answer came.
            ConnectFailed, Closed, PayloadTooLarge, ValueError: nothing was sent.
        """
        waiter = Waiter(await self._connected())
        token = await self.send_request(subject, data, headers, waiter)
        try:
            message = await self._result(waiter)
        finally:
            self.forget(token)
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
        subscription = Subscription(self._next_sid, subject, queue, buffer, self._unsubscribe)
        self._subscriptions[self._next_sid] = subscription
        self._next_sid += 1
        link.write(subscription.line())
        return subscription

    async def jetstream_publish(
        self,
        subject: str,
        data: bytes = b"",
        *,
        headers: Headers | None = None,
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
                return parse_ack(await self.request(subject, data, headers=with_id(headers, message_id)))
            except NoResponders:
                await trio.sleep(pause)
        return parse_ack(await self.request(subject, data, headers=with_id(headers, message_id)))

    def publisher(self, *, window: int = 1000, timeout: float = 10.0) -> Publisher:
        """Pipelined publishing into streams; use it as an async context."""
        return Publisher(self, window, timeout)

    async def api(self, subject: str, body: Mapping[str, object] | None = None) -> dict[str, object]:
        """A JetStream API request: `api("STREAM.INFO.ORDERS")`.

        Raises:
            JetStreamError: the answer was an error. NoResponders, RequestTimeout, Disconnected, ...
        """
        data = json.dumps(body).encode() if body is not None else b""
        return parse_response(await self.request(f"$JS.API.{subject}", data))

    async def administer(self, subject: str, body: Mapping[str, object] | None = None) -> dict[str, object]:
        """A request about the cluster itself: `administer("CLUSTER.INFO")`. Raises as `api`."""
        data = json.dumps(body).encode() if body is not None else b""
        return parse_response(await self.request(f"$TRIMARAN.API.{subject}", data))

    async def administer_raw(self, subject: str, data: bytes = b"") -> bytes:
        """As `administer`, with bytes both ways; an answer that is JSON is checked for an error."""
        answer = await self.request(f"$TRIMARAN.API.{subject}", data)
        if not answer.data.startswith(b"\0"):
            parse_response(answer)
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

    async def _connected(self) -> Link:
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

    async def send_request(
        self,
        subject: str,
        data: bytes,
        headers: Headers | None,
        waiter: Waiter | PendingAck,
    ) -> int:
        """Send a message whose answer goes to `waiter`; returns the token that `forget` wants."""
        link = await self._connected()
        self._check(link, subject, data, headers)
        token = self._next_token
        self._next_token += 1
        self._waiters[token] = waiter
        self._write_publish(link, subject, f"{self._inbox}{token}", data, headers)
        try:
            await link.room()
        except trio.Cancelled:
            self.forget(token)
            raise
        return token

    @staticmethod
    def _check(link: Link, subject: str, data: bytes, headers: Headers | None) -> None:
        if not valid_publish_subject(subject.encode()):
            raise ValueError(f"not a subject to publish to: {subject!r}")
        size = len(data) + (len(format_headers(headers)) if headers else 0)
        if size > link.max_payload:
            raise PayloadTooLarge(f"{size} bytes, the server takes {link.max_payload}")

    @staticmethod
    def _write_publish(
        link: Link,
        subject: str,
        reply: str,
        data: bytes,
        headers: Headers | None,
    ) -> None:
        words = f"{subject} {reply}" if reply else subject
        if headers:
            block = format_headers(headers)
            link.write(
                f"HPUB {words} {len(block)} {len(block) + len(data)}\r\n".encode(), block, data, b"\r\n"
            )
        else:
            link.write(f"PUB {words} {len(data)}\r\n".encode(), data, b"\r\n")

    async def _result(self, waiter: Waiter) -> Message:
        result: Message | NatsError | None = None
        with trio.move_on_after(self._request_timeout):
            result = await waiter.wait()
        if result is None:
            why = f" ({self._denied})" if self._denied else ""
            raise RequestTimeout(f"no answer in {self._request_timeout} s{why}")
        if isinstance(result, NatsError):
            raise result
        return result

    def forget(self, token: int) -> None:
        """Nobody waits for that answer any more."""
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

    async def _link_up(self) -> Link | None:
        """Try each server once; None if none could be reached, after a pause."""
        for _ in range(len(self._servers)):
            server = self._servers[self._next_server % len(self._servers)]
            self._next_server += 1
            try:
                with trio.fail_after(min(2.0, self._connect_timeout)):
                    return self._subscribe_again(await open_link(server, self._name))
            except (OSError, trio.TooSlowError, trio.BrokenResourceError, NatsError, ProtocolError) as error:
                # Too slow and broken off have no text: something listens there that is no NATS server.
                told = error.__cause__ if isinstance(error.__cause__, ssl.SSLError) else error
                reason = str(told) or "no greeting of a NATS server"
                self._last_failure = f"{server.host}:{server.port}: {reason}"
        await trio.sleep(RECONNECT_PAUSE)
        return None

    def _subscribe_again(self, link: Link) -> Link:
        link.write(b"SUB %b* %d\r\n" % (self._inbox.encode(), INBOX_SID))
        for subscription in self._subscriptions.values():
            link.write(subscription.line())
        return link

    async def _serve(self, link: Link) -> None:
        """Read and write until the connection ends; `link.failure` says why."""
        async with link.stream, trio.open_nursery() as nursery:
            nursery.start_soon(self._read, link, nursery.cancel_scope)
            await link.run_writer()
            nursery.cancel_scope.cancel()

    async def _read(self, link: Link, scope: trio.CancelScope) -> None:
        scanner = link.scanner
        try:
            while link.failure is None:
                size = await receive(link.stream, scanner.writable())
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

    def _handle(self, link: Link, number: int) -> None:
        scanner = link.scanner
        kind = scanner.kind(number)
        if kind in (OpKind.MSG, OpKind.HMSG):
            self._handle_message(link, number)
        elif kind == OpKind.PING:
            link.write(b"PONG\r\n")
        elif kind == OpKind.PONG and self._pongs:
            self._pongs.pop(0).resolve(Message("", "", b""))
        elif kind == OpKind.INFO:
            link.info = {**link.info, **json_object(scanner.args(number))}
        elif kind == OpKind.ERR:
            text = scanner.text(number)
            if text.lower().startswith("permissions violation"):
                self._denied = text
            else:
                link.fail(ServerError(text))

    def _handle_message(self, link: Link, number: int) -> None:
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
            self._subscriptions[sid].deliver(message)

    def _abandon(self, error: NatsError) -> None:
        """Nobody will answer what was sent: tell those who wait."""
        if isinstance(error, ServerError):
            error = Disconnected(f"the server ended the connection: {error}")
        waiters, self._waiters = self._waiters, {}
        pongs, self._pongs = self._pongs, []
        for waiter in [*waiters.values(), *pongs]:
            waiter.resolve(error)


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
