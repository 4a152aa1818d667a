"""One group on one node: the actor that runs its current role, and carries out what the role's rules ask for.

The rules live in `follower.py`, `candidate.py`, `leader.py` and `learner.py` as plain functions; here is the
mailbox, the clock and the hands. Only its turns touch the group's Raft state.

    proposals, peers' messages ->  mailbox -> roles.step -> effects -> storage | links | applier
    synced, applied (watermarks) -^
"""

import itertools
import logging
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final, Protocol, TypeVar

import trio

from ...codec import Chunk, CodecError
from ...storage.actor import Storage
from ...storage.errors import FileDamaged, StorageError
from ...storage.files import GroupFiles
from ...storage.histogram import BATCH_BOUNDS, SECONDS_BOUNDS, Histogram
from ...storage.records import BatchRecord, CompactPrefix, HardState, Record, TruncateSuffix
from ...storage.turns import Order, Turn, Turns
from ..alarm import Alarms
from ..mailbox import Mailbox
from ..raft import effects as asks
from ..raft import messages, roles
from ..raft.effects import Effect
from ..raft.events import BatchApplied, EventHook, events_of, replica_of, started
from ..raft.membership import Change
from ..raft.messages import Message, Now, PeerMessage
from ..raft.outcomes import Applied, NotApplied, Outcome, Reason, Unknown
from ..raft.state import GroupState, Role
from .applier import Applier, MachineFailed
from .divergence import announcement
from .group_statistics import GroupStatistics, ranges
from .machine import Machine, Results, StateUnusable
from .pass_time import PassTime
from .repair import Repair
from .snapshots import Snapshots

logger = logging.getLogger(__name__)

DAMAGED_SHOWN: Final = 10
MAILBOX_BOUND: Final = 8192  # messages; the bytes behind proposals are bounded by the leader's rules

T = TypeVar("T")
Done = Callable[[Outcome], None]


class GroupEvents(Protocol):
    """What a group tells its node. None of these may raise or wait."""

    def send(self, peer: int, message: PeerMessage) -> None: ...
    def on_role(self, group: "Group") -> None: ...


class NotDone(Exception):
    """A call on a group did not end as applied. `outcome` is `NotApplied` (safe to retry) or `Unknown`."""

    def __init__(self, outcome: NotApplied | Unknown) -> None:
        verdict = "not applied" if isinstance(outcome, NotApplied) else "outcome unknown"
        super().__init__(f"{verdict}: {outcome.reason.value}")
        self.outcome = outcome


class Group:
    """The group actor. `run` until cancelled; everything else is called from the same event loop and never
    waits, except the calls marked async, which wait for an outcome and may be cancelled at any time (the
    entry stays)."""

    def __init__(
        self,
        name: str,
        state: GroupState,
        machine: Machine,
        files: GroupFiles,
        storage: Storage,
        time: PassTime,
        alarms: Alarms,
        turns: Turns,
        events: GroupEvents,
        snapshots: Snapshots,
        repair: Repair,
        listen: EventHook | None = None,
    ) -> None:
        """`state` is that of the log behind `snapshots.manifest`; `run` gives the machine the manifest's."""
        self.name = name
        self.number = state.group
        self.incarnation = state.incarnation
        self.state = state
        self.machine = machine
        self.files = files
        self.failed = ""
        """Why this replica has stopped, or empty."""
        self.applier = Applier(machine, self._cached, self._read_committed, self._on_applied, turns)
        self.snapshots = snapshots
        self.repair = repair
        self._storage = storage
        self._time = time
        self._events = events
        self.listen = listen
        """Hears every event; None costs nothing."""
        self._turn = Turn(turns, Order.DECIDE, self._work)
        self._mailbox: Mailbox[Message] = Mailbox(MAILBOX_BOUND, self._turn.due)
        self._alarm = alarms.alarm(self._mailbox.wake)
        self._tokens = itertools.count(1)
        self._waiting: dict[int, Done] = {}
        self._sealed: dict[int, tuple[tuple[int, int, int], ...]] = {}
        self._applied = 0
        """The last batch that was applied here."""
        self._batches = self._entries = self._dropped = 0
        self.batch_sizes = Histogram(BATCH_BOUNDS)
        """Entries of each applied batch."""
        self.commit_seconds = Histogram(SECONDS_BOUNDS)
        """From sealing a batch here to having applied it."""
        self.elections = self.leaderships = 0
        """How often this replica stood for election, and won."""
        self._starved = False
        self._nursery: trio.Nursery | None = None
        self._closed = False
        self._excused_since: float | None = None
        """When a leader had been heard as of the last tick, if that was excused."""
        self._progressed = trio.Event()
        self._watchers = 0
        snapshots.attach(self)
        repair.attach(self)
        repair.divergence.attach(self)

    # --- what others ask ---------------------------------------------------------------------------

    @property
    def leads(self) -> bool:
        return self.state.role is Role.LEADER

    @property
    def applicable(self) -> int:
        """What is committed, as far as it can be read here."""
        return int(min(self.state.commit, self.state.readable_to))

    def propose(self, chunk: Chunk, done: Done, expected_term: int = 0) -> None:
        """Replicate a chunk (rules S1, S15, S16). `done` is called exactly once; it must not raise."""
        self._ask(lambda token: messages.Propose(chunk, token, expected_term), done)

    def deliver(self, message: PeerMessage) -> None:
        """A peer's message. One that finds the mailbox full is lost, and counted, like one on the network."""
        if message.incarnation == self.incarnation and not self._closed:
            self._mailbox.put(message)

    def tell(self, subject: str, message: Message) -> None:
        """A fact of this node (a link went up or down). It is a watermark: the newest one per subject
        counts."""
        if not self._closed:
            self._mailbox.mark(subject, message)

    async def call(self, make: Callable[[int], Message]) -> Applied:
        """Ask the role something and wait for the end. Raises NotDone."""
        ended = trio.Event()
        outcome: list[Outcome] = []

        def done(end: Outcome) -> None:
            outcome.append(end)
            ended.set()

        token = self._ask(make, done)
        try:
            await ended.wait()
        finally:
            self._waiting.pop(token, None)
        end = outcome[0]
        if not isinstance(end, Applied):
            raise NotDone(end)
        return end

    async def propose_and_wait(self, chunk: Chunk, expected_term: int = 0) -> Applied:
        """`propose`, awaited. Raises NotDone; a caller that is cancelled abandons the waiting, not the
        entries."""
        return await self.call(lambda token: messages.Propose(chunk, token, expected_term))

    async def read_index(self) -> int:
        """A read that begins now is linearizable on any replica that has applied up to this (thesis 6.4).

        Only the leader can tell, once a majority has confirmed it. Raises NotDone.
        """
        return (await self.call(messages.ReadIndex)).index

    async def read_barrier(self) -> None:
        """Return once the leader's own replica shows everything that was committed when the call began.
        Raises NotDone."""
        await self.wait_applied(await self.read_index())

    async def change_membership(self, change: Change, expected_term: int = 0) -> None:
        """One membership change, committed. Raises NotDone."""
        await self.call(lambda token: messages.ProposeMembership(change, token, expected_term))

    async def announce_snapshot(self) -> None:
        """Rule S7: before a group grows from one replica, its log says which snapshot the newcomer gets.

        Index, term and hash, no data; fenced by the term in which it is queued. Raises NotDone.
        """
        term = self.state.term
        await self.take_snapshot()
        manifest = self.snapshots.manifest
        if manifest is None:
            return  # nothing was ever applied: the newcomer gets the whole log
        chunk = announcement(manifest.index, manifest.term, manifest.rolling_hash)
        await self.call(lambda token: messages.ProposeSnapshot(chunk, token, term))

    async def take_snapshot(self) -> None:
        """Make a snapshot of what is applied durable now, for whoever is no part of this group.

        Raises NotDone if the group ends meanwhile, as it does if its machine makes none: that stops this
        replica alone, whoever finds out. StorageError if the disk or a file failed.
        """
        try:
            await self.snapshots.take()
        except MachineFailed as failed:
            self._start_soon(_raise, failed)
            raise NotDone(NotApplied(Reason.CLOSED)) from failed

    def wall(self) -> int:
        """The node's clock, ns since 1970."""
        return self._time.wall()

    def announce_hash(self) -> None:
        """The leader takes a snapshot: the others compare their rolling hashes with its own. Nobody waits."""
        state, applier = self.state, self.applier
        if self.leads and len(state.membership.members) > 1:
            chunk = announcement(applier.applied, applier.applied_term, applier.rolling_hash)
            self._ask(lambda token: messages.ProposeSnapshot(chunk, token, state.term), lambda outcome: None)

    async def transfer(self, target: int | None) -> None:
        """Hand the leadership over. Raises NotDone."""
        await self.call(lambda token: messages.Transfer(target, token))

    def send_snapshot(self, peer: int) -> None:
        """Begin to send the newest snapshot to a peer that asked for it."""
        self._start_soon(self.snapshots.send, peer)

    async def tick(self) -> None:
        """Move the log's clock on an idle group, so that what is due falls due."""
        await self.call(messages.ProposeTick)

    async def wait_synced(self, index: int) -> None:
        """Return once this node's own log is synced up to `index`. Raises NotDone if the group ends first."""
        await self._wait(lambda: self.state.log.synced >= index)

    async def wait_applied(self, index: int) -> None:
        """Return once this node's machine shows everything up to `index`. Raises NotDone if the group ends
        first."""
        await self._wait(lambda: self.applier.applied >= index)

    async def _wait(self, reached: Callable[[], bool]) -> None:
        self._watchers += 1
        self._mailbox.wake()  # what it was not woken for may be what is waited for
        try:
            while not reached():
                if self._closed:
                    raise NotDone(NotApplied(Reason.CLOSED))
                await self._progressed.wait()
        finally:
            self._watchers -= 1

    def statistics(self) -> GroupStatistics:
        state, damage = self.state, self.machine.damage
        return GroupStatistics(
            group=self.number,
            name=self.name,
            kind=self.machine.kind,
            role=state.role.name.lower(),
            term=state.term,
            leader=state.leader,
            commit=state.commit,
            applied=self.applier.applied,
            last_index=state.log.last_index,
            first_index=state.log.first_index,
            voters=tuple(sorted(state.membership.voters)),
            learners=tuple(sorted(state.membership.learners)),
            batches=self._batches,
            entries=self._entries,
            refused=self._mailbox.refused,
            dropped=self._dropped,
            quiet=state.quiet,
            failed=self.failed,
            faulty=tuple(ranges(state.log.holes)),
            repaired=self.repair.repaired,
            mended=self.repair.mender.mended,
            damaged=tuple(damage.reasons[:DAMAGED_SHOWN]) if damage is not None else (),
            lost=tuple(damage.lost) if damage is not None else (),
            compared=self.repair.divergence.compared,
            diverged=self.repair.divergence.found,
            undecided=self.repair.divergence.undecided,
            waits_for=self.repair.waits_for,
        )

    def _progress(self) -> None:
        if self._watchers or self._closed:
            self._progressed.set()
            self._progressed = trio.Event()

    def _ask(self, make: Callable[[int], Message], done: Done) -> int:
        token = next(self._tokens)
        if self.failed or self._closed:
            done(NotApplied(Reason.CLOSED))
        else:
            self._waiting[token] = done
            if not self._mailbox.put(make(token)):
                self._resolve(token, NotApplied(Reason.BUSY, self.state.leader))
        return token

    # --- the actor -----------------------------------------------------------------------------------

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run the role, the applier and the snapshots until cancelled; then everyone who waits gets an
        end.

        What breaks this replica alone stops this replica alone: `failed` says what it was.
        """
        if self.listen is not None:
            self.listen(started(self.state))
        runs = False
        try:
            await self._restore()
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                nursery.start_soon(self.applier.run)
                nursery.start_soon(self.snapshots.run)
                nursery.start_soon(self.repair.run)
                nursery.start_soon(self.repair.divergence.run)
                runs = True
                task_status.started()
                self._turn.due()
                await self._turn.run()
        except* MachineFailed as errors:
            self.failed = str(_first(errors))
        except* (StorageError, StateUnusable, CodecError) as errors:
            self.failed = f"group {self.name} has stopped: {_first(errors)}"
        except* AssertionError as errors:
            # Raft's rules don't hold any more: a bug, or a peer that lies. Nothing is certain in this group,
            # and nothing else depends on it.
            self.failed = f"group {self.name} has stopped, the rules of Raft are broken: {_first(errors)}"
            logger.critical("%s", self.failed, exc_info=_first(errors))
        finally:
            self._nursery = None
            self._close()
        logger.error("%s", self.failed)
        if not runs:
            task_status.started()

    async def _restore(self) -> None:
        """Start from the own manifest; if it is damaged, the group runs without a state, and repairs it."""
        self.state.unrestored |= not await self._take_state(accept_loss=False)
        self._storage.note_burst()  # its files were read, all of them
        self.applier.advance(self.applicable)

    async def _take_state(self, *, accept_loss: bool) -> bool:
        """Give the machine the state of the own manifest; False if that can't be used as it is."""
        try:
            await self.applier.restore(self.snapshots.manifest, accept_loss=accept_loss)
        except (StateUnusable, FileDamaged) as error:
            logger.error("group %s can't start from its snapshot: %s", self.name, error)
            self.machine.empty()
            self.repair.wreck = error.patient if isinstance(error, StateUnusable) else None
            if self.repair.wreck is None:
                self.snapshots.manifest = None
            return False
        self.repair.wreck = None
        return True

    async def give_up_state(self) -> None:
        """This replica's state is wrong: it is kept as evidence, and another one comes from a peer.

        Raises StorageFailed.
        """
        async with self.snapshots.changing:
            self.tell("unrestored", messages.Unrestored())
            await self._wait(lambda: self.state.unrestored)  # nobody is served any more
            async with self.applier.exclusive:
                self.machine.empty()
                self.applier.restart()
                self.snapshots.manifest = None
                self.repair.wreck = None
                await self.files.set_apart()

    async def start_over(self, *, accept_loss: bool = False) -> None:
        """The files of the own manifest can be used again, or nobody can help: the machine takes its state.

        Raises StorageFailed.
        """
        async with self.applier.exclusive:
            if self.state.unrestored and await self._take_state(accept_loss=accept_loss):
                if accept_loss:
                    self.snapshots.outdate()
                self.tell("restored", messages.Restored())

    def _work(self) -> None:
        """A turn: what is in the mailbox, and a tick if one is due."""
        now = self._time.now()
        if self._applied > self.state.applied:  # no rule waits for it, so it waits for a turn
            roles.step(self.state, messages.AppliedTo(self._applied), now)
        for message in self._mailbox.take():
            self._step(message, now)
        if now.monotonic >= self.state.deadline:
            self._step(messages.Tick(late=self._is_excused(now)), now)
        self._alarm.set(self.state.deadline)

    def _is_excused(self, now: Now) -> bool:
        """Whether a tick comes late because this node stood still. Once for each time a leader was heard, and
        never twice in a row: one that is always late must have its elections all the same."""
        heard = self.state.leader_contact
        late = now.monotonic - self.state.deadline > self.state.options.heartbeat
        excused = late and self._excused_since != heard
        self._excused_since = heard if excused else None
        return excused

    def _step(self, message: Message, now: Now) -> None:
        effects = roles.step(self.state, message, now)
        if self.listen is not None:
            for event in events_of(self.state, message, effects):
                self.listen(event)
        for effect in effects:
            self._carry_out(effect)
        if isinstance(message, messages.Synced):
            self._progress()

    def _carry_out(self, effect: Effect) -> None:
        match effect:
            case asks.Send():
                self._events.send(effect.peer, effect.message)
            case asks.Persist():
                self._persist(effect)
            case asks.Commit():
                self.applier.advance(self.applicable)
            case asks.Readable():
                self.applier.advance(self.applicable)
                self.repair.wake()
                self._progress()
            case asks.Sealed():
                self._sealed[effect.index] = effect.tokens
            case asks.Resolve():
                self._resolve(effect.token, effect.outcome)
            case asks.ReadReady():
                self._resolve(effect.token, Applied(effect.index))
            case asks.RoleChanged():
                self._events.on_role(self)
            case asks.Fetch():
                self._start_soon(self._fetch, effect)
            case asks.SendSnapshot():
                self._start_soon(self.snapshots.send, effect.peer)
            case asks.MembershipChanged():
                pass  # meta says who is a node, and so whom this one keeps links to
            case asks.ChangeRefused():
                self._log_refused(effect)
            case asks.Dropped():
                self._dropped += 1
                logger.warning("group %s: a message of %016x: %s", self.name, effect.peer, effect.reason)

    def _start_soon(self, work: Callable[[T], Awaitable[None]], argument: T) -> None:
        if self._nursery is not None:
            self._nursery.start_soon(work, argument)

    # --- effects ---------------------------------------------------------------------------------------

    def _persist(self, persist: asks.Persist) -> None:
        """One append, in the order of the fields; its replies leave after the sync, then the role learns of
        it."""
        group, incarnation = self.number, self.incarnation
        records: list[Record] = []
        if persist.truncate_from is not None:
            records.append(TruncateSuffix(group, incarnation, persist.truncate_from))
        if persist.compact is not None:
            compact = persist.compact
            records.append(
                CompactPrefix(group, incarnation, compact.index, compact.term, self.snapshots.manifest_crc)
            )
        records.extend(BatchRecord(batch) for batch in persist.batches)
        records.extend(BatchRecord(batch, repair=True) for batch in persist.repairs)
        if persist.hard_state is not None:
            hard = persist.hard_state
            closed = False if hard.readmitted else None
            records.append(HardState(group, incarnation, hard.term, hard.vote, hard.commit, closed))
        self._storage.append(records, partial(self._on_synced, persist))
        if not self._storage.credit():
            self._starved = True
            self._mailbox.mark("room", messages.StorageRoom(False))

    def on_credit(self) -> None:
        """Storage takes more again."""
        if self._starved:
            self._starved = False
            self._mailbox.mark("room", messages.StorageRoom(True))

    def _on_synced(self, persist: asks.Persist) -> None:
        for send in persist.release:
            self._events.send(send.peer, send.message)
        # A follower has nothing to do once its replies are out: it learns of the sync with the next message.
        follows = self.state.role in (Role.FOLLOWER, Role.LEARNER) and not self.state.mending
        self._mailbox.mark("synced", messages.Synced(persist.number), wake=not follows or self._watchers > 0)

    def _cached(self, first: int, last: int, max_bytes: int) -> Sequence[bytes]:
        return self.state.log.cached(first, max_bytes, last) or ()

    async def _read_committed(self, first: int, last: int, max_bytes: int) -> Sequence[bytes]:
        log = self.state.log
        cached = self._cached(first, last, max_bytes)
        if cached:
            return cached
        # Only what is no longer in memory is sure to lie on the disk as the log has it: a batch that took
        # another's place may be committed by the others while this disk still holds the old one.
        on_disk = min(last, log.cached_from - 1)
        return await self._storage.read_batches(self.number, first, on_disk, max_bytes)

    async def _fetch(self, fetch: asks.Fetch) -> None:
        batches: Sequence[bytes] = ()
        failed = False
        try:
            batches = await self._storage.read_batches(self.number, fetch.first, fetch.last, fetch.max_bytes)
        except StorageError as error:
            failed = True
            logger.warning(
                "group %s: reading from index %d for a peer failed: %s", self.name, fetch.first, error
            )
        self.tell(f"fetched {fetch.peer}", messages.Fetched(fetch.peer, fetch.first, tuple(batches), failed))

    def _on_applied(self, index: int, size: int, results: Results) -> None:
        self._applied = index
        self._batches += 1
        if self.listen is not None:
            replica = replica_of(self.state)
            self.listen(BatchApplied(**replica, index=index, rolling_hash=self.applier.rolling_hash))
        width = 8 if isinstance(results, bytes) else 1
        entries = len(results) // width
        self._entries += entries
        self.batch_sizes.observe(entries)
        if index in self._sealed:
            self.commit_seconds.observe((self._time.wall() - self.applier.applied_time) / 1e9)
        for token, start, count in self._sealed.pop(index, ()):
            self._resolve(token, Applied(index, results[start * width : (start + count) * width]))
        self.snapshots.on_applied(size)
        self._progress()

    def skip_to(self, index: int) -> None:
        """A snapshot covers everything up to `index`: what was sealed there may or may not be in it."""
        for covered in [sealed for sealed in self._sealed if sealed <= index]:
            for token, _, _ in self._sealed.pop(covered):
                self._resolve(token, Unknown(Reason.LEADERSHIP_LOST))
        self._progress()

    def _resolve(self, token: int, outcome: Outcome) -> None:
        done = self._waiting.pop(token, None)
        if done is not None:  # else whoever asked has stopped waiting; the entry stays what it is
            done(outcome)

    def _log_refused(self, refused: asks.ChangeRefused) -> None:
        """Rule S10: all that one needs to find out why a membership change was refused."""
        logger.warning(
            "membership change refused: %s account=$G group=%s node=%016x index=%d reserved=%d pending=%d",
            refused.reason,
            self.name,
            refused.node,
            refused.index,
            refused.reserved,
            refused.pending,
        )

    def _close(self) -> None:
        """Whoever waits gets an end: the rules say what is certain, the rest this node can't know any
        more."""
        self._closed = True
        try:
            ended = messages.StorageFailed() if self._storage.failed is not None else messages.Close()
            self._step(ended, self._time.now())
        except AssertionError as broken:  # it has stopped for this, and said so
            logger.debug("group %s: %s", self.name, broken)
        waiting, self._waiting = self._waiting, {}
        for done in waiting.values():
            done(Unknown(Reason.CLOSED))
        self._progress()
        self.machine.close()


async def _raise(error: Exception) -> None:
    raise error


def _first(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first of the errors, out of the nurseries that it came through."""
    found: BaseException = errors
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return found
