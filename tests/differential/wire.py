"""A NATS client as small as can be: it shows exactly what a server says, and in which order."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

HELLO: Final = (
    b'CONNECT {"verbose":false,"pedantic":false,"headers":true,"no_responders":true,"protocol":1}\r\nPING\r\n'
)
PATIENCE: Final = 5.0
"""Seconds for an answer that is bound to come."""


@dataclass(frozen=True)
class Reply:
    """A message at an inbox."""

    subject: str
    reply: str
    headers: bytes
    payload: bytes

    @property
    def is_status(self) -> bool:
        return self.headers[:9] == b"NATS/1.0 "


class WireClient:
    """A blocking connection; every request has an inbox of its own."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._file = self._socket.makefile("rb")
        self._numbers = 0
        self._ear = 0
        self._kept: list[Reply] = []
        line = self._file.readline()
        assert line.startswith(b"INFO "), line
        self._socket.sendall(HELLO)
        while self._file.readline() != b"PONG\r\n":
            pass

    def close(self) -> None:
        self._file.close()
        self._socket.close()

    def ask(
        self,
        subject: str,
        payload: bytes = b"",
        headers: Mapping[str, str] | None = None,
        *,
        enough: Callable[[list[Reply]], bool] = bool,
        seconds: float = PATIENCE,
    ) -> list[Reply]:
        """Publish with a reply, and collect what comes until it is `enough`, or so many seconds are over."""
        self._numbers += 1
        number = self._numbers
        inbox = f"_INBOX.{number}"
        self._socket.sendall(
            f"SUB {inbox} {number}\r\n".encode() + publish_lines(subject, inbox, payload, headers or {})
        )
        replies: list[Reply] = []
        self._socket.settimeout(seconds)
        try:
            while not enough(replies):
                found = self._next(number)
                if found is not None:
                    replies.append(found)
        except TimeoutError:
            self._file = self._socket.makefile("rb")
        self._socket.settimeout(PATIENCE)
        self._socket.sendall(f"UNSUB {number}\r\n".encode())
        return replies

    def overhear(self, subject: str) -> None:
        """Subscribe, and keep what comes beside the answers."""
        self.listen(subject)
        self._ear = self._numbers

    def overheard(self, seconds: float, count: int = 1 << 30) -> list[Reply]:
        """What came, and comes until it is so many, or nothing comes for so many seconds."""
        self._socket.settimeout(seconds)
        try:
            while len(self._kept) < count:
                self._next(self._ear)
        except TimeoutError:
            self._file = self._socket.makefile("rb")
        self._socket.settimeout(PATIENCE)
        found, self._kept = self._kept, []
        return found

    def listen(self, subject: str) -> None:
        """Subscribe and stay so; returns once the server knows."""
        self._numbers += 1
        self._socket.sendall(f"SUB {subject} {self._numbers}\r\nPING\r\n".encode())
        while self._file.readline() != b"PONG\r\n":
            pass

    def api(self, subject: str, body: object = None) -> object:
        """The JSON answer of a `$JS.API.` request, or the headers of what came in its place."""
        payload = b"" if body is None else json.dumps(body).encode()
        [answer] = self.ask(f"$JS.API.{subject}", payload)
        return json.loads(answer.payload) if answer.payload else answer.headers.decode()

    def _next(self, number: int) -> Reply | None:
        """The next message for a subscription; None: something else came."""
        words = self._file.readline().split()
        if not words:
            raise EOFError("the server hung up")
        match words[0]:
            case b"PING":
                self._socket.sendall(b"PONG\r\n")
            case b"MSG" | b"HMSG":
                headed = words[0] == b"HMSG"
                size, cut = int(words[-1]), int(words[-2]) if headed else 0
                body = self._file.read(size + 2)[:-2]
                reply = words[3].decode() if len(words) == (6 if headed else 5) else ""
                message = Reply(words[1].decode(), reply, body[:cut], body[cut:])
                if int(words[2]) == self._ear:
                    self._kept.append(message)
                if int(words[2]) == number:
                    return message
            case b"-ERR":
                raise AssertionError(words)
        return None


def publish_lines(subject: str, reply: str, payload: bytes, headers: Mapping[str, str]) -> bytes:
    """A PUB or HPUB."""
    if not headers:
        return f"PUB {subject} {reply} {len(payload)}\r\n".encode() + payload + b"\r\n"
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    block = f"NATS/1.0\r\n{lines}\r\n".encode()
    return (
        f"HPUB {subject} {reply} {len(block)} {len(block) + len(payload)}\r\n".encode()
        + block
        + payload
        + b"\r\n"
    )
