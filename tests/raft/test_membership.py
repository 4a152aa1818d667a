"""Members, their majorities, and the single steps between them."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimaran.actors.raft.membership import BadMembership, Change, ChangeKind, Membership, MembershipHistory

NODES = st.frozensets(st.integers(1, 6))


@given(voters=st.frozensets(st.integers(1, 6), min_size=1), others=NODES, kind=st.sampled_from(ChangeKind))
def test_majorities_before_and_after_a_change_always_meet(
    voters: frozenset[int], others: frozenset[int], kind: ChangeKind
) -> None:
    """Thesis 4.1, figure 4.3: the reason why a change is of one server."""
    before = Membership(voters, others - voters)
    for node in range(1, 8):
        after = before.after(Change(kind, node))
        if after is None:
            continue
        assert len(before.voters ^ after.voters) <= 1 and after.voters
        assert not (after.voters & after.learners or after.members & after.removed)
        everyone = before.voters | after.voters
        for size in range(len(everyone) + 1):
            for side in itertools.combinations(everyone, size):
                assert not (before.is_quorum(side) and after.is_quorum(everyone - set(side)))


@pytest.mark.parametrize("voters", range(1, 8))
def test_a_quorum_is_more_than_half_of_the_voters(voters: int) -> None:
    members = Membership.of(range(1, voters + 1), learners=(20, 21, 22))
    assert members.quorum() > voters / 2 >= members.quorum() - 1
    assert not members.is_quorum((20, 21, 22, 99))
    assert members.is_quorum(range(1, members.quorum() + 1))


@pytest.mark.parametrize(
    "change",
    [
        Change(ChangeKind.ADD_LEARNER, 1),
        Change(ChangeKind.ADD_LEARNER, 8),
        Change(ChangeKind.ADD_LEARNER, 9),
        Change(ChangeKind.PROMOTE, 1),
        Change(ChangeKind.PROMOTE, 5),
        Change(ChangeKind.DEMOTE, 8),
        Change(ChangeKind.REMOVE, 5),
        Change(ChangeKind.REMOVE, 9),
    ],
)
def test_changes_that_make_no_sense(change: Change) -> None:
    """8 is a learner; 9 was removed, and a removed id never returns: it may have forgotten what it
    promised."""
    members = Membership(frozenset({1, 2}), frozenset({8}), frozenset({9}))
    assert members.after(change) is None


def test_the_last_voter_stays() -> None:
    alone = Membership.of([1], [2])
    assert alone.after(Change(ChangeKind.REMOVE, 1)) is None
    assert alone.after(Change(ChangeKind.DEMOTE, 1)) is None


@given(voters=NODES, learners=NODES, removed=NODES)
def test_round_trip(voters: frozenset[int], learners: frozenset[int], removed: frozenset[int]) -> None:
    members = Membership(voters, learners, removed)
    assert Membership.decode(members.encode()) == members
    assert members.encode() == Membership(voters, learners, removed).encode()  # equal on every node


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x80", b"\x90", Membership.of([1]).encode()[:-1]])
def test_unreadable_members_are_an_error_of_their_own(data: bytes) -> None:
    with pytest.raises(BadMembership):
        Membership.decode(data)


def test_a_newer_format_is_refused() -> None:
    data = Membership.of([1]).encode().replace(b"\xa1v\x01", b"\xa1v\x02")
    with pytest.raises(BadMembership, match="newer"):
        Membership.decode(data)


def test_history() -> None:
    """Appended, taken back, settled, replaced."""
    one, two, three = (Membership.of(range(1, n + 1)) for n in (1, 2, 3))
    history = MembershipHistory(one)
    history.append(5, two)
    history.append(9, three)
    assert [history.at(index) for index in (4, 5, 8, 9)] == [one, two, two, three]
    assert history.truncate_from(6) and history.current == two and history.last_change == 5
    assert not history.truncate_from(6)
    history.settle(7)
    assert history.current == two and history.last_change == 0 and history.at(3) == two
    history.reset(three)
    assert history.current == three
