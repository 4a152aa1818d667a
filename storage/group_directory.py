"""One group's directory on the disk: how it is found at start-up, and the blocking work in it.

Nothing but the manifest gives a file a meaning. At start-up every file is cut to what the manifest says
and what it doesn't name is moved aside; the log's tail is then applied again.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from ..codec import Buffer, crc32c
from .disk import Disk, sync_strictly
from .errors import FileDamaged, ManifestDamaged
from .file_lane import FileLane
from .incoming import Received, decode_received
from .manifest import FileEntry, Manifest, decode_manifest, manifest_crc
from .node import make_durable, read_file, replace_file
from .quarantine import EVIDENCE, GROUPS, QUARANTINE, move_aside, next_stamp

MANIFEST: Final = "manifest"
INCOMING: Final = "incoming"
CACHED_FILES: Final = 8
"""Full files of a group that stay in the page cache: 64 MiB of a stream, for consumers that lag a little."""
PAGE_BYTES: Final = 4096
"""A disk that refuses a read usually refuses one of these: what lies around it can be read."""

_NUMBERED: Final = re.compile(r"-([0-9a-f]{8})$")


def group_directory(group: int, incarnation: int) -> str:
    return f"{GROUPS}/{group}-{incarnation}"


# --- at start-up ------------------------------------------------------------------------------------------


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
    move_aside(disk, directory, unnamed, aside)
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


# --- while the node runs, in the FILE lane ----------------------------------------------------------------


class GroupDirectory:
    """The blocking operations on one group's directory. Used in the FILE lane only."""

    def __init__(self, lane: FileLane, path: str) -> None:
        self._lane = lane
        self.disk = lane.disk
        self.open = lane.open
        self.path = path
        self._exists = lane.disk.exists(path)
        self._new_names = True
        self._cached: deque[str] = deque()
        """Full files that were synced last, oldest first. Touched in the BACKGROUND lane only."""

    def write(self, path: str, offset: int, buffers: Sequence[Buffer]) -> None:
        if not self.open.has(path):
            self._make()
            self._new_names = True
        self.disk.pwritev(self.open.get(path, write=True), buffers, offset)

    def read(self, name: str, offset: int, length: int) -> bytes:
        return self._lane.read(f"{self.path}/{name}", length, offset)

    def sync(self, names: Sequence[str]) -> list[str]:
        """Those that are to be synced again: `sync_apart` is at them, and may fail yet."""
        for name in names:
            descriptor = self.open.get(f"{self.path}/{name}", write=False)
            sync_strictly(self.disk.fdatasync, descriptor)
        if self._new_names and self._exists:
            self.disk.sync_directory(self.path)
            self._new_names = False
        syncing = dict(self._lane.syncing)
        unsure = [name for name in names if f"{self.path}/{name}" in syncing]
        for name in unsure:
            error = syncing[f"{self.path}/{name}"]
            if error is not None:
                raise OSError(error.errno, f"a sync in the background failed: {error.strerror}") from error
        return unsure

    def sync_apart(self, name: str) -> None:
        """As `sync` for one full file, with a descriptor of its own: it runs in another lane.

        The one that was full so many files before leaves the page cache: its pages are what the next file is
        written to. A system that must find new memory for all that is ever written spends more on that than
        on the writing, and reads go to the newest files, mostly.
        """
        path, syncing = f"{self.path}/{name}", self._lane.syncing
        syncing[path] = None
        try:
            self._apart(name, lambda descriptor: sync_strictly(self.disk.fdatasync, descriptor))
        except OSError as error:
            syncing[path] = error
            raise
        del syncing[path]
        self._cached.append(name)
        if len(self._cached) > CACHED_FILES:
            self._apart(self._cached.popleft(), self.disk.drop_cache)

    def _apart(self, name: str, work: Callable[[int], None]) -> None:
        try:
            descriptor = self.disk.open(f"{self.path}/{name}", write=True)
        except FileNotFoundError:
            return  # the FILE lane has removed it: nobody needs it any more
        try:
            work(descriptor)
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
            self.disk.link(path, f"{aside}/{next_stamp(self.disk.listdir(aside)):08x}-{name}")
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
        move_aside(self.disk, self.path, others, self.disk.listdir(aside) if self.disk.exists(aside) else ())

    def set_apart(self) -> None:
        """Moves the manifest and all files to a place where they stay until `remove`. Durable on return."""
        aside = f"{self.path}/{EVIDENCE}"
        self._make()
        self.disk.mkdir(aside)
        stamp = next_stamp(self.disk.listdir(aside))
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
        """The group is no longer here: its directory goes, with what was set apart, files first."""
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
