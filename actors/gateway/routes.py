"""Core messages between nodes: who listens where (interest), and frames of routed messages.

Every node tells its peers which patterns its clients subscribe to, so that a message crosses a link once and
only where somebody listens. A message that came over a link is delivered to local clients alone: the mesh is
full, one hop is all there is.

Interest is plain data, versioned so that a lost frame is noticed and mended:

    ("set", version, part, parts, items)     everything, when a link comes up or the peer asks for it
    ("change", version, items)               what changed since version - 1
    ("at", version)                          nothing changed; sent from time to time
    ("again",)                               the receiver missed something: send a set
    ("address", "host:port")                 where clients reach the sending node
    items: [[pattern, queue, subscribers], ...], subscribers 0: nobody any more

A frame of routed messages is u32 version (2), then one record after the other, little endian:

    u32 body size | u32 headers size | u32 queues size | u16 subject size | u16 reply size | u8 plain
    1x 0 | u16 to size
    subject | reply | to | queue names, each behind its u16 length | body (headers, then payload)

`plain`: deliver to every subscriber outside queue groups; and to one local member of each queue group named.
`to`: the subject whose subscribers get the message, if that isn't the one it shows.

Subjects of an account (`accounts.py`), in interest and in `to`, stand behind its name: the byte 1, the name,
the byte 1, the subject.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ...codec.protocol import valid_subject
from .subjects import MAX_TOKENS, PeerInterest, SubjectTable

if TYPE_CHECKING:
    from .backend import Backend

__all__ = ["BadFrame", "Routed", "Routes", "decode_frame", "encode_message", "qualified", "unqualified"]

FRAME_VERSION: Final = struct.pack("<I", 2)
FRAME_BYTES: Final = 256 * 1024
"""A frame that has grown to this is sent at once: small enough not to hold up heartbeats on the link."""

INTEREST_MAX: Final = 1_000_000
"""Patterns kept of one peer; more than a node has, less than a lie can fill."""

SET_ITEMS: Final = 4096
"""Patterns in one part of a set: bounds a frame at some hundred KiB."""

_RECORD = struct.Struct("<IIIHHBxH")
_LENGTH = struct.Struct("<H")

_MARK: Final = b"\x01"

Item = tuple[bytes, bytes, int]


def qualified(account: bytes, subject: bytes) -> bytes:
    """A subject as other nodes are told of it."""
    return b"%b%b%b%b" % (_MARK, account, _MARK, subject) if account else subject


def unqualified(subject: bytes) -> tuple[bytes, bytes]:
    """(account, subject) of one that another node told of."""
    if not subject.startswith(_MARK):
        return b"", subject
    account, _, bare = subject[1:].partition(_MARK)
    return account, bare


class BadFrame(ValueError):
    """A peer's frame doesn't follow this page: it is dropped whole."""


@dataclass(frozen=True, slots=True)
class Routed:
    """One message as it crosses a link."""

    subject: bytes
    reply: bytes
    header_size: int
    """Bytes of `body` that are headers."""
    body: bytes
    plain: bool
    queues: tuple[bytes, ...]
    to: bytes = b""
    """Whose subscribers get it; empty: those of its subject."""


def encode_message(message: Routed) -> bytes:
    """One record of a frame."""
    names = b"".join(_LENGTH.pack(len(name)) + name for name in message.queues)
    fixed = _RECORD.pack(
        len(message.body),
        message.header_size,
        len(names),
        len(message.subject),
        len(message.reply),
        message.plain,
        len(message.to),
    )
    return b"".join((fixed, message.subject, message.reply, message.to, names, message.body))


def decode_frame(data: bytes | bytearray | memoryview) -> list[Routed]:
    """The messages of a frame. Raises BadFrame; then nothing of the frame counts."""
    view = memoryview(data)
    if view[:4] != FRAME_VERSION:
        raise BadFrame("unknown version of routed messages")
    messages = []
    position = 4
    while position < len(view):
        if len(view) - position < _RECORD.size:
            raise BadFrame("a record is cut short")
        body_len, header_len, queues_len, subject_len, reply_len, plain, to_len = _RECORD.unpack_from(
            view, position
        )
        position += _RECORD.size
        size = subject_len + reply_len + to_len + queues_len + body_len
        if len(view) - position < size or header_len > body_len or plain > 1:
            raise BadFrame("a record's lengths contradict each other")
        parts = []
        for length in (subject_len, reply_len, to_len, queues_len, body_len):
            parts.append(bytes(view[position : position + length]))
            position += length
        subject, reply, to, names, body = parts
        if not _is_word(subject) or not all(_is_word(word) for word in (reply, to) if word):
            raise BadFrame("a subject that would break a line of the protocol")
        queues = tuple(_decode_names(names))
        messages.append(Routed(subject, reply, header_len, body, bool(plain), queues, to))
    return messages


def _is_word(subject: bytes) -> bool:
    """Whether it can stand in a protocol line, as clients get it: neither empty nor with blanks in it."""
    return subject.split() == [subject]


def _decode_names(names: bytes) -> Iterator[bytes]:
    position = 0
    while position < len(names):
        start = position + _LENGTH.size
        if start > len(names):
            raise BadFrame("a queue name is cut short")
        (length,) = _LENGTH.unpack_from(names, position)
        position = start + length
        if position > len(names):
            raise BadFrame("a queue name is cut short")
        yield names[start:position]


class _PeerState:
    """What is known of one linked node."""

    def __init__(self) -> None:
        self.version = -1
        """Interest is complete up to here; -1: no complete set yet."""
        self.interest: dict[tuple[bytes, bytes], PeerInterest] = {}
        self.next_part = 0
        self.address = ""
        self.frame = bytearray()
        self.in_frame = 0


class Routes:
    """Interest of this node for its peers and of the peers here, and the frames under way.

    Args:
        backend: carries frames.
        tables: the peers' interest is entered there, by account; what is of no account here is left out.
    """

    def __init__(self, backend: Backend, tables: Mapping[bytes, SubjectTable]) -> None:
        self._backend = backend
        self._tables = tables
        self._peers: dict[int, _PeerState] = {}
        self._early: set[int] = set()
        """Nodes whose interest came before this node knew that the link is up."""
        self._counts: dict[tuple[bytes, bytes], int] = {}
        self._changed: dict[tuple[bytes, bytes], None] = {}
        self._version = 0
        self._address = ""
        self.dropped = 0
        """Messages that found their link full or down; core messages are at most once."""
        self.bad_frames = 0
        self.sent = 0

    # --- own interest ------------------------------------------------------------------------------------

    def subscribed(self, subject: bytes, queue: bytes) -> None:
        """A local client subscribes; peers learn it at the next `flush`."""
        self._count(subject, queue, 1)

    def unsubscribed(self, subject: bytes, queue: bytes) -> None:
        self._count(subject, queue, -1)

    def _count(self, subject: bytes, queue: bytes, change: int) -> None:
        key = (subject, queue)
        before = self._counts.get(key, 0)
        after = before + change
        if after:
            self._counts[key] = after
        else:
            self._counts.pop(key, None)
        # The number matters for queue groups only, whose members are drawn from the whole cluster.
        if queue or not before or not after:
            self._changed[key] = None

    def announce(self, address: str) -> None:
        """Tell peers where clients reach this node."""
        self._address = address
        self._backend.send_interest(None, ("address", address))

    def addresses(self) -> list[str]:
        """Where clients reach the linked nodes."""
        return [peer.address for peer in self._peers.values() if peer.address]

    def flush(self) -> None:
        """Send what changed, then the messages: a reply never overtakes the interest in it."""
        if self._changed:
            self._flush_interest()
        for peer, state in self._peers.items():
            if state.frame:
                self._flush_frame(peer, state)

    def refresh(self) -> None:
        """Let peers notice a lost change; called from time to time."""
        self._backend.send_interest(None, ("at", self._version))

    def _flush_interest(self) -> None:
        self._version += 1
        items = [(*key, self._counts.get(key, 0)) for key in self._changed]
        self._changed.clear()
        self._backend.send_interest(None, ("change", self._version, items))

    # --- peers -------------------------------------------------------------------------------------------

    def peer_up(self, peer: int) -> None:
        """A link came up: start anew with that peer."""
        self.peer_down(peer)
        self._peers[peer] = _PeerState()
        if self._changed:
            self._flush_interest()
        self._send_set(peer)
        if peer in self._early:
            self._early.discard(peer)
            self._backend.send_interest(peer, ("again",))

    def peer_down(self, peer: int) -> None:
        """Nobody listens there any more, as far as this node can tell."""
        state = self._peers.pop(peer, None)
        if state is not None:
            self.dropped += state.in_frame
            self._forget_interest(state)

    def _send_set(self, peer: int) -> None:
        """All that a peer is to know: what was said before it knew of the link went nowhere."""
        if self._address:
            self._backend.send_interest(peer, ("address", self._address))
        items = [(*key, count) for key, count in self._counts.items()]
        parts = max(1, -(-len(items) // SET_ITEMS))
        for part in range(parts):
            piece = items[part * SET_ITEMS : (part + 1) * SET_ITEMS]
            self._backend.send_interest(peer, ("set", self._version, part, parts, piece))

    def on_interest(self, peer: int, data: Iterable[object]) -> bool:
        """Take a peer's interest frame; True when its address changed."""
        state = self._peers.get(peer)
        if state is None:
            self._early.add(peer)
            return False
        match tuple(data):
            case ("set", int(version), int(part), int(parts), list() | tuple() as items):
                self._take_set(peer, state, version, part, parts, _check_items(items))
            case ("change", int(version), list() | tuple() as items):
                if version == state.version + 1 and state.version >= 0:
                    self._take_items(peer, state, _check_items(items))
                    state.version = version
                elif version > state.version:
                    self._backend.send_interest(peer, ("again",))
            case ("at", int(version)):
                if version != state.version:
                    self._backend.send_interest(peer, ("again",))
            case ("again",):
                self._send_set(peer)
            case ("address", str(address)):
                changed, state.address = state.address != address, address
                return changed
            case _:
                self.bad_frames += 1
        return False

    def _take_set(
        self, peer: int, state: _PeerState, version: int, part: int, parts: int, items: list[Item]
    ) -> None:
        if part == 0:
            self._forget_interest(state)
            state.version = -1
        elif part != state.next_part:
            return  # a part was lost; the next "at" asks for the set again
        self._take_items(peer, state, items)
        state.next_part = part + 1
        if state.next_part == parts:
            state.version = version

    def _take_items(self, peer: int, state: _PeerState, items: list[Item]) -> None:
        for subject, queue, count in items:
            key = (subject, queue)
            account, bare = unqualified(subject)
            table = self._tables.get(account)
            if table is None:
                continue
            old = state.interest.pop(key, None)
            if old is not None:
                table.remove(old)
            room = len(state.interest) < INTEREST_MAX
            if count > 0 and room and valid_subject(bare) and bare.count(b".") < MAX_TOKENS:
                state.interest[key] = PeerInterest(peer, bare, queue, count)
                table.add(state.interest[key])

    def _forget_interest(self, state: _PeerState) -> None:
        for (subject, _), interest in state.interest.items():
            self._tables[unqualified(subject)[0]].remove(interest)
        state.interest.clear()

    def ask_again(self) -> None:
        """Have every peer say all that it wants."""
        self._backend.send_interest(None, ("again",))

    # --- messages ----------------------------------------------------------------------------------------

    def send(self, peer: int, message: Routed) -> None:
        """Put a message into the frame to a peer, which leaves at the next `flush` or when it is full."""
        state = self._peers.get(peer)
        if state is None:
            self.dropped += 1
            return
        if not state.frame:
            state.frame += FRAME_VERSION
        state.frame += encode_message(message)
        state.in_frame += 1
        if len(state.frame) >= FRAME_BYTES:
            if self._changed:
                self._flush_interest()
            self._flush_frame(peer, state)

    def receive(self, data: bytes | bytearray | memoryview) -> list[Routed]:
        """The messages of a peer's frame; a bad frame is counted and gives none."""
        try:
            return decode_frame(data)
        except BadFrame:
            self.bad_frames += 1
            return []

    def _flush_frame(self, peer: int, state: _PeerState) -> None:
        frame, count = bytes(state.frame), state.in_frame
        state.frame.clear()
        state.in_frame = 0
        if self._backend.send_route(peer, frame):
            self.sent += count
        else:
            self.dropped += count


def _check_items(items: Iterable[object]) -> list[Item]:
    """The well-formed items; others say nothing about anybody."""
    checked = []
    for item in items:
        match item:
            case (bytes(subject), bytes(queue), int(count)):
                checked.append((subject, queue, count))
            case _:
                pass
    return checked
