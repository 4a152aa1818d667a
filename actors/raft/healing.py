"""The rules of damage: what a replica that can't read all it once had may do, and how it gets whole again.

    a batch can't be read, or the machine's state is lost            copies, a snapshot, or absence
    ----------------------------------------------------->  FAULTY  -------------------------------> whole
                                                             neither votes nor leads nor denies;
                                                             its acknowledgements are progress only

Faulty is not absent (DESIGN 5): the batch may have been acknowledged, and others may have counted on it. So
the name stays in the log, later batches are stored behind it, and only three things fill the hole: the same
batch, put back; a snapshot that covers it; or a leader whose log has another batch there, which is what an
election among the others decides. A doubtful batch, which only a torn write had, is also given up when every
other voter says that it doesn't hold it.

A forgetful replica lost something that nobody can name: a vote, an acknowledgement, a truncation. Whatever it
was, it was in a term that some other voter had reached before. So the replica is readmitted once every other
voter has told it its term, and it has all that the leader of the newest of these terms had then.

That a majority never held it is not enough for a replica to give it up by itself: it may have acknowledged
the batch to a leader that still counts on it and finds its majority later. Such a majority can elect a leader
among themselves, whose log then decides.
"""

from __future__ import annotations

from ...codec import CodecError, verify_batch
from . import follower, roles
from .effects import Dropped, Effect, Readable, Send
from .log import EntryId
from .membership import BadMembership, Membership
from .messages import Absent, AppendReply, Damaged, Mended, Now, Readmitted, Restored, Unrestored
from .state import GroupState, Mending, Role

Healing = Damaged | Mended | Absent | Unrestored | Restored | Readmitted


def step(state: GroupState, message: Healing, now: Now) -> list[Effect]:
    match message:
        case Damaged(index):
            return on_damaged(state, index, now)
        case Mended(batches):
            return on_mended(state, batches, now)
        case Absent(index, term):
            return on_absent(state, EntryId(index, term), now)
        case Unrestored():
            state.unrestored = True
            return stand_back(state, now)
        case Restored():
            state.unrestored = False
            return []
        case Readmitted():
            return on_readmitted(state, message, now)


def follow(state: GroupState, was: float, now: Now) -> list[Effect]:
    """After each step: what it means that more, or less, can be read than `was` before."""
    if state.readable_to == was:
        return []
    effects: list[Effect] = [Readable()]
    if not state.faulty:
        effects += on_healed(state, now)
    return effects


# --- damage -------------------------------------------------------------------------------------------------


def on_damaged(state: GroupState, index: int, now: Now) -> list[Effect]:
    if not state.log.first_index <= index <= state.log.last_index:
        return []  # it was truncated or compacted meanwhile: nothing is missing
    state.log.holes.add(index)
    for mending in state.mending:  # a copy on its way may be what went bad: it is not relied upon
        mending.batches = [mended for mended in mending.batches if mended[0].index != index]
    return stand_back(state, now)


def stand_back(state: GroupState, now: Now) -> list[Effect]:
    """A faulty replica never leads, and doesn't try to."""
    if state.role in (Role.LEADER, Role.PRE_CANDIDATE, Role.CANDIDATE):
        return roles.become_follower(state, now, term=state.term)
    return []


# --- repair -------------------------------------------------------------------------------------------------


def on_mended(state: GroupState, batches: tuple[bytes, ...], now: Now) -> list[Effect]:
    """Put the copies of holes back, in one append; they count once they are synced."""
    found: list[tuple[EntryId, Membership | None, int]] = []
    copies: list[bytes] = []
    dropped: list[Effect] = []
    for batch in batches:
        try:
            header = verify_batch(batch)
            membership = follower.membership_in(batch, header)
        except (CodecError, BadMembership) as error:
            dropped.append(Dropped(0, f"a copy for a damaged batch: {error}"))
            continue
        place = EntryId(header.index, header.term)
        identity = (header.group, header.incarnation) == (state.group, state.incarnation)
        if identity and is_hole(state, place):
            found.append((place, membership, header.time))
            copies.append(batch)
    if not copies:
        return dropped
    persist = state.persist(now, repairs=tuple(copies))
    state.mending.append(Mending(persist.number, found))
    return [*dropped, persist]


def is_hole(state: GroupState, place: EntryId) -> bool:
    """Whether this very batch, by index and term, is missing here."""
    return place.index in state.log.holes and state.log.term_at(place.index) == place.term


def on_synced(state: GroupState, number: int, now: Now) -> list[Effect]:
    """Copies are on the disk: they are the log again, with all they say."""
    changed = False
    while state.mending and state.mending[0].number <= number:
        for place, membership, time in state.mending.popleft().batches:
            if not is_hole(state, place):
                continue  # it was truncated or compacted in between
            state.log.holes.discard(place.index)
            state.log.last_time = max(state.log.last_time, time)
            if membership is not None:
                state.memberships.insert(place.index, membership)
                changed = True
    return roles.follow_membership(state, now) if changed else []


def on_absent(state: GroupState, place: EntryId, now: Now) -> list[Effect]:
    """Nobody holds it, so it was never committed, nor was what lies behind it."""
    if not is_hole(state, place) or place.index <= state.commit:
        return []
    state.log.truncate_from(place.index)
    effects: list[Effect] = [state.persist(now, truncate_from=place.index)]
    state.matched = min(state.matched, state.log.last_index)
    if state.memberships.truncate_from(place.index):
        effects += roles.follow_membership(state, now)
    return effects


# --- readmission --------------------------------------------------------------------------------------------


def on_readmitted(state: GroupState, message: Readmitted, now: Now) -> list[Effect]:
    """Nothing this replica ever promised is beyond the message's term and index; once it is there as well, it
    takes part, if those who answered are all who vote by what it knows then.

    It may have voted in that term and not know it, so it votes for nobody else there. Of what it
    acknowledged, all that a leader counted on is in the log of every later leader, and below that index in
    this one's.
    """
    if not state.forgetful or not state.membership.voters - {state.node} <= message.voters:
        return []
    if state.term < message.term or min(state.matched, state.log.synced) < message.index:
        return []
    state.forgetful = False
    if state.term == message.term and state.vote == 0:
        state.vote = state.node
    behind = state.log.last_index + 1  # the disk may hold batches there that nobody could read
    effects: list[Effect] = [
        state.persist(now, truncate_from=behind, hard_state=True, readmitted=True),
        Readable(),
    ]
    return effects if state.faulty else effects + on_healed(state, now)


# --- whole again --------------------------------------------------------------------------------------------


def on_healed(state: GroupState, now: Now) -> list[Effect]:
    """Elections are open again, and what was acknowledged as progress now counts."""
    if state.role is Role.FOLLOWER and not state.quiet:
        alone = state.membership.voters == {state.node}
        state.deadline = now.monotonic if alone else state.election_deadline(now)
    if state.leader in (0, state.node):
        return []
    match = min(state.matched, state.log.synced)
    reply = AppendReply(**state.envelope(), session=0, accepted=True, match=match)
    return [state.promise(now, Send(state.leader, reply))]
