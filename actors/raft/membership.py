"""Who belongs to a group, and the single changes that lead from one membership to the next (thesis 4.1 to
4.3).

A change adds or removes at most one voter, so any majority of the old members meets any majority of the new
ones. It is in effect as soon as it is appended and is taken back when its batch is truncated.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Iterable
from dataclasses import dataclass

import msgpack

FORMAT_VERSION = 1


class BadMembership(ValueError):
    """A membership entry or manifest field that cannot be read."""


class ChangeKind(enum.Enum):
    ADD_LEARNER = "add_learner"
    PROMOTE = "promote"  # learner -> voter
    DEMOTE = "demote"  # voter -> learner
    RELEASE = "release"  # its node stays in the cluster and may be asked again
    REMOVE = "remove"  # for good: a removed id never returns


@dataclass(frozen=True, slots=True)
class Change:
    kind: ChangeKind
    node: int


@dataclass(frozen=True, slots=True)
class Membership:
    """Invariant: the three sets are disjoint and there is at least one voter (or nobody knows any member
    yet)."""

    voters: frozenset[int]
    learners: frozenset[int] = frozenset()
    removed: frozenset[int] = frozenset()

    @classmethod
    def of(cls, voters: Iterable[int], learners: Iterable[int] = ()) -> Membership:
        return cls(frozenset(voters), frozenset(learners))

    @property
    def members(self) -> frozenset[int]:
        return self.voters | self.learners

    def quorum(self) -> int:
        """The size of a majority of the voters (Raft 5.2)."""
        return len(self.voters) // 2 + 1

    def is_quorum(self, nodes: Collection[int]) -> bool:
        """Whether the voters among `nodes` are a majority; learners and strangers never count."""
        return len(self.voters.intersection(nodes)) >= self.quorum()

    def after(self, change: Change) -> Membership | None:
        """The membership after `change`, or None if the change makes no sense here."""
        node, alone = change.node, frozenset((change.node,))
        match change.kind:
            case ChangeKind.ADD_LEARNER if node not in self.members | self.removed:
                return Membership(self.voters, self.learners | alone, self.removed)
            case ChangeKind.PROMOTE if node in self.learners:
                return Membership(self.voters | alone, self.learners - alone, self.removed)
            case ChangeKind.DEMOTE if node in self.voters and len(self.voters) > 1:
                return Membership(self.voters - alone, self.learners | alone, self.removed)
            case ChangeKind.RELEASE if node in self.members and self.voters != alone:
                return Membership(self.voters - alone, self.learners - alone, self.removed)
            case ChangeKind.REMOVE if node in self.members and self.voters != alone:
                return Membership(self.voters - alone, self.learners - alone, self.removed | alone)
        return None

    def encode(self) -> bytes:
        """The bytes of the one entry of a MEMBERSHIP batch, and of a manifest's `members`."""
        packed = msgpack.packb(
            {
                "v": FORMAT_VERSION,
                "voters": sorted(self.voters),
                "learners": sorted(self.learners),
                "removed": sorted(self.removed),
            }
        )
        assert isinstance(packed, bytes)
        return packed

    @classmethod
    def decode(cls, data: bytes | memoryview) -> Membership:
        """The inverse of `encode`; raises `BadMembership`."""
        try:
            fields = msgpack.unpackb(data)
            if fields["v"] != FORMAT_VERSION:
                raise BadMembership(f"membership format {fields['v']} is newer than {FORMAT_VERSION}")
            return cls(*(frozenset(map(int, fields[name])) for name in ("voters", "learners", "removed")))
        except (msgpack.UnpackException, ValueError, KeyError, TypeError) as error:
            raise BadMembership(f"unreadable membership: {error}") from error


class MembershipHistory:
    """The memberships the log speaks of: one that is settled, and those above it, newest last.

    Invariant: indexes rise. Appending adds, truncating takes back (Raft thesis 4.1), compacting settles.
    """

    __slots__ = ("_changes", "_settled")

    def __init__(self, settled: Membership, changes: Iterable[tuple[int, Membership]] = ()) -> None:
        self._settled = settled
        self._changes = list(changes)

    @property
    def current(self) -> Membership:
        """In effect now, committed or not."""
        return self._changes[-1][1] if self._changes else self._settled

    @property
    def last_change(self) -> int:
        """The index of the newest change still in the log, or 0."""
        return self._changes[-1][0] if self._changes else 0

    def at(self, index: int) -> Membership:
        """In effect as of `index`: what a manifest taken there must say."""
        found = self._settled
        for changed_at, membership in self._changes:
            if changed_at > index:
                break
            found = membership
        return found

    def append(self, index: int, membership: Membership) -> None:
        assert index > self.last_change, "memberships are appended in log order"
        self._changes.append((index, membership))

    def insert(self, index: int, membership: Membership) -> None:
        """A batch in the middle of the log became readable, and is a change."""
        known = [change for change in self._changes if change[0] != index]
        self._changes = sorted([*known, (index, membership)], key=lambda change: change[0])

    def truncate_from(self, index: int) -> bool:
        """Take back what was appended at `index` or later; whether anything was."""
        kept = [(changed_at, membership) for changed_at, membership in self._changes if changed_at < index]
        taken_back = len(kept) != len(self._changes)
        self._changes = kept
        return taken_back

    def settle(self, index: int, known: Membership | None = None) -> None:
        """The log up to `index` is compacted.

        `known`: what a snapshot as of then says. A replica that lost its own has only the first members.
        """
        self._settled = known if known is not None else self.at(index)
        self._changes = [
            (changed_at, membership) for changed_at, membership in self._changes if changed_at > index
        ]

    def reset(self, membership: Membership) -> None:
        """A snapshot replaced the whole log."""
        self._settled, self._changes = membership, []
