"""Wildcards: the compiled filter, matching and overlapping against all subjects there are."""

from __future__ import annotations

from itertools import product

from hypothesis import given
from hypothesis import strategies as st

from trimaran.actors.stream.subjects import (
    SubjectFilter,
    SubjectIndex,
    is_subject,
    subject_matches,
    subjects_overlap,
)

LITERALS = [".".join(tokens) for length in (1, 2, 3, 4) for tokens in product("ab", repeat=length)]
tokens = st.sampled_from(["a", "b", "*"])
patterns = st.builds(
    lambda head, tail: ".".join([*head, *tail]),
    st.lists(tokens, min_size=1, max_size=3),
    st.sampled_from([[], [">"]]),
)


def matched(pattern: str) -> set[str]:
    """The plain meaning of a pattern, token by token."""
    wanted = pattern.split(".")

    def matches(subject: str) -> bool:
        found = subject.split(".")
        if wanted[-1] == ">":
            if len(found) < len(wanted):
                return False
            return all(w in ("*", f) for w, f in zip(wanted[:-1], found, strict=False))
        return len(wanted) == len(found) and all(w in ("*", f) for w, f in zip(wanted, found, strict=True))

    return {subject for subject in LITERALS if matches(subject)}


@given(st.lists(patterns, max_size=3))
def test_a_filter_takes_what_one_of_its_patterns_matches(wanted: list[str]) -> None:
    taken = SubjectFilter(wanted)
    expected = set().union(*map(matched, wanted)) if wanted else set()
    assert {subject for subject in LITERALS if subject.encode() in taken} == expected


@given(patterns, patterns)
def test_patterns_overlap_if_some_subject_matches_both(one: str, other: str) -> None:
    assert subjects_overlap(one, other) == bool(matched(one) & matched(other))
    assert subjects_overlap(one, other) == subjects_overlap(other, one)


@given(st.lists(patterns | st.just(">"), max_size=4), patterns | st.just(">"))
def test_an_index_finds_a_pattern_that_overlaps(present: list[str], asked: str) -> None:
    index: SubjectIndex[str] = SubjectIndex()
    for pattern in present:
        index.add(pattern.encode(), pattern)
    found = index.overlapping(asked.encode())
    overlapping = [pattern for pattern in present if subjects_overlap(pattern, asked)]
    assert found in overlapping if overlapping else found is None


@given(st.sets(patterns | st.just(">"), max_size=6), st.sets(patterns | st.just(">"), max_size=6))
def test_what_is_removed_from_an_index_leaves_nothing_behind(stays: set[str], goes: set[str]) -> None:
    index: SubjectIndex[str] = SubjectIndex()
    for pattern in stays | goes:
        index.add(pattern.encode(), pattern)
    for pattern in [*(goes - stays), *(goes - stays), "c.c"]:
        index.remove(pattern.encode())
    for subject in LITERALS:
        matching = [pattern for pattern in stays if subject in matched(pattern) or pattern == ">"]
        found = index.find(subject.encode())
        assert found in matching if matching else found is None
    assert (index.overlapping(b">") is None) == (not stays)


def test_a_subject_may_have_more_tokens_than_the_stack_has_frames() -> None:
    long = b"a." * 3000 + b"b"
    index: SubjectIndex[int] = SubjectIndex()
    index.add(b"*." * 3000 + b"*", 1)
    assert index.find(long) == index.overlapping(long) == index.overlapping(b"a.>") == 1
    assert index.find(long + b".c") is None


def test_stars_in_a_subject_do_not_make_the_search_for_its_patterns_longer() -> None:
    index: SubjectIndex[int] = SubjectIndex()
    index.add(b"*." * 200 + b"end", 1)
    index.add(b"*." * 200 + b"*", 2)
    assert index.matching(b"*." * 200 + b"*") == [2]
    assert index.find(b"*." * 200 + b"other") == 2
    assert index.find(b"*." * 199 + b"*") is None


@given(patterns, patterns)
def test_a_pattern_matches_another_if_it_takes_all_of_it(one: str, other: str) -> None:
    if subject_matches(one, other):
        assert matched(other) <= matched(one)
    if other in LITERALS:
        assert subject_matches(one, other) == (other in matched(one))


def test_a_lone_tail_matches_everything() -> None:
    assert all(subject.encode() in SubjectFilter([">"]) for subject in LITERALS)
    assert subjects_overlap(">", "a.b")


def test_subjects_have_no_empty_or_blank_tokens() -> None:
    assert all(map(is_subject, ["a", "a.b", "*", ">", "a.*.>", "$KV.x", "a.*x", "ü"]))
    assert not any(map(is_subject, ["", ".", "a.", ".a", "a..b", "a b", "a.\t", ">.a", "a\0"]))


def test_every_pattern_that_matches_is_found() -> None:
    index: SubjectIndex[str] = SubjectIndex()
    patterns = ["a.b", "a.*", "*.b", "a.>", ">", "a.b.c", "a.b.>", "b.*"]
    for pattern in patterns:
        index.add(pattern.encode(), pattern)
    for subject in ("a.b", "a.b.c", "a", "c.b", "x.y.z"):
        expected = {pattern for pattern in patterns if subject_matches(pattern, subject)}
        assert set(index.matching(subject.encode())) == expected
        assert len(index.matching(subject.encode())) == len(expected)
