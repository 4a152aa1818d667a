"""One client connection: what it said in CONNECT, its subscriptions, and what each of its operations does.

The order at the start is strict, since clients read it line by line: INFO from us, CONNECT and PING from the
client, and then nothing but (`+OK` when verbose and) PONG before anything else.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

import trio

from ...codec.protocol import ERROR_TEXTS, OpKind, Scanner, valid_publish_subject, valid_subject
from ...codec.protocol_types import ProtocolError, ScanError
from ..strict_json import BadJson, read_json
from .subjects import MAX_TOKENS, Subscription

if TYPE_CHECKING:
    from .access import Permissions, User
    from .accounts import Account
    from .port import Wire
    from .router import Message

__all__ = ["Client", "Hub", "Inbox", "Settings"]

FLUSH_BYTES: Final = 1024 * 1024
"""Output of one pass that is handed to the socket before the pass ends, so that fan-out doesn't pile up."""

REMEMBERED: Final = 1024
"""Subjects whose verdict, and requests whose reply, are remembered of one client with permissions."""

UNKNOWN_OPERATION: Final = ERROR_TEXTS[ScanError.UNKNOWN_OPERATION]
PINGS_MAX: Final = 2
"""Unanswered PINGs after which a connection is stale."""


log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Limits of a gateway; `actors/options.py` has their reasons."""

    max_payload: int = 1 << 20
    max_control_line: int = 4096
    max_pending: int = 64 << 20
    max_connections: int = 65536
    auth_timeout: float = 2.0
    """Seconds."""
    ping_interval: float = 120.0
    """Seconds."""
    chunk_bytes: int = (4 << 20) - 4096
    """Encoded size up to which publishes to one stream are proposed together; a batch holds it."""
    max_subscriptions: int = 0
    """Of one client; 0: no limit."""
    jetstream: bool = True
    """Whether JetStream's subjects mean anything."""
    domain: str = ""
    """JetStream's, as clients may name it; empty: it has none."""
    publish_window: int = 16 << 20
    """Bytes proposed to one stream and not yet settled, beyond which its publishers are read no more."""


@dataclass(frozen=True, slots=True)
class Inbox:
    """Acknowledgements to `prefix` + one token go to the subscription `sid` of this client, and nowhere else.

    It stands as long as the subject table has this version. An empty sid says that it isn't so.
    """

    version: int
    prefix: bytes
    sid: bytes


class Hub(Protocol):
    """The gateway, as its clients use it."""

    settings: Settings

    def info(self, client: Client) -> bytes:
        """The INFO line."""

    def authenticate(self, client: Client, connect: Mapping[str, object]) -> bool | None:
        """Whether a CONNECT is admitted, and as whom (`client.admit`); None: `client.decided` will tell."""

    @property
    def closed_to_strangers(self) -> bool:
        """Whether a client must introduce itself before it does anything."""

    def subscribe(self, subscription: Subscription) -> None: ...

    def unsubscribe(self, subscription: Subscription) -> None: ...

    @property
    def main_account(self) -> Account:
        """Of a client that has not shown who it is."""

    def store(self, client: Client, first: int, last: int) -> int:
        """Take successive operations of the client's scanner that one stream stores; returns how many."""

    def publish(self, client: Client, subject: bytes, reply: bytes, header_size: int, body: bytes) -> None:
        """Deliver a message that no stream stores."""

    def written(self, client: Client) -> None:
        """The client has output to flush."""

    def closed(self, client: Client) -> None:
        """The client is gone."""

    def slow(self, client: Client) -> None:
        """The client is about to be closed as a slow consumer."""


class Client:
    """The protocol state of one connection; owned by the gateway, all calls on its event loop."""

    def __init__(self, number: int, wire: Wire, hub: Hub, now: float) -> None:
        self.number = number
        self.wire = wire
        self._hub = hub
        settings = hub.settings
        self.scanner = Scanner(max_payload=settings.max_payload, max_control_line=settings.max_control_line)
        self.out = bytearray()
        self.open = True
        self.since = now
        """When it connected, seconds of the gateway's clock."""
        self.greeted = False
        """It has its first PONG: from then on it can take any line."""
        self.introduced = False
        """It has sent CONNECT."""
        self.verbose = True
        self.pedantic = True
        self.echo = True
        self.headers = False
        self.no_responders = False
        self.protocol = 0
        self.name = ""
        self.language = ""
        self.language_version = ""
        self.subscriptions: dict[bytes, Subscription] = {}
        self.nonce = b""
        """What it is to sign, if clients may show an nkey."""
        self.answered = trio.Event()
        """Its last request to the API is."""
        self.answered.set()
        self.user = ""
        self.account = hub.main_account
        self.limits: Limits | None = None
        """What it may do, if not everything."""
        self._undecided: tuple[Mapping[str, object], int, int] | None = None
        """Its CONNECT, while that is being checked, and the operations behind it: next, end."""
        self.inbox: Inbox | None = None
        self.next_ping = now + settings.ping_interval
        self.pings = 0
        self.in_messages = 0
        self.out_messages = 0
        self.in_bytes = 0
        """Of messages' headers and payloads, as `out_bytes`; lines of the protocol don't count."""
        self.out_bytes = 0
        self._received = False
        """Anything, since the last `rest`."""
        self._resting = True
        """Its receive buffer is as small as it gets."""

    # --- bytes in ----------------------------------------------------------------------------------------

    def receive(self) -> int:
        """Read once what has arrived and act on every whole operation; returns the bytes read."""
        size = self.wire.receive(self.scanner.writable())
        if size is None:
            return 0
        if size == 0:
            self.close()
            return 0
        self.scanner.wrote(size)
        self._received = True
        self.pings = 0  # whoever sends is alive
        self._scan()
        return size

    def _scan(self) -> None:
        try:
            while self.open and self._undecided is None and (count := self.scanner.scan()):
                self._act(0, count)
        except ProtocolError as error:
            # A stranger that doesn't even speak the protocol hears what any stranger does.
            known = self.introduced or not self._hub.closed_to_strangers
            self.fail(error.text if known or error.text != UNKNOWN_OPERATION else "Authorization Violation")

    def _act(self, number: int, count: int) -> None:
        scanner = self.scanner
        while number < count and self.open:
            kind = scanner.kind(number)
            if kind == OpKind.PUB or kind == OpKind.HPUB:
                number += self._publish(number, count, kind)
                continue
            if kind == OpKind.SUB:
                self._subscribe(scanner.subject(number), scanner.queue(number), scanner.sid(number))
            elif kind == OpKind.UNSUB:
                self._unsubscribe(scanner.sid(number), scanner.maximum(number))
            elif kind == OpKind.PING:
                self._ping()
            elif kind == OpKind.CONNECT:
                self._connect(scanner.args(number))
                if self._undecided is not None:
                    self._undecided = (self._undecided[0], number + 1, count)
                    return
            # PONG has done its work by arriving; INFO, +OK and -ERR mean nothing from a client.
            number += 1

    def _publish(self, number: int, count: int, kind: int) -> int:
        """Take the publish at `number`, and those that can go with it; returns how many."""
        if not self._admitted():
            return 1
        if not self.headers:
            if kind == OpKind.HPUB:
                self.fail("message headers not supported")
                return 1
            count = number + 1  # the next one may be an HPUB
        if self.limits is not None:
            count = self._permitted(self.limits, number, count)
            if count == number:
                self._violation(b'Publish to "%b"' % self.scanner.subject(number))
                return 1
        taken = self._hub.store(self, number, count)
        if not taken:
            self._publish_core(number)
            return 1
        self.in_messages += taken
        self.in_bytes += self.scanner.body_bytes(number, number + taken)
        if self.verbose:
            self.write(b"+OK\r\n" * taken)
        return taken

    def _publish_core(self, number: int) -> None:
        scanner = self.scanner
        subject = scanner.subject(number)
        if self.pedantic and not valid_publish_subject(subject):
            self.write(b"-ERR 'Invalid Publish Subject'\r\n")
            return
        body = bytes(scanner.body(number))
        self.in_messages += 1
        self.in_bytes += len(body)
        self.ok()
        self._hub.publish(self, subject, scanner.reply(number), scanner.header_size(number), body)

    def _subscribe(self, subject: bytes, queue: bytes, sid: bytes) -> None:
        if not self._admitted():
            return
        if not valid_subject(subject) or subject.count(b".") >= MAX_TOKENS:
            self.write(b"-ERR 'Invalid Subject'\r\n")
            return
        if self.limits is not None and not self.limits.may_subscribe(subject, queue):
            group = b' using queue "%b"' % queue if queue else b""
            self._violation(b'Subscription to "%b"%b' % (subject, group))
            return
        most = self._hub.settings.max_subscriptions
        if 0 < most <= len(self.subscriptions):  # also for a sid in use, as in the reference server
            self.write(b"-ERR 'maximum subscriptions exceeded'\r\n")
            return
        # As in the reference server, a sid in use keeps its first subject.
        if sid not in self.subscriptions:
            subscription = Subscription(self, sid, subject, queue)
            self.subscriptions[sid] = subscription
            if self.limits is not None and self.limits.guards(subject):
                self.limits.guarded.add(sid)
            self._hub.subscribe(subscription)
        self.ok()

    def _unsubscribe(self, sid: bytes, maximum: int) -> None:
        if not self._admitted():
            return
        subscription = self.subscriptions.get(sid)
        if subscription is not None:
            if maximum > subscription.delivered:
                subscription.limit = maximum
                self.inbox = None  # acknowledgements must be counted one by one now
            else:
                self.end(subscription)
        self.ok()

    def end(self, subscription: Subscription) -> None:
        """Take one subscription away."""
        if self.subscriptions.pop(subscription.sid, None) is not None:
            if self.limits is not None:
                self.limits.guarded.discard(subscription.sid)
            self._hub.unsubscribe(subscription)

    def _ping(self) -> None:
        if not self._admitted():
            return
        self.write(b"PONG\r\n")
        self.greeted = True

    def _connect(self, arguments: bytes) -> None:
        try:
            connect = read_json(arguments)
        except BadJson:
            connect = None
        if not isinstance(connect, dict):
            # The reference server closes without a word; a word helps whoever writes a client.
            self.fail("Parser Error")
            return
        admitted = self._hub.authenticate(self, connect)
        if admitted is None:
            self._undecided = (connect, 0, 0)
            self.wire.pause()
        elif admitted:
            self._introduce(connect)
        else:
            self.fail("Authorization Violation")

    def decided(self, admitted: bool) -> None:
        """What came of a CONNECT that took time to check; what the client said since is acted on now."""
        if self._undecided is None or not self.open:
            return
        (connect, number, count), self._undecided = self._undecided, None
        if not admitted:
            self.fail("Authorization Violation")
            return
        self.wire.resume()
        self._introduce(connect)
        try:
            self._act(number, count)
        except ProtocolError as error:
            self.fail(error.text)
        self._scan()

    def admit(self, user: User, account: Account) -> None:
        """It has shown that it is this user, of this account: from now on it sees that one's subjects."""
        if account is not self.account:
            for subscription in list(self.subscriptions.values()):
                self.end(subscription)
            self.account = account
        self.user = user.name or user.nkey
        self.limits = Limits(user.permissions) if user.permissions is not None else None

    def _introduce(self, connect: Mapping[str, object]) -> None:
        self.verbose = connect.get("verbose") is not False
        self.pedantic = connect.get("pedantic") is not False
        self.echo = connect.get("echo") is not False
        self.headers = connect.get("headers") is True
        self.no_responders = connect.get("no_responders") is True
        protocol = connect.get("protocol")
        self.protocol = protocol if isinstance(protocol, int) else 0
        self.name = _text(connect, "name")
        self.language = _text(connect, "lang")
        self.language_version = _text(connect, "version")
        if self.no_responders and not self.headers:
            self.no_responders = False
            self.fail("no responders requires headers support")
            return
        self.introduced = True
        self.ok()

    def _admitted(self) -> bool:
        """Whether operations are served: always without authentication, else after CONNECT."""
        if self.introduced or not self._hub.closed_to_strangers:
            return True
        self.fail("Authorization Violation")
        return False

    def _permitted(self, limits: Limits, number: int, count: int) -> int:
        """The end of the publishes from `number` on that it may make."""
        scanner = self.scanner
        while number < count and scanner.kind(number) in (OpKind.PUB, OpKind.HPUB):
            if not limits.may_publish(scanner.subject(number)):
                break
            number += 1
        return number

    def may_publish(self, subject: bytes) -> bool:
        """Whether it may publish to what its own subject stands for; it is told if it may not."""
        permitted = self.limits is None or self.limits.may_publish(subject)
        if not permitted:
            self._violation(b'Publish to "%b"' % subject)
        return permitted

    def _violation(self, what: bytes) -> None:
        shown = what.decode(errors="replace")
        log.warning("client %d (%s): not permitted: %s", self.number, self.user, shown)
        self.write(b"-ERR 'Permissions Violation for %b'\r\n" % what)

    # --- bytes out ---------------------------------------------------------------------------------------

    def write(self, data: bytes | bytearray) -> None:
        """Queue output; the gateway flushes it at the end of its pass."""
        if self.open:
            self.touch()
            self.out += data

    def touch(self) -> None:
        """Something is about to be added to `out`."""
        if not self.out:
            self._hub.written(self)

    def ok(self) -> None:
        """The `+OK` of a verbose client."""
        if self.verbose:
            self.write(b"+OK\r\n")

    def deliver(self, subscription: Subscription, message: Message) -> None:
        """Send a message to one of this client's subscriptions, which may end with it."""
        if not self.open or (self.limits is not None and not self.limits.admits(subscription, message)):
            return
        self.touch()
        if message.header_size and self.headers:
            self.out += message.subject_part_headers
            self.out += subscription.sid
            self.out += message.rest_headers
            self.out_bytes += message.header_size
        else:
            self.out += message.subject_part
            self.out += subscription.sid
            self.out += message.rest
        self.out_messages += 1
        self.out_bytes += message.payload_size
        subscription.delivered += 1
        if subscription.limit and subscription.delivered >= subscription.limit:
            self.end(subscription)
        if len(self.out) > FLUSH_BYTES:
            self.flush()

    def flush(self) -> None:
        """Hand queued output to the socket; a client too far behind is closed without a word."""
        if not self.out:
            return
        self.wire.write(self.out)
        self.out.clear()
        if self.wire.pending > self._hub.settings.max_pending:
            self._hub.slow(self)
            self._gone()
            self.wire.abort()

    def keep_alive(self, now: float) -> None:
        """Ask a client that is due whether it lives; close one that never answers."""
        if now < self.next_ping:
            return
        self.next_ping = now + self._hub.settings.ping_interval
        if self.pings >= PINGS_MAX:
            self.fail("Stale Connection")
            return
        self.pings += 1
        self.write(b"PING\r\n")

    def rest(self) -> None:
        """Give back the receive buffer of a client that has sent nothing since the last call."""
        if self._received or self._undecided is not None:
            self._received = self._resting = False
        elif not self._resting:
            self._resting = True
            self.scanner.shrink()

    def fail(self, text: str) -> None:
        """Say why, then close."""
        self.write(b"-ERR '%b'\r\n" % text.encode())
        self.close()

    def close(self) -> None:
        """End the connection once what is queued has been sent."""
        self.flush()
        if self.open:
            self._gone()
            self.wire.close()

    def _gone(self) -> None:
        self.open = False
        self.out.clear()
        for subscription in list(self.subscriptions.values()):
            self.end(subscription)
        self._hub.closed(self)


class Limits:
    """What one client may do, with what it takes to answer that fast."""

    def __init__(self, permissions: Permissions) -> None:
        self._permissions = permissions
        self._publish: dict[bytes, bool] = {}
        self._receive: dict[bytes, bool] = {}
        self._answers: dict[bytes, tuple[int, float]] = {}
        """Reply subjects it was given: answers left (or any number: -1), and until when."""
        self.guarded: set[bytes] = set()
        """Subscriptions whose messages are looked at one by one."""

    def may_publish(self, subject: bytes) -> bool:
        known = self._publish.get(subject)
        if known is None:
            known = self._permissions.publish.permit(subject.decode(errors="replace"))
            _remember(self._publish, subject, known)
        return known or self._may_answer(subject)

    def may_subscribe(self, subject: bytes, queue: bytes) -> bool:
        pattern, group = subject.decode(errors="replace"), queue.decode(errors="replace")
        return self._permissions.subscribe.permit(pattern, group)

    def guards(self, subject: bytes) -> bool:
        return self._permissions.guards(subject.decode(errors="replace"))

    def admits(self, subscription: Subscription, message: Message) -> bool:
        """Whether a message may be delivered; a request that is leaves its reply subject to be answered."""
        if subscription.sid in self.guarded and not self._may_receive(message.subject):
            return False
        responses = self._permissions.responses
        if responses is not None and message.reply:
            if len(self._answers) >= REMEMBERED:
                del self._answers[next(iter(self._answers))]
            deadline = trio.current_time() + responses.seconds
            self._answers[message.reply] = (responses.maximum or -1, deadline)
        return True

    def _may_receive(self, subject: bytes) -> bool:
        known = self._receive.get(subject)
        if known is None:
            known = self._permissions.subscribe.permit(subject.decode(errors="replace"))
            _remember(self._receive, subject, known)
        return known

    def _may_answer(self, subject: bytes) -> bool:
        left, deadline = self._answers.get(subject, (0, 0.0))
        if not left or trio.current_time() > deadline:
            self._answers.pop(subject, None)
            return False
        if left == 1:
            del self._answers[subject]
        elif left > 1:
            self._answers[subject] = (left - 1, deadline)
        return True


def _remember(verdicts: dict[bytes, bool], subject: bytes, verdict: bool) -> None:
    if len(verdicts) >= REMEMBERED:
        verdicts.clear()
    verdicts[subject] = verdict


def _text(connect: Mapping[str, object], field: str) -> str:
    value = connect.get(field)
    return value if isinstance(value, str) else ""
