"""Waiting for another process: it has no event to tell us, so its outside is looked at again and again.

The one place where tests with real processes do so. Within one process tests wait for events, or use Trio's
virtual clock.
"""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

LOOK_SECONDS = 0.02


def wait_for(look: Callable[[], T | None], seconds: float, why: Callable[[], object]) -> T:
    """What `look` returns, once that is true. After so many seconds it fails, and says what `why` returns."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds:g} s in vain: {why()}")
        time.sleep(LOOK_SECONDS)
    return found
