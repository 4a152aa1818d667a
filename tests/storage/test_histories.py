"""Random histories of all that storage does at once, and the power gone before every single operation.

Appends, votes, truncations, group files, manifests, compactions that rely on them, groups that are deleted
and made again, in segments so small that they are freed, written again and recycled all the time. Whatever of
it is on the disk then: what was acknowledged is there, nothing else than what was written is, and a recovery
that is itself cut changes nothing about that.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from random import Random

import pytest
import trio

from trimaran.codec import crc32c
from trimaran.storage import (
    BatchRecord,
    CompactPrefix,
    FileEntry,
    GroupCreate,
    GroupDelete,
    HardState,
    Manifest,
    MemoryDisk,
    Storage,
    StorageOptions,
    TruncateSuffix,
)
from trimaran.storage.recovery import Opened, RecoveredGroup, recover
from trimaran.storage.wal import segment_path

from .helpers import batch, opened

TINY = StorageOptions(segment_bytes=16 << 10, write_bytes=8 << 10)
GROUPS = (2, 3)
STEPS = 60


@dataclass(frozen=True)
class Told:
    """What a group may count on at some moment, or what it had begun by then."""

    incarnation: int = 0
    """0: there is none."""
    term: int = 0
    batches: tuple[bytes, ...] = ()
    """From index 1 on, compacted or not."""
    compacted: int = 0
    manifest: int = 0


@dataclass
class Group:
    """One group's driver: what was begun, and what was acknowledged."""

    number: int
    begun: Told = Told()
    done: Told = Told()
    files: dict[str, bytes] = field(default_factory=dict)
    """What was written to each file of this incarnation."""
    manifests: dict[int, tuple[FileEntry, ...]] = field(default_factory=dict)
    ever: set[bytes] = field(default_factory=set)
    """Every batch that was ever appended."""


Moment = tuple[MemoryDisk, dict[int, tuple[Told, Told]]]
"""A disk, and for each group what was acknowledged and what was begun when it looked like that."""


class Driver:
    """Plays a history, and keeps the disk as it was before each operation."""

    def __init__(self, seed: int) -> None:
        self.random = Random(f"{seed} history")
        self.disk = MemoryDisk()
        self.groups = {number: Group(number) for number in GROUPS}
        self.moments: list[Moment] = []
        self._incarnations = iter(range(1, 1000))

    def moment(self) -> Moment:
        return self.disk.fork(), {each.number: (each.done, each.begun) for each in self.groups.values()}

    async def play(self, seed: int) -> None:
        self.disk.before = lambda operation, path: self.moments.append(self.moment())
        async with opened(self.disk, options=TINY, seed=seed) as storage:
            for _ in range(STEPS):
                group = self.groups[self.random.choice(GROUPS)]
                await self.step(storage, group)
                if self.random.random() < 0.3:
                    await trio.sleep(self.random.choice((0.01, 0.1, 2)))
            await storage.drain()
            await trio.sleep(5)
        self.moments.append(self.moment())

    async def step(self, storage: Storage, group: Group) -> None:
        choice = self.random.random()
        told = group.begun
        if not told.incarnation:
            await self.create(storage, group)
        elif choice < 0.55:
            await self.append(storage, group)
        elif choice < 0.65 and len(told.batches) > told.compacted + 1:
            await self.truncate(storage, group)
        elif choice < 0.95:
            await self.snapshot(storage, group)
        else:
            await self.delete(storage, group)

    async def create(self, storage: Storage, group: Group) -> None:
        incarnation = next(self._incarnations)
        group.files, group.manifests = {}, {}
        group.begun = Told(incarnation)
        name = f"group {group.number}"
        storage.append([GroupCreate(group.number, incarnation, "test", name, b"m")], self.done(group))
        await storage.drain()

    async def append(self, storage: Storage, group: Group) -> None:
        told = group.begun
        term = told.term + self.random.choice((0, 0, 1)) or 1
        first, count = len(told.batches) + 1, self.random.randint(1, 3)
        sizes = [self.random.choice((20, 700, 2500)) for _ in range(count)]
        more = tuple(
            batch(first + at, term=term, size=size, group=group.number, incarnation=told.incarnation)
            for at, size in enumerate(sizes)
        )
        group.ever.update(more)
        group.begun = replace(told, term=term, batches=told.batches + more)
        state = HardState(group.number, told.incarnation, term, 1, told.manifest)
        storage.append([*map(BatchRecord, more), state], self.done(group))
        if self.random.random() < 0.7:
            await storage.drain()

    async def truncate(self, storage: Storage, group: Group) -> None:
        await storage.drain()
        told = group.begun
        keep = self.random.randint(max(told.compacted, told.manifest), len(told.batches))
        group.begun = replace(told, batches=told.batches[:keep])
        storage.append([TruncateSuffix(group.number, told.incarnation, keep + 1)], self.done(group))
        await storage.drain()

    async def snapshot(self, storage: Storage, group: Group) -> None:
        """Files, a manifest of them, and then the log goes up to the manifest before."""
        await storage.drain()
        told, before = group.begun, group.done.manifest
        index = len(told.batches)
        if index <= told.manifest:
            return
        files = storage.group_files(group.number, told.incarnation)
        if not group.files or self.random.random() < 0.3:
            group.files[files.new_name("block")] = b""
        name = list(group.files)[-1]
        data = self.random.randbytes(self.random.randint(1, 900))
        files.write(name, len(group.files[name]), data)
        group.files[name] += data
        named = tuple(FileEntry(each, len(held), crc32c(held)) for each, held in group.files.items())[-2:]
        await files.sync([each.name for each in named])
        manifest = self.manifest(group, index, named)
        group.manifests[index] = named
        group.begun = replace(told, manifest=index)
        crc = await files.write_manifest(manifest)
        group.done = replace(group.done, manifest=index)
        gone = [each for each in group.files if each not in {entry.name for entry in named}]
        files.forget(gone)
        for each in gone:
            del group.files[each]
        files.write(name, len(group.files[name]), b"more, which no manifest names")
        if before:
            compacted = self.random.choice((before, index))
            term = 1 if not compacted else _term(group.begun.batches[compacted - 1])
            known = crc if compacted == index else 0
            group.begun = replace(group.begun, compacted=compacted)
            storage.append(
                [CompactPrefix(group.number, told.incarnation, compacted, term, known)], self.done(group)
            )
        del group.files[name]  # what lies behind it now is not known: another file comes next
        await storage.drain()

    async def delete(self, storage: Storage, group: Group) -> None:
        await storage.drain()
        incarnation, group.begun = group.begun.incarnation, Told()
        storage.append([GroupDelete(group.number, incarnation)], self.done(group))
        await storage.drain()

    def done(self, group: Group) -> Done:
        return Done(group, group.begun)

    @staticmethod
    def manifest(group: Group, index: int, files: tuple[FileEntry, ...]) -> Manifest:
        return Manifest(
            group=group.number,
            incarnation=group.begun.incarnation,
            index=index,
            term=_term(group.begun.batches[index - 1]),
            members=b"",
            time=0,
            kind="test",
            rolling_hash=0,
            files=files,
        )


@dataclass
class Done:
    """What is acknowledged with a sync."""

    group: Group
    told: Told

    def __call__(self) -> None:
        self.group.done = replace(self.told, manifest=max(self.told.manifest, self.group.done.manifest))
        if self.told.incarnation != self.group.begun.incarnation or not self.told.incarnation:
            self.group.done = self.told


def _term(encoded: bytes) -> int:
    return int.from_bytes(encoded[32:40], "little")


# --- what must hold -----------------------------------------------------------------------------------------


def start(disk: MemoryDisk, seed: int) -> Opened:
    draw = Random(f"{seed} start").getrandbits
    return recover(disk, name="n1", draw=lambda: draw(64), segment_bytes=TINY.segment_bytes)


def check(disk: MemoryDisk, moment: Moment, driver: Driver, seed: int) -> None:
    """A start on this disk finds what had been acknowledged, and nothing that was never begun."""
    opened_ = start(disk, seed)
    found = opened_.recovered.groups
    for number, (done, begun) in moment[1].items():
        group = found.get(number)
        if group is None:
            assert not done.incarnation or begun.incarnation != done.incarnation, "an acknowledged group"
            continue
        assert not group.closed and not group.manifest_damaged and not group.broken
        assert group.incarnation in (done.incarnation, begun.incarnation)
        _check_log(disk, opened_, group, driver.groups[number], done, begun)
        _check_files(disk, group, done, begun)
    disk.kill()


def _check_log(
    disk: MemoryDisk, opened_: Opened, group: RecoveredGroup, driver: Group, done: Told, begun: Told
) -> None:
    if group.incarnation == done.incarnation:
        assert group.term >= done.term
        assert group.compacted.index >= done.compacted
    held = dict(_batches(disk, opened_, group))
    for index, read in held.items():
        assert read in driver.ever, f"index {index} was never written"
    if group.incarnation != done.incarnation or group.incarnation != begun.incarnation:
        return
    kept = min(len(done.batches), len(begun.batches))  # a truncation may be under way
    for index in range(group.compacted.index + 1, kept + 1):
        assert held[index] == done.batches[index - 1], f"index {index} was acknowledged"
    assert group.last_index <= max(len(done.batches), len(begun.batches))


def _batches(disk: MemoryDisk, opened_: Opened, group: RecoveredGroup) -> Iterator[tuple[int, bytes]]:
    for entry in group.entries:
        place = opened_.index.place(group.group, entry.index)
        if place is not None:
            data = disk.read(segment_path(place.segment))
            yield entry.index, data[place.offset : place.offset + place.length]


def _check_files(disk: MemoryDisk, group: RecoveredGroup, done: Told, begun: Told) -> None:
    index = group.manifest.index if group.manifest is not None else 0
    if group.incarnation == done.incarnation:
        assert index >= done.manifest
    assert index >= group.compacted.index, "the log relies on it"
    assert index <= max(done.manifest, begun.manifest)
    for file in group.manifest.files if group.manifest is not None else ():
        data = disk.read(f"groups/{group.group}-{group.incarnation}/{file.name}")
        assert (len(data), crc32c(data)) == (file.length, file.crc32c), "cut to what the manifest says"


@pytest.mark.parametrize("seed", [0, 2, 4])
async def test_power_loss_before_every_operation(seed: int, autojump_clock: trio.testing.MockClock) -> None:
    driver = Driver(seed)
    await driver.play(seed)
    assert {("rename", "wal/recycled.tmp"), ("sync directory", "groups")} <= set(driver.disk.operations)
    assert {"rmdir", "unlink"} <= {
        what for what, path in driver.disk.operations if path.startswith("groups/")
    }
    fates = Random(f"{seed} fates")
    for moment in driver.moments:
        disk = moment[0]
        disk.crash(fates)
        check(disk, moment, driver, seed)
        disk.crash(fates)
        check(
            disk, moment, driver, seed + 100
        )  # and what that start vouched for survives the next power loss


@pytest.mark.parametrize("power", [False, True], ids=["killed", "power loss"])
async def test_recovery_cut_at_every_operation(autojump_clock: trio.testing.MockClock, power: bool) -> None:
    """A node that is killed, or loses its power, starts, and its start is cut, time and again."""
    driver = Driver(7)
    await driver.play(7)
    fates = Random("cuts")
    for moment in fates.sample(driver.moments, 25):
        disk = moment[0]
        if power:
            disk.crash(fates)
        disk.kill()
        cuts: list[MemoryDisk] = []
        disk.before = lambda operation, path, disk=disk, cuts=cuts: cuts.append(disk.fork())
        start(disk, 1)
        disk.kill()
        assert cuts
        for number, cut in enumerate([*cuts, disk]):
            cut.crash(fates)
            check(cut, moment, driver, number)
