"""The applier: hands committed batches to the state machine, in index order, and never runs ahead of commit.

Its input is a watermark (`advance`), its output are results per index and its own watermark, `applied`.
"""

import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import trio

from ...codec import Entries, Kind, crc32c, walk_batch
from ...storage.errors import LogDamaged
from ...storage.manifest import Manifest
from ...storage.turns import Order, Turn, Turns
from .machine import Capture, Machine, Results

logger = logging.getLogger(__name__)

FETCH_BYTES = 8 * 1024 * 1024
HASHES: Final = 4096
"""Rolling hashes kept: more than lie between a snapshot and the entry that announces it."""

ReadBatches = Callable[[int, int, int], Awaitable[Sequence[bytes]]]
"""(first index, last index, about how many bytes) -> at least one batch, in order."""
CachedBatches = Callable[[int, int, int], Sequence[bytes]]
"""The same from memory: none, if the first one is not there."""
OnApplied = Callable[[int, int, Results], None]
"""(index, encoded size of the batch, results). Never raises, never waits."""


class MachineFailed(Exception):
    """The state machine raised: this replica of the group stops, and never skips the batch."""

    def __init__(self, kind: str, doing: str, index: int, error: Exception) -> None:
        super().__init__(
            f"state machine {kind!r} failed {doing} index {index}, {type(error).__name__}: {error}; "
            "this replica of the group has stopped"
        )
        self.index = index


class Applier:
    """Owns the machine and its applied index. Invariant: machine state = batches 1..applied, each exactly
    once."""

    def __init__(
        self,
        machine: Machine,
        cached: CachedBatches,
        read: ReadBatches,
        on_applied: OnApplied,
        turns: Turns,
    ) -> None:
        self.machine = machine
        self.applied = 0
        self.applied_term = 0
        self.applied_time = 0
        self.rolling_hash = 0
        """CRC32C chained over the header checksums of all applied batches: equal on equal replicas."""
        self._hashes = deque([0], HASHES)
        """The rolling hashes as of the last batches, up to `applied`."""
        self.on_announced: Callable[[Entries], None] = lambda entries: None
        """Told of each snapshot entry, which says how things stood with its leader. Never raises."""
        self._cached = cached
        self._read = read
        self._on_applied = on_applied
        self._commit = 0
        self._turn = Turn(turns, Order.APPLY, self._apply_cached)
        self.exclusive = trio.Lock()
        """Held while batches are applied; whoever replaces the machine's state holds it meanwhile."""

    async def restore(self, manifest: Manifest | None, *, accept_loss: bool = False) -> None:
        """Give the machine the state of a manifest, or that of an empty log; with `accept_loss` as much of it
        as can be read.

        Raises StateUnusable or FileDamaged if they can't be read, or the machine does not take them.
        """
        if manifest is None:
            self.machine.empty()
            return
        await self.machine.restore(manifest.state, manifest.files, accept_loss=accept_loss)
        self.applied, self.applied_term, self.applied_time = manifest.index, manifest.term, manifest.time
        self.rolling_hash = manifest.rolling_hash
        self._hashes = deque([self.rolling_hash], HASHES)
        self._commit = max(self._commit, manifest.index)
        self._turn.due()  # the state may be older than the one before

    def hash_at(self, index: int) -> int | None:
        """The rolling hash as of a batch; None if that is not applied yet, or too long ago."""
        behind = self.applied - index
        return self._hashes[-1 - behind] if 0 <= behind < len(self._hashes) else None

    def differs(self, index: int, rolling_hash: int) -> bool:
        """Whether it is known here that a replica with this hash at this index has applied something else."""
        return self.hash_at(index) not in (None, rolling_hash)

    def capture(self) -> Capture:
        """The machine's state as of `applied`. Raises MachineFailed."""
        try:
            return self.machine.capture()
        except Exception as error:
            logger.exception("snapshot at index %d", self.applied)
            raise MachineFailed(self.machine.kind, "making a snapshot at", self.applied, error) from error

    def advance(self, commit: int) -> None:
        """Everything up to `commit` is committed. A watermark: it overwrites, it never waits."""
        if commit > self._commit:
            self._commit = commit
            self._turn.due()

    def restart(self) -> None:
        """The machine was emptied, and waits for a snapshot. Whoever calls holds `exclusive`."""
        self.applied = self.applied_term = self.applied_time = self.rolling_hash = 0
        self._hashes = deque([0], HASHES)
        self._commit = 0

    async def run(self) -> None:
        """Apply until cancelled. Raises MachineFailed if the machine raises."""
        await self._turn.run(self._apply_rest)

    def _apply_cached(self) -> None:
        """A turn: apply what is in memory, unless that has to wait for somebody."""
        if self.applied < self._commit and self.machine.settled and not self.exclusive.locked():
            for batch in self._cached(self.applied + 1, self._commit, FETCH_BYTES):
                self._apply(batch)
        if self.applied < self._commit:
            self._turn.leave()

    async def _apply_rest(self) -> None:
        """Apply everything that is committed, from the disk where it is no longer in memory."""
        while self.applied < self._commit:
            async with self.exclusive:
                try:
                    if self.applied < self._commit:  # a snapshot may have come in meanwhile
                        await self._apply_some()
                except LogDamaged as damage:
                    # The group knows already, and says how far to go once that is repaired.
                    logger.error("group %d waits for repair: %s", damage.group, damage)
                    self._commit = self.applied

    async def _apply_some(self) -> None:
        await self.machine.settle()
        for batch in await self._read(self.applied + 1, self._commit, FETCH_BYTES):
            self._apply(batch)

    def _apply(self, batch: bytes) -> None:
        entries = walk_batch(batch)
        header = entries.header
        if header.index != self.applied + 1:
            raise RuntimeError(f"batch {header.index} handed to the applier after {self.applied}")
        results: Results = []
        # Membership and snapshot entries are the Raft log's affair; any other batch moves at least the clock.
        if header.kind is Kind.SNAPSHOT:
            self.on_announced(entries)
        elif header.kind is not Kind.MEMBERSHIP:
            try:
                results = self.machine.apply(entries)
            except Exception as error:
                # A user's machine may raise anything; whatever it is, its state can no longer be trusted.
                logger.exception("group %d, index %d", header.group, header.index)
                raise MachineFailed(self.machine.kind, "at", header.index, error) from error
        self.applied, self.applied_term, self.applied_time = header.index, header.term, header.time
        self.rolling_hash = crc32c(header.header_crc.to_bytes(4, "little"), self.rolling_hash)
        self._hashes.append(self.rolling_hash)
        self._on_applied(header.index, header.length, results)
