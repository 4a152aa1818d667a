"""Consumers whose clients would take a message, found by the subjects that they want.

Ten thousand consumers may wait on a stream, each for a subject of its own: a batch of messages must cost what
those consumers cost that it is for.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import TYPE_CHECKING

from ..stream.subjects import SubjectIndex

if TYPE_CHECKING:
    from .led import LedConsumer

__all__ = ["Hungry"]


class Hungry:
    """A set of consumers of one stream."""

    def __init__(self) -> None:
        self._patterns: dict[LedConsumer, tuple[bytes, ...]] = {}
        """Under which patterns each is found; none: it wants every message."""
        self._unfiltered: dict[LedConsumer, None] = {}
        self._index: SubjectIndex[dict[LedConsumer, None]] = SubjectIndex()
        self._by_pattern: dict[bytes, dict[LedConsumer, None]] = {}

    def __iter__(self) -> Iterator[LedConsumer]:
        return iter(self._patterns)

    @property
    def filtered(self) -> int:
        """How many of them do not want every message."""
        return len(self._patterns) - len(self._unfiltered)

    def add(self, led: LedConsumer) -> None:
        """It waits; with a selection that changed it is found anew."""
        patterns = led.selection.patterns
        if self._patterns.get(led) == patterns:
            return
        self.discard(led)
        self._patterns[led] = patterns
        if not patterns:
            self._unfiltered[led] = None
        for pattern in patterns:
            together = self._by_pattern.get(pattern)
            if together is None:
                together = self._by_pattern[pattern] = {}
                self._index.add(pattern, together)
            together[led] = None

    def discard(self, led: LedConsumer) -> None:
        """It waits no more; nothing happens if it did not."""
        patterns = self._patterns.pop(led, None)
        self._unfiltered.pop(led, None)
        for pattern in patterns or ():
            together = self._by_pattern[pattern]
            del together[led]
            if not together:
                del self._by_pattern[pattern]
                self._index.remove(pattern)

    def wanting(self, subjects: Collection[bytes]) -> Iterable[LedConsumer]:
        """Those that want a message of one of these subjects, and perhaps others; some more than once."""
        yield from self._unfiltered
        if len(subjects) >= self.filtered:
            yield from self._patterns
            return
        for subject in subjects:
            for together in self._index.matching(subject):
                yield from together
