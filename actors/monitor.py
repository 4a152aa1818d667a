"""The monitor: a node's state as JSON over HTTP, read-only, for people and for probes.

    GET /healthz   200 {"status": "ok"}, or 503 with the reasons: every group that this node hosts must
                   have a leader and be caught up
    GET /varz      the node: identity, limits, connections, traffic, the log's counters under "wal"
    GET /raftz     every group this node hosts: role, term, commit, applied, and its peers
    GET /jsz       the streams

It reads what its node already knows and awaits nothing but its own sockets, so nobody can slow a node
down through it: a request has a deadline and a size limit, connections have a bound, and malformed HTTP
ends only the connection it came on. There is no authentication; bind it to loopback.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

import h11
import trio

from .options import join_address, split_address

__all__ = ["Monitor", "Monitored"]

MAX_CONNECTIONS: Final = 64
"""Enough for every probe and dashboard there is; the next one is closed at once."""

MAX_REQUEST_BYTES: Final = 8 * 1024
"""Request line and headers. Browsers with many cookies stay below it."""

REQUEST_SECONDS: Final = 10.0
"""For one request to arrive and its answer to leave; an idle connection is closed after it, too."""

RECEIVE_BYTES: Final = 4 * 1024

Json = Mapping[str, object]


class Monitored(Protocol):
    """What a node tells about itself. Synchronous: the monitor never waits for anybody."""

    def health(self) -> Sequence[str]:
        """Why this node isn't healthy, one sentence each; nothing when it is."""

    def varz(self) -> Json:
        """The node's identity, limits and counters, in the field names of the reference server's /varz."""

    def raftz(self) -> Json:
        """Account -> group name -> state of that group on this node."""

    def jsz(self) -> Json:
        """Streams, messages and bytes of this node."""


class Monitor:
    """Answers HTTP requests about one node.

    Args:
        monitored: where the answers come from.
        address: HOST:PORT to listen on; port 0 takes a free one.
    """

    def __init__(self, monitored: Monitored, address: str) -> None:
        self._monitored = monitored
        self._address = address
        self._connections = 0
        self._requests: dict[str, int] = {}
        self._pages: Mapping[str, Callable[[], tuple[int, Json]]] = {
            "/": lambda: (200, {"endpoints": [path for path in self._pages if path != "/"]}),
            "/healthz": self._healthz,
            "/varz": self._varz,
            "/raftz": lambda: (200, monitored.raftz()),
            "/jsz": lambda: (200, monitored.jsz()),
        }

    async def run(self, *, task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED) -> None:
        """Listen and answer until cancelled; `started()` reports the bound HOST:PORT.

        Raises:
            OSError: the address can't be bound.
        """
        host, port = split_address(self._address)
        listeners = await trio.open_tcp_listeners(port, host=host)
        bound = listeners[0].socket.getsockname()
        async with trio.open_nursery() as nursery:
            await nursery.start(trio.serve_listeners, self.serve, listeners)
            task_status.started(join_address(bound[0], bound[1]))

    async def serve(self, stream: trio.abc.Stream) -> None:
        """Answer the requests of one connection and close it. Raises nothing the peer could cause."""
        self._connections += 1
        try:
            if self._connections <= MAX_CONNECTIONS:
                await _Connection(stream, self._answer).run()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # The peer has gone; nobody is left to tell.
        finally:
            self._connections -= 1
            with trio.CancelScope(shield=True):
                await trio.aclose_forcefully(stream)

    def _answer(self, method: bytes, target: bytes) -> tuple[int, Json]:
        """Status and body for one request."""
        if method not in (b"GET", b"HEAD"):
            return 405, {"error": "only GET and HEAD are answered"}
        path = target.partition(b"?")[0].decode("latin-1")
        page = self._pages.get(path)
        if page is None:
            return 404, {"error": "no such page", "endpoints": list(self._pages)}
        self._requests[path] = self._requests.get(path, 0) + 1
        return page()

    def _healthz(self) -> tuple[int, Json]:
        reasons = list(self._monitored.health())
        if not reasons:
            return 200, {"status": "ok"}
        return 503, {"status": "unavailable", "error": "; ".join(reasons), "errors": reasons}

    def _varz(self) -> tuple[int, Json]:
        return 200, {**self._monitored.varz(), "http_req_stats": dict(self._requests)}


class _Connection:
    """One HTTP connection: h11 knows the protocol, this moves the bytes."""

    def __init__(self, stream: trio.abc.Stream, answer: Callable[[bytes, bytes], tuple[int, Json]]) -> None:
        self._stream = stream
        self._answer = answer
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_REQUEST_BYTES)

    async def run(self) -> None:
        """Request after request, each with its deadline, until either side is done."""
        while True:
            with trio.move_on_after(REQUEST_SECONDS):
                if await self._exchange():
                    self._http.start_next_cycle()
                    continue
            return

    async def _exchange(self) -> bool:
        """One request and its answer; False when the connection ends with it."""
        try:
            request = await self._next_event()
            if not isinstance(request, h11.Request):
                return False
            # A body is never read: after a request that announces one, the connection closes.
            complete = isinstance(self._http.next_event(), h11.EndOfMessage)
        except h11.RemoteProtocolError as error:
            await self._respond(error.error_status_hint, {"error": str(error)}, head=False, close=True)
            return False
        status, body = self._answer(request.method, request.target)
        await self._respond(status, body, head=request.method == b"HEAD", close=not complete)
        return self._http.our_state is h11.DONE and self._http.their_state is h11.DONE

    async def _next_event(self) -> object:
        while True:
            event = self._http.next_event()
            if event is not h11.NEED_DATA:
                return event
            self._http.receive_data(bytes(await self._stream.receive_some(RECEIVE_BYTES)))

    async def _respond(self, status: int, body: Json, *, head: bool, close: bool) -> None:
        data = (json.dumps(body, indent=2, default=str) + "\n").encode()
        headers = [
            ("content-type", "application/json"),
            ("content-length", str(len(data))),
            ("cache-control", "no-store"),
            *([("connection", "close")] if close else []),
        ]
        send = self._http.send
        wire = send(h11.Response(status_code=status, headers=headers)) or b""
        if not head:
            wire += send(h11.Data(data=data)) or b""
        await self._stream.send_all(wire + (send(h11.EndOfMessage()) or b""))
