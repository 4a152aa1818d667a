"""What a group's Raft core receives. Messages of peers travel over links; local ones come from this node.

Nothing here acts: `roles.step(state, message, now)` does, and answers with effects (`effects.py`).
Units: indexes and terms start at 1 and 0 means "nothing"; a node is a nonzero 64-bit id.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .value import value

if TYPE_CHECKING:
    from ...codec import Chunk
    from .membership import Change, Membership


@value()
class Now:
    """The time of one step, read once by the actor: the core has no clock of its own."""

    monotonic: float  # seconds; timeouts are measured on it
    wall: int  # ns since 1970; only stamped into batches


# --- from peers ---------------------------------------------------------------------------------------------


@value(kw_only=True)
class PeerMessage:
    """What every message between replicas carries. A receiver drops another incarnation's messages."""

    group: int
    incarnation: int
    sender: int  # node id
    term: int  # the sender's current term (a granted pre-vote alone echoes the asker's)


@value(kw_only=True)
class RequestVote(PeerMessage):
    """Raft 5.2. With `pre`: "would you vote for me in `term` + 1?" (thesis 9.6); it changes no term."""

    last_index: int
    last_term: int
    pre: bool = False
    transfer: bool = False  # the leader asked for this election, so stickiness does not apply (thesis 4.2.3)


@value(kw_only=True)
class VoteReply(PeerMessage):
    pre: bool
    granted: bool


@value(kw_only=True)
class Append(PeerMessage):
    """Raft 5.3. `batches` are consecutive sealed batches, the first at `previous_index` + 1; none: a probe.

    `session` counts how often the leader started over with this follower; a refusal that answers an older
    session is stale. The payload checksums are verified by the follower's core, once.
    """

    previous_index: int
    previous_term: int
    commit: int
    session: int
    batches: tuple[bytes, ...] = ()


@value(kw_only=True)
class AppendReply(PeerMessage):
    """Accepted: `match` is synced on the sender. Refused: `match` is the refused previous index and the hint
    names the last entry of the sender that might match (Raft 5.3, end).

    Without `counts` it is progress only: parts of what lies below can't be read on the sender (DESIGN 5);
    refused without `counts`, the sender may have lost what it once acknowledged."""

    session: int
    accepted: bool
    match: int
    hint_index: int = 0
    hint_term: int = 0
    counts: bool = True


@value(kw_only=True)
class Beat(PeerMessage):
    """The heartbeat. `commit` may be ahead of what the receiver holds; `read` is the newest read round.
    `quiet`: there is nothing to do, so let us stop beating (DESIGN 8)."""

    commit: int
    read: int = 0
    quiet: bool = False


@value(kw_only=True)
class BeatReply(PeerMessage):
    """`match` has *arrived* and matches in this term; it need not be synced, so it never counts for commit.
    It shows the leader whether frames were lost. `quiet`: agreed, this follower waits for no more beats."""

    read: int = 0
    match: int = 0
    quiet: bool = False


@value(kw_only=True)
class Resigned(PeerMessage):
    """The sender leads `term` no more and nobody else does yet: don't wait for the timeout."""


@value(kw_only=True)
class TimeoutNow(PeerMessage):
    """Leadership transfer (thesis 3.10): start an election at once. Never a log entry (rule S3)."""


@value(kw_only=True)
class SnapshotReply(PeerMessage):
    """The follower installed a snapshot durably up to `index`, or could not. Starts a probe, commits
    nothing."""

    index: int
    ok: bool


# --- from this node -----------------------------------------------------------------------------------------


@value()
class Tick:
    """`state.deadline` has passed. An early tick does no harm.

    `late`: it passed long ago, since this node itself stood still. What the others said meanwhile waits to be
    read, so their silence proves nothing yet.
    """

    late: bool = False


@value()
class Campaign:
    """Stand for election now, if this replica may: a new group need not wait for a timeout to get a
    leader."""


@value()
class Propose:
    """Replicate `chunk`, whole, in one batch (S15). `expected_term` != 0 fences it to one leadership (S16).
    `token` is opaque to the core and comes back in exactly one `Resolve`, unless `Sealed` handed it over and
    the batch was committed: then the actor resolves it after applying."""

    chunk: Chunk
    token: int
    expected_term: int = 0


@value()
class ProposeTick:
    """Replicate an empty batch of kind TICK, so that the log's clock moves on an idle group."""

    token: int
    expected_term: int = 0


@value()
class ProposeSnapshot:
    """Replicate a snapshot entry (S7): it stands alone in its batch and keeps its place in the queue (S6)."""

    chunk: Chunk
    token: int
    expected_term: int = 0


@value()
class ProposeMembership:
    """Change the members by one step (thesis 4.1). Refused while an earlier change is not committed."""

    change: Change
    token: int
    expected_term: int = 0


@value()
class ReadIndex:
    """Ask for an index that is safe to read at (thesis 6.4): answered by `ReadReady` or a `NotApplied`."""

    token: int


@value()
class Transfer:
    """Hand the leadership to `target`, or to the best follower if None."""

    target: int | None
    token: int


@value()
class Synced:
    """Every `Persist` up to this number is on the disk."""

    number: int


@value()
class StorageFailed:
    """The log can't be written any more (rule S9). Final: the core answers nothing after it."""


@value()
class Close:
    """The group ends on this node: every waiting token is resolved. Final, like `StorageFailed`."""


@value()
class StorageRoom:
    """Whether storage has credit for more bytes. Without it a leader only queues, and a follower takes no
    batches."""

    room: bool = True


@value()
class StorageSpace:
    """Whether the disk has space for more than what was accepted already; else a leader takes no more."""

    free: bool = True
    spent: bool = False
    """The reserve is used up too: a follower takes no more batches, so that votes still find a place."""


@value()
class AppliedTo:
    """The state machine has applied everything up to `index`."""

    index: int


@value()
class PeerUp:
    """The link to `node` is (again) open; frames sent before may be lost."""

    node: int


@value()
class PeerDown:
    """The link to `node` closed."""

    node: int


@value()
class PeerSilent:
    """`node` gives no sign of life, though its link may be open (`liveness.py`)."""

    node: int


@value()
class Fetched:
    """Answer to `effects.Fetch`: consecutive batches from `first`; `failed` if they can't be read."""

    peer: int
    first: int
    batches: tuple[bytes, ...] = ()
    failed: bool = False


@value()
class SnapshotSent:
    """Answer to `effects.SendSnapshot`: the peer has installed it up to `index`, or the attempt failed."""

    peer: int
    ok: bool
    index: int


@value()
class SnapshotInstalled:
    """A leader's snapshot is durable here and restored into the state machine, as of (`index`, `term`)."""

    index: int
    term: int
    membership: Membership
    time: int = 0  # of the batch at `index`, ns


@value()
class Compacted:
    """An own manifest as of (`index`, `term`) is durable: the log up to there may go."""

    index: int
    term: int


# What damage does to a replica, and what ends it (healing.py).


@value()
class Damaged:
    """The batch at `index` can't be read on this node any more."""

    index: int


@value()
class Mended:
    """Copies of batches that can't be read here: whoever gave them held them under the same names."""

    batches: tuple[bytes, ...]


@value()
class Absent:
    """Every other voter has said that it does not hold the doubtful batch (`index`, `term`)."""

    index: int
    term: int


@value()
class Unrestored:
    """The machine's state here is lost or not to be trusted: it must come from a snapshot."""


@value()
class Restored:
    """The machine has the state of the own manifest after all: its files are mended."""


@value()
class Readmitted:
    """All of these `voters` have answered a forgetful replica since it started: the newest term among them is
    `term`, and the log of the leader of that term ended at `index`."""

    term: int
    index: int
    voters: frozenset[int]


Local = (
    Tick
    | Campaign
    | Propose
    | ProposeTick
    | ProposeSnapshot
    | ProposeMembership
    | ReadIndex
    | Transfer
    | Synced
    | StorageFailed
    | Close
    | StorageRoom
    | StorageSpace
    | AppliedTo
    | PeerUp
    | PeerDown
    | PeerSilent
    | Fetched
    | SnapshotSent
    | SnapshotInstalled
    | Compacted
    | Damaged
    | Mended
    | Absent
    | Unrestored
    | Restored
    | Readmitted
)
Message = PeerMessage | Local
