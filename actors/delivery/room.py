"""How much a node keeps of what clients sent to consumers that nobody serves yet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from .stream import ClientMessage

__all__ = ["Room"]

ROOM_MESSAGES: Final = 65_536
ROOM_BYTES: Final = 64 * 1024 * 1024
"""As much as proposals that wait for a leader may have."""


class Room:
    """Counts what waits, whatever it waits for: a group's leader, or that this leader's term begins."""

    def __init__(self) -> None:
        self._messages = self._bytes = 0

    def enter(self, messages: Sequence[ClientMessage]) -> bool:
        """Whether these may wait: all of them, or none."""
        size = _size(messages)
        if self._messages + len(messages) > ROOM_MESSAGES or self._bytes + size > ROOM_BYTES:
            return False
        self._messages += len(messages)
        self._bytes += size
        return True

    def leave(self, messages: Sequence[ClientMessage]) -> None:
        """These, which had entered, wait no more."""
        self._messages -= len(messages)
        self._bytes -= _size(messages)


def _size(messages: Sequence[ClientMessage]) -> int:
    return sum(each.size for each in messages)
