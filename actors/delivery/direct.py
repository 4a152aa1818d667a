"""Direct get: messages as messages, with what is known of them in headers, and no JSON around them.

One message, or a batch of them that ends with a status of its own (ADR-31):

    {"seq": 5}                       {"last_by_subj": "a.b"}        {"seq": 5, "next_by_subj": "a.*"}
    {"seq": 5, "batch": 100}         the same with "next_by_subj", "start_time", "max_bytes"
    {"multi_last": ["a.*", "b"]}     the newest of each subject, also as of "up_to_seq" or "up_to_time"
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, cast

import trio

from ..stream.consumer_config import parse_time
from ..stream.errors import ApiError
from ..stream.selection import Selection
from ..stream.views import rfc3339
from ..strict_json import BadJson, read_json
from .pulls import status

if TYPE_CHECKING:
    from ..stream.machine import StoredMessage, StreamMachine
    from ..stream.store import MessageStore

__all__ = ["Replaced", "Request", "direct_get", "read_request"]

MISSING: Final = status(404, "Message Not Found")
NO_RESULTS: Final = status(404, "No Results")
MALFORMED: Final = status(408, "Malformed Request")
EMPTY: Final = status(408, "Empty Request")
BAD: Final = status(408, "Bad Request")
BEHIND: Final = status(412, "Min Last Sequence")
"""The stream has not come as far as the request's `min_last_seq`."""
TOO_MANY: Final = status(413, "Too Many Results")

MOST_SUBJECTS: Final = 1024
"""Whose newest message one request may ask for, as in the reference."""
MOST_BYTES: Final = 16 << 20
"""Of a batch, whatever it asks for: less than what makes a client of the gateway a slow one. The last status
tells how many messages there are still."""
ROUND_MESSAGES: Final = 128
ROUND_BYTES: Final = 1 << 20
"""What is read, and in memory, at once."""
NUMBERS: Final = 1 << 64

Answer = Callable[[bytes, bytes], bool]
"""Sends a header block and a body to whoever asked; False: nobody is there any more."""


class Replaced(Exception):
    """The replica took another state while it was read."""


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked for, of the types it must have; 0, empty and None: not said."""

    seq: int = 0
    last_by_subj: str = ""
    next_by_subj: str = ""
    start_time: int | None = None
    batch: int = 0
    max_bytes: int = 0
    multi_last: tuple[str, ...] = ()
    up_to_seq: int = 0
    up_to_time: int | None = None
    no_hdr: bool = False
    min_last_seq: int = 0

    @property
    def beginnings(self) -> int:
        """How many ways it names of saying where to begin."""
        return bool(self.seq) + bool(self.last_by_subj) + (self.start_time is not None)

    @property
    def refusal(self) -> bytes:
        """The status for a request that contradicts itself, or nothing."""
        if not self.beginnings and not self.next_by_subj and not self.multi_last:
            return EMPTY
        if self.beginnings > 1 or (self.up_to_seq and self.up_to_time is not None):
            return BAD
        if self.multi_last:
            return BAD if self.last_by_subj or self.next_by_subj else b""
        return BAD if self.last_by_subj and (self.next_by_subj or self.batch) else b""

    def first(self, machine: StreamMachine) -> int:
        """The sequence to begin at."""
        return self.seq if self.start_time is None else machine.sequence_since(self.start_time)


async def direct_get(machine: StreamMachine, request: Request, answer: Answer) -> None:
    """Answer a request, by one message or by a batch and its end. Raises DamagedRecord, Replaced."""
    if request.min_last_seq > machine.messages.last:
        answer(BEHIND, b"")
    elif request.multi_last:
        await _newest(machine, request, answer)
    elif request.batch:
        await _following(machine, request, answer)
    else:
        store = machine.messages
        found = await _one(machine, request)
        _check_same(machine, store)
        if found is None:
            answer(MISSING, b"")
        else:
            answer(b"" if request.no_hdr else _shown(machine.name, found), found.payload)


def _check_same(machine: StreamMachine, store: MessageStore) -> None:
    """What was read is of the state that there is still: a follower may get a snapshot at any time."""
    if machine.messages is not store:
        raise Replaced("the replica takes a snapshot")


# --- reading a request


def read_request(subject: str, payload: bytes) -> Request | bytes:
    """The request, or the status that refuses it.

    Args:
        subject: what the request's own subject ends in: the last message of it is asked for.
    """
    try:
        value = read_json(payload) if payload.strip() else None
        request = _typed({} if value is None else value)
    except (BadJson, ApiError, TypeError):
        return MALFORMED
    if subject:
        asked_twice = request != Request(no_hdr=request.no_hdr, min_last_seq=request.min_last_seq)
        if asked_twice:
            return BAD
        return Request(last_by_subj=subject, no_hdr=request.no_hdr, min_last_seq=request.min_last_seq)
    return request.refusal or request


def _typed(value: object) -> Request:
    """Raises TypeError or ApiError where a field is not what it should be."""
    if not isinstance(value, dict):
        raise TypeError(value)
    fields = cast("dict[str, object]", value)
    multi = fields.get("multi_last") or []
    if not isinstance(multi, list) or not all(isinstance(each, str) for each in multi):
        raise TypeError(multi)
    return Request(
        seq=_number(fields, "seq", 0),
        last_by_subj=_text(fields, "last_by_subj"),
        next_by_subj=_text(fields, "next_by_subj"),
        start_time=_time(fields, "start_time"),
        batch=_number(fields, "batch", -NUMBERS),
        max_bytes=_number(fields, "max_bytes", -NUMBERS),
        multi_last=tuple(multi),
        up_to_seq=_number(fields, "up_to_seq", 0),
        up_to_time=_time(fields, "up_to_time"),
        no_hdr=fields.get("no_hdr") is True,
        min_last_seq=_number(fields, "min_last_seq", 0),
    )


def _number(fields: dict[str, object], name: str, least: int) -> int:
    value = fields.get(name) or 0
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value < NUMBERS:
        raise TypeError(name)
    return value


def _text(fields: dict[str, object], name: str) -> str:
    value = fields.get(name) or ""
    if not isinstance(value, str):
        raise TypeError(name)
    return value


def _time(fields: dict[str, object], name: str) -> int | None:
    text = _text(fields, name)
    return parse_time(text) if text else None


# --- answering it


async def _one(machine: StreamMachine, request: Request) -> StoredMessage | None:
    if request.last_by_subj:
        return await machine.last_by_subject(request.last_by_subj)
    first = request.first(machine)
    if request.next_by_subj or request.start_time is not None:
        return await machine.next_by_subject(first, request.next_by_subj or ">")
    return await machine.get(first)


async def _following(machine: StreamMachine, request: Request, answer: Answer) -> None:
    """So many messages from a place on."""
    patterns = (request.next_by_subj,) if request.next_by_subj else ()
    selection = Selection(machine.messages, patterns)
    first = request.first(machine)
    total = selection.count(first)
    if not total:
        answer(MISSING, b"")
        return
    batch = _Batch(machine, request, answer, total)
    await batch.send(_walk(selection, first, request.batch))
    answer(batch.end(), b"")


def _walk(selection: Selection, first: int, count: int) -> Iterator[int]:
    sequence: int | None = first
    for _ in range(count):
        sequence = selection.find(cast("int", sequence))
        if sequence is None:
            return
        yield sequence
        sequence += 1


async def _newest(machine: StreamMachine, request: Request, answer: Answer) -> None:
    """The newest message of each subject, as of some place."""
    store = machine.messages
    found, up_to = _newest_sequences(store, request)
    if not found or len(found) > MOST_SUBJECTS:
        answer(TOO_MANY if found else NO_RESULTS, b"")
        return
    wanted = found[bisect_left(found, request.seq) :]
    batch = _Batch(machine, request, answer, len(wanted))
    await batch.send(iter(wanted[: request.batch] if request.batch > 0 else wanted))
    answer(batch.end(("Nats-UpTo-Sequence", up_to)), b"")


def _newest_sequences(store: MessageStore, request: Request) -> tuple[list[int], int]:
    """The sequences, ascending, and the place as of which they are the newest."""
    up_to = request.up_to_seq or store.last
    if request.up_to_time is not None:
        up_to = store.sequence_since(request.up_to_time) - 1
    if up_to > store.last:
        return [], up_to
    return Selection(store, request.multi_last).last_of_each(up_to), up_to


class _Batch:
    """Messages on their way to one asker.

    Args:
        total: how many there are, sent or not.
    """

    def __init__(self, machine: StreamMachine, request: Request, answer: Answer, total: int) -> None:
        self._machine = machine
        self._store = machine.messages
        self._bare = request.no_hdr
        self._most = min(request.max_bytes, MOST_BYTES) if request.max_bytes > 0 else MOST_BYTES
        self._answer = answer
        self._left = total
        self._last = 0
        self._size = 0
        self._heard = True

    async def send(self, sequences: Iterator[int]) -> None:
        """Send messages until there are none, or the bytes are used up. Raises DamagedRecord, Replaced."""
        while self._goes_on and (chosen := self._choose(sequences)):
            messages = await self._store.read_many(chosen)
            _check_same(self._machine, self._store)
            for message in messages:
                if message is not None and self._goes_on:
                    self._send_one(message)
            await trio.lowlevel.checkpoint()
            _check_same(self._machine, self._store)

    @property
    def _goes_on(self) -> bool:
        return self._heard and self._size < self._most

    def _choose(self, sequences: Iterator[int]) -> Sequence[int]:
        """The next ones that are read together."""
        chosen: list[int] = []
        size = 0
        for sequence in sequences:
            chosen.append(sequence)
            size += self._store.size_at(sequence)
            if len(chosen) >= ROUND_MESSAGES or size >= ROUND_BYTES:
                break
        return chosen

    def _send_one(self, message: StoredMessage) -> None:
        self._left -= 1
        shown = b""
        if not self._bare:
            pending = (("Nats-Num-Pending", self._left), ("Nats-Last-Sequence", self._last))
            shown = _shown(self._machine.name, message, *pending)
        self._heard = self._answer(shown, message.payload)
        self._last = message.sequence
        self._size += len(message.subject) + len(message.headers) + len(message.payload)

    def end(self, *headers: tuple[str, int]) -> bytes:
        """The status that ends it."""
        pending = (("Nats-Num-Pending", self._left), ("Nats-Last-Sequence", self._last))
        return status(204, "EOB", *pending, *headers)


def _shown(stream: str, message: StoredMessage, *more: tuple[str, int]) -> bytes:
    """The stored headers, then where the message lies."""
    lines = message.headers[:-2] if message.headers else b"NATS/1.0\r\n"
    extra = "".join(f"{name}: {value}\r\n" for name, value in more).encode()
    return b"%bNats-Stream: %b\r\nNats-Subject: %b\r\nNats-Sequence: %d\r\nNats-Time-Stamp: %b\r\n%b\r\n" % (
        lines,
        stream.encode(),
        message.subject,
        message.sequence,
        rfc3339(message.time).encode(),
        extra,
    )
