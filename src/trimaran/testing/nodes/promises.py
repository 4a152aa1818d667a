"""What nodes promise to each other, and whether they keep it across a restart.

An accepted append and a granted vote may leave a node only once they are on its disk. So whatever a node
said on the wire must be there when its process starts again, whichever way it ended. That is checked here
from the outside: from the frames that nodes send, and from what their groups report when they start.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, cast

from ...actors.peers.wire import FrameKind, decode_messages
from ...actors.raft.events import Appended, Event, Installed, Started, Truncated
from ...actors.raft.messages import AppendReply, RequestVote, VoteReply
from ...codec.frame import FrameReader

WATCHED: Final = frozenset(
    (FrameKind.APPEND_REPLY, FrameKind.APPEND_REPLIES, FrameKind.VOTE_REPLY, FrameKind.REQUEST_VOTE)
)


@dataclass(slots=True)
class _Replica:
    """What one replica has promised."""

    match: int = 0
    """Up to here it said that it has everything on its disk."""
    term: int = 0
    """The highest in which it voted or stood."""
    vote: tuple[int, str] = (0, "")
    """The last vote it granted: term, and to which machine."""


class Promises:
    """Hears frames and events of all nodes.

    Args:
        excused: whether a machine's disk has been at fault lately, so that its node may forget and say so.
        complain: (property, facts).
    """

    def __init__(self, excused: Callable[[str], bool], complain: Callable[[str, str], None]) -> None:
        self._excused = excused
        self._complain = complain
        self._nodes: dict[str, int] = {}
        self._replicas: dict[tuple[str, int, int, int], _Replica] = {}
        """By machine, node id, group and incarnation."""

    def on_frame(self, source: str, to: str, kind: int, frame: bytes) -> None:
        if kind not in WATCHED or source not in self._nodes:
            return
        node = self._nodes[source]
        for decoded in FrameReader(0).feed(frame):
            for message in decode_messages(node, decoded):
                replica = self._replica(source, node, message.group, message.incarnation)
                match message:
                    case AppendReply(accepted=True, counts=True, match=match):
                        replica.match = max(replica.match, match)
                    case VoteReply(pre=False, granted=True):
                        self._granted(source, to, message, replica)
                    case RequestVote(pre=False):
                        replica.term = max(replica.term, message.term)

    def _granted(self, source: str, to: str, reply: VoteReply, replica: _Replica) -> None:
        replica.term = max(replica.term, reply.term)
        term, candidate = replica.vote
        if reply.term == term and candidate != to:
            facts = f"group {reply.group} on {source} voted in term {term} for {candidate} and for {to}"
            self._complain("one vote in a term", facts)
        if reply.term > term:
            replica.vote = (reply.term, to)

    def on_event(self, machine: str, event: Event) -> None:
        self._nodes[machine] = event.node
        replica = self._replica(machine, event.node, event.group, event.incarnation)
        match event:
            case Truncated(first=first):
                replica.match = min(replica.match, first - 1)
            case Appended(index=index):
                replica.match = min(replica.match, index - 1) if index <= replica.match else replica.match
            case Installed(index=index, last_index=last):
                replica.match = min(replica.match, max(index, last))
            case Started():
                self._started(machine, event, replica)

    def _started(self, machine: str, event: Started, replica: _Replica) -> None:
        if self._excused(machine):
            replica.match, replica.term, replica.vote = 0, 0, (0, "")
            return
        who = f"group {event.group} on {machine}"
        if event.last_index < replica.match:
            facts = f"{who} acknowledged {replica.match} and starts with {event.last_index}"
            self._complain("acknowledged is synced", facts)
        if event.term < replica.term:
            facts = f"{who} voted in term {replica.term} and starts in {event.term}"
            self._complain("votes are synced", facts)

    def _replica(self, machine: str, node: int, group: int, incarnation: int) -> _Replica:
        key = (machine, node, group, incarnation)
        return self._replicas.setdefault(key, _Replica())


def as_line(event: Event) -> tuple[object, ...]:
    """An event for the trace: its fields, sets in order."""
    fields = (getattr(event, name) for name in type(event).__slots__)
    shown = (sorted(cast("frozenset[int]", each)) if isinstance(each, frozenset) else each for each in fields)
    return (f"{event.node:016x}", event.group, type(event).__name__, *shown)
