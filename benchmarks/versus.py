"""The same loads on Trimaran and on the systems one would use instead, three nodes each, in turn.

    pip install -e '.[bench]'            # and, for etcd: apt install etcd-server
    python benchmarks/versus.py
    python benchmarks/versus.py --system trimaran --system nats --runs 5 --chart versus.svg

Each run starts every cluster afresh, one after the other, with empty directories below --directory: put that
on the disk you want to know about, not on a memory file system. Prints a Markdown table: medians over the
runs, with the lowest and highest rate, and what the nodes together spent per acknowledged message: processor
time and, where strace is installed, syncs (counted in a run of their own, since counting slows them). To give
the nodes fewer cores: `taskset -c 0,1 python benchmarks/versus.py`.

The generator's share of a processor is in the table: near 100 % it is the generator that was measured.
--second-generator shows it the other way round: the load is split between two generators.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import click
import trio
from chart import Bar, Panel, draw
from systems import SYSTEMS, Cluster, Result, nats_server

from trimaran.commands import Failure
from trimaran.commands.bench import BenchFailed, Load

PIPELINED = Load(connections=4, window=4000, replicas=3)
LOADS = {
    "pipelined": ("4 connections, window 4000", PIPELINED),
    "pipelined-1k": ("4 connections, window 4000, 1 KiB", replace(PIPELINED, size=1024)),
    "64-clients": ("64 clients, one outstanding each", replace(PIPELINED, connections=64, window=64)),
    "1-client": ("1 client, one outstanding", replace(PIPELINED, connections=1, window=1)),
    "100-streams": ("100 streams, window 4000 in all", replace(PIPELINED, connections=100, streams=100)),
}
COUNTING_SECONDS = 2.0
SYNC_CALLS = ("fsync", "fdatasync", "msync", "sync_file_range")


@dataclass(frozen=True)
class Run:
    """One load on one cluster."""

    result: Result
    cpu: float
    """Seconds of the nodes' CPU time per message."""


Results = dict[tuple[str, str], list[Run]]
"""(load, system) -> its runs."""
Work = Callable[[str, Cluster], Awaitable[None]]
"""What to do with a system's cluster."""


async def measure(cluster: Cluster, load: Load) -> Run:
    before = cluster.cpu_seconds()
    result = await cluster.run(load)
    return Run(result, (cluster.cpu_seconds() - before) / max(1, result.total))


async def on_fresh_clusters(systems: Sequence[str], below: Path, work: Work, title: str) -> None:
    """Start each system in turn, and let `work` use it."""
    for name in systems:
        click.echo(f"{title}: {name}", err=True)
        with tempfile.TemporaryDirectory(
            prefix="versus-", dir=below, ignore_cleanup_errors=True
        ) as directory:
            async with SYSTEMS[name].start(Path(directory)) as cluster:
                await work(name, cluster)


async def compare(systems: Sequence[str], loads: dict[str, Load], runs: int, below: Path) -> Results:
    """Every load on every system; the systems alternate."""
    results: Results = {(load, name): [] for load in loads for name in systems}

    async def all_loads(name: str, cluster: Cluster) -> None:
        for number, (title, load) in enumerate(loads.items()):
            if load.streams == 1 or SYSTEMS[name].many_streams:
                here = replace(load, stream=f"BENCH{number}", subject=f"bench{number}")
                results[title, name].append(await measure(cluster, here))

    for number in range(runs):
        await on_fresh_clusters(systems, below, all_loads, f"run {number + 1} of {runs}")
    return {key: made for key, made in results.items() if made}


async def syncs_per_message(
    systems: Sequence[str], loads: dict[str, Load], below: Path
) -> dict[tuple[str, str], float]:
    """Syncs of all nodes together per message, seen by strace."""
    counted: dict[tuple[str, str], float] = {}

    async def count(name: str, cluster: Cluster) -> None:
        for number, (title, load) in enumerate(loads.items()):
            if load.streams > 1 and not SYSTEMS[name].many_streams:
                continue
            here = replace(load, stream=f"COUNT{number}", subject=f"count{number}", seconds=COUNTING_SECONDS)
            await cluster.run(replace(here, seconds=0.2))  # making streams is not counted
            with tempfile.NamedTemporaryFile() as report:
                attached = [arg for pid in cluster.pids for arg in ("-p", str(pid))]
                command = ["strace", "-f", "-c", "-o", report.name, *attached]
                command += ["-e", f"trace={','.join(SYNC_CALLS)}"]
                strace = await trio.lowlevel.open_process(command, stderr=subprocess.DEVNULL)
                result = await cluster.run(here)
                strace.send_signal(signal.SIGINT)
                await strace.wait()
                counted[title, name] = _calls(report.read().decode()) / max(1, result.total)

    await on_fresh_clusters(systems, below, count, "counting syncs")
    return counted


def _calls(summary: str) -> int:
    """The number of calls in a table of `strace -c`."""
    lines = [line.split() for line in summary.splitlines()]
    return sum(int(words[3]) for words in lines if len(words) >= 5 and words[-1] in SYNC_CALLS)


async def two_generators(systems: Sequence[str], load: Load, below: Path) -> dict[str, tuple[float, float]]:
    """Messages/s of one generator, and of two at once with half the window each; NATS systems only."""
    rates: dict[str, tuple[float, float]] = {}

    async def both(name: str, cluster: Cluster) -> None:
        one = await cluster.run(load)
        half = replace(load, connections=load.connections // 2, window=load.window // 2)
        halves: list[float] = []

        async def generate() -> None:
            command = [sys.executable, "-m", "trimaran", "bench", "--json", "--keep", "--stream", load.stream]
            command += [
                "--subject",
                load.subject,
                "--connections",
                str(half.connections),
                "--size",
                str(load.size),
            ]
            command += ["--window", str(half.window), "--seconds", str(load.seconds)]
            for url in cluster.urls:
                command += ["--url", f"nats://{url}"]
            ended = await trio.run_process(command, capture_stdout=True)
            halves.append(json.loads(ended.stdout)["result"]["rate"])

        async with trio.open_nursery() as nursery:
            nursery.start_soon(generate)
            nursery.start_soon(generate)
        rates[name] = one.rate, sum(halves)

    await on_fresh_clusters(
        [name for name in systems if SYSTEMS[name].many_streams], below, both, "generators"
    )
    return rates


# --- showing it ---------------------------------------------------------------------------------------------


def table(results: Results, syncs: dict[tuple[str, str], float]) -> str:
    """Markdown."""
    lines = [
        "| load | system | messages/s | range | p50 ms | p99 ms | CPU µs/msg | syncs/msg | generator |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for (load, name), runs in results.items():
        made = [run.result for run in runs]
        rates = [one.rate for one in made]
        counted = syncs.get((load, name))
        cells = [LOADS[load][0], SYSTEMS[name].label, f"{median(rates):,.0f}"]
        cells += [f"{min(rates):,.0f} - {max(rates):,.0f}"]
        cells += [
            f"{median(latencies) * 1e3:.2f}"
            for latencies in zip(*((o.p50, o.p99) for o in made), strict=True)
        ]
        cells += [f"{median(run.cpu for run in runs) * 1e6:.1f}", "" if counted is None else f"{counted:.4f}"]
        cells += [f"{median(one.generator_cpu for one in made):.0%}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def chart(results: Results) -> str:
    """SVG: a panel for each load, a bar with its range for each system."""
    panels: dict[str, Panel] = {}
    for (load, name), runs in results.items():
        rates = [run.result.rate for run in runs]
        bar = Bar(
            SYSTEMS[name].label.replace("*", "").replace("`", ""), median(rates), min(rates), max(rates)
        )
        panels.setdefault(load, Panel(f"{LOADS[load][0]}: acknowledged messages/s")).bars.append(bar)
    return draw(list(panels.values()))


@click.command(help=__doc__)
@click.option("--runs", default=5, show_default=True, type=click.IntRange(1))
@click.option("--seconds", default=5.0, show_default=True, help="Of each load.")
@click.option("--size", default=128, show_default=True, help="Bytes of payload, but for the 1 KiB load.")
@click.option("--system", "names", multiple=True, type=click.Choice(list(SYSTEMS)), help="[default: all]")
@click.option("--load", "wanted", multiple=True, type=click.Choice(list(LOADS)), help="[default: all]")
@click.option(
    "--directory", default=".", type=click.Path(path_type=Path, exists=True), help="[default: here]"
)
@click.option("--chart", "chart_file", type=click.Path(path_type=Path), help="Also write an SVG chart.")
@click.option(
    "--count-syncs/--no-count-syncs", default=True, help="Count syncs with strace. [default: if installed]"
)
@click.option("--second-generator", is_flag=True, help="Also compare one load generator with two.")
def main(
    runs: int,
    seconds: float,
    size: int,
    names: tuple[str, ...],
    wanted: tuple[str, ...],
    directory: Path,
    chart_file: Path | None,
    count_syncs: bool,
    second_generator: bool,
) -> None:
    loads = {
        name: replace(load, seconds=seconds, size=load.size if load.size > 128 else size)
        for name, (_, load) in LOADS.items()
        if not wanted or name in wanted
    }
    systems = names or tuple(SYSTEMS)
    below = directory.resolve()
    try:
        results = trio.run(compare, systems, loads, runs, below)
        syncs = (
            trio.run(syncs_per_message, systems, loads, below)
            if count_syncs and shutil.which("strace")
            else {}
        )
        rates = (
            trio.run(two_generators, systems, replace(PIPELINED, seconds=seconds), below)
            if second_generator
            else {}
        )
    except* BenchFailed as failed:
        raise Failure(str(failed.exceptions[0])) from None
    version = subprocess.run(
        [nats_server(), "--version"], capture_output=True, text=True, check=True
    ).stdout.strip()
    cores, busy = len(os.sched_getaffinity(0)), os.getloadavg()[0]
    click.echo(
        f"{size}-byte messages, 3 replicas, {cores} cores, load average {busy:.1f} at the end, "
        f"Python {platform.python_version()}, {version}\n"
    )
    click.echo(table(results, syncs))
    for name, (one, two) in rates.items():
        click.echo(f"\n{SYSTEMS[name].label}: one generator {one:,.0f} messages/s, two {two:,.0f}")
    if chart_file is not None:
        chart_file.write_text(chart(results))


if __name__ == "__main__":
    main()
