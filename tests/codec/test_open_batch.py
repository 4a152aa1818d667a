"""The open batch: spans of a caller's buffer become entries, all of them or those that fit, never others."""

from __future__ import annotations

import random
from array import array
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import strategies
from trimaran.codec import (
    MAX_BATCH_SIZE,
    MAX_ENTRIES,
    BadField,
    BadLength,
    BadTable,
    CodecError,
    Kind,
    make_chunk,
    payload_size,
)
from trimaran.codec import _reference_batch as reference

IDENTITY: dict[str, Any] = {
    "kind": Kind.NORMAL,
    "group": 2,
    "incarnation": 3,
    "index": 4,
    "term": 5,
    "previous_term": 5,
    "time": 6,
}
LARGE = 1 << 24

Span = tuple[int, int, int]
"""(offset, length, type)"""

buffers = st.binary(max_size=60)


@st.composite
def span_lists(draw: st.DrawFn) -> tuple[bytes, list[Span]]:
    """A buffer, and spans inside of it in any order; some overlap and some are empty."""
    buffer = draw(buffers)
    offsets = st.integers(0, len(buffer))
    spans = []
    for offset in draw(st.lists(offsets, max_size=12)):
        spans.append((offset, draw(st.integers(0, len(buffer) - offset)), draw(st.integers(1, 255))))
    return buffer, spans


def append(target: Any, buffer: bytes | bytearray | memoryview, spans: list[Span]) -> int:
    offsets, lengths, types = ([span[part] for span in spans] for part in range(3))
    taken: int = target.append_spans(buffer, array("I", offsets), array("I", lengths), bytes(types))
    return taken


def meant(buffer: bytes, spans: list[Span]) -> list[tuple[int, bytes]]:
    """The entries that spans stand for."""
    return [(entry_type, buffer[offset : offset + length]) for offset, length, entry_type in spans]


@given(st.lists(span_lists(), min_size=1, max_size=4), strategies.full_kinds, strategies.identities)
def test_what_is_appended_is_what_is_sealed(
    codec: ModuleType, parts: list[tuple[bytes, list[Span]]], kind: Kind, identity: dict[str, Any]
) -> None:
    target = codec.OpenBatch(LARGE)
    entries: list[tuple[int, bytes]] = []
    for buffer, spans in parts:
        assert append(target, buffer, spans) == len(spans)
        entries += meant(buffer, spans)
        assert len(target) == len(entries)
        assert target.encoded_size == payload_size(len(entries), sum(len(data) for _, data in entries))
    if not entries:
        with pytest.raises(BadTable):
            target.seal(kind=kind, **identity)
        return
    sealed = target.seal(kind=kind, **identity)
    assert sealed == codec.seal_batch([make_chunk(entries)], kind=kind, **identity)
    assert len(target) == 0


@given(span_lists())
def test_what_is_appended_is_what_a_chunk_has(codec: ModuleType, part: tuple[bytes, list[Span]]) -> None:
    buffer, spans = part
    target = codec.OpenBatch(LARGE)
    append(target, buffer, spans)
    if spans:
        assert target.take() == make_chunk(meant(buffer, spans))
    assert len(target) == 0
    with pytest.raises(BadTable):
        target.take()


@pytest.mark.parametrize("held_as", [bytes, bytearray, memoryview])
def test_any_contiguous_buffer_is_read(codec: ModuleType, held_as: Any) -> None:
    target = codec.OpenBatch(LARGE)
    assert append(target, held_as(b"abcdef"), [(2, 3, 1)]) == 1
    assert target.take() == make_chunk([(1, b"cde")])


def test_an_open_batch_is_used_again(codec: ModuleType) -> None:
    """Nothing of what it held before shines through, also where the new content is shorter."""
    target = codec.OpenBatch(LARGE)
    append(target, b"x" * 100, [(0, 100, 255)] * 3)
    first = target.seal(**IDENTITY)
    append(target, b"yyy", [(0, 3, 7), (1, 1, 8)])
    assert target.take() == make_chunk([(7, b"yyy"), (8, b"y")])
    assert target.seal(**(IDENTITY | {"kind": Kind.TICK})) == codec.seal_batch(
        [], **(IDENTITY | {"kind": Kind.TICK})
    )
    assert codec.verify_batch(first).count == 3


def test_thousands_of_spans_in_one_call(codec: ModuleType) -> None:
    """More than the areas hold at first, so that they grow in the middle of it, to a full batch."""
    draw = random.Random(1)
    buffer = draw.randbytes(1 << 16)
    spans = [
        (draw.randrange(60000), draw.randrange(20), draw.randrange(1, 256)) for _ in range(MAX_ENTRIES + 9)
    ]
    target = codec.OpenBatch(LARGE)
    assert append(target, buffer, spans[:9]) == 9
    assert append(target, buffer, spans[9:]) == MAX_ENTRIES - 9
    batch = target.seal(**IDENTITY)
    assert [(kind, bytes(data)) for kind, data in codec.decode_batch(batch)] == meant(
        buffer, spans[:MAX_ENTRIES]
    )


@given(span_lists(), st.integers(0, 200), st.integers(0, 14))
def test_only_what_fits_is_taken(
    codec: ModuleType, part: tuple[bytes, list[Span]], max_bytes: int, max_count: int
) -> None:
    buffer, spans = part
    target = codec.OpenBatch(max_bytes, max_count)
    taken = append(target, buffer, spans)
    entries = meant(buffer, spans)

    def fits(count: int) -> bool:
        size = payload_size(count, sum(len(data) for _, data in entries[:count]))
        return count <= max_count and size <= max_bytes

    assert taken == 0 or fits(taken)
    assert taken == len(spans) or not fits(taken + 1)
    if taken:
        assert target.take() == make_chunk(entries[:taken])


@pytest.mark.parametrize(
    ("span", "error"),
    [
        ((0, 7, 1), BadLength),
        ((7, 0, 1), BadLength),
        ((6, 1, 1), BadLength),
        ((5, (1 << 32) - 1, 1), BadLength),
        (((1 << 32) - 1, 1, 1), BadLength),
        (((1 << 32) - 1, (1 << 32) - 1, 1), BadLength),
        ((1, 1, 0), BadTable),
    ],
)
def test_a_bad_span_takes_nothing(codec: ModuleType, span: Span, error: type[CodecError]) -> None:
    """Also not the spans before it: what was appended earlier stays, and only that."""
    target = codec.OpenBatch(LARGE)
    append(target, b"abcdef", [(0, 6, 1)])
    with pytest.raises(error):
        append(target, b"abcdef", [(0, 3, 2), span, (0, 1, 3)])
    assert append(target, b"abcdef", [(6, 0, 4)]) == 1
    assert target.take() == make_chunk([(1, b"abcdef"), (4, b"")])


def test_as_many_of_each(codec: ModuleType) -> None:
    target = codec.OpenBatch(LARGE)
    one, two = array("I", [0]), array("I", [0, 0])
    for offsets, lengths, types in ((one, two, b"12"), (two, one, b"12"), (two, two, b"1")):
        with pytest.raises(BadLength):
            target.append_spans(b"abc", offsets, lengths, types)
    assert len(target) == 0


@pytest.mark.parametrize(
    "field", [{"kind": 0}, {"kind": 6}, {"flags": 1}, {"index": 1 << 64}, {"time": 1 << 63}]
)
def test_a_field_out_of_its_range_seals_nothing(codec: ModuleType, field: dict[str, int]) -> None:
    target = codec.OpenBatch(LARGE)
    append(target, b"abc", [(0, 3, 1)])
    with pytest.raises(BadField):
        target.seal(**(IDENTITY | field))
    assert target.take() == make_chunk([(1, b"abc")])


def test_caps_beyond_a_batch_are_those_of_a_batch(codec: ModuleType) -> None:
    target = codec.OpenBatch(1 << 40, 1 << 20)
    assert append(target, b"", [(0, 0, 1)] * (MAX_ENTRIES + 1)) == MAX_ENTRIES
    assert payload_size(MAX_ENTRIES, 0) < MAX_BATCH_SIZE


@given(
    span_lists(),
    st.integers(0, 100),
    st.lists(st.tuples(st.integers(0, 70), st.integers(0, 70), st.integers(0, 2))),
)
def test_c_and_python_agree_about_hostile_spans(
    part: tuple[bytes, list[Span]], max_bytes: int, hostile: list[Span]
) -> None:
    from trimaran.codec import _compiled_batch as compiled

    def outcome(codec: ModuleType) -> object:
        target = codec.OpenBatch(max_bytes)
        results: list[object] = []
        for spans in (part[1], hostile):
            try:
                results.append(append(target, part[0], spans))
            except CodecError as error:
                results.append(type(error))
        return results, len(target), target.encoded_size, target.take() if len(target) else None

    assert outcome(compiled) == outcome(reference)
