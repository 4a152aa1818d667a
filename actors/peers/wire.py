"""What peer frames mean: a number for each kind, and the Raft messages as msgpack arrays in field order.

`codec/frame.py` cuts and checks frames; here every field gets its type and range back before anyone acts on
it. Sealed batches ride behind the envelope exactly as they lie in the log.

Appends and their replies, which come with every batch of every group, travel together: one frame has those of
all groups that one pass brought, as rows of one width. A row has its types by its layout, so what is checked
once for the frame is not checked for each field of each message.
"""

import enum
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from operator import attrgetter
from typing import Any, Final, cast

from ...codec import CodecError, read_header, split_batches
from ...codec.frame import Frame, FrameError, encode_frame
from ..raft.messages import (
    Append,
    AppendReply,
    Beat,
    BeatReply,
    PeerMessage,
    RequestVote,
    Resigned,
    SnapshotReply,
    TimeoutNow,
    VoteReply,
)

PROTOCOL_VERSION: Final = 4
"""The newest protocol that this program speaks (DESIGN 10). What each version added:

2: reports of a group's members say at which commit index they were true (`meta.FENCED_REPORTS`); the state of
a stream has version 2 (`stream.machine.STATE_LEVEL`).
3: appends and their replies of many groups in one frame (`ROWS`).
4: consumers have priority groups (`stream.consumer_config.PRIORITY_SINCE`); several messages are published as
one (`stream.together.ATOMIC_SINCE`).
"""
ROWS_SINCE: Final = 3
"""The protocol of a node that takes `ROWS`; an older one gets a frame for each message."""
OLDEST_PROTOCOL: Final = 1
"""The oldest one that it still speaks, with whoever knows no newer one."""
MAX_U64: Final = (1 << 64) - 1
MAX_TEXT: Final = 300
"""Of a greeting: a node's name has at most 64 characters, a host's 255."""


class FrameKind(enum.IntEnum):
    HELLO = 1
    REQUEST_VOTE = 2
    VOTE_REPLY = 3
    APPEND = 4
    APPEND_REPLY = 5
    BEATS = 6
    BEAT_REPLIES = 7
    TIMEOUT_NOW = 8
    SNAPSHOT_REPLY = 9
    SNAPSHOT_PART = 10
    SNAPSHOT_PROGRESS = 11
    PROPOSE = 12
    PROPOSE_REPLY = 13
    ASK = 14
    ANSWER = 15
    LEADERS = 16
    INTEREST = 17
    ROUTE = 18
    GOODBYE = 19
    """To whoever was removed from the cluster: (cluster id, its node id, why). Nothing follows."""
    CONSUMER = 20
    """What clients sent to consumers: (group, hops, messages)."""
    ALIVE = 24
    """A sign of life, when there is nothing else to say."""
    RESIGNED = 25
    APPENDS = 26
    """Appends of many groups, as rows; the batches of all of them, in the same order, are the attachment."""
    APPEND_REPLIES = 27
    """Replies to appends of many groups, as rows."""


@dataclass(frozen=True, slots=True)
class Hello:
    """How nodes greet each other (both ways, before anything else). Later versions may add fields at the
    end."""

    version: int
    """The newest protocol that the node speaks."""
    oldest: int
    """The oldest one that it will speak here: its cluster may have moved on."""
    cluster: int
    """Cluster id; 0: this node belongs to none yet."""
    cluster_name: str
    node: int
    incarnation: int
    """Drawn at each start of the process, so that a peer sees a restart."""
    name: str
    address: str
    """Where this node listens for its peers."""


def encode_hello(hello: Hello) -> bytes:
    return encode_frame(FrameKind.HELLO, tuple(getattr(hello, field.name) for field in fields(hello)))


def decode_hello(frame: Frame) -> Hello:
    """Raises FrameError when the frame is no greeting. Of a newer version it takes what it knows."""
    if frame.kind != FrameKind.HELLO or not frame.envelope:
        raise FrameError("peer did not greet")
    types = (int, int, int, str, int, int, str, str)
    known = checked(frame.envelope[: len(types)], types)
    hello = Hello(*cast(tuple[int, int, int, str, int, int, str, str], known))
    if not hello.node or max(map(len, (hello.name, hello.cluster_name, hello.address))) > MAX_TEXT:
        raise FrameError("peer's greeting has no node id, or a text that is too long")
    return hello


MESSAGES: Final[dict[FrameKind, type[PeerMessage]]] = {
    FrameKind.REQUEST_VOTE: RequestVote,
    FrameKind.VOTE_REPLY: VoteReply,
    FrameKind.APPEND: Append,
    FrameKind.APPEND_REPLY: AppendReply,
    FrameKind.BEATS: Beat,
    FrameKind.BEAT_REPLIES: BeatReply,
    FrameKind.TIMEOUT_NOW: TimeoutNow,
    FrameKind.SNAPSHOT_REPLY: SnapshotReply,
    FrameKind.RESIGNED: Resigned,
}
KINDS: Final = {message: kind for kind, message in MESSAGES.items()}
COALESCED: Final = frozenset((FrameKind.BEATS, FrameKind.BEAT_REPLIES))
"""Frames that carry a list of messages, one for each group of a pair of nodes."""

_NAMES: Final = {
    message: tuple(field.name for field in fields(message) if field.name not in ("sender", "batches"))
    for message in KINDS
}
_FIELDS: Final = {message: attrgetter(*names) for message, names in _NAMES.items()}
_TYPES: Final = {
    message: tuple(
        bool if field.type in (bool, "bool") else int
        for field in fields(message)
        if field.name not in ("sender", "batches")
    )
    for message in KINDS
}


ROWS: Final[dict[FrameKind, type[PeerMessage]]] = {
    FrameKind.APPENDS: Append,
    FrameKind.APPEND_REPLIES: AppendReply,
}
"""Frames whose envelope is one byte string: a row for each message, of one width."""
ROWS_OF: Final = {message: kind for kind, message in ROWS.items()}
_APPEND: Final = struct.Struct("<8Q")
_APPEND_REPLY: Final = struct.Struct("<7Q2B6x")


def message_fields(message: PeerMessage) -> tuple[object, ...]:
    """A Raft message as an envelope. The sender is known from the connection and is not repeated."""
    fields_: tuple[object, ...] = _FIELDS[type(message)](message)
    return fields_


def append_row(message: Append, size: int) -> bytes:
    """One row of `APPENDS`, with the size of its batches in bytes."""
    return _APPEND.pack(
        message.group,
        message.incarnation,
        message.term,
        message.previous_index,
        message.previous_term,
        message.commit,
        message.session,
        size,
    )


def append_reply_row(message: AppendReply) -> bytes:
    """One row of `APPEND_REPLIES`."""
    return _APPEND_REPLY.pack(
        message.group,
        message.incarnation,
        message.term,
        message.session,
        message.match,
        message.hint_index,
        message.hint_term,
        message.accepted,
        message.counts,
    )


def decode_messages(sender: int, frame: Frame) -> Iterable[PeerMessage]:
    """The Raft messages of one frame, in order. Raises FrameError on wrong types, ranges or batches; then
    nothing of the frame counts."""
    if frame.kind == FrameKind.APPENDS:
        return list(_appends(sender, frame))
    if frame.kind == FrameKind.APPEND_REPLIES:
        return list(_append_replies(sender, frame))
    message = MESSAGES[FrameKind(frame.kind)]
    if frame.kind in COALESCED:
        return [_message(message, sender, cast(list[object], item)) for item in frame.envelope]
    if message is not Append:
        return [_message(message, sender, frame.envelope)]
    return [Append(sender=sender, batches=_batches(frame.attachment), **_fields(message, frame.envelope))]


def _rows(frame: Frame, row: struct.Struct) -> Iterator[tuple[int, ...]]:
    rows = frame.envelope[0] if len(frame.envelope) == 1 else None
    if not isinstance(rows, bytes) or len(rows) % row.size:
        raise FrameError("peer frame has no rows")
    return row.iter_unpack(rows)


def _appends(sender: int, frame: Frame) -> Iterator[Append]:
    attachment, at = frame.attachment, 0
    for group, incarnation, term, previous_index, previous_term, commit, session, size in _rows(
        frame, _APPEND
    ):
        end = at + size
        if end > len(attachment):
            raise FrameError("an append's batches are cut short")
        yield Append(
            group=group,
            incarnation=incarnation,
            sender=sender,
            term=term,
            previous_index=previous_index,
            previous_term=previous_term,
            commit=commit,
            session=session,
            batches=_batches(attachment[at:end]),
        )
        at = end
    if at != len(attachment):
        raise FrameError("batches of no append")


def _append_replies(sender: int, frame: Frame) -> Iterator[AppendReply]:
    for group, incarnation, term, session, match, hint_index, hint_term, accepted, counts in _rows(
        frame, _APPEND_REPLY
    ):
        if accepted > 1 or counts > 1:
            raise FrameError("an append's reply has a flag that is none")
        yield AppendReply(
            group=group,
            incarnation=incarnation,
            sender=sender,
            term=term,
            session=session,
            accepted=bool(accepted),
            match=match,
            hint_index=hint_index,
            hint_term=hint_term,
            counts=bool(counts),
        )


def _batches(attachment: memoryview) -> tuple[bytes, ...]:
    batches = bytes(attachment)
    if not batches:
        return ()
    try:
        if read_header(batches).length == len(batches):  # one, as in most appends
            return (batches,)
        return tuple(bytes(batch) for batch in split_batches(batches))
    except CodecError as error:
        raise FrameError(f"append carries no batches: {error}") from error


def _message(message: type[PeerMessage], sender: int, values: list[object]) -> PeerMessage:
    return message(sender=sender, **_fields(message, values))


def _fields(message: type[PeerMessage], values: list[object]) -> dict[str, Any]:
    """The fields of a message by name; `checked` is what gives each its type."""
    return dict(zip(_NAMES[message], checked(values, _TYPES[message]), strict=True))


ENVELOPES: Final[dict[int, tuple[type, ...]]] = {
    FrameKind.SNAPSHOT_PART: (int, int, int, int, int, int, int, int),
    FrameKind.SNAPSHOT_PROGRESS: (int, int, int, str, object),
    FrameKind.PROPOSE: (int, int, int, int, int),
    FrameKind.PROPOSE_REPLY: (int, str, object, bool),
    FrameKind.ASK: (int, str),
    FrameKind.ANSWER: (int, str),
    FrameKind.CONSUMER: (int, int, list),
}
"""What the handlers of these frames may rely on; `object` is for them to check. LEADERS, INTEREST and ROUTE
have envelopes of any length, which their handlers check item by item."""


def checked(values: object, types: tuple[type, ...]) -> tuple[object, ...]:
    """The fields of an envelope, each of exactly its type; an int is a u64. Raises FrameError."""
    if not isinstance(values, list) or len(values) != len(types):
        raise FrameError("peer frame has a wrong number of fields")
    if tuple(map(type, values)) == types:  # as nearly always, and a comparison of two tuples costs little
        numbers = [value for value in values if type(value) is int]
        if not numbers or (min(numbers) >= 0 and max(numbers) <= MAX_U64):
            return tuple(values)
        raise FrameError("peer frame has a number that is no u64")
    for value, expected in zip(values, types, strict=True):
        if expected is object:
            continue
        if type(value) is not expected or (expected is int and not 0 <= cast(int, value) <= MAX_U64):
            raise FrameError("peer frame has a field of a wrong type")
    return tuple(values)
