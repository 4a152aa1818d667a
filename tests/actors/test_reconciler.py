"""The reconciler's rule: from any members to any desired voters, one safe change at a time."""

from types import SimpleNamespace
from typing import cast

import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from tests.actors.cluster import VirtualClock
from trimaran.actors.cluster.meta_state import Assignment, MetaState
from trimaran.actors.cluster.reconciler import Reconciler, next_change
from trimaran.actors.raft.membership import Change, ChangeKind, Membership
from trimaran.actors.replica.group import Group

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


@given(voters=nodes, desired=nodes, able=nodes, leader=st.integers(1, 7))
def test_whoever_leaves_leaves_a_majority_behind_that_can_commit_it(
    voters: frozenset[int], desired: frozenset[int], able: frozenset[int], leader: int
) -> None:
    members, able = Membership(voters), able | {leader}
    change = next_change(members, desired, leader=leader, able=able)
    if change is not None and change.kind is ChangeKind.REMOVE:
        after = members.after(change)
        assert after is not None and after.is_quorum(able)
        assert change.node not in able or members.members - desired <= able, "the others first"


def test_an_id_that_is_gone_for_good_leaves_before_its_replacement_comes_in() -> None:
    members, desired = Membership(frozenset((1, 2, 3))), frozenset((1, 2, 4))
    cluster, able = frozenset((1, 2, 4)), frozenset((1, 2))
    changes = []
    while (change := next_change(members, desired, cluster, 1, able)) is not None:
        changes.append((change.kind, change.node))
        after = members.after(change)
        assert after is not None and after.is_quorum(able)
        members = after
    assert changes == [(ChangeKind.REMOVE, 3), (ChangeKind.ADD_LEARNER, 4), (ChangeKind.PROMOTE, 4)]
    change = next_change(Membership(frozenset((1, 2, 3))), desired, cluster | {3}, 1, able)
    assert change == Change(ChangeKind.ADD_LEARNER, 4), "it may come back, and vote"


def test_a_removed_id_is_not_added_again() -> None:
    members = Membership(frozenset((1, 2)), removed=frozenset((3,)))
    assert next_change(members, frozenset((1, 2, 3))) is None


class Asked:
    """A group that leads, as the reconciler sees it."""

    number, name = 5, "hits"

    def __init__(self, members: Membership) -> None:
        self.state = SimpleNamespace(
            membership=members,
            memberships=SimpleNamespace(last_change=0),
            commit=1,
            term=7,
            node=1,
            leading=None,
        )
        self.changes: list[tuple[Change, int]] = []

    async def change_membership(self, change: Change, expected_term: int) -> None:
        self.changes.append((change, expected_term))
        self.state.membership = self.state.membership.after(change)


def assigned(*replicas: int) -> MetaState:
    assignment = Assignment(
        group=5,
        incarnation=3,
        kind="counter",
        name="hits",
        replicas=replicas,
        initial=replicas,
        settled=replicas,
        version=1,
        config={},
        created=0,
    )
    return MetaState(groups={5: assignment})


async def test_a_leader_that_is_behind_with_meta_does_not_undo_what_earlier_leaders_did(
    autojump_clock: MockClock,
) -> None:
    """Node 3 took the place of node 4, and only this leader has not heard of it yet."""
    group = Asked(Membership(frozenset((1, 2, 3)), removed=frozenset((4,))))
    states = [assigned(1, 2, 4), assigned(1, 2, 3)]
    caught_up = trio.Event()

    async def catch_up() -> None:
        del states[:-1]
        caught_up.set()

    async def report(assignment: Assignment, members: frozenset[int], commit: int) -> None:
        return

    reconciler = Reconciler(
        VirtualClock(),
        lambda: cast(dict[int, Group], {5: group}),
        lambda: states[0],
        catch_up,
        lambda group, assignment: None,
        lambda group: None,
        report,
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(reconciler.run)
        with trio.fail_after(10):
            await caught_up.wait()
        await trio.sleep(1)
        assert group.changes == []
        states[:] = [assigned(1, 2, 3, 6)]
        reconciler.wake()
        await trio.sleep(1)
        assert group.changes[0] == (Change(ChangeKind.ADD_LEARNER, 6), 7)
        nursery.cancel_scope.cancel()
