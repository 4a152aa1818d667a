"""The FILE lane: what groups write behind, collected in front of the next job, and the descriptors it uses.

Writes and removals that nobody waits for are deferred, in order. They need no sync: until the next manifest
says what they are worth, the log has all of it.
"""

from __future__ import annotations

import errno
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from ..codec import Buffer
from .disk import NO_SPACE, Disk, Lane, Runner
from .errors import DiskFull, StorageFailed
from .quarantine import GROUPS, QUARANTINE_BYTES, Quarantine

T = TypeVar("T")

OPEN_FILES: Final = 128
"""Descriptors kept open; a node with many groups must stay below its limit of open files."""

MUCH_BYTES: Final = 4 << 20
"""Written behind together: with more it does not wait for company any longer."""

Write = Callable[[str, int, Sequence[Buffer]], None]
"""Puts buffers into the file with this path, from this offset on."""


class OpenFiles:
    """Descriptors by path, the least recently used closed first. Used by one lane only."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._open: OrderedDict[str, int] = OrderedDict()

    def get(self, path: str, *, write: bool) -> int:
        """A descriptor; files to be written are made if they aren't there."""
        descriptor = self._open.get(path)
        if descriptor is None:
            if len(self._open) >= OPEN_FILES:
                self._disk.close(self._open.popitem(last=False)[1])
            descriptor = self._disk.open(path, write=path.startswith(GROUPS), create=write)
            self._open[path] = descriptor
        else:
            self._open.move_to_end(path)
        return descriptor

    def read(self, path: str, length: int, offset: int) -> bytes:
        """Up to `length` bytes of a file."""
        return self._disk.pread(self.get(path, write=False), length, offset)

    def has(self, path: str) -> bool:
        return path in self._open

    def forget(self, path: str) -> None:
        descriptor = self._open.pop(path, None)
        if descriptor is not None:
            self._disk.close(descriptor)

    def close(self) -> None:
        while self._open:
            self._disk.close(self._open.popitem()[1])


class WriteBehind:
    """One deferred write; what is appended to the same file before its turn comes joins it."""

    __slots__ = ("_buffers", "_done", "_offset", "_size", "_write", "path", "turn")

    def __init__(self, path: str, offset: int, turn: int, write: Write, done: Callable[[int], None]) -> None:
        self.turn = turn
        """The lane's turn that it waits for; once that has begun nothing may join any more."""
        self.path = path
        self._write = write
        self._offset = offset
        self._done = done
        self._buffers: list[Buffer] = []
        self._size = 0

    def continues(self, path: str, offset: int) -> bool:
        return path == self.path and offset == self._offset + self._size

    def add(self, data: Buffer) -> None:
        self._buffers.append(data)
        self._size += len(data)

    def show(self, data: bytearray, length: int, offset: int) -> None:
        """Puts what it will write into `data`, which is up to `length` bytes of the file from `offset` on."""
        at = self._offset - offset
        for buffer in self._buffers:
            begin, end = max(0, at), min(length, at + len(buffer))
            if begin < end:
                data.extend(bytes(max(0, end - len(data))))
                data[begin:end] = memoryview(buffer)[begin - at : end - at]
            at += len(buffer)

    def drop(self) -> None:
        """Its file is gone before it was written."""
        self._done(self._size)

    def __call__(self) -> None:
        self._write(self.path, self._offset, self._buffers)
        self._done(self._size)


class Removal:
    """A deferred removal of files."""

    __slots__ = ("_remove", "_takes")

    def __init__(self, remove: Callable[[], None], takes: Callable[[str], bool]) -> None:
        """`takes` says whether the file with this path is among what is removed."""
        self._remove = remove
        self._takes = takes

    def leave(self, writes: list[WriteBehind]) -> list[WriteBehind]:
        """Those writes that are to other files; the others are dropped."""
        for write in writes:
            if self._takes(write.path):
                write.drop()
        return [write for write in writes if not self._takes(write.path)]

    def __call__(self) -> None:
        self._remove()


Deferred = WriteBehind | Removal


class _WriteBehindFailed(Exception):
    """A write that nobody waited for failed; found by the next job of the lane."""

    def __init__(self, error: OSError) -> None:
        super().__init__(str(error))
        self.error = error


class FileLane:
    """The FILE lane with writes collected in front of it, which go first in whatever job comes next.

    A write for which there is no space is not lost: it waits, all writes behind it wait too, and what is read
    shows them. What makes space goes on.
    """

    def __init__(
        self,
        disk: Disk,
        runner: Runner,
        fail: Callable[[OSError], StorageFailed],
        quarantine_bytes: int = QUARANTINE_BYTES,
    ) -> None:
        self.disk = disk
        self.open = OpenFiles(disk)
        self._runner = runner
        self._fail = fail
        self._pending: list[Deferred] = []
        self._pending_bytes = 0
        self._error: OSError | None = None
        self._stuck: list[WriteBehind] = []
        """Writes that wait for space. Only the lane changes it."""
        self.turn = 0
        """Grows with each job: what was deferred in an earlier turn is on its way."""
        self.failed: StorageFailed | None = None
        self.wake: Callable[[], None] = lambda: None
        """Called when there is something to write behind; set by the actor."""
        self.hurry: Callable[[], None] = lambda: None
        """Called when that has become much; set by the actor."""
        self.syncing: dict[str, OSError | None] = {}
        """Files whose sync is under way in another lane, or failed there with this error. A system tells of
        writes that it lost once, and then takes the file for clean: what another sync says of it is worth
        nothing before the end of that one is known. Changed in the BACKGROUND lane only."""
        self.quarantine = Quarantine(disk, quarantine_bytes)
        self.on_no_space: Callable[[], None] = lambda: None
        """Called after each job behind which a write waits for space; set by the actor."""

    def defer(self, operation: Deferred) -> None:
        """Queues an operation that nobody waits for. After a failure it is dropped."""
        if self.failed is not None:
            return
        self._pending.append(operation)
        if len(self._pending) == 1:
            self.wake()

    def grew(self, size: int) -> None:
        """What is deferred got so many bytes more."""
        before, self._pending_bytes = self._pending_bytes, self._pending_bytes + size
        if before < MUCH_BYTES <= self._pending_bytes:
            self.hurry()

    async def run(self, function: Callable[..., T], *args: object) -> T:
        """Runs a call behind everything that was deferred. StorageFailed if a deferred one failed."""
        if self.failed is not None:
            raise self.failed.with_traceback(None)
        pending, self._pending = self._pending, []
        self._pending_bytes = 0
        self.turn += 1
        try:
            return await self._runner.run(Lane.FILE, self._perform, pending, function, args)
        except _WriteBehindFailed as failure:
            raise self._fail(failure.error) from failure.error
        finally:
            if self._stuck:
                self.on_no_space()

    async def commit(self, function: Callable[..., T], *args: object) -> T:
        """As `run`, for what must not fail: an OSError of the call itself is StorageFailed too.

        DiskFull if there is no space for it, or for a write before it: it may be tried again later.
        """
        try:
            return await self.run(self._commit, function, args)
        except OSError as error:
            if error.errno in NO_SPACE:
                raise DiskFull(f"no space to write a group's files: {error}") from error
            raise self._fail(error) from error

    def _commit(self, function: Callable[..., T], args: tuple[object, ...]) -> T:
        if self._stuck:
            raise OSError(errno.ENOSPC, f"{len(self._stuck)} earlier writes wait for space")
        return function(*args)

    async def run_apart(self, function: Callable[..., T], *args: object) -> T:
        """Runs a call that touches nothing of this lane beside it, in the background."""
        if self.failed is not None:
            raise self.failed.with_traceback(None)
        return await self._runner.run(Lane.BACKGROUND, function, *args)

    async def flush(self) -> None:
        """Everything deferred before is written, or waits for space."""
        await self.run(_nothing)

    async def wait_apart(self) -> None:
        """What is under way in the background has ended."""
        await self.run_apart(_nothing)

    @property
    def idle(self) -> bool:
        return not self._pending

    @property
    def no_space(self) -> bool:
        """Whether writes wait for space."""
        return bool(self._stuck)

    def read(self, path: str, length: int, offset: int) -> bytes:
        """Up to `length` bytes of a file, with what waits to be written to it. Used in the lane only."""
        stuck = [write for write in self._stuck if write.path == path]
        if not stuck:
            return self.open.read(path, length, offset)
        data = bytearray(self.open.read(path, length, offset) if self.disk.exists(path) else b"")
        for write in stuck:
            write.show(data, length, offset)
        return bytes(data)

    def _perform(self, pending: list[Deferred], function: Callable[..., T], args: tuple[object, ...]) -> T:
        # The error is kept: if the task that brought these writes along is cancelled, the next one sees it.
        if self._error is None:
            try:
                self._catch_up(pending)
            except OSError as error:
                self._error = error
        if self._error is not None:
            raise _WriteBehindFailed(self._error)
        return function(*args)

    def _catch_up(self, pending: list[Deferred]) -> None:
        """Performs what was deferred, in order; from the first write without space on, only removals."""
        if not pending and not self._stuck:
            return
        stuck: list[WriteBehind] = []
        for operation in (*self._stuck, *pending):
            if isinstance(operation, Removal):
                stuck = operation.leave(stuck)
                operation()
            elif stuck or not self._try(operation):
                stuck.append(operation)
        self._stuck = stuck

    @staticmethod
    def _try(write: WriteBehind) -> bool:
        """False if there is no space for a write."""
        try:
            write()
        except OSError as error:
            if error.errno not in NO_SPACE:
                raise
            return False
        return True


def _nothing() -> None:
    pass
