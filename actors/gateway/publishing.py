"""Publishes to streams: collected per stream and pass, proposed as few chunks, acknowledged in runs.

From the receive buffer into the chunk and from the results into the acknowledgement lines, nothing here costs
Python per message unless somebody also subscribes to the stream's subjects, or an acknowledgement can't go
the straight way to the publisher's own inbox.
"""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

from ...codec.protocol import Owed, PublishBuffer, StreamFilter, format_acks
from ..raft.outcomes import Applied, NotApplied, Outcome, Reason
from ..stream.account_limits import EXCEEDED
from ..stream.errors import ApiError
from ..stream.results import Status, unpack
from .batches import Batches, names_batch
from .client import Inbox
from .router import Message
from .subjects import SubjectTable, Subscription, matches

if TYPE_CHECKING:
    from .backend import Backend, StreamRef
    from .client import Client, Settings
    from .router import Router

__all__ = ["Publishing", "no_responders"]

RESULT_BYTES: Final = 8
"""One entry's packed result."""
RECORD_BYTES: Final = 22
"""What a message takes in a stream besides its entry."""

LOOKED_AT: Final = 256
"""Publishes that are looked at for a batch before those in front of it are taken."""
BATCH_EXTRA: Final = 1024
"""What a batch that is published as one takes besides its messages."""

BUSY: Final = ApiError(503, 10023, "insufficient resources")
TOO_LARGE: Final = ApiError(400, 10054, "message size exceeds maximum allowed")
UNAVAILABLE: Final = ApiError(503, 10008, "JetStream system temporarily unavailable")
UNKNOWN: Final = ApiError(
    503, 20001, "outcome unknown: the message may or may not be stored; retry with the same Nats-Msg-Id"
)
"""The reference has no such answer (there the client waits in vain). The code lies outside its range, so that
no client takes it for one that is safe to retry."""


class _Stream:
    """One stream's open chunk and what is under way to it."""

    def __init__(self, ref: StreamRef, chunk_bytes: int) -> None:
        self.ref = ref
        self.filter = StreamFilter(ref.subjects)
        self.buffer = PublishBuffer(chunk_bytes)
        self.under_way = 0
        """Bytes proposed and not settled."""
        self.paused: list[Client] = []
        self.watch_version = -1
        self.watched = False


class Publishing:
    """The publishers' side of every stream that this gateway's clients publish to.

    Args:
        backend: names streams and takes proposals.
        clients: the open connections by number, for acknowledgements.
        router: carries answers that can't go straight to the publisher.
        wake: called when there is something to flush.
    """

    def __init__(
        self,
        backend: Backend,
        settings: Settings,
        table: SubjectTable,
        clients: Mapping[int, Client],
        router: Router,
        wake: Callable[[], None],
    ) -> None:
        self._backend = backend
        self._settings = settings
        self._table = table
        self._clients = clients
        self._router = router
        self._wake = wake
        self._batches = Batches(
            backend,
            router,
            settings.chunk_bytes - BATCH_EXTRA,
            self._answer,
            self._failure,
            wake,
            settings.domain,
        )
        self._streams: dict[str, _Stream] = {}
        self._streams_version = -1
        self._open: list[_Stream] = []
        self._last: _Stream | None = None
        self.under_way = 0
        """Chunks proposed and not settled."""
        self.proposed = 0
        """Messages proposed."""
        self.unknown = 0
        """Messages whose outcome was reported as unknown."""

    # --- collecting --------------------------------------------------------------------------------------

    def store(self, client: Client, first: int, last: int) -> int:
        """Take publishes first..last-1 of the client's last scan into their stream's chunk.

        Stops at the first one that isn't the same stream's; returns how many were taken.
        """
        version = self._backend.streams_version()
        if version != self._streams_version:
            self._forget_streams(version)
        stream = self._last
        taken = 0
        if stream is not None and not stream.ref.atomic:
            taken = self._append(stream, client, first, last)
        if not taken:
            ref = self._backend.stream_of(client.scanner.subject(first))
            if ref is None:
                return 0
            stream = self._last = self._stream(ref)
            taken = self._take(stream, client, first, last)
        if not taken or stream is None:
            return 0
        if self._is_watched(stream):
            self._deliver(client, first, taken)
        if stream.under_way > self._settings.publish_window:
            client.wire.pause()
            stream.paused.append(client)
        return taken

    def flush(self) -> None:
        """Propose what the pass collected."""
        for stream in self._open:
            if len(stream.buffer):
                self._propose(stream)
        self._open.clear()

    def _take(self, stream: _Stream, client: Client, first: int, last: int) -> int:
        """As `_append`, and what belongs to a batch."""
        if not stream.ref.atomic:
            return self._append(stream, client, first, last)
        end = first
        while end < min(last, first + LOOKED_AT) and not names_batch(client.scanner.headers(end)):
            end += 1
        if end > first:
            return self._append(stream, client, first, end)
        if len(stream.buffer):
            self._propose(stream)  # what was published before it is stored before it
        self._batches.take(stream.ref, client, first)
        return 1

    def _append(self, stream: _Stream, client: Client, first: int, last: int) -> int:
        buffer = stream.buffer
        begun = len(buffer) > 0
        taken = buffer.append(client.scanner, first, stream.filter, client.number, last)
        if not taken and buffer.full and len(buffer):
            self._propose(stream)
            taken = buffer.append(client.scanner, first, stream.filter, client.number, last)
        if taken and not begun:
            self._open.append(stream)
        if not taken and buffer.full:
            self._answer(client, client.scanner.reply(first), stream.ref.name, TOO_LARGE)
            return 1
        return taken

    def _stream(self, ref: StreamRef) -> _Stream:
        stream = self._streams.get(ref.name)
        if stream is None:
            stream = self._streams[ref.name] = _Stream(ref, self._settings.chunk_bytes)
        return stream

    def _forget_streams(self, version: int) -> None:
        """The stream table changed: what is collected goes to the streams as they were, then look again."""
        self.flush()
        for stream in self._streams.values():
            self._resume(stream)
        self._streams.clear()
        self._last = None
        self._streams_version = version

    def _is_watched(self, stream: _Stream) -> bool:
        """Whether any core subscriber in the cluster could get a message of this stream."""
        if stream.watch_version != self._table.version:
            stream.watch_version = self._table.version
            stream.watched = any(
                True for subject in stream.ref.subjects for _ in self._table.intersecting(subject)
            )
        return stream.watched

    def _deliver(self, client: Client, first: int, count: int) -> None:
        scanner = client.scanner
        for number in range(first, first + count):
            subject = scanner.subject(number)
            if self._table.match(subject):
                body, headers = bytes(scanner.body(number)), scanner.header_size(number)
                self._router.publish(subject, scanner.reply(number), headers, body, client)

    # --- proposing and settling --------------------------------------------------------------------------

    def _propose(self, stream: _Stream) -> None:
        chunk, owed = stream.buffer.take()
        size = chunk.encoded_size
        if self._backend.exceeds(stream.ref.group, chunk.entries_size + RECORD_BYTES * chunk.count):
            self._refuse(stream, owed)
            return
        stream.under_way += size
        self.under_way += 1
        self.proposed += chunk.count
        self._backend.propose(stream.ref.group, chunk, functools.partial(self._settled, stream, owed, size))

    def _refuse(self, stream: _Stream, owed: Owed) -> None:
        """The account has no room for these."""
        self._wake()
        if not stream.ref.no_ack:
            self._answer_all(owed, stream.ref.name, EXCEEDED)

    def _settled(self, stream: _Stream, owed: Owed, size: int, outcome: Outcome) -> None:
        """A chunk's fate: answer every publisher that asked for an answer, in the order of publishing."""
        stream.under_way -= size
        self.under_way -= 1
        self._wake()
        if stream.paused and stream.under_way <= self._settings.publish_window // 2:
            self._resume(stream)
        if stream.ref.no_ack:
            return
        match outcome:
            case Applied(result=bytes(results)) if len(results) == RESULT_BYTES * owed.count:
                self._acknowledge(owed, results, stream.ref.name)
            case _:
                self._answer_all(owed, stream.ref.name, self._failure(outcome, owed.count))

    def _failure(self, outcome: Outcome, count: int = 1) -> ApiError | None:
        """What publishers are told of an outcome without a result for each message; None: nobody took it."""
        match outcome:
            case NotApplied(reason=Reason.BUSY | Reason.NO_SPACE):
                return BUSY
            case NotApplied(reason=Reason.TOO_LARGE):
                return TOO_LARGE
            case NotApplied():
                return None
            case _:
                # Applied without a result for each message can't say what became of it.
                self.unknown += count
                return UNKNOWN

    def _resume(self, stream: _Stream) -> None:
        for client in stream.paused:
            client.wire.resume()
        stream.paused.clear()

    def _acknowledge(self, owed: Owed, results: bytes, name: str) -> None:
        for connection, start, count in owed.runs:
            client = self._clients.get(connection)
            number, end = start, start + count
            while number < end:
                if client is not None and client.open:
                    number += self._acknowledge_run(client, owed, number, end - number, results, name)
                if number < end:
                    self._acknowledge_one(client, owed, number, results, name)
                    number += 1

    def _acknowledge_run(
        self, client: Client, owed: Owed, start: int, count: int, results: bytes, name: str
    ) -> int:
        """As many acknowledgements as go straight to the client's own inbox; returns entries done with."""
        inbox = self._inbox(client, owed.reply(start))
        if not inbox.sid:
            return 0
        client.touch()
        before = len(client.out)
        domain = self._settings.domain
        done = format_acks(owed, start, count, results, name, inbox.prefix, inbox.sid, client.out, domain)
        if done:
            client.out_messages += done
            client.out_bytes += _payloads(
                len(client.out) - before, done, owed.reply_bytes(start, done), inbox.sid
            )
        client.subscriptions[inbox.sid].delivered += done
        return done

    def _inbox(self, client: Client, reply: bytes) -> Inbox:
        """The client's inbox for this reply subject; without a sid if the straight way is not safe."""
        prefix = reply[: reply.rfind(b".") + 1]
        inbox = client.inbox
        if inbox is None or inbox.version != self._table.version or inbox.prefix != prefix:
            inbox = client.inbox = Inbox(self._table.version, prefix, self._sole_sid(client, prefix))
        return inbox

    def _sole_sid(self, client: Client, prefix: bytes) -> bytes:
        """The subscription that alone in the cluster gets `prefix` + any token, if this client has it."""
        if not prefix:
            return b""
        pattern = prefix + b"*"
        listeners = list(itertools.islice(self._table.intersecting(pattern), 2))
        match listeners:
            case [Subscription(client=owner, queue=b"", limit=0, subject=subject, sid=sid)]:
                straight = owner is client and client.limits is None and matches(subject, pattern)
                return sid if straight else b""
        return b""

    def _acknowledge_one(
        self, client: Client | None, owed: Owed, number: int, results: bytes, name: str
    ) -> None:
        """An acknowledgement as an ordinary message, wherever its reply subject leads."""
        reply = owed.reply(number)
        if not reply:
            return
        result = unpack(results, number)
        if result.error is not None:
            self._answer(client, reply, name, result.error)
            return
        duplicate = ',"duplicate": true' if result.status is Status.DUPLICATE else ""
        domain = self._settings.domain
        named = f'"domain":{json.dumps(domain)},' if domain else ""
        body = f'{{"stream":{json.dumps(name)},{named}"seq":{result.value}{duplicate}}}'
        self._router.publish(reply, b"", 0, body.encode())

    def _answer_all(self, owed: Owed, name: str, error: ApiError | None) -> None:
        for connection, start, count in owed.runs:
            client = self._clients.get(connection)
            for number in range(start, start + count):
                self._answer(client, owed.reply(number), name, error)

    def _answer(self, client: Client | None, reply: bytes, name: str, error: ApiError | None) -> None:
        """A failed publish: its error, or for None that nobody took it, which is safe to retry."""
        if not reply:
            return
        if error is None:
            if client is not None and no_responders(client, self._table, reply, b""):
                return
            error = UNAVAILABLE
        answer = {"error": error.to_json(), "stream": name, "seq": 0}
        self._router.publish(reply, b"", 0, json.dumps(answer, separators=(",", ":")).encode())


def _payloads(written: int, count: int, replies: int, sid: bytes) -> int:
    """Bytes of payloads in `count` acknowledgements as written: `MSG reply sid size CRLF payload CRLF`."""
    rest = written - replies - count * (len("MSG   \r\n\r\n") + len(sid))
    return rest - count * len(str(rest // count))


def no_responders(client: Client, table: SubjectTable, reply: bytes, subject: bytes) -> bool:
    """Tell a client, at its own subscription to the reply, that nobody takes its message; False: it has none.

    Args:
        subject: what it published to; named in the status unless empty.
    """
    if not (client.no_responders and client.open):
        return False
    for subscription in table.match(reply).local:
        if subscription.client is client:
            about = b"Nats-Subject: %b\r\n" % subject if subject else b""
            headers = b"NATS/1.0 503\r\n%b\r\n" % about
            client.deliver(subscription, Message(reply, b"", len(headers), headers))
            return True
    return False
