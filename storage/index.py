"""Where every live record of the log is: group -> index -> (segment, offset, length, term, kind)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Entry:
    """One batch of a group's log, without its bytes."""

    index: int
    term: int
    kind: int
    size: int


class Entries(Protocol):
    """A read-only sequence of a group's log entries, in index order, kept in compact arrays."""

    def __len__(self) -> int: ...
    def __getitem__(self, position: int) -> Entry: ...
    def __iter__(self) -> Iterator[Entry]: ...


@dataclass(frozen=True, slots=True)
class Range:
    """Indexes `first` to `last`, both included."""

    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Prefix:
    """What a CompactPrefix left: everything up to `index` is only in the manifest. (0, 0, 0) = nothing."""

    index: int = 0
    term: int = 0
    manifest_crc: int = 0


__all__ = ["Entries", "Entry", "Prefix", "Range", "Sequence"]
