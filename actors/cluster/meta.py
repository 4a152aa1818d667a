"""The meta group's state machine: what the cluster should be (DESIGN 8, "two logs, one truth").

It holds desired state only: the nodes, and the groups with their replica sets and configurations. A stream's
own log says what its configuration *is*; this one says what it should become. A group's incarnation is the
meta index that made it, so a stream re-created under an old name never reads its predecessor.

Every decision here is made at apply, in log order, from the state alone: replicas can't differ.
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final, cast

import msgpack

from ...codec import Entries
from ...storage.manifest import FileEntry
from ..peers.wire import OLDEST_PROTOCOL, PROTOCOL_VERSION
from ..replica.machine import Capture, Fileless, StateUnusable
from ..stream.config import StreamConfig, check_overlap, check_update, same_config
from ..stream.errors import ApiError, api_error
from . import placement
from .meta_commands import Command, unpack_command
from .meta_state import (
    META_KIND,
    STREAM_KIND,
    Assignment,
    Invitation,
    MetaState,
    NodeRecord,
    pack_state,
    unpack_state,
)

logger = logging.getLogger(__name__)

NAME_BYTES: Final = 4 * 255
"""Longest name of a group or of a state machine: that of a stream, in UTF-8."""

NODE_EXISTS: Final = 20010
NODE_REMOVED: Final = 20011
NOT_INVITED: Final = 20012
NODE_NEEDED: Final = 20013
NO_SUCH_NODE: Final = 20014
"""Error codes of the changes of a cluster's nodes. The reference server has none: there, names are enough."""

REBALANCE_MOVES: Final = 8
"""Replicas on the move at a time: each is a copy of its stream over the network."""


class ClusterMovedOn(Exception):
    """All members of the cluster speak a newer protocol than this node: it was downgraded too late."""

    def __init__(self, level: int, speaks: int) -> None:
        super().__init__(
            f"the cluster speaks protocol {level}, this node up to {speaks}: use a newer program"
        )


class MetaMachine(Fileless):
    """Applies the meta log. `changed` is called after every batch that changed something; `speaks` is the
    newest protocol of this node, with which it can't follow a cluster that has moved on."""

    kind = META_KIND

    def __init__(
        self, nodes: Iterable[NodeRecord], changed: Callable[[], None], speaks: int = PROTOCOL_VERSION
    ) -> None:
        self.state = MetaState(nodes={record.node: record for record in nodes})
        self._changed = changed
        self._speaks = speaks
        self._commands: dict[str, Callable[[Command, int, int], Command]] = {
            "invite": self._invite,
            "join": self._join,
            "leave": self._leave,
            "settled": self._settled,
            "speaks": self._says_what_it_speaks,
            "recover": self._recover,
            "rebalance": self._rebalance,
            "create_stream": self._create_stream,
            "update_stream": self._update_stream,
            "delete_stream": self._delete_stream,
            "restore": self._restore,
            "restored": self._restored,
            "create_group": self._create_group,
            "delete_group": self._delete_group,
        }

    # --- Machine -------------------------------------------------------------------------------

    def apply(self, batch: Entries) -> list[object]:
        """One result mapping for each command of a batch.

        A command that nobody knows, or that makes no sense, is a refusal: an error would stop the meta group
        on every node, and again at each restart.
        """
        results: list[object] = []
        for position in range(len(batch)):
            try:
                command = unpack_command(batch.entry(position))
                handler = self._commands[cast(str, command["op"])]
                results.append(handler(command, batch.header.index, batch.header.time))
            except ApiError as refusal:
                results.append({"error": refusal.to_json()})
            except (LookupError, TypeError, ValueError, AttributeError, msgpack.UnpackException) as error:
                logger.warning("meta index %d: a command makes no sense: %s", batch.header.index, error)
                results.append({"error": api_error(10003).to_json()})
        if results:
            self._changed()
        return results

    def capture(self) -> Capture:
        return Capture(state=pack_state(self.state), files=())

    async def restore(self, state: bytes, files: Sequence[FileEntry], *, accept_loss: bool = False) -> None:
        """Raises StateUnusable."""
        try:
            restored = unpack_state(state)
        except (msgpack.UnpackException, ValueError, KeyError, TypeError) as error:
            raise StateUnusable(f"meta: the captured state is wrong: {error}") from error
        if restored.level > self._speaks:
            raise StateUnusable(f"meta: {ClusterMovedOn(restored.level, self._speaks)}")
        self.state = restored
        self._changed()

    def empty(self) -> None:
        return  # the founders are the start state, given at construction

    # --- Commands, each (command, index, time) -> result -----------------------------------------

    def _invite(self, command: Command, index: int, time: int) -> Command:
        """A name may join, perhaps to replace a member. Inviting again changes the address."""
        name, replaced = str(command["name"]), str(command.get("replaces") or "")
        if self.state.node_named(name) is not None:
            raise ApiError(409, NODE_EXISTS, f"node {name} is a member already")
        old = self._member(replaced).node if replaced else 0
        self.state.invited[name] = Invitation(name, str(command["address"]), old)
        return {}

    def _join(self, command: Command, index: int, time: int) -> Command:
        """A node takes its name. The id that bore it before is removed for good: a wiped disk is a new
        member. Nobody else comes in uninvited."""
        state = self.state
        node, name = cast(int, command["node"]), str(command["name"])
        check_join(state, node, name)
        invitation = state.invited.pop(name, None)
        old = state.node_named(name)
        state.nodes[node] = NodeRecord(node, name, str(command["address"]))
        if old is not None and old.node != node:
            self._hand_on(old.node, node)
            self._remove(old.node)
        if invitation is not None and invitation.replaces in state.nodes:
            self._hand_on(invitation.replaces, node)
            state.leaving.add(invitation.replaces)
            self._dismiss()
        return {}

    def _leave(self, command: Command, index: int, time: int) -> Command:
        """A member is to go (or an invitation is taken back): first its replicas move, then it is removed."""
        state, name = self.state, str(command["name"])
        if state.node_named(name) is None and state.invited.pop(name, None) is not None:
            return {}
        leaving = self._member(name).node
        others = len([node for node in state.staying() if node != leaving])
        crowded = [group.name for group in state.groups.values() if len(group.replicas) > others]
        if not others or crowded:
            why = f"scale down first: {', '.join(sorted(crowded)[:5])}" if crowded else "it is the last one"
            raise ApiError(400, NODE_NEEDED, f"node {name} can't leave {others} others behind; {why}")
        state.leaving.add(leaving)
        self._hand_on(leaving)
        self._dismiss()
        return {}

    def _settled(self, command: Command, index: int, time: int) -> Command:
        """A group's leader reports the members that its log has; a report on an earlier life is dropped, and
        so is one that comes behind a later one."""
        group = self.state.groups.get(cast(int, command["group"]))
        if group is None or group.incarnation != command["incarnation"]:
            return {}
        members, at = cast(list[int], command["members"]), cast(int, command.get("commit", 0))
        if at < group.settled_at:
            return {}
        # Whoever is desired may be in the log before its leader hears of this.
        needed = sorted({*members, *group.replicas}) if at else members
        self.state.groups[group.group] = replace(group, settled=tuple(needed), settled_at=at)
        self._dismiss()
        return {}

    def _says_what_it_speaks(self, command: Command, index: int, time: int) -> Command:
        """A member was upgraded (or downgraded, while that is possible)."""
        node, version = cast(int, command["node"]), cast(int, command["version"])
        if node not in self.state.nodes:
            raise ApiError(404, NO_SUCH_NODE, f"no node {node:016x} in this cluster")
        self.state.versions[node] = version
        self._raise_level()
        return {}

    def _raise_level(self) -> None:
        """Raises ClusterMovedOn at the very entry behind which this node might misunderstand one."""
        state = self.state
        spoken = [state.versions.get(node, OLDEST_PROTOCOL) for node in state.nodes]
        state.level = max(state.level, min(spoken, default=OLDEST_PROTOCOL))
        if state.level > self._speaks:
            raise ClusterMovedOn(state.level, self._speaks)

    def _rebalance(self, command: Command, index: int, time: int) -> Command:
        """Move a few replicas towards an even load; asked again, a few more. Leaderships follow at once."""
        sets = {group.group: group.replicas for group in self.state.groups.values() if not group.restoring}
        changed = placement.even_out(sets, self.state.staying(), REBALANCE_MOVES)
        for number, replicas in changed.items():
            self.state.groups[number] = replace(self.state.groups[number], replicas=replicas)
        self.state.rebalanced = index
        moved = [number for number, replicas in changed.items() if set(replicas) != set(sets[number])]
        return {"changed": len(moved)}

    def _recover(self, command: Command, index: int, time: int) -> Command:
        """A majority was lost and an operator made one node a cluster of its own (see `lost_quorum.py`)."""
        state, survivor = self.state, cast(int, command["node"])
        if survivor not in state.nodes:
            raise ApiError(404, NO_SUCH_NODE, f"no node {survivor:016x} in this cluster")
        for node in [node for node in state.nodes if node != survivor]:
            self._remove(node)
        state.invited.clear()
        state.leaving.clear()
        for group in list(state.groups.values()):
            if survivor in (*group.replicas, *group.settled):
                kept = replace(group, replicas=(survivor,), settled=(survivor,), settled_at=0)
                state.groups[group.group] = kept
            else:
                del state.groups[group.group]
        return {}

    def _create_stream(self, command: Command, index: int, time: int) -> Command:
        config = StreamConfig.from_json(cast(Command, command["config"]))
        existing = self.state.named(STREAM_KIND, config.name)
        if existing is not None:
            if not same_config(StreamConfig.from_json(existing.config), config):
                raise api_error(10058)
            return {"created": False}
        self._check_overlap(config)
        self._add(STREAM_KIND, config.name, config.num_replicas, config.to_json(), index, time)
        return {"created": True}

    def _update_stream(self, command: Command, index: int, time: int) -> Command:
        wanted = StreamConfig.from_json(cast(Command, command["config"]))
        existing = self._existing_stream(wanted.name)
        config = check_update(StreamConfig.from_json(existing.config), wanted)
        self._check_overlap(config)
        if existing.config != config.to_json() or len(existing.replicas) != config.num_replicas:
            self.state.groups[existing.group] = replace(
                existing,
                config=config.to_json(),
                version=existing.version + 1,
                replicas=self._resized(existing, config.num_replicas, cast(int, command.get("keep", 0))),
            )
        return {}

    def _delete_stream(self, command: Command, index: int, time: int) -> Command:
        del self.state.groups[self._existing_stream(str(command["name"])).group]
        self._dismiss()
        return {}

    def _restore(self, command: Command, index: int, time: int) -> Command:
        """A group is to come from a backup: one replica, on the node that takes the backup in."""
        kind, name, node = str(command["kind"]), str(command["name"]), cast(int, command["node"])
        if self.state.named(kind, name) is not None:
            raise ApiError(400, 10058, f"{kind} {name} exists already")
        if node not in self.state.nodes:
            raise api_error(10005)
        config = cast(Command, command["config"])
        if kind == STREAM_KIND:
            self._check_overlap(StreamConfig.from_json(config))
        added = self._assign(kind, name, (node,), config, index, time)
        self.state.groups[added.group] = replace(added, restoring=True, version=cast(int, command["version"]))
        return {"group": added.group}

    def _restored(self, command: Command, index: int, time: int) -> Command:
        """Its first replica is whole; it grows to as many as it had, or as there are nodes."""
        group = self.state.groups.get(cast(int, command["group"]))
        if group is None or not group.restoring:
            raise ApiError(404, 10059, "nothing is being restored under that number")
        count = max(1, cast(int, command["replicas"]))
        replicas = placement.resize(group.replicas, self._load(), count)
        self.state.groups[group.group] = replace(group, restoring=False, replicas=replicas)
        return {}

    def _create_group(self, command: Command, index: int, time: int) -> Command:
        """A group with a user's state machine; creating it again with the same machine finds it."""
        name, kind = str(command["name"]), str(command["machine"])
        if kind in (META_KIND, STREAM_KIND):
            raise ApiError(400, 10003, f"{kind!r} is no machine of a user's")
        existing = self.state.named(kind, name)
        if existing is None:
            existing = self._add(kind, name, cast(int, command["replicas"]), {}, index, time)
        elif existing.kind != kind:
            raise ApiError(400, 10058, f"group {name} exists with machine {existing.kind}")
        return {"group": existing.group}

    def _delete_group(self, command: Command, index: int, time: int) -> Command:
        existing = self.state.named("", str(command["name"]))
        if existing is None:
            raise ApiError(404, 10059, "group not found")
        del self.state.groups[existing.group]
        self._dismiss()
        return {}

    # --- Shared by them --------------------------------------------------------------------------

    def _existing_stream(self, name: str) -> Assignment:
        existing = self.state.named(STREAM_KIND, name)
        if existing is None:
            raise api_error(10059)
        return existing

    def _check_overlap(self, config: StreamConfig) -> None:
        # Only the subjects are looked at: with a thousand streams, parsing all of them would take long.
        streams = self.state.streams()
        check_overlap(config, [(each.name, cast(list[str], each.config["subjects"])) for each in streams])

    def _add(
        self, kind: str, name: str, count: int, config: Mapping[str, object], index: int, time: int
    ) -> Assignment:
        return self._assign(kind, name, self._place(count), config, index, time)

    def _assign(
        self,
        kind: str,
        name: str,
        replicas: tuple[int, ...],
        config: Mapping[str, object],
        index: int,
        time: int,
    ) -> Assignment:
        if not all(0 < len(text.encode()) <= NAME_BYTES for text in (kind, name)):
            raise api_error(10003)
        group = self.state.next_group
        self.state.next_group += 1
        assignment = Assignment(
            group=group,
            incarnation=index,
            kind=kind,
            name=name,
            replicas=replicas,
            initial=replicas,
            settled=replicas,
            version=1,
            config=config,
            created=time,
        )
        self.state.groups[group] = assignment
        return assignment

    def _place(self, count: int) -> tuple[int, ...]:
        """The least loaded nodes, the first of them with the fewest groups it comes first in (it leads
        first)."""
        staying, groups = self.state.staying(), self.state.groups.values()
        if not 1 <= count <= len(staying):
            raise api_error(10005)
        load = placement.hosted(staying, groups)
        return placement.place(
            {node: load[node] for node in staying}, placement.first(staying, groups), count
        )

    def _resized(self, group: Assignment, count: int, keep: int) -> tuple[int, ...]:
        """The replica set with `count` nodes; `keep`, who leads it now, is not the one to go."""
        if count == len(group.replicas):
            return group.replicas
        resized = placement.resize(group.replicas, self._load(), count, keep) if count > 0 else ()
        if not 1 <= count <= len(resized):
            raise api_error(10005)
        return resized

    def _load(self) -> dict[int, int]:
        staying = self.state.staying()
        load = placement.hosted(staying, self.state.groups.values())
        return {node: load[node] for node in staying}

    # --- Nodes that go -----------------------------------------------------------------------------

    def _member(self, name: str) -> NodeRecord:
        record = self.state.node_named(name)
        if record is None:
            raise ApiError(404, NO_SUCH_NODE, f"no node {name} in this cluster")
        return record

    def _hand_on(self, leaving: int, heir: int = 0) -> None:
        """Desired replicas of a node go to its heir, or each to the node with the fewest."""
        for group in list(self.state.groups.values()):
            if leaving in group.replicas:
                replicas = placement.substitute(group.replicas, self._load(), leaving, heir)
                self.state.groups[group.group] = replace(group, replicas=replicas)

    def _dismiss(self) -> None:
        """Remove every leaving node that no group wants and no group's log has any more."""
        needed = {node for group in self.state.groups.values() for node in (*group.replicas, *group.settled)}
        for node in sorted(self.state.leaving - needed):
            self._remove(node)

    def _remove(self, node: int) -> None:
        self.state.nodes.pop(node, None)
        self.state.leaving.discard(node)
        self.state.versions.pop(node, None)
        self.state.removed.add(node)
        self._raise_level()


def check_join(state: MetaState, node: int, name: str) -> None:
    """Whether this id may have this name. Raises ApiError."""
    if node in state.removed:
        raise ApiError(409, NODE_REMOVED, f"node id {node:016x} was removed and never returns")
    if state.node_named(name) is None and name not in state.invited:
        raise ApiError(403, NOT_INVITED, f"nobody invited {name}: trimaran cluster add {name}=HOST:PORT")
