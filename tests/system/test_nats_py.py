"""nats-py, as it is, with a cluster of three real nodes: what its users do with consumers."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import nats
import nats.errors
import nats.js.errors
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig
from nats.js.errors import KeyNotFoundError, KeyWrongLastSequenceError, NotFoundError
from nats.js.kv import KeyValue

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


def test_push_queue_and_ordered_subscriptions(cluster: ProcessCluster) -> None:
    async def work(client: Client, js: JetStreamContext) -> None:
        await js.add_stream(name="PUSH", subjects=["push.>"], num_replicas=3)
        for number in range(50):
            await js.publish(f"push.{number % 5}", b"%d" % number)
        durable = await js.subscribe("push.>", durable="durable")
        for number in range(50):
            message = await durable.next_msg(timeout=5)
            assert message.data == b"%d" % number
            await message.ack()
        ordered = await js.subscribe("push.>", ordered_consumer=True)
        assert [int((await ordered.next_msg(timeout=5)).data) for _ in range(50)] == list(range(50))
        shared: list[bytes] = []
        complete = asyncio.Event()

        async def take(message: Msg) -> None:
            shared.append(message.data)
            await message.ack()
            if len(shared) == 50:
                complete.set()

        for _ in range(2):
            await js.subscribe("push.>", "workers", durable="workers", cb=take)
        await asyncio.wait_for(complete.wait(), 10)
        assert sorted(map(int, shared)) == list(range(50))

    with_client(cluster, work)


def test_an_ordered_subscription_goes_on_after_the_leader_was_killed(cluster: ProcessCluster) -> None:
    async def work(client: Client, js: JetStreamContext) -> None:
        await js.add_stream(name="ORD", subjects=["ord"], num_replicas=3)
        ordered = await js.subscribe("ord", ordered_consumer=True, idle_heartbeat=0.5)
        for number in range(20):
            await js.publish("ord", b"%d" % number)
        assert [int((await ordered.next_msg(timeout=5)).data) for _ in range(20)] == list(range(20))
        leader = await leader_of(client, "ORD")
        cluster[leader].kill()
        for number in range(20, 40):
            await publish_surely(js, "ord", b"%d" % number)
        assert [int((await ordered.next_msg(timeout=20)).data) for _ in range(20)] == list(range(20, 40))
        cluster[leader].start()

    with_client(cluster, work, 60)
    cluster.wait_healthy()


async def publish_surely(js: JetStreamContext, subject: str, payload: bytes) -> None:
    """Publish until it is acknowledged, stored once."""
    while True:
        try:
            await js.publish(subject, payload, headers={"Nats-Msg-Id": payload.decode()})
            return
        except (nats.errors.Error, nats.js.errors.Error, TimeoutError):
            continue


async def next_update(watcher: KeyValue.KeyWatcher) -> KeyValue.Entry | None:
    """The next one; None when everything that was there has been seen."""
    update: KeyValue.Entry | None = await watcher.updates(timeout=10)  # type: ignore[no-untyped-call]  # nats-py has no types here
    return update


def test_key_value(cluster: ProcessCluster) -> None:
    async def work(client: Client, js: JetStreamContext) -> None:
        bucket = await js.create_key_value(bucket="KV", history=5, replicas=3, direct=True)
        revision = await bucket.put("color", b"red")
        entry = await bucket.get("color")
        assert (entry.value, entry.revision) == (b"red", revision)
        await bucket.update("color", b"green", last=revision)
        with pytest.raises(KeyWrongLastSequenceError):
            await bucket.update("color", b"blue", last=revision)
        with pytest.raises(KeyWrongLastSequenceError):
            await bucket.create("color", b"blue")
        await bucket.create("size", b"1")
        await bucket.delete("size")
        with pytest.raises(KeyNotFoundError):
            await bucket.get("size")
        await bucket.create("size", b"2")
        assert [each.value for each in await bucket.history("color")] == [b"red", b"green"]
        assert sorted(await bucket.keys()) == ["color", "size"]
        await bucket.purge("color")
        assert [each.operation for each in await bucket.history("color")] == ["PURGE"]
        assert await bucket.keys() == ["size"]
        watcher = await bucket.watchall()
        seen = [await next_update(watcher) for _ in range(3)]
        assert [each.key if each else None for each in seen] == ["size", "color", None]
        await bucket.put("new", b"1")
        update = await next_update(watcher)
        assert update is not None and update.key == "new"
        await watcher.stop()  # type: ignore[no-untyped-call]  # nats-py has no types here

    with_client(cluster, work)


def test_key_value_forgets_in_time(cluster: ProcessCluster) -> None:
    async def work(client: Client, js: JetStreamContext) -> None:
        aging = await js.create_key_value(bucket="AGING", ttl=1)
        await aging.put("key", b"1")
        single = await js.create_key_value(bucket="SINGLE", limit_marker_ttl=60)
        watcher = await single.watchall()
        assert await next_update(watcher) is None
        await single.create("key", b"1", msg_ttl=1)
        updates = [await next_update(watcher) for _ in range(2)]
        assert [each.operation if each else "?" for each in updates] == [None, "PURGE"]
        with pytest.raises(KeyNotFoundError):
            while True:  # until it is due; the client's timeout bounds it
                await aging.get("key")

    with_client(cluster, work)


def test_object_store(cluster: ProcessCluster) -> None:
    async def work(client: Client, js: JetStreamContext) -> None:
        store = await js.create_object_store("FILES")
        data = bytes(range(256)) * 3000
        await store.put("report", data)
        assert (await store.get("report")).data == data
        await store.put("note", b"x")
        assert sorted(each.name or "" for each in await store.list()) == ["note", "report"]
        await store.delete("report")
        with pytest.raises(NotFoundError):
            await store.get("report")

    with_client(cluster, work)
