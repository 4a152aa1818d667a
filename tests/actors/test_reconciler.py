"""The reconciler's rule: from any members to any desired voters, one safe change at a time."""

from hypothesis import given
from hypothesis import strategies as st

from trimaran.actors.membership import Change, ChangeKind, Membership
from trimaran.actors.reconciler import next_change

nodes = st.frozensets(st.integers(1, 7), min_size=1, max_size=5)


@given(voters=nodes, desired=nodes)
def test_single_changes_lead_to_the_desired_voters_and_end(
    voters: frozenset[int], desired: frozenset[int]
) -> None:
    members = Membership(voters)
    for _ in range(32):
        change = next_change(members, desired)
        if change is None:
            break
        after = members.after(change)
        assert after is not None, f"{change} makes no sense for {members}"
        assert len(after.voters ^ members.voters) <= 1, "two voters at once"
        members = after
    assert members.voters == desired
    assert not members.learners


@given(voters=nodes, desired=nodes)
def test_nobody_leaves_before_every_newcomer_votes(voters: frozenset[int], desired: frozenset[int]) -> None:
    members = Membership(voters)
    while (change := next_change(members, desired)) is not None:
        if change.kind is ChangeKind.REMOVE:
            assert desired <= members.voters
        after = members.after(change)
        assert after is not None
        members = after


def test_a_node_that_stays_in_the_cluster_is_released_and_may_come_back() -> None:
    members = Membership(frozenset((1, 2, 3)))
    change = next_change(members, frozenset((1, 2)), cluster=frozenset((1, 2, 3)))
    assert change == Change(ChangeKind.RELEASE, 3)
    released = members.after(change)
    assert released is not None
    assert next_change(released, frozenset((1, 2, 3))) == Change(ChangeKind.ADD_LEARNER, 3)


def test_the_leader_leaves_last() -> None:
    members = Membership(frozenset((1, 2, 3)))
    assert next_change(members, frozenset((3,)), leader=1) == Change(ChangeKind.REMOVE, 2)


def test_a_removed_id_is_not_added_again() -> None:
    members = Membership(frozenset((1, 2)), removed=frozenset((3,)))
    assert next_change(members, frozenset((1, 2, 3))) is None
