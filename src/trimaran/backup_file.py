"""The file that `trimaran backup` writes: sections with checksums, and an end without which it is not whole.

docs/format.md has it byte by byte. Knows no cluster and no Trio.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import BinaryIO, Final, cast

import msgpack

from .codec import crc32c
from .storage.errors import StorageError
from .storage.manifest import Manifest, decode_manifest

MAGIC: Final = b"TRIMBACK"
VERSION: Final = 1
GROUP: Final = 1
DATA: Final = 2
END: Final = 3
MAX_SECTION_BYTES: Final = 64 << 20
"""Refused before it is read: no writer makes a section near it."""

_HEADER: Final = struct.Struct("<8sHHI")
_SECTION: Final = struct.Struct("<III")
_CRC: Final = struct.Struct("<I")


class NotWhole(Exception):
    """The file is no backup, was cut, or is damaged: nothing of it may be used."""


@dataclass(frozen=True, slots=True)
class BackedUpGroup:
    """One group of a backup: what it was, at which applied index, and how long its parts are."""

    kind: str
    name: str
    config: Mapping[str, object]
    version: int
    """Of its configuration."""
    replicas: int
    index: int
    parts: tuple[int, ...]
    """Bytes of the manifest, then of each of its files."""


class BackupWriter:
    """Writes groups one after the other; without `end` the file is worth nothing."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._sections = 0
        self._chain = 0
        file.write(_HEADER.pack(MAGIC, VERSION, 0, 0))

    def group(self, group: BackedUpGroup) -> None:
        """Begin a group; the bytes of its parts follow, in order."""
        self._section(GROUP, cast(bytes, msgpack.packb(asdict(group))))

    def data(self, data: bytes) -> None:
        self._section(DATA, data)

    def end(self) -> None:
        self._section(END, cast(bytes, msgpack.packb({"sections": self._sections, "chain": self._chain})))

    def _section(self, kind: int, body: bytes) -> None:
        head = _SECTION.pack(kind, len(body), crc32c(body))
        head += _CRC.pack(crc32c(head))
        self._file.write(head)
        self._file.write(body)
        self._sections += 1
        self._chain = crc32c(head, self._chain)


def read_backup(file: BinaryIO) -> Iterator[tuple[BackedUpGroup, int, int, bytes]]:
    """(group, part, offset, bytes) in order. Raises NotWhole, maybe at the end only: check it first."""
    group: BackedUpGroup | None = None
    part = offset = 0
    for kind, body in _sections(file):
        if kind == GROUP:
            _check_complete(group, part, offset)
            group, part, offset = _group(body), 0, 0
            continue
        if group is None:
            raise NotWhole("data without a group")
        while body:
            part, offset = _next_part(group, part, offset)
            piece, body = body[: group.parts[part] - offset], body[group.parts[part] - offset :]
            yield group, part, offset, piece
            offset += len(piece)
    _check_complete(group, part, offset)


def check_backup(file: BinaryIO) -> list[BackedUpGroup]:
    """Read all of it and compare every checksum, also those in the manifests. Raises NotWhole."""
    found: dict[str, BackedUpGroup] = {}
    encoded: dict[str, bytearray] = {}
    crcs: dict[tuple[str, int], int] = {}
    for group, part, _, data in read_backup(file):
        key = f"{group.kind} {group.name}"
        found[key] = group
        if part == 0:
            encoded.setdefault(key, bytearray()).extend(data)
        else:
            crcs[key, part] = crc32c(data, crcs.get((key, part), 0))
    for key, group in found.items():
        _check_manifest(
            group,
            _manifest(bytes(encoded[key])),
            [crcs.get((key, part), 0) for part in range(1, len(group.parts))],
        )
    return list(found.values())


def _check_manifest(group: BackedUpGroup, manifest: Manifest, crcs: Sequence[int]) -> None:
    lengths = tuple(file.length for file in manifest.files)
    if manifest.index != group.index or lengths != group.parts[1:]:
        raise NotWhole(f"{group.name}: the manifest is of another backup")
    for file, crc in zip(manifest.files, crcs, strict=True):
        if file.crc32c != crc:
            raise NotWhole(f"{group.name}: {file.name} has another checksum than when it was written")


def _manifest(encoded: bytes) -> Manifest:
    try:
        return decode_manifest(encoded)
    except StorageError as error:
        raise NotWhole(str(error)) from error


def _sections(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Every section but the end, whose count and chain are checked."""
    magic, version, flags, zero = _HEADER.unpack(_exactly(file, _HEADER.size))
    if magic != MAGIC:
        raise NotWhole("it is no backup")
    if version > VERSION:
        raise NotWhole(f"it has version {version}, this program reads {VERSION}")
    if version != VERSION or flags or zero:
        raise NotWhole("its header is damaged")
    sections = chain = 0
    while True:
        head = _exactly(file, _SECTION.size + _CRC.size)
        kind, length, crc = _SECTION.unpack_from(head)
        if (
            _CRC.unpack_from(head, _SECTION.size)[0] != crc32c(head[: _SECTION.size])
            or length > MAX_SECTION_BYTES
        ):
            raise NotWhole("the header of a section is damaged")
        body = _exactly(file, length)
        if crc32c(body) != crc or kind not in (GROUP, DATA, END):
            raise NotWhole("a section is damaged")
        if kind == END:
            break
        sections, chain = sections + 1, crc32c(head, chain)
        yield kind, body
    if msgpack.unpackb(body) != {"sections": sections, "chain": chain} or file.read(1):
        raise NotWhole("sections are missing, or something follows the end")


def _exactly(file: BinaryIO, size: int) -> bytes:
    data = file.read(size)
    if len(data) < size:
        raise NotWhole("it ends too soon")
    return data


def _group(body: bytes) -> BackedUpGroup:
    fields = msgpack.unpackb(body)
    return BackedUpGroup(**{**fields, "parts": tuple(fields["parts"])})


def _next_part(group: BackedUpGroup, part: int, offset: int) -> tuple[int, int]:
    """Where the next byte belongs."""
    while part < len(group.parts) and offset == group.parts[part]:
        part, offset = part + 1, 0
    if part == len(group.parts):
        raise NotWhole(f"{group.name}: more data than it should have")
    return part, offset


def _check_complete(group: BackedUpGroup | None, part: int, offset: int) -> None:
    if group is not None and (offset, *group.parts[part + 1 :]) != (
        group.parts[part],
        *(0 for _ in group.parts[part + 1 :]),
    ):
        raise NotWhole(f"{group.name}: data is missing")
