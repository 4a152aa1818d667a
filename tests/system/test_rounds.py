"""Real processes, real disks, SIGKILL: what nats-py saw acknowledged is on every replica afterwards."""

import asyncio
import base64
import json
import shutil
import urllib.request
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg

from tests.system.processes import NodeProcess, running
from tests.system.rounds import Load, api, connect, count_missing, difference, leader_of, play

MESSAGES = 3000
LEADER_OUTAGE_SECONDS = 2.0

# nats-py's own warnings are not this project's.
pytestmark = pytest.mark.filterwarnings("default::DeprecationWarning", "default::ResourceWarning")


def test_a_killed_leader_loses_nothing_and_is_replaced_within_two_seconds(tmp_path: Path) -> None:
    with running(tmp_path) as cluster:
        [round_] = asyncio.run(play(cluster, "leader", 1, MESSAGES, lambda _: None))
        assert round_.missing == 0
        assert round_.acknowledged > MESSAGES // 2
        assert round_.outage_seconds < LEADER_OUTAGE_SECONDS


def test_all_nodes_killed_at_once_lose_nothing_and_start_again(tmp_path: Path) -> None:
    with running(tmp_path) as cluster:
        [round_] = asyncio.run(play(cluster, "all", 1, MESSAGES, lambda _: None))
        assert round_.missing == 0
        assert round_.acknowledged > 0


def test_sigterm_hands_leadership_over_and_exits_with_zero(tmp_path: Path) -> None:
    async def scenario() -> None:
        client = await connect(cluster.urls[0])
        await client.jetstream().add_stream(name="ROUNDS", subjects=["rounds.>"], num_replicas=3)
        leader = await leader_of(client)
        await client.close()
        other = next(node for node in cluster.nodes.values() if node.name != leader)
        client = await connect(other.url)
        load = Load(client, "term")
        await load.run(500)
        assert await asyncio.to_thread(cluster[leader].stop) == 0
        after = Load(client, "after")
        await after.run(500)
        assert after.refused == 0, "a leader that stops in order is replaced before anyone notices"
        cluster[leader].start()
        await asyncio.to_thread(cluster.wait_healthy)
        assert await count_missing(client, list(cluster.nodes), load.acknowledged | after.acknowledged) == 0
        await client.close()

    with running(tmp_path) as cluster:
        asyncio.run(scenario())


def test_core_messages_cross_the_cluster_once_and_only_where_someone_listens(tmp_path: Path) -> None:
    async def scenario() -> None:
        a, b, c = [await connect(url) for url in cluster.urls]
        heard: list[bytes] = []
        everywhere = asyncio.Event()

        async def on_message(message: Msg) -> None:
            heard.append(message.data)
            if message.data == b"last":
                everywhere.set()

        subscription = await b.subscribe("news.*", cb=on_message)
        queues: list[list[bytes]] = [[], []]
        worked = asyncio.Event()
        for taken, client in zip(queues, (b, c), strict=True):

            async def take(message: Msg, taken: list[bytes] = taken) -> None:
                taken.append(message.data)
                if sum(map(len, queues)) == 100:
                    worked.set()

            await client.subscribe("work", queue="workers", cb=take)

        async def serve(message: Msg) -> None:
            await message.respond(b"pong")

        await c.subscribe("ping", cb=serve)
        for client in (b, c):
            await client.flush()
        while True:  # interest travels beside the messages
            try:
                assert (await a.request("ping", b"", timeout=1)).data == b"pong"
                break
            except Exception as error:  # noqa: BLE001  # nats-py has no one class for "nobody answers yet"
                assert "no responders" in str(error).lower(), error
        for number in range(100):
            await a.publish("news.x", b"%d" % number)
            await a.publish("work", b"%d" % number)
        await a.publish("news.x", b"last")
        await asyncio.wait_for(everywhere.wait(), 10)
        assert heard == [b"%d" % number for number in range(100)] + [b"last"]
        await asyncio.wait_for(worked.wait(), 10)
        assert sorted(int(each) for taken in queues for each in taken) == list(range(100))
        await subscription.unsubscribe()
        for client in (a, b, c):
            await client.close()

    with running(tmp_path) as cluster:
        asyncio.run(scenario())


def test_a_stream_purged_updated_and_deleted_through_any_node(tmp_path: Path) -> None:
    async def scenario() -> None:
        clients = [await connect(url) for url in cluster.urls]
        streams = [client.jetstream() for client in clients]
        await streams[0].add_stream(name="ROUNDS", subjects=["rounds.>"], num_replicas=3)
        for number in range(30):
            ack = await streams[number % 3].publish("rounds.x", b"%d" % number)
            assert ack.seq == number + 1
        await streams[1].purge_stream("ROUNDS")
        assert (await streams[2].stream_info("ROUNDS")).state.messages == 0
        updated = await api(
            clients[2], "STREAM.UPDATE.ROUNDS", name="ROUNDS", subjects=["changed.>"], num_replicas=3
        )
        assert "error" not in updated
        assert (await streams[2].publish("changed.x", b"")).seq == 31
        await streams[0].delete_stream("ROUNDS")
        gone = await api(clients[1], "STREAM.INFO.ROUNDS")
        assert gone["error"] == {"code": 404, "err_code": 10059, "description": "stream not found"}
        for client in clients:
            await client.close()

    with running(tmp_path) as cluster:
        asyncio.run(scenario())


def test_the_monitor_tells_what_a_node_is_and_does(tmp_path: Path) -> None:
    with running(tmp_path) as cluster:
        status, varz = cluster["a"].get("/varz")
        assert status == 200
        assert varz["server_name"] == "a"
        wal = varz["wal"]
        assert isinstance(wal, dict) and wal["syncs"] > 0
        with urllib.request.urlopen(f"http://127.0.0.1:{cluster['a'].http}/healthz") as answer:
            assert answer.status == 200
        cluster["b"].kill()
        cluster["c"].kill()
        cluster.wait(lambda: cluster["a"].get("/healthz")[0] == 503)
        reasons = str(cluster["a"].get("/healthz")[1])
        assert "no leader" in reasons


SMALL = ("--segment-bytes", "4MiB", "--batch-bytes", "2MiB", "--snapshot-log-bytes", "256KiB")
SMALL_BLOCKS = ("--block-bytes", "256KiB", "--log-cache-bytes", "256KiB")


def group_of(node: NodeProcess) -> dict[str, int]:
    """What a node tells of the stream's group."""
    accounts = node.get("/raftz")[1]
    group: dict[str, int] = accounts["$G"]["ROUNDS"]
    return group


@pytest.mark.parametrize("wiped", [False, True])
def test_a_node_that_was_away_too_long_or_lost_its_disk_comes_back_with_everything(
    tmp_path: Path, wiped: bool
) -> None:
    async def scenario() -> None:
        client = await connect(cluster.urls[0])
        await client.jetstream().add_stream(name="ROUNDS", subjects=["rounds.>"], num_replicas=3)
        leader = await leader_of(client)
        await client.close()
        away, near = [node for node in cluster.nodes.values() if node.name != leader]
        client = await connect(near.url)
        first = Load(client, "before" + "x" * 2000)
        await first.run(200)
        away.kill()
        if wiped:
            shutil.rmtree(away.data)
        acknowledged = dict(first.acknowledged)
        last = group_of(near)["last_index"]
        for number in range(100):
            more = Load(client, f"while-away-{number}" + "x" * 2000)
            await more.run(200)
            acknowledged |= more.acknowledged
            if group_of(cluster[leader])["first_index"] > last + 1:
                break  # what the node lacks is no longer in the log
        away.start()
        await asyncio.to_thread(cluster.wait_healthy)
        assert await count_missing(client, list(cluster.nodes), acknowledged) == 0
        assert group_of(away)["snapshots_installed"] >= 1
        await client.close()

    with running(tmp_path, extra=(*SMALL, *SMALL_BLOCKS)) as cluster:
        asyncio.run(scenario())


class Unsure:
    """A server that says twice that it can't answer now, and then what it has."""

    def __init__(self, has: bytes) -> None:
        unavailable: dict[str, object] = {"error": {"code": 503, "err_code": 10008}}
        message = {"message": {"data": base64.b64encode(has).decode()}}
        self._answers = [unavailable, unavailable, message]

    async def request(self, *question: object, **more: object) -> SimpleNamespace:
        return SimpleNamespace(data=json.dumps(self._answers.pop(0)).encode())


@pytest.mark.parametrize("has", [b"what was acknowledged", b"something else"])
def test_unavailable_is_no_difference(has: bytes) -> None:
    client = cast(Client, Unsure(has))
    found = asyncio.run(difference(client, asyncio.Semaphore(1), 7, b"what was acknowledged"))
    assert bool(found) == (has == b"something else")
