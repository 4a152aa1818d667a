"""The files of one group, as its state machine uses them: blocks written behind, and the manifest.

Nothing but the manifest gives a file a meaning. So files may be written without any sync, in any order, until
the next manifest is made. The blocking work is in `group_directory.py`, what is deferred in `file_lane.py`.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Final, Protocol

import trio

from ..codec import Buffer
from .errors import FileDamaged, ManifestTooLarge
from .file_lane import FileLane, Removal, WriteBehind
from .group_directory import FoundFiles, GroupDirectory, group_directory
from .incoming import Incoming
from .manifest import MAX_MANIFEST_BYTES, FileEntry, Manifest, encode_manifest, is_file_name, manifest_crc

SPACE_SECONDS: Final = 1.0
"""How often writes that wait for space are tried again by whoever waits for them."""


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
        self._directory = GroupDirectory(lane, group_directory(group, incarnation))
        self._next_number = found.next_number
        self._given = 0
        self._behind: WriteBehind | None = None
        """The newest deferred write, while another may join it."""
        self._written_to: str | None = None
        """The file of the last write, whose name was looked at then."""
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
        if name != self._written_to:  # the same file takes one batch after another
            if not is_file_name(name):
                raise ValueError(f"{name!r} can't be a file name")
            self._written_to = name
        self._given += len(data)
        self._lane.grew(len(data))
        path = f"{self._directory.path}/{name}"
        behind = self._behind
        if behind is not None and behind.turn == self._lane.turn and behind.continues(path, offset):
            behind.add(data)
            return
        self._behind = WriteBehind(path, offset, self._lane.turn, self._directory.write, self._on_written)
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
        self._background(self._lane.quarantine.trim)

    async def sync(self, names: Sequence[str]) -> None:
        """Everything written to these files before the call is durable (their names too)."""
        unsure = await self._lane.commit(self._directory.sync, tuple(names))
        while unsure:
            await self._lane.wait_apart()
            unsure = await self._lane.commit(self._directory.sync, tuple(unsure))

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
        self._background(self._lane.quarantine.trim_if_over)
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
        self._background(self._lane.quarantine.trim)
        return crc

    async def set_apart(self) -> None:
        """The group's state is not to be used any more, and is kept for people to look at."""
        if self._incoming is not None:
            self._incoming.abandon()
        self._behind = None
        await self._lane.commit(self._directory.set_apart)
        self.manifest = None
        self._background(self._lane.quarantine.trim)

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
