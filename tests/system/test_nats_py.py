"""nats-py, as it is, with a cluster of three real nodes: what its users do with consumers."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import nats
import nats.errors
import pytest
from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig
from nats.js.errors import NotFoundError

from tests.system.processes import ProcessCluster, running
from tests.system.rounds import leader_of


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProcessCluster]:
    with running(Path(tmp_path_factory.mktemp("nats-py"))) as nodes:
        yield nodes


def with_client(
    cluster: ProcessCluster, work: Callable[[Client, JetStreamContext], Awaitable[None]], seconds: float = 30
) -> None:
    """Run `work` with a client connected to node a (or another, when that is gone)."""

    async def quiet(error: Exception) -> None:
        return

    async def main() -> None:
        client = await nats.connect(
            cluster.urls,
            error_cb=quiet,
            dont_randomize=True,
            reconnect_time_wait=0.1,
            max_reconnect_attempts=-1,
        )
        try:
            await asyncio.wait_for(work(client, client.jetstream(timeout=10)), seconds)
        finally:
            await client.close()

    asyncio.run(main())


def test_fetch_and_every_kind_of_acknowledgement(cluster: ProcessCluster) -> None:
    async def work(client: Client, js: JetStreamContext) -> None:
        await js.add_stream(name="PULL", subjects=["pull.>"], num_replicas=3)
        for number in range(10):
            await js.publish(f"pull.{number}", b"%d" % number)
        subscription = await js.pull_subscribe("pull.>", "worker")
        first = await subscription.fetch(4, timeout=5)
        assert [message.data for message in first] == [b"0", b"1", b"2", b"3"]
        await first[0].ack_sync()
        await first[1].ack()
        await first[2].nak()
        await first[3].term()
        second = await subscription.fetch(7, timeout=5)
        again = next(message for message in second if message.data == b"2")
        assert again.metadata.num_delivered == 2 and len(second) == 7
        for message in second:
            await message.in_progress()
            await message.ack_sync()
        info = await js.consumer_info("PULL", "worker")
        assert info.num_ack_pending == 0 and info.ack_floor is not None and info.ack_floor.stream_seq == 10
        with pytest.raises(nats.errors.TimeoutError):
            await subscription.fetch(1, timeout=0.5)
        await js.delete_consumer("PULL", "worker")
        with pytest.raises(NotFoundError):
            await js.consumer_info("PULL", "worker")

    with_client(cluster, work)


def test_what_was_acknowledged_is_not_seen_again_after_the_leader_was_killed(cluster: ProcessCluster) -> None:
    async def work(client: Client, js: JetStreamContext) -> None:
        await js.add_stream(name="KILL", subjects=["kill.>"], num_replicas=3)
        for number in range(50):
            await js.publish("kill.x", b"%d" % number)
        config = ConsumerConfig(ack_wait=3, ack_policy=AckPolicy.EXPLICIT)
        subscription = await js.pull_subscribe("kill.>", "worker", config=config)
        got = await subscription.fetch(20, timeout=5)
        for message in got[:10]:
            await message.ack_sync()
        leader = await leader_of(client, "KILL")
        cluster[leader].kill()
        seen: dict[int, int] = {}
        while len(seen) < 40:
            try:
                batch = await subscription.fetch(10, timeout=2)
            except (nats.errors.Error, TimeoutError):
                continue
            for message in batch:
                seen[message.metadata.sequence.stream] = message.metadata.num_delivered
                await message.ack()
        assert not set(range(1, 11)) & set(seen), "acknowledged before the kill"
        assert set(seen) == set(range(11, 51))
        assert all(seen[number] >= 2 for number in range(11, 21)), "delivered before the kill as well"
        cluster[leader].start()

    with_client(cluster, work, 60)
    cluster.wait_healthy()
