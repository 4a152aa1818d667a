"""A bounded mailbox on a Trio memory channel, with watermarks that overwrite without waiting.

Requests are messages: they queue, up to a bound, and are refused beyond it. What flows back (synced, applied)
is a *watermark*: only its newest value matters, so it never queues and a full mailbox can't block it. That is
why actors can't wait for each other in a circle.
"""

import math
from typing import Generic, TypeVar

import trio

Message = TypeVar("Message")


class _Marked:
    """The wake-up that a changed watermark puts into the channel; at most one is under way."""


_MARKED = _Marked()


class Mailbox(Generic[Message]):
    """One actor's inbox. `bound` counts messages; one place more is kept for the watermark wake-up."""

    def __init__(self, bound: int) -> None:
        self.bound = bound
        self.refused = 0
        self._send, self._receive = trio.open_memory_channel[Message | _Marked](math.inf)
        self._queued = 0
        self._marks: dict[str, Message] = {}
        self._marked = False

    def put(self, message: Message) -> bool:
        """Queue a message. False (and counted) when the mailbox is full: the sender must answer for it."""
        if self._queued >= self.bound:
            self.refused += 1
            return False
        self._queued += 1
        self._send.send_nowait(message)
        return True

    def mark(self, name: str, message: Message, *, wake: bool = True) -> None:
        """Overwrite the watermark `name`; the owner sees its newest value at its next `take`.

        With `wake` False nobody is woken for it: it is seen when there is something else to do.
        """
        self._marks[name] = message
        if wake:
            self.wake()

    def wake(self) -> None:
        """Let the owner's `take` return, even with nothing."""
        if not self._marked:
            self._marked = True
            self._send.send_nowait(_MARKED)

    async def take(self) -> list[Message]:
        """Wait until there is something, or a wake-up; then everything there is: watermarks first, then
        messages in order."""
        taken: list[Message] = []
        if not self._drain(taken):  # Trio's receive gives way even when something is there
            self._sort(await self._receive.receive(), taken)
            self._drain(taken)
        marks, self._marks = list(self._marks.values()), {}
        return marks + taken

    def _drain(self, taken: list[Message]) -> bool:
        """Take what there is; True if there was anything, be it only a wake-up."""
        found = False
        while True:
            try:
                self._sort(self._receive.receive_nowait(), taken)
            except trio.WouldBlock:
                return found
            found = True

    def _sort(self, item: Message | _Marked, taken: list[Message]) -> None:
        if isinstance(item, _Marked):
            self._marked = False
        else:
            self._queued -= 1
            taken.append(item)

    def __len__(self) -> int:
        return self._queued
