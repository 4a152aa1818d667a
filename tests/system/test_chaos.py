"""A little of the chaos on real nodes; more with `python -m tests.system.chaos --minutes N`."""

import asyncio
import fcntl
import struct
import time
from pathlib import Path

import pytest

from tests.system.chaos import STRACE, play
from tests.system.processes import ProcessCluster
from tests.system.rounds import Load, connect, count_missing
from tests.system.test_disk import command, mounted

# nats-py's own warnings are not this project's.
pytestmark = pytest.mark.filterwarnings("default::DeprecationWarning", "default::ResourceWarning")

SHUTDOWN = 0x8004587D
"""The ioctl that takes a file system away at once."""
NO_LOG_FLUSH = 2
"""Nothing more is written, not even the journal: as in a power cut."""
MIB = 1 << 20


@pytest.mark.parametrize("fault", ["cut the leader off", "kill at a system call"])
def test_acknowledgements_go_on_during_a_fault_and_all_of_them_are_kept(tmp_path: Path, fault: str) -> None:
    if fault == "kill at a system call" and STRACE is None:
        pytest.skip("NOT TESTED HERE: there is no strace")
    outcome = asyncio.run(play(tmp_path, seed=1, seconds=0.0, kinds=[fault]))
    assert outcome.violations == []
    assert outcome.acknowledged > 100


def test_the_power_of_a_node_s_file_system_is_cut_under_load(tmp_path: Path) -> None:
    """ext4 in a file, shut down under the node; what the kernel had not written is gone, metadata too."""
    image = tmp_path / "image"
    with image.open("wb") as file:
        file.truncate(256 * MIB)
    command("mkfs.ext4", "-q", image)

    async def load_through_a_cut(cluster: ProcessCluster, place: Path) -> dict[int, bytes]:
        client = await connect(cluster["a"].url)
        await client.jetstream().add_stream(name="ROUNDS", subjects=["rounds.>"], num_replicas=3)
        load, stop = Load(client, "cut"), asyncio.Event()
        load.enough = 300
        running = asyncio.create_task(load.run_until(stop, 200))
        await asyncio.wait_for(load.under_way.wait(), 30)
        cut_power(place)
        cut = time.monotonic()
        await asyncio.sleep(1.5)
        stop.set()
        await running
        assert [each for each in load.times if each > cut + 0.5], "two of three go on"
        cluster["b"].kill()
        await client.close()
        return load.acknowledged

    async def compare(cluster: ProcessCluster, acknowledged: dict[int, bytes]) -> None:
        client = await connect(cluster["a"].url)
        assert await count_missing(client, list(cluster.nodes), acknowledged) == 0
        await client.close()

    cluster = ProcessCluster(
        tmp_path, extra=("--segment-bytes", "4MiB", "--batch-bytes", "2MiB", "--min-free-bytes", "0")
    )
    node = cluster["b"]
    place = tmp_path / "power"
    node.arguments[node.arguments.index(str(node.data))] = str(place / "b")
    try:
        with mounted(place, "-o", "loop", image):
            cluster.start()
            acknowledged = asyncio.run(load_through_a_cut(cluster, place))
        place.rmdir()
        with mounted(place, "-o", "loop", image):
            node.start()
            cluster.wait_healthy()
            asyncio.run(compare(cluster, acknowledged))
            node.kill()
    finally:
        cluster.close()


def cut_power(place: Path) -> None:
    assert place.stat().st_dev != Path("/").stat().st_dev, "never of the machine's own file system"
    with (place / "b" / "LOCK").open() as file:
        fcntl.ioctl(file, SHUTDOWN, struct.pack("I", NO_LOG_FLUSH))
