"""Start-up: what the directory holds, decided and never guessed (plain blocking code over a disk).

It vouches only for what is on the disk, so it drops cached pages before it reads. What the last readable
write says may never have been synced, so that write is copied into a new segment which is synced before
anyone hears of it; nothing is ever written behind an old tail.

A write that can't be read whole is one of two things. If a later write exists, its sync had ended (one
sync is in flight at a time): what it lacks is *damage*, its records are faulty. If it is the last, it is a
*torn tail*. Most likely it was never acknowledged, since at rest a mark follows the last acknowledged write;
but it may have been, in the moment before that mark, and be damaged since. So nothing that it names is
denied: what is readable in it is kept, and a batch that is not becomes a *doubtful* entry, about which the
group decides with its peers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final

from ..codec import Buffer
from .disk import NO_SPACE, Disk
from .errors import DiskFull, ForeignDirectory, NodeHeaderDamaged, SegmentGap
from .group_directory import FoundFiles, group_directory, recover_files
from .index import Entries, EntryTable, Fault, GroupLog, LogIndex, Prefix, Range
from .manifest import Manifest
from .node import NODE_FILE, NodeHeader, make_durable, read_file, read_node_header, write_node_header
from .quarantine import GROUPS
from .replay import Replay, TornTail
from .segment import (
    BATCH,
    DATA_START,
    FRAME_SIZE,
    SECTOR,
    Item,
    SegmentHeader,
    SegmentScan,
    Vouch,
    build_write,
    decode_segment_header,
    write_size,
)
from .wal import (
    RECYCLED,
    WAL,
    LogWriter,
    Segment,
    prepare_segment,
    read_segment_header,
    segment_numbers,
    segment_path,
    shrink_reserve,
    take_over_segment,
    use_reserve,
)

LOCK_FILE: Final = "LOCK"
FIRST_SEGMENT_BYTES: Final = 4 << 20
"""Size of the segment that start-up makes: small, so that the node is ready soon; the next one is full."""


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
    """The log behind `compacted`, readable with `Storage.read_batches`. It follows the log as it grows."""
    last_index: int
    """The last index of the log, or `compacted.index` if it is empty."""
    faulty: list[Range] = field(default_factory=list)
    """Indexes whose batches are damaged or missing: not absent, they may have been acknowledged."""
    faults: list[Fault] = field(default_factory=list)
    """The same, one by one, with what is known of each."""
    closed: bool = False
    """Something of the log is lost that nobody can name: term, vote and entries may be less than was
    promised. It must not take part before the others have taken it in again."""
    created: bool = True
    """Whether the group's creation is readable; if not, kind, name and members are empty."""
    manifest: Manifest | None = None
    manifest_damaged: bool = False
    """The manifest on which the compacted log relies is unreadable or missing."""
    broken: tuple[str, ...] = ()
    """Files that the manifest names and that are missing or too short."""
    released: bool = False
    """Not damaged: the log was compacted without a manifest, since this copy was given up."""


@dataclass(slots=True)
class Recovered:
    """Everything that start-up found."""

    node: NodeHeader
    groups: dict[int, RecoveredGroup]
    created: bool
    """The directory was empty: this node has just drawn its id."""
    torn: TornTail | None = None
    losses: tuple[str, ...] = ()
    """Where something of the log is missing that nobody can name: it closed the groups of that time."""
    orphans: tuple[str, ...] = ()
    """Directories of groups that the log doesn't know. They are left alone."""


@dataclass(slots=True)
class Opened:
    """What recovery hands to the actor, besides `Recovered`."""

    lock: int
    recovered: Recovered
    index: LogIndex
    writer: LogWriter
    sizes: dict[int, int]
    """Bytes of every segment that is there."""
    oldest: int
    """The oldest segment needed, as the log's last trailer says it."""
    untabled: dict[int, int]
    """Closed segments that were read although they need not be next time: the last sequence that counts in
    each."""
    unread: list[int]
    """Closed segments for which their table of contents stood in."""
    files: dict[int, FoundFiles]


def recover(disk: Disk, *, name: str, draw: Callable[[], int], segment_bytes: int) -> Opened:
    """Locks and opens a data directory, or makes a new node in an empty one.

    Raises DirectoryLocked, ForeignDirectory, NewerFormat, NodeHeaderDamaged, SegmentGap, DiskFull or
    LogDamaged (only for a segment whose whole header is unreadable), and OSError if the disk refuses.
    """
    lock = disk.lock(LOCK_FILE)
    try:
        return _recover(disk, lock, name, draw, segment_bytes)
    except OSError as error:
        disk.close(lock)
        if error.errno in NO_SPACE:
            raise DiskFull("no space for the segment in which the log would go on") from error
        raise
    except BaseException:
        disk.close(lock)
        raise


def _recover(disk: Disk, lock: int, name: str, draw: Callable[[], int], segment_bytes: int) -> Opened:
    header = read_node_header(disk)
    created = header is None
    if header is None:
        header = _create(disk, name, draw)
    else:
        make_durable(disk, NODE_FILE, "")
    return _open(disk, lock, header, draw, segment_bytes, created=created)


def _create(disk: Disk, name: str, draw: Callable[[], int]) -> NodeHeader:
    """Makes a node. Its header comes last, so a directory with a header always has a segment."""
    for directory in (WAL, GROUPS):
        disk.mkdir(directory)
    disk.sync_directory("")
    if disk.listdir(GROUPS) or any(_has_writes(disk, number) for number in segment_numbers(disk)):
        raise NodeHeaderDamaged("there is a log or a group, but the file that says whose they are is missing")
    header = NodeHeader(_draw_id(draw), 0, name)
    segment = SegmentHeader(1, header.node_id, 0, draw(), DATA_START)
    disk.close(prepare_segment(disk, segment, recycle=False).descriptor)
    write_node_header(disk, header)
    return header


def _draw_id(draw: Callable[[], int]) -> int:
    while not (number := draw()):
        pass  # 0 means "nobody"
    return number


def _has_writes(disk: Disk, number: int) -> bool:
    data = read_file(disk, segment_path(number))
    header = decode_segment_header(data[:DATA_START], segment_path(number))
    return next(SegmentScan(data, header).writes(), None) is not None


def _open(
    disk: Disk, lock: int, node: NodeHeader, draw: Callable[[], int], segment_bytes: int, *, created: bool
) -> Opened:
    numbers = segment_numbers(disk)
    headers = [read_own_header(disk, number, node) for number in numbers]
    replay = Replay(disk, headers)
    replay.run()
    check_gaps(numbers, replay.vouch)
    writer, sizes, oldest = _start_segment(disk, node, replay, draw, segment_bytes)
    index = replay.index
    files = {
        log.group: recover_files(disk, group_directory(log.group, log.incarnation))
        for log in index.groups.values()
    }
    known = {group_directory(log.group, log.incarnation) for log in index.groups.values()}
    orphans = tuple(name for name in disk.listdir(GROUPS) if f"{GROUPS}/{name}" not in known)
    groups = {group: describe(log, files[group]) for group, log in index.groups.items()}
    recovered = Recovered(node, groups, created, replay.torn, tuple(map(str, replay.losses)), orphans)
    return Opened(lock, recovered, index, writer, sizes, oldest, replay.untabled, replay.unread, files)


def read_own_header(disk: Disk, number: int, node: NodeHeader) -> SegmentHeader:
    """The header of a segment of this node; ForeignDirectory, NewerFormat or LogDamaged if it is none."""
    path = segment_path(number)
    header = read_segment_header(disk, number)
    if header.node_id != node.node_id or header.cluster_id not in (0, node.cluster_id):
        raise ForeignDirectory(
            f"{path} belongs to node {header.node_id:016x} of cluster {header.cluster_id:016x}, "
            f"this directory to node {node.node_id:016x} of cluster {node.cluster_id:016x}"
        )
    if header.number != number:
        raise ForeignDirectory(f"{path} has the header of segment {header.number}")
    return header


def check_gaps(numbers: list[int], vouch: Vouch | None) -> None:
    """The last trailer says which segments must exist; SegmentGap if one between them is missing."""
    if not numbers:
        raise SegmentGap(f"{WAL}: no segment at all")
    oldest = min(numbers[0], vouch.oldest) if vouch is not None else numbers[0]
    newest = max(numbers[-1], vouch.newest) if vouch is not None else numbers[-1]
    if (missing := sorted(set(range(oldest, newest + 1)) - set(numbers))) != []:
        raise SegmentGap(f"{segment_path(missing[0])} is missing")


def _start_segment(
    disk: Disk, node: NodeHeader, replay: Replay, draw: Callable[[], int], segment_bytes: int
) -> tuple[LogWriter, dict[int, int], int]:
    """Makes the segment in which the log goes on; its first write is the copy of the doubtful one."""
    numbers = segment_numbers(disk)
    number = replay.segment + 1
    if numbers[-1] > number:
        number = numbers[-1] + 1
    elif numbers[-1] == number:
        _keep_for_recycling(disk, number, segment_bytes)
    live = [segment for segment, use in replay.index.uses.items() if use.groups]
    vouch = Vouch(replay.sequence, min([*live, number]), number)
    sequence = replay.sequence + 1
    needed = DATA_START + write_size(len(replay.tail), sum(len(item.body) for item in replay.tail)) + SECTOR
    header = SegmentHeader(
        number,
        node.node_id,
        node.cluster_id,
        draw(),
        max(min(segment_bytes, FIRST_SEGMENT_BYTES), needed),
        resumes=True,
        resumes_after=replay.counted,
    )
    buffers, total, chain = build_write(replay.tail, header, sequence, header.seed, vouch)
    segment = _prepare(disk, header, buffers)
    if segment is None:
        segment = _prepare_without_space(disk, header, buffers, segment_bytes, needed, numbers[-1])
    position = DATA_START
    for item in replay.tail:
        apply_item(replay.index, item, number, position + FRAME_SIZE)
        position += FRAME_SIZE + len(item.body)
    sizes = {other: _size(disk, segment_path(other)) for other in segment_numbers(disk)}
    return LogWriter(segment, DATA_START + total, sequence, chain), sizes, vouch.oldest


def _prepare(disk: Disk, header: SegmentHeader, first_write: list[Buffer]) -> Segment | None:
    """The new segment with its first write; None if there is no space for it."""
    try:
        return prepare_segment(disk, header, first_write, recycle=False)
    except OSError as error:
        if error.errno not in NO_SPACE:
            raise
        return None


def _prepare_without_space(
    disk: Disk, header: SegmentHeader, first_write: list[Buffer], segment_bytes: int, needed: int, newest: int
) -> Segment:
    """The new segment on a full disk, on which a node must start all the same, time and again.

    It gets a part of the reserve, or all of it, or the segment that waits for its use (the `newest` one, if
    it has this number), or the few bytes that are `needed`.
    """
    if shrink_reserve(disk, header.size, segment_bytes):
        segment = _prepare(disk, header, first_write)
        if segment is not None:
            return segment
    segment = use_reserve(disk, header, first_write)
    if segment is not None:
        return segment
    if newest == header.number:
        size = max(needed, _size(disk, segment_path(header.number)))
        return take_over_segment(disk, replace(header, size=size), first_write)
    return prepare_segment(disk, replace(header, size=needed), first_write, recycle=False)


def _keep_for_recycling(disk: Disk, number: int, segment_bytes: int) -> None:
    """The segment that was ready for use has no write: its name is needed, its zeros are worth keeping."""
    if _size(disk, segment_path(number)) != segment_bytes or disk.exists(RECYCLED):
        return
    disk.link(segment_path(number), RECYCLED)


def _size(disk: Disk, path: str) -> int:
    descriptor = disk.open(path)
    try:
        return disk.size(descriptor)
    finally:
        disk.close(descriptor)


def describe(log: GroupLog, files: FoundFiles) -> RecoveredGroup:
    """A group out of what its log and its directory hold."""
    manifest, prefix = files.manifest, log.prefix
    damaged = files.damaged
    released = manifest is None and not damaged and prefix.index > 0 and prefix.manifest_crc == 0
    if manifest is None:
        damaged = damaged or prefix.index > 0
    elif (manifest.group, manifest.incarnation) != (log.group, log.incarnation):
        damaged = True
    elif manifest.index <= prefix.index:
        # The log relies on exactly this manifest; an older one would lose what was compacted since.
        damaged = damaged or manifest.index < prefix.index or prefix.manifest_crc not in (0, files.crc)
    return RecoveredGroup(
        group=log.group,
        incarnation=log.incarnation,
        kind=log.kind,
        name=log.name,
        members=log.members,
        term=log.term,
        vote=log.vote,
        commit=log.commit,
        compacted=prefix,
        entries=EntryTable(log),
        last_index=log.last if log.terms else prefix.index,
        faulty=log.faulty(),
        faults=log.faults(),
        closed=log.closed,
        created=log.created,
        manifest=None if damaged else manifest,
        manifest_damaged=damaged,
        broken=() if damaged else files.broken,
        released=released,
    )


def apply_item(index: LogIndex, item: Item, segment: int, offset: int) -> None:
    """Takes a record that was just written (its body at `offset`) into the index."""
    if item.kind == BATCH and not item.flags and index.extend(item, segment, offset):
        return
    index.apply(
        item.kind,
        item.flags,
        item.group,
        item.incarnation,
        item.index,
        item.term,
        segment=segment,
        offset=offset,
        length=len(item.body),
        body=item.body,
        batch_kind=item.body[3] if item.kind == BATCH and item.body else 0,
        crc=item.crc,
    )
