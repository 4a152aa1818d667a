"""A cluster of real processes on loopback, for the demo and for whoever measures or tests one."""

from __future__ import annotations

import random
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import trio

from . import Failure
from .status import Json, fetch

START_SECONDS: Final = 15.0
STOP_SECONDS: Final = 5.0
POLL_SECONDS: Final = 0.05
TAIL_LINES: Final = 12

HOST: Final = "127.0.0.1"
PORTS: Final = range(10_000, 32_000)
"""Below what Linux and macOS hand out to outgoing connections."""
NAMES: Final = ("a", "b", "c")


@dataclass
class NodeProcess:
    """One `trimaran node`, its addresses, its directory and its log file."""

    name: str
    directory: Path
    client: str
    peer: str
    http: str
    peers: tuple[str, ...] = ()
    extra: Sequence[str] = ()
    process: trio.Process | None = None
    log: Path = field(init=False)

    def __post_init__(self) -> None:
        self.log = self.directory / f"{self.name}.log"

    @property
    def arguments(self) -> list[str]:
        """The command line of this node."""
        arguments = ["--name", self.name, "--data", str(self.directory / self.name), "--listen", self.client]
        arguments += ["--peer-listen", self.peer, "--http", self.http]
        for peer in self.peers:
            arguments += ["--peer", peer]
        return [sys.executable, "-m", "trimaran", "node", *arguments, *self.extra]

    @property
    def url(self) -> str:
        """Of its monitor."""
        return f"http://{self.http}"

    async def start(self) -> None:
        """Start the process; it is not ready yet."""
        with self.log.open("ab") as log:
            self.process = await trio.lowlevel.open_process(
                self.arguments, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def kill(self) -> None:
        """SIGKILL: no time to write anything."""
        if self.process is not None:
            self.process.kill()

    async def stop(self) -> None:
        """SIGTERM, and SIGKILL for one that takes too long."""
        if self.process is None or self.process.returncode is not None:
            return
        self.process.send_signal(signal.SIGTERM)
        with trio.move_on_after(STOP_SECONDS):
            await self.process.wait()
            return
        self.process.kill()
        await self.process.wait()

    def check_running(self) -> None:
        """Raises Failure with the end of its log if the process has ended."""
        if self.process is not None and (code := self.process.poll()) is not None:
            raise Failure(f"node {self.name} ended with exit code {code}: {self.tail()}")

    def tail(self) -> str:
        """The last lines of its log, as one."""
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        return " | ".join(lines[-TAIL_LINES:]) or "it said nothing"

    async def ask(self, path: str) -> Json:
        """The JSON at a path of its monitor. Raises Failure if there is no answer."""
        return await trio.to_thread.run_sync(fetch, self.url, path)


async def wait_healthy(nodes: Sequence[NodeProcess], seconds: float = START_SECONDS) -> None:
    """Return when all nodes say they are. Raises Failure with what the last one lacked."""
    lacking = ""
    with trio.move_on_after(seconds):
        for node in nodes:
            while lacking := await _unhealthy(node):
                node.check_running()
                await trio.sleep(POLL_SECONDS)
        return
    raise Failure(f"the cluster is not healthy after {seconds:g} s: {lacking}")


async def _unhealthy(node: NodeProcess) -> str:
    try:
        health = await node.ask("/healthz")
    except Failure as failure:
        return f"node {node.name}: {failure.message}; its log ends with: {node.tail()}"
    return "" if health.get("status") == "ok" else f"node {node.name}: {health.get('error', 'unknown')}"


def free_addresses(count: int) -> list[str]:
    """Addresses on loopback that were free a moment ago.

    Their ports are none of those that outgoing connections get, so that nobody takes one by chance before
    its node listens there, or while that node is down.
    """
    with ExitStack() as stack:
        sockets: list[socket.socket] = []
        for port in random.sample(PORTS, len(PORTS)):
            if len(sockets) == count:
                break
            try:
                sockets.append(stack.enter_context(socket.create_server((HOST, port))))
            except OSError:
                pass  # In use; there are enough others.
        return [f"{HOST}:{each.getsockname()[1]}" for each in sockets]


def plan(directory: Path, names: Sequence[str] = NAMES, extra: Sequence[str] = ()) -> list[NodeProcess]:
    """Nodes that know each other, on free ports, with everything below `directory`."""
    addresses = iter(free_addresses(3 * len(names)))
    nodes = [
        NodeProcess(name, directory, next(addresses), next(addresses), next(addresses), extra=extra)
        for name in names
    ]
    for node in nodes:
        node.peers = tuple(f"{other.name}={other.peer}" for other in nodes if other is not node)
    return nodes


@asynccontextmanager
async def running(nodes: Sequence[NodeProcess]) -> AsyncIterator[None]:
    """Start all nodes; stop them again whatever happens."""
    try:
        for node in nodes:
            await node.start()
        yield
    finally:
        with trio.CancelScope(shield=True):
            async with trio.open_nursery() as nursery:
                for node in nodes:
                    nursery.start_soon(node.stop)


__all__ = ["NAMES", "NodeProcess", "free_addresses", "plan", "running", "wait_healthy"]
