"""Scripts of commands, and what a server answered to each, with everything taken out that may differ.

A script is a list of commands as JSON could hold them, so that a failing one can be kept as a case.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from tests.differential.wire import Reply, WireClient

Command = tuple[Any, ...]
Json = Callable[[object], object]

TIMES: Final = frozenset(
    {"ts", "created", "time", "first_ts", "last_ts", "last_active", "pause_remaining", "pause_until"}
)
_WITHOUT_VALUE: Final = {10070: "wrong last msg ID", 10111: "rollup value invalid"}
_ACK_TIME: Final = re.compile(r"(\$JS\.ACK\.[^.]+\.[^.]+\.\d+\.\d+\.\d+\.)\d+")
_STAMP: Final = re.compile(r"(Nats-Time-Stamp: )[^\r]+")


def timeless(value: object) -> object:
    """JSON without times, and without the oracle's patch level."""
    if isinstance(value, dict):
        return {
            name: "T" if name in TIMES and inner != "0001-01-01T00:00:00Z" else timeless(inner)
            for name, inner in value.items()
            if name != "_nats.ver"
        }
    return [timeless(inner) for inner in value] if isinstance(value, list) else value


def forgiving(value: object) -> object:
    """JSON without times and without the differences that docs/jetstream.md lists."""
    return _forgive(timeless(value))


def _forgive(value: object) -> object:
    if isinstance(value, list):
        return [_forgive(inner) for inner in value]
    if not isinstance(value, dict):
        return value
    code = value.get("err_code", 0)
    if code == 10025:
        return {"err_code": code}
    text = _WITHOUT_VALUE.get(code)
    if text is not None and str(value["description"]).startswith(text):
        return {"err_code": code}
    if code == 10069:  # it names consumers, in an order of chance
        return {"err_code": code, "consumers": set(str(value["description"]).rpartition(": ")[2].split(", "))}
    left_out = {"cluster"}
    if value.get("deleted") == [0]:
        left_out |= {"deleted", "num_deleted"}
    return {name: _forgive(inner) for name, inner in value.items() if name not in left_out}


class Session:
    """One run of a script: it remembers the acknowledgement subjects that pulls gave.

    Args:
        seen: what is compared of a JSON answer.
    """

    def __init__(self, client: WireClient, seen: Json = forgiving) -> None:
        self._client = client
        self._seen = seen
        self._delivered: list[str] = []

    def run(self, command: Command) -> object:
        """Do it; what was answered, comparable."""
        kind, *arguments = command
        result: object = getattr(self, f"_do_{kind}")(*arguments)
        return result

    def _do_api(self, subject: str, body: object) -> object:
        return self._seen(self._client.api(subject, body))

    def _do_publish(self, subject: str, headers: Mapping[str, str], payload: str) -> object:
        return self._shown(self._client.ask(subject, payload.encode(), headers))

    def _do_direct(self, subject: str, body: object) -> object:
        payload = b"" if body is None else json.dumps(body).encode()
        batched = isinstance(body, dict) and bool(body.get("batch") or body.get("multi_last"))
        enough = _ended if batched else bool
        return self._shown(self._client.ask(f"$JS.API.DIRECT.GET.{subject}", payload, enough=enough))

    def _do_raw(self, subject: str, payload: str) -> object:
        return self._shown(self._client.ask(subject, payload.encode()))

    def _do_pull(self, consumer: str, batch: int, request: Mapping[str, object]) -> object:
        body = json.dumps({"batch": batch, "no_wait": True, **request}).encode()
        replies = self._client.ask(
            f"$JS.API.CONSUMER.MSG.NEXT.{consumer}",
            body,
            enough=lambda got: len(got) == batch or bool(got and got[-1].is_status),
        )
        self._delivered += [each.reply for each in replies if each.reply]
        return self._shown(replies)

    def _do_ack(self, which: int, payload: str) -> object:
        """Acknowledge the message so many deliveries ago, and wait for the answer."""
        if not self._delivered:
            return "nothing was delivered"
        subject = self._delivered[-1 - which % len(self._delivered)]
        return self._shown(self._client.ask(subject, payload.encode()))

    def _shown(self, replies: list[Reply]) -> list[object]:
        """Messages as they may be compared."""
        return [
            (
                "inbox" if each.subject.startswith("_INBOX.") else each.subject,
                _ACK_TIME.sub(r"\1T", each.reply),
                _ACK_TIME.sub(r"\1T", _STAMP.sub(r"\1T", each.headers.decode())),
                self._seen(json.loads(each.payload))
                if each.payload.startswith(b"{")
                else each.payload.decode(),
            )
            for each in replies
        ]


def _ended(replies: list[Reply]) -> bool:
    return bool(replies) and replies[-1].is_status


def clear(client: WireClient) -> None:
    """Delete every stream."""
    names = client.api("STREAM.NAMES")
    assert isinstance(names, dict)
    for name in names["streams"] or []:
        client.api(f"STREAM.DELETE.{name}")
