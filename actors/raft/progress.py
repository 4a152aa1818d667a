"""The leader's picture of one other replica.

             accepted
    +-------+ -------> +----------+
--->| PROBE |          | PIPELINE |
    +-------+ <------- +----------+
     |     ^   refused,
     |     |   stuck,            PROBE     one small append at a time, until one is accepted
log  |     |   link new          PIPELINE  appends follow each other up to a window
gone |     | sent, failed,       SNAPSHOT  no appends: the replica needs what the log no longer has
     v     | link new
    +----------+
    | SNAPSHOT |
    +----------+
"""

from __future__ import annotations

import enum
from collections import deque

WINDOW_MESSAGES = 64
"""Appends in flight to one follower. More than a few help nothing; the bound keeps a silent peer cheap."""
WINDOW_BYTES = 8 << 20
"""Bytes in flight to one follower; one append may always go."""
PATIENCE = 5
"""Heartbeats without any acknowledgement until what has arrived counts as stuck all the same."""


class ProgressState(enum.Enum):
    PROBE = "probe"
    PIPELINE = "pipeline"
    SNAPSHOT = "snapshot"


class Progress:
    """Invariants: match < next; in flight are exactly the unacknowledged appends of a pipeline, in log
    order."""

    __slots__ = (
        "_received",
        "_silent_beats",
        "active",
        "caught_up",
        "fetching",
        "in_flight",
        "in_flight_bytes",
        "last_contact",
        "match",
        "may_repeat",
        "next",
        "paused",
        "round_started",
        "round_target",
        "session",
        "state",
        "vouched",
    )

    state: ProgressState
    """Moved by the `become_` methods only."""
    match: int
    """Synced and equal to the leader's log up to here. Moved by `acknowledge`; falls only by `forget`."""
    vouched: int
    """Up to here its acknowledgements count for commit: `match` without those that were progress only, as
    something below could not be read there. Moved by `acknowledge`; falls only by `forget`."""
    next: int
    """The next index to send."""
    session: int
    """How often replication started over: refusals that answer an older session are stale."""
    paused: bool
    """PROBE: one append is out and not answered; a heartbeat's reply lifts it too, for the append may be
    lost."""
    may_repeat: bool
    """A heartbeat left since something was last sent again for the lack of an answer. Set by the leader's
    tick, taken by one reply: those that come in a crowd, late, have nothing sent again each."""
    fetching: int
    """The first index of the `Fetch` that is out, 0 if none is. Moved by the leader."""
    in_flight: deque[tuple[int, int]]
    """(last index, bytes) of each append that is not acknowledged."""
    active: bool
    """Heard of since the leader last counted its quorum (thesis 6.2)."""
    last_contact: float
    """Monotonic seconds of the last reply."""
    round_target: int
    """The catch-up round in progress ends when `match` gets here (thesis 4.2.1)."""
    round_started: float
    caught_up: bool
    """The last round took less than an election timeout."""

    def __init__(self, next_index: int, now: float) -> None:
        self.state = ProgressState.PROBE
        self.match = self.vouched = 0
        self.next = next_index
        self.session = 1
        self.paused = False
        self.may_repeat = False
        self.fetching = 0
        self.in_flight = deque()
        self.in_flight_bytes = 0
        self.active = True  # the benefit of the doubt, for one election timeout
        self.last_contact = now
        self.round_target = next_index
        self.round_started = now
        self.caught_up = False
        self._received = 0
        self._silent_beats = 0

    # --- transitions ----------------------------------------------------------------------------------------

    def become_probe(self, next_index: int) -> None:
        """Start over: ask what the follower has, beginning with the entry before `next_index`."""
        self.state = ProgressState.PROBE
        self.next = max(next_index, self.match + 1)
        self.session += 1
        self.paused = False
        self.fetching = 0
        self._clear_window()

    def become_pipeline(self) -> None:
        assert self.state is not ProgressState.PIPELINE
        self.state = ProgressState.PIPELINE
        self.next = self.match + 1
        self.paused = False
        self._clear_window()

    def become_snapshot(self) -> None:
        assert self.state is not ProgressState.SNAPSHOT
        self.state = ProgressState.SNAPSHOT
        self.fetching = 0
        self._clear_window()

    # --- what is sent ---------------------------------------------------------------------------------------

    def may_send(self) -> bool:
        """Whether another append may go now."""
        if self.fetching or self.state is ProgressState.SNAPSHOT:
            return False
        if self.state is ProgressState.PROBE:
            return not self.paused
        return len(self.in_flight) < WINDOW_MESSAGES and self.in_flight_bytes < WINDOW_BYTES

    def streams(self) -> bool:
        """Whether appends follow each other, and another one may go now."""
        return self.state is ProgressState.PIPELINE and self.may_send()

    def sent(self, last_index: int, size: int) -> None:
        """An append up to `last_index` left. A probe does not move `next`: it may be refused."""
        if self.state is ProgressState.PROBE:
            self.paused = True
        elif last_index >= self.next:
            self.in_flight.append((last_index, size))
            self.in_flight_bytes += size
            self.next = last_index + 1

    # --- what comes back ------------------------------------------------------------------------------------

    def heard(self, now: float) -> None:
        self.active = True
        self.last_contact = now

    def answers(self, now: float, patience: float) -> bool:
        """Heard of since the last count of the quorum, or for so many seconds: a count is no silence."""
        return self.active or now - self.last_contact <= patience

    def acknowledge(self, match: int, *, counts: bool = True) -> None:
        """The follower has synced up to `match`, now or earlier; it `counts` if it can read all of that."""
        if counts:
            self.vouched = max(self.vouched, match)
        if match > self.match:
            self.match = match
            self._silent_beats = 0
        self.next = max(self.next, self.match + 1)
        while self.in_flight and self.in_flight[0][0] <= self.match:
            self.in_flight_bytes -= self.in_flight.popleft()[1]

    def is_answered(self, session: int) -> bool:
        """Whether an acceptance of this session ends the probe. That of an earlier one is true, and no sign
        that what was lost has come: after each of them the window would be sent once more."""
        return self.state is ProgressState.PROBE and session == self.session

    def forget(self) -> None:
        """The follower lost what nobody can name: what it acknowledged may be among it."""
        self.match = self.vouched = 0

    def is_stuck(self, received: int) -> bool:
        """To be asked at one reply to each heartbeat: whether frames, or their acknowledgements, must have
        been lost.

        `received` is how far the follower's memory matches. A follower that lags and moves is only slow, and
        so for a while is one that got everything: its disk may be. One that knows less than it has
        acknowledged was restarted.
        """
        progressed, self._received = received > self._received, received
        if received < self.match:
            return True
        if not self.in_flight or progressed:
            self._silent_beats = 0
            return False
        self._silent_beats += 1
        return self._silent_beats >= (PATIENCE if received >= self.next - 1 else 2)

    def is_mute(self) -> bool:
        """Whether it has all that was sent and had yet to say that this counts: it may be able to by now."""
        return self.vouched < self.match and not self.in_flight

    def follow_round(self, last_index: int, now: float, limit: float) -> None:
        """Catch-up rounds (thesis 4.2.1): each is done when the follower has what the log held at its
        begin."""
        if self.vouched >= self.round_target:
            self.caught_up = now - self.round_started < limit
            self.round_target, self.round_started = last_index, now

    def _clear_window(self) -> None:
        self.in_flight.clear()
        self.in_flight_bytes = 0
        self._silent_beats = 0
