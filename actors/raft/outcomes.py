"""How a proposal can end: applied, not applied, or unknown (the end of DESIGN 7).

Everyone who waits for a proposal, a membership change, a read or a transfer gets exactly one of these three.
`NotApplied` is a promise: the proposal is in no log and never will be, so it is safe to try again. `Unknown`
is the honest rest: the batch was sealed, and this node can no longer say what becomes of it.
"""

from __future__ import annotations

import enum

from .value import value


class Reason(enum.Enum):
    """Why a proposal was not applied, or why its fate is unknown."""

    NO_LEADER = "no leader of the group was in reach in time"
    NOT_LEADER = "this replica does not lead the group"
    STALE_TERM = "the caller saw an earlier leadership (rule S16)"
    BUSY = "too many bytes are queued or uncommitted"
    NO_SPACE = "the leader's disk has no space for more"
    TOO_LARGE = "the proposal is larger than any batch may be"
    TRANSFERRING = "leadership is being handed to another replica"
    PENDING_CHANGE = "an earlier membership change is not committed yet"
    NOT_READY = "the leader has not committed an entry of its own term yet"
    BAD_CHANGE = "the membership change makes no sense for the current members"
    NOT_CAUGHT_UP = "the learner is too far behind, or silent, to become a voter"
    NO_TARGET = "no replica can take over the leadership"
    TIMED_OUT = "the transfer did not finish within an election timeout"
    TRUNCATED = "another entry was committed in its place"
    LEADERSHIP_LOST = "leadership ended before the entry was committed"
    STORAGE_FAILED = "the log could not be written"
    MALFORMED = "the proposal came damaged"
    NO_ANSWER = "the leader did not answer in time"
    LINK_LOST = "the link to the leader closed while the proposal was on its way"
    CLOSED = "the group was closed on this node"
    SESSION_EXPIRED = "the group no longer knows the session"
    SESSION_FULL = "too many proposals of the session wait for their answers"
    UNREADABLE_ANSWER = "the answer can't be carried or read"


@value()
class Applied:
    """Committed and applied. `result` is what the state machine answered for this proposal's entries."""

    index: int
    result: object = None


@value()
class NotApplied:
    """Certainly not applied, now or later: safe to retry. `leader` is a hint (0: none known)."""

    reason: Reason
    leader: int = 0


@value()
class Unknown:
    """May or may not be applied; whoever forwards it must not send it again."""

    reason: Reason


Outcome = Applied | NotApplied | Unknown
