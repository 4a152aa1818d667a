"""Whether a history of concurrent operations could have come from one thing that does them one at a time.

The search is Wing and Gong's ("Testing and verifying concurrent objects", 1993) with Lowe's memory of states
already tried ("Testing for linearizability", 2017). It is exponential in the number of operations that
overlap, so histories are checked key by key; and operations of unknown end overlap all that follow.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from math import inf
from typing import Generic, TypeVar

Call = TypeVar("Call")
Result = TypeVar("Result")
State = TypeVar("State", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Operation(Generic[Call, Result]):
    """What a client asked, and what it was told.

    Attributes:
        began: when it was asked (s).
        ended: when the answer came; `math.inf` if none came: then it may have happened at any time since, or
            not at all.
        result: the answer; without meaning if none came.
    """

    call: Call
    began: float
    ended: float = inf
    result: Result | None = None


class _Entry(Generic[Call, Result]):
    """The begin or the end of an operation, in a list in the order of time."""

    __slots__ = ("after", "before", "bit", "match", "operation")

    def __init__(self, operation: Operation[Call, Result], bit: int) -> None:
        self.operation = operation
        self.bit = bit
        self.match: _Entry[Call, Result] | None = None
        """Of a begin: its end."""
        self.before: _Entry[Call, Result] | None = None
        self.after: _Entry[Call, Result] | None = None

    def leave(self) -> None:
        assert self.before is not None
        self.before.after = self.after
        if self.after is not None:
            self.after.before = self.before

    def return_(self) -> None:
        assert self.before is not None
        self.before.after = self
        if self.after is not None:
            self.after.before = self


def is_linearizable(
    operations: Iterable[Operation[Call, Result]],
    initial: State,
    step: Callable[[State, Operation[Call, Result]], State | None],
) -> bool:
    """Search an order in which every answer is right, and nothing comes before what had ended when it began.

    Args:
        initial: the state before the first operation.
        step: (state, operation) -> the state after it, or None if its answer can't be given in that state.
            For an operation that has no answer any is right. States are never None.
    """
    head = _listed(list(operations))
    done, state = 0, initial
    tried: set[tuple[int, State]] = set()
    path: list[tuple[_Entry[Call, Result], State]] = []
    entry = head.after
    while _owes_answers(head):
        if entry is not None and entry.match is not None:
            found = step(state, entry.operation)
            if found is not None and (done | entry.bit, found) not in tried:
                tried.add((done | entry.bit, found))
                path.append((entry, state))
                done, state = done | entry.bit, found
                entry.leave()
                entry.match.leave()
                entry = head.after
            else:
                entry = entry.after
            continue
        # An end whose begin has no place yet: the last choice was wrong.
        if not path:
            return False
        entry, state = path.pop()
        done &= ~entry.bit
        assert entry.match is not None
        entry.match.return_()
        entry.return_()
        entry = entry.after
    return True


def _listed(operations: list[Operation[Call, Result]]) -> _Entry[Call, Result]:
    """The head of a list of all begins and ends by time, begins first where times are equal."""
    events: list[tuple[float, bool, int, _Entry[Call, Result]]] = []
    for number, operation in enumerate(operations):
        begin, end = _Entry(operation, 1 << number), _Entry(operation, 1 << number)
        begin.match = end
        events.append((operation.began, False, number, begin))
        events.append((operation.ended, True, number, end))
    events.sort(key=lambda event: event[:3])
    head = last = _Entry[Call, Result](Operation(None, -inf), 0)  # type: ignore[arg-type]  # nobody looks at it
    for *_, entry in events:
        last.after, entry.before = entry, last
        last = entry
    return head


def _owes_answers(head: _Entry[Call, Result]) -> bool:
    """Whether an operation that was answered still has no place."""
    entry = head.after
    while entry is not None:
        if entry.operation.ended < inf:
            return True
        entry = entry.after
    return False
