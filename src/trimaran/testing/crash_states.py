"""Every state that a power loss may leave behind, enumerated: the log's and the manifests' update protocols.

A protocol is played once on a disk in memory by the real storage actor. Before each of its operations on the
disk, every subset of the changes that are not synced by then may have survived, each write also in part, by
sectors. Recovery must find everything that was acknowledged, nothing that was never written, and the same
again when it is run once more.

    from trimaran.testing.crash_states import PROTOCOLS, enumerate_states

    print(enumerate_states(PROTOCOLS["append"], limit=10_000))
"""

from __future__ import annotations

import errno
import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from random import Random
from typing import Final

import trio

from ..codec import CodecError, EntryType, Kind, crc32c, make_chunk, seal_batch, verify_batch
from ..storage import (
    BatchRecord,
    CompactPrefix,
    FileEntry,
    GroupCreate,
    HardState,
    InlineRunner,
    Manifest,
    MemoryDisk,
    Record,
    Storage,
    StorageFailed,
    StorageOptions,
    TruncateSuffix,
    log_reset,
)
from ..storage.group_directory import group_directory
from ..storage.index import EntryTable
from ..storage.node import read_file
from ..storage.recovery import Opened, recover
from ..storage.wal import segment_path
from .nodes.scheduler import SimulatedClock, run_simulated

GROUP, INCARNATION = 2, 7
LONGEST: Final = 3600.0
"""Virtual seconds that no protocol takes."""
MOST_CHANGES: Final = 8
"""Up to so many unsynced changes, every subset is tried; of more, the newest in every subset."""
OPTIONS: Final = StorageOptions(segment_bytes=16 << 10, write_bytes=8 << 10)

Keep = Callable[[int, int], bool]
"""(number of the change, sector) -> whether it survived."""


class StateLost(AssertionError):
    """Recovery found what must not be. The text says at which operation and which changes survived."""


@dataclass(frozen=True, slots=True)
class View:
    """What a log says about its group."""

    term: int = 0
    vote: int = 0
    prefix: int = 0
    entries: tuple[tuple[int, int], ...] = ()
    """(index, term) of each, in order."""
    exists: bool = False

    def after(self, record: Record, index: int, term: int) -> View:
        """The same after one more record; a batch is at (index, term)."""
        entries = self.entries
        match record:
            case GroupCreate():
                return View(exists=True)
            case HardState():
                return View(record.term, record.vote, self.prefix, entries, True)
            case TruncateSuffix():
                kept = tuple(each for each in entries if each[0] < record.first_removed)
                return View(self.term, self.vote, self.prefix, kept, True)
            case CompactPrefix():
                kept = tuple(each for each in entries if each[0] > record.index)
                return View(self.term, self.vote, record.index, kept, True)
        kept = tuple(each for each in entries if each[0] < index)
        return View(self.term, self.vote, self.prefix, (*kept, (index, term)), True)


@dataclass(frozen=True, slots=True)
class _Moment:
    """The disk before an operation, and what was promised by then."""

    operation: str
    disk: MemoryDisk
    acknowledged: int
    appended: int
    manifest: int
    """The index of the newest manifest that is durable for sure."""
    newest: int
    """That of the newest one that was begun."""


@dataclass(slots=True)
class Recording:
    """A protocol being played: it does things through this, which remembers what recovery may find."""

    storage: Storage
    disk: MemoryDisk
    draw: Random
    """Of sizes: another seed is another recording of the same protocol."""
    views: list[View] = field(default_factory=lambda: [View()])
    """After each record that was appended."""
    moments: list[_Moment] = field(default_factory=list)
    manifests: dict[int, Manifest] = field(default_factory=dict)
    commits: set[int] = field(default_factory=lambda: {0})
    """Every commit hint that was written."""
    failing: str = ""
    """The next sync of a file whose name ends so fails, and what was to be synced is lost."""
    acknowledged: int = 0
    last: int = 0
    term: int = 1
    _durable: int = 0
    _newest: int = 0

    def _before(self, operation: str, path: str) -> None:
        appended = len(self.views) - 1
        self.moments.append(
            _Moment(
                f"{operation} {path}",
                self.disk.fork(),
                self.acknowledged,
                appended,
                self._durable,
                self._newest,
            )
        )
        if self.failing and operation == "sync" and path.endswith(self.failing):
            self.failing = ""
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)

    async def append(self, *records: Record, wait: bool = True) -> None:
        """Append records in one call; each is a state that recovery may find from then on."""
        for record in records:
            self.views.append(self.views[-1].after(record, self.last, self.term))
        count = len(self.views) - 1
        self.storage.append(records, lambda: self._acknowledge(count))
        if wait:
            await self.storage.drain()

    def _acknowledge(self, count: int) -> None:
        self.acknowledged = count

    async def batch(self, size: int = 40, *, wait: bool = True) -> None:
        """Append the next batch, with so many bytes in it."""
        self.last += 1
        await self.append(BatchRecord(batch(self.last, self.term, size)), wait=wait)

    async def vote(self, term: int, vote: int) -> None:
        self.term = term
        self.commits.add(self.last)
        await self.append(HardState(GROUP, INCARNATION, term, vote, self.last))

    async def snapshot(self, blocks: dict[str, bytes]) -> int:
        """Sync these files and make a manifest of them; returns its CRC32C. Compact up to it afterwards."""
        files = self.storage.group_files(GROUP, INCARNATION)
        await files.sync(list(blocks))
        entries = tuple(FileEntry(name, len(data), crc32c(data)) for name, data in blocks.items())
        manifest = manifest_of(self.last, self.term, entries)
        self.manifests[manifest.index] = manifest
        self._newest = manifest.index
        crc = await files.write_manifest(manifest)
        self._durable = manifest.index
        return crc

    async def compact(self, index: int, crc: int) -> None:
        term = dict(self.views[-1].entries)[index]
        await self.append(CompactPrefix(GROUP, INCARNATION, index, term, crc))

    async def install(self, index: int, content: bytes) -> None:
        """A snapshot of a peer takes the place of the whole log: what its files and the log go through."""
        files = self.storage.group_files(GROUP, INCARNATION)
        theirs = manifest_of(index, self.term, (FileEntry("block", len(content), crc32c(content)),))
        incoming = files.incoming(theirs)
        await incoming.begin()
        await incoming.write_chunk(0, 0, content, crc32c(content))
        self.manifests[index] = theirs
        self._newest = index
        _, crc = await incoming.finish()
        self._durable = index
        self.last = index
        await self.append(*log_reset(GROUP, INCARNATION, index, self.term, crc))

    async def rest(self) -> None:
        """Long enough for the mark, spare segments, tables of contents and freed segments."""
        await trio.sleep(2)


Protocol = Callable[[Recording], Awaitable[None]]


def batch(index: int, term: int, size: int) -> bytes:
    """A sealed batch whose content is different for every (index, term)."""
    filler = Random(f"{index} {term}").randbytes(size)
    return seal_batch(
        [make_chunk([(EntryType.OPAQUE, filler)])],
        kind=Kind.NORMAL,
        group=GROUP,
        incarnation=INCARNATION,
        index=index,
        term=term,
        previous_term=term,
        time=index,
    )


def manifest_of(index: int, term: int, files: tuple[FileEntry, ...]) -> Manifest:
    return Manifest(
        group=GROUP,
        incarnation=INCARNATION,
        index=index,
        term=term,
        members=b"",
        time=index,
        kind="states",
        rolling_hash=index,
        files=files,
    )


# --- the protocols ----------------------------------------------------------------------------------------


async def append(it: Recording) -> None:
    """Writes of one batch and of several, small and large, some while another is under way."""
    for _ in range(4):
        for _ in range(it.draw.randint(1, 4)):
            await it.batch(it.draw.choice((10, 600, 3000, 6000)))
        for _ in range(it.draw.randint(1, 4)):
            await it.batch(it.draw.choice((10, 700, 2500)), wait=False)
        await it.storage.drain()
        if it.draw.random() < 0.5:
            await it.rest()


async def rotate(it: Recording) -> None:
    """From one segment into the next, often; the oldest ones are freed and their files used again."""
    for round_ in range(5):
        for _ in range(4):
            await it.batch(it.draw.choice((1500, 3000)), wait=round_ % 2 == 0)
        await it.storage.drain()
        if round_ > 0:
            await it.compact(it.last - 3, await it.snapshot({}))
        await it.rest()


async def vote(it: Recording) -> None:
    """Terms and votes, alone and with batches and truncations beside them."""
    for term in range(1, 5):
        await it.vote(term, 0)
        await it.vote(term, term)
        await it.batch(it.draw.choice((10, 300)))
        await it.batch(it.draw.choice((500, 2500)))
        it.last -= 1
        await it.append(TruncateSuffix(GROUP, INCARNATION, it.last + 1))
        await it.batch(200)
    await it.rest()


async def snapshot(it: Recording) -> None:
    """Blocks written behind, synced with the manifest that names them; they go on growing after it."""
    files = it.storage.group_files(GROUP, INCARNATION)
    content = b""
    name = files.new_name("block")
    for _ in range(3):
        for _ in range(2):
            await it.batch(200)
            more = it.draw.randbytes(it.draw.choice((100, 900, 3000)))
            files.write(name, len(content), more)
            content += more
        crc = await it.snapshot({name: content})
        await it.compact(it.last - 1, crc)
        files.write(name, len(content), b"not in any manifest" * 40)
        content += b"not in any manifest" * 40
        await it.batch(100)
    await it.rest()


async def compact(it: Recording) -> None:
    """The log's begin goes, up to the manifest before the last one, and segments with it."""
    crc = 0
    for round_ in range(4):
        for _ in range(3):
            await it.batch(it.draw.choice((800, 2500)))
        before, last = crc, it.last - 3
        crc = await it.snapshot({})
        if round_:
            await it.compact(last, before)
        await it.rest()


async def switch(it: Recording) -> None:
    """A peer's snapshot in place of everything, twice, with votes and batches around it."""
    await it.batch(300)
    await it.vote(2, 3)
    await it.install(40, it.draw.randbytes(it.draw.choice((10, 1500))))
    await it.batch(300)
    await it.batch(2000)
    await it.install(90, it.draw.randbytes(it.draw.choice((700, 2500))))
    await it.vote(3, 1)
    await it.batch(100)
    await it.rest()


async def fail(it: Recording) -> None:
    """A sync of the log or of a manifest fails: from then on nothing is acknowledged, whatever is tried."""
    for _ in range(it.draw.randint(2, 6)):
        await it.batch(it.draw.choice((10, 700, 2500)))
    it.failing = it.draw.choice((".wal", ".wal", "manifest.tmp"))
    with suppress(StorageFailed):
        await it.batch(it.draw.choice((10, 700, 2500)), wait=False)
        await it.snapshot({})
    for _ in range(3):
        await it.batch(it.draw.choice((10, 2500)), wait=False)
        await trio.sleep(0.1)
    await it.rest()


PROTOCOLS: Final[dict[str, Protocol]] = {
    each.__name__: each for each in (append, rotate, vote, snapshot, compact, switch, fail)
}


def record(protocol: Protocol, seed: int = 1) -> Recording:
    """Play a protocol on a fresh disk. Equal seeds give equal recordings."""

    async def play() -> Recording:
        return await _record(protocol, seed)

    return run_simulated(seed, SimulatedClock(Random(f"{seed} clock")), play, LONGEST)


async def _record(protocol: Protocol, seed: int) -> Recording:
    disk, draw = MemoryDisk(), Random(f"{seed} salt")
    storage = await Storage.open(
        disk, InlineRunner(), name="n1", draw=lambda: draw.getrandbits(64), options=OPTIONS
    )
    it = Recording(storage, disk, Random(f"{seed} protocol"))
    async with trio.open_nursery() as nursery:
        await nursery.start(storage.run)
        await it.append(GroupCreate(GROUP, INCARNATION, "states", "group", b""))
        disk.before = it._before
        await protocol(it)
        it._before("the end of", protocol.__name__)
        disk.before = None
        nursery.cancel_scope.cancel()
    with trio.CancelScope(shield=True):
        await storage.close()
    return it


# --- the states -------------------------------------------------------------------------------------------


def survivals(sectors: list[int], draw: Random) -> Iterator[tuple[str, Keep]]:
    """What may survive of changes with so many sectors each, as a name and a rule.

    Every subset of the newest ones (older ones all, or none), then tears: of each write of several sectors
    its begin, its end, and all but one sector.
    """
    count = len(sectors)
    oldest = max(0, count - MOST_CHANGES)
    for older in (True, False) if oldest else (True,):
        for subset in range(1 << (count - oldest)):
            chosen = frozenset(oldest + bit for bit in range(count - oldest) if subset >> bit & 1)
            yield f"{sorted(chosen)} older {older}", _subset(chosen, oldest, older)
    for number, length in enumerate(sectors):
        if length < 2:
            continue
        for kept in _tears(length, draw):
            for others in (True, False):
                yield (
                    f"change {number} in sectors {sorted(kept)}, others {others}",
                    _torn(number, kept, others),
                )


def _subset(chosen: frozenset[int], oldest: int, older: bool) -> Keep:
    return lambda number, sector: number in chosen if number >= oldest else older


def _torn(torn: int, kept: frozenset[int], others: bool) -> Keep:
    return lambda number, sector: sector in kept if number == torn else others and number < torn


def _tears(length: int, draw: Random) -> Iterator[frozenset[int]]:
    everything = range(length)
    cuts = everything[1:] if length <= 16 else sorted(draw.sample(everything[1:], 15))
    for cut in cuts:
        yield frozenset(everything[:cut])
        yield frozenset(everything[cut:])
        yield frozenset(everything) - {cut}


@dataclass(slots=True)
class Enumerated:
    """How much was tried."""

    operations: int = 0
    states: int = 0


def enumerate_states(protocol: Protocol, *, limit: int | None = None, seed: int = 1) -> Enumerated:
    """Recover every state that a power loss may leave of a protocol, or an even part of them.

    Args:
        limit: about so many states at most; they are spread over all operations.
        seed: of the salts, and of what is chosen if there are more than the limit.

    Raises StateLost at the first one that is wrong.
    """
    it = record(protocol, seed)
    per_moment = None if limit is None else max(1, limit // len(it.moments))
    done = Enumerated()
    for moment in it.moments:
        done.operations += 1
        draw = Random(f"{seed} {done.operations}")
        every = list(survivals(moment.disk.unsynced(), draw))
        draw.shuffle(every)
        for name, keep in islice(every, per_moment):
            _check(it, moment, name, keep)
            done.states += 1
    return done


def _check(it: Recording, moment: _Moment, name: str, keep: Keep) -> None:
    disk = moment.disk.fork()
    disk.crash_to(keep)
    where = f"before {moment.operation}, survived: {name}"
    first = _recovered(it, moment, disk, where)
    disk.crash_to(lambda number, sector: False)  # what recovery vouched for is durable
    if _recovered(it, moment, disk, f"{where}, once more") != first:
        raise StateLost(f"{where}: a second start finds something else")


def _recovered(it: Recording, moment: _Moment, disk: MemoryDisk, where: str) -> tuple[View, int]:
    draw = Random(where)
    try:
        opened = recover(
            disk, name="n1", draw=lambda: draw.getrandbits(64), segment_bytes=OPTIONS.segment_bytes
        )
    except Exception as error:
        raise StateLost(f"{where}: {error!r}") from error
    found = (_view(opened, where), _manifest(it, moment, opened, disk, where))
    _check_readable(it, opened, disk, where)
    allowed = it.views[moment.acknowledged : moment.appended + 1]
    if found[0] not in allowed:
        raise StateLost(f"{where}: {found[0]} is none of {allowed}")
    return found


def _view(opened: Opened, where: str) -> View:
    log = opened.index.groups.get(GROUP)
    if log is None:
        return View()
    group = opened.recovered.groups[GROUP]
    if group.closed or group.manifest_damaged or not all(fault.doubtful for fault in group.faults):
        raise StateLost(f"{where}: closed {group.closed}, {group.faults}, {group.manifest_damaged}")
    entries = tuple((entry.index, entry.term) for entry in EntryTable(log))
    return View(log.term, log.vote, log.prefix.index, entries, True)


def _check_readable(it: Recording, opened: Opened, disk: MemoryDisk, where: str) -> None:
    """What recovery calls sound can be read, and the commit hint is one that was written."""
    log = opened.index.groups.get(GROUP)
    if log is None:
        return
    if log.commit not in it.commits:
        raise StateLost(f"{where}: the commit hint {log.commit} was never written")
    for entry in EntryTable(log):
        place = opened.index.place(GROUP, entry.index)
        if place is None:
            continue  # it says itself that it is damaged
        data = disk.read(segment_path(place.segment))[place.offset : place.offset + place.length]
        if not _is_batch(data, entry.index, entry.term):
            raise StateLost(f"{where}: ({entry.index}, {entry.term}) is none, and said to be sound")


def _is_batch(data: bytes, index: int, term: int) -> bool:
    try:
        header = verify_batch(data)
    except CodecError:
        return False
    return (header.index, header.term) == (index, term)


def _manifest(it: Recording, moment: _Moment, opened: Opened, disk: MemoryDisk, where: str) -> int:
    """The index of the manifest found, whose files are what it says."""
    manifest = opened.recovered.groups[GROUP].manifest if GROUP in opened.recovered.groups else None
    index = manifest.index if manifest is not None else 0
    if not moment.manifest <= index <= moment.newest:
        raise StateLost(f"{where}: manifest {index}, {moment.manifest} was durable")
    directory = group_directory(GROUP, INCARNATION)
    for file in manifest.files if manifest is not None else ():
        data = read_file(disk, f"{directory}/{file.name}")
        if len(data) != file.length or crc32c(data) != file.crc32c:
            raise StateLost(f"{where}: {file.name} is not what manifest {index} says")
    disk.kill()
    return index
