"""The NATS protocol in Python: the same functions, tables and bytes as `csrc/protocol.c`.

What the C code is tested against, and what runs where no compiler was. The operation table is a bytearray of
32-byte records (`OP`), so that one set of accessors reads what either implementation wrote.
"""

from __future__ import annotations

import struct
from typing import Final

from .chunk import EntryType, padding, payload_size
from .protocol_types import LATENCY_BUCKETS, NUMBER_DIGITS, OP, Direction, OpKind, ScanError

__all__ = ["AckCounts", "Publishes", "ScanArea", "Sent", "format_acks", "matches"]

BLANKS: Final = b" \t"
LINE_SLACK: Final = 64
"""Bytes that a line may be longer than its arguments' limit: the verb, blanks, and the line's end."""
SIZE_DIGITS: Final = 9
"""Digits of a size; ten are refused before they are converted, so that no number overflows."""

# verb -> (kind, must a blank follow the verb)
SERVER_VERBS: Final = {
    b"PUB": (OpKind.PUB, True),
    b"HPUB": (OpKind.HPUB, True),
    b"SUB": (OpKind.SUB, True),
    b"UNSUB": (OpKind.UNSUB, True),
    b"PING": (OpKind.PING, False),
    b"PONG": (OpKind.PONG, False),
    b"CONNECT": (OpKind.CONNECT, False),
    b"INFO": (OpKind.INFO, False),
    b"+OK": (OpKind.PLUS_OK, False),
    b"-ERR": (OpKind.ERR, False),
}
CLIENT_VERBS: Final = {
    b"MSG": (OpKind.MSG, True),
    b"HMSG": (OpKind.HMSG, True),
    b"PING": (OpKind.PING, False),
    b"PONG": (OpKind.PONG, False),
    b"INFO": (OpKind.INFO, False),
    b"+OK": (OpKind.PLUS_OK, False),
    b"-ERR": (OpKind.ERR, False),
}
# kind -> fewest and most arguments
ARGUMENTS: Final = {
    OpKind.PUB: (2, 3),
    OpKind.HPUB: (3, 4),
    OpKind.SUB: (2, 3),
    OpKind.UNSUB: (1, 2),
    OpKind.MSG: (3, 4),
    OpKind.HMSG: (4, 5),
}


class _Stop(Exception):
    """The scan ends here: `error` says why, NONE for a message that is not complete yet."""

    def __init__(self, error: ScanError = ScanError.NONE) -> None:
        self.error = error


class ScanArea:
    """A receive buffer and the operation table that a scan of it fills. Neither may change its size."""

    def __init__(self, buffer: bytearray, table: bytearray) -> None:
        self.buffer = buffer
        self.table = table
        self.capacity = len(table) // OP.size
        """Operations that the table holds."""

    def scan(
        self, start: int, end: int, direction: int, max_payload: int, max_control_line: int
    ) -> tuple[int, int, int]:
        """Find complete messages in buffer[start:end] while the table has room; offsets count from `start`.

        Returns (messages, bytes they take, ScanError of what follows them or 0).
        """
        data = bytes(memoryview(self.buffer)[start:end])
        count = position = 0
        try:
            while count < self.capacity and position < len(data):
                position = _scan_one(
                    data, position, direction, max_payload, max_control_line, self.table, count
                )
                count += 1
        except _Stop as stop:
            return count, position, int(stop.error)
        return count, position, 0

    def body_bytes(self, first: int, last: int) -> int:
        """Bytes of the bodies of operations first..last-1 of the table together."""
        if not 0 <= first <= last <= self.capacity:
            raise ValueError("operations outside of the table")
        return sum(OP.unpack_from(self.table, OP.size * number)[10] for number in range(first, last))


def _scan_one(
    data: bytes,
    at: int,
    direction: int,
    max_payload: int,
    max_control_line: int,
    table: bytearray,
    number: int,
) -> int:
    """Decode the message at `at` into record `number`; returns where the next one begins."""
    kind, after_verb = _verb(data, at, SERVER_VERBS if direction == Direction.SERVER else CLIENT_VERBS)
    first, last, body = _line(data, at, after_verb, max_control_line)
    if kind not in ARGUMENTS:
        OP.pack_into(table, OP.size * number, kind, 0, 0, 0, 0, last - first, 0, first, 0, 0, 0)
        return body
    words = _words(data, first, last, *ARGUMENTS[kind])
    none = (0, 0)
    subject = reply = args = none
    header_size = size = 0
    if kind == OpKind.SUB:  # subject [queue] sid; the queue group takes the reply's place
        subject, args = words[0], words[-1]
        reply = words[1] if len(words) == 3 else none
    elif kind == OpKind.UNSUB:  # sid [max]; the maximum takes the reply's place
        args = words[0]
        reply = words[1] if len(words) == 2 else none
    else:
        sized = 2 if kind in (OpKind.HPUB, OpKind.HMSG) else 1
        subject = words.pop(0)
        if kind in (OpKind.MSG, OpKind.HMSG):
            args = words.pop(0)
        if len(words) > sized:
            reply = words.pop(0)
        size = _number(data, *words[-1])
        if sized == 2:
            header_size = _number(data, *words[0])
            if header_size > size:
                raise _Stop(ScanError.BAD_ARGUMENTS)
        if size > max_payload:
            raise _Stop(ScanError.MAX_PAYLOAD)
        _terminated(data, body + size)
    flags = int(header_size > 0 and _names_nats(data[body : body + header_size]))
    has_body = kind not in (OpKind.SUB, OpKind.UNSUB)
    OP.pack_into(
        table,
        OP.size * number,
        kind,
        flags,
        subject[1],
        subject[0],
        reply[1],
        args[1],
        reply[0],
        args[0],
        header_size,
        body if has_body else 0,
        size,
    )
    return body + size + 2 if has_body else body


def _verb(data: bytes, at: int, verbs: dict[bytes, tuple[OpKind, bool]]) -> tuple[OpKind, int]:
    """The operation that begins at `at`, as soon as its verb and the blank it needs are there."""
    head = data[at : at + 8].upper()
    for verb, (kind, needs_blank) in verbs.items():
        if head.startswith(verb):
            if needs_blank:
                if len(head) == len(verb):
                    raise _Stop
                if head[len(verb)] not in BLANKS:
                    break
            return kind, at + len(verb)
        if verb.startswith(head):
            raise _Stop
    raise _Stop(ScanError.UNKNOWN_OPERATION)


def _line(data: bytes, at: int, after_verb: int, max_control_line: int) -> tuple[int, int, int]:
    """The arguments' span without the blanks before and the line end after it, and where the body begins."""
    limit = at + max_control_line + LINE_SLACK
    newline = data.find(b"\n", after_verb, limit)
    last = newline if newline >= 0 else min(len(data), limit)
    if newline < 0 and len(data) >= limit:
        raise _Stop(ScanError.CONTROL_LINE)
    if last > after_verb and data[last - 1] == 0x0D:
        last -= 1
    first = after_verb
    while first < last and data[first] in BLANKS:
        first += 1
    if last - first > max_control_line:
        raise _Stop(ScanError.CONTROL_LINE)
    if newline < 0:
        raise _Stop
    return first, last, newline + 1


def _words(data: bytes, first: int, last: int, fewest: int, most: int) -> list[tuple[int, int]]:
    """Spans (offset, length) of the arguments."""
    spans: list[tuple[int, int]] = []
    at = first
    while at < last:
        if data[at] in BLANKS:
            at += 1
            continue
        begin = at
        while at < last and data[at] not in BLANKS:
            # A stray carriage return would let a subject smuggle a line into what other clients read.
            if data[at] == 0x0D:
                raise _Stop(ScanError.BAD_ARGUMENTS)
            at += 1
        spans.append((begin, at - begin))
    if not fewest <= len(spans) <= most:
        raise _Stop(ScanError.BAD_ARGUMENTS)
    return spans


def _number(data: bytes, offset: int, length: int) -> int:
    digits = data[offset : offset + length]
    if length > SIZE_DIGITS or any(not 0x30 <= digit <= 0x39 for digit in digits):
        raise _Stop(ScanError.BAD_ARGUMENTS)
    return int(digits)


def _terminated(data: bytes, at: int) -> None:
    """A payload ends in CRLF, exactly; a wrong byte is an error as soon as it is there."""
    if len(data) > at and data[at] != 0x0D:
        raise _Stop(ScanError.UNKNOWN_OPERATION)
    if len(data) > at + 1 and data[at + 1] != 0x0A:
        raise _Stop(ScanError.UNKNOWN_OPERATION)
    if len(data) < at + 2:
        raise _Stop


def _names_nats(headers: bytes) -> bool:
    lower = headers.lower()
    return lower.startswith(b"nats-") or b"\nnats-" in lower


def matches(subject: bytes, compiled: bytes) -> bool:
    """Is this a subject that one of the compiled filters takes (see `StreamFilter`)?

    Wildcards in the subject itself are tokens like any others. A subject with an empty token is never taken;
    one that begins with `$` only by a filter that names that first token, so that `>` does not swallow
    `$JS.API...`.
    """
    words = subject.split(b".")
    if not all(words):
        return False
    at = 0
    while at < len(compiled):
        (length,) = struct.unpack_from("<H", compiled, at)
        pattern = compiled[at + 2 : at + 2 + length].split(b".")
        at += 2 + length
        if subject.startswith(b"$") and pattern[0] in (b"*", b">"):
            continue
        if _words_match(words, pattern):
            return True
    return False


def _words_match(words: list[bytes], pattern: list[bytes]) -> bool:
    for number, token in enumerate(pattern):
        if token == b">":
            return len(words) > number
        if number >= len(words) or token not in (b"*", words[number]):
            return False
    return len(words) == len(pattern)


class Publishes:
    """Publishes on their way into a chunk, and the reply subjects that are owed an answer."""

    def __init__(self, max_bytes: int, max_count: int) -> None:
        self.max_bytes = max_bytes
        self.max_count = max_count
        self.full = False
        self.count = 0
        self._entries = bytearray()
        self._lengths = bytearray()
        self._types = bytearray()
        self._replies = bytearray()
        self._reply_ends = bytearray()

    @property
    def encoded_size(self) -> int:
        """Bytes of the payload that `take` would give."""
        return payload_size(self.count, len(self._entries))

    def append(self, area: ScanArea, start: int, first: int, last: int, compiled: bytes) -> int:
        """Take operations first..last-1 of a scan from `start` while they qualify; returns how many."""
        self.full = False
        for number in range(first, last):
            if not self._append_one(area.buffer, start, area.table, number, compiled):
                return number - first
        return last - first

    def _append_one(
        self, buffer: bytearray, start: int, table: bytearray, number: int, compiled: bytes
    ) -> bool:
        op = OP.unpack_from(table, OP.size * number)
        kind, flags, subject_size, subject, reply_size, _, reply, _, header_size, body, body_size = op
        if kind not in (OpKind.PUB, OpKind.HPUB):
            return False
        name = bytes(buffer[start + subject : start + subject + subject_size])
        if not matches(name, compiled):
            return False
        size = 8 + subject_size + body_size
        if (
            self.count >= self.max_count
            or payload_size(self.count + 1, len(self._entries) + size) > self.max_bytes
            or len(self._replies) + reply_size > self.max_bytes
        ):
            self.full = True
            return False
        self._entries += struct.pack("<HHI", subject_size, 0, header_size) + name
        self._entries += memoryview(buffer)[start + body : start + body + body_size]
        self._lengths += struct.pack("<I", size)
        self._types.append(EntryType.PUBLISH_CHECKED if flags & 1 else EntryType.PUBLISH)
        self._replies += memoryview(buffer)[start + reply : start + reply + reply_size]
        self._reply_ends += struct.pack("<I", len(self._replies))
        self.count += 1
        return True

    def take(self) -> tuple[int, int, bytes, bytes, bytes]:
        """(count, entries size, payload, reply ends, replies) of what was appended; empty afterwards."""
        count, size = self.count, len(self._entries)
        parts: list[bytes | bytearray] = [self._entries, bytes(padding(size)), self._lengths, self._types]
        parts.append(bytes(padding(5 * count)))
        taken = count, size, b"".join(parts), bytes(self._reply_ends), bytes(self._replies)
        self.count = 0
        for area in (self._entries, self._lengths, self._types, self._replies, self._reply_ends):
            area.clear()
        return taken


def format_acks(
    replies: bytes,
    reply_ends: bytes,
    start: int,
    count: int,
    results: bytes,
    ack_head: bytes,
    inbox_prefix: bytes,
    sid: bytes,
    out: bytearray,
) -> int:
    """Append the acknowledgement lines of `count` entries; returns how many entries are done with."""
    for number in range(start, start + count):
        end = struct.unpack_from("<I", reply_ends, 4 * number)[0]
        begin = struct.unpack_from("<I", reply_ends, 4 * number - 4)[0] if number else 0
        if begin == end:
            continue
        reply = replies[begin:end]
        (result,) = struct.unpack_from("<Q", results, 8 * number)
        status, value = result >> 56, result & (1 << 56) - 1
        token = reply[len(inbox_prefix) :]
        if status > 1 or not reply.startswith(inbox_prefix) or not token or b"." in token:
            return number - start
        body = b"%b%d%b" % (ack_head, value, b',"duplicate": true}' if status else b"}")
        out += b"MSG %b %b %d\r\n%b\r\n" % (reply, sid, len(body), body)
    return count


class AckCounts:
    """What came back: numbers of acknowledgements, and latencies counted by bucket (csrc/protocol.h)."""

    def __init__(self) -> None:
        self.stored = self.duplicates = self.errors = self.strays = self.latency_max = 0
        self.first_error = 0
        """Operation + 1 of the first error among those counted last; 0: none."""
        self.latencies = [0] * LATENCY_BUCKETS


class Sent:
    """Numbered copies of one publish, and when each left: at most `window` of them are outstanding.

    `message` has ten digits at `digits_at`, which end its reply subject behind `prefix_size` bytes.
    """

    def __init__(self, message: bytes, digits_at: int, prefix_size: int, window: int) -> None:
        ring = 1 << (window - 1).bit_length()
        self.next = 0
        self._message = message
        self._digits_at = digits_at
        self._prefix_size = prefix_size
        self._mask = ring - 1
        self._times = [0] * ring

    def format(self, count: int, now: int) -> memoryview:
        """The next `count` messages, sent at `now` (ns); valid until the next call."""
        before, after = self._message[: self._digits_at], self._message[self._digits_at + NUMBER_DIGITS :]
        parts = []
        for number in range(self.next, self.next + count):
            self._times[number & self._mask] = now
            parts += [before, b"%010d" % number, after]
        self.next += count
        return memoryview(b"".join(parts))

    def count_acks(self, area: ScanArea, start: int, count: int, now: int, counts: AckCounts) -> int:
        """Count the acknowledgements of a scan; returns how many outstanding messages were answered."""
        answered = 0
        counts.first_error = 0
        buffer, table = area.buffer, area.table
        for record in range(count):
            op = OP.unpack_from(table, OP.size * record)
            kind, subject, body = op[0], start + op[3], start + op[9]
            if kind not in (OpKind.MSG, OpKind.HMSG):
                continue
            digits = bytes(buffer[subject + self._prefix_size : subject + op[2]])
            number = int(digits) if len(digits) == NUMBER_DIGITS and digits.isdigit() else self.next
            slot = number & self._mask
            if number >= self.next or not self._times[slot]:
                counts.strays += 1
                continue
            then, self._times[slot] = self._times[slot], 0
            answered += 1
            text = bytes(buffer[body : body + op[10]])
            if kind == OpKind.HMSG or not text.startswith(b'{"stream":'):
                counts.errors += 1
                counts.first_error = counts.first_error or record + 1
                continue
            latency = max(0, now - then)
            counts.stored += 1
            counts.duplicates += text.endswith(b'"duplicate": true}')
            counts.latency_max = max(counts.latency_max, latency)
            shift = max(0, latency.bit_length() - 6)
            counts.latencies[32 * shift + (latency >> shift)] += 1
        return answered
