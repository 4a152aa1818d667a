"""The Raft state of one group on one node: every field, who moves it, and what always holds.

Only `roles.step` and what it calls change a `GroupState`. Everyone may read it between steps.
"""

from __future__ import annotations

import enum
import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypedDict

from .effects import Commit, Effect, HardState, Persist, Send
from .log import EntryId, Log
from .membership import Membership, MembershipHistory
from .value import value

if TYPE_CHECKING:
    import random

    from ...codec import Chunk, Kind
    from .log_cache import CacheBudget
    from .membership import Change
    from .messages import Now
    from .outcomes import Reason
    from .progress import Progress

LONE_CACHE_BYTES: Final = 8 << 20
"""Log kept in memory by a replica that has no other, until it is applied: two of the largest batches."""
NEVER: Final = math.inf
"""A deadline that does not come."""


class Role(enum.Enum):
    """What a replica is to its group. PRE_CANDIDATE asks whether a candidacy would succeed (thesis 9.6)."""

    FOLLOWER = "follower"
    PRE_CANDIDATE = "pre-candidate"
    CANDIDATE = "candidate"
    LEADER = "leader"
    LEARNER = "learner"


class Envelope(TypedDict):
    """The fields of every `PeerMessage`."""

    group: int
    incarnation: int
    sender: int
    term: int


@dataclass(frozen=True, slots=True)
class RaftOptions:
    """Times in seconds, sizes in bytes."""

    heartbeat: float = 0.1  # leaders beat on the common grid of this interval
    election_min: float = 0.5  # no election and no pre-vote so soon after a leader was heard
    election_max: float = 1.0
    early_election: float = 0.15  # between the voters' turns to stand when the leader is known to be gone
    fsync_deadline: float = 1.0  # a leader whose disk is slower steps down
    max_batch_bytes: int = 4 << 20  # rule S8; the whole batch as encoded
    uncommitted_bytes: int = 64 << 20  # queued and sealed; beyond it proposals are refused
    log_cache_bytes: int = 32 << 20
    append_bytes: int = 4 << 20  # about this much in one append that catches a follower up
    probe_bytes: int = 64 << 10  # a probe may be refused, so it carries little
    eager_commit: bool = False  # tell followers of a commit at once, not with the next append or heartbeat
    quiet_after: float = 2.0  # an idle group stops beating; NEVER: it always beats
    quiet_heartbeat: float = 20.0  # a quiet leader's, in case that what should wake its followers was lost
    uses_reserve: bool = False  # its few small entries are taken also when the disk is full
    pipeline_slots: int = 2  # own appends under way to the disk; measured: more help nothing


@value()
class Waiting:
    """A proposal in the leader's queue."""

    token: int
    kind: Kind
    chunk: Chunk | None = None  # None: a tick, or a membership change
    change: Change | None = None
    size: int = 0  # what it adds to `Leading.queued_bytes`


@value()
class SealedBatch:
    """A batch of this leadership that is not committed yet, and who waits for it."""

    index: int
    size: int
    tokens: tuple[int, ...]
    entries: int
    since: float  # monotonic seconds


@dataclass(slots=True)
class ReadRound:
    """Reads that one exchange of heartbeats confirms (thesis 6.4)."""

    number: int
    index: int  # the commit index when the round began
    tokens: list[int]
    confirmed_by: set[int]


@dataclass(slots=True)
class Handover:
    """A leadership transfer under way (thesis 3.10)."""

    target: int
    token: int
    deadline: float  # monotonic seconds; then it is given up
    sent: bool = False  # TimeoutNow is out


@dataclass(slots=True)
class Leading:
    """What only a leader has. Made by `roles.become_leader`, gone with the leadership."""

    noop: int
    """Index of the no-op of this term. Once it is committed, so is everything before it (Raft 5.4.2)."""
    progress: dict[int, Progress]
    """Every other member, and a removed one until its removal is committed."""
    quorum_deadline: float
    """When to count whom this leader has heard of (check-quorum, thesis 6.2)."""
    queue: deque[Waiting] = field(default_factory=deque)
    """Proposals in the order of arrival: all kinds, one queue (rule S4)."""
    queued_bytes: int = 0
    sealed: deque[SealedBatch] = field(default_factory=deque)
    """Uncommitted batches of this leadership in log order."""
    sealed_bytes: int = 0
    commit_seconds: float = 0.0
    """What the last committed batch took, from being sealed."""
    reads: list[int] = field(default_factory=list)
    """Tokens of reads that wait for the next round."""
    read_number: int = 0
    """The newest read round."""
    read_round: ReadRound | None = None
    """The round under way."""
    handover: Handover | None = None
    busy: float = -NEVER
    """When it last had something to do (monotonic seconds). Moved by `quiet.wake`."""
    agreed: set[int] = field(default_factory=set)
    """Peers that agreed to be quiet since then."""


@dataclass(slots=True)
class Mending:
    """Copies of damaged batches on their way to the disk."""

    number: int  # of the Persist that has them
    batches: list[tuple[EntryId, Membership | None, int]]
    """Each one's place, what it says about the members if it does, and its time in ns."""


@dataclass(slots=True)
class _Written:
    """A Persist that is not synced yet."""

    number: int
    last_index: int  # of the log as of then; lowered if a later truncation takes entries back
    since: float


class GroupState:
    """One replica of one group.

    Invariants: compacted <= commit <= log.last_index; applied <= commit; `leading` is set exactly while
    role is LEADER; vote != 0 or nothing promised in `term`; `term` and `commit` never fall.
    """

    def __init__(
        self,
        *,
        group: int,
        incarnation: int,
        node: int,
        options: RaftOptions,
        randomness: random.Random,
        log: Log,
        memberships: MembershipHistory,
        term: int,
        vote: int,
        commit: int,
    ) -> None:
        # Identity. Never changes.
        self.group: Final = group
        self.incarnation: Final = incarnation
        self.node: Final = node
        self.options: Final = options
        self.random: Final = randomness  # for timeouts only

        # The latest term seen, and the vote in it (0: none). Moved by roles.become_*; each change is
        # persisted before anything that promises it leaves. Invariant: term never falls; vote changes once in
        # a term.
        self.term = term
        self.vote = vote

        # Moved by roles.become_* only. `leader` is the leader of `term`, 0 while unknown.
        self.role = Role.FOLLOWER
        self.leader = 0

        # The log as it will be once every Persist is written. Moved by follower (append, truncate), leader
        # (append) and roles (compaction, synced).
        self.log: Final = log
        # What the log says about the members. Moved together with it.
        self.memberships: Final = memberships

        # Known to be committed (Raft 5.3). Moved by `advance_commit` only. Invariant: never falls.
        self.commit = commit
        # Applied by the state machine. Moved by the actor's AppliedTo. Invariant: applied <= commit.
        self.applied = log.compacted.index
        # Everything up to here equals the log of this term's leader: a heartbeat's commit counts up to it.
        # Moved by the follower. Invariant: what is committed equals every later leader's log, so commit <=
        # matched.
        self.matched = commit

        # Monotonic seconds at which the actor must step Tick: an election timeout, or a leader's next
        # heartbeat.
        self.deadline = NEVER
        # The group is idle and nobody beats: a follower trusts that the leader's node lives and would say if
        # the leadership ended; a leader trusts that its members' nodes live. Moved by leader, follower; ends
        # with every transition and with every doubt.
        self.quiet = False
        # When the leader of `term` was last heard. Moved by the follower. Basis of leader stickiness.
        self.leader_contact = -NEVER
        # Whether storage takes more bytes now, whether the disk has space for more than was accepted, and
        # whether its reserve is used up as well. Moved by StorageRoom and StorageSpace.
        self.room = True
        self.space = True
        self.spent = False
        # Peers whose link to this node is closed. Moved by PeerUp, PeerDown.
        self.closed_links: set[int] = set()

        # (Pre-)candidate: who granted, and who refused. Emptied by roles.become_*.
        self.granted: set[int] = set()
        self.refused: set[int] = set()

        # Leader only.
        self.leading: Leading | None = None

        # The machine's state is lost or not to be trusted. Moved by healing.py and by an installed snapshot.
        self.unrestored = False
        # Something is lost that nobody can name: votes, acknowledgements (storage calls the group closed).
        # Until it is readmitted, this replica's word counts for nothing. Moved by healing.py.
        self.forgetful = False
        # Repairs that are not synced yet, in order. Moved by healing.py.
        self.mending: deque[Mending] = deque()
        # Why this replica is silent for good: the log can't be written any more, or the group was closed.
        self.ended: Reason | None = None

        # Persists: the number of the newest, that of the newest with a hard state, and those not synced yet.
        self.persisted = 0
        self.hard_state_in = 0
        self.unsynced: deque[_Written] = deque()

    @classmethod
    def recovered(
        cls,
        *,
        group: int,
        incarnation: int,
        node: int,
        options: RaftOptions,
        randomness: random.Random,
        now: Now,
        settled: Membership,
        changes: Iterable[tuple[int, Membership]] = (),
        term: int = 0,
        vote: int = 0,
        compacted: tuple[int, int] = (0, 0),
        entries: Iterable[tuple[int, int, int, int]] = (),
        commit: int = 0,
        last_time: int = 0,
        holes: Iterable[int] = (),
        unrestored: bool = False,
        forgetful: bool = False,
        cache: CacheBudget | None = None,
    ) -> GroupState:
        """The state of a replica that starts, from what recovery vouches for (nothing but defaults: a new
        one).

        Args:
            settled: the members as of `compacted`: from the manifest, or those of the group's birth.
            changes: (index, membership) of each MEMBERSHIP batch in `entries`.
            compacted: (index, term) of the manifest.
            entries: (index, term, kind, size) of the log, consecutive from compacted + 1.
            commit: the hint of the last hard state.
            last_time: the highest time of the manifest and the batches, ns.
            holes: indexes of `entries` that can't be read.
            unrestored: whether the machine's state as of `compacted` is lost.
            forgetful: whether something else is lost, and nobody can say what; the log, the term, the vote
                and the commit index may then be older than they once were.
            now: when the election timeout begins to run.
            cache: what the groups of this node keep of their logs in memory together.
        """
        log = Log(
            EntryId(*compacted),
            ((index, entry_term, size) for index, entry_term, _, size in entries),
            cache_limit=options.log_cache_bytes,
            last_time=last_time,
            budget=cache,
        )
        state = cls(
            group=group,
            incarnation=incarnation,
            node=node,
            options=options,
            randomness=randomness,
            log=log,
            memberships=MembershipHistory(settled, changes),
            term=max(term, log.last.term),
            vote=vote if term >= log.last.term else 0,
            commit=max(compacted[0], min(commit, log.last_index)),
        )
        log.holes.update(hole for hole in holes if log.first_index <= hole <= log.last_index)
        state.unrestored = unrestored
        state.forgetful = forgetful
        if not state.may_lead:
            state.role = Role.LEARNER
        elif state.membership.voters == {node}:
            state.deadline = now.monotonic  # nobody else could lead
        else:
            state.deadline = state.election_deadline(now)
        return state

    # --- questions ------------------------------------------------------------------------------------------

    @property
    def membership(self) -> Membership:
        """In effect now: the newest in the log, committed or not (thesis 4.1)."""
        return self.memberships.current

    @property
    def alone(self) -> bool:
        """Whether this is the only replica of its group."""
        members = self.memberships.current
        return len(members.voters) == 1 and not members.learners and self.node in members.voters

    @property
    def may_lead(self) -> bool:
        """Whether this replica is a voter, or was one until a change that is not known to be committed.

        The second may be the only one that has the change, and must then win an election to commit it, by
        votes of the others (thesis 4.2.2).
        """
        node, memberships = self.node, self.memberships
        return node in memberships.current.voters or node in memberships.at(self.commit).voters

    @property
    def faulty(self) -> bool:
        """Whether something that this replica once had can't be read: it neither votes nor leads nor denies
        having it, and its acknowledgements don't count for commit (DESIGN 5)."""
        return self.unrestored or self.forgetful or bool(self.log.holes)

    @property
    def readable_to(self) -> float:
        """Up to here the machine can go on: 0 without a state to start from, no limit if nothing is
        damaged."""
        if self.unrestored:
            return 0
        return min(self.log.holes) - 1 if self.log.holes else NEVER

    @property
    def hard_state_synced(self) -> bool:
        """Whether `term` and `vote` are on the disk."""
        return not self.unsynced or self.unsynced[0].number > self.hard_state_in

    def in_lease(self, now: Now) -> bool:
        """Whether a live leader must be assumed (thesis 4.2.3), so that nobody else is helped to replace it.

        A leader's own lease is its check-quorum. A follower whose own link to the leader closed has a reason
        beyond the asker's word to believe that the leader is gone.
        """
        if self.leader == self.node:
            return True
        if self.leader == 0 or self.leader in self.closed_links:
            return False
        if self.quiet:
            return True
        return now.monotonic - self.leader_contact < self.options.election_min

    def quiet_deadline(self, now: Now) -> float:
        """A follower's election timeout while the group is quiet."""
        return now.monotonic + self.random.uniform(3, 4) * self.options.quiet_heartbeat

    def election_deadline(self, now: Now) -> float:
        """A new random election timeout (Raft 5.2)."""
        return now.monotonic + self.random.uniform(self.options.election_min, self.options.election_max)

    def early_deadline(self, now: Now) -> float:
        """A short random wait, where there is reason to believe that nobody leads."""
        return now.monotonic + self.random.uniform(0, self.options.early_election)

    def envelope(self, term: int | None = None) -> Envelope:
        """What every message to a peer begins with."""
        return {
            "group": self.group,
            "incarnation": self.incarnation,
            "sender": self.node,
            "term": self.term if term is None else term,
        }

    # --- the commit index -----------------------------------------------------------------------------------

    def advance_commit(self, index: int) -> list[Effect]:
        """Raft 5.3: everything up to `index` is committed. The caller says why."""
        if index <= self.commit:
            return []
        assert index <= self.log.last_index, f"commit {index} is beyond the log's end {self.log.last_index}"
        self.commit = index
        return [Commit(index)]

    # --- the disk -------------------------------------------------------------------------------------------

    def persist(
        self,
        now: Now,
        *,
        truncate_from: int | None = None,
        compact: EntryId | None = None,
        batches: tuple[bytes, ...] = (),
        repairs: tuple[bytes, ...] = (),
        hard_state: bool = False,
        readmitted: bool = False,
        release: tuple[Send, ...] = (),
    ) -> Persist:
        """One append to storage. The log must have been changed already."""
        self.persisted += 1
        if truncate_from is not None:
            for written in self.unsynced:
                written.last_index = min(written.last_index, truncate_from - 1)
        self.unsynced.append(_Written(self.persisted, self.log.last_index, now.monotonic))
        if hard_state:
            self.hard_state_in = self.persisted
        return Persist(
            self.persisted,
            truncate_from=truncate_from,
            compact=compact,
            batches=batches,
            repairs=repairs,
            hard_state=HardState(self.term, self.vote, self.commit, readmitted) if hard_state else None,
            release=release,
        )

    def promise(self, now: Now, send: Send, *, index: int = 0) -> Effect:
        """A reply that relies on `term`, `vote` and the log up to `index`: it leaves once they are on the
        disk.

        That holds for the answer to a repeated request as well: the first one's sync may still be under way.
        """
        if self.hard_state_synced and index <= self.log.synced:
            return send
        return self.persist(now, release=(send,))

    def mark_synced(self, number: int) -> None:
        """Every Persist up to `number` is on the disk."""
        kept = self.options.log_cache_bytes
        self.log.cache_limit = min(LONE_CACHE_BYTES, kept) if self.alone else kept
        while self.unsynced and self.unsynced[0].number <= number:
            self.log.mark_synced(self.unsynced.popleft().last_index)


def leading(state: GroupState) -> Leading:
    """What this leader keeps; only a leader may ask."""
    assert state.leading is not None, f"a {state.role.value} does not lead"
    return state.leading
