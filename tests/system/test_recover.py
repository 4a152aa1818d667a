"""`trimaran recover` on the directories of real processes: impossible by accident, and it works."""

import asyncio
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.system.processes import running
from tests.system.rounds import STREAM, Load, connect, count_missing
from trimaran.storage.errors import DirectoryLocked

# nats-py's own warnings are not this project's.
pytestmark = pytest.mark.filterwarnings("default::DeprecationWarning", "default::ResourceWarning")


def recover(data: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "trimaran", "recover", "--data", str(data), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_one_of_three_directories_becomes_a_cluster_of_its_own(tmp_path: Path) -> None:
    async def fill() -> dict[int, bytes]:
        client = await connect(cluster["a"].url)
        await client.jetstream().add_stream(name=STREAM, subjects=["rounds.>"], num_replicas=3)
        load = Load(client, "kept")
        await load.run(500)
        await client.close()
        return load.acknowledged

    async def read(acknowledged: dict[int, bytes]) -> None:
        client = await connect(cluster["c"].url)
        assert await count_missing(client, ["c"], acknowledged) == 0
        await client.close()

    with running(tmp_path) as cluster:
        acknowledged = asyncio.run(fill())
        data = cluster["c"].data
        assert recover(data).returncode == DirectoryLocked.exit_code
        for node in cluster.nodes.values():
            assert node.stop() == 0
        looked = recover(data)
        assert looked.returncode == 1 and "Nothing was changed" in looked.stdout
        assert "removed for good: a, b" in looked.stdout and f"stream {STREAM}: kept up to" in looked.stdout
        confirmed = re.findall(r"--accept-loss ([0-9a-f]{16})", looked.stdout)
        wrong = recover(data, "--accept-loss", "0123456789abcdef")
        assert wrong.returncode == 1 and "belongs to cluster" in wrong.stderr
        assert recover(tmp_path / "nowhere", "--accept-loss", *confirmed).returncode == 1
        assert not (tmp_path / "nowhere").exists()
        assert recover(data, "--accept-loss", *confirmed).returncode == 0
        cluster["c"].start()
        cluster.wait_healthy(["c"])
        asyncio.run(read(acknowledged))
