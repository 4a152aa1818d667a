"""A disk in memory that can lose what was not synced: for tests, simulators and servers that store nothing.

Content and directory entries each exist twice: as the running system sees them, and as they would be
found after a power loss. `crash` decides, piece by piece, what of the difference reached the disk.
"""

from __future__ import annotations

import copy
import errno
import itertools
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Final

from ..codec import Buffer
from .errors import DirectoryLocked

SECTOR: Final = 512


@dataclass(slots=True)
class _File:
    """One file: what is seen, what is on the disk, and the writes in between."""

    content: bytearray = field(default_factory=bytearray)
    durable: bytearray = field(default_factory=bytearray)
    unsynced: list[tuple[int, bytes] | int] = field(default_factory=list)
    """Writes as (offset, bytes), truncations as the new length, in order."""


@dataclass(slots=True)
class _Directory:
    """Entries of one directory, seen and durable, and the changes in between."""

    entries: dict[str, _File | None] = field(default_factory=dict)
    """A name's file; None for a directory."""
    durable: dict[str, _File | None] = field(default_factory=dict)
    unsynced: list[dict[str, _File | None]] = field(default_factory=list)
    """Each change as the entries it sets; a removed name has the value _GONE. A rename is one change."""


class _Gone(_File):
    """What a removed name is set to; the same object in every copy of a disk."""

    def __deepcopy__(self, _: object) -> _Gone:
        return self


_GONE: Final = _Gone()


class MemoryDisk:
    """A `Disk` whose power can be cut.

    `before` is called with (operation, path) before each changing operation and may raise an OSError.
    """

    concurrent: Final = False

    def __init__(self, *, capacity: int | None = None) -> None:
        self.capacity = capacity
        """Bytes that all files may have together; beyond it, writing raises ENOSPC."""
        self.before: Callable[[str, str], None] | None = None
        self.operations: list[tuple[str, str]] = []
        """Every changing operation with its path, in order."""
        self._directories: dict[str, _Directory] = {"": _Directory()}
        self._descriptors: dict[int, tuple[str, _File]] = {}
        self._locks: dict[str, int] = {}
        self._next_descriptor = 3

    # --- the Disk interface

    def open(self, path: str, *, write: bool = False, create: bool = False, exclusive: bool = False) -> int:
        directory, name = self._split(path)
        if name not in directory.entries:
            if not create:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
            self._change("create", path)
            self._enter(directory, {name: _File()})
        elif exclusive:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
        descriptor, self._next_descriptor = self._next_descriptor, self._next_descriptor + 1
        self._descriptors[descriptor] = (path, self._file(path))
        return descriptor

    def close(self, descriptor: int) -> None:
        path, _ = self._descriptors.pop(descriptor)
        if self._locks.get(path) == descriptor:
            del self._locks[path]

    def pread(self, descriptor: int, length: int, offset: int) -> bytes:
        return bytes(self._descriptors[descriptor][1].content[offset : offset + length])

    def read_into(self, descriptor: int, buffer: memoryview, offset: int) -> int:
        data = self.pread(descriptor, len(buffer), offset)
        buffer[: len(data)] = data
        return len(data)

    def pwritev(self, descriptor: int, buffers: Sequence[Buffer], offset: int) -> None:
        path, file = self._descriptors[descriptor]
        data = b"".join(buffers)
        self._change("write", path)
        self._check_space(max(0, offset + len(data) - len(file.content)))
        _put(file.content, offset, data)
        file.unsynced.append((offset, data))

    def fdatasync(self, descriptor: int) -> None:
        path, file = self._descriptors[descriptor]
        try:
            self._change("sync", path)
        except OSError:
            # The system takes these writes for clean from now on and never tries them again; what is written
            # later is written.
            file.unsynced.clear()
            raise
        for change in file.unsynced:
            _perform(file.durable, change)
        file.unsynced.clear()

    fsync = fdatasync

    def truncate(self, descriptor: int, length: int) -> None:
        path, file = self._descriptors[descriptor]
        self._change("truncate", path)
        _resize(file.content, length)
        file.unsynced.append(length)

    def size(self, descriptor: int) -> int:
        return len(self._descriptors[descriptor][1].content)

    def names(self, descriptor: int) -> int:
        file = self._descriptors[descriptor][1]
        return sum(
            entry is file for directory in self._directories.values() for entry in directory.entries.values()
        )

    def drop_cache(self, descriptor: int) -> None:
        """Dirty pages stay, as they do in a real page cache. Those whose sync failed count as clean there:
        they go, and what the disk has is seen again."""
        _, file = self._descriptors[descriptor]
        file.content[:] = file.durable
        for change in file.unsynced:
            _perform(file.content, change)

    def rename(self, old: str, new: str) -> None:
        file = self._file(old)
        source, target = self._split(old), self._split(new)
        self._change("rename", new)
        if target[0].entries.get(target[1]) is file:
            return  # two names of one file: POSIX leaves both
        for descriptor, (path, opened) in self._descriptors.items():
            if path == old:
                self._descriptors[descriptor] = (new, opened)
        if source[0] is target[0]:
            self._enter(source[0], {source[1]: _GONE, target[1]: file})
        else:
            self._enter(target[0], {target[1]: file})
            self._enter(source[0], {source[1]: _GONE})

    def link(self, old: str, new: str) -> None:
        directory, name = self._split(new)
        if name in directory.entries:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), new)
        self._change("link", new)
        self._enter(directory, {name: self._file(old)})

    def unlink(self, path: str) -> None:
        self._file(path)
        directory, name = self._split(path)
        self._change("unlink", path)
        self._enter(directory, {name: _GONE})

    def listdir(self, path: str) -> list[str]:
        return sorted(self._directory(path).entries)

    def mkdir(self, path: str) -> None:
        directory, name = self._split(path)
        if name not in directory.entries:
            self._change("mkdir", path)
            self._directories.setdefault(path, _Directory())
            self._enter(directory, {name: None})

    def rmdir(self, path: str) -> None:
        if self._directory(path).entries:
            raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), path)
        directory, name = self._split(path)
        self._change("rmdir", path)
        self._enter(directory, {name: _GONE})

    def exists(self, path: str) -> bool:
        directory, _, name = path.rpartition("/")
        return path == "" or (
            self.exists(directory) and name in self._directories.get(directory, _Directory()).entries
        )

    def sync_directory(self, path: str) -> None:
        directory = self._directory(path)
        self._change("sync directory", path)
        directory.durable = dict(directory.entries)
        directory.unsynced.clear()

    def lock(self, path: str) -> int:
        if path in self._locks:
            raise DirectoryLocked("the disk is served by another process")
        descriptor = self.open(path, create=True)
        self._locks[path] = descriptor
        return descriptor

    def free_bytes(self) -> int:
        return 1 << 40 if self.capacity is None else max(0, self.capacity - self._used())

    # --- what a test does to it

    def kill(self) -> None:
        """The process is gone: its descriptors and locks too. The page cache stays."""
        self._descriptors.clear()
        self._locks.clear()
        self.before = None

    def crash(self, random: Random, *, whole: bool = False, garbage: float = 0.0) -> None:
        """The power is gone. Of what was not synced, each sector of each write and each name may be lost.

        Args:
            whole: no file is torn: it keeps everything or loses everything.
            garbage: the share of unsynced sectors that hold neither the old nor the new bytes then.
        """
        self.kill()
        for directory in self._directories.values():
            _crash_directory(directory, random)
        for file in self._files():
            _crash_file(file, random, (0.0, 1.0) if whole else (0.0, 1.0, random.random()), garbage)

    def unsynced(self) -> list[int]:
        """Every change that is not synced, in the order in which `crash_to` numbers them: the sectors of a
        write, 1 for anything else."""
        counts = [1 for directory in self._directories.values() for _ in directory.unsynced]
        return counts + [len(_sectors(change)) for file in self._all_files() for change in file.unsynced]

    def crash_to(self, keep: Callable[[int, int], bool]) -> None:
        """The power is gone, and of each unsynced change exactly that survives which `keep` names, by the
        number of the change and that of its sector."""
        files = self._all_files()
        self.kill()
        number = 0
        for directory in self._directories.values():
            survived = dict(directory.durable)
            for change in directory.unsynced:
                if keep(number, 0):
                    _apply(survived, change)
                number += 1
            directory.entries, directory.durable, directory.unsynced = survived, dict(survived), []
        for file in files:
            content = bytearray(file.durable)
            for written in file.unsynced:
                for sector, piece in enumerate(_sectors(written)):
                    if keep(number, sector):
                        _perform(content, piece)
                number += 1
            file.content[:] = file.durable[:] = content
            file.unsynced = []

    def fork(self) -> MemoryDisk:
        """An independent copy as a new process would find it, to try another fate."""
        before, self.before = self.before, None
        other = copy.deepcopy(self)
        self.before = before
        other.kill()
        other.operations.clear()
        return other

    def read(self, path: str) -> bytes:
        """What the running system sees in a file."""
        return bytes(self._file(path).content)

    def damage(self, path: str, offset: int, data: bytes) -> None:
        """Changes bytes of a file where they lie, as a failing disk or a cosmic ray would."""
        file = self._file(path)
        _put(file.content, offset, data)
        if not file.unsynced or offset + len(data) <= len(file.durable):
            _put(file.durable, offset, data)

    def shorten(self, path: str, length: int) -> None:
        """Cuts a file's end off, durably, behind everybody's back."""
        file = self._file(path)
        del file.content[length:]
        del file.durable[length:]

    # --- inside

    def _split(self, path: str) -> tuple[_Directory, str]:
        directory, _, name = path.rpartition("/")
        return self._directory(directory), name

    def _directory(self, path: str) -> _Directory:
        directory = self._directories.get(path)
        if directory is None or not self.exists(path):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return directory

    def _file(self, path: str) -> _File:
        directory, name = self._split(path)
        file = directory.entries.get(name)
        if file is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return file

    def _files(self) -> list[_File]:
        found: dict[int, _File] = {}
        for directory in self._directories.values():
            for file in directory.entries.values():
                if file is not None:
                    found[id(file)] = file
        return list(found.values())

    def _all_files(self) -> list[_File]:
        """Also those whose names are durably there but no longer seen, or seen but not yet durable."""
        found: dict[int, _File] = {}
        for directory in self._directories.values():
            for names in (directory.durable, *directory.unsynced, directory.entries):
                found.update((id(file), file) for file in names.values() if file is not None)
        return [file for file in found.values() if file is not _GONE]

    def _used(self) -> int:
        return sum(len(file.content) for file in self._files())

    def _check_space(self, growth: int) -> None:
        if growth and self.capacity is not None and self._used() + growth > self.capacity:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _change(self, operation: str, path: str) -> None:
        if self.before is not None:
            self.before(operation, path)
        self.operations.append((operation, path))

    @staticmethod
    def _enter(directory: _Directory, change: dict[str, _File | None]) -> None:
        _apply(directory.entries, change)
        directory.unsynced.append(change)


def _apply(entries: dict[str, _File | None], change: dict[str, _File | None]) -> None:
    for name, file in change.items():
        if file is _GONE:
            entries.pop(name, None)
        else:
            entries[name] = file


def _perform(content: bytearray, change: tuple[int, bytes] | int) -> None:
    if isinstance(change, int):
        _resize(content, change)
    else:
        _put(content, *change)


def _sectors(change: tuple[int, bytes] | int) -> list[tuple[int, bytes] | int]:
    """A change as what can survive apart: a write's sectors; a truncation is one."""
    if isinstance(change, int):
        return [change]
    offset, data = change
    cuts = [0, *range(SECTOR - offset % SECTOR, len(data), SECTOR), len(data)]
    return [(offset + start, data[start:end]) for start, end in itertools.pairwise(cuts)]


def _put(content: bytearray, offset: int, data: bytes) -> None:
    if offset > len(content):
        _resize(content, offset)
    content[offset : offset + len(data)] = data


def _resize(content: bytearray, length: int) -> None:
    if length <= len(content):
        del content[length:]
    else:
        content.extend(bytes(length - len(content)))


def _crash_directory(directory: _Directory, random: Random) -> None:
    survived = dict(directory.durable)
    for change in directory.unsynced:
        if random.random() < 0.5:
            _apply(survived, change)
    directory.entries = survived
    directory.durable = dict(survived)
    directory.unsynced = []


def _crash_file(file: _File, random: Random, chances: Sequence[float], garbage: float) -> None:
    """Some files keep everything, some lose everything, most are torn, by sectors and in any order."""
    survived = bytearray(file.durable)
    chance = random.choice(chances)
    for change in file.unsynced:
        if isinstance(change, int):
            if random.random() < chance:
                _resize(survived, change)
            continue
        offset, data = change
        end = offset + len(data)
        while offset < end:
            piece = min(end, offset - offset % SECTOR + SECTOR)
            if garbage and 0 < chance < 1 and random.random() < garbage:
                _put(survived, offset, random.randbytes(piece - offset))
            elif random.random() < chance:
                _put(survived, offset, data[offset - end + len(data) : piece - end + len(data)])
            offset = piece
    file.content[:] = survived
    file.durable[:] = survived
    file.unsynced = []
