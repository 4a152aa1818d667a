"""Priority groups: who of several waiting clients gets a message is the same as with a real nats-server."""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, Final

import pytest

from tests.differential.script import forgiving
from tests.differential.servers import reference, trimaran
from tests.differential.wire import HELLO, publish_lines

PATIENCE: Final = 10.0
SETTLE: Final = 0.02
"""Seconds in which a server without a disk to wait for has said all it has to say."""
LONG: Final = 3600 * 1_000_000_000
GROUP: Final = {"priority_groups": ["A"]}
PINNED: Final = {**GROUP, "priority_policy": "pinned_client"}
OVERFLOW: Final = {**GROUP, "priority_policy": "overflow"}
PRIORITIZED: Final = {**GROUP, "priority_policy": "prioritized"}
Step = tuple[Any, ...]


def pull(inbox: str, batch: int = 1, **fields: object) -> Step:
    return ("pull", inbox, {"group": "A", "batch": batch, "expires": LONG, **fields})


PUBLISH: Final[Step] = ("publish",)
INFO: Final[Step] = ("info",)
SCRIPTS: Final[dict[str, tuple[dict[str, Any], list[Step]]]] = {
    "the first one is pinned, when there is a message": (
        PINNED,
        [
            pull("a", 3),
            INFO,
            pull("b", 2),
            PUBLISH,
            INFO,
            PUBLISH,
            pull("c", id="PIN1"),
            *[PUBLISH] * 3,
            INFO,
        ],
    ),
    "who is pinned no more is told": (
        PINNED,
        [
            *[pull("a", 3), PUBLISH, pull("b", 2), pull("c", 2), ("unpin", "A"), INFO, PUBLISH, INFO],
            *[pull("d", id="PIN1"), ("unpin", "A"), PUBLISH, PUBLISH, PUBLISH, INFO],
        ],
    ),
    "an id of nobody": (PINNED, [pull("a", id="x"), PUBLISH, pull("b"), INFO, pull("c", id="x"), INFO]),
    "a new consumer knows no pin": (
        PINNED,
        [pull("a"), PUBLISH, ("delete",), ("consumer", PINNED), pull("a", id="PIN1", no_wait=True)],
    ),
    "pinned without acknowledgements": (
        {**PINNED, "ack_policy": "none"},
        [pull("a", 2), pull("b", 2), *[PUBLISH] * 3],
    ),
    "headers of messages stay": (PINNED, [pull("a", 2), ("publish", {"Key": "value"}), PUBLISH]),
    "by priority": (
        PRIORITIZED,
        [
            *[pull("a", priority=5), pull("b", 2, priority=1), pull("c", 2, priority=1), pull("d")],
            *[pull("e", priority=9), pull("f", 2, priority=4), *[PUBLISH] * 10],
        ],
    ),
    "overflow by what waits": (
        OVERFLOW,
        [
            pull("a", 4, min_pending=3),
            *[PUBLISH] * 5,
            pull("b", 3),
            pull("c", 2, min_pending=1),
            *[PUBLISH] * 4,
        ],
    ),
    "overflow by what is not acknowledged": (
        OVERFLOW,
        [
            *[pull("a", 3, min_ack_pending=2), pull("b", 2), *[PUBLISH] * 3],
            *[pull("c", 2, min_ack_pending=100, min_pending=2), *[PUBLISH] * 4, INFO],
        ],
    ),
    "overflow without waiting": (
        OVERFLOW,
        [PUBLISH, pull("a", no_wait=True, expires=0, min_pending=50), pull("b", 2, no_wait=True, expires=0)],
    ),
    "what is asked of which group": (
        {**OVERFLOW, "max_batch": 5},
        [
            *[pull("a", group=""), pull("b", group="B"), pull("c", id="x"), pull("d", priority=10)],
            *[pull("e", min_pending=-1), pull("f", 9, group="B"), pull("g", group="B", id="x", priority=-1)],
            *[pull("h", 9, idle_heartbeat=LONG), ("pull", "i", {"batch": 1}), PUBLISH],
        ],
    ),
    "what is asked of no group": (
        {},
        [
            *[pull("a", min_pending=1, id="x"), pull("b", id="x", priority=11), pull("c", priority=11)],
            *[pull("d", min_pending=-1), pull("e", group="B"), PUBLISH, ("unpin", "A")],
        ],
    ),
    "what is asked of a pinned client": (
        PINNED,
        [
            *[pull("a", group="", id="x"), pull("b", min_pending=1, id="x"), pull("c", group="B", id="x")],
            *[("unpin", "B"), ("unpin", ""), ("api", "CONSUMER.UNPIN.S.no", {"group": "A"})],
            *[
                ("api", "CONSUMER.UNPIN.T.c", {"group": "A"}),
                ("api", "CONSUMER.UNPIN.S.c", None),
                ("unpin", "A"),
            ],
        ],
    ),
}
CONFIGURATIONS: Final[list[dict[str, Any]]] = [
    GROUP,
    {"priority_policy": "overflow"},
    {"priority_policy": "none"},
    {**GROUP, "priority_policy": "none"},
    {**GROUP, "priority_policy": "other"},
    {"priority_timeout": 1_000_000_000},
    {**PINNED, "priority_timeout": -1},
    {**PINNED, "priority_timeout": 5},
    {**OVERFLOW, "priority_timeout": 5},
    {**OVERFLOW, "deliver_subject": "d"},
    {**OVERFLOW, "ack_policy": "none"},
    {"priority_policy": "overflow", "deliver_subject": "d"},
    {"priority_policy": "overflow", "priority_groups": ["A", "B"]},
    *[
        {"priority_policy": "overflow", "priority_groups": [group]}
        for group in ("", "a b", "A.", "x" * 16, "x" * 17, "A-_/=x", "ä")
    ],
    {**OVERFLOW, "max_expires": 1},
    {**OVERFLOW, "idle_heartbeat": 1_000_000_000},
    {**OVERFLOW, "ack_wait": -1},
    {**OVERFLOW, "num_replicas": 3},
    {**GROUP, "filter_subject": "s..1"},
    {**GROUP, "deliver_policy": "by_start_sequence"},
    {**GROUP, "max_deliver": 1, "backoff": [1, 2]},
    {**GROUP, "description": "d" * 5000},
]


class Client:
    """A connection whose inboxes have names; what comes is kept in order, ids and times made comparable."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        self._file = self._socket.makefile("rb")
        self._file.readline()
        self._pins: list[str] = []
        self._heard: list[object] = []
        self._answers = 0
        self._socket.sendall(HELLO)
        self._socket.sendall(b"SUB in.* 1\r\nSUB $JS.EVENT.ADVISORY.CONSUMER.PINNED.> 2\r\n")
        self._socket.sendall(b"SUB $JS.EVENT.ADVISORY.CONSUMER.UNPINNED.> 3\r\nSUB answer.* 4\r\n")
        self.flush()

    def close(self) -> None:
        self._file.close()
        self._socket.close()

    def flush(self, least: int = 0) -> list[object]:
        """What came: so many messages, or what comes in a while, and what the server then says at once."""
        deadline = time.monotonic() + (PATIENCE if least else SETTLE)
        self._ping()
        while len(self._heard) < least or (not least and time.monotonic() < deadline):
            assert not least or time.monotonic() < deadline, f"{least} messages are expected: {self._heard}"
            self._ping()
        self._ping()
        heard, self._heard = self._heard, []
        return heard

    def _ping(self) -> None:
        self._socket.sendall(b"PING\r\n")
        words: list[bytes] = []
        while words != [b"PONG"]:
            words = self._file.readline().split()
            self._take(words)

    def api(self, subject: str, body: object = None) -> object:
        return forgiving(
            json.loads(self._ask(f"$JS.API.{subject}", b"" if body is None else json.dumps(body).encode()))
        )

    def publish(self, headers: dict[str, str]) -> None:
        self._ask("s.x", b"m", headers)

    def pull(self, inbox: str, body: dict[str, Any]) -> None:
        asked = re.fullmatch(r"PIN(\d+)", str(body.get("id")))
        if asked:
            body = {**body, "id": self._pins[int(asked[1]) - 1]}
        subject = "$JS.API.CONSUMER.MSG.NEXT.S.c"
        self._socket.sendall(publish_lines(subject, f"in.{inbox}", json.dumps(body).encode(), {}))

    def _ask(self, subject: str, payload: bytes, headers: dict[str, str] | None = None) -> bytes:
        self._answers += 1
        inbox = f"answer.{self._answers}".encode()
        self._socket.sendall(publish_lines(subject, inbox.decode(), payload, headers or {}))
        while True:
            words = self._file.readline().split()
            answer = self._take(words)
            if words[0] in (b"MSG", b"HMSG") and words[1] == inbox:
                return answer

    def _take(self, words: list[bytes]) -> bytes:
        if words[0] not in (b"MSG", b"HMSG"):
            return b""
        headed = words[0] == b"HMSG"
        size, cut = int(words[-1]), int(words[-2]) if headed else 0
        body = self._file.read(size + 2)[:-2]
        if words[2] == b"4":
            return body
        reply = words[3].decode() if len(words) == (6 if headed else 5) else ""
        left = reply.rpartition(".")[2]
        shown = self._known(body[:cut].decode()), self._advisory(words[2], body[cut:]), left
        self._heard.append((words[1].decode(), *shown))
        return body

    def _known(self, text: str) -> str:
        """Ids of pins by the order in which they were first seen."""
        for pin in re.findall(r"Nats-Pin-Id: (\w{22})", text):
            if pin not in self._pins:
                self._pins.append(pin)
        for number, pin in enumerate(self._pins, 1):
            text = text.replace(pin, f"PIN{number}")
        return text

    def _advisory(self, sid: bytes, body: bytes) -> object:
        if sid == b"1":
            return body
        shown = json.loads(body)
        known = {"id", "timestamp", "pinned_id"}
        return {name: "?" if name in known else value for name, value in shown.items()}

    def pinned(self, answer: object) -> object:
        """A consumer's groups as its information shows them."""
        groups = answer.get("priority_groups") if isinstance(answer, dict) else answer
        return self._known(re.sub(r"20\d\d-[^\"]+Z", "T", json.dumps(groups)))


def answered(client: Client, step: Step) -> object:
    """Do it; what is answered at once."""
    match step:
        case ("pull", inbox, body):
            client.pull(inbox, body)
        case ("publish", *headers):
            client.publish(headers[0] if headers else {})
        case ("info",):
            return client.pinned(client.api("CONSUMER.INFO.S.c"))
        case ("unpin", group):
            return client.api("CONSUMER.UNPIN.S.c", {"group": group})
        case ("delete",):
            return client.api("CONSUMER.DELETE.S.c")
        case ("consumer", config):
            return comparable(client.api("CONSUMER.CREATE.S.c", consumer(config)))
        case (_, subject, body):
            return client.api(subject, body)
    return None


def consumer(config: dict[str, Any]) -> dict[str, Any]:
    return {"stream_name": "S", "config": {"durable_name": "c", "ack_policy": "explicit", **config}}


def comparable(answer: object) -> object:
    return {k: v for k, v in answer.items() if k != "priority_groups"} if isinstance(answer, dict) else answer


@pytest.fixture(scope="module")
def clients(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Client, Client]]:
    directory = tmp_path_factory.mktemp("priority")
    with ExitStack() as stack:
        real = Client(stack.enter_context(reference(directory / "reference")))
        stack.callback(real.close)
        ours = Client(stack.enter_context(trimaran(directory)))
        stack.callback(ours.close)
        yield real, ours


def begin(client: Client) -> None:
    client.api("STREAM.DELETE.S")
    client.flush()
    client._pins.clear()
    client.api("STREAM.CREATE.S", {"name": "S", "subjects": ["s.>"]})


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_same_client_gets_it(clients: tuple[Client, Client], name: str) -> None:
    config, script = SCRIPTS[name]
    for client in clients:
        begin(client)
    real, ours = clients
    for number, step in enumerate([("consumer", config), *script]):
        expected, found = answered(real, step), answered(ours, step)
        assert found == expected, f"step {number}: {step}"
        told = real.flush()
        assert ours.flush(len(told)) == told, f"step {number}: {step}"


def test_configurations_are_taken_or_refused_alike(clients: tuple[Client, Client]) -> None:
    for client in clients:
        begin(client)
    for config in CONFIGURATIONS:
        answers = []
        for client in clients:
            answers.append(client.api("CONSUMER.CREATE.S.c", consumer(config)))
            client.api("CONSUMER.DELETE.S.c")
        assert answers[1] == answers[0], config
