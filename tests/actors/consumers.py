"""A cluster with one stream and a client of it, for tests of consumers."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from tests.actors.cluster import OPTIONS, Cluster, open_memory_cluster
from tests.actors.nats_client import MemoryClient, Received
from trimaran import Node
from trimaran.actors.stream.machine import StreamMachine

SECOND = 1_000_000_000


@dataclass
class Harness:
    """A cluster with stream S (subjects `s.>`, three replicas if there are three nodes)."""

    cluster: Cluster
    client: MemoryClient

    @property
    def leader(self) -> str:
        return self.cluster.leader(self.group)

    @property
    def group(self) -> int:
        stream = self.any_node().state.named("stream", "S")
        assert stream is not None
        return stream.group

    def any_node(self) -> Node:
        return next(member.node for member in self.cluster.members.values() if member.node is not None)

    def machine(self, name: str) -> StreamMachine:
        """The replica of stream S on a node."""
        machine = self.cluster[name].desk.machine(self.group)
        assert machine is not None
        return machine

    async def connect(self, name: str) -> MemoryClient:
        return await MemoryClient.connect(self.cluster.members[name].port)

    async def consumer(self, name: str = "c", **config: object) -> dict[str, Any]:
        wanted = {"durable_name": name, "ack_policy": "explicit", **config}
        answer = await self.client.api(f"CONSUMER.CREATE.S.{name}", stream_name="S", config=wanted)
        assert "error" not in answer, answer
        return answer

    async def info(self, name: str = "c") -> dict[str, Any]:
        return await self.client.api(f"CONSUMER.INFO.S.{name}")

    async def ack(self, message: Received, payload: bytes = b"") -> None:
        """As ack_sync: returns once it is in the log of a majority."""
        answer = await self.client.request(message.reply, payload)
        assert answer.payload == b"" and not answer.headers


@asynccontextmanager
async def harness(*names: str, at: str = "", **stream: object) -> AsyncIterator[Harness]:
    async with open_memory_cluster(*(names or ("a",)), options=OPTIONS) as cluster:
        client = await MemoryClient.connect(cluster.members[at or (names or ("a",))[0]].port)
        replicas = 3 if len(names) >= 3 else 1
        made = await client.api(
            "STREAM.CREATE.S", **{"name": "S", "subjects": ["s.>"], "num_replicas": replicas, **stream}
        )
        assert "error" not in made, made
        yield Harness(cluster, client)
        assert not cluster.violations


def sequences(messages: list[Received]) -> list[int]:
    return [each.numbers[1] for each in messages if each.reply.startswith("$JS.ACK.")]
