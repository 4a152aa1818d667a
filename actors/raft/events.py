"""What a replica did, as structured events through one hook: for the invariant checker, traces and tests.

Whoever wants them gives the node a hook (`Node(..., listen=...)`). It is called on the event loop with one
event after another, in the order in which they happened, and must neither wait nor raise. Without one nothing
is built and nothing called.

Most events are read off the effects of a step (`events_of`), so no rule has to remember to report.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypedDict

from ...codec import Kind, read_header
from .effects import Commit, Effect, MembershipChanged, Persist, RoleChanged
from .messages import Message, SnapshotInstalled

if TYPE_CHECKING:
    from .log import EntryId
    from .state import GroupState, Role


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """What every event says: which replica of which group."""

    node: int
    group: int
    incarnation: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Started(Event):
    """The replica runs, from what its disk has."""

    term: int
    vote: int
    commit: int
    compacted: EntryId
    last_index: int
    terms: tuple[tuple[int, int], ...]
    """(first index, term) of each run of equal terms in the log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleTaken(Event):
    """Role, term or known leader (0: none) changed. Comes before the other events of its step."""

    role: Role
    term: int
    leader: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Voted(Event):
    """Term and vote (0: none yet) are on their way to the disk; what promises them waits for it."""

    term: int
    vote: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Truncated(Event):
    """`first` and everything after it left the log."""

    first: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Appended(Event):
    """A batch joined the log; not synced yet. `crc` is that of its header, which covers the payload's."""

    index: int
    term: int
    previous_term: int
    crc: int
    kind: Kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Committed(Event):
    """Everything up to `index` is committed, as this replica knows."""

    index: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchApplied(Event):
    """The state machine has applied the batch at `index`; equal replicas have equal rolling hashes."""

    index: int
    rolling_hash: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MembersChanged(Event):
    """Other members are in effect, by the batch at `index`, by its truncation or by a snapshot."""

    index: int
    voters: frozenset[int]
    learners: frozenset[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Compacted(Event):
    """A snapshot of the own machine covers the log up to here."""

    index: int
    term: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed(Event):
    """A leader's snapshot covers the log up to here; what follows is kept up to `last_index`."""

    index: int
    term: int
    last_index: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Diverged(Event):
    """Most replicas have another rolling hash at an index than this one: it gives up its state."""

    index: int
    rolling_hash: int
    """What this replica had there."""


EventHook = Callable[[Event], None]
"""Neither waits nor raises."""


class Replica(TypedDict):
    """The fields of every `Event`."""

    node: int
    group: int
    incarnation: int


def replica_of(state: GroupState) -> Replica:
    return {"node": state.node, "group": state.group, "incarnation": state.incarnation}


def started(state: GroupState) -> Started:
    return Started(
        **replica_of(state),
        term=state.term,
        vote=state.vote,
        commit=state.commit,
        compacted=state.log.compacted,
        last_index=state.log.last_index,
        terms=state.log.terms(),
    )


def events_of(state: GroupState, message: Message, effects: Sequence[Effect]) -> Iterator[Event]:
    """What one step did. `state` is as of after it."""
    replica = replica_of(state)
    if effects and isinstance(effects[-1], RoleChanged):
        role = effects[-1]
        yield RoleTaken(**replica, role=role.role, term=role.term, leader=role.leader)
    for effect in effects:
        match effect:
            case Persist():
                yield from _persisted(state, message, effect)
            case Commit(index):
                yield Committed(**replica, index=index)
            case MembershipChanged(index, voters, learners):
                yield MembersChanged(**replica, index=index, voters=voters, learners=learners)


def _persisted(state: GroupState, message: Message, persist: Persist) -> Iterator[Event]:
    replica, compact = replica_of(state), persist.compact
    if persist.hard_state is not None:
        yield Voted(**replica, term=persist.hard_state.term, vote=persist.hard_state.vote)
    if compact is not None and isinstance(message, SnapshotInstalled):
        yield Installed(**replica, index=compact.index, term=compact.term, last_index=state.log.last_index)
    elif compact is not None:
        yield Compacted(**replica, index=compact.index, term=compact.term)
    elif persist.truncate_from is not None:
        yield Truncated(**replica, first=persist.truncate_from)
    for batch in persist.batches:
        header = read_header(batch)
        yield Appended(
            **replica,
            index=header.index,
            term=header.term,
            previous_term=header.previous_term,
            crc=header.header_crc,
            kind=header.kind,
        )
