"""A node: one process's tree of actors, from the storage actor at the bottom to the gateway at the top.

    storage <- groups (role, applier, snapshots each) <- proposals <- gateway <- clients
                  |-> peers (links) <-> other nodes                     monitor reads them all

`Node` only builds the tree, in order, and takes it down in the reverse order; what the parts do is in their
files.
"""

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Final

import trio

from ..codec import Chunk
from ..storage.actor import Storage, StorageOptions
from ..storage.errors import StorageFailed
from ..storage.files import GroupFiles
from ..storage.turns import Turns
from .api import ApiDesk, ApiRouter
from .cluster.backup import Backups
from .cluster.balancer import Balancer
from .cluster.birth import Birth, Founding
from .cluster.hosting import Hosting
from .cluster.meta import MetaMachine, check_join
from .cluster.meta_state import (
    FENCED_REPORTS,
    META_GROUP,
    META_KIND,
    STREAM_KIND,
    Assignment,
    MetaState,
    NodeRecord,
)
from .cluster.reconciler import Reconciler
from .delivery.desk import Deliveries
from .delivery.gets import DirectGets
from .directory import NodeBackend, StreamDirectory
from .donor import Donor
from .gateway.gateway import Gateway, Settings
from .gateway.port import Port, SocketPort
from .gathering import Gathering
from .groups import Birth as GroupBirth
from .groups import Groups
from .options import BATCH_OVERHEAD, Options
from .overview import Overview
from .peers.network import Listener, TcpNetwork, TlsNetwork
from .peers.peers import Peers
from .peers.requests import Refusal, Requests
from .peers.wire import OLDEST_PROTOCOL, PROTOCOL_VERSION, FrameKind, Hello
from .proposals import Proposals
from .raft.checker import Checker, Violation
from .raft.events import Event, EventHook
from .raft.outcomes import Applied, Outcome, Reason
from .raft.state import RaftOptions
from .reads import Reads
from .replica.group import Group, NotDone
from .replica.machine import Machine
from .replica.user_machine import StateMachine, UserMachine
from .scrub import Scrub
from .security import Security, load_security
from .stream import commands
from .stream.errors import ApiError
from .stream.machine import StreamMachine
from .units import join_address, split_address
from .usage import Usage
from .vitals import Vitals
from .world import World

logger = logging.getLogger(__name__)

LINK_BYTES: Final = 64 * 1024 * 1024
STOP_SECONDS: Final = 2.0
LAST_WORDS_SECONDS: Final = 0.4
"""For answers to those who wait, once the disk has failed. The process ends within a second."""
DRAIN_SECONDS: Final = 0.5
JOIN_SECONDS: Final = 5.0
CALLED_SECONDS: Final = 1.0
"""For nodes that know this one, and that it forgot with its disk, to call it: links try twice a second."""
DISMISS_SECONDS: Final = 0.5
SAY_SECONDS: Final = 1.0
REMOVED_SECONDS: Final = 3.0
"""Above an election with the longest default timeouts: a living cluster has a leader by then."""

MakeStateMachine = Callable[[], StateMachine]


class NodeFailed(Exception):
    """The disk failed: nothing more can be promised. The process must end, and says so with its exit code."""

    def __init__(self, cause: StorageFailed) -> None:
        super().__init__(str(cause))
        self.exit_code = cause.exit_code


class NodeRemoved(Exception):
    """This node's id was removed from its cluster and never returns. The process must end."""

    exit_code: Final = 4

    def __init__(self, name: str, node: int, cluster: int) -> None:
        super().__init__(
            f"node {name} ({node:016x}) was removed from cluster {cluster:016x} and its id never returns; to "
            f"use this machine again, invite it (trimaran cluster add) and start with an empty directory"
        )


class Node:
    """One member of a cluster, or a cluster of one.

    Args:
        options: the table of options.
        world: time, randomness, network and disk; the machine's own by default.
        machines: makes an empty state machine, by the name of its kind; the same kinds on every node.
        port: where clients connect; the sockets of `options.listen` by default.
        listen: hears every event of every group (`actors/raft/events.py`).
        security: reads users and certificates, if not from the files that the options name.
        speaks: the newest protocol it speaks; an older one than the program's is for tests of upgrades.
    """

    def __init__(
        self,
        options: Options,
        world: World | None = None,
        machines: Mapping[str, MakeStateMachine] | None = None,
        port: Port | None = None,
        listen: EventHook | None = None,
        speaks: int = PROTOCOL_VERSION,
        security: Callable[[], Security] | None = None,
    ) -> None:
        self.options = options
        self.client_address = options.listen
        self.http_address = options.http or ""
        self.ready = trio.Event()
        """Set once this node belongs to a cluster and has started its groups."""
        self.on_failure: Callable[[int], None] = lambda exit_code: None
        """Told when the disk has failed, before the last words: the process is to end with this code."""
        from .. import __version__  # here, since the package's face imports this module

        self._version = __version__
        self._world = world if world is not None else World.real(options.data, wal_sync=options.wal_sync)
        self._machines = dict(machines or {})
        self._port = port
        self._listen = listen
        self._speaks = speaks
        self._turns = Turns()
        self._failure: StorageFailed | None = None
        self._failed = trio.Event()
        self._told_removed = trio.Event()
        self._removed = False
        self._contradicted = False
        self._meta_machine: MetaMachine | None = None
        self._directory = StreamDirectory()
        self._meta_changed = trio.Event()
        self._stopping = False
        self._load_security = security or partial(load_security, options)
        self._security = Security()

    # --- life ------------------------------------------------------------------------------------------

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run until cancelled or stopped; `started()` once clients can connect.

        Raises:
            BadSecurity: users or certificates can't be read.
            OSError: an address can't be bound.
            StorageError: the data directory can't be served; each kind has its exit code.
            NodeFailed: the disk failed while running.
            NodeRemoved: the cluster removed this node, now or while it was away.
        """
        self._security = self._load_security()
        if self._security.peer_tls is not None and isinstance(self._world.network, TcpNetwork):
            self._world = replace(self._world, network=TlsNetwork(self._security.peer_tls))
        self.storage = await self._open_storage()
        try:
            await self._run_tree(task_status)
        finally:
            with trio.CancelScope(shield=True):
                await self.storage.close()
        if self._failure is not None:
            raise NodeFailed(self._failure)
        if self._removed:
            raise NodeRemoved(self.me.name, self.me.node, self.peers.me.cluster)

    async def _run_tree(self, task_status: trio.TaskStatus[None]) -> None:
        listener = await self._listen_to_peers()
        self._build(listener)
        async with trio.open_nursery() as nursery:
            self._scope = nursery.cancel_scope
            await nursery.start(self.storage.run)
            nursery.start_soon(self._watch_failure)
            nursery.start_soon(self._watch_removal)
            await nursery.start(self.requests.run)
            nursery.start_soon(self.proposals.run)
            nursery.start_soon(self.gathering.run)
            await nursery.start(self.reads.run)
            await nursery.start(self.deliveries.run)
            await nursery.start(self.groups.run)
            if self.birth.cluster and self.birth.founding is not None:
                # Before anyone is greeted: the meta group's log knows who was removed.
                await self._start_meta(self.birth.founding)
            await nursery.start(self.peers.run, listener)
            await nursery.start(self.gateway.run)
            self.client_address = join_address(*self.gateway.address)
            nursery.start_soon(self.overview.run)
            nursery.start_soon(self.usage.run)
            if self.options.http is not None:
                from .monitor import Monitor  # here: a node without it need not import an HTTP parser

                self.http_address = await nursery.start(Monitor(self.vitals, self.options.http).run)
            nursery.start_soon(self._join_cluster)
            task_status.started()

    def reload(self) -> None:
        """Read users, limits and clients' certificates again; clients no longer welcome are closed.

        Raises BadSecurity; then everything stays as it was. Links keep their certificates until a restart.
        """
        security = self._load_security()
        self.gateway.reload(security.access, security.tls)
        self._security = security

    async def stop(self) -> None:
        """Hand leaderships over, stop taking clients, and end `run` in order."""
        self._stopping = True
        with trio.move_on_after(STOP_SECONDS):
            async with trio.open_nursery() as nursery:
                for group in list(self.groups.led_by_me().values()):
                    if len(group.state.membership.voters) > 1:
                        nursery.start_soon(self._hand_over, group)
        with trio.move_on_after(STOP_SECONDS):
            await self.gateway.shut_down(DRAIN_SECONDS)
            await self.storage.drain()
        self._scope.cancel()

    async def _hand_over(self, group: Group) -> None:
        try:
            await group.transfer(None)
        except NotDone as refused:
            logger.info("group %s: leadership was not handed over: %s", group.name, refused)

    async def _watch_failure(self) -> None:
        """A failed disk ends the process; whoever waits is told first that the outcome is unknown (S9)."""
        await self._failed.wait()
        assert self._failure is not None
        logger.critical("%s", self._failure)
        self.on_failure(self._failure.exit_code)
        with trio.move_on_after(LAST_WORDS_SECONDS):
            await self.groups.end()
            self.proposals.end(Reason.STORAGE_FAILED)
            await self.gateway.shut_down(LAST_WORDS_SECONDS / 2)
            await self.peers.flushed()
        self._scope.cancel()

    async def _watch_removal(self) -> None:
        """End this node once it is told that it was removed, and no leader says otherwise for a while.

        Whoever was removed has no leader any more. One who has one is in a cluster that lives, and the teller
        was made a cluster of its own.
        """
        while True:
            await self._told_removed.wait()
            if self._is_gone(self.me.node):
                break  # its own log says so, too
            with trio.move_on_after(REMOVED_SECONDS):
                while self.groups.leadership(META_GROUP) is None:
                    await self.groups.wait_leader_change()
            if self.groups.leadership(META_GROUP) is None:
                break
            if not self._contradicted:
                self._contradicted = True
                logger.error("a node says that this one was removed, but its cluster is led and goes on")
            self._told_removed = trio.Event()
        self._removed = True
        self._scope.cancel()

    def _on_storage_failure(self, failure: StorageFailed) -> None:
        self._failure = failure
        self._failed.set()

    # --- building ----------------------------------------------------------------------------------------

    async def _open_storage(self) -> Storage:
        options, world = self.options, self._world
        return await Storage.open(
            world.disk,
            world.runner,
            name=options.name,
            draw=self._draw_id,
            options=StorageOptions(
                segment_bytes=options.segment_bytes, min_free_bytes=options.min_free_bytes
            ),
            on_failure=self._on_storage_failure,
            turns=self._turns,
        )

    def _draw_id(self) -> int:
        return self._world.random.getrandbits(64) or 1

    def _draw_number(self) -> int:
        """Where a count begins that no other process of this node may meet; it stays below 64 bits."""
        return self._world.random.getrandbits(62)

    async def _listen_to_peers(self) -> Listener | None:
        if not self.options.clustered:
            return None
        return await self._world.network.listen(self.options.peer_address)

    def _build(self, listener: Listener | None) -> None:
        options, world = self.options, self._world
        node = self.storage.recovered.node
        address = options.peer_advertise or _advertised(options.peer_address, listener)
        self.me = NodeRecord(node.node_id, options.name, address)
        hello = Hello(
            version=self._speaks,
            oldest=OLDEST_PROTOCOL,
            cluster=node.cluster_id,
            cluster_name=options.cluster_name,
            node=node.node_id,
            incarnation=self._draw_id(),
            name=options.name,
            address=address,
        )
        self.peers = Peers(
            hello,
            world.network,
            world.random,
            dict(options.peers),
            LINK_BYTES,
            self._turns,
            # All quiet groups depend on it, so it is less hasty than the heartbeats of a group.
            alive_interval=2 * options.heartbeat_ms / 1000,
            alive_patience=options.election_max_ms / 1000,
            admits_anybody=options.admit == "anybody",
        )
        self.requests = Requests(self.peers, self._draw_number())
        self.groups = Groups(
            node.node_id,
            self.storage,
            self.peers,
            world.clock,
            world.random,
            raft_options(options),
            options.snapshot_log_bytes,
            options.transfer_log_bytes,
            self._make_machine,
            self.requests,
            self._turns,
            self._listener(),
        )
        self.donor = Donor(self.groups, self.requests)
        self.proposals = Proposals(self.groups, self.peers, self._draw_number())
        self.gathering = Gathering(self.proposals, self._turns)
        self.reads = Reads(self.groups, self.requests)
        self.birth = Birth(
            self.me,
            frozenset(name for name, _ in options.peers),
            self.storage,
            self.requests,
            self.peers,
            self._draw_id,
            self._take_in,
            CALLED_SECONDS if options.admit == "anybody" else 0.0,
        )
        self.usage = Usage(
            self.groups.hosted, self.groups.get, self.peers.up, self.requests, lambda: self._security.limits
        )
        self.gets = DirectGets(self.groups.get, self.reads.barrier)
        self.deliveries = Deliveries(
            node.node_id,
            self.peers,
            self.groups.leadership,
            self._directory.group_of,
            self._replicas_of,
            self.gets,
            world.clock,
            world.random,
        )
        desk = ApiDesk(
            self.groups,
            self,
            self.proposals,
            self.deliveries,
            world.clock,
            options.cluster_name,
            self.peers,
            self.usage,
            lambda: self._security.limits,
        )
        self.api_router = ApiRouter(self.groups, self.requests, self, desk)
        self.desk = desk
        self.backups = Backups(self.groups, self.storage, self, self._draw_id)
        self.api_router.backups = self.backups
        self.reconciler = Reconciler(
            world.clock,
            self.groups.led_by_me,
            lambda: self.state,
            partial(self.reads.barrier, META_GROUP),
            self._configuration,
            _next_due,
            self._report_members,
        )
        self.scrub = Scrub(self.storage, self.groups.hosted, world.clock, options.scrub_bytes)
        self.hosting = Hosting(
            node.node_id,
            self.storage,
            self.groups,
            lambda: self.state,
            lambda: self._meta_changed,
            lambda: self.reads.barrier(META_GROUP),
            self._has_machine,
            self.reconciler.wake,
        )
        self.balancer = Balancer(node.node_id, self.groups.led_by_me, lambda: self.state, self.peers.is_up)
        backend = NodeBackend(
            node.node_id,
            self._version,
            options,
            self._directory,
            self.proposals,
            self.api_router,
            self.peers,
            self.deliveries,
            self.usage,
        )
        port = self._port or SocketPort(*split_address(options.listen))
        security = self._security
        self.gateway = Gateway(
            backend,
            port,
            world.random,
            gateway_settings(options),
            security.access,
            security.tls,
            turns=self._turns,
        )
        self.deliveries.carrier = self.gets.carrier = self.gateway
        self.overview = Overview(
            self.me,
            self._version,
            options.cluster_name,
            self.storage,
            self.groups,
            self.gateway,
            self.peers,
            self.requests,
            world.clock,
            lambda: self.state,
            lambda: self.vitals.health(),
        )
        self.vitals = Vitals(
            options,
            self._version,
            node.node_id,
            self.storage,
            self.groups,
            self.peers,
            self.proposals,
            self.gateway,
            self.scrub,
            world.clock,
            lambda: self.state,
            self.ready.is_set,
            lambda: self.hosting.missing,
            self.overview,
        )
        self._wire()

    def _wire(self) -> None:
        """Who is told what. In one place, so that the flow of events can be read."""
        peers, groups = self.peers, self.groups
        peers.refuses = lambda remote: "its id was removed" if self._is_gone(remote.node) else None
        peers.is_wanted = self._is_wanted
        peers.on_removed = lambda reason: self._told_removed.set()
        peers.handle(FrameKind.ASK, self.requests.on_ask)
        peers.handle(FrameKind.ANSWER, self.requests.on_answer)
        peers.handle(FrameKind.PROPOSE, self.proposals.on_propose)
        peers.handle(FrameKind.PROPOSE_REPLY, self.proposals.on_reply)
        peers.handle(
            FrameKind.INTEREST, lambda peer, envelope, _: self.gateway.on_interest(peer, tuple(envelope))
        )
        peers.handle(FrameKind.ROUTE, lambda peer, _, data: self.gateway.on_route(peer, data))
        peers.on_up += [self.proposals.on_peer_up, self.gateway.on_peer_up, self.balancer.on_peer_up]
        peers.on_down += [self.requests.on_peer_down, self.proposals.on_peer_down, self.gateway.on_peer_down]
        peers.on_down.append(self.deliveries.on_peer_down)
        peers.handle(FrameKind.CONSUMER, lambda peer, envelope, _: self.deliveries.on_frame(peer, envelope))
        groups.on_leader = self._on_leader
        groups.on_role_change = self.deliveries.on_role
        groups.on_closed = self.deliveries.on_closed

    def _replicas_of(self, group: int) -> tuple[int, ...]:
        assignment = self.state.groups.get(group)
        return assignment.replicas if assignment is not None else ()

    def _on_leader(self, group: int) -> None:
        self.proposals.on_leader(group)
        self.deliveries.on_leader(group)
        self.reconciler.wake()

    def _listener(self) -> EventHook | None:
        """Whoever hears what the groups do: who asked for it, and the checker if it is switched on."""
        if self.options.check_invariants == "off":
            return self._listen
        checker, listen = Checker(self._on_violation), self._listen

        def both(event: Event) -> None:
            checker(event)
            if listen is not None:
                listen(event)

        return both

    def _on_violation(self, violation: Violation) -> None:
        """A rule of Raft is broken: this node goes on without the group, until a person has looked."""
        logger.critical("an invariant is violated, the group stops here: %s", violation)
        self.groups.fail(violation.event.group, f"an invariant is violated: {violation}")

    # --- joining the cluster, starting groups ------------------------------------------------------------

    async def _join_cluster(self) -> None:
        """Find or found the cluster, then run the meta group and every group that belongs here."""
        founding = await self.birth.run()
        self.peers.me = replace(self.peers.me, cluster=founding.cluster)
        for record in founding.founders:
            self.peers.learn(record.name, record.address)
        if self.groups.get(META_GROUP) is None:
            await self._start_meta(founding)
        await self.hosting.resume_all()
        self.ready.set()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.reconciler.run)
            nursery.start_soon(self._dismiss_removed)
            nursery.start_soon(self._say_what_is_spoken)
            nursery.start_soon(self.backups.run)
            nursery.start_soon(self.balancer.run)
            nursery.start_soon(self.scrub.run)
            nursery.start_soon(self._follow_members)
            await self.hosting.run()

    async def _dismiss_removed(self) -> None:
        """End the connections of removed nodes. Level-triggered: a commit of the meta log wakes nobody.

        Also of one that only dialled: it restarted just before, and links to it are refused by now. While its
        own connections stand it is never told, and campaigns in groups that go on without it.
        """
        while True:
            for node in filter(self._is_gone, self.peers.connected()):
                self.peers.dismiss(node)
            await trio.sleep(DISMISS_SECONDS)

    async def _say_what_is_spoken(self) -> None:
        """Have meta record which protocol this node speaks, once it was upgraded (DESIGN 10)."""
        while True:
            changed, state = self._meta_changed, self.state
            if self.me.node in state.nodes and state.versions.get(self.me.node) != self._speaks:
                await self.propose_meta({"op": "speaks", "node": self.me.node, "version": self._speaks})
                with trio.move_on_after(SAY_SECONDS):
                    await changed.wait()
            else:
                await changed.wait()

    def _is_gone(self, node: int) -> bool:
        """Removed, and not a member in the meta group's own log any more: until then its vote may be needed.

        Whoever was removed before that log ever had it is in no membership, but in what meta says.
        """
        meta = self.groups.get(META_GROUP)
        if meta is None:
            return False
        membership = meta.state.membership
        said = node in self.state.removed and node not in membership.members
        return said or node in membership.removed

    def _is_wanted(self, name: str) -> bool:
        """Whether the cluster has, or awaits, a node of this name. As long as this node is no member, or the
        meta group's log counts on somebody whom meta lists no more, it may be anybody."""
        meta, state = self.groups.get(META_GROUP), self.state
        if meta is None or self.me.node not in state.nodes:
            return True
        listed = state.node_named(name) is not None or name in state.invited
        return listed or not meta.state.membership.members <= state.nodes.keys()

    async def _start_meta(self, founding: Founding) -> None:
        self._founding = founding
        voters = tuple(record.node for record in founding.founders)
        recovered = self.storage.recovered.groups.get(META_GROUP)
        if recovered is not None and recovered.incarnation == founding.cluster:
            await self.groups.resume(recovered, voters)
        else:  # `Birth` has just made its record durable
            birth = GroupBirth(META_GROUP, founding.cluster, META_KIND, META_KIND, voters, founding.pack())
            await self.groups.start_new(birth, campaign=self.me.node == min(voters))

    async def _follow_members(self) -> None:
        """Dial whom meta lists or invites."""
        while True:
            changed, state = self._meta_changed, self.state
            members = [(each.name, each.address) for each in state.nodes.values()]
            invited = [(each.name, each.address) for each in state.invited.values()]
            for name, address in members + invited:
                self.peers.learn(name, address)
            await changed.wait()

    def _has_machine(self, kind: str) -> bool:
        return kind == STREAM_KIND or kind in self._machines

    def _make_machine(self, kind: str, name: str, files: GroupFiles) -> Machine:
        if kind == META_KIND:
            self._meta_machine = MetaMachine(self._founding.founders, self._on_meta, self._speaks)
            return self._meta_machine
        if kind == STREAM_KIND:
            return StreamMachine(
                files, name, block_bytes=self.options.block_bytes, level=lambda: self.state.level
            )
        return UserMachine(kind, self._machines[kind]())

    def _on_meta(self) -> None:
        """Desired state changed: publishers see it at once, the rest follows in its own task."""
        oldest = max(OLDEST_PROTOCOL, self.state.level)
        if self.peers.me.oldest != oldest:  # whoever speaks less is too late to come back
            self.peers.me = replace(self.peers.me, oldest=oldest)
        self._directory.update(self.state)
        self._meta_changed.set()
        self._meta_changed = trio.Event()

    @property
    def node_id(self) -> int:
        return self.me.node

    async def propose_meta(self, command: Mapping[str, object]) -> Outcome:
        return await self.desk.propose_meta(command)

    async def start_restored(self, group: int) -> None:
        """Return once a restored group serves. Meta's change of mind has it started, like any other."""
        while self.groups.leadership(group) is None:
            await self.groups.wait_leader_change()

    async def meta_change(self) -> None:
        """Wait for the next change of desired state."""
        await self._meta_changed.wait()

    async def _report_members(self, assignment: Assignment, members: frozenset[int], commit: int) -> None:
        """Tell meta whom a group's log counts on as of `commit`, so that it knows who can be done without."""
        command: dict[str, object] = {
            "op": "settled",
            "group": assignment.group,
            "incarnation": assignment.incarnation,
            "members": sorted(members),
        }
        if self.state.level >= FENCED_REPORTS:
            command["commit"] = commit
        await self.desk.propose_meta(command)

    async def _take_in(self, record: NodeRecord) -> Iterable[NodeRecord]:
        """Another node asks to become a member (see `Birth`). A name belongs to its bearer while that
        lives."""
        bearer = self.peers.linked().get(record.name)
        if bearer not in (None, record.node):
            raise Refusal(f"node {record.name} is alive under id {bearer:016x}")
        if self.options.admit == "anybody":
            await self._invite(record)
        try:
            # It asks ten times a second until somebody invites it: only what may succeed goes into the log.
            check_join(self.state, record.node, record.name)
        except ApiError as refusal:
            raise Refusal(str(refusal)) from refusal
        command = {"op": "join", "node": record.node, "name": record.name, "address": record.address}
        with trio.fail_after(JOIN_SECONDS):
            outcome = await self.desk.propose_meta(command)
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
            await self.desk.propose_meta({"op": "invite", "name": record.name, "address": record.address})

    def _configuration(self, group: Group, assignment: Assignment) -> Chunk | None:
        """The configuration that a stream's own log still lacks."""
        machine = group.machine
        if not isinstance(machine, StreamMachine) or machine.version >= assignment.version:
            return None
        return commands.command_chunk(commands.configure(assignment.config, assignment.version))

    # --- the state of the cluster --------------------------------------------------------------------------

    @property
    def state(self) -> MetaState:
        """The meta state this node has applied; empty until it belongs to a cluster."""
        return self._meta_machine.state if self._meta_machine is not None else MetaState()


def _next_due(group: Group) -> int | None:
    machine = group.machine
    return machine.next_due() if isinstance(machine, StreamMachine) else None


def _advertised(peer_listen: str, listener: Listener | None) -> str:
    """Where peers dial this node: the name it was given, with the port it really got."""
    if listener is None:
        return peer_listen
    host, _ = split_address(peer_listen)
    return join_address(host, split_address(listener.address)[1])


def raft_options(options: Options) -> RaftOptions:
    """The options that the roles' rules know, in seconds and bytes."""
    return RaftOptions(
        heartbeat=options.heartbeat_ms / 1000,
        election_min=options.election_min_ms / 1000,
        election_max=options.election_max_ms / 1000,
        fsync_deadline=options.fsync_deadline_ms / 1000,
        quiet_after=options.quiet_after_ms / 1000,
        max_batch_bytes=options.batch_bytes,
        uncommitted_bytes=options.uncommitted_bytes,
        log_cache_bytes=options.log_cache_bytes,
    )


def gateway_settings(options: Options) -> Settings:
    """The options that the gateway knows, in seconds and bytes."""
    return Settings(
        max_payload=options.max_payload,
        max_control_line=options.max_control_line,
        max_pending=options.max_pending,
        max_connections=options.max_connections,
        max_subscriptions=options.max_subscriptions,
        jetstream=options.jetstream == "on",
        auth_timeout=options.auth_timeout_ms / 1000,
        ping_interval=options.ping_interval_ms / 1000,
        chunk_bytes=options.batch_bytes - BATCH_OVERHEAD,
        # A quarter, so that the gateways of three nodes together don't drive a leader into refusing.
        publish_window=options.uncommitted_bytes // 4,
    )
