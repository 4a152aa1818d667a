"""Proposals from anywhere to whoever leads (DESIGN 7: applied, not applied, unknown; rule S16).

A chunk goes to this node's own leader role, or over the link to the leader, or waits a bounded time while the
group has none. Once sent it is never sent again: if the link is lost its end is *unknown*. A chunk is fenced
by the term that was known when it was sent, so a later leadership refuses it as *not applied*.
"""

import itertools
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol, cast

import msgpack
import trio

from ..codec import Chunk, CodecError, check_chunk
from .peers.requests import Frames
from .peers.wire import FrameKind
from .raft.outcomes import Applied, NotApplied, Outcome, Reason, Unknown

HOLD_SECONDS: Final = 3.0  # two elections of the default timeouts, and then some
HOLD_BYTES: Final = 64 * 1024 * 1024
ANSWER_SECONDS: Final = 10.0  # a leader that keeps its link but never answers: the end is unknown
LOOK_SECONDS: Final = 0.5

Done = Callable[[Outcome], None]


@dataclass(frozen=True, slots=True)
class Leadership:
    """Who leads a group, as far as this node knows."""

    term: int
    node: int


class LocalGroup(Protocol):
    """The part of a hosted group that takes proposals."""

    def propose(self, chunk: Chunk, done: Done, expected_term: int) -> None: ...


class Groups(Protocol):
    """Where proposals can go."""

    me: int

    def leadership(self, group: int) -> Leadership | None: ...
    def local_group(self, group: int) -> LocalGroup | None: ...


@dataclass(frozen=True, slots=True)
class ProposalStatistics:
    """`lost`: ended as unknown because the link went down."""

    held: int
    held_bytes: int
    forwarded: int
    in_flight: int
    lost: int


@dataclass(frozen=True, slots=True)
class _Held:
    deadline: float
    chunk: Chunk
    done: Done


@dataclass(frozen=True, slots=True)
class _InFlight:
    deadline: float
    leader: int
    done: Done


class Proposals:
    """Routes chunks; owned by the node. `done` is called exactly once per chunk, on the event loop.

    `first_number` is drawn at each start of the process: a leader may still answer what an earlier process
    of this node sent it, and that answer must not pass for one to a chunk of this process.
    """

    def __init__(self, groups: Groups, peers: Frames, first_number: int) -> None:
        self._groups = groups
        self._peers = peers
        self._numbers = itertools.count(first_number)
        self._in_flight: dict[int, _InFlight] = {}  # in the order of their deadlines
        self._held: dict[int, deque[_Held]] = {}
        self._held_bytes = 0
        self._forwarded = self._lost = 0
        self._waiting = trio.Event()
        self._closed = False

    def statistics(self) -> ProposalStatistics:
        held = sum(len(queue) for queue in self._held.values())
        return ProposalStatistics(held, self._held_bytes, self._forwarded, len(self._in_flight), self._lost)

    def propose(self, group: int, chunk: Chunk, done: Done) -> None:
        """Propose from this node. Chunks of one group keep their order, also while they wait for a leader."""
        if self._closed:
            done(NotApplied(Reason.CLOSED))
            return
        leader = self._reachable(group)
        if leader is None or group in self._held:
            self._hold(group, chunk, done)
        else:
            self._send(group, leader, chunk, done)

    def on_leader(self, group: int) -> None:
        """A leader became known: what waited for one goes to it, in order."""
        queue = self._held.get(group)
        # Whoever hears an end meanwhile and proposes again queues up behind what still waits.
        while queue and (leader := self._reachable(group)) is not None:
            held = queue.popleft()
            self._held_bytes -= held.chunk.encoded_size
            self._send(group, leader, held.chunk, held.done)
        if not queue and self._held.get(group) is queue:
            self._held.pop(group, None)

    def on_peer_up(self, peer: int) -> None:
        """A leader came into reach."""
        for group in list(self._held):
            self.on_leader(group)

    def on_peer_down(self, peer: int) -> None:
        """What was sent to that peer and not answered may or may not have been applied."""
        for number in [number for number, sent in self._in_flight.items() if sent.leader == peer]:
            self._lose(number, Reason.LINK_LOST)

    def on_propose(self, peer: int, envelope: list[object], attachment: memoryview) -> None:
        """Another node's chunk, for a group that this node led when it was sent."""
        number, group, term, count, entries_size = cast(tuple[int, int, int, int, int], tuple(envelope))
        try:
            chunk = check_chunk(count, entries_size, bytes(attachment))
        except CodecError:
            self._reply(peer, number, NotApplied(Reason.MALFORMED))
            return
        local = self._groups.local_group(group)
        if local is None:
            self._reply(peer, number, NotApplied(Reason.NOT_LEADER))
            return
        local.propose(chunk, lambda outcome: self._reply(peer, number, outcome), term)

    def on_reply(self, peer: int, envelope: list[object], attachment: memoryview) -> None:
        """The leader's verdict on a forwarded chunk; one that nobody waits for any more is dropped, and so is
        that of a node that was not asked."""
        number, status, detail, packed = cast(tuple[int, str, object, bool], tuple(envelope))
        waiting = self._in_flight.get(number)
        if waiting is not None and waiting.leader == peer:
            del self._in_flight[number]
            waiting.done(_read_verdict(status, detail, packed, attachment))

    async def run(self) -> None:
        """End what waited too long: for a leader as not applied (safe to retry), for its answer as unknown.

        When it is cancelled, whatever still waits gets its end, and so does all that comes later.
        """
        try:
            while True:
                await self._waiting.wait()
                # What comes meanwhile may be due earlier, so look again soon.
                await trio.sleep_until(min(self._next_deadline(), trio.current_time() + LOOK_SECONDS))
                self._expire(trio.current_time())
                if not self._held and not self._in_flight:
                    self._waiting = trio.Event()
        finally:
            self.end(Reason.CLOSED)

    def end(self, why: Reason) -> None:
        """Give everyone who waits an end, and take nothing more."""
        self._closed = True
        self._expire(math.inf, why, why)

    def _expire(self, now: float, held: Reason = Reason.NO_LEADER, sent: Reason = Reason.NO_ANSWER) -> None:
        self._expire_held(now, held)
        for number in [number for number, kept in self._in_flight.items() if kept.deadline <= now]:
            self._lose(number, sent)

    def _next_deadline(self) -> float:
        sent = next(iter(self._in_flight.values()), None)
        deadlines = [queue[0].deadline for queue in self._held.values()]
        return min(deadlines + ([sent.deadline] if sent else []), default=trio.current_time())

    def _expire_held(self, now: float, why: Reason) -> None:
        for group, queue in list(self._held.items()):
            while queue and queue[0].deadline <= now:
                held = queue.popleft()
                self._held_bytes -= held.chunk.encoded_size
                held.done(NotApplied(why))
            if not queue:
                self._held.pop(group, None)

    def _lose(self, number: int, why: Reason) -> None:
        self._lost += 1
        self._in_flight.pop(number).done(Unknown(why))

    def _reachable(self, group: int) -> Leadership | None:
        leader = self._groups.leadership(group)
        if leader is None or leader.node == self._groups.me or self._peers.is_up(leader.node):
            return leader
        return None

    def _hold(self, group: int, chunk: Chunk, done: Done) -> None:
        if self._held_bytes + chunk.encoded_size > HOLD_BYTES:
            done(NotApplied(Reason.BUSY))
            return
        self._held_bytes += chunk.encoded_size
        held = _Held(trio.current_time() + HOLD_SECONDS, chunk, done)
        self._held.setdefault(group, deque()).append(held)
        self._waiting.set()

    def _send(self, group: int, leader: Leadership, chunk: Chunk, done: Done) -> None:
        if leader.node == self._groups.me:
            local = self._groups.local_group(group)
            if local is None:
                done(NotApplied(Reason.NOT_LEADER))
            else:
                local.propose(chunk, done, leader.term)
            return
        number = next(self._numbers)
        envelope = (number, group, leader.term, chunk.count, chunk.entries_size)
        self._in_flight[number] = _InFlight(trio.current_time() + ANSWER_SECONDS, leader.node, done)
        self._waiting.set()
        if self._peers.send(leader.node, FrameKind.PROPOSE, envelope, chunk.payload):
            self._forwarded += 1
        else:
            del self._in_flight[number]
            done(NotApplied(Reason.NO_LEADER))  # never left this node

    def _reply(self, peer: int, number: int, outcome: Outcome) -> None:
        """Send a verdict. If the link is gone, so is whoever waited: its own node ends it as unknown."""
        status, detail, packed, attachment = _write_verdict(outcome)
        self._peers.send(peer, FrameKind.PROPOSE_REPLY, (number, status, detail, packed), attachment)


def _write_verdict(outcome: Outcome) -> tuple[str, object, bool, bytes]:
    """(status, detail, whether the attachment is the result as it is, attachment)."""
    match outcome:
        case Applied(index, bytes(result)):
            return "applied", index, True, result
        case Applied(index, result):
            try:
                return "applied", index, False, cast(bytes, msgpack.packb(result))
            except (TypeError, ValueError, OverflowError):  # a user's machine answers what it likes
                return "unknown", Reason.UNREADABLE_ANSWER.name, True, b""
        case NotApplied(reason):
            return "not applied", reason.name, True, b""
        case Unknown(reason):
            return "unknown", reason.name, True, b""


def _read_verdict(status: str, detail: object, packed: bool, attachment: memoryview) -> Outcome:
    """The inverse. What this node can't read is unknown: whoever waits must get an end."""
    try:
        if status == "applied":
            result = bytes(attachment) if packed else msgpack.unpackb(attachment, strict_map_key=False)
            if isinstance(detail, int):
                return Applied(detail, result)
            return Unknown(Reason.UNREADABLE_ANSWER)
        reason = Reason[cast(str, detail)]
    except (msgpack.UnpackException, ValueError, KeyError, TypeError):
        return Unknown(Reason.UNREADABLE_ANSWER)
    return NotApplied(reason) if status == "not applied" else Unknown(reason)
