"""Directed scenarios in a cluster: what random faults would find too rarely."""

import pytest

from trimaran.actors.raft.log import EntryId
from trimaran.actors.raft.membership import Change, ChangeKind
from trimaran.actors.raft.messages import ProposeMembership, Tick
from trimaran.actors.raft.outcomes import Applied, Unknown
from trimaran.actors.raft.state import RaftOptions, Role
from trimaran.testing.checks import holds
from trimaran.testing.process import Process

from .scenes import Scene, state_of


def test_figure_8() -> None:
    """Raft 5.4.2: an entry of an older term may be on a majority and be overwritten all the same.

    (a) S1 leads and brings index 2 to S2 only. (b) S1 crashes; S5 leads and has another entry at 2. (c) S5
    crashes; S1 leads again and brings its old entry to S3, so to a majority. (d) S1 crashes; S5 wins and
    overwrites it. So S1 must not have committed it in (c): that would break the cluster's invariants.
    """
    cluster = Scene(8, voters=(1, 2, 3, 4, 5), options=RaftOptions(append_bytes=1, probe_bytes=1))

    def lead(node: int, *helpers: int) -> Process:
        """`node` leads with the votes of `helpers`; the others are unreachable."""
        cluster.heal()
        cluster.isolate(node, *helpers, notice=False)
        cluster.run(0.5)  # leases end
        leads = cluster.processes[node]
        for _ in range(3):  # the first time it may just learn the term
            for other in cluster.up():
                state_of(other).deadline = cluster.time + (0.0 if other is leads else 60.0)
                other.step(Tick())
            if cluster.run_until(lambda: leads.leads, 0.2, every=1e-5):  # nobody has its first entry yet
                break
        assert leads.leads
        return leads

    def has(node: int, index: int) -> bool:
        return cluster.log(node).last == index

    s1 = lead(1, 2, 3, 4, 5)
    assert cluster.run_until(lambda: all(has(node, 1) for node in cluster.processes))
    cluster.isolate(1, 2, notice=False)
    token = cluster.propose(s1)
    assert cluster.run_until(lambda: has(2, 2))
    old_term = state_of(s1).term
    cluster.stop(s1)  # (a)

    s5 = lead(5, 3, 4)
    cluster.isolate(5, notice=False)
    assert cluster.run_until(lambda: has(5, 2))
    cluster.stop(s5)  # (b)
    assert has(3, 1) and has(4, 1)

    cluster.restart(s1)
    s1 = lead(1, 2, 3)
    assert cluster.run_until(lambda: state_of(cluster.processes[3]).log.last_index == 2, every=1e-5)
    cluster.weather.sever([(1, 3)])  # so that index 3, of the new term, does not get there
    leading = state_of(s1).leading
    assert leading is not None
    assert cluster.run_until(lambda: leading.progress[3].match == 2)  # (c): S1, S2 and S3 have it
    assert holds(cluster.log(2), EntryId(2, old_term)) and state_of(s1).commit < 2
    cluster.stop(s1)

    cluster.restart(s5)
    s5 = lead(5, 3, 4)  # (d)
    cluster.ends_well()
    assert all(state_of(node).log.term_at(2) not in (None, old_term) for node in cluster.up())
    assert isinstance(cluster.outcomes[token], Unknown)


def test_an_isolated_leader_serves_nobody_and_its_proposals_end_unknown() -> None:
    cluster = Scene(3)
    old = cluster.elect()
    cluster.run(0.2)
    cluster.isolate(old.id)
    token = cluster.propose(old)
    assert cluster.run_until(lambda: state_of(old).role is not Role.LEADER, 2.0)
    assert isinstance(cluster.outcomes[token], Unknown)
    new = cluster.elect()
    assert new is not old and cluster.serves()
    cluster.heal()
    assert cluster.run_until(cluster.converged)
    assert state_of(old).log.last == state_of(new).log.last  # what it had was truncated; nobody could know


def test_a_crashed_leader_is_replaced_soon_if_the_links_say_so() -> None:
    """DESIGN 8: within 150 ms instead of an election timeout."""
    cluster = Scene(4)
    old = cluster.elect()
    cluster.run(0.3)
    begin = cluster.time
    cluster.stop(old, told=True)
    assert cluster.run_until(lambda: cluster.leader() is not None)
    assert cluster.time - begin < 0.25


def test_a_partitioned_node_that_returns_does_not_disturb() -> None:
    """Thesis 9.6: its term did not rise while it was alone."""
    cluster = Scene(5)
    leader = cluster.elect()
    cluster.run(0.2)
    term = state_of(leader).term
    follower = next(node for node in cluster.up() if node is not leader)
    cluster.isolate(follower.id)
    cluster.run(5.0)
    cluster.heal()
    cluster.run(2.0)
    assert cluster.leader() is leader and state_of(leader).term == term
    assert cluster.converged()


@pytest.mark.parametrize("cache", [0, 1 << 20])
def test_a_follower_that_was_away_catches_up_from_the_log(cache: int) -> None:
    cluster = Scene(6, options=RaftOptions(log_cache_bytes=cache, append_bytes=2000))
    leader = cluster.elect()
    follower = next(node for node in cluster.up() if node is not leader)
    cluster.stop(follower)
    for _ in range(300):
        cluster.propose(leader, size=100)
        cluster.run(0.002)
    cluster.restart(follower)
    assert cluster.run_until(cluster.converged)


def test_a_follower_that_was_away_too_long_catches_up_by_a_snapshot() -> None:
    cluster = Scene(7, snapshot_after=10)
    leader = cluster.elect()
    follower = next(node for node in cluster.up() if node is not leader)
    cluster.stop(follower)
    for _ in range(100):
        cluster.propose(leader)
        cluster.run(0.01)
    assert cluster.log(leader.id).prefix.index > cluster.log(follower.id).last
    cluster.restart(follower)
    assert cluster.run_until(cluster.converged)
    assert cluster.state(follower.id).log.compacted.index > 0


def test_a_planned_transfer_loses_nothing_and_takes_no_election_timeout() -> None:
    cluster = Scene(9)
    old = cluster.elect()
    cluster.run(0.3)
    begin, token = cluster.time, cluster.transfer(old)
    assert cluster.run_until(lambda: state_of(old).role is not Role.LEADER and cluster.leader() is not None)
    assert cluster.leader() is not old and cluster.time - begin < 0.1
    assert isinstance(cluster.outcomes[token], Applied)
    assert cluster.serves()


def test_a_group_grows_from_one_voter_to_three_and_moves_to_others_entirely() -> None:
    cluster = Scene(10, voters=(1,), spares=(2, 3, 4, 5, 6), snapshot_after=5)

    def change(kind: ChangeKind, node: int) -> None:
        """As the group's actor will: again until it is done."""
        for _ in range(100):
            before = state_of(cluster.elect()).membership
            goal = before.after(Change(kind, node))
            if goal is None:
                return
            cluster.ask(cluster.elect(), lambda token: ProposeMembership(Change(kind, node), token))
            cluster.run(0.15)

    for node in (2, 3, 4, 5, 6):
        cluster.propose(cluster.elect())
        change(ChangeKind.ADD_LEARNER, node)
        change(ChangeKind.PROMOTE, node)
    for node in (1, 2, 3):
        change(ChangeKind.REMOVE, node)
    members = state_of(cluster.elect()).membership
    assert sorted(members.voters) == [4, 5, 6] and sorted(members.removed) == [1, 2, 3]
    assert cluster.run_until(cluster.converged)
    assert cluster.serves()
    assert state_of(cluster.processes[1]).role is Role.LEARNER
