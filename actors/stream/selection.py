"""Which of a stream's messages a consumer wants: finding the next one, and counting those that are left."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ...codec.block import EVERYTHING
from .subjects import SubjectFilter

if TYPE_CHECKING:
    from .store import MessageStore

__all__ = ["Selection"]


class Selection:
    """The messages of some subjects, kept up with the subjects that come and go.

    Args:
        store: the messages. A selection ends with its store.
        patterns: subjects with wildcards; none for every message.
    """

    def __init__(self, store: MessageStore, patterns: Sequence[str]) -> None:
        self._store = store
        self.patterns = tuple(pattern.encode() for pattern in patterns)
        """Empty: every message is wanted."""
        self._patterns = SubjectFilter(patterns) if patterns else None
        self._wanted = bytearray()
        """By subject id, whether it is wanted. An id without messages may say anything."""
        self._looked = 0
        """How many of the store's `named` were looked at, of the epoch that follows."""
        self._epoch = 0

    def __contains__(self, subject: bytes) -> bool:
        return self._patterns is None or subject in self._patterns

    def find(self, sequence: int) -> int | None:
        """The first sequence from the given one on that has a wanted message."""
        if self._patterns is None:
            return self._store.find(sequence)
        return self._store.find(sequence, wanted=self._table())

    def count(self, sequence: int) -> int:
        """Wanted messages from a sequence on."""
        store = self._store
        if sequence > store.last:
            return 0
        if self._patterns is None:
            return store.messages if sequence <= store.first else store.count_from(sequence)
        numbers = self._numbers()
        if sequence <= store.first:
            return sum(store.counts(numbers))
        return store.count_from_of(sequence, numbers)

    def last_of_each(self, up_to: int = EVERYTHING) -> list[int]:
        """The newest sequence, up to a place, of every wanted subject that has one there; ascending."""
        return sorted(self._store.lasts(self._numbers(), up_to))

    def _numbers(self) -> list[int]:
        subjects = self._store.subjects
        if self._patterns is None:
            return list(subjects.values())
        table = self._table()
        return [number for number in subjects.values() if table[number]]

    def _table(self) -> bytearray:
        store, patterns = self._store, self._patterns
        assert patterns is not None
        named = store.named
        if store.named_epoch != self._epoch:
            self._epoch, self._looked = store.named_epoch, 0
        for number in named[self._looked :]:
            if number >= len(self._wanted):
                self._wanted.extend(bytes(number + 1 - len(self._wanted)))
            self._wanted[number] = store.name_of(number) in patterns
        self._looked = len(named)
        return self._wanted
