"""Linearizable reads from any node that hosts a replica (thesis 6.4).

A read asks the group's leader for a *read index*: what was committed when the read began, confirmed by a
majority that still takes this leader for the leader. The own replica then shows it as soon as it has applied
up to there. Readers of one node that wait at the same time share one question, and at the leader all
questions share one exchange of heartbeats, so the cost does not grow with the readers.

There are no lease reads: a lease trusts that no two clocks drift apart and that no process is stopped for
longer than the lease, and a round of heartbeats costs one round trip and no disk.
"""

import logging
from typing import Final, cast

import trio

from .groups import Groups
from .peers.requests import NotHere, PeerLost, Refusal, Requests
from .raft.outcomes import NotApplied, Reason
from .replica.group import Group, NotDone

logger = logging.getLogger(__name__)

READ_INDEX: Final = "read_index"
READ_SECONDS: Final = 5.0  # several elections; then the reader learns that nobody leads, or answers
ANSWER_SECONDS: Final = 1.0  # a leader that is silent for longer is being replaced: ask again
RETRY_SECONDS: Final = 0.02


class _Reader:
    """One read that waits for its index."""

    def __init__(self) -> None:
        self.index = 0
        self.done = trio.Event()


class Reads:
    """Owned by the node. Asks for read indexes here, and answers the other nodes' questions for one."""

    def __init__(self, groups: Groups, requests: Requests) -> None:
        self._groups = groups
        self._requests = requests
        self._waiting: dict[int, list[_Reader]] = {}  # has a group's number exactly while a task asks for it
        self._nursery: trio.Nursery | None = None
        requests.handle(READ_INDEX, self._on_read_index, (int, int))

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            try:
                await trio.sleep_forever()
            finally:
                self._nursery = None  # others of the node may still ask while it ends

    async def barrier(self, number: int) -> None:
        """Return once the replica on this node shows everything that was acknowledged before the call.

        Raises:
            LookupError: this node hosts no replica of the group.
            NotDone: no leader confirmed the read in time, or the replica didn't get there. Safe to repeat.
        """
        group = self._groups.get(number)
        if group is None:
            raise LookupError("this node hosts no replica of the group")
        with trio.move_on_after(READ_SECONDS):
            await group.wait_applied(await self._index(number))
            return
        known = self._groups.leadership(number) is not None
        raise NotDone(NotApplied(Reason.NO_ANSWER if known else Reason.NO_LEADER))

    async def _index(self, number: int) -> int:
        """A read index for a read that begins now: never that of a question which is already on its way."""
        reader = _Reader()
        if number in self._waiting:
            self._waiting[number].append(reader)
        else:
            if self._nursery is None:
                raise NotDone(NotApplied(Reason.CLOSED))
            self._waiting[number] = [reader]
            self._nursery.start_soon(self._serve, number)
        await reader.done.wait()
        return reader.index

    async def _serve(self, number: int) -> None:
        """Ask, for all who wait by now, until nobody waits any more."""
        while self._waiting[number]:
            readers, self._waiting[number] = self._waiting[number], []
            with trio.move_on_after(READ_SECONDS):  # by then these readers have given up
                index = await self._ask(number)
                for reader in readers:
                    reader.index = index
                    reader.done.set()
        del self._waiting[number]

    async def _ask(self, number: int) -> int:
        """Ask whoever leads until one confirms: a read changes nothing, so it may be asked again."""
        while True:
            leader = self._groups.leadership(number)
            group = self._groups.get(number)
            if leader is None or group is None:
                await self._groups.wait_leader_change()
                continue
            try:
                if leader.node == self._groups.me:
                    return await group.read_index()
                question = [number, group.incarnation]
                answer = await self._requests.ask(leader.node, READ_INDEX, question, ANSWER_SECONDS, int)
                return cast(int, answer)
            except (NotDone, Refusal, PeerLost, trio.TooSlowError) as error:
                logger.debug("group %d: no read index from %016x: %s", number, leader.node, error)
                await trio.sleep(RETRY_SECONDS)

    async def _on_read_index(self, asker: int, argument: object) -> object:
        number, incarnation = cast(list[int], argument)
        group: Group | None = self._groups.get(number)
        if group is None or group.incarnation != incarnation:
            raise NotHere("the group is not hosted here")
        try:
            return await group.read_index()
        except NotDone as refused:
            raise NotHere(str(refused)) from None
