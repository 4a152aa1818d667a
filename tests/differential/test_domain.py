"""JetStream's domain: requests that name it, or another one, are answered as by a real nats-server."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.differential.script import Session, forgiving
from tests.differential.test_limits import Server, server
from tests.differential.wire import WireClient

CONF = "jetstream { domain: hub }"
MADE = {"name": "a", "subjects": ["a.>"], "allow_direct": True}
CONSUMER = {"stream_name": "a", "config": {"durable_name": "c", "ack_policy": "explicit"}}
REQUESTS: list[tuple[str, object]] = [
    ("INFO", None),
    ("STREAM.CREATE.a", MADE),
    ("STREAM.CREATE.b", {"name": "b", "subjects": ["a.x"]}),
    ("INFO", None),
    ("STREAM.NAMES", None),
    ("STREAM.INFO.a", None),
    ("STREAM.INFO.none", None),
    ("STREAM.LIST", None),
    ("STREAM.UPDATE.a", MADE),
    ("CONSUMER.LIST.a", None),
    ("STREAM.MSG.GET.a", {"seq": 1}),
    ("DIRECT.GET.a", {"seq": 1}),
    ("DIRECT.GET.a.a.x", None),
    ("DIRECT.GET.none.a.x", None),
    ("CONSUMER.CREATE.a.c", CONSUMER),
    ("CONSUMER.MSG.NEXT.a.c", {"batch": 1, "no_wait": True}),
    ("CONSUMER.MSG.NEXT.a.none", {"batch": 1, "no_wait": True}),
    ("CONSUMER.INFO.a.c", None),
    ("STREAM.DELETE.a", None),
]


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Server]]:
    """A real nats-server and Trimaran, with the same domain."""
    directory = tmp_path_factory.mktemp("domain")
    programs = {
        "real": (str(Path(sys.executable).with_name("nats-server")),),
        "ours": (sys.executable, "-m", "trimaran", "nats-server"),
    }
    with ExitStack() as stack:
        yield [
            stack.enter_context(server(directory / name, *program, conf=CONF))
            for name, program in programs.items()
        ]


def said(server: Server, domain: str) -> list[object]:
    """Every answer to the requests by the domain's name."""
    client = WireClient(server.port)
    session = Session(client, seen)
    found: list[object] = []
    for subject, body in REQUESTS:
        payload = "" if body is None else json.dumps(body)
        found.append(session.run(("raw", f"$JS.{domain}.API.{subject}", payload)))
        if subject.startswith("STREAM.CREATE.a"):
            found += [session.run(("publish", "a.x", headers, "x")) for headers in ({}, {"Nats-Msg-Id": "1"})]
            found.append(session.run(("publish", "a.x", {"Nats-Expected-Last-Sequence": "9"}, "x")))
    client.close()
    return found


def seen(answer: object) -> object:
    """Without the level that requests may have."""
    shown = forgiving(answer)
    if isinstance(shown, dict) and "api" in shown:
        shown["api"].pop("level")
    return shown


@pytest.mark.parametrize("domain", ["hub", "other"])
def test_the_same_is_answered(servers: list[Server], domain: str) -> None:
    real, ours = (said(each, domain) for each in servers)
    assert ours == real
    assert ('"domain"' in str(real).replace("'", '"')) == (domain == "hub")


def test_the_same_is_announced(servers: list[Server]) -> None:
    for each in servers:
        with each.connect() as connection, connection.makefile("rb") as file:
            assert json.loads(file.readline()[5:])["domain"] == "hub"


def test_advisories_name_it(servers: list[Server]) -> None:
    for each in servers:
        client = WireClient(each.port)
        client.overhear("$JS.EVENT.ADVISORY.>")
        client.ask("$JS.hub.API.STREAM.CREATE.a", json.dumps(MADE).encode())
        told = [json.loads(reply.payload) for reply in client.overheard(5.0, 2)]
        client.ask("$JS.hub.API.STREAM.DELETE.a")
        client.close()
        assert [advisory["domain"] for advisory in told] == ["hub", "hub"]
        assert {advisory.get("subject") for advisory in told} == {None, "$JS.API.STREAM.CREATE.a"}
