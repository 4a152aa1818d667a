"""A snapshot on its way in: beside the files in use, in pieces, and again from where it stopped.

What has come survives the process: a small file says which manifest is being received and under which local
names. It is advice only. Whoever goes on after a restart believes a file when it has its checksum.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol, cast

import msgpack

from ..codec import Buffer, crc32c
from .errors import FileDamaged, StorageError
from .manifest import FileEntry, Manifest, decode_manifest, encode_manifest, is_file_name

INCOMING_VERSION: Final = 1
PENDING_BYTES: Final = 8 << 20
"""A snapshot being received waits for the disk beyond this."""
READ_BYTES: Final = 1 << 20
"""What was received before a restart is read again in pieces of this size."""

_CRC: Final = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class Received:
    """What an earlier transfer was about, and the local names of its files, in their order."""

    manifest: Manifest
    names: tuple[str, ...]


def encode_received(received: Received) -> bytes:
    """The file ``incoming`` of a group: a msgpack map and its CRC32C."""
    fields = {
        "v": INCOMING_VERSION,
        "manifest": encode_manifest(received.manifest),
        "names": list(received.names),
    }
    body = cast(bytes, msgpack.packb(fields))
    return body + _CRC.pack(crc32c(body))


def decode_received(encoded: bytes) -> Received | None:
    """What the file says; None if it says nothing that can be used."""
    body = encoded[: -_CRC.size]
    if len(encoded) <= _CRC.size or _CRC.unpack(encoded[-_CRC.size :])[0] != crc32c(body):
        return None
    try:
        fields = msgpack.unpackb(body)
        if fields["v"] != INCOMING_VERSION:
            return None
        manifest, names = decode_manifest(fields["manifest"]), tuple(fields["names"])
    except (ValueError, KeyError, TypeError, msgpack.UnpackException, StorageError):
        return None
    fits = len(names) == len(manifest.files) and len(set(names)) == len(names)
    return Received(manifest, names) if fits and all(map(is_file_name, names)) else None


class Place(Protocol):
    """What a transfer needs of the group's files (`GroupFiles`)."""

    def new_name(self, stem: str) -> str: ...
    def write(self, name: str, offset: int, data: Buffer) -> None: ...
    async def settle(self, below: int) -> None: ...
    async def reread(self, name: str, offset: int, length: int) -> bytes: ...
    def sync_in_background(self, name: str) -> None: ...
    def forget(self, names: Sequence[str]) -> None: ...
    async def note_incoming(self, encoded: bytes) -> None: ...
    async def adopt(self, manifest: Manifest) -> int: ...
    def close_incoming(self, incoming: Incoming) -> None: ...


class Incoming:
    """A snapshot being received. It becomes the group's state only in `finish`. `begin` comes first."""

    def __init__(self, files: Place, manifest: Manifest, earlier: Received | None) -> None:
        """`earlier` is what a transfer before this one left: its whole files need not come again."""
        self.manifest = manifest
        """The sender's manifest."""
        self._files = files
        self._earlier = earlier
        self._names: list[str] = []
        self._received = [0] * len(manifest.files)
        self._crcs = [0] * len(manifest.files)

    async def begin(self) -> tuple[int, ...]:
        """Per file of the manifest, how many bytes are here already: where a resumed transfer goes on.

        Raises StorageError.
        """
        if not self._names and self.manifest.files:
            await self._recall()
            await self._files.note_incoming(encode_received(Received(self.manifest, tuple(self._names))))
        return tuple(self._received)

    async def _recall(self) -> None:
        """Takes over the files of an earlier transfer that are whole, and gives up the others."""
        earlier = self._earlier
        old = dict(zip(earlier.manifest.files, earlier.names, strict=True)) if earlier is not None else {}
        names: list[str] = []
        for position, entry in enumerate(self.manifest.files):
            name = old.get(entry, "")
            if name and await self._has_come(name, entry):
                del old[entry]
                self._received[position], self._crcs[position] = entry.length, entry.crc32c
            else:
                name = self._files.new_name("received")
                self._files.write(name, 0, b"")  # a file may be empty, and must exist all the same
            names.append(name)
        self._names = names
        self._files.forget(list(old.values()))

    async def _has_come(self, name: str, entry: FileEntry) -> bool:
        """Whether all of a file is here; one that isn't written fully, or not any more, is begun anew.

        Asked of the disk: if a sync of it failed, the page cache still shows what was written, takes it for
        clean, and the next sync succeeds.
        """
        crc = size = 0
        await self._files.settle(0)
        try:
            while piece := await self._files.reread(name, size, READ_BYTES):
                size += len(piece)
                crc = crc32c(piece, crc)
        except (FileDamaged, FileNotFoundError):
            return False
        return (size, crc) == (entry.length, entry.crc32c)

    def left(self) -> Received | None:
        """What a later transfer may take over."""
        return Received(self.manifest, tuple(self._names)) if self._names else None

    def offsets(self) -> tuple[int, ...]:
        """Per file of the manifest, how many bytes are here."""
        return tuple(self._received)

    async def write_chunk(self, position: int, offset: int, data: Buffer, crc: int) -> None:
        """Stores the next piece of file number `position`.

        FileDamaged if its CRC32C is wrong or it isn't the next one, or if the file is complete and not what
        the manifest says: then it is begun anew. The transfer can go on at `offsets`.
        """
        if not 0 <= position < len(self._names):
            raise FileDamaged(f"file {position}", f"the snapshot has {len(self._names)} files")
        name, entry = self._names[position], self.manifest.files[position]
        if crc32c(data) != crc:
            raise FileDamaged(name, f"the chunk at {offset} has a wrong checksum")
        if offset != self._received[position] or len(data) > entry.length - offset:
            raise FileDamaged(name, f"a chunk at {offset}, expected at {self._received[position]}")
        self._files.write(name, offset, bytes(data))
        self._received[position] += len(data)
        self._crcs[position] = crc32c(data, self._crcs[position])
        if self._received[position] == entry.length:
            if self._crcs[position] != entry.crc32c:
                self._received[position] = self._crcs[position] = 0
                raise FileDamaged(name, f"what was sent for {entry.name} does not have its checksum")
            self._files.sync_in_background(name)  # else `finish` would wait for all of a large snapshot
        await self._files.settle(PENDING_BYTES)

    async def finish(self) -> tuple[Manifest, int]:
        """Checks every file, makes all durable and switches the group to it.

        Nobody may write the group's old files any more. Returns the local manifest (with local names) and
        its CRC32C. FileDamaged if a file isn't what the sender's manifest says; the old state stands then.
        """
        if len(self._names) != len(self.manifest.files):
            raise FileDamaged("the snapshot", "it has not begun to come")
        local: list[FileEntry] = []
        for entry, name, size, crc in zip(
            self.manifest.files, self._names, self._received, self._crcs, strict=True
        ):
            if (size, crc) != (entry.length, entry.crc32c):
                raise FileDamaged(name, f"{size} bytes with another checksum than the sender's {entry.name}")
            local.append(FileEntry(name, size, crc))
        manifest = replace(self.manifest, files=tuple(local))
        manifest_checksum = await self._files.adopt(manifest)
        self._files.close_incoming(self)
        return manifest, manifest_checksum

    def abandon(self) -> None:
        """Gives the transfer up and removes what was received."""
        self._files.close_incoming(self)
        self._files.forget(self._names)
