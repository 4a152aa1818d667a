"""Administration through any node: an answer comes from state that is current, or it does not come."""

import json
from pathlib import Path

import pytest
from trio.testing import MockClock

from tests.actors.cluster import open_memory_cluster
from trimaran import Options, open_node, open_stream


async def test_a_stream_is_never_reported_missing_by_a_node_that_has_just_started(
    autojump_clock: MockClock,
) -> None:
    async with open_memory_cluster() as cluster:
        await open_stream(cluster["a"], "S", ["s.>"], replicas=3)
        for _ in range(5):
            for name in "abc":
                await cluster.crash(name)
            for name in "abc":
                await cluster.start(name)
            asked = 0
            while asked < 6:  # at once, not when all are ready
                answer = await cluster["abc"[asked % 3]].api_router.ask("$JS.API.STREAM.INFO.S", b"")
                if answer is not None:
                    assert "error" not in json.loads(answer), answer
                    asked += 1
            await cluster.ready()


async def test_a_node_that_is_started_with_anothers_directory_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("a", "q"):
        async with open_node(Options(name=name, data=tmp_path, listen="127.0.0.1:0")):
            pass
    assert caplog.text.count("node q was started with the directory of node a") == 1
