"""Turns: an actor's work runs in the pass that gave it something to do, not in a task to be woken first.

A *pass* is what follows from one thing that came from outside: bytes of a client or a peer, an ended sync, an
alarm. Whoever receives it says `through(work)`. What that work puts into actors' mailboxes, and what these
put into others', is done before `through` returns: each actor that has something to do gets a turn, one after
another, in the order of `Order` and of asking. So a message costs the calls that it needs, where waking a
task for each actor on its way would cost a turn of the event loop every time. What an actor gives to one that
is earlier in that order waits until all that are later have had their turns: a hundred groups that apply give
a link a hundred answers to send at once.

    socket, disk, clock -> pass:  work -> group -> link -> storage -> applier -> gateway -> (nobody is due)

Nothing else changes about an actor. It alone touches what it owns. Its work never runs inside another one's,
since turns are taken one after another and never called by whoever makes them due. And it still has a task:
that does what has to wait (`rest`), takes the turn itself if it became due outside of any pass, and ends with
what a turn raised, so that a failure stays with the actor that failed.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import outcome
import trio

Result = TypeVar("Result")


class Order(enum.IntEnum):
    """Who is first when several are due: decisions before all, then what others wait for the longest."""

    DECIDE = 0
    """Groups: all that came in is decided upon before anything of it leaves."""
    SEND = 1
    """Links: other nodes' disks can begin."""
    STORE = 2
    """Storage: this node's disk can begin."""
    APPLY = 3
    ANSWER = 4
    """The gateway: one send for all that a pass brought a client."""


class Turns:
    """The turns of one node's actors. Everything here happens on one event loop, and nothing of it waits."""

    def __init__(self) -> None:
        self._due: Final[tuple[deque[Turn], ...]] = tuple(deque() for _ in Order)
        self._passing = False
        self._taken: Turn | None = None
        """Whose turn it is."""
        self._passes = 0

    def through(self, work: Callable[..., Result], *args: object) -> Result:
        """Do `work`, then give turns until nobody is due, also if it raises. Within a pass: as part of it."""
        if self._passing:
            return work(*args)
        self._passing = True
        self._passes += 1
        try:
            return work(*args)
        finally:
            self._give()
            self._passing = False

    def add(self, turn: Turn, order: Order) -> bool:
        """Put a turn that became due in its place. True: a pass is under way, so it is given in any case."""
        self._due[order].append(turn)
        return self._passing

    @property
    def current(self) -> int:
        """The number of the pass that is under way; 0: none is."""
        return self._passes if self._passing else 0

    def _give(self) -> None:
        # One capture for all turns up to one that raises: one for each would cost as much as a short turn.
        # An abstract base class makes isinstance ten times as slow as a comparison of types.
        while type(taken := outcome.capture(self._give_all)) is outcome.Error:
            assert self._taken is not None, "a turn raised, and it was nobody's"
            self._taken.end(taken)

    def _give_all(self) -> None:
        due = self._due
        while any(due):
            for waiting in due:
                while waiting:
                    self._taken = turn = waiting.popleft()
                    turn.take()


class Turn:
    """One actor's turns.

    Args:
        work: what a turn does. It doesn't wait; what it raises ends `run`.
    """

    __slots__ = ("_broken", "_is_due", "_order", "_runs", "_turns", "_unfinished", "_wake", "_work")

    def __init__(self, turns: Turns, order: Order, work: Callable[[], None]) -> None:
        self._turns = turns
        self._order = order
        self._work = work
        self._wake = trio.Event()
        self._runs = False
        self._is_due = False
        self._unfinished = False
        self._broken: outcome.Error | None = None

    def due(self) -> None:
        """The actor has something to do. It has one turn for any number of calls before it."""
        if not self._is_due:
            self._is_due = True
            if self._runs and not self._turns.add(self, self._order):
                self._wake.set()

    def leave(self) -> None:
        """To be called by `work`: what is left to do has to wait for something, so it is for `rest`."""
        self._unfinished = True
        self._wake.set()

    def take(self) -> None:
        """Have the turn that is due. For `Turns` alone, which hears what it raises."""
        if not self._runs:
            return  # it stays due
        self._is_due = False
        if self._broken is None:
            self._work()

    def end(self, why: outcome.Error) -> None:
        """There are no more turns, and `run` ends with what this one raised. For `Turns` alone."""
        self._broken = why
        self._wake.set()

    async def run(self, rest: Callable[[], Awaitable[None]] | None = None) -> None:
        """Take turns until cancelled, and none before or after. Raises what a turn raised.

        Args:
            rest: what has to wait; turns are taken meanwhile.
        """
        self._runs, self._broken = True, None
        if self._is_due:
            self._is_due = False
            self.due()
        try:
            while True:
                await self._wake.wait()
                self._wake = trio.Event()
                self._turns.through(_nothing)
                if self._broken is not None:
                    self._broken.unwrap()
                if self._unfinished and rest is not None:
                    self._unfinished = False
                    await rest()
        finally:
            self._runs = False


def _nothing() -> None:
    """A pass for what is due already."""
