"""Cases that other implementations learned the hard way, and where each is tested here.

`CASES` names the behaviour, as the test checklist of a well-known server has it, and the test that shows what
happens here; `BUG_FAMILIES` does the same for kinds of bugs that were reported there. Where this design has
another answer than the original, the test shows this one's. Cases without a better home are at the end.
"""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from trimaran.actors.raft.effects import Commit, Send
from trimaran.actors.raft.membership import Change, ChangeKind, Membership, MembershipHistory
from trimaran.actors.raft.messages import Beat, ProposeMembership, SnapshotInstalled, Tick, VoteReply
from trimaran.actors.raft.outcomes import NotApplied, Reason
from trimaran.actors.raft.state import RaftOptions, Role
from trimaran.codec import Kind

from .replica import Replica, batch

TESTS = Path(__file__).parents[1]

PAPER = "raft/test_paper.py::test_"
SEED = "raft/test_seed_rules.py::test_"
HERE = "raft/test_reference_cases.py::test_"
SCENARIOS = "raft/test_scenarios.py::test_"
QUIET = "raft/test_quiet.py::test_"
CLUSTER = "actors/test_cluster.py::test_"
TROUBLE = "actors/test_trouble.py::test_"
HARD = "actors/test_hard_cases.py::test_"
DAMAGE = "storage/test_damage.py::test_"
HEALING = "raft/test_healing.py::test_"

CASES = {
    "only commit in the current term": PAPER + "an_entry_of_an_older_term_is_not_committed_by_counting",
    "figure 8 step by step": SCENARIOS + "figure_8",
    "late acknowledgements of an earlier term never count": HERE + "a_late_acknowledgement_never_counts",
    "late refusals of an earlier session never count": PAPER + "a_late_refusal_of_an_earlier_attempt",
    "strangers' acknowledgements never count": HERE + "what_strangers_acknowledge_does_not_count",
    "snapshot progress never counts": PAPER + "learners_and_snapshots_do_not_commit",
    "catching up, and a majority all the same": TROUBLE + "one_down_and_one_catching_up_still_commit",
    "an entry without quorum is truncated": PAPER + "a_conflicting_entry_and_all_that_follow_it_are_deleted",
    "never truncated below the commit index": PAPER + "a_committed_entry_is_never_replaced",
    "catch-ups of two terms at once": PAPER + "the_leader_brings_any_follower_log_to_its_own",
    "disjoint majorities": "raft/test_membership.py::test_majorities_before_and_after_a_change_always_meet",
    "an uncommitted change gets truncated": PAPER + "a_truncated_change_is_taken_back",
    "an uncommitted change on a new leader": HERE + "a_new_leader_keeps_the_change_it_found",
    "no change before the no-op": PAPER + "no_change_before_the_no_op_is_committed",
    "one change at a time": PAPER + "one_change_at_a_time",
    "a partitioned peer is removed": TROUBLE + "a_removed_replica_that_never_heard",
    "a leader does not resurrect removed peers": "raft/test_membership.py::test_changes_that_make_no_sense",
    "a removed peer's vote elects nobody": PAPER + "votes_of_learners_strangers_and_earlier",
    "a removed candidate does not win by its own vote": HERE + "a_removed_candidate_does_not_win",
    "a removed leader hands over": PAPER + "a_leader_that_removes_itself_leads_until_that_is_committed",
    "a snapshot excludes an uncommitted change": HERE + "a_snapshot_has_the_members_as_of_its_own_index",
    "a log that a snapshot does not meet": SEED + "an_installed_snapshot_replaces_a_log",
    "a log that goes on behind a snapshot": SEED + "an_installed_snapshot_keeps_what_follows_it_in_the_log",
    "a second snapshot is ignored": HERE + "an_older_or_equal_snapshot_is_ignored",
    "a log whose snapshot is gone": "storage/test_files.py::test_a_log_that_lost_its_manifest_says_so",
    "a group whose snapshot is gone": HEALING + "a_replica_without_its_state_takes_even_the_snapshot",
    "a snapshot that comes while an own one is made": HARD + "a_leaders_snapshot_that_comes_while_an_own_one",
    "a snapshot that broke off goes on": HARD + "a_snapshot_that_broke_off_goes_on_where_it_was",
    "a snapshot under way is the only one": SEED + "a_follower_behind_the_log_gets_a_snapshot",
    "no vote after a write error": SEED + "s9_after_a_failed_write_nothing_is_ever_promised_again",
    "an unreadable vote": DAMAGE + "an_unreadable_creation_is_told_apart_from_a_lost_vote",
    "the vote survives stepping down": PAPER + "a_vote_survives_stepping_down_in_the_same_term",
    "a vote is on the disk before it is given": PAPER + "a_vote_leaves_after_its_sync",
    "a refused vote keeps the timer": HERE + "a_refused_vote_does_not_put_the_own_election_off",
    "the term never goes back": PAPER + "a_request_of_an_older_term_is_rejected_with_the_newer_one",
    "a candidate recognises the leader": PAPER + "a_candidate_recognises_the_leader_of_its_term",
    "term-fenced proposals": SEED + "s16_a_proposal_from_an_old_leadership_is_refused",
    "what an old leader had queued is not proposed again": SEED + "s16_what_is_queued_when_a_leadership_ends",
    "an overrun leader refuses and goes on leading": SEED + "uncommitted_bytes_are_capped",
    "a machine that lags doesn't stop acknowledging": HARD + "a_machine_that_stands_still_stops_neither",
    "a machine that lags doesn't stop catching up": HARD + "a_machine_that_stands_still_stops_neither",
    "healthy means to apply in time, not at once": HARD + "a_replica_that_applies_late_is_unhealthy_only",
    "a slow follower slows nobody": HARD + "a_follower_with_a_slow_disk_slows_nobody",
    "a full disk queue holds back, it doesn't stall": SEED + "s1_without_credit_of_storage_proposals_queue",
    "proposals while a write is in flight": TROUBLE + "s1_proposals_go_on_while_a_sync_takes_half_a_second",
    "a commit with an empty queue is told at once": HERE + "an_eager_commit_is_told_at_once",
    "a heartbeat commits only what matches": PAPER + "a_heartbeat_commits_only_what_is_known_to_match",
    "a transfer waits for the target's log": PAPER + "a_transfer_waits_until_the_target_has_the_whole_log",
    "a transfer is no log entry": SEED + "s3_a_transfer_writes_nothing_to_the_log",
    "a new leader while applying lags": HERE + "a_leader_may_be_elected_while_its_machine_lags",
    "chain of blocks: equal rolling hashes": "simulation/test_core.py::test_safe_under_faults",
    "a leader of a wiped log": CLUSTER + "a_wiped_node_comes_back_as_a_new_member_under_a_new_id",
}

BUG_FAMILIES = {
    "4: a node that lost acknowledged entries votes again": HEALING
    + "what_a_forgetful_replica_says_counts_for",
    "4: nor with one that was away": "actors/test_repair.py::test_who_lost_what_nobody_can_name_helps",
    "4: what a torn write names is not absent": DAMAGE + "what_a_torn_write_names",
    "5: membership changes in partitions lose data": TROUBLE + "a_removed_replica_that_never_heard_of_it",
    "5: changes, partitions and crashes by chance": "simulation/test_core.py::test_safe_under_faults",
    "7: a snapshot relies on unsynced data": "stream/test_power_loss.py::test_s12_s13_no_power_loss_loses",
    "8: catch-up livelock of slow followers": TROUBLE + "one_down_and_one_catching_up_still_commit",
    "9: desync after a catch-up that broke off": HARD + "a_snapshot_that_broke_off_goes_on_where_it_was",
    "9: appends that were lost on the way": PAPER + "lost_appends_are_sent_again",
    "10: a replica never syncs after a restart": CLUSTER + "all_nodes_crash_at_once_and_come_back",
    "11: back-pressure stalls catch-up": HARD + "a_machine_that_stands_still_stops_neither",
    "12: a lost signal freezes a group": QUIET + "what_should_have_woken_it_may_be_lost",
    "16: disk queues starve elections": HARD + "slow_disks_cost_latency_and_no_elections",
    "16: a vote waits for the writes before it": HARD + "a_vote_does_not_wait_for_the_writes_before_it",
    "16: a leader whose disk stands still leads on": TROUBLE + "a_leader_whose_disk_stalls_hands_over",
    "17: an overrun leader steps down in circles": SEED + "uncommitted_bytes_are_capped",
    "18: log and snapshot do not meet": SEED + "an_installed_snapshot_replaces_a_log",
    "25: no answer during elections": "actors/test_proposals.py::test_chunks_wait_for_a_leader",
    "26: a batch too large for its frame": SEED + "s8_no_batch_is_larger_than_the_cap_counted_as_encoded",
    "26: an old snapshot over newer state": HERE + "an_older_or_equal_snapshot_is_ignored",
}


def named_there(place: str) -> list[str]:
    """The tests of a file (`path::test_begin`) whose names begin so."""
    path, name = place.split("::")
    found = re.findall(r"^(?:async )?def (test_\w+)", (TESTS / path).read_text(), re.MULTILINE)
    return [each for each in found if each.startswith(name)]


@pytest.mark.parametrize("place", sorted({*CASES.values(), *BUG_FAMILIES.values()}))
def test_every_case_has_its_test(place: str) -> None:
    assert named_there(place), place


def test_the_table_is_as_long_as_promised() -> None:
    numbers = [int(family.split(":")[0]) for family in BUG_FAMILIES]
    assert len(CASES) >= 30 and sorted(set(numbers)) == [4, 5, 7, 8, 9, 10, 11, 12, 16, 17, 18, 25, 26]


# --- those without a better home ----------------------------------------------------------------------------


def test_a_late_acknowledgement_never_counts() -> None:
    """One that was sent to this node as the leader of an earlier term speaks of another log."""
    leader = Replica().lead()
    leader.settle()
    last = leader.state.log.last_index
    leader.step(leader.append_reply(2, last, term=leader.state.term - 1))
    assert not leader.all(Commit) and leader.state.commit < last
    leader.step(leader.append_reply(2, last))
    assert leader.one(Commit).index == last


def test_what_strangers_acknowledge_does_not_count() -> None:
    leader = Replica().lead()
    leader.settle()
    last = leader.state.log.last_index
    for stranger in (7, 8, 9):
        leader.step(leader.append_reply(stranger, last))
        leader.step(leader.beat_reply(stranger, match=last))
    assert leader.state.commit < last


def test_a_new_leader_keeps_the_change_it_found_and_starts_no_other() -> None:
    """It is in effect though nobody knows whether it was committed; the no-op of this term decides."""
    follower = Replica()
    added = Membership.of((1, 2, 3), (4,))
    change = batch(1, 1, 0, kind=Kind.MEMBERSHIP, data=added.encode())
    follower.step(follower.append(2, 1, (0, 0), content=(change,)))
    follower.settle()
    leader = follower.lead()
    assert leader.state.membership == added
    leader.step(ProposeMembership(Change(ChangeKind.REMOVE, 3), 90))
    assert leader.outcomes()[90] == NotApplied(Reason.NOT_READY, 1)
    leader.settle()
    leader.acknowledge(2)
    leader.step(ProposeMembership(Change(ChangeKind.REMOVE, 3), 91))
    assert 91 not in leader.outcomes() and leader.state.membership.voters == {1, 2}


def test_a_removed_candidate_does_not_win_by_its_own_vote() -> None:
    """Two are left by a change that is in its log: it needs both of them, itself it no longer counts."""
    candidate = Replica()
    without = Membership(frozenset((2, 3)), frozenset(), frozenset((1,)))
    change = batch(1, 1, 0, kind=Kind.MEMBERSHIP, data=without.encode())
    candidate.step(candidate.append(2, 1, (0, 0), content=(change,)))
    candidate.settle()
    candidate.campaign()
    candidate.step(candidate.vote_reply(2))
    assert candidate.role() is Role.CANDIDATE
    candidate.step(candidate.vote_reply(3))
    assert candidate.role() is Role.LEADER


def test_a_snapshot_has_the_members_as_of_its_own_index() -> None:
    first, second = Membership.of((1, 2, 3)), Membership.of((1, 2, 3), (4,))
    history = MembershipHistory(first, [(5, second)])
    assert history.at(4) == first and history.at(5) == second == history.current


def test_an_older_or_equal_snapshot_is_ignored() -> None:
    replica = Replica(log=[1, 1, 1, 1], commit=4)
    members = Membership.of((1, 2, 3))
    replica.step(SnapshotInstalled(3, 1, members))
    last = replica.state.log.last
    for index in (1, 2, 3):
        replica.step(SnapshotInstalled(index, 1, members))
        assert not replica.effects
    assert replica.state.log.last == last and replica.state.commit == 4


def test_a_refused_vote_does_not_put_the_own_election_off() -> None:
    follower = Replica(log=[1, 1], term=1)
    deadline = follower.state.deadline
    follower.step(follower.request_vote(3, 2, (1, 1)))
    [reply] = [send.message for send in follower.settle() if isinstance(send.message, VoteReply)]
    assert not reply.granted
    # The newer term makes it a follower anew, and that is all: it stands no later than any follower would.
    assert follower.state.deadline <= max(deadline, follower.time + follower.options.election_max)
    before = follower.state.deadline
    follower.wait(0.1)
    follower.step(follower.request_vote(3, 2, (1, 1)))
    assert follower.state.deadline == before


def test_an_eager_commit_is_told_at_once() -> None:
    leader = Replica(options=replace(RaftOptions(), eager_commit=True)).serve()
    leader.propose()
    leader.settle()
    leader.acknowledge(2)
    assert {send.peer for send in leader.all(Send) if isinstance(send.message, Beat)} == {2, 3}
    assert all(beat.commit == leader.state.commit for beat in leader.sent(Beat))


def test_a_leader_may_be_elected_while_its_machine_lags() -> None:
    """Applying is not the log's affair: reads wait for the machine, elections don't."""
    replica = Replica(log=[1] * 50, commit=50)
    assert replica.state.applied < 50
    leader = replica.lead()
    assert leader.role() is Role.LEADER and leader.state.log.last_index == 51


@pytest.mark.parametrize("role", ["follower", "pre-candidate", "candidate"])
def test_who_stood_still_itself_hears_first_what_waits_to_be_read(role: str) -> None:
    replica = Replica(log=[1])
    if role != "follower":
        replica.wait(5)
        replica.tick()
    if role == "candidate":
        replica.campaign()
    before = replica.role()
    replica.wait(5)
    replica.step(Tick(late=True))
    assert replica.role() is before and not replica.effects
    assert replica.time < replica.state.deadline <= replica.time + replica.options.early_election
    replica.wait(1)
    replica.step(Tick())
    assert replica.role() is Role.PRE_CANDIDATE


def test_a_leader_that_stood_still_counts_its_quorum_when_it_has_read_the_answers() -> None:
    leader = Replica().serve()
    leader.wait(1)
    leader.step(Tick())  # the quorum was counted: it has heard of nobody since
    leader.wait(5)
    leader.step(Tick(late=True))
    assert leader.role() is Role.LEADER and leader.sent(Beat)
    leader.step(leader.beat_reply(2))
    leader.wait(0.2)
    leader.step(Tick())
    assert leader.role() is Role.LEADER
    leader.wait(1)
    leader.step(Tick())
    assert leader.role() is Role.FOLLOWER
