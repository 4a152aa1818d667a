"""The rules of a learner (thesis 4.2.1): a follower that never campaigns. Also whoever was removed."""

from __future__ import annotations

from . import follower
from .effects import Effect
from .messages import Campaign, Message, Now, PeerDown, Tick, TimeoutNow
from .state import GroupState


def step(state: GroupState, message: Message, now: Now) -> list[Effect]:
    if isinstance(message, Tick | Campaign | TimeoutNow | PeerDown):
        return []
    return follower.step(state, message, now)
