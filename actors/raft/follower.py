"""The rules of a follower (Raft figure 2, "AppendEntries", "RequestVote", "Followers"; section 5.2 to 5.4).

A learner obeys the same rules except that it never campaigns; candidates and leaders answer vote requests and
messages of older terms by them too.
"""

from __future__ import annotations

from ...codec import BatchHeader, CodecError, Kind, verify_batch, walk_batch
from . import roles
from .effects import Dropped, Effect, Resolve, Send
from .log import EntryId
from .membership import BadMembership, Membership
from .messages import (
    Append,
    AppendReply,
    Beat,
    BeatReply,
    Campaign,
    Message,
    Now,
    PeerDown,
    PeerMessage,
    PeerSilent,
    PeerUp,
    Propose,
    ProposeMembership,
    ProposeSnapshot,
    ProposeTick,
    ReadIndex,
    RequestVote,
    Resigned,
    Synced,
    Tick,
    TimeoutNow,
    Transfer,
    VoteReply,
)
from .outcomes import NotApplied, Reason
from .state import GroupState, Role
from .value import value

Asked = Propose | ProposeTick | ProposeSnapshot | ProposeMembership | ReadIndex | Transfer


def step(state: GroupState, message: Message, now: Now) -> list[Effect]:
    match message:
        case Append():
            return on_append(state, message, now)
        case Beat():
            return on_beat(state, message, now)
        case Synced():
            return []
        case RequestVote():
            return on_request_vote(state, message, now)
        case TimeoutNow():
            return on_timeout_now(state, now)
        case Tick():
            return on_tick(state, message, now)
        case Campaign():
            return on_campaign(state, now)
        case PeerDown(node):
            return on_peer_down(state, node, now)
        case PeerSilent(node) | PeerUp(node):
            return on_doubt(state, node, now)
        case Resigned():
            return on_resigned(state, message, now)
    return refuse(state, message, Reason.NOT_LEADER)


# --- AppendEntries (Raft 5.3) -------------------------------------------------------------------------------


@value()
class Arrived:
    """One verified batch of an append."""

    batch: bytes
    header: BatchHeader
    membership: Membership | None  # of a MEMBERSHIP batch


class Nonsense(ValueError):
    """A peer sent batches that can't be what it says they are."""


def on_append(state: GroupState, message: Append, now: Now) -> list[Effect]:
    """Rules 2 to 5 of AppendEntries; the reply leaves after the sync (thesis 10.2.1)."""
    hear_leader(state, message.sender, now)
    try:
        arrived = list(check_batches(state, message))
    except (CodecError, BadMembership, Nonsense) as error:
        return [Dropped(message.sender, str(error))]
    previous = EntryId(message.previous_index, message.previous_term)
    compacted = state.log.compacted
    if previous.index < compacted.index:  # what the snapshot covers is committed, so it matches
        arrived = [each for each in arrived if each.header.index > compacted.index]
        previous = EntryId(compacted.index, arrived[0].header.previous_term if arrived else compacted.term)
    if state.log.term_at(previous.index) != previous.term:
        return [refuse_append(state, message, now)]
    if state.spent or not state.room:  # as if they got lost on the way: the leader will send them again
        arrived = []
    return accept_append(state, message, previous.index, arrived, now)


def check_batches(state: GroupState, message: Append) -> list[Arrived]:
    """The one place where batches from a peer are verified: checksums, identity, and that they follow."""
    found: list[Arrived] = []
    index, term = message.previous_index, message.previous_term
    for batch in message.batches:
        header = verify_batch(batch)
        if (header.group, header.incarnation) != (state.group, state.incarnation):
            raise Nonsense(f"a batch of group {header.group}, incarnation {header.incarnation}")
        follows = (header.index, header.previous_term) == (index + 1, term)
        if not follows or not term <= header.term <= message.term:
            raise Nonsense(f"batch ({header.index}, {header.term}) does not follow ({index}, {term})")
        index, term = header.index, header.term
        found.append(Arrived(batch, header, membership_in(batch, header)))
    return found


def membership_in(batch: bytes, header: BatchHeader) -> Membership | None:
    """What a verified batch says about the members, if it does."""
    if header.kind is not Kind.MEMBERSHIP:
        return None
    return Membership.decode(walk_batch(batch).entry(0))


def refuse_append(state: GroupState, message: Append, now: Now) -> Effect:
    """Rule 2, with the hint that lets the leader skip a whole term at once (Raft 5.3, end)."""
    hint = state.log.newest_not_after(message.previous_index, message.previous_term)
    reply = AppendReply(
        **state.envelope(),
        session=message.session,
        accepted=False,
        match=message.previous_index,
        hint_index=hint.index,
        hint_term=hint.term,
        counts=not state.forgetful,
    )
    return state.promise(now, Send(message.sender, reply))


def accept_append(
    state: GroupState, message: Append, previous: int, arrived: list[Arrived], now: Now
) -> list[Effect]:
    matched = previous + len(arrived)
    reply = AppendReply(
        group=state.group,
        incarnation=state.incarnation,
        sender=state.node,
        term=state.term,
        session=message.session,
        accepted=True,
        match=matched,
        counts=matched <= state.readable_to and not state.forgetful,
    )
    acknowledgement = Send(message.sender, reply)
    state.matched = max(state.matched, matched)
    new = [each for each in arrived if state.log.term_at(each.header.index) != each.header.term]
    if new:
        effects = store(state, new, acknowledgement, now)
    else:
        effects = [state.promise(now, acknowledgement, index=matched)]
    return effects + learn_commit(state, min(message.commit, matched), now)  # rule 5


def store(state: GroupState, new: list[Arrived], acknowledgement: Send, now: Now) -> list[Effect]:
    """Rules 3 and 4: what conflicts goes, what is new is appended; the sync releases the acknowledgement."""
    log, first = state.log, new[0].header.index
    members_changed = False
    truncate_from = None
    if first <= log.last_index:
        assert first > state.commit, f"a leader replaced the committed entry {first} (commit {state.commit})"
        truncate_from = first
        log.truncate_from(first)
        members_changed = state.memberships.truncate_from(first)
    for each in new:
        header = each.header
        log.append(each.batch, header.index, header.term, header.time)
        if each.membership is not None:
            state.memberships.append(header.index, each.membership)
            members_changed = True
    batches = tuple(each.batch for each in new)
    effects: list[Effect] = [
        state.persist(now, truncate_from=truncate_from, batches=batches, release=(acknowledgement,))
    ]
    if members_changed:
        effects += roles.follow_membership(state, now)
    return effects


def learn_commit(state: GroupState, index: int, now: Now) -> list[Effect]:
    """With the commit of its own removal a replica ceases to be a voter for good (thesis 4.2.2)."""
    effects = state.advance_commit(index)
    if effects and state.role is not Role.LEARNER and not state.may_lead:
        roles.become_learner(state, now, leader_id=state.leader)
    return effects


# --- heartbeats (Raft 5.2) ----------------------------------------------------------------------------------


def on_beat(state: GroupState, message: Beat, now: Now) -> list[Effect]:
    """The leader's commit counts only as far as the log is known to equal the leader's."""
    hear_leader(state, message.sender, now)
    effects = learn_commit(state, min(message.commit, state.matched), now)
    if message.quiet and may_be_quiet(state):
        state.quiet = True
        if state.role is not Role.LEARNER:
            state.deadline = state.quiet_deadline(now)
    read = 0 if state.forgetful else message.read  # it may have followed a later leader already
    reply = BeatReply(**state.envelope(), read=read, match=state.matched, quiet=state.quiet)
    effects.append(state.promise(now, Send(message.sender, reply)))
    return effects


def may_be_quiet(state: GroupState) -> bool:
    """Nothing is missing here, and nothing is under way."""
    whole = not state.unsynced and not state.faulty
    return whole and state.commit == state.matched == state.log.last_index


def hear_leader(state: GroupState, sender: int, now: Now) -> None:
    assert state.leader in (0, sender), f"two leaders in term {state.term}: {state.leader:x} and {sender:x}"
    state.leader = sender
    state.leader_contact = now.monotonic
    state.quiet = False
    state.closed_links.discard(sender)
    if state.role is not Role.LEARNER:
        state.deadline = state.election_deadline(now)


# --- RequestVote (Raft 5.2, 5.4.1; thesis 4.2.3, 9.6) -------------------------------------------------------


def on_request_vote(state: GroupState, message: RequestVote, now: Now) -> list[Effect]:
    """Any replica answers, a learner too: it may be a voter already and not know it (thesis 4.2.1)."""
    if state.faulty:
        return []  # it does not know what its log held, so it neither grants nor denies
    if message.pre and message.sender == state.leader:  # who asks does not lead, whatever was trusted
        lose_leader(state, now)
    granted = may_grant(state, message, now)
    effects: list[Effect] = []
    answer = VoteReply(**state.envelope(term=message.term), pre=message.pre, granted=granted)
    reply = Send(message.sender, answer)
    if granted and not message.pre and state.vote == 0:
        # A pre-candidate gives way, and the timeout starts anew (5.2: "granting vote to candidate").
        effects += roles.become_follower(state, now, term=state.term)
        state.vote = message.sender
        effects.append(state.persist(now, hard_state=True, release=(reply,)))
    else:
        effects.append(state.promise(now, reply))
    return effects


def may_grant(state: GroupState, message: RequestVote, now: Now) -> bool:
    """First come, first served, within a term; only a candidate whose log has all that may be committed."""
    if not state.log.is_covered_by(EntryId(message.last_index, message.last_term)):
        return False
    if message.pre:
        return not state.in_lease(now)
    return state.vote == message.sender or (state.vote == 0 and state.leader == 0)


def answer_stale(state: GroupState, message: PeerMessage, now: Now) -> list[Effect]:
    """Raft 5.1: a sender of an older term learns the newer one, and nothing else."""
    reply: PeerMessage
    match message:
        case Append():
            reply = AppendReply(
                **state.envelope(), session=message.session, accepted=False, match=message.previous_index
            )
        case Beat():
            reply = BeatReply(**state.envelope())
        case RequestVote() if not state.faulty:
            reply = VoteReply(**state.envelope(), pre=message.pre, granted=False)
        case _:
            return []
    return [state.promise(now, Send(message.sender, reply))]


# --- elections (Raft 5.2) -----------------------------------------------------------------------------------


def on_tick(state: GroupState, tick: Tick, now: Now) -> list[Effect]:
    if now.monotonic < state.deadline:
        return []
    if tick.late:
        state.deadline = state.early_deadline(now)
        return []
    if state.faulty:
        state.deadline = state.election_deadline(now)
        return []
    return roles.become_pre_candidate(state, now)


def on_campaign(state: GroupState, now: Now) -> list[Effect]:
    """Nobody leads and somebody should: the pre-vote keeps this harmless if it is wrong."""
    if state.leader or state.faulty:
        return []
    return roles.become_pre_candidate(state, now)


def on_peer_down(state: GroupState, node: int, now: Now) -> list[Effect]:
    """The link to the leader closed: most likely its process ended, so don't wait for the whole timeout."""
    if node == state.leader:
        expect_election(state, node, now)
    return []


def on_doubt(state: GroupState, node: int, now: Now) -> list[Effect]:
    """A quiet follower trusted the leader's node; that has fallen silent, or may have been restarted."""
    if state.quiet and node == state.leader:
        expect_election(state, node, now)
    return []


def on_resigned(state: GroupState, message: Resigned, now: Now) -> list[Effect]:
    """The leader says that it leads no more."""
    if message.sender == state.leader:
        lose_leader(state, now)
    return []


def lose_leader(state: GroupState, now: Now) -> None:
    """The leader of this term leads no more, by its own word."""
    gone, state.leader = state.leader, 0
    expect_election(state, gone, now)


def expect_election(state: GroupState, gone: int, now: Now) -> None:
    """The leader `gone` is most likely none any more: an election is due, and nothing is known against it.

    All voters notice at the same moment. So they stand in turn, beginning with another one in each group: no
    split votes, and the groups of a node that died get leaders on all of the others.
    """
    state.quiet = False
    state.leader_contact = min(state.leader_contact, now.monotonic - state.options.election_min)
    order = sorted(state.membership.voters - {gone})
    if state.role is not Role.LEARNER and state.node in order:
        turn = (order.index(state.node) - state.group) % len(order)
        wait = (turn + state.random.uniform(0.1, 0.3)) * state.options.early_election
        state.deadline = min(state.deadline, now.monotonic + wait)


def on_timeout_now(state: GroupState, now: Now) -> list[Effect]:
    """Thesis 3.10: the leader asks this replica to take over; no pre-vote, the leader has agreed."""
    if state.faulty:
        return []
    return roles.become_candidate(state, now, transfer=True)


# --- what only a leader can do ------------------------------------------------------------------------------


def refuse(state: GroupState, message: Message, reason: Reason) -> list[Effect]:
    """Whoever asked a replica that doesn't lead learns who does; every other message needs no answer."""
    if isinstance(message, Asked):
        return [Resolve(message.token, NotApplied(reason, state.leader))]
    return []
