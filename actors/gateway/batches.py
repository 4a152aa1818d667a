"""Batches that are published as one (ADR-50), while they come in: the client's own node keeps them.

    Nats-Batch-Id: x   Nats-Batch-Sequence: 1, 2, 3, ...   and on the last one Nats-Batch-Commit: 1 (or eob)

Then all of it is proposed as one entry. Before that nothing of it is anywhere else: a node that ends, or a
client that goes on at another node, leaves nothing behind. Batches that nobody ends are dropped after a time,
and all of them together take bounded memory.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import trio

from ...codec.protocol import encode_publish
from ..raft.outcomes import Applied, Outcome
from ..stream import headers
from ..stream.account_limits import EXCEEDED
from ..stream.commands import command_chunk, publish_together
from ..stream.errors import ApiError, api_error
from ..stream.results import unpack

if TYPE_CHECKING:
    from .backend import Backend, StreamRef
    from .client import Client
    from .router import Router

__all__ = ["Batches", "names_batch"]

LONGEST_ID: Final = 64
MOST_MESSAGES: Final = 1000
MOST_OPEN: Final = 50
"""Of one stream."""
MOST_OPEN_HERE: Final = 1000
MOST_BYTES: Final = 64 << 20
"""Of all open ones."""
PATIENCE_SECONDS: Final = 10.0
"""For a batch from its first message to its end."""
RECORD_BYTES: Final = 22
"""What a message takes in a stream besides its entry."""
ENTRY_BYTES: Final = 16
"""What an entry takes in a batch besides itself."""
TOO_LARGE: Final = ApiError(400, 10054, "message size exceeds maximum allowed")
RESULT_BYTES: Final = 8

Answer = Callable[["Client | None", bytes, str, ApiError | None], None]


def names_batch(block: bytes) -> bool:
    """Whether a message's headers name a batch."""
    return headers.BATCH in block and bool(headers.parse_headers(block).get(headers.BATCH))


@dataclass(slots=True)
class _Open:
    began: float
    entries: list[bytes] = field(default_factory=list)
    size: int = 0
    last: tuple[bytes, bytes, bytes] = (b"", b"", b"")
    """Subject, headers and payload of the newest message."""

    def close(self) -> None:
        """Its end was no message: the last one says that it was the last, as in the reference."""
        subject, block, payload = self.last
        block = block[:-2] + headers.BATCH_COMMIT + b": 1\r\n\r\n"
        self.entries[-1] = encode_publish(subject, block, payload)[1]


class Batches:
    """The open batches of all clients of one node.

    Args:
        most_bytes: of one batch, as it is proposed.
        answer: tells a publisher of an error; None: nobody took it.
        failure: the error of an outcome that is none of a stream's.
        settled: called before anything is answered.
        domain: JetStream's, if it has one.
    """

    def __init__(
        self,
        backend: Backend,
        router: Router,
        most_bytes: int,
        answer: Answer,
        failure: Callable[[Outcome], ApiError | None],
        settled: Callable[[], None],
        domain: str = "",
    ) -> None:
        self._backend = backend
        self._router = router
        self._most_bytes = most_bytes
        self._answer = answer
        self._failure = failure
        self._settled = settled
        self._domain = {"domain": domain} if domain else {}
        self._open: dict[tuple[int, bytes], _Open] = {}
        """By group and id, the oldest first."""
        self._size = 0

    def take(self, ref: StreamRef, client: Client, number: int) -> None:
        """Take a publish of the client's last scan that names a batch."""
        scanner = client.scanner
        block, reply = scanner.headers(number), scanner.reply(number)
        asked = headers.parse_headers(block)
        self._expire(trio.current_time())
        try:
            batch = self._place(ref, asked)
            end = asked.get(headers.BATCH_COMMIT)
            if end != b"eob":
                self._add(batch, (scanner.subject(number), block, scanner.payload(number)))
            elif batch.entries:
                batch.close()
            else:
                raise api_error(10176)
        except ApiError as error:
            self._drop((ref.group, asked.get(headers.BATCH, b"")))
            self._answer(client, reply, ref.name, error)
            return
        if end is None:
            if reply:
                self._router.publish(reply, b"", 0, b"")
        else:
            self._drop((ref.group, asked[headers.BATCH]))
            self._propose(ref, client, reply, asked[headers.BATCH], batch)

    def _place(self, ref: StreamRef, asked: Mapping[bytes, bytes]) -> _Open:
        """The batch that a message is the next one of. Raises ApiError."""
        name = asked.get(headers.BATCH, b"")
        if not 0 < len(name) <= LONGEST_ID:
            raise api_error(10179)
        sequence = headers.parse_sequence(asked.get(headers.BATCH_SEQUENCE, b""))
        if sequence is None:
            raise api_error(10175)
        if sequence > MOST_MESSAGES and asked.get(headers.BATCH_COMMIT) != b"eob":
            raise api_error(10199, MOST_MESSAGES)
        batch = self._open.get((ref.group, name))
        if batch is None and sequence == 1:
            batch = self._begin(ref.group, name)
        if batch is None or sequence != len(batch.entries) + 1:
            raise api_error(10176)
        if asked.get(headers.BATCH_COMMIT, b"1") not in (b"1", b"eob"):
            raise api_error(10200)
        return batch

    def _begin(self, group: int, name: bytes) -> _Open:
        of_stream = sum(each == group for each, _ in self._open)
        if of_stream >= MOST_OPEN or len(self._open) >= MOST_OPEN_HERE or self._size >= MOST_BYTES:
            raise api_error(10210)
        batch = self._open[group, name] = _Open(trio.current_time())
        return batch

    def _add(self, batch: _Open, message: tuple[bytes, bytes, bytes]) -> None:
        entry = encode_publish(*message)[1]
        size = len(entry) + ENTRY_BYTES
        if len(batch.entries) >= MOST_MESSAGES:
            raise api_error(10199, MOST_MESSAGES)
        if batch.size + size > self._most_bytes:
            raise TOO_LARGE.fresh()
        batch.entries.append(entry)
        batch.last = message
        batch.size += size
        self._size += size

    def _drop(self, key: tuple[int, bytes]) -> None:
        batch = self._open.pop(key, None)
        if batch is not None:
            self._size -= batch.size

    def _expire(self, now: float) -> None:
        while self._open:
            key, oldest = next(iter(self._open.items()))
            if now - oldest.began < PATIENCE_SECONDS:
                return
            self._drop(key)

    # --- the end ------------------------------------------------------------------------------------------

    def _propose(self, ref: StreamRef, client: Client, reply: bytes, name: bytes, batch: _Open) -> None:
        stored = sum(map(len, batch.entries)) + RECORD_BYTES * len(batch.entries)
        if self._backend.exceeds(ref.group, stored):
            self._answer(client, reply, ref.name, EXCEEDED)
            return
        chunk = command_chunk(publish_together(batch.entries))
        done = functools.partial(self._on_outcome, ref, client, reply, name, len(batch.entries))
        self._backend.propose(ref.group, chunk, done)

    def _on_outcome(
        self, ref: StreamRef, client: Client, reply: bytes, name: bytes, count: int, outcome: Outcome
    ) -> None:
        self._settled()
        if not reply or ref.no_ack:
            return
        if not isinstance(outcome, Applied) or not isinstance(outcome.result, bytes):
            self._answer(client, reply, ref.name, self._failure(outcome))
            return
        result = unpack(outcome.result, 0)
        if result.error is not None:
            self._answer(client, reply, ref.name, result.error)
            return
        answer = {
            "stream": ref.name,
            **self._domain,
            "seq": result.value,
            "batch": name.decode(errors="replace"),
            "count": count,
        }
        self._router.publish(reply, b"", 0, json.dumps(answer, separators=(",", ":")).encode())
