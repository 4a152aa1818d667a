"""Durations as Go programs write and read them: 1h30m, 1.5s, 250ms."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Final

__all__ = ["parse_duration", "show_duration"]

SECOND: Final = 1_000_000_000
_UNITS: Final = {
    "ns": 1,
    "us": 1000,
    "µs": 1000,
    "ms": 1_000_000,
    "s": SECOND,
    "m": 60 * SECOND,
    "h": 3600 * SECOND,
}
_PART: Final = re.compile(r"(\d{1,18}(?:\.\d{0,18})?|\.\d{1,18})(ns|us|µs|ms|s|m|h)", re.ASCII)


def parse_duration(text: str) -> int | None:
    """Nanoseconds, or None if it is no duration."""
    sign = -1 if text.startswith("-") else 1
    rest = text[1:] if text[:1] in ("+", "-") else text
    total, position = 0, 0
    while match := _PART.match(rest, position):
        total += int(Decimal(match[1]) * _UNITS[match[2]])
        position = match.end()
    return sign * total if position and position == len(rest) else None


def show_duration(nanoseconds: int) -> str:
    """A duration that isn't negative."""
    if nanoseconds < SECOND:
        for unit in ("ms", "µs", "ns"):
            if nanoseconds >= _UNITS[unit]:
                return f"{nanoseconds / _UNITS[unit]:.6f}".rstrip("0").rstrip(".") + unit
        return "0s"
    seconds, fraction = divmod(nanoseconds, SECOND)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    shown = f"{seconds}.{fraction:09}".rstrip("0").rstrip(".") + "s"
    if hours:
        return f"{hours}h{minutes}m{shown}"
    return f"{minutes}m{shown}" if minutes else shown
