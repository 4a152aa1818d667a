"""One write and one sync for everything that waited; completions in order, and never after a failure."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from functools import partial

import pytest
import trio
import trio.lowlevel

from trimaran.codec import Buffer
from trimaran.storage import Disk, MemoryDisk, StorageFailed, StorageOptions
from trimaran.storage.turns import Turns

from .helpers import GROUP, INCARNATION, SMALL, GatedRunner, batch, create, names, opened, record, state


def count(disk: MemoryDisk, operation: str) -> int:
    return sum(1 for name, path in disk.operations if name == operation and path.startswith("wal/0"))


async def test_appends_during_one_sync_become_one_write() -> None:
    disk, runner = MemoryDisk(), GatedRunner()
    done: list[int] = []
    async with opened(disk, runner=runner) as storage:
        await storage.drain()
        runner.hold()
        storage.append([create()], lambda: done.append(0))
        await runner.waiting.wait()
        before = storage.statistics().writes, count(disk, "sync")
        for index in range(1, 101):
            storage.append([record(index)], partial(done.append, index))
        assert done == []
        assert storage.statistics().queue_bytes > 100 * len(batch(1))
        runner.gate.set()
        await storage.drain()
        assert done == list(range(101)), "completions come in the order of the calls"
        statistics = storage.statistics()
        # The held write, then one for the hundred; drain itself rides in that one.
        assert (statistics.writes - before[0], count(disk, "sync") - before[1]) == (2, 2)
        assert statistics.queue_bytes == 0


async def test_nothing_completes_before_its_sync_has_ended() -> None:
    disk = MemoryDisk()
    order: list[str] = []

    def before(operation: str, path: str) -> None:
        if path == f"wal/{storage._writer.segment.number:016x}.wal":
            order.append(operation)

    async with opened(disk) as storage:
        disk.before = before
        storage.append([create()], lambda: order.append("then"))
        await storage.drain()
        assert order == ["write", "sync", "then"]


async def test_one_write_stays_below_its_cap() -> None:
    disk, runner = MemoryDisk(), GatedRunner()
    async with opened(disk, runner=runner) as storage:
        await storage.drain()
        runner.hold()
        storage.append([create()])
        await runner.waiting.wait()
        largest = 0

        def before(operation: str, path: str) -> None:
            nonlocal largest
            largest = max(largest, storage._writer.position)

        start = storage._writer.position
        for index in range(1, 41):
            storage.append([record(index, size=1000)])
        writes = storage.statistics().writes
        runner.gate.set()
        await storage.drain()
        assert storage.statistics().writes - writes >= 3
        assert start < storage._writer.position or storage.statistics().segments > 2
        assert names(storage)[-1] == (40, 1)


async def test_a_mark_follows_the_last_write_and_only_one(autojump_clock: trio.testing.MockClock) -> None:
    async with opened(MemoryDisk()) as storage:
        synced = trio.Event()
        storage.append([create(), record(1)], synced.set)
        await synced.wait()
        before = storage.statistics().writes
        await trio.sleep(SMALL.mark_delay * 0.9)
        assert storage.statistics().writes == before
        await trio.sleep(SMALL.mark_delay * 0.2)
        assert storage.statistics().writes == before + 1
        await trio.sleep(10)
        assert storage.statistics().writes == before + 1


async def test_a_commit_hint_causes_no_sync_of_its_own_but_gets_to_the_disk(
    autojump_clock: trio.testing.MockClock,
) -> None:
    disk = MemoryDisk()
    async with opened(disk) as storage:
        storage.append([create(), state(3, vote=1)])
        await storage.drain()
        await trio.sleep(1)
        writes = storage.statistics().writes
        storage.append([state(3, vote=1, commit=5)])
        await trio.sleep(SMALL.mark_delay / 2)
        assert storage.statistics().writes == writes, "it waits for company"
        storage.append([record(1)])
        await storage.drain()
        assert storage.statistics().writes == writes + 1
        await trio.sleep(1)
        storage.append([state(3, vote=1, commit=6)])
        await trio.sleep(1)
        writes = storage.statistics().writes
        storage.append([state(3, vote=2, commit=6)])
        await trio.lowlevel.checkpoint()
        await trio.sleep(SMALL.mark_delay / 2)
        assert storage.statistics().writes == writes + 1, "a vote waits for nothing"
    async with opened(disk) as storage:
        group = storage.recovered.groups[GROUP]
        assert (group.vote, group.commit) == (2, 6)


@pytest.mark.parametrize("operation", ["write", "sync"])
async def test_a_failure_poisons_the_log_and_nothing_completes_after_it(operation: str) -> None:
    """fsyncgate: the second sync after a failed one returns OK and lies, so there must be no second."""
    disk = MemoryDisk()
    failures: list[StorageFailed] = []
    done: list[str] = []
    broken = False

    def before(name: str, path: str) -> None:
        nonlocal broken
        if broken and path.startswith("wal/0"):
            pytest.fail(f"{name} after a failure")
        if name == operation and path.startswith("wal/0"):
            broken = True
            raise OSError(errno.EIO, "the disk is gone")

    async with opened(disk, on_failure=failures.append) as storage:
        storage.append([create(), record(1)], lambda: done.append("good"))
        await storage.drain()
        while storage.statistics().segments < 2:
            await trio.lowlevel.checkpoint()  # the next segment is prepared, so that only the log writes
        disk.before = before
        storage.append([record(2)], lambda: done.append("bad"))
        with pytest.raises(StorageFailed):
            await storage.drain()
        storage.append([record(3)], lambda: done.append("late"))
        with pytest.raises(StorageFailed):
            await storage.drain()
        with pytest.raises(StorageFailed):
            await storage.read_batches(GROUP, 1, 1, 1)
        assert [str(failure) for failure in failures] == [str(storage.failed)]
    assert done == ["good"]
    disk.before = None
    async with opened(disk) as storage:
        assert names(storage)[0] == (1, 1)


async def test_run_ends_when_the_disk_fails() -> None:
    disk = MemoryDisk()
    async with opened(disk, run=False) as storage:

        def before(name: str, path: str) -> None:
            if name == "sync" and path.startswith("wal/0"):
                raise OSError(errno.EIO, "gone")

        disk.before = before
        storage.append([create()])
        with trio.fail_after(5):
            await storage.run()
        assert storage.failed is not None and storage.failed.exit_code == 67


class PatientRunner(GatedRunner):
    """Takes the result of each write, whatever happens meanwhile."""

    async def write_and_sync(
        self, disk: Disk, descriptor: int, buffers: Sequence[Buffer], offset: int
    ) -> None:
        with trio.CancelScope(shield=True):
            await super().write_and_sync(disk, descriptor, buffers, offset)


async def test_a_failure_of_another_file_is_one_of_the_log_too() -> None:
    """What is under way then, and what waits behind it, completes no more: the disk can't be believed."""
    disk, runner = MemoryDisk(), PatientRunner()
    done: list[str] = []

    def before(name: str, path: str) -> None:
        if path.startswith("groups"):
            raise OSError(errno.EIO, "gone")

    async with opened(disk, runner=runner) as storage:
        storage.append([create(), record(1)], lambda: done.append("good"))
        await storage.drain()
        runner.hold()
        storage.append([record(2)], lambda: done.append("under way"))
        await runner.waiting.wait()
        storage.append([record(3)], lambda: done.append("behind it"))
        disk.before = before
        files = storage.group_files(GROUP, INCARNATION)
        files.write("a", 0, b"x")
        with pytest.raises(StorageFailed):
            await files.sync(["a"])
        runner.gate.set()
        await trio.testing.wait_all_tasks_blocked()
    assert done == ["good"]


async def test_a_stalled_sync_is_visible_while_it_lasts() -> None:
    runner = GatedRunner()
    async with opened(MemoryDisk(), runner=runner) as storage:
        await storage.drain()
        assert storage.statistics().stalled_since is None
        runner.hold()
        storage.append([create()])
        await runner.waiting.wait()
        since = storage.statistics().stalled_since
        assert since is not None and since <= trio.current_time()
        runner.gate.set()
        await storage.drain()
        assert storage.statistics().stalled_since is None


async def test_credit_shrinks_with_what_waits_and_comes_back() -> None:
    runner = GatedRunner()
    options = StorageOptions(segment_bytes=64 << 10, queue_bytes=4000)
    async with opened(MemoryDisk(), runner=runner, options=options) as storage:
        assert storage.credit() == 4000
        runner.hold()
        storage.append([create(), record(1, size=1000)])
        assert 0 < storage.credit() < 3000
        storage.append([record(2, size=5000)])
        assert storage.credit() == 0
        runner.gate.set()
        await storage.drain()
        assert storage.credit() == 4000


def note_writes(disk: MemoryDisk, order: list[str]) -> None:
    """Lets a disk note when the log is written and synced."""

    def before(operation: str, path: str) -> None:
        if path.startswith("wal/0"):
            order.append(operation)

    disk.before = before


class PromptRunner(GatedRunner):
    """Begins a write where it is asked to, as the threads of a node do, unless the gate is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = trio.Event()

    def begin(self, disk: Disk, descriptor: int, buffers: Sequence[Buffer], offset: int) -> bool:
        if self.gate.is_set():
            disk.pwritev(descriptor, buffers, offset)
            disk.fdatasync(descriptor)
            self.begun.set()
        return self.gate.is_set()

    async def each_end(self, ended: Callable[[OSError | None], bool]) -> None:
        goes_on = True
        while goes_on:
            await self.begun.wait()
            self.begun = trio.Event()
            goes_on = ended(None)


@pytest.mark.parametrize("waiting", [1, 400])
async def test_the_next_write_does_not_wait_for_callbacks_if_it_is_large(waiting: int) -> None:
    """A small one does: what the callbacks append may go into it."""
    disk, runner = MemoryDisk(), PromptRunner()
    order: list[str] = []
    options = StorageOptions(segment_bytes=4 << 20, write_bytes=1 << 20)
    async with opened(disk, runner=runner, options=options) as storage:
        storage.append([create()])
        await storage.drain()
        while storage.statistics().segments < 2:
            await trio.lowlevel.checkpoint()
        runner.hold()
        storage.append([record(1)], lambda: order.append("first"))
        await runner.waiting.wait()
        for index in range(2, 2 + waiting):
            storage.append([record(index, size=1000)], lambda: order.append("later"))
        note_writes(disk, order)
        runner.gate.set()
        await storage.drain()
    begin = ["write", "sync", "first", "write", "sync"]
    if waiting * 1000 > options.overlap_bytes:
        begin = ["write", "sync", "write", "sync", "first"]
    assert order[: len(begin) + waiting] == begin + ["later"] * waiting


async def test_nothing_completes_once_another_file_has_failed() -> None:
    done: list[str] = []
    async with opened(MemoryDisk()) as storage:

        def fail() -> None:
            storage._fail(OSError(errno.EIO, "a block file"))

        storage.append([create()], lambda: done.append("create"))
        storage.append([record(1)], fail)
        storage.append([record(2)], lambda: done.append("late"))
        with pytest.raises(StorageFailed):
            await storage.drain()
    assert done == ["create"]


async def test_a_write_begins_in_the_pass_that_brought_it() -> None:
    """No turn of the event loop lies between an append and the disk, nor from a sync to the next write."""
    disk, runner, turns = MemoryDisk(), PromptRunner(), Turns()
    order: list[str] = []
    async with opened(disk, runner=runner, turns=turns) as storage:
        storage.append([create()])
        await storage.drain()
        note_writes(disk, order)

        def arrive() -> None:
            storage.append([record(1)], lambda: storage.append([record(2)], lambda: order.append("second")))

        turns.through(arrive)
        assert order == ["write", "sync"]
        await storage.drain()
    assert order == ["write", "sync"] * 2 + ["second"]
