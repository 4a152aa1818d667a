"""The files of one group: blocks written behind, and the manifest that says what they are worth.

Nothing but the manifest gives a file a meaning. At start-up every file is cut to what the manifest says
and what it doesn't name is moved aside; the log's tail is then applied again. So files may be written
without any sync, in any order, until the next manifest is made.
"""

from __future__ import annotations

import errno
import operator
import re
from collections import OrderedDict
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol, TypeVar

import trio

from ..codec import Buffer, crc32c
from .disk import NO_SPACE, Disk, Lane, Runner, sync_strictly
from .errors import DiskFull, FileDamaged, ManifestDamaged, ManifestTooLarge, StorageFailed
from .incoming import Incoming, Received, decode_received
from .manifest import (
    MAX_MANIFEST_BYTES,
    FileEntry,
    Manifest,
    decode_manifest,
    encode_manifest,
    is_file_name,
    manifest_crc,
)
from .node import make_durable, read_file, replace_file
from .quarantine import EVIDENCE, GROUPS, QUARANTINE

T = TypeVar("T")

MANIFEST: Final = "manifest"
INCOMING: Final = "incoming"
PAGE_BYTES: Final = 4096
"""A disk that refuses a read usually refuses one of these: what lies around it can be read."""
OPEN_FILES: Final = 128
"""Descriptors kept open; a node with many groups must stay below its limit of open files."""
SPACE_SECONDS: Final = 1.0
"""How often writes that wait for space are tried again by whoever waits for them."""

_NUMBERED: Final = re.compile(r"-([0-9a-f]{8})$")


def group_directory(group: int, incarnation: int) -> str:
    return f"{GROUPS}/{group}-{incarnation}"


# --- the blocking part, which runs in the FILE lane -------------------------------------------------------


@dataclass(slots=True)
class FoundFiles:
    """What start-up found in a group's directory, after cutting and moving aside."""

    manifest: Manifest | None = None
    crc: int = 0
    damaged: bool = False
    """There is a manifest and it can't be used."""
    broken: tuple[str, ...] = ()
    """Files that the manifest names and that are missing, or shorter than it says."""
    incoming: Received | None = None
    """What a snapshot on its way in had come to; its files are left where they are."""
    next_number: int = 1
    """Behind every number that a name in the directory ends in."""


def recover_files(disk: Disk, directory: str) -> FoundFiles:
    """Cuts the files to the manifest, moves unnamed ones to quarantine, and adopts the manifest.

    A damaged manifest moves nothing: it can't say what is worth keeping. Deletes nothing. NewerFormat for one
    of a newer program, whose files this one would spoil.
    """
    found = FoundFiles()
    if not disk.exists(directory):
        return found
    names = disk.listdir(directory)
    aside = disk.listdir(f"{directory}/{QUARANTINE}") if QUARANTINE in names else []
    found.next_number = 1 + max((_number(name) for name in (*names, *aside)), default=0)
    if MANIFEST in names:
        try:
            encoded = read_file(disk, f"{directory}/{MANIFEST}")
            found.manifest, found.crc = decode_manifest(encoded), manifest_crc(encoded)
        except (ManifestDamaged, OSError):
            found.damaged = True
            return found
        make_durable(disk, f"{directory}/{MANIFEST}", directory)
        disk.sync_directory(GROUPS)
        files = found.manifest.files
        found.broken = tuple(file.name for file in files if not _cut(disk, directory, file))
    named = {file.name for file in found.manifest.files} if found.manifest is not None else set()
    named |= {MANIFEST, QUARANTINE, EVIDENCE}
    found.incoming = _read_incoming(disk, directory) if INCOMING in names else None
    if found.incoming is not None and named.isdisjoint(found.incoming.names):
        named |= {INCOMING, *found.incoming.names}
    else:
        found.incoming = None  # it was adopted, or can't be read
    unnamed = [name for name in names if name not in named]
    _move_aside(disk, directory, unnamed, aside)
    return found


def _read_incoming(disk: Disk, directory: str) -> Received | None:
    try:
        return decode_received(read_file(disk, f"{directory}/{INCOMING}"))
    except OSError:
        return None


def _number(name: str) -> int:
    match = _NUMBERED.search(name)
    return int(match.group(1), 16) if match else 0


def _cut(disk: Disk, directory: str, file: FileEntry) -> bool:
    """Cuts a file to its length in the manifest; False if it is shorter or missing."""
    path = f"{directory}/{file.name}"
    if not disk.exists(path):
        return False
    descriptor = disk.open(path, write=True)
    try:
        size = disk.size(descriptor)
        if size > file.length:
            disk.truncate(descriptor, file.length)
        return size >= file.length
    finally:
        disk.close(descriptor)


def _move_aside(disk: Disk, directory: str, names: Sequence[str], aside: Sequence[str]) -> None:
    if not names:
        return
    disk.mkdir(f"{directory}/{QUARANTINE}")
    stamp = _next_stamp(aside)
    for name in names:
        disk.rename(f"{directory}/{name}", f"{directory}/{QUARANTINE}/{stamp:08x}-{name}")


def _next_stamp(aside: Sequence[str]) -> int:
    """What the names of files begin with that are moved aside next."""
    return 1 + max((int(name[:8], 16) for name in aside), default=0)


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


# --- what is deferred -------------------------------------------------------------------------------------


class WriteBehind:
    """One deferred write; what is appended to the same file before its turn comes joins it."""

    __slots__ = ("_buffers", "_directory", "_done", "_name", "_offset", "_size", "path", "turn")

    def __init__(
        self, directory: _Directory, name: str, offset: int, turn: int, done: Callable[[int], None]
    ) -> None:
        self.turn = turn
        """The lane's turn that it waits for; once that has begun nothing may join any more."""
        self.path = f"{directory.path}/{name}"
        self._directory = directory
        self._name = name
        self._offset = offset
        self._done = done
        self._buffers: list[Buffer] = []
        self._size = 0

    def continues(self, name: str, offset: int) -> bool:
        return name == self._name and offset == self._offset + self._size

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
        self._directory.write(self._name, self._offset, self._buffers)
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


# --- the lane ---------------------------------------------------------------------------------------------


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

    def __init__(self, disk: Disk, runner: Runner, fail: Callable[[OSError], StorageFailed]) -> None:
        self.disk = disk
        self.open = OpenFiles(disk)
        self._runner = runner
        self._fail = fail
        self._pending: list[Deferred] = []
        self._error: OSError | None = None
        self._stuck: list[WriteBehind] = []
        """Writes that wait for space. Only the lane changes it."""
        self.turn = 0
        """Grows with each job: what was deferred in an earlier turn is on its way."""
        self.failed: StorageFailed | None = None
        self.wake: Callable[[], None] = lambda: None
        """Called when there is something to write behind; set by the actor."""
        self.trim: Callable[[], object] = lambda: None
        """Keeps quarantine within its bound, in the background; set by the actor."""
        self.on_no_space: Callable[[], None] = lambda: None
        """Called after each job behind which a write waits for space; set by the actor."""

    def defer(self, operation: Deferred) -> None:
        """Queues an operation that nobody waits for. After a failure it is dropped."""
        if self.failed is not None:
            return
        self._pending.append(operation)
        if len(self._pending) == 1:
            self.wake()

    async def run(self, function: Callable[..., T], *args: object) -> T:
        """Runs a call behind everything that was deferred. StorageFailed if a deferred one failed."""
        if self.failed is not None:
            raise self.failed
        pending, self._pending = self._pending, []
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
            raise self.failed
        return await self._runner.run(Lane.BACKGROUND, function, *args)

    async def flush(self) -> None:
        """Everything deferred before is written, or waits for space."""
        await self.run(_nothing)

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


class _Directory:
    """The blocking operations on one group's directory. Used in the FILE lane only."""

    def __init__(self, lane: FileLane, path: str) -> None:
        self._lane = lane
        self.disk = lane.disk
        self.open = lane.open
        self.path = path
        self._exists = lane.disk.exists(path)
        self._new_names = True

    def write(self, name: str, offset: int, buffers: Sequence[Buffer]) -> None:
        path = f"{self.path}/{name}"
        if not self.open.has(path):
            self._make()
            self._new_names = True
        self.disk.pwritev(self.open.get(path, write=True), buffers, offset)

    def read(self, name: str, offset: int, length: int) -> bytes:
        return self._lane.read(f"{self.path}/{name}", length, offset)

    def sync(self, names: Sequence[str]) -> None:
        for name in names:
            descriptor = self.open.get(f"{self.path}/{name}", write=False)
            sync_strictly(self.disk.fdatasync, descriptor)
        if self._new_names and self._exists:
            self.disk.sync_directory(self.path)
            self._new_names = False

    def sync_apart(self, name: str) -> None:
        """As `sync` for one file, with a descriptor of its own: it runs in another lane."""
        try:
            descriptor = self.disk.open(f"{self.path}/{name}", write=True)
        except FileNotFoundError:
            return  # the FILE lane has removed it: nobody needs it any more
        try:
            sync_strictly(self.disk.fdatasync, descriptor)
        finally:
            self.disk.close(descriptor)

    def unlink(self, name: str) -> None:
        path = f"{self.path}/{name}"
        self.open.forget(path)
        if self.disk.exists(path):
            self.disk.unlink(path)

    def mend(self, name: str, patches: Mapping[int, Buffer], length: int, crc: int) -> None:
        """Replaces a damaged file by itself with the patches in it, durably and all at once.

        The damaged one goes to quarantine. FileDamaged, with nothing changed, if the first `length` bytes
        would have another CRC32C.
        """
        path = f"{self.path}/{name}"
        content = self._salvage(path)
        for offset, patch in sorted(patches.items()):
            content.extend(bytes(max(0, offset + len(patch) - len(content))))
            content[offset : offset + len(patch)] = patch
        if len(content) < length or crc32c(memoryview(content)[:length]) != crc:
            raise FileDamaged(path, "what was gathered for it does not have its checksum")
        self._make()
        self.open.forget(path)
        if self.disk.exists(path):
            aside = f"{self.path}/{QUARANTINE}"
            self.disk.mkdir(aside)
            self.disk.link(path, f"{aside}/{_next_stamp(self.disk.listdir(aside)):08x}-{name}")
        replace_file(self.disk, self.path, f"{path}.tmp", path, bytes(content))

    def _salvage(self, path: str) -> bytearray:
        """What can be read of a file, with zeros for what can't; nothing if it isn't there."""
        if not self.disk.exists(path):
            return bytearray()
        size = self.disk.size(self.open.get(path, write=False))
        try:
            return bytearray(self._lane.read(path, size, 0))
        except OSError:
            content = bytearray(size)
        for offset in range(0, size, PAGE_BYTES):
            try:
                page = self._lane.read(path, PAGE_BYTES, offset)
            except OSError:
                continue
            content[offset : offset + len(page)] = page
        return content

    def read_apart(self, name: str, offset: int, length: int) -> bytes:
        """As `read`, from the disk itself and with a descriptor of its own: it runs in another lane."""
        descriptor = self.disk.open(f"{self.path}/{name}")
        try:
            self.disk.drop_cache(descriptor)
            return self.disk.pread(descriptor, length, offset)
        finally:
            self.disk.close(descriptor)

    def write_manifest(self, encoded: bytes, files: Sequence[FileEntry]) -> None:
        self._make()
        for file in files:
            size = self.disk.size(self.open.get(f"{self.path}/{file.name}", write=False))
            if size < file.length:
                raise FileDamaged(file.name, f"{size} bytes, the manifest to be written says {file.length}")
        self.sync(())
        replace_file(self.disk, self.path, f"{self.path}/{MANIFEST}.tmp", f"{self.path}/{MANIFEST}", encoded)

    def keep_only(self, names: frozenset[str]) -> None:
        """Moves all other files to quarantine. What is noted of the snapshot that came has had its use."""
        self.unlink(INCOMING)
        others = [name for name in self.disk.listdir(self.path) if name not in names]
        others = [name for name in others if name not in (MANIFEST, QUARANTINE, EVIDENCE)]
        for name in others:
            self.open.forget(f"{self.path}/{name}")
        aside = f"{self.path}/{QUARANTINE}"
        _move_aside(self.disk, self.path, others, self.disk.listdir(aside) if self.disk.exists(aside) else ())

    def set_apart(self) -> None:
        """Moves the manifest and all files to a place where nothing removes them. Durable on return."""
        aside = f"{self.path}/{EVIDENCE}"
        self._make()
        self.disk.mkdir(aside)
        stamp = _next_stamp(self.disk.listdir(aside))
        names = self.disk.listdir(self.path)
        # The manifest first: a restart in between finds none, and asks others for their state.
        for name in sorted(names, key=lambda name: name != MANIFEST):
            if name not in (QUARANTINE, EVIDENCE):
                self.open.forget(f"{self.path}/{name}")
                self.disk.rename(f"{self.path}/{name}", f"{aside}/{stamp:08x}-{name}")
            if name == MANIFEST:
                self.disk.sync_directory(aside)
                self.disk.sync_directory(self.path)
        self.disk.sync_directory(aside)
        self.disk.sync_directory(self.path)

    def note_incoming(self, encoded: bytes) -> None:
        self._make()
        replace_file(self.disk, self.path, f"{self.path}/{INCOMING}.tmp", f"{self.path}/{INCOMING}", encoded)

    def remove(self) -> None:
        """The group is deleted: its directory goes, files first."""
        if not self.disk.exists(self.path):
            return
        for aside in (f"{self.path}/{QUARANTINE}", f"{self.path}/{EVIDENCE}"):
            if self.disk.exists(aside):
                for name in self.disk.listdir(aside):
                    self.disk.unlink(f"{aside}/{name}")
                self.disk.rmdir(aside)
        for name in self.disk.listdir(self.path):
            self.unlink(name)
        self.disk.rmdir(self.path)
        self.disk.sync_directory(GROUPS)
        self._exists = False

    def _make(self) -> None:
        if not self._exists:
            self.disk.mkdir(self.path)
            self.disk.sync_directory(GROUPS)
            self._exists = True


# --- the asynchronous face --------------------------------------------------------------------------------


class Background(Protocol):
    """Runs a job, which nobody waits for, in the BACKGROUND lane behind all that was deferred so far."""

    def __call__(self, job: Callable[[], object], /) -> None: ...


class GroupFiles:
    """The directory ``groups/<group>-<incarnation>/``. All calls take effect in the order they were made."""

    def __init__(
        self, group: int, incarnation: int, lane: FileLane, background: Background, found: FoundFiles
    ) -> None:
        self.group = group
        self.incarnation = incarnation
        self.manifest: Manifest | None = None if found.damaged else found.manifest
        """The durable local manifest: what the files are worth after a restart."""
        self._lane = lane
        self._background = background
        self._directory = _Directory(lane, group_directory(group, incarnation))
        self._next_number = found.next_number
        self._given = 0
        self._behind: WriteBehind | None = None
        """The newest deferred write, while another may join it."""
        self._written = 0
        self._holds = 0
        self._forgotten: list[str] = []
        self._incoming: Incoming | None = None
        self._earlier = found.incoming
        """What an earlier process had received of a snapshot."""

    @property
    def pending_bytes(self) -> int:
        """Bytes given to `write` that the file system doesn't have yet; the caller keeps this bounded."""
        return self._given - self._written

    async def pause(self) -> None:
        """Lets others go on: for whoever works long on what lies in these files."""
        await trio.lowlevel.checkpoint()

    async def settle(self, below: int) -> None:
        """Waits until at most `below` bytes are pending."""
        while self.pending_bytes > below:
            await self._lane.flush()
            if self.pending_bytes > below:
                await trio.sleep(SPACE_SECONDS)

    def new_name(self, stem: str) -> str:
        """A file name beginning with `stem` that no file of this directory has, named or moved aside."""
        name = f"{stem}-{self._next_number:08x}"
        if not is_file_name(name):
            raise ValueError(f"{name!r} can't be a file name")
        self._next_number += 1
        return name

    def write(self, name: str, offset: int, data: Buffer) -> None:
        """Writes behind: no wait, no sync, in order. The first write creates the file.

        `data` must not change any more. After storage failed the write is dropped.
        """
        if not is_file_name(name):
            raise ValueError(f"{name!r} can't be a file name")
        self._given += len(data)
        behind = self._behind
        if behind is not None and behind.turn == self._lane.turn and behind.continues(name, offset):
            behind.add(data)
            return
        self._behind = WriteBehind(self._directory, name, offset, self._lane.turn, self._on_written)
        self._behind.add(data)
        self._lane.defer(self._behind)

    def _on_written(self, size: int) -> None:
        self._written += size  # only this lane changes it

    async def read(self, name: str, offset: int, length: int) -> bytes:
        """Up to `length` bytes; sees every earlier write. FileDamaged if the disk refuses."""
        try:
            return await self._lane.run(self._directory.read, name, offset, length)
        except OSError as error:
            raise FileDamaged(f"{self._directory.path}/{name}", f"can't be read: {error}") from error

    async def reread(self, name: str, offset: int, length: int) -> bytes:
        """As `read`, past the cache where there is one and beside all other reads: for what is written fully.

        FileDamaged if the disk refuses, FileNotFoundError if the file is no longer there.
        """
        try:
            return await self._lane.run_apart(self._directory.read_apart, name, offset, length)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise FileDamaged(f"{self._directory.path}/{name}", f"can't be read: {error}") from error

    async def mend(self, name: str, patches: Mapping[int, Buffer], length: int, crc: int) -> None:
        """Puts sound bytes into a damaged file (offset -> bytes): durably, all of them or none.

        What was damaged is kept in quarantine, also a missing file is made. FileDamaged if the file's first
        `length` bytes would not have this CRC32C then; DiskFull if there is no space for a second copy.
        """
        self._behind = None
        await self._lane.commit(self._directory.mend, name, patches, length, crc)
        self._background(self._lane.trim)

    async def sync(self, names: Sequence[str]) -> None:
        """Everything written to these files before the call is durable (their names too)."""
        await self._lane.commit(self._directory.sync, tuple(names))

    def sync_in_background(self, name: str) -> None:
        """For a full file: lets it reach the disk early, so that the next snapshot needs not wait for it."""
        self._background(lambda: self._directory.sync_apart(name))

    def _changed(self, manifest: Manifest) -> list[FileEntry]:
        """Those of its files that are not in the current manifest just so: the others are durable."""
        known = set(self.manifest.files) if self.manifest is not None else set()
        return [file for file in manifest.files if file not in known]

    async def sync_for(self, manifest: Manifest) -> None:
        """What `write_manifest` wants durable: a large stream has thousands of files, few of them changed."""
        await self.sync([file.name for file in self._changed(manifest)])

    async def write_manifest(self, manifest: Manifest) -> int:
        """Makes the manifest durable and current, and returns its CRC32C. Sync its files before.

        With the old manifest still current: FileDamaged if a file is shorter than it says, ManifestTooLarge.
        """
        if (manifest.group, manifest.incarnation) != (self.group, self.incarnation):
            raise ValueError(f"a manifest of group {manifest.group}-{manifest.incarnation}")
        encoded = encode_manifest(manifest)
        if len(encoded) > MAX_MANIFEST_BYTES:
            raise ManifestTooLarge(f"a manifest of {len(encoded)} bytes; {MAX_MANIFEST_BYTES} are the most")
        await self._lane.commit(self._directory.write_manifest, encoded, self._changed(manifest))
        self.manifest = manifest
        return manifest_crc(encoded)

    def forget(self, names: Sequence[str]) -> None:
        """Removes files. ValueError if the durable manifest still names one."""
        named = {file.name for file in self.manifest.files} if self.manifest is not None else set()
        if still := sorted(named.intersection(names)):
            raise ValueError(f"the manifest still names {still}")
        if self._holds:
            self._forgotten.extend(names)
            return
        self._behind = None
        directory = self._directory
        for name in names:
            path = f"{directory.path}/{name}"
            self._lane.defer(Removal(partial(directory.unlink, name), partial(operator.eq, path)))

    @contextmanager
    def hold(self) -> Iterator[Manifest | None]:
        """The current manifest, whose files stay until the end of the block: for sending a snapshot."""
        self._holds += 1
        try:
            yield self.manifest
        finally:
            self._holds -= 1
            if not self._holds:
                names, self._forgotten = self._forgotten, []
                self.forget(names)

    def incoming(self, manifest: Manifest) -> Incoming:
        """A snapshot being received from a peer; the same one as before if the manifest is the same.

        Of another one it takes over the files that are the same.
        """
        if (manifest.group, manifest.incarnation) != (self.group, self.incarnation):
            raise ValueError(f"a manifest of group {manifest.group}-{manifest.incarnation}")
        if self._incoming is not None:
            if self._incoming.manifest == manifest:
                return self._incoming
            self._earlier = self._incoming.left()
        self._incoming = Incoming(self, manifest, self._earlier)
        self._earlier = None
        return self._incoming

    async def note_incoming(self, encoded: bytes) -> None:
        """Keeps what a restart needs to go on with a snapshot that comes in. DiskFull without space."""
        await self._lane.commit(self._directory.note_incoming, encoded)

    async def adopt(self, manifest: Manifest) -> int:
        """Switches to a received snapshot: everything else goes to quarantine once it is durable."""
        await self.sync([file.name for file in manifest.files])
        crc = await self.write_manifest(manifest)
        names = frozenset(file.name for file in manifest.files)
        self._behind = None
        paths = {f"{self._directory.path}/{name}" for name in names}
        self._lane.defer(
            Removal(partial(self._directory.keep_only, names), lambda path: self._has(path, paths))
        )
        self._background(self._lane.trim)
        return crc

    async def set_apart(self) -> None:
        """The group's state is not to be used any more, and is kept for people to look at."""
        if self._incoming is not None:
            self._incoming.abandon()
        self._behind = None
        await self._lane.commit(self._directory.set_apart)
        self.manifest = None
        self._background(self._lane.trim)

    def close_incoming(self, incoming: Incoming) -> None:
        if self._incoming is incoming:
            self._incoming = None

    def remove(self) -> None:
        """The group was deleted: so are its files."""
        self._behind = None
        self._lane.defer(Removal(self._directory.remove, lambda path: self._has(path, ())))

    def _has(self, path: str, others: Container[str]) -> bool:
        """Whether a file is in this directory, and none of the others."""
        return path.startswith(f"{self._directory.path}/") and path not in others
