"""Pull requests: what a client's MSG.NEXT asks for, and the status lines that end it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ..stream.consumer_config import ConsumerConfig
from ..stream.durations import show_duration
from ..strict_json import BadJson, read_json

__all__ = ["PullRequest", "Refused", "read_pull", "status"]

NANOSECOND: Final = 1e-9


class Refused(Exception):
    """A pull request that can't be served: the status line says why."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


LOWEST_PRIORITY: Final = 9
MOST_DIGITS: Final = 18
"""Of a request that is a number: these fit 63 bits."""
SHORTEST_HEARTBEAT: Final = 0.01
"""Seconds. A client may ask for a beat each nanosecond; nothing else would get done here then."""


@dataclass(eq=False, slots=True)
class PullRequest:
    """A client that waits for messages."""

    reply: bytes
    """Its inbox."""
    left: int
    """Messages it still takes."""
    no_wait: bool = False
    deadline: float | None = None
    """When it expires, seconds of the event loop's clock; None: never."""
    bytes_left: int = 0
    """Bytes it still takes, if `bounded`."""
    bounded: bool = False
    heartbeat: float = 0.0
    """Seconds of silence after which it is told that the leader is there; 0: never."""
    next_beat: float = 0.0
    sent: int = 0
    pin: str = ""
    """Of a group with a pinned client: the id that this one was given, or none."""
    priority: int = 0
    """Of a prioritized group: lower ones come first."""
    min_pending: int = 0
    """Of an overflow group: it takes messages while so many wait to be delivered, or so many to be
    acknowledged."""
    min_ack_pending: int = 0

    def overflows(self, pending: int, unacknowledged: int) -> bool:
        """Whether there is so much to do that this client is to help."""
        asked = self.min_pending or self.min_ack_pending
        much = 0 < self.min_pending <= pending or 0 < self.min_ack_pending <= unacknowledged
        return not asked or much

    def pending(self) -> tuple[tuple[str, object], ...]:
        """The headers of a status that ends it early."""
        return (("Nats-Pending-Messages", self.left), ("Nats-Pending-Bytes", self.bytes_left))


def read_pull(payload: bytes, reply: bytes, config: ConsumerConfig, now: float) -> PullRequest:
    """The request in a MSG.NEXT's body: empty, a number, or a JSON object. Raises Refused."""
    fields = _fields(payload)
    batch = max(1, _number(fields, "batch"))
    expires, heartbeat = _number(fields, "expires"), _number(fields, "idle_heartbeat")
    max_bytes = max(0, _number(fields, "max_bytes"))
    if heartbeat > 0 and heartbeat * 2 > expires:
        raise Refused(400, "Bad Request - heartbeat value too large")
    if 0 < config.max_batch < batch:
        raise Refused(409, f"Exceeded MaxRequestBatch of {config.max_batch}")
    if 0 < config.max_expires < expires:
        raise Refused(409, f"Exceeded MaxRequestExpires of {show_duration(config.max_expires)}")
    if 0 < config.max_bytes < max_bytes:
        raise Refused(409, f"Exceeded MaxRequestMaxBytes of {config.max_bytes}")
    _check_priority(fields, config)
    heartbeat_seconds = max(heartbeat * NANOSECOND, SHORTEST_HEARTBEAT) if heartbeat > 0 else 0.0
    return PullRequest(
        reply,
        batch,
        no_wait=fields.get("no_wait") is True,
        deadline=now + expires * NANOSECOND if expires else None,
        bytes_left=max_bytes,
        bounded=max_bytes > 0,
        heartbeat=heartbeat_seconds,
        next_beat=now + heartbeat_seconds,
        pin=_text(fields, "id"),
        priority=_number(fields, "priority"),
        min_pending=max(0, _number(fields, "min_pending")),
        min_ack_pending=max(0, _number(fields, "min_ack_pending")),
    )


def _check_priority(fields: dict[str, object], config: ConsumerConfig) -> None:
    """What a request counts on must be what the consumer has, in the reference's order."""
    policy = config.priority_policy
    if policy != "overflow" and (_number(fields, "min_pending") or _number(fields, "min_ack_pending")):
        raise Refused(400, "Bad Request - Not a Overflow Priority consumer")
    if policy != "pinned_client" and _text(fields, "id"):
        raise Refused(400, "Bad Request - Not a Pinned Client Priority consumer")
    if not 0 <= _number(fields, "priority") <= LOWEST_PRIORITY:
        raise Refused(400, f"Bad Request - Priority must be between 0 and {LOWEST_PRIORITY}")
    group = _text(fields, "group")
    if policy and not group:
        raise Refused(400, "Bad Request - Priority Group missing")
    if policy and group not in config.priority_groups:
        raise Refused(400, "Bad Request - Invalid Priority Group")


def _fields(payload: bytes) -> dict[str, object]:
    text = payload.strip()
    if not text.startswith(b"{"):
        # As in the reference, what is neither JSON nor a number asks for one message.
        return {"batch": int(text)} if text.isdigit() and len(text) <= MOST_DIGITS else {}
    try:
        fields = read_json(text)
    except BadJson:
        raise Refused(400, "Bad Request - unexpected end of JSON input") from None
    if not isinstance(fields, dict):
        raise Refused(400, "Bad Request")
    return fields


def _number(fields: dict[str, object], name: str) -> int:
    value = fields.get(name)
    if value is None:
        return 0
    if not isinstance(value, int) or isinstance(value, bool) or abs(value) >= 1 << 63:
        raise Refused(400, f"Bad Request - {name} is no number")
    return value


def _text(fields: dict[str, object], name: str) -> str:
    value = fields.get(name) or ""
    if not isinstance(value, str):
        raise Refused(400, f"Bad Request - {name} is no text")
    return value


def status(code: int, text: str = "", *headers: tuple[str, object]) -> bytes:
    """The header block of a message without a body that tells how a request fares."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers)
    first = f"NATS/1.0 {code} {text}" if text else f"NATS/1.0 {code}"
    return f"{first}\r\n{lines}\r\n".encode()
