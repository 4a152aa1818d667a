"""Peer frames: what two nodes say to each other, one frame after another on a byte stream.

A frame is a 16-byte header, an *envelope* (a msgpack array, covered by the frame's checksum) and an
*attachment* (bytes that carry a checksum of their own, such as sealed batches, or are checked by whoever
reads them).

    offset size field
         0    2 magic 0x5446 ("FT")
         2    1 version (1)
         3    1 kind
         4    4 envelope length in bytes
         8    4 attachment length in bytes
        12    4 CRC32C of bytes 0..11 followed by the envelope
"""

import struct
from collections.abc import Iterator
from typing import NamedTuple

import msgpack

from ._backend import crc32c
from .errors import CodecError

FRAME_MAGIC = 0x5446
FRAME_VERSION = 1
FRAME_HEADER = struct.Struct("<HBBIII")
MAX_ENVELOPE = 4 * 1024 * 1024  # a manifest with its block list is the largest envelope

_PREFIX = struct.Struct("<HBBII")


class FrameError(CodecError):
    """The peer sent bytes that are no frame, or a frame above the limits; its link must be closed."""


class Frame(NamedTuple):
    """One received frame. `attachment` is a view that stays valid: the reader never reuses its bytes."""

    kind: int
    envelope: list[object]
    attachment: memoryview


def encode_frame(kind: int, envelope: tuple[object, ...], attachment_size: int = 0) -> bytes:
    """The bytes of one frame before its attachment, which the sender appends as it is."""
    packed: bytes = msgpack.packb(envelope)
    prefix = _PREFIX.pack(FRAME_MAGIC, FRAME_VERSION, kind, len(packed), attachment_size)
    return b"".join((prefix, crc32c(prefix + packed).to_bytes(4, "little"), packed))


class FrameReader:
    """Cuts a byte stream into frames, checking every length against its limit before waiting for it.

    Both limits are in bytes. Memory held is at most one incomplete frame and what was fed with it.
    """

    def __init__(self, max_attachment: int, max_envelope: int = MAX_ENVELOPE) -> None:
        self.max_attachment = max_attachment
        self.max_envelope = max_envelope
        self._pieces: list[bytes] = []
        self._held = 0
        self._wanted = FRAME_HEADER.size

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Yield every frame that `data` completes. Raises FrameError; the reader is unusable afterwards."""
        self._pieces.append(data)
        self._held += len(data)
        if self._held < self._wanted:
            return
        buffer = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        view = memoryview(buffer)
        at = 0
        while (size := self._frame_size(buffer, at)) is not None and len(buffer) - at >= size:
            yield self._decode(buffer, view, at, at + size)
            at += size
        rest = buffer[at:]
        self._pieces = [rest] if rest else []
        self._held = len(rest)
        self._wanted = FRAME_HEADER.size if size is None else size

    def _frame_size(self, buffer: bytes, at: int) -> int | None:
        if len(buffer) - at < FRAME_HEADER.size:
            return None
        magic, version, _, envelope, attachment, _ = FRAME_HEADER.unpack_from(buffer, at)
        if magic != FRAME_MAGIC:
            raise FrameError("peer frame has no magic")
        if version != FRAME_VERSION:
            raise FrameError(f"peer frame has version {version}, this node speaks {FRAME_VERSION}")
        if envelope > self.max_envelope or attachment > self.max_attachment:
            raise FrameError(f"peer frame of {envelope} + {attachment} bytes is above the limit")
        return FRAME_HEADER.size + int(envelope) + int(attachment)

    def _decode(self, buffer: bytes, view: memoryview, at: int, end: int) -> Frame:
        """The frame from `at` to `end`; `view` is of the whole buffer."""
        _, _, kind, envelope_size, _, crc = FRAME_HEADER.unpack_from(buffer, at)
        begin = at + FRAME_HEADER.size
        attachment = begin + envelope_size
        envelope = buffer[begin:attachment]
        if crc32c(buffer[at : at + _PREFIX.size] + envelope) != crc:  # copying costs less than a second call
            raise FrameError("peer frame fails its checksum")
        try:
            fields = msgpack.unpackb(envelope, use_list=True, strict_map_key=False)
        except (ValueError, msgpack.exceptions.UnpackException, RecursionError) as error:
            raise FrameError("peer frame's envelope is no msgpack") from error
        if not isinstance(fields, list):
            raise FrameError("peer frame's envelope is no array")
        return Frame(kind, fields, view[attachment:end])
