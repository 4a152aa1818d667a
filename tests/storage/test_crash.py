"""Power may go at any operation: what was acknowledged is there, and nothing else than what was written.

The fault catalogue's D1, D2, D4, D6 to D9: the disk loses or tears what was not synced by sectors, in any
order, and directory entries one by one.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from random import Random

import pytest
import trio

from trimaran.storage import (
    CompactPrefix,
    DiskFull,
    GroupDelete,
    HardState,
    MemoryDisk,
    Record,
    Storage,
    StorageOptions,
    TruncateSuffix,
)
from trimaran.storage.index import EntryTable
from trimaran.storage.recovery import Opened, recover

from .helpers import GROUP, INCARNATION, SMALL, create, opened, record, state

View = dict[int, tuple[int, int, int, int, tuple[tuple[int, int], ...]]]
"""Per group: incarnation, term, vote, compacted index, and (index, term) of each entry."""


@dataclass
class Model:
    """What the log must say after each record, by the plainest code that can say it."""

    terms: dict[int, tuple[int, int]] = field(default_factory=dict)
    logs: dict[int, dict[int, int]] = field(default_factory=dict)
    incarnations: dict[int, int] = field(default_factory=dict)
    compacted: dict[int, int] = field(default_factory=dict)
    states: list[View] = field(default_factory=lambda: [{}])

    def take(self, one: Record, index: int = 0, term: int = 0, group: int = GROUP) -> None:
        match one:
            case HardState():
                self.terms[one.group] = (one.term, one.vote)
            case TruncateSuffix():
                self.logs[one.group] = {
                    i: t for i, t in self.logs[one.group].items() if i < one.first_removed
                }
            case CompactPrefix():
                self.logs[one.group] = {i: t for i, t in self.logs[one.group].items() if i > one.index}
                self.compacted[one.group] = one.index
            case GroupDelete():
                for table in (self.terms, self.logs, self.incarnations, self.compacted):
                    table.pop(one.group, None)
            case _ if index == 0:
                self.logs[group] = {}
                self.incarnations[group] = INCARNATION
            case _:
                self.logs[group] = {i: t for i, t in self.logs[group].items() if i < index} | {index: term}
        self.states.append(
            {
                group: (
                    self.incarnations[group],
                    *self.terms.get(group, (0, 0)),
                    self.compacted.get(group, 0),
                    tuple(sorted(log.items())),
                )
                for group, log in self.logs.items()
            }
        )


def view(opened: Opened) -> View:
    """The recovered state in the model's words. A batch that a torn write named counts as there, in doubt;
    nothing else may be faulty, and nothing closed."""
    for group in opened.recovered.groups.values():
        assert all(fault.doubtful for fault in group.faults) and not group.closed, (
            group.faults,
            group.compacted,
            list(group.entries),
        )
    return {
        group: (
            log.incarnation,
            log.term,
            log.vote,
            log.prefix.index,
            tuple((entry.index, entry.term) for entry in EntryTable(log)),
        )
        for group, log in opened.index.groups.items()
    }


def recovered(disk: MemoryDisk, seed: int) -> View:
    """The disk as a start-up finds it. The process then ends without doing anything more."""
    draw = Random(f"{seed} recovery").getrandbits
    found = view(recover(disk, name="n1", draw=lambda: draw(64), segment_bytes=SMALL.segment_bytes))
    disk.kill()
    return found


def script(random: Random, model: Model, last: dict[int, int], term: int) -> list[tuple[Record, int, int]]:
    """One append's records, as (record, index, term), for a group that exists."""
    records: list[tuple[Record, int, int]] = []
    for _ in range(random.randint(1, 4)):
        known = len(records)
        choice = random.random()
        if choice < 0.65:
            last[GROUP] += 1
            size = random.choice((10, 500, 3000))
            records.append((record(last[GROUP], term=term, size=size), last[GROUP], term))
        elif choice < 0.8:
            records.append((state(term, vote=random.randint(1, 9)), 0, 0))
        elif choice < 0.9 and last[GROUP] > model.compacted.get(GROUP, 0) + 2:
            last[GROUP] -= random.randint(1, 2)
            records.append((TruncateSuffix(GROUP, INCARNATION, last[GROUP] + 1), 0, 0))
        elif last[GROUP] > model.compacted.get(GROUP, 0) + 3:
            index = last[GROUP] - 2
            at = model.logs[GROUP].get(index)
            if at is not None:
                records.append((CompactPrefix(GROUP, INCARNATION, index, at, 0), 0, 0))
        for one, index, at in records[known:]:
            model.take(one, index, at)
    return records


async def run_script(
    disk: MemoryDisk, seed: int, appends: int
) -> tuple[Model, list[tuple[MemoryDisk, int, int]]]:
    """Runs random appends, and keeps the disk as it was before every operation. With odd seeds writes
    are small, and each begins before what waited for the last one runs.

    Returns the model and (disk, records acknowledged then, records appended then).
    """
    random = Random(f"{seed} script")
    model = Model()
    snapshots: list[tuple[MemoryDisk, int, int]] = []
    acknowledged = 0
    appended = 0

    def before(operation: str, path: str) -> None:
        snapshots.append((disk.fork(), acknowledged, appended))

    def acknowledge(count: int) -> None:
        nonlocal acknowledged
        assert count > acknowledged
        acknowledged = count

    disk.before = before
    options = replace(SMALL, overlap_bytes=0, write_bytes=2048) if seed % 2 else SMALL
    async with opened(disk, seed=seed, options=options) as storage:
        last = {GROUP: 0}
        for step in range(appends):
            if step == 0:
                records: list[tuple[Record, int, int]] = [(create(), 0, 0)]
                model.take(create())
            else:
                records = script(random, model, last, term=1 + step // 8)
            appended += len(records)
            if not records:
                continue
            storage.append(
                [one for one, _, _ in records],
                partial(acknowledge, appended),
            )
            if random.random() < 0.7:
                await storage.drain()
        await storage.drain()
        await trio.sleep(1)  # the mark
    snapshots.append((disk.fork(), acknowledged, appended))
    return model, snapshots


@pytest.mark.parametrize("seed", range(8))
async def test_power_loss_before_any_operation(seed: int, autojump_clock: trio.testing.MockClock) -> None:
    model, snapshots = await run_script(MemoryDisk(), seed, appends=25)
    fates = Random(f"{seed} fates")
    for disk, acknowledged, appended in snapshots:
        disk.crash(fates)
        found = recovered(disk, seed)
        assert found in model.states[acknowledged : appended + 1]
        assert recovered(disk, seed + 100) == found, "a second start-up must find the same"
        disk.crash(fates)
        assert recovered(disk, seed + 200) == found, "what start-up vouched for must survive a power loss"


@pytest.mark.parametrize("seed", range(5))
async def test_a_kill_keeps_all_that_was_written_and_vouches_for_it(
    seed: int, autojump_clock: trio.testing.MockClock
) -> None:
    """A kill leaves unsynced bytes in the page cache. Who has read them must have made them durable."""
    model, snapshots = await run_script(MemoryDisk(), seed, appends=25)
    fates = Random(f"{seed} fates")
    for disk, acknowledged, appended in snapshots:
        disk.kill()
        found = recovered(disk, seed)
        assert found in model.states[acknowledged : appended + 1]
        disk.crash(fates)
        assert recovered(disk, seed + 1) == found


@pytest.mark.parametrize("seed", range(5))
async def test_recovery_itself_may_be_cut(seed: int, autojump_clock: trio.testing.MockClock) -> None:
    model, snapshots = await run_script(MemoryDisk(), seed, appends=10)
    fates = Random(f"{seed} fates")
    for disk, acknowledged, appended in snapshots[-12:]:
        disk.crash(fates)
        cuts: list[MemoryDisk] = []
        disk.before = lambda operation, path, disk=disk, cuts=cuts: cuts.append(disk.fork())
        recovered(disk, seed)
        assert cuts
        for number, cut in enumerate(cuts):
            cut.crash(fates)
            assert recovered(cut, number) in model.states[acknowledged : appended + 1]


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("seed", range(4))
async def test_a_killed_recovery_vouches_for_nothing(
    seed: int, full: bool, autojump_clock: trio.testing.MockClock
) -> None:
    """Killed while it copied the last write, it leaves that copy and the original in the page cache only.

    On a full disk the copy goes into the segment that is there already, which has its name then.
    """
    _, snapshots = await run_script(MemoryDisk(), seed, appends=8)
    fates = Random(f"{seed} fates")
    for disk, _, _ in snapshots[-15:]:
        disk.kill()
        disk.capacity = disk._used() if full else None
        cuts: list[MemoryDisk] = []
        disk.before = lambda operation, path, disk=disk, cuts=cuts: cuts.append(disk.fork())
        try:
            recovered(disk, seed)
        except DiskFull:
            assert full, "the spare segment was not ready yet"
        for number, cut in enumerate(cuts):
            cut.capacity = None
            if fates.random() < 0.5:
                cut.crash(fates)
            found = recovered(cut, number)
            cut.crash(fates)
            assert recovered(cut, number + 1) == found


def rest(disk: MemoryDisk, storage: Storage) -> bytes:
    """What lies behind the last write in the current segment."""
    writer = storage._writer
    return disk.read(f"wal/{writer.segment.number:016x}.wal")[writer.position :]


async def test_bytes_of_an_earlier_use_never_pass() -> None:
    """A recycled segment is full of old, well-formed writes of the same node: none may come back."""
    disk = MemoryDisk()
    options = StorageOptions(segment_bytes=16 << 10, write_bytes=8 << 10)
    async with opened(disk, options=options) as storage:
        storage.append([create()])
        index = 0
        while index < 60 or not any(rest(disk, storage)):
            index += 1
            storage.append([record(index, size=2000)])
            if index > 5:
                storage.append([CompactPrefix(GROUP, INCARNATION, index - 3, 1, 0)])
            await storage.drain()
        assert ("rename", "wal/recycled.tmp") in disk.operations
        expected = [(entry.index, entry.term) for entry in EntryTable(storage._index.groups[GROUP])]
    disk.crash(Random(1))
    found = recovered(disk, 1)
    assert list(found[GROUP][4]) == expected
