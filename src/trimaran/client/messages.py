"""What the client gives out: messages, acknowledgements, and the three ways in which publishing ends."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from .errors import (
    OUTCOME_UNKNOWN,
    Closed,
    Disconnected,
    JetStreamError,
    NatsError,
    NoResponders,
    RequestTimeout,
)

Headers: TypeAlias = Mapping[str, str | Sequence[str]]
"""Headers to be sent: one value for a key, or several."""


@dataclass(frozen=True, slots=True)
class Message:
    """A message as a subscriber gets it."""

    subject: str
    reply: str
    """Subject to answer to; empty if none is wanted."""
    data: bytes
    headers: Mapping[str, Sequence[str]] = field(default_factory=dict)
    status: int = 0
    """Status of a message that the server made itself (404, 503, ...); 0 for everybody's messages."""
    description: str = ""


@dataclass(frozen=True, slots=True)
class PubAck:
    """A stream has stored a message, durably on a majority of its replicas."""

    stream: str
    sequence: int
    duplicate: bool = False
    """The stream had this message id already: `sequence` is the earlier one's."""


@dataclass(frozen=True, slots=True)
class Stored:
    """The message is in the stream."""

    ack: PubAck


@dataclass(frozen=True, slots=True)
class Refused:
    """The message is not in the stream, and safe to send again."""

    error: NatsError


@dataclass(frozen=True, slots=True)
class Unknown:
    """The message may or may not be in the stream."""

    error: NatsError


Outcome: TypeAlias = Stored | Refused | Unknown


def format_headers(headers: Headers) -> bytes:
    """A headers block as it stands on the wire; a key with several values is repeated.

    Raises:
        ValueError: a key that is empty or has a colon, or a line break in a key or value.
    """
    lines = ["NATS/1.0"]
    for key, values in headers.items():
        for value in [values] if isinstance(values, str) else values:
            if not key or ":" in key or any(end in key + value for end in "\r\n"):
                raise ValueError(f"not a header: {key!r}: {value!r}")
            lines.append(f"{key}: {value}")
    return "\r\n".join([*lines, "", ""]).encode()


def parse_headers(block: bytes) -> tuple[int, str, dict[str, list[str]]]:
    """(status or 0, description, headers) of a headers block; lines without a colon are passed over."""
    first, *lines = block.decode(errors="replace").split("\r\n")
    words = first.split(None, 2)
    status = int(words[1]) if len(words) > 1 and words[1].isdecimal() else 0
    headers: dict[str, list[str]] = {}
    for line in lines:
        key, colon, value = line.partition(":")
        if colon:
            headers.setdefault(key, []).append(value.strip())
    return status, words[2] if len(words) > 2 else "", headers


def outcome_of(result: Message | NatsError) -> Outcome:
    """What became of a message whose answer, or whose end without one, this is."""
    if isinstance(result, Disconnected | RequestTimeout | Closed):
        return Unknown(result)
    if isinstance(result, NatsError):
        return Refused(result)
    try:
        return Stored(parse_ack(result))
    except JetStreamError as error:
        return Unknown(error) if error.err_code == OUTCOME_UNKNOWN else Refused(error)
    except NoResponders as error:
        return Refused(error)
    except NatsError as error:
        return Unknown(error)


def parse_ack(message: Message) -> PubAck:
    """A stream's acknowledgement; NatsError for what is none."""
    body = parse_response(message)
    stream, sequence = body.get("stream"), body.get("seq")
    if not isinstance(stream, str) or not isinstance(sequence, int):
        raise NatsError(f"not an acknowledgement of a stream: {message.data[:80]!r}")
    return PubAck(stream, sequence, body.get("duplicate") is True)


def parse_response(message: Message) -> dict[str, object]:
    """The JSON object of a JetStream answer; its error is raised."""
    if message.status == 503:
        raise NoResponders("no responders")
    try:
        body = json.loads(message.data)
    except ValueError:
        raise NatsError(f"not JSON: {message.data[:80]!r}") from None
    if not isinstance(body, dict):
        raise NatsError(f"not a JSON object: {message.data[:80]!r}")
    error = body.get("error")
    if isinstance(error, dict):
        numbers = [value if isinstance(value, int) else 0 for value in map(error.get, ("code", "err_code"))]
        raise JetStreamError(numbers[0], numbers[1], str(error.get("description", "")))
    return body


def with_id(headers: Headers | None, message_id: str | None) -> Headers | None:
    return headers if message_id is None else {**(headers or {}), "Nats-Msg-Id": message_id}


def json_object(text: bytes) -> dict[str, object]:
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
