"""Which other nodes give signs of life: what a quiet group trusts instead of its own heartbeats (DESIGN 8).

A node says something to every other node at least once an interval, if only "alive". Whoever was heard and is
not heard for `patience` counts as silent, though its connection may be open: a stopped process, a machine
without power, a cable pulled.
"""

from __future__ import annotations


class Liveness:
    """Plain memory: whoever uses it brings the clock (monotonic seconds)."""

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._heard: dict[int, float] = {}

    def heard(self, node: int, now: float) -> None:
        """Something came from this node."""
        self._heard[node] = now

    def fallen_silent(self, now: float) -> list[int]:
        """Nodes that are silent for too long by now. Each is named once, until it is heard again."""
        silent = [node for node, heard in self._heard.items() if now - heard > self._patience]
        for node in silent:
            del self._heard[node]
        return silent
