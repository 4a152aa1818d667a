"""The state machine that the simulator replicates if nobody gives it another one: it numbers what it applies.

It is as simple as a stream and a table of registers together, so that a lost, doubled, invented or reordered
entry shows in its results, its state or both.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from ..codec import crc32c

_HEAD = struct.Struct("<QQ")
_REGISTER = struct.Struct("<BQ")
OPERATION = struct.Struct("<QB")
"""An entry: its token, and the register that it sets (0: none). Anything may follow."""


class Journal:
    """A count, a hash of everything in order, and 255 registers. An entry's result is its sequence number."""

    def __init__(self) -> None:
        self.count = 0
        self.digest = 0
        self.registers: dict[int, int] = {}

    def apply(self, entries: Sequence[bytes], index: int, time: int) -> list[object]:
        results: list[object] = []
        for entry in entries:
            token, register = OPERATION.unpack_from(entry)
            self.count += 1
            self.digest = crc32c(entry, self.digest)
            if register:
                self.registers[register] = token
            results.append(self.count)
        return results

    def snapshot(self) -> bytes:
        table = b"".join(_REGISTER.pack(*each) for each in sorted(self.registers.items()))
        return _HEAD.pack(self.count, self.digest) + table

    def restore(self, state: bytes) -> None:
        self.count, self.digest = _HEAD.unpack_from(state)
        self.registers = dict(_REGISTER.iter_unpack(state[_HEAD.size :]))
