"""Log lines: one event is one line, and nothing from outside can forge another."""

import io
import json
import logging
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimaran import logs

LOGGER = logging.getLogger("trimaran.test")


@pytest.fixture(autouse=True)
def quiet_afterwards() -> Iterator[None]:
    yield
    root = logging.getLogger(logs.ROOT)
    root.handlers.clear()
    root.propagate = True
    root.setLevel(logging.NOTSET)


@given(st.text())
def test_escaped_text_is_one_printable_line(text: str) -> None:
    escaped = logs.escape(text)
    assert len(escaped.splitlines()) <= 1
    assert not any(ord(character) < 0x20 or 0x7F <= ord(character) < 0xA0 for character in escaped)
    escaped.encode()


def test_harmless_text_stays_as_it_is() -> None:
    assert logs.escape("a b=ö 日本 ✓ \\") == "a b=ö 日本 ✓ \\"


@given(st.text(), st.text())
def test_human_event_from_a_hostile_client_is_one_line(message: str, extra: str) -> None:
    stream = io.StringIO()
    logs.configure("human", "info", stream=stream)
    LOGGER.info("client said %s", message, extra={"subject": extra})
    assert len(stream.getvalue().splitlines()) == 1
    assert "\x1b" not in stream.getvalue()


@given(st.text(), st.text())
def test_json_event_comes_back_as_it_was(message: str, extra: str) -> None:
    stream = io.StringIO()
    logs.configure("json", "info", name="a", stream=stream)
    LOGGER.warning("client said %s", message, extra={"subject": extra})
    (line,) = stream.getvalue().splitlines()
    event = json.loads(line)
    assert event["message"] == f"client said {message}"
    assert event["subject"] == extra
    assert event["level"] == "warning"
    assert event["logger"] == "trimaran.test"
    assert event["node"] == "a"


def test_extra_never_replaces_what_every_event_has() -> None:
    stream = io.StringIO()
    logs.configure("json", "info", stream=stream)
    LOGGER.info("told", extra={"time": "never", "level": "forged"})
    event = json.loads(stream.getvalue())
    assert event["level"] == "info"
    assert event["time"] != "never"


def test_traceback_lines_are_indented_so_that_they_pass_for_no_event() -> None:
    stream = io.StringIO()
    logs.configure("human", "info", stream=stream)
    try:
        raise ValueError("bad\n2026-01-01T00:00:00.000Z INFO  trimaran: forged\x1b[2J")
    except ValueError:
        LOGGER.exception("failed")
    first, *rest = stream.getvalue().splitlines()
    assert first.endswith("trimaran.test: failed")
    assert rest and all(line.startswith("    ") for line in rest)
    assert "\x1b" not in stream.getvalue()


def test_level_holds_back_what_is_below_but_no_announcement() -> None:
    stream = io.StringIO()
    logs.configure("human", "error", stream=stream)
    LOGGER.warning("not now")
    logs.announce("Server is ready")
    (line,) = stream.getvalue().splitlines()
    assert line.endswith("trimaran: Server is ready")
