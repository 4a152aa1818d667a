"""The way back from damage that nobody can mend: a group without other replicas gives up what is lost.

What other replicas have is never given up here: a node gets it from them as soon as it runs. But a group
whose only replica is here refuses to serve behind damage, since what was acknowledged there can't be read. A
person may decide, offline, that it shall go on without that. Its log is then cut before the first batch that
can't be read, for a stream's messages are numbered in the order of its log: to leave a batch out would give
all later ones other numbers than they were acknowledged with.

Everything is copied first, and nothing is overwritten: the cut is one more record of the log.
"""

from __future__ import annotations

import os
import secrets
import shutil
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import trio

from ...codec import Kind, walk_batch
from ...storage.actor import Storage
from ...storage.disk import Disk
from ...storage.group_directory import MANIFEST, group_directory
from ...storage.index import Fault
from ...storage.quarantine import QUARANTINE, next_stamp
from ...storage.records import HardState, Record, TruncateSuffix
from ...storage.recovery import LOCK_FILE, RecoveredGroup
from ...storage.runner import InlineRunner
from ...storage.survey import Survey
from ...storage.wal import segment_path
from ..raft.membership import Membership
from .birth import Founding
from .meta_state import META_GROUP


class CannotRepair(Exception):
    """Nothing was changed; the text says why."""


@dataclass(frozen=True, slots=True)
class Step:
    """What is done to one group, and what that loses."""

    group: int
    incarnation: int
    kind: str
    name: str
    cause: str
    """File, offset and indexes of what can't be read."""
    loss: str
    keep: int
    """The last index that stays in its log."""
    last: int
    """The last index that its log has now."""
    term: int
    commit: int
    forget_manifest: bool = False
    """Its manifest can't be read, and its log has all that there ever was."""


@dataclass(slots=True)
class Plan:
    """What `repair` would do."""

    steps: list[Step] = field(default_factory=list)
    beyond: list[str] = field(default_factory=list)
    """What no accepted loss can bring back, and what is left then."""
    mended: list[str] = field(default_factory=list)
    """What mends itself as soon as the node runs."""


def plan_repair(disk: Disk, found: Survey) -> Plan:
    """What would have to be given up. Changes nothing; raises OSError if a part can't be read again."""
    plan = Plan()
    for each in found.groups:
        _plan_group(disk, found, each.found, plan)
    return plan


async def repair(disk: Disk, plan: Plan, directory: Path, copy: Path) -> None:
    """Copy the directory, then carry the plan out; durable on return. Raises CannotRepair, StorageError."""
    lock = disk.lock(LOCK_FILE)
    try:
        _copy(directory, copy)
        for step in plan.steps:
            if step.forget_manifest:
                _set_aside(disk, step)
    finally:
        disk.close(lock)
    storage = await Storage.open(disk, InlineRunner(), name="", draw=lambda: secrets.randbits(64) or 1)
    try:
        here = {group.group: group.last_index for group in storage.recovered.groups.values()}
        if any(here.get(step.group) != step.last for step in plan.steps):
            raise CannotRepair("somebody changed it since the plan was made")
        async with trio.open_nursery() as nursery:
            await nursery.start(storage.run)
            done = trio.Event()
            storage.append([record for step in plan.steps for record in _records(step)], done.set)
            await done.wait()
            nursery.cancel_scope.cancel()
    finally:
        with trio.CancelScope(shield=True):
            await storage.close()


def _records(step: Step) -> list[Record]:
    """The cut, and a term of its own: no later batch bears the name of one that was given up."""
    return [
        TruncateSuffix(step.group, step.incarnation, step.keep + 1),
        HardState(step.group, step.incarnation, step.term, 0, min(step.commit, step.keep), closed=False),
    ]


# --- the plan -----------------------------------------------------------------------------------------------


def _plan_group(disk: Disk, found: Survey, group: RecoveredGroup, plan: Plan) -> None:
    label = f"group {group.group} ({group.kind} {group.name})"
    if group.broken:
        plan.mended.append(f"{label}: files are damaged; it serves all else, and says what is lost")
    faults = _certain_faults(group)
    if not faults and not group.closed and (not group.manifest_damaged or group.released):
        return
    others = _members(disk, found, group) - {found.node.node_id}
    if others:
        names = ", ".join(f"{node:016x}" for node in sorted(others))
        plan.mended.append(f"{label}: other replicas have what is missing here ({names})")
    elif group.manifest_damaged and group.compacted.index:
        before = (
            f"its snapshot up to index {group.compacted.index} can't be read, and the log before it is gone"
        )
        plan.beyond.append(f"{label}: {before}. Restore a backup, or delete it once the node runs")
    else:
        plan.steps.append(_step(disk, found, group, faults))


def _certain_faults(group: RecoveredGroup) -> list[Fault]:
    """What can't be read and no snapshot here covers. What is in doubt a lone replica gives up by itself."""
    snapshot = group.manifest.index if group.manifest is not None else 0
    return [fault for fault in group.faults if fault.index > snapshot and not fault.doubtful]


def _step(disk: Disk, found: Survey, group: RecoveredGroup, faults: list[Fault]) -> Step:
    keep = faults[0].index - 1 if faults else group.last_index
    if faults:
        first, last = faults[0], faults[-1]
        cause = f"{segment_path(first.segment)}, offset {first.offset}: " if first.segment else ""
        cause += f"{len(faults)} of index {first.index} to {last.index} can't be read"
        loss = f"its log is cut behind index {keep}; index {keep + 1} to {group.last_index} are LOST"
        loss += _since(disk, found, group, keep)
    elif group.closed:
        cause, loss = "something of the log that is gone without a name", "what it wrote last may be LOST"
    else:
        cause, loss = "its snapshot, which can't be read", "nothing is lost: its log has all of it"
    return Step(
        group.group,
        group.incarnation,
        group.kind,
        group.name,
        cause,
        loss,
        keep,
        group.last_index,
        1 + max([group.term, *(entry.term for entry in group.entries)]),
        group.commit,
        forget_manifest=group.manifest_damaged,
    )


def _since(disk: Disk, found: Survey, group: RecoveredGroup, index: int) -> str:
    """When the newest batch was written that stays."""
    batch = _read(disk, found, group, index)
    at = walk_batch(batch).header.time if batch is not None else 0
    if batch is None and group.manifest is not None:
        at = group.manifest.time
    when = f"{datetime.fromtimestamp(at / 1e9, UTC):%Y-%m-%d %H:%M:%S} UTC"
    return f", all that was written after {when}" if at else ""


def _members(disk: Disk, found: Survey, group: RecoveredGroup) -> frozenset[int]:
    """Voters and learners by the newest membership that can be read."""
    changes = [entry.index for entry in group.entries if entry.kind == Kind.MEMBERSHIP]
    for index in reversed(changes):
        batch = _read(disk, found, group, index)
        if batch is not None:
            return Membership.decode(walk_batch(batch).entry(0)).members
    if group.manifest is not None:
        return Membership.decode(group.manifest.members).members
    if not group.created:
        raise CannotRepair(f"nothing says who the members of group {group.group} are: restore a backup")
    if group.group == META_GROUP:
        return frozenset(record.node for record in Founding.unpack(group.members).founders)
    return Membership.decode(group.members).members


def _read(disk: Disk, found: Survey, group: RecoveredGroup, index: int) -> bytes | None:
    """A batch of the log; None if it isn't there in readable form."""
    if (group.group, index) in found.tail:
        return found.tail[group.group, index]
    place = found.place(group.group, index)
    if place is None:
        return None
    descriptor = disk.open(segment_path(place.segment))
    try:
        return disk.pread(descriptor, place.length, place.offset)
    finally:
        disk.close(descriptor)


# --- before it is done --------------------------------------------------------------------------------------


def _copy(directory: Path, copy: Path) -> None:
    """All of the directory, durably. Nothing is left of a copy that could not be made."""
    size = sum(each.stat().st_size for each in directory.rglob("*") if each.is_file())
    if copy.exists():
        raise CannotRepair(f"{copy} exists")
    status = os.statvfs(copy.parent)
    if status.f_bavail * status.f_frsize < size:
        raise CannotRepair(f"{copy.parent} has no space for a copy of {size} bytes: choose another place")
    try:
        shutil.copytree(directory, copy)
        for path in (*copy.rglob("*"), copy):
            _sync(path)
    except OSError:
        shutil.rmtree(copy, ignore_errors=True)
        raise


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _set_aside(disk: Disk, step: Step) -> None:
    directory = group_directory(step.group, step.incarnation)
    aside = f"{directory}/{QUARANTINE}"
    disk.mkdir(aside)
    disk.rename(f"{directory}/{MANIFEST}", f"{aside}/{next_stamp(disk.listdir(aside)):08x}-{MANIFEST}")
    disk.sync_directory(aside)
    disk.sync_directory(directory)
