"""Messages with a time to live of their own, markers, durations; and that a snapshot keeps all of it."""

from typing import cast

import pytest

from tests.stream.support import (
    Log,
    MemoryFiles,
    command,
    configured,
    machine_on,
    now,
    publish,
    restored,
    snapshot,
)
from trimaran.actors.stream import commands
from trimaran.actors.stream.durations import parse_duration, show_duration
from trimaran.actors.stream.expiry import NEVER, Expiry, parse_ttl
from trimaran.actors.stream.results import Status, unpack_all
from trimaran.actors.stream.store import MessageStore

SECOND = 1_000_000_000


@pytest.mark.parametrize(
    ("text", "ttl"),
    [
        (b"1", SECOND),
        (b"90s", 90 * SECOND),
        (b"1.5s", 1_500_000_000),
        (b"1h2m", 3720 * SECOND),
        (b"1500ms", 1_500_000_000),
        (b"never", NEVER),
        (b"99999999999999999999", 1 << 60),
        (b"0", None),
        (b"-1", None),
        (b"-5s", None),
        (b"500ms", None),
        (b"1d", None),
        (b"s", None),
        (b"1s2", None),
        (b"", None),
    ],
)
def test_a_time_to_live_is_seconds_or_a_duration_from_one_second_on(text: bytes, ttl: int | None) -> None:
    assert parse_ttl(text) == ttl


@pytest.mark.parametrize("text", ["1s", "1m0s", "1h0m1s", "250ms", "1.5s", "2µs", "7ns"])
def test_durations_read_as_they_are_shown(text: str) -> None:
    parsed = parse_duration(text)
    assert parsed is not None and show_duration(parsed) == text


def test_time_to_live_must_be_allowed_and_right() -> None:
    log, machine = Log(), machine_on(MemoryFiles())
    machine.apply(log.batch(configured()))
    [refused] = unpack_all(machine.apply(log.batch(publish("s.a", TTL="5s"))))
    assert refused.error is not None and refused.error.err_code == 10166
    machine.apply(log.batch(configured(2, allow_msg_ttl=True)))
    [refused] = unpack_all(machine.apply(log.batch(publish("s.a", TTL="5"), after=1)))[:1]
    assert refused.status is Status.STORED
    [refused] = unpack_all(machine.apply(log.batch(publish("s.a", TTL="0"))))
    assert refused.error is not None and refused.error.err_code == 10165


def test_the_shorter_of_age_and_time_to_live_counts_and_never_outlives_both() -> None:
    log, machine = Log(), machine_on(MemoryFiles())
    machine.apply(log.batch(configured(allow_msg_ttl=True, max_age=5 * SECOND)))
    start = log.time
    machine.apply(
        log.batch(
            publish("s.never", TTL="never"),
            publish("s.short", TTL="2"),
            publish("s.long", TTL="1h"),
            publish("s.age"),
        )
    )
    assert machine.next_due() == start + 2 * SECOND
    machine.apply(log.batch(after=2 * SECOND))
    assert machine.subjects() == {"s.never": 1, "s.long": 1, "s.age": 1}
    assert machine.next_due() == start + 5 * SECOND
    machine.apply(log.batch(after=3 * SECOND))
    assert machine.subjects() == {"s.never": 1}
    due = machine.next_due()
    assert due == start + 3600 * SECOND, (
        "what was dropped by age is still noted; a message that stays is never due"
    )


def test_the_last_message_of_a_subject_leaves_one_marker_that_goes_without_another() -> None:
    log, machine = Log(), machine_on(MemoryFiles())
    machine.apply(log.batch(configured(max_age=2 * SECOND, subject_delete_marker_ttl=SECOND)))
    machine.apply(log.batch(publish("s.a"), publish("s.a"), publish("s.b")))
    machine.apply(log.batch(publish("s.b"), after=SECOND))
    machine.apply(log.batch(after=SECOND))
    assert machine.subjects() == {"s.a": 1, "s.b": 1}
    marker = now(machine.last_by_subject("s.a"))
    assert (
        marker.headers
        == b"NATS/1.0\r\nNats-Marker-Reason: MaxAge\r\nNats-TTL: 1s\r\nNats-Rollup: sub\r\n\r\n"
    )
    machine.apply(log.batch(after=SECOND))
    assert machine.subjects() == {"s.b": 1}, "s.b has its marker now, that of s.a is gone"
    machine.apply(log.batch(after=SECOND))
    assert machine.subjects() == {} and machine.next_due() is None


class Asked:
    """A store that says which sequences it was asked for."""

    messages = 0

    def __init__(self) -> None:
        self.there = {1, 2, 3, 4}
        self.asked: list[int] = []

    def has(self, sequence: int) -> bool:
        self.asked.append(sequence)
        return sequence in self.there


def test_what_was_noted_of_removed_messages_is_forgotten_with_the_next_snapshot() -> None:
    store = Asked()
    expiry = Expiry(cast("MessageStore", store))
    for sequence in (1, 2):
        expiry.note(sequence, NEVER, 0)
    for sequence in (3, 4):
        expiry.note(sequence, NEVER, 0, marker=True)
    store.there = {2, 4}
    packed = expiry.pack()
    assert (packed["kept"], packed["markers"]) == ([2, 4], [4])
    store.asked.clear()
    assert expiry.pack() == packed
    assert store.asked == [2, 4, 4]


def test_a_snapshot_keeps_times_to_live_markers_and_consumers() -> None:
    log, files = Log(), MemoryFiles()
    machine = machine_on(files)
    machine.apply(
        log.batch(configured(allow_msg_ttl=True, max_age=9 * SECOND, subject_delete_marker_ttl=SECOND))
    )
    machine.apply(log.batch(publish("s.never", TTL="never"), publish("s.short", TTL="2"), publish("s.age")))
    create = commands.consumer(
        "c", {"durable_name": "c", "name": "c", "ack_policy": "explicit", "max_deliver": 7}
    )
    machine.apply(log.batch(command(create)))
    number = machine.consumers.get("c").number
    machine.apply(log.batch(command(commands.deliver(number, [1, 2, 3]))))
    machine.apply(
        log.batch(command(commands.acknowledge([(number, [2])])), command(commands.deliver(number, [3])))
    )
    machine.apply(log.batch(after=2 * SECOND))
    capture = snapshot(machine, files)
    again = restored(capture, files.recovered(capture, lambda name: True))
    assert again.consumers.get("c").pack() == machine.consumers.get("c").pack()
    rest = [log.batch(after=SECOND), log.batch(after=7 * SECOND), log.batch(command(create))]
    for batch in rest:
        assert machine.apply(batch) == again.apply(batch)
        assert machine.subjects() == again.subjects() and machine.next_due() == again.next_due()
    assert again.subjects() == {"s.never": 1, "s.age": 1}
    assert again.capture().state == machine.capture().state
