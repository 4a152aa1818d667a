"""The disk: one small blocking interface, the real one, and who runs its calls off the event loop.

Everything in storage reaches files through a `Disk`, and the actor reaches the disk through a `Runner`,
so that a whole node can run on a simulated disk and a virtual clock.
"""

from __future__ import annotations

import contextlib
import enum
import errno
import fcntl
import os
import stat
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Protocol, TypeVar, runtime_checkable

from ..codec import Buffer
from .errors import DirectoryLocked

T = TypeVar("T")

CLOSE_SECONDS: Final = 5.0
"""How long a runner waits for its lanes at the end: a disk may be stuck."""
IOV_MAX: Final = 1024
"""Buffers that one pwritev takes (POSIX guarantees 16, Linux and macOS take 1,024)."""
NO_SPACE: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


class Lane(enum.Enum):
    """Jobs of one lane run one after the other, in the order in which they were given; lanes run at once."""

    LOG = "log"
    """Writing and syncing the log: what acknowledgements wait for."""
    FILE = "file"
    """Group files, manifests and all reads."""
    BACKGROUND = "background"
    """What may take long and nobody waits for: preparing segments, syncing full blocks."""


class Runner(Protocol):
    """Runs blocking calls where they don't block the event loop."""

    async def run(self, lane: Lane, function: Callable[..., T], *args: object) -> T:
        """Runs ``function(*args)`` in a lane and returns its result or raises its error.

        The job takes its place in the lane at the call, before the first checkpoint. A cancelled caller
        stops waiting; the job runs all the same.
        """
        ...

    async def write_and_sync(
        self, disk: Disk, descriptor: int, buffers: Sequence[Buffer], offset: int
    ) -> None:
        """One gathered write to the log and the sync that covers it, in the LOG lane.

        If either fails (OSError), neither is ever tried again. The buffers must not change any more.
        """
        ...

    def close(self, seconds: float = CLOSE_SECONDS) -> bool:
        """Lets the lanes end their jobs, and waits for all of them so many seconds together.

        False: a job is still under way, on a disk that is stuck. Whatever descriptors it may use must stay
        open, for their numbers would soon be others' files.
        """
        ...


@runtime_checkable
class EagerRunner(Runner, Protocol):
    """One that can begin `write_and_sync` in a call, so that no turn of the event loop comes before it."""

    def begin(self, disk: Disk, descriptor: int, buffers: Sequence[Buffer], offset: int) -> bool:
        """Begin what `write_and_sync` does, one at a time. False: not this one, and nothing was begun.

        OSError as there.
        """
        ...

    async def each_end(self, ended: Callable[[OSError | None], bool]) -> None:
        """Call `ended` whenever what was begun is done, until that says False.

        It is given the OSError of `write_and_sync` if that failed."""
        ...


class Disk(Protocol):
    """Blocking file operations. Paths are relative to the data directory, with "/" between their parts.

    Every failure is an OSError. `pwritev` writes everything or raises. A name is durable once
    `sync_directory` on its directory returned; content once `fdatasync` or `fsync` did.
    """

    @property
    def concurrent(self) -> bool:
        """Whether several threads may read at once, and gain by it."""
        ...

    def open(self, path: str, *, write: bool = False, create: bool = False, exclusive: bool = False) -> int:
        """A descriptor of the file. `create` implies `write`; `exclusive` refuses an old file."""
        ...

    def close(self, descriptor: int) -> None: ...

    def pread(self, descriptor: int, length: int, offset: int) -> bytes:
        """Up to `length` bytes; fewer only where the file ends."""
        ...

    def read_into(self, descriptor: int, buffer: memoryview, offset: int) -> int:
        """As `pread`, into a buffer; returns how many bytes."""
        ...

    def pwritev(self, descriptor: int, buffers: Sequence[Buffer], offset: int) -> None: ...

    def fdatasync(self, descriptor: int) -> None:
        """Content and, if it changed, size are durable; timestamps need not be."""
        ...

    def fsync(self, descriptor: int) -> None: ...

    def truncate(self, descriptor: int, length: int) -> None: ...

    def size(self, descriptor: int) -> int: ...

    def names(self, descriptor: int) -> int:
        """How many names the file has."""
        ...

    def drop_cache(self, descriptor: int) -> None:
        """Forgets clean cached pages, so that the next read asks the disk."""
        ...

    def rename(self, old: str, new: str) -> None:
        """Atomically replaces `new`."""
        ...

    def link(self, old: str, new: str) -> None:
        """Gives a file a second name; FileExistsError if that name is taken."""
        ...

    def unlink(self, path: str) -> None: ...

    def listdir(self, path: str) -> list[str]:
        """The names in a directory, sorted."""
        ...

    def mkdir(self, path: str) -> None:
        """Makes one directory; no error if it exists."""
        ...

    def rmdir(self, path: str) -> None: ...

    def exists(self, path: str) -> bool: ...

    def sync_directory(self, path: str) -> None: ...

    def lock(self, path: str) -> int:
        """Takes the exclusive lock on a file and returns its descriptor; DirectoryLocked if it is taken."""
        ...

    def free_bytes(self) -> int:
        """Space left for us on the file system."""
        ...


def sync_strictly(sync: Callable[[int], None], descriptor: int) -> None:
    """Syncs a file; a lack of space is no more an answer then: what was written before may be dropped."""
    try:
        sync(descriptor)
    except OSError as error:
        if error.errno in NO_SPACE:
            raise OSError(errno.EIO, f"a sync failed for want of space: {error.strerror}") from error
        raise


def _behind(buffers: Sequence[Buffer], size: int) -> list[Buffer]:
    """What of the buffers lies behind the first `size` bytes."""
    rest: list[Buffer] = []
    for buffer in buffers:
        if size < len(buffer):
            rest.append(memoryview(buffer)[size:] if size else buffer)
        size = max(0, size - len(buffer))
    return rest


class FileDisk:
    """The real disk, under one root directory, which is made if it isn't there (mode 0700)."""

    concurrent: Final = True

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root)
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)

    def _path(self, path: str) -> str:
        return f"{self.root}/{path}" if path else str(self.root)

    def open(self, path: str, *, write: bool = False, create: bool = False, exclusive: bool = False) -> int:
        flags = os.O_CLOEXEC | os.O_NOFOLLOW | (os.O_RDWR if write or create else os.O_RDONLY)
        flags |= (os.O_CREAT if create else 0) | (os.O_EXCL if exclusive else 0)
        return os.open(self._path(path), flags, 0o600)

    def close(self, descriptor: int) -> None:
        os.close(descriptor)

    def pread(self, descriptor: int, length: int, offset: int) -> bytes:
        data = os.pread(descriptor, length, offset)
        if len(data) == length or not data:
            return data
        pieces = [data]  # one read returns at most 2 GiB, and a signal may cut it short
        missing = length - len(data)
        while missing and (data := os.pread(descriptor, missing, offset + length - missing)):
            pieces.append(data)
            missing -= len(data)
        return b"".join(pieces)

    def read_into(self, descriptor: int, buffer: memoryview, offset: int) -> int:
        done = 0
        while done < len(buffer) and (count := os.preadv(descriptor, [buffer[done:]], offset + done)):
            done += count
        return done

    def pwritev(self, descriptor: int, buffers: Sequence[Buffer], offset: int) -> None:
        for start in range(0, len(buffers), IOV_MAX):
            part = [*buffers[start : start + IOV_MAX]]
            while part:
                written = os.pwritev(descriptor, part, offset)
                if not written and any(map(len, part)):
                    raise OSError(errno.EIO, "nothing of a write was taken")
                offset += written
                # After a short write the next one says what is wrong: that the disk is full, or worse.
                part = _behind(part, written)

    if sys.platform == "darwin":

        def fdatasync(self, descriptor: int) -> None:
            # fsync on macOS stops at the drive's volatile cache.
            fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)

        fsync = fdatasync

        def drop_cache(self, descriptor: int) -> None:
            fcntl.fcntl(descriptor, fcntl.F_NOCACHE, 1)

    else:

        def fdatasync(self, descriptor: int) -> None:
            os.fdatasync(descriptor)

        def fsync(self, descriptor: int) -> None:
            os.fsync(descriptor)

        def drop_cache(self, descriptor: int) -> None:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)

    def truncate(self, descriptor: int, length: int) -> None:
        os.ftruncate(descriptor, length)

    def size(self, descriptor: int) -> int:
        return os.fstat(descriptor).st_size

    def names(self, descriptor: int) -> int:
        return os.fstat(descriptor).st_nlink

    def rename(self, old: str, new: str) -> None:
        os.rename(self._path(old), self._path(new))

    def link(self, old: str, new: str) -> None:
        os.link(self._path(old), self._path(new))

    def unlink(self, path: str) -> None:
        os.unlink(self._path(path))

    def listdir(self, path: str) -> list[str]:
        return sorted(os.listdir(self._path(path)))

    def mkdir(self, path: str) -> None:
        with contextlib.suppress(FileExistsError):
            os.mkdir(self._path(path), 0o700)

    def rmdir(self, path: str) -> None:
        os.rmdir(self._path(path))

    def exists(self, path: str) -> bool:
        return os.path.lexists(self._path(path))

    def sync_directory(self, path: str) -> None:
        descriptor = os.open(self._path(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self.fsync(descriptor)
        finally:
            os.close(descriptor)

    def lock(self, path: str) -> int:
        descriptor = self.open(path, create=True)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise OSError(errno.EINVAL, "the lock is no regular file", path)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise DirectoryLocked(f"{self.root} is served by another process") from None
        except OSError:
            os.close(descriptor)
            raise
        return descriptor

    def free_bytes(self) -> int:
        status = os.statvfs(self.root)
        return status.f_bavail * status.f_frsize
