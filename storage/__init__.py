"""Storage: the write-ahead log, group files and manifests of a node, and how they are found again.

It knows Trio (in `actor.py`, `runner.py`) and no Raft. docs/format.md is its format, byte by byte.
"""

from .actor import Storage, StorageOptions, StorageStatistics
from .disk import Disk, FileDisk, Lane, Runner
from .errors import (
    Compacted,
    DirectoryLocked,
    DiskFull,
    FileDamaged,
    ForeignDirectory,
    LogDamaged,
    ManifestDamaged,
    NewerFormat,
    NodeHeaderDamaged,
    NotStored,
    RecordTooLarge,
    SegmentGap,
    StorageError,
    StorageFailed,
)
from .files import GroupFiles
from .incoming import Incoming
from .index import Entry, Fault, Prefix, Range
from .manifest import FileEntry, Manifest, decode_manifest, encode_manifest, manifest_crc
from .memory_disk import MemoryDisk
from .node import NodeHeader
from .records import (
    BatchRecord,
    CompactPrefix,
    GroupCreate,
    GroupDelete,
    HardState,
    Record,
    TruncateSuffix,
    log_reset,
)
from .recovery import Recovered, RecoveredGroup
from .replay import TornTail
from .runner import InlineRunner, ThreadRunner

__all__ = [
    "Storage",
    "StorageOptions",
    "StorageStatistics",
    # disk
    "Disk",
    "FileDisk",
    "InlineRunner",
    "Lane",
    "MemoryDisk",
    "Runner",
    "ThreadRunner",
    # records
    "BatchRecord",
    "CompactPrefix",
    "GroupCreate",
    "GroupDelete",
    "HardState",
    "Record",
    "TruncateSuffix",
    "log_reset",
    # recovery
    "Entry",
    "Fault",
    "NodeHeader",
    "Prefix",
    "Range",
    "Recovered",
    "RecoveredGroup",
    "TornTail",
    # group files
    "FileEntry",
    "GroupFiles",
    "Incoming",
    "Manifest",
    "decode_manifest",
    "encode_manifest",
    "manifest_crc",
    # errors
    "Compacted",
    "DirectoryLocked",
    "DiskFull",
    "FileDamaged",
    "ForeignDirectory",
    "LogDamaged",
    "ManifestDamaged",
    "NewerFormat",
    "NodeHeaderDamaged",
    "NotStored",
    "RecordTooLarge",
    "SegmentGap",
    "StorageError",
    "StorageFailed",
]
