"""Whatever has arrived, handled in one task: peers' and clients' sockets, and the disk's completions.

Trio wakes a task for each descriptor that is waited for. Here one task waits for all of them, calls whoever
each is for, and looks again at once, so that what arrived meanwhile costs no turn of the event loop.

Before it waits it looks on for a while, if traffic is dense: to sleep and to be woken costs a processor tens
of microseconds, and a small batch is woken for eight times on its way through three nodes. It gives the
processor to whoever else wants it after every look, and at rest it doesn't look at all.
"""

from __future__ import annotations

import os
import select
import socket
import sys
import time
from collections.abc import Callable
from typing import Any, Final

import outcome
import trio

LOOK_SECONDS: Final = 300e-6
"""How long to look for more before sleeping: as long as a write and its sync take on a good disk."""
DENSE_SECONDS: Final = 500e-6
"""Traffic is dense while something arrives this often, on average. With less, sleeping is what saves."""
SHARE: Final = 1 / 16
"""What the newest gap counts in that average."""
LONGEST_GAP: Final = 5e-3
"""A longer one counts as this, so that a pause is forgotten after some dozens of arrivals."""
STAY_SECONDS: Final = 1e-3
"""How long other tasks wait at most for those that arrivals keep busy."""
ROUND: Final = 256
"""Descriptors served before the next look."""

Work = Callable[[], bool]
"""Take what has arrived, without waiting; it may turn out to be nothing. False: there will be no more."""


class _Watch:
    """One descriptor that is waited for, and by whom."""

    __slots__ = ("end", "over", "work")

    def __init__(self, work: Work) -> None:
        self.work = work
        self.over = trio.Event()
        self.end: outcome.Maybe[bool] | None = None

    def take(self) -> bool:
        """Call the work; False: it is over, for it said so or raised."""
        if self.end is None:
            taken = outcome.capture(self.work)
            if type(taken) is outcome.Value and taken.value:
                return True
            self.end = taken
            self.over.set()
        return False


class Gaps:
    """How often something arrives: a moving average of the time between arrivals, in seconds."""

    def __init__(self) -> None:
        self._average = LONGEST_GAP
        self._last = -LONGEST_GAP

    @property
    def dense(self) -> bool:
        return self._average < DENSE_SECONDS

    def note(self, now: float) -> None:
        """Something arrived."""
        self._average += SHARE * (min(now - self._last, LONGEST_GAP) - self._average)
        self._last = now


if sys.platform == "linux":

    class _Readiness:
        """All that is waited for on one event loop, behind one epoll object that is itself awaited."""

        def __init__(self) -> None:
            self._epoll = select.epoll()
            self._watches: dict[int, _Watch] = {}
            self._gaps = Gaps()
            self.looks = True
            """Whether it ever looks for more before it sleeps."""

        async def each(self, descriptor: int, work: Work) -> None:
            watch = self._watches[descriptor] = _Watch(work)
            self._epoll.register(descriptor, select.EPOLLIN)
            try:
                await watch.over.wait()
            finally:
                watch.end = watch.end or outcome.Value(False)
                if self._watches.get(descriptor) is watch:
                    self._forget(descriptor)
            watch.end.unwrap()

        def _forget(self, descriptor: int) -> None:
            del self._watches[descriptor]
            try:
                self._epoll.unregister(descriptor)
            except OSError:
                pass  # its owner has closed it, and so the kernel has forgotten it

        async def run(self) -> None:
            """Serve for as long as the event loop runs."""
            try:
                while True:
                    await trio.lowlevel.wait_readable(self._epoll.fileno())
                    self._stay()
            finally:
                self._epoll.close()

        def _stay(self) -> None:
            """Serve what has arrived, and what arrives soon, as long as no other task has anything to do."""
            until = time.perf_counter() + STAY_SECONDS
            ready = self._epoll.poll(0, ROUND)
            while ready:
                self._gaps.note(time.perf_counter())
                self._serve(ready)
                if time.perf_counter() > until:
                    return
                ready = self._epoll.poll(0, ROUND) or self._look()

        def _serve(self, ready: list[tuple[int, int]]) -> None:
            # One that ends in this round may give its number to another, for which nothing has arrived.
            found = [(descriptor, self._watches.get(descriptor)) for descriptor, _ in ready]
            for descriptor, watch in found:
                if watch is not None and not watch.take() and self._watches.get(descriptor) is watch:
                    self._forget(descriptor)

        def _look(self) -> list[tuple[int, int]]:
            """Look for more for a while instead of sleeping; nothing, if it pays better to sleep."""
            if not self.looks or not self._gaps.dense or trio.lowlevel.current_statistics().tasks_runnable:
                return []
            until = time.perf_counter() + LOOK_SECONDS
            while time.perf_counter() < until:
                os.sched_yield()
                ready = self._epoll.poll(0, ROUND)
                if ready:
                    return ready
            return []

    _here: trio.lowlevel.RunVar[_Readiness] = trio.lowlevel.RunVar("readiness")

    def _readiness() -> _Readiness:
        try:
            return _here.get()
        except LookupError:
            readiness = _Readiness()
            _here.set(readiness)
            trio.lowlevel.spawn_system_task(readiness.run)
            return readiness

    async def each_readable(descriptor: int, work: Work) -> None:
        """Call `work` whenever the descriptor is readable, until that says False; raises what it raises.

        One waiter for a descriptor at a time; it must not be closed meanwhile.
        """
        await _readiness().each(descriptor, work)

    def always_sleep() -> None:
        """On this event loop, sleep whenever nothing has arrived, however dense traffic is."""
        _readiness().looks = False

else:

    async def each_readable(descriptor: int, work: Work) -> None:
        """Call `work` whenever the descriptor is readable, until that says False; raises what it raises."""
        while True:
            await trio.lowlevel.wait_readable(descriptor)
            if not work():
                return

    def always_sleep() -> None:
        """Nothing else is done here."""


if sys.platform == "linux":

    class Wake:
        """A wake-up that anybody sets, threads too, and the event loop sees."""

        __slots__ = ("receiver",)

        def __init__(self) -> None:
            self.receiver = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

        def fileno(self) -> int:
            return self.receiver

        def set(self) -> None:
            os.eventfd_write(self.receiver, 1)

        def clear(self) -> None:
            os.eventfd_read(self.receiver)

        def __del__(self) -> None:
            os.close(self.receiver)

else:

    class Wake:
        """A wake-up that anybody sets, threads too, and the event loop sees."""

        __slots__ = ("receiver", "sender")

        def __init__(self) -> None:
            self.receiver, self.sender = socket.socketpair()
            self.receiver.setblocking(False)

        def fileno(self) -> int:
            return self.receiver.fileno()

        def set(self) -> None:
            self.sender.send(b"\0")

        def clear(self) -> None:
            self.receiver.recv(1)

        def __del__(self) -> Any:
            self.receiver.close()
            self.sender.close()
