"""What happens later: the arrivals and completions of simulated networks and disks, on one list."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from heapq import heappop, heappush
from math import inf

import trio


class Agenda:
    """Calls functions when they are due. They must neither wait nor raise.

    Its clock performs it, between two passes of Trio's loop: half of all passes were a task's that did.
    """

    def __init__(self) -> None:
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()

    def at(self, time: float, act: Callable[[], None]) -> None:
        """Call `act` at a virtual time (s); what is due at the same time comes in the order of the calls."""
        heappush(self._due, (time, next(self._numbers), act))

    def after(self, seconds: float, act: Callable[[], None]) -> None:
        self.at(trio.current_time() + seconds, act)

    @property
    def next(self) -> float:
        """When something is due; never: infinity."""
        return self._due[0][0] if self._due else inf

    def perform(self, now: float) -> None:
        """Call what is due by now."""
        while self._due and self._due[0][0] <= now:
            heappop(self._due)[2]()
