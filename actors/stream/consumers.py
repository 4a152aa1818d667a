"""The consumers of one stream: made, changed and moved on by entries of the stream's log.

What an acknowledgement removes from a stream that keeps messages only for its consumers is decided here too,
at apply, so that replicas can't differ.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final, cast

from .config import StreamConfig
from .consumer import Consumer
from .consumer_config import (
    ConsumerConfig,
    check_unique,
    covers,
    fixed_change,
    same_config,
)
from .errors import ApiError
from .results import Status, pack, refused
from .selection import Selection

if TYPE_CHECKING:
    from .store import MessageStore

__all__ = ["Consumers", "begin", "select"]

CHANGES_MAX: Final = 65_536
"""Changes that are kept for whoever follows them; beyond that it looks at all consumers again."""
_NOT_FOUND: Final = refused(10014)


def select(store: MessageStore, config: ConsumerConfig, stream: StreamConfig) -> Selection:
    """The messages of a stream that a consumer wants."""
    filters = config.filters
    return Selection(store, () if covers(filters, stream.subjects) else filters)


def begin(
    number: int, name: str, config: ConsumerConfig, store: MessageStore, stream: StreamConfig, time: int
) -> Consumer:
    """A new consumer at the place in the stream where its policy begins."""
    last, initial, resume = store.last, list[int](), 0
    match config.deliver_policy:
        case "new":
            before = last
        case "last":
            newest = select(store, config, stream).last_of_each()
            before = newest[-1] - 1 if newest else 0
        case "last_per_subject":
            initial, resume = select(store, config, stream).last_of_each(), last
            before = initial[0] - 1 if initial else last - 1
        case "by_start_sequence":
            before = config.opt_start_seq - 1
        case "by_start_time":
            before = store.sequence_since(config.start_time) - 1
        case _:
            before = max(0, store.first - 1)
    return Consumer(number, name, config, time, max(before, store.first - 1, 0), initial, resume)


class Consumers:
    """Owned by the stream's machine.

    Args:
        store: the stream's messages.
    """

    def __init__(self, store: MessageStore) -> None:
        self._store = store
        self._by_number: dict[int, Consumer] = {}
        self._by_name: dict[str, Consumer] = {}
        self._selections: dict[int, Selection] = {}
        """Of a stream that keeps messages for its consumers."""
        self._last_number = 0
        self.changes: list[int] = []
        """Numbers of consumers as they were made, changed or deleted, of the epoch below."""
        self.removals = 0
        """How often messages were purged or deleted, for consumers that are in no log."""
        self.removed_before = 0
        """The highest `first` of them."""
        self.epoch = 0
        """Grows when `changes` is begun anew: then any of them may have changed."""

    def __len__(self) -> int:
        return len(self._by_number)

    def __iter__(self) -> Iterator[Consumer]:
        return iter(self._by_number.values())

    def get(self, name: str) -> Consumer | None:
        return self._by_name.get(name)

    def numbered(self, number: int) -> Consumer | None:
        """The consumer with a number, if it is still there."""
        return self._by_number.get(number)

    # --- commands, each giving an entry's result

    def create(
        self, stream: StreamConfig, name: str, fields: Mapping[str, object], action: str, time: int
    ) -> int:
        """Makes a consumer, or changes the one of that name. Value: its number."""
        try:
            config = ConsumerConfig.from_json(fields)
        except ApiError:
            return refused(10003)
        standing = self._by_name.get(name)
        if standing is not None:
            return self._update(standing, config, action)
        if action == "update":
            return refused(10149)
        if 0 < stream.max_consumers <= len(self._by_number):
            return refused(10026)
        if stream.retention == "workqueue":
            clash = check_unique(config, [each.config for each in self])
            if clash is not None:
                return refused(clash)
        self._last_number += 1
        self._add(begin(self._last_number, name, config, self._store, stream, time))
        return pack(Status.DONE, self._last_number)

    def _update(self, standing: Consumer, config: ConsumerConfig, action: str) -> int:
        if same_config(standing.config, config):
            return pack(Status.DONE, standing.number)
        if action == "create":
            return refused(10148)
        fixed = fixed_change(standing.config, config)
        if fixed is not None:
            return refused(10012, fixed)
        standing.config = config
        self._note(standing.number)
        return pack(Status.DONE, standing.number)

    def delete(self, name: str, stream: StreamConfig) -> int:
        """Takes a consumer away, and what was kept for it alone."""
        consumer = self._by_name.pop(name, None)
        if consumer is None:
            return _NOT_FOUND
        del self._by_number[consumer.number]
        self._note(consumer.number)
        if stream.retention == "interest":
            self.sweep(stream)
        return pack(Status.DONE, consumer.number)

    def pause(self, name: str, until: str) -> int:
        """Stops deliveries until a time (RFC 3339), or lets them go on if it is empty."""
        consumer = self._by_name.get(name)
        if consumer is None:
            return _NOT_FOUND
        fields = {**consumer.config.to_json(), "pause_until": until}
        try:
            consumer.config = ConsumerConfig.from_json(fields)
        except ApiError:
            return refused(10003)
        self._note(consumer.number)
        return pack(Status.DONE, consumer.number)

    def deliver(self, number: int, sequences: Sequence[int], stream: StreamConfig, time: int) -> int:
        """Notes what goes out to a consumer's clients. Value: the consumer sequence of the first one."""
        consumer = self._by_number.get(number)
        if consumer is None:
            return _NOT_FOUND
        first = consumer.deliver(sequences, time)
        if stream.retention != "limits" and not consumer.config.acknowledges:
            self.release(sequences, stream)
        return pack(Status.DONE, first)

    def give_up(self, number: int, sequences: Sequence[int], time: int) -> int:
        """A consumer delivers these no more; the stream keeps them. Value: how many were pending."""
        consumer = self._by_number.get(number)
        if consumer is None:
            return _NOT_FOUND
        return pack(Status.DONE, consumer.give_up(sequences, time))

    def acknowledge(self, acknowledged: Iterable[Sequence[object]], stream: StreamConfig, time: int) -> int:
        """Takes acknowledgements of many consumers, each (number, sequences). Value: messages done with."""
        total = 0
        for number, sequences in acknowledged:
            consumer = self._by_number.get(cast("int", number))
            if consumer is not None:
                done = consumer.acknowledge(cast("list[int]", sequences), time)
                total += len(done)
                if stream.retention != "limits":
                    # Also what was given up and is acknowledged late.
                    late = [
                        each for each in cast("list[int]", sequences) if each <= consumer.delivered.stream
                    ]
                    self.release({*done, *late}, stream)
        return pack(Status.DONE, total)

    # --- what the stream tells

    def removed(self, time: int, first: int) -> None:
        """Messages were purged or deleted; no consumer stays behind a message `first`."""
        self.removals += 1
        self.removed_before = max(self.removed_before, first)
        for consumer in self:
            consumer.forget(self._store.has, first, time)

    def release(self, sequences: Iterable[int], stream: StreamConfig) -> None:
        """Drops those messages that no consumer needs any more."""
        for sequence in sequences:
            subject = self._store.subject_at(sequence)
            if subject is not None and not self.wanted(sequence, subject, stream):
                self._store.drop(sequence)

    def sweep(self, stream: StreamConfig) -> None:
        """Drops every message that no consumer needs any more."""
        sequence = self._store.find(0)
        while sequence is not None:
            self.release([sequence], stream)
            sequence = self._store.find(sequence + 1)

    def wanted(self, sequence: int, subject: bytes, stream: StreamConfig) -> bool:
        """Whether some consumer is not done with a message."""
        return any(
            consumer.needs(sequence) and subject in self._selection(consumer, stream) for consumer in self
        )

    def _selection(self, consumer: Consumer, stream: StreamConfig) -> Selection:
        known = self._selections.get(consumer.number)
        if known is None:
            known = self._selections[consumer.number] = select(self._store, consumer.config, stream)
        return known

    def _add(self, consumer: Consumer) -> None:
        self._by_number[consumer.number] = self._by_name[consumer.name] = consumer
        self._note(consumer.number)

    def _note(self, number: int) -> None:
        """A consumer is not what it was."""
        self._selections.pop(number, None)
        if len(self.changes) > CHANGES_MAX:
            self.changes.clear()
            self.epoch += 1
        self.changes.append(number)

    # --- snapshots

    def pack(self) -> dict[str, object]:
        """As they are kept in a captured state."""
        return {"last": self._last_number, "consumers": [consumer.pack() for consumer in self]}

    def restore(self, packed: Mapping[str, object]) -> None:
        """Takes what `pack` gave; nothing in a state from before there were consumers."""
        self._last_number = cast("int", packed.get("last", 0))
        for each in cast("list[list[object]]", packed.get("consumers", [])):
            self._add(Consumer.unpack(each))
