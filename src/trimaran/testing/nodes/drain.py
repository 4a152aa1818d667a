"""Asking a consumer for all that it still has, until it says that there is no more."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import trio

from .client import Disconnected

DRAINED: Final = 3
"""Fetches in a row that wait their second out for nothing: what is pending comes again after two."""
PATIENCE_SECONDS: Final = 60.0
"""Virtual: so long a consumer that is served brings no message only if it has none."""
RETRY_SECONDS: Final = 0.05
TIME_IS_OVER: Final = "408"


@dataclass(frozen=True, slots=True)
class Fetched:
    """What a fetch brought, and the status that ended it; no status: no word came in time."""

    messages: int
    status: str = ""


async def drain(fetch: Callable[[], Awaitable[Fetched]], leave: Callable[[], None]) -> bool:
    """Fetch until nothing is left; False: the consumer was not served.

    Only a leader that let the request wait knows that there is nothing. Any other status is a word about the
    node that was asked, a machine that waits for its invitation perhaps: `leave` it, and ask another.
    """
    empty = 0
    with trio.move_on_after(PATIENCE_SECONDS) as limit:
        while empty < DRAINED:
            try:
                fetched = await fetch()
            except Disconnected:
                fetched = Fetched(0)
            if fetched.messages:
                empty, limit.deadline = 0, trio.current_time() + PATIENCE_SECONDS
            elif fetched.status == TIME_IS_OVER:
                empty += 1
            else:
                leave()
                await trio.sleep(RETRY_SECONDS)
    return empty >= DRAINED
