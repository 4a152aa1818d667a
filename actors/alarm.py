"""Deadlines that move far more often than they pass: those of all groups of a node, in one task."""

import heapq
import itertools
import math
from collections.abc import Callable

import trio


class Alarm:
    """Rings once when its deadline has passed. Its owner may move the deadline with every message."""

    def __init__(self, ring: Callable[[], None], arm: Callable[["Alarm"], None]) -> None:
        self.ring = ring
        self.deadline = math.inf
        self.armed = math.inf
        """When `Alarms` looks at it: never later than `deadline`."""
        self._arm = arm

    def set(self, deadline: float) -> None:
        """Ring at `deadline` (seconds of Trio's clock; infinity: never) instead of when it was set to."""
        self.deadline = deadline
        if deadline < self.armed:
            self._arm(self)


class Alarms:
    """The alarms of one node.

    Moving a deadline later costs an assignment: whoever wakes at the old one looks how late it is now. A
    cancel scope around each group's wait for a message would cost as much as the message.
    """

    def __init__(self, through: Callable[..., None]) -> None:
        """`through(work, now)` does the work and what follows from it: `Turns.through` of the node."""
        self._through = through
        self._heap: list[tuple[float, int, Alarm]] = []
        self._order = itertools.count()
        self._sleep = trio.CancelScope()

    def alarm(self, ring: Callable[[], None]) -> Alarm:
        """A new alarm, set to never. `ring` must not wait or raise; it is called once for a `set`."""
        return Alarm(ring, self._arm)

    def _arm(self, alarm: Alarm) -> None:
        alarm.armed = alarm.deadline
        heapq.heappush(self._heap, (alarm.armed, next(self._order), alarm))
        if alarm.armed < self._sleep.deadline:
            self._sleep.deadline = alarm.armed

    async def run(self) -> None:
        """Ring until cancelled."""
        while True:
            self._sleep = trio.CancelScope(deadline=self._heap[0][0] if self._heap else math.inf)
            with self._sleep:
                await trio.sleep_forever()
            self._through(self._ring, trio.current_time())

    def _ring(self, now: float) -> None:
        while self._heap and self._heap[0][0] <= now:
            armed, _, alarm = heapq.heappop(self._heap)
            if armed == alarm.armed:  # else it was armed again for an earlier time
                self._look(alarm, now)

    def _look(self, alarm: Alarm, now: float) -> None:
        alarm.armed = math.inf
        if alarm.deadline > now:
            alarm.set(alarm.deadline)
        else:
            alarm.deadline = math.inf
            alarm.ring()
