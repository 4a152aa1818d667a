"""The node header: one small file that says whose directory this is.

magic 8 | version u16 | name length u16 | reserved u32 | node id u64 | cluster id u64 | name | CRC32C u32
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from ..codec import crc32c
from .disk import NO_SPACE, Disk, sync_strictly
from .errors import NewerFormat, NodeHeaderDamaged

NODE_FILE: Final = "node"
_NODE_TEMPORARY: Final = "node.tmp"
NODE_MAGIC: Final = b"TRIMNODE"
NODE_VERSION: Final = 1
_HEADER: Final = struct.Struct("<8sHHIQQ")
_CRC: Final = struct.Struct("<I")
MAX_NAME_BYTES: Final = 255


@dataclass(frozen=True, slots=True)
class NodeHeader:
    """Who this directory belongs to. `cluster_id` is 0 until the node is a member of a born cluster."""

    node_id: int
    cluster_id: int
    name: str


def read_node_header(disk: Disk) -> NodeHeader | None:
    """The node header; None if there is no such file."""
    if not disk.exists(NODE_FILE):
        return None
    data = read_file(disk, NODE_FILE)
    body, stored = data[: -_CRC.size], data[-_CRC.size :]
    if len(body) < _HEADER.size or _CRC.unpack(stored)[0] != crc32c(body):
        raise NodeHeaderDamaged(f"{NODE_FILE}: {len(data)} bytes whose checksum does not match")
    magic, version, name_size, _, node_id, cluster_id = _HEADER.unpack_from(body)
    if magic != NODE_MAGIC:
        raise NodeHeaderDamaged(f"{NODE_FILE}: not a node header")
    if version > NODE_VERSION:
        raise NewerFormat(f"{NODE_FILE}: version {version}, this program knows {NODE_VERSION}")
    try:
        name = body[_HEADER.size : _HEADER.size + name_size].decode()
    except UnicodeDecodeError as error:
        raise NodeHeaderDamaged(f"{NODE_FILE}: its name is no UTF-8") from error
    return NodeHeader(node_id, cluster_id, name)


def write_node_header(disk: Disk, header: NodeHeader) -> None:
    """Makes the header durable: the old or the new one survives any crash, whole."""
    name = header.name.encode()
    if len(name) > MAX_NAME_BYTES:
        raise ValueError(f"a node name of {len(name)} bytes; {MAX_NAME_BYTES} are the most")
    body = _HEADER.pack(NODE_MAGIC, NODE_VERSION, len(name), 0, header.node_id, header.cluster_id) + name
    replace_file(disk, "", _NODE_TEMPORARY, NODE_FILE, body + _CRC.pack(crc32c(body)))


def read_file(disk: Disk, path: str) -> bytes:
    """A whole file, as the disk has it (its cached pages are dropped first)."""
    descriptor = disk.open(path)
    try:
        disk.drop_cache(descriptor)
        return disk.pread(descriptor, disk.size(descriptor), 0)
    finally:
        disk.close(descriptor)


def replace_file(disk: Disk, directory: str, temporary: str, path: str, data: bytes) -> None:
    """Atomically and durably replaces a file: temporary name, fsync, rename, directory fsync.

    Without space for it the old one stays, and nothing of the new one.
    """
    try:
        _write_durably(disk, temporary, data)
    except OSError as error:
        if error.errno in NO_SPACE and disk.exists(temporary):
            disk.unlink(temporary)
        raise
    disk.rename(temporary, path)
    disk.sync_directory(directory)


def _write_durably(disk: Disk, path: str, data: bytes) -> None:
    descriptor = disk.open(path, create=True)
    try:
        disk.truncate(descriptor, 0)
        disk.pwritev(descriptor, [data], 0)
        sync_strictly(disk.fsync, descriptor)
    finally:
        disk.close(descriptor)


def make_durable(disk: Disk, path: str, directory: str) -> None:
    """After a kill a file may be in the page cache only; whoever relies on it makes it durable first."""
    descriptor = disk.open(path, write=True)
    try:
        disk.fsync(descriptor)
    finally:
        disk.close(descriptor)
    disk.sync_directory(directory)
