"""docs/jetstream.md says what the code does: every subject, and every field that is not supported."""

import re
from pathlib import Path

import pytest

from trimaran.actors.delivery.desk import read_client_message
from trimaran.actors.gateway.consumer_api import NOT_SUPPORTED, ConsumerQuestion, read_question
from trimaran.actors.gateway.jetstream import _APIS, api_target
from trimaran.actors.stream import config, consumer_config

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
        assert text.startswith("no: error 10036") == (question.kind in ("unpin", "reset"))
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


def test_the_page_has_the_stream_fields_that_are_not_supported() -> None:
    shown = {field for field, text in rows("Fields of a stream's configuration").items() if text == "no"}
    assert shown == set(config.UNSUPPORTED)


def test_the_page_has_the_consumer_fields_that_are_not_supported() -> None:
    shown = {field for field, text in rows("Fields of a consumer's configuration").items() if text == "no"}
    assert shown == {*consumer_config.UNSUPPORTED, "priority_policy"}
