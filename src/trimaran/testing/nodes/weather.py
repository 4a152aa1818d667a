"""What happens to a cluster while its clients work: each kind of fault is a task with its own times.

A crash takes hands off first (`Machines.cut`) and ends the tasks after that, so no `finally` writes anything.
It comes at a moment of its own, at an await, at an operation on the disk, or right after something that
matters: a vote, a truncation, a new term, a commit.

Only the *frail* machines lose or damage what they had synced, a minority that is drawn once: whatever was
committed keeps a good copy on the others. While a lost disk is missed, somebody else loses power, or ends in
the middle of a write, in the *merciless* seeds only: of a write that was torn nobody can tell whether it was
acknowledged, if one of those who could is gone for good. The cluster may then wait for an operator; but it
must not say anything wrong.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from math import inf
from random import Random
from typing import Final

import trio

from ...actors.node import NodeFailed, NodeRemoved
from ...actors.raft.events import Committed, Event, RoleTaken, Truncated, Voted
from ...storage.errors import DiskFull, StorageError, StorageFailed
from ..report import FaultCount
from ..seeds import Streams
from ..swarm import Mix, NetworkFaults
from .agenda import Agenda
from .disk import damage, used
from .machines import Machine, Machines, Process, told
from .network import SimulatedNetwork

STRETCH: Final = 1.5
"""Whole nodes elect in half a second to one, some times slower than the core tier for which swarms are
drawn."""
STEPS_AHEAD: Final = 400
"""A crash at an await, or at an operation, comes at most so many later."""
JUMP_SECONDS: Final = 3600.0
MERCILESS: Final = 0.3
"""Share of seeds in which power may go while a lost disk is missed."""


class Weather:
    """All faults of one run. `run` until cancelled, then `calm`.

    Args:
        nursery: where machines are brought down, whatever the process does that they run.
        complain: (property, facts).
    """

    def __init__(
        self,
        nursery: trio.Nursery,
        machines: Machines,
        network: SimulatedNetwork,
        agenda: Agenda,
        mix: Mix,
        streams: Streams,
        complain: Callable[[str, str], None],
        note: Callable[..., None],
    ) -> None:
        self.faults = FaultCount()
        self.crashes = 0
        self.retired: dict[str, None] = {}
        """Machines that are to stay down: nobody wants them in the cluster."""
        self.frail: list[str] = []
        self.is_whole: Callable[[], bool] = lambda: False
        """Whether every member is up and every group has all its replicas."""
        self._nursery = nursery
        self._machines = machines
        self._network = network
        self._agenda = agenda
        self._mix = mix
        self._random = streams.stream("weather")
        self._complain = complain
        self._note = note
        self._raging = False
        self.is_beyond = False
        """A disk was lost at a moment when another replica was, or soon became, unsure of what it holds.
        Perhaps no majority is left that is, and only an operator can go on (docs/operations.md, "When a
        majority is lost")."""
        self._is_merciless = self._random.random() < MERCILESS
        self._is_calm = False
        self._is_missed = False
        """A disk was lost, and its groups have not got another replica yet."""
        self._starting: dict[str, None] = {}
        machines.on_end = self._judge

    def draw_frail(self, names: list[str], replicas: int) -> None:
        """Some of the founders, fewer than half of any group's replicas."""
        if self._mix.process.wipe or self._mix.disk.flip_every < inf:
            self.frail = self._random.sample(names, (replicas - 1) // 2)

    async def run(self) -> None:
        """Bad weather, until cancelled."""
        process, disk, network = self._mix.process, self._mix.disk, self._mix.network
        self._raging = True
        self._let_syncs_fail(disk.failed_sync)
        kinds: list[tuple[float, Callable[[Random], Awaitable[None]]]] = [
            (process.crash_every, self._crash_one),
            (process.storm_every, self._crash_all),
            (process.pause_every, self._pause),
            (process.clock_jump_every, self._jump),
            (disk.stall_every, self._stall),
            (disk.flip_every, self._damage),
            (disk.full_every, self._fill),
            (network.partition_every, self._part),
            (network.clog_every, self._clog),
            (network.reset_every, self._reset),
        ]
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._keep_up)
                for every, strike in kinds:
                    if every < inf:
                        nursery.start_soon(self._strike, every * STRETCH, strike)
        finally:
            self._raging = False

    async def _strike(self, every: float, strike: Callable[[Random], Awaitable[None]]) -> None:
        random = Random(self._random.getrandbits(64))
        while True:
            await trio.sleep(random.expovariate(1 / every))
            await strike(random)

    def _let_syncs_fail(self, share: float) -> None:
        self._machines.failed_sync = share
        for process in self._running():
            process.access.failed_sync = share

    def _struck(self, kind: str, *facts: object) -> None:
        self.faults[kind] += 1
        self._note("fault", kind, *facts)

    # --- processes

    def _running(self) -> list[Process]:
        processes = (machine.process for machine in self._machines.all.values())
        return [each for each in processes if each is not None and not each.is_cut]

    async def _crash_one(self, random: Random) -> None:
        running = self._running()
        if not running:
            return
        process = random.choice(running)
        power = random.random() < self._mix.process.power_loss
        match random.randrange(3):
            case 0:
                self._end(process, "crash", power)
            case 1:
                process.stillness.on_wake = _countdown(
                    random.randrange(STEPS_AHEAD), partial(self._end, process, "crash at an await", power)
                )
            case _:
                process.access.on_end = partial(self._end, process, "crash at the disk", power)
                process.access.end_at = random.randrange(STEPS_AHEAD // 10)

    async def _crash_all(self, random: Random) -> None:
        """Once more as soon as they are back, a few times."""
        for _ in range(random.randrange(1, 4)):
            power = random.random() < self._mix.process.power_loss
            for process in self._running():
                await trio.sleep(random.uniform(0, 0.05))
                if not process.is_cut:
                    self._end(process, "storm", power)
            await trio.sleep(random.expovariate(1 / self._mix.process.down_for))

    def on_event(self, machine: str, event: Event) -> None:
        """Crashes that come right after something that matters."""
        process = self._machines[machine].process
        if not self._raging or process is None or process.is_cut:
            return
        faults = self._mix.process
        chance, kind = 0.0, ""
        match event:
            case Voted():
                chance, kind = faults.crash_after_vote, "crash after a vote"
            case Truncated():
                chance, kind = faults.crash_at_truncation, "crash at a truncation"
            case RoleTaken():
                chance, kind = faults.crash_at_term_change, "crash at a term change"
            case Committed():
                chance, kind = faults.crash_at_apply / 5, "crash before applying"
        if chance and self._random.random() < chance / STRETCH:
            power = self._random.random() < faults.power_loss
            if self._random.random() < 0.5:
                self._end(process, kind, power)
            else:  # once what it asked for is under way
                process.stillness.on_wake = _countdown(
                    self._random.randrange(30), partial(self._end, process, kind, power)
                )

    def _end(self, process: Process, kind: str, power: bool) -> None:
        """In the middle of whatever it does."""
        if process.is_cut:
            return
        spared = self._is_missed and not self._is_merciless
        power = power and not spared
        self.crashes += 1
        self._struck(f"{kind}{', power lost' if power else ''}", process.machine.name)
        whole = self.is_whole()
        torn = self._machines.cut(process, power=power, tear=not spared)
        self.is_beyond |= self._is_missed and (power or torn)
        # From the agenda's task: the one that runs now may belong to the process.
        self._agenda.after(0, partial(self._nursery.start_soon, self._bring_down, process, power, whole))

    async def _bring_down(self, process: Process, power: bool, whole: bool) -> None:
        await self._machines.crash(process, power=power)
        machine = process.machine
        if whole and machine.name in self.frail and self._random.random() < self._mix.process.wipe * STRETCH:
            self._lose_disk(machine)

    def _lose_disk(self, machine: Machine) -> None:
        self._struck("wiped disk", machine.name)
        self._machines.wipe(machine.name)
        machine.damages = 0
        self._is_missed = True
        if self._is_merciless:
            self.is_beyond |= self._machines.failed_sync > 0
        else:
            self._let_syncs_fail(0.0)

    async def _pause(self, random: Random) -> None:
        running = [each for each in self._running() if not each.stillness.still]
        if running:
            process = random.choice(running)
            self._struck("pause", process.machine.name)
            self._machines.hold_still(process)
            self._agenda.after(
                random.expovariate(1 / self._mix.process.pause_for), partial(self._wake, process)
            )

    def _wake(self, process: Process) -> None:
        if process.stillness.still:
            self._machines.go_on(process)

    async def _jump(self, random: Random) -> None:
        machine = random.choice(list(self._machines.all.values()))
        machine.clock.ahead = random.uniform(-JUMP_SECONDS, JUMP_SECONDS)
        self._struck("clock jump", machine.name, machine.clock.ahead)

    # --- starting again

    async def _keep_up(self) -> None:
        """Whoever is down comes back, a while later."""
        while True:
            await trio.sleep(0.01)
            if self._is_missed and self.is_whole():
                self._is_missed = False
                if self._raging:
                    self._let_syncs_fail(self._mix.disk.failed_sync)
            for machine in self._down():
                self._starting[machine.name] = None
                self._nursery.start_soon(self._start_later, machine)

    async def _start_later(self, machine: Machine) -> None:
        await trio.sleep(self._random.expovariate(1 / self._mix.process.down_for))
        await self._start(machine)

    def _down(self) -> list[Machine]:
        return [
            machine
            for name, machine in self._machines.all.items()
            if machine.process is None and name not in self._starting and name not in self.retired
        ]

    async def _start(self, machine: Machine) -> None:
        self._starting[machine.name] = None
        try:
            await self._machines.start(machine.name)
        finally:
            del self._starting[machine.name]

    def _judge(self, process: Process) -> None:
        """What an operator makes of a process that ended by itself (docs/operations.md, Alarms)."""
        machine = process.machine
        match process.ended_by:
            case NodeFailed() | StorageFailed() | DiskFull() | OSError():
                return  # start it again
            case NodeRemoved():
                self._note("removed", machine.name)
                self.retired[machine.name] = None
            case StorageError() if machine.damages:
                self.is_beyond |= not self._others_are_sound(machine)
                self._lose_disk(machine)
            case end:
                self._complain("a restart needs no operator", f"{machine.name} ended: {told(end)}")

    def _others_are_sound(self, lost: Machine) -> bool:
        """Whether all others serve and can read all of their logs."""
        others = [machine.node for machine in self._machines.all.values() if machine is not lost]
        return all(
            node is not None and not any(group.state.faulty for group in node.groups.hosted())
            for node in others
        )

    # --- disks

    async def _stall(self, random: Random) -> None:
        running = self._running()
        if running:
            process = random.choice(running)
            self._struck("disk stall", process.machine.name)
            until = trio.current_time() + random.expovariate(1 / self._mix.disk.stall_for)
            process.runner.stalled_until = until

    async def _damage(self, random: Random) -> None:
        if not self.frail:
            return
        machine = self._machines[random.choice(self.frail)]
        what = damage(machine.disk, random)
        if what:
            machine.damages += 1
            self._struck("damage", machine.name, what)

    async def _fill(self, random: Random) -> None:
        machine = random.choice(list(self._machines.all.values()))
        disk = machine.disk
        disk.capacity = used(disk) + random.randrange(100_000)
        self._struck("full disk", machine.name)

        def make_room() -> None:
            disk.capacity = None
            self._note("room", machine.name)

        self._agenda.after(random.expovariate(1 / self._mix.disk.full_for), make_room)

    # --- the network

    async def _part(self, random: Random) -> None:
        """Halves, a bridge between halves, one machine in one direction or both, or any ways at all."""
        names = list(self._machines.all)
        random.shuffle(names)
        kind = random.choice(("halves", "bridge", "deaf", "mute", "alone", "any"))
        cut = random.randrange(1, len(names)) if len(names) > 1 else 0
        left, right = names[:cut], names[cut:]
        pairs = [(one, other) for one in names for other in names if one != other]
        if kind == "halves":
            pairs = [(a, b) for a, b in pairs if (a in left) != (b in left)]
        elif kind == "bridge":
            pairs = [(a, b) for a, b in pairs if (a in left) != (b in left) and right[0] not in (a, b)]
        elif kind == "any":
            pairs = [pair for pair in pairs if random.random() < 0.4]
        else:
            here, there = kind in ("deaf", "alone"), kind in ("mute", "alone")
            pairs = [(a, b) for a, b in pairs if (b == names[0] and here) or (a == names[0] and there)]
        self._struck(f"partition: {kind}", *pairs)
        self._block(pairs, random.expovariate(1 / (self._mix.network.partition_for * STRETCH)))
        if random.random() < 0.3:
            for end, _ in self._network.connections([process.host for process in self._running()]):
                if (end.host.name, end.to) in pairs:
                    self._network.reset(end, lingering=0)

    async def _clog(self, random: Random) -> None:
        """Some ways, one after the other, and free again in any order."""
        names = list(self._machines.all)
        for _ in range(random.randrange(1, 4)):
            source, to = random.choice(names), random.choice(names)
            if source != to:
                self._struck("clog", source, to)
                self._block([(source, to)], random.expovariate(1 / self._mix.network.clog_for))
            await trio.sleep(random.uniform(0, 0.1))

    def _block(self, pairs: list[tuple[str, str]], seconds: float) -> None:
        for pair in pairs:
            self._network.block(*pair)

        def heal() -> None:
            for pair in pairs if not self._is_calm else ():
                self._network.unblock(*pair)

        self._agenda.after(seconds, heal)

    async def _reset(self, random: Random) -> None:
        open_ones = self._network.connections([process.host for process in self._running()])
        if open_ones:
            end, _ = random.choice(open_ones)
            lingering = random.choice((0.0, 0.0, random.uniform(0, 3)))
            self._struck("reset", end.host.name, end.to)
            self._network.reset(end, lingering=lingering)

    # --- afterwards

    def calm(self) -> None:
        """No more faults: everyone goes on, and who is down comes back. What heals by itself has time to."""
        self._note("calm")
        self._is_calm = True
        self._network.faults = replace(NetworkFaults(), delay=self._mix.network.delay)
        self._network.free()
        for machine in self._machines.all.values():
            machine.disk.capacity = None
            process = machine.process
            if process is not None:
                process.access.end_at = -1
                process.runner.stalled_until = 0.0
                process.stillness.on_wake = None
                self._wake(process)
        self._let_syncs_fail(0.0)
        self._nursery.start_soon(self._keep_up)


def _countdown(steps: int, act: Callable[[], None]) -> Callable[[], None]:
    left = steps

    def step() -> None:
        nonlocal left
        left -= 1
        if left == -1:
            act()

    return step
