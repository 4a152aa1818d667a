"""What the log is made of: records. Every change that must survive a restart is one of these six.

Storage gives them no meaning beyond order: it stores them in the order in which they were appended and
replays them in that order (docs/format.md says how each is laid out).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BatchRecord:
    """One sealed batch, byte for byte as it came over the wire or from the leader's sealing.

    An index at or below the group's last replaces it and everything after it, also without a
    TruncateSuffix before it. With `repair` the batch is put back at its place instead, touching nothing else.
    """

    batch: bytes
    repair: bool = False


@dataclass(frozen=True, slots=True)
class HardState:
    """Raft's persistent state of a group: `vote` is a node id (0 = none), `commit` only a hint.

    If only `commit` differs from the group's last HardState, the record causes no sync of its own.
    """

    group: int
    incarnation: int
    term: int
    vote: int
    commit: int
    closed: bool | None = None
    """True: the group is closed on this node from here on (`RecoveredGroup.closed`); False: no longer."""


@dataclass(frozen=True, slots=True)
class TruncateSuffix:
    """Removes index `first_removed` and everything after it."""

    group: int
    incarnation: int
    first_removed: int


@dataclass(frozen=True, slots=True)
class CompactPrefix:
    """Removes everything up to and including `index`, for which the manifest with this CRC32C stands in.

    What follows stays: `log_reset` for a snapshot that replaces the whole log. A checksum of 0 relies on no
    manifest: the copy is given up, and only a peer's snapshot can stand in for what is gone.
    """

    group: int
    incarnation: int
    index: int
    term: int
    manifest_crc: int


@dataclass(frozen=True, slots=True)
class GroupCreate:
    """The group exists from here on. `members` is opaque to storage.

    With `again` it existed before, and there may be other records of it, also before this one.
    """

    group: int
    incarnation: int
    kind: str
    name: str
    members: bytes
    again: bool = False


@dataclass(frozen=True, slots=True)
class GroupDelete:
    """The group is gone, with its log and its files."""

    group: int
    incarnation: int


Record = BatchRecord | HardState | TruncateSuffix | CompactPrefix | GroupCreate | GroupDelete


def log_reset(
    group: int, incarnation: int, index: int, term: int, manifest_crc: int
) -> tuple[TruncateSuffix, CompactPrefix]:
    """Replaces the whole log by the manifest of `index`: appended together.

    A CompactPrefix alone would leave that to be inferred from another term at `index`, and the segment with
    that entry may be freed before those of the entries behind it.
    """
    return (
        TruncateSuffix(group, incarnation, index),
        CompactPrefix(group, incarnation, index, term, manifest_crc),
    )
