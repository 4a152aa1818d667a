"""The files of one group: blocks written behind, and the manifest that says what they are worth."""

from __future__ import annotations

from collections.abc import Sequence

from ..codec import Buffer
from .manifest import Manifest


class GroupFiles:
    """The directory ``groups/<group>-<incarnation>/``. All calls take effect in the order they were made."""

    group: int
    incarnation: int
    manifest: Manifest | None
    """The durable local manifest: what the files are worth after a restart."""

    @property
    def pending_bytes(self) -> int:
        """Bytes given to `write` that the file system doesn't have yet; the caller keeps this bounded."""
        raise NotImplementedError

    async def settle(self, below: int) -> None:
        """Waits until at most `below` bytes are pending."""
        raise NotImplementedError

    def new_name(self, stem: str) -> str:
        """A file name beginning with `stem` that this directory has never had."""
        raise NotImplementedError

    def write(self, name: str, offset: int, data: Buffer) -> None:
        """Writes behind: no wait, no sync, in order. The first write creates the file."""
        raise NotImplementedError

    async def read(self, name: str, offset: int, length: int) -> bytes:
        """Up to `length` bytes; sees every earlier write. FileDamaged if the disk refuses."""
        raise NotImplementedError

    async def sync(self, names: Sequence[str]) -> None:
        """Everything written to these files before the call is durable (their names too)."""
        raise NotImplementedError

    def sync_in_background(self, name: str) -> None:
        """For a full file: lets it reach the disk early, so that the next snapshot needs not wait for it."""
        raise NotImplementedError

    async def write_manifest(self, manifest: Manifest) -> int:
        """Makes the manifest durable and current, and returns its CRC32C. Sync its files before."""
        raise NotImplementedError

    def forget(self, names: Sequence[str]) -> None:
        """Removes files. ValueError if the durable manifest still names one."""
        raise NotImplementedError

    def incoming(self, manifest: Manifest) -> Incoming:
        """A snapshot being received from a peer; the same one as before if the manifest is the same."""
        raise NotImplementedError


class Incoming:
    """A snapshot on its way in, beside the files in use. It becomes the group's state only in `finish`."""

    manifest: Manifest
    """The sender's manifest."""

    def offsets(self) -> tuple[int, ...]:
        """Per file of the manifest, how many bytes are here already: where a resumed transfer goes on."""
        raise NotImplementedError

    async def write_chunk(self, position: int, offset: int, data: Buffer, crc: int) -> None:
        """Stores the next piece of file number `position`. FileDamaged if its CRC32C or offset is wrong."""
        raise NotImplementedError

    async def finish(self) -> tuple[Manifest, int]:
        """Checks every file, makes all durable and switches the group to it.

        Returns the local manifest (with local names) and its CRC32C. FileDamaged if a file isn't what the
        sender's manifest says; the files in use are untouched then.
        """
        raise NotImplementedError

    def abandon(self) -> None:
        """Gives the transfer up and removes what was received."""
        raise NotImplementedError
