"""One consumer as its stream's leader serves it: who waits, what is due again, and what goes out next.

Rules without input or output: `LedConsumer` decides, `StreamDelivery` proposes, reads and sends. Nothing in
here is replicated; a new leader begins with what `Consumer` says.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from .pulls import PullRequest, status

if TYPE_CHECKING:
    from ..stream.consumer import Consumer
    from ..stream.selection import Selection
    from ..stream.store import MessageStore

__all__ = ["LedConsumer", "Pick", "Plan"]

PICK_MESSAGES: Final = 1024
"""Messages in one entry of deliveries: enough that its way through the log costs little per message."""
PICK_BYTES: Final = 2 << 20
"""Accounted bytes in one entry of deliveries, which are in memory at once while they are sent."""
DUE_SLACK: Final = 1024
"""Timers of settled messages that are kept before the rest is sorted anew."""
ACCOUNTED_EXTRA: Final = 30
"""What a message's accounted size has beyond its subject, headers and payload."""
WINDOW_START: Final = 2 << 20
WINDOW_MAX: Final = 32 << 20
"""Flow control: bytes under way to a push consumer's client, at first and at most."""

RATE_SLICE: Final = 0.05
"""Seconds of a rate limit that go out at once: fewer and larger entries of the log."""

Send = Callable[[bytes, bytes], None]
"""(inbox, header block of a status)."""


@dataclass(slots=True)
class Pick:
    """A message that goes out."""

    sequence: int
    inbox: bytes
    size: int
    request: PullRequest | None
    left: int
    """Wanted messages behind it that were never delivered."""
    counted: int = 0
    """What it took of the request's bytes."""
    completes: bool = False
    """It is the last one of a request that had room for more bytes: the client is told."""


@dataclass(slots=True)
class Plan:
    """What one look at a consumer decided."""

    picks: list[Pick] = field(default_factory=list)
    gone: list[int] = field(default_factory=list)
    """Pending messages that the stream has no more."""
    exhausted: list[int] = field(default_factory=list)
    """Pending messages that were delivered as often as may be."""
    ends: list[tuple[bytes, bytes]] = field(default_factory=list)
    """(inbox, status) of requests that end once the picks are out."""


@dataclass(slots=True)
class Pin:
    """The client of a group with pinned clients that gets all messages. The leader's own: the next one pins
    anew, as in the reference."""

    id: str
    since: int
    """Ns since 1970."""
    deadline: float
    """Unless it asks for messages before this time, another client gets them."""


class LedConsumer:
    """A consumer on the leader.

    Args:
        consumer: what is replicated (or, for a volatile one, all there is).
        volatile: it is in no log.
        listens: whether anybody subscribes to an inbox.
        send: sends a status.
        draw: an id that no other client has.
        pinned: told of a new pin's id, or, without one, why the last one is gone.
    """

    def __init__(
        self,
        consumer: Consumer,
        selection: Selection,
        store: MessageStore,
        stream: str,
        *,
        volatile: bool,
        listens: Callable[[bytes], bool],
        send: Send,
        draw: Callable[[], str],
        pinned: Callable[[str, str], None],
        now: float,
    ) -> None:
        self.consumer = consumer
        self.selection = selection
        self.volatile = volatile
        self.busy = False
        """Picks are on their way through the log: no others are made meanwhile, which keeps the order."""
        self.used = now
        """When somebody last did something with it, seconds."""
        self.bound = False
        """A push consumer with a listener."""
        self.waiting: deque[PullRequest] = deque()
        self.ack_prefix = f"$JS.ACK.{stream}.{consumer.name}.".encode()
        self.window = WINDOW_START
        self.unconfirmed = 0
        """Bytes sent since the last answer to a flow control request."""
        self.asked: bytes = b""
        """Reply subject of the flow control request that is not answered."""
        self.asked_bytes = 0
        self.next_beat = 0.0
        self.resume_at = 0.0
        """Nothing goes out before this time: the pace of `replay original` or a rate limit."""
        self.alarm: float | None = None
        """When it is looked at next, if nothing happens before."""
        self._store = store
        self._stream = stream.encode()
        self._listens = listens
        self._send = send
        self._draw = draw
        self._tell_pinned = pinned
        self.pin: Pin | None = None
        self._again: deque[int] = deque()
        self._queued: set[int] = set()
        self._exhausted: list[int] = []
        """Pending messages that are due again and were delivered as often as may be."""
        self._due: list[tuple[float, int]] = []
        self._deadlines: dict[int, float] = {}

    # --- what happens ---------------------------------------------------------------------------------

    def take_over(self, now: float, wall: int) -> None:
        """Start the timers of what an earlier leader had delivered, counted from when it did.

        Nobody waits longer than configured, though that leader's clock may have been ahead of this one."""
        for sequence, pending in self.consumer.pending.items():
            passed = max(0, wall - pending.time)
            wait = self.consumer.config.wait_before(pending.count) - passed
            self.arm(sequence, now + max(0, wait) / 1e9)

    def arm(self, sequence: int, deadline: float) -> None:
        """A delivery is due again at `deadline` unless it is acknowledged."""
        self._deadlines[sequence] = deadline
        heapq.heappush(self._due, (deadline, sequence))
        if len(self._due) > 2 * len(self._deadlines) + DUE_SLACK:
            self._due = [(time, known) for known, time in self._deadlines.items()]
            heapq.heapify(self._due)

    def settle(self, sequences: Iterable[int]) -> None:
        """These were acknowledged: they are not delivered again."""
        for sequence in sequences:
            self._deadlines.pop(sequence, None)
            self._queued.discard(sequence)

    def settle_up_to(self, sequence: int) -> None:
        """With "ack all", an acknowledgement settles what came before it too."""
        self.settle([known for known in self._deadlines if known <= sequence])

    def negate(self, sequence: int, now: float, delay: float) -> None:
        """A client does not want a message now: deliver it again, after `delay` seconds."""
        if sequence not in self.consumer.pending:
            return
        if delay > 0:
            self.arm(sequence, now + delay)
            return
        self._deadlines.pop(sequence, None)
        self._requeue(sequence)

    def extend(self, sequence: int, now: float) -> None:
        """A client is still working on a message."""
        if sequence in self._deadlines:
            self.arm(sequence, now + self.consumer.config.ack_wait / 1e9)

    def _requeue(self, sequence: int) -> None:
        known, most = self.consumer.pending.get(sequence), self.consumer.config.max_deliver
        if known is not None and 0 < most <= known.count:
            self._exhausted.append(sequence)
        elif sequence not in self._queued:
            self._queued.add(sequence)
            self._again.append(sequence)

    @property
    def waits(self) -> bool:
        """Whether anybody would take a message."""
        return bool(self.waiting) or self.bound

    # --- priority groups --------------------------------------------------------------------------------

    def enqueue(self, request: PullRequest) -> None:
        """A request waits, behind all that are as urgent."""
        place = len(self.waiting)
        if self.consumer.config.priority_policy == "prioritized":
            while place and self.waiting[place - 1].priority > request.priority:
                place -= 1
        self.waiting.insert(place, request)

    def is_stranger(self, request: PullRequest) -> bool:
        """Whether somebody else is pinned; the pinned client's own request keeps its pin."""
        if not request.pin or self.pin is None:
            return False
        return request.pin != self.pin.id

    def keep_pin(self, now: float) -> None:
        """The pinned client is alive."""
        if self.pin is not None:
            self.pin.deadline = now + self.consumer.config.priority_timeout / 1e9

    def unpin(self, reason: str) -> None:
        """Whoever asks next gets the messages."""
        self.pin = None
        self._tell_pinned("", reason)

    def _choose(self, pending: int, unacknowledged: int, now: float, wall: int) -> PullRequest | None:
        """Take the request out of the queue that gets the next message.

        Args:
            pending: messages that were never delivered, with this one if it is.
        """
        policy = self.consumer.config.priority_policy
        if not policy or policy == "prioritized":
            return self.waiting.popleft() if self._taker(now) else None
        for request in list(self.waiting):
            if not self._stands(request, now):
                self.waiting.remove(request)
            elif policy == "overflow":
                if request.overflows(pending, unacknowledged):
                    return self._take_out(request)
            elif request.pin and (self.pin is None or request.pin != self.pin.id):
                self.waiting.remove(request)
                self._send(request.reply, status(423, "Nats-Wrong-Pin-Id", *request.pending()))
            elif request.pin or self.pin is None:
                return self._take_out(self._pinned(request, now, wall))
        return None

    def _take_out(self, request: PullRequest) -> PullRequest:
        self.waiting.remove(request)
        return request

    def _pinned(self, request: PullRequest, now: float, wall: int) -> PullRequest:
        """The request, with the pin that it has or gets."""
        if self.pin is None:
            self.pin = Pin(self._draw(), wall, 0.0)
            self.keep_pin(now)
            request.pin = self.pin.id
            self._tell_pinned(request.pin, "")
        return request

    # --- flow control of push consumers ---------------------------------------------------------------

    def restart_window(self) -> None:
        """A client came or left: nothing is under way to it."""
        self.window, self.unconfirmed, self.asked, self.asked_bytes = WINDOW_START, 0, b"", 0

    def ask_flow(self, stream: str, draw: int) -> bytes:
        """The reply subject of a flow control request that is to be sent now, or nothing."""
        if self.asked or self.unconfirmed <= self.window // 2:
            return b""
        self.asked = f"$JS.FC.{stream}.{self.consumer.name}.{draw:04x}".encode()
        self.asked_bytes = self.unconfirmed
        return self.asked

    def confirm(self, tokens: tuple[str, ...]) -> None:
        """The client answered the request of this token: it keeps up, so it may get more at once."""
        if not tokens or not self.asked.endswith(f".{tokens[0]}".encode()):
            return
        self.unconfirmed = max(0, self.unconfirmed - self.asked_bytes)
        self.asked, self.asked_bytes = b"", 0
        self.window = min(2 * self.window, WINDOW_MAX)

    # --- time -----------------------------------------------------------------------------------------

    def look(self, now: float, wall: int) -> None:
        """Let come due what is due."""
        while self._due and self._due[0][0] <= now:
            deadline, sequence = heapq.heappop(self._due)
            if self._deadlines.get(sequence) == deadline:
                del self._deadlines[sequence]
                if sequence in self.consumer.pending:
                    self._requeue(sequence)
        if not self.busy:
            self._expire(now)
        if self.pin is not None and self.pin.deadline <= now:
            self.unpin("timeout")
        self._beat(now)

    def _expire(self, now: float) -> None:
        for request in [each for each in self.waiting if not self._stands(each, now)]:
            self.waiting.remove(request)
            self.used = now

    def _stands(self, request: PullRequest, now: float) -> bool:
        """Whether a request is still open; an expired one is told so."""
        if request.deadline is not None and request.deadline <= now:
            self._send(request.reply, status(408, "Request Timeout", *request.pending()))
            return False
        return self._listens(request.reply)

    def _beat(self, now: float) -> None:
        for request in self.waiting:
            if request.heartbeat and request.next_beat <= now:
                request.next_beat = now + request.heartbeat
                self._send(request.reply, self._heartbeat())
        interval = self.consumer.config.idle_heartbeat / 1e9
        if interval and self.bound and self.next_beat <= now:
            self.next_beat = now + interval
            self._send(self.consumer.config.deliver_subject.encode(), self._heartbeat())

    def _heartbeat(self) -> bytes:
        delivered = self.consumer.delivered
        headers: list[tuple[str, object]] = [
            ("Nats-Last-Consumer", delivered.consumer),
            ("Nats-Last-Stream", delivered.stream),
        ]
        if self.asked:
            headers.append(("Nats-Consumer-Stalled", self.asked.decode()))
        return status(100, "Idle Heartbeat", *headers)

    def next_alarm(self, wall: int, now: float) -> float | None:
        """When `look` has something to do although nothing happens, seconds."""
        times = [self._due[0][0]] if self._due else []
        if not self.busy:  # else they end once the picks are out, and nobody need come back before that
            times += [each.deadline for each in self.waiting if each.deadline is not None]
        times += [each.next_beat for each in self.waiting if each.heartbeat]
        if self.bound and self.consumer.config.idle_heartbeat:
            times.append(self.next_beat)
        if self.resume_at > now and self.waits:
            times.append(self.resume_at)
        if self.pin is not None:
            times.append(self.pin.deadline)
        config = self.consumer.config
        if config.pause_until and config.paused_until > wall:
            times.append(now + (config.paused_until - wall) / 1e9)
        if config.inactive_threshold:
            times.append(max(self.used + config.inactive_threshold / 1e9, now + 0.05))
        return min(times) if times else None

    def inactive(self, now: float) -> bool:
        """Whether nobody used it for as long as it is kept."""
        threshold = self.consumer.config.inactive_threshold / 1e9
        if not threshold or self.busy:
            return False
        if self.waits:
            self.used = now
        return now - self.used >= threshold

    # --- what goes out ----------------------------------------------------------------------------------

    def plan(self, now: float, wall: int) -> Plan:
        """Choose what goes out now, and to whom; requests that can't be served on are ended."""
        plan = Plan(exhausted=self._exhausted)
        self._exhausted = []
        if self.busy or not self.waits or now < self.resume_at or self.consumer.config.paused_until > wall:
            return plan
        blocked = False
        size = 0
        position = self.consumer.delivered.stream
        fresh = 0
        left: int | None = None
        while len(plan.picks) < PICK_MESSAGES and size < PICK_BYTES:
            if not self._taker(now):
                break
            sequence = self._next_again(plan)
            if sequence is None:
                blocked = self._blocked(fresh)
                sequence = None if blocked else self._next_new(position)
                if sequence is None:
                    break
                position = sequence
                fresh += 1
                left = self.pending_after(sequence) if left is None else left - 1
            behind = self.pending_after(position) if left is None else left
            pick = self._assign(plan, sequence, behind, fresh, now, wall)
            if pick is None:
                # Nobody took it; for a message of its first delivery nothing has happened.
                if sequence in self.consumer.pending:
                    self._queued.add(sequence)
                    self._again.appendleft(sequence)
                break
            plan.picks.append(pick)
            size += pick.size
            if self.consumer.config.replay_policy == "original" and self._paced(sequence, now):
                break
            if self.consumer.config.rate_limit_bps and self._limited(pick.size, now):
                break
        if not plan.picks and not blocked and now >= self.resume_at and not self._again:
            self._end_no_wait()
        return plan

    def pending_after(self, position: int) -> int:
        """Wanted messages behind a place that were never delivered."""
        consumer = self.consumer
        initial = consumer.initial[consumer.next_initial(position) :]
        return sum(map(self._store.has, initial)) + self.selection.count(consumer.next_after(position))

    def num_pending(self) -> int:
        """Wanted messages that were never delivered."""
        return self.pending_after(self.consumer.delivered.stream)

    def _next_new(self, position: int) -> int | None:
        consumer = self.consumer
        for number in range(consumer.next_initial(position), len(consumer.initial)):
            if self._store.has(consumer.initial[number]):
                return consumer.initial[number]
        return self.selection.find(consumer.next_after(position))

    def _blocked(self, fresh: int) -> bool:
        limit = self.consumer.config.max_ack_pending
        return 0 < limit <= len(self.consumer.pending) + fresh

    def _next_again(self, plan: Plan) -> int | None:
        """The next message that is due again, passing over those that are settled, gone or exhausted."""
        config = self.consumer.config
        while self._again:
            sequence = self._again.popleft()
            if sequence not in self._queued:
                continue
            self._queued.discard(sequence)
            known = self.consumer.pending.get(sequence)
            if known is None:
                continue
            if not self._store.has(sequence):
                plan.gone.append(sequence)
            elif 0 < config.max_deliver <= known.count:
                plan.exhausted.append(sequence)
            else:
                return sequence
        return None

    def _taker(self, now: float) -> bool:
        """Whether the client that is next in turn takes a message; requests that ended are passed over."""
        if not self.consumer.config.is_pull:
            return self.bound and not self._held_up()
        while self.waiting:
            if self._stands(self.waiting[0], now):
                return True
            self.waiting.popleft()
        return False

    def _held_up(self) -> bool:
        return self.consumer.config.flow_control and self.unconfirmed >= self.window

    def _assign(self, plan: Plan, sequence: int, left: int, fresh: int, now: float, wall: int) -> Pick | None:
        """Give a message to whoever gets it; None: nobody does.

        Args:
            left: wanted messages behind it that were never delivered.
            fresh: messages of this plan that were not delivered before, with this one if it is.
        """
        accounted = self._store.size_at(sequence)
        config = self.consumer.config
        if not config.is_pull:
            self.unconfirmed += accounted
            return Pick(sequence, config.deliver_subject.encode(), accounted, None, left)
        new = sequence not in self.consumer.pending
        unacknowledged = len(self.consumer.pending) + fresh - new
        while (request := self._choose(left + new, unacknowledged, now, wall)) is not None:
            size = self._shown_size(sequence, accounted, left)
            if request.bounded and size > request.bytes_left:
                text = "Message Size Exceeds MaxBytes"
                plan.ends.append((request.reply, status(409, text, *request.pending())))
                continue
            request.left -= 1
            request.sent += 1
            if request.bounded:
                request.bytes_left -= size
            request.next_beat = now + request.heartbeat
            if request.left:
                self.enqueue(request)
            completes = request.left == 0 and request.bounded
            return Pick(sequence, request.reply, accounted, request, left, size, completes)
        return None

    def give_back(self, picks: Iterable[Pick]) -> None:
        """These did not go out after all: their requests wait on, and what was due again still is."""
        for pick in picks:
            if pick.sequence in self.consumer.pending and pick.sequence not in self._deadlines:
                self._requeue(pick.sequence)
            request = pick.request
            if request is None:
                self.unconfirmed = max(0, self.unconfirmed - pick.size)
                continue
            request.left += 1
            request.sent -= 1
            if request.bounded:
                request.bytes_left += pick.counted
            if request not in self.waiting:
                self.enqueue(request)

    def _shown_size(self, sequence: int, accounted: int, left: int) -> int:
        """What a message counts against `max_bytes`: subject, acknowledgement subject, headers, payload."""
        known = self.consumer.pending.get(sequence)
        count = 1 if known is None else known.count + 1
        time = self._store.time_at(sequence)
        reply = self.ack_subject(sequence, count, self.consumer.delivered.consumer + 1, time, left)
        return accounted - ACCOUNTED_EXTRA + len(reply)

    def ack_subject(self, sequence: int, count: int, consumer: int, time: int, left: int) -> bytes:
        """The reply subject of a delivery."""
        return b"%b%d.%d.%d.%d.%d" % (self.ack_prefix, count, sequence, consumer, time, left)

    def _paced(self, sequence: int, now: float) -> bool:
        """With `replay original`: hold the next message back as long as it came after this one."""
        following = self._next_new(sequence)
        if following is None:
            return False
        gap = (self._store.time_at(following) - self._store.time_at(sequence)) / 1e9
        self.resume_at = now + max(0.0, gap)
        return gap > 0

    def _limited(self, size: int, now: float) -> bool:
        """With a rate limit: what goes out takes its time; whether the next message is to wait."""
        self.resume_at = max(self.resume_at, now) + 8 * size / self.consumer.config.rate_limit_bps
        return self.resume_at > now + RATE_SLICE

    def _end_no_wait(self) -> None:
        """There is nothing more: requests that would not wait for it end."""
        for request in [each for each in self.waiting if each.no_wait]:
            if request.sent or request.deadline is None:
                self.waiting.remove(request)
                self._send(request.reply, status(404, "No Messages"))

    def end(self, text: str) -> Iterator[bytes]:
        """Every waiting request ends with 409 and a text; gives the inboxes."""
        while self.waiting:
            request = self.waiting.popleft()
            self._send(request.reply, status(409, text))
            yield request.reply
