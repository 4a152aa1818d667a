"""Many seeds on many cores: each worker is a process that is given one seed after the other."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count, islice
from operator import itemgetter

import trio

from .reached import STATES
from .report import FaultCount, Report, Violation

PATIENCE = 300.0
"""Seconds after which a seed that has not ended counts as failed: it hangs."""
PROGRESS_EVERY = 10.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What to play. `first` None means a fresh seed; `seeds` None as many as there is time for."""

    tier: str
    minutes: float
    seconds: float | None = None
    jobs: int | None = None
    first: int | None = None
    seeds: int | None = None


@dataclass(slots=True)
class Total:
    """The sum over all seeds played."""

    seeds: int = 0
    virtual_seconds: float = 0.0
    operations: int = 0
    appends: int = 0
    crashes: int = 0
    faults: FaultCount = field(default_factory=FaultCount)
    reached: FaultCount = field(default_factory=FaultCount)
    """How many seeds met each state of `reached.py`."""
    failed: list[Report] = field(default_factory=list)

    def add(self, report: Report) -> None:
        self.seeds += 1
        self.virtual_seconds += report.virtual_seconds
        self.operations += report.operations
        self.appends += report.appends
        self.crashes += report.crashes
        self.faults.update(report.faults)
        self.reached.update(report.reached.keys())
        if report.violations:
            self.failed.append(report)

    def rare(self) -> dict[str, int]:
        """States that less than one of a hundred seeds met, or none, rarest first."""
        found = {name: self.reached[name] for name in STATES}
        return {name: met for name, met in sorted(found.items(), key=itemgetter(1)) if 100 * met < self.seeds}

    def line(self) -> str:
        return (
            f"{self.seeds} seeds, {self.virtual_seconds / 3600:.2f} virtual hours,"
            f" {self.appends} acknowledged appends, {self.crashes} crashes, {len(self.failed)} failed"
        )


async def soak(plan: Plan, tell: Callable[[str], object]) -> Total:
    """Play seeds until the time is over, tell how it goes, and return the sum."""
    jobs = plan.jobs or os.cpu_count() or 1
    first = plan.first if plan.first is not None else secrets.randbits(40)
    seeds = iter(range(first, first + plan.seeds)) if plan.seeds is not None else count(first)
    tell(f"{plan.tier} tier, seeds from {first}, {jobs} processes, {plan.minutes:g} minutes")
    total = Total()
    began = trio.current_time()
    end = began + 60 * plan.minutes
    with trio.CancelScope() as progress:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(tell_progress, total, tell, began, progress)
            async with trio.open_nursery() as workers:
                for _ in range(jobs):
                    workers.start_soon(keep_working, plan, seeds, end, total, tell)
            progress.cancel()
    spent = os.times()
    tell(f"{total.line()}, {spent.children_user + spent.children_system:.0f} CPU seconds")
    tell("faults: " + ", ".join(f"{kind} {number}" for kind, number in total.faults.sorted().items()))
    if total.reached:  # the actor tier counts none
        rare = ", ".join(f"{name}: {met}" for name, met in total.rare().items())
        tell(f"states that few seeds reached: {rare or 'none'}")
    for report in total.failed:
        tell(f"again: {report.replay}")
    return total


async def tell_progress(
    total: Total, tell: Callable[[str], object], began: float, scope: trio.CancelScope
) -> None:
    while not scope.cancel_called:
        await trio.sleep(PROGRESS_EVERY)
        tell(f"{trio.current_time() - began:6.0f} s: {total.line()}")


async def keep_working(
    plan: Plan, seeds: Iterator[int], end: float, total: Total, tell: Callable[[str], object]
) -> None:
    """One worker after the other (a hung one is killed) until the time or the seeds end."""
    while trio.current_time() < end:
        async with worker(plan) as process:
            done = await feed(process, plan, seeds, end, total, tell)
        if done:
            return


def worker(plan: Plan) -> Worker:
    arguments = [sys.executable, "-m", "trimaran.testing", "work", "--tier", plan.tier]
    if plan.seconds is not None:
        arguments += ["--seconds", str(plan.seconds)]
    return Worker(arguments)


class Worker:
    """A process that plays seeds: `async with` starts and ends it."""

    def __init__(self, arguments: list[str]) -> None:
        self._arguments = arguments

    async def __aenter__(self) -> Worker:
        self._process = await trio.lowlevel.open_process(
            self._arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self._buffer = b""
        return self

    async def __aexit__(self, *_: object) -> None:
        self._process.kill()
        with trio.CancelScope(shield=True):
            await self._process.wait()

    async def play(self, seed: int) -> Report | None:
        """None if the process ended without an answer."""
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            await self._process.stdin.send_all(b"%d\n" % seed)
        except trio.BrokenResourceError:
            return None
        while b"\n" not in self._buffer:
            more = await self._process.stdout.receive_some()
            if not more:
                return None
            self._buffer += more
        line, _, self._buffer = self._buffer.partition(b"\n")
        return Report.from_json(line.decode())


async def feed(
    process: Worker,
    plan: Plan,
    seeds: Iterator[int],
    end: float,
    total: Total,
    tell: Callable[[str], object],
) -> bool:
    """Whether it went on until the end. If not, the process is of no use any more."""
    for seed in seeds:
        report: Report | None = None
        with trio.move_on_after(PATIENCE) as patience:
            report = await process.play(seed)
        if report is None:
            what = "hangs" if patience.cancelled_caught else "process ended"
            failure = Violation(what, 0.0, "no report")
            report = Report(seed, plan.tier, violations=[failure], seconds=plan.seconds)
        total.add(report)
        for violation in islice(report.violations, 1):
            tell(f"FAILED {report.replay}: {violation.property}: {violation.facts}")
        if trio.current_time() >= end:
            return True
        if report.violations and not report.trace_hash:
            return False
    return True
