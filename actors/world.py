"""What a node may not reach for by itself: time, randomness, the network and the disk.

Every actor gets these from its parent. `World.real()` is the machine; tests and simulations hand in a virtual
clock (Trio's), a seeded random source, a network in memory and a simulated disk.
"""

import time
from dataclasses import dataclass, field
from pathlib import Path
from random import Random, SystemRandom
from typing import Literal, Protocol

import trio

from ..storage.disk import Disk, FileDisk, Lane, Runner
from ..storage.runner import ThreadRunner
from .peers.network import Network, TcpNetwork


class Clock(Protocol):
    """Two readings that must not be confused: one never jumps, the other is what people call the time."""

    def monotonic(self) -> float:
        """Seconds; virtual under Trio's mock clock. Timeouts and elections use it alone."""
        ...

    def wall(self) -> int:
        """Nanoseconds since 1970. Only the leader reads it, to stamp a batch."""
        ...


class TrioClock:
    """Trio's clock for timeouts, the machine's for stamps."""

    def monotonic(self) -> float:
        return trio.current_time()

    def wall(self) -> int:
        return time.time_ns()


def _seeded() -> Random:
    """The machine's randomness, drawn once: a timeout on the hot path must not cost a system call."""
    return Random(SystemRandom().getrandbits(256))


@dataclass(frozen=True)
class World:
    """The four parameters every node runs in."""

    disk: Disk
    runner: Runner
    clock: Clock = field(default_factory=TrioClock)
    random: Random = field(default_factory=_seeded)
    network: Network = field(default_factory=TcpNetwork)

    @classmethod
    def real(cls, data: Path, *, wal_sync: Literal["thread", "uring", "inline"] = "thread") -> "World":
        """This machine, with the node's files below `data`; `wal_sync` as the option of that name."""
        if wal_sync == "inline":
            return cls(disk=FileDisk(data), runner=ThreadRunner(inline=[Lane.LOG]))
        return cls(disk=FileDisk(data), runner=ThreadRunner(syncer=wal_sync))

    @classmethod
    def forgetful(cls) -> "World":
        """This machine without a disk: for a node that stores nothing for anybody."""
        from ..storage.memory_disk import MemoryDisk
        from ..storage.runner import InlineRunner

        return cls(disk=MemoryDisk(), runner=InlineRunner())
