"""Clients of a simulated cluster: they append, append in sessions, write and read registers, and check what
they are told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import inf
from random import Random
from typing import TYPE_CHECKING

from ..actors.raft.messages import Propose, ProposeTick, ReadIndex
from ..actors.raft.outcomes import Applied, NotApplied, Outcome
from ..actors.replica.sessions import Operation as SessionOperation
from ..actors.replica.sessions import SessionEntry, SessionStatus
from ..actors.replica.user_machine import StateMachine
from ..codec import EntryType, make_chunk
from .checks import require
from .journal import OPERATION, Journal
from .registers import Operation

if TYPE_CHECKING:
    from .cluster import Cluster
    from .process import Process

REGISTERS = 3
SESSIONS = 2
OPEN_APPENDS = 3
"""Of a session, without an answer."""
AGAIN = 0.05
"""Seconds after which a session repeats what has no answer."""


class Clients:
    """Everyone who uses the cluster. All of them stop when the faults end.

    Attributes:
        appends: entries that were acknowledged.
        operations: what was begun.
        history: what was done to the registers.
    """

    def __init__(self, cluster: Cluster, draw: Random) -> None:
        self.appends = 0
        self.operations = 0
        self.history: list[Operation] = []
        self.sessions = [Session(self) for _ in range(SESSIONS)]
        self._cluster = cluster
        self._draw = draw
        self._tokens = 0
        self.stopped = False
        self.command: Callable[[Random], bytes] | None = None
        """Draws what is appended, if the machine is not a `Journal`."""

    @property
    def cluster(self) -> Cluster:
        return self._cluster

    def token(self, count: int = 1) -> int:
        """The first of `count` fresh tokens."""
        first = self._tokens + 1
        self._tokens += count
        return first

    def node(self) -> Process | None:
        """Whom a client asks: the leader, somebody who thinks that he leads, or anyone."""
        up = self._cluster.up()
        leaders = [process for process in up if process.leads]
        chance = self._draw.random()
        if leaders and chance < 0.92:
            newest = self._cluster.leader()
            return newest if chance < 0.6 else self._draw.choice(leaders)
        return self._draw.choice(up) if up else None

    # --- appends --------------------------------------------------------------------------------------------

    def append(self, node: Process | None = None) -> None:
        """One to a dozen entries at once, all or none; where a client finds it best, or at this node."""
        node, draw = node or self.node(), self._draw
        if node is None or self.stopped:
            return
        count = draw.choice((1, 1, 2, 4, 12))
        token = self.token(count)
        size = draw.choice((0, 0, 20, 200))
        entries = [self.entry(token + each, size) for each in range(count)]
        chunk = make_chunk([(EntryType.OPAQUE, entry) for entry in entries])
        term = node.state.term if node.state is not None and draw.random() < 0.2 else 0
        if term and draw.random() < 0.3:
            term -= 1  # somebody who has not heard of the newest leader
        self._begin(token, count, term)
        node.ask(token, Propose(chunk, token, term), lambda outcome: self._appended(token, outcome))

    def entry(self, token: int, size: int = 0) -> bytes:
        """What a client may propose, with so many bytes more than it needs."""
        if self.command is not None:
            return self.command(self._draw)
        return OPERATION.pack(token, 0) + bytes(size)

    def _begin(self, token: int, count: int = 1, term: int = 0) -> None:
        self.operations += 1
        self._cluster.checks.begin(token, self._cluster.heap.time, count, term)

    def _appended(self, token: int, outcome: Outcome) -> None:
        checks = self._cluster.checks
        asked = checks.end(token, outcome)
        if isinstance(outcome, Applied):
            checks.check_acknowledged(token, outcome, asked)
            self.appends += asked.count

    def tick(self) -> None:
        """Move the log's clock."""
        node = self.node()
        if node is not None:
            token = self.token()
            self._begin(token)
            node.ask(token, ProposeTick(token), lambda outcome: self._ended(token, outcome))

    def _ended(self, token: int, outcome: Outcome) -> None:
        self._cluster.checks.end(token, outcome)

    # --- registers ------------------------------------------------------------------------------------------

    def write(self) -> None:
        """Put a fresh value into a register."""
        node = self.node()
        if node is None:
            return
        token, register = self.token(), self._draw.randint(1, REGISTERS)
        chunk = make_chunk([(EntryType.OPAQUE, OPERATION.pack(token, register))])
        self._begin(token)
        began = self._cluster.heap.time

        def written(outcome: Outcome) -> None:
            self._appended(token, outcome)
            if not isinstance(outcome, NotApplied):
                ended = self._cluster.heap.time if isinstance(outcome, Applied) else inf
                self.history.append(Operation(register, token, True, began, ended))

        node.ask(token, Propose(chunk, token), written)

    def read(self, node: Process | None = None) -> None:
        """Read a register where it is linearizable; where a client finds it best, or at this node."""
        node = node or self.node()
        if node is None:
            return
        token, register = self.token(), self._draw.randint(1, REGISTERS)
        self._begin(token)
        began = self._cluster.heap.time

        def shown(machine: StateMachine) -> None:
            if isinstance(machine, Journal):
                value = machine.registers.get(register)
                ended = self._cluster.heap.time
                self.history.append(Operation(register, value, False, began, ended))

        def answered(outcome: Outcome) -> None:
            if isinstance(outcome, Applied):
                self._cluster.checks.check_read(token, outcome.index)
                node.read_at(outcome.index, shown)
            else:
                self._cluster.checks.end(token, outcome)

        node.ask(token, ReadIndex(token), answered)


@dataclass(slots=True)
class _Open:
    """A session's append without an answer."""

    data: bytes
    sequence: int
    """The highest sequence acknowledged when it began."""


class Session:
    """One client that repeats what has no answer, and is applied exactly once all the same. It has a few
    appends open at a time; they may be applied in any order."""

    def __init__(self, clients: Clients) -> None:
        self._clients = clients
        self._id = 0
        self._opening = False
        self._number = 0
        self._open: dict[int, _Open] = {}

    @property
    def idle(self) -> bool:
        return not self._open and not self._opening

    def next(self) -> None:
        """Begin the next append, or open the session first."""
        clients = self._clients
        if clients.stopped or self._opening or len(self._open) >= OPEN_APPENDS:
            return
        if not self._id:
            self._opening = True
            self._ask_to_open()
            return
        self._number += 1
        data = OPERATION.pack(clients.token(), 0)
        self._open[self._number] = _Open(data, clients.cluster.checks.acknowledged)
        clients.operations += 1
        self._try(self._id, self._number)

    def _ask_to_open(self) -> None:
        self._ask(SessionEntry(SessionOperation.OPEN), self._ask_to_open, self._opened)

    def _opened(self, outcome: Applied) -> None:
        status, value = _answer(outcome)
        require(status == SessionStatus.APPLIED and value, "exactly once", "a session was not opened")
        self._id, self._opening = value, False

    def _try(self, session: int, number: int) -> None:
        asked = self._open.get(number)
        if asked is None or session != self._id:
            return
        floor = min(self._open)
        entry = SessionEntry(SessionOperation.APPLY, session, number, floor, asked.data)
        again = partial(self._try, session, number)
        self._ask(entry, again, partial(self._answered, session, number))

    def _ask(
        self, entry: SessionEntry, again: Callable[[], None], applied: Callable[[Applied], None]
    ) -> None:
        """Propose it until it is applied."""
        clients, cluster = self._clients, self._clients.cluster
        node = clients.node()
        if node is None:
            cluster.heap.after(AGAIN, again)
            return
        token = clients.token()
        cluster.checks.begin(token, cluster.heap.time)

        def ended(outcome: Outcome) -> None:
            cluster.checks.end(token, outcome)
            if isinstance(outcome, Applied):
                applied(outcome)
            else:
                cluster.heap.after(AGAIN, again)

        node.ask(token, Propose(make_chunk([(EntryType.SESSION, entry.encode())]), token), ended)

    def _answered(self, session: int, number: int, outcome: Applied) -> None:
        cluster = self._clients.cluster
        status, value = _answer(outcome)
        asked = self._open.get(number)
        if asked is None or session != self._id:
            return
        if status == SessionStatus.EXPIRED and cluster.struck["clock jump"]:
            # An hour of the log's clock went by: whether these were applied stays open.
            self._id, self._number, self._open = 0, 0, {}
            return
        known = status in (SessionStatus.APPLIED, SessionStatus.REPEATED)
        require(known, "exactly once", "session", session, number, "is answered", status, value)
        require(value > asked.sequence, "sequence", "session", session, value, "after", asked.sequence)
        cluster.checks.acknowledged = max(cluster.checks.acknowledged, value)
        self._clients.appends += 1
        del self._open[number]


def _answer(outcome: Applied) -> tuple[int, int]:
    """Status and value of a session's entry."""
    result = outcome.result
    assert isinstance(result, list)
    status, value = result[0]
    return status, value
