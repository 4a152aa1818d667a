"""A stream on the real storage over a disk whose power fails: rules S11 to S13, end to end.

The log is synced, the blocks are not; the disk then keeps any part of what was not synced, sector by sector
and name by name. What was acknowledged is there afterwards, whatever the disk did with the blocks.
"""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
import trio

from tests.storage.helpers import GROUP, INCARNATION, opened
from tests.stream.support import Entry, Log, MemoryFiles, command, configured, machine_on, publish
from trimaran.actors.stream.commands import delete, purge
from trimaran.actors.stream.machine import StreamMachine
from trimaran.codec import walk_batch
from trimaran.storage import BatchRecord, CompactPrefix, GroupCreate, Manifest, MemoryDisk, Storage

SECOND = 1_000_000_000
BLOCKS = f"groups/{GROUP}-{INCARNATION}/block"


class Replica:
    """One replica of a stream: batches go to the log, are synced, and are applied."""

    def __init__(self, storage: Storage, log: Log) -> None:
        self.storage, self.log = storage, log
        self.files = storage.group_files(GROUP, INCARNATION)
        self.machine = StreamMachine(self.files, "S", block_bytes=4096)
        self.applied = 0

    async def commit(self, *entries: Entry) -> None:
        batch = self.log.batch(*entries, after=SECOND)
        synced = trio.Event()
        self.storage.append([BatchRecord(self.log.batches[-1])], synced.set)
        await synced.wait()
        self.machine.apply(batch)
        self.applied += 1

    async def snapshot(self) -> None:
        capture = self.machine.capture()
        manifest = Manifest(
            group=GROUP,
            incarnation=INCARNATION,
            index=self.applied,
            term=1,
            members=b"",
            time=self.machine.clock,
            kind=self.machine.kind,
            rolling_hash=0,
            files=capture.files,
            state=capture.state,
        )
        await self.files.sync([file.name for file in capture.files])
        crc = await self.files.write_manifest(manifest)
        self.machine.captured(capture)
        # From now on nothing but the manifest and its blocks has these messages.
        self.storage.append([CompactPrefix(GROUP, INCARNATION, self.applied, 1, crc)])

    async def recover(self) -> None:
        """What a node does at its start: the manifest, then the tail of the log."""
        if self.files.manifest is not None:
            await self.machine.restore(self.files.manifest.state, self.files.manifest.files)
            self.applied = self.files.manifest.index
        last = self.storage.recovered.groups[GROUP].last_index
        while self.applied < last:
            for batch in await self.storage.read_batches(GROUP, self.applied + 1, last, 1 << 20):
                self.machine.apply(walk_batch(batch))
                self.applied += 1


def entries(random: Random) -> list[Entry]:
    """What one batch does to the stream."""
    match random.randrange(8):
        case 0:
            return [command(delete(random.randrange(1, 200)))]
        case 1:
            return [command(purge(random.choice(["s.1", "s.*", ""]), 0, random.randrange(1, 9)))]
        case 2:
            return []
        case _:
            return [
                publish(f"s.{random.randrange(4)}", random.randbytes(random.randrange(400)))
                for _ in range(random.randrange(1, 6))
            ]


def reference(log: Log) -> Any:
    machine = machine_on(MemoryFiles(), 4096)
    for batch in log.batches:
        machine.apply(walk_batch(batch))
    return machine


async def contents(machine: StreamMachine) -> list[object]:
    info = machine.info()
    return [info, *[await machine.get(sequence) for sequence in range(1, info.last_seq + 1)]]


@pytest.mark.parametrize("seed", range(20))
async def test_s12_s13_no_power_loss_loses_what_was_acknowledged(seed: int) -> None:
    random = Random(seed)
    disk, log = MemoryDisk(), Log(incarnation=INCARNATION)
    async with opened(disk, seed=seed) as storage:
        storage.append([GroupCreate(GROUP, INCARNATION, "stream", "S", b"")])
        replica = Replica(storage, log)
        await replica.commit(configured(max_msgs=60))
    for life in range(4):
        async with opened(disk, seed=100 * seed + life) as storage:
            replica = Replica(storage, log)
            await replica.recover()
            assert replica.applied == len(log.batches), "every synced batch is in the log"
            expected = reference(log)
            assert await contents(replica.machine) == await contents(expected)
            assert replica.machine.capture().state == expected.capture().state
            for _ in range(random.randrange(30)):
                await replica.commit(*entries(random))
                if random.random() < 0.3:
                    await replica.snapshot()
        disk.crash(random)


async def test_s11_blocks_are_synced_when_full_and_before_a_snapshot_never_per_message() -> None:
    disk, log = MemoryDisk(), Log(incarnation=INCARNATION)
    async with opened(disk) as storage:
        storage.append([GroupCreate(GROUP, INCARNATION, "stream", "S", b"")])
        replica = Replica(storage, log)
        await replica.commit(configured())
        for _ in range(40):
            await replica.commit(publish("s.1", bytes(700)))
        await trio.testing.wait_all_tasks_blocked()
        synced = [path for kind, path in disk.operations if kind == "sync" and path.startswith(BLOCKS)]
        blocks = sorted({path for _, path in disk.operations if path.startswith(BLOCKS)})
        assert len(blocks) > 5
        assert sorted(synced) == blocks[:-1], "each full block once, the open one not at all"
        del disk.operations[:]
        await replica.snapshot()
        order = [(kind, path) for kind, path in disk.operations if kind in ("sync", "rename")]
        assert ("sync", blocks[-1]) in order
        assert order.index(("sync", blocks[-1])) < [kind for kind, _ in order].index("rename")
