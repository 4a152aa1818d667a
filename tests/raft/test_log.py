"""The log's picture in memory against a list, and what it answers about terms."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimaran.actors.raft.log import NOTHING, EntryId, Log

from .replica import batch


def fill(log: Log, *terms: int) -> Log:
    for term in terms:
        index, previous = log.last_index + 1, log.last.term
        log.append(batch(index, term, previous), index, term, 0)
    return log


@pytest.mark.parametrize(
    ("index", "term", "agrees"),
    [(9, 9, (7, 4)), (7, 4, (7, 4)), (6, 3, (5, 2)), (5, 1, (3, 1)), (9, 0, (0, 0)),
     (2, 9, (2, 1)), (0, 5, (0, 0))],
)  # fmt: skip
def test_the_newest_entry_that_may_agree(index: int, term: int, agrees: tuple[int, int]) -> None:
    """Raft 5.3, end: one answer skips a whole term."""
    log = fill(Log(), 1, 1, 1, 2, 2, 4, 4)
    assert log.newest_not_after(index, term) == EntryId(*agrees)


def test_below_the_snapshot_nothing_is_known() -> None:
    log = fill(Log(EntryId(10, 3)), 3, 5)
    assert [log.term_at(index) for index in (9, 10, 11, 12, 13)] == [None, 3, 3, 5, None]
    assert log.newest_not_after(4, 9) == EntryId(10, 3)
    assert log.newest_not_after(12, 2) == EntryId(10, 3)


def test_the_cache_never_lets_go_of_what_is_not_synced() -> None:
    log = Log(cache_limit=0)
    fill(log, 1, 1, 1, 1)
    assert log.cached_from == 1 and len(log.cached(1, 1 << 20) or ()) == 4
    log.mark_synced(3)
    assert log.cached_from == 4 and log.cached(3, 1 << 20) is None and len(log.cached(4, 1) or ()) == 1


def test_a_read_of_the_cache_gives_at_least_one_batch_and_about_the_bytes_asked_for() -> None:
    log = fill(Log(), *[1] * 10)
    size = log.size_of(1, 1)
    assert len(log.cached(3, 1) or ()) == 1
    assert len(log.cached(3, 4 * size) or ()) == 4
    assert len(log.cached(3, 1 << 20, last=5) or ()) == 3
    assert log.cached(11, 1 << 20) == ()


def test_an_index_can_not_be_skipped_nor_a_term_fall() -> None:
    log = fill(Log(), 2)
    with pytest.raises(AssertionError, match="does not follow"):
        log.append(batch(3, 2, 2), 3, 2, 0)
    with pytest.raises(AssertionError, match="follows term 2"):
        log.append(batch(2, 1, 2), 2, 1, 0)


ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(0, 2)),
        st.tuples(st.just("truncate"), st.integers(0, 10)),
        st.tuples(st.just("sync"), st.integers(0, 10)),
        st.tuples(st.just("compact"), st.integers(0, 10)),
        st.tuples(st.just("reset"), st.integers(1, 5)),
    ),
    max_size=40,
)


@given(actions=ACTIONS, cache_limit=st.sampled_from([0, 300, 1 << 20]))
@settings(max_examples=150, deadline=None)
def test_the_log_equals_a_list(actions: list[tuple[str, int]], cache_limit: int) -> None:
    """Against a list of (index, term, bytes), after every action."""
    log, model, compacted = Log(cache_limit=cache_limit), list[tuple[int, int, bytes]](), NOTHING
    for action, number in actions:
        last = EntryId(*model[-1][:2]) if model else compacted
        if action == "append":
            entry = (last.index + 1, last.term + number, batch(last.index + 1, last.term + number, last.term))
            log.append(entry[2], entry[0], entry[1], 0)
            model.append(entry)
        elif action == "truncate" and model:
            first = model[number % len(model)][0]
            log.truncate_from(first)
            model = [entry for entry in model if entry[0] < first]
        elif action == "sync" and model:
            log.mark_synced(model[number % len(model)][0])
        elif action == "compact" and model:
            compacted = EntryId(*model[number % len(model)][:2])
            log.compact(compacted.index, compacted.term)
            model = [entry for entry in model if entry[0] > compacted.index]
        elif action == "reset":
            compacted, model = EntryId(last.index + number, last.term + 1), []
            log.reset(compacted.index, compacted.term, 0)
        assert log.compacted == compacted
        assert log.last == (EntryId(*model[-1][:2]) if model else compacted)
        assert [log.term_at(index) for index, _, _ in model] == [term for _, term, _ in model]
        assert log.term_at(compacted.index) == compacted.term and log.term_at(log.last_index + 1) is None
        cached = [content for index, _, content in model if index >= log.cached_from]
        assert list(log.cached(log.cached_from, 1 << 30) or ()) == cached
        assert log.cache_bytes == sum(map(len, cached))
        assert log.cached_from <= max(log.synced, compacted.index) + 1
        if model:
            assert log.size_of(model[0][0], model[-1][0]) == sum(len(content) for _, _, content in model)
