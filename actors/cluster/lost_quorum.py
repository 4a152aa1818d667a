"""The way back from a lost majority: one surviving directory is made a cluster of its own (offline).

This breaks a promise on purpose. What a majority acknowledged may be missing here, and nobody can know how
much: the survivor's log ends where it ends. So it is never done by a running node, never by itself, and never
without naming the cluster.

Each group of this node gets one more membership entry, written as a leader of a new term would write it, with
this node as the only voter and everybody else removed for good; the meta group also gets a command that gives
up what is not here. Nothing is overwritten. The next start is an ordinary one: the node elects itself, and
whoever comes back from before is told that it was removed.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import trio

from ...codec import Chunk, EntryType, Kind, make_chunk, seal_batch, walk_batch
from ...storage.actor import Storage
from ...storage.records import BatchRecord, HardState, Record, TruncateSuffix
from ...storage.recovery import RecoveredGroup
from ..raft.membership import Membership
from ..replica.recovered_log import recovered_log
from .birth import Founding
from .meta import MetaMachine
from .meta_commands import command_chunk
from .meta_state import META_GROUP, MetaState

READ_BYTES: Final = 8 << 20


class CannotRecover(Exception):
    """This directory can't be made a cluster of its own; the text says why."""


@dataclass(frozen=True, slots=True)
class Remains:
    """One group as this directory has it."""

    group: int
    kind: str
    name: str
    membership: Membership
    last_index: int
    last_term: int
    last_time: int
    """Of the newest batch here, ns since 1970; 0: there is none."""
    intact: bool
    """Whether all that this directory should have of it is readable."""
    wanted: bool
    """Whether it is one of the replicas that the cluster counted on (else an older one, left aside)."""


@dataclass(frozen=True, slots=True)
class Survey:
    """What would be kept, and what would be given up."""

    node: int
    name: str
    cluster: int
    state: MetaState
    """What the cluster should be, as far as this node's own log knows."""
    remains: tuple[Remains, ...]
    """The meta group first."""

    @property
    def given_up(self) -> list[str]:
        """Streams and groups of which this directory has no replica at all."""
        here = {each.group for each in self.remains if each.wanted}
        return sorted(each.name for each in self.state.groups.values() if each.group not in here)

    @property
    def lost_nodes(self) -> list[str]:
        """Names of the members that would be removed."""
        return sorted(record.name for record in self.state.nodes.values() if record.node != self.node)


async def survey(storage: Storage) -> Survey:
    """Read what a directory has. Changes nothing that counts. Raises CannotRecover, or StorageError."""
    recovered = storage.recovered
    meta = recovered.groups.get(META_GROUP)
    if meta is None or not recovered.node.cluster_id:
        raise CannotRecover("this node never belonged to a cluster")
    if not _is_intact(meta):
        raise CannotRecover("its meta group is damaged: choose another surviving directory")
    state = await _meta_state(storage, meta)
    me = recovered.node.node_id
    remains = [await _remains(storage, group, state, me) for group in recovered.groups.values()]
    remains.sort(key=lambda each: each.group)
    return Survey(me, recovered.node.name, recovered.node.cluster_id, state, tuple(remains))


async def recover(storage: Storage, found: Survey) -> None:
    """Make this directory's node the only member of every group that it has whole. Durable on return."""
    for each in found.remains:
        if each.intact and each.wanted:
            group = storage.recovered.groups[each.group]
            storage.append(_records(group, each, found))
    done = trio.Event()
    storage.append([], done.set)
    await done.wait()


def _records(group: RecoveredGroup, remains: Remains, found: Survey) -> list[Record]:
    me, before = found.node, remains.membership
    removed = before.removed | (before.members - {me}) | {node for node in found.state.nodes if node != me}
    alone = Membership(frozenset((me,)), frozenset(), frozenset(removed))
    entries = [(Kind.MEMBERSHIP, make_chunk([(EntryType.OPAQUE, alone.encode())]))]
    if group.group == META_GROUP:
        entries.append((Kind.NORMAL, command_chunk({"op": "recover", "node": me})))
    term = max(group.term, remains.last_term) + 1
    records: list[Record] = []
    if any(fault.doubtful for fault in group.faults):
        records.append(TruncateSuffix(group.group, group.incarnation, remains.last_index + 1))
    records += recovered_log(group).records
    records.append(HardState(group.group, group.incarnation, term, me, group.commit))
    records += (BatchRecord(batch) for batch in _sealed(group, remains, term, entries))
    return records


def _sealed(
    group: RecoveredGroup, remains: Remains, term: int, entries: Iterable[tuple[Kind, Chunk]]
) -> list[bytes]:
    """The entries as batches that follow the log's last one."""
    batches: list[bytes] = []
    previous = remains.last_term
    for index, (kind, chunk) in enumerate(entries, remains.last_index + 1):
        batch = seal_batch(
            [chunk],
            kind=kind,
            group=group.group,
            incarnation=group.incarnation,
            index=index,
            term=term,
            previous_term=previous,
            time=max(remains.last_time, time.time_ns()),
        )
        batches.append(batch)
        previous = term
    return batches


def _is_intact(group: RecoveredGroup) -> bool:
    certain = [fault for fault in group.faults if not fault.doubtful]
    return not certain and not group.closed and not group.manifest_damaged and not group.broken


def _last_index(group: RecoveredGroup) -> int:
    """A doubtful tail counts as absent here: who could tell is lost."""
    log = recovered_log(group)
    start, (last, _) = log.compacted[0], log.last
    return min([last, *(fault.index - 1 for fault in group.faults if fault.doubtful and fault.index > start)])


async def _remains(storage: Storage, group: RecoveredGroup, state: MetaState, me: int) -> Remains:
    intact, last = _is_intact(group), _last_index(group)
    assignment = state.groups.get(group.group)
    wanted = group.group == META_GROUP or (
        assignment is not None
        and assignment.incarnation == group.incarnation
        and me in (*assignment.replicas, *assignment.settled)
    )
    (start, term), manifest = recovered_log(group).compacted, group.manifest
    at = manifest.time if manifest is not None else 0
    if intact and last > start:
        [batch] = await storage.read_batches(group.group, last, last, READ_BYTES)
        header = walk_batch(batch).header
        term, at = header.term, header.time
    membership = await _membership(storage, group, last) if intact else Membership(frozenset())
    return Remains(group.group, group.kind, group.name, membership, last, term, at, intact, wanted)


async def _membership(storage: Storage, group: RecoveredGroup, last: int) -> Membership:
    """The newest in the log, committed or not."""
    newest = max(
        (entry.index for entry in group.entries if entry.kind == Kind.MEMBERSHIP and entry.index <= last),
        default=0,
    )
    manifest = group.manifest
    if newest and (manifest is None or newest > manifest.index):
        [batch] = await storage.read_batches(group.group, newest, newest, READ_BYTES)
        return Membership.decode(walk_batch(batch).entry(0))
    if manifest is not None:
        return Membership.decode(manifest.members)
    if group.group == META_GROUP:
        return Membership.of(record.node for record in Founding.unpack(group.members).founders)
    return Membership.decode(group.members)


async def _meta_state(storage: Storage, meta: RecoveredGroup) -> MetaState:
    """Desired state after everything that is in this log: it is what the node will apply once it leads."""
    machine = MetaMachine(Founding.unpack(meta.members).founders, lambda: None)
    applied = 0
    if meta.manifest is not None:
        await machine.restore(meta.manifest.state, meta.manifest.files)
        applied = meta.manifest.index
    last = _last_index(meta)
    while applied < last:
        for batch in await storage.read_batches(META_GROUP, applied + 1, last, READ_BYTES):
            entries = walk_batch(batch)
            if entries.header.kind == Kind.NORMAL:
                machine.apply(entries)
            applied = entries.header.index
    return machine.state
