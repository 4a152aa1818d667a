"""Files and frames of every version that was ever written: read byte for byte as they are.

What is written today is compared as well, so that a format does not change by accident: a change on purpose
raises the version, and gets a golden file of its own beside the old one.
"""

from __future__ import annotations

import io
import struct

import pytest

from tests.golden_files import DIRECTORY, read_golden
from trimaran import backup_file
from trimaran.actors.gateway.routes import FRAME_VERSION, Routed, decode_frame, encode_message
from trimaran.actors.peers import wire
from trimaran.actors.peers.wire import FrameKind, Hello
from trimaran.actors.raft.membership import Membership
from trimaran.actors.raft.messages import (
    Append,
    AppendReply,
    Beat,
    BeatReply,
    PeerMessage,
    RequestVote,
    Resigned,
    SnapshotReply,
    TimeoutNow,
    VoteReply,
)
from trimaran.codec import Kind, crc32c, make_chunk, seal_batch, verify_batch
from trimaran.codec.block import Record as BlockRecord
from trimaran.codec.block import encode_record as encode_block_record
from trimaran.codec.block import read_record
from trimaran.codec.frame import FRAME_VERSION as PEER_FRAME_VERSION
from trimaran.codec.frame import Frame, FrameError, FrameReader, encode_frame
from trimaran.storage import (
    BatchRecord,
    CompactPrefix,
    GroupCreate,
    GroupDelete,
    HardState,
    MemoryDisk,
    TruncateSuffix,
)
from trimaran.storage.contents import SegmentReader, TocUnusable, decode_toc, encode_toc
from trimaran.storage.errors import NewerFormat
from trimaran.storage.incoming import Received, decode_received, encode_received
from trimaran.storage.manifest import FileEntry, Manifest, decode_manifest, encode_manifest
from trimaran.storage.node import NodeHeader, read_node_header, write_node_header
from trimaran.storage.segment import (
    BATCH,
    DATA_START,
    LOST,
    SECTOR,
    Item,
    SegmentHeader,
    SegmentScan,
    Vouch,
    build_write,
    decode_commit,
    decode_create,
    decode_manifest_crc,
    decode_segment_header,
    encode_record,
)

NODE, CLUSTER = 0x0102030405060708, 0x1112131415161718
MEMBERSHIP = Membership(frozenset((NODE, 2)), frozenset((3,)), frozenset((4,)))


def a_batch(index: int, kind: Kind = Kind.NORMAL) -> bytes:
    chunks = [make_chunk([(1, b"entry %d" % index), (16, b"")])] if kind is Kind.NORMAL else []
    return seal_batch(
        chunks,
        kind=kind,
        group=2,
        incarnation=7,
        index=index,
        term=5,
        previous_term=4,
        time=1_700_000_000_000_000_000 + index,
    )


# --- the log ----------------------------------------------------------------------------------------------

SEGMENT = SegmentHeader(
    number=3,
    node_id=NODE,
    cluster_id=CLUSTER,
    salt=0x2122232425262728,
    size=16384,
    resumes=True,
    resumes_after=8,
)
LOST_BATCH = Item(BATCH, LOST, 2, 7, 12, 5, b"", 0x01020304)
WRITES: list[list[Item]] = [
    [
        encode_record(GroupCreate(2, 7, "stream", "ORDERS", MEMBERSHIP.encode())),
        encode_record(HardState(2, 7, 5, NODE, 9)),
        encode_record(BatchRecord(a_batch(10))),
        encode_record(BatchRecord(a_batch(11, Kind.NOOP))),
    ],
    [
        encode_record(CompactPrefix(2, 7, 9, 4, 0x31323334)),
        encode_record(BatchRecord(a_batch(10), repair=True)),
        LOST_BATCH,
        encode_record(TruncateSuffix(2, 7, 12)),
    ],
    [
        encode_record(HardState(2, 7, 6, 0, 11, closed=True)),
        encode_record(HardState(2, 7, 6, NODE, 11, closed=False)),
        encode_record(GroupDelete(3, 1)),
    ],
    [],
]
"""Every kind of record with every flag; the last one is a mark."""


def a_segment() -> bytes:
    data = bytearray(SEGMENT.encode())
    chain = SEGMENT.seed
    for sequence, items in enumerate(WRITES, 9):
        buffers, _, chain = build_write(items, SEGMENT, sequence, chain, Vouch(sequence - 1, 2, 4))
        data += b"".join(buffers)
    return bytes(data)


def test_segment_1() -> None:
    """Header, frames, records of every kind, trailers and their chain."""
    golden = read_golden("segment-v1")
    assert a_segment() == golden
    assert decode_segment_header(golden[:DATA_START], "x") == SEGMENT
    damaged_copy = bytes(DATA_START // 2) + golden[DATA_START // 2 : DATA_START]
    assert decode_segment_header(damaged_copy, "x") == SEGMENT
    writes = list(SegmentScan(golden, SEGMENT).writes())
    assert [write.sequence for write in writes] == [9, 10, 11, 12]
    assert all(write.intact and write.start % SECTOR == 0 for write in writes)
    assert [write.vouch for write in writes] == [Vouch(sequence - 1, 2, 4) for sequence in range(9, 13)]
    for items, write in zip(WRITES, writes, strict=True):
        for item, found in zip(items, write.records, strict=True):
            body = golden[found.offset : found.offset + found.length]
            names = (
                found.kind,
                found.flags,
                found.group,
                found.incarnation,
                found.index,
                found.term,
                found.crc,
            )
            assert names == (
                item.kind,
                item.flags,
                item.group,
                item.incarnation,
                item.index,
                item.term,
                item.crc,
            )
            assert body == item.body
    create, state, batch, _ = (record for record in writes[0].records)
    assert decode_create(create.body) == ("stream", "ORDERS", MEMBERSHIP.encode())
    assert Membership.decode(decode_create(create.body)[2]) == MEMBERSHIP
    assert decode_commit(state.body) == 9
    assert verify_batch(golden[batch.offset : batch.offset + batch.length]).index == 10
    assert decode_manifest_crc(writes[1].records[0].body) == 0x31323334


def test_a_newer_segment_is_refused() -> None:
    page = bytearray(read_golden("segment-v1")[:DATA_START])
    for at in (0, DATA_START // 2):
        page[at + 8] = 2
        page[at + 64 : at + 68] = struct.pack("<I", crc32c(bytes(page[at : at + 64])))
    with pytest.raises(NewerFormat):
        decode_segment_header(bytes(page), "x")


def test_table_of_contents_1() -> None:
    golden, segment = read_golden("toc-v1"), read_golden("segment-v1")
    disk = MemoryDisk()
    descriptor = disk.open("segment", create=True)
    disk.pwritev(descriptor, [segment], 0)
    contents = SegmentReader(disk).read("segment", SEGMENT)
    assert encode_toc(contents, SEGMENT) == golden
    table = decode_toc(golden, SEGMENT)
    assert (table.first, table.last, table.end, table.vouch) == (9, 12, len(segment), Vouch(11, 2, 4))
    read = [item for section in contents.all_sections() for item in section.items(segment, 0) or ()]
    assert len(read) == sum(map(len, WRITES))
    assert [item for section in table.all_sections() for item in section.items(segment, 0) or ()] == read
    for other in (2, 0):
        newer = bytearray(golden)
        newer[8] = other
        newer[88:92] = struct.pack("<I", crc32c(bytes(newer[:88])))
        with pytest.raises(TocUnusable):
            decode_toc(bytes(newer), SEGMENT)


def test_node_header_1() -> None:
    golden, header = read_golden("node-v1"), NodeHeader(NODE, CLUSTER, "bootsmann-ü")
    disk = MemoryDisk()
    write_node_header(disk, header)
    assert disk.read("node") == golden
    assert read_node_header(disk) == header
    newer = golden[:8] + b"\2\0" + golden[10:-4]
    descriptor = disk.open("node", write=True)
    disk.pwritev(descriptor, [newer + struct.pack("<I", crc32c(newer))], 0)
    with pytest.raises(NewerFormat):
        read_node_header(disk)


# --- snapshots --------------------------------------------------------------------------------------------

MANIFEST = Manifest(
    group=2,
    incarnation=7,
    index=9,
    term=4,
    members=MEMBERSHIP.encode(),
    time=1_700_000_000_000_000_009,
    kind="stream",
    rolling_hash=0xFFFEFDFCFBFAF9F8,
    files=(FileEntry("1.blk", 160, 0x41424344), FileEntry("2.blk", 1 << 33, 0)),
    state=b"what the machine keeps",
)


def test_manifest_1() -> None:
    golden = read_golden("manifest-v1")
    assert encode_manifest(MANIFEST) == golden
    assert decode_manifest(golden) == MANIFEST
    newer = golden[:-4].replace(b"\xa1v\x01", b"\xa1v\x02")
    with pytest.raises(NewerFormat):
        decode_manifest(newer + struct.pack("<I", crc32c(newer)))


def test_incoming_1() -> None:
    golden, received = read_golden("incoming-v1"), Received(MANIFEST, ("a-1", "a-2"))
    assert encode_received(received) == golden
    assert decode_received(golden) == received
    newer = golden[:-4].replace(b"\xa1v\x01", b"\xa1v\x02", 1)
    assert decode_received(newer + struct.pack("<I", crc32c(newer))) is None


BLOCK_RECORDS = [
    BlockRecord(1, 1_700_000_000_000_000_001, b"s.1", b"", b"hello"),
    BlockRecord(2, 1_700_000_000_000_000_001, b"s.2", b"NATS/1.0\r\nA: b\r\n\r\n", b""),
    BlockRecord(3, 1_700_000_000_000_000_002, b"eight.ch", b"", b"12345678"),
]


def test_block_1() -> None:
    golden = read_golden("block-v1")
    assert (
        b"".join(
            encode_block_record(one.sequence, one.time, one.subject, one.headers, one.payload)
            for one in BLOCK_RECORDS
        )
        == golden
    )
    found = []
    while golden:
        size = int.from_bytes(golden[:4], "little")
        found.append(read_record(golden[:size]))
        golden = golden[size:]
    assert found == BLOCK_RECORDS


def test_backup_1() -> None:
    golden = read_golden("backup-v1")
    manifest = encode_manifest(
        Manifest(
            group=2,
            incarnation=7,
            index=9,
            term=4,
            members=MEMBERSHIP.encode(),
            time=1,
            kind="stream",
            rolling_hash=2,
            files=(FileEntry("1.blk", 5, crc32c(b"block")),),
        )
    )
    group = backup_file.BackedUpGroup("stream", "ORDERS", {"name": "ORDERS"}, 3, 3, 9, (len(manifest), 5))
    file = io.BytesIO()
    writer = backup_file.BackupWriter(file)
    writer.group(group)
    writer.data(manifest[:40])
    writer.data(manifest[40:] + b"bl")
    writer.data(b"ock")
    writer.end()
    assert file.getvalue() == golden
    assert backup_file.check_backup(io.BytesIO(golden)) == [group]
    parts = [b"", b""]
    for _, part, _, data in backup_file.read_backup(io.BytesIO(golden)):
        parts[part] += data
    assert parts == [manifest, b"block"]
    with pytest.raises(backup_file.NotWhole):
        backup_file.check_backup(io.BytesIO(golden[:8] + b"\2\0" + golden[10:]))


# --- peers ------------------------------------------------------------------------------------------------

HELLO = Hello(2, 1, CLUSTER, "fleet", NODE, 99, "a", "127.0.0.1:6222")
COMMON = {"group": 2, "incarnation": 7, "sender": NODE, "term": 5}
BATCHES = (a_batch(10), a_batch(11, Kind.NOOP))
RAFT: dict[FrameKind, list[PeerMessage]] = {
    FrameKind.REQUEST_VOTE: [RequestVote(**COMMON, last_index=9, last_term=4, pre=True, transfer=False)],
    FrameKind.VOTE_REPLY: [VoteReply(**COMMON, pre=True, granted=False)],
    FrameKind.APPEND: [
        Append(**COMMON, previous_index=9, previous_term=4, commit=8, session=1, batches=BATCHES)
    ],
    FrameKind.APPEND_REPLY: [
        AppendReply(**COMMON, session=1, accepted=True, match=11, hint_index=0, hint_term=0, counts=True)
    ],
    FrameKind.BEATS: [Beat(**COMMON, commit=8, read=3, quiet=False), Beat(**COMMON, commit=9, quiet=True)],
    FrameKind.BEAT_REPLIES: [BeatReply(**COMMON, read=3, match=8, quiet=False)],
    FrameKind.TIMEOUT_NOW: [TimeoutNow(**COMMON)],
    FrameKind.SNAPSHOT_REPLY: [SnapshotReply(**COMMON, index=9, ok=True)],
    FrameKind.RESIGNED: [Resigned(**COMMON)],
}
ROWS = {
    FrameKind.APPENDS: RAFT[FrameKind.APPEND] * 2,
    FrameKind.APPEND_REPLIES: RAFT[FrameKind.APPEND_REPLY] * 2,
}
ROUTED = [
    Routed(b"orders.paid", b"_INBOX.1", 2, b"h1body", True, (b"workers",), b"other"),
    Routed(b"s", b"", 0, b"", False, ()),
]
CHUNK = make_chunk([(16, b"proposal")])
OTHERS: list[tuple[FrameKind, tuple[object, ...], bytes]] = [
    (FrameKind.SNAPSHOT_PART, (2, 7, 5, 1, 0, 1 << 20, 4 << 20, crc32c(b"a part")), b"a part"),
    (FrameKind.SNAPSHOT_PROGRESS, (2, 7, 1, "ok", [160, 0]), b""),
    (FrameKind.PROPOSE, (77, 2, 5, CHUNK.count, CHUNK.entries_size), CHUNK.payload),
    (FrameKind.PROPOSE_REPLY, (77, "applied", 12, True), b"result"),
    (FrameKind.ASK, (78, "status"), b"\xc0"),
    (FrameKind.ANSWER, (78, "fine"), b"\x2a"),
    (FrameKind.LEADERS, ((2, 5), (3, 1)), b""),
    (FrameKind.INTEREST, ("set", 1, 0, 1, [[b"orders.>", b"workers", 2]]), b""),
    (FrameKind.ROUTE, (), FRAME_VERSION + b"".join(map(encode_message, ROUTED))),
    (FrameKind.GOODBYE, (CLUSTER, NODE, "it was removed"), b""),
    (FrameKind.CONSUMER, (2, 1, [["ack", "C", ["1", "2"], b"_INBOX.1", b"+ACK"]]), b""),
    (FrameKind.ALIVE, (), b""),
]


def frames() -> list[bytes]:
    """One frame of every kind, in the order in which they are above."""
    encoded = [wire.encode_hello(HELLO)]
    for kind, messages in RAFT.items():
        rows = [wire.message_fields(message) for message in messages]
        envelope = tuple(rows) if kind in wire.COALESCED else rows[0]
        attachment = b"".join(BATCHES) if kind == FrameKind.APPEND else b""
        encoded.append(encode_frame(kind, envelope, len(attachment)) + attachment)
    for kind, envelope, attachment in OTHERS:
        encoded.append(encode_frame(kind, envelope, len(attachment)) + attachment)
    return encoded


def row_frames() -> list[bytes]:
    """What protocol 3 added."""
    return [appends_frame(), append_replies_frame()]


def appends_frame() -> bytes:
    rows, attachment = b"", b""
    for message in ROWS[FrameKind.APPENDS]:
        assert isinstance(message, Append)
        batches = b"".join(message.batches)
        rows += wire.append_row(message, len(batches))
        attachment += batches
    return encode_frame(FrameKind.APPENDS, (rows,), len(attachment)) + attachment


def append_replies_frame() -> bytes:
    rows = b""
    for message in ROWS[FrameKind.APPEND_REPLIES]:
        assert isinstance(message, AppendReply)
        rows += wire.append_reply_row(message)
    return encode_frame(FrameKind.APPEND_REPLIES, (rows,))


def read_frames(data: bytes) -> list[Frame]:
    return list(FrameReader(1 << 20).feed(data))


def as_lists(value: object) -> object:
    """As msgpack gives it back."""
    return [as_lists(one) for one in value] if isinstance(value, (list, tuple)) else value


def test_peer_frames_1() -> None:
    golden = read_golden("peer-v1")
    assert b"".join(frames()) == golden
    hello, *rest = read_frames(golden)
    assert {frame.kind for frame in (hello, *rest)} | set(ROWS) == set(FrameKind), "one of every kind"
    assert wire.decode_hello(hello) == HELLO
    for (kind, messages), frame in zip(RAFT.items(), rest, strict=False):
        assert (frame.kind, list(wire.decode_messages(NODE, frame))) == (kind, messages)
    for (kind, envelope, attachment), frame in zip(OTHERS, rest[len(RAFT) :], strict=True):
        assert (frame.kind, frame.envelope, bytes(frame.attachment)) == (kind, as_lists(envelope), attachment)
        if kind in wire.ENVELOPES:
            wire.checked(frame.envelope, wire.ENVELOPES[kind])
    assert decode_frame(OTHERS[8][2]) == ROUTED


def test_peer_frames_of_rows_3() -> None:
    golden = read_golden("peer-rows-v3")
    assert b"".join(row_frames()) == golden
    for (kind, messages), frame in zip(ROWS.items(), read_frames(golden), strict=True):
        assert (frame.kind, list(wire.decode_messages(NODE, frame))) == (kind, messages)


def test_a_frame_of_another_version_is_refused() -> None:
    first = bytearray(frames()[0])
    assert first[2] == PEER_FRAME_VERSION
    first[2] += 1
    with pytest.raises(FrameError):
        read_frames(bytes(first))


def test_every_golden_file_is_read_by_a_test() -> None:
    tests = "".join(path.read_text() for path in DIRECTORY.parent.rglob("test_*.py"))
    for path in DIRECTORY.iterdir():
        assert path.suffix == ".hex"
        assert f'"{path.stem}"' in tests, path
