"""What Raft costs at rest and how long a cluster is without a leader, on three real processes.

    python benchmarks/raft.py idle --groups 1000
    python benchmarks/raft.py failover --rounds 20

`idle` makes streams with three replicas, waits until they are quiet, and measures the processor time of each
node; then it kills one node and measures until every stream it led has a leader again. `failover` kills the
leader of a stream (SIGKILL), or stops it without closing a connection (SIGSTOP), again and again, and
measures from the signal to the first acknowledged message after it. Directories are below --directory: put
that on a disk, not on a memory file system.
"""

from __future__ import annotations

import os
import re
import signal
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

import click
import trio

from trimaran.client import Client, NatsError, connect
from trimaran.commands.processes import NodeProcess, plan, running, wait_healthy

POLL_SECONDS = 0.02
RETRY_SECONDS = 0.005
ATTEMPT_SECONDS = 0.1  # a message to a leader that was stopped is never answered
CREATORS = 16
SETTLE_SECONDS = 6.0
HEALTHY_SECONDS = 60.0

Raft = dict[str, dict[str, object]]


async def groups_of(node: NodeProcess) -> Raft:
    """Every group on a node, as its monitor shows it."""
    accounts = cast(dict[str, Raft], await node.ask("/raftz"))
    return {name: state for groups in accounts.values() for name, state in groups.items()}


def cpu_seconds(node: NodeProcess) -> float:
    """Processor time of the process so far, from the kernel."""
    assert node.process is not None
    fields = Path(f"/proc/{node.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def create_streams(nodes: Sequence[NodeProcess], count: int) -> None:
    numbers = iter(range(count))

    async def create(node: NodeProcess) -> None:
        async with connect(f"nats://{node.client}", request_timeout=20.0) as client:
            for number in numbers:
                await create_stream(client, number)

    async with trio.open_nursery() as nursery:
        for creator in range(CREATORS):
            nursery.start_soon(create, nodes[creator % len(nodes)])


async def create_stream(client: Client, number: int) -> None:
    """Under this load a request may find no leader for a moment; the same stream again is no error."""
    while True:
        try:
            await client.create_stream(f"S{number}", [f"s.{number}"], replicas=3)
            return
        except NatsError as error:
            print(f"stream {number}: {error}")
            await trio.sleep(0.1)


async def until(condition: Callable[[], Awaitable[bool]], seconds: float) -> float:
    """Seconds until it came true. Raises trio.TooSlowError."""
    began = trio.current_time()
    with trio.fail_after(seconds):
        while not await condition():  # noqa: ASYNC110  # it asks other processes
            await trio.sleep(POLL_SECONDS)
    return trio.current_time() - began


async def measure_idle(directory: Path, count: int, seconds: float) -> None:
    nodes = plan(directory)
    async with running(nodes):
        await wait_healthy(nodes, HEALTHY_SECONDS)
        began = trio.current_time()
        await create_streams(nodes, count)
        print(f"{count} streams made in {trio.current_time() - began:.1f} s")

        async def all_quiet() -> bool:
            groups = [await groups_of(node) for node in nodes]
            return all(len(each) > count and all(g["quiet"] for g in each.values()) for each in groups)

        print(f"all groups quiet after {await until(all_quiet, 120):.1f} s more")
        before = [cpu_seconds(node) for node in nodes]
        await trio.sleep(seconds)
        for node, start in zip(nodes, before, strict=True):
            print(f"node {node.name}: {(cpu_seconds(node) - start) / seconds:.2%} of a core at rest")
        await measure_storm(nodes)


async def measure_storm(nodes: Sequence[NodeProcess]) -> None:
    """Kill the node that leads most groups, and watch them get new leaders."""
    led = {node.name: 0 for node in nodes}
    for group in (await groups_of(nodes[0])).values():
        led[cast(str, group["leader"])] = led.get(cast(str, group["leader"]), 0) + 1
    print("leaders:", ", ".join(f"{name} {number}" for name, number in led.items()))
    victim = max(nodes, key=lambda node: led[node.name])
    survivors = [node for node in nodes if node is not victim]
    killed = time.time()
    victim.kill()
    await trio.sleep(SETTLE_SECONDS)
    groups = [group for node in survivors for group in (await groups_of(node)).values()]
    lost = [group for group in groups if group["leader"] in ("", victim.name)]
    elected = sorted(seconds for node in survivors for seconds in elections_since(node, killed))
    print(
        f"node {victim.name} killed: {len(elected)} elections, the last after {elected[-1]:.2f} s,"
        f" half of them after {elected[len(elected) // 2]:.2f} s; {len(lost)} groups without a leader"
    )


def elections_since(node: NodeProcess, began: float) -> list[float]:
    """Seconds after `began` of each leadership that this node took, from its log: to ask it costs time."""
    found = re.findall(r"^(\S+)Z INFO .* leader in term", node.log.read_text(), re.MULTILINE)
    times = [datetime.fromisoformat(stamp).replace(tzinfo=UTC).timestamp() for stamp in found]
    return [stamp - began for stamp in times if stamp > began]


async def acknowledged(client: Client, subject: str) -> None:
    """Publish until a message is acknowledged."""
    while True:
        try:
            with trio.fail_after(ATTEMPT_SECONDS):
                await client.jetstream_publish(subject, b"x")
            return
        except (NatsError, trio.TooSlowError):
            await trio.sleep(RETRY_SECONDS)


async def one_failover(nodes: Sequence[NodeProcess], how: signal.Signals) -> float:
    """Seconds from the signal to the next acknowledgement, from a client of another node."""
    leader = cast(str, (await groups_of(nodes[0]))["S0"]["leader"])
    victim = next(node for node in nodes if node.name == leader)
    near = next(node for node in nodes if node.name != leader)
    assert victim.process is not None
    async with connect(f"nats://{near.client}") as client:
        await acknowledged(client, "s.0")
        began = trio.current_time()
        victim.process.send_signal(how)
        await acknowledged(client, "s.0")
        seconds = trio.current_time() - began
    if how is signal.SIGSTOP:
        victim.process.send_signal(signal.SIGCONT)
    else:
        await victim.process.wait()
        await victim.start()
    await wait_healthy(nodes, HEALTHY_SECONDS)
    return seconds


async def measure_failover(directory: Path, rounds: int) -> None:
    nodes = plan(directory)
    async with running(nodes):
        await wait_healthy(nodes, HEALTHY_SECONDS)
        await create_streams(nodes, 1)
        for how in (signal.SIGKILL, signal.SIGSTOP):
            times = sorted([await one_failover(nodes, how) for _ in range(rounds)])
            print(
                f"{how.name}: median {statistics.median(times):.3f} s,"
                f" {times[0]:.3f} to {times[-1]:.3f} s, {rounds} rounds"
            )


@click.group()
def main() -> None:
    """Raft at rest and Raft in trouble."""


@main.command()
@click.option("--groups", default=1000, show_default=True)
@click.option("--seconds", default=20.0, show_default=True)
@click.option("--directory", type=click.Path(path_type=Path), default=Path("."), show_default=True)
def idle(groups: int, seconds: float, directory: Path) -> None:
    """Processor time of idle groups, and the elections after a node's death."""
    with tempfile.TemporaryDirectory(dir=directory) as scratch:
        trio.run(measure_idle, Path(scratch), groups, seconds)


@main.command()
@click.option("--rounds", default=20, show_default=True)
@click.option("--directory", type=click.Path(path_type=Path), default=Path("."), show_default=True)
def failover(rounds: int, directory: Path) -> None:
    """Time without a leader after a kill, and after a silence."""
    with tempfile.TemporaryDirectory(dir=directory) as scratch:
        trio.run(measure_failover, Path(scratch), rounds)


if __name__ == "__main__":
    main()
