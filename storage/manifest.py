"""The manifest: a group's durable snapshot, as a list of its files plus the machine's own small state.

On disk and on the wire it is a msgpack map with a version, followed by its CRC32C (u32, little endian).
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from typing import Final

import msgpack

from ..codec import crc32c
from .errors import ManifestDamaged, NewerFormat

MANIFEST_VERSION: Final = 1
MAX_MANIFEST_BYTES: Final = 256 << 20
"""Refused before anything is decoded, and therefore before anything is written."""

_CRC: Final = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class FileEntry:
    """A file of the group as the snapshot sees it: its first `length` bytes, which have this CRC32C."""

    name: str
    length: int
    crc32c: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A group's state as of (index, term).

    A machine's `state` refers to files by their position in `files`, never by name: an installed snapshot
    gets local names of its own.
    """

    group: int
    incarnation: int
    index: int
    term: int
    members: bytes
    """Voters, learners and removed ids as of `index`; opaque to storage."""
    time: int
    """The log clock: the last applied batch's time, ns since 1970."""
    kind: str
    """Which machine wrote the state."""
    rolling_hash: int
    """Hash over all applied batches (u64); equal on all replicas at the same index."""
    files: tuple[FileEntry, ...] = ()
    state: bytes = b""
    version: int = MANIFEST_VERSION


def encode_manifest(manifest: Manifest) -> bytes:
    """The bytes to store or send; their last four are the CRC32C of the rest."""
    body = msgpack.packb(
        {
            "v": manifest.version,
            "group": manifest.group,
            "incarnation": manifest.incarnation,
            "index": manifest.index,
            "term": manifest.term,
            "members": manifest.members,
            "time": manifest.time,
            "kind": manifest.kind,
            "hash": manifest.rolling_hash,
            "files": [[file.name, file.length, file.crc32c] for file in manifest.files],
            "state": manifest.state,
        }
    )
    assert isinstance(body, bytes)
    return body + _CRC.pack(crc32c(body))


def manifest_crc(encoded: bytes) -> int:
    """The CRC32C by which a CompactPrefix record names an encoded manifest."""
    crc: int = _CRC.unpack_from(encoded, len(encoded) - _CRC.size)[0]
    return crc


def decode_manifest(encoded: bytes) -> Manifest:
    """Reads and checks a manifest; ManifestDamaged or NewerFormat if it is not one that we can use."""
    if not _CRC.size < len(encoded) <= MAX_MANIFEST_BYTES:
        raise ManifestDamaged(f"a manifest of {len(encoded)} bytes")
    body = encoded[: -_CRC.size]
    if crc32c(body) != manifest_crc(encoded):
        raise ManifestDamaged("the manifest's checksum does not match")
    try:
        fields = msgpack.unpackb(body)
        version = fields["v"]
        if isinstance(version, int) and version > MANIFEST_VERSION:
            raise NewerFormat(f"manifest version {version}, this program knows {MANIFEST_VERSION}")
        manifest = Manifest(
            group=fields["group"],
            incarnation=fields["incarnation"],
            index=fields["index"],
            term=fields["term"],
            members=fields["members"],
            time=fields["time"],
            kind=fields["kind"],
            rolling_hash=fields["hash"],
            files=tuple(FileEntry(name, length, crc) for name, length, crc in fields["files"]),
            state=fields["state"],
            version=version,
        )
    except (ValueError, KeyError, TypeError, msgpack.UnpackException) as error:
        raise ManifestDamaged(f"the manifest's fields are wrong: {error}") from error
    _check(manifest)
    return manifest


def is_file_name(name: object) -> bool:
    """Whether a name is one plain path component that can't clash with what storage itself uses."""
    return (
        isinstance(name, str)
        and _PLAIN.fullmatch(name) is not None
        and name not in RESERVED_NAMES
        and not name.endswith(".tmp")
    )


_PLAIN: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
RESERVED_NAMES: Final = frozenset({"manifest", "quarantine", "incoming", "evidence"})


def _check(manifest: Manifest) -> None:
    """A manifest may come from a peer: every field has the type that the rest relies on."""
    numbers: list[object] = [
        manifest.version,
        manifest.group,
        manifest.incarnation,
        manifest.index,
        manifest.term,
        manifest.time,
        manifest.rolling_hash,
    ]
    sizes: list[object] = [number for file in manifest.files for number in (file.length, file.crc32c)]
    blobs: list[object] = [manifest.members, manifest.state]
    names: list[object] = [file.name for file in manifest.files]
    kind: object = manifest.kind
    if not all(isinstance(number, int) for number in numbers):
        raise ManifestDamaged("a number of the manifest is none")
    if not all(isinstance(size, int) and 0 <= size < 1 << 63 for size in sizes):
        raise ManifestDamaged("a length or checksum of the manifest can't be one")
    if not all(isinstance(blob, bytes) for blob in blobs):
        raise ManifestDamaged("members and state of a manifest are bytes")
    if not isinstance(kind, str) or not all(map(is_file_name, names)):
        raise ManifestDamaged("a name of the manifest can't be one")
    if len({file.name for file in manifest.files}) != len(manifest.files):
        raise ManifestDamaged("the manifest names a file twice")
