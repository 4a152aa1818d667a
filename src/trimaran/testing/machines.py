"""Your own state machine, simulated: a cluster of it from each seed, with crashes, partitions and damaged
disks, on the core tier.

    simulate(Counter, lambda random: str(random.randint(1, 9)).encode(), seeds=100)

Every replica must get the same results out of the same batches, have the same `snapshot()` as of the same
index, and go on from a snapshot as if it had never stopped. So whatever decides by a clock, by chance, by an
address or by something that is not in the snapshot shows as two replicas that differ.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random

from ..actors.replica.user_machine import StateMachine
from .chaos import Chaos
from .core import Verdict, cluster_of, require_progress
from .report import Report

SECONDS = 2.0
SNAPSHOT_AFTER = (3, 10)
"""Batches: often, since that is where machines forget."""


class SimulationFailed(AssertionError):
    """A seed found something. The text says what, and how to see it again."""


def play_machine(
    seed: int,
    make_machine: Callable[[], StateMachine],
    command: Callable[[Random], bytes],
    *,
    seconds: float = SECONDS,
    check: Callable[[StateMachine], None] | None = None,
    story: Callable[[str], None] | None = None,
) -> Report:
    """Play one seed with replicas of this machine.

    Args:
        make_machine: makes a replica's machine, empty.
        command: draws an entry to be proposed.
        seconds: virtual length of the phase with faults.
        check: called with each replica's machine behind each batch; raises if something in it is wrong.
        story: called with each line of what happens.
    """
    cluster = cluster_of(seed, make_machine=make_machine, story=story)
    draw = cluster.streams.stream("machine")
    work = replace(cluster.mix.work, snapshot_after=draw.choice(SNAPSHOT_AFTER))
    cluster.mix = replace(cluster.mix, work=work)
    cluster.check_machine = check
    cluster.clients.command = command
    report = Report(seed, "core", seconds=seconds)
    with Verdict(cluster, report):
        Chaos(cluster).unleash()
        cluster.heap.run(seconds)
        cluster.calm_down()
        require_progress(cluster)
    report.trace_hash = cluster.trace_hash
    report.operations, report.appends = cluster.clients.operations, cluster.clients.appends
    report.virtual_seconds, report.crashes = cluster.heap.time, cluster.crashes
    report.faults = cluster.struck.sorted()
    return report


def simulate(
    make_machine: Callable[[], StateMachine],
    command: Callable[[Random], bytes],
    *,
    seeds: int = 50,
    first: int = 0,
    seconds: float = SECONDS,
    check: Callable[[StateMachine], None] | None = None,
) -> list[Report]:
    """Play seeds `first`, `first` + 1, ... with replicas of this machine (see `play_machine`); about ten a
    second.

    Raises SimulationFailed at the first seed that finds something.
    """
    reports = []
    for seed in range(first, first + seeds):
        report = play_machine(seed, make_machine, command, seconds=seconds, check=check)
        if report.violations:
            found = report.violations[0]
            story: list[str] = []
            play_machine(seed, make_machine, command, seconds=seconds, check=check, story=story.append)
            last = "\n".join(f"  {line}" for line in story[-10:])
            raise SimulationFailed(
                f"seed {seed}, at {found.at:.3f} s: {found.property}: {found.facts}\n{last}\n"
                f"again: simulate(..., first={seed}, seeds=1, seconds={seconds:g})"
            )
        reports.append(report)
    return reports
