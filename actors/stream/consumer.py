"""A consumer as every replica of its stream knows it: how far it got, and what is not acknowledged.

It changes by entries of the stream's log alone. Who waits for messages, which timers run and what is on its
way are the leader's affair and die with the leadership.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import cast

from .consumer_config import ConsumerConfig

__all__ = ["Consumer", "Pending", "Position"]


@dataclass(slots=True)
class Position:
    """A place in a consumer's order and in the stream's, and when (ns) it was last moved; 0: never."""

    consumer: int = 0
    stream: int = 0
    time: int = 0


@dataclass(slots=True)
class Pending:
    """A delivered message that is not acknowledged."""

    count: int
    """How many times it was delivered."""
    consumer: int
    """The consumer sequence of its first delivery."""
    time: int
    """When it was last delivered, ns."""


class Consumer:
    """One consumer.

    Args:
        number: names it in the log; never used twice in a stream.
        before: the stream sequence after which it begins.
        initial: with `last_per_subject`, the sequences that come first, ascending; it then goes on after
            `resume`.
    """

    def __init__(
        self,
        number: int,
        name: str,
        config: ConsumerConfig,
        created: int,
        before: int,
        initial: Sequence[int] = (),
        resume: int = 0,
    ) -> None:
        self.number = number
        self.name = name
        self.config = config
        self.created = created
        """Ns since 1970."""
        self.initial = list(initial)
        self.resume = resume
        self.delivered = Position(stream=before)
        self.floor = Position(stream=before)
        """Everything up to here is acknowledged. Invariant: nothing pending lies at or below it."""
        self.pending: OrderedDict[int, Pending] = OrderedDict()
        """By stream sequence, ascending."""

    def next_after(self, position: int) -> int:
        """The first sequence behind `initial` that may be delivered first, once `position` was."""
        return max(position, self.resume) + 1

    def next_initial(self, position: int) -> int:
        """The number in `initial` of the first sequence behind `position`; its length if there is none."""
        return bisect_right(self.initial, position)

    def deliver(self, sequences: Iterable[int], time: int) -> int:
        """Notes deliveries; gives the consumer sequence of the first, the others have those that follow."""
        first = self.delivered.consumer + 1
        for sequence in sequences:
            self.delivered.consumer += 1
            known = self.pending.get(sequence)
            if known is not None:
                known.count += 1
                known.time = time
            elif sequence > self.delivered.stream:
                self.delivered.stream = sequence
                if self.config.acknowledges:
                    self.pending[sequence] = Pending(1, self.delivered.consumer, time)
        self.delivered.time = time
        if self.initial and self.initial[0] <= self.delivered.stream:
            del self.initial[: self.next_initial(self.delivered.stream)]
        if not self.config.acknowledges:
            self.floor.consumer, self.floor.stream = self.delivered.consumer, self.delivered.stream
        return first

    def acknowledge(self, sequences: Iterable[int], time: int) -> list[int]:
        """Takes acknowledgements; gives the sequences that are done with by them."""
        done: list[int] = []
        for sequence in sequences:
            done += self._up_to(sequence) if self.config.ack_policy == "all" else self._one(sequence)
        if done:
            self.floor.time = time
        return done

    def give_up(self, sequences: Iterable[int], time: int) -> int:
        """These are not delivered again, each by itself also with "ack all"; gives how many were pending."""
        given_up = sum(len(self._one(sequence)) for sequence in sequences)
        if given_up:
            self.floor.time = time
        return given_up

    def _one(self, sequence: int) -> list[int]:
        known = self.pending.pop(sequence, None)
        if known is None:
            return []
        if not self.pending:
            self.floor.consumer, self.floor.stream = self.delivered.consumer, self.delivered.stream
        elif known.consumer == self.floor.consumer + 1:
            following, pending = next(iter(self.pending.items()))
            self.floor.consumer, self.floor.stream = pending.consumer - 1, following - 1
        return [sequence]

    def _up_to(self, sequence: int) -> list[int]:
        done: list[int] = []
        while self.pending and next(iter(self.pending)) <= sequence:
            done.append(self.pending.popitem(last=False)[0])
        if done:
            self.floor.stream = max(self.floor.stream, min(sequence, self.delivered.stream))
            self.floor.consumer = (
                next(iter(self.pending.values())).consumer - 1 if self.pending else self.delivered.consumer
            )
        return done

    def forget(self, exists: Callable[[int], bool], first: int, time: int) -> None:
        """Messages were removed: what is pending of them is done with, and so is what lies before `first`."""
        gone = [sequence for sequence in self.pending if not exists(sequence)]
        self.give_up(gone, time)
        if self.delivered.stream < first - 1:
            self.delivered.stream = first - 1
            if not self.pending:
                self.floor.consumer, self.floor.stream = self.delivered.consumer, first - 1

    def needs(self, sequence: int) -> bool:
        """Whether a message that it wants is not done with."""
        if sequence in self.pending:
            return True
        if sequence <= self.delivered.stream:
            return False
        return sequence > self.resume or sequence in self.initial

    # --- snapshots

    def pack(self) -> list[object]:
        """As it is kept in a captured state."""
        delivered, floor = self.delivered, self.floor
        return [
            self.number,
            self.name,
            self.config.to_json(),
            self.created,
            [delivered.consumer, delivered.stream, delivered.time],
            [floor.consumer, floor.stream, floor.time],
            self.initial,
            self.resume,
            [[sequence, each.count, each.consumer, each.time] for sequence, each in self.pending.items()],
        ]

    @classmethod
    def unpack(cls, packed: Sequence[object]) -> Consumer:
        """What `pack` gave. Raises TypeError, ValueError or ApiError if it is no such thing."""
        number, name, config, created, delivered, floor, initial, resume, pending = packed
        consumer = cls(
            cast("int", number),
            cast("str", name),
            ConsumerConfig.from_json(cast("dict[str, object]", config)),
            cast("int", created),
            0,
            cast("list[int]", initial),
            cast("int", resume),
        )
        consumer.delivered = Position(*cast("list[int]", delivered))
        consumer.floor = Position(*cast("list[int]", floor))
        for sequence, count, first, time in cast("list[tuple[int, int, int, int]]", pending):
            consumer.pending[sequence] = Pending(count, first, time)
        return consumer
