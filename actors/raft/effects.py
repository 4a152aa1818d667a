"""What the Raft core asks its actor to do. The actor carries effects out in the order of the list.

The duties of the actor, all of them:

1. `Persist` goes to storage as one append, in the order of its fields; after the sync that covers it, the
   actor first sends `release`, then steps `Synced(number)`. Persists are synced in order.
2. `Send` leaves now, without waiting for the disk. Links may lose or repeat messages; the core copes.
3. `Commit(index)`: apply everything up to there, as far as `GroupState.readable_to` allows, in order, then
   resolve the tokens of those indexes that `Sealed` named, and step `AppliedTo`.
4. `Resolve` answers the waiter of a token; a token that `Sealed` named is thereby taken back.
5. When `state.deadline` passes, step `Tick`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .value import value

if TYPE_CHECKING:
    from .log import EntryId
    from .messages import PeerMessage
    from .outcomes import Outcome
    from .state import Role


@value()
class HardState:
    """What must survive a crash besides the log (Raft figure 2). `commit` is a hint for a quicker start."""

    term: int
    vote: int  # node id, 0: none in this term
    commit: int
    readmitted: bool = False  # the replica takes part again, though it lost what nobody can name


@value()
class Send:
    peer: int
    message: PeerMessage


@value()
class Persist:
    """One append to storage. Fields in the order in which they are written."""

    number: int  # counts up by one; comes back as `Synced(number)`
    truncate_from: int | None = None  # remove this index and everything after it
    compact: EntryId | None = None  # the log up to it is covered by a durable manifest
    batches: tuple[bytes, ...] = ()
    repairs: tuple[bytes, ...] = ()  # put back at their places, touching nothing else
    hard_state: HardState | None = None
    release: tuple[Send, ...] = ()  # only after the sync: each promises part of this or an earlier Persist


@value()
class Commit:
    """Everything up to `index` is committed. Strictly rising."""

    index: int


@value()
class Readable:
    """`GroupState.readable_to` moved: more or less of what is committed can be applied."""


@value()
class Sealed:
    """The batch at (`index`, `term`) carries these proposals: (token, first entry, number of entries)
    each."""

    index: int
    term: int
    tokens: tuple[tuple[int, int, int], ...]


@value()
class Resolve:
    """The waiter of `token` gets `outcome`; the core forgets the token."""

    token: int
    outcome: Outcome


@value()
class ReadReady:
    """A read that began before this step is linearizable once `index` is applied here."""

    token: int
    index: int


@value()
class RoleChanged:
    """Role, term or known leader (0: none) changed. At most one per step, the last effect of it."""

    role: Role
    term: int
    leader: int


@value()
class Fetch:
    """Read batches from the log for a follower behind the cache: at least one, about `max_bytes`; then
    `Fetched`."""

    peer: int
    first: int
    last: int
    max_bytes: int


@value()
class SendSnapshot:
    """`peer` needs entries the log no longer has. The answer is `SnapshotSent`."""

    peer: int


@value()
class MembershipChanged:
    """The members in effect changed, by an append, a truncation or a snapshot. The actor keeps links to
    them."""

    index: int
    voters: frozenset[int]
    learners: frozenset[int]


@value()
class ChangeRefused:
    """For the log line of rule S10: the actor adds account and group."""

    node: int
    reason: str
    index: int  # last index of the log when it was refused
    reserved: int  # the index allotted to the refused change at sealing, 0 if it was refused before that
    pending: int  # index of the change that is in the way, 0 if none


@value()
class Dropped:
    """For a log line: a message of `peer` was damaged or made no sense, and was treated as lost."""

    peer: int
    reason: str


Effect = (
    Send
    | Persist
    | Commit
    | Readable
    | Sealed
    | Resolve
    | ReadReady
    | RoleChanged
    | Fetch
    | SendSnapshot
    | MembershipChanged
    | ChangeRefused
    | Dropped
)
