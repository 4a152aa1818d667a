"""Peer frames: whatever arrives, split anywhere, is either the frame that was sent or a clean refusal."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimaran.codec.frame import FRAME_HEADER, Frame, FrameError, FrameReader, encode_frame

LIMIT = 1 << 20
envelopes = st.lists(
    st.one_of(st.integers(0, (1 << 64) - 1), st.booleans(), st.text(max_size=20)), max_size=8
)


def frame_bytes(kind: int, envelope: list[object], attachment: bytes) -> bytes:
    return encode_frame(kind, tuple(envelope), len(attachment)) + attachment


@given(
    frames=st.lists(
        st.tuples(st.integers(1, 255), envelopes, st.binary(max_size=300)), min_size=1, max_size=5
    ),
    cuts=st.lists(st.integers(0, 2000), max_size=10),
)
def test_frames_survive_any_split(frames: list[tuple[int, list[object], bytes]], cuts: list[int]) -> None:
    stream = b"".join(frame_bytes(*frame) for frame in frames)
    reader = FrameReader(LIMIT)
    read: list[Frame] = []
    edges = sorted({0, len(stream), *(min(cut, len(stream)) for cut in cuts)})
    for start, end in itertools.pairwise(edges):
        read += reader.feed(stream[start:end])
    assert [(kind, envelope, bytes(data)) for kind, envelope, data in read] == frames


def test_every_flipped_byte_of_header_and_envelope_is_refused() -> None:
    good = frame_bytes(4, [1, 2, "three"], b"batch")
    for position in range(len(good) - len(b"batch")):
        bad = bytearray(good)
        bad[position] ^= 0x40
        reader = FrameReader(LIMIT)
        try:
            # A longer length may leave the reader waiting for bytes that never come; it must not invent a
            # frame.
            read = list(reader.feed(bytes(bad)))
        except FrameError:
            continue
        assert read == [], f"byte {position} flipped and the frame was read"


def test_an_oversized_frame_is_refused_before_its_bytes_arrive() -> None:
    head = encode_frame(4, (), LIMIT + 1)
    with pytest.raises(FrameError, match="above the limit"):
        list(FrameReader(LIMIT).feed(head[: FRAME_HEADER.size]))
