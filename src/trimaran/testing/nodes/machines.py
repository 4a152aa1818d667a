"""A simulated machine, and the process that runs a node on it: started, held still, ended at any moment."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

import trio

from ...actors.gateway.memory_port import MemoryPort
from ...actors.node import MakeStateMachine, Node
from ...actors.options import Options as NodeOptions
from ...actors.raft.events import Event as GroupEvent
from ...actors.world import World
from ...storage.memory_disk import MemoryDisk
from ..seeds import Streams
from ..swarm import Mix
from .agenda import Agenda
from .disk import Access, SimulatedRunner
from .network import Host, SimulatedNetwork
from .scheduler import Stillness, adopt, hold, release

EPOCH: Final = 1_800_000_000_000_000_000
"""What wall clocks show (ns since 1970) when a run begins."""


SPARE: Final = "spare"
"""The machine that comes and goes."""


class MachineClock:
    """Trio's clock for timeouts; for stamps one that may jump."""

    def __init__(self) -> None:
        self.ahead = 0.0
        """Seconds by which the wall clock is wrong."""

    def monotonic(self) -> float:
        return trio.current_time()

    def wall(self) -> int:
        return EPOCH + int((trio.current_time() + self.ahead) * 1e9)


class Process:
    """A node from its start to its end, however it comes. Also its `TaskStatus`."""

    node: Node

    def __init__(self, machine: Machine, host: Host, runner: SimulatedRunner, access: Access) -> None:
        self.machine = machine
        self.host = host
        self.runner = runner
        self.access = access
        self.port = MemoryPort()
        self.stillness = Stillness()
        self.is_cut = False
        self.serves = False
        """It has started, and clients can connect."""
        self.was_cut = trio.Event()
        self.settled = trio.Event()
        """It serves, or is gone."""
        self.gone = trio.Event()
        self.scope = trio.CancelScope()
        self.ended_by: BaseException | None = None
        """Why it ended by itself, if it did."""

    def started(self, value: None = None) -> None:
        """Its node says that clients can connect."""
        self.serves = True
        self.settled.set()


class Machine:
    """A place in the cluster: a name, an address, a clock, and a disk that outlives its processes."""

    def __init__(self, name: str, streams: Streams) -> None:
        self.name = name
        self.address = f"{name}:1"
        self.streams = streams
        self.random = streams.stream("machine")
        self.disk = MemoryDisk()
        self.clock = MachineClock()
        self.process: Process | None = None
        self.starts = 0
        self.damages = 0
        """What its disk has done to its files since it was last known to be whole, or empty."""

    @property
    def node(self) -> Node | None:
        """The node that serves here now."""
        process = self.process
        return process.node if process is not None and process.serves and not process.is_cut else None


class Machines:
    """All of them, and the hands that start and end their processes.

    Args:
        nursery: where processes live.
        note: takes facts for the trace.
        listen: hears the events of all nodes.
        kinds: the users' state machines.
    """

    def __init__(
        self,
        nursery: trio.Nursery,
        streams: Streams,
        mix: Mix,
        options: NodeOptions,
        agenda: Agenda,
        network: SimulatedNetwork,
        note: Callable[..., None],
        listen: Callable[[str, GroupEvent], None],
        kinds: Mapping[str, MakeStateMachine],
    ) -> None:
        self.all: dict[str, Machine] = {}
        self.failed_sync = 0.0
        """Share of syncs that fail from the next start on."""
        self.failed_syncs = 0
        self.on_end: Callable[[Process], None] = lambda process: None
        """Told when a process has ended by itself."""
        self._nursery = nursery
        self._streams = streams
        self._mix = mix
        self._options = options
        self._agenda = agenda
        self._network = network
        self._note = note
        self._listen = listen
        self._kinds = kinds

    def __getitem__(self, name: str) -> Machine:
        return self.all[name]

    def add(self, name: str) -> Machine:
        machine = self.all[name] = Machine(name, self._streams.split(name))
        return machine

    def serving(self) -> list[str]:
        return [name for name, machine in self.all.items() if machine.node is not None]

    # --- starting

    async def start(self, name: str) -> Process:
        """Start a process and return once it serves, or has ended."""
        machine = self.all[name]
        assert machine.process is None
        machine.starts += 1
        process = machine.process = self._process(machine)
        self._note("start", name)
        self._nursery.start_soon(self._live, process)
        await process.settled.wait()
        return process

    def _process(self, machine: Machine) -> Process:
        streams = machine.streams.split(machine.starts)
        access = Access(streams.stream("disk"), self._noted(machine), self.failed_sync)
        runner = SimulatedRunner(self._agenda, streams.stream("lanes"), self._mix.disk)
        process = Process(machine, self._network.host(machine.name), runner, access)
        others = tuple((each.name, each.address) for each in self.all.values() if each is not machine)
        options = replace(
            self._options,
            name=machine.name,
            data=Path(machine.name),
            peer_listen=machine.address,
            peers=others,
        )
        world = World(machine.disk, runner, machine.clock, streams.stream("node"), process.host)

        def hear(event: GroupEvent) -> None:
            if not process.is_cut:
                self._listen(machine.name, event)

        process.node = Node(options, world, self._kinds, process.port, hear)
        return process

    def _noted(self, machine: Machine) -> Callable[..., None]:
        return lambda *facts: self._note(machine.name, *facts)

    async def _live(self, process: Process) -> None:
        adopt(process.stillness)
        process.machine.disk.before = process.access
        try:
            with process.scope:
                await process.node.run(task_status=process)
        except* Exception as errors:  # noqa: BLE001  # whatever a node raises is told, and judged
            process.ended_by = _first(errors)
        finally:
            self._bury(process)

    def _bury(self, process: Process) -> None:
        machine = process.machine
        by_itself = not process.is_cut
        self.cut(process, power=False)
        machine.disk.kill()
        machine.process = None
        self.failed_syncs += process.access.failed_syncs
        if by_itself and process.ended_by is not None:
            self._note("ended", machine.name, process.ended_by)
            self.on_end(process)
        process.settled.set()
        process.gone.set()

    # --- ending

    def cut(self, process: Process, *, power: bool, tear: bool = True) -> bool:
        """Its hands come off at once: nothing reaches disk, network or clients any more. The tasks follow.

        May be called in the middle of anything that the process does. With `tear` the log's last write may be
        taken in part: whether it was.
        """
        if process.is_cut:
            return False
        process.is_cut = True
        torn = process.runner.cut(tear=tear)
        process.access.is_cut = True
        process.host.cut(power=power)
        process.port.close()
        process.was_cut.set()
        return torn

    async def crash(self, process: Process, *, power: bool) -> None:
        """End it where it is. With `power`, what its disk has not synced is lost, torn or kept."""
        machine = process.machine
        self._note("crash", machine.name, "power" if power else "process")
        self.cut(process, power=power)
        if process.stillness.still:
            self.go_on(process)
        process.scope.cancel()
        await process.gone.wait()
        if power:
            faults = self._mix.disk
            whole = machine.random.random() >= faults.tear
            machine.disk.crash(machine.random, whole=whole, garbage=faults.garbage)

    async def stop(self, process: Process) -> None:
        """As by SIGTERM. Only for one that serves."""
        self._note("stop", process.machine.name)
        await process.node.stop()
        await process.gone.wait()

    def wipe(self, name: str) -> None:
        """An empty disk in place of the old one."""
        self._note("wipe", name)
        self.all[name].disk = MemoryDisk()

    def hold_still(self, process: Process) -> None:
        self._note("still", process.machine.name)
        hold(process.stillness)

    def go_on_all(self) -> None:
        """At the end, so that everyone can be cancelled."""
        for machine in self.all.values():
            if machine.process is not None and machine.process.stillness.still:
                self.go_on(machine.process)

    def go_on(self, process: Process) -> None:
        self._note("go on", process.machine.name)
        release(process.stillness)


def told(error: BaseException | None) -> str:
    """What was raised, the first of a group of errors, and where."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if error is None:
        return "nothing was raised"
    frames = traceback.extract_tb(error.__traceback__)[-3:]
    where = " < ".join(f"{frame.filename.rpartition('/')[2]}:{frame.lineno}" for frame in reversed(frames))
    return f"{type(error).__name__}: {error} ({where})"


def _first(errors: BaseExceptionGroup[Exception]) -> Exception:
    first: Exception = errors  # type: ignore[assignment]  # a group of Exceptions is one
    while isinstance(first, ExceptionGroup):
        first = first.exceptions[0]
    return first
