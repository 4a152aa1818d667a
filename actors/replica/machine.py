"""What a group replicates: a deterministic state machine, driven by its applier, one batch at a time.

A machine sees committed batches in index order and nothing else: no clock but the batch's time, no
randomness, no answer from outside. Two replicas that applied the same batches are equal, byte for byte.
A refusal is an entry's result; an exception stops this replica of the group (it is never skipped).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from ...codec import Entries
    from ...storage.manifest import FileEntry


class Patient(Protocol):
    """Files of a machine of which something can't be read, in the words of the one who repairs them.

    What is missing has numbers (a stream's sequences), which mean the same on every replica.
    """

    @property
    def whole(self) -> bool:
        """Whether nothing is missing."""
        ...

    @property
    def reasons(self) -> list[str]:
        """What is damaged, in words: file, offset, numbers."""
        ...

    @property
    def lost(self) -> list[tuple[int, int]]:
        """(first, last) of the numbers that were given up for good."""
        ...

    @property
    def newest(self) -> int:
        """The highest number that these files have come to; 0 if they have none."""
        ...

    async def missing(self, limit: int) -> list[int]:
        """Up to so many numbers that are missing."""
        ...

    async def take(self, records: Mapping[int, bytes]) -> int:
        """Copies from another replica. They are checked, and durable on return; how many were of use.

        Raises StorageError.
        """
        ...

    async def give(self, numbers: Sequence[int], limit: int) -> list[tuple[int, bytes]]:
        """Those of them that can be read here, about `limit` bytes in all. Raises StorageError."""
        ...

    async def scrub(self, pace: Callable[[int], Awaitable[None]]) -> int:
        """Reads once more what is durable; how many damaged records were found that nobody knew of.

        Before each read `pace` is awaited with its size in bytes. Raises StorageFailed.
        """
        ...

    async def examine(self, name: str) -> int:
        """As `scrub` for one file, also while it is written."""
        ...

    async def give_up(self, numbers: Sequence[int]) -> None:
        """Nobody who can be asked now has these. Raises StorageError."""
        ...


class StateUnusable(Exception):
    """A manifest's state or files are damaged: this replica can't start from them."""

    patient: Patient | None = None
    """The files, if they can be mended with what other replicas have."""


# One result per entry: a list of msgpack-able objects, or 8 packed little-endian bytes per entry.
Results = list[object] | bytes


@dataclass(frozen=True, slots=True)
class Capture:
    """A machine's whole state as of the last applied batch, ready to become a manifest."""

    state: bytes
    """Everything that is not in the files, in the machine's own versioned format."""
    files: tuple[FileEntry, ...] = ()
    """Files of the group, cut at the length and checksum they had at the capture."""
    obsolete: tuple[str, ...] = ()
    """Files that this capture no longer needs, but an earlier manifest may name."""


class Machine(Protocol):
    """A replicated state machine.

    A snapshot is taken in four steps, in this order (rule S11): ``capture()``; the group's
    ``files.sync`` of the captured names; ``files.write_manifest``; ``captured(capture)``.
    """

    @property
    def kind(self) -> str:
        """The name under which manifests and group records know this machine."""
        ...

    def empty(self) -> None:
        """Takes the state of a group that has no manifest yet."""
        ...

    def apply(self, batch: Entries) -> Results:
        """Applies one committed batch, also one without entries (its time may let things expire).

        Never awaits. Returns one result per entry.
        """
        ...

    def capture(self) -> Capture:
        """The state as of the last applied batch; cheap, never awaits, never writes."""
        ...

    def captured(self, capture: Capture) -> None:
        """The manifest made of `capture` is durable: its obsolete files may go now."""
        ...

    async def restore(self, state: bytes, files: Sequence[FileEntry], *, accept_loss: bool = False) -> None:
        """Takes the state of a manifest. The files are already cut to their named lengths (rule S12).

        StateUnusable or FileDamaged if they are damaged; the machine must then be emptied. With `accept_loss`
        it starts with what can be read of its files, and answers for the rest with an error.
        """
        ...

    @property
    def damage(self) -> Patient | None:
        """What of the files in use can't be read; None if this machine has no files."""
        ...

    def on_damage(self, tell: Callable[[], None]) -> None:
        """`tell` is to be called when something was found that can't be read."""
        ...

    @property
    def settled(self) -> bool:
        """Whether the file writes in flight are below their bound, so that `settle` would not wait."""
        ...

    async def settle(self) -> None:
        """Waits until the file writes in flight are below their bound; called between batches."""
        ...

    def close(self) -> None:
        """Lets go of what the machine holds in memory. Files stay as they are."""
        ...


class Fileless:
    """What a `Machine` without files answers: its state is in memory, and in a manifest's `state`."""

    @property
    def damage(self) -> None:
        """There is nothing that could be damaged."""
        return None

    def on_damage(self, tell: Callable[[], None]) -> None:
        """Never told: nothing is read."""

    def captured(self, capture: Capture) -> None:
        """No file is obsolete."""

    @property
    def settled(self) -> bool:
        """No write is in flight."""
        return True

    async def settle(self) -> None:
        """No write to wait for."""

    def close(self) -> None:
        """Nothing is open."""
