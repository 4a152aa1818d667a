"""What a node's memory grows with: connections, streams, messages under way, messages kept, subjects.

    python benchmarks/memory.py --directory DIR
    python benchmarks/memory.py --messages 1000000 --directory DIR     # in half a minute

One node in a process of its own, fresh for each row; what is measured is what its process has in memory
(VmRSS; for messages under way its peak, VmHWM), as the kernel tells it, against an idle node. Every replica
of a stream has the same tables, so a node of a cluster needs as much for each stream that it holds. Prints a
Markdown table with targets and verdicts.
"""

from __future__ import annotations

import os
import platform
import socket
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Final, cast

import click
import trio

from trimaran.client import Client, connect
from trimaran.commands.bench import Load, run_load
from trimaran.commands.processes import NodeProcess, plan, running, wait_healthy

CONNECTIONS: Final = 1_000
STREAMS: Final = 1_000
WINDOW: Final = 100_000
WINDOW_BYTES: Final = 128
PAYLOAD: Final = b"0123456789abcdef"
SUBJECTS: Final = 1_000
KEYS: Final = 100_000
SETTLE_SECONDS: Final = 1.0
LOOK_SECONDS: Final = 0.2
PIECE: Final = 10_000
"""Messages in one write to the socket."""
MIB: Final = 1 << 20
MB: Final = 1_000_000
GETS: Final = 500


@dataclass(frozen=True)
class Row:
    """One line of the table; what counts against the target is `value`, in `unit`."""

    what: str
    value: float
    unit: str
    most: float
    """The target."""
    remark: str = ""

    def shown(self) -> str:
        verdict = "met" if self.value <= self.most else "missed"
        cells = [
            self.what,
            f"{self.value:,.1f} {self.unit}",
            f"≤ {self.most:,g} {self.unit}",
            verdict,
            self.remark,
        ]
        return f"| {' | '.join(cells)} |"


class Measured:
    """A node under measurement."""

    def __init__(self, node: NodeProcess, client: Client) -> None:
        self.node = node
        self.client = client

    @property
    def address(self) -> tuple[str, int]:
        host, _, port = self.node.client.rpartition(":")
        return host, int(port)

    def memory(self, field: str = "VmRSS") -> int:
        """Bytes of the process, as /proc has them."""
        assert self.node.process is not None
        status = Path(f"/proc/{self.node.process.pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith(field + ":"))
        return int(line.split()[1]) * 1024

    async def settled(self) -> int:
        await trio.sleep(SETTLE_SECONDS)
        return self.memory()

    async def create_stream(self, name: str, subjects: list[str], **config: object) -> None:
        body = {"name": name, "subjects": subjects, **config}
        await self.client.api(f"STREAM.CREATE.{name}", body)

    async def stored(self, name: str) -> int:
        """The last sequence of a stream."""
        state = cast(dict[str, object], (await self.client.stream_info(name))["state"])
        return int(cast(int, state["last_seq"]))


@asynccontextmanager
async def fresh(below: Path) -> AsyncIterator[Measured]:
    with tempfile.TemporaryDirectory(prefix="memory-", dir=below) as directory:
        [node] = plan(Path(directory), ["a"])
        async with running([node]):
            await wait_healthy([node])
            async with connect(f"nats://{node.client}", request_timeout=30.0) as client:
                yield Measured(node, client)


def greet(sock: socket.socket) -> None:
    """CONNECT and wait for the PONG."""
    sock.sendall(b'CONNECT {"verbose":false,"headers":true}\r\nPING\r\n')
    got = b""
    while b"PONG" not in got:
        got += sock.recv(65536)


def publish_all(address: tuple[str, int], pieces: Iterator[bytes]) -> None:
    """Publish without asking for acknowledgements: the node reads no faster than it stores."""
    with socket.create_connection(address) as sock:
        greet(sock)
        for piece in pieces:
            sock.sendall(piece)
        sock.sendall(b"PING\r\n")
        while b"PONG" not in sock.recv(65536):
            pass


def publishes(prefix: bytes, subjects: int, messages: int) -> Iterator[bytes]:
    """The subjects in turn, in writes of many messages."""
    line = b" %d\r\n%b\r\n" % (len(PAYLOAD), PAYLOAD)
    numbers = iter(range(messages))
    while chosen := [number for _, number in zip(range(PIECE), numbers, strict=False)]:
        yield b"".join(b"PUB %b.%d%b" % (prefix, number % subjects, line) for number in chosen)


async def fill(measured: Measured, stream: str, prefix: bytes, subjects: int, messages: int) -> float:
    """Publish; seconds until the last one is stored."""
    before, begin = await measured.stored(stream), time.monotonic()
    await trio.to_thread.run_sync(publish_all, measured.address, publishes(prefix, subjects, messages))
    while await measured.stored(stream) < before + messages:  # noqa: ASYNC110  (another process)
        await trio.sleep(LOOK_SECONDS)
    return time.monotonic() - begin


# --- the rows -----------------------------------------------------------------------------------------------


async def connections(below: Path, count: int = CONNECTIONS) -> list[Row]:
    async with fresh(below) as measured:
        before = await measured.settled()
        with ExitStack() as stack:
            for _ in range(count):
                greet(stack.enter_context(socket.create_connection(measured.address)))
            each = (await measured.settled() - before) / count
    return [Row(f"open connection ({count:,} of them)", each / 1024, "KiB", 64)]


async def streams(below: Path, count: int = STREAMS) -> list[Row]:
    async with fresh(below) as measured:
        before = await measured.settled()
        for number in range(count):
            await measured.create_stream(f"S{number}", [f"s.{number}"])
        each = (await measured.settled() - before) / count
    return [Row(f"idle stream ({count:,} of them)", each / 1024, "KiB", 64)]


async def under_way(below: Path, window: int = WINDOW) -> list[Row]:
    """The peak above what the same stream needs with a small window for as many messages."""
    async with fresh(below) as measured:
        await measured.create_stream("W", ["w"])
        load = Load(
            urls=(f"nats://{measured.node.client}",),
            stream="W",
            subject="w",
            size=WINDOW_BYTES,
            window=1000,
            seconds=1.0,
        )
        await trio.to_thread.run_sync(run_load, load)
        before = measured.memory("VmHWM")
        result = await trio.to_thread.run_sync(run_load, replace(load, window=window))
        index = 12 * result.total  # each message kept has that much of the stream's index
        grown = measured.memory("VmHWM") - before - index
    what = f"message of {WINDOW_BYTES} B under way ({window:,} of them)"
    return [Row(what, grown / window, "B", 1024, "at the peak, index of what is kept taken off")]


async def many_messages(below: Path, messages: int) -> list[Row]:
    async with fresh(below) as measured:
        await measured.create_stream("M", ["m.*"])
        seconds = await fill(measured, "M", b"m", SUBJECTS, messages)
        kept = await measured.settled()
        await measured.node.stop()
        await measured.node.start()
        begin = time.monotonic()
        await wait_healthy([measured.node], 60.0)
        started = time.monotonic() - begin
        again = await measured.settled()
    what = f"stream of {messages:,} messages, {SUBJECTS:,} subjects"
    return [
        Row(what, kept / MB, "MB", 200, f"{messages / seconds:,.0f} messages/s"),
        Row("the same after a restart", again / MB, "MB", 200, f"healthy after {started:.1f} s"),
    ]


async def many_subjects(below: Path, keys: int = KEYS) -> list[Row]:
    """A bucket of so many keys, each written three times; and the same with a hundredth of the keys."""
    few = await _bucket(below, keys // 100, keys * 3)
    many = await _bucket(below, keys, keys * 3)
    return [
        Row(f"bucket of {keys:,} keys", many.memory / MIB, "MiB", 200),
        Row("time of a put, against 1/100 of the keys", many.put / few.put, "times", 2, _rates(few, many)),
        Row("time of a get, the same", many.get / few.get, "times", 2, _gets(few, many)),
    ]


@dataclass(frozen=True)
class _Bucket:
    memory: int
    put: float
    """Seconds for each, many at once."""
    get: float
    """Seconds, one at a time: the median."""


def _rates(few: _Bucket, many: _Bucket) -> str:
    return f"{1 / many.put:,.0f}/s against {1 / few.put:,.0f}/s"


def _gets(few: _Bucket, many: _Bucket) -> str:
    return f"p50 {many.get * 1e6:,.0f} µs against {few.get * 1e6:,.0f} µs"


async def _bucket(below: Path, keys: int, puts: int) -> _Bucket:
    async with fresh(below) as measured:
        await measured.create_stream(
            "KV_B",
            ["$KV.B.>"],
            max_msgs_per_subject=1,
            allow_direct=True,
            allow_rollup_hdrs=True,
            deny_delete=True,
            discard="new",
        )
        put = await fill(measured, "KV_B", b"$KV.B", keys, puts) / puts
        gets = []
        for number in range(GETS):
            begin = time.perf_counter()
            await measured.client.request(f"$JS.API.DIRECT.GET.KV_B.$KV.B.{number * 7919 % keys}", b"")
            gets.append(time.perf_counter() - begin)
        return _Bucket(await measured.settled(), put, median(gets))


@click.command(help=__doc__)
@click.option("--messages", default=10_000_000, show_default=True, type=click.IntRange(1), help="Kept.")
@click.option(
    "--directory", default=".", type=click.Path(path_type=Path, exists=True), help="[default: here]"
)
def main(messages: int, directory: Path) -> None:
    below = directory.resolve()
    cores, busy = len(os.sched_getaffinity(0)), os.getloadavg()[0]
    click.echo(f"{cores} cores, load average {busy:.1f} at the begin, Python {platform.python_version()}\n")
    click.echo("| what | memory | target | verdict | |")
    click.echo("|---|---:|---:|---|---|")
    measure: list[Callable[[], Awaitable[list[Row]]]] = [
        lambda: connections(below),
        lambda: streams(below),
        lambda: under_way(below),
        lambda: many_messages(below, messages),
        lambda: many_subjects(below),
    ]
    for rows in measure:
        for row in trio.run(rows):
            click.echo(row.shown())


if __name__ == "__main__":
    main()
