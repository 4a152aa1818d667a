"""Writing and syncing in C, off the event loop, as a Python object; None where there is no such thing.

It is here because the C is built here: the codec's extension module is the only one. Who waits for it, and
how, is the storage actor's affair.
"""

from __future__ import annotations

import os
import select
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from ._backend import IMPLEMENTATION

if TYPE_CHECKING:
    from _cffi_backend import _CDataBase as CData

    from .chunk import Buffer

Way = Literal["thread", "uring"]
"""Who does it: a long-lived thread in C, or the kernel's threads by io_uring."""

MAX_BUFFERS: Final = 1024
"""Of one job; more are joined first. The largest write of the log has about half as many."""


class Syncer:
    """Writes and syncs one job at a time, without the interpreter. `receiver` becomes readable when it is
    done."""

    def __init__(self, way: Way = "thread") -> None:
        """Raises OSError if there is no thread or ring to be had."""
        from ._native import ffi, lib

        self._ffi = ffi
        functions = _functions(way)
        self.receiver = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._submit, self._result, self._stop = functions.submit, functions.result, functions.stop
        self._syncer = functions.start(self.receiver)
        self._views: list[CData] = []
        self._buffers: Sequence[Buffer] = ()
        """What is written from: it must outlive the job, whoever still waits. So must the arrays."""
        self._pointers: CData = ffi.new("const uint8_t *[]", MAX_BUFFERS)
        self._sizes: CData = ffi.new("size_t[]", MAX_BUFFERS)
        if self._syncer == ffi.NULL:
            os.close(self.receiver)
            raise OSError(f"the log can't be synced by a {way} of its own")
        assert lib.TRI_URING_BUFFERS == MAX_BUFFERS

    def submit(self, descriptor: int, buffers: Sequence[Buffer], offset: int) -> None:
        """Begin one gathered write and its sync. RuntimeError while another is under way, OSError if the
        kernel does not take it."""
        if self._views:
            raise RuntimeError("a write is under way, or could not be begun")
        if not buffers or len(buffers) > MAX_BUFFERS:
            buffers = (b"".join(buffers),)
        views = [self._ffi.from_buffer("uint8_t[]", buffer) for buffer in buffers]
        self._pointers[0 : len(views)] = views
        self._sizes[0 : len(views)] = [len(view) for view in views]
        self._views, self._buffers = views, buffers  # for good if this fails: a part of it may be under way
        failed = self._submit(self._syncer, descriptor, self._pointers, self._sizes, len(views), offset)
        if failed:
            raise OSError(failed, os.strerror(failed))

    def result(self) -> bool:
        """Take the result of the finished job, when `receiver` is readable. False if it is not finished.

        Raises OSError if the write or the sync failed.
        """
        os.eventfd_read(self.receiver)
        failed = self._result(self._syncer)
        if failed < 0:
            return False
        for view in self._views:
            self._ffi.release(view)
        self._views, self._buffers = [], ()
        if failed:
            raise OSError(failed, os.strerror(failed))
        return True

    def close(self, seconds: float) -> bool:
        """End the thread or the ring, waiting so many seconds for a job that is under way.

        False if it still is: then it is left alone, with what it reads from.
        """
        news, deadline = select.poll(), time.monotonic() + seconds  # select() takes few descriptors
        news.register(self.receiver, select.POLLIN)
        while self._stop(self._syncer) != 0:
            if not news.poll(1000 * max(0.0, deadline - time.monotonic())):
                return False
            os.eventfd_read(self.receiver)
        os.close(self.receiver)
        return True


class _Functions(NamedTuple):
    start: Callable[[int], CData]
    submit: Callable[..., int]
    result: Callable[[CData], int]
    stop: Callable[[CData], int]


def _functions(way: Way) -> _Functions:
    """Those of `csrc/syncer.h` or `csrc/uring.h`."""
    from ._native import lib

    if way == "uring":
        return _Functions(lib.tri_uring_open, lib.tri_uring_submit, lib.tri_uring_result, lib.tri_uring_close)
    return _Functions(lib.tri_syncer_start, lib.tri_syncer_submit, lib.tri_syncer_result, lib.tri_syncer_stop)


def open_syncer(way: Way = "thread") -> Syncer | None:
    """A new syncer, or None where the C was not built, the system is not Linux, or the kernel forbids it."""
    if IMPLEMENTATION != "c" or sys.platform != "linux":
        return None
    try:
        return Syncer(way)
    except OSError:
        return None
