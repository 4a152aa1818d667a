"""The monitor's pages have the field names of a real nats-server's, but for those in docs/operations.md."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import pytest

from tests.differential.wire import WireClient
from tests.system.processes import free_ports
from tests.waiting import wait_for

NODES: Final = 3
PATIENCE: Final = 30.0
PROGRAMS: Final = {
    "real": (str(Path(sys.executable).with_name("nats-server")),),
    "ours": (sys.executable, "-m", "trimaran", "nats-server"),
}
MISSING: Final[dict[str, list[str]]] = {
    "/varz": [
        "cluster.auth_timeout",
        "cluster.tls_timeout",
        "config_digest",
        "disk_io_wait_stats",
        "feature_flags",
        "git_commit",
        "go",
        "jetstream.limits.default_max_consumers",
        "leaf",
        "mqtt",
        "stalled_clients",
        "tls_timeout",
        "websocket",
        "write_deadline",
    ],
    "/connz?subs=1": ["connections[].idle", "connections[].last_activity", "connections[].rtt"],
    "/routez": [
        "routes[].account",
        "routes[].idle",
        "routes[].in_bytes",
        "routes[].in_msgs",
        "routes[].ip",
        "routes[].last_activity",
        "routes[].port",
        "routes[].rtt",
        "routes[].start",
        "routes[].subscriptions",
        "routes[].uptime",
    ],
    "/subsz?subs=1": [
        "avg_fanout",
        "cache_hit_rate",
        "max_fanout",
        "num_cache",
        "num_inserts",
        "num_matches",
        "num_removes",
        "subscriptions_list[].account_tag",
    ],
    "/jsz?consumers=1&config=1&raft=1": [
        "account_details[].stream_detail[].cluster.leader_since",
        "account_details[].stream_detail[].cluster.raft_group",
        "account_details[].stream_detail[].cluster.system_account",
        "account_details[].stream_detail[].cluster.traffic_account",
        "account_details[].stream_detail[].consumer_detail[].cluster.raft_group",
        "account_details[].stream_detail[].consumer_detail[].cluster.system_account",
        "account_details[].stream_detail[].consumer_detail[].cluster.traffic_account",
        "account_details[].stream_detail[].consumer_raft_groups",
        "limits.default_max_consumers",
    ],
    "/raftz": [
        "$SYS._meta_.ipq_apply_len",
        "$SYS._meta_.ipq_entry_len",
        "$SYS._meta_.ipq_proposal_len",
        "$SYS._meta_.ipq_resp_len",
        "$SYS._meta_.leader_since",
        "$SYS._meta_.wal.consumer_count",
        "$SYS._meta_.wal.first_ts",
        "$SYS._meta_.wal.last_ts",
    ],
    "/healthz": [],
    "/accountz": [],
    "/accountz?acc=$G": ["account_detail.imports", "account_detail.sublist_stats"],
}


SOMETIMES: Final = {"account_details[].stream_detail[].consumer_detail[].cluster.leader_since"}
"""What the reference shows by chance: here a consumer's leader is its stream's."""


def names(value: object, prefix: str = "") -> set[str]:
    """The paths of all fields; what a group calls its peers is one name."""
    if isinstance(value, list):
        return set().union(*(names(each, f"{prefix}[]") for each in value))
    if not isinstance(value, dict):
        return set()
    found: set[str] = set()
    for name, inner in value.items():
        shown = "*" if prefix.endswith(".peers") else name
        path = f"{prefix}.{shown}".lstrip(".")
        found |= {path} | names(inner, path)
    return found


def missing(real: set[str], ours: set[str]) -> list[str]:
    """What the one has and the other has not; of what is missing with all below it, the uppermost."""
    absent = sorted(real - ours)
    below = tuple(f"{other}{between}" for other in absent for between in (".", "[]"))
    return [each for each in absent if not each.startswith(below)]


@contextmanager
def cluster(directory: Path, *program: str) -> Iterator[tuple[list[int], list[int]]]:
    """Three servers with a route; the ports of their clients and monitors."""
    directory.mkdir()
    ports = free_ports(3 * NODES)
    clients, monitors, routes = ports[:NODES], ports[NODES : 2 * NODES], ports[2 * NODES :]
    with ExitStack() as stack:
        for number in range(NODES):
            place = directory / str(number)
            arguments = [
                *("-a", "127.0.0.1", "-p", str(clients[number]), "-m", str(monitors[number]), "-js"),
                *("-sd", str(place), "--cluster_name", "c", "--server_name", f"n{number}"),
                *("--cluster", f"nats://127.0.0.1:{routes[number]}"),
                *("--routes", f"nats://127.0.0.1:{routes[0]}"),
            ]
            log = stack.enter_context((directory / f"{number}.log").open("wb"))
            process = subprocess.Popen([*program, *arguments], stderr=log)
            stack.callback(process.wait)
            stack.callback(process.kill)
        yield clients, monitors


def page(port: int, path: str) -> object:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=PATIENCE) as answer:
            return json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return {"status": error.code}
    except OSError:
        return {}


def populate(clients: list[int], monitors: list[int]) -> None:
    """A stream with messages and a consumer, once the servers have found each other."""
    made: list[object] = []

    def healthy() -> bool:
        return all(page(each, "/healthz") == {"status": "ok"} for each in monitors)

    def is_made() -> bool:
        answer = client.api("STREAM.CREATE.S", {"name": "S", "subjects": ["s.>"], "num_replicas": NODES})
        made.append(answer)
        return isinstance(answer, dict) and "error" not in answer

    wait_for(healthy, PATIENCE, lambda: [page(each, "/healthz") for each in monitors])
    client = WireClient(clients[0])
    wait_for(is_made, PATIENCE, lambda: made[-1])
    client.ask("s.1", b"m")
    config = {"durable_name": "c", "ack_policy": "explicit"}
    client.api("CONSUMER.CREATE.S.c", {"stream_name": "S", "config": config})
    client.ask("$JS.API.CONSUMER.MSG.NEXT.S.c", b"1")
    client.close()


@pytest.fixture(scope="module")
def fields(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, set[str]]]:
    """Program -> page -> its fields, on whichever server shows them."""
    directory = tmp_path_factory.mktemp("monitoring")
    found: dict[str, dict[str, set[str]]] = {}
    with ExitStack() as stack:
        running = {
            name: stack.enter_context(cluster(directory / name, *program))
            for name, program in PROGRAMS.items()
        }
        for name, (clients, monitors) in running.items():
            populate(clients, monitors)
            listeners = [WireClient(each) for each in clients]
            for each in listeners:
                each.listen("somewhere")
                stack.callback(each.close)
            found[name] = {
                path: set().union(*(names(page(monitor, path)) for monitor in monitors)) for path in MISSING
            }
    return found


@pytest.mark.parametrize("path", MISSING)
def test_a_page_has_the_fields_of_the_reference(fields: dict[str, dict[str, set[str]]], path: str) -> None:
    assert missing(fields["real"][path] - SOMETIMES, fields["ours"][path]) == MISSING[path]


def test_operations_md_lists_what_is_missing() -> None:
    text = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
    section = text.partition("### What of nats-server's pages is not there\n")[2].partition("\n#")[0]
    rows = dict(re.findall(r"^\| `(/\w+)` \| (.+) \|$", section, re.MULTILINE))
    listed = {path: sorted(re.findall(r"`([^`]+)`", text)) for path, text in rows.items()}
    wanted: dict[str, list[str]] = {}
    for path, absent in MISSING.items():
        if absent:
            leaves = {each.rpartition("[].")[2] for each in absent}
            wanted[path.partition("?")[0]] = sorted(leaves)
    assert listed == wanted
