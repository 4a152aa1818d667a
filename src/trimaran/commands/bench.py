"""`trimaran bench`: publish into a stream as fast as it acknowledges, and say how fast that was.

Works against any server of the NATS protocol. Messages are numbered in their reply subjects; C code formats
a block of them and matches the acknowledgements, so that one thread outruns the servers it measures. Its own
share of a processor is part of the result: near 100 % it is the generator that was measured.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
import secrets
import select
import socket
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Final

import click
import trio
from rich.console import Console
from rich.table import Table

from ..client import Client, JetStreamError, NatsError, ServerAddress, connect
from ..codec.protocol import AckCounts, Direction, OpKind, ProtocolError, Scanner, Sent, count_acks
from . import Failure

__all__ = ["BenchFailed", "Load", "Measurement", "bench", "measure", "run_load"]

DEFAULT_URL: Final = "nats://127.0.0.1:4222"
HANDSHAKE_SECONDS: Final = 5.0
DRAIN_SECONDS: Final = 10.0
"""How long the last acknowledgements are waited for; what is missing then is reported as unanswered."""
RETRY_SECONDS: Final = 0.05
"""Pause of a connection after an error, so that a stream without a leader is asked and not flooded."""
STREAM_SECONDS: Final = 15.0
"""How long creating the stream may take: a cluster that has just started elects leaders first."""
EACH_STREAM_SECONDS: Final = 0.5
STREAM_NOT_FOUND: Final = 10059
EXIT_BAD_OPTION: Final = 2
INBOX_SID: Final = 1
DIGITS: Final = b"0" * 10


class BenchFailed(Exception):
    """The load could not be run to its end."""


@dataclass(frozen=True, slots=True)
class Load:
    """What to publish, where, and how much of it at once."""

    urls: tuple[str, ...] = (DEFAULT_URL,)
    """Servers; connections are spread over them."""
    stream: str = "BENCH"
    subject: str = "bench"
    streams: int = 1
    """Above 1, connections are spread over streams `<stream>-0`, `<stream>-1`, ..., each with a subject below
    `subject`."""
    replicas: int = 1
    """Replicas of a stream that has to be made."""
    size: int = 128
    """Bytes of payload."""
    connections: int = 4
    window: int = 4000
    """Messages under way, over all connections; equal to `connections`: one outstanding each."""
    seconds: float = 5.0
    warm_up: float = 0.5
    """Seconds before those that count."""

    def targets(self) -> list[tuple[str, str]]:
        """Stream and subject of each stream."""
        if self.streams == 1:
            return [(self.stream, self.subject)]
        return [(f"{self.stream}-{number}", f"{self.subject}.{number}") for number in range(self.streams)]


@dataclass(frozen=True, slots=True)
class Measurement:
    """What came back. Latencies in seconds, from the send call to the end of the receive call."""

    stored: int
    """Messages acknowledged in the time that counts, by a stream."""
    seconds: float
    rate: float
    """Acknowledged messages per second."""
    p50: float
    p99: float
    maximum: float
    errors: int
    """Messages that were refused, or that no stream listened for."""
    first_error: str
    duplicates: int
    unanswered: int
    """Messages whose fate is unknown: no answer came while the load ran or within the time after it."""
    total: int
    """Messages stored from first to last, also before and after the time that counts."""
    generator_cpu: float
    """Share of one processor that the load generator used, 1.0 is all of it."""


@dataclass(slots=True)
class _Connection:
    """One publisher: its socket, what is on its way, and what the socket has not taken yet."""

    sock: socket.socket
    scanner: Scanner
    sent: Sent
    window: int
    outstanding: int = 0
    unsent: memoryview = field(default_factory=lambda: memoryview(b""))
    paused_until: float = 0.0


def run_load(load: Load) -> Measurement:
    """Publish into a stream that exists, and measure. Blocks; uses this thread alone.

    Raises:
        BenchFailed: a connection could not be made or was lost, or the server answered with -ERR.
    """
    if load.connections < 1 or load.window < load.connections or load.seconds <= 0:
        raise BenchFailed(
            "a load needs a connection, a window of at least one message for each, and some time"
        )
    with ExitStack() as stack:
        poller = stack.enter_context(select.epoll())
        shares = [load.window * (n + 1) // load.connections for n in range(load.connections)]
        connections = {}
        subjects = [subject for _, subject in load.targets()]
        for number, (before, after) in enumerate(zip([0, *shares], shares, strict=False)):
            url, subject = load.urls[number % len(load.urls)], subjects[number % len(subjects)]
            made = _open(load, url, subject, after - before)
            connections[stack.enter_context(made.sock).fileno()] = made
            poller.register(made.sock, select.EPOLLIN)
        return _Run(load, poller, connections).run()


class _Run:
    """The loop: send what the windows have room for, count what comes back."""

    def __init__(self, load: Load, poller: select.epoll, connections: dict[int, _Connection]) -> None:
        self.load = load
        self.poller = poller
        self.connections = connections
        self.counts = AckCounts()
        self.first_error = ""
        self.sending = True
        self.paused: list[_Connection] = []

    def run(self) -> Measurement:
        started = time.monotonic()
        for connection in self.connections.values():
            self.send(connection)
        self.poll_until(started + self.load.warm_up)
        warming, self.counts, self.first_error = self.counts, AckCounts(), ""
        begin, cpu = time.monotonic(), time.process_time()
        self.poll_until(begin + self.load.seconds)
        elapsed, cpu = time.monotonic() - begin, time.process_time() - cpu
        counts, self.counts = self.counts, AckCounts()
        self.sending = False
        self.poll_until(time.monotonic() + DRAIN_SECONDS)
        p50, p99 = (quantile(counts.latencies, share) for share in (0.5, 0.99))
        return Measurement(
            stored=counts.stored,
            seconds=elapsed,
            rate=counts.stored / elapsed,
            p50=p50,
            p99=p99,
            maximum=counts.latency_max / 1e9,
            errors=counts.errors,
            first_error=self.first_error,
            duplicates=counts.duplicates,
            unanswered=sum(connection.outstanding for connection in self.connections.values()),
            total=warming.stored + counts.stored + self.counts.stored,
            generator_cpu=cpu / elapsed,
        )

    def poll_until(self, deadline: float) -> None:
        """Serve the sockets until then; while draining, at most until nothing is outstanding."""
        connections = self.connections
        while (now := time.monotonic()) < deadline:
            if not self.sending and not any(made.outstanding for made in connections.values()):
                return
            wait = deadline - now if not self.paused else min(RETRY_SECONDS, deadline - now)
            for descriptor, events in self.poller.poll(wait):
                connection = connections[descriptor]
                if events & ~select.EPOLLOUT:
                    self.receive(connection)
                self.send(connection)
            if self.paused:
                waiting, self.paused = self.paused, []
                for connection in waiting:
                    self.send(connection)

    def receive(self, connection: _Connection) -> None:
        scanner = connection.scanner
        try:
            size = scanner.receive(connection.sock)
        except BlockingIOError:
            return
        except OSError as error:
            raise BenchFailed(f"a connection was lost: {error}") from None
        if not size:
            raise BenchFailed("the server closed a connection")
        now = time.monotonic_ns()
        try:
            while count := scanner.scan():
                answered = count_acks(scanner, connection.sent, now, self.counts)
                connection.outstanding -= answered
                if self.counts.first_error:
                    self.refused(connection)
                if answered < count:
                    self.answer(connection, count)
        except ProtocolError as error:
            raise BenchFailed(f"the server broke the protocol: {error}") from None

    def refused(self, connection: _Connection) -> None:
        """Note the first error, and give the stream a moment."""
        connection.paused_until = time.monotonic() + RETRY_SECONDS
        if not self.first_error:
            number = self.counts.first_error - 1
            scanner = connection.scanner
            body = scanner.payload(number) or scanner.headers(number)
            self.first_error = " ".join(body.decode(errors="replace").split())

    def answer(self, connection: _Connection, count: int) -> None:
        """What is no acknowledgement: PING wants an answer, -ERR ends the run."""
        scanner = connection.scanner
        for number in range(count):
            if scanner.kind(number) == OpKind.PING:
                # Behind the rest of a publish, and never in the middle of one.
                connection.unsent = memoryview(bytes(connection.unsent) + b"PONG\r\n")
            elif scanner.kind(number) == OpKind.ERR:
                raise BenchFailed(f"the server says {scanner.text(number)!r}")

    def send(self, connection: _Connection) -> None:
        """Fill the window, and hand the socket what it takes; epoll tells when it takes more."""
        waiting = bool(connection.unsent)
        while True:
            if not connection.unsent:
                room = connection.window - connection.outstanding
                if not room or not self.sending:
                    break
                if connection.paused_until:
                    if time.monotonic() < connection.paused_until:
                        self.paused.append(connection)
                        break
                    connection.paused_until = 0.0
                connection.unsent = connection.sent.format(room, time.monotonic_ns())
                connection.outstanding += room
            try:
                size = connection.sock.send(connection.unsent)
            except BlockingIOError:
                break
            except OSError as error:
                raise BenchFailed(f"a connection was lost: {error}") from None
            connection.unsent = connection.unsent[size:]
        if waiting != bool(connection.unsent):
            events = select.EPOLLIN | (select.EPOLLOUT if connection.unsent else 0)
            self.poller.modify(connection.sock, events)


def quantile(latencies: Sequence[int], share: float) -> float:
    """Seconds below which this share of the counted latencies lies; 0.0 if none was counted."""
    sums = list(accumulate(latencies))
    wanted = share * sums[-1]
    bucket = next((number for number, total in enumerate(sums) if total and total >= wanted), 0)
    shift = max(0, bucket // 32 - 1)
    # The middle of the bucket, which is 3 % wide (csrc/protocol.h).
    return (((bucket - 32 * shift) << shift) + (1 << shift) / 2) / 1e9 if sums[-1] else 0.0


def _open(load: Load, url: str, subject: str, window: int) -> _Connection:
    """Connect and subscribe to this connection's inbox."""
    inbox = b"_INBOX.%b." % secrets.token_hex(8).encode()
    head = b"PUB %b %b" % (subject.encode(), inbox)
    message = b"%b%b %d\r\n%b\r\n" % (head, DIGITS, load.size, b"x" * load.size)
    scanner = Scanner(Direction.CLIENT, max_control_line=65000)
    try:
        server = ServerAddress.parse(url)
        sock = socket.create_connection((server.host, server.port), HANDSHAKE_SECONDS)
    except (OSError, ValueError) as error:
        raise BenchFailed(f"no server at {url}: {error}") from None
    try:
        info = json.loads(_read_until(sock, scanner, OpKind.INFO))
        if load.size > info.get("max_payload", load.size):
            raise BenchFailed(f"{load.size} bytes exceed the server's maximum payload")
        options: dict[str, object] = {"verbose": False, "pedantic": False, "headers": True, "protocol": 1}
        options |= {"no_responders": True, "lang": "trimaran", "version": "0.1", "name": "trimaran bench"}
        options |= server.credentials()
        connect_line = b"CONNECT %b\r\n" % json.dumps(options).encode()
        sock.sendall(connect_line + b"SUB %b* %d\r\nPING\r\n" % (inbox, INBOX_SID))
        _read_until(sock, scanner, OpKind.PONG)
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except (OSError, ValueError, ProtocolError) as error:
        sock.close()
        raise BenchFailed(f"no answer from {url}: {error}") from None
    except BenchFailed:
        sock.close()
        raise
    return _Connection(sock, scanner, Sent(message, len(head), len(inbox), window), window)


def _read_until(sock: socket.socket, scanner: Scanner, awaited: OpKind) -> bytes:
    """Read operations up to the awaited one, which ends its scan; returns its arguments."""
    while True:
        while count := scanner.scan():
            kinds = [scanner.kind(number) for number in range(count)]
            if OpKind.ERR in kinds:
                raise BenchFailed(f"the server says {scanner.text(kinds.index(OpKind.ERR))!r}")
            if awaited in kinds:
                return scanner.args(kinds.index(awaited))
        if not scanner.receive(sock):
            raise BenchFailed("the server closed the connection")


async def create_streams(load: Load) -> list[str]:
    """Make sure that the streams are there; the names of those made here.

    Waits while the cluster has no leader yet.

    Raises:
        BenchFailed: a stream of this name has other subjects, or it could not be made.
    """
    failure: Exception = BenchFailed("no answer")
    made: list[str] = []
    with trio.move_on_after(STREAM_SECONDS + load.streams * EACH_STREAM_SECONDS):
        while True:
            try:
                async with connect(*load.urls) as client:
                    for stream, subject in load.targets():
                        if await _find_or_create(client, stream, subject, load.replicas):
                            made.append(stream)
                    return made
            except (NatsError, OSError) as error:
                failure = error
            await trio.sleep(0.2)
    raise BenchFailed(f"stream {load.stream} can't be made: {failure}")


async def _find_or_create(client: Client, stream: str, subject: str, replicas: int) -> bool:
    try:
        info = await client.stream_info(stream)
    except JetStreamError as error:
        if error.err_code != STREAM_NOT_FOUND:
            raise
    else:
        config = info.get("config")
        subjects = config.get("subjects") if isinstance(config, dict) else None
        if subjects != [subject]:
            raise BenchFailed(f"stream {stream} exists with other subjects: {subjects}")
        return False
    await client.create_stream(stream, [subject], replicas=replicas)
    return True


async def _delete_streams(load: Load, names: Sequence[str]) -> None:
    async with connect(*load.urls, request_timeout=STREAM_SECONDS) as client:
        for name in names:
            await client.delete_stream(name)


def measure(load: Load, *, keep: bool = False) -> Measurement:
    """Make the streams that are missing, run the load, and delete those that were made here.

    Raises:
        BenchFailed: a stream could not be made, or the load not be run to its end.
    """
    made = trio.run(create_streams, load)
    try:
        return run_load(load)
    finally:
        if made and not keep:
            try:
                trio.run(_delete_streams, load, made)
            except NatsError as error:
                click.echo(f"left behind: {', '.join(made)}: {error}", err=True)


def result_table(load: Load, result: Measurement) -> Table:
    """The figures, one per row."""
    table = Table(show_header=False)
    table.add_column(justify="right", style="bold")
    table.add_column()
    table.add_row(f"{result.rate:,.0f}", f"messages/s of {load.size} bytes, acknowledged")
    table.add_row(f"{result.p50 * 1e3:.2f} ms", "median time to the acknowledgement")
    table.add_row(f"{result.p99 * 1e3:.2f} ms", "99 of 100 within")
    table.add_row(f"{result.maximum * 1e3:.2f} ms", "longest")
    table.add_row(f"{result.errors:,}", f"errors  {result.first_error}")
    table.add_row(f"{result.unanswered:,}", "unanswered")
    table.add_row(f"{result.generator_cpu:.0%}", "of one processor used by this program itself")
    return table


_SUBJECT: Final = re.compile(r"[^\s.*>]+(\.[^\s.*>]+)*")
_STREAM: Final = re.compile(r"[^\s.*>/\\]+")


def check_options(load: Load) -> None:
    """What click can't know of. Raises Failure, naming the option."""
    for url in load.urls:
        try:
            ServerAddress.parse(url)
        except ValueError as error:
            raise Failure(f"--url: {error}", EXIT_BAD_OPTION) from None
    if not _STREAM.fullmatch(load.stream):
        raise Failure(f"--stream: {load.stream!r} is no name of a stream", EXIT_BAD_OPTION)
    if not _SUBJECT.fullmatch(load.subject):
        raise Failure(f"--subject: {load.subject!r} is no subject to publish to", EXIT_BAD_OPTION)
    if math.isnan(load.seconds):
        raise Failure("--seconds: nan is no time", EXIT_BAD_OPTION)


@click.command(short_help="Measure how fast a stream acknowledges messages.")
@click.option(
    "--url", "urls", multiple=True, metavar="URL", help=f"Server; may repeat. [default: {DEFAULT_URL}]"
)
@click.option(
    "--size", default=128, show_default=True, type=click.IntRange(0, 1 << 26), help="Bytes of payload."
)
@click.option("--connections", default=4, show_default=True, type=click.IntRange(1, 10_000))
@click.option(
    "--window",
    default=4000,
    show_default=True,
    type=click.IntRange(1, 10_000_000),
    help="Messages under way, over all connections; at least one for each.",
)
@click.option("--seconds", default=5.0, show_default=True, type=click.FloatRange(0.1, 86_400))
@click.option(
    "--replicas", default=1, show_default=True, type=click.IntRange(1, 9), help="Of a stream made here."
)
@click.option("--subject", default="bench", show_default=True)
@click.option("--stream", default="BENCH", show_default=True)
@click.option(
    "--streams",
    default=1,
    show_default=True,
    type=click.IntRange(1, 10_000),
    help="Spread the connections over so many streams, each with a subject below --subject.",
)
@click.option("--keep", is_flag=True, help="Do not delete the streams that were made.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON (times in seconds).")
def bench(
    urls: tuple[str, ...],
    size: int,
    connections: int,
    window: int,
    seconds: float,
    replicas: int,
    subject: str,
    stream: str,
    streams: int,
    keep: bool,
    as_json: bool,
) -> None:
    """Measure how many messages per second a stream acknowledges, and how soon.

    Works against any NATS server with JetStream. The stream is made if it is missing, and deleted afterwards
    if it was. With --window equal to --connections each connection has one message under way at a time.
    """
    load = Load(
        urls=urls or (DEFAULT_URL,),
        stream=stream,
        subject=subject,
        streams=streams,
        replicas=replicas,
        size=size,
        connections=max(connections, streams),  # each stream has one at least
        window=max(window, connections, streams),
        seconds=seconds,
    )
    check_options(load)
    try:
        result = measure(load, keep=keep)
    except BenchFailed as error:
        raise Failure(str(error)) from None
    if as_json:
        click.echo(json.dumps({"load": dataclasses.asdict(load), "result": dataclasses.asdict(result)}))
    else:
        Console().print(result_table(load, result))
