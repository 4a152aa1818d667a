"""Files that were moved aside: kept for people, within bounds, and counted for the status."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from .disk import Disk

GROUPS: Final = "groups"
QUARANTINE: Final = "quarantine"
EVIDENCE: Final = "evidence"
QUARANTINE_BYTES: Final = 256 << 20
"""Kept in quarantine, over all groups: some snapshots of an ordinary stream."""


def move_aside(disk: Disk, directory: str, names: Sequence[str], aside: Sequence[str]) -> None:
    """Moves files of a directory to its quarantine, whose content is `aside`, under new names."""
    if not names:
        return
    disk.mkdir(f"{directory}/{QUARANTINE}")
    stamp = next_stamp(aside)
    for name in names:
        disk.rename(f"{directory}/{name}", f"{directory}/{QUARANTINE}/{stamp:08x}-{name}")


def next_stamp(aside: Sequence[str]) -> int:
    """What the names of files begin with that are moved aside next."""
    return 1 + max((int(name[:8], 16) for name in aside), default=0)


@dataclass(frozen=True, slots=True)
class Aside:
    """What lies aside in all groups' directories."""

    files: int = 0
    """Files in quarantine; the oldest go when they are too many bytes."""
    bytes: int = 0
    evidence: int = 0
    """Files of states that differed from other replicas'. Nothing removes them but a person."""


class Quarantine:
    """Keeps quarantine within its bound, in the background; a start only counts.

    What a start moved aside may be all that is left of something, so nothing goes before the node has done
    more than start: when something else is moved aside, when a snapshot is durable, or for want of space.
    """

    def __init__(self, disk: Disk, limit: int) -> None:
        """`limit` is in bytes, over all groups."""
        self.aside = Aside()
        """As of the last look."""
        self._disk = disk
        self._limit = limit

    def count(self) -> None:
        """At a start: what there is."""
        self._look(math.inf)

    def trim(self) -> None:
        """Removes files from quarantine, oldest first, until no more than the limit is left."""
        self._look(self._limit)

    def trim_if_over(self) -> None:
        """As `trim`, at no cost if the last look found no more than the limit."""
        if self.aside.bytes > self._limit:
            self.trim()

    def _look(self, limit: float) -> None:
        kept = sorted(
            (name, path, self._size(path))
            for directory in self._disk.listdir(GROUPS)
            for name, path in self._files(f"{GROUPS}/{directory}/{QUARANTINE}")
        )
        evidence = sum(
            len(self._files(f"{GROUPS}/{directory}/{EVIDENCE}")) for directory in self._disk.listdir(GROUPS)
        )
        total = sum(size for _, _, size in kept)
        files = len(kept)
        for _, path, size in kept:
            if total <= limit:
                break
            with suppress(FileNotFoundError):
                self._disk.unlink(path)
            total -= size
            files -= 1
        self.aside = Aside(files, total, evidence)

    def _files(self, path: str) -> list[tuple[str, str]]:
        """(name, path) of what is in a directory; its group may be deleted at this moment."""
        with suppress(FileNotFoundError):
            return [(name, f"{path}/{name}") for name in self._disk.listdir(path)]
        return []

    def _size(self, path: str) -> int:
        try:
            descriptor = self._disk.open(path)
        except FileNotFoundError:
            return 0
        try:
            return self._disk.size(descriptor)
        finally:
            self._disk.close(descriptor)
