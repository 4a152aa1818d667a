"""Which interesting states a seed reached: a check finds nothing in a state that no seed ever comes to.

Each name below is a moment at which a rule earns its keep. A seed counts how often it met each; a soak tells
which of them were met by few seeds or by none. A planted bug that nothing catches is looked for here first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from ..actors.raft import messages
from ..actors.raft.healing import is_hole
from ..actors.raft.leader import is_own
from ..actors.raft.log import EntryId
from ..actors.raft.messages import Message, Now
from ..actors.raft.outcomes import NotApplied, Outcome, Reason
from ..actors.raft.state import GroupState, Role
from ..codec import read_header
from ..storage.recovery import RecoveredGroup
from .report import FaultCount

NEWS: Final = "an acknowledgement of an older term says more than its leader knows"
REFUSALS: Final = (
    Reason.NOT_LEADER,
    Reason.STALE_TERM,
    Reason.BUSY,
    Reason.TRANSFERRING,
    Reason.PENDING_CHANGE,
    Reason.NOT_READY,
    Reason.BAD_CHANGE,
    Reason.NOT_CAUGHT_UP,
    Reason.NO_TARGET,
    Reason.TIMED_OUT,
    Reason.STORAGE_FAILED,
)
"""What the rules may answer in this tier; the other reasons are for the actors around them."""
STATES: Final = (
    "an acknowledgement of an older term reaches a leader",
    NEWS,
    "a refusal of an earlier session reaches a leader",
    "an acknowledgement is progress only",
    "a read of the log is answered with another history",
    "a heartbeat's commit is beyond what was compared",
    "a vote is asked of a leader",
    "a vote is asked of whoever hears a leader",
    "a vote is asked for again",
    "a resting follower is asked to lead",
    "a follower rests",
    "a leader rests",
    "a snapshot of another history is installed",
    "a snapshot is installed of what the log has",
    "a copy of a damaged batch comes too late",
    "a batch is given up",
    "a leader finds damage",
    "a transfer comes to nothing",
    "a leader begins with open entries of older terms",
    "a change of the members is taken back",
    "a change of the members ends the wait of a read",
    "a start finds damage",
    "a start finds a batch that only a torn write had",
    "a start finds a snapshot that its log does not know",
    "a batch is full",
    *(f"refused: {reason.name}" for reason in REFUSALS),
)


class Reached:
    """Counts for one replica; `before` and `after` each step of its rules."""

    def __init__(self, count: FaultCount) -> None:
        self._count = count
        self._quiet = self._led = False
        self._last_change = 0
        self._reads = 0

    def before(self, state: GroupState, message: Message, now: Now) -> None:
        self._quiet, self._led = state.quiet, state.leading is not None
        self._last_change = state.memberships.last_change
        kept = state.leading
        self._reads = kept.read_round.number if kept is not None and kept.read_round is not None else 0
        meets = MEETS.get(type(message))
        if meets is not None:
            name = meets(state, message, now)
            if name:
                self._count[name] += 1

    def after(self, state: GroupState, message: Message) -> None:
        kept, change = state.leading, state.memberships.last_change
        if state.quiet and not self._quiet:
            self._count["a follower rests" if kept is None else "a leader rests"] += 1
        if kept is not None and not self._led and state.commit < kept.noop - 1:
            self._count["a leader begins with open entries of older terms"] += 1
        if change < self._last_change and change > state.log.compacted.index:
            self._count["a change of the members is taken back"] += 1
        if kept is not None and self._reads and change > self._last_change:
            waits = kept.read_round is not None and kept.read_round.number == self._reads
            self._count["a change of the members ends the wait of a read"] += not waits

    def resolved(self, outcome: Outcome) -> None:
        if isinstance(outcome, NotApplied) and outcome.reason in REFUSALS:
            self._count[f"refused: {outcome.reason.name}"] += 1

    def sealed(self, size: int, limit: int) -> None:
        if size > 0.95 * limit:
            self._count["a batch is full"] += 1

    def recovered(self, found: RecoveredGroup, contradicted: bool) -> None:
        if any(not fault.doubtful for fault in found.faults):
            self._count["a start finds damage"] += 1
        if any(fault.doubtful for fault in found.faults):
            self._count["a start finds a batch that only a torn write had"] += 1
        if contradicted:
            self._count["a start finds a snapshot that its log does not know"] += 1


def _on_append_reply(state: GroupState, message: messages.AppendReply, now: Now) -> str:
    kept = state.leading
    progress = kept.progress.get(message.sender) if kept is not None else None
    if progress is None:
        return ""
    if message.term < state.term:
        news = message.accepted and progress.match < message.match <= state.log.last_index
        return NEWS if news else "an acknowledgement of an older term reaches a leader"
    if message.accepted:
        return "" if message.counts else "an acknowledgement is progress only"
    return "a refusal of an earlier session reaches a leader" if message.session != progress.session else ""


def _on_fetched(state: GroupState, message: messages.Fetched, now: Now) -> str:
    kept = state.leading
    progress = kept.progress.get(message.peer) if kept is not None else None
    wanted = progress is not None and message.first == progress.fetching == progress.next
    wanted = wanted and not message.failed and message.first >= state.log.first_index
    other = wanted and not is_own(state, message)
    return "a read of the log is answered with another history" if other else ""


def _on_beat(state: GroupState, message: messages.Beat, now: Now) -> str:
    compared = message.commit <= state.matched or message.term < state.term
    return "" if compared else "a heartbeat's commit is beyond what was compared"


def _on_vote(state: GroupState, message: messages.RequestVote, now: Now) -> str:
    if message.term < state.term:
        return ""
    if state.role is Role.LEADER:
        return "a vote is asked of a leader"
    if message.term == state.term and not message.pre and state.vote == message.sender:
        return "a vote is asked for again"
    return "a vote is asked of whoever hears a leader" if state.in_lease(now) else ""


def _on_timeout_now(state: GroupState, message: messages.TimeoutNow, now: Now) -> str:
    return "a resting follower is asked to lead" if state.quiet else ""


def _on_installed(state: GroupState, message: messages.SnapshotInstalled, now: Now) -> str:
    has = state.log.term_at(message.index)
    if has is None:
        return ""
    same = has == message.term
    return f"a snapshot {'is installed of what the log has' if same else 'of another history is installed'}"


def _on_mended(state: GroupState, message: messages.Mended, now: Now) -> str:
    headers = map(read_header, message.batches)
    late = not all(is_hole(state, EntryId(header.index, header.term)) for header in headers)
    return "a copy of a damaged batch comes too late" if late else ""


def _on_absent(state: GroupState, message: messages.Absent, now: Now) -> str:
    return "a batch is given up"


def _on_damaged(state: GroupState, message: messages.Damaged, now: Now) -> str:
    return "a leader finds damage" if state.role is Role.LEADER else ""


def _on_tick(state: GroupState, message: messages.Tick, now: Now) -> str:
    handover = state.leading.handover if state.leading is not None else None
    vain = handover is not None and now.monotonic >= handover.deadline
    return "a transfer comes to nothing" if vain else ""


MEETS: Final[Mapping[type, Callable[[GroupState, Any, Now], str]]] = {
    messages.AppendReply: _on_append_reply,
    messages.Fetched: _on_fetched,
    messages.Beat: _on_beat,
    messages.RequestVote: _on_vote,
    messages.TimeoutNow: _on_timeout_now,
    messages.SnapshotInstalled: _on_installed,
    messages.Mended: _on_mended,
    messages.Absent: _on_absent,
    messages.Damaged: _on_damaged,
    messages.Tick: _on_tick,
}
