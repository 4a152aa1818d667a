"""Whether a history of registers could have happened one operation at a time (linearizability).

The general question is hard; if every value is written once it is not (Gibbons and Korach, "Testing shared
memories"). A write and the reads that saw it form a cluster, with a zone in time:

    forward    from the first end to the last begin among its operations: the value was certainly there then
    backward   if the last begin is not after the first end: at some one moment in between it was enough

A history is linearizable exactly if no read ended before its write began, no two forward zones overlap, and
no backward zone lies within a forward one. So a million operations cost a sort. (`linearizability.py`
searches, and can judge any object.)
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import inf


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation of a client on a register. Times in seconds.

    Attributes:
        key: of the register.
        value: what was written (never twice to the same register), or read; None: the register was empty.
        write: whether it wrote.
        began: when the client asked.
        ended: when it knew; `inf` if it never did, then a write may have happened or not.
    """

    key: object
    value: object
    write: bool
    began: float
    ended: float = inf


@dataclass(frozen=True, slots=True)
class _Zone:
    start: float
    end: float
    forward: bool


def first_anomaly(history: Iterable[Operation]) -> object:
    """The key of a register whose history is not linearizable; None if all are.

    Reads that never ended say nothing and may be left out.
    """
    by_key: defaultdict[object, list[Operation]] = defaultdict(list)
    for operation in history:
        by_key[operation.key].append(operation)
    return next((key for key, operations in by_key.items() if not is_linearizable(operations)), None)


def is_linearizable(history: Sequence[Operation]) -> bool:
    """Whether the operations on one register, empty at first, have an order that explains every read.

    ValueError if a value was written twice.
    """
    writes: dict[object, Operation] = {None: Operation(None, None, True, -inf, -inf)}
    reads: defaultdict[object, list[Operation]] = defaultdict(list)
    for operation in history:
        if operation.write:
            if operation.value in writes:
                raise ValueError(f"{operation.value!r} is written twice")
            writes[operation.value] = operation
        elif operation.ended != inf:
            reads[operation.value].append(operation)
    if not reads.keys() <= writes.keys():
        return False  # a value out of nowhere
    if any(read.ended < writes[value].began for value, seen in reads.items() for read in seen):
        return False
    zones = [
        _zone([write, *reads[value]])
        for value, write in writes.items()
        if write.ended != inf or reads[value]  # a write of unknown fate that nobody saw may be none
    ]
    return _fit(zones)


def _zone(cluster: Sequence[Operation]) -> _Zone:
    first_end = min(operation.ended for operation in cluster)
    last_begin = max(operation.began for operation in cluster)
    if first_end < last_begin:
        return _Zone(first_end, last_begin, True)
    return _Zone(last_begin, first_end, False)


def _fit(zones: Iterable[_Zone]) -> bool:
    """Forward zones don't overlap, and none of them covers a backward one."""
    current = _Zone(-inf, -inf, True)  # the forward zone that reaches farthest so far
    for zone in sorted(zones, key=lambda zone: (zone.start, not zone.forward)):
        if zone.forward:
            if zone.start < current.end:
                return False
            current = zone
        elif current.start < zone.start and zone.end < current.end:
            return False
    return True
