"""Figures of the codec: what a batch costs beside the checksum and the copy that nothing can avoid."""

from __future__ import annotations

import os
from array import array
from collections.abc import Callable
from types import ModuleType
from typing import Any

import crc32c as pypi_crc32c
import msgpack
from figures import Figure, Pair, bandwidth, microseconds, paired

from trimaran.codec import EntryType, Kind, make_chunk
from trimaran.codec import _compiled_batch as compiled
from trimaran.codec import _reference_batch as reference
from trimaran.codec._native import ffi, lib

IDENTITY: dict[str, Any] = {
    "kind": Kind.NORMAL,
    "group": 2,
    "incarnation": 3,
    "index": 1000,
    "term": 4,
    "previous_term": 4,
    "time": 1_700_000_000_000_000_000,
}
ENTRIES = 1000


class Spans:
    """ENTRIES messages somewhere in a buffer, as a gateway finds them in what it received."""

    GAP = 23
    """Bytes of protocol between two messages."""

    def __init__(self, size: int) -> None:
        step = size + self.GAP
        self.buffer = os.urandom(ENTRIES * step)
        self.offsets = array("I", range(0, ENTRIES * step, step))
        self.lengths = array("I", [size] * ENTRIES)
        self.types = bytes([EntryType.PUBLISH]) * ENTRIES
        self.list = [self.buffer[at : at + size] for at in self.offsets]
        self.bytes = ENTRIES * size


def codec_figures() -> list[Figure]:
    small, large = Spans(128), Spans(1024)
    return [
        _checksum(),
        _decode(InC(small)),
        _encode(InC(small)),
        *(figure for spans in (small, large) for figure in _against_others(spans)),
    ]


def _checksum() -> Figure:
    data = os.urandom(64 << 10)
    assert compiled.crc32c(data) == pypi_crc32c.crc32c(data)
    pair = paired(lambda: compiled.crc32c(data), lambda: pypi_crc32c.crc32c(data), rounds=101)
    return Figure(
        "CRC32C, 64 KiB, against PyPI's `crc32c`",
        bandwidth(len(data), pair.mine),
        bandwidth(len(data), pair.other),
        f"{1 / pair.ratio:.2f} of its bandwidth",
        "≥ 1 (0.98 counts as equal)",
        1 / pair.ratio >= 0.98,
    )


class InC:
    """The functions in C on areas that are there already, as a caller in C has them: nothing is allocated."""

    def __init__(self, spans: Spans) -> None:
        batch = compiled.OpenBatch(1 << 24)
        batch.append_spans(spans.buffer, spans.offsets, spans.lengths, spans.types)  # so that it has its room
        batch.seal(**IDENTITY)
        self._open = batch
        self._state, self._taken, self._size = batch._state, ffi.new("uint32_t *"), ffi.new("uint64_t *")
        self._header = ffi.new("tri_batch_header *", {"kind": Kind.NORMAL, "group": 2, "index": 1, "term": 1})
        rows = [ffi.from_buffer("uint32_t[]", row) for row in (spans.offsets, spans.lengths)]
        types = ffi.from_buffer("uint8_t[]", spans.types)
        buffer = ffi.from_buffer("uint8_t[]", spans.buffer)
        self._from = (buffer, len(spans.buffer), *rows, types, ENTRIES, self._taken)
        self._words = ffi.new("uint32_t[]", 2 * ENTRIES)
        self.encode()
        self.size = int(self._size[0])
        self.sealed = bytes(ffi.buffer(self._state.area, self.size))
        self.decode()

    def encode(self) -> None:
        lib.tri_append_spans(self._state, *self._from)
        lib.tri_seal_open(self._state, self._header, self._size)
        assert self._taken[0] == ENTRIES

    def decode(self) -> None:
        code = lib.tri_decode_batch(self._state.area, self.size, self._words, 2 * ENTRIES)
        assert code == lib.TRI_OK

    def there_and_back(self) -> None:
        self.encode()
        self.decode()


def _decode(in_c: InC) -> Figure:
    """What is compared is the work on the table behind the entries."""
    area, size = in_c._state.area, in_c.size
    pair = paired(in_c.decode, lambda: lib.tri_crc32c(0, area, size))
    return Figure(
        "decode + verify, 1,000 x 128 B, against its checksum alone",
        microseconds(pair.mine),
        microseconds(pair.other),
        f"{pair.ratio:.2f}x",
        "≤ 1.3x",
        pair.ratio <= 1.3,
    )


def _encode(in_c: InC) -> Figure:
    """From spans into the open batch and sealed there, against a copy and a checksum of the same bytes."""
    size = in_c.size
    source, target = ffi.new("uint8_t[]", size), ffi.new("uint8_t[]", size)

    def copy_and_sum() -> None:
        ffi.memmove(target, source, size)
        lib.tri_crc32c(0, target, size)

    pair = paired(in_c.encode, copy_and_sum)
    return Figure(
        "encode from spans, 1,000 x 128 B, against copy + checksum",
        microseconds(pair.mine),
        microseconds(pair.other),
        f"{pair.ratio:.2f}x",
        "≤ 2x",
        pair.ratio <= 2,
    )


def _there_and_back(codec: ModuleType, spans: Spans) -> Callable[[], object]:
    """Buffer and offsets in, a sealed batch as bytes, buffer and offsets out: checksum made and verified."""
    batch = codec.OpenBatch(1 << 24)

    def run() -> object:
        batch.append_spans(spans.buffer, spans.offsets, spans.lengths, spans.types)
        return codec.decode_batch(batch.seal(**IDENTITY))

    return run


def _lists_there_and_back(spans: Spans) -> Callable[[], object]:
    """The same from a list of bytes to a list of bytes."""
    entries = [(EntryType.PUBLISH, data) for data in spans.list]

    def run() -> list[bytes]:
        batch = compiled.seal_batch([make_chunk(entries)], **IDENTITY)
        decoded = compiled.decode_batch(batch)
        places = zip(decoded.offsets, decoded.lengths, strict=True)
        return [batch[offset : offset + length] for offset, length in places]

    assert run() == spans.list
    return run


def _against_others(spans: Spans) -> list[Figure]:
    size = spans.bytes // ENTRIES
    packer = msgpack.Packer()

    def through_msgpack() -> object:
        return msgpack.unpackb(packer.pack(spans.list))

    with_msgpack = paired(InC(spans).there_and_back, through_msgpack)
    with_python = paired(_there_and_back(compiled, spans), _there_and_back(reference, spans), rounds=5)
    lists = paired(_lists_there_and_back(spans), through_msgpack)
    name = f"there and back, 1,000 x {size} B"
    return [
        _times(f"{name}, buffer and offsets, against msgpack without checksum", with_msgpack, 1.0),
        _times(f"{name}, buffer and offsets, against the Python codec", with_python, 10.0),
        _times(f"{name}, list of bytes, against msgpack without checksum", lists, None),
    ]


def _times(what: str, pair: Pair, target: float | None) -> Figure:
    factor = 1 / pair.ratio
    return Figure(
        what,
        microseconds(pair.mine),
        microseconds(pair.other),
        f"{factor:.1f} times as fast",
        "" if target is None else "faster" if target == 1 else f"≥ {target:.0f} times",
        None if target is None else factor >= target and factor != 1,
    )
