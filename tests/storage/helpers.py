"""What the storage tests share: sealed batches, a seeded source of random numbers, and runners."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from random import Random
from typing import TypeVar

import trio

from trimaran.codec import Buffer, EntryType, Kind, make_chunk, seal_batch
from trimaran.storage import (
    BatchRecord,
    Disk,
    GroupCreate,
    HardState,
    InlineRunner,
    Lane,
    Runner,
    Storage,
    StorageFailed,
    StorageOptions,
)
from trimaran.storage.index import EntryTable
from trimaran.storage.turns import Turns

T = TypeVar("T")

SMALL = StorageOptions(segment_bytes=64 << 10, write_bytes=32 << 10)
GROUP = 2
INCARNATION = 7


def batch(
    index: int, *, term: int = 1, size: int = 40, group: int = GROUP, incarnation: int = INCARNATION
) -> bytes:
    """A sealed batch with one entry that is different for every (index, term, size)."""
    filler = Random(f"{group} {index} {term}").randbytes(size)
    return seal_batch(
        [make_chunk([(EntryType.OPAQUE, filler)])],
        kind=Kind.NORMAL,
        group=group,
        incarnation=incarnation,
        index=index,
        term=term,
        previous_term=term,
        time=index,
    )


def record(index: int, **more: int) -> BatchRecord:
    return BatchRecord(batch(index, **more))


def create(group: int = GROUP, incarnation: int = INCARNATION) -> GroupCreate:
    return GroupCreate(group, incarnation, "test", f"group {group}", b"members")


def state(term: int, vote: int = 0, commit: int = 0, group: int = GROUP) -> HardState:
    return HardState(group, INCARNATION, term, vote, commit)


class GatedRunner:
    """Runs jobs inline, but a job of one lane waits while the gate is closed."""

    def __init__(self, lane: Lane = Lane.LOG) -> None:
        self.lane = lane
        self.gate = trio.Event()
        self.gate.set()
        self.waiting = trio.Event()

    def hold(self) -> None:
        self.gate = trio.Event()
        self.waiting = trio.Event()

    async def run(self, lane: Lane, function: Callable[..., T], *args: object) -> T:
        if lane is self.lane and not self.gate.is_set():
            self.waiting.set()
            await self.gate.wait()
        try:
            return function(*args)
        finally:
            await trio.lowlevel.checkpoint()

    async def write_and_sync(
        self, disk: Disk, descriptor: int, buffers: Sequence[Buffer], offset: int
    ) -> None:
        def job() -> None:
            disk.pwritev(descriptor, buffers, offset)
            disk.fdatasync(descriptor)

        await self.run(Lane.LOG, job)

    def close(self, seconds: float = 0.0) -> bool:
        return True


@asynccontextmanager
async def opened(
    disk: Disk,
    *,
    seed: int = 1,
    runner: Runner | None = None,
    options: StorageOptions = SMALL,
    on_failure: Callable[[StorageFailed], None] | None = None,
    turns: Turns | None = None,
    run: bool = True,
) -> AsyncIterator[Storage]:
    """An open and running storage; at the end it is stopped as it is, nothing is flushed."""
    draw = Random(f"{seed} salt").getrandbits
    storage = await Storage.open(
        disk,
        runner or InlineRunner(),
        name="n1",
        draw=lambda: draw(64),
        options=options,
        on_failure=on_failure,
        turns=turns,
    )
    try:
        async with trio.open_nursery() as nursery:
            if run:
                await nursery.start(storage.run)
            yield storage
            nursery.cancel_scope.cancel()
    finally:
        with trio.CancelScope(shield=True):
            await storage.close()


async def stored(storage: Storage, group: int = GROUP) -> list[bytes]:
    """Every batch of a group's log, read back and verified."""
    log = storage._index.groups[group]
    batches: list[bytes] = []
    while len(batches) < len(log.terms):
        batches += await storage.read_batches(group, log.first + len(batches), 1 << 60, 1 << 20)
    return batches


def names(storage: Storage, group: int = GROUP) -> list[tuple[int, int]]:
    """(index, term) of every entry of a group's log, as it is now."""
    return [(entry.index, entry.term) for entry in EntryTable(storage._index.groups[group])]
