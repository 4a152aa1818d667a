"""One simulated process: the rules of a replica, its log on its disk, its state machine, and nothing else.

It does what `group.py`, `applier.py`, `snapshots.py` and `repair.py` in `actors/replica/` do around the
rules, but as events on a heap. Every event belongs to one life of the process and dies with it.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from functools import partial
from random import Random
from typing import TYPE_CHECKING, Any

from ..actors.peers.liveness import Liveness
from ..actors.raft import effects as asks
from ..actors.raft import follower, messages, roles
from ..actors.raft.effects import Effect
from ..actors.raft.events import BatchApplied, events_of, replica_of, started
from ..actors.raft.log import EntryId
from ..actors.raft.membership import Membership
from ..actors.raft.messages import Message, Now, PeerMessage
from ..actors.raft.outcomes import Applied, NotApplied, Outcome, Reason, Unknown
from ..actors.raft.state import NEVER, GroupState, Role
from ..actors.replica.recovered_log import LogEntry, recovered_log
from ..actors.replica.repair import Verdict, is_copy, verdict_on
from ..actors.replica.user_machine import StateMachine, UserMachine
from ..codec import BatchHeader, Kind, crc32c, read_header, walk_batch
from ..storage import Manifest, MemoryDisk, StorageFailed, encode_manifest, manifest_crc
from ..storage.index import Fault, GroupLog
from ..storage.records import BatchRecord, CompactPrefix, GroupCreate, HardState, Record, TruncateSuffix
from ..storage.recovery import Opened, RecoveredGroup, recover
from ..storage.segment import BATCH, COMPACT, REPAIR, TRUNCATE
from .checks import Synced, require
from .checks import holds as holds_entry
from .heap import Action
from .reached import Reached
from .stable_log import StableLog, finish
from .step_checks import StepChecks

if TYPE_CHECKING:
    from .cluster import Cluster

Done = Callable[[Outcome], None]

GROUP, INCARNATION = 2, 77
KIND = "simulated"
START = 1_700_000_000 * 10**9
"""Wall clock (ns) at virtual time 0."""
RETRY = 0.05
"""Seconds after which something that could not be done is tried again."""
READ_BYTES = 1 << 16
COPY_TAKES = 0.2
"""Seconds (at most) that a copy of a damaged batch is on its way."""


class PowerCut(Exception):
    """The process ends inside an operation on its files. No code may stop this, nor write afterwards."""


class Process:
    """One node. `state` is None while it is down.

    Args:
        node: its id.
        disk: outlives the process.
        birth: the members of a new group.
    """

    def __init__(self, cluster: Cluster, node: int, disk: MemoryDisk, birth: Membership) -> None:
        self.cluster = cluster
        self.id = node
        self.disk = disk
        self.birth = birth
        self.state: GroupState | None = None
        self.life = 0
        """Counts starts."""
        self.applied = 0
        self.doomed = 0
        """The life that is about to end."""
        self.paused_until = 0.0
        self.stalled_until = 0.0
        """Until then no sync ends."""
        self.held_until = 0.0
        """When the last sync ends that has begun, and the last pause."""
        self.heard: dict[int, float] = {}
        """When a message of each peer came last."""
        self.leads_since = 0.0
        self.members_since = 0.0
        """When the members in effect changed."""
        self.rests_since = 0.0
        self.rested_until = 0.0
        """When it woke up last: it then trusts its followers for the time of one quorum check."""
        self.cut_in: int | None = None
        """The power goes before this many more operations on files."""
        self.bad: set[EntryId] = set()
        """Batches of which the disk has lost or changed bytes, whether the process knows it or not."""
        self._draw = cluster.streams.split(("node", node)).stream("process")
        self.skew = self._draw.randrange(-(10**9), 10**9)
        """Of the wall clock (ns)."""
        self._before: Synced | None = None

    @property
    def up(self) -> bool:
        return self.state is not None

    @property
    def leads(self) -> bool:
        """As far as it knows."""
        return self.state is not None and self.state.role is Role.LEADER

    # --- life -----------------------------------------------------------------------------------------------

    def start(self) -> bool:
        """Recover and run. False if the power went meanwhile."""
        self.life += 1
        disk, cluster = self.disk, self.cluster
        draw = Random(self._draw.getrandbits(64))
        disk.before = self._before_operation
        try:
            opened = recover(
                disk,
                name=f"n{self.id}",
                draw=lambda: draw.getrandbits(64),
                segment_bytes=cluster.segment_bytes,
            )
            self.log = self._open_log(opened, draw)
            if not opened.recovered.groups:
                require(self._before is None, "recovery", self.id, "found no group any more")
                self._create()
        except PowerCut:
            self._lose_power()
            return False
        found = opened.recovered.groups.get(GROUP)
        losses = opened.recovered.losses
        require(not losses, "recovery", self.id, "gave up", losses)
        try:
            self._begin(found, draw)
        except PowerCut:
            self.state = None
            self._lose_power()
            return False
        return True

    def _open_log(self, opened: Opened, draw: Random) -> StableLog:
        return StableLog(
            self.disk,
            opened,
            segment_bytes=self.cluster.segment_bytes,
            draw=draw,
            sync_time=self._sync_time,
            later=self.later,
            on_batch=self._on_batch,
            on_failure=self._on_disk_failure,
        )

    def _create(self) -> None:
        """The group's record, synced before anything else happens."""
        record = GroupCreate(GROUP, INCARNATION, KIND, "group", self.birth.encode())
        self.log.write_at_once([record])

    def _begin(self, found: RecoveredGroup | None, draw: Random) -> None:
        cluster = self.cluster
        self.machine = UserMachine(KIND, cluster.make_machine())
        self.manifest: Manifest | None = None
        self.manifest_crc = 0
        self.hash = self.applied = self.applied_term = self.applied_time = 0
        self._waiting: dict[int, Done] = {}
        self._sealed: dict[int, tuple[tuple[int, int, int], ...]] = {}
        self._reading: list[tuple[int, int]] = []
        self._untold = set[int]()
        self._overdue: list[messages.Fetched] = []
        self._step_checks = StepChecks(cluster.check_belief)
        self._reached = Reached(cluster.reached)
        self._applying = self._healing = False
        self._armed = NEVER
        self._excused_since: float | None = None
        self._grown = 0
        self.paused_until = 0.0
        log, before = self.log.log(GROUP), self._before
        cluster.checks.check_recovery(self.id, log, before)
        unsound = [place for place in self.log.unsound(GROUP) if place not in self.bad]
        require(not unsound, "recovery", self.id, "takes for sound", unsound)
        self.state = self._recovered_state(found, draw)
        cluster.checks.check_recovered(self.state, log, before)
        cluster.checks.check_members(self.state)
        cluster.checks.checker(started(self.state))
        self.liveness = Liveness(cluster.options.election_max)
        if self.manifest is not None:
            self._restore(self.manifest)
        self._stay_alive()
        self._arm()
        self._apply_soon()
        if self.state.faulty:
            self._heal_soon()

    def _recovered_state(self, found: RecoveredGroup | None, draw: Random) -> GroupState:
        """What `groups.py` makes of a recovered group."""
        log = self.log.log(GROUP)
        randomness = Random(draw.getrandbits(64))
        common: dict[str, Any] = {
            "group": GROUP,
            "incarnation": INCARNATION,
            "node": self.id,
            "options": self.cluster.options,
            "randomness": randomness,
            "now": self.now(),
        }
        if found is None:
            return GroupState.recovered(**common, settled=self.birth)
        require(not found.closed, "recovery", self.id, "closed the group")
        require(not found.manifest_damaged, "recovery", self.id, "lost its manifest")
        manifest = self.manifest = found.manifest
        if manifest is not None:
            self.manifest_crc = manifest_crc(encode_manifest(manifest))
        index = manifest.index if manifest is not None else 0
        recovered = recovered_log(found)
        require(not recovered.forgetful, "recovery", self.id, "has entries without names")
        self._reached.recovered(found, bool(recovered.records))
        if recovered.records:
            self.log.write_at_once(recovered.records)
        changes = [
            (each, members)
            for each, _, kind, _ in recovered.entries
            if kind == Kind.MEMBERSHIP and each > index
            if (members := self._members_at(each)) is not None
        ]
        return GroupState.recovered(
            **common,
            settled=Membership.decode(manifest.members) if manifest is not None else self.birth,
            changes=changes,
            term=found.term,
            vote=found.vote,
            compacted=recovered.compacted,
            entries=recovered.entries,
            commit=max(found.commit, index),
            last_time=self._last_time(found, recovered.entries),
            holes=[fault.index for fault in log.faults()],
        )

    def _members_at(self, index: int) -> Membership | None:
        batches, _ = self.log.read(GROUP, index, index, 1)
        return Membership.decode(walk_batch(batches[0]).entry(0)) if batches else None

    def _last_time(self, found: RecoveredGroup, entries: Sequence[LogEntry]) -> int:
        time = found.manifest.time if found.manifest is not None else 0
        for index, *_ in reversed(entries):
            batches, _ = self.log.read(GROUP, index, index, 1)
            if batches:
                return max(time, read_header(batches[0]).time)
        return time

    def _restore(self, manifest: Manifest) -> None:
        finish(self.machine.restore(manifest.state, ()))
        self.hash, self.applied = manifest.rolling_hash, manifest.index
        self.applied_term, self.applied_time = manifest.term, manifest.time
        self.cluster.checks.check_state(self.id, manifest.index, self.machine.capture().state)

    def crash(self, *, power: bool) -> None:
        """The process is gone at once. With `power` the kernel is too, and what it had not written."""
        state = self.state
        if state is None:
            return
        self._remember(state)
        self.state = None
        waiting, self._waiting = self._waiting, {}
        for done in waiting.values():
            done(Unknown(Reason.LINK_LOST))
        if power:
            self._lose_power()
        else:
            self.disk.kill()

    def _before_operation(self, operation: str, path: str) -> None:
        """Before anything changes on the disk."""
        if self.cut_in is not None:
            self.cut_in -= 1
            if self.cut_in < 0:
                raise PowerCut
        matters = self.up and operation == "sync" and path.endswith((".wal", "manifest.tmp"))
        if matters and self.cluster.sync_fails(self):
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)

    def _sync_time(self) -> float:
        time = self.cluster.heap.time
        takes = max(0.0, self.stalled_until - time) + self._draw.expovariate(1 / self.cluster.mix.disk.sync)
        self.held_until = max(self.held_until, time + takes)
        return takes

    def _lose_power(self) -> None:
        self.cut_in = None
        faults = self.cluster.mix.disk
        draw = self._draw
        self.disk.crash(draw, whole=draw.random() >= faults.tear, garbage=faults.garbage)

    def _remember(self, state: GroupState) -> None:
        """What the next life must find."""
        log = self.log.log(GROUP)
        uncut = log.last
        for item in self.log.unsynced():
            if item.kind == TRUNCATE:
                uncut = min(uncut, item.index - 1)
            elif item.kind == COMPACT and _contradicts(log, EntryId(item.index, item.term)):
                uncut = 0  # a snapshot takes the place of the whole log
        prefix = EntryId(log.prefix.index, log.prefix.term)
        self._before = Synced(log.term, log.vote, prefix, log.first, tuple(log.terms), uncut)

    def later(self, delay: float, action: Action, *arguments: Any) -> None:
        """Do it in this life, if it lasts; after a pause if one is on."""
        self.cluster.heap.after(delay, self._in_life, self.life, action, arguments)

    def _in_life(self, life: int, action: Action, arguments: tuple[Any, ...]) -> None:
        if self.life != life or self.state is None:
            return
        if self.paused_until > self.cluster.heap.time:
            self.cluster.heap.at(self.paused_until, self._in_life, life, action, arguments)
            return
        try:
            action(*arguments)
        except PowerCut:
            self.cluster.power_cut(self)

    def pause(self, seconds: float) -> None:
        self.paused_until = self.cluster.heap.time + seconds
        self.held_until = max(self.held_until, self.paused_until)

    def now(self) -> Now:
        time = self.cluster.heap.time
        return Now(time, START + self.skew + int(time * 1e9))

    # --- the rules ------------------------------------------------------------------------------------------

    def receive(self, message: Message) -> None:
        """Something arrives from outside. It waits while the process is paused."""
        if self.paused_until > self.cluster.heap.time:
            self.later(0.0, self.step, message)
        else:
            self.step(message)

    def step(self, message: Message) -> None:
        state = self.state
        if state is None:
            return
        role, term, members, commit = state.role, state.term, state.membership, state.commit
        quiet = state.quiet
        mending, now = bool(state.mending), self.now()
        self._reached.before(state, message, now)
        self._step_checks.before(state, message, now)
        effects = roles.step(state, message, now)
        self._step_checks.after(state, message, effects, now)
        self._reached.after(state, message)
        checks = self.cluster.checks
        for event in events_of(state, message, effects):
            checks.checker(event)
        checks.check_step(state)
        if mending:
            checks.check_damage(state, self.log.log(GROUP), self._being_written())
        if members is not state.membership:
            self.members_since = now.monotonic
        if quiet and not state.quiet:
            self.rested_until = now.monotonic
        try:
            for effect in effects:
                if isinstance(effect, asks.Commit) and role is Role.LEADER and state.term == term:
                    self._check_durable(state, commit, members)
                self._carry_out(effect)
        except PowerCut:
            self.cluster.power_cut(self)
            return
        if members is not state.membership or any(map(_truncates, effects)):
            checks.check_members(state)
        if self.state is state:
            self._arm()
            if state.term > term:
                self.cluster.term_changed(self)

    def _check_durable(self, state: GroupState, before: int, members: Membership) -> None:
        """A leader has committed what lies behind the index `before`."""
        for index in range(max(before, state.log.compacted.index) + 1, state.commit + 1):
            self.cluster.check_durable(EntryId(index, state.log.term_at(index) or 0), members)

    def _being_written(self) -> set[int]:
        """Indexes at which the log will have another batch, or none, once all is synced; and those about
        which the rules are about to be told."""
        log, found = self.log.log(GROUP), set(self._untold)
        for item in self.log.unsynced():
            if item.kind == TRUNCATE:
                found.update(range(item.index, log.last + 1))
            elif item.kind == COMPACT:
                found.update(range(log.first, item.index + 1))
            elif item.kind == BATCH and not item.flags & REPAIR:
                found.add(item.index)
        return found

    def holds(self, entry: EntryId) -> bool:
        """Whether this node's disk has a batch, up or down: as far as it knows, or but for flipped bits."""
        log = self.log.log(GROUP)
        readable = entry.index <= log.prefix.index or self.log.index.place(GROUP, entry.index) is not None
        return holds_entry(log, entry) and (readable or entry in self.bad)

    def _arm(self) -> None:
        assert self.state is not None
        deadline = self.state.deadline
        if deadline == self._armed:
            return
        self._armed = deadline
        if deadline != NEVER:
            self.later(max(0.0, deadline - self.cluster.heap.time), self._ring, deadline)

    def _ring(self, deadline: float) -> None:
        if self._armed == deadline:
            self._armed = NEVER
            self.step(messages.Tick(late=self._is_excused(deadline)))

    def _is_excused(self, deadline: float) -> bool:
        """As in `actors/replica/group.py`: a tick comes late because this process stood still."""
        assert self.state is not None
        heard = self.state.leader_contact
        late = self.cluster.heap.time - deadline > self.state.options.heartbeat
        excused = late and self._excused_since != heard
        self._excused_since = heard if excused else None
        return excused

    def _carry_out(self, effect: Effect) -> None:
        match effect:
            case asks.Persist():
                self._persist(effect)
            case asks.Send(peer, message):
                self._send(peer, message)
            case asks.Commit():
                self._apply_soon()
            case asks.Readable():
                self._apply_soon()
                self._heal_soon()
            case asks.Sealed(index, _, tokens):
                self._sealed[index] = tokens
            case asks.Resolve(token, outcome):
                self._reached.resolved(outcome)
                self._resolve(token, outcome)
            case asks.ReadReady(token, index):
                self._resolve(token, Applied(index))
            case asks.Fetch():
                for overdue in self._overdue:  # a disk that stood still answers in turn
                    self.later(0.0, self._answer_late, overdue)
                self.later(self._sync_time(), self._fetch, effect)
            case asks.SendSnapshot(peer):
                self._send_snapshot(peer)
            case asks.Dropped():
                require(False, "codec", self.id, "dropped a message", effect)
            case asks.RoleChanged(role, term, leader):
                self.cluster.trace("role", self.id, role.value, term, leader)
                if role is Role.LEADER:
                    self.leads_since = self.cluster.heap.time
                    self.cluster.took_office(self)

    def _send(self, peer: int, message: PeerMessage) -> None:
        self.cluster.checks.check_promise(self.id, self.log.log(GROUP), peer, message)
        if isinstance(message, messages.TimeoutNow) and self.state is not None:
            self.cluster.check_handover(self.state, peer)
        self.cluster.weather.send(self.id, peer, message)

    # --- clients --------------------------------------------------------------------------------------------

    def ask(self, token: int, message: Message, done: Done) -> None:
        """Something of a client's, with its token in it. `done` is called exactly once."""
        if self.state is None:
            done(NotApplied(Reason.NO_LEADER))
            return
        self._waiting[token] = done
        self.receive(message)

    def _resolve(self, token: int, outcome: Outcome) -> None:
        done = self._waiting.pop(token, None)
        if done is not None:
            done(outcome)

    @property
    def waiting(self) -> int:
        """How many proposals and reads wait here for their ends."""
        return len(self._waiting)

    def read_at(self, index: int, then: Callable[[StateMachine], None]) -> None:
        """Show the machine as soon as it has applied `index`."""
        if self.applied >= index:
            then(self.machine.machine)
        else:
            self.later(0.002, self.read_at, index, then)

    # --- the log --------------------------------------------------------------------------------------------

    def _persist(self, persist: asks.Persist) -> None:
        records: list[Record] = []
        if persist.truncate_from is not None:
            records.append(TruncateSuffix(GROUP, INCARNATION, persist.truncate_from))
        if persist.compact is not None:
            at = persist.compact
            records.append(CompactPrefix(GROUP, INCARNATION, at.index, at.term, self.manifest_crc))
        for batch in persist.batches:
            header = read_header(batch)
            self._check_written(batch, header)
            records.append(BatchRecord(batch))
        records.extend(BatchRecord(batch, repair=True) for batch in persist.repairs)
        if persist.hard_state is not None:
            hard = persist.hard_state
            records.append(HardState(GROUP, INCARNATION, hard.term, hard.vote, hard.commit))
        self.log.append(records, partial(self._on_synced, persist))
        self.cluster.persisting(self, persist)

    def _check_written(self, batch: bytes, header: BatchHeader) -> None:
        cluster = self.cluster
        self._reached.sealed(len(batch), cluster.options.max_batch_bytes)
        cluster.checks.check_written(batch, header, cluster.options, follower.membership_in(batch, header))

    def _on_batch(self, place: EntryId) -> None:
        """It was written, or once more. The rest of its append may go with a later write; what is damaged
        until then is damaged."""
        self.bad.discard(place)

    def _on_synced(self, persist: asks.Persist) -> None:
        self.cluster.persisted(self, persist)
        for send in persist.release:
            self._send(send.peer, send.message)
        # The rules may learn of it a little later than the peers do.
        self.later(self._draw.choice((0.0, 0.0, 0.001, 0.01)), self.step, messages.Synced(persist.number))

    def _on_disk_failure(self, error: OSError) -> None:
        self.cluster.trace("disk failed", self.id, error.strerror)
        self.later(0.0, self._end_with_disk)

    def _end_with_disk(self) -> None:
        """As the node does: whoever waits is told, then the process ends."""
        self.step(messages.StorageFailed())
        self.cluster.crash(self)

    def _fetch(self, fetch: asks.Fetch) -> None:
        batches, damaged = self.log.read(GROUP, fetch.first, fetch.last, fetch.max_bytes)
        if damaged:
            self._note_damage(damaged)
        answer = messages.Fetched(fetch.peer, fetch.first, tuple(batches), failed=not batches)
        takes = self.cluster.read_takes()
        if takes:
            self._overdue.append(answer)
            self.later(takes, self._answer_late, answer)
        else:
            self.step(answer)

    def _answer_late(self, answer: messages.Fetched) -> None:
        if answer in self._overdue:
            self._overdue.remove(answer)
            self.step(answer)

    def _note_damage(self, index: int) -> None:
        self.cluster.trace("damage found", self.id, index)
        self._untold.discard(index)
        self.step(messages.Damaged(index))
        self._heal_soon()

    def still_bad(self) -> set[EntryId]:
        """Batches that are damaged on this disk and still part of its log."""
        log = self.log.log(GROUP)
        self.bad = {
            place
            for place in self.bad
            if log.first <= place.index <= log.last and log.terms[place.index - log.first] == place.term
        }
        return self.bad

    def scrub(self) -> None:
        """Look for damage, as the node does in quiet times."""
        log, life = self.log.log(GROUP), self.life
        for index in range(log.first, log.last + 1):
            if self.life == life and self.state is not None and self.log.read(GROUP, index, index, 1)[1]:
                self._note_damage(index)

    # --- the state machine ----------------------------------------------------------------------------------

    def _apply_soon(self) -> None:
        if not self._applying:
            self._applying = True
            self.later(self._draw.choice((0.0, 0.001, 0.02)), self._apply)

    def _apply(self) -> None:
        state = self.state
        assert state is not None
        self._applying = False
        limit = int(min(state.commit, state.readable_to))
        while self.applied < limit:
            batch = self._committed(state, self.applied + 1)
            if batch is None:
                break
            self._apply_one(batch)
            limit = int(min(state.commit, state.readable_to))
        if self.state is not state:
            return  # it ended over what it found on its disk
        if self.applied > state.applied:
            self.step(messages.AppliedTo(self.applied))
        if self._grown >= self.cluster.mix.work.snapshot_after:
            self.take_snapshot()

    def _committed(self, state: GroupState, index: int) -> bytes | None:
        """A committed batch out of memory or from the disk; None if it can't be read there."""
        cached = state.log.cached(index, 1, index)
        if cached:
            return cached[0]
        batches, damaged = self.log.read(GROUP, index, index, 1)
        if damaged:
            self._note_damage(damaged)
        return batches[0] if batches else None

    def _apply_one(self, batch: bytes) -> None:
        entries = walk_batch(batch)
        header = entries.header
        require(header.index == self.applied + 1, "replicas", self.id, "applies", header.index, self.applied)
        results: list[object] = []
        if header.kind not in (Kind.MEMBERSHIP, Kind.SNAPSHOT):
            results = self.machine.apply(entries)
        self.applied, self.applied_term, self.applied_time = header.index, header.term, header.time
        self.hash = crc32c(header.header_crc.to_bytes(4, "little"), self.hash)
        self._grown += 1
        assert self.state is not None
        self.cluster.trace("applied", self.id, header.index, self.hash)
        checks = self.cluster.checks
        checks.check_applied(self.id, header.index, entries, self.hash, results)
        checks.checker(BatchApplied(**replica_of(self.state), index=header.index, rolling_hash=self.hash))
        for token, start, count in self._sealed.pop(header.index, ()):
            self._resolve(token, Applied(header.index, results[start : start + count]))
        self.cluster.applied(self)

    # --- snapshots ------------------------------------------------------------------------------------------

    def take_snapshot(self) -> None:
        """A manifest as of now, once the own log is synced so far; then the log goes up to the one before."""
        state = self.state
        assert state is not None
        known = self.manifest.index if self.manifest is not None else 0
        if state.unrestored or self.applied <= known:
            return
        self._grown = 0
        manifest = Manifest(
            group=GROUP,
            incarnation=INCARNATION,
            index=self.applied,
            term=self.applied_term,
            members=state.memberships.at(self.applied).encode(),
            time=self.applied_time,
            kind=KIND,
            rolling_hash=self.hash,
            state=self.machine.capture().state,
        )
        checks = self.cluster.checks
        checks.check_state(self.id, manifest.index, manifest.state)
        checks.check_manifest_members(self.id, manifest.index, Membership.decode(manifest.members))
        self._keep(manifest)

    def _keep(self, manifest: Manifest) -> None:
        """Make a manifest durable when the log is."""
        state, previous = self.state, self.manifest
        assert state is not None
        if previous is not None and previous.index >= manifest.index:
            return
        if state.log.synced < manifest.index:
            self.later(RETRY, self._keep, manifest)
            return
        try:
            self._make_current(manifest)
        except StorageFailed:
            return
        if previous is not None:
            self.step(messages.Compacted(previous.index, previous.term))

    def _make_current(self, manifest: Manifest) -> None:
        self.cluster.snapshotting(self)
        self.log.write_manifest(manifest)
        self.cut_in = None
        self.manifest, self.manifest_crc = manifest, manifest_crc(encode_manifest(manifest))

    def _send_snapshot(self, peer: int) -> None:
        """Stream the newest manifest; the transfer may break, and says so in the end."""
        self.later(self._draw.uniform(0.001, 0.1), self._hand_over, peer, self.manifest)

    def _hand_over(self, peer: int, manifest: Manifest | None) -> None:
        broken = self._draw.random() < self.cluster.weather.faults.loss
        reachable = self.cluster.talks(self.id, peer)
        ok = (
            manifest is not None
            and reachable
            and not broken
            and self.cluster.processes[peer].install(manifest)
        )
        index = manifest.index if manifest is not None else 0
        self.step(messages.SnapshotSent(peer, ok, index))

    def install(self, manifest: Manifest) -> bool:
        """A peer's snapshot has arrived whole. False if it is of no use, or the power went."""
        state = self.state
        if state is None or self.paused_until > self.cluster.heap.time:
            return False
        if manifest.index <= self.applied or manifest.index < state.log.compacted.index:
            return False
        try:
            self._make_current(manifest)
        except PowerCut:
            self.cluster.power_cut(self)
            return False
        except StorageFailed:
            return False
        self.cluster.checks.check_installed(self.id, manifest.index, manifest.rolling_hash)
        self._restore(manifest)
        for covered in [index for index in self._sealed if index <= manifest.index]:
            for token, _, _ in self._sealed.pop(covered):
                self._resolve(token, Unknown(Reason.LEADERSHIP_LOST))
        members = Membership.decode(manifest.members)
        self.cluster.installed(self)
        self.step(messages.SnapshotInstalled(manifest.index, manifest.term, members, manifest.time))
        return self.state is not None

    # --- damage ---------------------------------------------------------------------------------------------

    def _heal_soon(self) -> None:
        if not self._healing:
            self._healing = True
            self.later(self._draw.uniform(0.001, 0.1), self._heal)

    def _heal(self) -> None:
        """One round of what `actors/replica/repair.py` does."""
        state = self.state
        self._healing = False
        if state is None or not state.faulty:
            return
        faults = [fault for fault in self.log.faults(GROUP) if fault.index in state.log.holes]
        if faults and not self._from_here(state, faults):
            self._from_peers(state, faults)
        if self.state is not None:
            self._heal_soon()

    def _from_here(self, state: GroupState, faults: Sequence[Fault]) -> bool:
        log, manifest = state.log, self.manifest
        copies = [batch for fault in faults if (batch := log.cached_one(fault.index)) is not None]
        if copies:
            self.step(messages.Mended(tuple(copies)))
            return True
        if manifest is not None and faults[0].index <= manifest.index <= log.last_index:
            self.step(messages.Compacted(manifest.index, manifest.term))
            return True
        return False

    def _from_peers(self, state: GroupState, faults: Sequence[Fault]) -> None:
        others = sorted(state.membership.members - {self.id})
        copies: dict[int, bytes] = {}
        said: dict[int, Verdict] = {}
        for peer in (peer for peer in others if self.cluster.talks(self.id, peer)):
            for fault in faults:
                if fault.index in copies:
                    continue
                verdict, batch = self.cluster.processes[peer].give(fault.index, fault.term)
                if verdict is Verdict.HELD and is_copy(batch, fault):
                    copies[fault.index] = batch
                elif fault is faults[0]:
                    said[peer] = verdict
        first = faults[0]
        if copies:  # what they are for may be gone when they come
            self.later(self._draw.uniform(0, COPY_TAKES), self.step, messages.Mended(tuple(copies.values())))
        elif first.index <= self.applied:
            self.take_snapshot()
        elif Verdict.COMPACTED in said.values():
            self._ask_for_snapshot(others, first.index)
        else:
            lacking = {peer for peer, word in said.items() if word in (Verdict.ABSENT, Verdict.DOUBTFUL)}
            doubtful = all(fault.doubtful for fault in faults)
            if doubtful and state.membership.voters - {self.id} <= lacking:
                self.step(messages.Absent(first.index, first.term))

    def give(self, index: int, term: int) -> tuple[Verdict, bytes]:
        """What this replica has of a batch that a peer asks for."""
        state = self.state
        assert state is not None
        if (known := verdict_on(state.log, index, term, lambda: self.log.faults(GROUP))) is not None:
            return known, b""
        batch = state.log.cached_one(index)
        if batch is None:
            batches, damaged = self.log.read(GROUP, index, index, 1)
            if damaged:
                self._untold.add(damaged)
                self.later(0.0, self._note_damage, damaged)
            batch = batches[0] if batches else None
        return (Verdict.HELD, batch) if batch is not None else (Verdict.DAMAGED, b"")

    def _ask_for_snapshot(self, others: Sequence[int], at_least: int) -> None:
        for peer in others:
            donor = self.cluster.processes[peer]
            if not self.cluster.talks(self.id, peer) or donor.applied < at_least:
                continue
            if donor.manifest is None or donor.manifest.index < at_least:
                donor.later(0.0, donor.take_snapshot)
            elif self.install(donor.manifest):
                return

    # --- signs of life --------------------------------------------------------------------------------------

    def _stay_alive(self) -> None:
        """What the nodes' links do beside the groups: signs of life, and a look who gives none."""
        cluster = self.cluster
        for peer in cluster.processes:
            if peer != self.id:
                cluster.weather.send(self.id, peer, None)
        for silent in self.liveness.fallen_silent(cluster.heap.time):
            self.step(messages.PeerSilent(silent))
        self.later(cluster.options.heartbeat, self._stay_alive)


def _truncates(effect: Effect) -> bool:
    return isinstance(effect, asks.Persist) and effect.truncate_from is not None


def _contradicts(log: GroupLog, entry: EntryId) -> bool:
    """Whether the log has another batch at an entry's index."""
    return log.first <= entry.index <= log.last and log.terms[entry.index - log.first] != entry.term
