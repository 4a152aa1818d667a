"""When messages with a time to live of their own fall due, soonest first. Removed ones are forgotten.

Nobody tells when a message is removed, and a heap gives up nothing in its middle: of a subject that is
written again and again with a long time to live, it would keep every message ever. So once most of a heap
must be outdated, each new message takes a few of its leaves, and what is still there of them, into the next.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Final

Due = tuple[int, int]
"""(time in ns, sequence)"""

SLACK: Final = 65_536
"""Outdated ones that are not worth a sweep."""
SWEPT: Final = 4
"""Leaves that are looked at for each new message."""


class DueTimes:
    """The times of one stream's messages.

    Args:
        has: whether a sequence still has its message.
        messages: how many messages there are.
    """

    def __init__(self, has: Callable[[int], bool], messages: Callable[[], int]) -> None:
        self._has = has
        self._messages = messages
        self._heap: list[Due] = []
        self._outdated: list[Due] = []
        """Another heap, which is being swept; a heap without its last leaf is one."""

    def __len__(self) -> int:
        return len(self._heap) + len(self._outdated)

    def push(self, time: int, sequence: int) -> None:
        heapq.heappush(self._heap, (time, sequence))
        if not self._outdated and len(self._heap) > 2 * self._messages() + SLACK:
            self._heap, self._outdated = [], self._heap
        for _ in range(min(SWEPT, len(self._outdated))):
            due = self._outdated.pop()
            if self._has(due[1]):
                heapq.heappush(self._heap, due)

    def first(self) -> Due | None:
        """The one that falls due first."""
        return min((heap[0] for heap in (self._heap, self._outdated) if heap), default=None)

    def pop(self) -> Due:
        """Take the first one. There must be one."""
        first = self.first()
        return heapq.heappop(self._heap if self._heap and self._heap[0] == first else self._outdated)

    def heap(self) -> list[Due]:
        """All of them as one heap."""
        if not self._outdated:
            return self._heap
        joined = self._heap + self._outdated
        heapq.heapify(joined)
        return joined

    def restore(self, heap: list[Due]) -> None:
        """Takes what `heap` gave, or a sorted list."""
        self._heap, self._outdated = heap, []
