"""Chaos on real nodes: processes killed and held still, links dropped one way or both, restart storms,
kills at the N-th system call; under load from nats-py, checked like the simulator's histories.

    python -m tests.system.chaos --minutes 5 --seed 1

Every fault strikes a minority, except `kill everyone`; acknowledgements must come *during* each of the
others. The seed decides which faults come in which order and where they strike; what the kernel makes of it
differs from run to run. A kill at a system call needs strace; where that is missing, a kill at a random
moment stands for it.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import logging
import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import nats.errors
import nats.js.errors
from nats.aio.client import Client

from tests.system.links import Links
from tests.system.processes import NodeProcess, ProcessCluster, free_ports
from tests.system.rounds import api, connect, leader_of
from trimaran.testing.nodes.history import Append, Journal, Seen

NAMES = ("a", "b", "c")
STREAM = "CHAOS"
SUBJECT = "chaos.x"
ACK_SECONDS = 8.0
FAULT_SECONDS = 4.0
"""How long a fault lasts: an election takes one, and there must be time to see acknowledgements after it."""
CALM_SECONDS = 0.5
READS = 200
PER_SECOND = 100
SYSTEM_CALLS = ("fdatasync", "pwritev", "fsync", "rename", "ftruncate")
STRACE = shutil.which("strace")


@dataclass
class Outcome:
    """What a run showed."""

    acknowledged: int = 0
    doubtful: int = 0
    refused: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)
    longest_gap: float = 0.0
    """Seconds without an acknowledgement, while a minority was at fault."""

    def complain(self, rule: str, facts: str) -> None:
        self.violations.append(f"{rule}: {facts}")


class Load:
    """Publishes at a steady pace through one node after another, and reads; remembers every answer."""

    def __init__(self, clients: dict[str, Client], random: Random) -> None:
        self.journal = Journal("stream")
        self.acknowledgements: list[float] = []
        self.stopped = asyncio.Event()
        self.clients = clients
        self._random = random

    async def run(self) -> None:
        tasks: set[asyncio.Task[None]] = set()
        number = 0
        while not self.stopped.is_set():
            number += 1
            name = self._random.choice(list(self.clients))
            work = self._read(name) if number % 10 == 0 else self._publish(name, number)
            task = asyncio.create_task(work)
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            await asyncio.sleep(1 / PER_SECOND)
        await asyncio.gather(*tasks)

    async def reach(self, name: str, url: str) -> None:
        """Bring the client of this node back to it, if it has gone elsewhere or has no answer.

        When its node is killed, nats-py connects to another one that it has heard of, and stays there. With
        all clients at one node a fault of that one would show what becomes of clients, not of the cluster.
        """
        client = self.clients[name]
        with suppress(nats.errors.Error, OSError):
            if client.connected_url is not None and client.connected_url.geturl() == url:
                await client.flush(timeout=1)
                return
        with suppress(nats.errors.Error, OSError, asyncio.TimeoutError):
            await asyncio.wait_for(client.close(), 1)
        self.clients[name] = await connect(url)

    async def _publish(self, name: str, number: int) -> None:
        append = Append(f"{name}-{number}".encode(), name, time.monotonic(), doubtful=True)
        self.journal.appends.append(append)
        try:
            ack = await self.clients[name].jetstream().publish(SUBJECT, append.text, timeout=ACK_SECONDS)
        except nats.js.errors.NoStreamResponseError:
            append.doubtful = False  # nobody took it
        except nats.js.errors.APIError as error:
            append.doubtful = error.err_code == 20001
        except (nats.errors.Error, OSError):
            pass  # no answer: it may be stored or not
        else:
            append.place, append.ended = ack.seq, time.monotonic()
            self.acknowledgements.append(append.ended)

    async def _read(self, name: str) -> None:
        began = time.monotonic()
        with suppress(nats.errors.Error, nats.js.errors.Error, OSError):
            found = await self.clients[name].jetstream().get_last_msg(STREAM, SUBJECT)
            if found.seq is not None:
                self.journal.reads.append(Seen(name, began, time.monotonic(), found.seq))
                self.journal.gets.append((began, found.seq, found.data or b""))


class Chaos:
    """The faults. Each is a coroutine that returns once everyone is up again."""

    def __init__(self, cluster: ProcessCluster, links: Links, load: Load, random: Random) -> None:
        self.outcome = Outcome()
        self.cluster = cluster
        self.links = links
        self.load = load
        self.random = random
        self.faults: dict[str, Callable[[], Awaitable[None]]] = {
            "kill the leader": self.kill_leader,
            "kill a follower": self.kill_follower,
            "hold the leader still": self.hold_leader,
            "hold a follower still": self.hold_follower,
            "cut the leader off": self.cut_leader_off,
            "the leader is deaf": self.deafen_leader,
            "the leader is mute": self.mute_leader,
            "a bridge": self.bridge,
            "connections are reset": self.reset,
            "a restart storm": self.storm,
            "kill at a system call": self.kill_at_a_call,
        }
        """Each of these is a minority's: acknowledgements must go on."""

    async def strike(self, kind: str) -> None:
        """One fault, and acknowledgements during it."""
        for name, node in self.cluster.nodes.items():
            await self.load.reach(name, node.url)
        self.outcome.faults[kind] += 1
        began = time.monotonic()
        await self.faults[kind]()
        during = [each for each in self.load.acknowledgements if each > began]
        if len(during) < 10:
            self.outcome.complain(
                "progress during a minority fault", f"{kind}: {len(during)} acknowledgements"
            )
        gap = max((b - a for a, b in zip([began, *during], during, strict=False)), default=float("inf"))
        self.outcome.longest_gap = max(self.outcome.longest_gap, gap)
        print(f"{kind}: {len(during)} acknowledged during it, longest gap {gap:.2f} s", flush=True)
        await asyncio.to_thread(self.cluster.wait_healthy)
        await asyncio.sleep(CALM_SECONDS)

    async def kill_everyone(self) -> None:
        """No minority: nothing is asked of it but that all come back with everything."""
        self.outcome.faults["kill everyone"] += 1
        for node in self.cluster.nodes.values():
            node.kill()
        for node in self.cluster.nodes.values():
            node.start()
        await asyncio.to_thread(self.cluster.wait_healthy)
        await asyncio.sleep(CALM_SECONDS)

    # --- whom it strikes

    async def leader(self) -> NodeProcess:
        return self.cluster[await leader_of(self.load.clients["a"], STREAM)]

    async def follower(self) -> NodeProcess:
        leader = await self.leader()
        return self.random.choice([node for node in self.cluster.nodes.values() if node is not leader])

    # --- processes

    async def kill_leader(self) -> None:
        await self._kill(await self.leader())

    async def kill_follower(self) -> None:
        await self._kill(await self.follower())

    async def _kill(self, node: NodeProcess) -> None:
        node.kill()
        await asyncio.sleep(FAULT_SECONDS)
        node.start()

    async def hold_leader(self) -> None:
        await self._hold(await self.leader())

    async def hold_follower(self) -> None:
        await self._hold(await self.follower())

    async def _hold(self, node: NodeProcess) -> None:
        assert node.process is not None
        node.process.send_signal(signal.SIGSTOP)
        await asyncio.sleep(FAULT_SECONDS)
        node.process.send_signal(signal.SIGCONT)

    async def storm(self) -> None:
        """One node after the other is killed and started again, with a breath between, for a while."""
        for _ in range(3):
            node = self.random.choice(list(self.cluster.nodes.values()))
            node.kill()
            await asyncio.sleep(self.random.uniform(0.1, 1.0))
            node.start()
            await asyncio.to_thread(self.cluster.wait_healthy)

    async def kill_at_a_call(self) -> None:
        """A node is killed in the middle of the N-th call that changes its disk, and started again."""
        node = await self.follower()
        call, count = self.random.choice(SYSTEM_CALLS), self.random.randrange(1, 60)
        node.kill()
        if STRACE is None:
            node.start()
            await asyncio.sleep(self.random.uniform(0.2, FAULT_SECONDS))
            node.kill()
        else:
            # With -D the node is the child, and strace stands beside it: whoever is killed here is the node.
            tracer = (STRACE, "-D", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={call}")
            node.start_under((*tracer, "-e", f"inject={call}:signal=KILL:when={count}"))
            assert node.process is not None
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(asyncio.to_thread(node.process.wait), FAULT_SECONDS)
            node.kill()  # a call that does not come so often strikes nobody
        node.start()
        await asyncio.sleep(1.0)

    # --- links

    async def cut_leader_off(self) -> None:
        leader = (await self.leader()).name
        others = [name for name in NAMES if name != leader]
        await self._held([(leader, other) for other in others] + [(other, leader) for other in others])

    async def deafen_leader(self) -> None:
        leader = (await self.leader()).name
        await self._held([(name, leader) for name in NAMES if name != leader])

    async def mute_leader(self) -> None:
        leader = (await self.leader()).name
        await self._held([(leader, name) for name in NAMES if name != leader])

    async def bridge(self) -> None:
        """Two nodes can't reach each other, a third reaches both."""
        one, other, _ = self.random.sample(NAMES, 3)
        await self._held([(one, other), (other, one)])

    async def _held(self, ways: list[tuple[str, str]]) -> None:
        self.links.hold(ways)
        await asyncio.sleep(FAULT_SECONDS)
        if self.random.random() < 0.5:
            self.links.reset(ways)
        self.links.heal()

    async def reset(self) -> None:
        for _ in range(8):
            one, other = self.random.sample(NAMES, 2)
            self.links.reset([(one, other)])
            await asyncio.sleep(0.2)


async def stored(client: Client) -> dict[int, bytes]:
    """All messages of the stream, as its leader has them."""
    info = await api(client, f"STREAM.INFO.{STREAM}")
    state = info["state"]
    assert isinstance(state, dict), info
    slots = asyncio.Semaphore(READS)
    found: dict[int, bytes] = {}

    async def read(sequence: int) -> None:
        async with slots:
            answer = await api(client, f"STREAM.MSG.GET.{STREAM}", seq=sequence)
        message = answer.get("message")
        if isinstance(message, dict):
            found[sequence] = base64.b64decode(message.get("data", ""))

    await asyncio.gather(*(read(sequence) for sequence in range(1, int(state["last_seq"]) + 1)))
    return found


async def check_replicas(client: Client, journal: Journal, outcome: Outcome) -> None:
    """Make each node the leader in turn, and compare what it holds with what clients were told."""
    for name in NAMES:
        deadline = time.monotonic() + 30
        while await leader_of(client, STREAM) != name:
            await api(client, f"STREAM.LEADER.STEPDOWN.{STREAM}", placement={"preferred": name})
            assert time.monotonic() < deadline, f"{name} does not become the leader"
        journal.check(name, await stored(client), outcome.complain)
    journal.check_order(outcome.complain)


@asynccontextmanager
async def behind_proxies(directory: Path) -> AsyncIterator[tuple[ProcessCluster, Links]]:
    """A healthy cluster whose nodes reach each other through proxies only."""
    cluster, links = ProcessCluster(directory, NAMES), Links()
    fronts = dict(zip(NAMES, free_ports(len(NAMES)), strict=True))
    for name, node in cluster.nodes.items():
        await links.serve(name, fronts[name], node.peer)
        node.arguments += ["--peer-advertise", f"127.0.0.1:{fronts[name]}", "--check-invariants", "on"]
        for other in cluster.nodes.values():
            real, front = (
                f"{other.name}=127.0.0.1:{other.peer}",
                f"{other.name}=127.0.0.1:{fronts[other.name]}",
            )
            node.arguments = [front if argument == real else argument for argument in node.arguments]
    try:
        await asyncio.to_thread(cluster.start)
        yield cluster, links
    finally:
        cluster.close()
        await links.close()


async def play(
    directory: Path, seed: int, seconds: float, kinds: list[str] | None = None, everyone: bool = True
) -> Outcome:
    """Faults under load for so long; `kinds` names those that come first, in this order."""
    random = Random(seed)
    async with behind_proxies(directory) as (cluster, links):
        clients = {name: await connect(cluster[name].url) for name in NAMES}
        await clients["a"].jetstream().add_stream(name=STREAM, subjects=["chaos.>"], num_replicas=3)
        load = Load(clients, random)
        chaos = Chaos(cluster, links, load, random)
        outcome, journal = chaos.outcome, load.journal
        running = asyncio.create_task(load.run())
        await asyncio.sleep(1.0)
        deadline = time.monotonic() + seconds
        first = list(kinds or ())
        while first or time.monotonic() < deadline:
            kind = first.pop(0) if first else random.choice([*chaos.faults, "kill everyone"])
            await (chaos.kill_everyone() if kind == "kill everyone" else chaos.strike(kind))
        load.stopped.set()
        await running
        await asyncio.to_thread(cluster.wait_healthy)
        await load.reach("a", cluster["a"].url)
        await check_replicas(clients["a"], journal, outcome)
        for node in cluster.nodes.values():
            if "invariant is violated" in node.log.read_text():
                outcome.complain("invariants", f"{node.name} says that one is violated")
        for client in clients.values():
            await client.close()
    outcome.acknowledged = len(load.acknowledgements)
    outcome.doubtful = sum(each.doubtful and not each.is_acknowledged for each in journal.appends)
    outcome.refused = len(journal.appends) - outcome.acknowledged - outcome.doubtful
    return outcome


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", action="append", help="play this fault, as often as it is named")
    arguments = parser.parse_args()
    logging.getLogger("nats").setLevel(logging.CRITICAL)
    if STRACE is None:
        print("NOT TESTED HERE: no strace, a kill at a random moment stands for one at a system call")
    with tempfile.TemporaryDirectory() as scratch:
        seconds = 0.0 if arguments.only else arguments.minutes * 60
        outcome = asyncio.run(play(Path(scratch), arguments.seed, seconds, arguments.only))
    print(
        f"{outcome.acknowledged} acknowledged, {outcome.doubtful} of unknown end, {outcome.refused} refused; "
        f"longest gap during a minority fault {outcome.longest_gap:.2f} s"
    )
    print(", ".join(f"{kind} {count}" for kind, count in outcome.faults.items()))
    for violation in outcome.violations:
        print(f"VIOLATION {violation}")
    return 1 if outcome.violations else 0


if __name__ == "__main__":
    raise SystemExit(main())
