"""What the API shows: times, states and messages, byte for byte as nats-server writes them."""

from __future__ import annotations

import json

import pytest

from tests.stream.support import Log, MemoryFiles, command, configured, machine_on, now, publish
from trimaran.actors.stream.commands import delete
from trimaran.actors.stream.views import message_json, rfc3339, state_json

TIME = 1_700_000_000_000_000_000


@pytest.mark.parametrize(
    ("nanoseconds", "shown"),
    [
        (0, "0001-01-01T00:00:00Z"),
        (TIME, "2023-11-14T22:13:20Z"),
        (TIME + 1, "2023-11-14T22:13:20.000000001Z"),
        (TIME + 120_000_000, "2023-11-14T22:13:20.12Z"),
        (-1, "1969-12-31T23:59:59.999999999Z"),
    ],
)
def test_times_are_rfc3339_with_trimmed_nanoseconds(nanoseconds: int, shown: str) -> None:
    assert rfc3339(nanoseconds) == shown


def test_a_new_stream_shows_zeros() -> None:
    machine = machine_on(MemoryFiles())
    machine.apply(Log().batch(configured()))
    assert json.dumps(state_json(machine.info())) == (
        '{"messages": 0, "bytes": 0, "first_seq": 0, "first_ts": "0001-01-01T00:00:00Z", '
        '"last_seq": 0, "last_ts": "0001-01-01T00:00:00Z", "consumer_count": 0}'
    )


def test_a_stream_shows_its_state_and_what_was_asked_for() -> None:
    machine, log = machine_on(MemoryFiles()), Log(time=TIME)
    machine.apply(log.batch(configured()))
    machine.apply(log.batch(*[publish(f"s.{n % 2}", b"hello") for n in range(6)]))
    machine.apply(log.batch(command(delete(3)), command(delete(6)), after=1))
    shown = state_json(machine.info(), subjects=machine.subjects("s.0"), deleted=machine.deleted(10))
    assert json.dumps(shown) == (
        '{"messages": 4, "bytes": 152, "first_seq": 1, "first_ts": "2023-11-14T22:13:20Z", '
        '"last_seq": 6, "last_ts": "2023-11-14T22:13:20Z", "num_subjects": 2, "subjects": {"s.0": 2}, '
        '"num_deleted": 2, "deleted": [3, 6], "consumer_count": 0}'
    )


def test_a_message_is_shown_in_base64_without_its_empty_parts() -> None:
    machine, log = machine_on(MemoryFiles()), Log(time=TIME)
    machine.apply(log.batch(configured()))
    machine.apply(log.batch(publish("s.1", b"hello"), publish("s.2", Msg_Id="a"), after=1))
    plain, headed = now(machine.get(1)), now(machine.get(2))
    assert plain is not None
    assert headed is not None
    assert json.dumps(message_json(plain)) == (
        '{"subject": "s.1", "seq": 1, "data": "aGVsbG8=", "time": "2023-11-14T22:13:20.000000001Z"}'
    )
    assert list(message_json(headed)) == ["subject", "seq", "hdrs", "time"]
