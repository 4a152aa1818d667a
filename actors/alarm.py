"""A deadline that moves far more often than it passes."""

import math
from collections.abc import Callable

import trio


class Alarm:
    """Rings once when its deadline has passed. Its owner may move the deadline with every message.

    Moving it later costs an assignment: Trio's own deadline stays where it was, and whoever wakes there looks
    how late it is now. A cancel scope around each wait for a message would cost as much as the message.

    Args:
        ring: called in this actor's task; must not wait or raise. It rings again only after another `set`.
    """

    def __init__(self, ring: Callable[[], None]) -> None:
        self._ring = ring
        self._deadline = math.inf
        self._sleep = trio.CancelScope()

    def set(self, deadline: float) -> None:
        """Ring at `deadline` (seconds of Trio's clock; infinity: never) instead of when it was set to."""
        self._deadline = deadline
        if deadline < self._sleep.deadline:
            self._sleep.deadline = deadline

    async def run(self) -> None:
        """Ring until cancelled."""
        while True:
            with self._sleep:
                await trio.sleep_forever()
            passed = trio.current_time() >= self._deadline
            if passed:
                self._deadline = math.inf
            self._sleep = trio.CancelScope(deadline=self._deadline)
            if passed:
                self._ring()
