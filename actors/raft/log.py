"""What the Raft core knows of its group's log: the term and size of every batch, and the newest bytes.

    compacted        cached_from          synced      last_index
        |                 |                  |            |
    ....|-----------------|==================|============|
     gone  on disk only      disk and memory   memory, disk
                                               write queued

The files are storage's. This is the log as it will be once every queued `Persist` is written.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterable

from .log_cache import CacheBudget
from .value import value


@value()
class EntryId:
    """What identifies a batch: no two batches of a group share both (Raft 5.3, log matching)."""

    index: int
    term: int


NOTHING = EntryId(0, 0)
"""What a log ends in before its first entry."""


class Log:
    """The log of one group.

    Invariants: synced <= last_index, and compacted.index <= synced once the compaction is synced; terms never
    fall from one index to the next; everything from `cached_from` to `last_index` has its bytes in memory,
    and everything unsynced is among it.
    """

    __slots__ = (
        "__weakref__",
        "_budget",
        "_cache",
        "_run_starts",
        "_run_terms",
        "_sizes",
        "cache_bytes",
        "cache_limit",
        "cached_from",
        "compacted",
        "holes",
        "last_index",
        "last_time",
        "synced",
    )

    compacted: EntryId
    """The newest entry that a durable manifest covers; the log begins behind it. Moved by `compact`,
    `reset`."""
    last_index: int
    """The newest entry, or compacted.index if there is none. Moved by `append`, `truncate_from`, `reset`."""
    synced: int
    """Everything up to here is on the disk. Moved up by `mark_synced` only, down by `truncate_from`,
    `reset`."""
    last_time: int
    """The highest time (ns) that any batch here was ever stamped with. Invariant: never falls."""
    cached_from: int
    """The oldest index whose bytes are in memory; last_index + 1 if none is."""
    cache_bytes: int
    """Bytes in memory."""
    cache_limit: int
    """Bytes that stay in memory although they are synced. Set by whoever knows who may want them."""
    holes: set[int]
    """Batches that can't be read: only their names are known. Moved by `healing.py`, and by what removes
    them."""

    def __init__(
        self,
        compacted: EntryId = NOTHING,
        entries: Iterable[tuple[int, int, int]] = (),
        *,
        cache_limit: int = 32 << 20,
        last_time: int = 0,
        budget: CacheBudget | None = None,
    ) -> None:
        """A log that is wholly on the disk: `entries` are (index, term, size), consecutive from compacted +
        1. `budget`: what it and others keep in memory together; None: it has no others."""
        self._sizes = array("I")
        self._run_starts: list[int] = []
        self._run_terms: list[int] = []
        self._cache: dict[int, bytes] = {}
        self.cache_limit = cache_limit
        self.cache_bytes = 0
        self.holes = set()
        self.compacted = compacted
        self.last_index = compacted.index
        self.last_time = last_time
        for index, term, size in entries:
            self._add(index, term, size)
        self.synced = self.last_index
        self.cached_from = self.last_index + 1
        self._budget = budget
        if budget is not None:
            budget.join(self)

    # --- questions ------------------------------------------------------------------------------------------

    @property
    def first_index(self) -> int:
        """The oldest index the log still has, if it has any."""
        return self.compacted.index + 1

    @property
    def last(self) -> EntryId:
        return EntryId(self.last_index, self._run_terms[-1] if self._run_terms else self.compacted.term)

    def term_at(self, index: int) -> int | None:
        """The term of the entry at `index`; None where the log (no longer, not yet) has one."""
        if index == self.compacted.index:
            return self.compacted.term
        if not self.compacted.index < index <= self.last_index:
            return None
        return self._run_terms[bisect_right(self._run_starts, index) - 1]

    def terms(self) -> tuple[tuple[int, int], ...]:
        """(first index, term) of each run of equal terms."""
        return tuple(zip(self._run_starts, self._run_terms, strict=True))

    def size_of(self, first: int, last: int) -> int:
        """Bytes of the batches from `first` to `last`, both of which the log has."""
        start = first - self.first_index
        return sum(self._sizes[start : start + last - first + 1])

    def cached_one(self, index: int) -> bytes | None:
        """The batch at `index`, if it is still in memory."""
        return self._cache.get(index)

    def is_covered_by(self, other: EntryId) -> bool:
        """Whether a log that ends in `other` is at least as up-to-date as this one (Raft 5.4.1)."""
        last = self.last
        return (other.term, other.index) >= (last.term, last.index)

    def newest_not_after(self, index: int, term: int) -> EntryId:
        """The last entry at or before `index` whose term is at most `term`: where two logs may still agree.

        A log that conflicts at `index` with one of `term` there can't share anything after it, since terms
        never fall along a log; so one answer skips a whole term instead of one entry (Raft 5.3, end).
        """
        index = min(index, self.last_index)
        if index <= self.compacted.index:
            return self.compacted
        run = bisect_right(self._run_starts, index) - 1
        while run >= 0 and self._run_terms[run] > term:
            index = self._run_starts[run] - 1
            run -= 1
        return EntryId(index, self._run_terms[run]) if run >= 0 else self.compacted

    def cached(self, first: int, max_bytes: int, last: int | None = None) -> tuple[bytes, ...] | None:
        """Batches from `first` on: about `max_bytes`, at least one if there is one, none after `last`.

        None if the bytes are no longer in memory: then the actor reads the disk.
        """
        if first < self.cached_from:
            return None
        end = self.last_index if last is None else min(last, self.last_index)
        found: list[bytes] = []
        for index in range(first, end + 1):
            batch = self._cache[index]
            max_bytes -= len(batch)
            if found and max_bytes < 0:
                break
            found.append(batch)
        return tuple(found)

    # --- changes --------------------------------------------------------------------------------------------

    def append(self, batch: bytes, index: int, term: int, time: int) -> None:
        """Add the next sealed batch. It is not synced before `mark_synced` says so."""
        self._add(index, term, len(batch))
        self._cache[index] = batch
        self.cache_bytes += len(batch)
        self.last_time = max(self.last_time, time)
        if self._budget is not None:
            self._budget.grew(len(batch))
        self._trim_cache()

    def truncate_from(self, index: int) -> None:
        """Remove `index` and everything after it (Raft 5.3: it conflicts with the leader's log)."""
        assert self.compacted.index < index, (
            f"truncating {index} would cut into the snapshot {self.compacted}"
        )
        for removed in range(max(index, self.cached_from), self.last_index + 1):
            self.cache_bytes -= len(self._cache.pop(removed))
        del self._sizes[index - self.first_index :]
        self.holes = {hole for hole in self.holes if hole < index}
        while self._run_starts and self._run_starts[-1] >= index:
            self._run_starts.pop()
            self._run_terms.pop()
        self.last_index = index - 1
        self.synced = min(self.synced, self.last_index)
        self.cached_from = min(self.cached_from, self.last_index + 1)

    def mark_synced(self, index: int) -> None:
        """Everything up to `index` is on the disk."""
        assert index <= self.last_index, f"synced {index} is beyond the log's end {self.last_index}"
        self.synced = max(self.synced, index)
        self._trim_cache()

    def compact(self, index: int, term: int) -> None:
        """A durable manifest covers the log up to (`index`, `term`), which the log has."""
        assert self.term_at(index) == term, f"the log has no entry ({index}, {term}) to compact to"
        for removed in range(self.cached_from, index + 1):
            self.cache_bytes -= len(self._cache.pop(removed))
        del self._sizes[: index - self.compacted.index]
        run = bisect_right(self._run_starts, index + 1) - 1  # the run that holds index + 1, if there is one
        del self._run_starts[:run], self._run_terms[:run]
        if index == self.last_index:
            self._run_starts, self._run_terms = [], []
        elif self._run_starts[0] <= index:
            self._run_starts[0] = index + 1
        self.compacted = EntryId(index, term)
        self.holes = {hole for hole in self.holes if hole > index}
        self.cached_from = max(self.cached_from, index + 1)

    def reset(self, index: int, term: int, time: int) -> None:
        """A snapshot as of (`index`, `term`), which the log doesn't have, takes the place of the whole
        log."""
        self._sizes = array("I")
        self._run_starts, self._run_terms = [], []
        self._cache, self.cache_bytes = {}, 0
        self.holes = set()
        self.compacted = EntryId(index, term)
        self.last_index = index
        self.synced = 0  # the disk still has the old log
        self.last_time = max(self.last_time, time)
        self.cached_from = index + 1

    def _add(self, index: int, term: int, size: int) -> None:
        assert index == self.last_index + 1, f"index {index} does not follow {self.last_index}"
        last_term = self.last.term
        assert term >= last_term, f"term {term} at index {index} follows term {last_term}"
        if not self._run_terms or self._run_terms[-1] != term:
            self._run_starts.append(index)
            self._run_terms.append(term)
        self._sizes.append(size)
        self.last_index = index

    def shrink_cache(self, size: int, last: int | None = None) -> None:
        """Keep no more than `size` bytes in memory, as far as the rest is synced and not behind `last`."""
        end = self.synced if last is None else min(self.synced, last)
        while self.cache_bytes > size and self.cached_from <= end:
            self.cache_bytes -= len(self._cache.pop(self.cached_from))
            self.cached_from += 1

    def _trim_cache(self) -> None:
        if self.cache_bytes > self.cache_limit:
            self.shrink_cache(self.cache_limit)
