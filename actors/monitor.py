"""The monitor: a node's state as JSON over HTTP, read-only, for people and for probes.

    GET /          the status page: all nodes and groups, drawn anew each second
    GET /statusz   what that page draws
    GET /healthz   200 {"status": "ok"}, or 503 with the reasons: every group that this node hosts must
                   have a leader and be caught up
    GET /varz      the node: identity, limits, connections, traffic, the log's counters under "wal"
    GET /raftz     every group this node hosts: role, term, commit, applied, and its peers; ?group=NAME: one
    GET /jsz       the streams; ?streams=true: each with configuration and state, ?consumers=true: theirs too
    GET /connz     clients; ?offset=, ?limit= (1024), ?subs=true
    GET /routez    links to the other nodes
    GET /subsz     how many subscriptions there are; ?subs=true: which, ?offset=, ?limit=
    GET /accountz  the accounts; ?acc=NAME: one of them
    GET /metrics   all of it as Prometheus wants it

It reads what its node already knows and awaits nothing but its own sockets, so nobody can slow a node
down through it: a request has a deadline and a size limit, connections have a bound, and malformed HTTP
ends only the connection it came on. There is no authentication; bind it to loopback.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import resources
from typing import Final, NamedTuple, Protocol
from urllib.parse import parse_qs

import h11
import trio

from .jsz import MAIN_ACCOUNT, META_NAME, SYSTEM_ACCOUNT, Asked
from .metrics import CONTENT_TYPE
from .units import join_address, split_address

__all__ = ["Monitor", "Monitored"]

MAX_CONNECTIONS: Final = 64
"""Enough for every probe and dashboard there is; the next one is closed at once."""

MAX_REQUEST_BYTES: Final = 8 * 1024
"""Request line and headers. Browsers with many cookies stay below it."""

REQUEST_SECONDS: Final = 10.0
"""For one request to arrive and its answer to leave; an idle connection is closed after it, too."""

RECEIVE_BYTES: Final = 4 * 1024

JSON: Final = "application/json"
FILES: Final = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/status.css": ("status.css", "text/css; charset=utf-8"),
    "/status.js": ("status.js", "text/javascript; charset=utf-8"),
}
"""The status page: path -> file in `status_page/`, and what kind of file that is."""

SECURITY_HEADERS: Final = (
    # Nothing but this server's own files, no text that becomes markup, and no frame around it.
    (
        "content-security-policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'",
    ),
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-resource-policy", "same-origin"),
)
CONNECTIONS_SHOWN: Final = 1024

PIECES: Final = 16
"""Groups that are looked at before everybody else on the event loop gets a turn: about a millisecond."""

Json = Mapping[str, object]
Pieces = Iterator[str]
"""The text of a page, in pieces that each cost little to make."""


class Answer(NamedTuple):
    """What is said to one request."""

    status: int
    kind: str
    """As HTTP's content-type."""
    body: Pieces


class Monitored(Protocol):
    """What a node tells about itself. Synchronous: the monitor never waits for anybody."""

    def health(self) -> Sequence[str]:
        """Why this node isn't healthy, one sentence each; nothing when it is."""

    def varz(self) -> Json:
        """The node's identity, limits and counters, in the field names of the reference server's /varz."""

    def raftz(self) -> Iterator[tuple[str, Json]]:
        """(name, state) of each group on this node. Others run between one and the next."""

    def jsz(self, asked: Asked) -> Json:
        """Streams, messages and bytes of this node, if wanted in detail."""

    def connz(self, offset: int, limit: int, *, subscriptions: bool) -> Json:
        """Clients, oldest first."""

    def routez(self) -> Json:
        """Links to other nodes."""

    def subsz(self, offset: int, limit: int, *, subscriptions: bool) -> Json:
        """Subscriptions of this node's clients."""

    def accountz(self, account: str) -> Json:
        """The accounts; one of them in detail, if it is named."""

    def metrics(self) -> Iterator[str]:
        """The text of /metrics, in pieces."""

    def statusz(self) -> Json:
        """Every node's summary, for the status page."""


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
        folder = resources.files(__package__) / "status_page"
        self._files = {
            path: (kind, (folder / name).read_text(encoding="utf-8")) for path, (name, kind) in FILES.items()
        }
        self._pages: Mapping[str, Callable[[str], Answer]] = {
            "/healthz": lambda query: self._healthz(),
            "/varz": lambda query: Answer(200, JSON, self._varz()),
            "/raftz": lambda query: Answer(200, JSON, self._raftz(query)),
            "/jsz": lambda query: Answer(200, JSON, self._jsz(query)),
            "/connz": lambda query: Answer(200, JSON, self._connz(query)),
            "/routez": lambda query: Answer(200, JSON, whole(monitored.routez())),
            "/subsz": lambda query: Answer(200, JSON, self._subsz(query)),
            "/accountz": lambda query: Answer(200, JSON, self._accountz(query)),
            "/statusz": lambda query: Answer(200, JSON, whole(monitored.statusz())),
            "/metrics": lambda query: Answer(200, CONTENT_TYPE, monitored.metrics()),
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

    def _answer(self, method: bytes, target: bytes) -> Answer:
        """What is said to one request."""
        if method not in (b"GET", b"HEAD"):
            return Answer(405, JSON, whole({"error": "only GET and HEAD are answered"}))
        path, _, query = target.decode("latin-1").partition("?")
        if path in self._files:
            kind, text = self._files[path]
            return Answer(200, kind, iter([text]))
        page = self._pages.get(path)
        if page is None:
            return Answer(404, JSON, whole({"error": "no such page", "endpoints": list(self._pages)}))
        self._requests[path] = self._requests.get(path, 0) + 1
        return page(query)

    def _healthz(self) -> Answer:
        reasons = list(self._monitored.health())
        if not reasons:
            return Answer(200, JSON, whole({"status": "ok"}))
        body = {"status": "unavailable", "error": "; ".join(reasons), "errors": reasons}
        return Answer(503, JSON, whole(body))

    def _varz(self) -> Pieces:
        return whole({**self._monitored.varz(), "http_req_stats": dict(self._requests)})

    def _jsz(self, query: str) -> Pieces:
        asked = parse_qs(query)
        consumers = _is_asked(asked, "consumers")
        streams = consumers or _is_asked(asked, "streams")
        accounts = streams or _is_asked(asked, "accounts") or "acc" in asked
        return whole(self._monitored.jsz(Asked(accounts, streams, consumers, _is_asked(asked, "config"))))

    def _connz(self, query: str) -> Pieces:
        asked = parse_qs(query)
        offset, limit = _count(asked, "offset", 0), _count(asked, "limit", CONNECTIONS_SHOWN)
        return whole(self._monitored.connz(offset, limit, subscriptions=_is_asked(asked, "subs")))

    def _subsz(self, query: str) -> Pieces:
        asked = parse_qs(query)
        offset, limit = _count(asked, "offset", 0), _count(asked, "limit", CONNECTIONS_SHOWN)
        return whole(self._monitored.subsz(offset, limit, subscriptions=_is_asked(asked, "subs")))

    def _accountz(self, query: str) -> Pieces:
        return whole(self._monitored.accountz(parse_qs(query).get("acc", [""])[0]))

    def _raftz(self, query: str) -> Pieces:
        """account -> group name -> state; a group on each line, as there may be thousands."""
        asked = parse_qs(query)
        wanted, account = asked.get("group"), asked.get("acc", [""])[0]
        meta = ""
        separator = f'{{"{MAIN_ACCOUNT}": {{\n'
        for name, state in self._monitored.raftz():
            owner = SYSTEM_ACCOUNT if name == META_NAME else MAIN_ACCOUNT
            line = ""
            if account in ("", owner) and (wanted is None or name in wanted):
                line = f"{json.dumps(name)}: {json.dumps(state, default=str)}"
            if owner == SYSTEM_ACCOUNT:
                meta = line
                yield ""
            elif line:
                yield separator + line
                separator = ",\n"
            else:
                yield ""
        yield "\n}" if separator == ",\n" else f"{separator}}}"
        yield f', "{SYSTEM_ACCOUNT}": {{\n{meta}\n}}}}\n' if meta else "}\n"


def _is_asked(asked: Mapping[str, Sequence[str]], name: str) -> bool:
    return asked.get(name, ["0"])[0].lower() in ("1", "true", "detail")


def _count(asked: Mapping[str, Sequence[str]], name: str, default: int) -> int:
    text = asked.get(name, [""])[0]
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else default


def whole(page: Json) -> Pieces:
    """A page that is made at once."""
    yield json.dumps(page, indent=2, default=str) + "\n"


async def gather(pieces: Pieces) -> bytes:
    """The page, made without holding up the event loop."""
    text: list[str] = []
    for piece in pieces:
        text.append(piece)
        if len(text) % PIECES == 0:
            await trio.lowlevel.checkpoint()
    return "".join(text).encode()


class _Connection:
    """One HTTP connection: h11 knows the protocol, this moves the bytes."""

    def __init__(self, stream: trio.abc.Stream, answer: Callable[[bytes, bytes], Answer]) -> None:
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
            reason = Answer(error.error_status_hint, JSON, whole({"error": str(error)}))
            await self._respond(reason, head=False, close=True)
            return False
        answer = self._answer(request.method, request.target)
        await self._respond(answer, head=request.method == b"HEAD", close=not complete)
        return self._http.our_state is h11.DONE and self._http.their_state is h11.DONE

    async def _next_event(self) -> object:
        while True:
            event = self._http.next_event()
            if event is not h11.NEED_DATA:
                return event
            self._http.receive_data(bytes(await self._stream.receive_some(RECEIVE_BYTES)))

    async def _respond(self, answer: Answer, *, head: bool, close: bool) -> None:
        data = await gather(answer.body)
        headers = [
            ("content-type", answer.kind),
            ("content-length", str(len(data))),
            ("cache-control", "no-store"),
            *SECURITY_HEADERS,
            *([("connection", "close")] if close else []),
        ]
        send = self._http.send
        wire = send(h11.Response(status_code=answer.status, headers=headers)) or b""
        if not head:
            wire += send(h11.Data(data=data)) or b""
        await self._stream.send_all(wire + (send(h11.EndOfMessage()) or b""))
