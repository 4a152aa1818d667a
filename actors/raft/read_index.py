"""The leader's rules of linearizable reads (Raft section 8, thesis 6.4): one exchange of heartbeats for all.

A read waits until this term has a commit and a majority has confirmed, after it came, that this leader still
leads. Then it may be served by any replica that has applied up to the commit index of that moment.
"""

from __future__ import annotations

from . import leader
from .effects import Effect, ReadReady
from .messages import BeatReply
from .state import GroupState, ReadRound, leading


def start_round(state: GroupState) -> list[Effect]:
    """One exchange of heartbeats confirms all reads that waited for it, once this term has a commit."""
    kept = leading(state)
    if not kept.reads or kept.read_round is not None or state.commit < kept.noop:
        return []
    kept.read_number += 1
    kept.read_round = ReadRound(kept.read_number, state.commit, kept.reads, {state.node})
    kept.reads = []
    return finish_round(state) or leader.beats(state)


def confirm(state: GroupState, reply: BeatReply) -> list[Effect]:
    round_ = leading(state).read_round
    if round_ is None or reply.read < round_.number:
        return []
    round_.confirmed_by.add(reply.sender)
    return finish_round(state)


def finish_round(state: GroupState) -> list[Effect]:
    kept = leading(state)
    round_ = kept.read_round
    if round_ is None or not state.membership.is_quorum(round_.confirmed_by):
        return []
    kept.read_round = None
    ready: list[Effect] = [ReadReady(token, round_.index) for token in round_.tokens]
    return ready + start_round(state)
