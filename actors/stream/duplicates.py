"""Message ids within the duplicate window, in the order in which they came.

A busy stream knows a million of them. They are kept packed as well, piece by piece as they come, so that a
snapshot has them at once: to pack them all would hold up everything else of the node for seconds.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Iterable
from typing import Final, cast

import msgpack

PIECE: Final = 1024
"""Ids whose packed forms are kept together, and go together once all of them have left the window."""

Known = tuple[int, int]
"""(sequence, time in ns) of the message that had an id."""


class Duplicates:
    """The ids of one stream."""

    def __init__(self) -> None:
        self._known: OrderedDict[bytes, Known] = OrderedDict()
        self._pieces: deque[list[bytes]] = deque()
        """Packed ids, oldest first; the newest piece may still grow."""
        self._gone = 0
        """Ids of the oldest piece that have left the window."""

    def __len__(self) -> int:
        return len(self._known)

    def get(self, message_id: bytes) -> Known | None:
        """Which message had this id, if that is not too long ago."""
        return self._known.get(message_id)

    def note(self, message_id: bytes, sequence: int, time: int) -> None:
        """A message with an id that is not known was stored."""
        self._known[message_id] = (sequence, time)
        if not self._pieces or len(self._pieces[-1]) == PIECE:
            self._pieces.append([])
        self._pieces[-1].append(cast(bytes, msgpack.packb((message_id, sequence, time))))

    def expire(self, horizon: int) -> None:
        """Forgets ids that are not newer than a time (ns)."""
        while self._known:
            known, (_, time) = next(iter(self._known.items()))
            if time > horizon:
                return
            del self._known[known]
            self._gone += 1
            if self._gone == len(self._pieces[0]):
                self._pieces.popleft()
                self._gone = 0

    def pack(self) -> bytes:
        """All ids, one packed (id, sequence, time) after the other."""
        gone = self._gone
        return b"".join(
            [b"".join(piece[gone:] if at == 0 else piece) for at, piece in enumerate(self._pieces)]
        )

    async def restore(self, packed: bytes | list[list[object]], pause: Callable[[], Awaitable[None]]) -> None:
        """Takes what `pack` gave, or the list that version 1 of a state has. Raises ValueError, TypeError.

        `pause` is awaited now and then: others have something to do as well.
        """
        entries = packed if isinstance(packed, list) else unpack_ids(packed)
        for number, entry in enumerate(entries, 1):
            message_id, sequence, time = cast("tuple[bytes, int, int]", entry)
            self.note(message_id, sequence, time)
            if number % PIECE == 0:
                await pause()


def unpack_ids(packed: bytes) -> Iterable[list[object]]:
    """(id, sequence, time) of each id in what `Duplicates.pack` gave. Raises ValueError."""
    unpacker = msgpack.Unpacker(max_buffer_size=len(packed) + 1)
    unpacker.feed(packed)
    return cast("Iterable[list[object]]", unpacker)
