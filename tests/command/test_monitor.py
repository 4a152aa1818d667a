"""The monitor over streams in memory: what it answers, and that bad HTTP ends only its own connection."""

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import cast

import h11
import pytest
import trio
import trio.testing

from trimaran.actors.jsz import Asked
from trimaran.actors.metrics import exposition, of_histogram
from trimaran.actors.monitor import MAX_CONNECTIONS, MAX_REQUEST_BYTES, PIECES, REQUEST_SECONDS, Monitor
from trimaran.storage.histogram import Histogram


class Node:
    """Something to look at."""

    def __init__(self, *reasons: str) -> None:
        self.reasons = list(reasons)
        self.groups = 1

    def health(self) -> list[str]:
        return self.reasons

    def varz(self) -> dict[str, object]:
        return {"server_name": "a", "wal": {"syncs": 7}}

    def raftz(self) -> Iterator[tuple[str, dict[str, object]]]:
        for number in range(self.groups):
            yield f"S{number}", {"role": "leader", "term": number}

    def jsz(self, asked: Asked) -> dict[str, object]:
        return {"streams": 0, "asked": [asked.accounts, asked.streams, asked.consumers, asked.config]}

    def connz(self, offset: int, limit: int, *, subscriptions: bool) -> dict[str, object]:
        return {"asked": [offset, limit, subscriptions]}

    def routez(self) -> dict[str, object]:
        return {"num_routes": 0}

    def subsz(self, offset: int, limit: int, *, subscriptions: bool) -> dict[str, object]:
        return {"asked": [offset, limit, subscriptions]}

    def accountz(self, account: str) -> dict[str, object]:
        return {"asked": [account]}

    def statusz(self) -> dict[str, object]:
        return {"nodes": []}

    def metrics(self) -> Iterator[str]:
        yield "a 1\n"
        yield "b 2\n"


@asynccontextmanager
async def connection(monitor: Monitor) -> AsyncIterator[trio.abc.Stream]:
    client, server = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(monitor.serve, server)
        yield client
        await client.aclose()


async def receive(client: trio.abc.Stream) -> bytes:
    data = b""
    while chunk := await client.receive_some(4096):
        data += chunk
    return data


async def ask(monitor: Monitor, target: str, method: str = "GET") -> tuple[int, dict[str, object]]:
    """One request on its own connection, read with h11's client half so that the framing is checked."""
    async with connection(monitor) as client:
        http = h11.Connection(h11.CLIENT)
        request = h11.Request(method=method, target=target, headers=[("host", "x"), ("connection", "close")])
        await client.send_all((http.send(request) or b"") + (http.send(h11.EndOfMessage()) or b""))
        http.receive_data(await receive(client))
        response = http.next_event()
        assert isinstance(response, h11.Response)
        text = b""
        while isinstance(body := http.next_event(), h11.Data):
            text += bytes(body.data)
        return response.status_code, json.loads(text or b"{}")


async def test_healthy_node_answers_200_ok() -> None:
    assert await ask(Monitor(Node(), ""), "/healthz") == (200, {"status": "ok"})


async def test_unhealthy_node_answers_503_with_every_reason() -> None:
    status, body = await ask(Monitor(Node("group 1 has no leader", "group 2 is behind"), ""), "/healthz")
    assert status == 503
    assert body["status"] == "unavailable"
    assert body["errors"] == ["group 1 has no leader", "group 2 is behind"]


async def test_varz_shows_the_node_and_counts_requests() -> None:
    monitor = Monitor(Node(), "")
    await ask(monitor, "/healthz")
    status, body = await ask(monitor, "/varz?x=1")
    assert status == 200
    assert body["server_name"] == "a"
    assert body["wal"] == {"syncs": 7}
    assert body["http_req_stats"] == {"/healthz": 1, "/varz": 1}


async def test_raftz_shows_all_groups_or_one() -> None:
    node = Node()
    for groups in (0, 1, 3):
        node.groups = groups
        shown = {f"S{number}": {"role": "leader", "term": number} for number in range(groups)}
        assert await ask(Monitor(node, ""), "/raftz") == (200, {"$G": shown})
    assert await ask(Monitor(node, ""), "/raftz?group=S1") == (200, {"$G": {"S1": shown["S1"]}})
    assert await ask(Monitor(node, ""), "/raftz?group=none") == (200, {"$G": {}})


async def test_a_thousand_groups_hold_nobody_up() -> None:
    node = Node()
    node.groups = 1000
    turns = 0

    async def somebody_else() -> None:
        nonlocal turns
        while True:
            turns += 1
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(somebody_else)
        _, body = await ask(Monitor(node, ""), "/raftz")
        nursery.cancel_scope.cancel()
    assert len(cast(dict[str, object], body["$G"])) == 1000
    assert turns >= 1000 // PIECES


@pytest.mark.parametrize("path", ["/raftz", "/jsz", "/statusz"])
async def test_other_pages_are_json(path: str) -> None:
    status, body = await ask(Monitor(Node(), ""), path)
    assert status == 200
    assert body


async def test_unknown_page_is_404_and_unknown_method_405() -> None:
    assert (await ask(Monitor(Node(), ""), "/nothing"))[0] == 404
    assert (await ask(Monitor(Node(), ""), "/varz", "DELETE"))[0] == 405


async def test_head_has_no_body() -> None:
    assert await ask(Monitor(Node(), ""), "/healthz", "HEAD") == (200, {})


async def test_connection_serves_successive_requests() -> None:
    async with connection(Monitor(Node(), "")) as client:
        for _ in range(3):
            await client.send_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            data = b""
            while not data.endswith(b"}\n"):
                data += await client.receive_some(4096)
            assert data.startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: nine\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
async def test_malformed_request_is_answered_400_and_closed(garbage: bytes) -> None:
    async with connection(Monitor(Node(), "")) as client:
        await client.send_all(garbage)
        assert (await receive(client)).startswith(b"HTTP/1.1 400")


async def test_oversized_request_is_answered_431_and_closed() -> None:
    async with connection(Monitor(Node(), "")) as client:
        await client.send_all(b"GET / HTTP/1.1\r\nX: " + b"x" * (2 * MAX_REQUEST_BYTES))
        assert (await receive(client)).startswith(b"HTTP/1.1 431")


async def test_request_with_a_body_is_answered_and_closed_without_reading_it() -> None:
    async with connection(Monitor(Node(), "")) as client:
        await client.send_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\nxx")
        assert b"connection: close" in (await receive(client)).lower()


async def test_slow_request_is_dropped_after_its_deadline(autojump_clock: trio.testing.MockClock) -> None:
    start = trio.current_time()
    async with connection(Monitor(Node(), "")) as client:
        await client.send_all(b"GET /healthz HTT")
        assert await receive(client) == b""
    assert trio.current_time() - start == pytest.approx(REQUEST_SECONDS)


async def test_connection_beyond_the_limit_is_closed_and_room_comes_back() -> None:
    monitor = Monitor(Node(), "")
    async with trio.open_nursery() as nursery:
        clients = []
        for _ in range(MAX_CONNECTIONS):
            client, server = trio.testing.memory_stream_pair()
            nursery.start_soon(monitor.serve, server)
            clients.append(client)
        await trio.testing.wait_all_tasks_blocked()
        async with connection(monitor) as late:
            assert await receive(late) == b""
        await clients.pop().aclose()
        await trio.testing.wait_all_tasks_blocked()
        assert (await ask(monitor, "/healthz"))[0] == 200
        for client in clients:
            await client.aclose()


async def test_real_socket_reports_its_address_and_answers(nursery: trio.Nursery) -> None:
    address = await nursery.start(Monitor(Node(), "127.0.0.1:0").run)
    host, port = address.split(":")
    assert host == "127.0.0.1"
    async with await trio.open_tcp_stream(host, int(port)) as client:
        await client.send_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert (await receive(client)).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    ("target", "asked"),
    [
        ("/jsz", [False, False, False, False]),
        ("/jsz?accounts=true", [True, False, False, False]),
        ("/jsz?acc=$G&config=1", [True, False, False, True]),
        ("/jsz?streams=true", [True, True, False, False]),
        ("/jsz?consumers=1", [True, True, True, False]),
        ("/subsz?offset=5&limit=7&subs=1", [5, 7, True]),
        ("/accountz", [""]),
        ("/accountz?acc=$G", ["$G"]),
        ("/connz", [0, 1024, False]),
        ("/connz?offset=5&limit=7&subs=true", [5, 7, True]),
        ("/connz?offset=-5&limit=x&subs=0", [0, 1024, False]),
        ("/connz?limit=99999999999999999999", [0, 1024, False]),
    ],
)
async def test_a_query_says_how_much_is_shown(target: str, asked: list[object]) -> None:
    assert (await ask(Monitor(Node(), ""), target))[1]["asked"] == asked


async def test_metrics_are_text_of_the_kind_that_prometheus_expects() -> None:
    async with connection(Monitor(Node(), "")) as client:
        await client.send_all(b"GET /metrics?x=1 HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        answer = await receive(client)
    assert b"content-type: text/plain; version=0.0.4" in answer.lower()
    assert answer.endswith(b"a 1\nb 2\n")


def test_a_histogram_counts_what_is_at_most_each_bound() -> None:
    histogram = Histogram((1, 10))
    for value in (0.5, 1, 2, 10, 11, 99):
        histogram.observe(value)
    both = Histogram((1, 10)).add([histogram, histogram])
    text = "".join(exposition(iter([of_histogram("h", "text", both)]), {"server": 'a"b'}))
    samples = [line for line in text.splitlines() if not line.startswith("#")]
    assert samples == [
        'h_bucket{server="a\\"b",le="1"} 4',
        'h_bucket{server="a\\"b",le="10"} 8',
        'h_bucket{server="a\\"b",le="+Inf"} 12',
        'h_sum{server="a\\"b"} 247',
        'h_count{server="a\\"b"} 12',
    ]
