"""Replicas that should be equal and are not: found at snapshots, judged by majority, rebuilt (DESIGN 6).

Whenever a leader takes a snapshot, the log says its index and the rolling hash of all batches up to it. Each
replica that applies that entry compares it with what it had there itself. Whoever differs asks all others:

    a majority of the voters has another one   this replica is the odd one: it gives its state up, which is
                                               kept as evidence, and gets a snapshot
    a majority has what this replica has       it goes on; the one that differs is asked too, and so learns it
    neither, for now                           unless it leads it stands back, with its state: it neither
                                               votes nor counts for commit until enough of them are reached

So two replicas that differ and a third that is away serve nothing: nobody could say who is right.
"""

from __future__ import annotations

import logging
from collections import Counter
from typing import TYPE_CHECKING, Final, cast

import msgpack
import trio

from ...codec import Chunk, Entries, EntryType, make_chunk
from ..peers.requests import PeerLost, Refusal, describe
from ..raft import messages
from ..raft.events import Diverged, replica_of
from .mender import Asks, Reach

if TYPE_CHECKING:
    from .group import Group

logger = logging.getLogger(__name__)

HASHES: Final = "compare.hashes"
ASK_SECONDS: Final = 5.0
RETRY_SECONDS: Final = 1.0
NOTED: Final = 64
"""Announced indexes of which the own hash is remembered: whoever asks, asks soon."""


def announcement(index: int, term: int, rolling_hash: int) -> Chunk:
    """What a snapshot entry says of the manifest that was taken: no data."""
    fields = {"v": 1, "index": index, "term": term, "hash": rolling_hash}
    return make_chunk([(EntryType.OPAQUE, cast(bytes, msgpack.packb(fields)))])


class Divergence:
    """Compares one replica with the others. `attach` ties it to its group; `run` until cancelled."""

    def __init__(self, asks: Asks, reach: Reach) -> None:
        self.compared = 0
        """Announced hashes that this replica could compare with its own."""
        self.found = 0
        """How often this replica turned out to be the odd one."""
        self.undecided = 0
        """The index at which replicas differ and nobody could say yet who is right; 0 if there is none.

        Also where this replica leads on: it commits nothing, and says why."""
        self.rebuilt_from = 0
        """A snapshot must reach this far to be believed; 0 if any will do."""
        self._asks = asks
        self._reach = reach
        self._noted: dict[int, int] = {}
        self._suspects: list[int] = []
        self._stands_back = False
        """Its state is kept and not used, until it is known who is right."""
        self._told: set[int] = set()
        self._event = trio.Event()
        self._group: Group

    def attach(self, group: Group) -> None:
        self._group = group
        group.applier.on_announced = self._on_announced

    def _on_announced(self, entries: Entries) -> None:
        """A snapshot entry was reached: (index, hash) of the one who led then."""
        try:
            fields = msgpack.unpackb(entries.entry(0))
            index, theirs = int(fields["index"]), int(fields["hash"])
        except (ValueError, KeyError, TypeError, IndexError, msgpack.UnpackException):
            logger.warning("group %s: a snapshot entry can't be read", self._group.name)
            return
        mine = self._group.applier.hash_at(index)
        if mine is None:
            return  # it has begun behind that index
        self.compared += 1
        self._note(index, mine, theirs)

    def answer(self, index: int, theirs: int) -> list[int]:
        """What this replica has at an index: [hash], or nothing if it can't tell any more."""
        mine = self._noted.get(index, self._group.applier.hash_at(index))
        if mine is None or (self._group.state.unrestored and not self._stands_back):
            return []
        self._note(index, mine, theirs)
        return [mine]

    def _note(self, index: int, mine: int, theirs: int) -> None:
        """Remember what this replica had at an index, and clear it up if another one had something else."""
        self._noted[index] = mine
        while len(self._noted) > NOTED:
            del self._noted[min(self._noted)]
        if mine != theirs and index not in self._suspects:
            self._suspects.append(index)
            self._event.set()

    async def run(self) -> None:
        """Clear up each suspicion, until cancelled."""
        while True:
            await self._event.wait()
            self._event = trio.Event()
            while self._suspects:
                index = self._suspects[0]
                if await self._clear_up(index):
                    self._suspects = [each for each in self._suspects if each != index]
                else:
                    await trio.sleep(RETRY_SECONDS)

    async def _clear_up(self, index: int) -> bool:
        """Whether it is settled who is right at an index."""
        group = self._group
        mine = self._noted.get(index)
        if mine is None or (group.state.unrestored and not self._stands_back):
            return True  # what it had then is gone already
        voters = group.state.membership.voters
        hashes = {group.state.node: mine} if group.state.node in voters else {}
        for peer in sorted(group.state.membership.members - {group.state.node}):
            answer = await self._ask(peer, index, mine)
            if answer is not None and peer in voters:
                hashes[peer] = answer
        agreed = [each for each, count in Counter(hashes.values()).items() if 2 * count > len(voters)]
        if not agreed:
            self._stand_back(index)
            return False
        if agreed[0] == mine:
            logger.error("group %s: another replica differs at index %d", group.name, index)
            self._come_back()
        else:
            await self._give_up_state(index, mine)
        return True

    async def _ask(self, peer: int, index: int, mine: int) -> int | None:
        """A peer's hash at an index; None if it does not say."""
        if not self._reach.is_up(peer):
            return None
        group = self._group
        question = [group.number, group.incarnation, index, mine]
        try:
            answer = cast(list[object], await self._asks.ask(peer, HASHES, question, ASK_SECONDS, list))
        except (PeerLost, Refusal, trio.TooSlowError) as error:
            name = self._reach.name_of(peer)
            logger.info("group %s: %s does not say its hash: %s", group.name, name, describe(error))
            return None
        return answer[0] if answer and isinstance(answer[0], int) else None

    def _stand_back(self, index: int) -> None:
        """Nobody can say who is right. A leader leads on: without a majority of equals it commits nothing."""
        group = self._group
        names = (group.name, index)
        if index not in self._told:
            self._told.add(index)
            logger.critical("group %s: replicas differ at index %d, nobody can say who is right", *names)
        self.undecided = index
        if not self._stands_back and not group.leads:
            self._stands_back = True
            group.tell("unrestored", messages.Unrestored())

    def _come_back(self) -> None:
        self.undecided = 0
        if self._stands_back:
            self._stands_back = False
            self._group.tell("unrestored", messages.Restored())

    async def _give_up_state(self, index: int, mine: int) -> None:
        group = self._group
        logger.critical("group %s: this replica differs from the others at index %d", group.name, index)
        self.found += 1
        if group.listen is not None:
            group.listen(Diverged(**replica_of(group.state), index=index, rolling_hash=mine))
        self.rebuilt_from = index
        await group.give_up_state()
        self._noted.clear()  # what it had is no longer what it has
        self._suspects.clear()
        self.undecided = 0
        self._stands_back = False
        group.repair.wake()
