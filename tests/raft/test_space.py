"""What the rules do when a disk has no space, or no more bytes may wait for it (DESIGN 5)."""

import pytest

from tests.raft.replica import Replica, chunk_of, messages_in
from trimaran.actors.raft import leader as rules
from trimaran.actors.raft.membership import Change, ChangeKind
from trimaran.actors.raft.messages import (
    Append,
    AppendReply,
    ProposeMembership,
    ProposeTick,
    StorageRoom,
    StorageSpace,
    VoteReply,
)
from trimaran.actors.raft.outcomes import NotApplied, Reason
from trimaran.actors.raft.state import RaftOptions, Role
from trimaran.codec import Chunk, EntryType, make_chunk


def command(size: int = 20) -> Chunk:
    return make_chunk([(EntryType.STREAM_COMMAND, b"c" * size)])


def full_leader(options: RaftOptions | None = None) -> Replica:
    replica = Replica(options=options).serve()
    replica.step(StorageSpace(False))
    return replica


def test_a_leader_with_a_full_disk_refuses_what_grows_and_leads_on() -> None:
    leader = full_leader()
    last = leader.state.log.last_index
    token = leader.propose(b"x")
    assert leader.outcomes() == {token: NotApplied(Reason.NO_SPACE, 1)}, "certainly in no log: safe to retry"
    assert leader.state.log.last_index == last and leader.role() is Role.LEADER
    leader.step(StorageSpace(True))
    token = leader.propose(b"x")
    assert token not in leader.outcomes() and leader.state.log.last_index == last + 1


@pytest.mark.parametrize(
    ("chunk", "taken"),
    [
        (command(), True),
        (command(rules.COMMAND_BYTES), False),
        (chunk_of(b"x"), False),
        (make_chunk([(EntryType.STREAM_COMMAND, b"c"), (EntryType.OPAQUE, b"x")]), False),
    ],
    ids=["command", "large command", "message", "command and message"],
)
def test_what_may_make_space_is_taken_on_a_full_disk(chunk: Chunk, taken: bool) -> None:
    """Deleting and purging are a stream's commands, and so is acknowledging: refused, a full disk stays
    full."""
    leader = full_leader()
    token = leader.propose(chunk=chunk)
    assert (token not in leader.outcomes()) is taken


def test_members_and_the_clock_change_on_a_full_disk() -> None:
    leader = full_leader()
    leader.step(ProposeTick(50))
    assert 50 not in leader.outcomes()
    leader.step(ProposeMembership(Change(ChangeKind.ADD_LEARNER, 4), 51))
    assert 51 not in leader.outcomes()


def test_the_meta_group_uses_the_reserve() -> None:
    leader = full_leader(RaftOptions(uses_reserve=True))
    assert leader.propose(b"x") not in leader.outcomes()


def test_a_follower_with_a_full_disk_goes_on() -> None:
    follower = Replica(2)
    follower.step(StorageSpace(False))
    follower.step(follower.append(1, 1, (0, 0), [1, 1]))
    [reply] = messages_in(follower.sync(), AppendReply)
    assert reply.accepted and reply.match == 2


def test_a_follower_whose_reserve_is_used_up_takes_no_batches_and_votes() -> None:
    follower = Replica(2)
    follower.step(follower.append(1, 1, (0, 0), [1]))
    follower.settle()
    follower.step(StorageSpace(False, spent=True))
    follower.step(follower.append(1, 1, (1, 1), [1]))
    [reply] = follower.sent(AppendReply)
    assert reply.match == 1 and follower.state.log.last_index == 1
    follower.wait(10)
    follower.step(follower.request_vote(3, 2, (2, 1)))
    [vote] = messages_in(follower.settle(), VoteReply)
    assert vote.granted
    follower.step(StorageSpace(True))
    follower.step(follower.append(3, 2, (1, 1), [1, 2]))
    [reply] = messages_in(follower.settle(), AppendReply)
    assert reply.match == 3


def test_a_leader_seals_nothing_while_too_much_waits_for_its_disk() -> None:
    leader = Replica().serve()
    leader.step(StorageRoom(False))
    last = leader.state.log.last_index
    token = leader.propose(b"x")
    assert leader.state.log.last_index == last and token not in leader.outcomes()
    leader.step(StorageRoom(True))
    assert leader.state.log.last_index == last + 1, "it was only queued"


def test_what_waits_for_a_disk_outlives_the_role() -> None:
    """The disk is the node's, not the leadership's: who is elected meanwhile knows of it."""
    replica = Replica()
    replica.step(StorageRoom(False))
    replica.step(StorageSpace(False))
    replica.lead()
    replica.settle()
    token = replica.propose(b"x")
    assert replica.outcomes() == {token: NotApplied(Reason.NO_SPACE, 1)}


def test_a_follower_takes_no_batches_while_too_much_waits_for_its_disk() -> None:
    """As if they had got lost: it claims nothing of them, and takes them when they are sent again."""
    follower = Replica(2)
    follower.step(follower.append(1, 1, (0, 0), [1]))
    follower.settle()
    follower.step(StorageRoom(False))
    follower.step(follower.append(1, 1, (1, 1), [1, 1], commit=3))
    [reply] = follower.sent(AppendReply)
    assert reply.accepted and reply.match == 1
    assert follower.state.log.last_index == 1 and follower.state.commit == 1
    follower.step(StorageRoom(True))
    follower.step(follower.append(1, 1, (1, 1), [1, 1], commit=3))
    [reply] = messages_in(follower.settle(), AppendReply)
    assert reply.match == 3 and follower.state.commit == 3


def test_what_a_follower_let_go_is_sent_again_after_a_few_heartbeats() -> None:
    leader = Replica().serve()
    match = leader.state.log.last_index
    leader.propose(b"x")
    leader.settle()
    leader.step(leader.append_reply(2, match))  # as above: it took nothing
    assert leader.sent(Append, to=2) == []
    for _ in range(3):
        leader.tick()
        leader.step(leader.beat_reply(2, match=match))
        if leader.sent(Append, to=2):
            break
    [again] = leader.sent(Append, to=2)
    assert again.previous_index == match
