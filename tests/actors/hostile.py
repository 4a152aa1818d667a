"""A peer that greets well and then says what no node would: every kind of frame, with every wrong value."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import msgpack
import trio
import trio.testing

from trimaran.actors.peers.network import MemoryNetwork
from trimaran.actors.peers.wire import (
    COALESCED,
    MAX_U64,
    MESSAGES,
    ROWS,
    FrameKind,
    Hello,
    append_reply_row,
    append_row,
    encode_hello,
)
from trimaran.actors.raft.messages import Append, AppendReply
from trimaran.actors.replica.snapshots import MANIFEST_PART
from trimaran.codec import EntryType, Kind, crc32c, make_chunk, seal_batch
from trimaran.codec.frame import encode_frame
from trimaran.storage.manifest import FileEntry, Manifest, encode_manifest

NUMBERS: Sequence[object] = (0, 1, 2, 3, 7, 1 << 31, 1 << 32, 1 << 62, 1 << 63, (1 << 64) - 1)
STRANGE: Sequence[object] = (
    *(-1, -(1 << 63), None, True, False, 1.5, float("nan"), float("inf")),
    *("", "x", "fine", "applied", "unknown", "api", "x" * 300, b"", b"x", b"\xff" * 40),
    *([], [[]], [1, 2], {}, {"a": 1}, {1: [2]}, [[1, 2], [3]], ["set", 1, 0, 1, []]),
)
METHODS = (
    "api",
    "api.stream_info",
    "repair.batches",
    "repair.snapshot",
    "birth.status",
    "birth.prepare",
    "birth.confirm",
    "birth.join",
    "nothing",
)


@dataclass(frozen=True)
class Aim:
    """A group of the attacked node, so that frames get past the first check."""

    group: int
    incarnation: int
    term: int
    last: int
    kind: str


class Hostile:
    """Draws frames from a seed."""

    def __init__(self, seed: int, aims: Sequence[Aim]) -> None:
        self.random = random.Random(seed)
        self.aims = aims

    def frames(self, count: int) -> Iterator[bytes]:
        for _ in range(count):
            kind, envelope, attachment = self.frame()
            yield encode_frame(kind, tuple(envelope), len(attachment)) + attachment

    def frame(self) -> tuple[int, list[object], bytes]:
        draw = self.random
        kind = draw.choice([*FrameKind, *FrameKind, 0, 19, 200])
        if draw.random() < 0.15:
            return kind, [self.any() for _ in range(draw.randrange(10))], self.attachment()
        return kind, self.plausible(kind), self.attachment(kind)

    def any(self) -> object:
        return self.random.choice(self.random.choice([NUMBERS, STRANGE]))

    def number(self, *likely: int) -> object:
        draw = self.random.random()
        if draw < 0.5 and likely:
            return self.random.choice(likely)
        return self.random.choice(NUMBERS) if draw < 0.95 else self.any()

    def plausible(self, kind: int) -> list[object]:
        """An envelope of the right shape, with one group's identity and nonsense behind it."""
        aim, number = self.random.choice(self.aims), self.number
        head = [aim.group, aim.incarnation]
        term = number(aim.term, aim.term + 1, aim.term - 1)
        if kind in COALESCED:
            return [self.message(aim, kind) for _ in range(3)]
        if kind in MESSAGES:
            return self.message(aim, kind)
        if kind in ROWS:
            return [b"".join(self.row(aim, kind) for _ in range(3))]
        match kind:
            case FrameKind.SNAPSHOT_PART:
                part = self.random.choice([MANIFEST_PART, MANIFEST_PART, 0, 1, self.any()])
                return [*head, term, number(1), part, number(0), number(crc32c(b""))]
            case FrameKind.SNAPSHOT_PROGRESS:
                return [*head, number(1), self.random.choice(["ok", "refused", self.any()]), self.any()]
            case FrameKind.PROPOSE:
                return [number(1), aim.group, number(0, aim.term), number(1), number(5)]
            case FrameKind.PROPOSE_REPLY:
                status = self.random.choice(["applied", "not applied", "unknown", self.any()])
                return [number(1, 2, 3), status, self.any(), self.any()]
            case FrameKind.ASK:
                return [number(1), self.random.choice([*METHODS, self.any()])]
            case FrameKind.ANSWER:
                return [number(1, 2, 3), self.random.choice(["fine", "refused", "elsewhere", self.any()])]
            case FrameKind.LEADERS:
                return [[number(aim.group), term] for _ in range(3)]
            case FrameKind.INTEREST:
                return self.interest()
            case FrameKind.CONSUMER:
                way = self.random.choice(["next", "ack", "flow", self.any()])
                tokens = self.random.choice([[], ["1"] * 9, ["x"] * 5, ["9" * 30] * 6, self.any()])
                return [aim.group, number(0), [[way, "c", tokens, b"r", self.packed()], self.any()][:1]]
        return [self.any() for _ in range(3)]

    def message(self, aim: Aim, kind: int) -> list[object]:
        """The fields of a Raft message, in their order."""
        values: list[object] = []
        for field in fields(MESSAGES[FrameKind(kind)]):
            if field.name in ("group", "incarnation"):
                values.append(getattr(aim, field.name))
            elif field.type in (bool, "bool"):
                values.append(self.random.random() < 0.5)
            elif "term" in field.name:
                values.append(self.number(aim.term, aim.term + 1, aim.term - 1))
            elif field.name not in ("sender", "batches"):
                values.append(self.number(aim.last, aim.last + 1, aim.last - 1, 0, 1))
        return values

    def row(self, aim: Aim, kind: int) -> bytes:
        """A message in its row; an append names the size of a batch that may be behind it, or another."""
        numbers = [self.random.choice([0, 1, aim.term, aim.last, MAX_U64]) for _ in range(6)]
        term, session, index, match, hint, commit = numbers
        if kind == FrameKind.APPENDS:
            append = Append(
                group=aim.group,
                incarnation=aim.incarnation,
                sender=0,
                term=term,
                previous_index=index,
                previous_term=term,
                commit=commit,
                session=session,
            )
            return append_row(append, self.random.choice([0, 0, len(self.batch()), match]))
        reply = AppendReply(
            group=aim.group,
            incarnation=aim.incarnation,
            sender=0,
            term=term,
            session=session,
            accepted=self.random.random() < 0.5,
            match=match,
            hint_index=hint,
        )
        row = append_reply_row(reply)
        return row if self.random.random() < 0.9 else row[:-1]

    def interest(self) -> list[object]:
        deep = b"*." * 5000 + b"x"
        subject = self.random.choice([b"a.b", b">", b"a..b", b"a b", b"\r\n", deep, self.any()])
        items = [[subject, self.random.choice([b"", b"q", self.any()]), self.number(1)]]
        match self.random.randrange(4):
            case 0:
                return ["set", self.number(0, 1), self.number(0), self.number(1), items]
            case 1:
                return ["change", self.number(1, 2), items]
            case 2:
                return ["address", self.random.choice(["x:1", "\r\n", "x" * 5000])]
        return [self.random.choice(["at", "again", "set"]), self.any()]

    def attachment(self, kind: int = 0) -> bytes:
        draw = self.random
        choices = [b"", draw.randbytes(draw.randrange(200)), self.packed()]
        if kind in (FrameKind.APPEND, FrameKind.APPENDS):
            choices += [self.batch()] * 4
        elif kind == FrameKind.SNAPSHOT_PART:
            choices += [self.manifest()] * 6
        elif kind == FrameKind.PROPOSE:
            choices += [make_chunk([(EntryType.OPAQUE, self.packed())]).payload]
        elif kind == FrameKind.ASK:
            choices += [self.question()] * 6
        return draw.choice(choices)

    def packed(self) -> bytes:
        packed: bytes = msgpack.packb([self.any() for _ in range(self.random.randrange(5))])
        return packed

    def question(self) -> bytes:
        founding = {"v": 1, "cluster": self.number(5), "founders": [[self.number(1), "x", "y"], self.any()]}
        packed: bytes = msgpack.packb(
            self.random.choice(
                [
                    self.any(),
                    msgpack.packb(founding),
                    [self.any(), self.any(), self.any()],
                    [self.number(3), self.any(), "x:1"],
                    [self.random.choice(["$JS.API.INFO", "$JS.API.STREAM.INFO.x"]), b"", self.number(2)],
                    ["x", self.number(2), self.number(1)],
                ]
            )
        )
        return packed

    def batch(self) -> bytes:
        aim = self.random.choice(self.aims)
        kind = self.random.choice([Kind.NORMAL, Kind.MEMBERSHIP, Kind.SNAPSHOT, *Kind])
        entry = self.random.choice([b"x", self.packed()])
        index, term = self.number(aim.last + 1), self.number(aim.term)
        time = self.number(1)
        numbers = [each if type(each) is int and 0 <= each < 1 << 63 else 1 for each in (index, term, time)]
        sealed = seal_batch(
            [make_chunk([(EntryType.OPAQUE, entry)])],
            kind=kind,
            group=aim.group,
            incarnation=aim.incarnation,
            index=numbers[0],
            term=numbers[1],
            previous_term=aim.term,
            time=numbers[2],
        )
        return bytes(sealed)

    def manifest(self) -> bytes:
        aim = self.random.choice(self.aims)
        members: bytes = msgpack.packb({"v": 1, "voters": [1, 2], "learners": [], "removed": []})
        files = (FileEntry("x", 3, 1),) if self.random.random() < 0.5 else ()
        index = self.number(aim.last + 5)
        return encode_manifest(
            Manifest(
                group=aim.group,
                incarnation=aim.incarnation,
                index=index if type(index) is int and 0 <= index < 1 << 64 else 9,
                term=self.random.choice([1, 2, 1 << 63]),
                members=self.random.choice([members, b"", self.packed()]),
                time=1,
                kind=aim.kind,
                rolling_hash=1,
                files=files,
                state=self.random.choice([b"", self.packed()]),
            )
        )


async def attack(network: MemoryNetwork, address: str, hello: Hello, frames: Iterator[bytes]) -> int:
    """Send frames over as many connections as it takes; returns how often the node hung up."""
    closed = 0
    waiting: list[bytes] = list(frames)
    while waiting:
        stream = await network.dial(address)
        async with stream:
            await stream.send_all(encode_hello(hello))
            if not await stream.receive_some(4096):
                raise AssertionError("the greeting was refused")
            try:
                while waiting:
                    await stream.send_all(waiting.pop(0))
                    await trio.testing.wait_all_tasks_blocked()
            except trio.BrokenResourceError:
                closed += 1
    return closed
