"""The two servers under comparison, as processes on loopback with directories of their own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.system.processes import ProcessCluster, free_ports


@contextmanager
def reference(directory: Path) -> Iterator[int]:
    """A real nats-server with JetStream; its client port."""
    [port] = free_ports(1)
    binary = Path(sys.executable).with_name("nats-server")
    process = subprocess.Popen(
        [binary, "-a", "127.0.0.1", "-p", str(port), "-js", "-sd", str(directory)],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    try:
        for line in process.stderr:
            if "Server is ready" in line:
                break
        else:
            raise AssertionError("nats-server did not start")
        yield port
    finally:
        process.terminate()
        process.communicate()


@contextmanager
def trimaran(directory: Path) -> Iterator[int]:
    """One Trimaran node; its client port."""
    cluster = ProcessCluster(directory, ("a",))
    try:
        cluster.start()
        yield cluster["a"].client
    finally:
        cluster["a"].kill()
