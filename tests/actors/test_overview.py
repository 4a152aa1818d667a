"""The summaries behind the status page: asked for while somebody looks, believed only if they make sense."""

import json
import math
from typing import Any

import pytest
from trio.testing import MockClock

from tests.actors.cluster import Cluster, open_memory_cluster, until
from tests.actors.nats_client import MemoryClient
from trimaran.actors.overview import GROUPS_SHOWN, TEXT_SHOWN, checked
from trimaran.actors.peers.requests import Malformed


def look(cluster: Cluster, name: str) -> dict[str, Any]:
    """The page as a browser has it."""
    return dict(json.loads(json.dumps(cluster[name].vitals.statusz(), allow_nan=False)))


async def test_any_node_shows_all_of_them_while_somebody_looks(autojump_clock: MockClock) -> None:
    async with open_memory_cluster() as cluster:
        client = await MemoryClient.connect(cluster.members["a"].port)
        await client.api("STREAM.CREATE.S", name="S", subjects=["s.>"], num_replicas=3)
        await client.fill("s.1", "s.2")
        await until(lambda: all(node["summary"] for name in "abc" for node in look(cluster, name)["nodes"]))
        page = look(cluster, "b")
        assert [node["name"] for node in page["nodes"]] == ["b", "a", "c"], "its own first"
        groups = [group for node in page["nodes"] for group in node["summary"]["groups"]]
        roles = [group["role"] for group in groups if group["name"] == "S"]
        assert sorted(roles) == ["follower", "follower", "leader"]
        [leader] = [group for group in groups if group["name"] == "S" and group["role"] == "leader"]
        assert leader["messages"] == 2 and len(leader["lags"]) == 2
        for node in page["nodes"]:
            summary = node["summary"]
            assert sum(summary["sync_counts"]) > 0 and sum(summary["batch_counts"]) > 0
            assert len(summary["sync_counts"]) == len(page["seconds_bounds"]) + 1


async def test_nobody_is_asked_when_nobody_looks(autojump_clock: MockClock) -> None:
    async with open_memory_cluster() as cluster:
        await until(lambda: all(node["summary"] for node in look(cluster, "a")["nodes"]))
        asked = 0
        answer = cluster["b"].overview.summary

        def count() -> object:
            nonlocal asked
            asked += 1
            return answer()

        cluster["b"].overview.summary = count  # type: ignore[assignment, method-assign]  # it counts
        began = autojump_clock.current_time()
        await until(lambda: autojump_clock.current_time() > began + 20)
        assert 3 <= asked <= 8, "for some seconds after the last look"
        assert all(node["summary"] is None for node in look(cluster, "a")["nodes"][1:]), (
            "that is too long ago"
        )


async def test_the_age_of_a_lost_nodes_summary_grows(autojump_clock: MockClock) -> None:
    async with open_memory_cluster() as cluster:
        await until(lambda: all(node["summary"] for node in look(cluster, "a")["nodes"]))
        await cluster.crash("c")
        await until(lambda: look(cluster, "a")["nodes"][2]["age_seconds"] > 10)
        assert look(cluster, "a")["nodes"][1]["age_seconds"] < 3


@pytest.mark.parametrize(
    "answer", [None, [], {"groups": 1}, {"groups": ["x"]}, {"groups": [{"lags": [[1]]}]}, {"reasons": "no"}]
)
def test_what_is_no_summary_is_refused(answer: object) -> None:
    with pytest.raises(Malformed):
        checked(answer)


def test_what_another_node_says_can_neither_break_nor_flood_the_page() -> None:
    group = {"name": "x" * 10_000, "role": 7, "lags": [["b", math.nan]], "messages": "many", "html": "<b>"}
    found = checked(
        {"mem": math.inf, "version": b"1", "sync_counts": [1, None, "2"], "groups": [group] * 10_000}
    )
    text = json.dumps(found, allow_nan=False)
    groups: Any = found["groups"]
    assert found["mem"] == 0 and found["version"] == "" and found["sync_counts"] == [1, 0, 0]
    assert len(groups) == GROUPS_SHOWN and len(groups[0]["name"]) == TEXT_SHOWN
    assert groups[0]["lags"] == [["b", 0]] and groups[0]["messages"] == 0 and "html" not in groups[0]
    assert len(text) < 200_000


def test_a_summary_of_an_older_node_lacks_nothing() -> None:
    found = checked({})
    assert found["groups"] == [] and found["in_msgs"] == 0 and found["reasons"] == []
