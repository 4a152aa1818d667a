"""The log with which a replica starts: what recovery found, held against the manifest (DESIGN 6).

A snapshot may have been installed whose records, which reset the log behind it, did not get to the disk. Then
the log ends before the snapshot or is of another history, and a start does what was left to do.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...storage.index import Entries
from ...storage.manifest import Manifest, encode_manifest, manifest_crc
from ...storage.records import CompactPrefix, HardState, Record, log_reset
from ...storage.recovery import RecoveredGroup

LogEntry = tuple[int, int, int, int]
"""(index, term, kind, size) of a batch in the log."""


@dataclass(frozen=True, slots=True)
class RecoveredLog:
    """What a replica has behind its snapshot."""

    compacted: tuple[int, int]
    """(index, term) of the last entry before `entries`; (0, 0): they are all there ever were."""
    entries: list[LogEntry]
    """Consecutive from `compacted` + 1, up to the first of which not even the term is known."""
    forgetful: bool
    """Whether something is lost that nobody can name."""
    records: tuple[Record, ...]
    """What must be durable, in one append, before the replica takes part."""

    @property
    def last(self) -> tuple[int, int]:
        """(index, term) of the last entry."""
        return self.entries[-1][:2] if self.entries else self.compacted


def recovered_log(group: RecoveredGroup) -> RecoveredLog:
    """The log of a group that recovery found; asked before anything more is written to it."""
    prefix, manifest = group.compacted, group.manifest
    start, snapshot = (prefix.index, prefix.term), None
    if manifest is not None and manifest.index > prefix.index:
        snapshot = (manifest.index, manifest.term)
    entries, gap = _named(group.entries, start[0])
    records: list[Record] = []
    if manifest is not None and snapshot is not None and not _has(entries, snapshot):
        found = _term_at(group.entries, manifest.index)
        start, entries = snapshot, []
        if found == manifest.term:  # what has no name lies before it, and the snapshot has that
            entries, gap = _named(group.entries, start[0])
            records = [CompactPrefix(*_snapshot(group, manifest))]
        elif found == 0:  # what follows may be of the snapshot's history: it stays until a leader replaces it
            gap = True
        else:
            gap = False
            records = [*log_reset(*_snapshot(group, manifest))]
    if gap and not group.closed:  # what shows the loss may be overwritten before this replica is readmitted
        mark = HardState(group.group, group.incarnation, group.term, group.vote, group.commit, closed=True)
        records.insert(0, mark)
    return RecoveredLog(start, entries, group.closed or gap, tuple(records))


def _named(entries: Entries, after: int) -> tuple[list[LogEntry], bool]:
    """The entries behind an index, up to the first of which not even the term is known; whether there is such
    a one.

    No copy can be asked for there: such a replica has forgotten something that it can't name.
    """
    named: list[LogEntry] = []
    for entry in entries:
        if entry.index <= after:
            continue
        if entry.index != after + len(named) + 1 or entry.term == 0:
            return named, True
        named.append((entry.index, entry.term, entry.kind, entry.size))
    return named, False


def _has(entries: list[LogEntry], snapshot: tuple[int, int]) -> bool:
    """Whether a consecutive log has a snapshot's last entry (Raft section 7, rule 6 of InstallSnapshot)."""
    position = snapshot[0] - entries[0][0] if entries else 0
    return 0 <= position < len(entries) and entries[position][1] == snapshot[1]


def _term_at(entries: Entries, index: int) -> int | None:
    """The term of an index; 0 if it is lost, None if the log ends before."""
    if not len(entries) or entries[-1].index < index:
        return None
    position = index - entries[0].index
    return entries[position].term if position >= 0 else 0


def _snapshot(group: RecoveredGroup, manifest: Manifest) -> tuple[int, int, int, int, int]:
    crc = manifest_crc(encode_manifest(manifest))
    return group.group, group.incarnation, manifest.index, manifest.term, crc
