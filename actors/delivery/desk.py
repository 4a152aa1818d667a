"""Deliveries: every stream whose consumers this node serves, and the way of clients' messages to the others.

A client may be connected to any node. What it sends to a consumer goes to the leader of the stream's group,
one frame for all that came in a pass; while the group has no leader it waits a bounded time. What a consumer
sends goes out through the leader's gateway, like any message. A direct get goes to any replica: this node's
own if it has one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, cast

import trio

from ...codec.frame import FrameError
from ..peers.wire import FrameKind, checked
from ..stream.machine import StreamMachine
from .advisories import Advisories
from .forwarded import Forwarded
from .pulls import status
from .room import Room
from .stream import ClientMessage, StreamDelivery, unserved

if TYPE_CHECKING:
    import random

    from ..peers.requests import Frames
    from ..proposals import Leadership
    from ..replica.group import Group
    from ..world import Clock
    from .gets import DirectGets
    from .stream import Carrier

__all__ = ["Deliveries", "read_client_message"]

logger = logging.getLogger(__name__)

HOLD_SECONDS: Final = 3.0
"""How long a message waits for a leader: as long as a publish does."""
HOPS: Final = 2
"""Nodes that may pass a message on: leadership can move while it is on its way."""
LOOK_SECONDS: Final = 0.25

NEXT_PREFIX: Final = b"$JS.API.CONSUMER.MSG.NEXT."
ACK_PREFIX: Final = b"$JS.ACK."
FLOW_PREFIX: Final = b"$JS.FC."
DIRECT_PREFIX: Final = b"$JS.API.DIRECT.GET."
DOMAIN_TOKENS: Final = 9
"""Tokens of an acknowledgement's subject behind `$JS.ACK.` when a domain and an account come first."""


def read_client_message(subject: bytes, reply: bytes, payload: bytes) -> tuple[str, ClientMessage] | None:
    """(stream, message) of what a client sent to a consumer's subject, or None if it is no such subject."""
    if subject.startswith(DIRECT_PREFIX):
        stream, _, wanted = subject[len(DIRECT_PREFIX) :].decode(errors="replace").partition(".")
        return stream, ClientMessage("direct", "", (wanted,), reply, payload)
    for prefix, kind, least in ((NEXT_PREFIX, "next", 2), (ACK_PREFIX, "ack", 7), (FLOW_PREFIX, "flow", 3)):
        if not subject.startswith(prefix):
            continue
        tokens = subject[len(prefix) :].decode(errors="replace").split(".")
        if kind == "ack" and len(tokens) >= DOMAIN_TOKENS:
            tokens = tokens[2:]
        if len(tokens) < least or (kind == "next" and len(tokens) > least):
            return None
        stream, consumer, *others = tokens
        return stream, ClientMessage(kind, consumer, tuple(others), reply, payload)
    return None


@dataclass(frozen=True, slots=True)
class _Held:
    deadline: float
    message: ClientMessage


class Deliveries:
    """Owned by the node. Starts a `StreamDelivery` for each stream's group that this node leads.

    Args:
        me: this node's id.
        leadership: who leads a group, as far as this node knows.
        group_of: the number of the group of a stream's name.
        replicas_of: the nodes that are to have a replica of a group.
        gets: answers direct gets from this node's replicas.
        domain: of JetStream, as advisories name it.
    """

    carrier: Carrier

    def __init__(
        self,
        me: int,
        peers: Frames,
        leadership: Callable[[int], Leadership | None],
        group_of: Callable[[str], int | None],
        replicas_of: Callable[[int], Collection[int]],
        gets: DirectGets,
        clock: Clock,
        rng: random.Random,
        domain: str = "",
    ) -> None:
        self._me = me
        self._peers = peers
        self._leadership = leadership
        self._group_of = group_of
        self._replicas_of = replicas_of
        self._gets = gets
        self._clock = clock
        self._random = rng
        self.advisories = Advisories(lambda: self.carrier, clock, rng, domain)
        self.on_served: Callable[[int], None] = lambda group: None
        """Called when this node serves the consumers of a group that it leads since a moment ago."""
        self._running: dict[int, tuple[StreamDelivery, trio.CancelScope]] = {}
        self._collected: dict[int, list[ClientMessage]] = {}
        self._held: dict[int, list[_Held]] = {}
        self._room = Room()
        self._forwarded = Forwarded(peers.is_up)
        self._waiting = trio.Event()
        self._nursery: trio.Nursery | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            self._gets.serve_in(nursery)
            task_status.started()
            while True:
                await self._waiting.wait()
                await trio.sleep(LOOK_SECONDS)
                self._expire(trio.current_time())
                if not self._held:
                    self._waiting = trio.Event()

    # --- leadership -------------------------------------------------------------------------------------

    def on_role(self, group: Group) -> None:
        """Role or term of a hosted group changed: serve its consumers while this node leads it."""
        running = self._running.get(group.number)
        if running is not None and not (group.leads and running[0].term == group.state.term):
            self.on_closed(group.number)
            running = None
        if group.leads and running is None and isinstance(group.machine, StreamMachine):
            assert self._nursery is not None
            delivery = StreamDelivery(
                group, group.machine, self.carrier, self._clock, self._random, self.advisories, self._room
            )
            scope = trio.CancelScope()
            self._running[group.number] = (delivery, scope)
            self._nursery.start_soon(self._run_one, delivery, scope)

    def on_closed(self, group: int) -> None:
        """A group is led from here no more, or is gone: its delivery ends, in order."""
        self._gets.on_closed(group)
        running = self._running.pop(group, None)
        if running is not None:
            delivery, scope = running
            delivery.end()
            scope.cancel()

    async def _run_one(self, delivery: StreamDelivery, scope: trio.CancelScope) -> None:
        async def tell() -> None:
            await delivery.ready.wait()
            if not delivery.ended:
                self.on_served(delivery.group.number)

        with scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(tell)
                await delivery.run()

    def on_leader(self, group: int) -> None:
        """A leader became known: what waited for one goes to it."""
        leader = self._leadership(group)
        if leader is not None:
            self._end(self._forwarded.led_by(group, leader.node, trio.current_time()))
        held = self._held.pop(group, None)
        if held is not None:
            messages = [each.message for each in held]
            self._room.leave(messages)
            self._depart(group, messages)

    def on_peer_down(self, peer: int) -> None:
        """What waits at that node hears no more of it."""
        self._end(self._forwarded.lost(peer, trio.current_time()))

    def _end(self, inboxes: list[bytes]) -> None:
        header = status(409, "Leadership Change")
        for inbox in inboxes:
            self.carrier.carry(inbox, inbox, b"", len(header), header)

    async def leading(self, group: int) -> StreamDelivery | None:
        """The delivery of a group that this node leads, once it serves; None if this node leads it not."""
        running = self._running.get(group)
        if running is None:
            return None
        await running[0].ready.wait()
        return None if running[0].ended else running[0]

    def serving(self, group: int) -> StreamDelivery | None:
        """The same without waiting: None also while it begins."""
        running = self._running.get(group)
        if running is None or running[0].ended or not running[0].ready.is_set():
            return None
        return running[0]

    def listeners_changed(self) -> None:
        """Somebody subscribed or left, here or on another node."""
        for delivery, _ in self._running.values():
            delivery.listeners_changed()

    # --- messages of clients ------------------------------------------------------------------------------

    def take(self, subject: bytes, reply: bytes, payload: bytes) -> bool:
        """Collect a message of a client of this node; False: it means no stream's consumer."""
        read = read_client_message(subject, reply, payload)
        if read is None:
            return False
        group = self._group_of(read[0])
        if group is None:
            return False
        self._collected.setdefault(group, []).append(read[1])
        return True

    def flush(self) -> None:
        """Send what was collected to the leaders, and direct gets to replicas."""
        if self._collected:
            collected, self._collected = self._collected, {}
            for group, messages in collected.items():
                self._depart(group, messages)

    def _depart(self, group: int, messages: list[ClientMessage]) -> None:
        rest = [each for each in messages if each.kind != "direct" or not self._get(group, each)]
        if rest:
            self._route(group, rest, HOPS)

    def _get(self, group: int, message: ClientMessage) -> bool:
        """Have a direct get answered by a replica; False: none is in reach."""
        if self._gets.take(group, message):
            return True
        near = [node for node in self._replicas_of(group) if node != self._me and self._peers.is_up(node)]
        return bool(near) and self._pass_on(self._random.choice(near), group, [message], HOPS)

    def on_frame(self, peer: int, envelope: list[object]) -> None:
        """Messages that another node's clients sent to a group that this node led when they left."""
        group, hops, items = cast("tuple[int, int, list[object]]", tuple(envelope))
        messages = [_client_message(item) for item in items]
        rest = [each for each in messages if each.kind != "direct" or not self._gets.take(group, each)]
        if rest:
            self._route(group, rest, min(hops, HOPS))

    def _pass_on(self, node: int, group: int, messages: list[ClientMessage], hops: int) -> bool:
        items = [[each.kind, each.consumer, each.tokens, each.reply, each.payload] for each in messages]
        return self._peers.send(node, FrameKind.CONSUMER, (group, hops - 1, items))

    def _route(self, group: int, messages: list[ClientMessage], hops: int) -> None:
        leader = self._leadership(group)
        if leader is None:
            self._hold(group, messages)
        elif leader.node == self._me:
            running = self._running.get(group)
            if running is not None:
                running[0].take(messages)
            else:
                self._hold(group, messages)
        elif hops:
            if not self._pass_on(leader.node, group, messages, hops):
                self._hold(group, messages)
            elif hops == HOPS:  # of this node's own clients
                self._remember(group, leader.node, messages)
        else:
            self._refuse(messages)

    def _remember(self, group: int, leader: int, messages: list[ClientMessage]) -> None:
        now = trio.current_time()
        for each in messages:
            if each.reply and (wanted := each.pull) is not None:
                self._forwarded.sent(group, leader, each.reply, wanted, now)

    def _hold(self, group: int, messages: list[ClientMessage]) -> None:
        if not self._room.enter(messages):
            self._refuse(messages)
            return
        deadline = trio.current_time() + HOLD_SECONDS
        self._held.setdefault(group, []).extend(_Held(deadline, each) for each in messages)
        self._waiting.set()

    def _expire(self, now: float) -> None:
        """What waited too long ends; for what can be routed by now, a leader came without a word."""
        for group, held in list(self._held.items()):
            late = [each.message for each in held if each.deadline <= now]
            kept = [each for each in held if each.deadline > now]
            self._room.leave(late)
            if kept:
                self._held[group] = kept
            else:
                del self._held[group]
            self._refuse(late)
            if kept and self._leadership(group) is not None:
                self.on_leader(group)

    def _refuse(self, messages: list[ClientMessage]) -> None:
        """Nobody serves them: pull requests end; an acknowledgement without an answer is sent again."""
        for message in messages:
            header = unserved(message)
            if header and message.reply:
                self.carrier.carry(message.reply, message.reply, b"", len(header), header)


def _client_message(item: object) -> ClientMessage:
    """One of a peer's frame. Raises FrameError."""
    fields = checked(item, (str, str, list, bytes, bytes))
    kind, consumer, tokens, reply, payload = cast("tuple[str, str, list[object], bytes, bytes]", fields)
    words = cast("tuple[str, ...]", checked(tokens, (str,) * len(tokens)))
    if reply and reply.split() != [reply]:  # it becomes a line of the protocol
        raise FrameError("peer frame has a reply subject that is none")
    return ClientMessage(kind, consumer, words, reply, payload)
