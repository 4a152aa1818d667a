"""Peer links: one outgoing connection to each remote node, for everything this node says to it.

A pair of nodes has two connections, one each way. What a node *receives* arrives on the connection the other
side dialled (`PeerServer`). A connection carries no request state: whoever asks keeps its own pending table
and is told when the link goes down, so nothing waits for a dead peer.

A link never blocks its users: `send` queues within a byte bound or refuses, and a refused frame is counted.
"""

import logging
import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import trio

from ...codec.frame import MAX_ENVELOPE, Frame, FrameError, FrameReader, encode_frame
from ...storage.turns import Order, Turn, Turns
from .network import EagerStream, Network
from .wire import FrameKind, Hello, decode_hello, encode_hello

logger = logging.getLogger(__name__)

HANDSHAKE_SECONDS = 2.0
RECONNECT_FIRST_SECONDS = 0.02
RECONNECT_LAST_SECONDS = 0.5  # so that a restarted node is heard again within one election timeout
STRANGER_SECONDS = 10.0  # between tries to reach whom the membership does not list: it may be gone for good
RECEIVE_BYTES = 256 * 1024
MAX_REFUSALS = 1024
GREETING_BYTES = 4096  # the envelope of a first frame: a greeting has three texts of at most MAX_TEXT
TELL_SECONDS = 10.0  # between two lines on nonsense that came in: whoever sends some may send a lot
MAX_INCOMING = 1024  # connections at a time: a peer needs one, the rest is somebody's mistake or malice
GATHER_BYTES = 1024 * 1024  # one write to the socket: enough to amortise the call, little enough to stay fair


class LinkEvents(Protocol):
    """What the node learns from its links. None of these may raise or wait."""

    def hello(self) -> Hello: ...
    def on_link_up(self, link: "Link", remote: Hello) -> None: ...
    def on_link_down(self, link: "Link", remote: Hello) -> None: ...
    def accept(self, remote: Hello) -> str | None: ...
    def is_wanted(self, name: str) -> bool: ...
    def farewell(self, remote: Hello) -> tuple[object, ...] | None: ...
    def on_goodbye(self, envelope: list[object]) -> None: ...
    def on_frame(self, remote: Hello, frame: Frame) -> None: ...


@dataclass(frozen=True)
class LinkStatistics:
    """`dropped` counts frames refused because the link was down or full."""

    up: bool
    sent_frames: int
    sent_bytes: int
    dropped: int
    queued_bytes: int


class Link:
    """The connection this node dials to one peer; owned by the task in `run`.

    `remote` is who answered the handshake, or None while the link is down.
    """

    def __init__(
        self,
        name: str,
        address: str,
        network: Network,
        events: LinkEvents,
        rng: random.Random,
        bound: int,
        turns: Turns,
    ) -> None:
        self.name = name
        self.address = address
        self.remote: Hello | None = None
        self._network = network
        self._events = events
        self._random = rng
        self._bound = bound
        self._queue: list[bytes | memoryview] = []
        self._queued = 0
        self._turn = Turn(turns, Order.SEND, self._flush)
        self._stream: trio.abc.SendStream | None = None
        self._flushing = False
        """A turn is under way, and sends what comes meanwhile."""
        self._sending = False
        """The task sends what the socket did not take at once; everything else waits behind it."""
        self._sent_frames = self._sent_bytes = self._dropped = 0
        self._flush_hooks: list[Callable[[], None]] = []
        self._scope = trio.CancelScope()
        self._hurried = trio.Event()
        self._refusal = ""

    @property
    def up(self) -> bool:
        return self.remote is not None

    def statistics(self) -> LinkStatistics:
        return LinkStatistics(self.up, self._sent_frames, self._sent_bytes, self._dropped, self._queued)

    def send(self, kind: FrameKind, envelope: tuple[object, ...], *attachments: bytes | memoryview) -> bool:
        """Queue one frame; its attachments go out as they are, without a copy here. False: refused and
        counted."""
        size = sum(len(part) for part in attachments)
        if self.remote is None or self._queued + size > self._bound:
            self._dropped += 1
            return False
        head = encode_frame(kind, envelope, size)
        self._queue.append(head)
        self._queue.extend(attachments)
        self._queued += len(head) + size
        self._sent_frames += 1
        if not self._flushing:
            self._turn.due()
        return True

    def wake_for(self, hook: Callable[[], None]) -> None:
        """Run `hook` just before the next flush, so that what coalesces (heartbeats) is packed late and
        once."""
        if self.remote is not None and hook not in self._flush_hooks:
            self._flush_hooks.append(hook)
            self._turn.due()

    def hurry(self) -> None:
        """The peer shows signs of life, or is wanted now: a long wait until the next try is over."""
        self._hurried.set()

    def close(self) -> None:
        """Stop dialling for good."""
        self._scope.cancel()

    async def run(self) -> None:
        """Dial, greet and send until closed; every failure ends in another try, later and later."""
        with self._scope:
            delay = RECONNECT_FIRST_SECONDS
            while True:
                began = trio.current_time()
                greeted = await self._connection()
                if greeted and trio.current_time() - began > RECONNECT_LAST_SECONDS:
                    delay = RECONNECT_FIRST_SECONDS
                self._hurried = trio.Event()
                with trio.move_on_after(delay * self._random.uniform(0.8, 1.2)):
                    await self._hurried.wait()
                    delay = RECONNECT_FIRST_SECONDS
                wanted = self._events.is_wanted(self.name)
                delay = min(delay * 2, RECONNECT_LAST_SECONDS if wanted else STRANGER_SECONDS)

    async def _connection(self) -> bool:
        """One connection's life. True if the peer was greeted."""
        greeted = False
        try:
            with trio.move_on_after(HANDSHAKE_SECONDS) as handshake:
                stream = await self._network.dial(self.address)
            if handshake.cancelled_caught:
                return False
            async with stream:
                remote = await self._greet(stream)
                if remote is None:
                    return False
                greeted = True
                self._up(remote)
                try:
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(self._watch, stream, nursery.cancel_scope)
                        self._stream = stream
                        await self._turn.run(self._send_rest)
                finally:
                    self._stream = None
                    self._down(remote)
        except* (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the peer is away; `run` tries again
        except* FrameError as errors:
            logger.warning("link to %s closed: %s", self.name, errors.exceptions[0])
        return greeted

    async def _greet(self, stream: trio.abc.HalfCloseableStream) -> Hello | None:
        with trio.move_on_after(HANDSHAKE_SECONDS):
            await stream.send_all(encode_hello(self._events.hello()))
            try:
                first = await FrameStream(stream).first()
                if first is not None and first.kind == FrameKind.GOODBYE:
                    self._events.on_goodbye(first.envelope)
                    return None
                remote = decode_hello(first) if first is not None else None
                reason = "it hung up; its log says why" if remote is None else self._events.accept(remote)
            except FrameError as error:
                remote, reason = None, f"what listens there is no node: {error}"
            if reason is None:
                self._refusal = ""
                return remote
            # Once: most often a mistake in somebody's options, which lasts, and the link goes on trying.
            known, self._refusal = self._refusal == reason, reason
            logger.log(
                logging.DEBUG if known else logging.WARNING,
                "no link to %s (%s): %s",
                self.name,
                self.address,
                reason,
            )
        return None

    def _up(self, remote: Hello) -> None:
        self.remote = remote
        self._flushing = self._sending = False
        self._queue.clear()
        self._queued = 0
        self._events.on_link_up(self, remote)

    def _down(self, remote: Hello) -> None:
        self.remote = None
        self._dropped += len(self._queue)
        self._queue.clear()
        self._queued = 0
        self._flush_hooks.clear()
        self._events.on_link_down(self, remote)

    async def _watch(self, stream: trio.abc.HalfCloseableStream, scope: trio.CancelScope) -> None:
        """The peer says nothing on this connection; its end tells at once that the peer's process is gone."""
        try:
            await stream.receive_some(1)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        scope.cancel()

    def _flush(self) -> None:
        """A turn: send what all groups have said in this pass, as far as the socket takes it at once."""
        hooks, self._flush_hooks = self._flush_hooks, []
        self._flushing = True
        for hook in hooks:
            hook()
        self._flushing = False
        if self._sending or not self._queue:
            return
        if isinstance(self._stream, EagerStream):
            parts, self._queue = self._queue, []
            for piece in parts if len(parts) == 1 else _gather(parts):
                sent = 0 if self._queue else self._stream.send_some(piece)
                self._count(sent)
                if sent < len(piece):
                    self._queue.append(memoryview(piece)[sent:])
        if self._queue:
            self._sending = True
            self._turn.leave()

    async def _send_rest(self) -> None:
        stream = self._stream
        assert stream is not None, "the link is down, and had a turn"
        try:
            while self._queue:
                parts, self._queue = self._queue, []
                for piece in _gather(parts):
                    await stream.send_all(piece)
                    self._count(len(piece))
        finally:
            self._sending = False

    def _count(self, sent: int) -> None:
        self._sent_bytes += sent
        self._queued -= sent


def _gather(parts: list[bytes | memoryview]) -> list[bytes | memoryview]:
    """Join small parts, leave large ones alone: a batch goes to the socket from the memory it was sealed
    in."""
    pieces: list[bytes | memoryview] = []
    small: list[bytes | memoryview] = []
    size = 0
    for part in parts:
        if len(part) >= GATHER_BYTES:
            if small:
                pieces.append(b"".join(small))
                small, size = [], 0
            pieces.append(part)
            continue
        small.append(part)
        size += len(part)
        if size >= GATHER_BYTES:
            pieces.append(b"".join(small))
            small, size = [], 0
    if small:
        pieces.append(b"".join(small))
    return pieces


class FrameStream:
    """The frames of one connection, read as they come."""

    def __init__(self, stream: trio.abc.ReceiveStream) -> None:
        """Of a stranger, who has little to say: a greeting, and nothing attached to it."""
        self._stream = stream
        self._reader = FrameReader(0, GREETING_BYTES)
        self._ahead: list[Frame] = []

    async def some(self) -> list[Frame] | None:
        """The next frames, perhaps none yet; None at the end. Raises FrameError."""
        if self._ahead:
            frames, self._ahead = self._ahead, []
            return frames
        data = await self._stream.receive_some(RECEIVE_BYTES)
        return list(self._reader.feed(bytes(data))) if data else None

    def allow(self, max_attachment: int) -> None:
        """Whoever sends this is known: envelopes of any size, and attachments up to this one."""
        self._reader.max_attachment = max_attachment
        self._reader.max_envelope = MAX_ENVELOPE

    async def each(self, take: Callable[[list[Frame]], None]) -> None:
        """Call `take` with the next frames, as they come, until the end. Raises FrameError, and what `take`
        raises."""

        def cut(piece: bytes) -> None:
            if frames := list(self._reader.feed(piece)):
                take(frames)

        if self._ahead:
            frames, self._ahead = self._ahead, []
            take(frames)
        if isinstance(self._stream, EagerStream):
            await self._stream.each_piece(RECEIVE_BYTES, cut)
            return
        while (some := await self.some()) is not None:
            take(some)

    async def first(self) -> Frame | None:
        """The frame that comes first; None at the end of the stream. Raises FrameError."""
        while (frames := await self.some()) is not None:
            if frames:
                self._ahead = frames[1:]
                return frames[0]
        return None


class PeerServer:
    """Accepts the connections that other nodes dial, and hands their frames to the node."""

    def __init__(self, events: LinkEvents, max_attachment: int, turns: Turns) -> None:
        self._events = events
        self._turns = turns
        self._max_attachment = max_attachment
        self._refusals: dict[str, str] = {}
        """The last reason given to each name."""
        self._connections: dict[int, set[trio.CancelScope]] = {}
        self._open = 0
        self._quiet_until = -math.inf
        self.bad_frames = 0

    async def handle(self, stream: trio.abc.HalfCloseableStream) -> None:
        """One incoming connection. A malformed or oversized frame closes it and is counted."""
        if self._open >= MAX_INCOMING:
            await trio.aclose_forcefully(stream)
            return
        self._open += 1
        try:
            async with stream:
                frames = FrameStream(stream)
                remote = await self._greet(stream, frames)
                if remote is not None:
                    frames.allow(self._max_attachment)
                    await self._receive_from(remote, frames)
        except FrameError as error:
            self.bad_frames += 1
            self._tell(error)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the peer went away; its own link tells the node
        finally:
            self._open -= 1

    def _tell(self, error: FrameError) -> None:
        """At most a line in a while; all of them are counted."""
        now = trio.current_time()
        if now < self._quiet_until:
            logger.debug("peer connection closed: %s", error)
            return
        self._quiet_until = now + TELL_SECONDS
        logger.warning("peer connection closed: %s", error)

    async def _greet(self, stream: trio.abc.SendStream, frames: FrameStream) -> Hello | None:
        with trio.move_on_after(HANDSHAKE_SECONDS):
            first = await frames.first()
            if first is None:
                return None
            remote = decode_hello(first)
            reason = self._events.accept(remote)
            if reason is None:
                await stream.send_all(encode_hello(self._events.hello()))
                return remote
            # Without a greeting in return, so that the other side never takes its link for one that stands.
            known = self._refusals.get(remote.name) == reason
            if len(self._refusals) < MAX_REFUSALS:  # names come from outside
                self._refusals[remote.name] = reason
            logger.log(
                logging.DEBUG if known else logging.WARNING,
                "connection of node %r refused: %s",
                remote.name,
                reason,
            )
            farewell = self._events.farewell(remote)
            if farewell is not None:
                await stream.send_all(encode_frame(FrameKind.GOODBYE, farewell, 0))
        return None

    def connected(self) -> frozenset[int]:
        """Ids of the nodes that say something here."""
        return frozenset(self._connections)

    def close(self, node: int) -> None:
        """End what a node says here; if it dials again it is greeted anew."""
        for scope in self._connections.pop(node, ()):
            scope.cancel()

    async def _receive_from(self, remote: Hello, frames: FrameStream) -> None:
        scope = trio.CancelScope()
        self._connections.setdefault(remote.node, set()).add(scope)
        try:
            with scope:
                await self._receive(frames, remote)
        finally:
            scopes = self._connections.get(remote.node, set())
            scopes.discard(scope)
            if not scopes:
                self._connections.pop(remote.node, None)

    async def _receive(self, frames: FrameStream, remote: Hello) -> None:
        await frames.each(lambda some: self._turns.through(self._take, remote, some))

    def _take(self, remote: Hello, frames: list[Frame]) -> None:
        for frame in frames:
            self._events.on_frame(remote, frame)
