"""The batch: what is sealed comes back, and nothing else ever does."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import strategies
from tests.golden_files import read_golden
from trimaran.codec import (
    BATCH_HEADER_SIZE,
    MAX_BATCH_SIZE,
    MAX_ENTRIES,
    BadField,
    BadLength,
    BadMagic,
    BadTable,
    BatchFull,
    BatchHeader,
    Chunk,
    CodecError,
    EntryTooLarge,
    EntryType,
    HeaderDamaged,
    Kind,
    NewerVersion,
    PayloadDamaged,
    ShortBuffer,
    batch_size,
    make_chunk,
    payload_size,
)
from trimaran.codec import _reference_batch as reference
from trimaran.codec.batch import HEADER

IDENTITY: dict[str, Any] = {
    "group": 0x01020304,
    "incarnation": 0x1112131415161718,
    "index": 0x2122232425262728,
    "term": 0x3132333435363738,
    "previous_term": 0x4142434445464748,
    "time": 1_700_000_000_123_456_789,
}
ENTRIES = [(EntryType.PUBLISH, b"first"), (EntryType.OPAQUE, b""), (EntryType.STREAM_COMMAND, b"three" * 5)]
READERS = ("read_header", "verify_batch", "walk_batch", "decode_batch", "split_batches")


def sample(codec: ModuleType = reference) -> bytes:
    """One batch of two chunks, in which every padding has bytes."""
    chunks = [make_chunk(ENTRIES[:2]), make_chunk(ENTRIES[2:])]
    batch: bytes = codec.seal_batch(chunks, kind=Kind.NORMAL, **IDENTITY)
    return batch


def entries_of(codec: ModuleType, batch: bytes) -> list[tuple[int, bytes]]:
    return [(entry_type, bytes(data)) for entry_type, data in codec.walk_batch(batch)]


def with_checksums(batch: bytes | bytearray) -> bytes:
    """The same bytes with both checksums made right: what a writer with a fault, or with malice, can send."""
    changed = bytearray(batch)
    changed[60:64] = struct.pack("<I", reference.crc32c(changed[BATCH_HEADER_SIZE:]))
    changed[68:72] = struct.pack("<I", reference.crc32c(changed[:68]))
    return bytes(changed)


def put(batch: bytes, offset: int, form: str, *values: int) -> bytes:
    changed = bytearray(batch)
    struct.pack_into(form, changed, offset, *values)
    return with_checksums(changed)


# What is sealed comes back.


@given(st.lists(strategies.entry_lists, min_size=1, max_size=5), strategies.full_kinds, strategies.identities)
def test_round_trip(
    codec: ModuleType, proposals: list[list[tuple[int, bytes]]], kind: Kind, identity: dict[str, Any]
) -> None:
    chunks = [make_chunk(entries) for entries in proposals]
    batch = codec.seal_batch(chunks, kind=kind, **identity)
    expected = [entry for entries in proposals for entry in entries]

    header = codec.verify_batch(batch)
    assert (
        header
        == codec.read_header(batch)
        == codec.walk_batch(batch).header
        == codec.decode_batch(batch).header
    )
    assert (header.kind, header.count, header.flags, header.length) == (kind, len(expected), 0, len(batch))
    assert {name: getattr(header, name) for name in identity} == identity
    assert entries_of(codec, batch) == expected
    assert len(batch) == batch_size(chunks) and len(batch) % 8 == 0


@given(strategies.empty_kinds, strategies.identities)
def test_a_batch_without_entries(codec: ModuleType, kind: Kind, identity: dict[str, Any]) -> None:
    batch = codec.seal_batch([], kind=kind, **identity)
    assert len(batch) == BATCH_HEADER_SIZE
    assert codec.verify_batch(batch).kind is kind
    assert entries_of(codec, batch) == []


def test_entries_are_reached_by_number(codec: ModuleType) -> None:
    entries = codec.walk_batch(sample(codec))
    assert len(entries) == 3
    assert [(entries.type(i), bytes(entries.entry(i))) for i in range(3)] == ENTRIES
    assert [entries.offsets[i] for i in range(3)] == [72, 77, 77]
    assert [entries.lengths[i] for i in range(3)] == [5, 0, 25]
    for number in (3, -1):
        with pytest.raises(IndexError):
            entries.entry(number)
    with pytest.raises(IndexError):
        entries.type(3)


@pytest.mark.parametrize("held_as", [bytes, bytearray, memoryview])
def test_any_contiguous_buffer_is_read(codec: ModuleType, held_as: Callable[[bytes], Any]) -> None:
    batch = held_as(sample())
    assert codec.verify_batch(batch).count == 3
    assert entries_of(codec, batch) == ENTRIES


def test_a_full_batch(codec: ModuleType) -> None:
    chunk = make_chunk([(1, b"")] * MAX_ENTRIES)
    batch = codec.seal_batch([chunk], kind=Kind.NORMAL, **IDENTITY)
    assert codec.verify_batch(batch).count == MAX_ENTRIES
    assert len(entries_of(codec, batch)) == MAX_ENTRIES


def test_a_batch_larger_than_the_caches(codec: ModuleType) -> None:
    """Sealing sums up in parts what it copies: parts of every size, and cuts inside of an entry."""
    sizes = [0, 1, 16383, 16384, 16385, 40000, 3]
    chunks = [make_chunk([(1, bytes([size & 0xFF]) * size)]) for size in sizes]
    batch = codec.seal_batch(chunks, kind=Kind.NORMAL, **IDENTITY)
    assert codec.verify_batch(batch).entries_size == sum(sizes)
    assert [len(data) for _, data in entries_of(codec, batch)] == sizes


# The format is the one that was published.


def golden() -> bytes:
    return read_golden("batch-v1")


def test_golden_bytes(codec: ModuleType) -> None:
    """Version 1 stays readable for ever, and stays what is written."""
    assert sample(codec) == golden()
    sizes = {"length": 120, "count": 3, "flags": 0, "entries_size": 30}
    checksums = {"payload_crc": 0x0950D2EC, "header_crc": 0xE8549DF7}
    assert codec.verify_batch(golden()) == BatchHeader(Kind.NORMAL, **sizes, **checksums, **IDENTITY)
    assert entries_of(codec, golden()) == ENTRIES


def test_c_and_python_have_the_same_numbers() -> None:
    from trimaran.codec._native import ffi, lib

    assert lib.TRI_BATCH_HEADER_SIZE == BATCH_HEADER_SIZE == HEADER.size
    assert lib.TRI_MAX_ENTRIES == MAX_ENTRIES
    assert list(Kind) == [lib.TRI_NORMAL, lib.TRI_NOOP, lib.TRI_MEMBERSHIP, lib.TRI_SNAPSHOT, lib.TRI_TICK]
    assert lib.tri_payload_size(7, 13) == payload_size(7, 13) == 16 + 40
    assert ffi.sizeof("tri_chunk") == 24


# Damage is found, wherever it is.


def test_every_truncation_is_a_short_buffer(codec: ModuleType) -> None:
    batch = sample()
    for size in range(len(batch)):
        for read in (codec.read_header, codec.verify_batch, codec.walk_batch, codec.decode_batch):
            with pytest.raises(ShortBuffer):
                read(batch[:size])
    for size in range(1, len(batch)):
        with pytest.raises(ShortBuffer):
            codec.split_batches(batch + batch[:size])


def test_every_flipped_bit_is_found(codec: ModuleType) -> None:
    """Also in padding and in reserved fields; and no header is believed that was changed."""
    batch = sample()
    header = codec.read_header(batch)
    for bit in range(8 * len(batch)):
        flipped = bytearray(batch)
        flipped[bit // 8] ^= 1 << bit % 8
        for read in (codec.verify_batch, codec.decode_batch):
            with pytest.raises(CodecError) as caught:
                read(flipped)
            if bit < 8 * 2:
                assert type(caught.value) is BadMagic
            elif bit < 8 * BATCH_HEADER_SIZE:
                assert type(caught.value) is HeaderDamaged
            else:
                assert type(caught.value) is PayloadDamaged
                assert caught.value.header == header


def test_every_changed_byte_is_found(codec: ModuleType) -> None:
    batch = sample()
    for offset in range(len(batch)):
        for value in (0x00, 0xFF, batch[offset] ^ 0x55):
            changed = batch[:offset] + bytes([value]) + batch[offset + 1 :]
            if changed != batch:
                with pytest.raises(CodecError):
                    codec.verify_batch(changed)


def test_bytes_behind_the_batch(codec: ModuleType) -> None:
    batch = sample() + bytes(8)
    assert codec.read_header(batch).length == len(batch) - 8
    for read in (codec.verify_batch, codec.walk_batch, codec.decode_batch):
        with pytest.raises(BadLength):
            read(batch)


@pytest.mark.parametrize(
    ("offset", "form", "value", "error"),
    [
        (2, "<B", 2, NewerVersion),
        (2, "<B", 0, BadField),
        (3, "<B", 6, NewerVersion),
        (3, "<B", 0, BadField),
        (4, "<I", 0, BadLength),
        (4, "<I", 73, BadLength),
        (4, "<I", 0xFFFFFFF8, BadLength),
        (12, "<H", 0, BadTable),
        (12, "<H", 65535, BadLength),
        (14, "<H", 1, NewerVersion),
        (56, "<I", 0xFFFFFFFF, BadLength),
        (64, "<I", 1, BadField),
    ],
)
def test_a_sound_checksum_does_not_excuse_a_bad_header(
    codec: ModuleType, offset: int, form: str, value: int, error: type[CodecError]
) -> None:
    changed = put(sample(), offset, form, value)
    for name in READERS:
        with pytest.raises(error) as caught:
            getattr(codec, name)(changed)
        assert type(caught.value) is error


def test_a_sound_checksum_does_not_excuse_a_bad_table(codec: ModuleType) -> None:
    batch = sample()
    table = BATCH_HEADER_SIZE + 32  # 30 bytes of entries
    for changed in (
        put(batch, table - 1, "<B", 1),  # padding of the entries
        put(batch, len(batch) - 1, "<B", 1),  # padding of the table
        put(batch, table, "<I", 6),  # one more than there is
        put(batch, table, "<II", 31, 0xFFFFFFE6),  # right only if the sum were 32 bits
        put(batch, table + 12, "<B", 0),  # a type of 0
    ):
        for read in (codec.verify_batch, codec.walk_batch, codec.decode_batch):
            with pytest.raises(BadTable) as caught:
                read(changed)
            assert caught.value.header is not None and caught.value.header.index == IDENTITY["index"]


@given(
    strategies.batches,
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=3),
    st.integers(-9, 9),
    st.booleans(),
)
def test_c_and_python_agree_about_hostile_bytes(
    batch: bytes, changes: list[tuple[float, int]], cut: int, repaired: bool
) -> None:
    """Same error or same entries, also with checksums that a hostile writer made right."""
    from trimaran.codec import _compiled_batch as compiled

    changed = bytearray(batch)
    for place, value in changes:
        changed[int(place * len(changed))] = value
    hostile = with_checksums(changed) if repaired else bytes(changed)
    hostile = hostile[:cut] if cut < 0 else hostile + bytes(cut)
    for name in READERS:
        assert outcome(compiled, name, hostile) == outcome(reference, name, hostile)


def outcome(codec: ModuleType, name: str, data: bytes) -> object:
    try:
        result = getattr(codec, name)(data)
    except CodecError as error:
        return type(error), error.header
    if name in ("walk_batch", "decode_batch"):
        return result.header, list(result.offsets), list(result.lengths), bytes(result.types), list(result)
    return result


@given(st.lists(strategies.chunks, min_size=1, max_size=5), strategies.full_kinds, strategies.identities)
def test_c_and_python_seal_the_same_bytes(chunks: list[Chunk], kind: Kind, identity: dict[str, Any]) -> None:
    from trimaran.codec import _compiled_batch as compiled

    sealed = compiled.seal_batch(chunks, kind=kind, **identity)
    assert sealed == reference.seal_batch(chunks, kind=kind, **identity)


# Several batches back to back.


@given(st.lists(strategies.batches, max_size=4))
def test_split(codec: ModuleType, batches: list[bytes]) -> None:
    assert [bytes(part) for part in codec.split_batches(b"".join(batches))] == batches


def test_a_header_is_read_at_its_offset(codec: ModuleType) -> None:
    batch = sample()
    assert codec.read_header(b"12345" + batch, 5) == codec.read_header(batch)
    for offset in (-1, -len(batch), len(batch), len(batch) + 1, 1 << 70):
        with pytest.raises(ShortBuffer):
            codec.read_header(batch, offset)


# What cannot be sealed is refused by name.


@pytest.mark.parametrize(
    "field",
    [
        {"kind": 0},
        {"kind": 6},
        {"flags": 1},
        {"group": 1 << 32},
        {"group": -1},
        {"incarnation": 1 << 64},
        {"index": 1 << 64},
        {"index": -1},
        {"term": 1 << 64},
        {"previous_term": 1 << 64},
        {"time": 1 << 63},
        {"time": -(1 << 63) - 1},
    ],
)
def test_a_field_out_of_its_range(codec: ModuleType, field: dict[str, int]) -> None:
    arguments: dict[str, Any] = {"kind": Kind.NORMAL} | IDENTITY | field
    with pytest.raises(BadField):
        codec.seal_batch([make_chunk(ENTRIES)], **arguments)


@pytest.mark.parametrize("kind", [Kind.NORMAL, Kind.MEMBERSHIP, Kind.SNAPSHOT])
def test_no_entries_where_there_must_be_some(codec: ModuleType, kind: Kind) -> None:
    with pytest.raises(BadTable):
        codec.seal_batch([], kind=kind, **IDENTITY)


def test_too_many_entries_for_one_batch(codec: ModuleType) -> None:
    half = make_chunk([(1, b"")] * 32768)
    with pytest.raises(BatchFull):
        codec.seal_batch([half, half], kind=Kind.NORMAL, **IDENTITY)


def test_too_many_bytes_for_one_batch(codec: ModuleType) -> None:
    """The sizes alone decide, before anything is allocated: these chunks have no bytes at all."""
    huge = Chunk(1, MAX_BATCH_SIZE // 2, b"")
    with pytest.raises(BatchFull):
        codec.seal_batch([huge, huge], kind=Kind.NORMAL, **IDENTITY)


def test_a_chunk_that_lies_about_its_size(codec: ModuleType) -> None:
    honest = make_chunk(ENTRIES)
    for count, entries_size, payload in (
        (honest.count, honest.entries_size + 8, honest.payload),
        (honest.count + 8, honest.entries_size, honest.payload),
        (honest.count, honest.entries_size, honest.payload[:-8]),
    ):
        with pytest.raises(BadLength):
            codec.seal_batch([Chunk(count, entries_size, payload)], kind=Kind.NORMAL, **IDENTITY)


# Chunks.


@given(strategies.chunks)
def test_a_chunk_passes_its_check(codec: ModuleType, chunk: Chunk) -> None:
    checked = codec.check_chunk(chunk.count, chunk.entries_size, memoryview(chunk.payload))
    assert checked == chunk
    assert type(checked.payload) is bytes
    assert chunk.encoded_size == len(chunk.payload) == payload_size(chunk.count, chunk.entries_size)


def test_a_chunks_table_and_padding_are_checked(codec: ModuleType) -> None:
    chunk = make_chunk(ENTRIES)
    types = range(44, 47)  # any value but 0 is a type
    for offset in range(chunk.entries_size, len(chunk.payload)):
        changed = bytearray(chunk.payload)
        changed[offset] ^= changed[offset] if offset in types else 0x80
        with pytest.raises(BadTable):
            codec.check_chunk(chunk.count, chunk.entries_size, changed)


@pytest.mark.parametrize(
    ("count", "entries_size", "error"),
    [
        (0, 30, BadTable),
        (-1, 30, BadTable),
        (MAX_ENTRIES + 1, 30, BatchFull),
        (1 << 70, 30, BatchFull),
        (3, 40, BadLength),
        (3, -2, BadLength),
        (3, 1 << 32, BadLength),
        (3, 1 << 70, BadLength),
        (11, 30, BadLength),
        (4, 30, BadLength),
        (3, 31, BadTable),
        (2, 30, BadTable),
    ],
)
def test_a_chunk_with_other_numbers(
    codec: ModuleType, count: int, entries_size: int, error: type[CodecError]
) -> None:
    payload = make_chunk(ENTRIES).payload
    with pytest.raises(error):
        codec.check_chunk(count, entries_size, payload)


@given(st.integers(0, 20), st.integers(0, 100), st.binary(max_size=100))
def test_c_and_python_agree_about_hostile_chunks(count: int, entries_size: int, payload: bytes) -> None:
    from trimaran.codec import _compiled_batch as compiled

    assert chunk_outcome(compiled, count, entries_size, payload) == chunk_outcome(
        reference, count, entries_size, payload
    )


def chunk_outcome(codec: ModuleType, *parts: object) -> object:
    try:
        return codec.check_chunk(*parts)
    except CodecError as error:
        return type(error)


class Huge(bytes):
    """Bytes that claim a length; make_chunk decides by that before it touches them."""

    def __len__(self) -> int:
        return MAX_BATCH_SIZE - BATCH_HEADER_SIZE - 8


@pytest.mark.parametrize(
    ("entries", "error"),
    [
        ([], BadTable),
        ([(0, b"x")], BadTable),
        ([(256, b"x")], BadTable),
        ([(1, b"")] * (MAX_ENTRIES + 1), BatchFull),
        ([(1, b"x"), (1, Huge())], BatchFull),
    ],
)
def test_what_no_chunk_can_hold(entries: Sequence[tuple[int, bytes]], error: type[CodecError]) -> None:
    with pytest.raises(error):
        make_chunk(entries)


def test_an_entry_that_no_batch_can_hold() -> None:
    class TooLarge(bytes):
        def __len__(self) -> int:
            return MAX_BATCH_SIZE - BATCH_HEADER_SIZE - 7

    with pytest.raises(EntryTooLarge):
        make_chunk([(1, TooLarge())])
