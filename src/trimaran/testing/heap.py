"""Virtual time: what is to happen, in order. Nothing here knows what a cluster is."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any

Action = Callable[..., object]
MOST_AT_ONCE = 100_000
"""So many events at one moment are a loop: each of them plans the next one without a delay."""


class TimeStandsStill(RuntimeError):
    """Events go on and on at the same time."""


class Heap:
    """A clock that stands still but between two events. Events at the same time happen in the order in which
    they were planned."""

    __slots__ = ("_planned", "_queue", "time")

    def __init__(self) -> None:
        self.time = 0.0
        """Virtual seconds since the beginning."""
        self._queue: list[tuple[float, int, Action, tuple[Any, ...]]] = []
        self._planned = 0

    def at(self, time: float, action: Action, *arguments: Any) -> None:
        """Call `action` at a time, or next if that time has passed."""
        self._planned += 1
        heapq.heappush(self._queue, (max(time, self.time), self._planned, action, arguments))

    def after(self, delay: float, action: Action, *arguments: Any) -> None:
        self.at(self.time + delay, action, *arguments)

    def run(self, seconds: float) -> None:
        """Everything within the next `seconds`, which then have passed."""
        self.run_until(self.time + seconds)

    def run_until(self, end: float) -> None:
        queue, at_once = self._queue, 0
        while queue and queue[0][0] <= end:
            time, _, action, arguments = heapq.heappop(queue)
            if time > self.time:
                self.time, at_once = time, 0
            at_once += 1
            if at_once > MOST_AT_ONCE:
                raise TimeStandsStill(f"at {time}: {action}")
            action(*arguments)
        self.time = end

    def wait_for(self, done: Callable[[], bool], limit: float, every: float = 0.02) -> bool:
        """Whether `done` within `limit` seconds; asked every `every` seconds."""
        end = self.time + limit
        while not done():
            if self.time >= end:
                return False
            self.run_until(min(end, self.time + every))
        return True
