"""The leader's picture of a follower: windows, and noticing what was lost."""

from collections import Counter

from tests.raft.replica import Replica
from trimaran.actors.raft.messages import Append
from trimaran.actors.raft.progress import PATIENCE, WINDOW_BYTES, WINDOW_MESSAGES, Progress, ProgressState
from trimaran.codec import read_header


def pipeline(match: int = 10) -> Progress:
    progress = Progress(match + 1, 0.0)
    progress.acknowledge(match)
    progress.become_pipeline()
    return progress


def test_a_probe_sends_one_append_at_a_time() -> None:
    progress = Progress(5, 0.0)
    assert progress.may_send()
    progress.sent(7, 100)
    assert not progress.may_send() and progress.next == 5


def test_the_window_is_bounded_in_messages_and_in_bytes() -> None:
    progress = pipeline()
    while progress.may_send():
        progress.sent(progress.next, 100)
    assert len(progress.in_flight) == WINDOW_MESSAGES
    progress.acknowledge(11)
    assert progress.may_send()
    heavy = pipeline()
    heavy.sent(heavy.next, WINDOW_BYTES)
    assert not heavy.may_send()
    heavy.acknowledge(11)
    assert heavy.may_send() and heavy.in_flight_bytes == 0


def test_a_match_never_falls() -> None:
    progress = pipeline(10)
    progress.acknowledge(4)
    assert progress.match == 10
    progress.become_probe(3)
    assert progress.next == 11


def test_lost_frames_are_noticed_by_the_second_heartbeat_without_any_movement() -> None:
    progress = pipeline(10)
    progress.sent(11, 100)
    progress.sent(12, 100)
    assert [progress.is_stuck(11), progress.is_stuck(11), progress.is_stuck(11)] == [False, False, True]


def test_a_slow_disk_is_not_a_loss() -> None:
    """Everything arrived: be patient before sending it all again."""
    progress = pipeline(10)
    progress.sent(11, 100)
    answers = [progress.is_stuck(11) for _ in range(PATIENCE + 1)]
    assert answers == [False] * PATIENCE + [True]


def test_a_moving_follower_is_not_stuck() -> None:
    progress = pipeline(10)
    for index in range(11, 40):
        progress.sent(index, 100)
    assert not any(progress.is_stuck(received) for received in range(10, 38))


def test_a_restarted_follower_is_noticed() -> None:
    """It knows less than it acknowledged, so nothing would tell it what to commit."""
    assert pipeline(10).is_stuck(3)


def test_catch_up_rounds() -> None:
    """Thesis 4.2.1: a round ends with what the log had at its begin; a short one is caught up."""
    progress = Progress(100, 0.0)
    progress.acknowledge(99)
    progress.follow_round(200, 1.0, limit=0.5)
    assert not progress.caught_up
    progress.acknowledge(100)
    progress.follow_round(200, 3.0, limit=0.5)
    assert not progress.caught_up  # it took 3 s
    progress.acknowledge(200)
    progress.follow_round(220, 3.2, limit=0.5)
    assert progress.caught_up


def test_nothing_is_sent_during_a_snapshot() -> None:
    progress = pipeline()
    progress.become_snapshot()
    assert progress.state is ProgressState.SNAPSHOT and not progress.may_send()


def test_a_count_of_the_quorum_makes_nobody_silent() -> None:
    progress = Progress(1, now=10.0)
    progress.heard(10.0)
    progress.active = False  # the leader has just counted
    assert progress.answers(10.4, patience=0.5)
    assert not progress.answers(10.6, patience=0.5)
    progress.heard(20.0)
    assert progress.answers(30.0, patience=0.5), "nothing was counted since"


def with_appends_under_way(count: int) -> Replica:
    """A leader whose proposals are synced here, on their way to 2, and nothing was heard of since."""
    leader = Replica().serve()
    for _ in range(count):
        leader.propose()
        leader.settle()
    return leader


def sent_to(leader: Replica, peer: int, into: Counter[int]) -> None:
    for append in leader.sent(Append, to=peer):
        into.update(read_header(batch).index for batch in append.batches)


def test_a_storm_of_replies_repeats_nothing_more_than_once() -> None:
    """A way that held everything back lets it go: late acknowledgements, between late heartbeats' replies."""
    leader = with_appends_under_way(30)
    first = leader.state.log.last_index - 30
    sent: Counter[int] = Counter()
    for match in range(first + 1, leader.state.log.last_index):
        for _ in range(PATIENCE):
            leader.step(leader.beat_reply(2, match=first))
            sent_to(leader, 2, sent)
        leader.step(leader.append_reply(2, match))
        sent_to(leader, 2, sent)
    assert max(sent.values(), default=0) <= 1, sent


def test_a_probe_is_repeated_once_in_a_heartbeat() -> None:
    leader = with_appends_under_way(1)
    last = leader.state.log.last_index
    for _ in range(3):
        sent: Counter[int] = Counter()
        leader.tick()
        for _ in range(20):
            leader.step(leader.beat_reply(2, match=0))  # it was restarted, and knows nothing
            sent_to(leader, 2, sent)
        assert sent == {last: 1}
