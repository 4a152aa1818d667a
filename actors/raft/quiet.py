"""The leader's rules of quiet groups: an idle group stops beating, and every doubt wakes it (DESIGN 8).

    idle for a while, everybody has everything      all in reach agree, a majority
    ------------------------------------------> ASK ------------------------------> QUIET
                                                 ^                                    |
                                                 +-------------- wake ----------------+
                                  a proposal, a read, a vote request, a link that opens, a lost majority

What a follower does is in `follower.py`: it agrees in `on_beat` and doubts in `on_doubt`. Safety never rests
on any of this: a quiet group votes, counts and reads by the same rules.
"""

from __future__ import annotations

from . import leader
from .messages import BeatReply, Now
from .state import GroupState, leading


def may_be_quiet(state: GroupState, now: Now) -> bool:
    """Everybody has everything, nobody waits for anything, and so it has been for a while."""
    kept, last_index = leading(state), state.log.last_index
    return (
        now.monotonic - kept.busy >= state.options.quiet_after
        and state.commit == last_index
        and not (kept.queue or kept.reads or kept.read_round or kept.handover or state.unsynced)
        and all(kept.progress[peer].match == last_index for peer in linked(state))
    )


def linked(state: GroupState) -> set[int]:
    """Peers that can be reached. When another comes into reach, `PeerUp` wakes this leader."""
    return leading(state).progress.keys() - state.closed_links


def agree(state: GroupState, reply: BeatReply, now: Now) -> None:
    """A follower's word on being quiet. When all have agreed, this leader stops beating."""
    kept = leading(state)
    if not reply.quiet:
        kept.agreed.discard(reply.sender)
        if state.quiet:  # it was woken, and this leader was not
            wake(state, now)
        return
    kept.agreed.add(reply.sender)
    if not state.quiet and may_be_quiet(state, now):
        rest_if_agreed(state, now)


def rest_if_agreed(state: GroupState, now: Now) -> None:
    """All in reach have agreed, and they are a majority: only then may the quorum go unchecked."""
    agreed, in_reach = leading(state).agreed, linked(state)
    if in_reach <= agreed and state.membership.is_quorum(in_reach | {state.node}):
        state.quiet = True
        state.deadline = now.monotonic + state.options.quiet_heartbeat


def on_peer_silent(state: GroupState, node: int, now: Now) -> None:
    """A quiet leader needs to trust a majority only, so that a dead node doesn't wake all leaders elsewhere.

    Should the others come back and lack anything, this leader is awake, or is woken by their link or their
    vote requests.
    """
    kept = leading(state)
    kept.agreed.discard(node)
    if state.quiet and not state.membership.is_quorum((kept.agreed & linked(state)) | {state.node}):
        wake(state, now)


def wake(state: GroupState, now: Now) -> None:
    """There is something to do, or to doubt. Whoever was quiet is given the time of one quorum check."""
    kept = leading(state)
    kept.busy = now.monotonic
    if not state.quiet and not kept.agreed:
        return
    kept.agreed.clear()
    if state.quiet:
        state.quiet = False
        state.deadline = leader.next_beat(state, now)
        kept.quorum_deadline = now.monotonic + state.options.election_min
        for progress in kept.progress.values():
            progress.active = True
