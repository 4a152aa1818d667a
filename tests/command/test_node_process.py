"""`trimaran node` as what it is in production: a process, a directory, sockets and signals."""

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest
import trio

from trimaran.__main__ import INTERRUPTED
from trimaran.client import connect
from trimaran.commands.node import EXIT_CANNOT_LISTEN
from trimaran.commands.processes import free_addresses, plan, running, wait_healthy
from trimaran.commands.status import fetch
from trimaran.storage.errors import DirectoryLocked

README = Path(__file__).parents[2] / "README.md"
PATIENCE = 30.0
"""Seconds after which a test gives up; nothing here should take more than two."""


class Started:
    """A node's process and what it says."""

    def __init__(self, process: trio.Process) -> None:
        self.process = process
        self.said = ""

    async def line(self, words: str) -> str:
        """The first line with these words, which may be yet to come."""
        assert self.process.stderr is not None
        while not (found := re.search(rf"^.*{words}.*$\n", self.said, re.MULTILINE)):
            data = await self.process.stderr.receive_some(65536)
            assert data, f"ended before it said {words!r}: {self.said}"
            self.said += data.decode()
        return found[0].strip()

    async def exit(self) -> int:
        """Its exit code; `said` is complete then."""
        assert self.process.stderr is not None
        while data := await self.process.stderr.receive_some(65536):
            self.said += data.decode()
        return await self.process.wait()


@asynccontextmanager
async def node(directory: Path, *arguments: str) -> AsyncIterator[Started]:
    command = [sys.executable, "-m", "trimaran", "node", *arguments]
    process = await trio.lowlevel.open_process(command, cwd=directory, stderr=subprocess.PIPE)
    try:
        with trio.fail_after(PATIENCE):
            yield Started(process)
    finally:
        if process.returncode is None:
            process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
        if process.stderr is not None:
            await trio.aclose_forcefully(process.stderr)


async def ready(started: Started) -> str:
    """The address for clients, once the node says that it is ready."""
    listening = await started.line("Listening for client connections on")
    await started.line("Server is ready")
    return listening.rpartition(" ")[2]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_node_serves_and_stops_cleanly(number: signal.Signals, tmp_path: Path) -> None:
    (monitor,) = free_addresses(1)
    url = f"http://{monitor}"
    async with node(tmp_path, "--listen", "127.0.0.1:-1", "--http", monitor) as started:
        address = await ready(started)
        async with connect(address) as client:
            while (await trio.to_thread.run_sync(fetch, url, "/healthz"))["status"] != "ok":
                await trio.lowlevel.checkpoint()
            await client.create_stream("S", ["s.>"])
            assert (await client.jetstream_publish("s.1", b"one")).sequence == 1
        varz = await trio.to_thread.run_sync(fetch, url, "/varz")
        assert varz["server_name"] == "trimaran"
        started.process.send_signal(number)
        assert await started.exit() == 0
    assert "Traceback" not in started.said
    assert (tmp_path / "trimaran-data").is_dir()


async def test_what_was_acknowledged_survives_sigkill(tmp_path: Path) -> None:
    async with node(tmp_path, "--listen", "127.0.0.1:0") as started, connect(await ready(started)) as client:
        await client.create_stream("S", ["s.>"])
        for count in range(1, 101):
            assert (await client.jetstream_publish("s.1", b"%d" % count)).sequence == count
        started.process.kill()
        await started.process.wait()
    async with node(tmp_path, "--listen", "127.0.0.1:0") as started, connect(await ready(started)) as client:
        assert (await client.jetstream_publish("s.1", b"next")).sequence == 101


async def test_busy_port_ends_with_one_line(tmp_path: Path) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as busy:
        address = f"127.0.0.1:{busy.getsockname()[1]}"
        async with node(tmp_path, "--listen", address) as started:
            assert await started.exit() == EXIT_CANNOT_LISTEN
    last = started.said.splitlines()[-1]
    assert last == f"trimaran: cannot listen on {address}: Address already in use"
    assert "Traceback" not in started.said


async def test_locked_directory_ends_with_one_line(tmp_path: Path) -> None:
    async with node(tmp_path, "--listen", "127.0.0.1:0") as first:
        await ready(first)
        async with node(tmp_path, "--listen", "127.0.0.1:0") as second:
            assert await second.exit() == DirectoryLocked.exit_code
        assert "Traceback" not in second.said
        assert second.said.splitlines()[-1].startswith("trimaran: ")


async def test_directory_that_cannot_be_made_ends_with_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    async with node(tmp_path, "--data", "file/data", "--listen", "127.0.0.1:0") as started:
        assert await started.exit() == 1
    (line,) = started.said.splitlines()
    assert line == "trimaran: cannot use file/data: Not a directory"


async def test_one_node_of_three_is_ready_but_not_healthy(tmp_path: Path) -> None:
    nodes = plan(tmp_path)
    async with node(tmp_path, *nodes[0].arguments[4:]) as started:
        await ready(started)
        health = await nodes[0].ask("/healthz")
        assert health["status"] == "unavailable"
        assert health["errors"] == ["this node belongs to no cluster yet: waiting for b, c"]
        await started.line("waiting for b, c")


def example(name: str) -> str:
    """The Python of README.md behind the mark `example: name`."""
    found = re.search(rf"<!-- example: {name} -->\n```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert found is not None
    return found[1]


async def run_python(code: str, directory: Path) -> str:
    with trio.fail_after(PATIENCE):
        result = await trio.run_process(
            [sys.executable, "-c", code], cwd=directory, capture_stdout=True, capture_stderr=True, check=False
        )
    assert result.returncode == 0, result.stderr.decode()
    return result.stdout.decode()


async def test_readme_example_of_nats_py_does_what_it_says(tmp_path: Path) -> None:
    nodes = plan(tmp_path)
    code = example("nats-py")
    for port, each in zip((4222, 4223, 4224), nodes, strict=True):
        code = code.replace(f"127.0.0.1:{port}", each.client)
    async with running(nodes):
        await wait_healthy(nodes)
        output = await run_python(code, tmp_path)
    assert output.splitlines() == ["stored as 1", "again 1 duplicate: True", "orders.paid b'17'"]


async def test_readme_example_of_embedding_does_what_it_says(tmp_path: Path) -> None:
    first, second = (await run_python(example("embed"), tmp_path)).splitlines()
    assert first == "sequence 1 says b'17'"
    assert second.startswith("NATS clients connect to 127.0.0.1:")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_stopped_demo_leaves_no_process_and_no_file(number: signal.Signals, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "trimaran", "demo"]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    process = await trio.lowlevel.open_process(command, env=environment, stderr=subprocess.PIPE)
    try:
        with trio.fail_after(PATIENCE):
            started = Started(process)
            await started.line("publishing")
            (directory,) = os.listdir(tmp_path)
            process.send_signal(number)
            assert await started.exit() == INTERRUPTED
    finally:
        process.kill()
    assert "Traceback" not in started.said
    assert os.listdir(tmp_path) == []
    running = await trio.run_process(["ps", "-A", "-o", "args"], capture_stdout=True)
    assert directory not in running.stdout.decode()


async def test_demo_finds_nothing_lost(tmp_path: Path) -> None:
    with trio.fail_after(2 * PATIENCE):
        result = await trio.run_process(
            [sys.executable, "-m", "trimaran", "demo", "--messages", "2000", "--json"],
            capture_stdout=True,
            capture_stderr=True,
            check=False,
        )
    assert result.returncode == 0, result.stdout.decode() + result.stderr.decode()
