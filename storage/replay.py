"""Reading the log at start-up: every write that counts, in order, into the index.

Segments are read ahead, several at once where the disk gains by it, and scanned in C as far as they are
sound. A segment whose table of contents is beside it is not read at all. What is not sound is looked at
write by write: `Replay` decides what is torn, what is damage and what may be missing without a name.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from ..codec import crc32c
from ..codec.wal import NO_LIMIT
from .contents import Contents, Section, SegmentReader, TocHeader, read_toc, read_toc_header
from .disk import Disk
from .errors import LogDamaged
from .index import GroupLog, LogIndex
from .node import read_file
from .records import HardState
from .segment import (
    BATCH,
    COMPACT,
    DATA_START,
    HARD_STATE,
    LOST,
    READMITTED,
    REPAIR,
    Found,
    Item,
    SegmentHeader,
    SegmentScan,
    Vouch,
    Write,
    encode_commit,
    encode_manifest_crc,
    encode_record,
    follow_chain,
)
from .wal import segment_path

READERS: Final = 2
"""Segments read and scanned at once. More gained nothing on the disks that were measured."""


@dataclass(frozen=True, slots=True)
class TornTail:
    """The last write, of which something is missing. What it names was never acknowledged, or is damaged."""

    file: str
    offset: int
    records: tuple[tuple[int, int, int], ...]
    """(group, index, term) of its batches, as far as they are readable."""


@dataclass(frozen=True, slots=True)
class Loss:
    """Something of the log that is missing, and nothing says what it was."""

    file: str
    before: int
    """It lay before this offset; 0: at the end of the file."""

    def __str__(self) -> str:
        return f"{self.file} before offset {self.before}" if self.before else f"the end of {self.file}"


# --- reading ahead ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Job:
    """A segment to be read."""

    header: SegmentHeader
    limit: int
    """Writes with a higher sequence don't count."""
    by_table: bool
    """Its table of contents may stand in for it."""


@dataclass(frozen=True, slots=True)
class _Loaded:
    """A segment, read as far as it is sound."""

    header: SegmentHeader
    limit: int
    contents: Contents

    @property
    def path(self) -> str:
        return segment_path(self.header.number)


class _Loader:
    """Reads segments in order, some ahead of the one that is asked for."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._free: deque[SegmentReader] = deque()

    def load(self, jobs: Sequence[Job]) -> Iterator[_Loaded]:
        if not self._disk.concurrent or len(jobs) < 2:
            yield from map(self._load, jobs)
            return
        with ThreadPoolExecutor(READERS, thread_name_prefix="recovery") as threads:
            ahead: deque[Future[_Loaded]] = deque()
            for job in jobs:
                ahead.append(threads.submit(self._load, job))
                if len(ahead) > READERS:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()

    def _load(self, job: Job) -> _Loaded:
        path = segment_path(job.header.number)
        if job.by_table and (contents := read_toc(self._disk, path, job.header)) is not None:
            return _Loaded(job.header, job.limit, contents)
        reader = self._free.pop() if self._free else SegmentReader(self._disk)
        contents = reader.read(path, job.header, job.limit)
        self._free.append(reader)
        return _Loaded(job.header, job.limit, contents)


# --- following --------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Seen:
    """A write on its way through the replay, or several sound ones that follow each other."""

    loaded: _Loaded
    """Its segment."""
    start: int
    """Where it begins."""
    sequence: int
    """Of the last of them."""
    vouch: Vouch | None
    """Of the last of them; None if its trailer is not readable."""
    lost: bool
    """Something that was synced is missing before it, and nothing says what."""
    ragged: bool
    """It doesn't begin where the one before ends, or not with the chain's value that follows from it.

    Then one of them lacks a record that has no name. A torn write may just lack its own begin.
    """
    sections: Sequence[Section]
    """Its records, if it is sound."""
    write: Write | None = None
    """The write, if it is not sound, or does not follow sound ones."""


class Replay:
    """Reads all segments in order, decides about what is unreadable, and follows the rest."""

    def __init__(self, disk: Disk, headers: Sequence[SegmentHeader], *, tables: bool = True) -> None:
        """Without `tables` every segment is read, whatever its table of contents says."""
        self._disk = disk
        self._headers = headers
        self._tables = tables
        self.index = LogIndex()
        self.torn: TornTail | None = None
        self.tail: list[Item] = []
        """The records of the last write, as far as there are any: not in the index yet, to be copied."""
        self.losses: list[Loss] = []
        """Where something is missing that nobody can name."""
        self.counted = 0
        """Of the last write in the index. The one after it may not be on the disk, even a mark."""
        self.sequence = 0
        """The highest sequence seen, also of a torn write."""
        self.segment = 0
        """The last segment with a write, be it torn."""
        self.vouch: Vouch | None = None
        self.untabled: dict[int, int] = {}
        """Segments that were read for want of a table of contents: the last sequence that counts in each."""
        self.unread: list[int] = []
        """Segments for which their table of contents stood in."""
        self._before = 0
        """Sequence of the last write seen that counts."""
        self._lost = False
        """Something that was synced is missing behind it."""
        self._unproven = False
        """Its trailer is not readable: whether its records are all that it had is for the next one to say."""

    def run(self) -> None:
        """Reads everything; LogDamaged if the disk gives other bytes of a write when it is asked again."""
        pending: _Seen | None = None
        for seen in self._writes():
            if pending is not None:
                self._confirm(pending)  # a later write proves that its sync had ended
            pending = seen
        if pending is not None:
            self._decide_last(pending)
        if self._lost:
            self._close_all(segment_path(self.segment))
        # A segment with a loss in it may be freed one day; that the groups are closed must outlive it.
        logs = [log for log in self.index.groups.values() if log.closed] + self._only_in_tail()
        closed = [_closing(log, self.tail) for log in logs]
        self.tail += [item for item in closed if item is not None]

    def _only_in_tail(self) -> list[GroupLog]:
        """Groups that will be closed as soon as the tail is in the index."""
        found: dict[tuple[int, int], bool] = {}
        for item in self.tail:
            found.setdefault((item.group, item.incarnation), self.index.would_close(item))
        return [GroupLog(group, incarnation) for (group, incarnation), closes in found.items() if closes]

    def _close_all(self, file: str, before: int = 0) -> None:
        self.losses.append(Loss(file, before))
        self.index.close_all()

    def _writes(self) -> Iterator[_Seen]:
        """Every write that counts, in order."""
        for loaded in _Loader(self._disk).load(plan(self._disk, self._headers, tables=self._tables)):
            header = loaded.header
            if header.resumes:
                self._lost |= self._before not in (0, header.resumes_after)
            if loaded.contents.last_section is not None:
                self.untabled[header.number] = loaded.limit
            elif loaded.contents.writes:
                self.unread.append(header.number)
            yield from self._sound(loaded)
            yield from self._doubtful(loaded)
            # A segment had its full size before its first use: if it is shorter now, somebody cut it.
            self._lost |= loaded.contents.size < header.size

    def _sound(self, loaded: _Loaded) -> Iterator[_Seen]:
        """The sound writes at a segment's begin: the last one apart, for it may be the last of all."""
        contents = loaded.contents
        if not contents.writes:
            return
        follows = self._before == 0 or loaded.header.resumes or contents.first == self._before + 1
        self._lost |= self._unproven or not follows
        vouch, newest = contents.vouch, contents.last_section
        if newest is None:  # from a table of contents, which no last segment has
            yield self._see(loaded, DATA_START, contents.last, vouch, contents.sections)
            return
        if contents.writes > 1:
            yield self._see(loaded, DATA_START, contents.last - 1, vouch, contents.sections)
        yield self._see(loaded, contents.last_start, contents.last, vouch, [newest])

    def _doubtful(self, loaded: _Loaded) -> Iterator[_Seen]:
        """What lies behind a segment's sound writes, as far as it can be read."""
        header, contents = loaded.header, loaded.contents
        if contents.clean or contents.last == loaded.limit:
            return
        expected, chain = contents.end, contents.chain
        after = 0 if header.resumes and not contents.writes else self._before + 1
        scan = SegmentScan(read_file(self._disk, loaded.path), header)
        for write in scan.writes(contents.end, contents.last):
            self.sequence = max(self.sequence, write.sequence)
            if write.sequence > loaded.limit:
                break  # what lies here was copied into a later segment
            ragged = write.start != expected or (write.vouch is not None and write.chain_before != chain)
            self._lost |= self._before != 0 and after not in (0, write.sequence)
            self._lost |= self._unproven and (ragged or write.vouch is None or expected == DATA_START)
            yield self._see(loaded, write.start, write.sequence, write.vouch, (), ragged=ragged, write=write)
            expected, after = write.end, write.sequence + 1
            # A write says itself what the chain was before it: what is missing is told once, not for all
            # that follows, and groups that were made later are none of its victims.
            chain = follow_chain(chain if write.vouch is None else write.chain_before, write.frames)

    def _see(
        self,
        loaded: _Loaded,
        start: int,
        sequence: int,
        vouch: Vouch | None,
        sections: Sequence[Section],
        *,
        ragged: bool = False,
        write: Write | None = None,
    ) -> _Seen:
        """The next write that counts, and the replay behind it."""
        seen = _Seen(loaded, start, sequence, vouch, self._lost, ragged, sections, write)
        self._before, self.segment = sequence, loaded.header.number
        self._lost, self._unproven = False, vouch is None
        self.sequence = max(self.sequence, sequence)
        return seen

    def _confirm(self, seen: _Seen) -> None:
        """Follows a write that was synced, as far as it is readable."""
        if seen.lost or seen.ragged:
            self._close_all(seen.loaded.path, seen.start)
        number = seen.loaded.header.number
        for section in seen.sections:
            section.apply(self.index, number)
        for record in seen.write.records if seen.write is not None else ():
            _apply_found(self.index, record, number)
        self.counted = seen.sequence
        self.vouch = seen.vouch or self.vouch

    def _decide_last(self, seen: _Seen) -> None:
        """The last write was in flight, or was acknowledged less than the mark's delay ago."""
        if seen.lost:
            self._close_all(seen.loaded.path, seen.start)
        if seen.write is None:
            self.vouch = seen.vouch
            self.tail = self._items(seen.loaded)
        else:
            self._decide_doubtful(seen, seen.write)

    def _decide_doubtful(self, seen: _Seen, write: Write) -> None:
        # Without its begin and without its trailer its names have gaps. Damage in one place doesn't do that
        # to a write that was whole, so this one never was: it is the one case that is cut off.
        if write.vouch is not None or not seen.ragged:
            data = read_file(self._disk, seen.loaded.path)
            self.tail = [item for record in write.records if (item := self._kept(record, data)) is not None]
        # What its trailer calls free may be gone by now, whatever happened to the write since.
        self.vouch = write.vouch or self.vouch
        if write.intact:
            return
        batches = [record for record in write.records if record.kind == BATCH]
        names = tuple((record.group, record.index, record.term) for record in batches)
        self.torn = TornTail(seen.loaded.path, write.start, names)

    def _kept(self, record: Found, data: bytes) -> Item | None:
        """A record of the last write, as it is to be copied; None if nothing of it can be used.

        To take in what was never synced does no harm: its sender doesn't count on it. To leave out what was
        would, so the term and vote in a frame and the name of a batch are enough.
        """
        if record.intact or record.length == 0:
            body = data[record.offset : record.offset + record.length]
            return _renamed(record, record.flags, body, record.crc)
        if record.kind == BATCH and not record.flags & REPAIR:  # else what it repeats is still in its place
            return _renamed(record, record.flags | LOST, b"", record.crc)
        if record.kind == HARD_STATE:
            known = self.index.groups.get(record.group)
            body = encode_commit(known.commit if known is not None else 0)
        elif record.kind == COMPACT:
            body = encode_manifest_crc(0)
        else:
            return None
        return _renamed(record, record.flags, body, crc32c(body))

    def _items(self, loaded: _Loaded) -> list[Item]:
        """The records of a segment's last sound write, with their bodies: they are to be copied."""
        contents = loaded.contents
        start, size = contents.last_start, contents.end - contents.last_start
        assert contents.last_section is not None
        descriptor = self._disk.open(loaded.path)
        try:
            data = self._disk.pread(descriptor, size, start)
        finally:
            self._disk.close(descriptor)
        items = contents.last_section.items(data, start)
        if items is None:
            raise LogDamaged(loaded.path, start)
        return items


def _apply_found(index: LogIndex, record: Found, segment: int) -> None:
    """Takes a record found on the disk into the index."""
    index.apply(
        record.kind,
        record.flags,
        record.group,
        record.incarnation,
        record.index,
        record.term,
        segment=segment,
        offset=record.offset,
        length=record.length,
        body=record.body,
        batch_kind=record.batch_kind,
        crc=record.crc,
        intact=record.intact,
    )


def _renamed(record: Found, flags: int, body: bytes, crc: int) -> Item:
    return Item(record.kind, flags, record.group, record.incarnation, record.index, record.term, body, crc)


def _closing(log: GroupLog, tail: Sequence[Item]) -> Item | None:
    """The hard state of a closed group behind the `tail`; it says from now on that the group is closed.

    None if the tail says that the group was taken in again.
    """
    term, vote = log.term, log.vote
    for item in tail:
        if (item.kind, item.group, item.incarnation) == (HARD_STATE, log.group, log.incarnation):
            if item.flags & READMITTED:
                return None
            term, vote = item.term, item.index
    return encode_record(HardState(log.group, log.incarnation, term, vote, log.commit, closed=True))


# --- what is to be read -----------------------------------------------------------------------------------


def plan(disk: Disk, headers: Sequence[SegmentHeader], *, tables: bool = True) -> list[Job]:
    """The segments that count, each with what of it counts, and whether it need be read at all."""
    ends = _resumptions(disk, headers)
    found = [read_toc_header(disk, segment_path(header.number), header) for header in headers]
    jobs: list[Job] = []
    for position, header in enumerate(headers):
        if header.resumes and ends[position] is None:
            continue  # recovery was itself cut while it wrote this segment: the old tail still stands
        limit = min((end for end in ends[position + 1 :] if end is not None), default=NO_LIMIT)
        later = any(table is not None for table in found[position + 1 :])
        jobs.append(Job(header, limit, tables and _stands_in(found[position], limit, later)))
    return jobs


def _stands_in(table: TocHeader | None, limit: int, later: bool) -> bool:
    """Whether a table of contents may stand in for its segment: it says nothing that doesn't count.

    The log's last write must be read, for it is to be copied. A table is not of the last segment if a later
    one has a table too, or if a recovery counted all of its writes.
    """
    if table is None or table.last > limit:
        return False
    return later or limit != NO_LIMIT


def _resumptions(disk: Disk, headers: Sequence[SegmentHeader]) -> list[int | None]:
    """Per segment: up to which sequence older ones count, if it was begun by a recovery that ended."""
    ends: list[int | None] = []
    for position, header in enumerate(headers):
        later = max((other.resumes_after for other in headers[position + 1 :]), default=0)
        begun = header.resumes and _is_begun(disk, header, headers[:position], later)
        ends.append(header.resumes_after if begun else None)
    return ends


def _is_begun(disk: Disk, header: SegmentHeader, before: Sequence[SegmentHeader], later: int) -> bool:
    """Whether a recovery ended that made this segment: its first write was synced before it returned.

    An unreadable first write was all the same if another one followed it, here or in a later recovery's
    count; or if what it names is not where it was copied from, in the segments `before`. A recovery that was
    cut left that as it was, for the next one to copy.
    """
    path = segment_path(header.number)
    if read_toc_header(disk, path, header) is not None:
        return True
    if SegmentReader(disk).read(path, header).writes:
        return True
    writes = SegmentScan(read_file(disk, path), header).writes()
    first, second = [*itertools.islice(writes, 2), None, None][:2]
    if first is None or first.intact or second is not None or first.sequence <= later:
        return first is not None
    return first.records != [] and not _has_original(disk, header, before)


def _has_original(disk: Disk, header: SegmentHeader, before: Sequence[SegmentHeader]) -> bool:
    """Whether the write that this segment's first one repeats can still be read."""
    scans = (SegmentScan(read_file(disk, segment_path(other.number)), other) for other in reversed(before))
    writes = itertools.chain.from_iterable(scan.writes() for scan in scans)
    return any(write.intact and write.sequence > header.resumes_after for write in writes)
