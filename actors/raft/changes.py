"""The leader's rules of membership changes (thesis 4.1 to 4.3; rules S4, S6, S10).

    ADD_LEARNER -> catch-up rounds -> PROMOTE            REMOVE or RELEASE, this leader itself too

One voter at a time, in effect as soon as it is appended, taken back when it is truncated (`membership.py`).
"""

from __future__ import annotations

from ...codec import EntryType, Kind, make_chunk
from . import leader, read_index, roles
from .effects import ChangeRefused, Effect, Resolve, Send
from .membership import Change, ChangeKind
from .messages import Beat, Now
from .outcomes import NotApplied, Reason
from .progress import Progress
from .state import GroupState, leading


def why_not(state: GroupState, change: Change, now: Now) -> Reason | None:
    """One change at a time, none before this term's first commit, and only one that makes sense."""
    kept = leading(state)
    if state.commit < kept.noop:
        return Reason.NOT_READY
    if state.memberships.last_change > state.commit or any(w.kind is Kind.MEMBERSHIP for w in kept.queue):
        return Reason.PENDING_CHANGE
    if state.membership.after(change) is None:
        return Reason.BAD_CHANGE
    if change.kind is ChangeKind.PROMOTE and not is_caught_up(state, change.node, now):
        return Reason.NOT_CAUGHT_UP
    return None


def is_caught_up(state: GroupState, node: int, now: Now) -> bool:
    """Its last catch-up round was short (thesis 4.2.1), and it answered the last heartbeat or the one before.

    The second matters most from one voter to two: that step can't be undone without the new voter.
    """
    progress = leading(state).progress.get(node)
    if progress is None or not progress.caught_up or progress.vouched < progress.match:
        return False
    return now.monotonic - progress.last_contact <= 2 * state.options.heartbeat


def refused(state: GroupState, change: Change, reason: Reason, reserved: int = 0) -> Effect:
    """Rule S10: nobody should have to guess why a change was not made."""
    last_change = state.memberships.last_change
    pending = last_change if last_change > state.commit else 0
    return ChangeRefused(change.node, reason.name, state.log.last_index, reserved, pending)


def seal_change(state: GroupState, now: Now) -> list[Effect]:
    """A change stands alone in its batch and is in effect from now on, for its own commit too."""
    kept = leading(state)
    waiting = leader.take_one(kept)
    assert waiting.change is not None
    index = state.log.last_index + 1
    members = state.membership.after(waiting.change)
    if members is None:
        why = Reason.BAD_CHANGE
        told = Resolve(waiting.token, NotApplied(why, state.leader))
        return [refused(state, waiting.change, why, reserved=index), told]
    state.memberships.append(index, members)
    for peer in sorted(members.members - kept.progress.keys() - {state.node}):
        kept.progress[peer] = Progress(index, now.monotonic)
    chunk = make_chunk([(EntryType.OPAQUE, members.encode())])
    effects = leader.seal(state, Kind.MEMBERSHIP, [chunk], ((waiting.token, 0, 1),), now)
    effects += roles.follow_membership(state, now)
    # Without a voter that leaves, those who have confirmed a read may be a majority; nobody else may answer.
    return effects + read_index.finish_round(state)


def dismiss_removed(state: GroupState) -> list[Effect]:
    """A removed replica is fed until its removal is committed, and told so: it should know that it left."""
    kept = leading(state)
    gone = kept.progress.keys() - state.membership.members
    beat = Beat(**state.envelope(), commit=state.commit, read=kept.read_number)
    for peer in gone:
        del kept.progress[peer]
    return [Send(peer, beat) for peer in sorted(gone)]


def follow_round(state: GroupState, progress: Progress, now: Now) -> None:
    progress.follow_round(state.log.last_index, now.monotonic, state.options.election_min)
