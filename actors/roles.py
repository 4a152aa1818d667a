"""One step of a group's Raft."""

from __future__ import annotations

from .effects import Effect
from .messages import Message, Now
from .state import GroupState


def step(state: GroupState, message: Message, now: Now) -> list[Effect]:
    """Take one message; change the state; say what must be done, in order."""
    raise NotImplementedError
