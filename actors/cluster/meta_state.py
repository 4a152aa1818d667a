"""What the meta group agreed upon: the nodes of the cluster, and its groups as they should be.

Data, and how a snapshot holds it. `meta.py` alone changes it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, cast

import msgpack

from ..peers.wire import OLDEST_PROTOCOL

META_GROUP: Final = 1
META_KIND: Final = "meta"
STREAM_KIND: Final = "stream"
STATE_VERSION: Final = 3
OLDEST_STATE: Final = 2
"""Without `Assignment.settled_at`. It is what is written until all members read the newer one."""
FENCED_REPORTS: Final = 2
"""The protocol since which a report of a group's members says at which commit index they were true."""


@dataclass(frozen=True, slots=True)
class NodeRecord:
    """A member node. A name belongs to one id at a time; an id that lost its name never returns."""

    node: int
    name: str
    address: str
    """Where its peers dial it, HOST:PORT."""


@dataclass(frozen=True, slots=True)
class Invitation:
    """A name that may join, with an empty directory."""

    name: str
    address: str
    replaces: int
    """The member that leaves as soon as this one has joined; 0: none."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """A group as it should be."""

    group: int
    incarnation: int
    kind: str
    """`stream`, or the name of a user's state machine."""
    name: str
    replicas: tuple[int, ...]
    """Node ids that should be its voters."""
    initial: tuple[int, ...]
    """Its first voters, which never change: the membership that its log starts from."""
    settled: tuple[int, ...]
    """The members that its own log had when its leader last reported them, and whoever was desired then: who
    may still be needed."""
    version: int
    """Of `config`; grows with each accepted one."""
    config: Mapping[str, object]
    created: int
    """Nanoseconds since 1970, the time of the batch that made it."""
    restoring: bool = False
    """Its first replica is being filled from a backup: nobody serves it before that is whole."""
    settled_at: int = 0
    """The commit index of the group's log as of which `settled` is true: a report that comes late, from a
    leader that was one, changes nothing. 0: nobody has said."""


@dataclass(slots=True)
class MetaState:
    """Everything the cluster agreed upon. Only `MetaMachine.apply` changes it.

    A node is invited by name, joins under its id, may be leaving while its replicas move, and is removed.
    """

    nodes: dict[int, NodeRecord] = field(default_factory=dict)
    invited: dict[str, Invitation] = field(default_factory=dict)
    leaving: set[int] = field(default_factory=set)
    """Members that hold no desired replica any more, and go once no group's log needs them."""
    removed: set[int] = field(default_factory=set)
    groups: dict[int, Assignment] = field(default_factory=dict)
    next_group: int = META_GROUP + 1
    rebalanced: int = 0
    """Index of the last wish for it: every leader sends its groups home when this changes."""
    versions: dict[int, int] = field(default_factory=dict)
    """The newest protocol that each member speaks, by its own word."""
    level: int = OLDEST_PROTOCOL
    """What all members speak, or once spoke: entries and records of this protocol may be written (DESIGN 10).
    Never falls, so whoever speaks less can't come back."""

    def named(self, kind: str, name: str) -> Assignment | None:
        """The group of this kind and name, if it exists."""
        for assignment in self.groups.values():
            if assignment.name == name and (assignment.kind == STREAM_KIND) == (kind == STREAM_KIND):
                return assignment
        return None

    def streams(self) -> Iterable[Assignment]:
        return (group for group in self.groups.values() if group.kind == STREAM_KIND)

    def staying(self) -> list[int]:
        """The members that may take replicas."""
        return [node for node in self.nodes if node not in self.leaving]

    def node_named(self, name: str) -> NodeRecord | None:
        return next((record for record in self.nodes.values() if record.name == name), None)


def pack_state(state: MetaState) -> bytes:
    """The state as a snapshot holds it, in a version that all members read."""
    version = STATE_VERSION if state.level >= FENCED_REPORTS else OLDEST_STATE
    packed: bytes = msgpack.packb(
        {
            "v": version,
            "nodes": [[record.node, record.name, record.address] for record in state.nodes.values()],
            "invited": [[each.name, each.address, each.replaces] for each in state.invited.values()],
            "leaving": sorted(state.leaving),
            "removed": sorted(state.removed),
            "groups": [_pack_assignment(group, version) for group in state.groups.values()],
            "next_group": state.next_group,
            "rebalanced": state.rebalanced,
            "versions": sorted(state.versions.items()),
            "level": state.level,
        }
    )
    return packed


def unpack_state(state: bytes) -> MetaState:
    """The inverse. ValueError, KeyError, TypeError or msgpack.UnpackException for what is no such state."""
    fields = msgpack.unpackb(state, strict_map_key=False)
    if not OLDEST_STATE <= fields["v"] <= STATE_VERSION:
        raise ValueError(f"meta state has version {fields['v']}, this node reads up to {STATE_VERSION}")
    return MetaState(
        nodes={node: NodeRecord(node, name, address) for node, name, address in fields["nodes"]},
        invited={name: Invitation(name, address, old) for name, address, old in fields["invited"]},
        leaving=set(fields["leaving"]),
        removed=set(fields["removed"]),
        groups={packed[0]: _unpack_assignment(packed) for packed in fields["groups"]},
        next_group=fields["next_group"],
        rebalanced=fields["rebalanced"],
        versions=dict(fields.get("versions", ())),
        level=fields.get("level", OLDEST_PROTOCOL),
    )


def _pack_assignment(group: Assignment, version: int) -> list[object]:
    packed: list[object] = [
        group.group,
        group.incarnation,
        group.kind,
        group.name,
        list(group.replicas),
        list(group.initial),
        list(group.settled),
        group.version,
        dict(group.config),
        group.created,
        group.restoring,
    ]
    return packed if version == OLDEST_STATE else [*packed, group.settled_at]


def _unpack_assignment(packed: Sequence[object]) -> Assignment:
    group, incarnation, kind, name, replicas, initial, settled, version, config, created, *later = packed
    restoring, settled_at = (*later, 0)[:2]
    return Assignment(
        group=cast(int, group),
        incarnation=cast(int, incarnation),
        kind=str(kind),
        name=str(name),
        replicas=tuple(cast(list[int], replicas)),
        initial=tuple(cast(list[int], initial)),
        settled=tuple(cast(list[int], settled)),
        version=cast(int, version),
        config=cast(Mapping[str, object], config),
        created=cast(int, created),
        restoring=bool(restoring),
        settled_at=cast(int, settled_at),
    )
