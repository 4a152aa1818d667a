"""A node: one process's tree of actors, from the storage actor at the bottom to the gateway at the top.

    storage <- groups (role, applier, snapshots each) <- proposals <- gateway <- clients
                  |-> peers (links) <-> other nodes                     monitor reads them all

`Node` only builds the tree, in order, and takes it down in the reverse order; what the parts do is in their
files.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Final, cast

import trio

from ..codec import Chunk
from ..storage.actor import Storage
from ..storage.errors import StorageFailed
from ..storage.files import GroupFiles
from ..storage.turns import Turns
from .api import ApiDesk, ApiRouter
from .cluster.backup import Backups
from .cluster.balancer import Balancer
from .cluster.birth import Birth
from .cluster.hosting import Hosting
from .cluster.member import Member
from .cluster.meta_state import (
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
from .gateway.gateway import Gateway
from .gateway.jetstream import cluster_json
from .gateway.port import Port, SocketPort
from .gathering import Gathering
from .groups import Groups
from .jsz import JetStreamPage
from .option_shares import gateway_settings, raft_options, storage_options
from .options import Options
from .overview import Overview
from .peers.network import Listener, TcpNetwork, TlsNetwork
from .peers.peers import Peers
from .peers.requests import Requests
from .peers.wire import OLDEST_PROTOCOL, PROTOCOL_VERSION, FrameKind, Hello
from .proposals import Proposals
from .raft.checker import Checker, Violation
from .raft.events import Event, EventHook
from .raft.log_cache import CacheBudget
from .raft.outcomes import Outcome, Reason
from .reads import Reads
from .replica.group import Group, NotDone
from .replica.machine import Machine
from .replica.user_machine import StateMachine, UserMachine
from .scrub import Scrub
from .security import Security, load_security
from .stream import commands
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
CALLED_SECONDS: Final = 1.0
"""For nodes that know this one, and that it forgot with its disk, to call it: links try twice a second."""

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
        self._removed = False
        self._directory = StreamDirectory()
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
        except* StorageFailed:
            if self._failure is None:
                raise
            # Somebody who waited for the disk found out, too: it is told below, once.
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
                await self.member.start_meta(self.birth.founding)
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
        await self.member.wait_removed()
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
            options=storage_options(options),
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
        """Every part of the tree, from the bottom up; then who is told what."""
        options = self.options
        address = options.peer_advertise or _advertised(options.peer_address, listener)
        recovered = self.storage.recovered.node
        self.me = NodeRecord(recovered.node_id, options.name, address)
        if recovered.name != options.name:
            logger.warning("node %s was started with the directory of node %s", options.name, recovered.name)
        self._build_peers()
        self._build_groups()
        self._build_member()
        self._build_streams()
        self._build_keepers()
        self._build_gateway()
        self._build_views()
        self._wire()

    def _build_peers(self) -> None:
        """Links, and questions to other nodes."""
        options, world = self.options, self._world
        hello = Hello(
            version=self._speaks,
            oldest=OLDEST_PROTOCOL,
            cluster=self.storage.recovered.node.cluster_id,
            cluster_name=options.cluster_name,
            node=self.me.node,
            incarnation=self._draw_id(),
            name=options.name,
            address=self.me.address,
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

    def _build_groups(self) -> None:
        """The groups of this node, and how one proposes to them and reads them."""
        options, world = self.options, self._world
        self.groups = Groups(
            self.me.node,
            self.storage,
            self.peers,
            world.clock,
            world.random,
            raft_options(options),
            options.snapshot_log_bytes,
            options.transfer_log_bytes,
            CacheBudget(options.node_log_cache_bytes),
            self._make_machine,
            self.requests,
            self._turns,
            self._listener(),
        )
        self.donor = Donor(self.groups, self.requests)
        self.proposals = Proposals(self.groups, self.peers, self._draw_number())
        self.gathering = Gathering(self.proposals, self._turns)
        self.reads = Reads(self.groups, self.requests)

    def _build_member(self) -> None:
        """Its way into a cluster, and its part in it."""
        options = self.options
        self.member = Member(
            self.me,
            self._speaks,
            options.admit == "anybody",
            self.storage,
            self.groups,
            self.peers,
            self.propose_meta,
            self._directory.update,
        )
        self.birth = Birth(
            self.me,
            frozenset(name for name, _ in options.peers),
            self.storage,
            self.requests,
            self.peers,
            self._draw_id,
            self.member.take_in,
            CALLED_SECONDS if options.admit == "anybody" else 0.0,
        )

    def _build_streams(self) -> None:
        """Delivery, direct gets, administration and backups."""
        world = self._world
        self.usage = Usage(
            self.groups.hosted, self.groups.get, self.peers.up, self.requests, lambda: self._security.limits
        )
        self.gets = DirectGets(self.groups.get, self.reads.barrier)
        domain = self.options.jetstream_domain or ""
        self.deliveries = Deliveries(
            self.me.node,
            self.peers,
            self.groups.leadership,
            self._directory.group_of,
            self.member.replicas_of,
            self.gets,
            world.clock,
            world.random,
            domain,
        )
        desk = ApiDesk(
            self.groups,
            self,
            self.proposals,
            self.deliveries,
            world.clock,
            self.options.cluster_name,
            self.peers,
            self.usage,
            lambda: self._security.limits,
            domain,
        )
        self.api_router = ApiRouter(self.groups, self.requests, self, desk)
        self.desk = desk
        self.backups = Backups(self.groups, self.storage, self.member, self._draw_id)
        self.api_router.backups = self.backups

    def _build_keepers(self) -> None:
        """What makes this node's part of the cluster as meta says, and keeps it whole."""
        world = self._world
        self.reconciler = Reconciler(
            world.clock,
            self.groups.led_by_me,
            lambda: self.state,
            partial(self.reads.barrier, META_GROUP),
            self._configuration,
            _next_due,
            self.member.report_members,
        )
        self.scrub = Scrub(self.storage, self.groups.hosted, world.clock, self.options.scrub_bytes)
        self.hosting = Hosting(
            self.me.node,
            self.storage,
            self.groups,
            lambda: self.state,
            lambda: self.member.changed,
            lambda: self.reads.barrier(META_GROUP),
            self._has_machine,
            self.reconciler.wake,
        )
        self.balancer = Balancer(self.me.node, self.groups.led_by_me, lambda: self.state, self.peers.is_up)

    def _build_gateway(self) -> None:
        """What clients talk to."""
        options, security = self.options, self._security
        backend = NodeBackend(
            self.me.node,
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
        self.gateway = Gateway(
            backend,
            port,
            self._world.random,
            gateway_settings(options),
            security.access,
            security.tls,
            turns=self._turns,
        )
        self.deliveries.carrier = self.gets.carrier = self.gateway

    def _build_views(self) -> None:
        """What operators see."""
        options, world = self.options, self._world
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
            self.me.node,
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
            JetStreamPage(
                options,
                self.me.node,
                self.groups,
                lambda: self.state,
                self.desk,
                self.api_router,
                self.storage.pinned,
            ),
        )

    def _wire(self) -> None:
        """Who is told what. In one place, so that the flow of events can be read."""
        peers, groups = self.peers, self.groups
        peers.refuses = lambda remote: "its id was removed" if self.member.is_gone(remote.node) else None
        peers.is_wanted = self.member.is_wanted
        peers.on_removed = lambda reason: self.member.told_removed()
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
        self.deliveries.on_served = self._on_served

    def _on_served(self, group: int) -> None:
        """This node leads a stream: who listens is told, if there was a choice."""
        assignment = self.state.groups.get(group)
        if assignment is not None and len(assignment.replicas) > 1:
            cluster = cluster_json(self.desk.cluster_of(group))
            replicas = cast("list[object]", cluster.get("replicas", []))
            self.deliveries.advisories.elected(assignment.name, self.options.name, replicas)

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
        await self.member.enter(await self.birth.run())
        await self.hosting.resume_all()
        self.ready.set()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.reconciler.run)
            nursery.start_soon(self.member.run)
            nursery.start_soon(self.backups.run)
            nursery.start_soon(self.balancer.run)
            nursery.start_soon(self.scrub.run)
            await self.hosting.run()

    def _has_machine(self, kind: str) -> bool:
        return kind == STREAM_KIND or kind in self._machines

    def _make_machine(self, kind: str, name: str, files: GroupFiles) -> Machine:
        if kind == META_KIND:
            return self.member.make_machine()
        if kind == STREAM_KIND:
            return StreamMachine(
                files, name, block_bytes=self.options.block_bytes, level=lambda: self.state.level
            )
        return UserMachine(kind, self._machines[kind]())

    @property
    def node_id(self) -> int:
        """This node's id, drawn when its directory was made."""
        return self.me.node

    async def propose_meta(self, command: Mapping[str, object]) -> Outcome:
        """Have the meta group apply a command."""
        return await self.desk.propose_meta(command)

    async def meta_change(self) -> None:
        """Wait for the next change of desired state."""
        await self.member.changed.wait()

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
        return self.member.state


def _next_due(group: Group) -> int | None:
    machine = group.machine
    return machine.next_due() if isinstance(machine, StreamMachine) else None


def _advertised(peer_listen: str, listener: Listener | None) -> str:
    """Where peers dial this node: the name it was given, with the port it really got."""
    if listener is None:
        return peer_listen
    host, _ = split_address(peer_listen)
    return join_address(host, split_address(listener.address)[1])
