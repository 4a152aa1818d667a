"""`trimaran demo`: three real processes, a stream with three replicas, a leader killed in the middle.

Messages are published with an id of their own and sent again, with the same id, when their fate is unknown.
Afterwards each node in turn becomes the stream's leader and every message is read back from its own store.
What was acknowledged must be there, where the acknowledgement said, once and unchanged, on all three.
"""

from __future__ import annotations

import base64
import json
import secrets
import signal
import tempfile
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

import click
import trio
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from ..client import (
    Client,
    ConnectFailed,
    Message,
    NatsError,
    PendingAck,
    Publisher,
    Stored,
    connect,
)
from . import Failure
from .node import leaves
from .processes import NodeProcess, plan, running, wait_healthy

EXIT_BAD_VERDICT: Final = 1
EXIT_NO_VERDICT: Final = 3

STREAM: Final = "DEMO"
SUBJECT: Final = "demo.messages"

WINDOW: Final = 1000
"""Messages under way at a time."""
FATE_SECONDS: Final = 2.0
"""An acknowledgement that takes longer counts as lost on the way: the message is sent again."""
RETRY_SECONDS: Final = 0.05
"""Pause after a whole window without an acknowledgement, so that a cluster without a leader isn't flooded."""
PUBLISH_SECONDS: Final = 120.0
READS: Final = 256
"""Reads under way at a time."""
READ_SECONDS: Final = 10.0
READ_ATTEMPTS: Final = 3
LEADER_SECONDS: Final = 15.0
UNLIMITED: Final = 1 << 62

NO_MESSAGE: Final = 10037
"""The API's error code for a sequence that the stream doesn't have."""

FILLING: Final = bytes(range(251))


def payload_of(number: int, size: int) -> bytes:
    """What message `number` says: itself, and then a filling that depends on it."""
    head = f"message {number} ".encode()
    start = number % len(FILLING)
    return head + (FILLING * (2 + size // len(FILLING)))[start : start + max(0, size - len(head))]


@dataclass(slots=True)
class Replica:
    """What one node's store held of the acknowledged messages."""

    node: str
    stored: int = 0
    """Messages in the store."""
    lost: int = 0
    """Acknowledged, but not where the acknowledgement said."""
    duplicated: int = 0
    """Stored more than once."""
    damaged: int = 0
    """Stored with other bytes than were sent."""

    @property
    def good(self) -> bool:
        return self.stored > 0 and not (self.lost or self.duplicated or self.damaged)


@dataclass(slots=True)
class Verdict:
    """What the demo found; the exit code is made from it."""

    messages: int
    size: int
    acknowledged: int = 0
    sent_again: int = 0
    """Messages whose fate was unknown or that were refused, and that were therefore sent again."""
    recognised: int = 0
    """Of those: found to be stored already, by their id."""
    killed: str = ""
    failover_ms: float = 0.0
    """From the kill to the first acknowledgement of a message sent after it."""
    seconds: float = 0.0
    """Of publishing, failover included."""
    messages_per_second: float = 0.0
    messages_per_sync: float = 0.0
    """Messages for each fsync of a node's log, on average over the nodes that were not killed."""
    replicas: list[Replica] = field(default_factory=list)

    @property
    def good(self) -> bool:
        complete = self.acknowledged == self.messages and len(self.replicas) == 3
        return complete and all(replica.good for replica in self.replicas)


class ReadFailed(Exception):
    """The store could not be read to its end this time; another attempt may do better."""


class Show:
    """What the user sees while it runs: on stderr, so that stdout has the verdict alone."""

    def __init__(self) -> None:
        self.console = Console(stderr=True, highlight=False)
        """Progress is drawn on terminals only; the steps are plain lines."""

    def step(self, text: str) -> None:
        self.console.print(f"[bold]>[/] {text}")

    @contextmanager
    def progress(self, text: str, total: int) -> Iterator[Callable[[int], None]]:
        columns = (TextColumn("  {task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        quiet = not self.console.is_terminal
        with Progress(*columns, console=self.console, transient=True, disable=quiet) as progress:
            task: TaskID = progress.add_task(text, total=total)
            yield lambda done: progress.update(task, completed=done)


class Load:
    """Publishes all messages, each until it is acknowledged, and remembers where each one is."""

    def __init__(self, client: Client, verdict: Verdict, show: Callable[[int], None]) -> None:
        self.sequences: dict[int, int] = {}
        """Message number -> the sequence its acknowledgement named."""
        self.halfway = trio.Event()
        """Half is acknowledged."""
        self._client = client
        self._verdict = verdict
        self._show = show
        self._window = max(1, min(WINDOW, verdict.messages // 4))
        self._fresh = 0
        """The first message never sent yet."""
        self._limit = verdict.messages * 3 // 4
        """The rest waits for the kill: whatever the speed, there are messages to send after it."""
        self._resumed = trio.Event()
        self._failures = 0
        """Since the last acknowledgement."""
        self._again: deque[int] = deque()
        self._under_way: deque[tuple[int, float, PendingAck]] = deque()
        self._publisher = Publisher(client, UNLIMITED, 0.0)

    async def run(self) -> None:
        """Return when every message is acknowledged."""
        while len(self.sequences) < self._verdict.messages:
            number = self._next()
            if number is not None:
                await self._send(number)
            if len(self._under_way) >= self._window or (number is None and self._under_way):
                await self._settle()
            elif number is None:
                await self._resumed.wait()

    async def first_acknowledgement(self) -> None:
        """Return when a message is acknowledged that is sent from now on."""
        self._publisher = after = Publisher(self._client, UNLIMITED, 0.0)
        self._limit = self._verdict.messages
        self._resumed.set()
        while True:
            await trio.sleep(0.001)
            if after.stored:
                return

    def _next(self) -> int | None:
        """The message to send now, if there is one: those to be sent again go first."""
        if self._again:
            return self._again.popleft()
        if self._fresh >= self._limit:
            return None
        self._fresh += 1
        return self._fresh - 1

    async def _send(self, number: int) -> None:
        body, message_id = payload_of(number, self._verdict.size), f"demo-{number}"
        try:
            pending = await self._publisher.publish(SUBJECT, body, message_id=message_id)
        except ConnectFailed:
            self._again.append(number)
            self._verdict.sent_again += 1
            return
        self._under_way.append((number, trio.current_time() + FATE_SECONDS, pending))

    async def _settle(self) -> None:
        """Learn the fate of the message that has been under way longest."""
        number, deadline, pending = self._under_way.popleft()
        with trio.move_on_at(deadline):
            await pending.wait()
        if isinstance(pending.outcome, Stored):
            self._verdict.recognised += pending.outcome.ack.duplicate
            self.sequences[number] = pending.outcome.ack.sequence
            self._failures = 0
            self._note_progress()
            return
        self._verdict.sent_again += 1
        self._again.append(number)
        self._failures += 1
        if self._failures % self._window == 0:
            await trio.sleep(RETRY_SECONDS)

    def _note_progress(self) -> None:
        self._show(len(self.sequences))
        if 2 * len(self.sequences) >= self._verdict.messages:
            self.halfway.set()


async def leader_of(client: Client) -> str:
    """The name of the node that leads the stream, or an empty string."""
    try:
        cluster = (await client.stream_info(STREAM)).get("cluster")
    except NatsError:
        return ""
    leader = cluster.get("leader") if isinstance(cluster, dict) else None
    return leader if isinstance(leader, str) else ""


async def some_leader(client: Client) -> str:
    """The stream's leader as soon as there is one. Raises Failure."""
    with trio.move_on_after(LEADER_SECONDS):
        while True:
            if name := await leader_of(client):
                return name
            await trio.sleep(0.05)
    raise Failure(f"the stream had no leader for {LEADER_SECONDS:g} s", EXIT_NO_VERDICT)


async def make_leader(client: Client, name: str) -> None:
    """Have the stream led by this node. Raises Failure."""
    body = {"placement": {"preferred": name}}
    with trio.move_on_after(LEADER_SECONDS):
        while await leader_of(client) != name:
            try:
                await client.api(f"STREAM.LEADER.STEPDOWN.{STREAM}", body)
            except NatsError:
                pass  # An election is under way; the loop asks again.
            await trio.sleep(0.1)
        return
    raise Failure(f"node {name} did not become the stream's leader in {LEADER_SECONDS:g} s", EXIT_NO_VERDICT)


async def syncs_of(nodes: list[NodeProcess]) -> dict[str, int]:
    """The log's fsync counter of every node that answers."""
    counts = {}
    for node in nodes:
        wal = (await node.ask("/varz")).get("wal")
        syncs = wal.get("syncs") if isinstance(wal, Mapping) else None
        counts[node.name] = syncs if isinstance(syncs, int) else 0
    return counts


async def publish_through_a_kill(
    client: Client, nodes: list[NodeProcess], verdict: Verdict, show: Show
) -> Load:
    """Publish everything; in the middle kill the leader, and start it again when another one serves."""
    before = await syncs_of(nodes)
    with show.progress("publishing", verdict.messages) as update:
        load = Load(client, verdict, update)
        begin = trio.current_time()
        with trio.move_on_after(PUBLISH_SECONDS) as patience:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(kill_the_leader, client, nodes, load, verdict, show)
                await load.run()
                verdict.seconds = trio.current_time() - begin
    if patience.cancelled_caught:
        raise Failure(f"publishing did not end within {PUBLISH_SECONDS:g} s", EXIT_NO_VERDICT)
    verdict.acknowledged = len(load.sequences)
    verdict.messages_per_second = verdict.acknowledged / verdict.seconds
    survivors = [node for node in nodes if node.name != verdict.killed]
    after = await syncs_of(survivors)
    syncs = sum(after[name] - before[name] for name in after) / len(survivors)
    verdict.messages_per_sync = verdict.acknowledged / syncs if syncs > 0 else 0.0
    return load


async def kill_the_leader(
    client: Client, nodes: list[NodeProcess], load: Load, verdict: Verdict, show: Show
) -> None:
    """SIGKILL to the stream's leader once half is acknowledged; start it again when another one serves."""
    name = await some_leader(client)
    victim = next(node for node in nodes if node.name == name)
    await load.halfway.wait()
    victim.kill()
    killed_at = trio.current_time()
    verdict.killed = name
    show.step(f"killed the leader, node {name}, after {len(load.sequences):,} acknowledgements")
    await load.first_acknowledgement()
    verdict.failover_ms = 1000 * (trio.current_time() - killed_at)
    show.step(f"another node took over: first acknowledgement after {verdict.failover_ms:,.0f} ms")
    if victim.process is not None:
        await victim.process.wait()
    await victim.start()


async def read_back(client: Client, last: int, show: Callable[[int], None]) -> dict[int, bytes]:
    """Every message of the stream by sequence, as its leader has it; many requests under way at a time.

    Raises:
        ReadFailed: an answer was missing or an error, as when the leadership moves.
    """
    found: dict[int, bytes] = {}
    inbox = f"demo-inbox.{secrets.token_hex(8)}"
    subject = f"$JS.API.STREAM.MSG.GET.{STREAM}"
    asked = 0
    async with await client.subscribe(f"{inbox}.*") as answers:
        for answered in range(last):
            while asked < min(last, answered + READS):
                asked += 1
                await client.publish(subject, b'{"seq": %d}' % asked, reply=f"{inbox}.{asked}")
            with trio.move_on_after(READ_SECONDS) as patience:
                answer = await answers.receive()
            if patience.cancelled_caught:
                raise ReadFailed(f"no answer within {READ_SECONDS:g} s")
            data = data_of(answer)
            if data is not None:
                found[int(answer.subject.rpartition(".")[2])] = data
            show(answered + 1)
    return found


def data_of(answer: Message) -> bytes | None:
    """The message in an answer of the API; None if the stream doesn't have it. Raises ReadFailed."""
    body = json.loads(answer.data) if answer.data else {}
    if "message" in body:
        return base64.b64decode(body["message"].get("data", ""))
    error = body.get("error", {"description": f"status {answer.status}"})
    if error.get("err_code") == NO_MESSAGE:
        return None
    raise ReadFailed(str(error.get("description")))


def judge(node: str, found: Mapping[int, bytes], sequences: Mapping[int, int], size: int) -> Replica:
    """Compare what a store holds with what was acknowledged."""
    replica = Replica(node, stored=len(found))
    copies = Counter(found.values())
    for number, sequence in sequences.items():
        body = payload_of(number, size)
        if sequence not in found:
            replica.lost += 1
        elif found[sequence] != body:
            replica.damaged += 1
        replica.duplicated += max(0, copies[body] - 1)
    return replica


async def verify(node: NodeProcess, load: Load, verdict: Verdict, show: Show) -> Replica:
    """Read everything from this node's own store, which it serves from while it leads the stream."""
    reason = ""
    for _ in range(READ_ATTEMPTS):
        async with connect(node.client) as client:
            await make_leader(client, node.name)
            state = (await client.stream_info(STREAM)).get("state")
            last = state.get("last_seq", 0) if isinstance(state, dict) else 0
            try:
                with show.progress(f"reading from node {node.name}", last) as update:
                    found = await read_back(client, last, update)
            except ReadFailed as failure:
                reason = str(failure)
                continue
            if await leader_of(client) == node.name:
                return judge(node.name, found, load.sequences, verdict.size)
            reason = "it lost the leadership meanwhile"
    raise Failure(f"node {node.name} could not be read: {reason}", EXIT_NO_VERDICT)


async def run(directory: Path, messages: int, size: int, show: Show) -> Verdict:
    """The whole demo in one directory. Raises Failure if there can be no verdict."""
    verdict = Verdict(messages, size)
    nodes = plan(directory)
    show.step(f"starting nodes {', '.join(node.name for node in nodes)} in {directory}")
    async with running(nodes):
        await wait_healthy(nodes)
        async with connect(*(node.client for node in nodes)) as client:
            await client.create_stream(STREAM, ["demo.>"], replicas=len(nodes))
            show.step(f"publishing {messages:,} messages of {size} bytes to a stream with three replicas")
            load = await publish_through_a_kill(client, nodes, verdict, show)
        show.step(f"node {verdict.killed} is back; waiting until all are caught up")
        await wait_healthy(nodes)
        show.step("reading every acknowledged message back from each replica's own store")
        for node in nodes:
            verdict.replicas.append(await verify(node, load, verdict, show))
    return verdict


async def run_unless_stopped(directory: Path, messages: int, size: int, show: Show) -> Verdict | None:
    """`run`, ended by SIGINT or SIGTERM with None; the nodes are stopped either way."""
    verdict = None
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_cancel_at, signals, nursery.cancel_scope)
            verdict = await run(directory, messages, size, show)
            nursery.cancel_scope.cancel()
    return verdict


async def _cancel_at(signals: AsyncIterator[int], scope: trio.CancelScope) -> None:
    async for _ in signals:
        scope.cancel()


def table_of(verdict: Verdict) -> Table:
    """The verdict for people."""
    table = Table(show_header=False, title="verdict", title_justify="left")
    table.add_column()
    table.add_column(justify="right")
    table.add_row("acknowledged", f"{verdict.acknowledged:,} of {verdict.messages:,}")
    table.add_row("sent again with the same id", f"{verdict.sent_again:,}")
    table.add_row("of these recognised as stored already", f"{verdict.recognised:,}")
    table.add_row("failover (kill to next acknowledgement)", f"{verdict.failover_ms:,.0f} ms")
    table.add_row("messages per second, failover included", f"{verdict.messages_per_second:,.0f}")
    table.add_row("messages per fsync of a node", f"{verdict.messages_per_sync:,.1f}")
    for replica in verdict.replicas:
        good = "[green]nothing lost, nothing twice[/]"
        bad = f"[red]lost {replica.lost:,}, twice {replica.duplicated:,}, damaged {replica.damaged:,}[/]"
        table.add_row(f"node {replica.node}: {replica.stored:,} messages", good if replica.good else bad)
    return table


@contextmanager
def directory_for(keep: Path | None) -> Iterator[Path]:
    """Where the nodes live: a new place that goes afterwards, or the user's, which must be empty."""
    if keep is None:
        with tempfile.TemporaryDirectory(prefix="trimaran-demo-", ignore_cleanup_errors=True) as temporary:
            yield Path(temporary)
        return
    try:
        keep.mkdir(parents=True, exist_ok=True)
        occupied = any(keep.iterdir())
    except OSError as error:
        raise Failure(f"--keep: {keep}: {error.strerror}", 2) from None
    if occupied:
        raise Failure(f"--keep: {keep} is not empty", 2)
    yield keep


@click.command(short_help="Kill a leader under load; nothing acknowledged is lost.")
@click.option(
    "--messages", type=click.IntRange(10, 1_000_000), default=20_000, show_default=True, metavar="COUNT"
)
@click.option("--size", type=click.IntRange(1, 500_000), default=128, show_default=True, metavar="BYTES")
@click.option("--keep", type=click.Path(path_type=Path), metavar="DIR", help="Keep logs and data here.")
@click.option("--json", "as_json", is_flag=True, help="Print the verdict as JSON.")
def demo(messages: int, size: int, keep: Path | None, as_json: bool) -> int:
    """Kill a leader under load and show that nothing acknowledged is lost.

    Three nodes on loopback, real processes and real fsync. The exit code is the verdict: 0 if every
    acknowledged message is in every replica, once and unchanged; 1 if not; 3 if it could not be found out.
    """
    try:
        with directory_for(keep) as directory:
            verdict = trio.run(run_unless_stopped, directory, messages, size, Show())
    except BaseExceptionGroup as error:  # a nursery wraps whatever ends it
        raise _known(error) from None
    if verdict is None:
        raise click.Abort
    if as_json:
        click.echo(json.dumps({"good": verdict.good, **asdict(verdict)}, indent=2))
    else:
        Console().print(table_of(verdict))
    return 0 if verdict.good else EXIT_BAD_VERDICT


def _known(error: BaseException) -> BaseException:
    """The one thing to tell the user of an error, or the error itself if it is a bug."""
    causes = list(leaves(error))
    for cause in causes:
        if isinstance(cause, Failure):
            return cause
    for cause in causes:
        if isinstance(cause, NatsError):
            return Failure(f"the cluster stopped answering: {cause}", EXIT_NO_VERDICT)
    return error
