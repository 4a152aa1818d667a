"""The fast way and the slow way of a publish give the same: whatever clients say, however it is cut.

Fast: the codec as it was built, whole buffers, runs of messages through the machine, acknowledgements of a
run formatted at once. Slow: the codec in Python, one byte at a time, each message through the machine alone,
each acknowledgement as an ordinary message. The same acknowledgements in the same order, the same errors, and
stream files that are equal byte for byte.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.gateway.fakes import FakeNode, running
from tests.stream.support import MemoryFiles, machine_on
from trimaran.actors.gateway.memory_port import MemoryPeer
from trimaran.actors.raft.outcomes import Applied, Outcome
from trimaran.actors.stream.commands import configure
from trimaran.actors.stream.config import from_request
from trimaran.codec import Chunk, EntryType, Kind, _reference_protocol, make_chunk, seal_batch, walk_batch
from trimaran.codec.protocol import Direction, OpKind, Scanner

CONFIGURATIONS: tuple[dict[str, object], ...] = (
    {},
    {"max_msgs": 3},
    {"max_bytes": 150},
    {"max_msgs_per_subject": 1},
    {"max_msg_size": 5},
    {"max_msgs": 2, "discard": "new"},
    {"allow_msg_ttl": True},
    {"allow_rollup_hdrs": True},
)
CLIENTS = 2
BLOCK_BYTES = 400
NANOSECOND = 1
"""The time of every batch: how many there are is what the two ways differ in."""


class StoringNode(FakeNode):
    """Two streams with real machines, which apply at once."""

    def __init__(self, configurations: tuple[dict[str, object], ...], *, singly: bool) -> None:
        super().__init__()
        self.files: dict[int, MemoryFiles] = {}
        self._machines: dict[int, Any] = {}
        self._index = 0
        for name, config in zip("ST", configurations, strict=True):
            subject = f"{name.lower()}.*"
            self.add_stream(name, subject)
            group = self.streams[name].group
            self.files[group] = MemoryFiles()
            machine = self._machines[group] = machine_on(self.files[group], BLOCK_BYTES)
            known = from_request(name, {"name": name, "subjects": [subject], **config}).to_json()
            self._apply(group, make_chunk([(EntryType.STREAM_COMMAND, configure(known, 1))]))
            if singly:
                machine._plain = False

    def _apply(self, group: int, chunk: Chunk) -> bytes:
        self._index += 1
        batch = seal_batch(
            [chunk],
            kind=Kind.NORMAL,
            group=group,
            incarnation=1,
            index=self._index,
            term=1,
            previous_term=1,
            time=NANOSECOND,
        )
        results: bytes = self._machines[group].apply(walk_batch(batch))
        return results

    def propose(self, group: int, chunk: Chunk, done: Callable[[Outcome], None]) -> None:
        done(Applied(self._index, self._apply(group, chunk)))

    def contents(self) -> dict[int, tuple[dict[str, bytes], bytes]]:
        """Of each stream the files, and the state: what of them is there, limits, duplicates."""
        return {
            group: (
                {name: bytes(data) for name, data in files.written.items()},
                self._machines[group].capture().state,
            )
            for group, files in self.files.items()
        }


@dataclass
class Heard:
    """What one client got."""

    messages: dict[tuple[bytes, str], list[tuple[bytes, bytes]]] = field(default_factory=dict)
    """By sid and by whose answer it is, (subject, headers and payload), in order. What different streams
    answer in one pass, and what nobody took, has no common order, nor have different subscriptions."""
    others: list[bytes] = field(default_factory=list)
    """Everything else, in order."""
    failed: bool = False

    def take(self, received: bytes) -> None:
        scanner = Scanner(Direction.CLIENT)
        scanner.feed(received)
        while count := scanner.scan():
            for number in range(count):
                kind = scanner.kind(number)
                if kind in (OpKind.MSG, OpKind.HMSG):
                    body = bytes(scanner.body(number))
                    place = (scanner.sid(number), answered_by(body))
                    self.messages.setdefault(place, []).append((scanner.subject(number), body))
                else:
                    self.others.append(b"%d %b" % (kind, scanner.args(number)))
                    self.failed |= kind == OpKind.ERR


def answered_by(body: bytes) -> str:
    """The stream whose acknowledgement this is, or what it is else."""
    if body.startswith(b"{"):
        return str(json.loads(body)["stream"])
    return "nobody" if body.startswith(b"NATS/1.0 503") else "a message"


Traffic = list[tuple[int, bytes]]
"""(client, what it says next)."""


async def converse(node: FakeNode, hellos: list[bytes], traffic: Traffic, cut: int) -> list[Heard]:
    """Everyone says its piece, `cut` bytes at a time, and the next one waits until nothing moves."""
    async with running(node) as up:
        peers = [await up.client(hello) for hello in hellos]
        for number, peer in enumerate(peers):
            peer.received.clear()
            await say(peer, b"SUB i%d.* 1\r\n" % number, 1000)
        for number, data in traffic:
            await say(peers[number], data, cut)
        heard = [Heard() for _ in peers]
        for one, peer in zip(heard, peers, strict=True):
            one.take(bytes(peer.received))
        return heard


async def say(peer: MemoryPeer, data: bytes, cut: int) -> None:
    for begin in range(0, len(data), cut):
        if not peer.closed:
            peer.send(data[begin : begin + cut])
        await trio.testing.wait_all_tasks_blocked()


def slowly(patch: pytest.MonkeyPatch) -> None:
    """The codec in Python, and no acknowledgement straight into a client's buffer."""
    for name in ("ScanArea", "Publishes"):
        patch.setattr(f"trimaran.codec.protocol.{name}", getattr(_reference_protocol, name))
    patch.setattr("trimaran.codec.protocol._format_acks", _reference_protocol.format_acks)
    patch.setattr(
        "trimaran.actors.gateway.publishing.Publishing._sole_sid", lambda publishing, client, prefix: b""
    )


# --- what clients say ---------------------------------------------------------------------------------------

subjects = st.sampled_from([b"s.1", b"s.2", b"t.1", b"t.1", b"nobody", b"s.", b"s.a.b"])
replies = st.sampled_from([b"", b"i0.%d", b"i0.%d", b"i1.%d", b"s.1", b"lost.%d"])
headers = st.lists(
    st.sampled_from(
        [
            b"Nats-Msg-Id: a\r\n",
            b"Nats-Msg-Id: b\r\n",
            b"Nats-Expected-Last-Sequence: 1\r\n",
            b"Nats-Expected-Stream: T\r\n",
            b"Nats-Expected-Last-Subject-Sequence: 0\r\n",
            b"Nats-TTL: 1h\r\n",
            b"Nats-Rollup: sub\r\n",
            b"Other: x\r\n",
        ]
    ),
    max_size=2,
).map(b"".join)


@st.composite
def publishes(draw: st.DrawFn) -> bytes:
    reply, payload = draw(replies), draw(st.binary(max_size=8))
    if b"%d" in reply:
        reply %= draw(st.integers(0, 99))
    words = [draw(subjects), *([reply] if reply else [])]
    block = b"NATS/1.0\r\n%b\r\n" % draw(headers) if draw(st.booleans()) else b""
    if block:
        words = [b"HPUB", *words, b"%d" % len(block)]
    else:
        words = [b"PUB", *words]
    return b"%b %d\r\n%b%b\r\n" % (b" ".join(words), len(block + payload), block, payload)


plain = st.builds(
    lambda subject, reply: b"PUB %b i0.%d 2\r\nok\r\n" % (subject, reply),
    st.sampled_from([b"s.1", b"s.2", b"t.1"]),
    st.integers(0, 99),
)
operations = st.one_of(plain, plain, publishes(), publishes(), st.just(b"PING\r\n"))
pieces = st.one_of(
    st.lists(operations, min_size=3, max_size=8).map(b"".join),
    st.lists(operations, min_size=1, max_size=3).map(lambda said: b"".join(said) + b"PUB s.1 x\r\n"),
    # Alone: what is answered later in the same pass would meet it or not.
    st.sampled_from([b"SUB s.> 2\r\n", b"UNSUB 2\r\n", b"SUB i0.* 3\r\n", b"SUB i1.7 4\r\n", b"UNSUB 3\r\n"]),
)
hellos = st.sampled_from(
    [
        b'CONNECT {"verbose":false,"headers":true,"no_responders":true,"protocol":1}\r\n',
        b'CONNECT {"verbose":false,"headers":true,"protocol":1}\r\n',
        b'CONNECT {"verbose":true,"headers":true,"no_responders":true,"protocol":1}\r\n',
        b'CONNECT {"verbose":false,"protocol":1}\r\n',
    ]
)
traffics = st.lists(st.tuples(st.integers(0, CLIENTS - 1), pieces), min_size=2, max_size=5)


@settings(max_examples=60, deadline=None)
@given(
    configurations=st.tuples(st.sampled_from(CONFIGURATIONS), st.sampled_from(CONFIGURATIONS)),
    greetings=st.lists(hellos, min_size=CLIENTS, max_size=CLIENTS),
    traffic=traffics,
    cut=st.sampled_from([1, 1, 2, 3, 7]),
)
def test_the_fast_way_gives_what_the_slow_way_gives(
    configurations: tuple[dict[str, object], ...], greetings: list[bytes], traffic: Traffic, cut: int
) -> None:
    fast_node = StoringNode(configurations, singly=False)
    fast = trio.run(converse, fast_node, greetings, traffic, 1 << 20)
    slow_node = StoringNode(configurations, singly=True)
    with pytest.MonkeyPatch.context() as patch:
        slowly(patch)
        slow = trio.run(converse, slow_node, greetings, traffic, cut)
    assert fast_node.contents() == slow_node.contents()
    for one, other in zip(fast, slow, strict=True):
        assert one.others == other.others
        if not one.failed:
            assert one.messages == other.messages
            continue
        for place, messages in one.messages.items():  # who is closed in mid-buffer doesn't hear the rest
            assert messages == other.messages[place][: len(messages)]
