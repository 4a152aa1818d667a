"""Limits of an account: the same requests are refused as by a real nats-server, with the same words."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.differential.script import Command, Session, clear
from tests.differential.test_limits import server
from tests.differential.wire import WireClient

COUNTED = """
max_mem: 64M, max_file: 1MB, max_streams: 2, max_consumers: 2, max_ack_pending: 100
mem_max_stream_bytes: 2048, disk_max_stream_bytes: 4096, max_bytes_required: true
"""
STORED = "max_memory: 300, store: 300"


def conf(limits: str) -> str:
    return f"""
accounts {{ A {{ users: [{{ user: u, password: p }}], jetstream {{ {limits} }} }} }}
no_auth_user: u
jetstream: enabled
"""


def create(name: str, **fields: object) -> Command:
    return ("api", f"STREAM.CREATE.{name}", {"name": name, "subjects": [f"{name}.>"], **fields})


def update(name: str, **fields: object) -> Command:
    return ("api", f"STREAM.UPDATE.{name}", {"name": name, "subjects": [f"{name}.>"], **fields})


def consumer(name: str, **fields: object) -> Command:
    config = {"durable_name": name, "ack_policy": "explicit", **fields}
    return ("api", f"CONSUMER.CREATE.a.{name}", {"stream_name": "a", "config": config})


def publish(subject: str, payload: str = "0123456789") -> Command:
    return ("publish", subject, {}, payload)


INFO: Command = ("api", "INFO", None)
A = create("a", max_bytes=1000)
SCRIPTS: dict[str, tuple[str, list[Command]]] = {
    "the limits": (COUNTED, [INFO]),
    "a limit is required": (COUNTED, [create("a"), create("a", max_bytes=0), A, update("a")]),
    "no stream so large": (
        COUNTED,
        [
            create("a", max_bytes=5000),
            create("a", max_bytes=4096),
            update("a", max_bytes=5000),
            update("a", max_bytes=5),
        ],
    ),
    "no memory stream so large": (
        COUNTED,
        [create("a", max_bytes=3000, storage="memory"), create("a", max_bytes=2000, storage="memory"), INFO],
    ),
    "so many streams": (
        COUNTED,
        [
            A,
            create("b", max_bytes=10),
            create("c", max_bytes=10),
            create("c"),
            A,
            create("a", max_bytes=9),
            INFO,
        ],
    ),
    "so many streams, before anything else is wrong with one": (
        COUNTED,
        [A, create("b", max_bytes=10), create("c", subjects=["a.x"]), create("c", max_bytes=9999)],
    ),
    "so many consumers of a stream": (
        COUNTED,
        [A, consumer("c"), consumer("d"), consumer("e"), consumer("c"), create("b", max_bytes=9), INFO],
    ),
    "a stream's own limit of consumers": (
        COUNTED,
        [create("a", max_bytes=10, max_consumers=1), consumer("c"), consumer("d")],
    ),
    "a stream's higher limit of consumers": (
        COUNTED,
        [create("a", max_bytes=10, max_consumers=9), consumer("c"), consumer("d"), consumer("e")],
    ),
    "so much may be pending": (
        COUNTED,
        [
            A,
            consumer("c", max_ack_pending=101),
            consumer("c", max_ack_pending=100),
            consumer("c", max_ack_pending=50),
            consumer("d"),
            consumer("d", max_ack_pending=101),
        ],
    ),
    "any number pending, if it is said": (COUNTED, [A, consumer("c", max_ack_pending=-1)]),
    "nothing is pending without acknowledgements": (COUNTED, [A, consumer("c", ack_policy="none")]),
    "the stream's consumers may have less pending": (
        COUNTED,
        [
            create("a", max_bytes=9, consumer_limits={"max_ack_pending": 7}),
            consumer("c"),
            consumer("d", max_ack_pending=8),
        ],
    ),
    "reserved": (
        STORED,
        [
            create("a"),
            create("b", max_bytes=400),
            create("b", max_bytes=200),
            create("c", max_bytes=150),
            create("c", max_bytes=200, storage="memory"),
            create("d", max_bytes=200, storage="memory"),
            update("b", max_bytes=290),
            update("b", max_bytes=310),
            INFO,
        ],
    ),
    "stored": (
        STORED,
        [
            create("a"),
            create("b"),
            *[publish("a.x"), publish("b.x")] * 4,
            INFO,
            publish("a.x", ""),
            publish("b.x", "0"),
            ("api", "STREAM.PURGE.a", None),
            publish("b.x"),
            ("api", "STREAM.INFO.b", None),
            ("api", "STREAM.DELETE.a", None),
            *[publish("b.x")] * 4,
            INFO,
        ],
    ),
}


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, list[WireClient]]]:
    directory = tmp_path_factory.mktemp("account")
    found: dict[str, list[WireClient]] = {}
    programs = {
        "real": (str(Path(sys.executable).with_name("nats-server")),),
        "ours": (sys.executable, "-m", "trimaran", "nats-server"),
    }
    with ExitStack() as stack:
        for number, limits in enumerate((COUNTED, STORED)):
            for name, program in programs.items():
                place = directory / f"{name}{number}"
                running = stack.enter_context(server(place, *program, conf=conf(limits)))
                client = WireClient(running.port)
                stack.callback(client.close)
                found.setdefault(limits, []).append(client)
        yield found


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_same_is_refused(servers: dict[str, list[WireClient]], name: str) -> None:
    limits, script = SCRIPTS[name]
    for client in servers[limits]:
        clear(client)
    real, ours = (Session(client) for client in servers[limits])
    for number, command in enumerate(script):
        assert comparable(ours.run(command)) == comparable(real.run(command)), f"command {number}: {command}"


def comparable(answer: object) -> Any:
    """Without how many requests there were, and which level they may have."""
    return {k: v for k, v in answer.items() if k != "api"} if isinstance(answer, dict) else answer
