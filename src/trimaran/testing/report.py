"""What one played seed says: its figures, its violations, and the hash of everything that happened."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from hashlib import blake2b


@dataclass(frozen=True, slots=True)
class Options:
    """How to play a seed.

    Attributes:
        seconds: virtual length of the phase with faults; None leaves it to the seed.
        story: called with each line of the trace, for a human who reads along. It changes nothing.
    """

    seconds: float | None = None
    story: Callable[[str], None] | None = None


@dataclass(frozen=True, slots=True)
class Violation:
    """A property that did not hold, at a virtual time (s), and the facts."""

    property: str
    at: float
    facts: str


@dataclass(slots=True)
class Report:
    """The result of one seed. Counts are totals over all nodes.

    Attributes:
        trace_hash: hexadecimal; equal for equal runs, in any process, on any day.
        operations: what clients began (appends, reads, changes).
        appends: appends that were acknowledged to a client.
        crashes: processes that ended and machines that lost power.
        faults: how often each kind of fault struck.
        violations: empty if everything held.
        reached: how often each state of `reached.py` was met (core tier).
    """

    seed: int
    tier: str
    trace_hash: str = ""
    operations: int = 0
    virtual_seconds: float = 0.0
    faults: dict[str, int] = field(default_factory=dict)
    appends: int = 0
    crashes: int = 0
    violations: list[Violation] = field(default_factory=list)
    reached: dict[str, int] = field(default_factory=dict)
    seconds: float | None = None
    """`Options.seconds` with which it was played: part of what must be said to play it again."""

    @property
    def replay(self) -> str:
        """The command that plays it again."""
        length = "" if self.seconds is None else f" --seconds {self.seconds:g}"
        return f"python -m trimaran.testing run --tier {self.tier} --seed {self.seed}{length}"

    def to_json(self) -> str:
        """One line, keys sorted: equal runs give equal lines."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, line: str) -> Report:
        """The report of such a line. Raises ValueError or TypeError for another."""
        fields = json.loads(line)
        fields["violations"] = [Violation(**each) for each in fields["violations"]]
        return cls(**fields)


class Trace:
    """Everything that happens, in order, as a running hash; also told line by line to whoever reads along.

    Facts must print the same in every process: numbers, strings, tuples, never sets nor addresses.

    Args:
        story: called with each line.
    """

    __slots__ = ("_hash", "_story", "lines")

    def __init__(self, story: Callable[[str], None] | None = None) -> None:
        self._hash = blake2b(digest_size=16)
        self._story = story
        self.lines = 0

    def note(self, time: float, *facts: object) -> None:
        """Something happened at the virtual time `time` (s)."""
        line = f"{time:.9f} {' '.join(map(str, facts))}"
        self.lines += 1
        self._hash.update(line.encode())
        self._hash.update(b"\n")
        if self._story is not None:
            self._story(line)

    def hexdigest(self) -> str:
        """The hash of all lines so far."""
        return self._hash.hexdigest()


class FaultCount(Counter[str]):
    """How often each kind of fault struck: `count["crash"] += 1`."""

    def sorted(self) -> dict[str, int]:
        """By name, without those that never struck: for `Report.faults`."""
        return {name: count for name, count in sorted(self.items()) if count}
