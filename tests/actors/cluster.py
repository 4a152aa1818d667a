"""Whole nodes in one Trio program: every actor, the real codec and log, disks and network in memory, a
virtual clock.

A node can be stopped (in order), crashed (its tasks end at once, its disk loses nothing or what was not
synced) and started again on the disk it had, or on an empty one.
"""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from random import Random

import trio

from trimaran import GroupHandle, Node, Options, World, open_group
from trimaran.actors.gateway.memory_port import MemoryPort
from trimaran.actors.node import NodeFailed, NodeRemoved
from trimaran.actors.peers.network import MemoryNetwork
from trimaran.actors.peers.wire import PROTOCOL_VERSION
from trimaran.actors.raft.checker import Checker, Violation
from trimaran.codec import Buffer
from trimaran.storage.disk import Disk
from trimaran.storage.memory_disk import MemoryDisk
from trimaran.storage.runner import InlineRunner

KIB = 1024
SETTLE_SECONDS = 30.0
OPTIONS = Options(
    segment_bytes=256 * KIB,
    batch_bytes=128 * KIB,
    max_payload=16 * KIB,
    block_bytes=64 * KIB,
    log_cache_bytes=64 * KIB,
    snapshot_log_bytes=64 * KIB,
)


async def until(condition: Callable[[], bool], seconds: float = SETTLE_SECONDS) -> None:
    """Look every 10 ms of virtual time; TooSlowError if it does not come true."""
    with trio.fail_after(seconds):
        while not condition():  # noqa: ASYNC110  # many actors change what it looks at; the clock is virtual
            await trio.sleep(0.01)


class VirtualClock:
    """Trio's clock for both readings, so that nothing depends on the machine's."""

    def __init__(self) -> None:
        self.ahead = 0.0
        """Seconds by which what people call the time is wrong."""

    def monotonic(self) -> float:
        return trio.current_time()

    def wall(self) -> int:
        return 1_800_000_000_000_000_000 + int((trio.current_time() + self.ahead) * 1e9)


class Counter:
    """A user's machine: adds numbers up, and remembers every entry in order."""

    def __init__(self) -> None:
        self.seen: list[bytes] = []

    def apply(self, entries: Sequence[bytes], index: int, time: int) -> list[object]:
        self.seen += entries
        return [len(self.seen) - len(entries) + position + 1 for position in range(len(entries))]

    def snapshot(self) -> bytes:
        return b"\n".join(self.seen)

    def restore(self, state: bytes) -> None:
        self.seen = state.split(b"\n") if state else []


class SlowRunner(InlineRunner):
    """Each write to the log and its sync take `sync_seconds` of virtual time."""

    def __init__(self) -> None:
        self.sync_seconds = 0.0

    async def write_and_sync(
        self, disk: Disk, descriptor: int, buffers: Sequence[Buffer], offset: int
    ) -> None:
        if self.sync_seconds:
            await trio.sleep(self.sync_seconds)
        await super().write_and_sync(disk, descriptor, buffers, offset)


class Member:
    """One place in the cluster: a name, an address and a disk that outlives its node."""

    def __init__(self, name: str, seed: int) -> None:
        self.name = name
        self.random = Random(seed)
        self.clock = VirtualClock()
        self.disk = MemoryDisk()
        self.runner = SlowRunner()
        self.node: Node | None = None
        self.port = MemoryPort()
        self.scope = trio.CancelScope()
        self.gone = trio.Event()
        self.ended_by: NodeFailed | NodeRemoved | None = None
        """Why its node ended by itself."""

    @property
    def running(self) -> Node:
        assert self.node is not None, f"{self.name} does not run"
        return self.node


class Cluster:
    def __init__(
        self,
        nursery: trio.Nursery,
        names: Sequence[str],
        machines: Mapping[str, Callable[[], Counter]],
        options: Options,
        seed: int,
    ) -> None:
        self._nursery = nursery
        self._machines = machines
        self._options = options
        self._seed = seed
        self.network = MemoryNetwork()
        self.violations: list[Violation] = []
        self.checker = Checker(self.violations.append)
        self.members = {name: Member(name, seed * 101 + number) for number, name in enumerate(names)}
        self.addresses = {name: f"{name}:1" for name in names}
        self.speaks: dict[str, int] = {}
        """The protocol of nodes that are started as of an older program."""

    def __getitem__(self, name: str) -> Node:
        return self.members[name].running

    def add(self, name: str) -> None:
        """One more place with an empty disk; who starts from now on knows its address."""
        self.members[name] = Member(name, self._seed * 101 + len(self.members))
        self.addresses[name] = f"{name}:1"

    async def start(self, name: str) -> Node:
        member = self.members[name]
        others = tuple((other, address) for other, address in self.addresses.items() if other != name)
        options = replace(
            self._options, name=name, data=Path(name), peer_listen=self.addresses[name], peers=others
        )
        member.port = MemoryPort((name, 4222))
        speaks = self.speaks.get(name, PROTOCOL_VERSION)
        member.node = Node(options, self.world(member), self._machines, member.port, self.checker, speaks)
        member.scope = trio.CancelScope()
        member.gone = trio.Event()
        await self._nursery.start(self._run, member)
        return member.node

    def world(self, member: Member) -> World:
        """What the member's node runs in: a disk and a network that answer at once."""
        return World(
            disk=member.disk,
            runner=member.runner,
            clock=member.clock,
            random=member.random,
            network=self.network,
        )

    async def _run(self, member: Member, *, task_status: trio.TaskStatus[None]) -> None:
        try:
            with member.scope:
                await member.running.run(task_status=task_status)
        except (NodeFailed, NodeRemoved) as ended:
            member.ended_by = ended
        finally:
            member.node = None
            member.gone.set()

    async def crash(self, name: str, *, power: bool = False) -> None:
        """End a node's tasks where they are. With `power`, what its disk has not synced is lost or torn."""
        member = self.members[name]
        disk = member.disk
        member.disk = disk.fork()  # what a `finally` block still does must not reach the files
        member.scope.cancel()
        await member.gone.wait()
        if power:
            member.disk.crash(member.random)

    async def stop(self, name: str) -> None:
        member = self.members[name]
        await member.running.stop()
        await member.gone.wait()

    def wipe(self, name: str) -> None:
        """An empty disk in place of the old one."""
        self.members[name].disk = MemoryDisk()

    async def ready(self, *names: str) -> None:
        """Return once these nodes (all that run) are healthy."""
        chosen = names or [name for name, member in self.members.items() if member.node is not None]
        await until(lambda: not any(self[name].vitals.health() for name in chosen))

    def leaders(self, group: int) -> list[str]:
        """The nodes that lead a group at this moment, each in its own eyes."""
        nodes = {name: member.node for name, member in self.members.items() if member.node is not None}
        return [name for name, node in nodes.items() if group in node.groups.led_by_me()]

    def leader(self, group: int) -> str:
        [leader] = self.leaders(group)
        return leader

    async def counter(self, name: str, replicas: int = 3) -> GroupHandle:
        return await open_group(self[name], "hits", machine="counter", replicas=replicas)

    def counted(self, name: str, group: int) -> list[bytes]:
        machine = GroupHandle(self[name], group).stale_machine
        assert isinstance(machine, Counter)
        return machine.seen


@asynccontextmanager
async def open_memory_cluster(
    *names: str,
    options: Options = OPTIONS,
    seed: int = 1,
    checked: bool = True,
    speaks: Mapping[str, int] | None = None,
) -> AsyncIterator[Cluster]:
    """A healthy cluster whose nodes know the user machine `counter`. Raft's invariants are checked, unless
    the test has a peer that lies. `speaks` names the nodes of an older protocol."""
    async with trio.open_nursery() as nursery:
        cluster = Cluster(nursery, names or ("a", "b", "c"), {"counter": Counter}, options, seed)
        cluster.speaks.update(speaks or {})
        for name in cluster.members:
            await cluster.start(name)
        await cluster.ready()
        yield cluster
        nursery.cancel_scope.cancel()
    assert not checked or not cluster.violations, cluster.violations[0]
