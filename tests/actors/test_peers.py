"""Links between nodes: frames in order, refusals counted, a dead or hostile peer harms nobody."""

import random
from dataclasses import replace
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from tests.actors.links import LINK_BYTES, LinkedNode, linked
from trimaran.actors.peers.network import MemoryNetwork
from trimaran.actors.peers.requests import Malformed, NotHere, PeerLost, Refusal, Requests
from trimaran.actors.peers.wire import (
    OLDEST_PROTOCOL,
    PROTOCOL_VERSION,
    FrameKind,
    Hello,
    append_reply_row,
    append_row,
    decode_messages,
    encode_hello,
)
from trimaran.actors.raft.messages import Append, AppendReply, Beat, PeerMessage, TimeoutNow
from trimaran.codec import EntryType, Kind, make_chunk, seal_batch
from trimaran.codec.frame import Frame, FrameError, encode_frame


def collect(node: LinkedNode, kind: FrameKind) -> list[tuple[int, list[object], bytes]]:
    got: list[tuple[int, list[object], bytes]] = []
    node.peers.handle(kind, lambda sender, envelope, data: got.append((sender, envelope, bytes(data))))
    return got


async def test_frames_arrive_in_order_with_their_sender(autojump_clock: MockClock) -> None:
    async with linked(MemoryNetwork(), "a", "b") as [a, b]:
        got = collect(b, FrameKind.ROUTE)
        for number in range(100):
            assert a.peers.send(b.number, FrameKind.ROUTE, (number,), b"x" * number)
        await trio.sleep(1)
        assert got == [(a.number, [number], b"x" * number) for number in range(100)]


async def test_heartbeats_of_many_groups_leave_in_one_frame(autojump_clock: MockClock) -> None:
    async with linked(MemoryNetwork(), "a", "b") as [a, b]:
        frames: list[Frame] = []
        b.peers.handle_messages(lambda sender, frame: frames.append(frame))
        beats = [Beat(group=g, incarnation=9, sender=1, term=2, commit=g) for g in range(1, 301)]
        for beat in beats:
            a.peers.send_message(b.number, beat)
        await trio.sleep(0.01)
        assert len(frames) == 1
        assert list(decode_messages(1, frames[0])) == beats


def a_batch(group: int, index: int) -> bytes:
    chunk = make_chunk([(EntryType.OPAQUE, b"%d" % group)])
    header = {"group": group, "incarnation": 9, "index": index, "term": 2, "previous_term": 2, "time": 1}
    return seal_batch([chunk], kind=Kind.NORMAL, **header)


def appends_of(groups: int) -> list[PeerMessage]:
    """For each group an append of 0, 1 or 2 batches."""
    head = {"incarnation": 9, "sender": 1, "term": 2, "previous_index": 4, "previous_term": 2}
    return [
        Append(
            group=group,
            commit=group,
            session=3,
            batches=tuple(a_batch(group, 5 + number) for number in range(group % 3)),
            **head,
        )
        for group in range(1, groups + 1)
    ]


@pytest.mark.parametrize("version", [OLDEST_PROTOCOL, PROTOCOL_VERSION])
async def test_appends_and_replies_of_many_groups_share_frames_with_whoever_reads_them(
    autojump_clock: MockClock, version: int
) -> None:
    async with linked(MemoryNetwork(), "a", "b", speaks={"b": version}) as [a, b]:
        frames: list[Frame] = []
        b.peers.handle_messages(lambda sender, frame: frames.append(frame))
        sent: list[PeerMessage] = appends_of(50)
        for group in range(1, 51):
            accepted = group % 2 == 0
            sent.append(
                AppendReply(
                    group=group, incarnation=9, sender=1, term=2, session=3, accepted=accepted, match=7
                )
            )
        for message in sent:
            a.peers.send_message(b.number, message)
        await trio.sleep(0.01)
        assert [each for frame in frames for each in decode_messages(1, frame)] == sent
        assert len(frames) == (2 if version == PROTOCOL_VERSION else 100)


async def test_what_is_said_after_an_append_arrives_after_it(autojump_clock: MockClock) -> None:
    """A successor that is told to stand for election before it has the last entries would lose it."""
    async with linked(MemoryNetwork(), "a", "b") as [a, b]:
        frames: list[Frame] = []
        b.peers.handle_messages(lambda sender, frame: frames.append(frame))
        sent = [*appends_of(2), TimeoutNow(group=1, incarnation=9, sender=1, term=2)]
        for message in sent:
            a.peers.send_message(b.number, message)
        await trio.sleep(0.01)
        assert [each for frame in frames for each in decode_messages(1, frame)] == sent


async def test_large_appends_do_not_share_a_frame(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trimaran.actors.peers.packer.FRAME_BYTES", 1000)
    async with linked(MemoryNetwork(), "a", "b") as [a, b]:
        frames: list[Frame] = []
        b.peers.handle_messages(lambda sender, frame: frames.append(frame))
        head = {"incarnation": 9, "sender": 1, "term": 2, "previous_index": 0, "previous_term": 0}
        chunk = make_chunk([(EntryType.OPAQUE, bytes(500))])
        batch = seal_batch(
            [chunk], kind=Kind.NORMAL, group=1, incarnation=9, index=1, term=2, previous_term=0, time=1
        )
        for group in range(1, 4):
            a.peers.send_message(b.number, Append(group=group, commit=0, session=1, batches=(batch,), **head))
        await trio.sleep(0.01)
        assert [len(list(decode_messages(1, frame))) for frame in frames] == [1, 1, 1]


ROW = append_row(
    Append(group=1, incarnation=9, sender=1, term=2, previous_index=4, previous_term=2, commit=4, session=1),
    8,
)
REPLY = append_reply_row(
    AppendReply(group=1, incarnation=9, sender=1, term=2, session=1, accepted=True, match=4)
)


@pytest.mark.parametrize(
    ("kind", "envelope", "attachment"),
    [
        (FrameKind.APPENDS, [], b""),
        (FrameKind.APPENDS, ["no rows"], b""),
        (FrameKind.APPENDS, [ROW[:-1]], b""),
        (FrameKind.APPENDS, [ROW], b""),
        (FrameKind.APPENDS, [ROW], b"no batch"),
        (FrameKind.APPENDS, [b""], a_batch(1, 5)),
        (FrameKind.APPEND_REPLIES, [REPLY, REPLY], b""),
        (FrameKind.APPEND_REPLIES, [REPLY[:-8] + b"\2" + REPLY[-7:]], b""),
    ],
)
def test_rows_that_are_none_are_refused(kind: FrameKind, envelope: list[object], attachment: bytes) -> None:
    with pytest.raises(FrameError):
        decode_messages(1, Frame(kind, envelope, memoryview(attachment)))


async def test_a_full_link_refuses_and_counts(autojump_clock: MockClock) -> None:
    async with linked(MemoryNetwork(), "a", "b") as [a, b]:
        big = b"x" * (LINK_BYTES // 2)
        taken = [a.peers.send(b.number, FrameKind.ROUTE, (), big) for _ in range(4)]
        assert taken == [True, False, False, False] or taken == [True, True, False, False]
        assert a.peers.statistics()["b"].dropped == taken.count(False)


async def test_nobody_waits_for_a_node_that_is_gone(autojump_clock: MockClock) -> None:
    network = MemoryNetwork()
    async with linked(network, "a", "b") as [a, b]:

        async def never(asker: int, argument: object) -> object:
            await trio.sleep_forever()
            return None

        b.requests.handle("wait", never, object)
        async with trio.open_nursery() as nursery:

            async def ask() -> None:
                with pytest.raises(PeerLost):
                    await a.requests.ask(b.number, "wait", None, 1000)

            nursery.start_soon(ask)
            await trio.sleep(1)
            network.cut("b:1")
            await a.wait_linked()
        assert trio.current_time() < 100


async def test_a_link_comes_back_by_itself(autojump_clock: MockClock) -> None:
    network = MemoryNetwork()
    async with linked(network, "a", "b") as [a, b]:
        network.cut("b:1")
        await a.wait_linked()
        network.heal("b:1")
        with trio.fail_after(5):
            await a.wait_linked(b.number)


async def test_a_second_node_of_one_name_is_told_so_and_the_first_keeps_its_link(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    network = MemoryNetwork()
    async with linked(network, "a", "b") as [a, b], trio.open_nursery() as nursery:
        twin = LinkedNode(3, "a", {"b": "b:1"}, network)
        await nursery.start(twin.peers.run, None)
        await trio.sleep(1)
        assert not list(twin.peers.up()) and b.peers.linked() == {"a": a.number}
        assert "connection of node 'a' refused: node a is alive under id 0000000000000001" in caplog.text
        network.cut("a:1")  # the first one is gone: a wiped disk comes back under its name
        with trio.fail_after(2):
            await twin.wait_linked(b.number)
        nursery.cancel_scope.cancel()


async def test_a_second_name_for_the_address_of_a_node_takes_its_link_away_from_nobody(
    autojump_clock: MockClock,
) -> None:
    async with linked(MemoryNetwork(), "a", "b") as [a, b]:
        got = collect(b, FrameKind.ROUTE)
        a.peers.learn("mistyped", b.peers.me.address)
        await trio.sleep(1)
        assert a.peers.send(b.number, FrameKind.ROUTE, (1,))
        await trio.sleep(1)
        a.peers.learn("mistyped", "elsewhere:1")
        await trio.sleep(1)
        assert a.peers.send(b.number, FrameKind.ROUTE, (2,))
        await trio.sleep(1)
        assert [envelope for _, envelope, _ in got] == [[1], [2]]
        assert a.peers.linked() == {"b": b.number}


class CountedNetwork(MemoryNetwork):
    """Remembers who was dialled."""

    def __init__(self) -> None:
        super().__init__()
        self.dialled: list[str] = []

    async def dial(self, address: str) -> trio.abc.HalfCloseableStream:
        self.dialled.append(address)
        return await super().dial(address)


async def test_whom_the_cluster_does_not_know_is_dialled_seldom_and_answered_at_once(
    autojump_clock: MockClock,
) -> None:
    network = CountedNetwork()
    async with linked(network, "a", "b") as [a, b]:
        a.peers.is_wanted = lambda name: False
        network.cut("b:1")
        await a.wait_linked()
        await trio.sleep(60)
        network.dialled.clear()
        await trio.sleep(600)
        assert 40 < network.dialled.count("b:1") < 80
        network.heal("b:1")
        network.cut("a:1")  # b dials anew
        network.heal("a:1")
        with trio.fail_after(1):
            await a.wait_linked(b.number)


async def test_who_is_listed_by_now_is_dialled_at_once(autojump_clock: MockClock) -> None:
    network = CountedNetwork()
    async with linked(network, "a", "b") as [a, b]:
        a.peers.is_wanted = lambda name: False
        network.cut("b:1")
        await trio.sleep(60)
        network.heal("b:1")
        a.peers.learn("b", "b:1")
        with trio.fail_after(1):
            await a.wait_linked(b.number)


async def test_questions_end_as_answer_refusal_or_elsewhere(autojump_clock: MockClock) -> None:
    async with linked(MemoryNetwork(), "a", "b") as [a, b]:

        async def double(asker: int, argument: object) -> object:
            assert isinstance(argument, int)
            if argument == 0:
                raise Refusal("not zero")
            if argument == 1:
                raise NotHere("ask another")
            return [asker, argument * 2]

        b.requests.handle("double", double, int)
        assert await a.requests.ask(b.number, "double", 21, 1) == [a.number, 42]
        with pytest.raises(Refusal, match="not zero"):
            await a.requests.ask(b.number, "double", 0, 1)
        with pytest.raises(NotHere):
            await a.requests.ask(b.number, "double", 1, 1)
        with pytest.raises(Refusal, match="does not answer"):
            await a.requests.ask(b.number, "nonsense", 0, 1)


async def test_an_answer_counts_only_from_the_node_that_was_asked(autojump_clock: MockClock) -> None:
    async with linked(MemoryNetwork(), "a", "b", "c") as [a, b, c]:

        async def slow(asker: int, argument: object) -> object:
            await trio.sleep(5)
            return "true"

        b.requests.handle("slow", slow, object)
        c.peers.on_up.clear()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep, 1)
            for number in range(9):
                c.peers.send(a.number, FrameKind.ANSWER, (number, "fine"), b"\xa5false")
            assert await a.requests.ask(b.number, "slow", None, 9, str) == "true"


async def test_questions_and_answers_of_another_shape_harm_only_who_asked(autojump_clock: MockClock) -> None:
    async with linked(MemoryNetwork(), "a", "b") as [a, b]:

        async def forever(asker: int, argument: object) -> object:
            await trio.sleep_forever()

        async def text(asker: int, argument: object) -> object:
            return "x"

        b.requests.handle("text", text, (int, str))
        b.requests.handle("forever", forever, object)
        assert await a.requests.ask(b.number, "text", [1, "y"], 1, str) == "x"
        for argument in (None, [1], [1, 2], {"a": 1}):
            with pytest.raises(Refusal, match=r"fields|in place of"):
                await a.requests.ask(b.number, "text", argument, 1)
        with pytest.raises(Malformed):
            await a.requests.ask(b.number, "text", [1, "y"], 1, int)
        with pytest.raises(Refusal, match="too slow"):
            await a.requests.ask(b.number, "forever", None, 100)


async def test_hostile_bytes_close_their_connection_are_counted_and_harm_nobody(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    network = MemoryNetwork()
    async with linked(network, "a", "b") as [a, b]:
        b.peers.handle_messages(lambda sender, frame: [*decode_messages(sender, frame)].clear())
        good = encode_hello(replace(a.peers.me, incarnation=7))
        rng = random.Random(1)
        nameless = encode_hello(replace(a.peers.me, node=0))
        endless = encode_hello(replace(a.peers.me, name="x" * 301))
        b.peers.handle(FrameKind.ROUTE, lambda sender, envelope, data: [].pop())
        attacks = [rng.randbytes(500), good + rng.randbytes(500), good + encode_frame(4, (1, 2))]
        attacks.append(encode_frame(FrameKind.HELLO, ("x" * 5000,))[:16])  # nobody waits for its envelope
        attacks += [nameless, endless, good + encode_frame(FrameKind.ASK, (1, 2))]
        attacks.append(good + encode_frame(FrameKind.ROUTE, (1,)))
        for attack in attacks:
            stream = await network.dial("b:1")
            await stream.send_all(attack)
            await stream.send_eof()
            while await stream.receive_some(1000):
                pass
        assert b.peers.bad_frames == len(attacks)
        assert [record.levelname for record in caplog.records].count("WARNING") == 1, "the log is not flooded"
        got = collect(b, FrameKind.ROUTE)
        a.peers.send(b.number, FrameKind.ROUTE, (1,))
        await trio.sleep(1)
        assert got == [(a.number, [1], b"")]


@pytest.mark.parametrize("kind", [0, FrameKind.HELLO, 255])
async def test_a_frame_of_a_kind_that_has_no_place_there_is_counted(
    autojump_clock: MockClock, kind: int
) -> None:
    network = MemoryNetwork()
    async with linked(network, "a", "b") as [a, b]:
        b.peers.handle_messages(lambda sender, frame: [*decode_messages(sender, frame)].clear())
        stream = await network.dial("b:1")
        await stream.send_all(encode_hello(a.peers.me) + encode_frame(kind, (1,)))
        await trio.sleep(1)
        assert b.peers.unknown_frames == 1


async def test_a_question_that_breaks_its_handler_is_refused_and_harms_nobody(
    autojump_clock: MockClock,
) -> None:
    async with linked(MemoryNetwork(), "a", "b") as [a, b]:

        async def third(asker: int, argument: object) -> object:
            raise PeerLost

        async def first(asker: int, argument: Any) -> object:
            return argument[0]

        async def never(asker: int, argument: object) -> object:
            return await trio.sleep_forever()

        for name, handler in (("third", third), ("first", first), ("never", never)):
            b.requests.handle(name, handler, object)
        for name, argument in (("third", 1), ("first", 1), ("first", []), ("first", {}), ("never", 1)):
            with pytest.raises(Refusal):
                await a.requests.ask(b.number, name, argument, 60)
        assert await a.requests.ask(b.number, "first", [7], 1) == 7


async def test_an_answer_to_an_earlier_process_is_nobodys(autojump_clock: MockClock) -> None:
    async with linked(MemoryNetwork(), "a", "b") as [a, b]:
        restarted = Requests(a.peers, 1000)
        a.peers.handle(FrameKind.ANSWER, restarted.on_answer)
        asked = collect(b, FrameKind.ASK)
        b.peers.handle(FrameKind.ASK, lambda sender, envelope, data: asked.append((sender, envelope, b"")))
        with trio.move_on_after(1):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(restarted.ask, b.number, "anything", 1, 60.0)
                await trio.sleep(0.5)
                b.peers.send(a.number, FrameKind.ANSWER, (1, "fine"), b"\x01")
        assert asked == [(a.number, [1000, "anything"], b"")]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"cluster_name": "other"}, "cluster 'other'"),
        ({"name": "stranger", "cluster": 0}, "no node 'stranger'"),
        ({"name": "b"}, "own name or id"),
        ({"cluster": 5}, "another cluster"),
        (
            {"version": 9, "oldest": PROTOCOL_VERSION + 1},
            f"it speaks protocols {PROTOCOL_VERSION + 1} to 9, this node 1 to {PROTOCOL_VERSION}",
        ),
    ],
)
async def test_a_greeting_that_does_not_fit_is_refused(change: dict[str, Any], reason: str) -> None:
    network = MemoryNetwork()
    b = LinkedNode(2, "b", {"a": "a:1", "b": "b:1"}, network)
    b.peers.me = replace(b.peers.me, cluster=4)
    remote = Hello(1, 1, 4, "test", 1, 1, "a", "a:1")
    for version in (1, 2, 3):
        assert b.peers.accept(replace(remote, version=version)) is None
    refused = b.peers.accept(replace(remote, **change))
    assert refused is not None and reason in refused


async def test_a_node_that_is_refused_never_takes_its_link_for_one_that_stands(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    network = MemoryNetwork()
    a = LinkedNode(1, "a", {"a": "a:1"}, network)  # it knows no b
    b = LinkedNode(2, "b", {"a": "a:1", "b": "b:1"}, network)
    ups: list[int] = []
    b.peers.on_up.append(ups.append)
    async with trio.open_nursery() as nursery:
        await nursery.start(a.peers.run, await network.listen("a:1"))
        await nursery.start(b.peers.run, await network.listen("b:1"))
        await trio.sleep(60)
        nursery.cancel_scope.cancel()
    assert ups == []
    warned = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warned) == 2, "each of them says it once"
    assert "no node 'b' is known here" in warned[0]


async def test_something_that_is_no_node_is_named_once_and_dialled_on(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """A client port where a peer port was meant greets first, and goes on doing so."""
    network = MemoryNetwork()
    a = LinkedNode(1, "a", {"a": "a:1", "b": "b:1"}, network)
    dialled = 0

    async def greet(stream: trio.abc.HalfCloseableStream) -> None:
        nonlocal dialled
        dialled += 1
        await stream.send_all(b'INFO {"server_id":"X","max_payload":1048576}\r\n')

    async with trio.open_nursery() as nursery:
        nursery.start_soon((await network.listen("b:1")).serve, greet)
        await nursery.start(a.peers.run, await network.listen("a:1"))
        await trio.sleep(60)
        nursery.cancel_scope.cancel()
    assert dialled > 20
    [warned] = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warned == "no link to b (b:1): what listens there is no node: peer frame has no magic"
