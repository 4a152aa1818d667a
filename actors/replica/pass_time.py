"""The time of a pass: whatever comes in with it comes at one moment, and the clocks are read once for it."""

from __future__ import annotations

from ...storage.turns import Turns
from ..raft.messages import Now
from ..world import Clock


class PassTime:
    """What time it is for the groups of one node.

    A pass that brings appends for a hundred groups would else read both clocks a hundred times, which costs
    each of them as much as a rule does.
    """

    def __init__(self, clock: Clock, turns: Turns) -> None:
        self._clock = clock
        self._turns = turns
        self._read_in = 0
        self._read = Now(0.0, 0)

    def now(self) -> Now:
        """The moment at which the pass was first asked for it; outside of any pass, this one."""
        current = self._turns.current
        if not current or current != self._read_in:
            self._read_in = current
            self._read = Now(self._clock.monotonic(), self._clock.wall())
        return self._read

    def wall(self) -> int:
        """The node's clock at this very moment, ns since 1970: for what is measured."""
        return self._clock.wall()
