"""A user's own state machine in a group (DESIGN 8): the small interface users write, and its adapter."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from ..codec import Entries
from ..storage.manifest import FileEntry
from .machine import Capture


@runtime_checkable
class StateMachine(Protocol):
    """What a user replicates. It must be deterministic: no clock, no randomness, no I/O that decides
    anything.

    It starts empty, or from the state of a snapshot, and then sees every committed batch exactly once, in
    order.
    """

    def apply(self, entries: Sequence[bytes], index: int, time: int) -> Sequence[object]:
        """Apply the entries of one batch; one result for each (anything msgpack can carry).

        A declared refusal (`refused(reason)`) is that entry's result. Any other exception stops this replica
        of the group, which names the index and never skips it.

        Args:
            entries: the proposals, as they were given to `propose`.
            index: of the batch, counting up by one.
            time: when the leader sealed it, nanoseconds since 1970; never falls.
        """
        ...

    def snapshot(self) -> bytes:
        """The whole state as of the last applied batch."""
        ...

    def restore(self, state: bytes) -> None:
        """Take the state of a snapshot in place of the present one."""
        ...


def refused(reason: str) -> dict[str, str]:
    """A result that says "no": the entry stays in the log, and its proposer gets the reason."""
    return {"refused": reason}


class UserMachine:
    """`Machine` around a user's `StateMachine`; its state rides in the manifest, without files."""

    def __init__(self, kind: str, machine: StateMachine) -> None:
        self.kind = kind
        self.machine = machine

    def empty(self) -> None:
        return

    def apply(self, batch: Entries) -> list[object]:
        if not len(batch):
            return []
        entries = [bytes(batch.entry(position)) for position in range(len(batch))]
        results = list(self.machine.apply(entries, batch.header.index, batch.header.time))
        if len(results) != len(entries):
            raise ValueError(f"apply returned {len(results)} results for {len(entries)} entries")
        return results

    def capture(self) -> Capture:
        return Capture(state=self.machine.snapshot())

    def captured(self, capture: Capture) -> None:
        return

    async def restore(self, state: bytes, files: Sequence[FileEntry]) -> None:
        self.machine.restore(state)

    async def settle(self) -> None:
        return

    def close(self) -> None:
        return
