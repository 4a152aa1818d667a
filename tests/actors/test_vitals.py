"""What a whole node tells about itself, on every page."""

import json
import re
from collections.abc import Mapping
from typing import Any

from trio.testing import MockClock

from tests.actors.cluster import open_memory_cluster, until
from tests.actors.nats_client import MemoryClient
from trimaran.actors.jsz import Asked


def plain(page: Mapping[str, object]) -> dict[str, Any]:
    """A page as a reader of its JSON has it."""
    return dict(json.loads(json.dumps(page)))


SAMPLE = re.compile(r'([a-z_]+)\{([a-z_]+="[^"]*",?)*\} (-?[0-9.e+-]+|inf)')


async def test_metrics_have_what_nobody_else_exports(autojump_clock: MockClock) -> None:
    async with open_memory_cluster() as cluster:
        client = await MemoryClient.connect(cluster.members["a"].port)
        await client.api("STREAM.CREATE.S", name="S", subjects=["s.>"], num_replicas=3)
        await client.api("CONSUMER.CREATE.S.c", stream_name="S", config={"durable_name": "c"})
        await client.fill("s.1", "s.2", "s.3")
        await until(lambda: all(cluster[name].vitals.jsz()["messages"] == 3 for name in "abc"))
        found: dict[str, float] = {}
        for name in "abc":
            text = "".join(cluster[name].vitals.metrics())
            for line in text.splitlines():
                if not line.startswith("#"):
                    match = SAMPLE.fullmatch(line)
                    assert match, line
                    found[match[1]] = found.get(match[1], 0) + float(match[3])
        assert found["jetstream_stream_total_messages"] == 9
        assert found["jetstream_consumer_num_ack_pending"] == 0
        assert found["jetstream_raft_leader_changes_total"] == 2, "of the meta group and of the stream"
        assert found["jetstream_raft_elections_total"] >= 2
        assert found["jetstream_raft_entries_per_append_count"] >= 12
        assert found["jetstream_raft_commit_seconds_count"] >= 4
        assert found["jetstream_raft_fsync_seconds_count"] == found["jetstream_raft_fsyncs_total"] > 9
        assert found["jetstream_raft_peer_lag"] == 0 and found["gnatsd_healthz_status_value"] == 3
        assert found["gnatsd_varz_connections"] == 1
        assert found["jetstream_raft_log_bytes"] >= 3 * 4096 and found["jetstream_raft_disk_full"] == 0
        await cluster.crash("a")
        await cluster.start("a")  # its log goes on in another segment, and the old one is needed
        await cluster.ready()
        lines = "".join(cluster["a"].vitals.metrics()).splitlines()
        pinned = [line for line in lines if line.startswith("jetstream_raft_pinned_bytes{")]
        assert any('group="S"' in line and not line.endswith(" 0") for line in pinned)


async def test_pages_of_connections_streams_and_links(autojump_clock: MockClock) -> None:
    async with open_memory_cluster() as cluster:
        client = await MemoryClient.connect(cluster.members["a"].port)
        await client.api("STREAM.CREATE.S", name="S", subjects=["s.>"], num_replicas=3)
        await client.api("CONSUMER.CREATE.S.c", stream_name="S", config={"durable_name": "c"})
        client.subscribe("here.>")
        await client.fill("s.1")
        await until(lambda: all(cluster[name].vitals.jsz()["messages"] == 1 for name in "abc"))
        vitals = cluster["a"].vitals
        [connection] = plain(vitals.connz(0, 10, subscriptions=True))["connections"]
        assert "here.>" in connection["subscriptions_list"] and connection["in_msgs"] == 3
        assert vitals.connz(1, 10, subscriptions=False)["connections"] == []
        subsz = plain(vitals.subsz(0, 10, subscriptions=True))
        assert subsz["num_subscriptions"] == connection["subscriptions"] == len(subsz["subscriptions_list"])
        assert {each["subject"] for each in subsz["subscriptions_list"]} >= {"here.>"}
        assert plain(vitals.accountz(""))["accounts"] == ["$G"]
        assert plain(vitals.accountz("$G"))["account_detail"]["client_connections"] == 1
        assert vitals.routez()["num_routes"] == 2
        pages = [plain(cluster[name].vitals.jsz(Asked(True, True, True, True))) for name in "abc"]
        assert sorted(page["consumers"] for page in pages) == [0, 0, 1]
        for page in pages:
            [account] = page["account_details"]
            [stream] = account["stream_detail"]
            assert stream["config"]["name"] == "S" and stream["state"]["messages"] == 1
            led = page["streams_leader"] == 1
            assert [each["name"] for each in stream["consumer_detail"]] == (["c"] if led else [])
