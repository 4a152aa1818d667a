"""A group's way back from damage: both ends of the conversation between replicas (DESIGN 5 and 6).

    what is wrong here                      what helps, in this order
    ------------------------------------    -----------------------------------------------------------------
    a batch of the log can't be read        own memory; an own manifest that covers it; any peer's copy;
                                            a new manifest, if it is applied; a peer's snapshot
    only a torn write had it                the same; or every other voter says that it does not have it
    a record of the machine's files         any peer's copy (`mender.py`)
    the machine's state can't be restored   any peer's copies of what its files lack; a peer's snapshot; if
                                            nobody has either, it starts without what is lost, and says so
    something that has no name              every other voter's term, and all that the leader has

No leader is needed: any two replicas that are damaged in different places heal each other. What comes from a
peer is compared with what the own log says of it, name and checksum, before it takes its place.

The rules (`healing.py`) decide what a damaged replica may do; this task only asks, and tells its group.
"""

from __future__ import annotations

import enum
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Final, cast

import trio

from ...codec import CodecError, verify_batch
from ...storage.actor import Storage
from ...storage.errors import Compacted, StorageError
from ...storage.index import Fault
from ..peers.requests import PeerLost, Refusal, describe, shaped
from ..raft import messages
from ..raft.log import Log
from .divergence import Divergence
from .machine import Patient
from .mender import Asks, Mender, Reach

if TYPE_CHECKING:
    from .group import Group

logger = logging.getLogger(__name__)

BATCHES: Final = "repair.batches"
STANDING: Final = "repair.standing"
SNAPSHOT: Final = "repair.snapshot"

ASK_SECONDS: Final = 5.0
EFFECT_SECONDS: Final = 2.0
"""For a repair to be synced; then it is looked at again."""
RETRY_SECONDS: Final = 0.5
"""Between two rounds of questions that led to nothing."""
TRANSFER_SECONDS: Final = 5.0
"""A promised snapshot of which nothing came for so long will not come."""
PATIENT_ROUNDS: Final = 3
"""So often records are asked for in vain before a whole snapshot is: peers may be starting, too."""
VAIN_ROUNDS: Final = 6
"""After so many rounds in vain, what everybody says that they don't have is lost."""
VAIN_SECONDS: Final = 10.0
"""Between two rounds after that."""
SHOWN: Final = 3
"""Reasons shown in one line."""
WAYS_OUT: Final = (
    "; no other replica can give it back: restore a backup, or stop this node and see `trimaran log repair`"
)
NUMBERS: Final = 1 << 20
"""More than a machine ever misses at a time."""
BATCHES_AT_ONCE: Final = 256
ANSWER_BYTES: Final = 4 << 20
"""An answer holds about this much, and at least one batch."""


class Verdict(enum.IntEnum):
    """What a replica says of a batch that another one asks for."""

    HELD = 1
    """Here it is."""
    ABSENT = 2
    """Not in this log: another batch, or nothing, is at that index."""
    DAMAGED = 3
    """It was here and can't be read."""
    DOUBTFUL = 4
    """It may have been here: only a torn write had it."""
    COMPACTED = 5
    """A snapshot covers it here."""
    LATER = 6
    """The answer is full: ask for it again."""


Answers = dict[int, dict[int, Verdict]]
"""index -> who said what about it."""


class Repair:
    """The repair task of one group. `attach` ties it to its group; `wake` says that something changed."""

    def __init__(self, storage: Storage, asks: Asks, reach: Reach, *, returns: bool = False) -> None:
        self.repaired = 0
        """Batches put back since the start."""
        self.given = 0
        """Batches given to other replicas."""
        self.waits_for = ""
        """What is still missing and who could help, for people; empty if nothing is."""
        self.wreck: Patient | None = None
        """The files from which the machine could not start, if they can be mended."""
        self.mender = Mender(asks, reach)
        self.divergence = Divergence(asks, reach)
        self._storage = storage
        self._asks = asks
        self._reach = reach
        self._returns = returns
        """The replica had given its copy up and was asked back: that it has no state is no damage."""
        self._wake = trio.Event()
        self._gave_up = False
        """Records were given up that others may have given up as well: the leader's state is to be taken."""
        self._vain = 0
        """Rounds in a row in which nobody could help."""
        self._group: Group

    def attach(self, group: Group) -> None:
        self._group = group
        self.mender.attach(group)
        group.machine.on_damage(self.wake)

    def wake(self) -> None:
        """More or less can be read than before, or another peer can be asked."""
        self._wake.set()

    @property
    def in_vain(self) -> bool:
        """Whether records of a machine that runs are damaged, and all members have said that they have none.

        Such a machine gives nobody a snapshot. Only a start of all of them gives the records up.
        """
        damage = self._group.machine.damage
        return not self._group.state.faulty and damage is not None and not damage.whole and self._vain > 0

    async def run(self) -> None:
        """Repair whenever the group is faulty, until cancelled."""
        while True:
            self._wake = trio.Event()
            damage = self._group.machine.damage
            whole = not self._group.state.faulty and (damage is None or damage.whole)
            if whole and not self._gave_up:
                self._note("")
                await self._wake.wait()
            elif not await self._try():
                with trio.move_on_after(RETRY_SECONDS if self._vain < VAIN_ROUNDS else VAIN_SECONDS):
                    await self._wake.wait()

    async def _try(self) -> bool:
        """One step towards being whole. False if there was none to take now."""
        group = self._group
        try:
            if group.state.unrestored:
                return await self._restore()
            if group.state.faulty:
                return await self._mend_log()
            return await (self._take_over() if self._gave_up else self._mend_files())
        except StorageError as error:  # no space for copies, most likely
            logger.error("group %s: repair goes on later: %s", group.name, error)
            return False

    async def _restore(self) -> bool:
        """The machine has no state: its files are mended, or replaced by a snapshot, or taken as they are."""
        group, wreck, divergence = self._group, self.wreck, self.divergence
        compacted = group.state.log.compacted.index
        if divergence.undecided:
            self._note(f"replicas differ at index {divergence.undecided}: it waits until most can be asked")
            return False
        if wreck is None:
            self._note(f"{self._why_lost()}: it waits for a snapshot")
            return await self._take_snapshot(max(compacted, divergence.rebuilt_from))
        self._note(_some(wreck.reasons))
        asked = await self.mender.ask(wreck, self._others())
        if wreck.whole:
            await group.start_over()
            return await self._settled()
        if asked.used:
            self._vain = 0
            return True
        self._vain += 1
        if self._others() and self._vain < PATIENT_ROUNDS:
            return False
        if await self._take_snapshot(compacted):
            return True
        if self._others() and (self._vain < VAIN_ROUNDS or not asked.answered >= self._others()):
            return False
        logger.error("group %s starts without what no replica has: %s", group.name, _some(wreck.reasons))
        await wreck.give_up(await wreck.missing(NUMBERS))
        await group.start_over(accept_loss=True)
        self._gave_up = bool(self._others())
        return await self._settled()

    async def _take_over(self) -> bool:
        """Replicas that gave records up may judge limits differently from now on, so that the state of the
        one that leads counts: the others take it over."""
        group = self._group
        snapshots, leader = group.snapshots, group.state.leader
        if leader == group.state.node:
            self._gave_up = False
            return True
        if not leader:
            return False
        installed, snapshots.supersede = snapshots.installed, leader
        try:
            question = [group.number, group.incarnation, group.state.log.compacted.index + 1]
            await self._asks.ask(leader, SNAPSHOT, question, ASK_SECONDS)
            self._gave_up = not await self._receive(lambda: snapshots.installed > installed)
        except (PeerLost, Refusal, trio.TooSlowError) as error:
            logger.info("group %s: its leader gives no snapshot: %s", group.name, describe(error))
        finally:
            snapshots.supersede = 0
        return not self._gave_up

    def _why_lost(self) -> str:
        if self.divergence.rebuilt_from:
            return f"it differed from the others at index {self.divergence.rebuilt_from}"
        return "it gave its copy up" if self._returns else "the state of its machine is lost"

    async def _mend_files(self) -> bool:
        """Records that can't be read come from whoever has them; the machine serves all others meanwhile."""
        damage = self._group.machine.damage
        assert damage is not None, "only a machine with files can miss some of them"
        self._note(_some(damage.reasons))
        asked = await self.mender.ask(damage, self._others())
        if asked.used:
            self._vain = 0
        elif asked.answered >= self._others():
            self._vain += 1
            await damage.give_up(await damage.missing(NUMBERS))
        return bool(asked.used)

    async def _mend_log(self) -> bool:
        group = self._group
        state = group.state
        faults = [fault for fault in self._storage.faults(group.number) if fault.index in state.log.holes]
        if not faults and state.forgetful:
            self._note(self._describe_nameless())
            return await self._be_readmitted()
        if not faults:
            return False  # known to the log, not yet to the disk
        first = faults[0]
        self._note(self._describe(faults))
        if self._from_memory(faults) or self._from_manifest(first.index):
            return await self._settled()
        copies, answers = await self._ask_all(faults[:BATCHES_AT_ONCE])
        if copies:
            logger.info("group %s: %d damaged batches come from peers", group.name, len(copies))
            group.tell("mended", messages.Mended(tuple(copies)))
            self.repaired += len(copies)
            return await self._settled()
        if first.index <= group.applier.applied:
            await group.snapshots.take()
            return self._from_manifest(first.index) and await self._settled()
        said = answers.get(first.index, {})
        if Verdict.COMPACTED in said.values():
            return await self._take_snapshot(first.index)
        if self._is_nowhere(faults, said):
            group.tell("absent", messages.Absent(first.index, first.term))
            return await self._settled()
        return False

    def _note(self, what: str) -> None:
        """Say it once: here, in /raftz and in /healthz."""
        if what != self.waits_for:
            name = self._group.name
            if self._returns:
                logger.info("group %s comes back to this node: %s", name, what or "it has a state again")
            elif what:
                logger.error("group %s is damaged on this node: %s", name, what)
            else:
                logger.warning("group %s is whole again on this node", name)
            self.waits_for = what

    def _describe(self, faults: Sequence[Fault]) -> str:
        first, last = faults[0], faults[-1]
        where = f"wal/{first.segment:016x}.wal, offset {first.offset}" if first.segment else "a torn write"
        what = (
            f"index {first.index}"
            if first is last
            else f"{len(faults)} of index {first.index} to {last.index}"
        )
        return f"{what} can't be read ({where}){'' if self._others() else WAYS_OUT}"

    def _describe_nameless(self) -> str:
        where = "; ".join(self._storage.recovered.losses)
        what = f"its log lost what nobody can name{f' ({where})' if where else ''}"
        return f"{what}: it waits for a leader and all other voters" if self._others() else what + WAYS_OUT

    async def _settled(self) -> bool:
        """Wait until what was told has had its effect, or should have."""
        self._wake = trio.Event()
        with trio.move_on_after(EFFECT_SECONDS):
            await self._wake.wait()
        return True

    # --- from here -------------------------------------------------------------------------------------

    def _from_memory(self, faults: Iterable[Fault]) -> bool:
        """What went bad on the disk may still be in the cache."""
        log = self._group.state.log
        copies = [batch for fault in faults if (batch := log.cached_one(fault.index)) is not None]
        if copies:
            self._group.tell("mended", messages.Mended(tuple(copies)))
            self.repaired += len(copies)
        return bool(copies)

    def _from_manifest(self, index: int) -> bool:
        """What a durable manifest of this node covers is not missed: the log just begins behind it."""
        manifest, log = self._group.snapshots.manifest, self._group.state.log
        if manifest is None or not index <= manifest.index <= log.last_index:
            return False
        self._group.tell("compacted", messages.Compacted(manifest.index, manifest.term))
        return True

    # --- from peers ------------------------------------------------------------------------------------

    def _others(self) -> frozenset[int]:
        state = self._group.state
        return state.membership.members - {state.node}

    async def _ask_all(self, faults: Sequence[Fault]) -> tuple[list[bytes], Answers]:
        """Copies of these batches from whoever has them, and what was said of the rest."""
        missing = {fault.index: fault for fault in faults}
        answers: Answers = {}
        copies: list[bytes] = []
        for peer in sorted(self._others()):
            if not missing or not self._reach.is_up(peer):
                continue
            try:
                for index, verdict, batch in await self._ask(peer, list(missing.values())):
                    if verdict is Verdict.HELD and is_copy(batch, missing[index]):
                        copies.append(batch)
                        del missing[index]
                    else:
                        answers.setdefault(index, {})[peer] = verdict
            except (PeerLost, Refusal, trio.TooSlowError) as error:
                logger.info(
                    "group %s: %s gives no copies: %s",
                    self._group.name,
                    self._reach.name_of(peer),
                    describe(error),
                )
        return copies, answers

    async def _ask(self, peer: int, faults: Sequence[Fault]) -> list[tuple[int, Verdict, bytes]]:
        """One question: (index, verdict, batch) for each of these. Refusal if the answer makes no sense."""
        group = self._group
        question = [group.number, group.incarnation, [[fault.index, fault.term] for fault in faults]]
        answer = await self._asks.ask(peer, BATCHES, question, ASK_SECONDS, list)
        said = [_said(each) for each in cast(list[object], answer)]
        return [(fault.index, verdict, batch) for fault, (verdict, batch) in zip(faults, said, strict=False)]

    def _is_nowhere(self, faults: Sequence[Fault], said: dict[int, Verdict]) -> bool:
        """Whether the first batch, which is in doubt, can be given up: all other voters lack it as well.

        Not while a batch is damaged that was certainly here: it might be a change of the voters. And not if a
        voter knows that it had the batch: then a majority may have had it.
        """
        state = self._group.state
        lacking = {peer for peer, verdict in said.items() if verdict in (Verdict.ABSENT, Verdict.DOUBTFUL)}
        return all(fault.doubtful for fault in faults) and state.membership.voters - {state.node} <= lacking

    async def _take_snapshot(self, at_least: int) -> bool:
        """Have a peer send its snapshot as of `at_least` or later. False if nobody did."""
        group = self._group
        for peer in sorted(self._others()):
            if not self._reach.is_up(peer):
                continue
            try:
                question = [group.number, group.incarnation, at_least]
                await self._asks.ask(peer, SNAPSHOT, question, ASK_SECONDS)
            except (PeerLost, Refusal, trio.TooSlowError) as error:
                logger.info(
                    "group %s: %s gives no snapshot: %s",
                    group.name,
                    self._reach.name_of(peer),
                    describe(error),
                )
                continue
            if await self._receive(lambda: self._helped(at_least)):
                return True
        return False

    async def _receive(self, helped: Callable[[], bool]) -> bool:
        """Wait for a promised snapshot while it comes in."""
        group = self._group
        while not helped():
            seen = group.snapshots.received_parts
            with trio.move_on_after(TRANSFER_SECONDS):
                await self._wake.wait()
                self._wake = trio.Event()
                continue
            if group.snapshots.received_parts == seen:
                return False
        return True

    def _helped(self, at_least: int) -> bool:
        state = self._group.state
        return not state.unrestored and at_least not in state.log.holes

    # --- readmission -----------------------------------------------------------------------------------

    async def _be_readmitted(self) -> bool:
        """Ask every other voter how far it is, and follow its leader up to there. False if one is missing.

        Only what is said now counts: all that this replica promised, it promised before it started.
        """
        group, state = self._group, self._group.state
        standings: list[tuple[int, int, bool]] = []
        voters = state.membership.voters - {state.node}
        for peer in sorted(voters):
            try:
                question = [group.number, group.incarnation]
                answer = await self._asks.ask(peer, STANDING, question, ASK_SECONDS, (int, int, bool))
            except (PeerLost, Refusal, trio.TooSlowError) as error:
                logger.info("group %s: %s does not say how far it is: %s", group.name, peer, describe(error))
                return False
            standings.append(cast(tuple[int, int, bool], tuple(cast(list[object], answer))))
        term = max((term for term, _, _ in standings), default=0)
        for known, last_index, leads in standings:
            if leads and known == term:
                return await self._follow(messages.Readmitted(term, last_index, voters))
        return False

    async def _follow(self, standing: messages.Readmitted) -> bool:
        with trio.move_on_after(EFFECT_SECONDS):
            await self._group.wait_synced(standing.index)
            self._group.tell("readmitted", standing)
            return await self._settled()
        return False

    def standing(self) -> tuple[int, int, bool]:
        """(term, last index, whether it leads) of this replica. Refusal if it can't trust that itself."""
        state = self._group.state
        if state.forgetful:
            raise Refusal("it does not know itself")
        return state.term, state.log.last_index, self._group.leads

    # --- for peers -------------------------------------------------------------------------------------

    async def give_batches(self, wanted: Sequence[tuple[int, int]]) -> list[tuple[Verdict, bytes]]:
        """What this replica has of these batches, given as (index, term); one answer for each."""
        answers: list[tuple[Verdict, bytes]] = []
        size = 0
        for index, term in wanted[:BATCHES_AT_ONCE]:
            if size >= ANSWER_BYTES:
                answers.append((Verdict.LATER, b""))
                continue
            answers.append(await self._give(index, term))
            size += len(answers[-1][1])
        self.given += sum(verdict is Verdict.HELD for verdict, _ in answers)
        return answers

    async def _give(self, index: int, term: int) -> tuple[Verdict, bytes]:
        log, number = self._group.state.log, self._group.number
        if (known := verdict_on(log, index, term, lambda: self._storage.faults(number))) is not None:
            return known, b""
        batch = log.cached_one(index)
        if batch is None:
            try:
                [batch] = await self._storage.read_batches(number, index, index, 1)
            except Compacted:
                return Verdict.COMPACTED, b""
            except StorageError as error:
                logger.warning("group %s: no copy of index %d for a peer: %s", self._group.name, index, error)
                return Verdict.DAMAGED, b""
        return Verdict.HELD, batch

    async def give_records(self, numbers: list[int]) -> list[tuple[int, bytes]]:
        """What of these records of the machine's files can be read here. Refusal if it has no files."""
        patient = self.wreck if self._group.state.unrestored else self._group.machine.damage
        if patient is None:
            raise Refusal("there are no records here")
        given = await self.mender.give(patient, numbers)
        behind = self._group.applier.applied < self._group.state.log.last_index
        if not given and behind and max(numbers, default=0) > patient.newest:
            # Not to have a record yet is no word that it is nowhere: the asker would give it up.
            raise Refusal("what is asked for may be in the log here, and is not applied yet")
        return given

    async def give_snapshot(self, peer: int, at_least: int) -> int:
        """Begin to send the newest snapshot, which is as of the index returned.

        Raises Refusal if it is too old; NotDone or StorageError if no newer one could be taken.
        """
        group = self._group
        damage = group.machine.damage
        if group.state.unrestored or (damage is not None and not damage.whole):
            raise Refusal("it is damaged here too")
        manifest = group.snapshots.manifest
        if manifest is not None and group.snapshots.outdated:
            at_least = max(at_least, manifest.index + 1)
        if manifest is None or manifest.index < at_least:
            if group.applier.applied < at_least:
                raise Refusal(f"this replica has applied {group.applier.applied} only")
            await group.take_snapshot()
            manifest = group.snapshots.manifest
        if manifest is None or manifest.index < at_least:
            raise Refusal("there is no snapshot yet")
        group.send_snapshot(peer)
        return manifest.index


def _some(reasons: Sequence[str]) -> str:
    """The first few of many reasons."""
    more = f", and {len(reasons) - SHOWN} more" if len(reasons) > SHOWN else ""
    return "; ".join(reasons[:SHOWN]) + more


def verdict_on(log: Log, index: int, term: int, faults: Callable[[], Iterable[Fault]]) -> Verdict | None:
    """What a replica says of a batch before it reads it; None: it should be here. `faults` are its log's."""
    if index <= log.compacted.index:
        return Verdict.COMPACTED
    if log.term_at(index) != term:
        return Verdict.ABSENT
    if index in log.holes:
        doubtful = any(fault.doubtful for fault in faults() if fault.index == index)
        return Verdict.DOUBTFUL if doubtful else Verdict.DAMAGED
    return None


def is_copy(batch: bytes, fault: Fault) -> bool:
    """Whether these bytes are the very batch that is missing: sound, with its name and its checksum."""
    try:
        header = verify_batch(batch)
    except CodecError:
        return False
    named = (header.index, header.term) == (fault.index, fault.term)
    return named and fault.crc in (0, header.header_crc)


def _said(answer: object) -> tuple[Verdict, bytes]:
    """A peer's word on one batch. Refusal if it makes no sense."""
    verdict, batch = cast(tuple[int, bytes], tuple(cast(list[object], shaped(answer, (int, bytes)))))
    if verdict not in set(Verdict):
        raise Refusal(f"its answer makes no sense: verdict {verdict}")
    return Verdict(verdict), batch
