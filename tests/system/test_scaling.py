"""nats-py changes a stream's number of replicas on five real nodes, while it publishes."""

import asyncio
from pathlib import Path

import nats.errors
import nats.js.errors
import pytest
from nats.aio.client import Client

from tests.system.processes import ProcessCluster, running
from tests.system.rounds import ACK_SECONDS, STREAM, api, connect, count_missing, leader_of

# nats-py's own warnings are not this project's.
pytestmark = pytest.mark.filterwarnings("default::DeprecationWarning", "default::ResourceWarning")

NODES = ("a", "b", "c", "d", "e")
WRITERS = 20
MORE = 200
"""Messages that must be acknowledged after each change."""
SETTLE_SECONDS = 30


class Writers:
    """Each publishes one message after the other, and each until it is acknowledged: once, by its id."""

    def __init__(self, client: Client) -> None:
        self._stream = client.jetstream()
        self._stop = False
        self.acknowledged: dict[int, bytes] = {}
        self._more = asyncio.Event()

    async def write(self, writer: int) -> None:
        number = 0
        while not self._stop:
            payload = f"{writer}-{number}".encode()
            headers = {"Nats-Msg-Id": payload.decode()}
            try:
                ack = await self._stream.publish("rounds.x", payload, timeout=ACK_SECONDS, headers=headers)
            except (nats.errors.Error, nats.js.errors.Error):
                continue  # the outcome may be unknown: the same id again is safe
            assert ack.seq not in self.acknowledged, f"sequence {ack.seq} was acknowledged twice"
            self.acknowledged[ack.seq] = payload
            self._more.set()
            number += 1

    async def wait_for(self, more: int) -> None:
        """Return once so many more messages are acknowledged."""
        wanted = len(self.acknowledged) + more
        while len(self.acknowledged) < wanted:
            self._more.clear()
            await asyncio.wait_for(self._more.wait(), SETTLE_SECONDS)

    def stop(self) -> None:
        self._stop = True


def voters(cluster: ProcessCluster) -> set[str]:
    """Who votes on the stream, if all who run it agree and nobody is a learner; else nobody."""
    found: list[tuple[list[object], list[object]]] = []
    hosts: set[str] = set()
    for name, node in cluster.nodes.items():
        groups: dict[str, dict[str, list[object]]] = node.get("/raftz")[1]["$G"]
        if STREAM in groups:
            hosts.add(name)
            found.append((groups[STREAM]["voters"], groups[STREAM]["learners"]))
    agreed = all(each == (found[0][0], []) for each in found)
    return hosts if agreed and len(found) == len(found[0][0]) else set()


async def scale(cluster: ProcessCluster, client: Client, replicas: int) -> None:
    """Ask for it; return once exactly so many nodes have the stream and all of them vote."""
    await client.jetstream().update_stream(name=STREAM, subjects=["rounds.>"], num_replicas=replicas)
    await asyncio.to_thread(cluster.wait, lambda: len(voters(cluster)) == replicas, SETTLE_SECONDS)


def test_one_three_five_three_one_replicas_lose_and_duplicate_nothing(tmp_path: Path) -> None:
    async def scenario() -> None:
        client = await connect(cluster["a"].url)
        await client.jetstream().add_stream(name=STREAM, subjects=["rounds.>"], num_replicas=1)
        writers = Writers(client)
        tasks = [asyncio.create_task(writers.write(number)) for number in range(WRITERS)]
        for replicas in (3, 5):
            await scale(cluster, client, replicas)
            await writers.wait_for(MORE)
        so_far = dict(writers.acknowledged)
        assert await count_missing(client, list(NODES), so_far) == 0
        for replicas in (3, 1):
            await scale(cluster, client, replicas)
            await writers.wait_for(MORE)
        writers.stop()
        await asyncio.gather(*tasks)
        info = await api(client, f"STREAM.INFO.{STREAM}")
        assert info["state"]["messages"] == len(writers.acknowledged)
        assert voters(cluster) == {await leader_of(client)}
        assert await count_missing(client, [await leader_of(client)], writers.acknowledged) == 0
        assert len(set(writers.acknowledged.values())) == len(writers.acknowledged)
        await client.close()

    with running(tmp_path, names=NODES) as cluster:
        asyncio.run(scenario())
