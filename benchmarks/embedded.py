"""What proposing costs inside one Trio program: no sockets, but real disks and every rule.

    python benchmarks/embedded.py --directory DIR

`propose` from a thousand tasks, each of which waits for its answer before it proposes again, to a group with
three nodes in this process; and `propose_many` of a thousand entries at a time on one node. The state machine
keeps a counter. Prints a Markdown table with targets and verdicts; the medians of --runs. Put --directory on
the disk you want to know about.
"""

from __future__ import annotations

import gc
import os
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import click
import trio

from trimaran import GroupHandle, NotDone, open_cluster, open_group
from trimaran.commands.node import COLLECT_AFTER

ENTRY = bytes(16)
MANY = 1000
"""Entries in one call of `propose_many`."""
CALLS = 8
"""Calls of `propose_many` under way."""


class Counter:
    """Counts what it is given: what is measured is everything around it."""

    def __init__(self) -> None:
        self.total = 0

    def apply(self, entries: list[bytes], index: int, time: int) -> list[int]:
        first = self.total
        self.total = first + len(entries)
        return list(range(first, self.total))

    def snapshot(self) -> bytes:
        return self.total.to_bytes(8, "little")

    def restore(self, state: bytes) -> None:
        self.total = int.from_bytes(state, "little")


@dataclass(frozen=True)
class Case:
    """One row: `tasks` tasks repeat a call that is worth `entries` entries."""

    title: str
    nodes: int
    tasks: int
    entries: int
    target: float
    """Entries per second."""


CASES = (
    Case("`propose`, three nodes in one process", 3, 1000, 1, 40_000),
    Case(f"`propose_many`, {MANY:,} entries a call, one node", 1, CALLS, MANY, 1_000_000),
)


async def measure(case: Case, seconds: float, below: Path) -> tuple[float, float]:
    """(entries per second, CPU seconds per entry) of a fresh cluster."""
    names = "abc"[: case.nodes]
    with tempfile.TemporaryDirectory(prefix="embedded-", dir=below) as directory:
        async with open_cluster(Path(directory), {"counter": Counter}, names) as nodes:
            handles = [
                await open_group(node, "hits", machine="counter", replicas=case.nodes) for node in nodes
            ]
            handle = next((each for each in handles if each.leads), handles[0])
            await run(call_of(handle, case), case.tasks, seconds / 5)
            cpu, begin = time.process_time(), time.perf_counter()
            calls = await run(call_of(handle, case), case.tasks, seconds)
            entries = calls * case.entries
            return entries / (time.perf_counter() - begin), (time.process_time() - cpu) / max(1, entries)


def call_of(handle: GroupHandle, case: Case) -> Callable[[], Awaitable[object]]:
    if case.entries == 1:
        return lambda: handle.propose(ENTRY)
    entries = [ENTRY] * case.entries
    return lambda: handle.propose_many(entries)


async def run(call: Callable[[], Awaitable[object]], tasks: int, seconds: float) -> int:
    """Calls that were answered until all tasks had ended, each after the first answer past the deadline."""
    answered = 0
    deadline = trio.current_time() + seconds

    async def repeat() -> None:
        nonlocal answered
        while trio.current_time() < deadline:
            await call()
            answered += 1

    async with trio.open_nursery() as nursery:
        for _ in range(tasks):
            nursery.start_soon(repeat)
    return answered


def row(case: Case, made: list[tuple[float, float]]) -> str:
    rates = [rate for rate, _ in made]
    middle = median(rates)
    cells = [
        case.title,
        f"{case.tasks:,}",
        f"{middle:,.0f}",
        f"{min(rates):,.0f} - {max(rates):,.0f}",
        f"{median(cpu for _, cpu in made) * 1e6:.2f}",
        f"≥ {case.target:,.0f}",
        "met" if middle >= case.target else "missed",
    ]
    return f"| {' | '.join(cells)} |"


@click.command(help=__doc__)
@click.option("--runs", default=3, show_default=True, type=click.IntRange(1))
@click.option("--seconds", default=3.0, show_default=True, help="Of each run.")
@click.option(
    "--directory", default=".", type=click.Path(path_type=Path, exists=True), help="[default: here]"
)
def main(runs: int, seconds: float, directory: Path) -> None:
    gc.set_threshold(*COLLECT_AFTER)  # as the node program does, and as docs/operations.md advises
    cores, busy = len(os.sched_getaffinity(0)), os.getloadavg()[0]
    click.echo(f"{cores} cores, load average {busy:.1f} at the begin, medians of {runs} runs\n")
    click.echo("| call | tasks | entries/s | range | CPU µs/entry | target | verdict |")
    click.echo("|---|---:|---:|---:|---:|---|---|")
    for case in CASES:
        try:
            made = [trio.run(measure, case, seconds, directory.resolve()) for _ in range(runs)]
        except* NotDone as failed:
            raise click.ClickException(f"{case.title}: {failed.exceptions[0]}") from None
        click.echo(row(case, made))


if __name__ == "__main__":
    main()
