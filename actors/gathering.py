"""Single entries that many tasks of this program propose at once: those for one group leave as one chunk.

A task that proposes gives the others their turn while it waits. What all of them have proposed by then costs
one chunk, one place in the leader's queue and one answer, instead of one for each.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

import trio
from outcome import Value

from ..codec import Chunk, EntryType, make_chunk_of
from ..storage.turns import Order, Turn, Turns
from .proposals import Done
from .raft.outcomes import Applied, NotApplied, Outcome, Reason, Unknown

CHUNK_BYTES: Final = 64 * 1024
"""Entries gathered into one chunk; one that is larger than a quarter of it has a chunk of its own."""
CHUNK_ENTRIES: Final = 4096


class Proposer(Protocol):
    """Where chunks go: `Proposals`."""

    def propose(self, group: int, chunk: Chunk, done: Done) -> None: ...


class _Waiter:
    """One entry and the task that waits for its end, unless it has given up."""

    __slots__ = ("entry", "task")

    def __init__(self, entry: bytes) -> None:
        self.entry = entry
        self.task: trio.lowlevel.Task | None = trio.lowlevel.current_task()

    def end(self, outcome: Outcome) -> None:
        task, self.task = self.task, None
        if task is not None:
            trio.lowlevel.reschedule(task, Value(outcome))

    def give_up(self, _: Callable[[], None]) -> trio.lowlevel.Abort:
        """The task is cancelled: the entry stays what it is."""
        self.task = None
        return trio.lowlevel.Abort.SUCCEEDED


class Gathering:
    """Owned by the node, which runs it; `propose` is for any task of the same event loop."""

    def __init__(self, proposals: Proposer, turns: Turns) -> None:
        self._proposals = proposals
        self._open: dict[int, list[_Waiter]] = {}
        self._sizes: dict[int, int] = {}
        self._turn = Turn(turns, Order.DECIDE, self._propose_all)
        self._closed = False

    async def run(self) -> None:
        """Propose until cancelled; what was not proposed by then has its end, and so has all that comes."""
        try:
            await self._turn.run()
        finally:
            self._closed = True
            for waiters in self._open.values():
                _end_all(waiters, NotApplied(Reason.CLOSED))
            self._open.clear()

    async def propose(self, group: int, entry: bytes) -> Outcome:
        """Replicate one entry, and wait; cancelling abandons the waiting only. *Applied* has its result."""
        if self._closed:
            await trio.lowlevel.checkpoint()
            return NotApplied(Reason.CLOSED)
        waiter = _Waiter(entry)
        self._add(group, waiter)
        outcome: Outcome = await trio.lowlevel.wait_task_rescheduled(waiter.give_up)
        return outcome

    def _add(self, group: int, waiter: _Waiter) -> None:
        size = len(waiter.entry)
        waiting = self._open.setdefault(group, [])
        held = self._sizes.get(group, 0)
        if waiting and (
            size > CHUNK_BYTES // 4 or held + size > CHUNK_BYTES or len(waiting) >= CHUNK_ENTRIES
        ):
            self._propose(group)
            waiting, held = self._open.setdefault(group, []), 0
        waiting.append(waiter)
        self._sizes[group] = held + size
        if size > CHUNK_BYTES // 4:
            self._propose(group)
        else:
            self._turn.due()

    def _propose_all(self) -> None:
        for group in list(self._open):
            self._propose(group)

    def _propose(self, group: int) -> None:
        waiters = self._open.pop(group, [])
        self._sizes.pop(group, None)
        if waiters:
            self._send(group, waiters)

    def _send(self, group: int, waiters: list[_Waiter]) -> None:
        chunk = make_chunk_of(EntryType.OPAQUE, [waiter.entry for waiter in waiters])

        def done(outcome: Outcome) -> None:
            refused = isinstance(outcome, NotApplied) and outcome.reason is Reason.TOO_LARGE
            if refused and len(waiters) > 1:
                for waiter in waiters:  # nothing of it is in any log, and alone each may fit
                    self._send(group, [waiter])
            else:
                _end_all(waiters, outcome)

        self._proposals.propose(group, chunk, done)


def _end_all(waiters: list[_Waiter], outcome: Outcome) -> None:
    """Give each its own result, or all the one end that they share."""
    if not isinstance(outcome, Applied):
        for waiter in waiters:
            waiter.end(outcome)
        return
    results = outcome.result
    if not isinstance(results, list) or len(results) != len(waiters):
        _end_all(waiters, Unknown(Reason.UNREADABLE_ANSWER))
        return
    for waiter, result in zip(waiters, results, strict=True):
        waiter.end(Applied(outcome.index, result))
