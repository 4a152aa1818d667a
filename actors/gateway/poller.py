"""Readiness of many sockets behind one descriptor: epoll on Linux, kqueue elsewhere."""

from __future__ import annotations

import select
import selectors
import sys
from collections.abc import Callable
from typing import Protocol


class Poller(Protocol):
    """Readiness of many sockets behind one descriptor that can itself be awaited."""

    def fileno(self) -> int: ...

    def watch(self, fd: int, *, read: bool, write: bool) -> None: ...

    def change(self, fd: int, *, read: bool, write: bool) -> None: ...

    def forget(self, fd: int) -> None: ...

    def poll(self, limit: int) -> list[tuple[int, bool, bool]]:
        """(descriptor, readable or broken, writable or broken), without waiting."""

    def close(self) -> None: ...


if sys.platform == "linux":

    class _EpollPoller:
        _READ = select.EPOLLIN | select.EPOLLRDHUP
        _BROKEN = select.EPOLLERR | select.EPOLLHUP

        def __init__(self) -> None:
            self._epoll = select.epoll()

        def fileno(self) -> int:
            return self._epoll.fileno()

        def watch(self, fd: int, *, read: bool, write: bool) -> None:
            self._epoll.register(fd, self._mask(read, write))

        def change(self, fd: int, *, read: bool, write: bool) -> None:
            self._epoll.modify(fd, self._mask(read, write))

        def forget(self, fd: int) -> None:
            self._epoll.unregister(fd)

        def poll(self, limit: int) -> list[tuple[int, bool, bool]]:
            readable, writable = self._READ | self._BROKEN, select.EPOLLOUT | self._BROKEN
            return [
                (fd, bool(seen & readable), bool(seen & writable)) for fd, seen in self._epoll.poll(0, limit)
            ]

        def close(self) -> None:
            self._epoll.close()

        def _mask(self, read: bool, write: bool) -> int:
            return (self._READ if read else 0) | (select.EPOLLOUT if write else 0)

    new_poller: Callable[[], Poller] = _EpollPoller

else:

    class _KqueuePoller:
        """The same over the standard library's kqueue selector, whose descriptor can be awaited too."""

        def __init__(self) -> None:
            self._selector = selectors.KqueueSelector()

        def fileno(self) -> int:
            return self._selector.fileno()

        def watch(self, fd: int, *, read: bool, write: bool) -> None:
            self.change(fd, read=read, write=write)

        def change(self, fd: int, *, read: bool, write: bool) -> None:
            events = (selectors.EVENT_READ if read else 0) | (selectors.EVENT_WRITE if write else 0)
            self.forget(fd)
            if events:
                self._selector.register(fd, events)

        def forget(self, fd: int) -> None:
            if fd in self._selector.get_map():
                self._selector.unregister(fd)

        def poll(self, limit: int) -> list[tuple[int, bool, bool]]:
            return [
                (key.fd, bool(events & selectors.EVENT_READ), bool(events & selectors.EVENT_WRITE))
                for key, events in self._selector.select(0)[:limit]
            ]

        def close(self) -> None:
            self._selector.close()

    new_poller = _KqueuePoller
