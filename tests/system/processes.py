"""Real nodes as processes on loopback: started, killed and restarted by tests and by long runs."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.waiting import wait_for

START_SECONDS = 40.0


def free_ports(count: int) -> list[int]:
    """Ports nobody listens on right now, all different."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


class NodeProcess:
    """One `trimaran node` with its own directory, ports and log file."""

    def __init__(self, name: str, directory: Path, client: int, peer: int, http: int) -> None:
        self.name = name
        self.data = directory / name
        self.log = directory / f"{name}.log"
        self.client, self.peer, self.http = client, peer, http
        self.arguments: list[str] = []
        self.process: subprocess.Popen[bytes] | None = None

    def options(self) -> list[str]:
        """Who it is and where it listens. A broken rule of Raft would stop its group, and be seen."""
        return [
            *("--name", self.name, "--data", str(self.data), "--http", f"127.0.0.1:{self.http}"),
            *("--listen", f"127.0.0.1:{self.client}", "--peer-listen", f"127.0.0.1:{self.peer}"),
            *("--check-invariants", "on"),
        ]

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.client}"

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def start(self) -> None:
        self.start_under(())

    def start_under(self, tracer: Sequence[str]) -> None:
        """Start the process under a tracer, given with its arguments; empty: none."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        command = [*tracer, sys.executable, "-m", "trimaran", "node", *self.arguments]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)

    def kill(self) -> None:
        """SIGKILL, and wait until the process is gone."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self, seconds: float = 10.0) -> int:
        """SIGTERM, and the exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)

    def get(self, page: str) -> tuple[int, Mapping[str, Any]]:
        """(HTTP status, JSON) of a monitor page; status 0 while nobody answers."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.http}{page}", timeout=2) as answer:
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.loads(error.read())
        except OSError:
            return 0, {}

    def cpu_seconds(self) -> float:
        """CPU time of the process so far, from the kernel."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class ProcessCluster:
    """Nodes of one cluster, each knowing the others by `--peer`."""

    def __init__(
        self,
        directory: Path,
        names: Sequence[str] = ("a", "b", "c"),
        extra: Sequence[str] = (),
        client_ports: Sequence[int] = (),
    ) -> None:
        """`client_ports`: of the nodes, in order; by default whatever is free, as for everything else."""
        ports = free_ports(3 * len(names))
        clients = client_ports or ports[0::3]
        self.nodes = {
            name: NodeProcess(name, directory, clients[number], *ports[3 * number + 1 : 3 * number + 3])
            for number, name in enumerate(names)
        }
        for node in self.nodes.values():
            node.arguments = [*node.options(), *extra]
            for other in self.nodes.values():
                if other is not node:
                    node.arguments += ["--peer", f"{other.name}=127.0.0.1:{other.peer}"]

    def add(self, directory: Path, name: str, via: str) -> NodeProcess:
        """One more node, not started, which knows one of the others."""
        node = self.nodes[name] = NodeProcess(name, directory, *free_ports(3))
        node.arguments = [*node.options(), "--peer", f"{via}=127.0.0.1:{self.nodes[via].peer}"]
        return node

    def __getitem__(self, name: str) -> NodeProcess:
        return self.nodes[name]

    @property
    def urls(self) -> list[str]:
        return [node.url for node in self.nodes.values()]

    def start(self) -> None:
        for node in self.nodes.values():
            node.start()
        self.wait_healthy()

    def wait_healthy(self, names: Sequence[str] | None = None, seconds: float = START_SECONDS) -> None:
        """Return once /healthz of these nodes (all) says 200; else fail with what they logged."""
        nodes = [self.nodes[name] for name in names or self.nodes]
        self.wait(lambda: all(node.get("/healthz")[0] == 200 for node in nodes), seconds)

    def wait(self, condition: Callable[[], bool], seconds: float = START_SECONDS) -> None:
        """Return once this holds; else fail with what the nodes logged."""
        wait_for(condition, seconds, lambda: f"\n{self.logs()}")

    def logs(self) -> str:
        """The end of each node's log and what each says of its health."""
        return "\n".join(
            f"--- {node.name}: {node.get('/healthz')}\n{node.log.read_text()[-3000:]}"
            for node in self.nodes.values()
        )

    def close(self) -> None:
        for node in self.nodes.values():
            if node.process is not None and node.process.poll() is None:
                node.process.kill()
                node.process.wait()


@contextlib.contextmanager
def running(
    directory: Path, names: Sequence[str] = ("a", "b", "c"), extra: Sequence[str] = ()
) -> Iterator[ProcessCluster]:
    """A healthy cluster for the length of the block."""
    cluster = ProcessCluster(directory, names, extra)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.close()
