"""What arrives for one subscription, in its buffer."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType

import trio

from .errors import Closed
from .messages import Message


class Subscription:
    """Messages of one subscription, as an async iterator; leaving its context unsubscribes.

    `dropped` counts messages that found the buffer full: the client never stops reading for one slow reader.
    """

    def __init__(self, sid: int, subject: str, queue: str, buffer: int, end: Callable[[int], None]) -> None:
        """Made by `Client.subscribe`; `end` is told its number when nobody listens any more."""
        self.subject = subject
        self.queue = queue
        self.dropped = 0
        self._sid = sid
        self._end = end
        self._send, self._receive = trio.open_memory_channel[Message](buffer)

    async def __aenter__(self) -> Subscription:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.unsubscribe()

    def __aiter__(self) -> Subscription:
        return self

    async def __anext__(self) -> Message:
        try:
            return await self._receive.receive()
        except trio.EndOfChannel:
            raise StopAsyncIteration from None

    async def receive(self) -> Message:
        """The next message.

        Raises:
            Closed: unsubscribed, or the client was closed, and nothing is left in the buffer.
        """
        try:
            return await self._receive.receive()
        except trio.EndOfChannel:
            raise Closed("this subscription has ended") from None

    def unsubscribe(self) -> None:
        """No more messages; those in the buffer can still be read."""
        self._end(self._sid)
        self._send.close()

    def line(self) -> bytes:
        """What tells a server of it."""
        queue = f"{self.queue} " if self.queue else ""
        return f"SUB {self.subject} {queue}{self._sid}\r\n".encode()

    def deliver(self, message: Message) -> None:
        """A message has come for it."""
        try:
            self._send.send_nowait(message)
        except trio.WouldBlock:
            self.dropped += 1
