"""The NATS wire protocol: scanning what arrived, moving publishes into chunks, formatting acknowledgements.

Nothing here makes a Python object per message: a scan fills a table of fixed records, a publish goes from the
receive buffer into the chunk in C, and the acknowledgements of a run are formatted by one call.
"""

from __future__ import annotations

import functools
import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from ._backend_protocol import AckCounts, Publishes, ScanArea, Sent
from ._backend_protocol import format_acks as _format_acks
from .chunk import MAX_ENTRIES, Chunk, EntryType
from .protocol_types import OP, Direction, OpKind, ProtocolError, ScanError

__all__ = [
    "AckCounts",
    "Direction",
    "OpKind",
    "Owed",
    "ProtocolError",
    "PublishBuffer",
    "Scanner",
    "Sent",
    "StreamFilter",
    "count_acks",
    "encode_publish",
    "format_acks",
    "valid_publish_subject",
    "valid_subject",
]

MAX_CONTROL_LINE: Final = 4096
MAX_PAYLOAD: Final = 1 << 20

ERROR_TEXTS: Final = {
    ScanError.UNKNOWN_OPERATION: "Unknown Protocol Operation",
    ScanError.CONTROL_LINE: "maximum control line exceeded",
    ScanError.MAX_PAYLOAD: "Maximum Payload Violation",
    ScanError.BAD_ARGUMENTS: "Parser Error",
}


class _Receiver(Protocol):
    def recv_into(self, buffer: memoryview, /) -> int: ...


class Scanner:
    """One connection's receive buffer, and the operations that the last `scan` found in it.

    Use: `scanner.wrote(sock.recv_into(scanner.writable()))`, then `while count := scanner.scan():` handle
    operations 0..count-1. They stay readable until the next `scan`; `writable` may move them, which their
    accessors hide, but not from a memoryview taken earlier.
    """

    FIRST_CAPACITY: Final = 4096
    READ_SIZE: Final = 256 * 1024
    """The buffer stops growing here, unless one message needs more."""
    MAX_OPS: Final = 4096
    """Operations of one `scan`; the table grows up to it as it is needed."""

    def __init__(
        self,
        direction: Direction = Direction.SERVER,
        *,
        max_payload: int = MAX_PAYLOAD,
        max_control_line: int = MAX_CONTROL_LINE,
    ) -> None:
        if not 0 < max_control_line <= 65000:
            raise ValueError(f"max_control_line {max_control_line} is not in 1..65000")
        if not 0 <= max_payload <= 1 << 30:
            raise ValueError(f"max_payload {max_payload} is not in 0..2**30")
        self.direction = direction
        self.max_payload = max_payload
        self.max_control_line = max_control_line
        self._use(bytearray(self.FIRST_CAPACITY), bytearray(16 * OP.size))
        self._start = 0  # where the last scan began: the base of its operations' offsets
        self._scanned = 0  # bytes of the last scan's operations
        self._end = 0  # where received bytes end
        self._filled = False  # the other side had more to say than there was room for
        self._error = ScanError.NONE
        self._count = 0

    def _use(self, buffer: bytearray, table: bytearray) -> None:
        self._buffer = buffer
        self._table = table
        self._area = ScanArea(buffer, table)

    @property
    def count(self) -> int:
        """Operations of the last `scan`."""
        return self._count

    @property
    def pending(self) -> int:
        """Received bytes behind the last scan's operations."""
        return self._end - self._start - self._scanned

    def writable(self) -> memoryview:
        """Free room to receive into, never empty; report what was written by `wrote` before anything else."""
        if self._start + self._scanned == self._end and not self._count:
            self._start = self._scanned = self._end = 0
        capacity = len(self._buffer)
        grow = self._filled and capacity < self.READ_SIZE
        if grow or self._end == capacity or (self._start and capacity - self._end < capacity // 2):
            self._make_room(grow)
        return memoryview(self._buffer)[self._end :]

    def _make_room(self, grow: bool) -> None:
        """Move what is still needed to the front, into a larger buffer if it fills half of this one."""
        kept = self._end - self._start
        capacity = len(self._buffer)
        if grow or kept > capacity // 2:
            capacity *= 2
        self._filled = False
        # Where a larger buffer is needed, a new one: somebody may still hold a view of this one.
        old, to = self._buffer, self._buffer if capacity == len(self._buffer) else bytearray(capacity)
        to[:kept] = old[self._start : self._end]
        if to is not old:
            self._use(to, self._table)
        self._start, self._end = 0, kept

    def wrote(self, size: int) -> None:
        """`size` bytes were received into the last `writable`."""
        if not 0 <= size <= len(self._buffer) - self._end:
            raise ValueError(f"{size} bytes were not received into this buffer")
        self._end += size
        self._filled |= self._end == len(self._buffer)

    def receive(self, source: _Receiver) -> int:
        """One `recv_into` of a socket; returns its result, 0 at the end of the stream. OSErrors pass."""
        size = source.recv_into(self.writable())
        self.wrote(size)
        return size

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """Append bytes that were received elsewhere."""
        view = memoryview(data)
        while view:
            room = self.writable()
            size = min(len(room), len(view))
            room[:size] = view[:size]
            self.wrote(size)
            view = view[size:]

    def shrink(self) -> None:
        """Give back the memory of a connection that has gone quiet; nothing if bytes are pending."""
        if not self.pending:
            self._start = self._scanned = self._end = self._count = 0
            self._use(bytearray(self.FIRST_CAPACITY), bytearray(16 * OP.size))

    def scan(self) -> int:
        """Forget the last operations and find the next ones; returns how many there are, 0 for "read more".

        Raises:
            ProtocolError: at once if nothing comes before the error, else by the call after the one that
                returned the operations before it; again by every later call.
        """
        self._start += self._scanned
        self._scanned = self._count = 0
        if self._error:
            raise ProtocolError(ERROR_TEXTS[self._error])
        if self._start == self._end:
            self._start = self._end = 0
            return 0
        self._count, self._scanned, error = self._area.scan(
            self._start, self._end, self.direction, self.max_payload, self.max_control_line
        )
        if error:
            self._error = ScanError(error)
            if not self._count:
                raise ProtocolError(ERROR_TEXTS[self._error])
        elif self._count == self._area.capacity < self.MAX_OPS:
            self._use(self._buffer, self._table + bytes(len(self._table)))
        return self._count

    # What an operation says. `number` counts from 0 in the last scan.

    def kind(self, number: int) -> int:
        """The operation's `OpKind`, as a plain int."""
        return self._table[OP.size * number]

    def subject(self, number: int) -> bytes:
        """Subject of PUB, HPUB, SUB, MSG, HMSG."""
        op = OP.unpack_from(self._table, OP.size * number)
        return self._slice(op[3], op[2])

    def reply(self, number: int) -> bytes:
        """Reply subject of PUB, HPUB, MSG, HMSG; empty if there is none."""
        op = OP.unpack_from(self._table, OP.size * number)
        return self._slice(op[6], op[4])

    def queue(self, number: int) -> bytes:
        """Queue group of SUB; empty if there is none."""
        return self.reply(number)

    def sid(self, number: int) -> bytes:
        """Subscription id of SUB, UNSUB, MSG, HMSG."""
        return self.args(number)

    def maximum(self, number: int) -> int:
        """Messages after which UNSUB takes effect; 0 (at once) if none is given or it is not a number."""
        digits = self.reply(number)
        return int(digits) if len(digits) <= 9 and digits.isdigit() else 0

    def args(self, number: int) -> bytes:
        """The JSON of CONNECT and INFO, the text of -ERR, the sid of SUB, UNSUB, MSG and HMSG."""
        op = OP.unpack_from(self._table, OP.size * number)
        return self._slice(op[7], op[5])

    def text(self, number: int) -> str:
        """The text of -ERR without its quotes."""
        return self.args(number).decode(errors="replace").strip(" '")

    def header_size(self, number: int) -> int:
        """Bytes of the headers block of HPUB and HMSG."""
        return int(OP.unpack_from(self._table, OP.size * number)[8])

    def body_size(self, number: int) -> int:
        """Bytes of headers and payload together."""
        return int(OP.unpack_from(self._table, OP.size * number)[10])

    def body_bytes(self, first: int, last: int) -> int:
        """Bytes of headers and payloads of operations first..last-1."""
        if last > self._count:
            raise ValueError(f"operations {first}..{last} of {self._count}")
        return self._area.body_bytes(first, last)

    def headers(self, number: int) -> bytes:
        """The headers block of HPUB and HMSG, with its last empty line; else empty."""
        op = OP.unpack_from(self._table, OP.size * number)
        return self._slice(op[9], op[8])

    def payload(self, number: int) -> bytes:
        """The payload without headers."""
        op = OP.unpack_from(self._table, OP.size * number)
        return self._slice(op[9] + op[8], op[10] - op[8])

    def body(self, number: int) -> memoryview:
        """Headers and payload as they lie in the buffer; valid until the next `scan` or `writable`."""
        op = OP.unpack_from(self._table, OP.size * number)
        begin = self._start + op[9]
        return memoryview(self._buffer)[begin : begin + op[10]]

    def _slice(self, offset: int, size: int) -> bytes:
        begin = self._start + offset
        return bytes(self._buffer[begin : begin + size])


def count_acks(scanner: Scanner, sent: Sent, now: int, counts: AckCounts) -> int:
    """Count the acknowledgements among the scanner's operations, received at `now` (ns).

    Returns how many of the outstanding messages of `sent` were answered; operations other than MSG and HMSG
    are passed over.
    """
    return sent.count_acks(scanner._area, scanner._start, scanner._count, now, counts)


def valid_subject(subject: bytes) -> bool:
    """May this be subscribed to: no empty token, no blank, `>` only as the last token."""
    words = subject.split(b".")
    if any(byte in subject for byte in b" \t\r\n"):
        return False
    return all(words) and b">" not in words[:-1]


def valid_publish_subject(subject: bytes) -> bool:
    """May this be published to: no empty token, no blank, no wildcard token."""
    words = subject.split(b".")
    return valid_subject(subject) and b"*" not in words and b">" not in words


class StreamFilter:
    """The subjects of a stream, compiled: wildcards `*` (one token) and `>` (one or more at the end).

    A subject that begins with `$` is taken only by a filter that names its first token.

    Raises:
        ValueError: a subject that nobody can subscribe to.
    """

    __slots__ = ("compiled", "subjects")

    def __init__(self, subjects: Sequence[bytes]) -> None:
        for subject in subjects:
            if not valid_subject(subject) or len(subject) > 0xFFFF:
                raise ValueError(f"not a subject: {subject!r}")
        self.subjects = tuple(subjects)
        self.compiled = b"".join(struct.pack("<H", len(subject)) + subject for subject in subjects)


@dataclass(frozen=True, slots=True)
class Owed:
    """Whom the entries of a chunk owe an acknowledgement."""

    count: int
    reply_ends: bytes
    """u32 per entry: where its reply subject ends in `replies`."""
    replies: bytes
    runs: list[tuple[int, int, int]]
    """(connection, start, count): successive entries of one connection, covering all entries in order."""

    def reply(self, number: int) -> bytes:
        """The reply subject of entry `number`; empty if it has none."""
        begin = struct.unpack_from("<I", self.reply_ends, 4 * number - 4)[0] if number else 0
        return self.replies[begin : struct.unpack_from("<I", self.reply_ends, 4 * number)[0]]

    def reply_bytes(self, start: int, count: int) -> int:
        """Bytes of the replies of entries start..start+count-1 together."""
        if not count:
            return 0
        begin = struct.unpack_from("<I", self.reply_ends, 4 * start - 4)[0] if start else 0
        return int(struct.unpack_from("<I", self.reply_ends, 4 * (start + count) - 4)[0] - begin)

    def has_reply(self, number: int) -> bool:
        """Is anybody waiting for entry `number`?"""
        return bool(self.reply(number))


class PublishBuffer:
    """A chunk under construction: publishes of many connections to one stream, in the order of `append`.

    `max_bytes` caps the encoded chunk, 65,535 entries its count.
    """

    def __init__(self, max_bytes: int, max_count: int = MAX_ENTRIES) -> None:
        self._publishes = Publishes(max_bytes, min(max_count, MAX_ENTRIES))
        self._runs: list[tuple[int, int, int]] = []

    def __len__(self) -> int:
        return self._publishes.count

    @property
    def encoded_size(self) -> int:
        """Bytes that the chunk would have now."""
        return self._publishes.encoded_size

    @property
    def full(self) -> bool:
        """Did the last `append` stop for lack of room? If the buffer is empty, that message fits no chunk."""
        return self._publishes.full

    def append(
        self,
        scanner: Scanner,
        first: int,
        stream_filter: StreamFilter,
        connection: int,
        last: int | None = None,
    ) -> int:
        """Take successive operations of the scanner's last scan, from `first` up to `last` (exclusive).

        Stops at the first one that is no publish, whose subject is invalid or not the stream's, or that does
        not fit (`full`). Returns how many were taken.
        """
        if last is None:
            last = scanner._count
        publishes = self._publishes
        start = publishes.count
        taken = publishes.append(scanner._area, scanner._start, first, last, stream_filter.compiled)
        if taken:
            runs = self._runs
            if runs and runs[-1][0] == connection:
                run = runs[-1]
                runs[-1] = (connection, run[1], run[2] + taken)
            else:
                runs.append((connection, start, taken))
        return taken

    def take(self) -> tuple[Chunk, Owed]:
        """The chunk and what it owes; the buffer is empty afterwards.

        Raises:
            ValueError: nothing was appended.
        """
        if not self._publishes.count:
            raise ValueError("an empty buffer gives no chunk")
        count, entries_size, payload, reply_ends, replies = self._publishes.take()
        runs, self._runs = self._runs, []
        return Chunk(count, entries_size, payload), Owed(count, reply_ends, replies, runs)


def encode_publish(subject: bytes, headers: bytes, payload: bytes) -> tuple[EntryType, bytes]:
    """One publish as (entry type, entry bytes), for `make_chunk`; what `PublishBuffer` does in bulk."""
    lower = headers.lower()
    checked = lower.startswith(b"nats-") or b"\nnats-" in lower
    head = struct.pack("<HHI", len(subject), 0, len(headers))
    return EntryType.PUBLISH_CHECKED if checked else EntryType.PUBLISH, head + subject + headers + payload


@functools.lru_cache(maxsize=1024)
def _ack_head(stream_name: str, domain: str) -> bytes:
    named = f'"domain":{json.dumps(domain)},' if domain else ""
    return f'{{"stream":{json.dumps(stream_name)},{named}"seq":'.encode()


def format_acks(
    owed: Owed,
    start: int,
    count: int,
    results: bytes,
    stream_name: str,
    inbox_prefix: bytes,
    sid: bytes,
    out: bytearray,
    domain: str = "",
) -> int:
    """Append the MSG lines that acknowledge entries start..start+count-1 of a chunk to `out`.

    `results` are the chunk's packed results, 8 bytes per entry of the whole chunk. Only replies of the form
    inbox_prefix + one token are formatted, which is what subscription `sid` on `<inbox_prefix>*` receives.
    The acknowledgements name the domain, unless it is empty.

    Returns how many entries are done with: fewer than `count` if the next one has another reply or a result
    other than STORED and DUPLICATE, so that the caller answers that one and calls again behind it.

    Raises:
        ValueError: entries or results that are not there.
    """
    if start < 0 or count < 0 or start + count > owed.count or len(results) < 8 * (start + count):
        raise ValueError(f"entries {start}..{start + count} of {owed.count}, {len(results)} bytes of results")
    head = _ack_head(stream_name, domain)
    return _format_acks(owed.replies, owed.reply_ends, start, count, results, head, inbox_prefix, sid, out)
