"""What the JetStream API shows of a stream: JSON objects as nats-server writes them."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import cast

from .machine import StoredMessage, StreamState

ZERO_TIME = "0001-01-01T00:00:00Z"


def rfc3339(nanoseconds: int) -> str:
    """RFC 3339 in UTC with up to nine decimals, trailing zeros trimmed; 0 is the zero time."""
    if nanoseconds == 0:
        return ZERO_TIME
    seconds, fraction = divmod(nanoseconds, 1_000_000_000)
    moment = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    decimals = f".{fraction:09}".rstrip("0").rstrip(".")
    return f"{moment}{decimals}Z"


def state_json(
    state: StreamState, *, subjects: Mapping[str, int] | None = None, deleted: Sequence[int] | None = None
) -> dict[str, object]:
    """The `state` object of a stream's information.

    `subjects` (with counts) and `deleted` are shown if they were asked for and there are some.
    """
    shown: dict[str, object] = {
        "messages": state.messages,
        "bytes": state.bytes,
        "first_seq": state.first_seq,
        "first_ts": rfc3339(state.first_time),
        "last_seq": state.last_seq,
        "last_ts": rfc3339(state.last_time),
    }
    if state.num_subjects:
        shown["num_subjects"] = state.num_subjects
    if subjects:
        shown["subjects"] = dict(subjects)
    if state.num_deleted:
        shown["num_deleted"] = state.num_deleted
    if deleted:
        shown["deleted"] = list(deleted)
    shown["consumer_count"] = state.consumers
    return shown


def listed(info: Mapping[str, object]) -> dict[str, object]:
    """A stream's or consumer's information as one of a list, where the server's own versions are left out."""
    config = cast("Mapping[str, object]", info["config"])
    metadata = cast("Mapping[str, str]", config.get("metadata", {}))
    kept = {key: value for key, value in metadata.items() if key not in ("_nats.level", "_nats.ver")}
    return {**info, "config": {**config, "metadata": kept}}


def message_json(message: StoredMessage) -> dict[str, object]:
    """The `message` object of a MSG.GET response; headers and data in base64, left out when empty."""
    shown: dict[str, object] = {
        "subject": message.subject.decode(errors="replace"),
        "seq": message.sequence,
    }
    if message.headers:
        shown["hdrs"] = base64.b64encode(message.headers).decode()
    if message.payload:
        shown["data"] = base64.b64encode(message.payload).decode()
    shown["time"] = rfc3339(message.time)
    return shown
