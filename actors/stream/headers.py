"""Message headers that a stream looks at when it applies a publish."""

from __future__ import annotations

from typing import Final

MSG_ID: Final = b"Nats-Msg-Id"
EXPECTED_STREAM: Final = b"Nats-Expected-Stream"
EXPECTED_LAST_SEQUENCE: Final = b"Nats-Expected-Last-Sequence"
EXPECTED_LAST_SUBJECT_SEQUENCE: Final = b"Nats-Expected-Last-Subject-Sequence"
EXPECTED_LAST_SUBJECT_SEQUENCE_SUBJECT: Final = b"Nats-Expected-Last-Subject-Sequence-Subject"
EXPECTED_LAST_MSG_ID: Final = b"Nats-Expected-Last-Msg-Id"
ROLLUP: Final = b"Nats-Rollup"
TTL: Final = b"Nats-TTL"
COUNTER: Final = b"Nats-Incr"
BATCH: Final = b"Nats-Batch-Id"
BATCH_SEQUENCE: Final = b"Nats-Batch-Sequence"
BATCH_COMMIT: Final = b"Nats-Batch-Commit"
SCHEDULE: Final = b"Nats-Schedule"


def parse_headers(block: bytes) -> dict[bytes, bytes]:
    """The `Nats-` headers of a header block, the first of each name; names are case-sensitive as in NATS.

    Lines that are none are ignored: the block is the client's, and it is stored as it came.
    """
    found: dict[bytes, bytes] = {}
    for line in block.split(b"\r\n")[1:]:
        name, colon, value = line.partition(b":")
        if colon and name.startswith(b"Nats-") and name not in found:
            found[name] = value.strip(b" \t")
    return found


def parse_sequence(text: bytes) -> int | None:
    """A sequence number as clients write it, or None."""
    if not text.isdigit() or len(text) > 20:
        return None
    return int(text)
