"""The scrub: everything that lies on the disk is read once more now and then, before somebody needs it.

One sweep after the other over the blocks of all streams and the closed segments of the log, a piece at a
time. It is gentle: so many bytes a second, a fraction of that while clients write, and a pause between two
sweeps. It repairs nothing; what it finds it tells where readers tell it, and repair does the rest.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

import trio

from ..storage.errors import StorageError

if TYPE_CHECKING:
    from ..storage.actor import Storage
    from .replica.group import Group
    from .world import Clock

logger = logging.getLogger(__name__)

SWEEP_SECONDS: Final = 6 * 3600.0
"""From the beginning of one sweep to that of the next, unless the first one takes longer."""
YIELD: Final = 8
"""While the node writes as much as the scrub may read, the scrub is slower by this factor."""


class Pace(Protocol):
    async def __call__(self, size: int, /) -> None: ...


@dataclass(slots=True)
class ScrubStatistics:
    """As /varz shows it. Times are ns since 1970, 0 for never."""

    sweeps: int = 0
    """Sweeps completed since the start."""
    bytes: int = 0
    """Bytes read in the sweep that runs, or in the last one."""
    found: int = 0
    """Damaged records and batches found since the start."""
    at: str = ""
    """What is being read; empty between two sweeps."""
    began: int = 0
    ended: int = 0


class Scrub:
    """Owned by the node; `run` until cancelled."""

    def __init__(
        self, storage: Storage, groups: Callable[[], Iterable[Group]], clock: Clock, bytes_per_second: int
    ) -> None:
        """`bytes_per_second` is the pace; 0 turns the scrub off."""
        self.statistics = ScrubStatistics()
        self._storage = storage
        self._groups = groups
        self._clock = clock
        self._rate = bytes_per_second
        self._written = 0
        self._looked = 0.0

    async def run(self) -> None:
        if not self._rate:
            return
        while True:
            began = trio.current_time()
            try:
                await self.sweep(self.pace)
            except StorageError as error:  # the disk failed: the node ends, and says so
                logger.info("the scrub stopped: %s", error)
                return
            await trio.sleep_until(max(began + SWEEP_SECONDS, trio.current_time()))

    async def sweep(self, pace: Pace) -> None:
        """Read everything once. Raises StorageFailed."""
        statistics = self.statistics
        before = statistics.found
        statistics.began, statistics.bytes = self._clock.wall(), 0
        try:
            for group in list(self._groups()):
                damage = group.machine.damage
                if damage is not None and not group.state.unrestored:
                    statistics.at = f"blocks of {group.name}"
                    statistics.found += await damage.scrub(self._counted(pace))
            statistics.at = "the log"
            statistics.found += await self._storage.scrub(self._counted(pace))
        finally:
            statistics.at = ""
        statistics.sweeps += 1
        statistics.ended = self._clock.wall()
        found = statistics.found - before
        if found:
            logger.error("the scrub found %d damaged records in %d bytes", found, statistics.bytes)
        else:
            logger.debug("the scrub read %d bytes, all sound", statistics.bytes)

    def _counted(self, pace: Pace) -> Pace:
        async def wait(size: int) -> None:
            self.statistics.bytes += size
            await pace(size)

        return wait

    async def pace(self, size: int) -> None:
        """Before each read: long enough for the pace, and longer while the disk has better to do."""
        written, now = self._storage.statistics().written_bytes, trio.current_time()
        busy = written - self._written > max(size, self._rate * (now - self._looked))
        self._written, self._looked = written, now
        await trio.sleep(size / self._rate * (YIELD if busy else 1))
