"""Memory that a burst of work took and freed again: it goes back to the system, not only to the heap."""

from __future__ import annotations

import ctypes
from typing import Final

TRIM_AFTER_BYTES: Final = 16 << 20
"""What must have been written since the last time: looking through the heap takes some milliseconds."""


def give_back() -> None:
    """Returns what is free to the system, if the C library can (glibc); elsewhere it does so by itself or
    never. Any thread may call it; others that allocate wait meanwhile."""
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError):
        return
    trim(0)
