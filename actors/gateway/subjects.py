"""Subjects, and the table of everyone who listens: local subscriptions and the interest of other nodes.

A subject is tokens joined by dots. In a subscription `*` stands for one token and a last `>` for one or more.
The table is a tree by token with a bounded cache of answers for literal subjects; both kinds of listener live
in it, so that one look-up says who gets a message, here and elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .client import Client

__all__ = [
    "Matches",
    "PeerInterest",
    "QueueMatch",
    "SubjectTable",
    "Subscription",
    "matches",
]

CACHE_SIZE = 8192
"""Literal subjects whose listeners are remembered. A full cache is emptied: cheaper than keeping an order."""

MAX_TOKENS = 128
"""Tokens of a subscription: bounds the depth of the tree, and with it of the recursion over it."""

_STAR = b"*"
_TAIL = b">"


def has_wildcard(subject: bytes) -> bool:
    """Whether a token is `*` or `>`; both characters are ordinary inside a longer token."""
    if _STAR not in subject and _TAIL not in subject:
        return False
    tokens = subject.split(b".")
    return _STAR in tokens or _TAIL in tokens


def matches(pattern: bytes, subject: bytes) -> bool:
    """Whether a subscription to `pattern` gets a message published to the literal `subject`."""
    wanted, tokens = pattern.split(b"."), subject.split(b".")
    if b"" in tokens:
        return False
    if wanted[-1] == _TAIL:
        if len(tokens) < len(wanted):
            return False
        del wanted[-1], tokens[len(wanted) :]
    return len(wanted) == len(tokens) and all(map(_token_matches, wanted, tokens))


def _token_matches(wanted: bytes, token: bytes) -> bool:
    return wanted in (token, _STAR)


class Subscription:
    """One SUB of one client."""

    __slots__ = ("client", "delivered", "limit", "queue", "sid", "subject")

    def __init__(self, client: Client, sid: bytes, subject: bytes, queue: bytes) -> None:
        self.client = client
        self.sid = sid
        self.subject = subject
        self.queue = queue
        """Queue group, or empty."""
        self.limit = 0
        """UNSUB's maximum: the subscription ends with this delivery; 0: never."""
        self.delivered = 0
        """Messages since SUB."""


@dataclass(frozen=True, slots=True)
class PeerInterest:
    """Another node has subscribers to this pattern (`count` of them; only queue groups weigh it)."""

    peer: int
    subject: bytes
    queue: bytes
    count: int


Listener = Subscription | PeerInterest


@dataclass(frozen=True, slots=True)
class QueueMatch:
    """A queue group's members for one subject, of which exactly one gets the message."""

    name: bytes
    local: tuple[Subscription, ...]
    peers: tuple[tuple[int, int], ...]
    """(peer, members there)."""


@dataclass(frozen=True, slots=True)
class Matches:
    """Who listens to one literal subject."""

    local: tuple[Subscription, ...]
    peers: tuple[int, ...]
    """Nodes with subscribers outside queue groups, each once."""
    queues: tuple[QueueMatch, ...]

    def __bool__(self) -> bool:
        return bool(self.local or self.peers or self.queues)


NOBODY = Matches((), (), ())


class _Level:
    """One token position of the tree."""

    __slots__ = ("children", "listeners", "star", "tail")

    def __init__(self) -> None:
        self.children: dict[bytes, _Level] = {}
        self.star: _Level | None = None
        self.tail: dict[Listener, None] = {}
        """Those whose pattern ends here with `>`. A dict keeps the order of subscribing."""
        self.listeners: dict[Listener, None] = {}
        """Those whose pattern ends with the token that leads here."""

    @property
    def empty(self) -> bool:
        return not (self.children or self.star or self.tail or self.listeners)


class SubjectTable:
    """Every listener by pattern.

    `version` changes with every change, so that what was derived from the table can be known to stand.
    """

    def __init__(self, cache_size: int = CACHE_SIZE) -> None:
        self.version = 0
        self._root = _Level()
        self._count = 0
        self._cache: dict[bytes, Matches] = {}
        self._cache_size = cache_size

    def __len__(self) -> int:
        return self._count

    def add(self, listener: Listener) -> None:
        """Enter a listener; its `subject` must be a valid pattern. One that is there already stays once."""
        level = self._root
        tokens = listener.subject.split(b".")
        for token in tokens[:-1]:
            level = self._descend(level, token)
        last = tokens[-1]
        holders = level.tail if last == _TAIL else self._descend(level, last).listeners
        self._count += listener not in holders
        holders[listener] = None
        self._changed(listener.subject)

    def remove(self, listener: Listener) -> None:
        """Take a listener out, with the levels that only it needed. Unknown ones are ignored."""
        if self._remove(self._root, listener.subject.split(b"."), 0, listener):
            self._count -= 1
            self._changed(listener.subject)

    def match(self, subject: bytes) -> Matches:
        """Who listens to a literal subject. Nobody listens to one with an empty token."""
        found = self._cache.get(subject)
        if found is None:
            found = _sort(self._walk(subject.split(b".")))
            if len(self._cache) >= self._cache_size:
                self._cache.clear()
            self._cache[subject] = found
        return found

    def intersecting(self, pattern: bytes) -> Iterator[Listener]:
        """Every listener that could get some message whose subject matches `pattern`."""
        return _intersecting(self._root, pattern.split(b"."), 0)

    def _descend(self, level: _Level, token: bytes) -> _Level:
        if token == _STAR:
            if level.star is None:
                level.star = _Level()
            return level.star
        child = level.children.get(token)
        if child is None:
            child = level.children[token] = _Level()
        return child

    def _remove(self, level: _Level, tokens: list[bytes], depth: int, listener: Listener) -> bool:
        if depth == len(tokens):
            return level.listeners.pop(listener, 0) is None
        token = tokens[depth]
        if token == _TAIL:
            return level.tail.pop(listener, 0) is None
        child = level.star if token == _STAR else level.children.get(token)
        if child is None or not self._remove(child, tokens, depth + 1, listener):
            return False
        if child.empty:
            if token == _STAR:
                level.star = None
            else:
                del level.children[token]
        return True

    def _walk(self, tokens: list[bytes]) -> Iterator[Listener]:
        if b"" in tokens:
            return
        levels = [self._root]
        for token in tokens:
            below: list[_Level] = []
            for level in levels:
                yield from level.tail
                child = level.children.get(token)
                if child is not None:
                    below.append(child)
                if level.star is not None:
                    below.append(level.star)
            levels = below
        for level in levels:
            yield from level.listeners

    def _changed(self, subject: bytes) -> None:
        self.version += 1
        if has_wildcard(subject):
            self._cache.clear()
        else:
            self._cache.pop(subject, None)


def _intersecting(level: _Level, tokens: list[bytes], depth: int) -> Iterator[Listener]:
    if depth == len(tokens):
        yield from level.listeners
        return
    token = tokens[depth]
    yield from level.tail
    if token == _TAIL:
        yield from _everything_below(level)
        return
    if token == _STAR:
        children = list(level.children.values())
    else:
        child = level.children.get(token)
        children = [child] if child is not None else []
    if level.star is not None:
        children.append(level.star)
    for child in children:
        yield from _intersecting(child, tokens, depth + 1)


def _everything_below(level: _Level) -> Iterator[Listener]:
    for child in (*level.children.values(), *([level.star] if level.star else [])):
        yield from child.listeners
        yield from child.tail
        yield from _everything_below(child)


def _sort(listeners: Iterator[Listener]) -> Matches:
    """Part listeners into local ones, nodes, and queue groups, which may have members under many patterns."""
    local: list[Subscription] = []
    peers: dict[int, None] = {}
    queues: dict[bytes, tuple[list[Subscription], dict[int, int]]] = {}
    for listener in listeners:
        if listener.queue:
            members, remote = queues.setdefault(listener.queue, ([], {}))
            if isinstance(listener, Subscription):
                members.append(listener)
            else:
                remote[listener.peer] = remote.get(listener.peer, 0) + listener.count
        elif isinstance(listener, Subscription):
            local.append(listener)
        else:
            peers[listener.peer] = None
    if not (local or peers or queues):
        return NOBODY
    groups = (QueueMatch(name, tuple(here), tuple(there.items())) for name, (here, there) in queues.items())
    return Matches(tuple(local), tuple(peers), tuple(groups))
