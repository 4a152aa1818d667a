"""What start-up found on the disk."""

from __future__ import annotations

from dataclasses import dataclass, field

from .index import Entries, Prefix, Range
from .manifest import Manifest


@dataclass(frozen=True, slots=True)
class NodeHeader:
    """Who this directory belongs to. `cluster_id` is 0 until the node is a member of a born cluster."""

    node_id: int
    cluster_id: int
    name: str


@dataclass(slots=True)
class RecoveredGroup:
    """A group as the log, the manifest and the files say at start-up."""

    group: int
    incarnation: int
    kind: str
    name: str
    members: bytes
    term: int
    vote: int
    commit: int
    compacted: Prefix
    entries: Entries
    """The log behind `compacted`, readable with `Storage.read_batches`."""
    last_index: int
    faulty: list[Range] = field(default_factory=list)
    """Indexes whose batches are damaged or missing: not absent, they may have been acknowledged."""
    closed: bool = False
    """Term, vote or the group's creation is unreadable: it must not take part under its old identity."""
    manifest: Manifest | None = None
    manifest_damaged: bool = False
    """The manifest on which the compacted log relies is unreadable or missing: a peer must send one."""


@dataclass(frozen=True, slots=True)
class TornTail:
    """The unfinished last write that was cut off; nothing in it was acknowledged."""

    file: str
    offset: int
    records: tuple[tuple[int, int, int], ...]
    """(group, index, term) of its batches, as far as they are readable."""


@dataclass(slots=True)
class Recovered:
    """Everything that start-up found."""

    node: NodeHeader
    groups: dict[int, RecoveredGroup]
    created: bool
    """The directory was empty: this node has just drawn its id."""
    torn: TornTail | None = None
    orphans: tuple[str, ...] = ()
    """Directories of groups that the log doesn't know. They are left alone."""
