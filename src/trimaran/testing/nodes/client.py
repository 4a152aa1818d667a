"""A NATS client of one simulated node: requests and their answers, over a connection in memory."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

from ...actors.gateway.memory_port import MemoryPeer, MemoryPort

HELLO: Final = b'CONNECT {"verbose":false,"headers":true,"no_responders":true,"protocol":1}\r\nPING\r\n'


@dataclass(frozen=True, slots=True)
class Answer:
    """A message as its subscription got it."""

    subject: str
    reply: str
    headers: bytes
    payload: bytes

    @property
    def status(self) -> str:
        """`503`, `404` and their kin; empty for a message that is none."""
        return self.headers.partition(b"\r\n")[0].removeprefix(b"NATS/1.0").strip().decode()[:3]

    def json(self) -> dict[str, Any]:
        return cast("dict[str, Any]", json.loads(self.payload))


class Disconnected(Exception):
    """The connection is gone: what was asked on it has no answer any more."""


class Client:
    """One connection. Every request has an inbox of its own below one subscription; who asks for a stream's
    messages has a subscription, since they come under their own subjects."""

    def __init__(self, peer: MemoryPeer, name: str) -> None:
        self._peer = peer
        self._prefix = f"inbox.{name}."
        self._numbers = itertools.count()
        self._inboxes: dict[str, list[Answer]] = {}

    @classmethod
    async def connect(cls, port: MemoryPort, name: str) -> Client:
        """Raises Disconnected."""
        try:
            peer = port.connect()
            await peer.receive_until(b"\r\n")
            peer.send(HELLO + f"SUB inbox.{name}.* all\r\n".encode())
            await peer.receive_until(b"PONG\r\n")
        except (ConnectionRefusedError, EOFError) as error:
            raise Disconnected(str(error)) from error
        return cls(peer, name)

    @property
    def is_open(self) -> bool:
        return not self._peer.closed

    def close(self) -> None:
        self._peer.close()

    async def request(
        self, subject: str, payload: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> Answer:
        """The first answer. Raises Disconnected."""
        inbox = self.ask(subject, payload, headers)
        try:
            return await self.take(inbox)
        finally:
            self.forget(inbox)

    async def api(self, subject: str, **body: object) -> dict[str, Any]:
        """A JetStream request and the JSON of its answer; {} if nobody answers. Raises Disconnected."""
        answer = await self.request(f"$JS.API.{subject}", json.dumps(body).encode() if body else b"")
        return answer.json() if answer.payload else {}

    def ask(self, subject: str, payload: bytes = b"", headers: Mapping[str, str] | None = None) -> str:
        """Send a request; its answers come to the inbox that is returned."""
        inbox = f"{self._prefix}{next(self._numbers)}"
        self._inboxes[inbox] = []
        lines = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
        block = f"NATS/1.0\r\n{lines}\r\n".encode() if lines else b""
        head = f"HPUB {subject} {inbox} {len(block)}" if block else f"PUB {subject} {inbox}"
        self._peer.send(f"{head} {len(block) + len(payload)}\r\n".encode() + block + payload + b"\r\n")
        return inbox

    async def take(self, inbox: str) -> Answer:
        """The next answer that comes to an inbox. Raises Disconnected."""
        answers = self._inboxes[inbox]
        await self._peer.until(lambda peer: self._sort() or bool(answers) or peer.closed)
        if not answers:
            raise Disconnected("the gateway closed the connection")
        return answers.pop(0)

    def forget(self, inbox: str) -> None:
        del self._inboxes[inbox]

    def subscribe(self) -> str:
        """An inbox that `ask_into` may name. End it with `unsubscribe`."""
        inbox = f"pull.{self._prefix}{next(self._numbers)}"
        self._inboxes[inbox] = []
        self._peer.send(f"SUB {inbox} {inbox}\r\n".encode())
        return inbox

    def unsubscribe(self, inbox: str) -> None:
        self._peer.send(f"UNSUB {inbox}\r\n".encode())
        self.forget(inbox)

    def ask_into(self, inbox: str, subject: str, payload: bytes) -> None:
        self._peer.send(f"PUB {subject} {inbox} {len(payload)}\r\n".encode() + payload + b"\r\n")

    def _sort(self) -> bool:
        """Sort what has arrived into the inboxes. False, so that it can stand in a condition."""
        buffer = self._peer.received
        while (end := buffer.find(b"\r\n")) >= 0:
            words = bytes(buffer[:end]).split(b" ")
            is_message = words[0] in (b"MSG", b"HMSG")
            size = int(words[-1]) + 2 if is_message else 0
            if len(buffer) < end + 2 + size:
                break
            body = bytes(buffer[end + 2 : end + size]) if is_message else b""
            del buffer[: end + 2 + size]
            if words[0] == b"PING":
                self._peer.send(b"PONG\r\n")
            if is_message:
                self._put(words, body)
        return False

    def _put(self, words: list[bytes], body: bytes) -> None:
        has_headers = words[0] == b"HMSG"
        cut = int(words[-2]) if has_headers else 0
        # MSG subject sid [reply] size, HMSG subject sid [reply] headers size
        reply = words[3].decode() if len(words) == (6 if has_headers else 5) else ""
        inbox = (words[1] if words[2] == b"all" else words[2]).decode()
        if inbox in self._inboxes:
            self._inboxes[inbox].append(Answer(inbox, reply, body[:cut], body[cut:]))
