"""Who gets a core message: local clients, other nodes, and one member of each queue group, cluster-wide."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .routes import Routed, qualified

if TYPE_CHECKING:
    from random import Random

    from .client import Client
    from .routes import Routes
    from .subjects import QueueMatch, SubjectTable

__all__ = ["Message", "Router"]


class Message:
    """A message on its way to clients, with the parts of its MSG and HMSG lines made once for all of them."""

    __slots__ = ("_body", "_headed", "_plain", "_reply", "_subject", "header_size")

    def __init__(self, subject: bytes, reply: bytes, header_size: int, body: bytes) -> None:
        self._subject = subject
        self._reply = reply + b" " if reply else b""
        self._body = body
        self.header_size = header_size
        self._plain: bytes | None = None
        self._headed: bytes | None = None

    @property
    def payload_size(self) -> int:
        """Bytes without the headers."""
        return len(self._body) - self.header_size

    @property
    def subject(self) -> bytes:
        return self._subject

    @property
    def reply(self) -> bytes:
        return self._reply[:-1]

    @property
    def subject_part(self) -> bytes:
        """Up to the sid."""
        return b"MSG %b " % self._subject

    @property
    def subject_part_headers(self) -> bytes:
        return b"HMSG %b " % self._subject

    @property
    def rest(self) -> bytes:
        """From the sid on, without headers: for clients that don't know them, or messages that have none."""
        if self._plain is None:
            payload = self._body[self.header_size :]
            self._plain = b" %b%d\r\n%b\r\n" % (self._reply, len(payload), payload)
        return self._plain

    @property
    def rest_headers(self) -> bytes:
        if self._headed is None:
            body = self._body
            self._headed = b" %b%d %d\r\n%b\r\n" % (self._reply, self.header_size, len(body), body)
        return self._headed


class Router:
    """Delivers messages by the subject table.

    Args:
        table: every listener, local and remote.
        routes: takes what other nodes get.
        random: draws a queue group's member.
        account: whose subjects these are, for other nodes.
    """

    def __init__(self, table: SubjectTable, routes: Routes, random: Random, account: bytes = b"") -> None:
        self._account = account
        self._table = table
        self._routes = routes
        self._random = random

    def publish(
        self,
        subject: bytes,
        reply: bytes,
        header_size: int,
        body: bytes,
        origin: Client | None = None,
        to: bytes = b"",
    ) -> bool:
        """Deliver a message of this node; False: nobody listens anywhere.

        Args:
            body: headers, then payload; `header_size` bytes of it are headers.
            origin: the publishing client, which gets it only if it wants an echo.
            to: whose subscribers get it, if those aren't the subject's.
        """
        found = self._table.match(to or subject)
        if not found:
            return False
        silent = origin if origin is not None and not origin.echo else None
        message = Message(subject, reply, header_size, body)
        delivered = False
        for subscription in found.local:
            if subscription.client is not silent:
                subscription.client.deliver(subscription, message)
                delivered = True
        if found.queues or found.peers:
            remote: dict[int, list[bytes]] = {peer: [] for peer in found.peers}
            for group in found.queues:
                delivered |= self._to_group(group, message, silent, remote)
            if self._account:
                to = qualified(self._account, to or subject)
            for peer, queues in remote.items():
                plain = peer in found.peers
                self._routes.send(peer, Routed(subject, reply, header_size, body, plain, tuple(queues), to))
                delivered = True
        return delivered

    def deliver(self, routed: Routed, to: bytes) -> None:
        """Deliver another node's message to local clients: the subscribers of `to`, or of its subject."""
        found = self._table.match(to or routed.subject)
        message = Message(routed.subject, routed.reply, routed.header_size, routed.body)
        if routed.plain:
            for subscription in found.local:
                subscription.client.deliver(subscription, message)
        for group in found.queues:
            # A member that left meanwhile costs the message: core delivery is at most once.
            if group.name in routed.queues and group.local:
                member = self._random.choice(group.local)
                member.client.deliver(member, message)

    def _to_group(
        self, group: QueueMatch, message: Message, silent: Client | None, remote: dict[int, list[bytes]]
    ) -> bool:
        """One member, each with the same chance, wherever it is connected."""
        local = group.local
        if silent is not None:
            local = tuple(member for member in local if member.client is not silent)
        everyone = len(local) + sum(count for _, count in group.peers)
        if not everyone:
            return False
        drawn = self._random.randrange(everyone)
        if drawn < len(local):
            member = local[drawn]
            member.client.deliver(member, message)
            return True
        drawn -= len(local)
        for peer, count in group.peers:
            if drawn < count:
                remote.setdefault(peer, []).append(group.name)
                break
            drawn -= count
        return True
