"""Advisories of streams, consumers and requests have the subjects and fields of a real nats-server's."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, Final

import pytest

from tests.differential.servers import reference, trimaran
from tests.differential.wire import PATIENCE, Reply, WireClient

STREAM: Final = {"name": "S", "subjects": ["s.>"]}
REQUESTS: Final[list[tuple[str, object]]] = [
    ("STREAM.CREATE.S", STREAM),
    ("STREAM.CREATE.S", STREAM),
    ("STREAM.UPDATE.S", {**STREAM, "max_msgs": 5}),
    ("CONSUMER.CREATE.S.c", {"stream_name": "S", "config": {"durable_name": "c"}}),
    ("CONSUMER.CREATE.S.c", {"stream_name": "S", "config": {"durable_name": "c", "max_deliver": 3}}),
    ("CONSUMER.PAUSE.S.c", {"pause_until": "2050-01-01T00:00:00Z"}),
    ("CONSUMER.PAUSE.S.c", {}),
    ("CONSUMER.INFO.S.c", None),
    ("CONSUMER.DELETE.S.c", None),
    ("STREAM.MSG.GET.S", {"seq": 1}),
    ("STREAM.DELETE.S", None),
    ("STREAM.INFO.S", None),
]
SETTLE: Final = 0.1
"""Seconds after which the reference has said all that it has to say."""
TIMED: Final = {"id", "timestamp", "server", "response"}
NOT_HERE: Final = {"rtt"}
"""Of a client, in audits: nobody measures it here."""


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[WireClient, WireClient]]:
    directory = tmp_path_factory.mktemp("advisories")
    with ExitStack() as stack:
        real = WireClient(stack.enter_context(reference(directory / "reference")))
        stack.callback(real.close)
        ours = WireClient(stack.enter_context(trimaran(directory)))
        stack.callback(ours.close)
        yield real, ours


def comparable(advisory: dict[str, Any]) -> dict[str, Any]:
    shown = {name: "?" if name in TIMED else value for name, value in advisory.items()}
    if "client" in shown:
        shown["client"] = sorted(set(shown["client"]) - NOT_HERE)
    return shown


def heard(replies: list[Reply]) -> list[tuple[str, dict[str, Any]]]:
    found = [(each.subject, json.loads(each.payload)) for each in replies]
    return sorted(((name, comparable(fields)) for name, fields in found), key=lambda each: each[0])


def test_the_same_is_told(servers: tuple[WireClient, WireClient]) -> None:
    real, ours = servers
    for client in servers:
        client.overhear("$JS.EVENT.ADVISORY.>")
    for subject, body in REQUESTS:
        for client in servers:
            client.api(subject, body)
        expected = heard(real.overheard(SETTLE))
        assert heard(ours.overheard(PATIENCE, len(expected))) == expected, subject
    assert ours.overheard(SETTLE) == []
