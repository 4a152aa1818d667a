"""Kill rounds under load, checked message by message on every replica.

    python -m tests.system.rounds leader --rounds 10 --messages 100000
    python -m tests.system.rounds all --rounds 10 --messages 20000

`leader`: nats-py, connected to a follower, publishes while the stream's leader is killed and restarted.
`all`: every node is killed at once in the middle of the load, and started again.
After each round every acknowledged message must be readable, equal, from every replica's own store: each node
in turn is made the leader and asked for every sequence.
"""

import argparse
import asyncio
import base64
import json
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nats
import nats.errors
import nats.js.errors
from nats.aio.client import Client

from tests.system.processes import ProcessCluster, running

STREAM = "ROUNDS"
ACK_SECONDS = 6.0
WINDOW = 2000
READ_WINDOW = 500
LOAD_SECONDS = 300.0
PATIENCE_SECONDS = 60.0  # for a machine that does other things as well


@dataclass
class Round:
    """What one round showed; `missing` counts acknowledged messages that some replica lacks or has
    different."""

    acknowledged: int
    refused: int
    missing: int
    outage_seconds: float
    seconds: float


async def connect(url: str) -> Client:
    async def ignore(error: Exception) -> None:
        return

    return await nats.connect(url, error_cb=ignore, max_reconnect_attempts=-1, reconnect_time_wait=0.1)


async def api(client: Client, what: str, **body: object) -> dict[str, Any]:
    """One JetStream API call; asked again while there is no leader, or one that can't answer now.

    "Unavailable" says nothing about what is stored: it must never pass for a message that is missing.
    """
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            answer = await client.request(
                f"$JS.API.{what}", json.dumps(body).encode() if body else b"", timeout=5
            )
            found: dict[str, Any] = json.loads(answer.data)
            error = found.get("error")
            if not isinstance(error, dict) or error.get("code") != 503:
                return found
            assert time.monotonic() < deadline, f"{what}: {error}"
        except (nats.errors.TimeoutError, nats.errors.NoRespondersError):
            if time.monotonic() > deadline:
                raise
        await asyncio.sleep(0.05)


async def leader_of(client: Client, stream: str = STREAM) -> str:
    info = await api(client, f"STREAM.INFO.{stream}")
    cluster = info["cluster"]
    assert isinstance(cluster, dict), info
    return str(cluster["leader"])


class Load:
    """Publishes numbered payloads asynchronously and remembers what was acknowledged, and when."""

    def __init__(self, client: Client, prefix: str, window: int = WINDOW) -> None:
        self.client = client
        self.prefix = prefix
        self.acknowledged: dict[int, bytes] = {}
        self.times: list[float] = []
        self.refused = 0
        self.under_way = asyncio.Event()
        """Set once `enough` messages are acknowledged: the moment for trouble."""
        self.enough = 0
        self._slots = asyncio.Semaphore(window)

    async def run(self, messages: int) -> None:
        tasks = []
        for number in range(messages):
            await self._slots.acquire()
            tasks.append(asyncio.create_task(self._publish(number)))
        await asyncio.gather(*tasks)

    async def run_until(self, stop: asyncio.Event, per_second: int) -> None:
        """Publish at a steady pace, whatever happens meanwhile."""
        tasks: list[asyncio.Task[None]] = []
        while not stop.is_set():
            await self._slots.acquire()
            tasks.append(asyncio.create_task(self._publish(len(tasks))))
            await asyncio.sleep(1 / per_second)
        await asyncio.gather(*tasks)

    async def _publish(self, number: int) -> None:
        payload = f"{self.prefix}-{number}".encode()
        try:
            ack = await self.client.jetstream().publish(f"rounds.{number % 7}", payload, timeout=ACK_SECONDS)
            assert ack.seq not in self.acknowledged, f"sequence {ack.seq} was acknowledged twice"
            self.acknowledged[ack.seq] = payload
            self.times.append(time.monotonic())
            if len(self.times) >= self.enough:
                self.under_way.set()
        except (nats.errors.Error, nats.js.errors.Error):
            self.refused += 1
        finally:
            self._slots.release()


async def difference(client: Client, slots: asyncio.Semaphore, sequence: int, payload: bytes) -> str:
    """What the stream's leader has in place of an acknowledged message; empty if it has the message."""
    async with slots:
        found = await api(client, f"STREAM.MSG.GET.{STREAM}", seq=sequence)
    message = found.get("message")
    if isinstance(message, dict) and base64.b64decode(message.get("data", "")) == payload:
        return ""
    return f"sequence {sequence}: {payload!r} was acknowledged, found {found}"


async def count_missing(client: Client, names: list[str], acknowledged: dict[int, bytes]) -> int:
    """Make each node the leader in turn and compare every acknowledged message with what it has."""
    missing = 0
    for name in names:
        different = await differences(client, name, acknowledged)
        while await leader_of(client) != name:  # it went home, where nobody published: read again
            different = await differences(client, name, acknowledged)
        missing += len(different)
        for each in different[:3]:
            print(f"{name}: {each}", flush=True)
    return missing


async def differences(client: Client, name: str, acknowledged: dict[int, bytes]) -> list[str]:
    """What one node, made the leader, has in place of acknowledged messages."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while await leader_of(client) != name:
        await api(client, f"STREAM.LEADER.STEPDOWN.{STREAM}", placement={"preferred": name})
        assert time.monotonic() < deadline, f"{name} does not become the leader"
    slots = asyncio.Semaphore(READ_WINDOW)
    found = await asyncio.gather(
        *(difference(client, slots, sequence, payload) for sequence, payload in acknowledged.items())
    )
    return [each for each in found if each]


def longest_gap(times: list[float], since: float) -> float:
    """The longest time without an acknowledgement that ends after `since`."""
    later = sorted(each for each in times if each >= since)
    before = max((each for each in times if each < since), default=since)
    return max((b - a for a, b in zip([before, *later], later, strict=False)), default=float("inf"))


async def kill_leader(cluster: ProcessCluster, messages: int, number: int) -> Round:
    """SIGKILL of the stream's leader in the middle of the load, and a restart of it."""
    began = time.monotonic()
    probe = await connect(cluster.urls[0])
    leader = await leader_of(probe)
    await probe.close()
    follower = next(node for node in cluster.nodes.values() if node.name != leader)
    client = await connect(follower.url)
    load = Load(client, f"round{number}", min(WINDOW, messages // 10))
    load.enough = messages // 3
    running_load = asyncio.create_task(load.run(messages))
    await asyncio.wait_for(load.under_way.wait(), LOAD_SECONDS)
    killed = time.monotonic()
    cluster[leader].kill()
    await asyncio.sleep(1.0)
    cluster[leader].start()
    await running_load
    return await finish(cluster, client, load, longest_gap(load.times, killed), began)


async def kill_all(cluster: ProcessCluster, messages: int, number: int) -> Round:
    """SIGKILL of every node at once in the middle of the load, then a restart of all."""
    began = time.monotonic()
    client = await connect(cluster.urls[number % len(cluster.urls)])
    load = Load(client, f"round{number}", min(WINDOW, messages // 10))
    load.enough = messages // 2
    running_load = asyncio.create_task(load.run(messages))
    await asyncio.wait_for(load.under_way.wait(), LOAD_SECONDS)
    killed = time.monotonic()
    for node in cluster.nodes.values():
        node.kill()
    for node in cluster.nodes.values():
        node.start()
    await running_load
    await api(client, f"STREAM.INFO.{STREAM}")
    return await finish(cluster, client, load, longest_gap(load.times, killed), began)


async def finish(cluster: ProcessCluster, client: Client, load: Load, outage: float, began: float) -> Round:
    await asyncio.to_thread(cluster.wait_healthy)
    missing = await count_missing(client, list(cluster.nodes), load.acknowledged)
    await client.close()
    return Round(len(load.acknowledged), load.refused, missing, outage, time.monotonic() - began)


Kind = Callable[[ProcessCluster, int, int], Awaitable[Round]]
KINDS: dict[str, Kind] = {"leader": kill_leader, "all": kill_all}


async def play(
    cluster: ProcessCluster, kind: str, rounds: int, messages: int, show: Callable[[Round], None]
) -> list[Round]:
    """Run the rounds on a fresh R3 stream."""
    client = await connect(cluster.urls[0])
    await client.jetstream().add_stream(name=STREAM, subjects=["rounds.>"], num_replicas=3)
    await client.close()
    played: list[Round] = []
    for number in range(rounds):
        played.append(await KINDS[kind](cluster, messages, number))
        show(played[-1])
    return played


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kind", choices=sorted(KINDS))
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--messages", type=int, default=100_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch, running(Path(scratch)) as cluster:
        played = asyncio.run(
            play(
                cluster,
                arguments.kind,
                arguments.rounds,
                arguments.messages,
                lambda each: print(each, flush=True),
            )
        )
    lost = sum(each.missing for each in played)
    outages = sorted(each.outage_seconds for each in played)
    print(
        f"{sum(each.acknowledged for each in played)} acknowledged, {lost} lost; "
        f"outage median {outages[len(outages) // 2]:.2f} s, longest {outages[-1]:.2f} s"
    )
    return 1 if lost else 0


if __name__ == "__main__":
    raise SystemExit(main())
