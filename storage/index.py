"""Where every live record of the log is: group -> index -> (segment, offset, length, term, kind).

The same code follows the log while it is written and replays it at start-up, so both agree by construction.
A record is live while a restart still needs it: a group's creation, its last hard state, its last prefix,
and its entries. Truncations and deletions need not be: segments go oldest first, so what they removed is
gone before they are.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final, Protocol

from ..codec.wal import Columns, Run
from .records import CompactPrefix, GroupCreate, HardState, Record
from .segment import (
    BATCH,
    CLOSED,
    COMPACT,
    CREATE,
    DELETE,
    FRAME_SIZE,
    HARD_STATE,
    LOST,
    READMITTED,
    REPAIR,
    TRUNCATE,
    Item,
    decode_commit,
    decode_create,
    decode_manifest_crc,
)

FAULTY: Final = 0x80
"""Bit in an entry's kind: it was appended, and its bytes are damaged or gone."""
DOUBTFUL: Final = 0x40
"""Bit beside FAULTY: only a torn write had it, so it may never have been synced."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One batch of a group's log, without its bytes."""

    index: int
    term: int
    kind: int
    """The codec's batch kind; 0 if the batch is damaged."""
    size: int


@dataclass(frozen=True, slots=True)
class Fault:
    """A batch that must be there and can't be read: what a copy of it must be, and where its bytes should be.

    Who holds a batch with this name and checksum may put it back (`BatchRecord` with `repair`).
    """

    index: int
    term: int
    """0 if not even the batch's name is left: then the group is closed."""
    crc: int
    """The checksum in the batch's header, which covers all of it; 0 if it is not known."""
    doubtful: bool
    """It was in a torn write and may never have been synced: neither held nor absent."""
    segment: int
    """Where its bytes lie damaged; 0 if they are gone."""
    offset: int


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


@dataclass(frozen=True, slots=True)
class Place:
    """Where a batch lies."""

    segment: int
    offset: int
    length: int


@dataclass(slots=True)
class SegmentUse:
    """Which live records a segment has: per group, how many and how many bytes with their frames."""

    groups: dict[int, list[int]] = field(default_factory=dict)

    @property
    def live_bytes(self) -> int:
        return sum(size for _, size in self.groups.values())


class GroupLog:
    """One group's live records."""

    __slots__ = (
        "checksums",
        "closed",
        "commit",
        "created",
        "first",
        "group",
        "homes",
        "incarnation",
        "kind",
        "kinds",
        "lengths",
        "members",
        "name",
        "offsets",
        "prefix",
        "segments",
        "term",
        "terms",
        "vote",
    )

    def __init__(self, group: int, incarnation: int) -> None:
        self.group = group
        self.incarnation = incarnation
        self.kind = self.name = ""
        self.members = b""
        self.created = False
        """Whether its GroupCreate was seen."""
        self.closed = False
        """Whether its term or vote is lost, and what it had promised with it."""
        self.term = self.vote = self.commit = 0
        self.prefix = Prefix()
        self.first = 1
        """The index of the first entry in the arrays."""
        self.segments = array("I")
        self.offsets = array("I")
        self.lengths = array("I")
        self.terms = array("Q")
        self.kinds = array("B")
        self.checksums: dict[int, int] = {}
        """Of faulty entries, by index: the checksum that the batch's header had."""
        self.homes: dict[int, tuple[int, int]] = {}
        """For each of CREATE, HARD_STATE, COMPACT: the segment of the live one, and its size."""

    @property
    def last(self) -> int:
        """The last index in the arrays; `first` - 1 if there is none."""
        return self.first + len(self.terms) - 1

    def faulty(self) -> list[Range]:
        """Indexes that must be there and can't be read, as few ranges as they make."""
        ranges: list[Range] = []
        for index in self._faulty_indexes():
            if ranges and ranges[-1].last == index - 1:
                ranges[-1] = Range(ranges[-1].first, index)
            else:
                ranges.append(Range(index, index))
        return ranges

    def faults(self) -> list[Fault]:
        """The same, one by one, with what is known of each."""
        return [self._fault(index) for index in self._faulty_indexes()]

    def _faulty_indexes(self) -> Iterator[int]:
        if len(self.terms):
            yield from range(self.prefix.index + 1, self.first)
        for position, kind in enumerate(self.kinds):
            if kind & FAULTY:
                yield self.first + position

    def _fault(self, index: int) -> Fault:
        position = index - self.first
        if position < 0:
            return Fault(index, 0, 0, False, 0, 0)
        return Fault(
            index,
            self.terms[position],
            self.checksums.get(index, 0),
            bool(self.kinds[position] & DOUBTFUL),
            self.segments[position] if not self.kinds[position] & DOUBTFUL else 0,
            self.offsets[position],
        )


class EntryTable:
    """A group's entries as a sequence of `Entry`."""

    __slots__ = ("_log",)

    def __init__(self, log: GroupLog) -> None:
        self._log = log

    def __len__(self) -> int:
        return len(self._log.terms)

    def __getitem__(self, position: int) -> Entry:
        log = self._log
        if position < 0:
            position += len(log.terms)
        kind = 0 if log.kinds[position] & FAULTY else log.kinds[position]
        return Entry(log.first + position, log.terms[position], kind, log.lengths[position])

    def __iter__(self) -> Iterator[Entry]:
        return (self[position] for position in range(len(self)))


class LogIndex:
    """All groups' live records and, per segment, who keeps it alive."""

    def __init__(self) -> None:
        self.groups: dict[int, GroupLog] = {}
        self.uses: dict[int, SegmentUse] = {}
        """By segment number; a segment without live records may be missing here."""
        self._lossy = False
        """Something is lost before what is taken in now, and nothing says what."""
        self._deleted: dict[int, int] = {}
        """The highest incarnation that was deleted, by group."""

    def apply(
        self,
        kind: int,
        flags: int,
        group: int,
        incarnation: int,
        index: int,
        term: int,
        *,
        segment: int,
        offset: int,
        length: int,
        body: bytes,
        batch_kind: int,
        crc: int,
        intact: bool = True,
    ) -> None:
        """Takes in the next record of the log. If it is not `intact`, only its frame's fields are known."""
        log = self._log_of(group, incarnation, is_new=is_new(kind, flags))
        if log is None:
            return
        if kind == BATCH:
            if flags & LOST:
                mark = FAULTY | DOUBTFUL
            else:
                mark = batch_kind if intact else FAULTY
            self._add(log, index, term, segment, offset, length, mark, repair=bool(flags & REPAIR))
            if mark & FAULTY:
                log.checksums[index] = crc
            else:
                log.checksums.pop(index, None)
        elif kind == HARD_STATE:
            # The frame alone has term and vote; only the commit hint is lost with the body.
            log.term, log.vote = term, index
            log.commit = decode_commit(body) if intact else log.commit
            if flags & (CLOSED | READMITTED):
                log.closed = bool(flags & CLOSED)
            self._settle(log, HARD_STATE, segment, length)
        elif kind == TRUNCATE:
            self._cut(log, index)
        elif kind == COMPACT:
            if self._compact(log, Prefix(index, term, decode_manifest_crc(body) if intact else 0)):
                self._settle(log, COMPACT, segment, length)
        elif kind == CREATE:
            if intact:
                log.kind, log.name, log.members = decode_create(body)
                log.created = True
            self._settle(log, CREATE, segment, length)
        elif kind == DELETE:
            self._drop(log)
            self._deleted[group] = incarnation

    def extend(self, item: Item, segment: int, offset: int) -> bool:
        """Takes in a batch that its group's log simply goes on with; the same as `apply`, in a third of the
        time. False, with nothing done, if it is anything else."""
        log = self.groups.get(item.group)
        if log is None or log.incarnation != item.incarnation or not log.terms or item.index != log.last + 1:
            return False
        body = item.body
        self._push(log, item.term, segment, offset, len(body), body[3])
        self._count(segment, item.group, 1, len(body) + FRAME_SIZE)
        if log.checksums:
            log.checksums.pop(item.index, None)
        return True

    def apply_run(self, run: Run, columns: Columns, segment: int) -> None:
        """Takes in successive batches of one group, all intact; the same as `apply` for each of them."""
        log = self._log_of(run.group, run.incarnation)
        if log is None:
            return
        covered = min(run.count, max(0, log.prefix.index + 1 - run.index))
        start, stop = run.start + covered, run.start + run.count
        if start == stop:
            return
        self._make_way(log, run.index + covered)
        log.segments.extend(array("I", [segment]) * (stop - start))
        log.offsets.extend(columns.offsets[start:stop])
        log.lengths.extend(columns.lengths[start:stop])
        log.terms.extend(columns.terms[start:stop])
        log.kinds.extend(columns.kinds[start:stop])
        size = sum(columns.lengths[start:stop]) + (stop - start) * FRAME_SIZE
        self._count(segment, log.group, stop - start, size)
        for index in [index for index in log.checksums if index >= run.index]:
            del log.checksums[index]

    def place(self, group: int, index: int) -> Place | None:
        """Where a batch lies; None if the group doesn't hold it in readable form."""
        log = self.groups.get(group)
        position = index - log.first if log is not None else -1
        if log is None or not 0 <= position < len(log.terms) or log.kinds[position] & FAULTY:
            return None
        return Place(log.segments[position], log.offsets[position], log.lengths[position])

    def mark_faulty(self, group: int, index: int, crc: int = 0) -> None:
        """The batch there turned out to be unreadable; what `place` says of it no longer counts.

        `crc`: the checksum that its header had, if that is known.
        """
        log = self.groups[group]
        log.kinds[index - log.first] |= FAULTY
        if crc:
            log.checksums[index] = crc

    def close_all(self) -> None:
        """Something is lost and nothing says what: no group that existed then can trust its state.

        Neither can one of which all that is left from then lies further behind, written again.
        """
        self._lossy = True
        for log in self.groups.values():
            log.closed = True

    def would_close(self, item: Item) -> bool:
        """Whether this record, as the next one, would be the first of a group that is none of those that were
        made since something was lost."""
        log = self.groups.get(item.group)
        known = log is not None and log.incarnation >= item.incarnation
        return self._lossy and not known and not is_new(item.kind, item.flags)

    def largest(self) -> int:
        """Bytes of the largest batch; 0 if there is none."""
        return max((max(log.lengths, default=0) for log in self.groups.values()), default=0)

    def live_bytes(self, segments: Iterable[int]) -> int:
        """Bytes of live records in these segments."""
        return sum(use.live_bytes for number in segments if (use := self.uses.get(number)) is not None)

    def entries_in(self, segment: int) -> list[tuple[GroupLog, int]]:
        """(group log, index) of every live readable batch in a segment."""
        use = self.uses.get(segment, SegmentUse())
        return [
            (log, log.first + position)
            for log in (self.groups[group] for group in use.groups)
            for position, (home, kind) in enumerate(zip(log.segments, log.kinds, strict=True))
            if home == segment and not kind & FAULTY
        ]

    def homes_in(self, segment: int) -> list[tuple[GroupLog, int]]:
        """(group log, record kind) of every other live record in a segment."""
        use = self.uses.get(segment, SegmentUse())
        return [
            (self.groups[group], kind)
            for group in use.groups
            for kind, (home, _) in self.groups[group].homes.items()
            if home == segment
        ]

    def was_deleted(self, group: int, incarnation: int) -> bool:
        """Whether the log says that this incarnation, or a later one, is no more: it takes nothing of it."""
        return incarnation <= self._deleted.get(group, -1)

    def _log_of(self, group: int, incarnation: int, *, is_new: bool = False) -> GroupLog | None:
        """The log that a record belongs to; None if that incarnation is a thing of the past.

        A record may come before its group's creation, if that one was written again further behind.
        """
        log = self.groups.get(group)
        if log is not None and log.incarnation == incarnation:
            return log
        if incarnation <= self._deleted.get(group, -1) or (log is not None and log.incarnation > incarnation):
            return None
        if log is not None:
            self._drop(log)
        log = self.groups[group] = GroupLog(group, incarnation)
        log.closed = self._lossy and not is_new
        return log

    def _add(
        self,
        log: GroupLog,
        index: int,
        term: int,
        segment: int,
        offset: int,
        length: int,
        kind: int,
        *,
        repair: bool,
    ) -> None:
        if index <= log.prefix.index:
            return
        if repair and log.terms and index <= log.last:
            self._put_back(log, index, term, segment, offset, length, kind)
            return
        self._make_way(log, index)
        self._push(log, term, segment, offset, length, kind)
        self._count(segment, log.group, 1, length + FRAME_SIZE)

    def _make_way(self, log: GroupLog, index: int) -> None:
        """The next entry to be pushed is `index`: what follows it goes, what is missing before is faulty."""
        if log.terms and index <= log.last:
            self._cut(log, index)
        if not log.terms:
            log.first = index
        while log.last < index - 1:
            self._push(log, 0, 0, 0, 0, FAULTY)

    def _put_back(
        self, log: GroupLog, index: int, term: int, segment: int, offset: int, length: int, kind: int
    ) -> None:
        """A batch was written again (from a segment to be freed, or from a peer's copy)."""
        missing = log.first - index
        if missing > 0:
            for values, filler in (
                (log.segments, 0),
                (log.offsets, 0),
                (log.lengths, 0),
                (log.terms, 0),
                (log.kinds, FAULTY),
            ):
                values[:0] = array(values.typecode, [filler]) * missing
            log.first = index
        position = index - log.first
        if log.segments[position]:
            self._count(log.segments[position], log.group, -1, -(log.lengths[position] + FRAME_SIZE))
        log.segments[position] = segment
        log.offsets[position] = offset
        log.lengths[position] = length
        log.terms[position] = term
        log.kinds[position] = kind
        self._count(segment, log.group, 1, length + FRAME_SIZE)

    @staticmethod
    def _push(log: GroupLog, term: int, segment: int, offset: int, length: int, kind: int) -> None:
        log.terms.append(term)
        log.segments.append(segment)
        log.offsets.append(offset)
        log.lengths.append(length)
        log.kinds.append(kind)

    def _cut(self, log: GroupLog, first_removed: int) -> None:
        """Removes an index and everything after it."""
        keep = max(0, first_removed - log.first)
        self._release(log, keep, len(log.terms))
        if first_removed < log.first and not log.terms:
            log.first = max(first_removed, log.prefix.index + 1)

    def _compact(self, log: GroupLog, prefix: Prefix) -> bool:
        """Removes everything up to the prefix; False, with nothing done, if the group has a later one."""
        if prefix.index < log.prefix.index:
            return False
        log.prefix = prefix
        self._release(log, 0, min(max(prefix.index - log.first + 1, 0), len(log.terms)))
        log.first = max(log.first, prefix.index + 1) if log.terms else prefix.index + 1
        return True

    def _release(self, log: GroupLog, start: int, stop: int) -> None:
        """Removes entries by position, from the begin or from the end of the arrays."""
        if start >= stop:
            return
        for segment, length in zip(log.segments[start:stop], log.lengths[start:stop], strict=True):
            if segment:
                self._count(segment, log.group, -1, -(length + FRAME_SIZE))
        for values in (log.segments, log.offsets, log.lengths, log.terms, log.kinds):
            del values[start:stop]
        if start == 0:
            log.first += stop

    def _settle(self, log: GroupLog, kind: int, segment: int, length: int) -> None:
        """The live record of this kind is now here."""
        before = log.homes.get(kind)
        if before is not None:
            self._count(before[0], log.group, -1, -before[1])
        log.homes[kind] = (segment, length + FRAME_SIZE)
        self._count(segment, log.group, 1, length + FRAME_SIZE)

    def _count(self, segment: int, group: int, records: int, size: int) -> None:
        use = self.uses.get(segment)
        if use is None:
            use = self.uses[segment] = SegmentUse()
        counts = use.groups.get(group)
        if counts is None:
            use.groups[group] = [records, size]
            return
        counts[0] += records
        counts[1] += size
        if counts[0] == 0:
            del use.groups[group]

    def _drop(self, log: GroupLog) -> None:
        """Forgets a group with all it keeps alive."""
        for use in self.uses.values():
            use.groups.pop(log.group, None)
        del self.groups[log.group]


def is_new(kind: int, flags: int) -> bool:
    """Whether a record is the first one that its group ever had."""
    return kind == CREATE and not flags & REPAIR


def live_record(log: GroupLog, kind: int) -> Record | None:
    """A group's live record that is no batch, as it is to be written again; None if it is not known."""
    if kind == CREATE:
        if not log.created:
            return None  # only its frame was readable
        return GroupCreate(log.group, log.incarnation, log.kind, log.name, log.members, again=True)
    if kind == HARD_STATE:
        closed = True if log.closed else None
        return HardState(log.group, log.incarnation, log.term, log.vote, log.commit, closed)
    assert kind == COMPACT
    prefix = log.prefix
    return CompactPrefix(log.group, log.incarnation, prefix.index, prefix.term, prefix.manifest_crc)
