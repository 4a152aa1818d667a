"""Counts by size, cheap enough for the path of every batch."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import Final

__all__ = ["BATCH_BOUNDS", "SECONDS_BOUNDS", "Histogram"]

BATCH_BOUNDS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 65535)
"""Entries of a batch."""
SECONDS_BOUNDS: Final = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0),
)
"""From a disk that answers from its cache to one that has stopped."""


class Histogram:
    """How many values were at most each bound.

    Args:
        bounds: rising; what is above the last one is counted too.
    """

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        """Values in each bucket alone; the last one has what is above all bounds."""
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def add(self, others: Iterable[Histogram]) -> Histogram:
        """Counts those of others too, which have the same bounds; itself."""
        for other in others:
            self.total += other.total
            self.counts = [mine + theirs for mine, theirs in zip(self.counts, other.counts, strict=True)]
        return self
