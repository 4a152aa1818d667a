"""DESIGN 5, "Recovery decides": what a replica with damage may do, and how it gets whole again."""

from dataclasses import replace

import pytest

from trimaran.actors.raft.effects import Commit, Dropped, Persist, Readable, Send
from trimaran.actors.raft.membership import Change, ChangeKind, Membership
from trimaran.actors.raft.messages import (
    Absent,
    Append,
    AppendReply,
    BeatReply,
    Campaign,
    Compacted,
    Damaged,
    Mended,
    PeerUp,
    ProposeMembership,
    Readmitted,
    Resigned,
    Restored,
    SnapshotInstalled,
    SnapshotReply,
    TimeoutNow,
    Transfer,
    Unrestored,
    VoteReply,
)
from trimaran.actors.raft.outcomes import Applied
from trimaran.actors.raft.progress import ProgressState
from trimaran.actors.raft.state import NEVER, Role
from trimaran.codec import EntryType, Kind, make_chunk, seal_batch

from .replica import GROUP, INCARNATION, Replica, batch, messages_in

LOG = [1, 1, 2, 2]
OTHERS = frozenset((2, 3))


def hurt(*holes: int, **more: int) -> Replica:
    """A follower of three with batches 1 to 4, of which some can't be read."""
    return Replica(log=LOG, holes=holes, term=more.get("term", 2), commit=more.get("commit", 0))


def copy(index: int) -> bytes:
    return batch(index, LOG[index - 1], ([0, *LOG])[index - 1])


def mend(replica: Replica, *indexes: int) -> None:
    replica.step(Mended(tuple(copy(index) for index in indexes)))
    replica.settle()


# --- what a faulty replica does not do


def test_it_neither_votes_nor_denies_nor_campaigns() -> None:
    replica = hurt(2)
    for pre in (True, False):
        replica.step(replica.request_vote(2, 7, (9, 9), pre=pre))
        assert not messages_in(replica.settle(), VoteReply)
    replica.step(replica.request_vote(3, 1, (9, 9)))
    assert not messages_in(replica.settle(), VoteReply), "nor to a candidate of an older term"
    for message in (Campaign(), TimeoutNow(group=GROUP, incarnation=INCARNATION, sender=2, term=7)):
        replica.step(message)
        assert replica.role() is Role.FOLLOWER
    replica.tick()
    assert replica.role() is Role.FOLLOWER


@pytest.mark.parametrize("message", [Damaged(2), Unrestored()])
def test_a_leader_that_becomes_faulty_leads_no_more(message: Damaged | Unrestored) -> None:
    replica = Replica(log=LOG).serve()
    replica.step(message)
    assert replica.role() is Role.FOLLOWER and replica.state.faulty
    assert replica.all(Readable)
    replica.tick()
    assert replica.role() is Role.FOLLOWER


def test_a_candidate_that_becomes_faulty_is_none_any_more() -> None:
    replica = Replica(log=LOG)
    replica.tick()
    assert replica.role() is Role.PRE_CANDIDATE
    replica.step(Damaged(1))
    assert replica.role() is Role.FOLLOWER


def test_the_names_of_damaged_batches_still_match() -> None:
    """It does not deny having them: a leader that follows on them is not refused."""
    replica = hurt(3, 4)
    replica.step(replica.append(2, 3, (4, 2), [3]))
    [reply] = messages_in(replica.settle(), AppendReply)
    assert reply.accepted and reply.match == 5


# --- progress only


def test_appends_above_a_hole_are_stored_and_acknowledged_as_progress_only() -> None:
    replica = hurt(2, term=3)
    replica.step(replica.append(2, 3, (4, 2), [3, 3]))
    assert len(replica.one(Persist).batches) == 2
    [reply] = messages_in(replica.settle(), AppendReply)
    assert (reply.accepted, reply.match, reply.counts) == (True, 6, False)


def test_what_lies_below_the_hole_counts() -> None:
    replica = hurt(4)
    replica.step(replica.append(2, 3, (3, 2)))
    [reply] = messages_in(replica.settle(), AppendReply)
    assert (reply.match, reply.counts) == (3, True)


def test_progress_commits_nothing_and_yet_keeps_the_pipeline_going() -> None:
    leader = Replica(log=LOG).serve()
    before = leader.state.commit
    leader.propose(b"x")
    leader.settle()
    index = leader.state.log.last_index
    leader.step(progress_reply(leader, 2, index))
    assert leader.state.commit == before
    progress = leader.state.leading.progress[2] if leader.state.leading else None
    assert progress is not None and (progress.match, progress.vouched) == (index, before)
    assert not progress.in_flight and progress.state is ProgressState.PIPELINE
    leader.acknowledge(2, match=index)
    assert leader.state.commit == index


def progress_reply(leader: Replica, sender: int, match: int) -> AppendReply:
    return AppendReply(
        group=GROUP,
        incarnation=INCARNATION,
        sender=sender,
        term=leader.state.term,
        session=1,
        accepted=True,
        match=match,
        counts=False,
    )


def test_a_leader_asks_again_whether_what_it_got_counts_by_now() -> None:
    """The follower says so once; should that be lost, an idle group must not wait for the next proposal."""
    leader = Replica(log=LOG).serve()
    leader.propose(b"x")
    leader.settle()
    index = leader.state.log.last_index
    leader.step(progress_reply(leader, 2, index))
    leader.tick()
    leader.step(leader.beat_reply(2, match=index))
    [probe] = leader.sent(Append, to=2)
    assert (probe.previous_index, probe.batches) == (index, ())
    leader.step(leader.append_reply(2, index, session=probe.session))
    leader.tick()
    leader.step(leader.beat_reply(2, match=index))
    assert not leader.sent(Append, to=2)


def test_leadership_is_not_handed_to_a_faulty_follower() -> None:
    leader = Replica(log=LOG).serve()
    leader.propose(b"x")
    leader.settle()
    index = leader.state.log.last_index
    leader.acknowledge(2)
    leader.step(progress_reply(leader, 3, index))
    leader.step(Transfer(None, 99))
    assert leader.sent(TimeoutNow, to=2) and not leader.sent(TimeoutNow, to=3)


def test_a_faulty_target_takes_over_only_when_it_is_whole() -> None:
    leader = Replica(log=LOG).serve()
    leader.propose(b"x")
    leader.settle()
    index = leader.state.log.last_index
    leader.step(progress_reply(leader, 2, index))
    leader.step(Transfer(2, 99))
    assert not leader.sent(TimeoutNow)
    leader.acknowledge(2)
    assert leader.sent(TimeoutNow, to=2)


def test_a_faulty_learner_is_not_promoted() -> None:
    leader = Replica(log=LOG, learners=[4]).serve()
    leader.propose(b"x")
    leader.settle()
    leader.acknowledge(2, 3)
    leader.step(progress_reply(leader, 4, leader.state.log.last_index))
    leader.propose(b"y")
    leader.settle()
    leader.acknowledge(2, 3)
    leader.step(progress_reply(leader, 4, leader.state.log.last_index))
    leader.wait(0.01)
    leader.step(ProposeMembership(Change(ChangeKind.PROMOTE, 4), 7))
    assert not isinstance(leader.outcomes().get(7), Applied) and 7 in leader.outcomes()


# --- repair


def test_a_copy_is_put_back_and_counts_once_it_is_synced() -> None:
    replica = hurt(2)
    replica.step(replica.append(2, 3, (4, 2), [3], commit=4))
    replica.settle()
    replica.step(Mended((copy(2),)))
    assert replica.one(Persist).repairs == (copy(2),) and not replica.one(Persist).batches
    assert replica.state.faulty and not replica.all(Readable)
    released = replica.sync()
    assert released == [] and not replica.state.faulty
    [reply] = replica.sent(AppendReply, to=2)
    assert (reply.accepted, reply.match, reply.counts) == (True, 5, True)
    assert replica.all(Readable)
    replica.tick()
    assert replica.role() is Role.PRE_CANDIDATE


def test_the_machine_may_go_on_up_to_the_next_hole() -> None:
    replica = hurt(2, 4)
    assert replica.state.readable_to == 1
    mend(replica, 2)
    assert replica.state.readable_to == 3 and replica.state.faulty
    assert replica.all(Readable) and not replica.sent(AppendReply)
    mend(replica, 4)
    assert replica.state.readable_to == NEVER


def test_only_the_very_batch_is_put_back() -> None:
    replica = hurt(2)
    damaged = bytearray(copy(2))
    damaged[-1] ^= 1
    others = (batch(2, 2, 1), batch(3, 2, 1), copy(1), bytes(damaged))
    for wrong in others:
        replica.step(Mended((wrong,)))
        assert not replica.all(Persist)
    assert replica.all(Dropped)
    foreign = seal_batch(
        [], kind=Kind.NOOP, group=GROUP, incarnation=1, index=2, term=1, previous_term=1, time=0
    )
    replica.step(Mended((foreign, copy(2))))
    assert replica.one(Persist).repairs == (copy(2),)


def test_a_repair_that_a_truncation_overtook_fills_nothing() -> None:
    replica = hurt(4)
    replica.step(Mended((copy(4),)))
    replica.step(replica.append(2, 5, (3, 2), [5]))
    replica.step(Damaged(4))  # the new one
    replica.settle()
    assert replica.state.log.holes == {4} and replica.terms() == [1, 1, 2, 5]


def test_a_copy_that_goes_bad_on_its_way_is_not_relied_upon() -> None:
    replica = hurt(2)
    replica.step(Mended((copy(2),)))
    replica.step(Damaged(2))
    replica.settle()
    assert replica.state.log.holes == {2}
    mend(replica, 2)
    assert not replica.state.faulty


def test_a_leader_whose_log_has_another_batch_there_overwrites_the_hole() -> None:
    replica = hurt(4)
    replica.step(replica.append(2, 5, (3, 2), [5]))
    replica.settle()
    assert not replica.state.faulty and replica.terms() == [1, 1, 2, 5]


def test_a_manifest_or_a_snapshot_that_covers_the_hole_fills_it() -> None:
    replica = hurt(2, commit=3)
    replica.step(Compacted(3, 2))
    assert not replica.state.faulty
    replica = hurt(2)
    replica.step(SnapshotInstalled(3, 2, Membership.of((1, 2, 3))))
    assert not replica.state.faulty and replica.state.log.last_index == 4


def change_to(members: Membership) -> bytes:
    """The batch at index 2 as a change of members."""
    return seal_batch(
        [make_chunk([(EntryType.OPAQUE, members.encode())])],
        kind=Kind.MEMBERSHIP,
        group=GROUP,
        incarnation=INCARNATION,
        index=2,
        term=1,
        previous_term=1,
        time=7_000,
    )


def test_a_repaired_change_of_members_is_in_effect_again() -> None:
    members = Membership.of((1, 2, 3, 4))
    replica = hurt(2)
    assert replica.state.membership.voters == {1, 2, 3}
    replica.step(Mended((change_to(members),)))
    replica.settle()
    assert replica.state.membership == members
    assert replica.state.log.last_time == 7_000, "the log's clock knows it too"


def test_a_change_that_was_truncated_before_its_repair_was_synced_is_not_in_effect() -> None:
    replica = hurt(2)
    replica.step(Mended((change_to(Membership.of((1, 2, 3, 4))),)))
    replica.step(replica.append(2, 5, (1, 1), [5]))
    replica.settle()
    assert replica.state.membership.voters == {1, 2, 3}


def test_a_lone_voter_that_is_whole_again_need_not_wait() -> None:
    replica = Replica(voters=[1], log=LOG, holes=[2], term=2)
    replica.tick()
    assert replica.role() is Role.FOLLOWER
    mend(replica, 2)
    assert replica.state.deadline <= replica.time


def test_damage_to_what_is_no_longer_in_the_log_is_none() -> None:
    replica = Replica(log=LOG, commit=4)
    replica.step(Compacted(2, 1))
    for index in (1, 2, 5):
        replica.step(Damaged(index))
        assert not replica.state.faulty


# --- doubt


def test_a_doubtful_batch_that_nobody_holds_is_cut_off() -> None:
    replica = hurt(4)
    replica.step(Absent(4, 2))
    assert replica.one(Persist).truncate_from == 4
    assert not replica.state.faulty and replica.terms() == [1, 1, 2]
    replica.settle()
    replica.tick()
    assert replica.role() is Role.PRE_CANDIDATE


def test_what_is_committed_or_of_another_term_is_never_called_absent() -> None:
    replica = hurt(4)
    replica.step(Absent(4, 1))
    assert replica.effects == []
    replica = hurt(3, commit=3)
    replica.step(Absent(3, 2))
    assert replica.effects == [] and replica.state.faulty
    replica = Replica(log=LOG)
    replica.step(Absent(4, 2))
    assert replica.effects == [], "and what can be read is no matter of doubt"


# --- a machine without its state


def test_a_replica_without_its_state_takes_even_the_snapshot_that_its_log_begins_with() -> None:
    replica = Replica(log=LOG, commit=4)
    replica.step(Compacted(3, 2))
    replica.settle()
    replica.step(Unrestored())
    assert replica.state.readable_to == 0
    replica.step(SnapshotInstalled(3, 2, Membership.of((1, 2, 3))))
    compact = replica.one(Persist).compact
    assert compact is not None and (compact.index, compact.term) == (3, 2), "the log names its manifest anew"
    assert not replica.state.faulty
    replica.step(SnapshotInstalled(3, 2, Membership.of((1, 2, 3))))
    assert not replica.all(Persist), "once"


def test_a_snapshot_says_who_the_members_are_though_the_log_has_its_last_entry() -> None:
    """With its manifest a replica loses what the compacted log said of them."""
    replica = Replica(log=LOG, commit=4)
    replica.step(Compacted(3, 2))
    replica.settle()
    replica.step(Unrestored())
    replica.step(SnapshotInstalled(3, 2, Membership.of((1, 2, 4))))
    assert replica.state.membership.voters == {1, 2, 4}


def test_an_older_snapshot_does_not_help() -> None:
    replica = Replica(log=LOG, commit=4)
    replica.step(Compacted(3, 2))
    replica.step(Unrestored())
    replica.step(SnapshotInstalled(2, 1, Membership.of((1, 2, 3))))
    assert replica.state.faulty


def test_mended_files_are_as_good_as_a_snapshot() -> None:
    replica = Replica(log=LOG, unrestored=True)
    replica.step(replica.append(2, 3, (4, 2), commit=4))
    [reply] = messages_in(replica.settle(), AppendReply)
    assert not reply.counts
    replica.step(Restored())
    assert not replica.state.faulty
    [reply] = replica.sent(AppendReply, to=2)
    assert reply.counts


def test_a_faulty_follower_still_hears_its_leader() -> None:
    """It learns the commit index, answers heartbeats, and says what it installed."""
    replica = hurt(2)
    replica.step(replica.append(2, 3, (4, 2)))
    replica.step(replica.beat(2, 3, commit=4))
    assert replica.one(Commit).index == 4
    assert messages_in(replica.settle() + replica.all(Send), BeatReply)
    replica.step(SnapshotInstalled(4, 2, Membership.of((1, 2, 3))))
    assert messages_in(replica.settle(), SnapshotReply)


# --- what nobody can name


def follows(replica: Replica) -> None:
    """It hears the leader 2 of term 3, has what that has, and has synced it."""
    replica.step(replica.append(2, 3, (4, 2), (3,), commit=4))
    replica.settle()


def test_what_a_forgetful_replica_says_counts_for_nothing() -> None:
    replica = Replica(log=LOG, forgetful=True)
    replica.step(replica.append(2, 3, (4, 2), (3,), commit=4))
    assert replica.one(Commit).index == 4, "what is committed it may apply"
    [reply] = messages_in(replica.settle(), AppendReply)
    assert not reply.counts
    replica.step(replica.append(2, 3, (9, 3)))
    [reply] = messages_in(replica.settle() + replica.all(Send), AppendReply)
    assert not reply.accepted and not reply.counts, "nor what it said before"
    replica.step(replica.beat(2, 3, read=7))
    assert replica.sent(BeatReply)[0].read == 0, "it may have followed a later leader already"
    replica.step(replica.request_vote(3, 9, (9, 9)))
    assert not messages_in(replica.settle(), VoteReply)
    replica.step(SnapshotInstalled(9, 9, Membership.of((1, 2, 3))))
    assert replica.state.faulty, "a snapshot brings no promise back"


@pytest.mark.parametrize(("term", "index"), [(3, 6), (4, 5)])
def test_a_forgetful_replica_is_not_readmitted_before_it_has_what_the_newest_leader_had(
    term: int, index: int
) -> None:
    replica = Replica(log=LOG, forgetful=True)
    follows(replica)
    replica.step(Readmitted(term, index, OTHERS))
    assert replica.state.faulty and not replica.all(Persist)


def test_a_forgetful_replica_is_readmitted_by_all_who_vote_now() -> None:
    """It learned of the newest voter only from the leader that it followed."""
    replica = Replica(log=LOG, forgetful=True)
    follows(replica)
    for voters in (frozenset((2,)), frozenset((2, 4))):
        replica.step(Readmitted(3, 5, voters))
        assert replica.state.faulty
    replica.step(Readmitted(3, 5, OTHERS | {4}))
    assert not replica.state.faulty


def test_what_is_not_known_to_be_the_leaders_or_not_synced_readmits_nobody() -> None:
    replica = Replica(log=LOG, forgetful=True)
    replica.step(Readmitted(2, 4, OTHERS))
    assert replica.state.faulty, "its own log proves nothing"
    replica.step(replica.append(2, 3, (4, 2), (3,), commit=4))
    replica.step(Readmitted(3, 5, OTHERS))
    assert replica.state.faulty
    replica.settle()
    replica.step(Readmitted(3, 5, OTHERS))
    assert not replica.state.faulty


def test_a_readmitted_replica_counts_again_but_votes_for_nobody_in_a_term_it_may_have_voted_in() -> None:
    replica = Replica(log=LOG, forgetful=True)
    follows(replica)
    replica.step(Readmitted(3, 5, OTHERS))
    assert [persist.hard_state.readmitted for persist in replica.all(Persist) if persist.hard_state] == [True]
    assert [reply.counts for reply in messages_in(replica.settle(), AppendReply)] == [True]
    replica.step(Resigned(group=GROUP, incarnation=INCARNATION, sender=2, term=3))
    replica.step(replica.request_vote(3, 3, (9, 9), transfer=True))
    assert [reply.granted for reply in messages_in(replica.all(Send), VoteReply)] == [False]
    replica.step(replica.request_vote(3, 4, (9, 9), transfer=True))
    assert [reply.granted for reply in messages_in(replica.settle(), VoteReply)] == [True]


def test_a_leader_sends_again_what_a_forgetful_follower_had_acknowledged() -> None:
    leader = Replica().serve()
    for _ in range(3):
        leader.propose()
        leader.settle()
        leader.acknowledge(2, 3)
    leader.step(PeerUp(2))
    [probe] = leader.sent(Append, to=2)
    leader.step(leader.refusal(2, probe, (1, 1)))
    assert not leader.sent(Append, to=2), "it had it: to ask again at once would go on for ever"
    leader.step(PeerUp(2))
    [probe] = leader.sent(Append, to=2)
    leader.step(replace(leader.refusal(2, probe, (1, 1)), counts=False))
    [again] = leader.sent(Append, to=2)
    assert again.previous_index == 1 and again.batches
    leader.propose()
    leader.settle()
    leader.acknowledge(2, match=2)
    assert leader.state.commit == 4, "nor does it count for what it may have forgotten"
