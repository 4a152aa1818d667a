"""The operator's commands on real processes, under load: a node alone becomes three, four, three, and one of
them is replaced."""

import asyncio
import itertools
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.system.processes import NodeProcess, ProcessCluster, running
from tests.system.rounds import STREAM, Load, api, connect, count_missing, leader_of
from trimaran.actors.node import NodeRemoved
from trimaran.actors.peers.wire import PROTOCOL_VERSION

# nats-py's own warnings are not this project's.
pytestmark = pytest.mark.filterwarnings("default::DeprecationWarning", "default::ResourceWarning")

PER_SECOND = 100
LONE_STREAMS = 3
"""With one replica, made while there is one node: they stay there until `rebalance`."""
PAUSE_SECONDS = 0.5
"""The shortest election timeout. A publish may be refused meanwhile, with an answer; none is lost."""


def trimaran(cluster: ProcessCluster, via: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "trimaran", *arguments, "--server", cluster[via].url]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


async def run(cluster: ProcessCluster, via: str, *arguments: str) -> str:
    done = await asyncio.to_thread(trimaran, cluster, via, *arguments)
    assert done.returncode == 0, done.stderr + cluster.logs()
    return done.stdout


async def replicas(cluster: ProcessCluster, via: str) -> dict[str, int]:
    """How many replicas the cluster wants on each member."""
    found = json.loads(await run(cluster, via, "cluster", "info", "--json"))
    return {node["name"]: node["replicas"] for node in found["nodes"]}


async def invite(cluster: ProcessCluster, directory: Path, name: str, replaces: str = "") -> None:
    node = cluster.add(directory, name, "a")
    what = ("replace", replaces) if replaces else ("add",)
    out = await run(cluster, "a", "cluster", *what, f"{name}=127.0.0.1:{node.peer}")
    assert f"--name {name}" in out
    node.start()
    await asyncio.to_thread(cluster.wait_healthy, [name])


async def has_left(node: NodeProcess) -> None:
    """Return once its process has ended by itself, and said why."""
    assert node.process is not None
    assert await asyncio.to_thread(node.process.wait, 40) == NodeRemoved.exit_code
    assert "was removed from cluster" in node.log.read_text().splitlines()[-1]


def test_one_node_becomes_three_then_four_then_three_under_load(tmp_path: Path) -> None:
    async def scenario() -> None:
        client = await connect(cluster["a"].url)
        stream = client.jetstream()
        await stream.add_stream(name=STREAM, subjects=["rounds.>"], num_replicas=1)
        for number in range(LONE_STREAMS):
            await stream.add_stream(name=f"LONE{number}", subjects=[f"lone.{number}"], num_replicas=1)
        load, stop = Load(client, "grow"), asyncio.Event()
        writing = asyncio.create_task(load.run_until(stop, PER_SECOND))
        await invite(cluster, tmp_path, "b")
        await invite(cluster, tmp_path, "c")
        await stream.update_stream(name=STREAM, subjects=["rounds.>"], num_replicas=3)
        await invite(cluster, tmp_path, "d")
        await run(cluster, "a", "cluster", "remove", "b")
        removed = cluster["b"]
        await has_left(removed)
        assert f"protocol {PROTOCOL_VERSION}" in await run(cluster, "a", "cluster", "info")
        await invite(cluster, tmp_path, "e", replaces="c")
        await has_left(cluster["c"])
        before = await replicas(cluster, "d")
        assert before["a"] == LONE_STREAMS + 1, "what was made when it was alone is still there"
        assert "replicas are even" in await run(cluster, "d", "rebalance")
        after = await replicas(cluster, "d")
        assert max(after.values()) - min(after.values()) < 2 and sum(after.values()) == sum(before.values())
        stop.set()
        await writing
        removed.start()  # what it is told when it comes back
        await has_left(removed)
        for name in "bc":
            del cluster.nodes[name]
        await asyncio.to_thread(cluster.wait_healthy)
        assert load.refused == 0
        assert await count_missing(client, ["a", "d", "e"], load.acknowledged) == 0
        info = await api(client, f"STREAM.INFO.{STREAM}")
        assert info["state"]["messages"] == len(load.acknowledged)
        await client.close()

    with running(tmp_path, names=("a",)) as cluster:
        asyncio.run(scenario())


def test_stepping_down_under_load_loses_nothing_and_pauses_for_less_than_an_election(tmp_path: Path) -> None:
    async def scenario() -> None:
        client = await connect(cluster["a"].url)
        await client.jetstream().add_stream(name=STREAM, subjects=["rounds.>"], num_replicas=3)
        load, stop = Load(client, "move"), asyncio.Event()
        load.enough = PER_SECOND
        writing = asyncio.create_task(load.run_until(stop, PER_SECOND))
        await load.under_way.wait()
        since = load.times[-1]
        for name in ("b", "c", "a", "c"):
            assert f"led by {name}" in await run(cluster, "b", "step-down", STREAM, "--to", name)
            assert await leader_of(client) == name
        stop.set()
        await writing
        times = sorted(each for each in load.times if each >= since)
        assert times[-1] > since
        longest = max(b - a for a, b in itertools.pairwise(times))
        assert longest < PAUSE_SECONDS
        assert await count_missing(client, list(cluster.nodes), load.acknowledged) == 0
        await client.close()

    with running(tmp_path) as cluster:
        asyncio.run(scenario())
