"""What applying costs: batches of plain publishes through the stream machine into block files.

    python benchmarks/stream.py

One core, Python per batch and C per message; the blocks are written behind by the storage actor's file lane
into a temporary directory, as in a node: full blocks are synced beside it, messages never. Then a restart:
capture, and restore from the files.
"""

from __future__ import annotations

import struct
import tempfile
import time
from pathlib import Path

import trio

from trimaran.actors.stream.commands import configure
from trimaran.actors.stream.config import from_request
from trimaran.actors.stream.machine import StreamMachine
from trimaran.codec import Entries, EntryType, Kind, make_chunk, seal_batch, walk_batch
from trimaran.storage import FileDisk, Storage, ThreadRunner

ENTRIES, SIZE, BATCHES = 4000, 128, 250
SHAPES: list[tuple[int, dict[str, int]]] = [
    (1, {}),
    (1000, {}),
    (1, {"max_msgs": 100_000}),
    (1000, {"max_msgs_per_subject": 1}),
]
"""Distinct subjects, and what is limited."""


def sealed(entries: list[tuple[int, bytes]], index: int) -> Entries:
    batch = seal_batch(
        [make_chunk(entries)],
        kind=Kind.NORMAL,
        group=2,
        incarnation=1,
        index=index,
        term=1,
        previous_term=1,
        time=index,
    )
    return walk_batch(batch)


def publish(subject: bytes, payload: bytes) -> tuple[int, bytes]:
    return EntryType.PUBLISH, struct.pack("<HHI", len(subject), 0, 0) + subject + payload


async def measure(storage: Storage, group: int, subjects: int, limits: dict[str, int]) -> None:
    files = storage.group_files(group, 1)
    machine = StreamMachine(files, "S")
    config = from_request("S", {"name": "S", "subjects": ["s.>"], **limits}).to_json()
    machine.apply(sealed([(EntryType.STREAM_COMMAND, configure(config, 1))], 1))
    entries = [publish(b"s.%d" % (number % subjects), bytes(SIZE)) for number in range(ENTRIES)]
    batches = [sealed(entries, index) for index in range(2, BATCHES + 2)]
    applying = 0.0
    begin = time.perf_counter()
    for batch in batches:
        start = time.perf_counter()
        machine.apply(batch)
        applying += time.perf_counter() - start
        await machine.settle()
    await files.settle(0)
    written = time.perf_counter() - begin
    start = time.perf_counter()
    capture = machine.capture()
    captured = time.perf_counter() - start
    again = StreamMachine(files, "S")
    start = time.perf_counter()
    await again.restore(capture.state, capture.files)
    restored = time.perf_counter() - start
    total = ENTRIES * BATCHES
    size = sum(file.length for file in capture.files)
    print(
        f"{subjects:5} subjects {limits or '{}'!s:28} apply {total / applying / 1e6:5.2f} M msg/s, "
        f"{applying / BATCHES * 1e6:5.0f} us/batch; with writing {total / written / 1e6:5.2f} M msg/s; "
        f"capture {captured * 1e3:.1f} ms, restore {restored * 1e3:.0f} ms for {size / 1e6:.0f} MB"
    )


async def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        numbers = iter(range(1, 100))
        storage = await Storage.open(
            FileDisk(Path(directory)), ThreadRunner(), name="bench", draw=lambda: next(numbers)
        )
        async with trio.open_nursery() as nursery:
            await nursery.start(storage.run)
            for group, (subjects, limits) in enumerate(SHAPES, start=2):
                await measure(storage, group, subjects, limits)
            nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            await storage.close()


if __name__ == "__main__":
    trio.run(main)
