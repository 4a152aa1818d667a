"""The core tier's log against the real storage actor: the same story leaves the same log behind.

`testing/stable_log.py` does by hand what the storage actor does in tasks. Here both are told one story,
append by append, and what they wrote is compared: each write, where it lies, its records, what its trailer
vouches for. They differ in when they write old records again to free a segment; behind that, what recovery
finds must be the same.
"""

from collections.abc import Iterator
from random import Random

import pytest
import trio

from trimaran.storage import InlineRunner, Manifest, MemoryDisk, Record, Storage
from trimaran.storage.manifest import encode_manifest, manifest_crc
from trimaran.storage.records import BatchRecord, CompactPrefix, GroupCreate, HardState, TruncateSuffix
from trimaran.storage.recovery import recover
from trimaran.storage.segment import SegmentScan
from trimaran.storage.wal import read_segment_header, segment_numbers, segment_path
from trimaran.testing.crash_states import GROUP, INCARNATION, OPTIONS, batch, manifest_of
from trimaran.testing.heap import Heap
from trimaran.testing.nodes.scheduler import SimulatedClock, run_simulated
from trimaran.testing.stable_log import StableLog

REST = 1.0
"""Seconds between two steps: a mark, a spare segment and whatever is freed have their time."""
Step = Manifest | tuple[Record, ...]


def story(draw: Random, length: int) -> Iterator[Step]:
    """Batches, votes, truncations, snapshots and what is compacted behind them, one append each."""
    yield (GroupCreate(GROUP, INCARNATION, "states", "group", b""),)
    last, term, compacted = 0, 1, 0
    for _ in range(length):
        match draw.choice("bbbbvts"):
            case "b":
                count = draw.randint(1, 3)
                sizes = [draw.choice((10, 300, 2500)) for _ in range(count)]
                yield tuple(BatchRecord(batch(last + 1 + i, term, size)) for i, size in enumerate(sizes))
                last += count
            case "v":
                term += 1
                yield (HardState(GROUP, INCARNATION, term, draw.randrange(3), last),)
            case "t" if last > compacted + 1:
                first = draw.randint(compacted + 1, last)
                term += 1
                yield (TruncateSuffix(GROUP, INCARNATION, first), BatchRecord(batch(first, term, 40)))
                last = first
            case "s" if last > compacted:
                manifest = manifest_of(last, term, ())
                yield manifest
                crc = manifest_crc(encode_manifest(manifest))
                yield (CompactPrefix(GROUP, INCARNATION, last, term, crc),)
                compacted = last


def written(disk: MemoryDisk) -> list[object]:
    """What is in the log: of each segment its number and size, and all of its writes."""
    found: list[object] = []
    for number in segment_numbers(disk):
        header = read_segment_header(disk, number)
        found.append((number, header.size, header.resumes))
        for write in SegmentScan(disk.read(segment_path(number)), header).writes():
            found.append((write.start, write.sequence, write.vouch, write.records))
    return found


def found(disk: MemoryDisk) -> tuple[object, ...]:
    """What recovery makes of it, with every batch."""
    disk.kill()
    opened = recover(disk, name="n1", draw=lambda: 5, segment_bytes=OPTIONS.segment_bytes)
    log, group = opened.index.groups[GROUP], opened.recovered.groups[GROUP]
    places = [opened.index.place(GROUP, index) for index in range(log.first, log.last + 1)]
    batches = [
        disk.read(segment_path(place.segment))[place.offset : place.offset + place.length]
        for place in places
        if place is not None
    ]
    assert len(batches) == len(places)
    return log.term, log.vote, log.commit, log.prefix, log.members, group.manifest, batches


def told_to_storage(steps: list[Step], salts: Random) -> MemoryDisk:
    disk = MemoryDisk()

    async def play() -> None:
        storage = await Storage.open(
            disk, InlineRunner(), name="n1", draw=lambda: salts.getrandbits(64), options=OPTIONS
        )
        async with trio.open_nursery() as nursery:
            await nursery.start(storage.run)
            for step in steps:
                if isinstance(step, Manifest):
                    await storage.group_files(GROUP, INCARNATION).write_manifest(step)
                else:
                    storage.append(step)
                await trio.sleep(REST)
            nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            await storage.close()

    run_simulated(1, SimulatedClock(Random(1)), play, 3600.0)
    return disk


def told_to_stable_log(steps: list[Step], salts: Random) -> MemoryDisk:
    disk, heap = MemoryDisk(), Heap()
    opened = recover(disk, name="n1", draw=lambda: salts.getrandbits(64), segment_bytes=OPTIONS.segment_bytes)
    log = StableLog(
        disk,
        opened,
        segment_bytes=OPTIONS.segment_bytes,
        draw=salts,
        sync_time=lambda: 0.001,
        later=heap.after,
        on_batch=lambda place: None,
        on_failure=lambda error: pytest.fail(str(error)),
    )
    for step in steps:
        if isinstance(step, Manifest):
            log.write_manifest(step)
        else:
            log.append(step)
        heap.run(REST)
    return disk


@pytest.mark.parametrize("seed", range(6))
def test_it_writes_what_the_storage_actor_writes(seed: int) -> None:
    steps = list(story(Random(seed), 10))
    real, ours = (tell(steps, Random(77)) for tell in (told_to_storage, told_to_stable_log))
    assert written(ours) == written(real)
    assert len(segment_numbers(real)) > 1


@pytest.mark.parametrize("seed", range(5))
def test_the_same_is_found_behind_freed_segments(seed: int) -> None:
    steps = list(story(Random(seed), 60))
    real, ours = (tell(steps, Random(77)) for tell in (told_to_storage, told_to_stable_log))
    assert segment_numbers(ours)[0] > 2 and segment_numbers(real)[0] > 2
    assert found(ours) == found(real)
