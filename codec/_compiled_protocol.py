"""The NATS protocol in C (`csrc/protocol.h`): the functions of `_reference_protocol`, one call for many.

A C call gives up the interpreter lock, so a buffer must not be changed by another thread meanwhile.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

from ._native import ffi, lib
from .chunk import padding, payload_size
from .protocol_types import LATENCY_BUCKETS, OP

if TYPE_CHECKING:
    from _cffi_backend import _CDataBase as CData

__all__ = ["AckCounts", "Publishes", "ScanArea", "Sent", "format_acks", "matches"]

assert ffi.sizeof("tri_op") == OP.size
assert lib.TRI_LATENCY_BUCKETS == LATENCY_BUCKETS

_GROW, _FULL = lib.TRI_APPEND_GROW, lib.TRI_APPEND_FULL
_U32 = struct.Struct("<I")
_uninitialized = ffi.new_allocator(should_clear_after_alloc=False)


class ScanArea:
    """See `_reference_protocol.ScanArea`. Holds the pointers, which cost more to make than a scan."""

    def __init__(self, buffer: bytearray, table: bytearray) -> None:
        self.buffer = buffer
        self.table = table
        self.size = len(buffer)
        self.capacity = len(table) // OP.size
        self.base: Any = ffi.from_buffer("uint8_t[]", buffer)
        self.ops: Any = ffi.from_buffer("tri_op[]", table)
        self._consumed = ffi.new("uint32_t *")
        self._error = ffi.new("int *")

    def scan(
        self, start: int, end: int, direction: int, max_payload: int, max_control_line: int
    ) -> tuple[int, int, int]:
        """See `_reference_protocol.ScanArea.scan`."""
        if not 0 <= start <= end <= self.size:
            raise ValueError("a scan outside of its buffer")
        count = lib.tri_scan(
            self.base + start,
            end - start,
            direction,
            max_payload,
            max_control_line,
            self.ops,
            self.capacity,
            self._consumed,
            self._error,
        )
        return count, self._consumed[0], self._error[0]

    def body_bytes(self, first: int, last: int) -> int:
        """See `_reference_protocol.ScanArea.body_bytes`."""
        if not 0 <= first <= last <= self.capacity:
            raise ValueError("operations outside of the table")
        return lib.tri_body_bytes(self.ops, first, last)


def matches(subject: bytes, compiled: bytes) -> bool:
    """See `_reference_protocol.matches`."""
    return bool(lib.tri_match(subject, len(subject), compiled, len(compiled)))


class Publishes:
    """See `_reference_protocol.Publishes`. The areas double when the C code asks for room."""

    FIRST_BYTES = 16 * 1024
    FIRST_COUNT = 256

    def __init__(self, max_bytes: int, max_count: int) -> None:
        self.max_bytes = min(max_bytes, (1 << 32) - 1)
        self.max_count = max_count
        self.full = False
        self._taken = ffi.new("uint32_t *")
        self._state: Any = ffi.new("tri_publishes *", {"max_bytes": self.max_bytes, "max_count": max_count})
        self._areas: dict[str, bytearray] = {}
        self._held: dict[str, CData] = {}
        for name, size in (("entries", self.FIRST_BYTES), ("replies", self.FIRST_BYTES)):
            self._enlarge(name, size)
        self._enlarge_tables(self.FIRST_COUNT)

    @property
    def count(self) -> int:
        """Entries so far."""
        return int(self._state.count)

    @property
    def encoded_size(self) -> int:
        """Bytes of the payload that `take` would give."""
        return payload_size(self._state.count, self._state.entries_size)

    def append(self, area: ScanArea, start: int, first: int, last: int, compiled: bytes) -> int:
        """See `_reference_protocol.Publishes.append`."""
        if not 0 <= first <= last <= area.capacity or not 0 <= start <= area.size:
            raise ValueError("operations outside of their table")
        base, size, ops = area.base + start, area.size - start, area.ops
        at = first
        while True:
            stop: int = lib.tri_append_publishes(
                self._state, base, size, ops, at, last, compiled, len(compiled), self._taken
            )
            at += int(self._taken[0])
            if stop != _GROW:
                self.full = stop == _FULL
                return at - first
            op = OP.unpack_from(area.table, OP.size * at)
            self._grow(8 + op[2] + op[10], op[4])

    def _grow(self, entry_size: int, reply_size: int) -> None:
        """Make room for at least one more entry of these sizes."""
        state = self._state
        if state.count >= state.count_capacity:
            self._enlarge_tables(2 * state.count_capacity)
        for name, more in (("entries", entry_size), ("replies", reply_size)):
            needed = getattr(state, f"{name}_size") + more
            capacity = len(self._areas[name])
            if needed > capacity:
                self._enlarge(name, max(2 * capacity, needed))

    def _enlarge_tables(self, count: int) -> None:
        count = min(count, self.max_count)
        self._enlarge("lengths", 4 * count)
        self._enlarge("types", count)
        self._enlarge("reply_ends", 4 * count)
        self._state.count_capacity = count

    def _enlarge(self, name: str, size: int) -> None:
        old = self._areas.get(name, b"")
        area = bytearray(size)
        area[: len(old)] = old
        pointer = ffi.from_buffer("uint8_t[]", area)
        self._areas[name], self._held[name] = area, pointer
        setattr(self._state, name, pointer)
        if name in ("entries", "replies"):
            setattr(self._state, f"{name}_capacity", size)

    def take(self) -> tuple[int, int, bytes, bytes, bytes]:
        """See `_reference_protocol.Publishes.take`."""
        state, areas = self._state, self._areas
        count, size = state.count, state.entries_size
        parts: list[bytes | memoryview] = [
            memoryview(areas["entries"])[:size],
            bytes(padding(size)),
            memoryview(areas["lengths"])[: 4 * count],
            memoryview(areas["types"])[:count],
            bytes(padding(5 * count)),
        ]
        payload = b"".join(parts)
        reply_ends = bytes(memoryview(areas["reply_ends"])[: 4 * count])
        replies = bytes(memoryview(areas["replies"])[: state.replies_size])
        state.count = state.entries_size = state.replies_size = 0
        return count, size, payload, reply_ends, replies


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
    """See `_reference_protocol.format_acks`."""
    if not count:
        return 0
    begin = _U32.unpack_from(reply_ends, 4 * start - 4)[0] if start else 0
    end = _U32.unpack_from(reply_ends, 4 * (start + count) - 4)[0]
    capacity = lib.tri_acks_bound(count, end - begin, len(ack_head), len(sid))
    area = _uninitialized("uint8_t[]", capacity)
    written = ffi.new("uint64_t *")
    done = lib.tri_format_acks(
        replies,
        len(replies),
        reply_ends,
        start,
        count,
        results,
        ack_head,
        len(ack_head),
        inbox_prefix,
        len(inbox_prefix),
        sid,
        len(sid),
        area,
        capacity,
        written,
    )
    out += ffi.buffer(area, written[0])
    return done


class Sent:
    """See `_reference_protocol.Sent`."""

    def __init__(self, message: bytes, digits_at: int, prefix_size: int, window: int) -> None:
        ring = 1 << (window - 1).bit_length()
        self.next = 0
        self._message = message
        self._digits_at = digits_at
        self._prefix_size = prefix_size
        self._mask = ring - 1
        self._times = ffi.new("uint64_t[]", ring)
        self._out = bytearray()

    def format(self, count: int, now: int) -> memoryview:
        """See `_reference_protocol.Sent.format`."""
        size = count * len(self._message)
        if len(self._out) < size:
            self._out = bytearray(size)
        lib.tri_number_publishes(
            ffi.from_buffer("uint8_t[]", self._out),
            self._message,
            len(self._message),
            self._digits_at,
            self.next,
            count,
            self._times,
            self._mask,
            now,
        )
        self.next += count
        return memoryview(self._out)[:size]

    def count_acks(self, area: ScanArea, start: int, count: int, now: int, counts: AckCounts) -> int:
        """See `_reference_protocol.Sent.count_acks`."""
        return lib.tri_count_acks(
            area.base + start,
            area.size - start,
            area.ops,
            count,
            self._prefix_size,
            self._times,
            self._mask,
            self.next,
            now,
            counts.state,
        )


class AckCounts:
    """See `_reference_protocol.AckCounts`."""

    def __init__(self) -> None:
        self.state: Any = ffi.new("tri_ack_counts *")

    @property
    def stored(self) -> int:
        return int(self.state.stored)

    @property
    def duplicates(self) -> int:
        return int(self.state.duplicates)

    @property
    def errors(self) -> int:
        return int(self.state.errors)

    @property
    def strays(self) -> int:
        return int(self.state.strays)

    @property
    def latency_max(self) -> int:
        return int(self.state.latency_max)

    @property
    def first_error(self) -> int:
        return int(self.state.first_error)

    @property
    def latencies(self) -> list[int]:
        return list(self.state.latencies)
