"""docs/jetstream.md says what the code does: every subject, and every field that is not supported."""

import re
from pathlib import Path

import pytest

from tests.stream.support import Log, MemoryFiles, configured, machine_on, publish_with
from trimaran.actors.delivery.desk import read_client_message
from trimaran.actors.gateway.consumer_api import NOT_SUPPORTED, ConsumerQuestion, read_question
from trimaran.actors.gateway.jetstream import _APIS, api_target
from trimaran.actors.stream import config, consumer_config
from trimaran.actors.stream.errors import ApiError
from trimaran.actors.stream.results import unpack

PAGE = (Path(__file__).parents[2] / "docs" / "jetstream.md").read_text()


def rows(heading: str) -> dict[str, str]:
    """First and second column of the table under a heading."""
    section = PAGE.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    found = re.findall(r"^\| (`.*?) \| (.*?) \|$", section, re.MULTILINE)
    return {first.replace("`", ""): second for first, second in found}


REQUESTS = rows("Requests")


@pytest.mark.parametrize("subject", REQUESTS)
def test_a_request_is_answered_as_the_page_says(subject: str) -> None:
    text = REQUESTS[subject]
    question = read_question(subject)
    if question is not None:
        assert text.startswith("no: error 10036") == (question.kind == "reset")
        assert NOT_SUPPORTED.err_code == 10036
    elif read_client_message(subject.encode(), b"", b"") is not None:
        assert text.startswith("yes")
    else:
        assert (api_target(subject) is not None) == text.startswith("yes")


def test_the_page_has_every_request() -> None:
    for kind in _APIS:
        assert any(subject in (f"$JS.API.{kind}", f"$JS.API.{kind}.S") for subject in REQUESTS), kind
    kinds = {question.kind for each in REQUESTS if (question := read_question(each)) is not None}
    answered = {"create", "info", "delete", "names", "list", "pause", "reset", "unpin", "leader_stepdown"}
    assert kinds == answered and ConsumerQuestion("create", "S").type == "consumer_create"
    assert read_client_message(b"$JS.API.CONSUMER.MSG.NEXT.S.C", b"", b"") is not None


STREAM_FIELDS: dict[str, object] = {
    "mirror": {"name": "T"},
    "sources": [{"name": "T"}],
    "republish": {"src": "s.>", "dest": "r.>"},
    "subject_transform": {"src": "s.*.*", "dest": "s.{{wildcard(2)}}.$1.{{partition(10,1)}}"},
    "allow_msg_counter": True,
    "allow_atomic": True,
    "allow_msg_schedules": True,
    "allow_batched": True,
    "persist_mode": "default",
    "consumer_limits": {"max_ack_pending": 5},
    "max_age": 10**9,
    "subject_delete_marker_ttl": 10**9,
}
CONSUMER_FIELDS: dict[str, object] = {
    "priority_groups": ["A"],
    "priority_timeout": 10**9,
    "priority_policy": "overflow",
    "rate_limit_bps": 1000,
    "sample_freq": "50%",
    "num_replicas": 1,
}
HEADERS = {"Nats-Batch-Id": 10174, "Nats-Incr": 10168, "Nats-Schedule": 10188}


def fields_of(heading: str) -> dict[str, str]:
    """By field, what the table says; a row may have several."""
    return {field: text for names, text in rows(heading).items() for field in names.split(", ")}


def takes_stream(**fields: object) -> bool:
    try:
        config.from_request("S", {"name": "S", "subjects": ["s.>"], "duplicate_window": 10**9, **fields})
    except ApiError:
        return False
    return True


def takes_consumer(**fields: object) -> bool:
    wanted = {"durable_name": "c", "deliver_subject": "d", **fields}
    try:
        consumer_config.from_request("S", "c", "", False, {"stream_name": "S", "config": wanted})
    except ApiError:
        return False
    return True


def test_the_fields_of_a_stream_are_taken_or_refused_as_the_page_says() -> None:
    shown = fields_of("Fields of a stream's configuration")
    assert {field: text != "no" for field, text in shown.items()} == {
        field: takes_stream(**{field: value}) for field, value in STREAM_FIELDS.items()
    }
    assert {field for field, text in shown.items() if text == "no"} == set(config.UNSUPPORTED)
    assert not takes_stream(persist_mode="async")


def test_the_fields_of_a_consumer_are_taken_or_refused_as_the_page_says() -> None:
    shown = fields_of("Fields of a consumer's configuration")
    assert {field: text != "no" for field, text in shown.items()} == {
        field: takes_consumer(**{field: value}) for field, value in CONSUMER_FIELDS.items()
    }


@pytest.mark.parametrize("header", HEADERS)
def test_what_a_header_asks_for_in_vain_is_refused_as_the_page_says(header: str) -> None:
    machine = machine_on(MemoryFiles())
    log = Log()
    machine.apply(log.batch(configured()))
    results = machine.apply(log.batch(publish_with("s.1", b"m", {header: "1"})))
    error = unpack(results, 0).error
    assert error is not None and error.err_code == HEADERS[header]
    assert re.search(rf"`{header}`.*{error.err_code}", PAGE)
