"""What can go wrong with what is stored, named by what is to blame.

Each error that may end the process has its own exit code, so that a supervisor can tell "start me again"
(StorageFailed) from "a human must look" (all others).
"""

from __future__ import annotations

from typing import ClassVar


class StorageError(Exception):
    """Base of everything that storage raises."""

    exit_code: ClassVar[int] = 60


class DirectoryLocked(StorageError):
    """Another process serves this data directory."""

    exit_code = 61


class ForeignDirectory(StorageError):
    """A file in this directory belongs to another node or to another cluster."""

    exit_code = 62


class NewerFormat(StorageError):
    """A file was written by a newer version of this program, which this one must not guess at."""

    exit_code = 63


class NodeHeaderDamaged(StorageError):
    """The file that says which node this is can't be read: the disk lied, or the file was removed."""

    exit_code = 64


class SegmentGap(StorageError):
    """A segment of the log that must exist is missing."""

    exit_code = 65


class LogDamaged(StorageError):
    """Stored bytes don't match their checksum, and it is known which record of which group that is.

    `group` is 0 and the range empty (0, 0) where a whole segment's header is unreadable.
    """

    exit_code = 66

    def __init__(self, file: str, offset: int, group: int = 0, first: int = 0, last: int = 0) -> None:
        what = f"group {group}, index {first} to {last}" if group else "not attributable to a group"
        super().__init__(f"damaged log: {file}, offset {offset} ({what})")
        self.file = file
        self.offset = offset
        self.group = group
        self.first = first
        self.last = last


class StorageFailed(StorageError):
    """A write or sync failed. What was not acknowledged by then is unknown; nothing is retried."""

    exit_code = 67


class DiskFull(StorageError):
    """There is no space for another segment: proposals must be refused until there is."""

    exit_code = 68


class ManifestDamaged(StorageError):
    """A manifest's checksum or fields are wrong: the group needs a snapshot from a peer."""

    exit_code = 69


class ManifestTooLarge(StorageError):
    """A manifest is larger than any that would be read again; the old one stands."""


class FileDamaged(StorageError):
    """A group's file is shorter than its manifest says, can't be read, or fails its checksum."""

    exit_code = 70

    def __init__(self, file: str, detail: str) -> None:
        super().__init__(f"{file}: {detail}")
        self.file = file


class RecordTooLarge(StorageError):
    """A record does not fit a segment. The segment size must exceed the batch cap; nothing was stored."""


class Compacted(StorageError):
    """The log no longer holds the index asked for: a snapshot covers it."""

    def __init__(self, group: int, index: int) -> None:
        super().__init__(f"group {group}: index {index} is compacted away")
        self.group = group
        self.index = index


class NotStored(StorageError):
    """The index asked for is not in the log, or its sync has not ended yet."""

    def __init__(self, group: int, index: int) -> None:
        super().__init__(f"group {group}: index {index} is not stored")
        self.group = group
        self.index = index
