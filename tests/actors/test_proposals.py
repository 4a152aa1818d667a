"""Proposals from anywhere: each ends exactly once, and none is ever sent twice."""

from collections.abc import Callable

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from trimaran.actors.peers.wire import FrameKind
from trimaran.actors.proposals import HOLD_SECONDS, Leadership, Proposals
from trimaran.actors.raft.outcomes import Applied, NotApplied, Outcome, Reason, Unknown
from trimaran.codec import Chunk, EntryType, make_chunk

GROUP = 5


def chunk(text: bytes) -> Chunk:
    return make_chunk([(EntryType.OPAQUE, text)])


class Leader:
    """A hosted group that leads, and applies what it is told to."""

    def __init__(self) -> None:
        self.taken: list[tuple[Chunk, Callable[[Outcome], None], int]] = []

    def propose(self, chunk: Chunk, done: Callable[[Outcome], None], expected_term: int) -> None:
        self.taken.append((chunk, done, expected_term))


class Node:
    """Proposals of one node; its frames go straight to the other's."""

    def __init__(self, me: int) -> None:
        self.me = me
        self.leader: Leadership | None = None
        self.local: Leader | None = None
        self.reachable: dict[int, Node] = {}
        self.sent: list[FrameKind] = []
        self.proposals = Proposals(self, self, 1)

    def leadership(self, group: int) -> Leadership | None:
        return self.leader

    def local_group(self, group: int) -> Leader | None:
        return self.local

    def is_up(self, peer: int) -> bool:
        return peer in self.reachable

    def send(self, peer: int, kind: FrameKind, envelope: tuple[object, ...], *attachments: bytes) -> bool:
        other = self.reachable.get(peer)
        if other is None:
            return False
        self.sent.append(kind)
        data = memoryview(b"".join(attachments))
        if kind is FrameKind.PROPOSE:
            other.proposals.on_propose(self.me, list(envelope), data)
        else:
            other.proposals.on_reply(self.me, list(envelope), data)
        return True


def pair() -> tuple[Node, Node]:
    """A node with a client, and the node that leads."""
    near, far = Node(1), Node(2)
    near.reachable[2], far.reachable[1] = far, near
    far.local = Leader()
    near.leader = far.leader = Leadership(7, 2)
    return near, far


async def test_a_forwarded_chunk_arrives_whole_fenced_and_its_result_comes_back() -> None:
    near, far = pair()
    ends: list[Outcome] = []
    near.proposals.propose(GROUP, chunk(b"one"), ends.append)
    assert far.local is not None
    [(taken, done, term)] = far.local.taken
    assert (taken, term) == (chunk(b"one"), 7)
    done(Applied(12, b"12345678"))
    assert ends == [Applied(12, b"12345678")]


@pytest.mark.parametrize(
    "outcome",
    [Applied(3, [{"total": 4}, None]), NotApplied(Reason.STALE_TERM), Unknown(Reason.LEADERSHIP_LOST)],
)
async def test_every_kind_of_end_crosses_the_link_unchanged(outcome: Outcome) -> None:
    near, far = pair()
    ends: list[Outcome] = []
    near.proposals.propose(GROUP, chunk(b"one"), ends.append)
    assert far.local is not None
    far.local.taken[0][1](outcome)
    assert ends == [outcome]


async def test_a_lost_link_ends_as_unknown_once_and_is_not_sent_again() -> None:
    near, far = pair()
    ends: list[Outcome] = []
    near.proposals.propose(GROUP, chunk(b"one"), ends.append)
    near.proposals.on_peer_down(2)
    near.proposals.on_peer_up(2)
    near.proposals.on_leader(GROUP)
    assert ends == [Unknown(Reason.LINK_LOST)]
    assert near.sent == [FrameKind.PROPOSE]
    assert far.local is not None
    far.local.taken[0][1](Applied(1, b""))  # the late answer finds nobody
    assert len(ends) == 1


async def test_chunks_wait_for_a_leader_and_keep_their_order() -> None:
    near, far = pair()
    near.leader = None
    ends: list[Outcome] = []
    for text in (b"one", b"two"):
        near.proposals.propose(GROUP, chunk(text), ends.append)
    near.leader = Leadership(8, 2)
    near.proposals.propose(GROUP, chunk(b"three"), ends.append)
    assert near.sent == []
    near.proposals.on_leader(GROUP)
    assert far.local is not None
    assert [taken for taken, _, _ in far.local.taken] == [chunk(b"one"), chunk(b"two"), chunk(b"three")]
    assert {term for _, _, term in far.local.taken} == {8}


async def test_who_proposes_again_at_an_end_does_not_overtake_what_still_waits() -> None:
    node = Node(1)
    taken: list[Chunk] = []

    class Busy(Leader):
        def propose(self, chunk: Chunk, done: Callable[[Outcome], None], expected_term: int) -> None:
            taken.append(chunk)
            done(NotApplied(Reason.BUSY))

    node.local = Busy()
    node.proposals.propose(
        GROUP, chunk(b"one"), lambda _: node.proposals.propose(GROUP, chunk(b"three"), lambda _: None)
    )
    node.proposals.propose(GROUP, chunk(b"two"), lambda _: None)
    node.leader = Leadership(8, 1)
    node.proposals.on_leader(GROUP)
    assert taken == [chunk(b"one"), chunk(b"two"), chunk(b"three")]
    assert node.proposals.statistics().held == node.proposals.statistics().held_bytes == 0
    node.proposals.propose(GROUP, chunk(b"four"), lambda _: None)
    assert taken[3:] == [chunk(b"four")]


async def test_whoever_waits_too_long_for_a_leader_is_told_that_nothing_happened(
    autojump_clock: MockClock,
) -> None:
    near, _ = pair()
    near.leader = None
    ends: list[Outcome] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(near.proposals.run)
        near.proposals.propose(GROUP, chunk(b"one"), ends.append)
        await trio.sleep(HOLD_SECONDS - 0.1)
        assert ends == []
        await trio.sleep(0.2)
        assert ends == [NotApplied(Reason.NO_LEADER)]
        nursery.cancel_scope.cancel()


async def test_a_leader_that_never_answers_ends_as_unknown(autojump_clock: MockClock) -> None:
    near, _ = pair()
    ends: list[Outcome] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(near.proposals.run)
        near.proposals.propose(GROUP, chunk(b"one"), ends.append)
        await trio.sleep(60)
        assert ends == [Unknown(Reason.NO_ANSWER)]
        nursery.cancel_scope.cancel()


async def test_a_short_wait_is_not_prolonged_by_a_longer_one(autojump_clock: MockClock) -> None:
    near, _ = pair()
    ends: list[Outcome] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(near.proposals.run)
        near.proposals.propose(GROUP, chunk(b"sent"), ends.append)
        await trio.sleep(0.1)
        near.leader = None
        near.proposals.propose(GROUP, chunk(b"held"), ends.append)
        await trio.sleep(HOLD_SECONDS + 1)
        assert ends == [NotApplied(Reason.NO_LEADER)]
        nursery.cancel_scope.cancel()


async def test_when_the_node_ends_everyone_gets_an_end_also_who_comes_later() -> None:
    near, _ = pair()
    ends: list[Outcome] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(near.proposals.run)
        near.proposals.propose(GROUP, chunk(b"sent"), ends.append)
        near.leader = None
        near.proposals.propose(GROUP, chunk(b"held"), ends.append)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    near.proposals.propose(GROUP, chunk(b"late"), ends.append)
    refused = NotApplied(Reason.CLOSED)
    assert ends == [refused, Unknown(Reason.CLOSED), refused]


async def test_an_answer_that_no_frame_can_carry_is_unknown() -> None:
    near, far = pair()
    ends: list[Outcome] = []
    near.proposals.propose(GROUP, chunk(b"one"), ends.append)
    assert far.local is not None
    far.local.taken[0][1](Applied(1, [object()]))
    assert ends == [Unknown(Reason.UNREADABLE_ANSWER)]


@pytest.mark.parametrize(
    ("status", "detail", "data"), [("not applied", "NEWER_REASON", b""), ("applied", 1, b"\xc1")]
)
async def test_an_answer_that_this_node_can_not_read_is_unknown(
    status: str, detail: object, data: bytes
) -> None:
    near, _ = pair()
    ends: list[Outcome] = []
    near.proposals.propose(GROUP, chunk(b"one"), ends.append)
    near.proposals.on_reply(2, [1, status, detail, False], memoryview(data))
    assert ends == [Unknown(Reason.UNREADABLE_ANSWER)]


async def test_a_verdict_counts_only_from_the_node_that_was_asked() -> None:
    near, _ = pair()
    ends: list[Outcome] = []
    near.reachable[2].proposals.on_propose = lambda *_: None  # type: ignore[method-assign]  # deaf
    near.proposals.propose(GROUP, chunk(b"one"), ends.append)
    near.proposals.on_reply(3, [1, "applied", 7, True], memoryview(b""))
    assert ends == []
    near.proposals.on_reply(2, [1, "applied", 7, True], memoryview(b""))
    assert ends == [Applied(7, b"")]


async def test_a_damaged_chunk_is_refused_and_changes_nothing() -> None:
    near, far = pair()
    good = chunk(b"one")
    ends: list[Outcome] = []
    near.proposals.propose(GROUP, good, ends.append)
    assert far.local is not None
    far.local.taken.clear()
    far.proposals.on_propose(1, [99, GROUP, 7, 2, good.entries_size], memoryview(good.payload))
    assert far.local.taken == []
    assert near.sent == [FrameKind.PROPOSE]
