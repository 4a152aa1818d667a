"""Pipelined publishing: many messages on their way, and the fate of each."""

from __future__ import annotations

from types import TracebackType
from typing import Protocol

import trio

from .errors import NatsError, RequestTimeout
from .messages import Headers, Message, Outcome, Refused, Stored, Unknown, outcome_of, with_id


class PendingAck:
    """A message on its way into a stream; `outcome` is None until its fate is known."""

    __slots__ = ("_decided", "_publisher", "outcome")

    def __init__(self, publisher: Publisher) -> None:
        self.outcome: Outcome | None = None
        self._publisher = publisher
        self._decided = trio.Event()

    async def wait(self) -> Outcome:
        """The message's fate."""
        await self._decided.wait()
        assert self.outcome is not None
        return self.outcome

    def resolve(self, result: Message | NatsError) -> None:
        if self.outcome is None:
            self.outcome = outcome_of(result)
            self._decided.set()
            self._publisher._decided(self.outcome)


class Sender(Protocol):
    """What a publisher needs of its client."""

    async def send_request(
        self, subject: str, data: bytes, headers: Headers | None, waiter: PendingAck, /
    ) -> int: ...

    def forget(self, token: int) -> None: ...


class Publisher:
    """Pipelined publishing: up to `window` messages are on their way at once.

    Leaving the context waits until every message's fate is known, at most `timeout` seconds; what is
    undecided then is Unknown. Counters: `stored`, `duplicates`, `refused`, `unknown`.
    """

    def __init__(self, client: Sender, window: int, timeout: float) -> None:
        if window < 1:
            raise ValueError(f"a window of {window}")
        self.stored = self.duplicates = self.refused = self.unknown = 0
        self._client = client
        self._window = window
        self._timeout = timeout
        self._outstanding: dict[int, PendingAck] = {}
        self._changed = trio.Event()
        self._pending = 0

    @property
    def pending(self) -> int:
        """Messages whose fate is not known yet."""
        return self._pending

    async def __aenter__(self) -> Publisher:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            with trio.move_on_after(self._timeout):
                await self.drain()
        for token, pending in list(self._outstanding.items()):
            self._client.forget(token)
            pending.resolve(RequestTimeout("no acknowledgement in time"))
        self._outstanding.clear()

    async def publish(
        self,
        subject: str,
        data: bytes = b"",
        *,
        headers: Headers | None = None,
        message_id: str | None = None,
    ) -> PendingAck:
        """Send one message as soon as the window has room; its fate is told by the result.

        Raises:
            ConnectFailed, Closed, PayloadTooLarge, ValueError: nothing was sent.
        """
        while self._pending >= self._window:
            self._changed = trio.Event()
            await self._changed.wait()
        pending = PendingAck(self)
        token = await self._client.send_request(subject, data, with_id(headers, message_id), pending)
        self._pending += 1
        if len(self._outstanding) > 2 * self._window:
            self._outstanding = {t: p for t, p in self._outstanding.items() if p.outcome is None}
        self._outstanding[token] = pending
        return pending

    async def drain(self) -> None:
        """Wait until no message's fate is open."""
        while self._pending:
            self._changed = trio.Event()
            await self._changed.wait()

    def _decided(self, outcome: Outcome) -> None:
        self._pending -= 1
        self._changed.set()
        match outcome:
            case Stored(ack):
                self.stored += 1
                self.duplicates += ack.duplicate
            case Refused():
                self.refused += 1
            case Unknown():
                self.unknown += 1
