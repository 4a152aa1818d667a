"""One group as the monitor shows it."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class GroupStatistics:
    """One group as /raftz shows it."""

    group: int
    name: str
    kind: str
    role: str
    term: int
    leader: int
    commit: int
    applied: int
    last_index: int
    first_index: int
    voters: tuple[int, ...]
    learners: tuple[int, ...]
    batches: int
    entries: int
    refused: int
    """Messages that found the mailbox full."""
    dropped: int
    """Messages of peers that were damaged or made no sense."""
    quiet: bool
    """Idle: nobody sends heartbeats for this group alone."""
    failed: str
    faulty: tuple[tuple[int, int], ...]
    """(first, last) of each range of indexes whose batches can't be read here."""
    repaired: int
    """Damaged batches that were put back."""
    mended: int
    """Damaged records of the machine's files that were put back."""
    damaged: tuple[str, ...]
    """Records that can't be read now, in words: the first few."""
    lost: tuple[tuple[int, int], ...]
    """(first, last) of records that no replica could read: they were given up."""
    compared: int
    """Rolling hashes of leaders that this replica compared with its own."""
    diverged: int
    """How often it was the odd one and gave up its state."""
    undecided: int
    """Index at which replicas differ while nobody can say who is right; 0 for none."""
    waits_for: str
    """What repair still lacks, for people; empty if nothing is damaged."""


def ranges(indexes: Collection[int]) -> Iterator[tuple[int, int]]:
    """(first, last) of each run of successive indexes."""
    for index in sorted(indexes):
        if index - 1 not in indexes:
            first = index
        if index + 1 not in indexes:
            yield first, index
