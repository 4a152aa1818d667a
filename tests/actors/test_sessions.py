"""Exactly-once: a session's proposal is applied once, however often it is sent (thesis 6.3)."""

from collections.abc import Sequence
from functools import partial, reduce
from typing import cast

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as some
from trio.testing import MockClock

from tests.actors.cluster import Cluster, Counter, open_memory_cluster, until
from trimaran import (
    GroupHandle,
    NotApplied,
    NotDone,
    Outcome,
    Published,
    Reason,
    StreamHandle,
    Unanswered,
    Unknown,
    open_stream,
)
from trimaran.actors.replica import sessions
from trimaran.actors.replica.sessions import EXPIRY_NS, WINDOW, Operation, SessionEntry, SessionStatus
from trimaran.actors.replica.user_machine import (
    MAX_RESULT_BYTES,
    BadState,
    UserMachine,
    carried,
    carried_all,
    why_unanswered,
)
from trimaran.codec import Chunk, EntryType, Kind, make_chunk, seal_batch, walk_batch


class Group:
    """A user's machine behind its sessions, fed batch by batch."""

    def __init__(self) -> None:
        self.counter = Counter()
        self.machine = UserMachine("counter", self.counter)
        self.index = 0
        self.time = 1

    def apply(self, *entries: SessionEntry | bytes) -> list[object]:
        self.index += 1
        chunk = make_chunk(
            [
                (EntryType.OPAQUE, entry) if isinstance(entry, bytes) else (EntryType.SESSION, entry.encode())
                for entry in entries
            ]
        )
        return self.machine.apply(
            walk_batch(
                seal_batch(
                    [chunk],
                    kind=Kind.NORMAL,
                    group=2,
                    incarnation=2,
                    index=self.index,
                    term=1,
                    previous_term=1,
                    time=self.time,
                )
            )
        )

    def open(self) -> int:
        [answer] = self.apply(SessionEntry(Operation.OPEN))
        status, place = cast(tuple[int, int], answer)
        assert status == SessionStatus.APPLIED
        return place


def entry(session: int, number: int, data: bytes = b"x", floor: int = 0) -> SessionEntry:
    return SessionEntry(Operation.APPLY, session, number, floor, data)


def test_a_repetition_gets_the_answer_of_then() -> None:
    group = Group()
    session = group.open()
    assert group.apply(entry(session, 1)) == [[SessionStatus.APPLIED, 1]]
    assert group.apply(b"other", entry(session, 2)) == [2, [SessionStatus.APPLIED, 3]]
    assert group.apply(entry(session, 1), entry(session, 2)) == [
        [SessionStatus.REPEATED, 1],
        [SessionStatus.REPEATED, 3],
    ]
    assert group.counter.seen == [b"x", b"other", b"x"]


def test_a_repetition_in_the_same_batch_is_one_too() -> None:
    group = Group()
    session = group.open()
    answers = group.apply(entry(session, 1), entry(session, 1))
    assert answers == [[SessionStatus.APPLIED, 1], [SessionStatus.REPEATED, 1]]
    assert group.counter.seen == [b"x"]


def test_no_two_sessions_have_one_id() -> None:
    group = Group()
    opened = group.apply(SessionEntry(Operation.OPEN), SessionEntry(Operation.OPEN))
    assert len({str(answer) for answer in [*opened, group.open()]}) == 3


class Odd(Counter):
    """Answers what it is told to, of what no other node and no snapshot could have."""

    def __init__(self, answer: object) -> None:
        super().__init__()
        self.answer = answer

    def apply(self, entries: Sequence[bytes], index: int, time: int) -> list[object]:
        super().apply(entries, index, time)
        return [self.answer if entry == b"odd" else index for entry in entries]


def nested(depth: int) -> list[object]:
    return reduce(lambda inner, _: [inner], range(depth), cast(list[object], []))


@pytest.mark.parametrize(
    "answer",
    [
        object(),
        {1, 2},
        1 << 64,
        "\ud800",
        {(1, 2): 3},
        [object()],
        nested(1020),
        b"x" * (MAX_RESULT_BYTES + 1),
    ],
    ids=["object", "set", "int", "surrogate", "tuple as key", "inside", "deep", "large"],
)
async def test_a_result_that_msgpack_does_not_carry_costs_its_proposer_the_answer_and_no_snapshot(
    answer: object,
) -> None:
    group, again = Group(), Group()
    for each in (group, again):
        each.machine.machine = Odd(answer)
        session = each.open()
    plain, answer_of_session, even = group.apply(b"odd", entry(session, 1, b"odd"), b"even")
    status, kept = cast(list[object], answer_of_session)
    assert status == SessionStatus.APPLIED
    assert why_unanswered(plain) and why_unanswered(kept) and even == 2
    assert again.apply(b"odd", entry(session, 1, b"odd"), b"even") == [plain, [status, kept], even]

    restored = Group()
    await restored.machine.restore(group.machine.capture().state, ())
    restored.index = group.index
    assert restored.apply(entry(session, 1, b"odd")) == [[SessionStatus.REPEATED, kept]]


async def test_a_result_is_what_a_snapshot_gives_back(autojump_clock: MockClock) -> None:
    """And no object of the machine's own, which it may change later on one replica and not on another."""
    group = Group()
    own = ["first"]
    group.machine.machine = Odd((own, 1.5))
    session = group.open()
    assert group.apply(entry(session, 1, b"odd")) == [[SessionStatus.APPLIED, [["first"], 1.5]]]
    own.append("second")
    assert group.apply(entry(session, 1, b"odd")) == [[SessionStatus.REPEATED, [["first"], 1.5]]]


async def test_whoever_proposed_hears_that_the_result_could_not_be_carried(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    """On the leader and on another node alike, in a session or not; and the group lives on."""
    monkeypatch.setattr("tests.actors.cluster.Counter", partial(Odd, object()))
    async with open_memory_cluster() as cluster:
        handle = await cluster.counter("a")
        for name in "abc":
            here = GroupHandle(cluster[name], handle.group)
            with pytest.raises(Unanswered, match="returned a result of type object"):
                await here.propose(b"odd")
            async with here.session() as session:
                with pytest.raises(Unanswered):
                    await session.propose(b"odd")
                assert isinstance(await session.propose(b"even"), int)
        for name in "abc":
            replica = cluster[name].groups.get(handle.group)
            assert replica is not None
            await replica.snapshots.take()


def test_what_comes_in_a_forgotten_session_is_refused_not_applied() -> None:
    group = Group()
    closed, idle, used = group.open(), group.open(), group.open()
    group.apply(SessionEntry(Operation.CLOSE, closed))
    group.time += EXPIRY_NS - 1
    assert group.apply(entry(used, 1)) == [[SessionStatus.APPLIED, 1]]
    group.time += 1
    answers = group.apply(entry(closed, 1), entry(idle, 1), entry(used, 1), entry(12345, 1))
    expired = [SessionStatus.EXPIRED, None]
    assert answers == [expired, expired, [SessionStatus.REPEATED, 1], expired]
    assert len(group.counter.seen) == 1


def test_the_table_is_bounded_and_the_one_idle_longest_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "MAX_SESSIONS", 3)
    group = Group()
    first, second = group.open(), group.open()
    group.apply(entry(first, 1))
    for _ in range(2):
        group.open()
    assert len(group.machine.sessions) == 3
    assert group.apply(entry(second, 1), entry(first, 1)) == [
        [SessionStatus.EXPIRED, None],
        [SessionStatus.REPEATED, 1],
    ]


def test_answers_below_the_floor_are_forgotten_and_those_above_are_bounded() -> None:
    group = Group()
    session = group.open()
    for number in range(1, WINDOW + 1):
        group.apply(entry(session, number))
    assert group.apply(entry(session, WINDOW + 1)) == [[SessionStatus.FULL, None]]
    assert group.apply(entry(session, WINDOW + 1, floor=2)) == [[SessionStatus.APPLIED, WINDOW + 1]]
    assert group.apply(entry(session, 1)) == [[SessionStatus.ANSWERED, None]]
    assert group.apply(entry(session, 2)) == [[SessionStatus.REPEATED, 2]]


async def test_the_table_is_part_of_the_snapshot() -> None:
    group, other = Group(), Group()
    session, idle = group.open(), group.open()
    group.time += 5
    group.apply(entry(session, 1), entry(session, 2, floor=2))
    await other.machine.restore(group.machine.capture().state, ())
    assert other.machine.capture() == group.machine.capture()
    other.index, other.time = group.index, group.time
    assert other.apply(entry(session, 1), entry(session, 2)) == [
        [SessionStatus.ANSWERED, None],
        [SessionStatus.REPEATED, 2],
    ]
    other.time = EXPIRY_NS + 1
    assert other.apply(entry(idle, 1)) == [[SessionStatus.EXPIRED, None]], "it expires when it would have"
    assert other.counter.seen == group.counter.seen


@pytest.mark.parametrize("state", [b"", b"\x81\xa1v\x02", b"\xc1", b"\x93\x01\x02\x03"])
async def test_an_unreadable_snapshot_is_an_error_of_its_own(state: bytes) -> None:
    with pytest.raises(BadState):
        await Group().machine.restore(state, ())


@given(some.binary(max_size=40))
def test_bytes_that_are_no_entry_are_answered_as_such(data: bytes) -> None:
    group = Group()
    group.index += 1
    chunk = make_chunk([(EntryType.SESSION, data)])
    batch = seal_batch(
        [chunk], kind=Kind.NORMAL, group=2, incarnation=2, index=1, term=1, previous_term=0, time=1
    )
    [answer] = group.machine.apply(walk_batch(batch))
    status, _ = cast(tuple[int, object], answer)
    readable = SessionEntry.decode(data) is not None
    assert (status == SessionStatus.MALFORMED) is not readable
    assert not group.counter.seen


# --- in a cluster -------------------------------------------------------------------------------------------


def losing(cluster: Cluster, name: str, every: int) -> list[Outcome]:
    """Make a node forget the answer to each `every`th proposal it sends, as a lost link would: the truth is
    replaced by *unknown*. What the truth was is in the list."""
    desk = cluster[name].desk
    propose = desk.propose
    truths: list[Outcome] = []

    async def forgetful(group: int, chunk: Chunk) -> Outcome:
        truths.append(await propose(group, chunk))
        return Unknown(Reason.LINK_LOST) if len(truths) % every == 0 else truths[-1]

    desk.propose = forgetful  # type: ignore[method-assign]  # it loses answers
    return truths


async def test_a_retry_after_unknown_changes_nothing(autojump_clock: MockClock) -> None:
    async with open_memory_cluster() as cluster:
        handle = await cluster.counter("a")
        async with handle.session() as session:
            truths = losing(cluster, "a", 2)
            totals = [await session.propose(b"%d" % number) for number in range(20)]
        assert len(truths) > 25, "proposals were repeated"
        assert totals == list(range(1, 21))
        assert await handle.read() is handle.stale_machine
        assert cluster.counted("a", handle.group) == [b"%d" % number for number in range(20)]


async def propose_all(handle: GroupHandle, texts: Sequence[bytes]) -> None:
    async with handle.session() as session:
        for text in texts:
            await session.propose(text)


async def test_exactly_once_across_leader_changes_restarts_and_snapshots(autojump_clock: MockClock) -> None:
    async with open_memory_cluster() as cluster:
        handle = await cluster.counter("a")
        losing(cluster, "a", 3)
        group = cluster["a"].groups.get(handle.group)
        assert group is not None
        texts = [b"%d-" % number + b"x" * 4000 for number in range(60)]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(propose_all, handle, texts)
            for name in "bcbc":  # `a` only loses answers: its session must live on
                seen = len(cluster.counted("a", handle.group))
                await until(lambda: len(cluster.counted("a", handle.group)) > seen + 5)
                leaders = cluster.leaders(handle.group)
                if leaders:
                    await cluster[leaders[0]].desk.transfer(handle.group, name)
                await cluster.crash(name, power=True)
                await cluster.start(name)
                await cluster.ready()
        await handle.read_barrier()
        assert cluster.counted("a", handle.group) == texts
        assert group.snapshots.taken > 0
        await until(lambda: len({tuple(cluster.counted(name, handle.group)) for name in "abc"}) == 1)


async def test_tasks_share_a_session_and_a_batch_is_all_or_none(autojump_clock: MockClock) -> None:
    async with open_memory_cluster() as cluster:
        handle = await cluster.counter("b")
        losing(cluster, "b", 2)
        async with handle.session() as session, trio.open_nursery() as nursery:
            for number in range(50):
                nursery.start_soon(session.propose_many, [b"%d" % number, b"%d'" % number])
        seen = cluster.counted(cluster.leader(handle.group), handle.group)
        assert sorted(seen[::2]) == sorted(b"%d" % number for number in range(50))
        assert seen[1::2] == [text + b"'" for text in seen[::2]], "pairs stay pairs"


async def test_a_full_or_expired_session_is_a_typed_refusal(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "EXPIRY_NS", 10 * 10**9)
    async with open_memory_cluster() as cluster:
        handle = await cluster.counter("a")
        async with handle.session() as session:
            with pytest.raises(NotDone) as refused:
                await session.propose_many([b"x"] * (WINDOW + 1))
            assert refused.value.outcome == NotApplied(Reason.SESSION_FULL)
            await trio.sleep(10)
            with pytest.raises(NotDone) as refused:
                await session.propose(b"late")
            assert refused.value.outcome == NotApplied(Reason.SESSION_EXPIRED)
        assert cluster.counted("a", handle.group) == []


async def test_a_session_that_reaches_nobody_ends_in_time(
    autojump_clock: MockClock,
) -> None:
    async with open_memory_cluster() as cluster:
        handle = await cluster.counter("a")
        async with handle.session() as session:
            for name in "bc":
                await cluster.crash(name)
            await until(lambda: not cluster.leaders(handle.group))
            began = trio.current_time()
            with pytest.raises(NotDone) as refused:
                await session.propose(b"x", seconds=10)
            assert refused.value.outcome == Unknown(Reason.NO_ANSWER), "the last attempt got no answer"
            assert trio.current_time() - began == pytest.approx(10)


async def test_a_message_id_is_recognised_by_every_later_leader_and_after_snapshots(
    autojump_clock: MockClock,
) -> None:
    """Streams: `Nats-Msg-Id` within the duplicate window is what a session is to a group."""
    async with open_memory_cluster() as cluster:
        stream = await open_stream(cluster["a"], "ORDERS", ["orders.>"], replicas=3)
        first = [await stream.publish("orders.new", b"x" * 8000, msg_id=str(n)) for n in range(20)]
        assert [stored.sequence for stored in first] == list(range(1, 21))
        group = cluster["a"].groups.get(stream.group)
        assert group is not None and group.snapshots.taken > 0
        for name in "bcab":
            await cluster.crash(name, power=True)
            await cluster.start(name)
            await cluster.ready()
            leader = cluster.leader(stream.group)
            if leader != name:
                assert await cluster[leader].desk.transfer(stream.group, name)
                await until(lambda: cluster.leaders(stream.group) == [name])
            again = StreamHandle(cluster[name], "ORDERS", stream.group)
            for n in range(20):
                stored = await again.publish("orders.new", b"x" * 8000, msg_id=str(n))
                assert stored == Published(n + 1, duplicate=True)
        assert await again.get(21) is None


ATOMS = some.one_of(
    some.none(),
    some.booleans(),
    some.integers(-(1 << 65), 1 << 65),
    some.floats(allow_nan=False),
    some.text(max_size=4),
    some.binary(max_size=4),
    some.just(b"x" * (MAX_RESULT_BYTES - 40)),
    some.just(object()),
)
RESULTS = some.recursive(
    ATOMS,
    lambda inner: some.one_of(
        some.lists(inner, max_size=3),
        some.tuples(inner, inner),
        some.dictionaries(some.one_of(some.integers(0, 9), some.text(max_size=2)), inner, max_size=3),
    ),
    max_leaves=6,
)


@given(some.lists(RESULTS, max_size=5))
def test_results_carried_together_are_those_carried_one_by_one(results: list[object]) -> None:
    assert carried_all(results) == [carried(result) for result in results]
