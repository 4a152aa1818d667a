"""CRC32C (Castagnoli, RFC 3720) in Python: the model that the C code is compared with, and its stand-in."""

from __future__ import annotations

import struct

from .chunk import Buffer

POLYNOMIAL = 0x82F63B78
"""0x1EDC6F41 with its bits reversed: the least significant bit is the first one sent."""

SLICE = 1 << 16
"""Bytes unpacked at a time, so that a large buffer does not become millions of ints at once."""


def _advance(register: int, bits: int) -> int:
    for _ in range(bits):
        register = (register >> 1) ^ (POLYNOMIAL if register & 1 else 0)
    return register


def _two_byte_table() -> list[int]:
    """The register after two bytes; linear, so every entry is the sum of a low and a high byte's."""
    low = [_advance(byte, 16) for byte in range(256)]
    high = [_advance(byte << 8, 16) for byte in range(256)]
    return [high_part ^ low_part for high_part in high for low_part in low]


_TABLE = _two_byte_table()


def crc32c(data: Buffer, value: int = 0) -> int:
    """The checksum of `data`, continuing from `value`: `crc32c(b, crc32c(a)) == crc32c(a + b)`."""
    table = _TABLE
    register = value ^ 0xFFFFFFFF
    view = memoryview(data)
    for start in range(0, len(view), SLICE):
        part = view[start : start + SLICE]
        for word in struct.unpack_from(f"<{len(part) // 2}H", part):
            register = (register >> 16) ^ table[(register ^ word) & 0xFFFF]
    if len(view) % 2:
        register = _advance(register ^ view[-1], 8)
    return register ^ 0xFFFFFFFF
