"""What peer frames mean: a number for each kind, and the Raft messages as msgpack arrays in field order.

`codec/frame.py` cuts and checks frames; here every field gets its type and range back before anyone acts on
it. Sealed batches ride behind the envelope exactly as they lie in the log.
"""

import enum
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Final, cast

from ...codec import CodecError, split_batches
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

PROTOCOL_VERSION: Final = 2
"""The newest protocol that this program speaks (DESIGN 10). What each version added:

2: reports of a group's members say at which commit index they were true (`meta.FENCED_REPORTS`); the state of
a stream has version 2 (`stream.machine.STATE_LEVEL`).
"""
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
_TYPES: Final = {
    message: tuple(
        bool if field.type in (bool, "bool") else int
        for field in fields(message)
        if field.name not in ("sender", "batches")
    )
    for message in KINDS
}


def message_fields(message: PeerMessage) -> tuple[object, ...]:
    """A Raft message as an envelope. The sender is known from the connection and is not repeated."""
    return tuple(getattr(message, name) for name in _NAMES[type(message)])


def decode_messages(sender: int, frame: Frame) -> Iterable[PeerMessage]:
    """The Raft messages of one frame, in order. Raises FrameError on wrong types, ranges or batches."""
    message = MESSAGES[FrameKind(frame.kind)]
    if frame.kind in COALESCED:
        return [_message(message, sender, cast(list[object], item)) for item in frame.envelope]
    if message is not Append:
        return [_message(message, sender, frame.envelope)]
    values = checked(frame.envelope, _TYPES[message])
    try:
        batches = tuple(bytes(batch) for batch in split_batches(frame.attachment))
    except CodecError as error:
        raise FrameError(f"append carries no batches: {error}") from error
    return [Append(sender=sender, batches=batches, **dict(zip(_NAMES[message], values, strict=True)))]  # type: ignore[arg-type]


def _message(message: type[PeerMessage], sender: int, values: list[object]) -> PeerMessage:
    fields_ = checked(values, _TYPES[message])
    return message(sender=sender, **dict(zip(_NAMES[message], fields_, strict=True)))  # type: ignore[arg-type]


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
    for value, expected in zip(values, types, strict=True):
        if expected is object:
            continue
        if type(value) is not expected or (expected is int and not 0 <= cast(int, value) <= MAX_U64):
            raise FrameError("peer frame has a field of a wrong type")
    return tuple(values)
