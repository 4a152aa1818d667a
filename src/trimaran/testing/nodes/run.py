"""One run of the actor tier, from its seed to its report."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Final

import trio

from ...actors.options import Options as NodeOptions
from ...actors.raft.checker import Checker
from ...actors.raft.checker import Violation as BrokenRule
from ...actors.raft.events import Event
from ...actors.units import KIB
from ..report import Options, Report, Trace, Violation
from ..seeds import Streams
from ..swarm import Mix, told
from .account import Account
from .agenda import Agenda
from .load import Ledger, Load
from .machines import Machines
from .machines import told as raised
from .network import SimulatedNetwork
from .operator import Operator, found
from .promises import Promises, as_line
from .scheduler import SimulatedClock, run_simulated
from .weather import Weather

STORM_SECONDS: Final = (4.0, 12.0)
BEYOND_SECONDS: Final = 10.0
"""So long a cluster that has lost too much may heal as far as it can; then what it says is checked."""
LIMIT_SECONDS: Final = 600.0
"""Virtual: nothing of a run takes as long, unless it hangs."""
CLIENTS: Final = 6
MAX_VIOLATIONS: Final = 20

logger = logging.getLogger(__name__)


def play(seed: int, options: Options) -> Report:
    """Play one seed. What goes wrong is in the report, also what a node raised."""
    streams = Streams(seed)
    agenda = Agenda()
    clock = SimulatedClock(streams.stream("clock"), agenda)
    run = _Run(seed, options, streams, clock, agenda)
    try:
        run_simulated(seed, clock, run.main, LIMIT_SECONDS)
    except* Exception as errors:  # whatever a node raises is what this is for
        logger.error("the run broke off", exc_info=errors)
        run.complain("the run ends", raised(errors))
    report = run.report(clock.now)
    # A cluster's disks are megabytes in a knot of few objects, which Python would leave for a hundred seeds.
    del run
    gc.collect()
    return report


class _Run:
    def __init__(
        self, seed: int, options: Options, streams: Streams, clock: SimulatedClock, agenda: Agenda
    ) -> None:
        self._seed = seed
        self._options = options
        self._streams = streams
        self._clock = clock
        self._agenda = agenda
        self._trace = Trace(options.story)
        self._violations: list[Violation] = []
        self._draw = streams.stream("run")
        self.mix = Mix.drawn(streams.stream("swarm"))
        self._weather: Weather | None = None
        self._load: Load | None = None

    def note(self, *facts: object) -> None:
        self._trace.note(self._clock.now, *facts)

    def complain(self, rule: str, facts: str) -> None:
        self.note("VIOLATION", rule, facts)
        if len(self._violations) < MAX_VIOLATIONS:
            self._violations.append(Violation(rule, self._clock.now, facts))

    def report(self, seconds: float) -> Report:
        weather, load = self._weather, self._load
        return Report(
            seed=self._seed,
            tier="actor",
            trace_hash=self._trace.hexdigest(),
            operations=load.operations if load is not None else 0,
            virtual_seconds=round(seconds, 6),
            faults=weather.faults.sorted() if weather is not None else {},
            appends=load.acknowledged if load is not None else 0,
            crashes=weather.crashes if weather is not None else 0,
            violations=self._violations,
            seconds=self._options.seconds,
        )

    async def main(self) -> None:
        mix = self.mix
        self.note("mix", told(mix.network), told(mix.disk), told(mix.process), told(mix.work))
        async with trio.open_nursery() as nursery:
            await self._play(nursery)
            nursery.cancel_scope.cancel()

    async def _play(self, nursery: trio.Nursery) -> None:
        draw, streams, agenda = self._draw, self._streams, self._agenda
        excused: Callable[[str], bool] = lambda name: weather.frail.count(name) > 0  # noqa: E731
        promises = Promises(excused, self.complain)
        calm_network = replace(self.mix.network, loss=0.0, duplication=0.0, replay=0.0)
        network = SimulatedNetwork(
            agenda, streams.stream("network"), calm_network, self.note, promises.on_frame
        )
        checker = Checker(self._broken)

        def listen(machine: str, event: Event) -> None:
            self.note(machine, *as_line(event))
            checker(event)
            promises.on_event(machine, event)
            weather.on_event(machine, event)

        machines = Machines(
            nursery,
            streams,
            self.mix,
            node_options(draw),
            agenda,
            network,
            self.note,
            listen,
            {"ledger": Ledger},
        )
        names = ["a", "b", "c", "d", "e"][: draw.choice((3, 3, 3, 5, 1))]
        for name in names:
            machines.add(name)
        weather = Weather(nursery, machines, network, agenda, self.mix, streams, self.complain, self.note)
        load = Load(machines, self.mix.work, streams.stream("load"), self.complain, self.note)
        self._weather, self._load = weather, load
        try:
            await self._storm_and_calm(nursery, machines, network, names)
        finally:
            machines.go_on_all()

    async def _storm_and_calm(
        self, nursery: trio.Nursery, machines: Machines, network: SimulatedNetwork, names: list[str]
    ) -> None:
        weather, load, draw = self._weather, self._load, self._draw
        assert weather is not None and load is not None
        account = Account(machines, weather, load, self.complain, self.note)
        async with trio.open_nursery() as starting:
            for name in names:
                starting.start_soon(machines.start, name)
        weather.is_whole = account.is_whole
        await account.founded()
        replicas = min(3, len(names))
        await found(load, replicas)
        await account.open_ledger(replicas)
        weather.draw_frail(names, replicas)
        network.faults = self.mix.network
        operator = Operator(
            machines,
            weather,
            load,
            self.mix.work,
            self._streams.stream("operator"),
            self.note,
            single=not weather.frail,
        )
        nursery.start_soon(account.watch)
        async with trio.open_nursery() as working:
            working.start_soon(load.run, CLIENTS)
            seconds = self._options.seconds
            with trio.move_on_after(draw.uniform(*STORM_SECONDS) if seconds is None else seconds):
                async with trio.open_nursery() as storm:
                    storm.start_soon(weather.run)
                    storm.start_soon(operator.run)
            weather.calm()
            if weather.is_beyond:
                self.note("beyond what can be borne")
                await trio.sleep(BEYOND_SECONDS)
                working.cancel_scope.cancel()
            else:
                await account.serves()
                load.over.set()
        if weather.is_beyond:
            await account.close_beyond()
        else:
            await account.settled()
            await account.close()

    def _broken(self, rule: BrokenRule) -> None:
        self.complain(rule.rule, str(rule))


def node_options(draw: Random) -> NodeOptions:
    """Small files and snapshots, so that a few seconds see many of them."""
    return NodeOptions(
        segment_bytes=draw.choice((256, 1024)) * KIB,
        batch_bytes=128 * KIB,
        max_payload=16 * KIB,
        block_bytes=draw.choice((64, 64, 256)) * KIB,
        log_cache_bytes=draw.choice((64, 256)) * KIB,
        snapshot_log_bytes=draw.choice((64, 64, 256, 1024)) * KIB,
        uncommitted_bytes=draw.choice((256, 64 * KIB)) * KIB,
        quiet_after_ms=draw.choice((200, 2000)),
    )
