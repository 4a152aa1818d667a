"""The NATS protocol: what a scanner finds, what a publish buffer takes, what acknowledgements look like."""

from __future__ import annotations

import json
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimaran.codec import EntryType, make_chunk
from trimaran.codec.protocol import (
    Direction,
    OpKind,
    ProtocolError,
    PublishBuffer,
    Scanner,
    StreamFilter,
    encode_publish,
    format_acks,
    valid_publish_subject,
    valid_subject,
)

tokens = st.text("abcXYZ019-_$/", min_size=1, max_size=6)
subjects = st.lists(tokens, min_size=1, max_size=4).map(lambda words: ".".join(words).encode())
payloads = st.binary(max_size=60)
blanks = st.sampled_from([b" ", b"\t", b"  ", b" \t "])
line_ends = st.sampled_from([b"\r\n", b"\r\n", b"\n"])

Parts = tuple[OpKind, bytes, bytes, bytes, bytes, bytes]
"""kind, subject, reply or queue or maximum, args, headers, payload"""


@st.composite
def operations(draw: st.DrawFn, direction: Direction) -> tuple[bytes, Parts]:
    """One message on the wire, and what a scanner has to say about it."""
    if direction is Direction.SERVER:
        kinds = [OpKind.PUB, OpKind.HPUB, OpKind.SUB, OpKind.UNSUB, OpKind.CONNECT]
    else:
        kinds = [OpKind.MSG, OpKind.HMSG, OpKind.INFO]
    kind = draw(st.sampled_from([*kinds, OpKind.PING, OpKind.PONG, OpKind.PLUS_OK, OpKind.ERR]))
    verb = {OpKind.PLUS_OK: "+OK", OpKind.ERR: "-ERR"}.get(kind, kind.name)
    words = [draw(st.sampled_from([verb, verb.lower(), verb.title()])).encode()]
    subject = reply = args = headers = payload = b""
    if kind in (OpKind.CONNECT, OpKind.INFO, OpKind.ERR):
        args = draw(st.sampled_from([b'{"verbose": false}', b"{}", b"'Stale Connection'"]))
        words.append(args)
    elif kind == OpKind.UNSUB:
        args, reply = draw(tokens).encode(), draw(st.sampled_from([b"", b"7", b"123"]))
        words += [args, reply] if reply else [args]
    elif kind == OpKind.SUB:
        subject, args, reply = draw(subjects), draw(tokens).encode(), draw(st.sampled_from([b"", b"q"]))
        words += [subject, reply, args] if reply else [subject, args]
    elif kind not in (OpKind.PING, OpKind.PONG, OpKind.PLUS_OK):
        subject, reply, payload = draw(subjects), draw(st.just(b"") | subjects), draw(payloads)
        words.append(subject)
        if kind in (OpKind.MSG, OpKind.HMSG):
            args = draw(tokens).encode()
            words.append(args)
        if reply:
            words.append(reply)
        if kind in (OpKind.HPUB, OpKind.HMSG):
            headers = (
                b"NATS/1.0\r\n" + draw(st.sampled_from([b"", b"A: b\r\n", b"nAts-Msg-Id: x\r\n"])) + b"\r\n"
            )
            words.append(b"%d" % len(headers))
        words.append(b"%d" % len(headers + payload))
    wire = draw(blanks).join(words) + draw(line_ends)
    if kind in (OpKind.PUB, OpKind.HPUB, OpKind.MSG, OpKind.HMSG):
        wire += headers + payload + b"\r\n"
    return wire, (kind, subject, reply, args, headers, payload)


def parts(scanner: Scanner, number: int) -> Parts:
    return (
        OpKind(scanner.kind(number)),
        scanner.subject(number),
        scanner.reply(number),
        scanner.args(number),
        scanner.headers(number),
        scanner.payload(number),
    )


def scan_all(scanner: Scanner) -> list[Parts]:
    found: list[Parts] = []
    while count := scanner.scan():
        found += [parts(scanner, number) for number in range(count)]
    return found


@pytest.mark.parametrize("direction", Direction)
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_a_scanner_finds_what_was_sent_however_it_was_split(
    direction: Direction, data: st.DataObject
) -> None:
    sent = data.draw(st.lists(operations(direction), max_size=12))
    wire = b"".join(message for message, _ in sent)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(wire)), max_size=6)))
    scanner = Scanner(direction)
    found: list[Parts] = []
    for begin, end in zip([0, *cuts], [*cuts, len(wire)], strict=True):
        scanner.feed(wire[begin:end])
        found += scan_all(scanner)
    assert found == [expected for _, expected in sent]
    assert scanner.pending == 0


def test_one_byte_at_a_time_gives_the_same_operations() -> None:
    wire = (
        b'CONNECT {"verbose":false}\r\nping\r\nSUB a.* q 1\r\nUNSUB 1 5\r\nPUB a.b r.1 5\r\nhello\r\n'
        b"HPUB a.c 23 25\r\nNATS/1.0\r\nNats-x: 1\r\n\r\nhi\r\nPUB x 0\r\n\r\nPING\r\n"
    )
    whole, single = Scanner(), Scanner()
    whole.feed(wire)
    found: list[Parts] = []
    for at in range(len(wire)):
        single.feed(wire[at : at + 1])
        found += scan_all(single)
    assert found == scan_all(whole)
    assert [kind for kind, *_ in found] == [
        OpKind.CONNECT,
        OpKind.PING,
        OpKind.SUB,
        OpKind.UNSUB,
        OpKind.PUB,
        OpKind.HPUB,
        OpKind.PUB,
        OpKind.PING,
    ]


def test_every_truncation_gives_a_prefix_and_no_error() -> None:
    messages = [
        b"PUB a.b r.1 5\r\nhello\r\n",
        b"SUB a.* q 1\r\n",
        b"HPUB a.c 23 25\r\nNATS/1.0\r\nNats-x: 1\r\n\r\nhi\r\n",
    ]
    wire = b"".join(messages)
    ends = [sum(map(len, messages[:count])) for count in range(len(messages) + 1)]
    for size in range(len(wire) + 1):
        scanner = Scanner()
        scanner.feed(wire[:size])
        assert len(scan_all(scanner)) == sum(end <= size for end in ends) - 1


# What a nats-server 2.15 says to these (-ERR and close), but 'Parser Error', where it closes without a word.
REFUSED = [
    (b"FOO\r\n", "Unknown Protocol Operation"),
    (b"FO", "Unknown Protocol Operation"),
    (b"\r\n", "Unknown Protocol Operation"),
    (b"\n", "Unknown Protocol Operation"),
    (b" PUB a 1\r\nx\r\n", "Unknown Protocol Operation"),
    (b"PIN\r\n", "Unknown Protocol Operation"),
    (b"MSG a 1 1\r\nx\r\n", "Unknown Protocol Operation"),
    (b"A+ x\r\n", "Unknown Protocol Operation"),
    (b"PUB\r\n", "Unknown Protocol Operation"),
    (b"SUB\r\n", "Unknown Protocol Operation"),
    (b"UNSUB\r\n", "Unknown Protocol Operation"),
    (b"PUB a 1\r\nxy\r\n", "Unknown Protocol Operation"),
    (b"PUB a 1\r\nx\rz", "Unknown Protocol Operation"),
    (b"PUB a 1\r\nx\n", "Unknown Protocol Operation"),
    (b"PUB a 1048577\r\n", "Maximum Payload Violation"),
    (b"PUB a 999999999\r\n", "Maximum Payload Violation"),
    (b"HPUB a 12 1048577\r\n", "Maximum Payload Violation"),
    (b"SUB " + b"a" * 4095 + b" 1\r\n", "maximum control line exceeded"),
    (b"SUB " + b"a" * 4097, "maximum control line exceeded"),
    (b"PUB " + b"a" * 4095 + b" 1\r\nx\r\n", "maximum control line exceeded"),
    (b"PING" + b"x" * 9000, "maximum control line exceeded"),
    (b"SUB" + b" " * 9000, "maximum control line exceeded"),
    (b"CONNECT {" + b" " * 5000, "maximum control line exceeded"),
    (b"PUB \r\n", "Parser Error"),
    (b"PUB a\r\n", "Parser Error"),
    (b"PUB a b c 1\r\nx\r\n", "Parser Error"),
    (b"PUB a -1\r\n", "Parser Error"),
    (b"PUB a +1\r\n", "Parser Error"),
    (b"PUB a x\r\n", "Parser Error"),
    (b"PUB a 1:\r\n", "Parser Error"),
    (b"PUB a 1/\r\n", "Parser Error"),
    (b"PUB a 9999999999\r\n", "Parser Error"),
    (b"PUB a 4294967297\r\nx\r\n", "Parser Error"),
    (b"PUB a 99999999999999999999999\r\n", "Parser Error"),
    (b"PUB a\rb 1\r\nx\r\n", "Parser Error"),
    (b"HPUB a 14 13\r\n", "Parser Error"),
    (b"HPUB a 12\r\n", "Parser Error"),
    (b"HPUB a x 13\r\n", "Parser Error"),
    (b"HPUB a -1 6\r\n", "Parser Error"),
    (b"HPUB a b c 12 13\r\n", "Parser Error"),
    (b"SUB a\r\n", "Parser Error"),
    (b"SUB a q 1 2\r\n", "Parser Error"),
    (b"UNSUB \r\n", "Parser Error"),
    (b"UNSUB 1 5 6\r\n", "Parser Error"),
]


@pytest.mark.parametrize(("wire", "text"), REFUSED)
def test_what_is_refused_and_how(wire: bytes, text: str) -> None:
    scanner = Scanner()
    scanner.feed(wire)
    with pytest.raises(ProtocolError) as caught:
        scan_all(scanner)
    assert caught.value.text == text
    assert caught.value.close
    assert caught.value.line == f"-ERR '{text}'\r\n".encode()


@pytest.mark.parametrize(
    "wire",
    [
        b"PING x x x\r\n",
        b"pInGX\n",
        b"PUB a 01\r\nx\r\n",
        b"PUB\ta\t1\r\nx\r\n",
        b"PUB  a  1  \r\nx\r\n",
        b"PUB a 1\nx\r\n",
        b"HPUB a 0 1\r\nx\r\n",
        b"CONNECT{}\r\n",
        b"INFO {}\r\n",
        b"+OK\r\n",
        b"SUB " + b"a" * 4094 + b" 1\r\n",
        b"PUB " + b"a" * 4094 + b" 1\r\nx\r\n",
        b"UNSUB 1 x\r\n",
    ],
)
def test_what_is_tolerated_as_the_reference_server_does(wire: bytes) -> None:
    scanner = Scanner()
    scanner.feed(wire + b"PING\r\n")
    assert len(scan_all(scanner)) == 2


def test_operations_before_an_error_come_first_and_the_error_stays() -> None:
    scanner = Scanner()
    scanner.feed(b"PING\r\nPONG\r\nNONSENSE\r\nPING\r\n")
    assert scanner.scan() == 2
    assert [scanner.kind(0), scanner.kind(1)] == [OpKind.PING, OpKind.PONG]
    for _ in range(2):
        with pytest.raises(ProtocolError, match="Unknown Protocol Operation"):
            scanner.scan()


def test_the_client_side_refuses_what_only_clients_send() -> None:
    scanner = Scanner(Direction.CLIENT)
    scanner.feed(b"PUB a 1\r\nx\r\n")
    with pytest.raises(ProtocolError):
        scanner.scan()


def test_accessors_of_a_subscription_and_its_end() -> None:
    scanner = Scanner()
    scanner.feed(
        b"SUB orders.> workers s1\r\nUNSUB s1 20\r\nUNSUB s2\r\nUNSUB s3 x\r\n-ERR 'Slow Consumer'\r\n"
    )
    assert scanner.scan() == 5
    assert (scanner.subject(0), scanner.queue(0), scanner.sid(0)) == (b"orders.>", b"workers", b"s1")
    assert [(scanner.sid(number), scanner.maximum(number)) for number in (1, 2, 3)] == [
        (b"s1", 20),
        (b"s2", 0),
        (b"s3", 0),
    ]
    assert scanner.text(4) == "Slow Consumer"


def test_operations_stay_readable_while_more_is_received() -> None:
    scanner = Scanner()
    scanner.feed(b"PING\r\n" * 100)
    while scanner.scan():
        pass
    scanner.feed(b"PUB a 3\r\none\r\nPUB b 3\r\ntwo\r\nPUB c 5000\r\n")
    assert scanner.scan() == 2
    scanner.feed(b"x" * 5000 + b"\r\n")
    assert [scanner.payload(number) for number in (0, 1)] == [b"one", b"two"]
    assert bytes(scanner.body(1)) == b"two"
    assert scanner.scan() == 1
    assert scanner.payload(0) == b"x" * 5000


def test_a_large_message_grows_the_buffer_and_shrink_gives_it_back() -> None:
    scanner = Scanner()
    scanner.feed(b"PUB a 1048576\r\n" + b"x" * 1048576 + b"\r\nPI")
    assert scanner.scan() == 1
    assert scanner.body_size(0) == 1048576
    assert scanner.scan() == 0
    scanner.shrink()
    assert scanner.pending == 2
    scanner.feed(b"NG\r\n")
    assert scanner.scan() == 1
    scanner.shrink()
    assert scanner.pending == 0
    assert len(scanner.writable()) == Scanner.FIRST_CAPACITY


@pytest.mark.parametrize("payload", [100, 116, 117])
def test_a_buffer_that_is_always_filled_grows_so_that_reads_are_few(payload: int) -> None:
    message = b"PUB a %d\r\n%b\r\n" % (payload, bytes(payload))
    stream, scanner, reads = memoryview(message * 30_000), Scanner(), []
    while stream:
        room = scanner.writable()
        size = min(len(room), len(stream))
        room[:size] = stream[:size]
        scanner.wrote(size)
        stream = stream[size:]
        reads.append(size)
        while scanner.scan():
            pass
    assert max(reads) <= Scanner.READ_SIZE
    assert len(reads) < 30


def test_more_operations_than_the_table_holds_come_in_several_scans() -> None:
    scanner = Scanner()
    scanner.feed(b"PING\r\n" * 100_000)
    counts = []
    while count := scanner.scan():
        counts.append(count)
    assert sum(counts) == 100_000
    assert max(counts) == Scanner.MAX_OPS


@given(data=st.binary(max_size=200))
@settings(max_examples=200, deadline=None)
def test_arbitrary_bytes_give_operations_or_a_protocol_error(data: bytes) -> None:
    for direction in Direction:
        scanner = Scanner(direction)
        scanner.feed(data)
        try:
            scan_all(scanner)
        except ProtocolError as error:
            assert error.text in {text for _, text in REFUSED}


def test_limits_are_checked() -> None:
    with pytest.raises(ValueError, match="max_control_line"):
        Scanner(max_control_line=65001)
    with pytest.raises(ValueError, match="max_payload"):
        Scanner(max_payload=-1)
    with pytest.raises(ValueError, match="were not received"):
        Scanner().wrote(Scanner.FIRST_CAPACITY + 1)


# Subjects


@pytest.mark.parametrize(
    ("subject", "subscribe", "publish"),
    [
        (b"a", True, True),
        (b"a.b.c", True, True),
        (b"a*b.>c", True, True),
        (b"a.*", True, False),
        (b"a.>", True, False),
        (b">", True, False),
        (b"", False, False),
        (b".a", False, False),
        (b"a.", False, False),
        (b"a..b", False, False),
        (b"a.>.b", False, False),
        (b"a b", False, False),
        (b"a\r\nb", False, False),
    ],
)
def test_valid_subjects(subject: bytes, subscribe: bool, publish: bool) -> None:
    assert valid_subject(subject) == subscribe
    assert valid_publish_subject(subject) == publish


@pytest.mark.parametrize(
    ("filters", "taken", "not_taken"),
    [
        ([b"a.b"], [b"a.b"], [b"a", b"a.b.c", b"a.bb", b"b.a"]),
        ([b"a.*"], [b"a.b", b"a.c"], [b"a", b"a.b.c", b"b.a", b"a."]),
        ([b"a.*"], [b"a.*", b"a.>"], [b"*.b", b">"]),
        ([b"a.>"], [b"a.*.b", b"a.>"], [b"*.b", b"a..>"]),
        ([b"a.>"], [b"a.b", b"a.b.c"], [b"a", b"b.a", b"a.b.", b"a..b"]),
        ([b"*.x.*"], [b"a.x.b"], [b"a.y.b", b"a.x", b"a.x.b.c"]),
        ([b">"], [b"a", b"a.b"], [b"$JS.API.INFO", b"$KV.b.k"]),
        ([b"*.b"], [b"a.b"], [b"$SYS.b"]),
        ([b"$KV.b.>"], [b"$KV.b.k"], [b"$KV.c.k", b"$KV.b"]),
        ([b"a", b"b.>", b"c.*"], [b"a", b"b.x.y", b"c.z"], [b"b", b"c", b"d"]),
        ([], [], [b"a"]),
    ],
)
def test_stream_filters(filters: list[bytes], taken: list[bytes], not_taken: list[bytes]) -> None:
    for subject in taken + not_taken:
        scanner = Scanner()
        scanner.feed(b"PUB " + subject + b" 1\r\nx\r\n")
        assert scanner.scan() == 1
        appended = PublishBuffer(1 << 20).append(scanner, 0, StreamFilter(filters), 1)
        assert appended == (subject in taken), subject


@pytest.mark.parametrize("subject", [b"", b"a..b", b"a.>.b", b"a b", b"x" * 65536])
def test_a_filter_nobody_can_subscribe_to_is_refused(subject: bytes) -> None:
    with pytest.raises(ValueError, match="not a subject"):
        StreamFilter([subject])


# Publish buffer


def publish(subject: bytes, reply: bytes, headers: bytes, payload: bytes) -> bytes:
    words = b"%b %b" % (subject, reply) if reply else subject
    if headers:
        size = len(headers)
        return b"HPUB %b %d %d\r\n%b%b\r\n" % (words, size, size + len(payload), headers, payload)
    return b"PUB %b %d\r\n%b\r\n" % (words, len(payload), payload)


publishes = st.tuples(
    st.sampled_from([b"s.a", b"s.b.c", b"other", b"s."]),
    st.sampled_from([b"", b"_INBOX.x.1", b"r"]),
    st.sampled_from([b"", b"NATS/1.0\r\n\r\n", b"NATS/1.0\r\nA: Nats-\r\nnats-ttl: 1\r\n\r\n"]),
    payloads,
)


@given(messages=st.lists(publishes, max_size=30), room=st.integers(0, 2000), most=st.integers(1, 20))
@settings(max_examples=150, deadline=None)
def test_a_publish_buffer_takes_what_a_model_takes(
    messages: list[tuple[bytes, bytes, bytes, bytes]], room: int, most: int
) -> None:
    entries: list[tuple[int, bytes]] = []
    replies: list[bytes] = []
    full = False
    for subject, reply, headers, payload in messages:
        if subject not in (b"s.a", b"s.b.c"):
            break
        checked = b"nats-ttl" in headers
        head = struct.pack("<HHI", len(subject), 0, len(headers))
        entry = (EntryType.PUBLISH + checked, head + subject + headers + payload)
        sized = make_chunk([*entries, entry])
        if sized.encoded_size > room or sized.count > most or len(b"".join(replies) + reply) > room:
            full = True
            break
        entries.append(entry)
        replies.append(reply)

    scanner = Scanner()
    scanner.feed(b"".join(publish(*message) for message in messages))
    buffer = PublishBuffer(room, most)
    taken = 0
    while count := scanner.scan():
        got = buffer.append(scanner, 0, StreamFilter([b"s.>"]), 7)
        taken += got
        if got < count:
            break
    assert taken == len(buffer) == len(entries)
    assert buffer.full == full
    if entries:
        size = buffer.encoded_size
        chunk, owed = buffer.take()
        assert chunk == make_chunk(entries)
        assert chunk.encoded_size == size
        assert [owed.reply(number) for number in range(owed.count)] == replies
        assert [owed.has_reply(number) for number in range(owed.count)] == [bool(reply) for reply in replies]
        assert owed.runs == [(7, 0, len(entries))]
    assert len(buffer) == 0
    with pytest.raises(ValueError, match="empty"):
        buffer.take()


def test_runs_group_the_acknowledgements_by_connection() -> None:
    buffer = PublishBuffer(1 << 20)
    every = StreamFilter([b"s"])
    for connection, count in [(1, 2), (2, 1), (2, 3), (1, 1)]:
        scanner = Scanner()
        scanner.feed(b"PUB s r 1\r\nx\r\n" * count)
        assert scanner.scan() == count
        assert buffer.append(scanner, 0, every, connection) == count
    _, owed = buffer.take()
    assert owed.runs == [(1, 0, 2), (2, 2, 4), (1, 6, 1)]


def test_a_range_of_operations_can_be_taken() -> None:
    scanner = Scanner()
    scanner.feed(b"PING\r\n" + b"PUB s 1\r\nx\r\n" * 5)
    assert scanner.scan() == 6
    buffer = PublishBuffer(1 << 20)
    assert buffer.append(scanner, 0, StreamFilter([b"s"]), 1) == 0
    assert buffer.append(scanner, 1, StreamFilter([b"s"]), 1, last=3) == 2
    assert buffer.append(scanner, 3, StreamFilter([b"s"]), 1) == 3


def test_a_buffer_grows_to_its_cap_and_holds_65535_entries() -> None:
    buffer = PublishBuffer(64 << 20)
    every = StreamFilter([b"s"])
    scanner = Scanner()
    for _ in range(70):
        scanner.feed(b"PUB s _INBOX.abcdefghijklmnop.%010d 1\r\nx\r\n" % 1 * 1000)
        while count := scanner.scan():
            if buffer.append(scanner, 0, every, 1) < count:
                break
    assert buffer.full
    chunk, owed = buffer.take()
    assert chunk.count == owed.count == 65535
    assert owed.reply(65534).endswith(b"0000000001")


@given(message=publishes)
@settings(max_examples=50, deadline=None)
def test_encode_publish_is_what_the_buffer_makes_of_one(message: tuple[bytes, bytes, bytes, bytes]) -> None:
    subject, reply, headers, payload = message
    if subject not in (b"s.a", b"s.b.c"):
        subject = b"s.a"
    scanner = Scanner()
    scanner.feed(publish(subject, reply, headers, payload))
    assert scanner.scan() == 1
    buffer = PublishBuffer(1 << 20)
    assert buffer.append(scanner, 0, StreamFilter([b"s.>"]), 1) == 1
    assert buffer.take()[0] == make_chunk([encode_publish(subject, headers, payload)])


# Acknowledgements

STORED, DUPLICATE, REFUSED_STATUS, DONE = range(4)


@given(
    replies=st.lists(
        st.sampled_from([b"", b"_INBOX.x.1", b"_INBOX.x.22", b"_INBOX.x.", b"_INBOX.x.1.2", b"_INBOX.y.1"]),
        min_size=1,
        max_size=12,
    ),
    data=st.data(),
)
@settings(max_examples=150, deadline=None)
def test_acknowledgements_are_what_python_formats(replies: list[bytes], data: st.DataObject) -> None:
    statuses = st.sampled_from([STORED, STORED, STORED, DUPLICATE, REFUSED_STATUS, DONE])
    values = st.sampled_from([0, 1, 9, 10, 999, 10**9, (1 << 56) - 1]) | st.integers(0, (1 << 56) - 1)
    results = [(data.draw(statuses), data.draw(values)) for _ in replies]
    start = data.draw(st.integers(0, len(replies)))
    count = data.draw(st.integers(0, len(replies) - start))
    stream = data.draw(st.sampled_from(["S", "ORDERS", 'quo"te', "grün"]))

    expected, done = b"before", 0
    for reply, (status, value) in list(zip(replies, results, strict=True))[start : start + count]:
        if reply:
            if status not in (STORED, DUPLICATE) or reply not in (b"_INBOX.x.1", b"_INBOX.x.22"):
                break
            duplicate = ',"duplicate": true' if status == DUPLICATE else ""
            body = f'{{"stream":{json.dumps(stream)},"seq":{value}{duplicate}}}'.encode()
            assert json.loads(body)["stream"] == stream
            expected += b"MSG %b sid9 %d\r\n%b\r\n" % (reply, len(body), body)
        done += 1

    scanner = Scanner()
    scanner.feed(b"".join(publish(b"s", reply, b"", b"x") for reply in replies))
    assert scanner.scan() == len(replies)
    buffer = PublishBuffer(1 << 20)
    assert buffer.append(scanner, 0, StreamFilter([b"s"]), 1) == len(replies)
    _, owed = buffer.take()
    packed = b"".join(struct.pack("<Q", status << 56 | value) for status, value in results)
    out = bytearray(b"before")
    assert format_acks(owed, start, count, packed, stream, b"_INBOX.x.", b"sid9", out) == done
    assert bytes(out) == expected


def test_results_that_are_not_there_are_an_error() -> None:
    scanner = Scanner()
    scanner.feed(b"PUB s r 1\r\nx\r\n")
    scanner.scan()
    buffer = PublishBuffer(1 << 20)
    buffer.append(scanner, 0, StreamFilter([b"s"]), 1)
    _, owed = buffer.take()
    for start, count, results in [(0, 1, bytes(7)), (0, 2, bytes(16)), (-1, 1, bytes(8)), (1, 1, bytes(16))]:
        with pytest.raises(ValueError, match="entries"):
            format_acks(owed, start, count, results, "S", b"", b"1", bytearray())
