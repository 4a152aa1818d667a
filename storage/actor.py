"""The storage actor: owner of every file of the node. One write, one sync at a time, for all groups."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import trio

from .disk import Disk, Runner
from .errors import StorageFailed
from .files import GroupFiles
from .records import Record
from .recovery import Recovered


@dataclass(frozen=True, slots=True)
class StorageOptions:
    """Sizes in bytes, times in seconds."""

    segment_bytes: int = 64 << 20
    """One file of the log; must exceed the largest batch."""
    write_bytes: int = 8 << 20
    """One gathered write is at most this large (or one record)."""
    queue_bytes: int = 64 << 20
    """Credit: what may wait for the disk."""
    mark_delay: float = 0.05
    """At rest, this long after the last write the log says that all of it is synced."""
    quarantine_bytes: int = 256 << 20
    """Files that no manifest names are kept up to this size in all, newest first."""


@dataclass(frozen=True, slots=True)
class StorageStatistics:
    """Counters since start-up and the state of the queue; times in seconds."""

    appends: int
    """Calls of `append`."""
    records: int
    writes: int
    """Gathered writes, each with one sync (marks included)."""
    written_bytes: int
    queue_bytes: int
    last_sync_seconds: float
    sync_p50_seconds: float
    sync_max_seconds: float
    stalled_since: float | None
    """When the sync in flight began (trio's clock); None if none is in flight."""
    segments: int
    log_bytes: int
    live_bytes: int
    damaged_reads: int


class Storage:
    """Every file of the node: log, manifests, blocks. Open it, read `recovered`, start `run`."""

    recovered: Recovered
    failed: StorageFailed | None = None
    """Set once a write or sync failed; nothing is written after that."""

    @classmethod
    async def open(
        cls,
        disk: Disk,
        runner: Runner,
        *,
        name: str,
        draw: Callable[[], int],
        options: StorageOptions | None = None,
        on_failure: Callable[[StorageFailed], None] | None = None,
    ) -> Storage:
        """Takes the directory's lock, recovers what is there, or makes a new node with a drawn id.

        `draw` gives random u64 numbers. Raises the errors with exit codes of `storage.errors`.
        """
        raise NotImplementedError

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """The actor: writes what is appended until it is cancelled or the disk fails.

        On failure calls `on_failure` once and returns.
        """
        raise NotImplementedError

    def append(self, records: Sequence[Record], then: Callable[[], None] | None = None) -> None:
        """Queues records. Once a sync covers them all, `then` runs, in the order of the calls.

        Never awaits (S1). `then` must not raise, and never runs if storage failed before that sync.
        RecordTooLarge, with nothing queued, if a batch can't fit a segment.
        """
        raise NotImplementedError

    def credit(self) -> int:
        """Bytes that may be appended now without exceeding the queue's bound."""
        raise NotImplementedError

    def room(self) -> None:
        """Raises DiskFull if there is no space for the log to go on; proposals must be refused then."""
        raise NotImplementedError

    async def drain(self) -> None:
        """Waits until everything appended before is synced and everything written behind is written."""
        raise NotImplementedError

    async def read_batches(self, group: int, first: int, last: int, max_bytes: int) -> list[bytes]:
        """Synced batches from index `first`, verified: at least one, up to `last` or `max_bytes` in all.

        Compacted or NotStored if `first` isn't in the log, LogDamaged if it can't be read as it was written.
        """
        raise NotImplementedError

    def pinned(self) -> dict[int, int]:
        """Per group, the bytes of closed segments that can't be reused because of its live records."""
        raise NotImplementedError

    def statistics(self) -> StorageStatistics:
        raise NotImplementedError

    def group_files(self, group: int, incarnation: int) -> GroupFiles:
        """The files of a group; always the same object for the same incarnation."""
        raise NotImplementedError

    async def set_cluster(self, cluster_id: int) -> None:
        """Makes the cluster id durable in the node header; ForeignDirectory if there is another one."""
        raise NotImplementedError

    async def close(self) -> None:
        """Ends the lanes and releases the lock. Nothing is flushed: what was not synced stays unknown."""
        raise NotImplementedError
