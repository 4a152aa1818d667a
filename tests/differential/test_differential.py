"""Random scripts against Trimaran and a real nats-server: what they answer is the same.

The same scripts each time, so that only a change can fail it. A longer run, with others each time:
`TRIMARAN_DIFFERENTIAL=2000 pytest tests/differential`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.differential.differences import DIFFERENCES, stream
from tests.differential.script import Command, Session, clear, timeless
from tests.differential.servers import reference, trimaran
from tests.differential.wire import WireClient

EXAMPLES = int(os.environ.get("TRIMARAN_DIFFERENTIAL", "100"))

SECOND = 1_000_000_000
subjects = st.sampled_from(["s.1", "s.2", "s.1.x"])
patterns = st.sampled_from(["s.1", "s.2", "s.*", "s.>", ">", "s.1.>", "nothing"])
small = st.integers(0, 6)


def some(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """A mapping with some of these fields."""
    return st.fixed_dictionaries({}, optional=fields)


stream_options = {
    "retention": st.sampled_from(["limits", "limits", "workqueue"]),
    "max_msgs": st.sampled_from([-1, 0, 1, 3]),
    "max_bytes": st.sampled_from([-1, 60, 150]),
    "max_msgs_per_subject": st.sampled_from([-1, 1, 2]),
    "max_msg_size": st.sampled_from([-1, 1000]),
    "max_consumers": st.sampled_from([-1, 1]),
    "discard": st.sampled_from(["old", "new"]),
    "discard_new_per_subject": st.booleans(),
    "duplicate_window": st.sampled_from([0, 60 * SECOND]),
    "allow_rollup_hdrs": st.booleans(),
    "allow_msg_ttl": st.booleans(),
    "allow_direct": st.booleans(),
    "deny_delete": st.booleans(),
    "deny_purge": st.booleans(),
    "first_seq": st.sampled_from([0, 1, 10]),
    "storage": st.just("file"),
    "subject_transform": st.sampled_from(
        [
            {"src": "s.*", "dest": "s.t.$1"},
            {"src": "s.>", "dest": "s.$2"},
            {},
            {"src": "s.>"},
            {"src": "s.*", "dest": ""},
        ]
    ),
    "republish": st.sampled_from([{"src": "s.>", "dest": "r.>"}, {"src": "s.>", "dest": "s.x.>"}]),
    "description": st.sampled_from(["", "of tests"]),
    "compression": st.sampled_from(["none", "s2"]),
    "metadata": st.sampled_from([{}, {"owner": "me"}]),
    "consumer_limits": st.sampled_from([{}, {"max_ack_pending": 2}, {"inactive_threshold": 1800 * SECOND}]),
    "subject_delete_marker_ttl": st.sampled_from([0, 0, 3600 * SECOND]),
    "max_age": st.sampled_from([0, 0, 3600 * SECOND]),
}

stream_fields = some(**stream_options)
# Lower limits, and a change of retention, are among the differences.
update_fields = some(
    **{
        name: each
        for name, each in stream_options.items()
        if name != "retention" and not name.startswith("max_")
    }
)

consumer_fields = some(
    deliver_policy=st.sampled_from(["all", "last", "new", "by_start_sequence", "last_per_subject"]),
    opt_start_seq=st.integers(0, 8),
    ack_policy=st.sampled_from(["none", "all", "explicit", "explicit"]),
    ack_wait=st.sampled_from([0, 60 * SECOND]),
    max_deliver=st.sampled_from([-1, 0, 1, 2]),
    max_ack_pending=st.sampled_from([-1, 0, 1, 3]),
    max_waiting=st.sampled_from([0, 5]),
    max_batch=st.sampled_from([0, 2]),
    filter_subject=patterns,
    filter_subjects=st.lists(patterns, min_size=1, max_size=2),
    headers_only=st.booleans(),
    replay_policy=st.sampled_from(["instant"]),
    description=st.sampled_from(["", "of tests"]),
    backoff=st.sampled_from([[], [60 * SECOND], [60 * SECOND, 120 * SECOND]]),
    inactive_threshold=st.sampled_from([0, 3600 * SECOND]),
    metadata=st.sampled_from([{}, {"owner": "me"}]),
    sample_freq=st.sampled_from(["", "50"]),
    max_expires=st.sampled_from([0, 60 * SECOND]),
    max_bytes=st.sampled_from([0, 0, 400]),
    num_replicas=st.sampled_from([0, 0, 1]),
    mem_storage=st.booleans(),
    opt_start_time=st.sampled_from(["2020-01-01T00:00:00Z", "2050-01-01T00:00:00Z"]),
    pause_until=st.just("2020-01-01T00:00:00Z"),
)
# Most of these are wrong by themselves or with one another; which error comes first is part of the answer.
odd_consumer_fields = some(
    name=st.sampled_from(["c", "x", "a.b", "a b", ""]),
    durable_name=st.sampled_from(["c", "x", "a*", "a/b"]),
    deliver_subject=st.sampled_from(["push", "push.*", "s.1", "a b", ""]),
    deliver_group=st.sampled_from(["", "group"]),
    deliver_policy=st.sampled_from(["all", "last", "new", "by_start_time", "last_per_subject", "first"]),
    ack_policy=st.sampled_from(["none", "all", "explicit", "sometimes"]),
    ack_wait=st.sampled_from([-1, 0, 60 * SECOND]),
    max_deliver=st.sampled_from([-2, 0, 1]),
    max_ack_pending=st.sampled_from([-2, 0, 5]),
    max_waiting=st.sampled_from([-1, 0, 5]),
    max_batch=st.sampled_from([-1, 5]),
    max_expires=st.sampled_from([-1, 1, SECOND]),
    filter_subject=st.sampled_from(["s.1", "s..1", "other", ""]),
    filter_subjects=st.sampled_from([[], [""], ["s.1", "s.>"], ["s.1", "s.2"], ["s..1"]]),
    idle_heartbeat=st.sampled_from([0, 1, SECOND]),
    flow_control=st.booleans(),
    backoff=st.sampled_from([[], [SECOND], [SECOND, 2 * SECOND], [-1]]),
    inactive_threshold=st.sampled_from([-1, 0, 60 * SECOND]),
    num_replicas=st.sampled_from([-1, 0, 1]),
    replay_policy=st.sampled_from(["instant", "original", "never"]),
    rate_limit_bps=st.sampled_from([0, 100_000]),
    sample_freq=st.sampled_from(["", "50%", "101", "many"]),
    description=st.sampled_from(["", "d" * 5000]),
    headers_only=st.booleans(),
    unknown=st.just(1),
)
odd_stream_fields = some(
    name=st.sampled_from(["S", "T", "", "a.b"]),
    subjects=st.sampled_from([["s.>"], [], ["s.1", "s.*"], ["s..1"], [">"], ["$JS.API.>"], ["s.1", "s.2"]]),
    retention=st.sampled_from(["limits", "workqueue", "interest", "none"]),
    discard=st.sampled_from(["old", "new", "none"]),
    discard_new_per_subject=st.booleans(),
    max_msgs_per_subject=st.sampled_from([-2, 0, 1]),
    max_age=st.sampled_from([-1, 0, 1, SECOND]),
    duplicate_window=st.sampled_from([-1, 0, 1, SECOND, 200 * SECOND]),
    num_replicas=st.sampled_from([-1, 0, 1, 3, 9]),
    allow_rollup_hdrs=st.booleans(),
    deny_purge=st.booleans(),
    sealed=st.booleans(),
    mirror_direct=st.booleans(),
    subject_delete_marker_ttl=st.sampled_from([-1, 0, 1, SECOND]),
    republish=st.sampled_from([{"src": "s.>", "dest": "s.>"}, {"src": "a.*", "dest": "b.*.*"}]),
    subject_transform=st.sampled_from(
        [
            *(
                {"src": "s.*", "dest": dest}
                for dest in ("t.$2", "a b", "t..$1", "t.*", "t.>", "t.{{what(1)}}")
            ),
            *({"src": "s.>", "dest": "t.>"}, {"src": "a b", "dest": "t"}, {"src": "s..1", "dest": "t"}),
        ]
    ),
    description=st.sampled_from(["", "d" * 5000]),
    compression=st.sampled_from(["none", "s2", "zip"]),
    storage=st.sampled_from(["file", "tape"]),
    first_seq=st.sampled_from([0, 5]),
    unknown=st.just(1),
)

asked_headers = {
    "Nats-Expected-Stream": st.sampled_from(["S", "T"]),
    "Nats-TTL": st.sampled_from(["1h", "3600", "never", "x", "0"]),
    "Nats-Rollup": st.sampled_from(["sub", "all", "x"]),
    "Key": st.just("value"),
}
# Which of several that fail is reported is one of the differences.
publish_headers = st.one_of(
    some(**asked_headers, **{"Nats-Msg-Id": st.sampled_from(["a", "b"])}),
    some(**asked_headers, **{"Nats-Expected-Last-Sequence": small.map(str)}),
    some(**asked_headers, **{"Nats-Expected-Last-Subject-Sequence": small.map(str)}),
    some(**asked_headers, **{"Nats-Expected-Last-Msg-Id": st.sampled_from(["a", "b"])}),
)
plain_headers = st.sampled_from([{}, {}, {}, {"Key": "value"}])

message_wanted = some(seq=small, last_by_subj=patterns, next_by_subj=patterns)

batch_wanted = some(
    seq=small,
    next_by_subj=patterns,
    last_by_subj=patterns,
    start_time=st.sampled_from(["2020-01-01T00:00:00Z", "2050-01-01T00:00:00Z", "x"]),
    batch=st.integers(1, 4),
    max_bytes=st.sampled_from([0, 1, 20, 400]),
    multi_last=st.lists(patterns, max_size=2),
    up_to_seq=small,
    up_to_time=st.sampled_from(["2020-01-01T00:00:00Z", "2050-01-01T00:00:00Z"]),
)

commands: st.SearchStrategy[Command] = st.one_of(
    *[
        st.tuples(
            st.just("publish"),
            subjects,
            plain_headers | publish_headers,
            st.sampled_from(["", "m", "mm"]),
        )
    ]
    * 4,
    st.tuples(st.just("publish"), subjects, st.just({}), st.just("long" * 300)),
    st.tuples(st.just("publish"), st.sampled_from(["s.*", "s.1.>", "s.1*"]), plain_headers, st.just("m")),
    st.builds(
        lambda fields: ("api", "STREAM.CREATE.S", {"name": "S", "subjects": ["s.>"], **fields}), stream_fields
    ),
    st.builds(
        lambda fields: ("api", "STREAM.UPDATE.S", {"name": "S", "subjects": ["s.>"], **fields}), update_fields
    ),
    st.tuples(
        st.just("api"),
        st.just("STREAM.INFO.S"),
        st.none() | some(subjects_filter=patterns, deleted_details=st.booleans(), offset=small),
    ),
    st.tuples(
        st.just("api"), st.sampled_from(["STREAM.NAMES", "STREAM.LIST"]), some(subject=patterns, offset=small)
    ),
    st.tuples(st.just("api"), st.just("STREAM.MSG.GET.S"), message_wanted),
    st.tuples(st.just("api"), st.just("STREAM.MSG.DELETE.S"), some(seq=small, no_erase=st.booleans())),
    st.tuples(st.just("api"), st.just("STREAM.PURGE.S"), some(filter=patterns, seq=small, keep=small)),
    st.tuples(st.just("direct"), st.just("S"), message_wanted),
    st.tuples(st.just("direct"), st.just("S"), batch_wanted),
    st.tuples(st.just("direct"), subjects.map("S.".__add__), st.none()),
    *[
        st.builds(
            lambda name, fields, action: (
                "api",
                f"CONSUMER.CREATE.S.{name}",
                {"stream_name": "S", "config": {"durable_name": name, **fields}, **action},
            ),
            st.sampled_from(["c", "d"]),
            consumer_fields,
            st.sampled_from([{}, {}, {"action": "create"}, {"action": "update"}]),
        )
    ]
    * 2,
    st.builds(
        lambda name, fields: (
            "api",
            f"CONSUMER.{name}",
            {"stream_name": "S", "config": fields},
        ),
        st.sampled_from(["CREATE.S.x", "DURABLE.CREATE.S.x", "CREATE.S.x.s.1"]),
        odd_consumer_fields,
    ),
    st.builds(
        lambda fields: ("api", "STREAM.CREATE.S", {"name": "S", "subjects": ["s.>"], **fields}),
        odd_stream_fields,
    ),
    st.builds(
        lambda fields: (
            "api",
            "STREAM.UPDATE.S",
            {"name": "S", "subjects": ["s.>"], **fields, "mirror_direct": False},
        ),
        odd_stream_fields,
    ),
    st.tuples(st.just("api"), st.sampled_from(["CONSUMER.INFO.S.c", "CONSUMER.INFO.S.d"]), st.none()),
    st.tuples(st.just("api"), st.sampled_from(["CONSUMER.NAMES.S", "CONSUMER.LIST.S"]), some(offset=small)),
    st.tuples(st.just("api"), st.sampled_from(["CONSUMER.DELETE.S.c", "STREAM.DELETE.S"]), st.none()),
    *[
        st.tuples(
            st.just("pull"),
            st.sampled_from(["S.c", "S.d", "S.e"]),
            st.integers(1, 3),
            some(max_bytes=st.sampled_from([10, 500]), no_wait=st.just(True)),
        )
    ]
    * 3,
    *[
        st.tuples(
            st.just("ack"),
            st.integers(0, 3),
            st.sampled_from(
                ["", "+ACK", "-NAK", '-NAK {"delay": 600000000000}', "+WPI", "+TERM", "+TERM why"]
            ),
        )
    ]
    * 2,
)

INTERESTED = {"durable_name": "e", "ack_policy": "explicit"}
KV = {
    "name": "S",
    "subjects": ["s.>"],
    "max_msgs_per_subject": 2,
    "allow_rollup_hdrs": True,
    "deny_delete": True,
    "allow_direct": True,
    "discard": "new",
    "allow_msg_ttl": True,
}
beginnings: st.SearchStrategy[list[Command]] = st.one_of(
    st.just([]),
    st.builds(
        lambda fields: [("api", "STREAM.CREATE.S", {"name": "S", "subjects": ["s.>"], **fields})],
        stream_fields,
    ),
    st.builds(
        lambda fields: [
            ("api", "STREAM.CREATE.S", {"name": "S", "subjects": ["s.>"], "allow_direct": True}),
            *[("publish", subject, {}, "m") for subject in ("s.1", "s.2", "s.1", "s.1.x")],
            ("api", "CONSUMER.CREATE.S.c", {"stream_name": "S", "config": {"durable_name": "c", **fields}}),
        ],
        consumer_fields,
    ),
    st.just([("api", "STREAM.CREATE.S", KV)]),
    # With somebody interested: what becomes of a message that nobody wants is one of the differences.
    st.just(
        [
            stream(retention="interest"),
            ("api", "CONSUMER.CREATE.S.e", {"stream_name": "S", "config": INTERESTED}),
        ]
    ),
)
scripts = st.builds(
    lambda beginning, rest: beginning + rest, beginnings, st.lists(commands, min_size=5, max_size=25)
)


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[WireClient, WireClient]]:
    directory: Path = tmp_path_factory.mktemp("differential")
    with ExitStack() as stack:
        ports = [
            stack.enter_context(reference(directory / "reference")),
            stack.enter_context(trimaran(directory)),
        ]
        clients = [WireClient(port) for port in ports]
        yield clients[0], clients[1]
        for client in clients:
            client.close()


def compare(clients: tuple[WireClient, WireClient], script: list[Command]) -> None:
    """Run a script on both; the first command that is answered differently fails."""
    while not compared(clients, script):
        pass


def compared(clients: tuple[WireClient, WireClient], script: list[Command]) -> bool:
    """Whether it came to its end: not where the reference stumbles over a stream that it has just deleted."""
    for client in clients:
        clear(client)
    sessions = [Session(client) for client in clients]
    for number, command in enumerate(script):
        expected, found = (session.run(command) for session in sessions)
        if isinstance(expected, dict) and expected.get("error", {}).get("err_code") == 10049:
            return False
        assert found == expected, f"command {number}: {command}"
    return True


@settings(
    max_examples=EXAMPLES,
    derandomize="TRIMARAN_DIFFERENTIAL" not in os.environ,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(script=scripts)
def test_random_scripts_are_answered_as_by_the_reference(
    servers: tuple[WireClient, WireClient], script: list[Command]
) -> None:
    compare(servers, script)


@pytest.mark.parametrize("name", DIFFERENCES)
def test_a_difference_that_is_listed_is_one(servers: tuple[WireClient, WireClient], name: str) -> None:
    answers = []
    for client in servers:
        clear(client)
        session = Session(client, timeless)
        answers.append([session.run(command) for command in DIFFERENCES[name]][-1])
    assert answers[0] != answers[1], "gone: take it off the list"


def test_the_page_lists_these_differences() -> None:
    page = (Path(__file__).parents[2] / "docs" / "jetstream.md").read_text()
    section = page.partition("## Where answers differ\n")[2].partition("\n## ")[0]
    listed = re.findall(r"^\| (?!what|---)(.*?) \|", section, re.MULTILINE)
    assert listed == list(DIFFERENCES)
