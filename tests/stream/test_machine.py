"""The stream machine, rule by rule, in the words and numbers of nats-server."""

from __future__ import annotations

from typing import Any

import pytest

from tests.stream.support import Entry, Log, MemoryFiles, command, configured, machine_on, now, publish
from trimaran.actors.stream.commands import delete, purge
from trimaran.actors.stream.results import Status, unpack_all
from trimaran.codec import EntryType

SECOND = 1_000_000_000


class Stream:
    """A configured stream and its log."""

    def __init__(self, **settings: Any) -> None:
        self.log, self.files = Log(), MemoryFiles()
        self.machine: Any = machine_on(self.files, 8 << 20)
        self.apply(configured(**settings))

    def apply(self, *entries: Entry, after: int = 0) -> list[tuple[Status, int]]:
        results = unpack_all(self.machine.apply(self.log.batch(*entries, after=after)))
        return [(result.status, result.value) for result in results]

    def error(self, *entries: Entry) -> str:
        """Code and text of the last entry's refusal."""
        results = unpack_all(self.machine.apply(self.log.batch(*entries)))
        error = results[-1].error
        assert error is not None
        return f"{error.code}/{error.err_code} {error.description}"

    @property
    def span(self) -> tuple[int, int, int]:
        info = self.machine.info()
        return info.messages, info.first_seq, info.last_seq


def test_messages_are_numbered_in_log_order() -> None:
    stream = Stream()
    assert stream.span == (0, 0, 0)
    results = stream.apply(publish("s.1", b"a"), publish("s.2", b"b"), publish("s.1", b"c"))
    assert results == [(Status.STORED, 1), (Status.STORED, 2), (Status.STORED, 3)]
    assert stream.machine.info().bytes == 34 * 3
    assert [now(stream.machine.get(n)).payload for n in (1, 2, 3)] == [b"a", b"b", b"c"]
    assert now(stream.machine.last_by_subject("s.1")).sequence == 3
    assert now(stream.machine.last_by_subject("s.*")).sequence == 3
    assert now(stream.machine.next_by_subject(2, "s.1")).sequence == 3
    assert now(stream.machine.next_by_subject(3, "s.2")) is None


def test_no_purge_brings_the_numbers_where_an_acknowledgement_has_no_room() -> None:
    stream = Stream()
    for sequence in ((1 << 55) + 1, 1 << 56, (1 << 64) - 1):
        assert stream.error(command(purge(seq=sequence))) == "400/10003 bad request"
    stream.apply(command(purge(seq=1 << 55)))
    first = 1 << 55
    stored = stream.apply(*[publish("s.1") for _ in range(3)])
    assert stored == [(Status.STORED, first), (Status.STORED, first + 1), (Status.STORED, first + 2)]


def test_before_its_configuration_a_stream_takes_nothing() -> None:
    machine = machine_on(MemoryFiles())
    batch = Log().batch(publish("s.1"), publish("s.1", Msg_Id="a"), command(purge()), command(delete(1)))
    refused = [result.error.err_code for result in unpack_all(machine.apply(batch)) if result.error]
    assert refused == [10059, 10059, 10003, 10003]


def test_only_a_higher_version_configures() -> None:
    stream = Stream()
    assert stream.apply(configured(1, max_msgs=1)) == [(Status.DONE, 1)]
    stream.apply(publish("s.1"), publish("s.1"))
    assert stream.span == (2, 1, 2)
    assert stream.apply(configured(3, max_msgs=1), configured(2)) == [(Status.DONE, 3), (Status.DONE, 3)]
    assert stream.span == (1, 2, 2)


def test_unknown_entries_are_refused() -> None:
    stream = Stream()
    unknown = [
        (EntryType.OPAQUE, b"?"),
        command(b"\xc1"),
        command(b"\x81\xa1v\x01"),
        command(b"\x01"),
        (200, b""),
    ]
    assert set(stream.apply(*unknown)) == {(Status.REFUSED, 10003)}


def test_a_fresh_streams_first_sequence_can_be_chosen() -> None:
    stream = Stream(first_seq=10)
    assert stream.span == (0, 10, 9)
    assert stream.apply(publish("s.1")) == [(Status.STORED, 10)]


def test_purging_like_nats_server() -> None:
    stream = Stream()
    assert stream.apply(command(purge())) == [(Status.DONE, 0)]
    assert stream.span == (0, 1, 0)
    stream.apply(*[publish(f"s.{n % 2}") for n in range(6)])
    assert stream.apply(command(purge(seq=3))) == [(Status.DONE, 2)]
    assert stream.apply(command(purge(keep=3))) == [(Status.DONE, 1)]
    assert stream.span == (3, 4, 6)
    assert stream.apply(command(purge("s.0"))) == [(Status.DONE, 1)]
    assert stream.apply(command(purge(seq=100))) == [(Status.DONE, 2)]
    assert stream.span == (0, 100, 99)
    assert stream.apply(publish("s.0")) == [(Status.STORED, 100)]
    assert stream.error(command(purge(seq=3, keep=3))) == "400/10003 bad request"


def test_deleting_like_nats_server() -> None:
    stream = Stream()
    stream.apply(*[publish("s.1")] * 4)
    assert stream.apply(command(delete(3)), command(delete(1))) == [(Status.DONE, 1)] * 2
    assert (stream.span, stream.machine.deleted(9)) == ((2, 2, 4), [3])
    assert stream.error(command(delete(3))) == "400/10043 sequence 3 not found"
    assert stream.error(command(delete(99))) == "500/10057 stream store EOF"
    assert stream.error(command(delete(1))) == "500/10057 no message found"
    assert stream.error(command(delete(0))) == "500/10057 no message found"
    stream.apply(command(delete(4)))
    assert now(stream.machine.last_by_subject("s.1")).sequence == 2
    stream.apply(command(delete(2)))
    assert stream.span == (0, 5, 4)


def test_what_may_be_denied_is_denied() -> None:
    stream = Stream(deny_delete=True, deny_purge=True)
    stream.apply(publish("s.1"))
    assert stream.error(command(delete(1))) == "500/10057 message delete not permitted"
    assert stream.error(command(purge())) == "500/10110 stream purge not permitted"
    assert stream.error(publish("s.1", Rollup="all")) == "500/10111 rollup not permitted"


def test_a_sealed_stream_changes_no_more() -> None:
    stream = Stream()
    stream.apply(publish("s.1"))
    stream.apply(configured(2, sealed=True))
    for entry in (publish("s.1"), publish("s.1", Msg_Id="a"), command(purge()), command(delete(1))):
        assert stream.error(entry) == "400/10109 invalid operation on sealed stream"


@pytest.mark.parametrize(
    ("entry", "answer"),
    [
        (publish("s.1", Expected_Stream="Q"), "400/10060 expected stream does not match"),
        (publish("s.1", Expected_Stream="Q", Msg_Id="m"), "400/10060 expected stream does not match"),
        (publish("s.1", Expected_Last_Sequence="3"), "400/10071 wrong last sequence: 2"),
        (publish("s.1", Expected_Last_Sequence="foo"), "400/10071 wrong last sequence: 2"),
        (publish("s.1", Expected_Last_Subject_Sequence="2"), "400/10071 wrong last sequence: 1"),
        (publish("s.9", Expected_Last_Subject_Sequence="2"), "400/10071 wrong last sequence: 0"),
        (
            publish("s.1", Expected_Last_Subject_Sequence="1", Expected_Last_Subject_Sequence_Subject="s.*"),
            "400/10071 wrong last sequence: 2",
        ),
        (
            publish("s.1", Expected_Last_Subject_Sequence_Subject="s.*"),
            "400/10193 missing sequence for expected last sequence per subject",
        ),
        (publish("s.1", Expected_Last_Msg_Id="x"), "400/10070 wrong last msg ID"),
        (publish("s.1", Rollup="foo"), "500/10111 rollup value invalid"),
        (publish("s.1", TTL="5s"), "400/10166 per-message TTL is disabled"),
        (publish("s.1", Incr="+1"), "400/10168 message counters is disabled"),
        (publish("s.1", Batch_Id="b"), "400/10174 atomic publish is disabled"),
        (publish("s.1", Schedule="@at x"), "400/10188 message schedules is disabled"),
        (publish("x.1"), "404/10059 stream not found"),
        (publish("x.1", Msg_Id="n"), "404/10059 stream not found"),
    ],
)
def test_what_a_publish_asks_for_is_checked(entry: Entry, answer: str) -> None:
    stream = Stream(allow_rollup_hdrs=True)
    stream.apply(publish("s.1"), publish("s.2", Msg_Id="m"))
    assert stream.error(entry) == answer
    assert stream.span == (2, 1, 2)


def test_empty_header_values_ask_for_nothing() -> None:
    stream = Stream()
    empty = publish("s.1", Expected_Last_Sequence="", Expected_Last_Msg_Id="", Msg_Id="", Rollup="", TTL="")
    assert stream.apply(empty, empty) == [(Status.STORED, 1), (Status.STORED, 2)]


def test_header_names_are_case_sensitive() -> None:
    stream = Stream()
    entry = publish("s.1", expected_last_sequence="77")
    assert stream.apply(entry) == [(Status.STORED, 1)]


def test_a_message_id_is_stored_once_within_the_window() -> None:
    stream = Stream(duplicate_window=2 * SECOND)
    first = publish("s.1", Msg_Id="a")
    assert stream.apply(first, first) == [(Status.STORED, 1), (Status.DUPLICATE, 1)]
    stream.apply(command(purge()))
    assert stream.apply(first, after=SECOND) == [(Status.DUPLICATE, 1)]
    assert stream.apply(first, after=SECOND) == [(Status.STORED, 2)]


def test_a_duplicate_is_told_before_an_expectation_fails() -> None:
    """A retry must get its first answer, also when what it expected then is no longer so."""
    stream = Stream()
    stream.apply(publish("s.1", Msg_Id="a", Expected_Last_Sequence="0"))
    again = stream.apply(publish("s.1", Msg_Id="a", Expected_Last_Sequence="0"))
    assert again == [(Status.DUPLICATE, 1)]


def test_a_plain_publish_clears_the_last_message_id() -> None:
    stream = Stream()
    stream.apply(publish("s.1", Msg_Id="a"), publish("s.1"))
    assert stream.error(publish("s.1", Expected_Last_Msg_Id="a")) == "400/10070 wrong last msg ID"


def test_rolling_up_leaves_the_newest() -> None:
    stream = Stream(allow_rollup_hdrs=True)
    stream.apply(publish("s.1"), publish("s.2"), publish("s.1"), publish("s.1", Rollup="SUB"))
    assert stream.machine.subjects() == {"s.2": 1, "s.1": 1}
    stream.apply(publish("s.3", Rollup="all"))
    assert stream.span == (1, 5, 5)


def test_a_subject_with_wildcards_is_stored_as_it_is_and_rolls_up_what_matches() -> None:
    """Clients that do not check their keys rely on it, as on the reference."""
    stream = Stream(subjects=["s.>"], allow_rollup_hdrs=True)
    stream.apply(publish("s.1"), publish("s.2.x"), publish("s.*"), publish("s.>"))
    assert stream.machine.subjects(">") == {"s.1": 1, "s.2.x": 1, "s.*": 1, "s.>": 1}
    assert now(stream.machine.last_by_subject("s.2.*")).sequence == 2
    stream.apply(publish("s.*", Rollup="sub"))
    assert stream.machine.subjects(">") == {"s.2.x": 1, "s.*": 1}
    stream.apply(publish("s.>", Rollup="sub"))
    assert stream.machine.subjects(">") == {"s.>": 1}


def test_a_transform_without_a_destination_changes_no_subject() -> None:
    for transform in ({}, {"src": "s.>"}, {"src": "s.*", "dest": ""}):
        stream = Stream(subjects=["s.>"], subject_transform=transform)
        stream.apply(publish("s.1"))
        assert stream.machine.subjects(">") == {"s.1": 1}


def test_rolling_up_a_full_subject_needs_no_room() -> None:
    stream = Stream(
        allow_rollup_hdrs=True, discard="new", max_msgs_per_subject=2, discard_new_per_subject=True
    )
    stream.apply(publish("s.1"), publish("s.1"))
    assert stream.apply(publish("s.1", Rollup="sub")) == [(Status.STORED, 3)]
    assert stream.span == (1, 3, 3)


def test_age_is_measured_by_the_batches_alone() -> None:
    stream = Stream(max_age=2 * SECOND)
    assert stream.machine.next_due() is None
    stream.apply(publish("s.1"))
    stream.apply(publish("s.1"), after=SECOND)
    assert stream.machine.next_due() == stream.log.time + SECOND
    stream.apply(after=SECOND - 1)
    assert stream.span == (2, 1, 2)
    stream.apply(after=1)
    assert stream.span == (1, 2, 2)
    assert stream.machine.next_due() == stream.log.time + SECOND
    stream.apply(after=60 * SECOND)
    assert stream.span == (0, 3, 2)
    assert stream.machine.next_due() is None
    assert stream.machine.info().last_time > 0


@pytest.mark.parametrize(
    ("settings", "stored", "refusal"),
    [
        ({"max_msgs": 3, "discard": "new"}, 3, "503/10077 maximum messages exceeded"),
        ({"max_bytes": 100, "discard": "new"}, 2, "503/10077 maximum bytes exceeded"),
        ({"max_bytes": 114, "discard": "new"}, 3, "503/10077 maximum bytes exceeded"),
        (
            {"max_msgs_per_subject": 2, "discard": "new", "discard_new_per_subject": True},
            2,
            "503/10077 maximum messages per subject exceeded",
        ),
    ],
)
def test_a_full_stream_that_discards_new_refuses(settings: dict[str, Any], stored: int, refusal: str) -> None:
    stream = Stream(**settings)
    stream.apply(*[publish("s.1", b"hello")] * 5)
    assert stream.span == (stored, 1, stored)
    assert stream.error(publish("s.1", b"hello")) == refusal


@pytest.mark.parametrize(
    ("settings", "span"),
    [
        ({"max_msgs": 3}, (3, 3, 5)),
        ({"max_bytes": 100}, (2, 4, 5)),
        ({"max_bytes": 20}, (0, 6, 5)),
        ({"max_msgs_per_subject": 2}, (2, 4, 5)),
        ({"max_msgs_per_subject": 2, "discard": "new"}, (2, 4, 5)),
        ({"max_msgs_per_subject": 2, "max_msgs": 2, "discard": "new"}, (2, 4, 5)),
        ({"max_msgs_per_subject": 2, "max_bytes": 80, "discard": "new"}, (2, 4, 5)),
    ],
)
def test_a_full_stream_that_discards_old_makes_room(
    settings: dict[str, Any], span: tuple[int, int, int]
) -> None:
    stream = Stream(**settings)
    for _ in range(5):
        stream.apply(publish("s.1", b"hello"))
    assert stream.span == span


def test_a_large_message_drops_others_even_if_a_small_one_replaces_it_at_once() -> None:
    """With both limits the order within a batch matters: such streams decide message by message."""
    stream = Stream(max_bytes=100, max_msgs_per_subject=1)
    stream.apply(publish("s.b"), publish("s.a", bytes(60)), publish("s.a"))
    assert stream.span == (1, 3, 3)


def test_headers_count_for_the_message_size() -> None:
    stream = Stream(max_msg_size=5)
    assert stream.apply(publish("s.1", b"hello")) == [(Status.STORED, 1)]
    assert stream.error(publish("s.1", b"hello!")) == "400/10054 message size exceeds maximum allowed"
    assert stream.error(publish("s.1", Msg_Id="a")) == "400/10054 message size exceeds maximum allowed"


def test_a_tighter_configuration_takes_effect_at_once() -> None:
    stream = Stream()
    stream.apply(*[publish(f"s.{n % 2}") for n in range(6)])
    stream.apply(configured(2, max_msgs_per_subject=1))
    assert stream.span == (2, 5, 6)
    stream.apply(configured(3, max_msgs=1))
    assert stream.span == (1, 6, 6)


def test_subjects_that_are_no_longer_the_streams_are_refused_but_kept() -> None:
    stream = Stream()
    stream.apply(publish("s.1"), publish("s.2"))
    stream.apply(configured(2, subjects=["s.2"]))
    assert stream.apply(publish("s.1"), publish("s.2")) == [(Status.REFUSED, 10059), (Status.STORED, 3)]
    assert stream.machine.subjects() == {"s.1": 1, "s.2": 2}


def test_a_subjects_number_is_used_again() -> None:
    """Subjects that come and go must not cost memory for ever."""
    stream = Stream(max_msgs=10)
    for number in range(200):
        stream.apply(*[publish(f"s.{number}.{n}") for n in range(10)])
    assert len(stream.machine._store._names) <= 20
    assert len(stream.machine.subjects()) == 10


def test_messages_are_found_by_time() -> None:
    stream = Stream()
    begin = stream.log.time
    for _ in range(4):
        stream.apply(publish("s.1"), after=SECOND)
    assert stream.machine.sequence_since(0) == 1
    assert stream.machine.sequence_since(begin + 2 * SECOND) == 2
    assert stream.machine.sequence_since(begin + 2 * SECOND + 1) == 3
    assert stream.machine.sequence_since(begin + 5 * SECOND) == 5
