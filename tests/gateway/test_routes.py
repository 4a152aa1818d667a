"""Several gateways as one: interest travels, messages cross a link once and only where somebody listens."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.gateway.fakes import FakeNode, ask, link, running
from trimaran.actors.gateway.routes import (
    FRAME_VERSION,
    SET_ITEMS,
    BadFrame,
    Routed,
    decode_frame,
    encode_message,
)

small = st.binary(max_size=40)
words = small.filter(lambda text: text.split() == [text])
messages = st.builds(
    lambda subject, reply, headers, payload, plain, queues, to: Routed(
        subject, reply, len(headers), headers + payload, plain, tuple(queues), to
    ),
    words,
    words | st.just(b""),
    small,
    small,
    st.booleans(),
    st.lists(small, max_size=3),
    words | st.just(b""),
)


@given(st.lists(messages, max_size=4))
def test_a_frame_gives_back_its_messages(sent: list[Routed]) -> None:
    assert decode_frame(FRAME_VERSION + b"".join(map(encode_message, sent))) == sent


@pytest.mark.parametrize("subject", [b"", b"a b", b"a\r\nPING", b"a\t"])
def test_a_subject_that_would_forge_a_line_for_clients_is_no_message(subject: bytes) -> None:
    forged = Routed(subject, b"", 0, b"", True, ())
    with pytest.raises(BadFrame):
        decode_frame(FRAME_VERSION + encode_message(forged))
    if subject:
        with pytest.raises(BadFrame):
            decode_frame(FRAME_VERSION + encode_message(Routed(b"a", subject, 0, b"", True, ())))


@given(messages, st.data())
def test_a_frame_cut_or_flipped_anywhere_is_refused_or_still_well_formed(
    message: Routed, data: st.DataObject
) -> None:
    frame = bytearray(FRAME_VERSION + encode_message(message))
    cut = data.draw(st.integers(5, len(frame) - 1))
    with pytest.raises(BadFrame):
        decode_frame(frame[:cut])
    position = data.draw(st.integers(0, len(frame) - 1))
    frame[position] ^= 1 << data.draw(st.integers(0, 7))
    try:
        decoded = decode_frame(frame)
    except BadFrame:
        return
    assert sum(len(one.body) + len(one.subject) + len(one.reply) for one in decoded) <= len(frame)


@pytest.mark.parametrize(
    "record",
    [
        struct.pack("<IIIHHBxH", 1, 2, 0, 1, 0, 1, 0) + b"ax",  # more headers than body
        struct.pack("<IIIHHBxH", 1, 0, 0, 1, 0, 2, 0) + b"ax",  # a flag that isn't one
        struct.pack("<IIIHHBxH", 1, 0, 1, 1, 0, 1, 0) + b"aqx",  # half a queue name's length
        struct.pack("<IIIHHBxH", 1, 0, 3, 1, 0, 1, 0) + b"a\x02\x00qx",  # a queue name cut short
        struct.pack("<IIIHHBxH", 0xFFFFFFFF, 0, 0xFFFFFFFF, 1, 0, 1, 0) + b"ax",  # sizes beyond the frame
    ],
)
def test_a_frame_that_contradicts_itself_is_refused(record: bytes) -> None:
    with pytest.raises(BadFrame):
        decode_frame(FRAME_VERSION + record)


def node(number: int) -> FakeNode:
    return FakeNode(node_id=number, node_name=f"n{number}")


async def test_a_message_reaches_subscribers_on_other_nodes_with_headers_and_reply() -> None:
    async with running(node(1)) as one, running(node(2)) as two:
        link(one, two)
        listener, publisher = await two.client(), await one.client()
        await ask(listener, b"SUB a.* 3\r\n")
        await ask(publisher, b"HPUB a.b r 12 14\r\nNATS/1.0\r\n\r\nhi\r\n")
        assert await listener.receive_until(b"hi\r\n") == b"HMSG a.b 3 r 12 14\r\nNATS/1.0\r\n\r\nhi\r\n"


async def test_a_message_crosses_a_link_once_and_only_where_somebody_listens() -> None:
    async with running(node(1)) as one, running(node(2)) as two, running(node(3)) as three:
        for pair in ((one, two), (one, three), (two, three)):
            link(*pair)
        first, second, publisher = await two.client(), await two.client(), await one.client()
        for peer in (first, second):
            await ask(peer, b"SUB a.b 1\r\nSUB a.> 2\r\n")
        await ask(publisher, b"PUB a.b 1\r\nx\r\nPUB z 1\r\ny\r\n")
        assert (await ask(first, b"")).count(b"MSG") == (await ask(second, b"")).count(b"MSG") == 2
        assert [peer for peer, _ in one.node.routes] == [2]
        assert decode_frame(one.node.routes[0][1]) == [Routed(b"a.b", b"", 0, b"x", True, ())]
        assert not two.node.routes and not three.node.routes


async def test_a_queue_group_across_nodes_gives_each_message_to_one_member() -> None:
    async with running(node(1)) as one, running(node(2)) as two, running(node(3)) as three:
        for pair in ((one, two), (one, three), (two, three)):
            link(*pair)
        members = [await up.client() for up in (one, two, two, three)]
        for member in members:
            await ask(member, b"SUB a q 1\r\n")
        publisher = await one.client()
        await ask(publisher, b"PUB a 1\r\nx\r\n" * 400)
        counts = [(await ask(member, b"")).count(b"MSG a 1 1") for member in members]
        assert sum(counts) == 400 and min(counts) > 50
        # Each member has the same chance: half of them are on the second node.
        assert 150 < counts[1] + counts[2] < 250


async def test_a_routed_message_goes_to_those_it_names_alone() -> None:
    async with running(node(1)) as one:
        peer = await one.client()
        await ask(peer, b"SUB a 1\r\nSUB a q 2\r\nSUB a r 3\r\n")
        for plain, queues, sids in (
            (False, (b"q",), {b"2"}),
            (True, (), {b"1"}),
            (True, (b"r",), {b"1", b"3"}),
        ):
            frame = FRAME_VERSION + encode_message(Routed(b"a", b"", 0, b"x", plain, queues))
            one.gateway.on_route(2, frame)
            got = await ask(peer, b"")
            assert {line.split()[2] for line in got.split(b"\r\n") if line.startswith(b"MSG")} == sids


async def test_request_and_reply_across_nodes_without_no_responders() -> None:
    async with running(node(1)) as one, running(node(2)) as two:
        link(one, two)
        service, asker = await two.client(), await one.client()
        await ask(service, b"SUB ask 1\r\n")
        asker.send(b"SUB i.* 1\r\nPUB ask i.1 1\r\n?\r\n")
        assert await service.receive_until(b"?\r\n") == b"MSG ask 1 i.1 1\r\n?\r\n"
        await ask(service, b"PUB i.1 1\r\n!\r\n")
        assert await asker.receive_until(b"!\r\n") == b"MSG i.1 1 1\r\n!\r\n"


async def test_no_responders_when_the_only_subscriber_elsewhere_is_gone() -> None:
    async with running(node(1)) as one, running(node(2)) as two:
        link(one, two)
        service, asker = await two.client(), await one.client()
        await ask(service, b"SUB ask 1\r\n")
        await ask(service, b"UNSUB 1\r\n")
        assert b"NATS/1.0 503" in await ask(asker, b"SUB i.* 1\r\nPUB ask i.1 1\r\n?\r\n")


async def test_subscriptions_from_before_the_link_count_and_end_with_it() -> None:
    async with running(node(1)) as one, running(node(2)) as two:
        listener, publisher = await two.client(), await one.client()
        await ask(listener, b"SUB a 1\r\n")
        link(one, two)
        await ask(publisher, b"PUB a 1\r\nx\r\n")
        assert await ask(listener, b"") == b"MSG a 1 1\r\nx\r\n"
        one.gateway.on_peer_down(2)
        assert b"503" in await ask(publisher, b"SUB i.* 1\r\nPUB a i.1 1\r\nx\r\n")


async def test_a_full_set_larger_than_one_part_arrives_whole() -> None:
    async with running(node(1)) as one, running(node(2)) as two:
        listener, publisher = await two.client(), await one.client()
        count = SET_ITEMS + 10
        await ask(listener, b"".join(b"SUB a.%d %d\r\n" % (n, n) for n in range(count)))
        link(one, two)
        assert len(one.gateway.table) == count
        await ask(publisher, b"PUB a.%d 1\r\nx\r\n" % (count - 1))
        assert (await ask(listener, b"")).startswith(b"MSG a.%d " % (count - 1))


async def test_lost_interest_is_noticed_and_mended() -> None:
    async with running(node(1)) as one, running(node(2)) as two:
        link(one, two)
        listener = await two.client()
        two.node.links.clear()
        await ask(listener, b"SUB lost 1\r\n")
        two.node.links[1] = one.gateway
        assert not one.gateway.table.match(b"lost")
        await ask(listener, b"SUB seen 2\r\n")
        assert one.gateway.table.match(b"lost") and one.gateway.table.match(b"seen")


async def test_a_lost_last_change_is_mended_by_the_regular_look() -> None:
    async with running(node(1)) as one, running(node(2)) as two:
        link(one, two)
        listener = await two.client()
        two.node.links.clear()
        await ask(listener, b"SUB lost 1\r\n")
        two.node.links[1] = one.gateway
        two.gateway.routes.refresh()
        assert one.gateway.table.match(b"lost")


async def test_interest_that_comes_before_the_link_is_known_to_be_up_is_asked_for_again() -> None:
    async with running(node(1)) as one, running(node(2)) as two:
        await ask(await two.client(), b"SUB a 1\r\n")
        one.node.links[2], two.node.links[1] = two.gateway, one.gateway
        two.gateway.on_peer_up(1)
        assert not one.gateway.table.match(b"a")
        one.gateway.on_peer_up(2)
        assert one.gateway.table.match(b"a")


async def test_many_queue_groups_at_once_cross_a_link() -> None:
    async with running(node(1)) as one, running(node(2)) as two:
        link(one, two)
        listener, publisher = await two.client(), await one.client()
        name = b"q" * 1000
        await ask(listener, b"".join(b"SUB a %b%d %d\r\n" % (name, n, n) for n in range(200)))
        await ask(publisher, b"PUB a 1\r\nx\r\n")
        assert (await ask(listener, b"")).count(b"MSG a ") == 200


async def test_acknowledgements_also_reach_a_subscriber_elsewhere() -> None:
    first = node(1)
    first.add_stream("S", "s.>")
    async with running(first) as one, running(node(2)) as two:
        link(one, two)
        peer, spy = await one.client(), await two.client()
        await ask(peer, b"SUB i.* 1\r\nPUB s.1 i.1 1\r\nx\r\n")
        await ask(spy, b"SUB i.> 9\r\n")
        assert b'"seq":2' in await ask(peer, b"PUB s.1 i.2 1\r\nx\r\n")
        assert b'MSG i.2 9 22\r\n{"stream":"S","seq":2}' in await ask(spy, b"")


async def test_a_full_link_drops_and_counts() -> None:
    async with running(node(1)) as one, running(node(2)) as two:
        link(one, two)
        listener, publisher = await two.client(), await one.client()
        await ask(listener, b"SUB a 1\r\n")
        one.node.link_up = False
        await ask(publisher, b"PUB a 1\r\nx\r\n" * 3)
        assert one.gateway.statistics().dropped == 3


@pytest.mark.parametrize(
    "data", [(), ("set",), ("change", "x", []), ("set", 1, 0, 1, 5), (1, 2), ("again", 1), ("unheard", 1)]
)
async def test_a_malformed_interest_frame_is_counted_and_changes_nothing(data: tuple[object, ...]) -> None:
    async with running(node(1)) as one, running(node(2)) as two:
        link(one, two)
        one.gateway.on_interest(2, data)
        assert one.gateway.statistics().bad_frames == 1 and len(one.gateway.table) == 0


async def test_a_malformed_route_frame_is_counted_and_delivers_nothing() -> None:
    async with running(node(1)) as one:
        peer = await one.client()
        await ask(peer, b"SUB > 1\r\n")
        one.gateway.on_route(2, b"\x01\x00\x00\x00")
        assert one.gateway.statistics().bad_frames == 1 and await ask(peer, b"") == b""
