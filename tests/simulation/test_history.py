"""The account of a stream: every way in which what replicas hold can disagree with what clients were told."""

import pytest

from trimaran.testing.nodes.history import Append, Journal, Seen


def journal() -> Journal:
    kept = Journal("stream")
    kept.appends = [
        Append(b"one", "c", began=0, ended=1, place=1),
        Append(b"two", "d", began=2, ended=3, place=2),
        Append(b"maybe", "c", began=2, doubtful=True),
        Append(b"never", "c", began=4),
    ]
    return kept


def rules_broken(
    kept: Journal, contents: dict[int, bytes], damaged: frozenset[int] = frozenset()
) -> set[str]:
    broken: set[str] = set()

    def complain(rule: str, facts: str) -> None:
        broken.add(rule)

    kept.check("a", contents, complain, damaged)
    kept.check_order(complain)
    return broken


@pytest.mark.parametrize("contents", [{1: b"one", 2: b"two"}, {1: b"one", 2: b"two", 3: b"maybe"}])
def test_what_agrees_breaks_no_rule(contents: dict[int, bytes]) -> None:
    assert rules_broken(journal(), contents) == set()


@pytest.mark.parametrize(
    ("contents", "rule"),
    [
        ({1: b"one"}, "acknowledged is stored"),
        ({1: b"one", 2: b"maybe", 3: b"two"}, "acknowledged is stored"),
        ({1: b"one", 2: b"two", 3: b"one"}, "nothing is doubled"),
        ({1: b"one", 2: b"two", 3: b"stranger"}, "nothing is invented"),
        ({1: b"one", 2: b"two", 3: b"never"}, "nothing is invented"),
        ({1: b"one", 2: b"two", 4: b"maybe"}, "sequences are dense"),
    ],
)
def test_what_disagrees_is_named(contents: dict[int, bytes], rule: str) -> None:
    assert rule in rules_broken(journal(), contents)


def test_what_is_damaged_and_says_so_is_not_missed() -> None:
    assert rules_broken(journal(), {1: b"one"}, frozenset({2})) == set()
    assert rules_broken(journal(), {1: b"one"}, frozenset({3})) == {"acknowledged is stored"}


def test_who_has_only_a_part_is_asked_for_that_part() -> None:
    broken: set[str] = set()
    kept = journal()
    for contents in ({}, {1: b"one"}, {1: b"one", 2: b"two", 3: b"maybe"}):
        kept.check("a", contents, lambda rule, facts: broken.add(rule), partly=True)
    assert not broken
    kept.check("a", {1: b"maybe", 2: b"two"}, lambda rule, facts: broken.add(rule), partly=True)
    assert broken == {"acknowledged is stored"}


def test_a_later_append_with_a_lower_place_breaks_real_time() -> None:
    kept = journal()
    kept.appends[0].place, kept.appends[1].place = 2, 1
    assert rules_broken(kept, {1: b"two", 2: b"one"}) == {"real-time order"}


def test_a_read_that_misses_what_was_acknowledged_is_stale() -> None:
    kept = journal()
    kept.reads = [Seen("r", began=2, ended=2.5, last=1), Seen("r", began=4, ended=5, last=2)]
    assert rules_broken(kept, {1: b"one", 2: b"two"}) == set()
    kept.reads.append(Seen("r", began=6, ended=7, last=1))
    assert rules_broken(kept, {1: b"one", 2: b"two"}) == {"linearizable reads"}


def test_a_reader_never_sees_less_than_it_saw() -> None:
    kept = journal()
    kept.reads = [Seen("r", began=2.1, ended=2.2, last=3), Seen("r", began=2.3, ended=2.4, last=2)]
    assert rules_broken(kept, {1: b"one", 2: b"two", 3: b"maybe"}) == {"linearizable reads"}


def test_a_text_that_was_read_stays() -> None:
    kept = journal()
    kept.gets = [(2.0, 3, b"maybe")]
    assert rules_broken(kept, {1: b"one", 2: b"two", 3: b"maybe"}) == set()
    assert rules_broken(kept, {1: b"one", 2: b"two"}) == {"reads are true"}
