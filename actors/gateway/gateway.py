"""The gateway actor: serves every client in passes, and carries what other parts of the node have for them.

A pass reads once from each client that has something, acts on it, proposes what it collected for each stream,
and flushes each client's output with one send. What others have for clients (outcomes of proposals, routed
messages, API answers) is flushed together in the gateway's turn, the last one of a pass.
"""

from __future__ import annotations

import ipaddress
import itertools
import json
import logging
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import trio

from ...codec import make_chunk
from ...codec.protocol import encode_publish
from ...storage.turns import Order, Turn, Turns
from ..stream.views import rfc3339
from .access import Access, Candidate, User
from .accounts import Account, Accounts
from .client import Client, Settings
from .port import Port, Ready, Wire
from .publishing import Publishing, no_responders
from .routes import qualified, unqualified
from .subjects import Subscription

if TYPE_CHECKING:
    from random import Random

    from ..certificates import ClientTls
    from ..raft.outcomes import Outcome
    from .backend import Backend

__all__ = ["Gateway", "GatewayStatistics", "Settings"]

PROTOCOL_VERSION: Final = "2.15.0"
"""What INFO calls the server's version: that of the reference server whose protocol this gateway follows.
Clients parse it as a semantic version and switch features on by it; Trimaran's own has another field."""

PASS_BYTES: Final = 4 << 20
"""Bytes read in one pass, which bounds how long it keeps the loop; who is left over is ready in the next."""

ADMINISTRATION_PREFIX: Final = b"$TRIMARAN.API."
API_PREFIX: Final = b"$JS.API."
API_PREFIXES: Final = (API_PREFIX, ADMINISTRATION_PREFIX)
JETSTREAM_PREFIX: Final = b"$JS."
AUDIT: Final = b"$JS.EVENT.ADVISORY.API"
API_MAX: Final = 1024
"""API requests under way; more are refused with a typed error instead of queueing without end."""

ORDER_SECONDS: Final = 0.25
"""An answer waits so long for those to earlier requests of its client: longer than a request takes, shorter
than anybody should wait because another stream has no leader."""

TICK: Final = 1.0
"""Seconds between looks at idle clients."""

DRAIN_LOOK: Final = 0.01
"""Seconds between looks at what clients have not taken yet, while shutting down."""

HANDSHAKE: Final = 10.0
"""Seconds in which a new client gets no PING: until its first PONG it expects no other line."""

SUBSCRIPTIONS_SHOWN: Final = 1000
VERIFIERS: Final = 2
"""Threads that check hashed passwords: a crowd of clients must not take every core."""
NONCE_BYTES: Final = 16

API_BUSY: Final = b'{"error":{"code":429,"err_code":10167,"description":"too many requests"}}'

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class GatewayStatistics:
    """Counts since the start, and what is there now (`connections`, `subscriptions`, `under_way`)."""

    connections: int
    total_connections: int
    subscriptions: int
    in_messages: int
    out_messages: int
    in_bytes: int
    """Of headers and payloads, as `out_bytes`."""
    out_bytes: int
    slow_consumers: int
    stale_connections: int
    refused_connections: int
    """Beyond `max_connections`."""
    routed: int
    """Messages sent to other nodes."""
    dropped: int
    """Messages that found their link full or down."""
    bad_frames: int
    proposed: int
    """Messages proposed to streams."""
    under_way: int
    """Chunks proposed and not settled."""
    unknown: int
    """Messages whose publishers were told that the outcome is unknown."""
    api_requests: int


class Gateway:
    """All clients of one node.

    Args:
        backend: the node.
        port: where clients connect; the gateway opens and closes it.
        random: draws queue group members and the server id.
        settings: limits.
        access: who may connect; None lets everybody in.
        tls: how clients' connections are encrypted; None: not at all.
        turns: those of the node.
    """

    def __init__(
        self,
        backend: Backend,
        port: Port,
        random: Random,
        settings: Settings | None = None,
        access: Access | None = None,
        tls: ClientTls | None = None,
        *,
        turns: Turns | None = None,
    ) -> None:
        self.settings = settings or Settings()
        self._backend = backend
        self._port = port
        self._access = access or Access()
        self._tls = tls
        self._verifying = trio.CapacityLimiter(VERIFIERS)
        self._clients: dict[int, Client] = {}
        self._by_wire: dict[Wire, Client] = {}
        self._dirty: list[Client] = []
        self._turns = turns or Turns()
        self._turn = Turn(self._turns, Order.ANSWER, self._flush)
        self._flushed = trio.Event()
        """Set, and replaced, at every flush while the gateway closes."""
        self._nursery: trio.Nursery | None = None
        self._last_number = 0
        self._api_running = 0
        self._in_pass = False
        self._closing = False
        domain = self.settings.domain if self.settings.jetstream else ""
        self._alias = f"$JS.{domain}.API.".encode() if domain else b""
        """What stands for `API_PREFIX` in subjects that name the domain; empty: nothing does."""
        self._table_version = 0
        """Of the listeners that consumers know."""
        self.address = ("", 0)
        self.accounts = Accounts(backend, random, self._access.accounts)
        self.routes = self.accounts.routes
        self.table, self.router = self.accounts.main.table, self.accounts.main.router
        self.publishing = Publishing(
            backend, self.settings, self.table, self._clients, self.router, self._wake
        )
        self._counted = dict.fromkeys(("in_messages", "out_messages", "in_bytes", "out_bytes"), 0)
        self._slow = self._stale = self._refused = self._api_requests = 0

    async def run(self, *, task_status: trio.TaskStatus[tuple[str, int]] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled; reports the bound (host, port). Raises OSError if it can't listen."""
        try:
            self.address = await self._port.open()
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                advertised = self._advertised()
                if advertised:
                    self.routes.announce(advertised)
                nursery.start_soon(self._turn.run)
                nursery.start_soon(self._keep_alive)
                task_status.started(self.address)
                await self._port.serve(lambda ready: self._turns.through(self._pass, ready))
        finally:
            self._nursery = None
            self._port.close()

    async def shut_down(self, grace: float) -> None:
        """Lame duck: accept nobody, tell clients to go elsewhere, let what is owed be answered, then close.

        Waits at most `grace` seconds for answers; `run` goes on until it is cancelled.
        """
        self._closing = True
        self._port.stop_listening()
        self._inform()
        with trio.move_on_after(grace):
            while self.publishing.under_way or self._api_running:
                await self._flushed.wait()
        self._flush()
        for client in list(self._clients.values()):
            client.close()
        with trio.move_on_after(grace):
            while self._port.unsent():  # noqa: ASYNC110  # a client that takes its bytes makes no event
                await trio.sleep(DRAIN_LOOK)

    def statistics(self) -> GatewayStatistics:
        counted = {
            field: count + sum(getattr(client, field) for client in self._clients.values())
            for field, count in self._counted.items()
        }
        return GatewayStatistics(
            connections=len(self._clients),
            total_connections=self._last_number,
            subscriptions=sum(len(client.subscriptions) for client in self._clients.values()),
            slow_consumers=self._slow,
            stale_connections=self._stale,
            refused_connections=self._refused,
            routed=self.routes.sent,
            dropped=self.routes.dropped,
            bad_frames=self.routes.bad_frames,
            proposed=self.publishing.proposed,
            under_way=self.publishing.under_way,
            unknown=self.publishing.unknown,
            api_requests=self._api_requests,
            **counted,
        )

    def connz(self, offset: int, limit: int, wall: int, *, subscriptions: bool) -> list[dict[str, object]]:
        """The connections as /connz shows them, oldest first. `wall`: now, in ns since 1970."""
        now = trio.current_time()
        chosen = list(itertools.islice(self._clients.values(), offset, offset + limit))
        return [_shown(client, now, wall, subscriptions=subscriptions) for client in chosen]

    def urls(self) -> list[str]:
        """Where clients may connect, as INFO names it."""
        others, own = self.routes.addresses(), self._advertised()
        return [own, *others] if own and not self._closing else others

    def account_names(self) -> list[str]:
        """Those besides the main one."""
        return self.accounts.names()

    def subsz(self, offset: int, limit: int) -> list[dict[str, object]]:
        """Subscriptions as /subsz lists them, the oldest clients' first."""
        found = (
            {
                "account": client.account.name.decode() or "$G",
                "subject": each.subject.decode(errors="replace"),
                **({"qgroup": each.queue.decode(errors="replace")} if each.queue else {}),
                "sid": each.sid.decode(errors="replace"),
                "msgs": each.delivered,
                "cid": client.number,
            }
            for client in self._clients.values()
            for each in client.subscriptions.values()
        )
        return list(itertools.islice(found, offset, offset + limit))

    def clients(self) -> list[Client]:
        """The connections, for /connz; to be read, not changed."""
        return list(self._clients.values())

    # --- passes ------------------------------------------------------------------------------------------

    def _pass(self, ready: Ready) -> None:
        self._in_pass = True
        now = trio.current_time()
        for wire in ready.accepted:
            self._accept(wire, now)
        budget = PASS_BYTES
        for wire in ready.readable:
            client = self._by_wire.get(wire)
            if client is None:
                wire.abort()  # it was being closed, and now its client is gone as well
                continue
            budget -= client.receive()
            if budget <= 0:
                break
        self._flush()
        self._in_pass = False

    def _flush(self) -> None:
        """Propose, then send: what proposals refused at once is in the same send."""
        self.publishing.flush()
        self.routes.flush()
        self._backend.flush_consumers()
        if self.table.version != self._table_version:
            self._table_version = self.table.version
            self._backend.listeners_changed()
        while self._dirty:
            dirty, self._dirty = self._dirty, []
            for client in dirty:
                client.flush()
        if self._closing:
            self._flushed.set()
            self._flushed = trio.Event()

    def _wake(self) -> None:
        """There is something to flush."""
        if not self._in_pass:
            self._turn.due()

    async def _keep_alive(self) -> None:
        tick = min(TICK, self.settings.ping_interval / 2, self.settings.auth_timeout / 2)
        while True:
            await trio.sleep(tick)
            now = trio.current_time()
            for client in list(self._clients.values()):
                self._look_at(client, now)
            self.routes.refresh()

    def _look_at(self, client: Client, now: float) -> None:
        age = now - client.since
        stranger = self.closed_to_strangers and not client.introduced
        if stranger and age >= self.settings.auth_timeout:
            client.fail("Authentication Timeout")
        elif client.wire.securing and age >= self.settings.auth_timeout:
            client.close()  # there is no way to tell it why before its handshake is done
        elif client.greeted or age >= HANDSHAKE:
            client.keep_alive(now)
            self._stale += not client.open
        client.rest()

    def _accept(self, wire: Wire, now: float) -> None:
        if self._closing:
            wire.abort()
            return
        if len(self._clients) >= self.settings.max_connections:
            self._refused += 1
            refused = Client(self._last_number + 1, wire, self, now)
            wire.write(self.info(refused) + b"-ERR 'maximum connections exceeded'\r\n")
            wire.close()
            return
        self._last_number += 1
        client = Client(self._last_number, wire, self, now)
        self._clients[client.number] = self._by_wire[wire] = client
        if self._access.wants_nonce:
            client.nonce = secrets.token_urlsafe(NONCE_BYTES).encode()
        if self._access.default is not None:
            client.admit(self._access.default, self.accounts.of(self._access.default.account))
        tls = self._tls
        if tls is not None and tls.handshake_first:
            wire.secure(tls.context)
        client.write(self.info(client))
        if tls is not None and not tls.handshake_first:
            client.flush()
            wire.secure(tls.context)

    # --- what clients ask for (Hub) ------------------------------------------------------------------------

    def info(self, client: Client) -> bytes:
        """The INFO line for a client."""
        backend = self._backend
        host, port = self.address
        fields: dict[str, object] = {
            "server_id": f"{backend.node_id:016X}",
            "server_name": backend.node_name,
            "version": PROTOCOL_VERSION,
            "trimaran": backend.version,
            "proto": 1,
            "host": host,
            "port": port,
            "headers": True,
            "max_payload": self.settings.max_payload,
            **({"jetstream": True} if self.settings.jetstream else {}),
            **({"domain": self.settings.domain} if self._alias else {}),
            "client_id": client.number,
            "client_ip": client.wire.address,
            "cluster": backend.cluster_name,
        }
        if self._access.announced:
            fields["auth_required"] = True
        if client.nonce:
            fields["nonce"] = client.nonce.decode()
        if self._tls is not None:
            fields["tls_required"] = True
            if self._tls.verifies:
                fields["tls_verify"] = True
        # Alone it names nobody: the client knows an address that works, and its own may look different there.
        if self.routes.addresses():
            fields["connect_urls"] = self.urls()
        if self._closing:
            fields["ldm"] = True
        return b"INFO %b \r\n" % json.dumps(fields, separators=(",", ":")).encode()

    @property
    def closed_to_strangers(self) -> bool:
        return self._access.announced

    def authenticate(self, client: Client, connect: Mapping[str, object]) -> bool | None:
        found = self._access.identify(connect, client.nonce, client.wire.certificate)
        if isinstance(found, Candidate):
            if found.slow and self._nursery is not None:
                self._nursery.start_soon(self._verify, client, found)
                return None
            found = found.user if found.verify() else None
        return self._admit(client, found)

    async def _verify(self, client: Client, candidate: Candidate) -> None:
        """Check a hashed password where it holds up nobody."""
        right = await trio.to_thread.run_sync(candidate.verify, limiter=self._verifying)
        client.decided(self._admit(client, candidate.user if right else None))
        self._wake()

    def _admit(self, client: Client, user: User | None) -> bool:
        if user is None:
            log.warning("client %d (%s): authorization violation", client.number, client.wire.address)
        elif client.open:
            client.admit(user, self.accounts.of(user.account))
        return user is not None

    def reload(self, access: Access | None, tls: ClientTls | None) -> None:
        """Other users and certificates from now on; clients that are no longer welcome are closed."""
        before = self._access
        self._access, self._tls = access or Access(), tls
        self.accounts.expect(self._access.accounts)
        for client in list(self._clients.values()):
            if client.introduced and not self._access.still_admits(client.user, before):
                client.fail("Authorization Violation")

    def subscribe(self, subscription: Subscription) -> None:
        account = subscription.client.account
        account.table.add(subscription)
        self.routes.subscribed(qualified(account.name, subscription.subject), subscription.queue)
        self._wake()

    def unsubscribe(self, subscription: Subscription) -> None:
        account = subscription.client.account
        account.table.remove(subscription)
        self.routes.unsubscribed(qualified(account.name, subscription.subject), subscription.queue)
        self._wake()

    @property
    def main_account(self) -> Account:
        return self.accounts.main

    def store(self, client: Client, first: int, last: int) -> int:
        return self.publishing.store(client, first, last) if client.account is self.accounts.main else 0

    def publish(self, client: Client, subject: bytes, reply: bytes, header_size: int, body: bytes) -> None:
        account = client.account
        if self._alias and subject.startswith(self._alias) and account is self.accounts.main:
            subject = API_PREFIX + subject[len(self._alias) :]
            # The alias was permitted; without this it would be a way around what the other is denied.
            if not client.may_publish(subject):
                return
        delivered = account.router.publish(subject, reply, header_size, body, client)
        if account is not self.accounts.main:  # streams and their administration are none of its business
            if reply and not delivered:
                no_responders(client, account.table, reply, subject)
        elif (
            subject.startswith(JETSTREAM_PREFIX)
            and self.settings.jetstream
            and self._backend.to_consumer(subject, reply, body[header_size:])
        ):
            self._wake()
        elif subject.startswith(API_PREFIXES if self.settings.jetstream else ADMINISTRATION_PREFIX):
            self._start_api(client, subject, reply, body[header_size:])
        elif reply and not delivered:
            no_responders(client, self.table, reply, subject)

    def written(self, client: Client) -> None:
        self._dirty.append(client)
        self._wake()

    def slow(self, client: Client) -> None:
        self._slow += 1
        log.warning(
            "client %d (%s) is too slow, closing it", client.number, client.name or client.wire.address
        )

    def closed(self, client: Client) -> None:
        del self._clients[client.number]
        del self._by_wire[client.wire]
        for field in self._counted:
            self._counted[field] += getattr(client, field)

    # --- the JetStream API ---------------------------------------------------------------------------------

    def _start_api(self, client: Client, subject: bytes, reply: bytes, payload: bytes) -> None:
        self._api_requests += 1
        if self._nursery is None or self._api_running >= API_MAX:
            self.router.publish(reply, b"", 0, API_BUSY)
            return
        self._api_running += 1
        before, client.answered = client.answered, trio.Event()
        self._nursery.start_soon(self._answer_api, client, subject, reply, payload, before, client.answered)

    async def _answer_api(
        self,
        client: Client,
        subject: bytes,
        reply: bytes,
        payload: bytes,
        before: trio.Event,
        answered: trio.Event,
    ) -> None:
        """Requests of one client run side by side, and are answered in the order in which they came."""
        try:
            answer = await self._backend.api(subject.decode(errors="replace"), payload)
            if not before.is_set():
                with trio.move_on_after(ORDER_SECONDS):
                    await before.wait()
        finally:
            answered.set()
            self._api_running -= 1
            self._wake()
        if not reply:
            return
        if answer is None:
            no_responders(client, self.table, reply, subject)
        else:
            self.router.publish(reply, b"", 0, answer)
            self._audit(client, subject, payload, answer)

    def _audit(self, client: Client, subject: bytes, payload: bytes, answer: bytes) -> None:
        """Tell whoever listens what was asked of JetStream, by whom, and what was answered."""
        if not subject.startswith(JETSTREAM_PREFIX) or not self.is_wanted(AUDIT):
            return
        about: dict[str, object] = {"host": client.wire.address, "id": client.number, "acc": "$G"}
        known = {
            "user": client.user,
            "name": client.name,
            "lang": client.language,
            "ver": client.language_version,
        }
        about |= {name: text for name, text in known.items() if text}
        connected = trio.current_time() - client.since
        self._backend.audit(about, connected, subject.decode(errors="replace"), payload, answer)

    # --- other nodes ---------------------------------------------------------------------------------------

    def on_peer_up(self, peer: int) -> None:
        """A link to that node stands: exchange interest."""
        self.routes.peer_up(peer)

    def on_peer_down(self, peer: int) -> None:
        known = self.routes.addresses()
        self.routes.peer_down(peer)
        self._wake()
        if self.routes.addresses() != known:
            self._inform()

    def listens(self, subject: bytes) -> bool:
        """Whether anybody in the cluster gets messages of a literal subject."""
        return bool(self.table.match(subject))

    def carry(self, to: bytes, subject: bytes, reply: bytes, header_size: int, body: bytes) -> bool:
        """Deliver to the subscribers of `to` a message that shows `subject`; False: nobody listens."""
        self._wake()
        return self.router.publish(subject, reply, header_size, body, to=b"" if to == subject else to)

    def is_wanted(self, subject: bytes) -> bool:
        """Whether `tell` would reach a subscriber or a stream."""
        return self.listens(subject) or self._backend.stream_of(subject) is not None

    def tell(self, subject: bytes, body: bytes) -> None:
        """Publish what nobody waits for: to its subscribers, and into the stream that takes the subject."""
        self.carry(subject, subject, b"", 0, body)
        stream = self._backend.stream_of(subject)
        if stream is not None:
            self._backend.propose(stream.group, make_chunk([encode_publish(subject, b"", body)]), _unheard)

    def on_interest(self, peer: int, data: Iterable[object]) -> None:
        """An interest frame, as its sender gave it to `Backend.send_interest`."""
        if self.routes.on_interest(peer, data):
            self._inform()
        self._wake()

    def on_route(self, peer: int, data: bytes | bytearray | memoryview) -> None:
        """A frame of routed messages, as its sender gave it to `Backend.send_route`."""
        for message in self.routes.receive(data):
            name, to = unqualified(message.to)
            account = self.accounts.get(name)
            if account is not None:
                account.router.deliver(message, to)

    def _advertised(self) -> str:
        """Where clients reach this node; empty if only they could know."""
        host, port = self.address
        if not port or _is_wildcard(host):
            return ""
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def _inform(self) -> None:
        """Send a new INFO to the clients that understand one in mid-stream."""
        for client in list(self._clients.values()):
            if client.greeted and client.protocol >= 1:
                client.write(self.info(client))


def _shown(client: Client, now: float, wall: int, *, subscriptions: bool) -> dict[str, object]:
    """One connection in the field names of the reference."""
    shown: dict[str, object] = {
        "cid": client.number,
        "kind": "Client",
        "type": "nats",
        "ip": client.wire.address,
        "port": client.wire.port,
        "start": rfc3339(wall - int((now - client.since) * 1e9)),
        "uptime": f"{int(now - client.since)}s",
        "uptime_seconds": round(now - client.since, 3),
        "pending_bytes": client.wire.pending,
        "in_msgs": client.in_messages,
        "out_msgs": client.out_messages,
        "in_bytes": client.in_bytes,
        "out_bytes": client.out_bytes,
        "subscriptions": len(client.subscriptions),
        "name": client.name,
        "lang": client.language,
        "version": client.language_version,
    }
    if client.user:
        shown["authorized_user"] = client.user
    if client.account.name:
        shown["account"] = client.account.name.decode()
    if subscriptions:
        listed = (each.subject.decode(errors="replace") for each in client.subscriptions.values())
        shown["subscriptions_list"] = list(itertools.islice(listed, SUBSCRIPTIONS_SHOWN))
    return shown


def _is_wildcard(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


def _unheard(outcome: Outcome) -> None:
    """Nobody waits for it."""
