"""What happens later: the arrivals and completions of simulated networks and disks, on one list."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from heapq import heappop, heappush
from math import inf

import trio


class Agenda:
    """Calls functions when they are due; `run` is the task that does. They must neither wait nor raise."""

    def __init__(self) -> None:
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._news = trio.Event()

    def at(self, time: float, act: Callable[[], None]) -> None:
        """Call `act` at a virtual time (s); what is due at the same time comes in the order of the calls."""
        if not self._due or time < self._due[0][0]:
            self._news.set()
        heappush(self._due, (time, next(self._numbers), act))

    def after(self, seconds: float, act: Callable[[], None]) -> None:
        self.at(trio.current_time() + seconds, act)

    async def run(self) -> None:
        while True:
            self._news = trio.Event()
            with trio.move_on_at(self._due[0][0] if self._due else inf):
                await self._news.wait()
            now = trio.current_time()
            while self._due and self._due[0][0] <= now:
                heappop(self._due)[2]()
