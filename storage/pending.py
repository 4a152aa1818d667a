"""What waits for the disk: records in the order of their appends, and what is to run once they are synced."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from .index import GroupLog
from .segment import CLOSED, DELETE, FRAME_SIZE, HARD_STATE, READMITTED, Item, write_size
from .wal import LogWriter


@dataclass(slots=True)
class _Queued:
    """One record in the queue, and what is to run once it is synced."""

    item: Item | None
    then: Callable[[], None] | None
    urgent: bool
    """Whether it asks for a sync by itself."""


class Pending:
    """The queue in front of the log, bounded by the credit that it gives."""

    def __init__(
        self, writer: LogWriter, logs: Iterable[GroupLog], limit: int, on_credit: Callable[[], None]
    ) -> None:
        """`limit` in bytes; `on_credit` is told when there is credit again after there was none."""
        self.urgent = 0
        """How many of the queued ones ask for a sync by themselves."""
        self.bytes = 0
        """Queued or being written."""
        self._writer = writer
        self._limit = limit
        self._on_credit = on_credit
        self._queue: deque[_Queued] = deque()
        self._starved = False
        """Somebody was told that there is no credit."""
        self._hard: dict[int, tuple[int, int, int]] = {}
        """(incarnation, term, vote) of each group's last HardState in queue order."""
        self._closed: set[int] = set()
        """Groups that are closed, in queue order."""
        for log in logs:
            self._hard[log.group] = (log.incarnation, log.term, log.vote)
            if log.closed:
                self._closed.add(log.group)

    def __bool__(self) -> bool:
        return bool(self._queue)

    @property
    def next_size(self) -> int:
        """Bytes of the next record."""
        for queued in self._queue:
            if queued.item is not None:
                return len(queued.item.body)
        return 0

    def put(self, items: Sequence[Item], then: Callable[[], None] | None) -> None:
        """`then` is to run when all of them are synced."""
        last = len(items) - 1
        for position, item in enumerate(items):
            queued = _Queued(item, then if position == last else None, self._needs_sync(item))
            self._enqueue(queued)
        if not items and then is not None:
            self._enqueue(_Queued(None, then, True))

    def _enqueue(self, queued: _Queued) -> None:
        queued.urgent |= queued.then is not None
        self._queue.append(queued)
        self.urgent += queued.urgent
        if queued.item is not None:
            self.bytes += len(queued.item.body) + FRAME_SIZE

    def _needs_sync(self, item: Item) -> bool:
        """False for a HardState that only moves the commit hint: it rides along with the next write."""
        if item.kind == DELETE:
            self._hard.pop(item.group, None)
            self._closed.discard(item.group)
        if item.kind != HARD_STATE:
            return True
        if item.flags or item.group in self._closed:
            self._follow_closing(item)
            return True
        state = (item.incarnation, item.term, item.index)
        same = self._hard.get(item.group) == state
        self._hard[item.group] = state
        return not same

    def _follow_closing(self, item: Item) -> None:
        """A closed group's hard states all say so: only the newest one stays when segments are freed."""
        if item.flags & READMITTED:
            self._closed.discard(item.group)
        else:
            item.flags |= CLOSED
            self._closed.add(item.group)

    def credit(self) -> int:
        """Bytes that may be appended now without exceeding the queue's bound."""
        credit = max(0, self._limit - self.bytes)
        self._starved |= not credit
        return credit

    def release(self, size: int) -> None:
        """So many bytes are synced."""
        self.bytes -= size
        if self._starved and self.bytes <= self._limit // 2:
            self._starved = False
            self._on_credit()

    def clear(self) -> None:
        """Nothing of it will be written, and nothing that waits for it will run."""
        self._queue.clear()
        self.urgent = 0

    def take(self, items: list[Item], limit: int) -> tuple[list[Callable[[], None]], int]:
        """Moves as many records behind `items` as one write takes; what waits for them, and their bytes."""
        bodies = sum(len(item.body) for item in items)
        thens: list[Callable[[], None]] = []
        taken = 0
        queue = self._queue
        while queue:
            item = queue[0].item
            if item is not None:
                size = len(item.body)
                if write_size(len(items) + 1, bodies + size) > limit and (
                    items or not self._writer.fits(1, size)
                ):
                    break
                items.append(item)
                bodies += size
                taken += size + FRAME_SIZE
            queued = queue.popleft()
            self.urgent -= queued.urgent
            if queued.then is not None:
                thens.append(queued.then)
        return thens, taken
