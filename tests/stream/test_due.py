"""Times to live of removed messages are forgotten, none of another one is, and the order stays."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.stream.support import Log, MemoryFiles, configured, machine_on, publish
from trimaran.actors.stream import due
from trimaran.actors.stream.due import Due, DueTimes

SECOND = 1_000_000_000
HOUR = 3600 * SECOND
steps = st.one_of(
    st.tuples(st.just("push"), st.integers(0, 50)),
    st.tuples(st.just("push"), st.integers(0, 50)),
    st.tuples(st.just("remove"), st.integers(2, 4)),
    st.tuples(st.just("pop"), st.just(0)),
    st.tuples(st.just("snapshot"), st.just(0)),
)


@given(st.lists(steps, max_size=200))
def test_it_is_the_sorted_list_of_what_is_there(taken: list[tuple[str, int]]) -> None:
    before = due.SLACK, due.SWEPT
    due.SLACK, due.SWEPT = 0, 1  # type: ignore[misc]  # so that it sweeps, and takes its time
    try:
        there: dict[int, int] = {}
        times = DueTimes(there.__contains__, lambda: len(there))
        for sequence, (step, argument) in enumerate(taken):
            if step == "push":
                there[sequence] = argument
                times.push(argument, sequence)
            elif step == "remove":
                for gone in [each for each in there if each % argument]:
                    del there[gone]
            elif step == "pop":
                expected = min(((time, sequence) for sequence, time in there.items()), default=None)
                assert first_there(times, there) == expected
                if expected is not None:
                    del there[expected[1]]
            elif step == "snapshot":
                packed = times.heap()
                times = DueTimes(there.__contains__, lambda: len(there))
                times.restore(list(packed))
    finally:
        due.SLACK, due.SWEPT = before  # type: ignore[misc]  # as they were


def first_there(times: DueTimes, there: dict[int, int]) -> Due | None:
    """Take what is due first, and not removed."""
    while (first := times.first()) is not None:
        assert times.pop() == first
        if first[1] in there:
            return first
    return None


def test_a_subject_that_is_written_again_and_again_keeps_no_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(due, "SLACK", 64)
    log, machine = Log(), machine_on(MemoryFiles())
    machine.apply(log.batch(configured(allow_msg_ttl=True, max_msgs_per_subject=1)))
    for _ in range(40):
        machine.apply(log.batch(*(publish(f"s.{key}", TTL="1h") for key in range(25))))
    assert len(machine._expiry._due) < 300, "a thousand were written, 25 are there"
    machine.apply(log.batch(after=HOUR + SECOND))
    assert machine.subjects() == {}
