"""Whatever clients send, in whatever pieces: the gateway goes on, and serves the others."""

import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.gateway.fakes import CONNECT, FakeNode, ask, running

words = st.sampled_from(
    [b"s.1", b"s.>", b"a", b"a.*", b">", b"i.1", b"i.*", b"q", b"1", b"2", b"..", b"$JS.API.INFO"]
)
sizes = st.integers(0, 30)


def publish(verb: bytes, subject: bytes, reply: bytes, size: int, body: bytes, headers: int) -> bytes:
    numbers = b"%d %d" % (headers, size) if verb == b"HPUB" else b"%d" % size
    return b"%b %b %b %b\r\n%b\r\n" % (verb, subject, reply, numbers, body.ljust(size, b"x")[:size])


operations = st.one_of(
    st.builds(
        publish, st.sampled_from([b"PUB", b"HPUB"]), words, words, sizes, st.binary(max_size=30), sizes
    ),
    st.builds(lambda *parts: b"SUB " + b" ".join(parts) + b"\r\n", words, words, words),
    st.builds(lambda *parts: b"SUB " + b" ".join(parts) + b"\r\n", words, words),
    st.builds(lambda sid, limit: b"UNSUB %b %d\r\n" % (sid, limit), words, st.integers(0, 3)),
    st.sampled_from([b"PING\r\n", b"PONG\r\n", b"+OK\r\n", b"INFO {}\r\n", CONNECT, b"CONNECT 5\r\n"]),
    st.builds(lambda text: b"CONNECT {%b}\r\n" % text, st.binary(max_size=20)),
    st.binary(max_size=40),
)
steps = st.lists(
    st.tuples(st.integers(0, 2), st.lists(operations, min_size=1, max_size=4), st.integers(1, 60))
)


@settings(max_examples=80, deadline=None)
@given(steps)
def test_any_input_leaves_the_gateway_serving(steps: list[tuple[int, list[bytes], int]]) -> None:
    async def story() -> None:
        node = FakeNode()
        node.add_stream("S", "s.>")
        async with running(node) as up:
            honest = await up.client()
            peers = [await up.client() for _ in range(3)]
            for number, data, cut in steps:
                if peers[number].closed:
                    peers[number] = await up.client()
                whole = b"".join(data)
                for piece in (whole[:cut], whole[cut:]):
                    peers[number].send(piece)
                    await trio.testing.wait_all_tasks_blocked()
            got = await ask(honest, b"SUB honest.* 1\r\nPUB s.1 honest.1 1\r\nx\r\n")
            assert b"MSG honest.1 1 " in got
            for peer in peers:
                peer.close()
            await trio.testing.wait_all_tasks_blocked()
            assert up.gateway.statistics().connections == 1 and len(up.gateway.table) == 1

    trio.run(story)
