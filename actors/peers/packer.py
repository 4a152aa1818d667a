"""What all groups of this node say to one other node, packed: a frame of each kind for each flush of a link.

A node that replicates a hundred streams sends a hundred appends in one pass. As frames of their own, each
would cost its header, its checksum and its msgpack, on either side; as rows of one frame they share that.
"""

from dataclasses import dataclass, field
from typing import Final

from ..raft.messages import Append, AppendReply, PeerMessage
from .link import Link
from .wire import COALESCED, KINDS, FrameKind, append_reply_row, append_row, message_fields

FRAME_BYTES: Final = 1024 * 1024
"""Batches in one frame of appends, unless one append alone has more: a frame is acted upon when all of it has
arrived, so a larger one would only keep the other side waiting."""
FRAME_ROWS: Final = 4096
"""Messages in one frame of rows: 256 KiB of envelope, far below what a frame may have."""


@dataclass(slots=True)
class _Appends:
    rows: list[bytes] = field(default_factory=list)
    batches: list[bytes] = field(default_factory=list)
    size: int = 0


class Packer:
    """What waits for the next flush of one link.

    Args:
        rows: whether the other node's protocol has frames of rows.
    """

    def __init__(self, link: Link, *, rows: bool) -> None:
        self._link = link
        self._rows = rows
        self._appends = _Appends()
        self._replies: list[bytes] = []
        self._beats: dict[FrameKind, list[tuple[object, ...]]] = {}
        self._waits = False
        """The link will ask for it."""

    def send(self, message: PeerMessage) -> None:
        """Send a message, together with others if there are any. Those of one kind keep their order, and
        nothing that is sent later arrives before an append."""
        kind = KINDS[type(message)]
        if kind in COALESCED:
            self._beats.setdefault(kind, []).append(message_fields(message))
        elif self._rows and isinstance(message, Append):
            self._add_append(message)
        elif self._rows and isinstance(message, AppendReply):
            if len(self._replies) >= FRAME_ROWS:
                self._pack_replies()
            self._replies.append(append_reply_row(message))
        else:
            self._pack_appends()
            self._link.send(kind, message_fields(message), *getattr(message, "batches", ()))
            return
        if not self._waits:
            self._waits = True
            self._link.wake_for(self._pack)

    def _add_append(self, message: Append) -> None:
        appends = self._appends
        size = sum(map(len, message.batches))
        if appends.size + size > FRAME_BYTES or len(appends.rows) >= FRAME_ROWS:
            self._pack_appends()
            appends = self._appends
        appends.rows.append(append_row(message, size))
        appends.batches += message.batches
        appends.size += size

    def _pack(self) -> None:
        """Hand everything to the link."""
        self._waits = False
        self._pack_appends()
        self._pack_replies()
        for kind, beats in self._beats.items():
            self._link.send(kind, tuple(beats))
        self._beats.clear()

    def _pack_appends(self) -> None:
        appends = self._appends
        if appends.rows:
            self._link.send(FrameKind.APPENDS, (b"".join(appends.rows),), *appends.batches)
            self._appends = _Appends()

    def _pack_replies(self) -> None:
        if self._replies:
            self._link.send(FrameKind.APPEND_REPLIES, (b"".join(self._replies),))
            self._replies.clear()
