"""How throughput and cost grow: with message size, connections, streams, stream length and nodes; and what it
costs to be connected to a node that doesn't lead.

    python benchmarks/growth.py --directory DIR
    python benchmarks/growth.py --short --directory DIR         # in three minutes, for a first look

Everything but what a table varies is as in the pipelined load of `versus.py`: three nodes, one stream with as
many replicas, 4 connections, a window of 4,000 messages of 128 bytes. Each line starts a cluster of its own.
Prints a Markdown table for each: acknowledged messages per second, their bytes, the median time to an
acknowledgement, and the processor time of all nodes together for each message.
"""

from __future__ import annotations

import os
import platform
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final, cast

import click
import trio
from systems import Cluster, Result, load_streams

from trimaran.client import connect
from trimaran.commands import Failure
from trimaran.commands.bench import BenchFailed, Load
from trimaran.commands.processes import NodeProcess, plan, running, wait_healthy

BASE: Final = Load(connections=4, window=4000, replicas=3)
IN_FLIGHT: Final = 4 << 20
"""Bytes under way at most: with large messages a window of thousands would only measure memory."""
LEAST_WINDOW: Final = 16
NAMES: Final = "abcde"
SIZES: Final = (16, 128, 1024, 8 * 1024, 64 * 1024, 256 * 1024)
CONNECTIONS: Final = (1, 4, 16, 64, 256, 1000)
STREAMS: Final = (1, 10, 100, 1000)
LENGTHS: Final = (0, 100_000, 1_000_000, 10_000_000)
NODES: Final = (1, 3, 5)
FILL_WINDOW: Final = 20_000
FILL_SECONDS: Final = 2.0


@dataclass(frozen=True)
class Line:
    """One point of a table."""

    value: int
    load: Load
    nodes: int = 3
    filled: int = 0
    """Messages that the stream has before the load begins."""
    where: str = "all"
    """Which nodes the connections go to: `all` in turn, the stream's `leader` or a `follower`."""
    shown: str = ""
    """In place of the value."""


def tables(short: bool) -> Iterator[tuple[str, list[Line]]]:
    """(what varies, its points)."""
    yield "message size, bytes", [Line(size, sized(size)) for size in thin(SIZES, short)]
    yield (
        "connections",
        [
            Line(count, replace(BASE, connections=count, window=max(BASE.window, count)))
            for count in thin(CONNECTIONS, short)
        ],
    )
    yield (
        "streams",
        [
            Line(count, replace(BASE, streams=count, connections=max(4, count)))
            for count in thin(STREAMS[:3] if short else STREAMS, short)
        ],
    )
    yield (
        "messages in the stream before",
        [Line(length, BASE, filled=length) for length in thin(LENGTHS[:3] if short else LENGTHS, short)],
    )
    yield (
        "connected to",
        [
            Line(0, replace(BASE, streams=1), where=where, shown=where)
            for where in ("leader", "follower", "all")
        ],
    )
    yield "nodes", [Line(count, replace(BASE, replicas=count), nodes=count) for count in NODES]


def sized(size: int) -> Load:
    return replace(BASE, size=size, window=max(LEAST_WINDOW, min(BASE.window, IN_FLIGHT // size)))


def thin(values: tuple[int, ...], short: bool) -> tuple[int, ...]:
    """All of them, or the first, the middle and the last."""
    return (values[0], values[len(values) // 2], values[-1]) if short else values


async def measure(line: Line, seconds: float, below: Path) -> tuple[Result, float]:
    """What the load brought, and the nodes' CPU seconds per message."""
    with tempfile.TemporaryDirectory(prefix="growth-", dir=below, ignore_cleanup_errors=True) as directory:
        nodes = plan(Path(directory), list(NAMES[: line.nodes]))
        async with running(nodes):
            await wait_healthy(nodes)
            urls = tuple(node.client for node in nodes)
            pids = tuple(node.process.pid for node in nodes if node.process is not None)
            cluster = Cluster(pids, partial(load_streams, urls), urls)
            filled = 0
            while filled < line.filled:
                more = replace(line.load, size=16, window=FILL_WINDOW, seconds=FILL_SECONDS)
                filled += (await cluster.run(more)).total
            await cluster.run(replace(line.load, seconds=0.2))  # streams are made, and led
            if line.where != "all":
                urls = await urls_of(nodes, line)
                cluster = replace(cluster, run=partial(load_streams, urls))
            before = cluster.cpu_seconds()
            result = await cluster.run(replace(line.load, seconds=seconds))
            return result, (cluster.cpu_seconds() - before) / max(1, result.total)


async def urls_of(nodes: list[NodeProcess], line: Line) -> tuple[str, ...]:
    """The client address of the node that leads the stream, or of another one."""
    async with connect(f"nats://{nodes[0].client}") as client:
        info = await client.stream_info(line.load.stream)
    leader = cast(dict[str, object], info["cluster"])["leader"]
    wanted = [node.client for node in nodes if (node.name == leader) == (line.where == "leader")]
    return (wanted[0],)


def row(line: Line, result: Result, cpu: float) -> str:
    cells = [
        line.shown or f"{line.value:,}",
        f"{result.rate:,.0f}",
        f"{result.rate * line.load.size / 1e6:,.1f}",
        f"{result.p50 * 1e3:.2f}",
        f"{cpu * 1e6:,.1f}",
    ]
    return f"| {' | '.join(cells)} |"


@click.command(help=__doc__)
@click.option("--seconds", default=3.0, show_default=True, help="Of each line.")
@click.option("--short", is_flag=True, help="Fewer lines, a second each, no stream of ten million.")
@click.option("--only", multiple=True, help="Tables whose title begins so. [default: all]")
@click.option(
    "--directory", default=".", type=click.Path(path_type=Path, exists=True), help="[default: here]"
)
def main(seconds: float, short: bool, only: tuple[str, ...], directory: Path) -> None:
    cores, busy = len(os.sched_getaffinity(0)), os.getloadavg()[0]
    click.echo(f"{cores} cores, load average {busy:.1f} at the begin, Python {platform.python_version()}")
    for title, lines in tables(short):
        if only and not title.startswith(only):
            continue
        click.echo(f"\n| {title} | messages/s | MB/s | p50 ms | CPU µs/message |")
        click.echo("|---:|---:|---:|---:|---:|")
        for line in lines:
            try:
                result, cpu = trio.run(measure, line, 1.0 if short else seconds, directory.resolve())
            except* (BenchFailed, Failure) as failed:
                click.echo(f"| {line.shown or line.value} | {failed.exceptions[0]} | | | |")
            else:
                click.echo(row(line, result, cpu))


if __name__ == "__main__":
    main()
