"""This node as a member of its cluster: what meta says, as far as it is applied here, and what every member
does about it.

It keeps links to whom meta lists or invites, ends those of whom it removed, takes in whoever was invited, has
meta record which protocol this node speaks, and finds out whether this node itself was removed.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import replace
from typing import Final

import trio

from ...storage.actor import Storage
from ..groups import Birth as GroupBirth
from ..groups import Groups
from ..peers.peers import Peers
from ..peers.requests import Refusal
from ..peers.wire import OLDEST_PROTOCOL
from ..raft.outcomes import Applied, Outcome, Reason
from ..stream.errors import ApiError
from .birth import Founding
from .meta import MetaMachine, check_join
from .meta_state import FENCED_REPORTS, META_GROUP, META_KIND, Assignment, MetaState, NodeRecord

logger = logging.getLogger(__name__)

JOIN_SECONDS: Final = 5.0
DISMISS_SECONDS: Final = 0.5
SAY_SECONDS: Final = 1.0
REMOVED_SECONDS: Final = 3.0
"""Above an election with the longest default timeouts: a living cluster has a leader by then."""

Propose = Callable[[Mapping[str, object]], Awaitable[Outcome]]


class Member:
    """Owns this node's view of the meta group, from before it belongs to a cluster until its end.

    Args:
        me: this node as its cluster will know it.
        speaks: the newest protocol of this node.
        admits_anybody: whether whoever asks to join is invited at once.
        propose: has a command applied by the meta group, wherever that is led.
        told: called with each new state of meta, at once, on the event loop.
    """

    def __init__(
        self,
        me: NodeRecord,
        speaks: int,
        admits_anybody: bool,
        storage: Storage,
        groups: Groups,
        peers: Peers,
        propose: Propose,
        told: Callable[[MetaState], None],
    ) -> None:
        self.me = me
        self.changed = trio.Event()
        """Set by the next change of desired state, which comes with a new event."""
        self._speaks = speaks
        self._admits_anybody = admits_anybody
        self._storage = storage
        self._groups = groups
        self._peers = peers
        self._propose = propose
        self._told = told
        self._founders: tuple[NodeRecord, ...] = ()
        self._machine: MetaMachine | None = None
        self._told_removed = trio.Event()
        self._contradicted = False

    @property
    def node_id(self) -> int:
        return self.me.node

    # --- what meta says ------------------------------------------------------------------------------------

    @property
    def state(self) -> MetaState:
        """The meta state this node has applied; empty until it belongs to a cluster."""
        return self._machine.state if self._machine is not None else MetaState()

    def replicas_of(self, group: int) -> tuple[int, ...]:
        """The nodes that a group should be on; none if there is no such group."""
        assignment = self.state.groups.get(group)
        return assignment.replicas if assignment is not None else ()

    def is_gone(self, node: int) -> bool:
        """Removed, and not a member in the meta group's own log any more: until then its vote may be needed.

        Whoever was removed before that log ever had it is in no membership, but in what meta says.
        """
        meta = self._groups.get(META_GROUP)
        if meta is None:
            return False
        membership = meta.state.membership
        said = node in self.state.removed and node not in membership.members
        return said or node in membership.removed

    def is_wanted(self, name: str) -> bool:
        """Whether the cluster has, or awaits, a node of this name. As long as this node is no member, or the
        meta group's log counts on somebody whom meta lists no more, it may be anybody."""
        meta, state = self._groups.get(META_GROUP), self.state
        if meta is None or self.me.node not in state.nodes:
            return True
        listed = state.node_named(name) is not None or name in state.invited
        return listed or not meta.state.membership.members <= state.nodes.keys()

    # --- the meta group here -------------------------------------------------------------------------------

    async def enter(self, founding: Founding) -> None:
        """This node belongs to a cluster: say so to peers, and run the meta group if it doesn't run yet."""
        self._peers.me = replace(self._peers.me, cluster=founding.cluster)
        for record in founding.founders:
            self._peers.learn(record.name, record.address)
        if self._groups.get(META_GROUP) is None:
            await self.start_meta(founding)

    async def start_meta(self, founding: Founding) -> None:
        """Run this node's replica of the meta group."""
        self._founders = founding.founders
        voters = tuple(record.node for record in founding.founders)
        recovered = self._storage.recovered.groups.get(META_GROUP)
        if recovered is not None and recovered.incarnation == founding.cluster:
            await self._groups.resume(recovered, voters)
        else:  # `Birth` has just made its record durable
            birth = GroupBirth(META_GROUP, founding.cluster, META_KIND, META_KIND, voters, founding.pack())
            await self._groups.start_new(birth, campaign=self.me.node == min(voters))

    def make_machine(self) -> MetaMachine:
        """The state machine of the meta group, as of the cluster's founding."""
        self._machine = MetaMachine(self._founders, self._on_change, self._speaks)
        return self._machine

    def _on_change(self) -> None:
        """Desired state changed: publishers see it at once, the rest follows in its own task."""
        oldest = max(OLDEST_PROTOCOL, self.state.level)
        if self._peers.me.oldest != oldest:  # whoever speaks less is too late to come back
            self._peers.me = replace(self._peers.me, oldest=oldest)
        self._told(self.state)
        self.changed.set()
        self.changed = trio.Event()

    async def propose_meta(self, command: Mapping[str, object]) -> Outcome:
        """Have the meta group apply a command."""
        return await self._propose(command)

    async def report_members(self, assignment: Assignment, members: frozenset[int], commit: int) -> None:
        """Tell meta whom a group's log counts on as of `commit`, so that it knows who can be done without."""
        command: dict[str, object] = {
            "op": "settled",
            "group": assignment.group,
            "incarnation": assignment.incarnation,
            "members": sorted(members),
        }
        if self.state.level >= FENCED_REPORTS:
            command["commit"] = commit
        await self._propose(command)

    async def start_restored(self, group: int) -> None:
        """Return once a restored group serves. Meta's change of mind has it started, like any other."""
        while self._groups.leadership(group) is None:
            await self._groups.wait_leader_change()

    # --- what every member does ----------------------------------------------------------------------------

    async def run(self) -> None:
        """Follow what meta says of nodes, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._dismiss_removed)
            nursery.start_soon(self._say_what_is_spoken)
            nursery.start_soon(self._dial_members)

    async def _dismiss_removed(self) -> None:
        """End the connections of removed nodes. Level-triggered: a commit of the meta log wakes nobody.

        Also of one that only dialled: it restarted just before, and links to it are refused by now. While its
        own connections stand it is never told, and campaigns in groups that go on without it.
        """
        while True:
            for node in filter(self.is_gone, self._peers.connected()):
                self._peers.dismiss(node)
            await trio.sleep(DISMISS_SECONDS)

    async def _say_what_is_spoken(self) -> None:
        """Have meta record which protocol this node speaks, once it was upgraded (DESIGN 10)."""
        while True:
            changed, state = self.changed, self.state
            if self.me.node in state.nodes and state.versions.get(self.me.node) != self._speaks:
                await self._propose({"op": "speaks", "node": self.me.node, "version": self._speaks})
                with trio.move_on_after(SAY_SECONDS):
                    await changed.wait()
            else:
                await changed.wait()

    async def _dial_members(self) -> None:
        """Keep a link to whom meta lists or invites."""
        while True:
            changed, state = self.changed, self.state
            members = [(each.name, each.address) for each in state.nodes.values()]
            invited = [(each.name, each.address) for each in state.invited.values()]
            for name, address in members + invited:
                self._peers.learn(name, address)
            await changed.wait()

    async def take_in(self, record: NodeRecord) -> Iterable[NodeRecord]:
        """Another node asks to become a member (see `Birth`); all members then. A name belongs to its bearer
        while that lives.

        Raises:
            Refusal: it may not, or not now.
            trio.TooSlowError: meta did not answer in time.
        """
        bearer = self._peers.linked().get(record.name)
        if bearer not in (None, record.node):
            raise Refusal(f"node {record.name} is alive under id {bearer:016x}")
        if self._groups.leadership(META_GROUP) is None:
            # Held until there is a leader, it might take the name from a later bearer, long after this asker
            # has died. It asks again.
            raise Refusal(Reason.NO_LEADER.value)
        if self._admits_anybody:
            await self._invite(record)
        try:
            # It asks ten times a second until somebody invites it: only what may succeed goes into the log.
            check_join(self.state, record.node, record.name)
        except ApiError as refusal:
            raise Refusal(str(refusal)) from refusal
        command = {"op": "join", "node": record.node, "name": record.name, "address": record.address}
        with trio.fail_after(JOIN_SECONDS):
            outcome = await self._propose(command)
        if not isinstance(outcome, Applied):
            raise Refusal(outcome.reason.value)
        if isinstance(outcome.result, dict) and "error" in outcome.result:
            raise Refusal(str(outcome.result["error"]["description"]))
        return list(self.state.nodes.values())

    async def _invite(self, record: NodeRecord) -> None:
        """Whoever asks is welcome. Once: it asks again until this node has seen its invitation."""
        state = self.state
        if record.node in state.removed or record.name in state.invited or state.node_named(record.name):
            return
        with trio.fail_after(JOIN_SECONDS):
            await self._propose({"op": "invite", "name": record.name, "address": record.address})

    # --- its own removal -----------------------------------------------------------------------------------

    def told_removed(self) -> None:
        """Another node says that this one was removed."""
        self._told_removed.set()

    async def wait_removed(self) -> None:
        """Return once this node is told that it was removed, and no leader says otherwise for a while.

        Whoever was removed has no leader any more. One who has one is in a cluster that lives, and the teller
        was made a cluster of its own.
        """
        while True:
            await self._told_removed.wait()
            if self.is_gone(self.me.node):
                return  # its own log says so, too
            with trio.move_on_after(REMOVED_SECONDS):
                while self._groups.leadership(META_GROUP) is None:
                    await self._groups.wait_leader_change()
            if self._groups.leadership(META_GROUP) is None:
                return
            if not self._contradicted:
                self._contradicted = True
                logger.error("a node says that this one was removed, but its cluster is led and goes on")
            self._told_removed = trio.Event()
