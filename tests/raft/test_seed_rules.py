"""The rules of the log that came with the seed (DESIGN 7), in the order of its table.

What needs a whole node or a disk is tested elsewhere, and `ELSEWHERE` says where.
"""

import inspect
import re

import pytest
from trio.testing import MockClock

from tests.actors.cluster import open_memory_cluster
from trimaran import NotDone
from trimaran.actors.raft import candidate, follower, learner, messages, roles
from trimaran.actors.raft.effects import ChangeRefused, Fetch, Persist, Resolve, Sealed, Send, SendSnapshot
from trimaran.actors.raft.membership import Change, ChangeKind, Membership
from trimaran.actors.raft.messages import (
    Append,
    AppendReply,
    AppliedTo,
    Close,
    Compacted,
    Fetched,
    Propose,
    ProposeMembership,
    ProposeSnapshot,
    ProposeTick,
    ReadIndex,
    SnapshotInstalled,
    SnapshotReply,
    SnapshotSent,
    StorageFailed,
    StorageRoom,
    TimeoutNow,
    Transfer,
)
from trimaran.actors.raft.outcomes import NotApplied, Reason, Unknown
from trimaran.actors.raft.state import RaftOptions, Role
from trimaran.codec import BATCH_HEADER_SIZE, MAX_ENTRIES, Kind, read_header, walk_batch

from .replica import Replica, batches, chunk_of, messages_in
from .test_reference_cases import named_there

ELSEWHERE = {
    "S1": (
        "actors/test_trouble.py::test_s1_proposals_go_on_while_a_sync_takes_half_a_second",
        "actors/test_trouble.py::test_s1_as_few_batches_as_the_cap_allows",
    ),
    "S7": ("actors/test_scaling.py::test_growing_from_one_replica_announces_the_snapshot_first",),
    "S11": ("stream/test_power_loss.py::test_s11_",),
    "S12": ("stream/test_power_loss.py::test_s12_s13_no_power_loss_loses",),
    "S13": ("stream/test_power_loss.py::test_s12_s13_no_power_loss_loses",),
    "S14": (
        "actors/test_scaling.py::test_one_three_five_three_one_under_load",
        "actors/test_scaling.py::test_crashes_while_scaling_lose_nothing",
        "system/test_scaling.py::test_one_three_five_three_one_replicas_lose_and_duplicate_nothing",
    ),
}
"""Rule -> tests, by the begin of their names."""


def test_every_rule_of_the_table_has_its_test() -> None:
    here = {
        rule
        for name in globals()
        if name.startswith("test_s")
        for rule in re.findall(r"(?<=_)s\d+(?=_)", name)
    }
    assert {f"S{number}" for number in range(1, 17)} == {rule.upper() for rule in here} | ELSEWHERE.keys()
    assert [place for places in ELSEWHERE.values() for place in places if not named_there(place)] == []


def headers(replica: Replica) -> list[tuple[Kind, int]]:
    """Kind and number of entries of each batch that the last step sealed."""
    sealed = [batch for persist in replica.all(Persist) for batch in persist.batches]
    return [(read_header(batch).kind, read_header(batch).count) for batch in sealed]


# --- S1: proposing never waits for the disk -----------------------------------------------------------------


def test_s1_proposals_are_accepted_while_writes_are_in_flight() -> None:
    leader = Replica().serve()
    for _ in range(1000):
        token = leader.propose()
        assert token not in leader.outcomes()
    assert len(leader.unsynced) == leader.options.pipeline_slots  # nothing synced meanwhile
    leader.sync()
    assert headers(leader) == [(Kind.NORMAL, 1000 - leader.options.pipeline_slots)]


def test_s1_the_batch_goes_to_the_disk_and_to_every_peer_at_the_same_moment() -> None:
    leader = Replica().serve()
    leader.propose()
    (sealed,) = leader.one(Persist).batches
    appends = leader.sent(Append)
    assert len(appends) == 2
    assert all(append.batches[0] is sealed for append in appends)  # encoded once: the same bytes


def test_s1_without_credit_of_storage_proposals_queue() -> None:
    leader = Replica().serve()
    leader.step(StorageRoom(False))
    leader.propose()
    leader.propose()
    assert not leader.all(Persist) and not leader.outcomes()
    leader.step(StorageRoom(True))
    assert headers(leader) == [(Kind.NORMAL, 2)]


# --- S2: only the running leader appends --------------------------------------------------------------------


def test_s2_only_the_leaders_file_seals() -> None:
    for module in (roles, follower, candidate, learner):
        assert "seal_batch" not in inspect.getsource(module), module.__name__


@pytest.mark.parametrize("role", [Role.FOLLOWER, Role.PRE_CANDIDATE, Role.CANDIDATE, Role.LEARNER])
def test_s2_nobody_else_accepts_a_proposal(role: Role) -> None:
    replica = Replica(node=4, learners=[4]) if role is Role.LEARNER else Replica()
    if role is Role.PRE_CANDIDATE:
        replica.tick()
    elif role is Role.CANDIDATE:
        replica.campaign()
    assert replica.role() is role
    replica.propose()
    assert replica.outcomes() == {1: NotApplied(Reason.NOT_LEADER, 0)}
    assert not replica.all(Persist) and replica.state.log.last_index == 0


# --- S3: a transfer is a message ----------------------------------------------------------------------------


def test_s3_a_transfer_writes_nothing_to_the_log() -> None:
    leader = Replica().serve()
    last_index = leader.state.log.last_index
    leader.step(Transfer(2, 80))
    assert leader.sent(TimeoutNow, to=2)
    assert not leader.all(Persist) and leader.state.log.last_index == last_index
    assert "TRANSFER" not in Kind.__members__


# --- S4, S6: one queue for every kind; snapshots and changes stand alone, in their place --------------------


def test_s4_s6_every_kind_goes_through_one_queue_and_keeps_its_place() -> None:
    leader = Replica(options=RaftOptions(pipeline_slots=1)).serve()
    leader.propose(b"in flight")
    leader.propose(b"1")
    leader.propose(b"2")
    leader.step(ProposeMembership(Change(ChangeKind.ADD_LEARNER, 4), 101))
    leader.propose(b"3")
    leader.step(ProposeSnapshot(chunk_of(b"snapshot"), 102))
    leader.step(ProposeTick(103))
    leader.propose(b"4")
    leader.propose(b"5")
    assert leader.state.membership.learners == frozenset()  # it waits like the others
    order: list[tuple[Kind, int]] = []
    tokens: list[int] = []
    while leader.unsynced:
        leader.sync()
        order += headers(leader)
        tokens += [token for sealed in leader.all(Sealed) for token, _, _ in sealed.tokens]
    assert order == [
        (Kind.NORMAL, 2),
        (Kind.MEMBERSHIP, 1),
        (Kind.NORMAL, 1),
        (Kind.SNAPSHOT, 1),
        (Kind.TICK, 0),
        (Kind.NORMAL, 2),
    ]
    assert tokens == [2, 3, 101, 4, 102, 103, 5, 6]


# --- S5: a batch is what arrived while the last one was being written ---------------------------------------


def test_s5_what_arrives_during_a_sync_is_one_batch_of_one_index() -> None:
    leader = Replica(options=RaftOptions(pipeline_slots=1)).serve()
    leader.propose()
    index = leader.state.log.last_index
    tokens = [leader.propose(b"a", b"b") for _ in range(50)]
    assert leader.state.log.last_index == index
    leader.sync()
    sealed = leader.one(Sealed)
    assert sealed.index == index + 1 and headers(leader) == [(Kind.NORMAL, 100)]
    assert sealed.tokens == tuple((token, 2 * place, 2) for place, token in enumerate(tokens))


# --- S7: a snapshot entry is fenced when it is queued, and appended by whoever leads then -------------------


def test_s7_a_snapshot_entry_keeps_its_place_and_is_appended_without_a_second_look() -> None:
    leader = Replica(options=RaftOptions(pipeline_slots=1)).serve()
    leader.propose(b"in flight")
    leader.step(ProposeSnapshot(chunk_of(b"manifest"), 90, leader.state.term))
    assert 90 not in leader.outcomes()
    leader.sync()
    assert headers(leader) == [(Kind.SNAPSHOT, 1)] and leader.one(Sealed).term == leader.state.term


def test_s7_a_leadership_that_ends_takes_its_queued_snapshot_entry_with_it() -> None:
    leader = Replica(options=RaftOptions(pipeline_slots=1)).serve()
    leader.propose(b"in flight")
    leader.step(ProposeSnapshot(chunk_of(b"manifest"), 90, leader.state.term))
    leader.step(leader.beat(2, leader.state.term + 1))
    assert leader.outcomes()[90] == NotApplied(Reason.NOT_LEADER, 2)


@pytest.mark.parametrize("other", [-1, 1])
def test_s7_the_term_in_which_it_was_made_must_be_the_one_that_queues_it(other: int) -> None:
    leader = Replica(term=3).serve()
    leader.step(ProposeSnapshot(chunk_of(b"manifest"), 90, leader.state.term + other))
    assert leader.outcomes() == {90: NotApplied(Reason.STALE_TERM, 1)}


# --- S8: caps of a batch ------------------------------------------------------------------------------------


def test_s8_no_batch_is_larger_than_the_cap_counted_as_encoded() -> None:
    limit = 1000
    leader = Replica(options=RaftOptions(max_batch_bytes=limit, pipeline_slots=1)).serve()
    for size in (1, 300, 500, 7, 120, 900, 3, 3, 3, 640, 250, 1):
        leader.propose(b"x" * size)
    sizes = []
    while leader.unsynced:
        leader.sync()
        sizes += [len(batch) for persist in leader.all(Persist) for batch in persist.batches]
    assert len(sizes) >= 4 and max(sizes) <= limit


def test_s8_no_batch_has_more_entries_than_its_header_can_count() -> None:
    leader = Replica(options=RaftOptions(pipeline_slots=1)).serve()
    leader.propose()
    half = chunk_of(*[b""] * 40_000)
    leader.propose(chunk=half)
    leader.propose(chunk=half)
    leader.sync()
    assert headers(leader) == [(Kind.NORMAL, 40_000)]
    leader.sync()
    assert headers(leader) == [(Kind.NORMAL, 40_000)]
    assert MAX_ENTRIES < 2 * 40_000


@pytest.mark.parametrize(("extra", "fits"), [(0, True), (8, False)])
def test_s8_what_fits_no_batch_is_refused_before_it_is_queued(extra: int, fits: bool) -> None:
    chunk = chunk_of(b"x" * 800)
    limit = BATCH_HEADER_SIZE + chunk.encoded_size
    leader = Replica(options=RaftOptions(max_batch_bytes=limit)).serve()
    token = leader.propose(b"x" * (800 + extra))
    assert (token in leader.outcomes()) is not fits
    assert fits or leader.outcomes() == {token: NotApplied(Reason.TOO_LARGE, 1)}


def test_uncommitted_bytes_are_capped() -> None:
    """DESIGN 8: uncommitted bytes capped with a typed rejection; a commit makes room again."""
    leader = Replica(options=RaftOptions(uncommitted_bytes=5000)).serve()
    refused = []
    for _ in range(20):
        token = leader.propose(b"x" * 1000)
        refused += [outcome for key, outcome in leader.outcomes().items() if key == token]
    assert len(refused) == 16 and set(refused) == {NotApplied(Reason.BUSY, 1)}
    leader.settle()
    leader.acknowledge(2)
    token = leader.propose(b"x" * 1000)
    assert token not in leader.outcomes()


# --- S9: a failed append is never dropped -------------------------------------------------------------------


def test_s9_a_failed_append_fails_every_waiting_caller_and_ends_the_leadership() -> None:
    leader = Replica(options=RaftOptions(pipeline_slots=1)).serve()
    sealed, queued = leader.propose(), leader.propose()
    leader.step(ReadIndex(70))
    leader.step(Transfer(2, 80))
    leader.step(StorageFailed())
    assert leader.role() is Role.FOLLOWER
    refused = NotApplied(Reason.STORAGE_FAILED, 0)
    assert leader.outcomes() == {
        sealed: Unknown(Reason.STORAGE_FAILED),
        queued: refused,
        70: refused,
        80: refused,
    }


def test_s9_after_a_failed_write_nothing_is_ever_promised_again() -> None:
    replica = Replica()
    replica.step(StorageFailed())
    assert replica.step(replica.append(2, 1, (0, 0), [1])) == []
    assert replica.step(replica.request_vote(2, 5, (9, 9))) == []
    replica.wait(100)
    assert replica.step(messages.Tick()) == []
    replica.propose()
    assert replica.outcomes() == {1: NotApplied(Reason.STORAGE_FAILED, 0)}


def test_s9_a_closed_group_fails_its_callers_too() -> None:
    leader = Replica().serve()
    token = leader.propose()
    leader.step(Close())
    assert leader.outcomes() == {token: Unknown(Reason.CLOSED)}


# --- S10: a refused change says why -------------------------------------------------------------------------


def test_s10_a_refused_change_names_node_index_and_the_change_in_the_way() -> None:
    leader = Replica().serve()
    leader.step(ProposeMembership(Change(ChangeKind.ADD_LEARNER, 4), 90))
    pending = leader.state.log.last_index
    leader.propose()
    leader.step(ProposeMembership(Change(ChangeKind.REMOVE, 3), 91))
    refused = leader.one(ChangeRefused)
    assert (refused.node, refused.reason, refused.index, refused.pending) == (
        3,
        "PENDING_CHANGE",
        pending + 1,
        pending,
    )


def test_s10_one_that_makes_no_sense_any_more_when_it_is_sealed_names_the_index_it_would_have_got() -> None:
    leader = Replica(options=RaftOptions(pipeline_slots=1)).serve()
    leader.propose(b"in flight")
    leader.step(ProposeMembership(Change(ChangeKind.REMOVE, 3), 90))
    last = leader.state.log.last_index
    leader.state.memberships.reset(Membership.of((1, 2)))  # no rule leads there: what S10 is to find
    leader.sync()
    refused = leader.one(ChangeRefused)
    assert (refused.node, refused.reason, refused.reserved) == (3, "BAD_CHANGE", last + 1)
    assert leader.outcomes()[90] == NotApplied(Reason.BAD_CHANGE, 1)
    assert leader.state.log.last_index == last


async def test_s10_the_log_line_has_all_of_it(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_memory_cluster() as cluster:
        handle = await cluster.counter("a")
        await handle.propose(b"x")
        group = cluster[cluster.leader(handle.group)].groups.led_by_me()[handle.group]
        with pytest.raises(NotDone):
            await group.change_membership(Change(ChangeKind.REMOVE, 0xBAD))
        last = group.state.log.last_index
    [line] = [each.getMessage() for each in caplog.records if "change refused" in each.getMessage()]
    assert line == (
        "membership change refused: BAD_CHANGE account=$G group=hits node=0000000000000bad"
        f" index={last} reserved=0 pending=0"
    )


# --- S15: all or none ---------------------------------------------------------------------------------------


def test_s15_a_proposal_is_never_split_over_two_batches() -> None:
    leader = Replica(options=RaftOptions(max_batch_bytes=1000, pipeline_slots=1)).serve()
    proposals = [[bytes([p]) * (11 * p % 90 + 1)] * (p % 6 + 1) for p in range(60)]
    for entries in proposals:
        leader.propose(*entries)
    held: list[list[bytes]] = []
    term = leader.state.term
    log = leader.state.log
    while leader.unsynced:
        leader.sync()
        tokens = leader.all(Sealed)
        leader.acknowledge(2)
        for sealed in tokens + leader.all(Sealed):
            (batch,) = log.cached(sealed.index, 1, sealed.index) or ()
            entries = [bytes(data) for _, data in walk_batch(batch)]
            assert sealed.term == term and sum(count for _, _, count in sealed.tokens) == len(entries)
            held += [entries[start : start + count] for _, start, count in sealed.tokens]
    assert held == proposals[1:]  # the first was sealed at once, alone


# --- S16: fenced by the term that the caller saw ------------------------------------------------------------


def test_s16_a_proposal_from_an_old_leadership_is_refused() -> None:
    leader = Replica(term=3).serve()
    term = leader.state.term
    for message in (
        Propose(chunk_of(b"x"), 90, term - 1),
        ProposeTick(90, term - 1),
        ProposeSnapshot(chunk_of(b"x"), 90, term + 1),
        ProposeMembership(Change(ChangeKind.ADD_LEARNER, 4), 90, term - 1),
    ):
        leader.step(message)
        assert leader.one(Resolve) == Resolve(90, NotApplied(Reason.STALE_TERM, 1))
        assert not leader.all(Persist)
    token = leader.propose(expected_term=term)
    assert token not in leader.outcomes()


def test_s16_what_is_queued_when_a_leadership_ends_is_never_proposed_again() -> None:
    leader = Replica(options=RaftOptions(pipeline_slots=1)).serve()
    sealed, queued = leader.propose(b"sealed"), leader.propose(b"queued")
    leader.step(leader.beat(2, leader.state.term + 1))
    assert leader.outcomes() == {
        sealed: Unknown(Reason.LEADERSHIP_LOST),
        queued: NotApplied(Reason.NOT_LEADER, 2),
    }
    leader.settle()
    last_index = leader.state.log.last_index
    leader.campaign()
    leader.step(leader.vote_reply(2))
    assert leader.state.log.last_index == last_index + 1  # its no-op, nothing else


# --- the end of a log: snapshots and what was compacted (DESIGN 6) ------------------------------------------


def with_compacted_log() -> Replica:
    """A new leader whose log begins at 5, with nothing synced in memory; follower 3 is unknown to it."""
    leader = Replica(options=RaftOptions(log_cache_bytes=0)).serve()
    while leader.state.log.last_index < 8:
        leader.propose()
        leader.settle()
        leader.acknowledge(2, 3)
    leader.step(AppliedTo(leader.state.commit))
    leader.step(Compacted(4, leader.state.term))
    leader.step(leader.beat(2, leader.state.term + 1))
    leader.settle()
    return leader.lead()


def test_a_compaction_is_written_and_shortens_the_log() -> None:
    leader = Replica().serve()
    leader.propose()
    leader.settle()
    leader.acknowledge(2)
    commit = leader.state.commit
    leader.step(AppliedTo(commit))
    leader.step(Compacted(commit, leader.state.term))
    compact = leader.one(Persist).compact
    assert compact is not None and compact == leader.state.log.compacted and compact.index == commit
    assert leader.state.log.term_at(commit - 1) is None


def test_a_follower_behind_the_log_gets_a_snapshot_and_then_a_probe_that_commits_nothing() -> None:
    leader = with_compacted_log()
    (probe,) = leader.sent(Append, to=3)
    leader.settle()
    leader.step(leader.refusal(3, probe, (2, 1)))
    assert leader.one(SendSnapshot).peer == 3
    leader.step(leader.refusal(3, probe, (2, 1)))
    assert not leader.effects  # one snapshot at a time
    commit = leader.state.commit
    leader.step(SnapshotSent(3, ok=True, index=leader.state.log.last_index))
    assert leader.state.commit == commit
    (probe,) = leader.sent(Append, to=3)
    assert probe.previous_index == leader.state.log.last_index
    leader.step(leader.append_reply(3, probe.previous_index, session=probe.session))
    assert leader.state.commit == probe.previous_index > commit


def test_a_broken_snapshot_is_tried_again_after_a_heartbeat() -> None:
    leader = with_compacted_log()
    (probe,) = leader.sent(Append, to=3)
    leader.step(leader.refusal(3, probe, (2, 1)))
    leader.step(SnapshotSent(3, ok=False, index=0))
    assert not leader.effects  # not at once
    leader.tick()
    leader.step(leader.beat_reply(3, match=2))
    assert leader.one(SendSnapshot).peer == 3


def test_a_follower_that_refuses_a_snapshot_as_old_is_fed_from_where_it_is() -> None:
    """It has the snapshot already, and the leader's link to it was new before it could acknowledge more."""
    leader = with_compacted_log()
    (probe,) = leader.sent(Append, to=3)
    leader.settle()
    leader.step(leader.refusal(3, probe, (2, 1)))
    assert leader.one(SendSnapshot).peer == 3
    leader.step(SnapshotSent(3, ok=False, index=0))
    leader.step(leader.beat_reply(3, match=5))
    assert not leader.all(SendSnapshot)
    (probe,) = leader.sent(Append, to=3)
    assert probe.previous_index == 5


def test_a_follower_behind_the_cache_is_fed_from_the_disk() -> None:
    leader = with_compacted_log()
    log = leader.state.log
    (probe,) = leader.sent(Append, to=3)
    leader.settle()
    leader.step(leader.refusal(3, probe, (5, 1)))
    (probe,) = leader.sent(Append, to=3)
    assert probe.previous_index == 5
    leader.step(leader.append_reply(3, 5, session=probe.session))
    fetch = leader.one(Fetch)
    assert (fetch.peer, fetch.first, fetch.last) == (3, 6, log.last_index)
    on_disk = batches(6, 1, [1, 1, 1])
    leader.step(Fetched(3, 6, on_disk))
    assert [append.batches for append in leader.sent(Append, to=3)] == [on_disk]


def test_batches_that_the_log_no_longer_has_are_not_sent() -> None:
    """The disk may answer a question of an earlier leadership, from before a truncation."""
    leader = with_compacted_log()
    (probe,) = leader.sent(Append, to=3)
    leader.settle()
    leader.step(leader.refusal(3, probe, (5, 1)))
    (probe,) = leader.sent(Append, to=3)
    leader.step(leader.append_reply(3, 5, session=probe.session))
    leader.step(Fetched(3, 6, batches(6, 1, [2, 2, 2])))
    assert not leader.sent(Append, to=3)
    leader.tick()
    leader.step(leader.beat_reply(3, match=5))
    assert leader.sent(Append, to=3)  # and it goes on after a heartbeat


def test_an_installed_snapshot_replaces_a_log_that_does_not_have_it() -> None:
    """Raft section 7, rule 7."""
    replica = Replica(log=[1, 1, 1], term=2)
    replica.step(replica.beat(2, 2))
    members = Membership.of([1, 2, 4])
    replica.step(SnapshotInstalled(2, 2, members))
    log = replica.state.log
    assert (log.compacted.index, log.last_index, replica.state.commit) == (2, 2, 2)
    persist = replica.one(Persist)
    assert persist.truncate_from == 2 and persist.compact == log.compacted
    assert replica.state.membership == members
    assert not replica.sent(SnapshotReply)
    assert messages_in(replica.sync(), SnapshotReply)[0].ok
    replica.step(replica.append(2, 2, (2, 2), [2]))
    assert messages_in(replica.settle(), AppendReply)[-1].match == 3


def test_nothing_is_acknowledged_before_an_installed_snapshot_is_recorded() -> None:
    """Until the compaction record is synced the disk still has the old log."""
    replica = Replica(log=[1, 1, 1], term=2)
    replica.step(replica.beat(2, 2))
    replica.step(SnapshotInstalled(8, 2, Membership.of([1, 2, 3])))
    replica.step(replica.append(2, 2, (8, 2)))
    assert not replica.sent(AppendReply)
    assert messages_in(replica.sync(), AppendReply)[-1].match == 8


def test_an_installed_snapshot_keeps_what_follows_it_in_the_log() -> None:
    """Raft section 7, rule 6."""
    replica = Replica(log=[1, 1, 2, 2], term=2)
    replica.step(SnapshotInstalled(3, 2, Membership.of([1, 2, 3])))
    assert (replica.state.log.compacted.index, replica.state.log.last_index) == (3, 4)
    assert replica.one(Persist).truncate_from is None


def test_sends_are_the_only_effects_that_need_no_disk() -> None:
    """The leader's appends leave before its own sync; its vote and every acknowledgement after."""
    follower_of = Replica()
    follower_of.step(follower_of.append(2, 1, (0, 0), [1]))
    assert not follower_of.all(Send)


def test_a_leader_that_is_sent_a_snapshot_it_lacks_leads_no_more() -> None:
    """The first thing it hears of a newer leader may be that leader's snapshot, of an older term even."""
    for snapshot_term in (1, 9):
        leader = Replica(term=3).serve()
        leader.propose()
        leader.step(SnapshotInstalled(30, snapshot_term, Membership.of([1, 2, 3])))
        assert leader.role() is Role.FOLLOWER and leader.outcomes() == {1: Unknown(Reason.LEADERSHIP_LOST)}
        assert leader.state.term == max(4, snapshot_term) and leader.state.log.last_index == 30
