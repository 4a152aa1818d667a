"""Results of a stream's batch: one little-endian u64 per entry, `status << 56 | value`."""

from __future__ import annotations

import enum
import struct
from collections.abc import Sequence
from typing import Final, NamedTuple

from .errors import ApiError, api_error

_DETAIL_BITS: Final = 40
_VALUE: Final = (1 << 56) - 1


class Status(enum.IntEnum):
    """What became of an entry."""

    STORED = 0
    """Value: its sequence."""
    DUPLICATE = 1
    """Value: the sequence of the message with the same id."""
    REFUSED = 2
    """Value: JetStream's err_code | detail << 16."""
    DONE = 3
    """A command. Value: a number, such as how many messages a purge removed."""


class Result(NamedTuple):
    """One entry's result, taken apart."""

    status: Status
    value: int

    @property
    def error(self) -> ApiError | None:
        """Why the entry was refused, or None if it wasn't."""
        if self.status is not Status.REFUSED:
            return None
        return api_error(self.value & 0xFFFF, self.value >> 16)


def pack(status: Status, value: int) -> int:
    """One result as a number."""
    return status << 56 | value


def refused(err_code: int, detail: int = 0) -> int:
    """The result of a refused entry. A detail too large for its 40 bits loses its upper ones."""
    return pack(Status.REFUSED, err_code | (detail & (1 << _DETAIL_BITS) - 1) << 16)


def unpack(results: bytes, number: int) -> Result:
    """The result of one entry of a batch."""
    (packed,) = struct.unpack_from("<Q", results, 8 * number)
    return Result(Status(packed >> 56), packed & _VALUE)


def unpack_all(results: bytes) -> list[Result]:
    """The results of a batch."""
    return [Result(Status(packed >> 56), packed & _VALUE) for (packed,) in struct.iter_unpack("<Q", results)]


def pack_all(results: Sequence[int]) -> bytes:
    """Results of a batch from their numbers."""
    return struct.pack(f"<{len(results)}Q", *results)
