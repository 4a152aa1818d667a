"""Direct get: one message as a message, with what is known of it in headers, and no JSON around it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, cast

from ..stream.consumer_config import parse_time
from ..stream.errors import ApiError
from ..stream.views import rfc3339
from ..strict_json import BadJson, read_json
from .pulls import status

if TYPE_CHECKING:
    from ..stream.machine import StoredMessage, StreamMachine

__all__ = ["direct_get"]

BATCHES: Final = ("batch", "multi_last", "up_to_seq", "up_to_time")
MISSING: Final = status(404, "Message Not Found")
MALFORMED: Final = status(408, "Malformed Request")
EMPTY: Final = status(408, "Empty Request")
BAD: Final = status(408, "Bad Request")
NUMBERS: Final = 1 << 64


async def direct_get(machine: StreamMachine, subject: str, payload: bytes) -> tuple[bytes, bytes]:
    """(header block, body) of the answer. Raises DamagedRecord.

    Args:
        subject: what the request's own subject ends in: the last message of it is asked for.
    """
    if subject and payload:
        return MALFORMED, b""
    wanted: dict[str, object] | bytes = {"last_by_subj": subject} if subject else _read(payload)
    if isinstance(wanted, bytes):
        return wanted, b""
    found = await _find(machine, wanted)
    if found is None:
        return MISSING, b""
    return _shown(machine.name, found), found.payload


def _read(payload: bytes) -> dict[str, object] | bytes:
    """The request, or the status that refuses it."""
    try:
        request = read_json(payload) if payload.strip() else {}
    except BadJson:
        return MALFORMED
    if not isinstance(request, dict) or not _typed(request):
        return MALFORMED
    if any(request.get(name) for name in BATCHES):
        return BAD
    ways = [name for name in ("seq", "last_by_subj", "start_time") if request.get(name)]
    if not ways and not request.get("next_by_subj"):
        return EMPTY
    if len(ways) > 1 or ("last_by_subj" in ways and request.get("next_by_subj")):
        return BAD
    return request


def _typed(request: dict[str, object]) -> bool:
    sequence = request.get("seq") or 0
    if not isinstance(sequence, int) or isinstance(sequence, bool) or not 0 <= sequence < NUMBERS:
        return False
    texts = [request.get(name) or "" for name in ("last_by_subj", "next_by_subj", "start_time")]
    if not all(isinstance(text, str) for text in texts):
        return False
    try:
        return not texts[2] or parse_time(cast("str", texts[2])) is not None
    except ApiError:
        return False


async def _find(machine: StreamMachine, wanted: dict[str, object]) -> StoredMessage | None:
    last, following = wanted.get("last_by_subj"), wanted.get("next_by_subj")
    if last:
        return await machine.last_by_subject(str(last))
    since = wanted.get("start_time")
    sequence = (
        machine.sequence_since(parse_time(str(since))) if since else cast("int", wanted.get("seq") or 0)
    )
    if following or since:
        return await machine.next_by_subject(sequence, str(following or ">"))
    return await machine.get(sequence)


def _shown(stream: str, message: StoredMessage) -> bytes:
    """The stored headers, then where the message lies."""
    lines = message.headers[:-2] if message.headers else b"NATS/1.0\r\n"
    return b"%bNats-Stream: %b\r\nNats-Subject: %b\r\nNats-Sequence: %d\r\nNats-Time-Stamp: %b\r\n\r\n" % (
        lines,
        stream.encode(),
        message.subject,
        message.sequence,
        rfc3339(message.time).encode(),
    )
