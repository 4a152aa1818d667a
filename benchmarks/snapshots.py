"""What taking a snapshot of a large stream costs those who publish meanwhile, on three real processes.

    python benchmarks/snapshots.py --size 1GiB --snapshots 4

Fills a stream with three replicas, then goes on with a steady load: one connection that keeps bytes coming,
so that snapshots fall due, and clients with one small message under way each, whose latencies are measured.
Every node says when its snapshots began and ended; a message that was under way within one of these spans, on
any node, counts as "during", all others count as "beside". Elections are counted by the group's term.
Directories are below --directory: put that on a disk, not on a memory file system.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, cast

import click
import trio
from raft import groups_of

from trimaran.actors.units import parse_size
from trimaran.client import connect
from trimaran.commands.processes import NodeProcess, plan, running, wait_healthy

STREAM: Final = "LARGE"
FILLING: Final = 8 << 10
FILL_WINDOW: Final = 256
PROBE: Final = 128
POLL_SECONDS: Final = 0.1
WARM_SECONDS: Final = 3.0
HEALTHY_SECONDS: Final = 60.0

Span = tuple[int, int]
"""(begin, end), ns since 1970."""


@dataclass
class Measured:
    """Latencies of acknowledged messages, and when snapshots were taken."""

    samples: list[Span] = field(default_factory=list)
    snapshots: dict[str, set[Span]] = field(default_factory=dict)
    over: bool = False


async def fill(node: NodeProcess, size: int) -> float:
    """MiB/s at which a stream was filled."""
    began = trio.current_time()
    async with connect(f"nats://{node.client}", request_timeout=30.0) as client:
        await client.create_stream(STREAM, ["large.>"], replicas=3)
        async with client.publisher(window=FILL_WINDOW, timeout=60.0) as publisher:
            for _ in range(size // FILLING):
                await publisher.publish("large.fill", bytes(FILLING))
    if publisher.stored * FILLING < size * 0.99:
        raise click.ClickException(f"only {publisher.stored} messages were stored")
    return size / 2**20 / (trio.current_time() - began)


async def keep_coming(node: NodeProcess, bytes_per_second: int, measured: Measured) -> None:
    """So many bytes a second, evenly."""
    async with (
        connect(f"nats://{node.client}") as client,
        client.publisher(window=FILL_WINDOW, timeout=60.0) as publisher,
    ):
        due = trio.current_time()
        while not measured.over:
            await publisher.publish("large.more", bytes(FILLING))
            due = max(due + FILLING / bytes_per_second, trio.current_time() - 0.1)
            await trio.sleep_until(due)


async def probe(node: NodeProcess, measured: Measured) -> None:
    """One small message after the other."""
    async with connect(f"nats://{node.client}") as client:
        while not measured.over:
            began = time.time_ns()
            await client.jetstream_publish("large.probe", bytes(PROBE))
            measured.samples.append((began, time.time_ns()))


async def watch(nodes: Sequence[NodeProcess], snapshots: int, measured: Measured) -> None:
    """Collect when snapshots were taken, until each node has taken so many."""
    since = time.time_ns()
    while not measured.over:
        for node in nodes:
            group = (await groups_of(node))[STREAM]
            began, ended = cast(int, group["snapshot_began"]), cast(int, group["snapshot_ended"])
            if since < began < ended:
                measured.snapshots.setdefault(node.name, set()).add((began, ended))
        taken = [len(measured.snapshots.get(node.name, ())) for node in nodes]
        measured.over = min(taken) >= snapshots
        await trio.sleep(POLL_SECONDS)


def quantiles(samples: Sequence[Span]) -> str:
    took = sorted(end - begin for begin, end in samples)
    if not took:
        return "no messages"
    shown = [f"p{share * 100:g} {took[int(share * (len(took) - 1))] / 1e6:.2f} ms" for share in (0.5, 0.99)]
    return f"{len(took):,} messages, {', '.join(shown)}, max {took[-1] / 1e6:.1f} ms"


def p99(samples: Sequence[Span]) -> float:
    took = sorted(end - begin for begin, end in samples)
    return took[int(0.99 * (len(took) - 1))] if took else 0.0


def report(measured: Measured) -> None:
    spans = [span for each in measured.snapshots.values() for span in each]
    during = [(b, e) for b, e in measured.samples if any(b < end and e > begin for begin, end in spans)]
    beside = [(b, e) for b, e in measured.samples if not any(b < end and e > begin for begin, end in spans)]
    lengths = sorted((end - begin) / 1e6 for begin, end in spans)
    print(f"{len(spans)} snapshots, median {lengths[len(lengths) // 2]:.0f} ms, longest {lengths[-1]:.0f} ms")
    print(f"beside snapshots: {quantiles(beside)}")
    print(f"during snapshots: {quantiles(during)}")
    if during and beside:
        print(f"p99 during / beside: {p99(during) / p99(beside):.2f}")


async def run(directory: Path, size: int, rate: int, probes: int, snapshots: int) -> None:
    nodes = plan(directory)
    async with running(nodes):
        await wait_healthy(nodes, HEALTHY_SECONDS)
        print(f"load of the machine: {', '.join(f'{each:.1f}' for each in os.getloadavg())}")
        print(f"filled with {await fill(nodes[0], size):.0f} MiB/s")
        before = [(await groups_of(node))[STREAM]["term"] for node in nodes]
        measured = Measured()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(keep_coming, nodes[0], rate, measured)
            for number in range(probes):
                nursery.start_soon(probe, nodes[number % len(nodes)], measured)
            await trio.sleep(WARM_SECONDS)
            measured.samples.clear()
            nursery.start_soon(watch, nodes, snapshots, measured)
        after = [(await groups_of(node))[STREAM]["term"] for node in nodes]
        report(measured)
        print(f"elections: {max(cast(list[int], after)) - max(cast(list[int], before))}")
        print(f"load of the machine: {', '.join(f'{each:.1f}' for each in os.getloadavg())}")


@click.command()
@click.option("--size", default="1GiB", show_default=True, help="Of the stream, before measuring.")
@click.option("--rate", default="8MiB", show_default=True, help="Bytes a second that keep coming.")
@click.option("--probes", default=8, show_default=True, help="Clients with one message under way.")
@click.option("--snapshots", default=4, show_default=True, help="Of each node, while measuring.")
@click.option("--directory", type=click.Path(path_type=Path), default=Path("."), show_default=True)
def main(size: str, rate: str, probes: int, snapshots: int, directory: Path) -> None:
    """Latency beside and during snapshots of a large stream."""
    with tempfile.TemporaryDirectory(dir=directory) as scratch:
        trio.run(run, Path(scratch), parse_size(size), parse_size(rate), probes, snapshots)


if __name__ == "__main__":
    main()
