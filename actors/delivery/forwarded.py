"""Pull requests that this node sent on to a leader elsewhere, for the case that the leader dies.

A leader that steps down ends the requests that wait there. One that dies can't, and its clients would wait
until they expire; so the node that they are connected to tells them. It doesn't see which were served in the
meantime: a client may hear of one that was, as from any leader that ends while a message is on its way.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from ..strict_json import BadJson, read_json

__all__ = ["Forwarded"]

REMEMBERED: Final = 4096
"""Inboxes of one stream; whoever has more clients that wait has the newest told."""
BODY_REMEMBERED: Final = 512
"""A request is some fields; a longer body is not kept."""


@dataclass(slots=True)
class _Leader:
    node: int
    pulls: OrderedDict[bytes, tuple[float, bytes]] = field(default_factory=OrderedDict)
    """Inbox -> when its last request left, and its body."""


class Forwarded:
    """The last request of each inbox, by group.

    Args:
        is_up: whether a link to a node stands: then it can speak for itself.
    """

    def __init__(self, is_up: Callable[[int], bool]) -> None:
        self._is_up = is_up
        self._leaders: dict[int, _Leader] = {}

    def sent(self, group: int, node: int, inbox: bytes, body: bytes, now: float) -> None:
        """A request left for the leader of a group."""
        leader = self._leaders.get(group)
        if leader is None or leader.node != node:
            leader = self._leaders[group] = _Leader(node)
        pulls = leader.pulls
        if len(body) <= BODY_REMEMBERED:
            pulls[inbox] = (now, body)
            pulls.move_to_end(inbox)
            if len(pulls) > REMEMBERED:
                pulls.popitem(last=False)

    def led_by(self, group: int, node: int, now: float) -> list[bytes]:
        """Somebody leads a group: the inboxes to be told, if that is another node and the old one is gone."""
        leader = self._leaders.get(group)
        if leader is None or leader.node == node:
            return []
        del self._leaders[group]
        return [] if self._is_up(leader.node) else list(_waiting(leader, now))

    def lost(self, node: int, now: float) -> list[bytes]:
        """The link to a node is down: the inboxes to be told."""
        groups = [group for group, leader in self._leaders.items() if leader.node == node]
        return [inbox for group in groups for inbox in _waiting(self._leaders.pop(group), now)]


def _waiting(leader: _Leader, now: float) -> Iterator[bytes]:
    """The inboxes whose requests may not have expired."""
    for inbox, (moment, body) in leader.pulls.items():
        if moment + _patience(body) > now:
            yield inbox


def _patience(body: bytes) -> float:
    """Seconds that a request waits at most."""
    try:
        fields = read_json(body) if body else None
    except BadJson:
        return 0.0  # it was refused
    if not isinstance(fields, dict):
        return float("inf")
    expires = fields.get("expires")
    if isinstance(expires, int) and expires > 0:
        return expires / 1e9
    return 0.0 if fields.get("no_wait") is True else float("inf")
