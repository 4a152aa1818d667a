"""Every group this node hosts, and who leads which group anywhere: the node's multi-Raft table.

A group starts from what recovery found or from an assignment of the meta group, runs in a task of its own,
and when it is closed everything under it is closed with it. A group whose machine or log fails stops alone.
"""

import logging
import random
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, cast

import trio

from ..codec import Kind, walk_batch
from ..codec.frame import Frame
from ..storage.actor import Storage
from ..storage.errors import LogDamaged
from ..storage.files import GroupFiles
from ..storage.manifest import Manifest
from ..storage.records import CompactPrefix, GroupCreate, GroupDelete, HardState, Record
from ..storage.recovery import RecoveredGroup
from ..storage.turns import Turns
from .alarm import Alarms
from .cluster.meta_state import META_GROUP
from .peers.peers import Peers
from .peers.wire import FrameKind, checked, decode_messages
from .proposals import Leadership
from .raft import messages
from .raft.events import EventHook
from .raft.log import EntryId
from .raft.log_cache import CacheBudget
from .raft.membership import Membership
from .raft.messages import PeerMessage
from .raft.state import GroupState, RaftOptions, Role
from .replica.group import Group
from .replica.machine import Machine
from .replica.mender import Asks
from .replica.pass_time import PassTime
from .replica.recovered_log import LogEntry, recovered_log
from .replica.repair import Repair
from .replica.snapshots import Snapshots
from .world import Clock

logger = logging.getLogger(__name__)

MakeMachine = Callable[[str, str, GroupFiles], Machine]
"""(kind, group name, files) -> an empty machine."""

CAMPAIGNS: Final = 10
CAMPAIGN_SECONDS: Final = 0.03
READ_BYTES: Final = 1024 * 1024
MAX_LEADERS: Final = 100_000  # remembered, also of groups that are not here: enough, and a lie fills no more


@dataclass(frozen=True, slots=True)
class Birth:
    """What a group starts from when its log is empty."""

    group: int
    incarnation: int
    kind: str
    name: str
    voters: tuple[int, ...]
    members: bytes
    """For the group's record in the log: what a restart needs to know the first voters again."""


@dataclass(frozen=True, slots=True)
class Dormant:
    """A replica that moved away: it runs no more, and its log remembers what it promised."""

    group: int
    incarnation: int
    name: str
    commit: EntryId
    """Up to here its log may be given up."""
    released: bool = False
    """It is, and the files are."""


@dataclass(frozen=True, slots=True)
class _Hosted:
    group: Group
    scope: trio.CancelScope
    ended: trio.Event


class _FirstStart:
    """A task status that may be told more than once."""

    def __init__(self, status: trio.TaskStatus[None]) -> None:
        self._status = status
        self._told = False

    def started(self, value: None = None) -> None:
        if not self._told:
            self._told = True
            self._status.started()


class Groups:
    """Owns the hosted groups. `on_leader(group)` is told of every change in who leads a group."""

    def __init__(
        self,
        me: int,
        storage: Storage,
        peers: Peers,
        clock: Clock,
        rng: random.Random,
        options: RaftOptions,
        snapshot_log_bytes: int,
        transfer_log_bytes: int,
        log_cache: CacheBudget,
        make_machine: MakeMachine,
        asks: Asks,
        turns: Turns,
        listen: EventHook | None = None,
    ) -> None:
        self.me = me
        self.unknown_messages = 0
        self.on_leader: Callable[[int], None] = lambda group: None
        self.on_role_change: Callable[[Group], None] = lambda group: None
        self.on_closed: Callable[[int], None] = lambda group: None
        self._storage = storage
        self._peers = peers
        self._time = PassTime(clock, turns)
        self._random = rng
        self._options = options
        self._snapshot_log_bytes = snapshot_log_bytes
        self._transfer_log_bytes = transfer_log_bytes
        self._log_cache = log_cache
        self._make_machine = make_machine
        self._asks = asks
        self._listen = listen
        self._hosted: dict[int, _Hosted] = {}
        self._dormant: dict[int, Dormant] = {}
        self._leaders: dict[int, Leadership] = {}
        self._leader_changed = trio.Event()
        self._turns = turns
        self._alarms = Alarms(turns.through)
        self._nursery: trio.Nursery | None = None
        storage.on_damage = self._on_damage
        storage.on_space = self._on_space
        storage.on_credit = self._on_credit
        peers.handle_messages(self._on_messages)
        peers.handle(FrameKind.LEADERS, self._on_leaders)
        peers.handle(FrameKind.SNAPSHOT_PART, self._on_snapshot_part)
        peers.handle(FrameKind.SNAPSHOT_PROGRESS, self._on_snapshot_progress)
        peers.on_up.append(self._on_peer_up)
        peers.on_down.append(self._on_peer_down)
        peers.on_silent.append(self._on_peer_silent)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the groups' tasks until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            await self._alarms.run()

    async def end(self) -> None:
        """Stop every group, and return once they have: whoever waits for one of them has got an end."""
        for hosted in self._hosted.values():
            hosted.scope.cancel()
        for hosted in list(self._hosted.values()):
            await hosted.ended.wait()

    # --- who is here, who leads ----------------------------------------------------------------------

    def get(self, group: int) -> Group | None:
        hosted = self._hosted.get(group)
        return hosted.group if hosted is not None else None

    def local_group(self, group: int) -> Group | None:
        return self.get(group)

    def hosted(self) -> Iterable[Group]:
        return (hosted.group for hosted in self._hosted.values())

    def dormant(self) -> Collection[Dormant]:
        """Replicas that moved away from here and are not forgotten."""
        return list(self._dormant.values())

    def leadership(self, group: int) -> Leadership | None:
        """Who leads a group, hosted here or not, as far as this node knows; None if out of reach.

        A leader that can't be reached is none: its groups' proposals wait for it, or for the next one.
        """
        leader = self._leaders.get(group)
        if leader is None or leader.node == self.me or self._peers.is_up(leader.node):
            return leader
        return None

    async def wait_leader_change(self) -> None:
        await self._leader_changed.wait()

    # --- starting and closing --------------------------------------------------------------------------

    async def create(self, birth: Birth, *, campaign: bool) -> Group:
        """Make a group durable on this node and run it. With `campaign` it stands for election at once, a few
        times."""
        await self._store(_creation(birth))
        return await self.start_new(birth, campaign=campaign)

    async def record(self, birth: Birth, *, forgetful: bool = False) -> None:
        """Make a group's creation durable in place of one that can't be read.

        `forgetful`: nothing is left of what an earlier replica may have promised here. That is said first: a
        creation alone, after a crash between the two, would be a replica that never promised anything.
        """
        lost = HardState(birth.group, birth.incarnation, 0, 0, 0, closed=True)
        await self._store(*([lost] if forgetful else []), _creation(birth, again=True))

    async def start_new(self, birth: Birth, *, campaign: bool) -> Group:
        """Run a group whose record is durable and whose log is empty."""
        state = GroupState.recovered(
            group=birth.group,
            incarnation=birth.incarnation,
            node=self.me,
            options=self._options_of(birth.group),
            randomness=self._random,
            now=self._time.now(),
            cache=self._log_cache,
            settled=Membership.of(birth.voters),
        )
        group = await self._run(state, birth.kind, birth.name, None)
        if campaign and self._nursery is not None:
            self._nursery.start_soon(self._campaign, group)
        return group

    async def _campaign(self, group: Group) -> None:
        """Have a new group led soon: its other replicas are being created at this moment."""
        for _ in range(CAMPAIGNS):
            if self.leadership(group.number) is not None:
                return
            group.tell("campaign", messages.Campaign())
            await trio.sleep(CAMPAIGN_SECONDS)

    async def resume(self, recovered: RecoveredGroup, voters: Iterable[int]) -> Group:
        """Run a group that recovery found. `voters`: its first ones, for a log that was never compacted."""
        manifest, log = recovered.manifest, recovered_log(recovered)
        applied = manifest.index if manifest is not None else 0
        if log.records:
            await self._store(*log.records)
        changes = [
            (index, membership)
            for index, _, kind, _ in log.entries
            if kind == Kind.MEMBERSHIP and index > applied
            if (membership := await self._read_membership(recovered.group, index)) is not None
        ]
        last_time = await self._last_time(recovered, log.entries)
        state = GroupState.recovered(
            group=recovered.group,
            incarnation=recovered.incarnation,
            node=self.me,
            options=self._options_of(recovered.group),
            randomness=self._random,
            now=self._time.now(),
            cache=self._log_cache,
            settled=Membership.decode(manifest.members) if manifest is not None else Membership.of(voters),
            changes=changes,
            term=recovered.term,
            vote=recovered.vote,
            compacted=log.compacted,
            entries=log.entries,
            commit=applied if log.forgetful else max(recovered.commit, applied),
            last_time=last_time,
            holes=[fault.index for fault in self._storage.faults(recovered.group)],
            unrestored=recovered.manifest_damaged,
            forgetful=log.forgetful,
        )
        return await self._run(state, recovered.kind, recovered.name, manifest, returns=recovered.released)

    async def close(self, group: int, *, delete: bool) -> None:
        """Stop a group here, and return once it has. With `delete` its log and files are given up too.

        Without, they stay for now: the replica is dormant.
        """
        hosted = self._hosted.pop(group, None)
        if hosted is None:
            return
        self.on_closed(group)
        hosted.scope.cancel()
        await hosted.ended.wait()
        leader = self._leaders.get(group)
        if delete or (leader is not None and leader.node == self.me):
            self._leaders.pop(group, None)  # else it leads on without this node, which still forwards to it
        if delete:
            self._storage.append([GroupDelete(group, hosted.group.incarnation)])
        else:
            state = hosted.group.state
            commit = EntryId(state.commit, state.log.term_at(state.commit) or 0)
            self._dormant[group] = Dormant(group, state.incarnation, hosted.group.name, commit)

    def remember(self, recovered: RecoveredGroup) -> None:
        """A replica that had moved away, and been released, before this node was started."""
        commit = EntryId(recovered.compacted.index, recovered.compacted.term)
        self._dormant[recovered.group] = Dormant(
            recovered.group, recovered.incarnation, recovered.name, commit, released=True
        )

    async def release(self, dormant: Dormant) -> None:
        """Give up the copy of a replica that nobody needs: its files, and its log up to its commit index.

        Its term, its vote and what it holds behind the commit index stay, so it has forgotten nothing that it
        promised (a replica that forgets must not come back under its id). Should it come back, it is as one
        whose state was lost: it neither votes nor counts until a snapshot of a peer has restored it.
        """
        if dormant.commit.index:
            at = (dormant.group, dormant.incarnation, dormant.commit.index, dormant.commit.term)
            await self._store(CompactPrefix(*at, manifest_crc=0))
        self._storage.remove_files(dormant.group, dormant.incarnation)
        self._dormant[dormant.group] = replace(dormant, released=True)
        logger.info("group %s: the copy that it left here is given up", dormant.name)

    def forget(self, dormant: Dormant) -> None:
        """The group of a dormant replica was deleted."""
        del self._dormant[dormant.group]
        self._storage.append([GroupDelete(dormant.group, dormant.incarnation)])
        logger.info("group %s is deleted", dormant.name)

    def fail(self, group: int, why: str) -> None:
        """Stop a group on this node for a reason that only a person can judge. It stays listed, with the
        reason."""
        hosted = self._hosted.get(group)
        if hosted is not None and not hosted.group.failed:
            hosted.group.failed = why
            self.on_closed(group)
            hosted.scope.cancel()

    async def _store(self, *records: Record) -> None:
        synced = trio.Event()
        self._storage.append(records, synced.set)
        await synced.wait()

    async def _run(
        self, state: GroupState, kind: str, name: str, manifest: Manifest | None, *, returns: bool = False
    ) -> Group:
        if self._nursery is None:
            raise RuntimeError("Groups.run must be running")
        files = self._storage.group_files(state.group, state.incarnation)
        machine = self._make_machine(kind, name, files)
        first_transfer = self._random.getrandbits(62)
        snapshots = Snapshots(
            files,
            self._peers,
            self._snapshot_log_bytes,
            self._transfer_log_bytes,
            manifest,
            first_transfer,
        )
        repair = Repair(self._storage, self._asks, self._peers, returns=returns)
        group = Group(
            name,
            state,
            machine,
            files,
            self._storage,
            self._time,
            self._alarms,
            self._turns,
            self,
            snapshots,
            repair,
            self._listen,
        )
        hosted = _Hosted(group, trio.CancelScope(), trio.Event())
        self._hosted[state.group] = hosted
        self._dormant.pop(state.group, None)
        for fault in self._storage.faults(state.group):
            if fault.index not in state.log.holes:  # found since the group was read
                self._on_damage(state.group, fault.index)
        group.tell("space", self._space())
        await self._nursery.start(self._run_scoped, hosted)
        return group

    async def _run_scoped(self, hosted: _Hosted, *, task_status: trio.TaskStatus[None]) -> None:
        status = _FirstStart(task_status)
        try:
            with hosted.scope:
                await hosted.group.run(task_status=status)
            status.started()  # closed while it read its snapshot: whoever waits for it must not wait on
        finally:
            hosted.ended.set()

    async def _read_membership(self, group: int, index: int) -> Membership | None:
        """The members that a change names; None if it turns out to be damaged."""
        try:
            [batch] = await self._storage.read_batches(group, index, index, READ_BYTES)
        except LogDamaged:
            return None
        return Membership.decode(walk_batch(batch).entry(0))

    async def _last_time(self, recovered: RecoveredGroup, entries: Sequence[LogEntry]) -> int:
        """The log clock never falls, also across a restart: the newest batch that is sound has the highest
        time that is known."""
        time = recovered.manifest.time if recovered.manifest is not None else 0
        damaged = {fault.index for fault in self._storage.faults(recovered.group)}
        for index, *_ in reversed(entries):
            if index in damaged:
                continue
            try:
                [batch] = await self._storage.read_batches(recovered.group, index, index, READ_BYTES)
            except LogDamaged:
                continue
            return max(time, walk_batch(batch).header.time)
        return time

    def _options_of(self, group: int) -> RaftOptions:
        """What meta decides, every node should act upon at once, also on a full disk."""
        if group != META_GROUP:
            return self._options
        return replace(self._options, eager_commit=True, uses_reserve=True)

    # --- GroupEvents -----------------------------------------------------------------------------------

    def send(self, peer: int, message: PeerMessage) -> None:
        self._peers.send_message(peer, message)

    def on_role(self, group: Group) -> None:
        """Role, term or leader of a hosted group changed. One that is being closed has nothing to say about
        who leads the others."""
        if self.get(group.number) is not group:
            return
        state = group.state
        group.elections += state.role is Role.CANDIDATE
        group.leaderships += state.role is Role.LEADER
        led_by = f"led by {self._peers.name_of(state.leader)}" if state.leader else "no leader yet"
        # The way to a leader is of interest to few; after a node's death a thousand groups go it at once.
        level = logging.INFO if state.leader else logging.DEBUG
        logger.log(level, "group %s: %s in term %d, %s", group.name, state.role.value, state.term, led_by)
        self.on_role_change(group)
        known = self._leaders.get(group.number)
        if known is not None and state.term < known.term:
            return
        if state.leader:
            self._set_leader(group.number, Leadership(state.term, state.leader))
        elif known is not None:
            del self._leaders[group.number]
        if group.leads:
            for peer in list(self._peers.up()):
                self._peers.send(peer, FrameKind.LEADERS, ((group.number, state.term),))

    def _set_leader(self, group: int, leader: Leadership) -> None:
        if self._leaders.get(group) != leader:
            self._leaders[group] = leader
            self._tell_leader(group)

    def _tell_leader(self, group: int) -> None:
        self._leader_changed.set()
        self._leader_changed = trio.Event()
        self.on_leader(group)

    # --- frames ------------------------------------------------------------------------------------------

    def _on_messages(self, sender: int, frame: Frame) -> None:
        for message in decode_messages(sender, frame):
            hosted = self._hosted.get(message.group)
            if hosted is None:
                self.unknown_messages += 1  # not assigned here, or not yet
            else:
                hosted.group.deliver(message)

    def _on_leaders(self, sender: int, envelope: list[object], attachment: memoryview) -> None:
        """The sender says which groups it leads, and in which terms."""
        for item in envelope:
            group, term = cast(tuple[int, int], checked(item, (int, int)))
            if group not in self._leaders and len(self._leaders) >= MAX_LEADERS:
                continue
            known = self._leaders.get(group)
            if known is None or term > known.term:
                self._set_leader(group, Leadership(term, sender))

    def _on_snapshot_part(self, sender: int, envelope: list[object], attachment: memoryview) -> None:
        group = self._addressed(envelope)
        if group is not None:
            group.snapshots.on_part(sender, envelope, attachment)

    def _on_snapshot_progress(self, sender: int, envelope: list[object], attachment: memoryview) -> None:
        group = self._addressed(envelope)
        if group is not None:
            group.snapshots.on_progress(envelope)

    def _on_damage(self, number: int, index: int) -> None:
        """A batch that was sound can't be read any more: a read or the scrub found it."""
        group = self.get(number)
        if group is not None:
            group.tell(f"damaged {index}", messages.Damaged(index))

    def _on_space(self) -> None:
        """The disk has become full, its reserve is used up, or it has space again."""
        full = self._storage.full
        if self._storage.spent:
            logger.error("The reserve for a full disk is used up: this node follows no stream any more")
        elif full is not None:
            logger.warning("Streams led here take no more messages: %s", full)
        else:
            logger.info("The disk has space again")
        for group in self.hosted():
            group.tell("space", self._space())

    def _space(self) -> messages.StorageSpace:
        return messages.StorageSpace(self._storage.full is None, self._storage.spent)

    def _on_credit(self) -> None:
        for group in self.hosted():
            group.on_credit()

    def _addressed(self, envelope: list[object]) -> Group | None:
        number, incarnation = cast(tuple[int, int], tuple(envelope[:2]))
        group = self.get(number)
        if group is None or group.incarnation != incarnation:
            self.unknown_messages += 1
            return None
        return group

    def _on_peer_up(self, peer: int) -> None:
        led: list[tuple[int, int]] = []
        for group in self.hosted():
            group.tell(f"link {peer}", messages.PeerUp(peer))
            group.repair.wake()
            if group.leads:
                led.append((group.number, group.state.term))
        if led:
            self._peers.send(peer, FrameKind.LEADERS, tuple(led))
        for number, leader in list(self._leaders.items()):
            if leader.node == peer:
                self._tell_leader(number)

    def _on_peer_down(self, peer: int) -> None:
        for hosted in self.hosted():
            hosted.tell(f"link {peer}", messages.PeerDown(peer))
            hosted.snapshots.on_peer_down(peer)

    def _on_peer_silent(self, peer: int) -> None:
        """Quiet groups trusted it; the others hear for themselves."""
        for group in self.hosted():
            group.tell(f"silence {peer}", messages.PeerSilent(peer))

    def led_by_me(self) -> Mapping[int, Group]:
        return {group.number: group for group in self.hosted() if group.leads}


def _creation(birth: Birth, *, again: bool = False) -> GroupCreate:
    return GroupCreate(birth.group, birth.incarnation, birth.kind, birth.name, birth.members, again)
