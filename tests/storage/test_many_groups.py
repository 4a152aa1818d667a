"""A thousand groups on one node: one log, one sync for all that wait, and a start that is over soon."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

from trimaran.storage import BatchRecord, FileDisk, GroupCreate, HardState, MemoryDisk, Record, StorageOptions
from trimaran.storage.runner import ThreadRunner

from .helpers import INCARNATION, GatedRunner, batch, opened

GROUPS = range(2, 1002)
OPEN_SECONDS = 2.0
OPTIONS = StorageOptions(segment_bytes=4 << 20)


def born(group: int) -> list[Record]:
    return [
        GroupCreate(group, INCARNATION, "stream", f"stream {group}", b"members"),
        HardState(group, INCARNATION, 1, 1, 0),
        *(BatchRecord(batch(index, group=group)) for index in (1, 2, 3)),
    ]


async def test_a_thousand_groups_share_their_syncs() -> None:
    runner = GatedRunner()
    async with opened(MemoryDisk(), runner=runner, options=OPTIONS) as storage:
        storage.append([record for group in GROUPS for record in born(group)])
        await storage.drain()
        before, done = storage.statistics().writes, list[int]()
        runner.hold()
        storage.append([BatchRecord(batch(4))], lambda: done.append(0))
        await runner.waiting.wait()
        for group in GROUPS:
            last = BatchRecord(batch(5 if group == 2 else 4, group=group))
            storage.append([last], partial(done.append, group))
        runner.gate.set()
        await storage.drain()
        assert done == [0, *GROUPS]
        assert storage.statistics().writes - before <= 3, "one under way, one for all thousand, and a mark"


async def test_a_thousand_groups_open_soon(tmp_path: Path) -> None:
    """Processor time counts, so that a busy machine does not: the disk's part is some megabytes."""
    async with opened(FileDisk(tmp_path), runner=ThreadRunner(), options=OPTIONS) as storage:
        for group in GROUPS:
            storage.append(born(group))
        await storage.drain()
    began, worked = time.monotonic(), time.process_time()
    async with opened(FileDisk(tmp_path), runner=ThreadRunner(), options=OPTIONS, seed=2) as storage:
        worked, took = time.process_time() - worked, time.monotonic() - began
        assert len(storage.recovered.groups) == len(GROUPS)
        assert all(group.last_index == 3 for group in storage.recovered.groups.values())
    assert min(worked, took) < OPEN_SECONDS
