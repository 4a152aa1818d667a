"""The rules that no Raft group may ever break, checked on the events of one node or of a whole cluster.

| name | says |
|---|---|
| election safety | at most one leader in a term (Raft 5.2) |
| one vote | a running replica votes for one candidate in a term, and its term never falls (Raft 5.2) |
| leader append-only | a leader never truncates its own log (Raft 5.3) |
| log matching | no two batches share (index, term) and differ, and each follows its predecessor (Raft 5.3) |
| leader completeness | a leader has what was committed in an earlier term (Raft 5.4.3) |
| own term | what a leader commits last is of its own term (Raft 5.4.2) |
| state machine safety | no two replicas commit different batches at an index, or differ (Raft 5.4.3) |
| commit monotone | the commit index of a running replica never falls, and never passes the end of its log |

In tests one checker hears all nodes. In production (option `check_invariants`) each node's checker hears its
own: it still sees two leaders of a term, a log that contradicts itself, and a leader or a commit that goes
back. What it remembers of a group is bounded; what it has forgotten it doesn't judge.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, TypeVar

from .events import (
    Appended,
    BatchApplied,
    Committed,
    Compacted,
    Event,
    Installed,
    RoleTaken,
    Started,
    Truncated,
    Voted,
)
from .log import EntryId
from .state import Role

Key = TypeVar("Key")
Fact = TypeVar("Fact")

MEMORY: Final = 4096
"""Indexes of one group that are remembered: more than followers are usually behind."""


@dataclass(frozen=True, slots=True)
class Violation:
    """A rule of the table above was broken. Nothing is certain in this group any more."""

    rule: str
    event: Event
    facts: str

    def __str__(self) -> str:
        event = self.event
        return f"{self.rule}: group {event.group}, node {event.node:016x}: {self.facts}"


class _Terms:
    """The term of every index in one replica's log, as its events tell."""

    def __init__(self, compacted: EntryId, last_index: int, terms: tuple[tuple[int, int], ...]) -> None:
        self.compacted = compacted
        self.last_index = last_index
        self._starts = [start for start, _ in terms]
        self._terms = [term for _, term in terms]

    def at(self, index: int) -> int | None:
        if index == self.compacted.index:
            return self.compacted.term
        if not self.compacted.index < index <= self.last_index:
            return None
        return self._terms[bisect_right(self._starts, index) - 1]

    def append(self, index: int, term: int) -> None:
        if not self._terms or self._terms[-1] != term:
            self._starts.append(index)
            self._terms.append(term)
        self.last_index = index

    def truncate_from(self, index: int) -> None:
        while self._starts and self._starts[-1] >= index:
            self._starts.pop()
            self._terms.pop()
        self.last_index = min(self.last_index, index - 1)

    def compact(self, to: EntryId) -> None:
        run = bisect_right(self._starts, to.index + 1) - 1
        del self._starts[: max(0, run)], self._terms[: max(0, run)]
        self.compacted = to

    def reset(self, to: EntryId) -> None:
        self._starts, self._terms = [], []
        self.compacted, self.last_index = to, to.index


@dataclass(slots=True)
class _Replica:
    """One running replica."""

    log: _Terms
    term: int
    vote: tuple[int, int]  # the newest on its way to the disk: (term, candidate)
    commit: int
    role: Role = Role.FOLLOWER


@dataclass(frozen=True, slots=True)
class _Agreed:
    """What the first replica committed at an index."""

    term: int
    by_term: int  # the term it was in


@dataclass(slots=True)
class _Group:
    """What is remembered of one group. Every dict has the oldest first."""

    replicas: dict[int, _Replica] = field(default_factory=dict)
    leaders: dict[int, int] = field(default_factory=dict)  # term -> node
    batches: dict[tuple[int, int], tuple[int, int]] = field(default_factory=dict)  # -> crc, previous term
    committed: dict[int, _Agreed] = field(default_factory=dict)
    newest: EntryId = field(default_factory=lambda: EntryId(0, 0))  # committed, and in which term that was
    states: dict[int, int] = field(default_factory=dict)  # index -> rolling hash


class Checker:
    """An `EventHook`. `on_violation` is told of every broken rule, once for each event that shows it."""

    def __init__(self, on_violation: Callable[[Violation], None], memory: int = MEMORY) -> None:
        self._on_violation = on_violation
        self._memory = memory
        self._groups: dict[tuple[int, int], _Group] = {}

    def __call__(self, event: Event) -> None:
        group = self._groups.setdefault((event.group, event.incarnation), _Group())
        if isinstance(event, Started):
            log = _Terms(event.compacted, event.last_index, event.terms)
            group.replicas[event.node] = _Replica(log, event.term, (event.term, event.vote), event.commit)
            return
        replica = group.replicas.get(event.node)
        if replica is not None:  # else this checker came too late to know it
            self._check(event, group, replica)

    def _check(self, event: Event, group: _Group, replica: _Replica) -> None:
        match event:
            case RoleTaken():
                self._role(event, group, replica)
            case Voted():
                self._vote(event, replica)
            case Truncated():
                leads = replica.role is Role.LEADER
                self._require(not leads, "leader append-only", event, "it truncates while it leads")
                self._require(
                    event.first > replica.commit, "commit monotone", event, event.first, replica.commit
                )
                replica.log.truncate_from(event.first)
            case Appended():
                self._append(event, group, replica)
            case Committed():
                self._commit(event, group, replica)
            case BatchApplied(index=index, rolling_hash=rolling_hash):
                known = group.states.setdefault(index, rolling_hash)
                self._require(known == rolling_hash, "state machine safety", event, "it differs at", index)
                self._trim(group.states)
            case Compacted(index=index, term=term):
                replica.log.compact(EntryId(index, term))
            case Installed():
                self._install(event, replica)

    def _role(self, event: RoleTaken, group: _Group, replica: _Replica) -> None:
        self._require(event.term >= replica.term, "one vote", event, replica.term, "->", event.term)
        if event.leader:
            other = group.leaders.setdefault(event.term, event.leader)
            same = other == event.leader
            self._require(same, "election safety", event, f"term {event.term}: {other:x}, {event.leader:x}")
            self._trim(group.leaders)
        if event.role is Role.LEADER and (replica.role is not Role.LEADER or event.term > replica.term):
            self._new_leader(event, group, replica)
        replica.role, replica.term = event.role, event.term

    def _new_leader(self, event: RoleTaken, group: _Group, replica: _Replica) -> None:
        index, by_term = group.newest.index, group.newest.term
        agreed = group.committed.get(index)
        if agreed is None or by_term >= event.term or index <= replica.log.compacted.index:
            return
        has = replica.log.at(index)
        self._require(has == agreed.term, "leader completeness", event, "at", index, has, agreed)

    def _vote(self, event: Voted, replica: _Replica) -> None:
        term, candidate = replica.vote
        kept = event.term > term or (event.term == term and candidate in (0, event.vote))
        self._require(kept, "one vote", event, replica.vote, "->", (event.term, event.vote))
        replica.vote = (event.term, event.vote)

    def _append(self, event: Appended, group: _Group, replica: _Replica) -> None:
        place, batch = (event.index, event.term), (event.crc, event.previous_term)
        before = replica.log.at(event.index - 1)
        follows = event.index == replica.log.last_index + 1 and before == event.previous_term <= event.term
        self._require(follows, "log matching", event, place, "after", (replica.log.last_index, before))
        known = group.batches.setdefault(place, batch)
        self._require(known == batch, "log matching", event, place, "is", known, "and", batch)
        self._trim(group.batches)
        replica.log.append(event.index, event.term)

    def _commit(self, event: Committed, group: _Group, replica: _Replica) -> None:
        log = replica.log
        within = replica.commit <= event.index <= log.last_index
        self._require(within, "commit monotone", event, replica.commit, event.index, log.last_index)
        if replica.role is Role.LEADER:
            own = log.at(event.index) == replica.term
            self._require(own, "own term", event, log.at(event.index), "committed in", replica.term)
        first = max(replica.commit, log.compacted.index, event.index - self._memory) + 1
        for index in range(first, event.index + 1):
            term = log.at(index)
            if term is None:
                continue
            agreed = group.committed.setdefault(index, _Agreed(term, replica.term))
            self._require(agreed.term == term, "state machine safety", event, index, agreed, "and", term)
            if index > group.newest.index:
                group.newest = EntryId(index, agreed.by_term)
        self._trim(group.committed)
        replica.commit = max(replica.commit, event.index)

    def _install(self, event: Installed, replica: _Replica) -> None:
        to = EntryId(event.index, event.term)
        if event.last_index > event.index:
            replica.log.compact(to)
        else:
            replica.log.reset(to)
        replica.commit = max(replica.commit, event.index)

    def _trim(self, remembered: dict[Key, Fact]) -> None:
        while len(remembered) > self._memory:
            del remembered[next(iter(remembered))]

    def _require(self, holds: bool, rule: str, event: Event, *facts: object) -> None:
        if not holds:
            self._on_violation(Violation(rule, event, " ".join(map(str, facts))))
