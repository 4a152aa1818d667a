"""Words of the NATS protocol that both implementations share."""

from __future__ import annotations

import enum
import struct
from typing import Final

__all__ = ["LATENCY_BUCKETS", "NUMBER_DIGITS", "OP", "Direction", "OpKind", "ProtocolError", "ScanError"]

OP: Final = struct.Struct("=BBHIHHIIIII")
"""One operation, as `tri_op` of csrc/protocol.h: kind, flags, subject size, subject, reply size, arguments
size, reply, arguments, header size, body, body size. Offsets count from where the scan began."""
assert OP.size == 32

LATENCY_BUCKETS: Final = 1920
"""Buckets of a latency count: exact below 64 ns, at most 3 % wide above."""

NUMBER_DIGITS: Final = 10
"""Digits of the number that ends a load generator's reply subject."""


class Direction(enum.IntEnum):
    """Whose side the scanner is on: it reads what the other side may send."""

    SERVER = 0
    CLIENT = 1


class OpKind(enum.IntEnum):
    """What an operation is. 0 is invalid."""

    PUB = 1
    HPUB = 2
    SUB = 3
    UNSUB = 4
    PING = 5
    PONG = 6
    CONNECT = 7
    INFO = 8
    MSG = 9
    HMSG = 10
    PLUS_OK = 11
    ERR = 12


class ScanError(enum.IntEnum):
    """Why a scan can't go on."""

    NONE = 0
    UNKNOWN_OPERATION = 1
    CONTROL_LINE = 2
    MAX_PAYLOAD = 3
    BAD_ARGUMENTS = 4


class ProtocolError(Exception):
    """The other side broke the protocol: `text` is what `-ERR` tells it, `close` whether the connection ends.

    The texts are those of the reference server, but 'Parser Error' for malformed arguments, where it closes
    without a word.
    """

    def __init__(self, text: str, close: bool = True) -> None:
        super().__init__(text)
        self.text = text
        self.close = close

    @property
    def line(self) -> bytes:
        """The `-ERR` line to send."""
        return b"-ERR '%b'\r\n" % self.text.encode()
