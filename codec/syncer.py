"""A thread in C that writes and syncs, as a Python object; None where there is no such thing.

It is here because the C is built here: the codec's extension module is the only one. Who waits for it, and
how, is the storage actor's affair.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ._backend import IMPLEMENTATION

if TYPE_CHECKING:
    from _cffi_backend import _CDataBase as CData

    from .chunk import Buffer


class Syncer:
    """Writes and syncs one job at a time, without the interpreter. `receiver` becomes readable when it is
    done."""

    def __init__(self) -> None:
        """Raises OSError if the thread can't be started."""
        from ._native import ffi, lib

        self._ffi, self._lib = ffi, lib
        self.receiver = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._syncer: CData = lib.tri_syncer_start(self.receiver)
        self._views: list[CData] = []
        self._job: tuple[object, ...] = ()
        """What the thread reads from: it must outlive the job, whoever still waits."""
        if self._syncer == ffi.NULL:
            os.close(self.receiver)
            raise OSError("the thread that syncs the log can't be started")

    def submit(self, descriptor: int, buffers: Sequence[Buffer], offset: int) -> None:
        """Begin one gathered write and its sync. RuntimeError while another is under way."""
        views = [self._ffi.from_buffer("uint8_t[]", buffer) for buffer in buffers]
        pointers = self._ffi.new("const uint8_t *[]", views)
        sizes = self._ffi.new("size_t[]", [len(buffer) for buffer in buffers])
        if self._lib.tri_syncer_submit(self._syncer, descriptor, pointers, sizes, len(views), offset):
            raise RuntimeError("a write is under way")
        self._views, self._job = views, (buffers, pointers, sizes)

    def result(self) -> None:
        """Take the result of the finished job. Raises OSError if the write or the sync failed."""
        os.eventfd_read(self.receiver)
        failed = self._lib.tri_syncer_result(self._syncer)
        for view in self._views:
            self._ffi.release(view)
        self._views, self._job = [], ()
        if failed:
            raise OSError(failed, os.strerror(failed))

    def close(self) -> bool:
        """End the thread. False if a job is still under way: then it is left alone, with what it reads
        from."""
        if self._lib.tri_syncer_stop(self._syncer) != 0:
            return False
        os.close(self.receiver)
        return True


def open_syncer() -> Syncer | None:
    """A new syncer, or None where the C was not built or the system is not Linux."""
    if IMPLEMENTATION != "c" or sys.platform != "linux":
        return None
    return Syncer()
