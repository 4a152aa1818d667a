"""Batches that are published as one: taken, refused and stored as by a real nats-server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Final

import pytest

from tests.differential.script import Command, Session, clear
from tests.differential.servers import reference, trimaran
from tests.differential.wire import WireClient


def create(**fields: object) -> Command:
    return ("api", "STREAM.CREATE.S", {"name": "S", "subjects": ["s.>"], "allow_atomic": True, **fields})


def add(batch: str, sequence: object, *, to: str = "s.1", end: str = "", **headers: str) -> Command:
    """One message of a batch; `_` in a header's name stands for `-`."""
    asked = {name.replace("_", "-"): value for name, value in headers.items()}
    if end:
        asked["Nats-Batch-Commit"] = end
    return ("publish", to, {"Nats-Batch-Id": batch, "Nats-Batch-Sequence": str(sequence), **asked}, "m")


def plain(**headers: str) -> Command:
    return ("publish", "s.1", {name.replace("_", "-"): value for name, value in headers.items()}, "m")


INFO: Final[Command] = ("api", "STREAM.INFO.S", {"subjects_filter": ">"})
LAST: Final[Command] = ("api", "STREAM.MSG.GET.S", {"last_by_subj": "s.>"})
SUBJECT: Final = "Nats_Expected_Last_Subject_Sequence"
SEQUENCE: Final = "Nats_Expected_Last_Sequence"
SCRIPTS: Final[dict[str, list[Command]]] = {
    "all at once": [
        *[create(), add("b", 1), add("b", 2, to="s.2"), INFO, add("b", 3, end="1"), INFO, LAST],
        *[plain(), add("c", 1, end="1"), LAST],
    ],
    "an end that is no message": [
        *[create(), add("b", 1), add("b", 2), add("b", 3, end="eob"), INFO, LAST, add("c", 1, end="eob")],
        *[add("c", 2, end="1"), INFO],
    ],
    "not switched on": [create(allow_atomic=False), add("b", 1), add("b", 1, end="1"), INFO],
    "switched on and off": [
        create(allow_atomic=False),
        ("api", "STREAM.UPDATE.S", {"name": "S", "subjects": ["s.>"], "allow_atomic": True}),
        *[add("b", 1), add("b", 2, end="1"), INFO],
        ("api", "STREAM.UPDATE.S", {"name": "S", "subjects": ["s.>"]}),
        *[add("b", 1, end="1"), INFO],
    ],
    "ids": [create(), add("x" * 65, 1), add("x" * 64, 1, end="1"), add("", 1), INFO],
    "sequences": [
        *[create(), add("b", 2), add("b", 0), add("b", "x"), add("b", -1), add("b", ""), INFO],
        *[add("c", 1), add("c", 3), add("c", 2), add("c", 4, end="1"), INFO],
        *[add("d", 1), add("d", 1), add("d", 2, end="1"), INFO],
    ],
    "headers without a batch": [
        *[
            create(),
            plain(Nats_Batch_Sequence="1"),
            plain(Nats_Batch_Commit="1"),
            plain(Key="Nats-Batch-Id"),
            INFO,
        ],
    ],
    "ends that are none": [
        *[create(), add("b", 1), add("b", 2, end="0"), add("b", 3, end="1"), INFO],
        *[add("c", 1, end="yes"), add("c", 2, end="1"), INFO],
    ],
    "side by side": [
        *[
            create(),
            add("b", 1),
            add("c", 1),
            plain(),
            add("b", 2, end="1"),
            add("c", 2, end="1"),
            INFO,
            LAST,
        ],
    ],
    "expected sequences": [
        *[create(), plain()],
        *[add("b", 1, **{SEQUENCE: "0"}), add("b", 2, end="1"), INFO],
        *[add("b", 1, **{SEQUENCE: "1"}), add("b", 2, end="1", **{SEQUENCE: "2"}), INFO],
        *[add("b", 1), add("b", 2, end="1", **{SEQUENCE: "1"}), INFO],
        *[add("b", 1, **{SEQUENCE: "1"}), add("b", 2, end="1"), INFO],
    ],
    "expected sequences of subjects": [
        *[create(), plain()],
        *[add("b", 1, **{SUBJECT: "0"}), add("b", 2, to="s.2", end="1"), INFO],
        *[add("b", 1, **{SUBJECT: "1"}), add("b", 2, to="s.2", end="1", **{SUBJECT: "5"}), INFO],
        *[add("b", 1, **{SUBJECT: "1"}), add("b", 2, end="1", **{SUBJECT: "1"}), INFO],
        *[add("b", 1, **{SUBJECT: "1"}), add("b", 2, to="s.2", end="1", **{SUBJECT: "0"}), INFO],
    ],
    "message ids": [
        *[create(), add("b", 1, Nats_Msg_Id="x"), add("b", 2, end="1", Nats_Msg_Id="y"), INFO],
        *[add("c", 1, Nats_Msg_Id="x"), add("c", 2, end="1"), INFO],
        *[add("d", 1, Nats_Msg_Id="z"), add("d", 2, end="1", Nats_Msg_Id="z"), INFO],
        *[add("e", 1, Nats_Msg_Id="z"), add("e", 2, end="1"), plain(Nats_Msg_Id="z"), INFO],
        *[add("f", 1, Nats_Expected_Last_Msg_Id="z"), add("f", 2, end="1"), INFO],
    ],
    "other headers": [
        *[create(), add("b", 1, Nats_Expected_Stream="T"), add("b", 2, end="1")],
        *[add("b", 1, Nats_Expected_Stream="S"), add("b", 2, end="1")],
        *[
            add("b", 1, Nats_Rollup="sub"),
            add("b", 2, end="1"),
            add("b", 1, Nats_TTL="5s"),
            add("b", 2, end="1"),
        ],
        *[add("b", 1), add("b", 2, end="1", Nats_Rollup="sub"), INFO],
    ],
    "discarding new": [
        *[
            create(discard="new", max_msgs=3),
            *[add("b", number) for number in (1, 2, 3)],
            add("b", 4, end="1"),
        ],
        *[INFO, *[add("b", number) for number in (1, 2)], add("b", 3, end="1"), plain(), INFO],
    ],
    "discarding new of a subject": [
        create(discard="new", discard_new_per_subject=True, max_msgs_per_subject=2),
        *[add("b", 1), add("b", 2), add("b", 3, to="s.2"), add("b", 4, end="1"), INFO],
        *[add("b", 1), add("b", 2), add("b", 3, to="s.2", end="1"), INFO],
    ],
    "discarding old": [
        *[create(max_msgs=2, max_msgs_per_subject=1), *[add("b", number) for number in (1, 2, 3)]],
        *[add("b", 4, to="s.2"), add("b", 5, to="s.3", end="1"), INFO],
    ],
    "too large messages": [create(max_msg_size=200), add("b", 1), add("b", 2, end="1", Key="v" * 300), INFO],
    "too many messages": [
        *[create(), *[add("b", number) for number in range(1, 1003)], add("b", 1003, end="1"), INFO],
        *[*[add("c", number) for number in range(1, 1001)], add("c", 1001, end="eob"), INFO],
    ],
    "too many at once": [
        *[
            create(),
            *[add(str(number), 1) for number in range(52)],
            add("0", 2, end="1"),
            add("x", 1),
            add("y", 1),
        ],
    ],
}


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[WireClient, WireClient]]:
    directory = tmp_path_factory.mktemp("atomic")
    with ExitStack() as stack:
        real = WireClient(stack.enter_context(reference(directory / "reference")))
        stack.callback(real.close)
        ours = WireClient(stack.enter_context(trimaran(directory)))
        stack.callback(ours.close)
        yield real, ours


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_batch_fares_as_with_the_reference(servers: tuple[WireClient, WireClient], name: str) -> None:
    for client in servers:
        clear(client)
    real, ours = (Session(client) for client in servers)
    for number, command in enumerate(SCRIPTS[name]):
        assert ours.run(command) == real.run(command), f"command {number}: {command}"
