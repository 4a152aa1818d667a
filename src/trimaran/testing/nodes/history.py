"""What clients were told, and whether what the replicas hold in the end agrees with it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass, field
from math import inf

from ..linearizability import Operation, is_linearizable

Complain = Callable[[str, str], None]
"""(property, facts)."""
Contents = Mapping[int, bytes]
"""Place (sequence, or position in a machine) -> text."""


@dataclass(slots=True)
class Append:
    """One text that a client wanted stored, whether in one attempt or in several under one id."""

    text: bytes
    client: str
    began: float
    ended: float = inf
    place: int = 0
    """Where it is, as acknowledged."""
    doubtful: bool = False
    """Some attempt's end is unknown."""
    has_id: bool = False
    """It was published under an id, so that it is never stored twice."""

    @property
    def is_acknowledged(self) -> bool:
        return self.place > 0


@dataclass(frozen=True, slots=True)
class Seen:
    """A linearizable read: everything up to `last` was there, as it said."""

    client: str
    began: float
    ended: float
    last: int


@dataclass(slots=True)
class Journal:
    """The history of one stream or machine that only grows."""

    name: str
    appends: list[Append] = field(default_factory=list)
    reads: list[Seen] = field(default_factory=list)
    gets: list[tuple[float, int, bytes]] = field(default_factory=list)
    """(when, place, text) of each text that was read at its place."""

    def check(
        self,
        replica: str,
        contents: Contents,
        complain: Complain,
        damaged: Set[int] = frozenset(),
        *,
        partly: bool = False,
    ) -> None:
        """What one replica holds. Where it is damaged and says so, nothing is asked of it; nor is, if it has
        come to hold all only `partly`, what lies behind its last one."""
        last = max(contents, default=0) if partly else inf

        def wrong(rule: str, facts: str) -> None:
            complain(rule, f"{self.name} on {replica}: {facts}")

        for append in self.appends:
            known = append.is_acknowledged and append.place not in damaged and append.place <= last
            if known and contents.get(append.place) != append.text:
                wrong("acknowledged is stored", f"{_short(append.text)} is not at {append.place}")
        twice = [text for text, times in Counter(contents.values()).items() if times > 1]
        if twice:
            wrong("nothing is doubled", ", ".join(map(_short, twice[:3])))
        possible = {each.text for each in self.appends if each.is_acknowledged or each.doubtful}
        invented = [f"{place}: {_short(text)}" for place, text in contents.items() if text not in possible]
        if invented:
            wrong("nothing is invented", ", ".join(invented[:3]))
        missing = sorted(set(range(1, max(contents, default=0) + 1)) - contents.keys() - damaged)
        if missing:
            wrong("sequences are dense", f"missing: {missing[:3]}")
        for when, place, text in self.gets:
            if place <= last and place not in damaged and contents.get(place) != text:
                wrong("reads are true", f"{_short(text)} was read at {place} at {when:.3f}")

    def check_order(self, complain: Complain) -> None:
        """Real time: what was acknowledged before something began has the lower place; reads see it."""
        ended = sorted((each.ended, each.place) for each in self.appends if each.is_acknowledged)
        floor = _Floor(ended)
        for append in sorted(self.appends, key=lambda each: each.began):
            below = floor.at(append.began)
            if append.is_acknowledged and append.place <= below:
                facts = (
                    f"{self.name}: {_short(append.text)} got {append.place} after {below} was acknowledged"
                )
                complain("real-time order", facts)
        floor = _Floor(sorted(ended + [(each.ended, each.last) for each in self.reads]))
        for read in sorted(self.reads, key=lambda each: each.began):
            below = floor.at(read.began)
            if read.last < below:
                facts = f"{self.name}: {read.client} saw {read.last} at {read.ended:.3f}, {below} was there"
                complain("linearizable reads", facts)


class _Floor:
    """The highest place known by a time; asked with times that never fall."""

    def __init__(self, known: list[tuple[float, int]]) -> None:
        self._known = known
        self._next = 0
        self._highest = 0

    def at(self, time: float) -> int:
        while self._next < len(self._known) and self._known[self._next][0] < time:
            self._highest = max(self._highest, self._known[self._next][1])
            self._next += 1
        return self._highest


@dataclass(frozen=True, slots=True)
class Put:
    """Store a value under a key; with `expected` only if the key's last revision is that one."""

    value: bytes
    expected: int | None = None


@dataclass(frozen=True, slots=True)
class Get:
    """The key's value and revision."""


Answered = tuple[bytes, int]
"""(value, revision): of a put, what it stored; of a get, what is there; (b"", 0): nothing."""
REFUSED: Answered = (b"", -1)
"""The expected revision was another one."""
KeyOperation = Operation[Put | Get, Answered]


def register(state: Answered, operation: KeyOperation) -> Answered | None:
    """What one key does, for `is_linearizable`."""
    call, result = operation.call, operation.result
    if isinstance(call, Get):
        return state if result == state else None
    agrees = call.expected is None or call.expected == state[1]
    if result == REFUSED:
        return None if agrees else state
    assert result is not None
    return result if agrees and result[1] > state[1] and result[0] == call.value else None


def check_keys(
    histories: Mapping[str, Iterable[KeyOperation]], contents: Contents, complain: Complain
) -> None:
    """Each key must have behaved like one register. What became of writes without an answer is in the log."""
    revisions = {text: place for place, text in contents.items()}
    for key, history in histories.items():
        known: list[KeyOperation] = []
        for each in history:
            if each.ended == inf and isinstance(each.call, Put):
                place = revisions.get(each.call.value)
                if place is not None:
                    known.append(Operation(each.call, each.began, inf, (each.call.value, place)))
            elif each.ended < inf:
                known.append(each)
        if not is_linearizable(known, (b"", 0), register):
            complain("linearizable keys", f"{key}: {len(known)} operations fit no order")


def _short(text: bytes) -> str:
    return repr(text[:24])
