"""The rules of a candidate (Raft 5.2, figure 2 "Candidates") and of a pre-candidate (thesis 9.6).

They differ in what a won vote leads to: a pre-candidate then becomes a candidate, a candidate the leader.
"""

from __future__ import annotations

from . import follower, roles
from .effects import Effect, Send
from .messages import Append, Beat, Campaign, Message, Now, RequestVote, Synced, Tick, VoteReply
from .outcomes import Reason
from .state import GroupState, Role


def step(state: GroupState, message: Message, now: Now) -> list[Effect]:
    match message:
        case VoteReply():
            return on_vote_reply(state, message, now)
        case Synced():
            return on_synced(state, now)
        case Append() | Beat():
            return on_leader(state, message, now)
        case Tick():
            return on_tick(state, message, now)
        case Campaign() if state.role is Role.PRE_CANDIDATE:
            return follower.on_campaign(state, now)  # whom it asked before may not have had the group yet
        case RequestVote():
            return follower.on_request_vote(state, message, now)
    return follower.refuse(state, message, Reason.NOT_LEADER)


def requests(state: GroupState, *, pre: bool, transfer: bool = False) -> tuple[Send, ...]:
    """A vote request to every other voter."""
    last = state.log.last
    request = RequestVote(
        **state.envelope(), last_index=last.index, last_term=last.term, pre=pre, transfer=transfer
    )
    return tuple(Send(peer, request) for peer in sorted(state.membership.voters - {state.node}))


def on_vote_reply(state: GroupState, message: VoteReply, now: Now) -> list[Effect]:
    """Count it once. A majority of refusals ends the candidacy: this log or this moment can't win."""
    if message.pre is not (state.role is Role.PRE_CANDIDATE):
        return []  # the answer to an earlier question
    (state.granted if message.granted else state.refused).add(message.sender)
    if is_lost(state):
        # A real vote that was lost had a majority's pre-vote: it was split, so another try soon can win.
        return roles.become_follower(state, now, term=state.term, retry_soon=state.role is Role.CANDIDATE)
    return count_votes(state, now)


def is_lost(state: GroupState) -> bool:
    """No majority can grant any more: who refused won't, and whose link closed is most likely gone."""
    return state.membership.is_quorum(state.refused | (state.closed_links - state.granted))


def on_synced(state: GroupState, now: Now) -> list[Effect]:
    """The own vote is a vote like the others: it counts once it is on the disk."""
    if state.role is Role.PRE_CANDIDATE or not state.hard_state_synced:
        return []
    state.granted.add(state.node)
    return count_votes(state, now)


def count_votes(state: GroupState, now: Now) -> list[Effect]:
    if state.node not in state.granted or not state.membership.is_quorum(state.granted):
        return []
    if state.role is Role.PRE_CANDIDATE:
        return roles.become_candidate(state, now)
    return roles.become_leader(state, now)


def on_leader(state: GroupState, message: Append | Beat, now: Now) -> list[Effect]:
    """Another server won this term: recognise it, and take its message as a follower."""
    effects = roles.become_follower(state, now, term=state.term, leader_id=message.sender)
    return effects + roles.obey(state, message, now)


def on_tick(state: GroupState, tick: Tick, now: Now) -> list[Effect]:
    """A split or lost vote: ask anew, from the pre-vote, so that no term rises while no majority answers."""
    if now.monotonic < state.deadline:
        return []
    if tick.late:
        state.deadline = state.early_deadline(now)
        return []
    return roles.become_pre_candidate(state, now)
