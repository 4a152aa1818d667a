"""How much log all groups of a node keep in memory together, so that many busy ones don't fill it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from weakref import WeakSet

if TYPE_CHECKING:
    from .log import Log

STEPS: Final = 8
"""The logs are looked at when they have grown by this part of what they may have. Looking costs a little for
each of them, and what they give up at a time is as much."""


class CacheBudget:
    """Shared by the logs of one node. What a disk does not have yet stays in memory whatever the limit is.

    Args:
        limit: bytes of all logs together that stay in memory although they are on the disk.
    """

    def __init__(self, limit: int) -> None:
        self.limit: Final = limit
        self._logs: Final[WeakSet[Log]] = WeakSet()
        self._grown = 0

    def join(self, log: Log) -> None:
        """This log counts from now on, for as long as somebody has it."""
        self._logs.add(log)

    def grew(self, size: int) -> None:
        """One of the logs holds so many bytes more."""
        self._grown += size
        if self._grown > self.limit // STEPS:
            self._grown = 0
            self._fit()

    def _fit(self) -> None:
        """Each gives up the same part of what it has, its oldest."""
        held = sum(log.cache_bytes for log in self._logs)
        kept = self.limit - self.limit // STEPS
        if held > kept:
            for log in list(self._logs):
                log.shrink_cache(log.cache_bytes * kept // held)
