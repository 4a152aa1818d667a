"""Memory that a burst of work took and freed again: it goes back to the system, not only to the heap."""

from __future__ import annotations

import ctypes
from typing import Final

TRIM_AFTER_BYTES: Final = 16 << 20
"""What must have been written since the last time: looking through the heap takes some milliseconds."""


M_ARENA_MAX: Final = -8
"""Of glibc's malloc.h."""


def one_heap() -> None:
    """Lets all threads share one heap, if the C library can (glibc). To be called before they start.

    Each thread has a heap of its own otherwise, and what lies free at the end of one is never given back: 8
    to 16 MiB for each thread that reads blocks. Threads that hold the interpreter's lock don't compete.
    """
    try:
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, 1)
    except (AttributeError, OSError):
        return


def give_back() -> None:
    """Returns what is free to the system, if the C library can (glibc); elsewhere it does so by itself or
    never. Any thread may call it; others that allocate wait meanwhile."""
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError):
        return
    trim(0)
