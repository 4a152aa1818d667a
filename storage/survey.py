"""A look at the directory of a stopped node: what is in it, and whether every byte of it is what was written.

Nothing is changed, not even made durable: that is the difference to a start-up, whose decisions about what is
torn, damaged or lost these are. Every segment is read whole; tables of contents are not believed.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from ..codec import Buffer, crc32c
from ..codec.block import scan_block
from .contents import Contents, SegmentReader
from .disk import Disk, FileDisk
from .errors import DirectoryLocked, LogDamaged, ManifestDamaged, NewerFormat, NodeHeaderDamaged
from .group_directory import MANIFEST, FoundFiles, group_directory
from .index import GroupLog, Place
from .manifest import FileEntry, decode_manifest, manifest_crc
from .node import NODE_FILE, NodeHeader, read_file, read_node_header
from .quarantine import GROUPS
from .recovery import LOCK_FILE, RecoveredGroup, apply_item, check_gaps, describe, read_own_header
from .replay import Job, Replay, TornTail, plan
from .segment import BATCH, DATA_START, HEADER_COPY, LOST, SegmentHeader, SegmentScan, decode_segment_header
from .wal import segment_numbers, segment_path

READ_BYTES: Final = 4 << 20
"""Files are read in pieces of this size."""
_ENTRIES_AT: Final = 12
"""Where a batch's header has its number of entries (u16)."""


class ReadOnlyDisk(FileDisk):
    """A directory that nothing may change. Its lock is shared, and keeps a node from starting meanwhile."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root)

    def open(self, path: str, *, write: bool = False, create: bool = False, exclusive: bool = False) -> int:
        if write or create:
            raise self._refusal(path)
        return super().open(path)

    def lock(self, path: str) -> int:
        descriptor = super().open(path)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise DirectoryLocked(f"{self.root} is served by a running node: stop it first") from None
        return descriptor

    def pwritev(self, descriptor: int, buffers: Sequence[Buffer], offset: int) -> None:
        raise self._refusal("")

    def truncate(self, descriptor: int, length: int) -> None:
        raise self._refusal("")

    def rename(self, old: str, new: str) -> None:
        raise self._refusal(old)

    def link(self, old: str, new: str) -> None:
        raise self._refusal(old)

    def unlink(self, path: str) -> None:
        raise self._refusal(path)

    def mkdir(self, path: str) -> None:
        raise self._refusal(path)

    def rmdir(self, path: str) -> None:
        raise self._refusal(path)

    @staticmethod
    def _refusal(path: str) -> OSError:
        return OSError(errno.EROFS, os.strerror(errno.EROFS), path)


@dataclass(frozen=True, slots=True)
class Damage:
    """Bytes that are not what was written, or that are missing."""

    file: str
    offset: int
    what: str
    group: int = 0
    """0: of no certain group."""
    first: int = 0
    last: int = 0
    """The indexes of the log that are hurt, both included; (0, 0): none."""

    def __str__(self) -> str:
        where = f"{self.file}, offset {self.offset}: {self.what}"
        if not self.group:
            return where
        many = f"index {self.first} to {self.last}" if self.last > self.first else f"index {self.first}"
        return f"{where} (group {self.group}{', ' + many if self.first else ''})"


@dataclass(frozen=True, slots=True)
class SegmentSurvey:
    """One file of the log."""

    number: int
    file: str
    size: int
    resumes: bool
    """It was begun by a start-up."""
    first: int
    last: int
    """Sequences of its writes that can be read whole, from its begin on; 0 if there is none."""
    batches: int
    entries: int
    used_bytes: int
    """Of these writes."""
    live_bytes: int
    """What a restart still needs of it."""

    @property
    def writes(self) -> int:
        """Each was synced once."""
        return self.last - self.first + 1 if self.first else 0


@dataclass(frozen=True, slots=True)
class GroupSurvey:
    """One group as a start-up would find it."""

    found: RecoveredGroup
    terms: tuple[tuple[int, int], ...]
    """(term, first index) of each run of one term in the log."""
    live_bytes: int
    pinned_bytes: int
    """Bytes of closed segments that can't be reused because of it."""


@dataclass(slots=True)
class Survey:
    """A directory. Damage that a start-up refuses ends the survey as its error instead."""

    node: NodeHeader
    segments: list[SegmentSurvey] = field(default_factory=list)
    groups: list[GroupSurvey] = field(default_factory=list)
    damages: list[Damage] = field(default_factory=list)
    torn: TornTail | None = None
    """The last write is not whole: no damage, but what a power loss leaves."""
    orphans: tuple[str, ...] = ()
    """Directories of groups that the log doesn't know."""
    checked_bytes: int = 0
    tail: dict[tuple[int, int], bytes] = field(default_factory=dict)
    """The batches of the last write by (group, index)."""
    place: Callable[[int, int], Place | None] = lambda group, index: None
    """Where any other batch lies; None if it can't be read."""


def survey(disk: Disk, *, files: bool) -> Survey:
    """Reads a whole directory; with `files` also every file that a manifest names.

    Raises what a start-up raises: DirectoryLocked, ForeignDirectory, NewerFormat, NodeHeaderDamaged,
    SegmentGap, LogDamaged for a segment without a readable header; and OSError.
    """
    lock = disk.lock(LOCK_FILE) if disk.exists(LOCK_FILE) else None
    try:
        node = read_node_header(disk)
        if node is None:
            raise NodeHeaderDamaged(f"{NODE_FILE}: there is none, so this is no node's directory, or was one")
        return _Surveyor(disk, node).run(files=files)
    finally:
        if lock is not None:
            disk.close(lock)


class _Surveyor:
    """One survey under way."""

    def __init__(self, disk: Disk, node: NodeHeader) -> None:
        self._disk = disk
        self._headers = [read_own_header(disk, number, node) for number in segment_numbers(disk)]
        self._replay = Replay(disk, self._headers, tables=False)
        self._result = Survey(node)

    def run(self, *, files: bool) -> Survey:
        replay, result = self._replay, self._result
        replay.run()
        check_gaps([header.number for header in self._headers], replay.vouch)
        self._follow_tail()
        result.torn, result.place = replay.torn, replay.index.place
        limits = {job.header.number: job for job in plan(self._disk, self._headers, tables=False)}
        for header in self._headers:
            result.segments.append(self._segment(header, limits.get(header.number)))
        for loss in replay.losses:
            result.damages.append(
                Damage(loss.file, loss.before, "what lay before it is lost, without a name")
            )
        for log in replay.index.groups.values():
            found = self._files(log, check=files)
            result.groups.append(self._group(log, found))
        known = {group_directory(log.group, log.incarnation) for log in replay.index.groups.values()}
        names = self._disk.listdir(GROUPS) if self._disk.exists(GROUPS) else []
        result.orphans = tuple(name for name in names if f"{GROUPS}/{name}" not in known)
        return result

    def _follow_tail(self) -> None:
        """The last write counts, although a start-up would copy it before it says so."""
        replay = self._replay
        for item in replay.tail:
            apply_item(replay.index, item, replay.segment, 0)
            if item.kind == BATCH and not item.flags & LOST:
                self._result.tail[item.group, item.index] = bytes(item.body)

    # --- segments

    def _segment(self, header: SegmentHeader, job: Job | None) -> SegmentSurvey:
        path = segment_path(header.number)
        data = read_file(self._disk, path)
        self._result.checked_bytes += len(data)
        self._check_copies(path, data)
        contents = SegmentReader(self._disk).read(path, header, job.limit) if job is not None else Contents()
        if job is not None and not contents.clean:
            self._look_behind(path, data, contents, job)
        if (missing := header.size - len(data)) > 0:
            self._result.damages.append(Damage(path, len(data), f"{missing} bytes are missing"))
        counts = list(_entry_counts(contents, data))
        use = self._replay.index.uses.get(header.number)
        return SegmentSurvey(
            number=header.number,
            file=path,
            size=len(data),
            resumes=header.resumes,
            first=contents.first,
            last=contents.last,
            batches=len(counts),
            entries=sum(counts),
            used_bytes=contents.end - DATA_START,
            live_bytes=use.live_bytes if use is not None else 0,
        )

    def _check_copies(self, path: str, data: bytes) -> None:
        for at in (0, HEADER_COPY):
            page = bytes(at) + data[at : DATA_START if at else HEADER_COPY]
            try:
                decode_segment_header(page, path)
            except LogDamaged:
                self._result.damages.append(Damage(path, at, "one of the header's two copies can't be read"))

    def _look_behind(self, path: str, data: bytes, contents: Contents, job: Job) -> None:
        """What lies behind a segment's sound writes: damage, or the torn end of the log."""
        torn, found = self._replay.torn, list[Damage]()
        expected = contents.end
        for write in SegmentScan(data, job.header).writes(contents.end, contents.last):
            if write.sequence > job.limit:
                break  # what lies here was copied into a later segment
            if torn is not None and (torn.file, torn.offset) == (path, write.start):
                break
            if write.start != expected:
                found.append(Damage(path, expected, "the begin of a write can't be read"))
            for record in write.records:
                if not record.intact:
                    index = record.index if record.kind == BATCH else 0
                    what = "a batch" if record.kind == BATCH else "a record that is no batch"
                    damage = Damage(path, record.offset, f"{what} can't be read", record.group, index, index)
                    found.append(damage)
            if write.vouch is None:
                found.append(Damage(path, write.end, "the end of a write can't be read"))
            expected = write.end
        self._result.damages += _joined(found)

    # --- groups

    def _group(self, log: GroupLog, files: FoundFiles) -> GroupSurvey:
        found = describe(log, files)
        if found.manifest_damaged and not files.damaged and not found.released:
            path = f"{group_directory(log.group, log.incarnation)}/{MANIFEST}"
            what = "is missing" if files.manifest is None else "is not the one that the log relies on"
            self._result.damages.append(Damage(path, 0, f"the manifest {what}", log.group))
        current = self._replay.segment
        mine = {
            number: use.groups[log.group]
            for number, use in self._replay.index.uses.items()
            if log.group in use.groups
        }
        sizes = {segment.number: segment.size for segment in self._result.segments}
        return GroupSurvey(
            found,
            tuple(_runs(log)),
            sum(size for _, size in mine.values()),
            sum(sizes.get(number, 0) for number in mine if number != current),
        )

    def _files(self, log: GroupLog, *, check: bool) -> FoundFiles:
        """As `recover_files`, but nothing is cut or moved."""
        found, directory = FoundFiles(), group_directory(log.group, log.incarnation)
        path = f"{directory}/{MANIFEST}"
        if not self._disk.exists(path):
            return found
        try:
            encoded = read_file(self._disk, path)
            found.manifest, found.crc = decode_manifest(encoded), manifest_crc(encoded)
        except (ManifestDamaged, NewerFormat, OSError) as error:
            found.damaged = True
            self._result.damages.append(Damage(path, 0, str(error), log.group))
            return found
        self._result.checked_bytes += len(encoded)
        for file in found.manifest.files:
            damage = self._file(f"{directory}/{file.name}", file, log.group, check)
            if damage is not None:
                self._result.damages.append(damage)
                found.broken += (file.name,)
        return found

    def _file(self, path: str, file: FileEntry, group: int, check: bool) -> Damage | None:
        """What is wrong with a file that the manifest names, as far as that says how long it is."""
        if not self._disk.exists(path):
            return Damage(path, 0, "it is missing", group)
        descriptor = self._disk.open(path)
        try:
            size = self._disk.size(descriptor)
            if size < file.length:
                return Damage(path, size, f"{file.length - size} bytes are missing at its end", group)
            if not check:
                return None
            self._disk.drop_cache(descriptor)
            crc = 0
            for offset in range(0, file.length, READ_BYTES):
                length = min(READ_BYTES, file.length - offset)
                crc = crc32c(self._disk.pread(descriptor, length, offset), crc)
            self._result.checked_bytes += file.length
            if crc == file.crc32c:
                return None
            return self._damaged_file(path, self._disk.pread(descriptor, file.length, 0), group)
        except OSError as error:
            return Damage(path, 0, f"it can't be read: {error.strerror}", group)
        finally:
            self._disk.close(descriptor)

    def _damaged_file(self, path: str, data: bytes, group: int) -> Damage:
        """Where in a file with a wrong checksum: a stream's files are rows of records with their own."""
        scan = scan_block(data)
        if scan.fault is None or not len(scan.sequences):
            return Damage(path, scan.fault_offset if scan.fault is not None else 0, "a wrong checksum", group)
        after = f"behind message {scan.sequences[-1]}"
        return Damage(path, scan.fault_offset, f"a record can't be read, {after}", group)


def _entry_counts(contents: Contents, data: bytes) -> Iterator[int]:
    """Of each batch in a segment's sound writes, how many entries it has."""
    for section in contents.all_sections():
        offsets = section.columns.offsets
        for run in section.columns.runs:
            if run.kind == BATCH and not run.flags & LOST:
                for at in range(run.start, run.start + run.count):
                    yield struct.unpack_from("<H", data, offsets[at] + _ENTRIES_AT)[0]


def _joined(damages: Sequence[Damage]) -> list[Damage]:
    """Damaged batches of one group with successive indexes as one."""
    joined: list[Damage] = []
    for each in damages:
        before = joined[-1] if joined else None
        if before is not None and each.first and (each.group, each.first) == (before.group, before.last + 1):
            joined[-1] = Damage(before.file, before.offset, before.what, each.group, before.first, each.last)
        else:
            joined.append(each)
    return joined


def _runs(log: GroupLog) -> Iterator[tuple[int, int]]:
    before = 0
    for position, term in enumerate(log.terms):
        if term and term != before:
            yield term, log.first + position
            before = term
