"""One step of a group's Raft, and every transition from one role to another.

                  timeout, or the        a majority would      a majority
                  link to the leader     vote for it           voted for it
    +----------+  closed           +---------------+  +-----------+  +--------+
    | FOLLOWER | ----------------> | PRE_CANDIDATE |->| CANDIDATE |->| LEADER |
    +----------+                   +---------------+  +-----------+  +--------+
       |    ^  ^                      |                  |              |
       |    |  +----------------------+------------------+--------------+
       v    |     a leader or a newer term was heard, the vote was lost, no quorum
    +---------+
    | LEARNER |   whoever is no voter: receives, votes if asked, never campaigns
    +---------+

The rules of a role are in its own file, in the order of the paper. They call the transitions here, and
`step` here calls them: these files belong together and import each other as modules.
"""

from __future__ import annotations

from typing import Final

from . import candidate, follower, healing, leader, learner
from .effects import Dropped, Effect, MembershipChanged, RoleChanged, Send
from .log import EntryId
from .messages import (
    Absent,
    Append,
    AppliedTo,
    Beat,
    Close,
    Compacted,
    Damaged,
    Local,
    Mended,
    Message,
    Now,
    PeerDown,
    PeerMessage,
    PeerUp,
    Readmitted,
    RequestVote,
    Restored,
    SnapshotInstalled,
    SnapshotReply,
    StorageFailed,
    StorageRoom,
    StorageSpace,
    Synced,
    Unrestored,
    VoteReply,
)
from .outcomes import Reason
from .state import NEVER, GroupState, Role

FARTHEST_TERM: Final = 1 << 32
"""How far ahead a message's term may be. No replica misses so many elections; a peer that lies could else
take the term to where no number is left for the next election."""

EDGES: Final = {
    Role.FOLLOWER: {Role.FOLLOWER, Role.LEARNER, Role.PRE_CANDIDATE, Role.CANDIDATE},
    Role.PRE_CANDIDATE: {Role.FOLLOWER, Role.LEARNER, Role.PRE_CANDIDATE, Role.CANDIDATE},
    Role.CANDIDATE: {Role.FOLLOWER, Role.LEARNER, Role.PRE_CANDIDATE, Role.LEADER},
    Role.LEADER: {Role.FOLLOWER, Role.LEARNER},
    Role.LEARNER: {Role.FOLLOWER, Role.LEARNER},
}


def step(state: GroupState, message: Message, now: Now) -> list[Effect]:
    """Take one message, change `state`, and say what must be done, in order. Awaits nothing, raises nothing.

    An AssertionError is a bug here or a peer that broke Raft: the group must stop, nothing is certain then.
    """
    if type(message) is AppliedTo:
        _on_applied(state, message.index)
        return []
    role, term, leader_id = state.role, state.term, state.leader
    damaged = bool(state.unrestored or state.log.holes)  # most never are, and a step is to cost little
    readable = state.readable_to if damaged else NEVER
    if state.ended is not None:
        effects = follower.refuse(state, message, state.ended)
    elif isinstance(message, PeerMessage):
        effects = _from_peer(state, message, now)
    else:
        effects = _from_here(state, message, now)
    if damaged or state.unrestored or state.log.holes:
        effects += healing.follow(state, readable, now)
    if state.role is not role or state.term != term or state.leader != leader_id:
        effects.append(RoleChanged(state.role, state.term, state.leader))
    return effects


def _on_applied(state: GroupState, index: int) -> None:
    """It comes with every batch, and no rule of any role waits for it."""
    assert index <= state.commit, f"applied {index} is beyond commit {state.commit}"
    state.applied = max(state.applied, index)
    if state.alone:
        state.log.shrink_cache(0, state.applied)  # there is nobody who could want it


def obey(state: GroupState, message: Message, now: Now) -> list[Effect]:
    """The rules of the role that this replica has now."""
    role = state.role
    if role is Role.FOLLOWER:
        return follower.step(state, message, now)
    if role is Role.LEADER:
        return leader.step(state, message, now)
    if role is Role.LEARNER:
        return learner.step(state, message, now)
    return candidate.step(state, message, now)


# --- the term, once for all roles ---------------------------------------------------------------------------


def _from_peer(state: GroupState, message: PeerMessage, now: Now) -> list[Effect]:
    """Raft 5.1: a newer term makes anyone a follower, an older one is refused; then the role's own rules."""
    if message.group != state.group or message.incarnation != state.incarnation:
        return []
    if message.term == state.term:
        return obey(state, message, now)
    effects: list[Effect] = []
    if message.term < state.term:
        return follower.answer_stale(state, message, now)
    if message.term > state.term + FARTHEST_TERM:
        return [Dropped(message.sender, f"term {message.term} is out of this world, here it is {state.term}")]
    if isinstance(message, RequestVote) and message.pre:
        pass  # a question about a term that does not exist yet (thesis 9.6)
    elif _does_not_count(state, message, now):
        return []
    else:
        heard_leader = message.sender if isinstance(message, Append | Beat) else 0
        effects = become_follower(state, now, term=message.term, leader_id=heard_leader)
    return effects + obey(state, message, now)


def _does_not_count(state: GroupState, message: PeerMessage, now: Now) -> bool:
    """A newer term to be ignored: no term may rise because a server was out of touch (thesis 4.2.3)."""
    if isinstance(message, RequestVote):
        return state.in_lease(now) and not message.transfer
    return isinstance(message, VoteReply) and message.pre and message.granted


# --- what is the same in every role -------------------------------------------------------------------------


def _from_here(state: GroupState, message: Local, now: Now) -> list[Effect]:
    match message:
        case Synced(number):
            state.mark_synced(number)
            if state.mending:
                return healing.on_synced(state, number, now) + obey(state, message, now)
        case StorageRoom(room):
            state.room = room
        case StorageSpace(free, spent):
            state.space, state.spent = free, spent
        case PeerUp(node):
            state.closed_links.discard(node)
        case PeerDown(node):
            state.closed_links.add(node)
        case Compacted(index, term):
            return _compact(state, EntryId(index, term), now)
        case SnapshotInstalled():
            return _install(state, message, now)
        case Damaged() | Mended() | Absent() | Unrestored() | Restored() | Readmitted():
            return healing.step(state, message, now)
        case StorageFailed():
            return _end(state, now, Reason.STORAGE_FAILED)
        case Close():
            return _end(state, now, Reason.CLOSED)
    return obey(state, message, now)


def _compact(state: GroupState, to: EntryId, now: Now) -> list[Effect]:
    """A manifest is durable: the log up to there may go, in memory now, on the disk in its turn."""
    if to.index <= state.log.compacted.index:
        return []
    assert to.index <= state.commit, f"a manifest at {to.index} is ahead of commit {state.commit}"
    state.log.compact(to.index, to.term)
    state.memberships.settle(to.index)
    return [state.persist(now, compact=to)]


def _install(state: GroupState, snapshot: SnapshotInstalled, now: Now) -> list[Effect]:
    """Raft section 7, the rules of InstallSnapshot, after the actor made it durable."""
    log, to = state.log, EntryId(snapshot.index, snapshot.term)
    if to.index < log.compacted.index or (to.index == log.compacted.index and not state.unrestored):
        return []
    state.unrestored = False
    effects: list[Effect] = []
    has_it = log.term_at(to.index) == to.term
    if to.term > state.term or (not has_it and state.role is Role.LEADER):
        # What is committed here without this replica shows that others went on without it.
        effects += become_follower(state, now, term=max(state.term, to.term))
    truncate_from = None
    if has_it:  # rule 6: the log holds its last entry, so what follows it stays
        log.compact(to.index, to.term)
        state.memberships.settle(to.index, snapshot.membership)
    else:  # rule 7: the log is of another history, or too short
        # Said also where nothing is left to cut: a restart may find entries of the old history without those
        # that showed that it is another one.
        truncate_from = to.index
        log.reset(to.index, to.term, snapshot.time)
        state.memberships.reset(snapshot.membership)
    state.commit = max(state.commit, to.index)
    state.matched = max(state.matched, state.commit)
    state.applied = max(state.applied, to.index)
    reply = SnapshotReply(**state.envelope(), index=to.index, ok=True)
    release = (Send(state.leader, reply),) if state.leader not in (0, state.node) else ()
    effects.append(state.persist(now, truncate_from=truncate_from, compact=to, release=release))
    return effects + follow_membership(state, now)


def follow_membership(state: GroupState, now: Now) -> list[Effect]:
    """The members in effect may have changed: so may the role of whoever does not lead."""
    if state.role is Role.LEARNER and state.may_lead:
        become_follower(state, now, term=state.term, leader_id=state.leader)
    elif state.role not in (Role.LEARNER, Role.LEADER) and not state.may_lead:
        become_learner(state, now, leader_id=state.leader)
    members = state.membership
    return [MembershipChanged(state.memberships.last_change, members.voters, members.learners)]


# --- transitions --------------------------------------------------------------------------------------------


def become_follower(
    state: GroupState,
    now: Now,
    *,
    term: int,
    leader_id: int = 0,
    reason: Reason = Reason.NOT_LEADER,
    retry_soon: bool = False,
) -> list[Effect]:
    """Raft 5.1, 5.2: follow `leader_id` (0: nobody yet) in `term`. A vote of the same term is kept.

    `retry_soon`: two candidates split the vote while nobody leads; a short random wait parts them.
    """
    effects: list[Effect] = []
    if state.role is Role.LEADER:
        if term == state.term or state.quiet:
            effects += leader.announce_end(state)
        effects += leader.resign(state, reason, hint=leader_id)
        state.matched = state.commit
    if term > state.term:
        state.term, state.vote, state.matched = term, 0, state.commit
        effects.append(state.persist(now, hard_state=True))
    if not state.may_lead:
        become_learner(state, now, leader_id=leader_id)
        return effects
    _move(state, Role.FOLLOWER)
    state.leader = leader_id
    state.deadline = state.early_deadline(now) if retry_soon else state.election_deadline(now)
    return effects


def become_learner(state: GroupState, now: Now, *, leader_id: int) -> None:
    """Thesis 4.2.1: not, or no longer, a voter in the members in effect."""
    _move(state, Role.LEARNER)
    state.leader = leader_id
    state.deadline = NEVER


def become_pre_candidate(state: GroupState, now: Now) -> list[Effect]:
    """Thesis 9.6: ask first. The term does not move and nothing is promised, so nothing is persisted."""
    assert state.may_lead and not state.faulty, "only an intact voter may campaign"
    _move(state, Role.PRE_CANDIDATE)
    state.leader = 0
    state.deadline = state.election_deadline(now)
    state.granted.add(state.node)
    if state.membership.is_quorum(state.granted):
        return become_candidate(state, now)
    return list(candidate.requests(state, pre=True))


def become_candidate(state: GroupState, now: Now, *, transfer: bool = False) -> list[Effect]:
    """Raft 5.2: a new term, the own vote, and requests for the others' once both are on the disk.

    The own vote counts when its sync is known. So nobody leads in a term that a crash could make it forget,
    to win it a second time with another log.
    """
    assert state.may_lead and not state.faulty, "only an intact voter may campaign"
    _move(state, Role.CANDIDATE)
    state.term, state.vote, state.matched = state.term + 1, state.node, state.commit
    state.leader = 0
    state.deadline = state.election_deadline(now)
    requests = candidate.requests(state, pre=False, transfer=transfer)
    return [state.persist(now, hard_state=True, release=requests)]


def become_leader(state: GroupState, now: Now) -> list[Effect]:
    """Raft 5.2: a majority of the voters granted this term, this replica's own synced vote among them."""
    assert state.membership.is_quorum(state.granted) and state.node in state.granted, "not elected"
    assert state.vote == state.node and state.hard_state_synced, "the own vote is not on the disk"
    _move(state, Role.LEADER)
    state.leader = state.node
    state.deadline = leader.next_beat(state, now)
    return leader.take_office(state, now)


def _move(state: GroupState, to: Role) -> None:
    assert to in EDGES[state.role], f"a {state.role.value} can't become a {to.value}"
    assert to is Role.LEARNER or state.may_lead, f"no voter, so no {to.value}"
    state.role = to
    state.quiet = False
    state.granted.clear()
    state.refused.clear()


def _end(state: GroupState, now: Now, reason: Reason) -> list[Effect]:
    """Rule S9: whoever waits is told, and this replica never promises anything again."""
    effects: list[Effect] = []
    if state.role is Role.LEADER:
        effects = become_follower(state, now, term=state.term, reason=reason)
    state.ended = reason
    state.leader = 0
    state.deadline = NEVER
    return effects
