"""The rules of the Raft paper and thesis, one test per sentence, in the paper's order.

Numbers without a name are sections of the extended paper; the thesis is Ongaro's.
"""

import pytest

from trimaran.actors.raft.effects import Commit, Persist, ReadReady, Send
from trimaran.actors.raft.membership import Change, ChangeKind
from trimaran.actors.raft.messages import (
    Append,
    AppendReply,
    Beat,
    PeerDown,
    ProposeMembership,
    ReadIndex,
    RequestVote,
    Tick,
    TimeoutNow,
    Transfer,
    VoteReply,
)
from trimaran.actors.raft.outcomes import Applied, NotApplied, Outcome, Reason
from trimaran.actors.raft.state import RaftOptions, Role

from .replica import GROUP, Replica, batch, messages_in, peers_of

# --- 5.1: terms ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", [Role.FOLLOWER, Role.PRE_CANDIDATE, Role.CANDIDATE, Role.LEADER])
def test_a_newer_term_makes_everyone_a_follower(role: Role) -> None:
    """5.1: a server that sees a larger term updates its own and reverts to follower."""
    replica = Replica()
    if role is Role.PRE_CANDIDATE:
        replica.tick()
    elif role is Role.CANDIDATE:
        replica.campaign()
    elif role is Role.LEADER:
        replica.lead()
    assert replica.role() is role
    replica.step(replica.beat(2, term=9))
    assert (replica.state.role, replica.state.term, replica.state.leader) == (Role.FOLLOWER, 9, 2)


@pytest.mark.parametrize("kind", ["append", "vote", "beat"])
def test_a_request_of_an_older_term_is_rejected_with_the_newer_one(kind: str) -> None:
    """5.1: a request with a stale term number is rejected."""
    replica = Replica(term=5, log=[4])
    before = replica.terms()
    replica.step(
        {
            "append": replica.append(2, 4, (1, 4), [4]),
            "vote": replica.request_vote(2, 4, (9, 4)),
            "beat": replica.beat(2, 4),
        }[kind]
    )
    send = replica.one(Send)
    assert send.peer == 2 and send.message.term == 5
    assert not getattr(send.message, "accepted", False) and not getattr(send.message, "granted", False)
    assert replica.terms() == before and replica.state.leader == 0


def test_another_incarnation_is_not_this_group() -> None:
    """DESIGN 1: a re-created group never reads its predecessor."""
    replica = Replica()
    stranger = RequestVote(group=GROUP, incarnation=1, sender=2, term=9, last_index=9, last_term=9)
    assert replica.step(stranger) == [] and replica.state.term == 0


# --- 5.2: leader election -----------------------------------------------------------------------------------


def test_everyone_begins_as_a_follower_and_stays_one_while_a_leader_beats() -> None:
    """5.2: a follower remains one as long as it receives valid RPCs."""
    replica = Replica()
    for _ in range(50):
        replica.wait(0.1)
        replica.step(replica.beat(2, term=1))
        assert replica.state.deadline > replica.time
        replica.step(Tick())  # an early tick does no harm
        assert replica.role() is Role.FOLLOWER


def test_election_timeouts_are_random_and_within_bounds() -> None:
    """5.2: randomized timeouts make split votes rare."""
    replica = Replica()
    timeouts = set()
    for _ in range(50):
        replica.step(replica.beat(2, term=1))
        timeouts.add(replica.state.deadline - replica.time)
    options = replica.options
    assert len(timeouts) == 50
    assert all(options.election_min <= timeout <= options.election_max for timeout in timeouts)


def test_a_candidate_raises_its_term_votes_for_itself_and_asks_all_voters() -> None:
    """5.2: to begin an election; figure 2, candidates. The requests leave after term and vote are synced."""
    replica = Replica(term=3, log=[3], learners=[4])
    replica.tick()
    replica.step(replica.vote_reply(2, pre=True))
    persist = replica.one(Persist)
    assert persist.hard_state is not None
    assert (persist.hard_state.term, persist.hard_state.vote) == (4, 1)
    assert not replica.sent(RequestVote)
    released = replica.sync()
    assert peers_of(released, RequestVote) == [2, 3]
    assert all(
        (request.term, request.last_index, request.last_term, request.pre) == (4, 1, 3, False)
        for request in messages_in(released, RequestVote)
    )


def test_the_own_vote_counts_only_when_it_is_synced() -> None:
    """Thesis 3.8: term and vote are persisted before they have an effect."""
    replica = Replica()
    replica.tick()
    replica.step(replica.vote_reply(2, pre=True))
    replica.step(replica.vote_reply(2))
    assert replica.role() is Role.CANDIDATE
    replica.sync()
    assert replica.role() is Role.LEADER


@pytest.mark.parametrize(
    ("voters", "grants", "wins"),
    [((1,), 0, True), ((1, 2), 0, False), ((1, 2), 1, True), ((1, 2, 3), 1, True),
     ((1, 2, 3, 4, 5), 1, False), ((1, 2, 3, 4, 5), 2, True)],
)  # fmt: skip
def test_a_majority_of_votes_wins(voters: tuple[int, ...], grants: int, wins: bool) -> None:
    """5.2: a candidate wins with votes from a majority of the servers in the full cluster."""
    replica = Replica(voters=voters)
    replica.campaign()
    for voter in voters[1 : 1 + grants]:
        replica.step(replica.vote_reply(voter))
        replica.step(replica.vote_reply(voter))  # a repeated reply is one vote
    assert (replica.role() is Role.LEADER) is wins


def test_votes_of_learners_strangers_and_earlier_elections_do_not_count() -> None:
    """5.2, thesis 4.2.1: only votes of voters, and of this term."""
    replica = Replica(learners=[4])
    replica.campaign()
    replica.step(replica.vote_reply(4))
    replica.step(replica.vote_reply(99))
    replica.step(replica.vote_reply(2, term=replica.state.term - 1))
    replica.step(replica.vote_reply(3, pre=True))
    assert replica.role() is Role.CANDIDATE


def test_one_vote_per_term_first_come_first_served() -> None:
    """5.2: each server will vote for at most one candidate in a given term."""
    replica = Replica()
    replica.step(replica.request_vote(2, 1, (0, 0)))
    assert messages_in(replica.sync(), VoteReply)[0].granted
    replica.step(replica.request_vote(3, 1, (5, 1)))
    assert not replica.sent(VoteReply, to=3)[0].granted
    replica.step(replica.request_vote(2, 1, (0, 0)))
    assert replica.sent(VoteReply, to=2)[0].granted  # again, for it may not have heard the first


def test_a_vote_leaves_after_its_sync_also_when_the_request_is_repeated() -> None:
    """Thesis 3.8; DESIGN 5: a duplicate request during the sync must not be answered before it."""
    replica = Replica()
    replica.step(replica.request_vote(2, 1, (0, 0)))
    assert not replica.sent(VoteReply)
    replica.step(replica.request_vote(2, 1, (0, 0)))
    assert not replica.sent(VoteReply)
    released = messages_in(replica.sync(), VoteReply)
    assert len(released) == 2 and all(reply.granted for reply in released)


def test_a_vote_survives_stepping_down_in_the_same_term() -> None:
    """5.2: a failed candidate has voted for itself in this term, whatever it becomes."""
    replica = Replica()
    replica.campaign()
    replica.step(replica.vote_reply(2, granted=False))
    replica.step(replica.vote_reply(3, granted=False))
    assert replica.role() is Role.FOLLOWER
    replica.step(replica.request_vote(3, replica.state.term, (9, 9)))
    assert not replica.sent(VoteReply, to=3)[0].granted


def test_a_candidate_recognises_the_leader_of_its_term() -> None:
    """5.2: if the leader's term is at least as large, the candidate returns to follower state."""
    replica = Replica()
    replica.campaign()
    replica.step(replica.append(3, replica.state.term, (0, 0), [replica.state.term]))
    assert (replica.state.role, replica.state.leader) == (Role.FOLLOWER, 3)
    assert replica.terms() == [replica.state.term]


def test_a_split_vote_is_tried_again_from_the_pre_vote() -> None:
    """5.2, thesis 9.6: no term rises while no majority answers."""
    replica = Replica()
    replica.campaign()
    term = replica.state.term
    for _ in range(5):
        replica.tick()
        assert (replica.state.role, replica.state.term) == (Role.PRE_CANDIDATE, term)


def test_a_vote_split_after_the_leaders_end_is_tried_again_soon() -> None:
    """5.2: the two that are left can't win against each other's vote, so they need not wait for a timeout."""
    replica = Replica()
    replica.campaign()
    replica.step(PeerDown(3))
    assert replica.role() is Role.CANDIDATE, "the other one may still grant"
    replica.step(replica.vote_reply(2, granted=False))
    assert replica.role() is Role.FOLLOWER
    assert replica.state.deadline - replica.time <= replica.options.early_election


def test_a_lost_pre_vote_waits_for_a_whole_timeout() -> None:
    """Thesis 9.6: who can't win must not keep asking."""
    replica = Replica()
    replica.tick()
    assert replica.role() is Role.PRE_CANDIDATE
    for peer in (2, 3):
        replica.step(replica.vote_reply(peer, granted=False, pre=True))
    assert replica.role() is Role.FOLLOWER
    assert replica.state.deadline - replica.time >= replica.options.election_min


# --- thesis 9.6 and 4.2.3: pre-vote, stickiness, check-quorum -----------------------------------------------


def test_a_pre_vote_changes_nothing_on_either_side() -> None:
    """Thesis 9.6: a Pre-Vote leaves term and vote as they are."""
    replica = Replica(term=3)
    replica.tick()
    assert replica.state.term == 3 and not replica.all(Persist)
    assert [request.pre for request in replica.sent(RequestVote)] == [True, True]
    voter = Replica(node=2, term=1)
    voter.step(replica.sent(RequestVote, to=2)[0])
    reply = voter.sent(VoteReply)[0]
    assert reply.granted and reply.pre and (voter.state.term, voter.state.vote) == (1, 0)
    replica.step(reply)
    assert replica.role() is Role.CANDIDATE


def test_no_pre_vote_while_the_leader_is_heard_unless_the_own_link_to_it_closed() -> None:
    """Thesis 4.2.3 and 9.6; DESIGN 8: within the lease only if the voter's own link closed too."""
    voter = Replica()
    voter.step(voter.beat(3, term=1))
    voter.settle()
    voter.wait(0.1)
    request = voter.request_vote(2, 1, (0, 0), pre=True)
    voter.step(request)
    assert not voter.sent(VoteReply)[0].granted
    voter.step(PeerDown(2))
    voter.step(request)
    assert not voter.sent(VoteReply)[0].granted
    voter.step(PeerDown(3))
    voter.step(request)
    assert voter.sent(VoteReply)[0].granted


def test_a_disturbing_candidate_raises_no_term() -> None:
    """Thesis 4.2.3: soon after hearing from a leader neither term nor vote change."""
    voter = Replica()
    voter.step(voter.beat(3, term=1))
    assert voter.step(voter.request_vote(2, 7, (9, 9))) == [] and voter.state.term == 1
    voter.step(voter.request_vote(2, 7, (9, 9), transfer=True))
    assert voter.state.term == 7 and messages_in(voter.settle(), VoteReply)[-1].granted
    leader = Replica().serve()
    term = leader.state.term
    assert leader.step(leader.request_vote(2, 7, (9, 9))) == [] and leader.state.term == term


def test_a_closed_link_to_the_leader_brings_the_election_forward() -> None:
    """DESIGN 8: campaign within 0 to 150 ms."""
    replica = Replica()
    replica.step(replica.beat(3, term=1))
    replica.step(PeerDown(2))
    assert replica.state.deadline >= replica.time + replica.options.election_min
    replica.step(PeerDown(3))
    assert replica.state.deadline <= replica.time + replica.options.early_election


def test_a_leader_without_a_majority_steps_down() -> None:
    """Thesis 6.2: if an election timeout passes without a majority's heartbeats."""
    replica = Replica().serve()
    begin = replica.time
    while replica.role() is Role.LEADER:
        replica.tick()
    assert replica.role() is Role.FOLLOWER
    assert replica.time - begin <= 2 * replica.options.election_min + replica.options.heartbeat


def test_a_leader_with_a_majority_stays() -> None:
    """Thesis 6.2, the other side; one follower of two is enough."""
    replica = Replica().serve()
    for _ in range(50):
        replica.tick()
        replica.step(replica.beat_reply(2, match=replica.state.commit))
    assert replica.role() is Role.LEADER


def test_a_faulty_log_neither_votes_nor_denies_nor_campaigns() -> None:
    """DESIGN 5: faulty is not absent."""
    replica = Replica(unrestored=True)
    assert replica.step(replica.request_vote(2, 0, (9, 9), pre=True)) == []
    replica.step(replica.request_vote(2, 5, (9, 9)))
    assert not replica.sent(VoteReply) and not messages_in(replica.settle(), VoteReply)
    replica.tick()
    assert replica.role() is Role.FOLLOWER


# --- 5.3: log replication -----------------------------------------------------------------------------------


def test_a_new_leader_appends_a_no_op_and_beats() -> None:
    """5.2, section 8: upon election; a blank no-op entry at the start of its term."""
    replica = Replica(term=2, log=[1, 2]).lead()
    assert replica.terms() == [1, 2, 3]
    assert [append.batches for append in replica.sent(Append)] == [replica.one(Persist).batches] * 2
    assert [append.previous_index for append in replica.sent(Append)] == [2, 2]
    assert len(replica.sent(Beat)) == 2


@pytest.mark.parametrize(
    ("log", "previous", "accepted"),
    [([], (0, 0), True), ([1, 1], (2, 1), True), ([1, 1], (1, 1), True), ([1, 1], (3, 1), False),
     ([1, 1], (2, 2), False), ([1, 2], (1, 1), True)],
)  # fmt: skip
def test_the_consistency_check(log: list[int], previous: tuple[int, int], accepted: bool) -> None:
    """5.3: a follower refuses if it has no entry with the previous index and term."""
    replica = Replica(log=log)
    replica.step(replica.append(2, 3, previous, [3]))
    reply = messages_in(replica.settle(), AppendReply)[-1]
    assert reply.accepted is accepted
    assert reply.match == (previous[0] + 1 if accepted else previous[0])


# Figure 7: what followers' logs may be when the leader of term 8 with the log 1114455666 comes to power.
FIGURE_7 = {
    "a": [1, 1, 1, 4, 4, 5, 5, 6, 6],
    "b": [1, 1, 1, 4],
    "c": [1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 6],
    "d": [1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 7, 7],
    "e": [1, 1, 1, 4, 4, 4, 4],
    "f": [1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3],
}


@pytest.mark.parametrize("follower_log", FIGURE_7.values(), ids=FIGURE_7.keys())
def test_the_leader_brings_any_follower_log_to_its_own(follower_log: list[int]) -> None:
    """5.3, figure 7: the leader finds the latest point of agreement; the hint skips whole terms, so a few
    refusals suffice however long the logs are."""
    leader_log = [1, 1, 1, 4, 4, 5, 5, 6, 6, 6]
    leader = Replica(term=7, log=())
    leader.step(leader.append(3, 7, (0, 0), leader_log))
    leader.settle()
    leader.lead()
    follower = Replica(node=2, term=7, log=follower_log)
    refusals = 0
    queue: list[Append] = leader.sent(Append, to=2)
    while queue:
        follower.step(queue.pop(0))
        replies = follower.sent(AppendReply) + messages_in(follower.settle(), AppendReply)
        for reply in replies:
            refusals += not reply.accepted
            leader.step(reply)
            queue += leader.sent(Append, to=2)
    assert follower.terms() == [*leader_log, 8]
    assert refusals <= 3


def test_a_late_refusal_of_an_earlier_attempt_is_ignored() -> None:
    """5.3: the leader goes back by an answer to what it asked last, not by one it has acted on already."""
    leader = Replica(log=[1, 1, 1, 1], term=1).lead()
    (probe,) = leader.sent(Append, to=2)
    late = leader.refusal(2, probe, (2, 1))
    leader.step(late)
    (again,) = leader.sent(Append, to=2)
    assert again.previous_index == 2 and again.session > probe.session
    leader.step(late)
    assert not leader.effects
    leader.acknowledge(2, match=2)
    leader.step(late)
    assert not leader.effects


def test_a_conflicting_entry_and_all_that_follow_it_are_deleted() -> None:
    """Figure 2, AppendEntries rule 3."""
    replica = Replica(log=[1, 1, 2, 2, 2], commit=1, term=3)
    replica.step(replica.append(2, 3, (2, 1), [3]))
    persist = replica.one(Persist)
    assert persist.truncate_from == 3 and len(persist.batches) == 1
    assert replica.terms() == [1, 1, 3]


def test_entries_already_in_the_log_are_left_alone() -> None:
    """Figure 2, rule 4: a late or repeated append must not shorten the log."""
    replica = Replica()
    replica.step(replica.append(2, 1, (0, 0), [1, 1, 1]))
    replica.settle()
    replica.step(replica.append(2, 1, (0, 0), [1]))
    assert replica.terms() == [1, 1, 1] and not replica.all(Persist)
    assert replica.sent(AppendReply)[0].match == 1


def test_an_acknowledgement_leaves_after_its_sync_also_when_the_append_is_repeated() -> None:
    """Thesis 3.8, 10.2.1; DESIGN 5."""
    replica = Replica()
    append = replica.append(2, 1, (0, 0), [1, 1])
    replica.step(append)
    replica.step(append)
    assert not replica.sent(AppendReply)
    assert [reply.match for reply in messages_in(replica.sync(), AppendReply)] == [2, 2]


def test_a_committed_entry_is_never_replaced() -> None:
    """5.4.3: rather stop than lose what was promised."""
    replica = Replica(log=[1, 1], commit=2)
    with pytest.raises(AssertionError, match="replaced the committed entry"):
        replica.step(replica.append(2, 3, (1, 1), [3]))


def test_damaged_batches_are_as_good_as_lost() -> None:
    """DESIGN 2: a follower verifies the checksum once, before anything is stored."""
    replica = Replica()
    good = batch(1, 1, 0)
    for bad in (good[:-1], good[:80] + b"\xff" + good[81:], batch(2, 1, 0), batch(1, 2, 0)):
        replica.step(replica.append(2, 1, (0, 0), content=(bad,)))
        assert not replica.unsynced[1:] and replica.terms() == []


@pytest.mark.parametrize(("commit", "known"), [(1, 1), (3, 3), (9, 3)])
def test_a_follower_commits_up_to_the_last_new_entry(commit: int, known: int) -> None:
    """Figure 2, rule 5: min(leaderCommit, index of last new entry), not the log's own end."""
    replica = Replica(term=1, log=[1, 1, 1, 1, 1])
    replica.step(replica.append(2, 1, (1, 1), [1, 1], commit=commit))
    assert replica.one(Commit).index == known


def test_a_heartbeat_commits_only_what_is_known_to_match() -> None:
    """Figure 2, rule 5, for heartbeats: the tail may be of another history."""
    replica = Replica(term=1, log=[1, 1, 1])
    replica.step(replica.beat(2, 2, commit=3))
    assert not replica.all(Commit)
    replica.step(replica.append(2, 2, (2, 1)))
    replica.step(replica.beat(2, 2, commit=3))
    assert replica.one(Commit).index == 2


@pytest.mark.parametrize(
    ("voters", "acknowledged_by", "own_synced", "commits"),
    [((1, 2, 3), (), True, False), ((1, 2, 3), (2,), True, True), ((1, 2, 3), (2, 3), False, True),
     ((1, 2, 3), (2,), False, False), ((1,), (), True, True), ((1, 2, 3, 4, 5), (2, 3), False, False)],
)  # fmt: skip
def test_a_majority_of_disks_commits(
    voters: tuple[int, ...], acknowledged_by: tuple[int, ...], own_synced: bool, commits: bool
) -> None:
    """5.3; thesis 10.2.1: the leader's disk is one vote, and may be the last."""
    replica = Replica(voters=voters).serve()
    index = replica.state.log.last_index + 1
    replica.propose()
    if own_synced:
        replica.settle()
    replica.acknowledge(*acknowledged_by)
    assert (replica.state.commit == index) is commits


def test_learners_and_snapshots_do_not_commit() -> None:
    """Thesis 4.2.1; DESIGN 8: neither counts, however far it is."""
    replica = Replica(voters=(1, 2), learners=(8, 9)).serve()
    replica.propose()
    replica.settle()
    commit = replica.state.commit
    replica.acknowledge(8, 9)
    assert replica.state.commit == commit
    replica.acknowledge(2)
    assert replica.state.commit == commit + 1


def test_lost_appends_are_sent_again() -> None:
    """5.3: the leader retries AppendEntries indefinitely."""
    replica = Replica().serve()
    replica.propose()
    index = replica.state.log.last_index
    sent_again = False
    for _ in range(5):
        replica.tick()
        replica.step(replica.beat_reply(2, match=index - 1))
        sent_again = sent_again or any(append.batches for append in replica.sent(Append, to=2))
    assert sent_again


# --- 5.4: safety --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("log", "last", "granted"),
    [([1, 1], (2, 1), True), ([1, 1], (3, 1), True), ([1, 1], (1, 2), True), ([1, 1], (1, 1), False),
     ([1, 2], (9, 1), False), ([1, 2], (2, 2), True), ([], (0, 0), True)],
)  # fmt: skip
@pytest.mark.parametrize("pre", [False, True])
def test_only_a_candidate_with_an_up_to_date_log_gets_a_vote(
    log: list[int], last: tuple[int, int], granted: bool, pre: bool
) -> None:
    """5.4.1: later last term, or equal last term and at least as long."""
    replica = Replica(log=log, term=4)
    replica.step(replica.request_vote(2, 5, last, pre=pre))
    replies = replica.sent(VoteReply) + messages_in(replica.settle(), VoteReply)
    assert [reply.granted for reply in replies] == [granted]


def test_an_entry_of_an_older_term_is_not_committed_by_counting() -> None:
    """5.4.2, figure 8: (c) entry 2 of term 2 is on a majority, yet not committed before one of term 4 is."""
    leader = Replica(voters=(1, 2, 3, 4, 5), term=3, log=[1, 2])
    leader.lead()
    leader.settle()
    assert leader.terms() == [1, 2, 4]
    leader.acknowledge(2, 3, match=2)
    assert leader.state.commit == 0
    leader.acknowledge(2, 3, match=3)
    assert leader.state.commit == 3


# --- section 8, thesis 6.4: reads ---------------------------------------------------------------------------


def test_a_read_waits_for_a_majority_of_later_heartbeats() -> None:
    """Thesis 6.4, steps 1 to 4."""
    leader = Replica(learners=[4]).serve()
    leader.step(ReadIndex(70))
    rounds = {beat.read for beat in leader.sent(Beat)}
    assert len(rounds) == 1 and not leader.all(ReadReady)
    (number,) = rounds

    def answer(sender: int, read: int) -> None:
        leader.step(leader.beat_reply(sender, read=read))

    answer(4, number)  # a learner confirms nothing
    answer(2, number - 1)  # nor does an answer to an earlier beat
    assert not leader.all(ReadReady)
    answer(2, number)
    assert leader.one(ReadReady) == ReadReady(70, leader.state.commit)


def test_no_read_before_a_commit_in_the_own_term() -> None:
    """Thesis 6.4, step 1: before that the leader doesn't know what is committed."""
    leader = Replica().lead()
    leader.step(ReadIndex(70))
    assert not leader.all(ReadReady) and not leader.sent(Beat)
    leader.settle()
    leader.acknowledge(2)
    assert leader.sent(Beat)  # now the round begins


# --- thesis 3.10: leadership transfer -----------------------------------------------------------------------


def test_a_transfer_waits_until_the_target_has_the_whole_log() -> None:
    """Thesis 3.10, steps 1 to 3; the candidate's request overrides stickiness."""
    leader = Replica().serve()
    leader.propose()
    leader.settle()
    leader.step(Transfer(2, 80))
    assert not leader.sent(TimeoutNow)
    assert leader.outcomes() == {}
    refused = leader.propose()
    assert leader.outcomes() == {refused: NotApplied(Reason.TRANSFERRING, 1)}
    leader.acknowledge(3)
    assert not leader.sent(TimeoutNow)
    leader.acknowledge(2)
    (timeout_now,) = leader.sent(TimeoutNow, to=2)
    target = Replica(node=2, term=leader.state.term, log=leader.terms())
    target.step(target.beat(1, leader.state.term))
    target.step(timeout_now)
    assert target.role() is Role.CANDIDATE
    requests = messages_in(target.sync(), RequestVote)
    assert all(request.transfer for request in requests)
    leader.step(requests[0])
    assert leader.role() is Role.FOLLOWER
    assert isinstance(leader.outcomes()[80], Applied)


def test_a_transfer_is_given_up_after_an_election_timeout() -> None:
    """Thesis 3.10: if it does not complete after about an election timeout, the leader resumes."""
    leader = Replica().serve()
    leader.propose()
    leader.settle()
    leader.acknowledge(3)
    leader.step(Transfer(2, 80))
    outcomes: dict[int, Outcome] = {}
    for _ in range(7):
        leader.tick()
        outcomes |= leader.outcomes()
        leader.acknowledge(3)
    assert outcomes == {80: NotApplied(Reason.TIMED_OUT, 1)}
    leader.propose()
    assert leader.outcomes() == {}


@pytest.mark.parametrize("target", [1, 4, 99])
def test_no_transfer_to_a_learner_a_stranger_or_oneself(target: int) -> None:
    leader = Replica(learners=[4]).serve()
    leader.step(Transfer(target, 80))
    assert leader.outcomes() == {80: NotApplied(Reason.NO_TARGET, 1)}


# --- thesis 4: membership -----------------------------------------------------------------------------------


def change(leader: Replica, kind: ChangeKind, node: int, token: int = 90) -> None:
    leader.step(ProposeMembership(Change(kind, node), token))


def test_a_change_is_in_effect_when_appended() -> None:
    """Thesis 4.1: a server always uses the latest configuration in its log, committed or not."""
    leader = Replica().serve()
    change(leader, ChangeKind.ADD_LEARNER, 4)
    assert leader.state.membership.learners == {4}
    assert leader.sent(Append, to=4)


def test_one_change_at_a_time() -> None:
    """Thesis 4.1: no new change before the last one is committed."""
    leader = Replica().serve()
    change(leader, ChangeKind.ADD_LEARNER, 4)
    change(leader, ChangeKind.ADD_LEARNER, 5, token=91)
    assert leader.outcomes() == {91: NotApplied(Reason.PENDING_CHANGE, 1)}
    leader.settle()
    leader.acknowledge(2)
    change(leader, ChangeKind.ADD_LEARNER, 5, token=92)
    assert leader.state.membership.learners == {4, 5}


def test_no_change_before_the_no_op_is_committed() -> None:
    """Ongaro's correction of 2015: not before an entry of the leader's own term is committed."""
    leader = Replica().lead()
    change(leader, ChangeKind.ADD_LEARNER, 4)
    assert leader.outcomes() == {90: NotApplied(Reason.NOT_READY, 1)}


def test_a_read_does_not_wait_for_a_voter_that_leaves() -> None:
    """Nobody is left who could confirm it, and every later read would wait behind it."""
    leader = Replica(voters=(1, 2)).serve()
    leader.step(ReadIndex(70))
    assert not leader.all(ReadReady)
    change(leader, ChangeKind.RELEASE, 2)
    assert leader.one(ReadReady).token == 70
    leader.step(ReadIndex(71))
    assert leader.one(ReadReady).token == 71


def test_a_truncated_change_is_taken_back() -> None:
    """Thesis 4.1: a server must be prepared to fall back to the previous configuration in its log."""
    leader = Replica().serve()
    index = leader.state.log.last_index
    change(leader, ChangeKind.REMOVE, 3)
    assert leader.state.membership.voters == {1, 2}
    term = leader.state.term
    leader.step(leader.append(2, term + 1, (index, term), [term + 1]))
    assert leader.state.membership.voters == {1, 2, 3} and not leader.state.membership.removed


def test_a_learner_is_promoted_only_when_it_is_caught_up_and_answers() -> None:
    """Thesis 4.2.1; DESIGN 8: the new voter acknowledged within a heartbeat."""
    leader = Replica().serve()
    change(leader, ChangeKind.ADD_LEARNER, 4)
    leader.settle()
    leader.acknowledge(2)
    change(leader, ChangeKind.PROMOTE, 4, token=91)
    assert leader.outcomes() == {91: NotApplied(Reason.NOT_CAUGHT_UP, 1)}
    leader.acknowledge(4)
    leader.wait(0.3)
    change(leader, ChangeKind.PROMOTE, 4, token=92)
    assert leader.outcomes() == {92: NotApplied(Reason.NOT_CAUGHT_UP, 1)}
    leader.acknowledge(4)
    change(leader, ChangeKind.PROMOTE, 4, token=93)
    assert leader.state.membership.voters == {1, 2, 3, 4}


def test_a_leader_that_removes_itself_leads_until_that_is_committed_without_its_own_vote() -> None:
    """Thesis 4.2.2."""
    leader = Replica().serve()
    change(leader, ChangeKind.REMOVE, 1)
    leader.settle()
    assert leader.role() is Role.LEADER
    leader.acknowledge(2)
    assert leader.role() is Role.LEADER  # of 2 and 3 both are a majority, 1 and 2 is none
    leader.acknowledge(3)
    assert leader.role() is Role.LEARNER
    assert [beat.commit for beat in leader.sent(Beat)] == [leader.state.commit] * 2


def test_a_removed_server_may_still_be_needed_to_commit_its_removal() -> None:
    """Thesis 4.2.2: a server not in its own latest configuration still starts elections."""
    leader = Replica(voters=(1, 2)).serve()
    change(leader, ChangeKind.DEMOTE, 1)
    leader.settle()
    for _ in range(20):  # node 2 is away, this leader steps down
        leader.tick()
        if leader.role() is not Role.LEADER:
            break
    leader.campaign()
    assert leader.role() is Role.CANDIDATE
    leader.step(leader.vote_reply(2))
    assert leader.role() is Role.LEADER


def test_a_learner_votes_but_never_campaigns() -> None:
    """Thesis 4.2.1; a promoted one may be needed before it knows that it was promoted."""
    learner = Replica(node=4, learners=[4])
    learner.wait(100)
    assert learner.step(Tick()) == [] and learner.role() is Role.LEARNER
    learner.step(learner.request_vote(2, 1, (0, 0)))
    assert messages_in(learner.settle(), VoteReply)[0].granted


# --- the disk (DESIGN 5) ------------------------------------------------------------------------------------


def test_a_leader_whose_disk_stands_still_steps_down() -> None:
    """DESIGN 5: a slow fsync past its deadline."""
    leader = Replica(options=RaftOptions(fsync_deadline=0.25)).serve()
    leader.propose()
    leader.acknowledge(2, 3)
    for _ in range(4):
        leader.tick()
    assert leader.role() is Role.FOLLOWER
