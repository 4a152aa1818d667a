"""The C protocol code gives, bit for bit, what its Python twin gives: also for cut or damaged traffic."""

from __future__ import annotations

import struct

from hypothesis import given, settings
from hypothesis import strategies as st

from trimaran.codec import _compiled_protocol as c
from trimaran.codec import _reference_protocol as python
from trimaran.codec.protocol_types import OP, Direction

CAPACITY = 64

fragments = st.sampled_from(
    [
        b"PUB a.b 5\r\nhello\r\n",
        b"pub a _INBOX.x.1 0\r\n\r\n",
        b"HPUB a.c r 23 25\r\nNATS/1.0\r\nNATS-x: 1\r\n\r\nhi\r\n",
        b"HPUB a.c 22 22\r\nNATS/1.0\r\nxnats-: 1\r\n\r\n",
        b"SUB a.* q 1\r\n",
        b"UNSUB 1 5\r\n",
        b'CONNECT {"verbose":false}\r\n',
        b"PING\r\n",
        b"PONG\n",
        b"+OK\r\n",
        b"-ERR 'Stale Connection'\r\n",
        b"INFO {} \r\n",
        b'MSG a.b 1 22\r\n{"stream":"S","seq":5}\r\n',
        b"HMSG a 1 r 16 16\r\nNATS/1.0 503\r\n\r\n\r\n",
        b"PUB a.b 999999999\r\n",
        b"PUB " + b"x" * 120 + b" 1\r\nx\r\n",
        b"PUB a b c d e f 1\r\nx\r\n",
        b"SUB  \t a\t1 \r\n",
        b" ",
        b"\r",
        b"\n",
        b"\0",
    ]
)


@st.composite
def traffic(draw: st.DrawFn) -> bytes:
    """Messages, cut off somewhere and with some bytes changed, or not."""
    wire = bytearray(b"".join(draw(st.lists(fragments, max_size=8))))
    for _ in range(draw(st.integers(0, 2)) if wire else 0):
        wire[draw(st.integers(0, len(wire) - 1))] = draw(st.sampled_from(b" \t\r\n0159PUBa.*>$\xff"))
    return bytes(wire[: draw(st.integers(0, len(wire)))] if draw(st.booleans()) else wire)


def scan_both(
    wire: bytes, direction: Direction, capacity: int = CAPACITY
) -> tuple[tuple[int, int, int], bytearray]:
    results = []
    for twin in (python, c):
        table = bytearray(OP.size * capacity)
        area = twin.ScanArea(bytearray(b"??" + wire), table)
        found = area.scan(2, 2 + len(wire), direction, 1000, 100)
        bodies = [area.body_bytes(0, last) for last in range(found[0] + 1)]
        results.append((found, table[: OP.size * found[0]], bodies))
    assert results[0] == results[1]
    return results[1][:2]


@given(wire=traffic(), direction=st.sampled_from(Direction), capacity=st.integers(1, 4))
@settings(max_examples=400, deadline=None)
def test_scans_are_equal(wire: bytes, direction: Direction, capacity: int) -> None:
    scan_both(wire, direction)
    scan_both(wire, direction, capacity)


@given(wire=traffic(), direction=st.sampled_from(Direction))
@settings(max_examples=40, deadline=None)
def test_a_split_at_any_byte_changes_nothing(wire: bytes, direction: Direction) -> None:
    (count, consumed, error), table = scan_both(wire, direction)
    kinds = [OP.unpack_from(table, OP.size * number)[0] for number in range(count)]
    for cut in range(len(wire) + 1):
        first = bytearray(OP.size * CAPACITY)
        ops, used, failed = c.ScanArea(bytearray(wire), first).scan(0, cut, direction, 1000, 100)
        found = [first[OP.size * number] for number in range(ops)]
        if not failed:
            rest = bytearray(OP.size * CAPACITY)
            area = c.ScanArea(bytearray(wire), rest)
            more, used_more, failed = area.scan(used, len(wire), direction, 1000, 100)
            found += [rest[OP.size * number] for number in range(more)]
            used += used_more
        assert (found, used, failed) == (kinds, consumed, error)


subjects = st.lists(st.sampled_from([b"a", b"bc", b"", b"*", b">", b"$KV", b"a*"]), max_size=4).map(b".".join)


@given(subject=subjects, filters=st.lists(subjects.filter(bool), max_size=3))
@settings(max_examples=400, deadline=None)
def test_matches_are_equal(subject: bytes, filters: list[bytes]) -> None:
    valid = [name for name in filters if all(name.split(b".")) and b">" not in name.split(b".")[:-1]]
    compiled = b"".join(struct.pack("<H", len(name)) + name for name in valid)
    assert c.matches(subject, compiled) == python.matches(subject, compiled)


@given(wire=traffic(), max_bytes=st.integers(0, 400), max_count=st.integers(1, 5))
@settings(max_examples=200, deadline=None)
def test_chunks_are_equal(wire: bytes, max_bytes: int, max_count: int) -> None:
    (count, _, _), table = scan_both(wire, Direction.SERVER)
    compiled = struct.pack("<H", 3) + b"a.>" + struct.pack("<H", 1) + b"a"
    results = []
    for twin in (python, c):
        publishes = twin.Publishes(max_bytes, max_count)
        at, story = 0, []
        while at < count:
            taken = publishes.append(twin.ScanArea(bytearray(b"??" + wire), table), 2, at, count, compiled)
            story.append((taken, publishes.full, publishes.count, publishes.encoded_size))
            at += taken + 1
            if publishes.count:
                story.append(publishes.take())
        results.append(story)
    assert results[0] == results[1]


def test_areas_grow_for_many_and_for_large_messages() -> None:
    wire = b"PUB a r.%d 3\r\nabc\r\n" * 2000 % tuple(range(2000)) + b"PUB a 300000\r\n%b\r\n" % bytes(300000)
    table = bytearray(OP.size * 3000)
    count, used, error = c.ScanArea(bytearray(wire), table).scan(0, len(wire), 0, 1 << 20, 4096)
    assert (count, used, error) == (2001, len(wire), 0)
    taken = []
    for twin in (python, c):
        publishes = twin.Publishes(1 << 20, 65535)
        area = twin.ScanArea(bytearray(wire), table)
        assert publishes.append(area, 0, 0, count, b"\x01\0a") == count
        taken.append(publishes.take())
    assert taken[0] == taken[1]


replies = st.lists(
    st.sampled_from([b"", b"p.1", b"p.", b"p.1.2", b"q.1", b"p", b"p.abc"]), min_size=1, max_size=8
)


@given(replies=replies, data=st.data())
@settings(max_examples=200, deadline=None)
def test_acknowledgements_are_equal(replies: list[bytes], data: st.DataObject) -> None:
    results = data.draw(st.lists(st.integers(0, (3 << 56) - 1), min_size=len(replies), max_size=len(replies)))
    start = data.draw(st.integers(0, len(replies)))
    count = data.draw(st.integers(0, len(replies) - start))
    ends = [sum(map(len, replies[: number + 1])) for number in range(len(replies))]
    arguments = (
        b"".join(replies),
        struct.pack(f"<{len(ends)}I", *ends),
        start,
        count,
        struct.pack(f"<{len(results)}Q", *results),
        b'{"stream":"S","seq":',
        b"p.",
        b"12",
    )
    outs = [bytearray(b"x"), bytearray(b"x")]
    done = [twin.format_acks(*arguments, out) for twin, out in zip((python, c), outs, strict=True)]
    assert done[0] == done[1]
    assert outs[0] == outs[1]


answers = st.sampled_from(
    [
        b'{"stream":"S","seq":5}',
        b'{"stream":"S","seq":5,"duplicate": true}',
        b'{"error":{"code":503},"stream":"S","seq":0}',
        b"",
    ]
)


@given(
    answered=st.lists(st.tuples(st.integers(0, 9), answers, st.integers(0, 1 << 40)), max_size=20),
    sent_at=st.integers(1, 1 << 40),
)
@settings(max_examples=150, deadline=None)
def test_load_generation_is_equal(answered: list[tuple[int, bytes, int]], sent_at: int) -> None:
    message = b"PUB s inbox.0000000000 1\r\nx\r\n"
    stories = []
    for twin in (python, c):
        sent = twin.Sent(message, message.index(b"0"), len(b"inbox."), 5)
        counts = twin.AckCounts()
        story: list[object] = [bytes(sent.format(3, sent_at)), bytes(sent.format(2, sent_at + 5))]
        for number, body, later in answered:
            wire = b"MSG inbox.%010d 1 %d\r\n%b\r\nPING\r\nMSG inbox.x 1 0\r\n\r\n" % (
                number,
                len(body),
                body,
            )
            area = twin.ScanArea(bytearray(wire), bytearray(OP.size * 4))
            count, _, _ = area.scan(0, len(wire), Direction.CLIENT, 1000, 4096)
            assert count == 3
            story.append(sent.count_acks(area, 0, count, sent_at + later, counts))
            story.append(counts.first_error)
        story += [counts.stored, counts.duplicates, counts.errors, counts.strays, counts.latency_max]
        stories.append([*story, *counts.latencies])
    assert stories[0] == stories[1]
    assert b"inbox.0000000004 1" in stories[1][1]


def test_every_outstanding_message_is_answered_once() -> None:
    sent = c.Sent(b"PUB s i.0000000000 0\r\n\r\n", 8, 2, 4)
    counts = c.AckCounts()
    sent.format(2, 1000)
    wire = b'MSG i.0000000001 1 22\r\n{"stream":"S","seq":5}\r\n'
    area = c.ScanArea(bytearray(wire), bytearray(OP.size))
    assert area.scan(0, len(wire), Direction.CLIENT, 1000, 4096)[0] == 1
    assert [sent.count_acks(area, 0, 1, 2000, counts) for _ in range(2)] == [1, 0]
    assert (counts.stored, counts.strays, counts.latency_max) == (1, 1, 1000)
    shift = (1000).bit_length() - 6
    assert counts.latencies[32 * shift + (1000 >> shift)] == 1
