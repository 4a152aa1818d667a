"""The subject table against a dumb second implementation, and its cache."""

from typing import cast

from hypothesis import given, settings
from hypothesis import strategies as st

from trimaran.actors.gateway.client import Client
from trimaran.actors.gateway.subjects import (
    Listener,
    PeerInterest,
    SubjectTable,
    Subscription,
    matches,
)

NOBODY = cast(Client, None)
tokens = st.sampled_from([b"a", b"b", b"cc"])
literals = st.lists(tokens, min_size=1, max_size=4).map(b".".join)
patterns = st.tuples(
    st.lists(st.sampled_from([b"a", b"b", b"cc", b"*"]), max_size=3), st.sampled_from([b"a", b"*", b">"])
).map(lambda parts: b".".join([*parts[0], parts[1]]))


def dumb_match(pattern: bytes, subject: bytes) -> bool:
    """One token after the other, by recursion."""
    head, _, rest = pattern.partition(b".")
    token, _, others = subject.partition(b".")
    if not token:
        return False
    if head == b">":
        return all(subject.split(b"."))
    if head not in (token, b"*"):
        return False
    return dumb_match(rest, others) if rest and others else not rest and not others


def intersect(one: bytes, other: bytes) -> bool:
    """Whether some subject matches both patterns."""
    left, _, left_rest = one.partition(b".")
    right, _, right_rest = other.partition(b".")
    if b">" in (left, right):
        return True
    if left != right and b"*" not in (left, right):
        return False
    return intersect(left_rest, right_rest) if left_rest and right_rest else not left_rest and not right_rest


def subscription(pattern: bytes, queue: bytes = b"") -> Subscription:
    return Subscription(NOBODY, b"1", pattern, queue)


@given(patterns, literals)
def test_matches_equals_the_dumb_implementation(pattern: bytes, subject: bytes) -> None:
    assert matches(pattern, subject) == dumb_match(pattern, subject)


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.booleans(), patterns), max_size=25),
    st.lists(literals, min_size=1, max_size=5),
    patterns,
)
def test_table_finds_exactly_who_matches(
    steps: list[tuple[bool, bytes]], subjects: list[bytes], pattern: bytes
) -> None:
    table = SubjectTable(cache_size=3)
    there: list[Subscription] = []
    for add, subject in steps:
        if add or not there:
            there.append(subscription(subject))
            table.add(there[-1])
        else:
            table.remove(there.pop(len(subject) % len(there)))
        for literal in subjects:
            expected = {one for one in there if dumb_match(one.subject, literal)}
            assert set(table.match(literal).local) == expected
        crossing = [one for one in there if intersect(one.subject, pattern)]
        assert sorted(map(id, table.intersecting(pattern))) == sorted(map(id, crossing))
        assert len(table) == len(there)


def test_what_was_removed_leaves_nothing_behind() -> None:
    table = SubjectTable()
    many: list[Listener] = [subscription(pattern) for pattern in (b"a.b.c", b"a.*.c", b"a.>", b"*.>", b">")]
    for one in many:
        table.add(one)
    for one in many:
        table.remove(one)
    assert len(table) == 0 and table._root.empty


def test_a_tail_pattern_crosses_everything_below_it() -> None:
    table = SubjectTable()
    many = [
        subscription(pattern) for pattern in (b"a.b", b"a.b.>", b"a.*.c", b"a.>", b"*.b.*.d", b">", b"b.a")
    ]
    for one in many:
        table.add(one)
    assert set(table.intersecting(b"a.>")) == set(many[:-1])
    assert set(table.intersecting(b">")) == set(many)


def test_nobody_listens_to_a_subject_with_an_empty_token() -> None:
    table = SubjectTable()
    table.add(subscription(b"a.>"))
    for subject in (b"a..b", b"a.", b".a", b""):
        assert not table.match(subject)


def test_peers_are_named_once_and_their_queue_members_added_up() -> None:
    table = SubjectTable()
    for pattern in (b"a.*", b"a.b"):
        table.add(PeerInterest(5, pattern, b"", 1))
        table.add(PeerInterest(5, pattern, b"q", 2))
    here = subscription(b"a.>", b"q")
    table.add(here)
    found = table.match(b"a.b")
    assert found.peers == (5,) and not found.local
    assert [(group.name, group.local, group.peers) for group in found.queues] == [(b"q", (here,), ((5, 4),))]


def test_a_changed_table_has_another_version() -> None:
    table = SubjectTable()
    one = subscription(b"a")
    versions = [table.version]
    table.add(one)
    versions.append(table.version)
    table.remove(one)
    versions.append(table.version)
    assert len(set(versions)) == 3
    table.remove(one)
    assert table.version == versions[-1]
