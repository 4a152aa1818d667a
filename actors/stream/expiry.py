"""When messages expire: by the stream's maximum age, or by a time to live of their own.

Nothing here reads a clock: the machine says what time its log has come to.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, cast

from .due import DueTimes
from .durations import SECOND, parse_duration

if TYPE_CHECKING:
    from .store import MessageStore

__all__ = ["NEVER", "Expiry", "parse_ttl", "read_due"]

NEVER: Final = -1
"""A message with this time to live also outlives the stream's maximum age."""
LONGEST: Final = 1 << 60
"""Ns, some 36 years: what is meant to live longer does not fit a time of the log."""


def parse_ttl(text: bytes) -> int | None:
    """Ns of a `Nats-TTL` header, or NEVER, or None if it is wrong: "never", seconds, or a duration >= 1 s."""
    if text == b"never":
        return NEVER
    if text.isdigit():
        ttl = int(text[:12]) * SECOND if len(text) <= 12 else LONGEST
    else:
        ttl = parse_duration(text.decode(errors="replace")) or 0
    return min(ttl, LONGEST) if ttl >= SECOND else None


class Expiry:
    """The messages of one stream that live shorter or longer than others.

    Args:
        store: the stream's messages.
    """

    def __init__(self, store: MessageStore) -> None:
        self._store = store
        self._due = DueTimes(store.has, lambda: store.messages)
        """Messages that were removed may still be in it."""
        self._kept: set[int] = set()
        """Messages that never expire."""
        self._markers: set[int] = set()
        """Messages that say that a subject's last one expired."""
        self._aging_from = 0
        """Every message below is one of `_kept`. Moves on as far as `_oldest` has looked."""

    def note(self, sequence: int, ttl: int, time: int, *, marker: bool = False) -> None:
        """A message was stored with a time to live, ns or NEVER."""
        if ttl == NEVER:
            self._kept.add(sequence)
        else:
            self._due.push(time + ttl, sequence)
        if marker:
            self._markers.add(sequence)

    def expire(self, clock: int, max_age: int, *, watched: bool) -> list[bytes]:
        """Drops what is due; the subjects that have no message any more by that, if that is `watched`."""
        lapsed: list[bytes] = []
        while (first := self._due.first()) is not None and first[0] <= clock:
            self._drop(self._due.pop()[1], lapsed)
        if max_age > 0:
            if not watched and not self._kept:
                self._store.drop_older(clock - max_age)
            while (oldest := self._oldest()) is not None and self._store.time_at(oldest) <= clock - max_age:
                self._drop(oldest, lapsed)
        return lapsed if watched else []

    def next_due(self, max_age: int) -> int | None:
        """When (ns) the next message expires, if one will."""
        first = self._due.first()
        times = [first[0]] if first is not None else []
        oldest = self._oldest() if max_age > 0 else None
        if oldest is not None:
            times.append(self._store.time_at(oldest) + max_age)
        return min(times, default=None)

    def _oldest(self) -> int | None:
        """The oldest message that grows old."""
        sequence = self._store.find(self._aging_from)
        while sequence is not None and sequence in self._kept:
            sequence = self._store.find(sequence + 1)
        if sequence is not None:
            self._aging_from = sequence
        return sequence

    def _drop(self, sequence: int, lapsed: list[bytes]) -> None:
        subject = self._store.subject_at(sequence)
        marker = sequence in self._markers
        self._markers.discard(sequence)
        if subject is None:
            return
        self._store.drop(sequence)
        if not marker and not self._store.count_of(subject):
            lapsed.append(subject)

    # --- snapshots

    def pack(self) -> dict[str, object]:
        """As it is kept in a captured state. A million times to live take no longer than a heartbeat may.

        Nobody tells when a message is removed, so what was noted of those is forgotten here.
        """
        due = self._due.heap()
        kept, markers = self._present(self._kept), self._present(self._markers)
        return {
            "due": [
                array("q", [time for time, _ in due]).tobytes(),
                array("Q", [sequence for _, sequence in due]).tobytes(),
            ],
            "kept": kept,
            "markers": markers,
        }

    def _present(self, sequences: set[int]) -> list[int]:
        """Those that still have their messages, in order; no others stay in the set."""
        has = self._store.has
        present = [each for each in sorted(sequences) if has(each)]
        if len(present) < len(sequences):
            sequences.intersection_update(present)
        return present

    def restore(self, packed: Mapping[str, object]) -> None:
        """Takes what `pack` gave; nothing in a state from before messages had a time to live."""
        self._due.restore(read_due(cast("list[object]", packed.get("due", []))))
        self._kept.update(cast("list[int]", packed.get("kept", [])))
        self._markers.update(cast("list[int]", packed.get("markers", [])))


def read_due(packed: list[object]) -> list[tuple[int, int]]:
    """The heap of (time, sequence): two packed columns, or a list as in version 1 of a state.

    Raises ValueError or TypeError.
    """
    if len(packed) == 2 and all(isinstance(column, bytes) for column in packed):
        times, sequences = array("q"), array("Q")
        times.frombytes(cast("bytes", packed[0]))
        sequences.frombytes(cast("bytes", packed[1]))
        return list(zip(times, sequences, strict=True))
    return sorted((time, sequence) for time, sequence in cast("list[tuple[int, int]]", packed))
