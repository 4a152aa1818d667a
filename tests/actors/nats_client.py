"""A NATS client over a connection in memory: enough to be a consumer's client under virtual time."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import trio

from trimaran.actors.gateway.memory_port import MemoryPeer, MemoryPort

HELLO = b'CONNECT {"verbose":false,"headers":true,"no_responders":true,"protocol":1}\r\nPING\r\n'


@dataclass(frozen=True)
class Received:
    """A message as its subscription got it."""

    subject: str
    reply: str
    headers: str
    payload: bytes

    @property
    def status(self) -> str:
        """`404 No Messages` and its kin; empty for a message that is none."""
        line = self.headers.partition("\r\n")[0]
        return line.removeprefix("NATS/1.0").strip()

    @property
    def numbers(self) -> tuple[int, int, int, int]:
        """Of the acknowledgement's subject: delivery count, stream sequence, consumer sequence, left."""
        count, stream, consumer, _, left = self.reply.split(".")[4:]
        return int(count), int(stream), int(consumer), int(left)


class MemoryClient:
    """Each subscription collects its messages; inboxes are `inbox.<n>`."""

    def __init__(self, peer: MemoryPeer) -> None:
        self._peer = peer
        self._inboxes = 0
        self.received: dict[str, list[Received]] = {}

    @classmethod
    async def connect(cls, port: MemoryPort) -> "MemoryClient":
        peer = port.connect()
        await peer.receive_until(b"\r\n")
        peer.send(HELLO)
        await peer.receive_until(b"PONG\r\n")
        return cls(peer)

    def subscribe(self, subject: str, queue: str = "") -> str:
        """Subscribe, under a sid that is the subject."""
        self._peer.send(f"SUB {subject} {queue} {subject}\r\n".encode())
        self.received[subject] = []
        return subject

    def unsubscribe(self, subject: str) -> None:
        self._peer.send(f"UNSUB {subject}\r\n".encode())

    def inbox(self) -> str:
        self._inboxes += 1
        return self.subscribe(f"inbox.{id(self)}.{self._inboxes}")

    def publish(self, subject: str, payload: bytes = b"", reply: str = "") -> None:
        self._peer.send(b"PUB %b %b %d\r\n%b\r\n" % (subject.encode(), reply.encode(), len(payload), payload))

    def publish_with(
        self, subject: str, headers: Mapping[str, str], payload: bytes = b"", reply: str = ""
    ) -> None:
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        block = f"NATS/1.0\r\n{lines}\r\n".encode()
        head = f"HPUB {subject} {reply} {len(block)} {len(block) + len(payload)}\r\n".encode()
        self._peer.send(head + block + payload + b"\r\n")

    async def take(self, inbox: str, count: int = 1, seconds: float = 5.0) -> list[Received]:
        """The next so many messages of a subscription, fewer if they don't come in time."""
        with trio.move_on_after(seconds):
            await self._peer.until(lambda _: self._collect() or len(self.received[inbox]) >= count)
        self._collect()
        taken, self.received[inbox] = self.received[inbox][:count], self.received[inbox][count:]
        return taken

    async def request(self, subject: str, payload: bytes = b"", seconds: float = 15.0) -> Received:
        inbox = self.inbox()
        self.publish(subject, payload, inbox)
        [answer] = await self.take(inbox, 1, seconds)
        self.unsubscribe(inbox)
        return answer

    async def api(self, subject: str, **body: object) -> dict[str, Any]:
        answer = await self.request(f"$JS.API.{subject}", json.dumps(body).encode() if body else b"")
        return cast("dict[str, Any]", json.loads(answer.payload))

    async def fill(self, *subjects: str) -> None:
        """Publish to streams, payloads m0, m1, ..., each acknowledged."""
        for number, subject in enumerate(subjects):
            answer = await self.request(subject, b"m%d" % number)
            assert b'"seq"' in answer.payload, answer

    def pull(self, consumer: str, **request: object) -> str:
        """Send a MSG.NEXT to `stream.consumer`; the inbox."""
        inbox = self.inbox()
        self.publish(f"$JS.API.CONSUMER.MSG.NEXT.{consumer}", json.dumps(request).encode(), inbox)
        return inbox

    async def fetch(self, consumer: str, count: int, **request: object) -> list[Received]:
        """Pull so many messages, and give what came: fewer if the request ended before."""
        inbox = self.pull(consumer, batch=count, expires=1_000_000_000, **request)
        got = await self.take(inbox, count, seconds=2.0)
        self.unsubscribe(inbox)
        return got

    def _collect(self) -> bool:
        """Sort what arrived to its subscriptions; False, so that it can stand in a condition."""
        buffer = self._peer.received
        while (end := buffer.find(b"\r\n")) >= 0:
            line = bytes(buffer[:end]).split(b" ")
            kind, size = line[0], 0
            if kind in (b"MSG", b"HMSG"):
                size = int(line[-1]) + 2
            if len(buffer) < end + 2 + size:
                break
            body = bytes(buffer[end + 2 : end + 2 + size - 2]) if size else b""
            del buffer[: end + 2 + size]
            if size:
                self._sort(kind, line[1:], body)
        return False

    def _sort(self, kind: bytes, words: list[bytes], body: bytes) -> None:
        headed = kind == b"HMSG"
        cut = int(words[-2]) if headed else 0
        reply = words[2].decode() if len(words) == (5 if headed else 4) else ""
        message = Received(words[0].decode(), reply, body[:cut].decode(), body[cut:])
        self.received.setdefault(words[1].decode(), []).append(message)
