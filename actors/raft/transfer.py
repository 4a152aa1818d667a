"""The leader's rules of leadership transfer (thesis 3.10; rule S3): a message, never a log entry.

no more proposals -> the target has the whole log -> TimeoutNow -> its election
        |
        +--- not within an election timeout: this leader serves on
"""

from __future__ import annotations

from . import quiet
from .effects import Effect, Resolve, Send
from .messages import Now, TimeoutNow, Transfer
from .outcomes import NotApplied, Reason
from .progress import ProgressState
from .state import GroupState, Handover, leading


def on_transfer(state: GroupState, message: Transfer, now: Now) -> list[Effect]:
    kept = leading(state)
    if kept.handover is not None:
        return [Resolve(message.token, NotApplied(Reason.TRANSFERRING, state.leader))]
    target = message.target if message.target is not None else best_target(state, now)
    if target not in kept.progress or target not in state.membership.voters:
        return [Resolve(message.token, NotApplied(Reason.NO_TARGET, state.leader))]
    deadline = now.monotonic + state.options.election_min
    quiet.wake(state, now)
    kept.handover = Handover(target, message.token, deadline)
    return push(state)


def best_target(state: GroupState, now: Now) -> int:
    """The voter with the most complete log of those that answer; 0 if there is none."""
    progress, patience = leading(state).progress, state.options.election_min
    answering = [
        (progress[voter].vouched, voter)
        for voter in state.membership.voters & progress.keys()
        if progress[voter].answers(now.monotonic, patience)
        and progress[voter].state is ProgressState.PIPELINE
    ]
    return max(answering, default=(0, 0))[1]


def push(state: GroupState) -> list[Effect]:
    """As soon as the target has the whole log, it may start its election."""
    kept = leading(state)
    handover = kept.handover
    if handover is None or handover.sent or kept.queue:
        return []
    progress = kept.progress.get(handover.target)
    if progress is None or progress.vouched < state.log.last_index:
        return []
    handover.sent = True
    return [Send(handover.target, TimeoutNow(**state.envelope()))]


def expire(state: GroupState, now: Now) -> list[Effect]:
    """An election timeout without a successor: this leader serves on."""
    kept = leading(state)
    handover = kept.handover
    if handover is None or now.monotonic < handover.deadline:
        return []
    kept.handover = None
    return [Resolve(handover.token, NotApplied(Reason.TIMED_OUT, state.leader))]
