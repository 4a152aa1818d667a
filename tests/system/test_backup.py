"""`trimaran backup` and `trimaran restore` between two clusters of real processes."""

import asyncio
from pathlib import Path

import pytest

from tests.system.processes import running
from tests.system.rounds import STREAM, Load, connect, count_missing
from tests.system.test_nodes import run, trimaran
from trimaran.commands.backup import EXIT_NOT_WHOLE

# nats-py's own warnings are not this project's.
pytestmark = pytest.mark.filterwarnings("default::DeprecationWarning", "default::ResourceWarning")


def test_a_live_stream_is_saved_and_comes_back_in_a_new_cluster(tmp_path: Path) -> None:
    file = tmp_path / "saved"

    async def save() -> dict[int, bytes]:
        client = await connect(old["a"].url)
        await client.jetstream().add_stream(name=STREAM, subjects=["rounds.>"])
        load = Load(client, "saved" + "x" * 1000)
        await load.run(1000)
        acknowledged = dict(load.acknowledged)
        going_on = asyncio.create_task(load.run(1000))
        assert f"stream {STREAM}: index" in await run(old, "a", "backup", str(file))
        await going_on
        await client.close()
        return acknowledged

    async def put_back(acknowledged: dict[int, bytes]) -> None:
        damaged = tmp_path / "damaged"
        damaged.write_bytes(file.read_bytes()[:-100])
        refused = await asyncio.to_thread(trimaran, new, "x", "restore", str(damaged))
        assert refused.returncode == EXIT_NOT_WHOLE and "not whole" in refused.stderr
        assert f"stream {STREAM} is back" in await run(new, "x", "restore", str(file))
        client = await connect(new["x"].url)
        assert await count_missing(client, ["x"], acknowledged) == 0
        await client.close()

    with running(tmp_path / "old", names=("a",)) as old:
        acknowledged = asyncio.run(save())
    with running(tmp_path / "new", names=("x",)) as new:
        asyncio.run(put_back(acknowledged))
